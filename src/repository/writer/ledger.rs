//! What the manifests of a repository refer to, as its writer counts it for a quota. Empty without one.
//!
//! A digest counts once, with the size of its content in storage. It is counted when a push names it, in the turn of the
//! push, before anything is linked. Nothing is taken off for a deletion: each collection tells the writer what the
//! manifests name that are there, and what was neither named nor pushed since it has begun is forgotten. So there is
//! never less than the pushes have brought since the first one under a quota.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use crate::{oci::Digest, platform::Timestamp};

/// The count of a repository. Nothing else happens while a method runs.
pub trait Ledger {
    /// Notes that those of `digests` that are counted are needed at this time. Returns the others.
    fn keep(&self, digests: &[Digest], at: Timestamp) -> Result<Vec<Digest>, String>;

    /// Counts content of these sizes in bytes, each once, as needed at this time. If the repository would have more than
    /// `limit` bytes, and some of it is new, counts nothing and returns how many it would have.
    fn count(
        &self,
        sizes: &[(Digest, u64)],
        at: Timestamp,
        limit: Option<u64>,
    ) -> Result<Option<u64>, String>;

    /// Notes that a push was finished at this time that was begun long before.
    fn finished_late(&self, at: Timestamp) -> Result<(), String>;

    /// Forgets what was last needed before this time. Not if a push was finished late since: it may have needed that.
    fn forget(&self, before: Timestamp) -> Result<(), String>;
}

/// A ledger in memory.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    counted: RefCell<BTreeMap<Digest, (u64, Timestamp)>>,
    late: Cell<Timestamp>,
}

impl MemoryLedger {
    /// The bytes that are counted.
    pub fn bytes(&self) -> u64 {
        self.counted.borrow().values().map(|(size, _)| size).sum()
    }
}

impl Ledger for MemoryLedger {
    fn keep(&self, digests: &[Digest], at: Timestamp) -> Result<Vec<Digest>, String> {
        let mut counted = self.counted.borrow_mut();
        let mut others = Vec::new();
        for digest in digests {
            match counted.get_mut(digest) {
                Some((_, needed)) => *needed = at.max(*needed),
                None => others.push(digest.clone()),
            }
        }
        Ok(others)
    }

    fn count(
        &self,
        sizes: &[(Digest, u64)],
        at: Timestamp,
        limit: Option<u64>,
    ) -> Result<Option<u64>, String> {
        let bytes = self.bytes();
        let mut counted = self.counted.borrow_mut();
        let new = || sizes.iter().filter(|(digest, _)| !counted.contains_key(digest));
        let needed = bytes + new().map(|(_, size)| size).sum::<u64>();
        if new().next().is_some() && limit.is_some_and(|limit| needed > limit) {
            return Ok(Some(needed));
        }
        for (digest, size) in sizes {
            let (_, needed) = counted.entry(digest.clone()).or_insert((*size, at));
            *needed = at.max(*needed);
        }
        Ok(None)
    }

    fn finished_late(&self, at: Timestamp) -> Result<(), String> {
        self.late.set(at.max(self.late.get()));
        Ok(())
    }

    fn forget(&self, before: Timestamp) -> Result<(), String> {
        if self.late.get() < before {
            self.counted.borrow_mut().retain(|_, (_, needed)| *needed >= before);
        }
        Ok(())
    }
}
