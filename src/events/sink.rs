//! Where events go.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use uuid::Uuid;

use super::Event;

/// Events were not taken: nothing keeps them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the events of this change could not be kept: {0}")]
pub struct NotTaken(pub String);

/// Takes events.
pub trait EventSink {
    /// Takes events. After a success they outlive the caller: they are delivered at least once. The same events may be
    /// written again.
    fn write<'a>(&'a self, events: &'a [Event]) -> LocalBoxFuture<'a, Result<(), NotTaken>>;
}

/// What tells of changes: a sink, and what an event says of the registry.
#[derive(Clone)]
pub struct Events {
    /// Takes the events.
    pub sink: Rc<dyn EventSink>,
    /// Whether any endpoint wants an event. One that nobody wants is not sent.
    pub wants: Rc<dyn Fn(&Event) -> bool>,
    /// The isolate.
    pub instance: Uuid,
    /// Whether the events of manifests name what they refer to.
    pub references: bool,
}

impl Events {
    /// Sends the events that somebody wants.
    pub async fn tell(&self, mut events: Vec<Event>) -> Result<(), NotTaken> {
        events.retain(|event| (self.wants)(event));
        if events.is_empty() { Ok(()) } else { self.sink.write(&events).await }
    }
}
