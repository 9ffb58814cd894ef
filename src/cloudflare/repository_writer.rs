//! The Durable Object of a repository's writer: the host of [`crate::repository::writer`].

use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
};

use futures_util::future::{LocalBoxFuture, join, join_all};
use serde_json::json;
use worker::{DurableObject, Env, ListOptions, Method, Response, State, Storage, durable_object};

use super::{
    clock::{SystemClock, rest, sleep},
    entry::isolate,
    ledger::DurableLedger,
    writers,
};
use crate::{
    app::App,
    auth::Principal,
    context::Context,
    oci::RepositoryName,
    platform::{Background, Clock, Timestamp},
    repository::writer::{
        Means, Writer,
        journal::{Journal, Rows},
        ledger::Ledger,
        protocol::Record,
    },
};

/// Time until a failed alarm runs again, in milliseconds. The platform repeats a failed alarm only six times.
const NEXT_ALARM: u64 = 10_000;

/// The prefix of the keys of records.
const RECORD: &str = "record/";

/// The Durable Object of one repository's writer.
#[durable_object]
pub struct RepositoryWriter {
    state: Rc<State>,
    env: Env,
    journal: Rc<DurableJournal>,
    writer: OnceCell<Rc<Writer>>,
}

impl DurableObject for RepositoryWriter {
    fn new(state: State, env: Env) -> Self {
        let state = Rc::new(state);
        let ledger = DurableLedger(state.clone());
        let journal = Rc::new(DurableJournal { state: state.clone(), alarm: Cell::default(), ledger });
        Self { state, env, journal, writer: OnceCell::new() }
    }

    async fn fetch(&self, mut request: worker::Request) -> worker::Result<Response> {
        // Asked by `/readyz`.
        if request.method() == Method::Head {
            return Response::empty();
        }
        let (repository, call) = writers::read(&request.text().await?)?;
        let (app, context, means) = self.open(&repository)?;
        let reply = self.writer(&repository).carry_out(&means, &*context.background, call).await;
        app.send_metrics(&context);
        Response::from_json(&reply)
    }

    /// Runs while there are records: finishes what is open, and forgets what need not be remembered. If that fails, it
    /// runs again.
    async fn alarm(&self) -> worker::Result<Response> {
        if let Err(message) = self.settle().await {
            worker::console_error!(
                "{}",
                json!({"level": "error", "alarm": "repository", "message": message})
            );
            self.state.storage().set_alarm(std::time::Duration::from_millis(NEXT_ALARM)).await?;
        }
        Response::empty()
    }
}

fn report(error: &impl ToString) {
    let message = error.to_string();
    worker::console_error!("{}", json!({"level": "error", "alarm": "repository", "message": message}));
}

impl RepositoryWriter {
    fn app(&self) -> worker::Result<Rc<App>> {
        Ok(isolate(&self.env).map_err(|error| worker::Error::RustError(error.to_string()))?.app)
    }

    fn context(&self, app: &App) -> Context {
        let background = Rc::new(WaitUntil(self.state.clone()));
        app.context(Principal::Job("writer"), uuid::Uuid::new_v4().to_string(), background)
    }

    fn writer(&self, repository: &RepositoryName) -> Rc<Writer> {
        let new = || Writer::new(repository.clone(), self.journal.clone(), Rc::new(SystemClock));
        self.writer.get_or_init(new).clone()
    }

    fn open(&self, repository: &RepositoryName) -> worker::Result<(Rc<App>, Context, Means)> {
        let app = self.app()?;
        let context = self.context(&app);
        let means = Means { stored: app.stored(repository, &context), events: app.events(&context) };
        Ok((app, context, means))
    }

    async fn settle(&self) -> Result<(), String> {
        let records = self.journal.load().await?;
        let Some((_, Record { repository, .. })) = records.first() else { return Ok(()) };
        let (app, context, means) = self.open(repository).map_err(|error| error.to_string())?;
        let settled = self.writer(repository).settle(&means).await;
        app.send_metrics(&context);
        let settled = settled.map_err(|error| error.to_string())?;
        if let Err(error) = settled {
            report(&error);
        }
        Ok(())
    }
}

/// `waitUntil` of an object.
pub(super) struct WaitUntil(pub Rc<State>);

impl Background for WaitUntil {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.spawn_after(0, work);
    }

    /// Begins with a timer in any case: the answer goes out first.
    fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>) {
        self.0.wait_until(async move {
            // The answer goes out first.
            sleep(0).await;
            if milliseconds > 0 {
                rest(milliseconds).await;
            }
            work.await;
        });
    }
}

/// The journal in an object's storage: a row for each record.
struct DurableJournal {
    state: Rc<State>,
    /// When the alarm runs, as far as this object has set it.
    alarm: Cell<Option<Timestamp>>,
    ledger: DurableLedger,
}

impl DurableJournal {
    async fn write_rows(&self, rows: Rows, alarm: Option<Timestamp>) -> worker::Result<()> {
        let storage = &self.state.storage();
        let now = SystemClock.now();
        let is_set = |alarm: &Timestamp| self.alarm.get().is_some_and(|set| set <= *alarm && set > now);
        let alarm = alarm.filter(|alarm| !is_set(alarm));
        if alarm.is_some() {
            self.alarm.set(alarm);
        }
        // Begun together, they are one transaction.
        let rows =
            join_all(rows.into_iter().map(async |(number, record)| write_row(storage, number, record).await));
        let set_alarm = async {
            match alarm {
                Some(alarm) => {
                    let wait = std::time::Duration::from_millis(alarm.milliseconds_since(now));
                    storage.set_alarm(wait).await
                }
                None => Ok(()),
            }
        };
        let (rows, set_alarm) = join(rows, set_alarm).await;
        set_alarm?;
        rows.into_iter().collect()
    }
}

/// Numbers have at most 20 digits: rows are in their order.
async fn write_row(storage: &Storage, number: u64, record: Option<Record>) -> worker::Result<()> {
    let key = format!("{RECORD}{number:020}");
    match record {
        Some(record) => storage.put(&key, serde_json::to_string(&record)?).await,
        None => storage.delete(&key).await.map(drop),
    }
}

impl Journal for DurableJournal {
    fn load(&self) -> LocalBoxFuture<'_, Result<Vec<(u64, Record)>, String>> {
        Box::pin(async move {
            let storage = self.state.storage();
            let listed = storage.list_with_options(ListOptions::new().prefix(RECORD)).await;
            let rows = listed.map_err(|error| error.to_string())?;
            let mut records = Vec::new();
            for entry in rows.entries() {
                let entry = js_sys::Array::from(&entry.map_err(|error| format!("{error:?}"))?);
                let (key, text) = (entry.get(0).as_string(), entry.get(1).as_string());
                let number = key.and_then(|key| key.strip_prefix(RECORD)?.parse().ok());
                if let (Some(number), Some(text)) = (number, text) {
                    let record = serde_json::from_str(&text).map_err(|error| error.to_string())?;
                    records.push((number, record));
                }
            }
            Ok(records)
        })
    }

    fn write(&self, rows: Rows, alarm: Option<Timestamp>) -> LocalBoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.write_rows(rows, alarm).await.map_err(|error| error.to_string()) })
    }

    fn ledger(&self) -> &dyn Ledger {
        &self.ledger
    }
}
