//! The queue between a change and the delivery of its events.

use std::rc::Rc;

use futures_util::future::{LocalBoxFuture, join, join_all, select};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Event, EventSink, NotTaken, Outbox};
use crate::platform::{Clock, Level, RequestLog};

/// The limit of a message's events as JSON, in bytes: Cloudflare takes messages of up to 128,000 bytes.
pub(super) const MAX_MESSAGE: usize = 100_000;

/// Limit of messages that are written at once: each is in memory a few times meanwhile.
const AT_ONCE: usize = 4;

/// How long the queue may take, in milliseconds, while the outbox has the events.
const PATIENCE: u64 = 3_000;

/// A message of the queue, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The events; none if they must be read in the outbox.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Their name in the outbox, if they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// The producer of a queue that survives its senders, delivers at least once, and in no order.
pub trait Queue {
    /// Sends up to 100 messages, of at most 256 kB together.
    fn send(&self, messages: Vec<String>) -> LocalBoxFuture<'_, Result<(), String>>;
}

/// The sink of changes: the queue, and the outbox at the same time. Either is enough. The outbox is for queues that
/// refuse, that are slow, and that lose what they have.
pub struct Durable {
    /// The queue.
    pub queue: Rc<dyn Queue>,
    /// The outbox.
    pub outbox: Outbox,
    /// Limits the wait for the queue.
    pub clock: Rc<dyn Clock>,
    /// Says when one of the two fails.
    pub log: Rc<RequestLog>,
}

impl EventSink for Durable {
    fn write<'a>(&'a self, events: &'a [Event]) -> LocalBoxFuture<'a, Result<(), NotTaken>> {
        Box::pin(async move {
            let pieces: Vec<&[Event]> = pieces(events).collect();
            let mut trouble = None;
            for few in pieces.chunks(AT_ONCE) {
                for written in join_all(few.iter().map(|piece| self.write_piece(piece))).await {
                    trouble = trouble.or(written?);
                }
            }
            if let Some(message) = trouble {
                let id = &self.log.id;
                let line = || json!({"level": "info", "id": id, "queue": "events", "message": message});
                self.log.write(Level::Info, line);
            }
            Ok(())
        })
    }
}

impl Durable {
    /// Returns the failure of the queue or of the outbox, if the other has the events.
    async fn write_piece(&self, events: &[Event]) -> Result<Option<String>, NotTaken> {
        let invalid = |error: serde_json::Error| NotTaken(error.to_string());
        let content = serde_json::to_string(events).map_err(invalid)?;
        let name = super::outbox::name(events);
        let message = Message { events: events.to_vec(), kept: name };
        let message = serde_json::to_string(&message).map_err(invalid)?;
        let kept = self.outbox.keep(events, content);
        match join(self.send(message), kept).await {
            (Err(refused), Err(lost)) => Err(NotTaken(format!("{refused}; {lost}"))),
            (Err(refused), Ok(_)) => Ok(Some(format!("only the outbox has the events: {refused}"))),
            (Ok(()), Err(lost)) => Ok(Some(format!("only the queue has the events: {lost}"))),
            (Ok(()), Ok(_)) => Ok(None),
        }
    }

    async fn send(&self, message: String) -> Result<(), String> {
        let timeout = self.clock.sleep(PATIENCE);
        match select(self.queue.send(vec![message]), timeout).await {
            futures_util::future::Either::Left((sent, _)) => sent,
            futures_util::future::Either::Right(_) => Err("the queue does not answer".to_owned()),
        }
    }
}

/// Cuts events into messages.
fn pieces(events: &[Event]) -> impl Iterator<Item = &[Event]> {
    let sizes = events.iter().map(|event| serde_json::to_string(event).map_or(0, |text| text.len() + 1));
    let (mut ends, mut length) = (Vec::new(), 0);
    for (at, size) in sizes.enumerate() {
        if at > 0 && length + size > MAX_MESSAGE {
            ends.push(at);
            length = 0;
        }
        length += size;
    }
    ends.push(events.len());
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(ends).filter_map(|(start, end)| events.get(start..end)).filter(|piece| !piece.is_empty())
}
