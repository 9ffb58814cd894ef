//! In-memory sessions for native tests, on the same state machine as in production.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use futures_util::future::{LocalBoxFuture, ready};

use super::{
    CallError, Command, Reply, UploadSessions,
    session::{State, Transition, apply},
};
use crate::{oci::UploadId, platform::Clock, storage::Part};

/// Sessions, and the clock for their expiry.
pub struct MemorySessions<C> {
    clock: C,
    sessions: RefCell<HashMap<UploadId, Session>>,
}

/// A session's state, and its parts by number.
type Session = (State, BTreeMap<u16, Part>);

impl<C: Clock> MemorySessions<C> {
    /// An empty set of sessions.
    pub fn new(clock: C) -> Self {
        Self { clock, sessions: RefCell::default() }
    }

    /// The number of open sessions.
    pub fn open(&self) -> usize {
        self.sessions.borrow().values().filter(|(state, _)| matches!(state, State::Open(_))).count()
    }

    fn carry_out(&self, id: &UploadId, command: &Command) -> Result<Reply, CallError> {
        let mut sessions = self.sessions.borrow_mut();
        let (state, mut parts) = match sessions.get(id) {
            Some((state, parts)) => (Some(state.clone()), parts.clone()),
            None => (None, BTreeMap::new()),
        };
        let Transition { state, upload, rows } = apply(state, command, self.clock.now())?;
        if rows.clear {
            parts.clear();
        }
        parts.extend(rows.insert.into_iter().map(|part| (part.number, part)));
        let reply = Reply { upload, parts: parts.values().filter(|_| rows.list).cloned().collect() };
        sessions.insert(*id, (state, parts));
        Ok(reply)
    }
}

impl<C: Clock> UploadSessions for MemorySessions<C> {
    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: Command,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(ready(self.carry_out(id, &command)))
    }
}
