//! The order of a repository's changes as a pure state machine: which change may begin, which must be finished, and
//! what has been removed lately.
//!
//! A change claims what it names: a manifest to be there or not, tags to point to it or to nothing, blobs to be there
//! or not. Changes whose claims agree are carried out at the same time: their writes are the same. Others wait in
//! line.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::protocol::{Intent, Phase, Record};
use crate::{
    blobs::{LINKED, marker},
    events::Origin,
    oci::{Digest, RepositoryName, Tag},
    platform::Timestamp,
    storage::LONG_PATIENCE,
};

/// How long the keys that a call without an answer names take no other value, in seconds.
pub use crate::storage::SETTLE;

/// How long a removed link is remembered, in seconds: longer than any push takes from the look-up of its blobs to its
/// turn.
pub const REMEMBER: u64 = 300;

// From the look-up of a blob, which an isolate may rely on for a while: the manifest's content is held and stored, the writer
// is called, and the push has its turn.
const _: () = assert!(LINKED + marker::PATIENCE + 3 * LONG_PATIENCE + super::PATIENCE < REMEMBER * 1000);

/// Time until an unfinished change is tried again, in seconds; doubled by each failure.
const RETRY: u64 = 1;

/// The longest such time, in seconds.
const MAX_RETRY: u64 = 60;

/// Time until the alarm of a change that is being carried out, in seconds.
const RUNNING: u64 = 3;

/// What a change claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Claims {
    /// A manifest, and whether it shall be there.
    manifest: Option<(Digest, bool)>,
    tags: Vec<Tag>,
    /// The manifest that the tags shall name.
    target: Option<Digest>,
    /// Blobs, and manifests of an index, that shall be there.
    needs: Vec<Digest>,
    /// Whether they are not known: it has begun before a restart.
    has_unknown_needs: bool,
    /// Blobs, or an unused manifest, that shall not be there.
    removes: Vec<Digest>,
    /// Whether they are removed because no manifest needs them.
    collects: bool,
    /// Whether the repository shall have no manifests.
    closes: bool,
    /// A manifest that some signatures shall not be linked to.
    unsigns: Option<Digest>,
}

impl Claims {
    fn of(intent: &Intent, needs: &[Digest]) -> Self {
        match intent {
            Intent::Push { entry, tags } => Self {
                manifest: Some((entry.digest.clone(), true)),
                tags: tags.clone(),
                target: Some(entry.digest.clone()),
                needs: needs.to_vec(),
                ..Self::default()
            },
            Intent::Index { entry, tags } => Self {
                manifest: Some((entry.digest.clone(), true)),
                tags: tags.clone(),
                target: Some(entry.digest.clone()),
                ..Self::default()
            },
            Intent::DeleteManifest { digest, tags, is_unused, .. } => Self {
                manifest: Some((digest.clone(), false)),
                tags: tags.clone(),
                removes: is_unused.then(|| digest.clone()).into_iter().collect(),
                collects: *is_unused,
                ..Self::default()
            },
            Intent::DeleteTag { tag } => Self { tags: vec![tag.clone()], ..Self::default() },
            Intent::DeleteBlob { digest } => Self { removes: vec![digest.clone()], ..Self::default() },
            Intent::CollectBlobs { digests } => {
                Self { removes: digests.clone(), collects: true, ..Self::default() }
            }
            Intent::CollectSignatures { manifest, .. } => {
                Self { unsigns: Some(manifest.clone()), ..Self::default() }
            }
            Intent::Close { .. } | Intent::Clear | Intent::Reopen { .. } => {
                Self { closes: true, ..Self::default() }
            }
        }
    }

    /// Whether one of them deletes a manifest, and finds its tags by an index that the other is taking away. Then the
    /// other must be made first, although they agree.
    fn hides_tags_from(&self, other: &Self) -> bool {
        let deletes = |claims: &Self| claims.manifest.as_ref().filter(|(_, is_there)| !is_there).cloned();
        let untags = |claims: &Self| claims.manifest.is_none() && !claims.tags.is_empty();
        match (deletes(self), deletes(other)) {
            (Some(digest), Some(same)) => digest == same,
            (Some(_), None) => untags(other),
            (None, Some(_)) => untags(self),
            (None, None) => false,
        }
    }

