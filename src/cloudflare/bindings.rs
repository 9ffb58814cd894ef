//! The worker's environment: bindings and variables.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use js_sys::Reflect;
use serde_json::Value;
use wasm_bindgen::JsValue;
use worker::{Context, Env, Method, ObjectNamespace};

use super::{
    buffers::JsBuffers,
    clock::{SystemClock, rest},
    edge_cache::CacheApi,
    event_endpoint::DurableLanes,
    fetch::Fetch,
    kv::Kv,
    metrics::{Dataset, DurableCollector},
    objects,
    queue::EventQueue,
    r2::R2,
    rate_limit::RateLimit,
    sessions::DurableSessions,
    verifier::WebCrypto,
    workers_cache::WorkersCache,
    writers::DurableWriters,
};
use crate::{
    api::Error,
    app::Platform,
    config::{Backend, Config},
    events::Queue,
    layout::Key,
    platform::{
        Background, EdgeCache, Limiter, Operation, Sink,
        health::{Probe, Trouble},
        metrics::{Collector, Points},
    },
    storage::{Store, s3::S3},
};

/// The bucket's binding in `wrangler.toml`.
const BUCKET: &str = "BUCKET";
/// The upload sessions' binding in `wrangler.toml`.
const UPLOADS: &str = "UPLOADS";
/// The repositories' writers' binding in `wrangler.toml`.
const WRITERS: &str = "WRITERS";
/// The binding of the queue of events in `wrangler.toml`; optional.
const EVENTS: &str = "EVENTS";
/// The lanes of event endpoints' binding in `wrangler.toml`; needed for endpoints only.
const ENDPOINTS: &str = "ENDPOINTS";
/// The binding of the descriptor cache's KV namespace in `wrangler.toml`; optional.
const CACHE: &str = "CACHE";

/// The binding of the metrics' collector in `wrangler.toml`; optional.
const METRICS: &str = "METRICS";
/// The binding that limits failed logins in `wrangler.toml`; optional.
const LOGINS: &str = "LOGINS";
/// The binding that limits requests by identity in `wrangler.toml`; optional.
const REQUESTS: &str = "REQUESTS";
/// The binding of the dataset of data points in `wrangler.toml`; optional.
const ANALYTICS: &str = "ANALYTICS";

/// The name of the object that answers a check of health. It never stores anything.
const HEALTH: &str = "_health";

/// Reads the configuration from the worker's variables and secrets.
pub fn config(env: &Env) -> Result<Config, Error> {
    Config::from_vars(|name| variable(env, name)).map_err(|error| Error::Misconfigured(error.to_string()))
}

/// A variable or secret as text; one with a structure as JSON.
fn variable(env: &Env, name: &str) -> Option<String> {
    let value = Reflect::get(env, &name.into()).ok().filter(|value| !value.is_undefined())?;
    value.as_string().or_else(|| js_sys::JSON::stringify(&value).ok()?.as_string())
}

/// The configured store.
pub fn store(env: &Env, config: &Config) -> Result<Store, Error> {
    match (config.storage.backend, &config.storage.s3) {
        (Backend::S3, Some(bucket)) => {
            let scratch = Key::Scratch.path();
            Ok(Store::new(S3::new(Rc::new(Fetch), bucket.clone(), Rc::new(SystemClock), scratch)))
        }
        _ => Ok(Store::new(R2::new(env.bucket(BUCKET).map_err(|error| unbound(BUCKET, error))?))),
    }
}

