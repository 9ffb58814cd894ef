//! Events: what the registry tells the outside world.
//!
//! ```text
//! a change          writer of the repository ─┐
//! a blob pushed     Listening -> middleware  ─┴> Durable ─┬> queue  ─┐
//!                                                          └> outbox ─┴> consumer -> Broadcaster -> endpoints
//! a pull            Listening -> middleware  ──> Gatherer ──> queue ──┘
//! ```
//!
//! [`bridge`] makes events of changes and pulls. An [`EventSink`] takes them. [`Durable`] is the sink of changes: the
//! platform's queue, and an outbox in the bucket. The consumer of the queue hands events over to each endpoint that
//! wants them.

pub mod bridge;
mod broadcaster;
mod consumer;
pub mod delivery;
mod event;
mod gather;
pub mod memory;
mod outbox;
mod queue;
mod sink;

pub use bridge::{Bridge, Content, Origin};
pub use broadcaster::Broadcaster;
pub use consumer::Consumer;
pub use delivery::{Command, Endpoint, Lanes, Reply};
pub use event::{
    Action, Actor, Envelope, Event, MAX_REFERENCES, MEDIA_TYPE, Reference, RequestRecord, Source, Target,
};
pub use gather::Gatherer;
pub use outbox::{Names, Outbox};
pub use queue::{Durable, Message, Queue};
pub use sink::{EventSink, Events, NotTaken};
