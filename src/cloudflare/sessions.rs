//! The client of upload sessions, each a Durable Object named by its id: see [`super::upload_session`].

use futures_util::future::LocalBoxFuture;
use wasm_bindgen::JsValue;
use worker::{Method, ObjectNamespace, RequestInit};

use crate::{
    oci::UploadId,
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

impl DurableSessions {
    /// Wraps the binding.
    pub fn new(namespace: ObjectNamespace) -> Self {
        Self { namespace }
    }

    async fn send(&self, id: &UploadId, body: &str) -> worker::Result<Result<Reply, Refused>> {
        let mut init = RequestInit::new();
        init.with_method(Method::Post).with_body(Some(JsValue::from_str(body)));
        let request = worker::Request::new_with_init("https://session/", &init)?;
        let mut response = self.namespace.get_by_name(&id.to_string())?.fetch_with_request(request).await?;
        if response.status_code() != 200 {
            let text = response.text().await.unwrap_or_default();
            return Err(worker::Error::RustError(format!("status {}: {text}", response.status_code())));
        }
        response.json().await
    }
}

impl UploadSessions for DurableSessions {
    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: Command,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move {
            let unreachable = |error: String| CallError::Unreachable(error);
            let call = Call { id: id.to_string(), command };
            let body = serde_json::to_string(&call).map_err(|error| unreachable(error.to_string()))?;
            let is_begin = matches!(call.command, Command::Begin { .. });
            let reply = match self.send(id, &body).await {
                // Retry once: the object may have moved or restarted. A repeated checkpoint changes nothing and
                // a repeated `Close` is refused as closed; clients retry `Begin` themselves.
                Err(error) if !is_begin => {
                    let message = error.to_string();
                    worker::console_warn!(
                        "{}",
                        serde_json::json!({"level": "warn", "upload": call.id, "message": message})
                    );
                    self.send(id, &body).await
                }
                reply => reply,
            };
            Ok(reply.map_err(|error| unreachable(error.to_string()))??)
        })
    }
}
