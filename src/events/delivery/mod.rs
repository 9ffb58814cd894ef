//! The delivery of events to endpoints.
//!
//! Each [`Endpoint`] has a *lane*: a place of its own that keeps the endpoint's events until they are delivered, in
//! order, and those that could not be delivered as dead letters. So a slow endpoint delays no other. Whoever has events
//! asks [`Endpoint::wants`] and hands them over with [`Command::Take`]: when that is answered, the lane has stored them.
//!
//! | to find | open |
//! |---|---|
//! | which addresses are refused | [`crate::platform::address`] |
//! | when an event is sent, repeated or given up | [`lane`], a pure state machine |
//! | a request, its signature, what its answer means | [`webhook`] |
//! | the loop that delivers, and what is stored | [`keeper`], `rows` |
//! | dead letters | [`dead`] |

pub mod dead;
pub mod endpoint;
pub mod keeper;
pub mod lane;
pub mod memory;
pub mod protocol;
mod rows;
pub mod webhook;

pub use endpoint::{Endpoint, Form, Globs, Ignore, Retries};
pub use protocol::{Command, DeadLetter, Lanes, Reply, Status};
