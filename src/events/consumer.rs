//! The consumer of the queue: hands events over to their sink, and then removes them from the outbox.

use std::rc::Rc;

use futures_util::future::join_all;

use super::{Event, Message, Outbox, Sink};

/// The size of what is handed over at once, in bytes of messages.
const HANDOVER: usize = 512 * 1024;

/// Consumes messages.
pub struct Consumer {
    /// The events that are not delivered yet.
    pub outbox: Outbox,
    /// Takes the events.
    pub sink: Rc<dyn Sink>,
}

/// A message that was read.
struct Read {
    events: Vec<Event>,
    kept: Option<String>,
    size: usize,
}

impl Consumer {
    /// Hands over the events of messages. Tells of each message whether it is done; the others must be sent again.
    pub async fn consume(&self, messages: Vec<String>) -> Vec<bool> {
        let read = join_all(messages.iter().map(|message| self.read(message))).await;
        let mut done: Vec<bool> = read.iter().map(Option::is_some).collect();
        let mut group = Vec::new();
        let mut size = 0;
        let last = read.len().saturating_sub(1);
        for (at, read) in read.into_iter().enumerate() {
            if let Some(read) = read {
                size += read.size;
                group.push((at, read));
            }
            if size >= HANDOVER || at == last {
                let group = std::mem::take(&mut group);
                size = 0;
                let places: Vec<usize> = group.iter().map(|(at, _)| *at).collect();
                if !self.hand_over(group.into_iter().map(|(_, read)| read).collect()).await {
                    places.into_iter().filter_map(|at| done.get_mut(at).map(|done| *done = false)).count();
                }
            }
        }
        done
    }

    /// Reads a message, and what it names in the outbox. `None` if it must be sent again.
    async fn read(&self, text: &str) -> Option<Read> {
        // A message that cannot be read is not from this registry.
        let Message { mut events, kept } = serde_json::from_str(text).unwrap_or_default();
        if let Some(name) = kept.as_ref().filter(|_| events.is_empty()) {
            match self.outbox.read(name).await {
                // They are delivered.
                Ok(None) => return Some(Read { events, kept: None, size: 0 }),
                Ok(Some(found)) => events = found,
                Err(_) => return None,
            }
        }
        Some(Read { events, kept, size: text.len() })
    }

    async fn hand_over(&self, group: Vec<Read>) -> bool {
        let kept: Vec<String> = group.iter().filter_map(|read| read.kept.clone()).collect();
        let events: Vec<Event> = group.into_iter().flat_map(|read| read.events).collect();
        if !events.is_empty() && self.sink.write(&events).await.is_err() {
            return false;
        }
        // What stays is sent again, and delivered twice.
        kept.is_empty() || self.outbox.remove(&kept).await.is_ok()
    }
}
