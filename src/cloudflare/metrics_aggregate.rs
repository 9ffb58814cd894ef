//! The Durable Object that keeps the metrics of a deployment: the host of [`crate::platform::metrics::Sums`].
//!
//! There is one, called by name. The sums are one row, of bounded size. They are written at most once every five seconds,
//! and before they are read: a counter that Prometheus has seen never falls, whatever a crash loses.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use worker::{DurableObject, Env, Method, Response, State, durable_object};

use super::clock::SystemClock;
use crate::platform::{
    Clock, Timestamp,
    metrics::{Batch, Sums},
};

/// The shortest time between two writes, in milliseconds.
const WRITE_INTERVAL: u64 = 5_000;

/// The key of the sums.
const SUMS: &str = "sums";

/// The Durable Object of the deployment's metrics.
#[durable_object]
pub struct MetricsAggregate {
    state: State,
    /// `None` until they are read from storage.
    sums: RefCell<Option<Sums>>,
    /// Whether there is more than in storage.
    is_ahead: Cell<bool>,
    written: Cell<Timestamp>,
    /// Whether the alarm is set.
    is_set: Cell<bool>,
}

impl DurableObject for MetricsAggregate {
    fn new(state: State, _: Env) -> Self {
        let (sums, is_ahead, written, is_set) = Default::default();
        Self { state, sums, is_ahead, written, is_set }
    }

    async fn fetch(&self, mut request: worker::Request) -> worker::Result<Response> {
        let method = request.method();
        // Asked by `/readyz`.
        if method == Method::Head {
            return Response::empty();
        }
        self.load().await?;
        if method == Method::Get {
            self.write().await?;
            let samples = self.sums.borrow().as_ref().map(|sums| sums.table.samples()).unwrap_or_default();
            return Response::from_json(&samples);
        }
        let batch: Batch = serde_json::from_str(&request.text().await?)?;
        let is_new = self.sums.borrow_mut().as_mut().is_some_and(|sums| sums.add(batch));
        if is_new {
            self.is_ahead.set(true);
            self.write_soon().await?;
        }
        Response::ok("null")
    }

    async fn alarm(&self) -> worker::Result<Response> {
        self.is_set.set(false);
        self.write().await?;
        Response::empty()
    }
}

impl MetricsAggregate {
    async fn load(&self) -> worker::Result<()> {
        if self.sums.borrow().is_some() {
            return Ok(());
        }
        let text: Option<String> = self.state.storage().get(SUMS).await?;
        let stored = text.map(|text| Sums::from_json(&text)).transpose()?.unwrap_or_default();
        // Another request may have been faster.
        self.sums.borrow_mut().get_or_insert(stored);
        Ok(())
    }

    async fn write_soon(&self) -> worker::Result<()> {
        let since = SystemClock.now().milliseconds_since(self.written.get());
        if since >= WRITE_INTERVAL {
            return self.write().await;
        }
        if !self.is_set.replace(true) {
            let wait = Duration::from_millis(WRITE_INTERVAL - since);
            self.state.storage().set_alarm(wait).await?;
        }
        Ok(())
    }

    /// Writes what is not in storage. The runtime holds answers back until it is.
    async fn write(&self) -> worker::Result<()> {
        if !self.is_ahead.replace(false) {
            return Ok(());
        }
        self.written.set(SystemClock.now());
        let text = self.sums.borrow().as_ref().map(Sums::to_json).transpose()?;
        if let Some(text) = text
            && let Err(error) = self.state.storage().put(SUMS, text).await
        {
            self.is_ahead.set(true);
            return Err(error);
        }
        Ok(())
    }
}
