//! The only place that knows JavaScript: entry points, and the parts that a registry on Cloudflare is made of.

mod clock;
mod edge;
mod fetch;
mod kv;
mod r2;
mod stream;
#[cfg(test)]
mod tests;
mod upload_session;

use std::{cell::RefCell, rc::Rc, time::Duration};

use futures_util::future::LocalBoxFuture;
use http::StatusCode;
use serde_json::{Value, json};
use worker::{Context, Env, ScheduleContext, ScheduledEvent, event};

use self::{
    clock::SystemClock, edge::CacheApi, fetch::Fetch, kv::Kv, r2::R2, stream::JsStream,
    upload_session::DurableSessions,
};
use crate::{
    api::{Parts, Platform, Request, Response, Shared},
    auth::basic::BasicAuth,
    background::Background,
    body::Body,
    config::{Config, Storage},
    error::Error,
    log::{Level, Sink},
    storage::{Driver, s3::S3},
    uploads::purge::{Purging, purge},
};

/// The bucket's binding in `wrangler.toml`.
const BUCKET: &str = "BUCKET";
/// The upload sessions' binding in `wrangler.toml`.
const UPLOADS: &str = "UPLOADS";
/// The far cache's binding in `wrangler.toml`, which may be left out.
const CACHE: &str = "CACHE";

struct Cloudflare;

impl Platform for Cloudflare {
    type Stream = JsStream;
    type Uploads = DurableSessions;
    type Auth = BasicAuth;
    type Edge = CacheApi;
}

/// The runtime's console.
struct Console;

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
struct WaitUntil(Context);

impl Background for WaitUntil {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.wait_until(work);
    }
}

thread_local! {
    /// What requests share, made at an isolate's first one: its settings and bindings never change, and it
    /// remembers verified passwords and what digests stand for. An invalid configuration is not remembered.
    static SHARED: RefCell<Option<Rc<Shared<Cloudflare>>>> = const { RefCell::new(None) };
}

fn shared(env: &Env) -> Result<Rc<Shared<Cloudflare>>, Error> {
    if let Some(shared) = SHARED.with_borrow(Clone::clone) {
        return Ok(shared);
    }
    let config = config(env)?;
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| Error::Internal(error.to_string()))?;
    let sessions = env.durable_object(UPLOADS).map_err(|error| unbound(UPLOADS, error))?;
    let shared = Shared::new(Parts {
        storage: storage(env, &config)?,
        uploads: DurableSessions::new(sessions),
        auth: BasicAuth::new(config.users.clone(), config.anonymous, salt),
        edge: Rc::new(CacheApi),
        far: env.kv(CACHE).ok().map(|store| Driver::new(Kv::new(store))),
        clock: Rc::new(SystemClock),
        sink: Rc::new(Console),
        config,
    });
    SHARED.set(Some(shared.clone()));
    Ok(shared)
}

fn unbound(name: &str, error: worker::Error) -> Error {
    Error::Misconfigured(format!("binding {name}: {error}"))
}

/// Where the configuration says that everything is stored.
fn storage(env: &Env, config: &Config) -> Result<Driver<JsStream>, Error> {
    match (config.storage, &config.s3) {
        (Storage::S3, Some(bucket)) => {
            let ttl = Duration::from_secs(config.blob_redirect_ttl_seconds);
            Ok(Driver::new(S3::new(Fetch, bucket.clone(), ttl, Rc::new(SystemClock))))
        }
        _ => Ok(Driver::new(R2::new(env.bucket(BUCKET).map_err(|error| unbound(BUCKET, error))?))),
    }
}

fn config(env: &Env) -> Result<Config, Error> {
    let lookup = |name: &str| env.var(name).ok().map(|value| value.to_string());
    Config::from_vars(lookup).map_err(|error| Error::Misconfigured(error.to_string()))
}

#[event(start)]
fn start() {
    console_error_panic_hook::set_once();
}

