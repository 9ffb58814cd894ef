//! The lanes of event endpoints, each a Durable Object: the host of [`crate::events::delivery::keeper`], and the client.

use std::{cell::RefCell, rc::Rc, time::Duration};

use futures_util::future::{LocalBoxFuture, join_all};
use js_sys::{Array, Object, Reflect};
use serde::{Deserialize, Serialize};
use serde_json::json;
use wasm_bindgen::JsValue;
use worker::{DurableObject, Env, ListOptions, Method, ObjectNamespace, Response, State, durable_object};

use super::{
    bindings::Console, clock::SystemClock, entry::isolate, fetch::Fetch, objects,
    repository_writer::WaitUntil,
};
use crate::{
    app::App,
    auth::Principal,
    events::{
        Command, Lanes, Reply,
        delivery::{
            Status,
            keeper::{Alarm, Keeper, Rows, Storage},
        },
    },
    platform::Clock,
    storage::LONG_PATIENCE,
};

/// Time until a failed alarm runs again, in milliseconds. The platform repeats a failed alarm only six times.
const NEXT_ALARM: u64 = 10_000;

/// Time until the alarm runs again if a delivery is under way, in milliseconds.
const BUSY: u64 = 1_000;

/// Time until the alarm runs again if the object does not survive this run, in milliseconds: longer than a run.
const GUARD: u64 = 120_000;

/// The most keys of one call to storage.
const MAX_KEYS: usize = 128;

/// A command with the name of its endpoint: an object is not told its name.
#[derive(Serialize, Deserialize)]
struct Call {
    endpoint: String,
    command: Command,
}

/// The Durable Object of one endpoint's lane.
#[durable_object]
pub struct EventEndpoint {
    state: Rc<State>,
    env: Env,
    keeper: Keeper,
    /// What the metrics have counted; `None` in a new object.
    counted: RefCell<Option<Status>>,
}

impl DurableObject for EventEndpoint {
    fn new(state: State, env: Env) -> Self {
        let state = Rc::new(state);
        let storage = Rc::new(DurableStorage(state.clone()));
        let keeper = Keeper::new(storage, Rc::new(Fetch), Rc::new(SystemClock), Rc::new(Console));
        Self { state, env, keeper, counted: RefCell::default() }
    }

    async fn fetch(&self, mut request: worker::Request) -> worker::Result<Response> {
        // Asked by `/readyz`.
        if request.method() == Method::Head {
            return Response::empty();
        }
        let Call { endpoint: name, command } = serde_json::from_str(&request.text().await?)?;
        let app = self.app().map_err(worker::Error::RustError)?;
        let endpoint = app.config.events.endpoint(&name);
        let reply = self.counting(&app, &name, self.keeper.carry_out(&name, endpoint, command)).await;
        Response::from_json(&reply.map_err(worker::Error::RustError)?)
    }

    /// Runs while events wait. If it fails, it runs again.
    async fn alarm(&self) -> worker::Result<Response> {
        let storage = self.state.storage();
        storage.set_alarm(Duration::from_millis(GUARD)).await?;
        match self.deliver().await {
            Ok(true) => {}
            // The guard has replaced the alarm of what was taken meanwhile.
            Ok(false) => storage.set_alarm(Duration::from_millis(BUSY)).await?,
            Err(message) => {
                let line = json!({"level": "error", "alarm": "endpoint", "message": message});
                worker::console_error!("{line}");
                storage.set_alarm(Duration::from_millis(NEXT_ALARM)).await?;
            }
        }
        Response::empty()
    }
}

impl EventEndpoint {
    /// Fails if the configuration is not valid: an endpoint is gone only if a valid one does not have it.
    fn app(&self) -> Result<Rc<App>, String> {
        Ok(isolate(&self.env).map_err(|error| error.to_string())?.app)
    }

    async fn deliver(&self) -> Result<bool, String> {
        let name = self.keeper.name().await?;
        let app = self.app()?;
        self.counting(&app, &name, self.keeper.deliver(&name, app.config.events.endpoint(&name))).await
    }

