//! Pulls, gathered in the isolate's memory and sent together: a pull does not wait for its event.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{Event, Message, Queue, queue::pieces};
use crate::platform::{Background, Clock, Timestamp};

/// How long events are gathered, in milliseconds.
const GATHER: u32 = 2_000;

/// The number of gathered events that are sent at once.
const BATCH: usize = 80;

/// Limit of gathered events. Beyond it they are dropped: the queue is down.
const MAX: usize = 1_000;

/// The pulls of an isolate. Best effort: an isolate that ends, or a queue that refuses, loses them.
pub struct Gatherer {
    queue: Rc<dyn Queue>,
    clock: Rc<dyn Clock>,
    events: RefCell<Vec<Event>>,
    /// When a request will send them. If the platform has cut it short, the next one does.
    due: Cell<Option<Timestamp>>,
}

impl Gatherer {
    /// A gatherer without events.
    pub fn new(queue: Rc<dyn Queue>, clock: Rc<dyn Clock>) -> Rc<Self> {
        Rc::new(Self { queue, clock, events: RefCell::default(), due: Cell::default() })
    }

    /// Adds events, and sends what is there in the `background` of this request or another.
    pub fn add(self: &Rc<Self>, events: Vec<Event>, background: &dyn Background) {
        let is_full = {
            let mut gathered = self.events.borrow_mut();
            gathered.extend(events);
            gathered.truncate(MAX);
            gathered.len() >= BATCH
        };
        let now = self.clock.now();
        let is_late = |due: Timestamp| now > due.plus_seconds(1);
        if is_full || self.due.get().is_none_or(is_late) {
            let wait = if is_full { 0 } else { GATHER };
            self.due.set(Some(Timestamp(now.0 + u64::from(wait))));
            let this = self.clone();
            background.spawn_after(wait, Box::pin(async move { this.send().await }));
        }
    }

    async fn send(&self) {
        self.due.set(None);
        loop {
            let events: Vec<Event> = {
                let mut gathered = self.events.borrow_mut();
                let count = gathered.len().min(BATCH);
                gathered.drain(..count).collect()
            };
            if events.is_empty() {
                return;
            }
            for piece in pieces(&events) {
                let message = serde_json::to_string(&Message { events: piece.to_vec(), kept: None });
                // Best effort.
                let _sent = self.queue.send(message.into_iter().collect()).await;
            }
        }
    }
}