#[event(fetch)]
async fn fetch(request: worker::Request, env: Env, context: Context) -> worker::Result<worker::Response> {
    #[cfg(feature = "test-endpoints")]
    if let Some(response) = test_endpoint(&request).await {
        return response;
    }
    let response: Response<Cloudflare> = match shared(&env) {
        Ok(shared) => {
            let id = request.headers().get("cf-ray")?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            shared.handle(read_request(&request)?, id, Rc::new(WaitUntil(context))).await
        }
        Err(error) => {
            Console.line(json!({"level": "error", "message": error.log_line()}));
            error.response()
        }
    };
    write_response(response)
}

/// How much longer than an upload may take its remains are kept, in seconds.
const PURGE_MARGIN: u64 = 24 * 60 * 60;

/// How many steps of purging one run makes: a run has 15 minutes, and a bounded number of calls.
const PURGE_STEPS: usize = 10;

#[event(scheduled)]
async fn scheduled(_event: ScheduledEvent, env: Env, _context: ScheduleContext) {
    let purged = async {
        let shared = shared(&env)?;
        let Config { upload_ttl_seconds, purge: mode, log_level, .. } = shared.parts.config;
        let before = shared.parts.clock.now().minus_seconds(upload_ttl_seconds + PURGE_MARGIN);
        for _ in 0..PURGE_STEPS {
            let report = purge(&shared.parts.storage, before, mode).await?;
            let finished = report.finished || mode == Purging::Off;
            let dry_run = mode == Purging::DryRun;
            if log_level >= Level::Info {
                Console.line(json!({"level": "info", "job": "purge", "dry_run": dry_run, "report": report}));
            }
            if finished {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = purged.await {
        Console.line(json!({"level": "error", "job": "purge", "message": error.log_line()}));
    }
}

/// What the tests need to see from outside: a panic, at once or after a wait, and the memory in use.
#[cfg(feature = "test-endpoints")]
#[expect(clippy::panic, reason = "the tests watch what happens then")]
async fn test_endpoint(request: &worker::Request) -> Option<worker::Result<worker::Response>> {
    match (request.inner().method().as_str(), request.path().as_str()) {
        ("GET", "/v2/_test/panic") => panic!("asked to"),
        ("POST", "/v2/_test/panic") => {
            clock::sleep(1).await;
            panic!("asked to after a wait")
        }
        (_, "/v2/_test/memory") => {
            let wasm = core::arch::wasm32::memory_size(0) * 64 * 1024;
            Some(worker::Response::from_json(&json!({"wasm": wasm})))
        }
        _ => None,
    }
}

fn read_request(request: &worker::Request) -> worker::Result<Request<Cloudflare>> {
    let raw = request.inner();
    let url = request.url()?;
    let mut builder = http::Request::builder()
        .method(raw.method().as_str())
        .uri(&url[url::Position::BeforePath..url::Position::AfterQuery]);
    for (name, value) in request.headers() {
        builder = builder.header(name, value);
    }
    let length = request.headers().get("content-length")?.and_then(|length| length.parse().ok());
    let body = match raw.body() {
        Some(stream) if length != Some(0) => Body::Stream(JsStream::new(stream, length)),
        _ => Body::Empty,
    };
    builder.body(body).map_err(|error| worker::Error::RustError(error.to_string()))
}

fn write_response(response: Response<Cloudflare>) -> worker::Result<worker::Response> {
    let (parts, body) = response.into_parts();
    let headers = worker::Headers::new();
    for (name, value) in &parts.headers {
        headers.append(name.as_str(), value.to_str().unwrap_or_default())?;
    }
    let body = match body {
        Body::Bytes(bytes) => worker::ResponseBody::Body(bytes.into()),
        Body::Stream(stream) => worker::ResponseBody::Stream(stream.into_raw()),
        Body::Empty | Body::Block { .. } => worker::ResponseBody::Empty,
    };
    debug_assert!(parts.status != StatusCode::SWITCHING_PROTOCOLS);
    Ok(worker::Response::from_body(body)?.with_status(parts.status.as_u16()).with_headers(headers))
}