    fn contradict(&self, other: &Self) -> bool {
        let manifests = || match (&self.manifest, &other.manifest) {
            (Some((a, is_there)), Some((b, stays))) => a == b && is_there != stays,
            _ => false,
        };
        let tags = || self.target != other.target && self.tags.iter().any(|tag| other.tags.contains(tag));
        let removes = |a: &Self, b: &Self| a.removes.iter().any(|blob| b.needs.contains(blob));
        let unknown = |a: &Self, b: &Self| a.collects && b.has_unknown_needs;
        // Uploads do not wait for their turn: a second deletion would remove what was uploaded after the first.
        let twice = || self.removes.iter().any(|blob| other.removes.contains(blob));
        // A push of the manifest may write these links.
        let signs = |a: &Self, b: &Self| match (&a.unsigns, &b.manifest) {
            (Some(a), Some((b, true))) => a == b,
            _ => false,
        };
        let adds = |claims: &Self| claims.manifest.as_ref().is_some_and(|(_, is_there)| *is_there);
        manifests()
            || (self.closes && adds(other))
            || (other.closes && adds(self))
            || signs(self, other)
            || signs(other, self)
            || twice()
            || tags()
            || removes(self, other)
            || removes(other, self)
            || unknown(self, other)
            || unknown(other, self)
    }
}

/// A change that has begun.
#[derive(Debug)]
struct Change {
    record: Record,
    claims: Claims,
    /// Whether the journal has the intent as it is here.
    is_stored: bool,
    is_running: bool,
    /// Calls whose answers were lost may land until then.
    unsettled: Timestamp,
    /// When to go on with it, unless it is running.
    due: Timestamp,
    failures: u32,
}

impl Change {
    fn is_finished(&self) -> bool {
        matches!(self.record.phase, Phase::Finished(_)) && !self.is_running
    }

    /// Whether it has closed the repository: it is remembered until that is reopened.
    fn has_closed(&self) -> bool {
        matches!(self.record.intent, Intent::Close { .. }) && self.is_finished()
    }

    /// Whether it is remembered when it is finished. A push looks for its blobs and its manifest before its turn, and
    /// not for tags.
    fn is_remembered(&self) -> bool {
        matches!(
            self.record.intent,
            Intent::DeleteManifest { .. }
                | Intent::DeleteBlob { .. }
                | Intent::CollectBlobs { .. }
                | Intent::Close { .. }
        )
    }
}

/// Why a change must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Another change is being carried out, or is first in line.
    ForOthers,
    /// A change must be finished first, which goes on then.
    Until(Timestamp),
}

/// The end of an attempt to carry out a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Whether every write is made.
    pub is_made: bool,
    /// Whether the answer to a write was lost.
    pub is_unsettled: bool,
    /// Whether it has ended because it was long enough: the next one follows soon.
    pub goes_on: bool,
}

/// The changes of a repository.
#[derive(Debug, Default)]
pub struct Order {
    changes: BTreeMap<u64, Change>,
    line: Vec<(u64, Claims)>,
    last: u64,
    tickets: u64,
}

impl Order {
    /// The order after a restart. What was open may have calls under way.
    pub fn load(records: Vec<(u64, Record)>, now: Timestamp) -> Self {
        let mut order = Self::default();
        for (number, record) in records {
            let (due, unsettled) = match record.phase {
                Phase::Open => (now, now.plus_seconds(SETTLE)),
                Phase::Resting(until) | Phase::Finished(until) => (until, until),
            };
            let has_unknown_needs = matches!(record.intent, Intent::Push { .. });
            let claims = Claims { has_unknown_needs, ..Claims::of(&record.intent, &[]) };
            let change =
                Change { record, claims, is_stored: true, is_running: false, unsettled, due, failures: 0 };
            order.last = order.last.max(number);
            order.changes.insert(number, change);
        }
        order
    }

    /// A place in the line.
    pub fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Begins a change, unless it must wait: then it keeps its place in the line. Returns its number: numbers grow,
    /// also over restarts, as far as the clock does.
    pub fn begin(
        &mut self,
        ticket: u64,
        repository: &RepositoryName,
        intent: &Intent,
        needs: &[Digest],
        origin: Option<&Origin>,
        now: Timestamp,
    ) -> Result<u64, Wait> {
        let claims = Claims::of(intent, needs);
        if !self.line.iter().any(|(other, _)| *other == ticket) {
            self.line.push((ticket, claims.clone()));
        }
        let ahead = self.line.iter().take_while(|(other, _)| *other != ticket);
        if ahead.into_iter().any(|(_, other)| other.contradict(&claims) || other.hides_tags_from(&claims)) {
            return Err(Wait::ForOthers);
        }
        self.free(&claims, None)?;
        self.leave(ticket);
        self.last = (self.last + 1).max(now.0 * 1000);
        let (repository, intent, origin) = (repository.clone(), intent.clone(), origin.cloned());
        let record = Record { repository, intent, phase: Phase::Open, origin };
        let change = Change {
            record,
            claims,
            is_stored: false,
            is_running: true,
            unsettled: Timestamp::default(),
            due: now,
            failures: 0,
        };
        self.changes.insert(self.last, change);
        Ok(self.last)
    }

