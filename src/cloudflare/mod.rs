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
use worker::{Context, Env, event};

use self::{clock::SystemClock, r2::R2, stream::JsStream, upload_session::DurableSessions};
use crate::{
    api::{LogLine, Platform, Registry, Request, Response},
    auth::basic::BasicAuth,
    body::Body,
    config::Config,
    error::Error,
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
    #[expect(clippy::panic, reason = "the tests watch what happens then")]
    if request.path() == "/v2/_test/panic" {
        if request.inner().method() == "POST" {
            clock::sleep(1).await;
        }
        panic!("asked to");
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
            serde_json::json!({"level": "error", "request": line, "status": response.status().as_u16(), "message": message})
        );
    }
    write_response(response)
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
