//! The context of every request and job: principal, log, background work.

use std::rc::Rc;

use crate::{
    auth::Principal,
    platform::{Background, EdgeCache, RequestLog},
};

/// The context of one request or job run. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The identity that it acts for.
    pub principal: Rc<Principal>,
    /// The log, with the request id.
    pub log: Rc<RequestLog>,
    /// Runs optional work after the response.
    pub background: Rc<dyn Background>,
    /// The cache near the client.
    pub edge_cache: Rc<dyn EdgeCache>,
}

impl Context {
    /// The same context, acting for `principal`.
    #[must_use]
    pub fn acting_for(&self, principal: Principal) -> Self {
        Self { principal: Rc::new(principal), ..self.clone() }
    }
}
