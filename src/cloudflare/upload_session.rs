//! Upload sessions in Durable Objects: a host for [`crate::uploads::session`], and its client.
//!
//! Each object holds one session: its state under `state`, its name under `id`, and a row for every part, so
//! that no row grows with the blob. Bytes never come here.

use std::collections::BTreeMap;

use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, ListOptions, Method, ObjectNamespace, RequestInit, Response, State, durable_object,
};

use super::clock::SystemClock;
use crate::{
    clock::Clock,
    storage::Part,
    uploads::{
        CallError, Command, Reply, UploadError, UploadId, UploadSessions,
        commit::sweep,
        session::{self, Transition, apply},
    },
};

const STATE: &str = "state";
const ID: &str = "id";
const PART: &str = "part/";

/// The Durable Object.
#[durable_object]
pub struct UploadSession {
    state: State,
    env: Env,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Call {
    id: String,
    command: Command,
}

impl DurableObject for UploadSession {
    fn new(state: State, env: Env) -> Self {
        Self { state, env }
    }

    async fn fetch(&self, mut request: worker::Request) -> worker::Result<Response> {
        let Call { id, command } = request.json().await?;
        Response::from_json(&self.carry_out(&id, &command).await?)
    }

    /// The session's time is over: what it has stored goes, and then the session itself.
    async fn alarm(&self) -> worker::Result<Response> {
        if let Some(state) = self.stored().await?
            && let Some(id) = self.state.storage().get::<String>(ID).await?
            && let Ok(id) = id.parse::<UploadId>()
        {
            let config = super::config(&self.env).map_err(failed)?;
            let storage = super::storage(&self.env, &config).map_err(failed)?;
            sweep(&storage, &id, state.upload()).await.map_err(failed)?;
        }
        self.state.storage().delete_all().await?;
        Response::empty()
    }
}

fn failed(error: impl ToString) -> worker::Error {
    worker::Error::RustError(error.to_string())
}

impl UploadSession {
    async fn stored(&self) -> worker::Result<Option<session::State>> {
        let text: Option<String> = self.state.storage().get(STATE).await?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(Into::into)
    }

    /// Nothing else happens to this object between the read and the write: the runtime's input gate.
    async fn carry_out(&self, id: &str, command: &Command) -> worker::Result<Result<Reply, UploadError>> {
        let storage = self.state.storage();
        let before = self.stored().await?;
        let Transition { state, upload } = match apply(before.clone(), command, SystemClock.now()) {
            Ok(transition) => transition,
            Err(error) => return Ok(Err(error)),
        };
        if before.as_ref() != Some(&state) {
            // One write: the parts and the state that counts them are stored together or not at all.
            let rows = js_sys::Object::new();
            let set =
                |key: &str, value: &str| js_sys::Reflect::set(&rows, &key.into(), &JsValue::from_str(value));
            set(STATE, &serde_json::to_string(&state)?)?;
            set(ID, id)?;
            if let Command::Checkpoint(checkpoint) | Command::Release(checkpoint) = command {
                for part in &checkpoint.parts {
                    set(&format!("{PART}{:05}", part.number), &part.etag)?;
                }
            }
            storage.put_multiple_raw(rows).await?;
            let expires = state.upload().expires;
            if before.is_none_or(|before| before.upload().expires != expires) {
                let wait = expires.0.saturating_sub(SystemClock.now().0);
                storage.set_alarm(std::time::Duration::from_millis(wait)).await?;
            }
        }
        let parts = if matches!(command, Command::Finish { .. }) { self.parts().await? } else { Vec::new() };
        if matches!(command, Command::Close { .. }) {
            let rows = self
                .parts()
                .await?
                .iter()
                .map(|part| format!("{PART}{:05}", part.number))
                .collect::<Vec<_>>();
            // The platform deletes at most 128 keys at once.
            for rows in rows.chunks(128) {
                storage.delete_multiple(rows.to_vec()).await?;
            }
        }
        Ok(Ok(Reply { upload, parts }))
    }

    async fn parts(&self) -> worker::Result<Vec<Part>> {
        let rows = self.state.storage().list_with_options(ListOptions::new().prefix(PART)).await?;
        let mut parts = BTreeMap::new();
        for entry in rows.entries() {
            let entry = js_sys::Array::from(&entry?);
            let (key, etag) = (entry.get(0).as_string(), entry.get(1).as_string());
            let number = key.and_then(|key| key.strip_prefix(PART)?.parse::<u16>().ok());
            if let (Some(number), Some(etag)) = (number, etag) {
                parts.insert(number, Part { number, etag });
            }
        }
        Ok(parts.into_values().collect())
    }
}

/// The client.
pub struct DurableSessions {
    namespace: ObjectNamespace,
}

impl DurableSessions {
    /// Wraps the binding.
    pub fn new(namespace: ObjectNamespace) -> Self {
        Self { namespace }
    }

    async fn send(&self, id: &UploadId, body: &str) -> worker::Result<Result<Reply, UploadError>> {
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
    async fn call(&self, id: &UploadId, command: Command) -> Result<Reply, CallError> {
        let unreachable = |error: String| CallError::Unreachable(error);
        let call = Call { id: id.to_string(), command };
        let body = serde_json::to_string(&call).map_err(|error| unreachable(error.to_string()))?;
        let is_begin = matches!(call.command, Command::Begin { .. });
        let reply = match self.send(id, &body).await {
            // An object that moved or restarted answers the second time. Saying anything but `Begin` twice
            // changes nothing; beginning twice is what a client that asks again would do.
            Err(error) if !is_begin => {
                worker::console_warn!(
                    "{}",
                    serde_json::json!({"level": "warn", "upload": call.id, "message": error.to_string()})
                );
                self.send(id, &body).await
            }
            reply => reply,
        };
        Ok(reply.map_err(|error| unreachable(error.to_string()))??)
    }
}
