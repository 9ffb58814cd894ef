//! Events: what the registry tells the outside world.

mod event;

pub use event::{Action, Actor, Envelope, Event, MEDIA_TYPE, Reference, RequestRecord, Source, Target};