/// Builds the platform from bindings.
pub fn platform(env: &Env, config: &Config) -> Result<Platform, Error> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| Error::Internal(error.to_string()))?;
    let sessions = env.durable_object(UPLOADS).map_err(|error| unbound(UPLOADS, error))?;
    let writers = env.durable_object(WRITERS).map_err(|error| unbound(WRITERS, error))?;
    let endpoints = env.durable_object(ENDPOINTS);
    if let (false, Err(error)) = (config.events.endpoints.is_empty(), &endpoints) {
        return Err(Error::Misconfigured(format!("EVENT_ENDPOINTS needs the binding {ENDPOINTS}: {error}")));
    }
    Ok(Platform {
        store: store(env, config)?,
        kv: env.kv(CACHE).ok().map(|namespace| Store::new(Kv::new(namespace))),
        operation: operation(env, &sessions, &writers),
        sessions: Rc::new(DurableSessions::new(sessions)),
        writers: Rc::new(DurableWriters::new(writers)),
        queue: env.queue(EVENTS).ok().map(|queue| Rc::new(EventQueue::new(queue)) as Rc<dyn Queue>),
        lanes: Rc::new(DurableLanes::new(endpoints.ok())),
        buffers: Rc::new(JsBuffers),
        edge_cache: Rc::new(CacheApi),
        clock: Rc::new(SystemClock),
        sink: Rc::new(Console),
        documents: Rc::new(Fetch),
        verifier: Rc::new(WebCrypto),
        logins: limiter(env, LOGINS),
        requests: limiter(env, REQUESTS),
        salt,
    })
}

/// The optional parts, and checks of the objects.
fn operation(env: &Env, sessions: &ObjectNamespace, writers: &ObjectNamespace) -> Operation {
    let metrics = env.durable_object(METRICS).ok();
    let collector = |namespace| Rc::new(DurableCollector::new(namespace)) as Rc<dyn Collector>;
    let points = |dataset| Rc::new(Dataset(dataset)) as Rc<dyn Points>;
    Operation {
        probes: vec![
            ("uploads", probe(sessions)),
            ("writers", probe(writers)),
            ("endpoints", env.durable_object(ENDPOINTS).as_ref().map_or(Probe::Unbound, probe)),
            ("events", if has(env, EVENTS) { Probe::Bound } else { Probe::Unbound }),
            ("metrics", metrics.as_ref().map_or(Probe::Unbound, probe)),
            ("analytics", if has(env, ANALYTICS) { Probe::Bound } else { Probe::Unbound }),
        ],
        collector: metrics.map(collector),
        points: env.analytics_engine(ANALYTICS).ok().filter(|_| has(env, ANALYTICS)).map(points),
    }
}

fn limiter(env: &Env, name: &str) -> Option<Rc<dyn Limiter>> {
    let limiter = env.rate_limiter(name).ok().filter(|_| has(env, name))?;
    Some(Rc::new(RateLimit(limiter)))
}

fn has(env: &Env, name: &str) -> bool {
    js_sys::Reflect::get(env, &name.into()).is_ok_and(|binding| binding.is_truthy())
}

/// Calls an object of a namespace.
fn probe(namespace: &ObjectNamespace) -> Probe {
    let namespace = namespace.clone();
    Probe::Check(Rc::new(move || {
        let stub = namespace.get_by_name(HEALTH);
        Box::pin(async move {
            let trouble = |message| Trouble { reason: "it cannot be reached", message };
            objects::ask(stub, Method::Head).await.map(drop).map_err(trouble)
        })
    }))
}

fn unbound(name: &str, error: worker::Error) -> Error {
    Error::Misconfigured(format!("binding {name}: {error}"))
}

/// The runtime's console.
pub struct Console;

impl Sink for Console {
    fn line(&self, line: Value) {
        if line.get("level").and_then(Value::as_str) == Some("error") {
            worker::console_error!("{line}");
        } else {
            worker::console_log!("{line}");
        }
    }
}

/// `waitUntil`.
pub struct WaitUntil(pub Context);

impl Background for WaitUntil {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.wait_until(work);
    }

    fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>) {
        self.spawn(after(milliseconds, work));
    }
}

/// Work that begins after a delay.
pub fn after(milliseconds: u32, work: LocalBoxFuture<'static, ()>) -> LocalBoxFuture<'static, ()> {
    Box::pin(async move {
        if milliseconds > 0 {
            rest(milliseconds).await;
        }
        work.await;
    })
}

/// The cache near the client as the context (`ctx`) of a request or job reaches it, if it is not that of
/// [`platform`].
pub fn edge_cache(config: &Config, context: &JsValue) -> Option<Rc<dyn EdgeCache>> {
    let cache = config.cache.workers_caching.then(|| WorkersCache::find(context))??;
    Some(Rc::new(cache))
}
