//! The only place that knows JavaScript: entry points, and the parts that a registry on Cloudflare is made of.

mod clock;
mod kv;
mod r2;
mod stream;
#[cfg(test)]
mod tests;
mod upload_session;

use std::{cell::RefCell, rc::Rc};

use http::StatusCode;
use serde_json::json;
use worker::{Context, Env, ScheduleContext, ScheduledEvent, event};

use self::{clock::SystemClock, r2::R2, stream::JsStream, upload_session::DurableSessions};
use crate::{
    api::{LogLine, Platform, Registry, Request, Response},
    auth::basic::BasicAuth,
    body::Body,
    clock::Clock,
    config::Config,
    error::Error,
    uploads::purge::{Purging, purge},
};

/// The bucket's binding in `wrangler.toml`.
const BUCKET: &str = "BUCKET";
/// The upload sessions' binding in `wrangler.toml`.
const UPLOADS: &str = "UPLOADS";

struct Cloudflare;

impl Platform for Cloudflare {
    type Storage = R2;
    type Uploads = DurableSessions;
    type Auth = BasicAuth;
    type Clock = SystemClock;
}

thread_local! {
    /// The registry, made at an isolate's first request: its settings and bindings never change, and it
    /// remembers verified passwords and the signing secret. An invalid configuration is not remembered.
    static REGISTRY: RefCell<Option<Rc<Registry<Cloudflare>>>> = const { RefCell::new(None) };
}

fn registry(env: &Env) -> Result<Rc<Registry<Cloudflare>>, Error> {
    if let Some(registry) = REGISTRY.with_borrow(Clone::clone) {
        return Ok(registry);
    }
    let config = config(env)?;
    let binding = |name: &str, error: worker::Error| Error::Misconfigured(format!("binding {name}: {error}"));
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| Error::Internal(error.to_string()))?;
    let registry = Rc::new(Registry {
        auth: BasicAuth::new(config.users.clone(), config.anonymous, salt),
        config,
        storage: R2::new(env.bucket(BUCKET).map_err(|error| binding(BUCKET, error))?),
        uploads: DurableSessions::new(env.durable_object(UPLOADS).map_err(|error| binding(UPLOADS, error))?),
        clock: SystemClock,
        secret: Default::default(),
    });
    REGISTRY.set(Some(registry.clone()));
    Ok(registry)
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
async fn fetch(request: worker::Request, env: Env, _context: Context) -> worker::Result<worker::Response> {
    let line = format!("{} {}", request.inner().method(), request.path());
    #[cfg(feature = "test-endpoints")]
    if let Some(response) = test_endpoint(&request).await {
        return response;
    }
    let response: Response<Cloudflare> = match registry(&env) {
        Ok(registry) => registry.handle(read_request(&request)?).await,
        Err(error) => {
            let mut response = error.response();
            response.extensions_mut().insert(LogLine(error.log_line().unwrap_or_default().to_owned()));
            response
        }
    };
    if let Some(LogLine(message)) = response.extensions().get() {
        worker::console_error!(
            "{}",
            json!({"level": "error", "request": line, "status": response.status().as_u16(), "message": message})
        );
    }
    write_response(response)
}

/// How much longer than an upload may take its remains are kept, in seconds.
const PURGE_MARGIN: u64 = 24 * 60 * 60;

/// How many steps of purging one run makes: a run has 15 minutes, and a bounded number of calls.
const PURGE_STEPS: usize = 10;

#[event(scheduled)]
async fn scheduled(_event: ScheduledEvent, env: Env, _context: ScheduleContext) {
    let purged = async {
        let registry = registry(&env)?;
        let Config { upload_ttl_seconds, purge: mode, .. } = registry.config;
        let before = registry.clock.now().minus_seconds(upload_ttl_seconds + PURGE_MARGIN);
        for _ in 0..PURGE_STEPS {
            let report = purge(&registry.storage, before, mode).await?;
            let finished = report.finished || mode == Purging::Off;
            let dry_run = mode == Purging::DryRun;
            worker::console_log!(
                "{}",
                json!({"level": "info", "job": "purge", "dry_run": dry_run, "report": report})
            );
            if finished {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = purged.await {
        worker::console_error!("{}", json!({"level": "error", "job": "purge", "message": error.log_line()}));
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
