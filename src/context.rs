//! The context of every request and job: principal, log, background work.

use std::rc::Rc;

use crate::{
    auth::Principal,
    platform::{Background, RequestLog},
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
}

impl Context {
    /// The same context, acting for `principal`.
    #[must_use]
    pub fn acting_for(&self, principal: Principal) -> Self {
        Self { principal: Rc::new(principal), ..self.clone() }
    }
}
