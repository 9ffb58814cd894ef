//! Pulls, gathered in the isolate's memory and sent together: a pull does not wait for its event.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{Event, Queue, queue::MAX_MESSAGE};
use crate::platform::{Background, Clock, Timestamp};

/// How long events are gathered, in milliseconds.
const GATHER: u32 = 2_000;

/// The number of gathered events that are sent at once.
const BATCH: usize = 80;

/// Limit of gathered events, in bytes. Beyond it they are dropped: the queue is down.
const MAX_BYTES: usize = 1 << 20;

/// The pulls of an isolate. Best effort: an isolate that ends, or a queue that refuses, loses them.
pub struct Gatherer {
    queue: Rc<dyn Queue>,
    clock: Rc<dyn Clock>,
    /// As JSON.
    events: RefCell<Vec<String>>,
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
        let mut gathered = self.events.borrow_mut();
        let mut bytes = gathered.iter().map(String::len).sum::<usize>();
        for text in events.into_iter().filter_map(text) {
            bytes += text.len();
            if bytes <= MAX_BYTES {
                gathered.push(text);
            }
        }
        let is_full = gathered.len() >= BATCH || bytes >= MAX_MESSAGE;
        drop(gathered);
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
        while let Some(message) = self.next_message() {
            // Best effort.
            let _sent = self.queue.send(vec![message]).await;
        }
    }

    /// The next message, as [`Message`](super::Message) is written.
    fn next_message(&self) -> Option<String> {
        let mut gathered = self.events.borrow_mut();
        let mut bytes = 0;
        let fits = |text: &&String| {
            bytes += text.len() + 1;
            bytes <= MAX_MESSAGE
        };
        // Each fits alone.
        let count = gathered.iter().take(BATCH).take_while(fits).count();
        let events: Vec<String> = gathered.drain(..count).collect();
        (!events.is_empty()).then(|| format!("{{\"events\":[{}]}}", events.join(",")))
    }
}

/// An event as JSON, if a message holds it.
fn text(event: Event) -> Option<String> {
    serde_json::to_string(&event).ok().filter(|text| text.len() < MAX_MESSAGE)
}
