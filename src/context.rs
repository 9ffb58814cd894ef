//! The context of every request and job: principal, log, background work, events.

use std::{cell::RefCell, rc::Rc};

use uuid::Uuid;

use crate::{
    auth::{Principal, identity::Authenticated, scope::Grant},
    events::{Actor, Event, Origin, RequestRecord},
    platform::{Background, EdgeCache, RequestLog},
};

/// The context of one request or job run. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The identity that it acts for.
    pub principal: Rc<Principal>,
    /// What its token allows at most; `None` without a token.
    pub grants: Option<Rc<[Grant]>>,
    /// The log, with the request id.
    pub log: Rc<RequestLog>,
    /// Runs optional work after the response.
    pub background: Rc<dyn Background>,
    /// The cache near the client.
    pub edge_cache: Rc<dyn EdgeCache>,
    /// What its events and the audit say of the request.
    pub notes: Rc<Notes>,
}

/// What is noted of a request for its events and the audit.
#[derive(Debug, Default)]
pub struct Notes {
    /// The request.
    pub request: RequestRecord,
    /// The registry's URL, as the client called it: scheme and host.
    pub base: String,
    /// The user whose login has failed, if there is one of this name.
    pub failed: RefCell<Option<String>>,
    /// Events to send if the request succeeds.
    pub events: RefCell<Vec<Event>>,
}

impl Context {
    /// The same context, acting for `principal`.
    #[must_use]
    pub fn acting_for(&self, principal: Principal) -> Self {
        Self { principal: Rc::new(principal), grants: None, ..self.clone() }
    }

    /// The same context, acting for whoever the request comes from.
    #[must_use]
    pub fn authenticated(&self, Authenticated { principal, grants }: Authenticated) -> Self {
        Self { grants, ..self.acting_for(principal) }
    }

    /// The origin of a change that is made in this context.
    pub fn origin(&self) -> Origin {
        let Notes { request, base, .. } = &*self.notes;
        let name = match &*self.principal {
            Principal::Anonymous => String::new(),
            principal => principal.name(),
        };
        let request = RequestRecord { id: self.log.id.clone(), ..request.clone() };
        Origin { change: Uuid::new_v4(), request, actor: Actor { name }, base: base.clone() }
    }
}