    /// Gives up a place in the line; `false` if the change has begun.
    pub fn leave(&mut self, ticket: u64) -> bool {
        let before = self.line.len();
        self.line.retain(|(other, _)| *other != ticket);
        self.line.len() < before
    }

    fn free(&self, claims: &Claims, own: Option<u64>) -> Result<(), Wait> {
        let is_other = |number: u64| own.is_none_or(|own| number != own);
        let hides_tags = |change: &Change| {
            own.is_none() && change.record.phase == Phase::Open && change.claims.hides_tags_from(claims)
        };
        let others = self.changes.iter().filter(|(number, change)| {
            is_other(**number)
                && !change.is_finished()
                && (change.claims.contradict(claims) || hides_tags(change))
        });
        let mut until = None;
        for (_, change) in others {
            if change.is_running {
                return Err(Wait::ForOthers);
            }
            until = until.max(Some(change.due));
        }
        until.map_or(Ok(()), |until| Err(Wait::Until(until)))
    }

    /// Claims the tags that a deletion is about to delete, beside the manifest that it has claimed. It does not stand
    /// in line: who waits there may wait for it.
    pub fn claim_tags(&mut self, number: u64, tags: &[Tag]) -> Result<(), Wait> {
        let wanted = Claims { tags: tags.to_vec(), ..Claims::default() };
        self.free(&wanted, Some(number))?;
        if let Some(change) = self.changes.get_mut(&number) {
            change.claims.tags = tags.to_vec();
        }
        Ok(())
    }

    /// Notes how far a running change has come.
    pub fn advance(&mut self, number: u64, intent: Intent) {
        if let Some(change) = self.changes.get_mut(&number) {
            change.claims = Claims::of(&intent, &change.claims.needs);
            change.record.intent = intent;
            change.is_stored = false;
        }
    }

    /// The journal has the record of a change.
    pub fn stored(&mut self, number: u64) {
        if let Some(change) = self.changes.get_mut(&number) {
            change.is_stored = true;
        }
    }

    /// Whether the journal has the intent of a change as it is here: it must, before anything is written.
    pub fn is_stored(&self, number: u64) -> bool {
        self.changes.get(&number).is_none_or(|change| change.is_stored)
    }

    /// The events of a change are sent.
    pub fn told(&mut self, number: u64) {
        if let Some(change) = self.changes.get_mut(&number) {
            change.record.origin = None;
        }
    }

    /// The record of a change to store; `None` if there is nothing to keep.
    pub fn record(&self, number: u64) -> Option<Record> {
        let change = self.changes.get(&number)?;
        let is_kept = !matches!(change.record.phase, Phase::Finished(_)) || change.is_remembered();
        is_kept.then(|| change.record.clone())
    }

    /// Forgets a change that has written nothing.
    pub fn withdraw(&mut self, number: u64) {
        self.changes.remove(&number);
    }

    /// Ends an attempt. The change keeps its claims until its record is stored: see [`release`](Self::release).
    pub fn end(&mut self, number: u64, attempt: Attempt, now: Timestamp) {
        let Some(change) = self.changes.get_mut(&number) else { return };
        if attempt.is_unsettled {
            change.unsettled = now.plus_seconds(SETTLE);
        }
        change.record.phase = if !attempt.is_made {
            if attempt.goes_on {
                change.failures = 0;
            }
            let wait = RETRY.saturating_mul(1 << change.failures.min(10)).min(MAX_RETRY);
            (change.due, change.failures) =
                (now.plus_seconds(wait), change.failures + u32::from(!attempt.goes_on));
            Phase::Open
        } else if change.unsettled > now {
            change.due = change.unsettled;
            Phase::Resting(change.due)
        } else {
            change.due = now.plus_seconds(REMEMBER);
            Phase::Finished(change.due)
        };
    }

