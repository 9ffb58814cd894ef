//! Logs each request as one line, and names it in its answer.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::Sizes;
use crate::{
    api::{ErrorCode, Handler, LogLine, Matched, Request, Response},
    auth::Principal,
    context::Context,
    platform::{Clock, Level},
};

/// The header with a request's id, of requests and answers.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Cloudflare's id of a request.
const CF_RAY: HeaderName = HeaderName::from_static("cf-ray");

/// Limit of an id that a client chooses, in characters.
const MAX_ID: usize = 128;

/// Limit of a path in the log, in bytes.
const MAX_PATH: usize = 1024;

/// The id of a request: the client's own, if it is short and plain, or Cloudflare's.
pub fn request_id(headers: &HeaderMap) -> Option<String> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:/+=".contains(&c);
    let id = |name| {
        let id = headers.get(name)?.to_str().ok()?;
        ((1..=MAX_ID).contains(&id.len()) && id.bytes().all(is_plain)).then(|| id.to_owned())
    };
    id(X_REQUEST_ID).or_else(|| id(CF_RAY))
}

pub(super) struct AccessLog {
    pub inner: Rc<dyn Handler>,
    pub clock: Rc<dyn Clock>,
    /// The level of a line that reports no failure.
    pub level: Level,
    /// Whether to name the request in its answer.
    pub is_named: bool,
}

impl Handler for AccessLog {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            // Without the query, which may contain a signature.
            let (method, path) = (request.method().clone(), shortened(request.uri().path()));
            let length = request.body().content_length();
            let (started, log) = (self.clock.now(), context.log.clone());
            let mut response = self.inner.handle(request, context).await;
            let extensions = response.extensions();
            let failure = extensions.get::<LogLine>();
            let level = if failure.is_some() { Level::Error } else { self.level };
            log.write(level, || {
                let matched = extensions.get::<Matched>();
                let Sizes { received, sent } = Sizes::of(length, &response, &log);
                let (calls, milliseconds) = log.storage_calls();
                let mut line = json!({
                    "level": level.as_str(),
                    "id": log.id,
                    "method": method.as_str(),
                    "path": path,
                    "route": matched.map(Matched::route_name),
                    "repository": matched.and_then(Matched::repository).map(ToString::to_string),
                    "principal": matched.and_then(|matched| matched.principal.as_ref()).map(Principal::name),
                    "status": response.status().as_u16(),
                    "code": extensions.get::<ErrorCode>().map(|code| code.as_str()),
                    "message": failure.map(|LogLine(message)| message),
                    "bytes": {"in": received, "out": sent},
                    "milliseconds": self.clock.now().milliseconds_since(started),
                    "rounds": log.rounds(),
                    "storage": {"calls": calls, "milliseconds": milliseconds},
                    "objects": log.object_calls(),
                    "cache": log.cache_counts(),
                });
                if let Some(line) = line.as_object_mut() {
                    line.retain(|_, value| !value.is_null());
                }
                line
            });
            if self.is_named
                && let Ok(id) = HeaderValue::from_str(&log.id)
            {
                response.headers_mut().insert(X_REQUEST_ID, id);
            }
            response
        })
    }
}

/// The beginning of a path. A URI's path is ASCII.
pub(super) fn shortened(path: &str) -> String {
    path.get(..MAX_PATH).map_or_else(|| path.to_owned(), |start| format!("{start}…"))
}
