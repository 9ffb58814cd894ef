//! The HTTP client on the runtime's `fetch`.

use std::pin::pin;

use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture, select};
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::ReadableStream;

use super::{
    buffers,
    clock::sleep,
    stream::{self, JsStream, message},
};
use crate::platform::{Body, DocumentClient, HttpClient, WebhookClient};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch, catch)]
    fn fetch(url: &str, init: &JsValue) -> Result<Promise, JsValue>;

    type AbortController;
    #[wasm_bindgen(constructor, catch)]
    fn new() -> Result<AbortController, JsValue>;
    #[wasm_bindgen(method, getter)]
    fn signal(this: &AbortController) -> JsValue;
    #[wasm_bindgen(method)]
    fn abort(this: &AbortController);
}

/// The runtime's `fetch`.
pub struct Fetch;

impl HttpClient for Fetch {
    fn send(&self, request: Request<Body>) -> LocalBoxFuture<'_, Result<Response<Body>, String>> {
        Box::pin(send(request))
    }
}

impl WebhookClient for Fetch {
    fn post(
        &self,
        request: Request<String>,
        timeout: u64,
    ) -> LocalBoxFuture<'_, Result<Response<()>, String>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let init = request_init(&parts, JsValue::from_str(&body), None)?;
            within(timeout, &parts.uri.to_string(), &init, async |answer| {
                let (parts, body) = answer.into_parts();
                body.cancel();
                Ok(Response::from_parts(parts, ()))
            })
            .await
        })
    }
}

impl DocumentClient for Fetch {
    fn get<'a>(
        &'a self,
        url: &'a str,
        limit: usize,
        timeout: u64,
    ) -> LocalBoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let request = Request::get(url)
                .header(header::ACCEPT, "application/json")
                .header(header::USER_AGENT, concat!("pierhead/", env!("CARGO_PKG_VERSION")));
            let (parts, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
            let init = request_init(&parts, JsValue::UNDEFINED, None)?;
            within(timeout, url, &init, async |answer| {
                let (status, body) = (answer.status(), answer.into_body());
                if status == StatusCode::OK {
                    return body.read(limit).await.map_err(|error| error.to_string());
                }
                body.cancel();
                let hint = if status.is_redirection() { ": redirects are not followed" } else { "" };
                Err(format!("status {}{hint}", status.as_u16()))
            })
            .await
        })
    }
}

/// Sends a request and passes the answer to `read`. After `timeout` milliseconds, both are aborted.
async fn within<T>(
    timeout: u64,
    url: &str,
    init: &Object,
    read: impl AsyncFnOnce(Response<Body>) -> Result<T, String>,
) -> Result<T, String> {
    let controller = AbortController::new().map_err(text)?;
    Reflect::set(init, &"signal".into(), &controller.signal()).map_err(text)?;
    let answer = JsFuture::from(fetch(url, init).map_err(text)?);
    let work = pin!(async { read(read_response(&answer.await.map_err(text)?, false)?).await });
    let limit = pin!(sleep(u32::try_from(timeout).unwrap_or(u32::MAX)));
    match select(work, limit).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => {
            controller.abort();
            Err("no answer in time".to_owned())
        }
    }
}

async fn send(request: Request<Body>) -> Result<Response<Body>, String> {
    let (parts, body) = request.into_parts();
    let length = body.content_length();
    let foreign = || "the body belongs to another platform".to_owned();
    let mut is_stream = false;
    let value: JsValue = match &body {
        Body::Empty if parts.method == Method::PUT => Uint8Array::new_with_length(0).into(),
        Body::Empty => JsValue::UNDEFINED,
        Body::Bytes(bytes) => Uint8Array::from(bytes.as_ref()).into(),
        Body::Buffer { buffer, range } => buffers::view(&**buffer, range.clone()).ok_or_else(foreign)?.into(),
        Body::Parts(_) => return Err("parts can only be sent to clients".to_owned()),
        Body::Stream(stream) => {
            is_stream = true;
            stream::raw(stream).ok_or_else(foreign)?.into()
        }
    };
    let init = request_init(&parts, value, length.filter(|_| is_stream))?;
    let answer = fetch(&parts.uri.to_string(), &init).map_err(text)?;
    read_response(&JsFuture::from(answer).await.map_err(text)?, parts.method == Method::HEAD)
}

/// The second argument of `fetch`. `stream_length` is the length of a streamed body, if known.
fn request_init(parts: &Parts, body: JsValue, stream_length: Option<u64>) -> Result<Object, String> {
    let is_stream = body.is_instance_of::<ReadableStream>();
    let headers = Array::new();
    let add = |name: &str, value: &str| headers.push(&Array::of2(&name.into(), &value.into()));
    for (name, value) in &parts.headers {
        add(name.as_str(), value.to_str().unwrap_or_default());
    }
    // An uncompressed response can be passed through with its length.
    add("accept-encoding", "identity");
    if let Some(length) = stream_length {
        add("content-length", &length.to_string());
    }
    let init = Object::new();
    let set = |name: &str, value: &JsValue| Reflect::set(&init, &name.into(), value).map_err(text);
    set("method", &parts.method.as_str().into())?;
    set("headers", &headers)?;
    set("redirect", &"manual".into())?;
    set("body", &body)?;
    if is_stream {
        set("duplex", &"half".into())?;
    }
    Ok(init)
}

/// Converts a `Response`. Its body is passed as a handle.
pub fn read_response(answer: &JsValue, is_head: bool) -> Result<Response<Body>, String> {
    let get = |name: &str| Reflect::get(answer, &name.into()).map_err(text);
    let status = get("status")?.as_f64().unwrap_or_default() as u16;
    let mut response = Response::builder().status(status);
    let mut length = None;
    for entry in js_sys::try_iter(&get("headers")?).map_err(text)?.into_iter().flatten() {
        let entry: Array = entry.map_err(text)?.unchecked_into();
        let (name, value) = (entry.get(0).as_string(), entry.get(1).as_string());
        let Some((name, value)) = name.zip(value) else { continue };
        if name == "content-length" {
            length = value.parse().ok();
        }
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response = response.header(name, value);
        }
    }
    let body = match get("body")?.dyn_into::<ReadableStream>() {
        Ok(stream) if length != Some(0) && !is_head => JsStream::body(stream, length),
        _ => Body::Empty,
    };
    response.body(body).map_err(|error| error.to_string())
}

fn text(error: JsValue) -> String {
    message(&error)
}