    /// Counts in the metrics what the lane has done meanwhile.
    async fn counting<T>(
        &self,
        app: &App,
        name: &str,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        if self.counted.borrow().is_none() {
            let before = self.status(app, name).await?;
            self.counted.borrow_mut().get_or_insert(before);
        }
        let done = work.await;
        if let Ok(now) = self.status(app, name).await {
            let before = self.counted.replace(Some(now.clone())).unwrap_or_default();
            now.count(&before, &app.metrics, name, app.config.events.endpoint(name).is_some());
            let background = Rc::new(WaitUntil(self.state.clone()));
            app.send_metrics(&app.context(Principal::Job("deliver"), String::new(), background));
        }
        done
    }

    async fn status(&self, app: &App, name: &str) -> Result<Status, String> {
        match self.keeper.carry_out(name, app.config.events.endpoint(name), Command::Status).await? {
            Reply::Status(status) => Ok(status),
            _ => Ok(Status::default()),
        }
    }
}

/// The storage of an object.
struct DurableStorage(Rc<State>);

impl Storage for DurableStorage {
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<(String, String)>, String>> {
        Box::pin(async move {
            // The first key after this one.
            let start = after.map(|after| format!("{after}\0"));
            let mut options = ListOptions::new().prefix(prefix).limit(limit);
            if let Some(start) = &start {
                options = options.start(start);
            }
            let rows = self.0.storage().list_with_options(options).await.map_err(text)?;
            let mut found = Vec::new();
            for entry in rows.entries() {
                let entry = Array::from(&entry.map_err(|error| format!("{error:?}"))?);
                found.extend(entry.get(0).as_string().zip(entry.get(1).as_string()));
            }
            Ok(found)
        })
    }

    fn get<'a>(&'a self, keys: &'a [String]) -> LocalBoxFuture<'a, Result<Vec<Option<String>>, String>> {
        Box::pin(async move {
            let names = keys.iter().map(String::as_str).collect();
            let rows = self.0.storage().get_multiple(names).await.map_err(text)?;
            Ok(keys.iter().map(|key| rows.get(&JsValue::from_str(key)).as_string()).collect())
        })
    }

    fn write(&self, rows: Rows, alarm: Alarm) -> LocalBoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.write_rows(rows, alarm).await.map_err(text) })
    }
}

impl DurableStorage {
    async fn write_rows(&self, rows: Rows, alarm: Alarm) -> worker::Result<()> {
        let storage = &self.0.storage();
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (key, value) in rows {
            match value {
                Some(value) => puts.push((key, value)),
                None => deletes.push(key),
            }
        }
        let mut writes: Vec<LocalBoxFuture<'_, worker::Result<()>>> = Vec::new();
        for chunk in puts.chunks(MAX_KEYS) {
            let values = Object::new();
            for (key, value) in chunk {
                Reflect::set(&values, &key.as_str().into(), &JsValue::from_str(value))?;
            }
            writes.push(Box::pin(storage.put_multiple_raw(values)));
        }
        for keys in deletes.chunks(MAX_KEYS) {
            let deleted = storage.delete_multiple(keys.to_vec());
            writes.push(Box::pin(async { deleted.await.map(drop) }));
        }
        match alarm {
            Alarm::Keep => {}
            Alarm::At(time) => {
                let wait = Duration::from_millis(time.milliseconds_since(SystemClock.now()));
                writes.push(Box::pin(storage.set_alarm(wait)));
            }
            Alarm::Off => writes.push(Box::pin(storage.delete_alarm())),
        }
        // Begun together, they are one transaction. All are awaited, whichever fails.
        join_all(writes).await.into_iter().collect()
    }
}

fn text(error: worker::Error) -> String {
    error.to_string()
}

/// The client of lanes.
pub struct DurableLanes {
    /// `None` without the binding.
    namespace: Option<ObjectNamespace>,
}

impl DurableLanes {
    /// Wraps the binding.
    pub fn new(namespace: Option<ObjectNamespace>) -> Self {
        Self { namespace }
    }
}

impl Lanes for DurableLanes {
    fn call<'a>(&'a self, endpoint: &'a str, command: Command) -> LocalBoxFuture<'a, Result<Reply, String>> {
        Box::pin(async move {
            let namespace = self.namespace.as_ref().ok_or("the binding ENDPOINTS is missing")?;
            let call = Call { endpoint: endpoint.to_owned(), command };
            let replied = objects::call(|| namespace.get_by_name(endpoint), &call, LONG_PATIENCE).await?;
            Ok(replied.reply)
        })
    }
}
