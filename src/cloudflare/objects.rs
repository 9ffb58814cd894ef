//! Calls to Durable Objects: commands and replies as JSON.

use std::rc::Rc;

use js_sys::Reflect;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use wasm_bindgen::JsValue;
use worker::{Method, RequestInit, Stub};

use super::clock::SystemClock;
use crate::storage::Attempts;

/// A failed attempt of a call.
struct Failed {
    message: String,
    /// The platform says that the call may be repeated.
    retryable: bool,
}

impl From<worker::Error> for Failed {
    /// Cloudflare's documentation, "Durable Objects: error handling": an error's `retryable` says that the call may
    /// be repeated, `overloaded` that it must not be.
    fn from(error: worker::Error) -> Self {
        let flag = |name: &str| match &error {
            worker::Error::UnknownJsError { original, .. } | worker::Error::Internal(original) => {
                Reflect::get(original, &name.into()).is_ok_and(|flag| flag.is_truthy())
            }
            _ => false,
        };
        Self { retryable: flag("retryable") && !flag("overloaded"), message: error.to_string() }
    }
}

/// The reply of an object.
pub struct Replied<T> {
    /// Its reply.
    pub reply: T,
    /// Whether an earlier attempt failed, which may have been carried out.
    pub is_repeated: bool,
}

/// Sends a command, which must be repeatable, and repeats it for up to `patience` milliseconds while the platform says
/// that it may succeed. `stub` makes a new stub for each attempt: a failed one may stay broken.
pub async fn call<T: DeserializeOwned>(
    stub: impl Fn() -> worker::Result<Stub>,
    command: &impl Serialize,
    patience: u64,
) -> Result<Replied<T>, String> {
    let body = serde_json::to_string(command).map_err(|error| error.to_string())?;
    let (text, is_repeated) = call_with_text(&stub, &body, patience).await?;
    let reply = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(Replied { reply, is_repeated })
}

/// Not generic, so that there is one of it in the worker.
async fn call_with_text(
    stub: &dyn Fn() -> worker::Result<Stub>,
    body: &str,
    patience: u64,
) -> Result<(String, bool), String> {
    let mut attempts = Attempts::within(Rc::new(SystemClock), patience);
    let mut is_repeated = false;
    loop {
        match send(stub(), Method::Post, Some(body)).await {
            Err(Failed { message, retryable: true }) if attempts.next().await => {
                worker::console_warn!("{}", json!({"level": "warn", "message": message}));
                is_repeated = true;
            }
            reply => return Ok((reply.map_err(|error| error.message)?, is_repeated)),
        }
    }
}

/// Asks an object for something that changes nothing; returns the text of its answer.
pub async fn ask(stub: worker::Result<Stub>, method: Method) -> Result<String, String> {
    send(stub, method, None).await.map_err(|error| error.message)
}

async fn send(stub: worker::Result<Stub>, method: Method, body: Option<&str>) -> Result<String, Failed> {
    let mut init = RequestInit::new();
    init.with_method(method).with_body(body.map(JsValue::from_str));
    let request = worker::Request::new_with_init("https://object/", &init)?;
    let mut response = stub?.fetch_with_request(request).await?;
    let text = response.text().await;
    if response.status_code() != 200 {
        let message = format!("status {}: {}", response.status_code(), text.unwrap_or_default());
        return Err(Failed { message, retryable: false });
    }
    Ok(text?)
}
