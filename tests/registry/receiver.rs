//! A receiver of events that answers as a test wants.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, header};
use pierhead::{
    events::{Envelope, Event},
    platform::{Clock, WebhookClient, memory::ManualClock},
};
use uuid::Uuid;

/// How a receiver answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A status.
    Status(u16),
    /// A status with `Retry-After`.
    RetryAfter(u16, &'static str),
    /// A redirect.
    Redirect(u16, &'static str),
    /// No answer in time.
    Hang,
    /// No connection.
    Gone,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub url: String,
    pub headers: HeaderMap,
    pub body: String,
    pub events: Vec<Event>,
    pub at: u64,
    /// Whether it was answered with a success.
    pub is_accepted: bool,
}

/// Decides how a request is answered.
pub type Script = Box<dyn FnMut(&[Event], u64) -> Mode>;

/// The receiver: a client of webhooks that is its own server.
pub struct Receiver {
    clock: ManualClock,
    pub received: RefCell<Vec<Received>>,
    pub script: RefCell<Script>,
    /// Runs while a request is under way, once for each.
    pub during: RefCell<VecDeque<LocalBoxFuture<'static, ()>>>,
    /// How long an answer takes, in milliseconds.
    pub delay: Cell<u64>,
}

impl Receiver {
    pub fn new(clock: ManualClock) -> Self {
        let (received, during, delay) = Default::default();
        Self { clock, received, script: RefCell::new(Box::new(|_, _| Mode::Status(200))), during, delay }
    }

    /// Answers every request in one way.
    pub fn answer(&self, mode: Mode) {
        self.script(move |_, _| mode.clone());
    }

    pub fn script(&self, script: impl FnMut(&[Event], u64) -> Mode + 'static) {
        *self.script.borrow_mut() = Box::new(script);
    }

    /// The events that were accepted, in order, repeats included.
    pub fn accepted(&self) -> Vec<Event> {
        let received = self.received.borrow();
        received
            .iter()
            .filter(|request| request.is_accepted)
            .flat_map(|request| request.events.clone())
            .collect()
    }

    pub fn accepted_ids(&self) -> Vec<Uuid> {
        self.accepted().iter().map(|event| event.id).collect()
    }

    pub fn requests(&self) -> usize {
        self.received.borrow().len()
    }
}

impl WebhookClient for Receiver {
    fn post(
        &self,
        request: http::Request<String>,
        timeout: u64,
    ) -> LocalBoxFuture<'_, Result<http::Response<()>, String>> {
        let (parts, body) = request.into_parts();
        let events = match serde_json::from_str::<Envelope>(&body) {
            Ok(envelope) => envelope.events,
            Err(_) => {
                let value: serde_json::Value = serde_json::from_str(&body).unwrap();
                vec![serde_json::from_value(value["data"].clone()).unwrap()]
            }
        };
        Box::pin(async move {
            let during = self.during.borrow_mut().pop_front();
            if let Some(during) = during {
                during.await;
            }
            let at = self.clock.now().0;
            let mode = (self.script.borrow_mut())(&events, at);
            let is_accepted = matches!(mode, Mode::Status(200..=299));
            let url = parts.uri.to_string();
            let received = Received { url, headers: parts.headers, body, events, at, is_accepted };
            self.received.borrow_mut().push(received);
            let builder = http::Response::builder();
            let builder = match mode {
                Mode::Status(status) => builder.status(status),
                Mode::RetryAfter(status, after) => builder.status(status).header(header::RETRY_AFTER, after),
                Mode::Redirect(status, to) => builder.status(status).header(header::LOCATION, to),
                Mode::Hang => {
                    self.clock.sleep(timeout).await;
                    return Err("no answer in time".to_owned());
                }
                Mode::Gone => return Err("connection refused".to_owned()),
            };
            self.clock.sleep(self.delay.get()).await;
            Ok(builder.body(()).unwrap())
        })
    }
}
