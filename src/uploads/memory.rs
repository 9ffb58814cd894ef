//! Sessions in a map: hosts the same state machine as production, for native tests.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use super::{
    CallError, Command, Reply, UploadId, UploadSessions,
    session::{State, Transition, apply},
};
use crate::{clock::Clock, storage::Part};

/// The sessions, and where their time comes from.
pub struct MemorySessions<C> {
    clock: C,
    sessions: RefCell<HashMap<UploadId, Session>>,
}

/// A session's state, and its parts by number.
type Session = (State, BTreeMap<u16, Part>);

impl<C> MemorySessions<C> {
    /// No sessions yet.
    pub fn new(clock: C) -> Self {
        Self { clock, sessions: RefCell::default() }
    }

    /// How many sessions can be written to.
    pub fn open(&self) -> usize {
        self.sessions.borrow().values().filter(|(state, _)| matches!(state, State::Open(_))).count()
    }
}

impl<C: Clock> UploadSessions for MemorySessions<C> {
    async fn call(&self, id: &UploadId, command: Command) -> Result<Reply, CallError> {
        let mut sessions = self.sessions.borrow_mut();
        let (state, mut parts) = match sessions.get(id) {
            Some((state, parts)) => (Some(state.clone()), parts.clone()),
            None => (None, BTreeMap::new()),
        };
        let Transition { state, upload } = apply(state, &command, self.clock.now())?;
        if let Command::Checkpoint(checkpoint) | Command::Release(checkpoint) = &command {
            parts.extend(checkpoint.parts.iter().map(|part| (part.number, part.clone())));
        }
        let is_finish = matches!(command, Command::Finish { .. });
        let reply = Reply { upload, parts: parts.values().filter(|_| is_finish).cloned().collect() };
        sessions.insert(*id, (state, parts));
        Ok(reply)
    }
}
