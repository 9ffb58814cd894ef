//! In-memory writers for native tests, on the same code as in production.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use futures_util::future::LocalBoxFuture;

use super::{
    Later, Means, Writer,
    journal::MemoryJournal,
    protocol::{Call, CallError, Refused, Reply, Writers},
};
use crate::{
    oci::RepositoryName,
    platform::{Background, Clock, Timestamp},
};

/// What a call makes changes of a repository with.
pub type Open = Rc<dyn Fn(&RepositoryName) -> Means>;

/// The writers of all repositories. A call ends with the last write of its command, so that nothing is left to do after
/// the answer.
pub struct MemoryWriters {
    clock: Rc<dyn Clock>,
    open: Open,
    journals: RefCell<HashMap<RepositoryName, Rc<MemoryJournal>>>,
    writers: RefCell<HashMap<RepositoryName, Rc<Writer>>>,
    /// The number of calls.
    pub calls: Cell<usize>,
}

/// Work after the answer, kept.
#[derive(Default)]
struct Kept(RefCell<Vec<Later>>);

impl Background for Kept {
    fn spawn(&self, work: Later) {
        self.0.borrow_mut().push(work);
    }

    fn spawn_after(&self, _: u32, work: Later) {
        self.spawn(work);
    }
}

impl MemoryWriters {
    /// Writers of the repositories that `open` opens.
    pub fn new(clock: Rc<dyn Clock>, open: Open) -> Self {
        Self {
            clock,
            open,
            journals: RefCell::default(),
            writers: RefCell::default(),
            calls: Cell::default(),
        }
    }

    /// Restarts every writer: what it had in memory is gone.
    pub fn restart(&self) {
        self.writers.borrow_mut().clear();
    }

    /// The number of records in all journals.
    pub fn records(&self) -> usize {
        self.journals.borrow().values().map(|journal| journal.len()).sum()
    }

    /// The bytes that the writer of a repository has counted for its quota.
    pub fn counted(&self, name: &RepositoryName) -> u64 {
        self.journal(name).ledger.bytes()
    }

    /// Runs the alarms that are due.
    pub async fn run_alarms(&self) -> Result<(), Refused> {
        let now = self.clock.now();
        let is_due = |journal: &MemoryJournal| journal.alarm.get().is_some_and(|alarm| alarm <= now);
        let due: Vec<_> = self
            .journals
            .borrow()
            .iter()
            .filter(|(_, journal)| is_due(journal))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.journal(&name).alarm.set(None::<Timestamp>);
            self.writer(&name).settle(&(self.open)(&name)).await??;
        }
        Ok(())
    }

    fn journal(&self, name: &RepositoryName) -> Rc<MemoryJournal> {
        self.journals.borrow_mut().entry(name.clone()).or_default().clone()
    }

    fn writer(&self, name: &RepositoryName) -> Rc<Writer> {
        let journal = self.journal(name);
        let new = || Writer::new(name.clone(), journal, self.clock.clone());
        self.writers.borrow_mut().entry(name.clone()).or_insert_with(new).clone()
    }
}

impl Writers for MemoryWriters {
    fn deployment(&self) -> Result<String, CallError> {
        Ok("memory".to_owned())
    }

    fn call<'a>(
        &'a self,
        repository: &'a RepositoryName,
        call: Call,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move {
            self.calls.set(self.calls.get() + 1);
            let (writer, later) = (self.writer(repository), Kept::default());
            let reply = writer.carry_out(&(self.open)(repository), &later, call).await;
            for work in later.0.take() {
                work.await;
            }
            Ok(reply?)
        })
    }
}
