//! Answers browsers of other origins (Fetch Standard, "CORS protocol"). Credentials are what a page puts into
//! `Authorization`: there are no cookies to protect.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::{
    api::{Handler, Request, Response},
    config::Origins,
    context::Context,
    platform::Body,
};

/// What a page may read of an answer, beside the headers that every page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Content-Length, Content-Range, Docker-Content-Digest, Docker-Distribution-Api-Version, Docker-Upload-UUID, ETag, \
     Link, Location, OCI-Chunk-Max-Length, OCI-Chunk-Min-Length, OCI-Filters-Applied, OCI-Namespace, OCI-Subject, \
     OCI-Tag, Range, Retry-After, WWW-Authenticate, X-Request-Id",
);

/// What a page may send.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "Accept, Authorization, Cache-Control, Content-Range, Content-Type, If-None-Match, Range, X-Request-Id",
);

const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");

/// How long a browser remembers the answer to a preflight, in seconds: Chromium's limit.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

pub(super) struct Cors {
    pub inner: Rc<dyn Handler>,
    pub origins: Origins,
}

impl Handler for Cors {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let origin = request.headers().get(header::ORIGIN).cloned();
            let origin = origin.filter(|origin| self.origins.contain(origin));
            let is_preflight = request.method() == Method::OPTIONS
                && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
            let mut response = match (&origin, is_preflight) {
                (Some(_), true) => preflight(),
                _ => self.inner.handle(request, context).await,
            };
            allow(response.headers_mut(), origin);
            response
        })
    }
}

fn preflight() -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}
