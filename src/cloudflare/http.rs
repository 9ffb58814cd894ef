//! Conversion of requests and responses between the runtime's types and the `http` crate's.

use ::http::{HeaderValue, StatusCode, Uri};

use super::{
    parts,
    stream::{JsStream, raw},
};
use crate::{
    api::{Error, MAX_TARGET, Request, Response, Scheme},
    platform::Body,
};

/// Converts a request. Its body is passed as a handle. An error is the client's: the runtime lets values through that
/// HTTP does not allow.
pub fn read_request(request: &worker::Request) -> Result<Request, Error> {
    let inner = request.inner();
    let url = request.url().map_err(|_| Error::InvalidTarget)?;
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    if target.len() > MAX_TARGET {
        return Err(Error::TargetTooLong);
    }
    let uri: Uri = target.parse().map_err(|_| Error::InvalidTarget)?;
    let mut builder = ::http::Request::builder().method(inner.method().as_str()).uri(uri);
    let mut length = None;
    for (name, value) in request.headers() {
        if name == "content-length" {
            length = value.parse().ok();
        }
        let value = HeaderValue::try_from(value).map_err(|_| Error::InvalidHeader(name.clone()))?;
        builder = builder.header(name, value);
    }
    let body = match inner.body() {
        Some(stream) if length != Some(0) => JsStream::body(stream, length),
        _ => Body::Empty,
    };
    let scheme = Scheme(if url.scheme() == "http" { "http" } else { "https" });
    builder.extension(scheme).body(body).map_err(|_| Error::InvalidTarget)
}

/// Converts a response. A stream is passed as a handle, so that no byte enters WebAssembly.
pub fn write_response(response: Response) -> worker::Result<worker::Response> {
    let (parts, body) = response.into_parts();
    let headers = worker::Headers::new();
    for (name, value) in &parts.headers {
        headers.append(name.as_str(), value.to_str().unwrap_or_default())?;
    }
    // Workers Caching keeps even what has no `Cache-Control`: never an absence, an error or, should it be turned
    // on for the default entry point, what depends on a permission.
    let control = parts.headers.get(::http::header::CACHE_CONTROL);
    if control.is_none_or(|control| !control.as_bytes().starts_with(b"public")) {
        headers.set("cloudflare-cdn-cache-control", "no-store")?;
    }
    let body = match body {
        Body::Bytes(bytes) => worker::ResponseBody::Body(bytes.into()),
        Body::Stream(stream) => match raw(&stream) {
            Some(raw) => worker::ResponseBody::Stream(raw),
            None => return Err(worker::Error::RustError("the body belongs to another platform".into())),
        },
        Body::Parts(sent) => worker::ResponseBody::Stream(parts::send(sent)?),
        Body::Empty | Body::Buffer { .. } => worker::ResponseBody::Empty,
    };
    debug_assert!(parts.status != StatusCode::SWITCHING_PROTOCOLS);
    Ok(worker::Response::from_body(body)?.with_status(parts.status.as_u16()).with_headers(headers))
}
