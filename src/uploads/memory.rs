//! In-memory sessions for native tests, on the same state machine as in production.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
};

use futures_util::future::LocalBoxFuture;

use super::{
    CallError, Command, JoinError, Reply, UploadSessions, join_parts,
    session::{State, Transition, apply, event},
};
use crate::{
    oci::UploadId,
    platform::{Clock, Metrics},
    storage::{Part, Store},
};

/// Sessions, the clock for their expiry, and the store where they join parts.
pub struct MemorySessions<C> {
    clock: C,
    store: Store,
    sessions: RefCell<HashMap<UploadId, Session>>,
    /// Counts what happens to the sessions.
    pub metrics: Metrics,
    /// The number of calls.
    pub calls: Cell<usize>,
    /// Runs at each call, before the command.
    pub on_call: RefCell<Option<Box<dyn Fn()>>>,
}

/// A session's state, and its parts by number.
type Session = (State, BTreeMap<u16, Part>);

impl<C: Clock> MemorySessions<C> {
    /// An empty set of sessions.
    pub fn new(clock: C, store: Store) -> Self {
        Self {
            clock,
            store,
            sessions: RefCell::default(),
            metrics: Metrics::default(),
            calls: Cell::default(),
            on_call: RefCell::default(),
        }
    }

    /// The number of open sessions.
    pub fn open(&self) -> usize {
        self.sessions.borrow().values().filter(|(state, _)| matches!(state, State::Open(_))).count()
    }

    async fn carry_out(&self, id: &UploadId, command: &Command) -> Result<Reply, CallError> {
        self.calls.set(self.calls.get() + 1);
        if let Some(hook) = &*self.on_call.borrow() {
            hook();
        }
        let before = self.sessions.borrow().get(id).cloned();
        let (state, mut parts) = match before.clone() {
            Some((state, parts)) => (Some(state), parts),
            None => (None, BTreeMap::new()),
        };
        let made = apply(state, command, self.clock.now())?;
        let Transition { state, upload, rows, join } = made.clone();
        let before_state = before.as_ref().map(|(state, _)| state);
        if let Some(event) = event(before_state, command, &state) {
            self.metrics.count_upload(event);
        }
        if rows.clear {
            parts.clear();
        }
        parts.extend(rows.insert.into_iter().map(|part| (part.number, part)));
        let listed: Vec<Part> = parts.values().filter(|_| rows.list).cloned().collect();
        self.sessions.borrow_mut().insert(*id, (state, parts));
        if let (true, Command::Commit { digest, .. }) = (join, command) {
            if let Err(JoinError { refused, is_joined }) =
                join_parts(&self.store, id, &upload, digest, listed).await
            {
                if !is_joined
                    && let Some((now, parts)) = self.sessions.borrow_mut().get_mut(id)
                    && let Some(undo) = made.undo(before.map(|(state, _)| state), Some(now))
                {
                    *now = undo.state;
                    undo.remove.iter().for_each(|part| drop(parts.remove(&part.number)));
                }
                return Err(refused.into());
            }
            return Ok(Reply { upload, parts: Vec::new() });
        }
        Ok(Reply { upload, parts: listed })
    }
}

impl<C: Clock> UploadSessions for MemorySessions<C> {
    fn new_id(&self) -> Result<UploadId, CallError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| CallError::Unreachable(error.to_string()))?;
        Ok(UploadId::unique(bytes))
    }

    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: Command,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move { self.carry_out(id, &command).await })
    }
}
