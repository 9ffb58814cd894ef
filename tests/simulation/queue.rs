//! The queue of events. A message waits for the scheduler like any call: it is taken, or refused, or the answer is
//! lost, or it arrives late. Nobody consumes it before the registry has come to rest.

use std::{cell::RefCell, rc::Rc};

use futures_util::future::LocalBoxFuture;
use pierhead::events::{Event, Message, Queue};

use crate::{calls::Calls, setup::Guard};

/// The path of the queue among the calls.
const QUEUE: &str = "queue";

/// The queue. Clones share it.
#[derive(Clone)]
pub struct SimulatedQueue {
    calls: Rc<Calls>,
    without: Option<Guard>,
    /// What was sent since anyone looked, taken or not.
    sent: Rc<RefCell<Vec<Event>>>,
    /// What it has.
    taken: Rc<RefCell<Vec<Event>>>,
}

impl SimulatedQueue {
    /// An empty queue.
    pub fn new(calls: Rc<Calls>, without: Option<Guard>) -> Self {
        Self { calls, without, sent: Rc::default(), taken: Rc::default() }
    }

    /// The events that were sent since the last call.
    pub fn sent(&self) -> Vec<Event> {
        self.sent.take()
    }

    /// Takes what it has.
    pub fn consume(&self) -> Vec<Event> {
        self.taken.take()
    }
}

impl Queue for SimulatedQueue {
    fn send(&self, messages: Vec<String>) -> LocalBoxFuture<'_, Result<(), String>> {
        let read = |text: &String| serde_json::from_str::<Message>(text).expect("a message is JSON").events;
        let events: Vec<Event> = messages.iter().flat_map(read).collect();
        self.sent.borrow_mut().extend(events.iter().cloned());
        let taken = self.taken.clone();
        let take = move || {
            taken.borrow_mut().extend(events);
            Ok(())
        };
        let (error, refusal) =
            ("failed by the simulation".to_owned(), "refused by the simulation".to_owned());
        let is_awaited = self.without != Some(Guard::Answer);
        Box::pin(async move {
            let sent = self.calls.make_refusable("send", QUEUE.to_owned(), true, take, error, refusal).await;
            if is_awaited { sent } else { Ok(()) }
        })
    }
}
