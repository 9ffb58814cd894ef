//! An in-memory queue for native tests.

use std::cell::{Cell, RefCell};

use futures_util::future::{LocalBoxFuture, ready};

use super::{Event, Message, Queue};

/// A queue that keeps what it takes.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    /// The messages, as JSON, oldest first.
    pub messages: RefCell<Vec<String>>,
    /// Whether it refuses messages.
    pub refuses: Cell<bool>,
}

impl MemoryQueue {
    /// The events in the messages.
    pub fn events(&self) -> Vec<Event> {
        let read = |text: &String| serde_json::from_str::<Message>(text).unwrap_or_default().events;
        self.messages.borrow().iter().flat_map(read).collect()
    }
}

impl Queue for MemoryQueue {
    fn send(&self, messages: Vec<String>) -> LocalBoxFuture<'_, Result<(), String>> {
        if self.refuses.get() {
            return Box::pin(ready(Err("the queue refuses".to_owned())));
        }
        self.messages.borrow_mut().extend(messages);
        Box::pin(ready(Ok(())))
    }
}
