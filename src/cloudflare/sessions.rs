//! The client of upload sessions, each a Durable Object: see [`super::upload_session`].

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use js_sys::Reflect;
use wasm_bindgen::JsValue;
use worker::{Method, ObjectNamespace, RequestInit, Stub};

use super::clock::SystemClock;
use crate::{
    oci::UploadId,
    storage::Attempts,
    uploads::{CallError, Command, Refused, Reply, UploadSessions},
};

/// A command with the id of its session.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Call {
    pub id: String,
    pub command: Command,
}

/// The client of upload sessions.
pub struct DurableSessions {
    namespace: ObjectNamespace,
}

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

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self { message: error.to_string(), retryable: false }
    }
}

impl DurableSessions {
    /// Wraps the binding.
    pub fn new(namespace: ObjectNamespace) -> Self {
        Self { namespace }
    }

    /// A new stub for each attempt: a failed one may stay broken.
    fn stub(&self, id: &UploadId) -> worker::Result<Stub> {
        if id.is_name() {
            return self.namespace.get_by_name(&id.to_string());
        }
        self.namespace.id_from_string(&id.to_string())?.get_stub()
    }

    async fn send(&self, id: &UploadId, body: &str) -> Result<Result<Reply, Refused>, Failed> {
        let mut init = RequestInit::new();
        init.with_method(Method::Post).with_body(Some(JsValue::from_str(body)));
        let request = worker::Request::new_with_init("https://session/", &init)?;
        let mut response = self.stub(id)?.fetch_with_request(request).await?;
        if response.status_code() != 200 {
            let text = response.text().await.unwrap_or_default();
            let message = format!("status {}: {text}", response.status_code());
            return Err(Failed { message, retryable: false });
        }
        Ok(response.json().await?)
    }

    async fn repeat(&self, id: &UploadId, body: &str) -> Result<Result<Reply, Refused>, Failed> {
        let mut attempts = Attempts::new(Rc::new(SystemClock));
        loop {
            match self.send(id, body).await {
                Err(error) if error.retryable && attempts.next().await => {
                    let message = &error.message;
                    worker::console_warn!(
                        "{}",
                        serde_json::json!({"level": "warn", "upload": id.to_string(), "message": message})
                    );
                }
                reply => return reply,
            }
        }
    }
}

impl UploadSessions for DurableSessions {
    /// An id that is not made of a name: the first call by a name takes a trip around the world, to make sure that
    /// no other place has created the object.
    fn new_id(&self) -> Result<UploadId, CallError> {
        let unreachable = |error: String| CallError::Unreachable(error);
        let id = self.namespace.unique_id().map_err(|error| unreachable(error.to_string()))?;
        id.to_string().parse().map_err(|_| unreachable("the platform's id has an unknown form".to_owned()))
    }

    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: Command,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move {
            let call = Call { id: id.to_string(), command };
            let body =
                serde_json::to_string(&call).map_err(|error| CallError::Unreachable(error.to_string()))?;
            let reply = self.repeat(id, &body).await;
            Ok(reply.map_err(|error| CallError::Unreachable(error.message))??)
        })
    }
}