    /// The record of an ended change is stored.
    pub fn release(&mut self, number: u64) {
        let Some(change) = self.changes.get_mut(&number) else { return };
        change.is_running = false;
        if change.is_finished() && !change.is_remembered() {
            self.changes.remove(&number);
        }
    }

    /// A change has stopped anywhere: it must be made once more.
    pub fn interrupt(&mut self, number: u64, now: Timestamp) {
        self.end(number, Attempt { is_made: false, is_unsettled: true, goes_on: false }, now);
        if let Some(change) = self.changes.get_mut(&number) {
            change.is_running = false;
        }
    }

    /// Whether the link of this manifest or blob was removed lately: who looked before must look again.
    pub fn has_removed(&self, digest: &Digest) -> bool {
        self.changes.values().any(|change| match &change.record.intent {
            Intent::DeleteManifest { digest: removed, .. } | Intent::DeleteBlob { digest: removed } => {
                removed == digest
            }
            Intent::CollectBlobs { digests } => digests.contains(digest),
            _ => false,
        })
    }

    /// Whether this manifest was deleted lately because nothing needed it.
    pub fn has_dropped(&self, digest: &Digest) -> bool {
        self.changes.values().any(|change| {
            matches!(&change.record.intent, Intent::DeleteManifest { digest: dropped, is_unused: true, .. } if dropped == digest)
        })
    }

    /// Whether the same deletion has begun before and may have made the change: it is not absent to the client that
    /// repeats it.
    pub fn has_begun(&self, number: u64, intent: &Intent) -> bool {
        let is_same = |other: &Intent| match (intent, other) {
            (Intent::DeleteManifest { digest, .. }, Intent::DeleteManifest { digest: other, .. }) => {
                digest == other
            }
            // A push or an index entry does not become possible by another one.
            (Intent::Push { .. } | Intent::Index { .. }, _) => false,
            _ => intent == other,
        };
        self.changes.iter().any(|(other, change)| {
            *other != number && !change.is_finished() && is_same(&change.record.intent)
        })
    }

    /// Begins an attempt to finish the next change that is due, if there is one. One that has rested is open again: a
    /// restart during the attempt must find it so.
    pub fn resume(&mut self, now: Timestamp) -> Option<u64> {
        let is_due = |change: &Change| !change.is_running && !change.is_finished() && change.due <= now;
        let (number, change) = self.changes.iter_mut().find(|(_, change)| is_due(change))?;
        change.is_running = true;
        if let Phase::Resting(_) = change.record.phase {
            (change.record.phase, change.is_stored) = (Phase::Open, false);
        }
        Some(*number)
    }

    /// The numbers of the changes that were finished long ago.
    pub fn old(&self, now: Timestamp) -> Vec<u64> {
        let is_old = |change: &Change| change.is_finished() && !change.has_closed() && change.due <= now;
        self.changes.iter().filter(|(_, change)| is_old(change)).map(|(number, _)| *number).collect()
    }

    /// The removal that has closed the repository; `None` if it is open.
    pub fn closed_by(&self) -> Option<Uuid> {
        let closed = self.changes.values().rev().find(|change| change.has_closed())?;
        match closed.record.intent {
            Intent::Close { removal } => Some(removal),
            _ => None,
        }
    }

    /// The numbers of the changes that have closed the repository.
    pub fn closings(&self) -> Vec<u64> {
        self.changes.iter().filter(|(_, change)| change.has_closed()).map(|(number, _)| *number).collect()
    }

    /// Forgets changes whose records are removed.
    pub fn forget(&mut self, numbers: &[u64]) {
        self.changes.retain(|number, _| !numbers.contains(number));
    }

    /// When the first of the pushes was begun that are not finished.
    pub fn oldest_push(&self) -> Option<Timestamp> {
        let is_open =
            |change: &Change| matches!(change.record.intent, Intent::Push { .. }) && !change.is_finished();
        let (number, _) = self.changes.iter().find(|(_, change)| is_open(change))?;
        Some(Self::begun(*number))
    }

    /// When a change was begun: its number tells.
    pub fn begun(number: u64) -> Timestamp {
        Timestamp(number / 1000)
    }

    /// When the alarm shall run next. A running change has one too: its object may be gone before it ends.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let running = now.plus_seconds(RUNNING);
        let open = self.changes.values().filter(|change| !change.has_closed());
        open.map(|change| if change.is_running { running } else { change.due }).min()
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;
