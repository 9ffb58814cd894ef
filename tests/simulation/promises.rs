//! What was promised of blobs: those of an acknowledged manifest stay until they are deleted through the API, and any
//! other one that was pushed stays for the grace time.

use std::collections::BTreeMap;

use crate::{
    clients::{Kind, Operation},
    model::{Outcome, Register},
    universe::UNIVERSE,
};

/// A moment: time stands still during most steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    pub step: u64,
    pub seconds: u64,
}

/// The deletions of a blob through the API.
#[derive(Default)]
struct Deletions {
    /// Those in flight, or without an answer.
    open: u32,
    /// The step at which the last one was over.
    over: u64,
}

/// The blobs that were pushed, and deleted.
#[derive(Default)]
pub struct Promises {
    /// In seconds.
    grace: u64,
    /// When the last push that was acknowledged was sent.
    pushed: BTreeMap<Register, Moment>,
    /// The same, also of manifests that name the blob.
    seen: BTreeMap<Register, Moment>,
    deletions: BTreeMap<Register, Deletions>,
}

impl Promises {
    /// No blobs. What is pushed stays for `grace` seconds.
    pub fn new(grace: u64) -> Self {
        Self { grace, ..Self::default() }
    }

    /// An operation is sent.
    pub fn begin(&mut self, operation: &Operation) {
        if operation.kind == Kind::DeleteBlob {
            self.deletions.entry(blob(operation)).or_default().open += 1;
        }
    }

    /// An operation that was sent at `started` is answered, or never will be.
    pub fn end(&mut self, operation: &Operation, outcome: &Outcome, started: Moment, now: Moment) {
        match (operation.kind, outcome.status()) {
            (Kind::DeleteBlob, Some(..500)) => {
                let deletions = self.deletions.entry(blob(operation)).or_default();
                (deletions.open, deletions.over) = (deletions.open.saturating_sub(1), now.step);
            }
            (_, Some(201)) if operation.pushes_blob() => {
                self.pushed.insert(blob(operation), started);
                self.seen.insert(blob(operation), started);
            }
            (_, Some(201)) if operation.pushes_manifest() => {
                for blob in &UNIVERSE.manifests[operation.manifest].blobs {
                    self.seen.insert(Register::Blob(operation.repository, *blob), started);
                }
            }
            _ => {}
        }
    }

    /// The registry has come to rest: what has no answer takes effect no more.
    pub fn rest(&mut self, now: Moment) {
        for deletions in self.deletions.values_mut().filter(|deletions| deletions.open > 0) {
            *deletions = Deletions { open: 0, over: now.step };
        }
    }

    fn is_deleted_since(&self, register: Register, since: Moment) -> bool {
        let deletions = self.deletions.get(&register);
        deletions.is_some_and(|deletions| deletions.open > 0 || deletions.over >= since.step)
    }

    /// Whether a deletion may be why a blob is gone that a manifest names.
    pub fn may_be_deleted(&self, register: Register) -> bool {
        self.seen.get(&register).is_none_or(|since| self.is_deleted_since(register, *since))
    }

    /// Whether a blob that the repository had at `since` must be there, without a manifest that names it.
    pub fn holds(&self, register: Register, since: Moment, now: u64) -> bool {
        now < since.seconds + self.grace && !self.is_deleted_since(register, since)
    }

    /// The blobs that must be there, whatever the manifests are.
    pub fn kept(&self, now: u64) -> impl Iterator<Item = (usize, usize)> {
        self.pushed.iter().filter_map(move |(register, since)| match register {
            Register::Blob(repository, blob) if self.holds(*register, *since, now) => {
                Some((*repository, *blob))
            }
            _ => None,
        })
    }
}

fn blob(operation: &Operation) -> Register {
    Register::Blob(operation.repository, operation.blob)
}
