//! The Durable Object of an upload session: the host of [`crate::uploads::session`].
//!
//! An object holds one session: its state under `state`, its id under `id`, and a row for each part, so that
//! no row grows with the blob. It never holds content.

use std::{collections::BTreeMap, rc::Rc};

use wasm_bindgen::JsValue;
use worker::{DurableObject, Env, ListOptions, Method, Response, State, durable_object};

use super::{clock::SystemClock, entry::isolate, repository_writer::WaitUntil, sessions::Call};
use crate::{
    app::App,
    auth::Principal,
    context::Context,
    oci::UploadId,
    platform::{Clock, metrics::UploadEvent},
    storage::{Part, both},
    uploads::{
        Command, Refused, Reply, join_parts,
        session::{self, Transition, apply, event},
        sweep,
    },
};

/// Time until a failed alarm runs again, in seconds. The platform repeats a failed alarm only six times.
const NEXT_ALARM: u64 = 60 * 60;

const STATE: &str = "state";
const ID: &str = "id";
const PART: &str = "part/";

/// The Durable Object of one session.
#[durable_object]
pub struct UploadSession {
    state: Rc<State>,
    env: Env,
}

impl DurableObject for UploadSession {
    fn new(state: State, env: Env) -> Self {
        Self { state: Rc::new(state), env }
    }

    async fn fetch(&self, mut request: worker::Request) -> worker::Result<Response> {
        // Asked by `/readyz`.
        if request.method() == Method::Head {
            return Response::empty();
        }
        let Call { id, command } = serde_json::from_str(&request.text().await?)?;
        let (app, context) = self.open()?;
        let reply = self.carry_out(&app, &context, &id, &command).await;
        app.send_metrics(&context);
        Response::from_json(&reply?)
    }

    /// Runs when the session expires: deletes its stored objects, then the session. If that fails, it runs again.
    async fn alarm(&self) -> worker::Result<Response> {
        if let Err(error) = self.expire().await {
            worker::console_error!(
                "{}",
                serde_json::json!({"level": "error", "alarm": "upload", "message": error.to_string()})
            );
            self.state.storage().set_alarm(std::time::Duration::from_secs(NEXT_ALARM)).await?;
        }
        Response::empty()
    }
}

fn failed(error: impl ToString) -> worker::Error {
    worker::Error::RustError(error.to_string())
}

impl UploadSession {
    async fn expire(&self) -> worker::Result<()> {
        let (app, context) = self.open()?;
        let state = self.stored().await?;
        let is_open = matches!(state, Some(session::State::Open(_)));
        if let Some(state) = state
            && let Some(id) = self.state.storage().get::<String>(ID).await?
            && let Ok(id) = id.parse::<UploadId>()
        {
            sweep(&app.store(&context), &id, state.upload()).await.map_err(failed)?;
        }
        self.state.storage().delete_all().await?;
        if is_open {
            app.metrics.count_upload(UploadEvent::Expired);
        }
        app.send_metrics(&context);
        Ok(())
    }

    fn open(&self) -> worker::Result<(Rc<App>, Context)> {
        let app = isolate(&self.env).map_err(failed)?.app;
        let id = uuid::Uuid::new_v4().to_string();
        let background = Rc::new(WaitUntil(self.state.clone()));
        let context = app.context(Principal::Job("upload"), id, background);
        Ok((app, context))
    }

    async fn stored(&self) -> worker::Result<Option<session::State>> {
        let text: Option<String> = self.state.storage().get(STATE).await?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(Into::into)
    }

    /// Applies a command. The runtime's input gate blocks other events between the read and the write.
    async fn carry_out(
        &self,
        app: &App,
        context: &Context,
        id: &str,
        command: &Command,
    ) -> worker::Result<Result<Reply, Refused>> {
        let storage = self.state.storage();
        let before = self.stored().await?;
        let made = match apply(before.clone(), command, SystemClock.now()) {
            Ok(made) => made,
            Err(error) => return Ok(Err(error)),
        };
        let Transition { state, upload, rows, join } = &made;
        if before.as_ref() != Some(state) {
            // One write: the parts and the state that counts them are stored atomically.
            let values = js_sys::Object::new();
            let set = |key: &str, value: &str| {
                js_sys::Reflect::set(&values, &key.into(), &JsValue::from_str(value))
            };
            set(STATE, &serde_json::to_string(state)?)?;
            set(ID, id)?;
            for part in &rows.insert {
                set(&row(part.number), &part.etag)?;
            }
            let expires = state.upload().expires;
            let alarm = async {
                if before.as_ref().is_some_and(|before| before.upload().expires == expires) {
                    return Ok(());
                }
                let wait = expires.0.saturating_sub(SystemClock.now().0);
                storage.set_alarm(std::time::Duration::from_millis(wait)).await
            };
            // Both begin before the first is awaited: no crash can leave a state without its alarm.
            both(storage.put_multiple_raw(values), alarm).await?;
        }
        if let Some(event) = event(before.as_ref(), command, state) {
            app.metrics.count_upload(event);
        }
        if rows.clear {
            let keys: Vec<String> = self.parts().await?.iter().map(|part| row(part.number)).collect();
            // The platform deletes at most 128 keys at once.
            for keys in keys.chunks(128) {
                storage.delete_multiple(keys.to_vec()).await?;
            }
        }
        let parts = if rows.list { self.parts().await? } else { Vec::new() };
        if let (true, Command::Commit { digest, .. }, Ok(id)) = (*join, command, id.parse()) {
            let joined = join_parts(&app.store(context), &id, upload, digest, parts).await;
            if joined.as_ref().is_err_and(|error| !error.is_joined) {
                self.take_back(&made, before).await?;
            }
            let joined = joined.map_err(|error| error.refused);
            return Ok(joined.map(|()| Reply { upload: made.upload, parts: Vec::new() }));
        }
        Ok(Ok(Reply { upload: made.upload, parts }))
    }

    /// Takes back a commit whose parts could not be joined.
    async fn take_back(&self, made: &Transition, before: Option<session::State>) -> worker::Result<()> {
        let storage = self.state.storage();
        let Some(undo) = made.undo(before, self.stored().await?.as_ref()) else { return Ok(()) };
        let restored = storage.put(STATE, serde_json::to_string(&undo.state)?);
        let keys: Vec<String> = undo.remove.iter().map(|part| row(part.number)).collect();
        let removed = async { if keys.is_empty() { Ok(0) } else { storage.delete_multiple(keys).await } };
        // Both begin before the first is awaited: the platform stores them atomically.
        both(restored, removed).await.map(drop)
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

/// The key of a part's row, padded to sort by number.
fn row(number: u16) -> String {
    format!("{PART}{number:05}")
}
