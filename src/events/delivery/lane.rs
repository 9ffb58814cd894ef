//! The order in which the events of one endpoint are delivered, and when: a pure state machine over what a lane has to
//! remember of its events. Their content stays in storage.
//!
//! One request is under way at a time. Rules:
//!
//! - Events wait in the order of [`Event::order`](crate::events::Event::order), and of their ids.
//! - Up to [`BATCH`] events are sent together. Of a request that fails each event is then sent alone.
//! - An event that fails alone waits, each time twice as long, and the later events of its repository wait behind it.
//! - From a number of failures in a row on the endpoint counts as down: all events wait, each time twice as long, and
//!   one is tried at a time, first those that were tried least. A success ends this, and all waits.
//! - An event that the endpoint refuses [`MAX_REFUSALS`] times alone is dead. So is one that reaches the age to give up.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::endpoint::{Form, Retries};
use crate::{oci::RepositoryName, platform::Timestamp};

/// The most events of a request.
pub const BATCH: usize = 32;

/// The most bytes of the events of a request with more than one.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Refusals of an event that was sent alone, after which it is dead.
pub const MAX_REFUSALS: u32 = 5;

/// The most events that wait. Further ones are dead at once.
pub const MAX_PENDING: usize = 100_000;

/// The most bytes of events that wait. Further ones are dead at once.
pub const MAX_PENDING_BYTES: usize = 64 * 1024 * 1024;

/// The longest error that is kept, in characters.
const MAX_ERROR: usize = 200;

/// The place of an event among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The event's order.
    pub order: u64,
    /// The event's id.
    pub id: Uuid,
}

/// What a lane remembers of an event that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The event's repository.
    pub repository: RepositoryName,
    /// When the lane took it.
    pub taken: Timestamp,
    /// Requests that it was part of.
    #[serde(default)]
    pub attempts: u32,
    /// Failures of the event alone, refusals included.
    #[serde(default)]
    pub failures: u32,
    /// Refusals of the event alone.
    #[serde(default)]
    pub refusals: u32,
    /// The event is sent alone.
    #[serde(default)]
    pub is_alone: bool,
    /// When it last failed alone.
    #[serde(default)]
    pub failed: Timestamp,
    /// How long it waits after that, in milliseconds.
    #[serde(default)]
    pub wait: u64,
    /// The length of the event, in bytes.
    #[serde(default)]
    pub bytes: usize,
}

/// What a lane remembers besides its events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The name of the endpoint; empty before the first event.
    pub name: String,
    /// Events delivered.
    pub delivered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Failures since the last success.
    pub in_row: u32,
    /// Nothing is sent until then.
    pub waits_until: Timestamp,
    /// The endpoint counts as down since then.
    pub down_since: Option<Timestamp>,
    /// When the endpoint last came back. Waits from before are over.
    pub recovered: Timestamp,
    /// The last failure.
    pub last_error: Option<String>,
    /// Dead letters.
    pub dead: u64,
    /// The length of all dead letters, in bytes.
    pub dead_bytes: u64,
    /// Dead letters that were dropped to make room.
    pub dropped: u64,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint has the events.
    Delivered,
    /// It does not want this content: 400, 413, 415 or 422.
    Refused(String),
    /// It asks for fewer requests: 429, or 503 with `Retry-After`.
    Throttled {
        /// `Retry-After`, in milliseconds; 0 without one.
        after: u64,
        /// The failure.
        error: String,
    },
    /// Anything else.
    Failed(String),
}

/// What becomes of an event after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is delivered.
    Delivered,
    /// It waits.
    Waits(Entry),
    /// It is dead.
    Dead(Entry),
}

/// Whether a lane takes an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It waits now.
    New,
    /// It waits already.
    Known,
    /// There is no room.
    Full,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send these events in one request.
    Send(Vec<Key>),
    /// Wait until then.
    Wait(Timestamp),
    /// Nothing waits.
    Idle,
}

/// The state machine.
#[derive(Debug, Clone, Default)]
pub struct Lane {
    state: State,
    pending: BTreeMap<Key, Entry>,
    bytes: usize,
    /// No event was taken earlier.
    oldest: Timestamp,
}

impl Lane {
    /// A lane as it was stored, without its events.
    pub fn new(state: State) -> Self {
        Self { state, oldest: Timestamp(u64::MAX), ..Self::default() }
    }

    /// Adds an event, as it was stored.
    pub fn restore(&mut self, key: Key, entry: Entry) {
        self.bytes += entry.bytes;
        self.oldest = self.oldest.min(entry.taken);
        if let Some(old) = self.pending.insert(key, entry) {
            self.bytes -= old.bytes;
        }
    }

    /// What to store besides the events.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Notes the name of the endpoint.
    pub fn set_name(&mut self, name: &str) {
        if self.state.name != name {
            name.clone_into(&mut self.state.name);
        }
    }

    /// Counts dead letters that are added or removed.
    pub fn count_dead(&mut self, added: u64, removed: u64, bytes_added: u64, bytes_removed: u64) {
        let State { dead, dead_bytes, .. } = &mut self.state;
        *dead = (*dead + added).saturating_sub(removed);
        *dead_bytes = (*dead_bytes + bytes_added).saturating_sub(bytes_removed);
    }

    /// Counts dead letters that were dropped to make room.
    pub fn count_dropped(&mut self, dropped: u64) {
        self.state.dropped += dropped;
    }

    /// The events that wait, and their length in bytes.
    pub fn pending(&self) -> (usize, usize) {
        (self.pending.len(), self.bytes)
    }

    /// An event that waits.
    pub fn entry(&self, key: &Key) -> Option<&Entry> {
        self.pending.get(key)
    }

    /// Takes an event.
    pub fn take(&mut self, key: Key, repository: RepositoryName, bytes: usize, now: Timestamp) -> Taken {
        if self.pending.contains_key(&key) {
            return Taken::Known;
        }
        if self.pending.len() >= MAX_PENDING || self.bytes + bytes > MAX_PENDING_BYTES {
            return Taken::Full;
        }
        let (failed, wait, attempts, failures, refusals, is_alone) = Default::default();
        let entry =
            Entry { repository, taken: now, attempts, failures, refusals, is_alone, failed, wait, bytes };
        self.restore(key, entry);
        Taken::New
    }

    /// Up to `limit` events that must be given up: those that were taken up to then.
    pub fn overdue(&mut self, taken: Timestamp, limit: usize) -> Vec<Key> {
        if self.oldest > taken {
            return Vec::new();
        }
        let is_old = |entry: &Entry| entry.taken <= taken;
        let keys: Vec<Key> =
            self.pending.iter().filter(|(_, entry)| is_old(entry)).map(|(key, _)| *key).take(limit).collect();
        if keys.is_empty() {
            let oldest = self.pending.values().map(|entry| entry.taken).min();
            self.oldest = oldest.unwrap_or(Timestamp(u64::MAX));
        }
        keys
    }

    /// Removes events that are given up.
    pub fn give_up(&mut self, keys: &[Key]) -> Vec<(Key, Entry)> {
        keys.iter().filter_map(|key| Some((*key, self.remove(key)?))).collect()
    }

    /// No event is older than `age`, in milliseconds, before this time; `None` if none waits.
    pub fn gives_up(&self, age: u64) -> Option<Timestamp> {
        (!self.pending.is_empty()).then(|| Timestamp(self.oldest.0.saturating_add(age)))
    }

    /// What to do at a time.
    pub fn next(&self, now: Timestamp, form: Form) -> Next {
        if self.pending.is_empty() {
            return Next::Idle;
        }
        if self.state.waits_until > now {
            return Next::Wait(self.state.waits_until);
        }
        let is_down = self.state.down_since.is_some();
        let mut batch = Vec::new();
        let mut bytes = 0;
        // Repositories with an event that comes before their later ones.
        let mut held = HashSet::new();
        let mut wait = Timestamp(u64::MAX);
        let mut least_tried: Option<(u32, Key)> = None;
        for (key, entry) in &self.pending {
            if !held.is_empty() && held.contains(&entry.repository) {
                continue;
            }
            let due = self.due(entry);
            if due > now {
                held.insert(&entry.repository);
                wait = wait.min(due);
            } else if is_down {
                held.insert(&entry.repository);
                if least_tried.is_none_or(|(attempts, _)| entry.attempts < attempts) {
                    least_tried = Some((entry.attempts, *key));
                }
                if entry.attempts == 0 {
                    break;
                }
            } else if form == Form::CloudEvents || entry.is_alone {
                if batch.is_empty() {
                    return Next::Send(vec![*key]);
                }
                held.insert(&entry.repository);
            } else {
                bytes += entry.bytes;
                if !batch.is_empty() && bytes > BATCH_BYTES {
                    break;
                }
                batch.push(*key);
                if batch.len() == BATCH {
                    break;
                }
            }
        }
        batch.extend(least_tried.map(|(_, key)| key));
        match batch.is_empty() {
            true => Next::Wait(wait),
            false => Next::Send(batch),
        }
    }

    /// Notes the result of a request. `random` spreads the waits.
    pub fn finish(
        &mut self,
        sent: &[Key],
        outcome: &Outcome,
        now: Timestamp,
        retries: &Retries,
        random: u64,
    ) -> Vec<(Key, Fate)> {
        let is_alone = sent.len() == 1;
        let was_down = self.state.down_since.is_some();
        let wait = |times: u32| backoff(retries, times, random);
        match outcome {
            Outcome::Delivered => {
                self.state.in_row = 0;
                self.state.waits_until = Timestamp::default();
                if was_down {
                    self.state.down_since = None;
                    self.state.recovered = now;
                }
            }
            Outcome::Refused(error) | Outcome::Failed(error) | Outcome::Throttled { error, .. } => {
                self.state.failed += 1;
                self.state.last_error = Some(error.chars().take(MAX_ERROR).collect());
            }
        }
        let in_row = self.state.in_row.saturating_add(1);
        let waits = match outcome {
            Outcome::Delivered => 0,
            // The endpoint is there: it is this event that fails.
            Outcome::Refused(_) if !was_down => 0,
            Outcome::Refused(_) => wait(in_row.saturating_sub(retries.threshold)),
            Outcome::Throttled { after, .. } => wait(in_row).max((*after).min(retries.max_backoff)),
            Outcome::Failed(_) if in_row < retries.threshold => 0,
            Outcome::Failed(_) => wait(in_row - retries.threshold + 1),
        };
        if matches!(outcome, Outcome::Failed(_) | Outcome::Throttled { .. }) {
            self.state.in_row = in_row;
            if in_row >= retries.threshold {
                self.state.down_since.get_or_insert(now);
            }
        }
        if waits > 0 {
            self.state.waits_until = Timestamp(now.0.saturating_add(waits));
        }
        let mut fates = Vec::new();
        for key in sent {
            if *outcome == Outcome::Delivered {
                if self.remove(key).is_some() {
                    self.state.delivered += 1;
                    fates.push((*key, Fate::Delivered));
                }
                continue;
            }
            let Some(entry) = self.pending.get_mut(key) else { continue };
            entry.attempts = entry.attempts.saturating_add(1);
            match outcome {
                Outcome::Throttled { .. } => {}
                _ if !is_alone => entry.is_alone = true,
                _ => {
                    entry.refusals += u32::from(matches!(outcome, Outcome::Refused(_)));
                    entry.failures = entry.failures.saturating_add(1);
                    (entry.failed, entry.wait) = (now, wait(entry.failures));
                }
            }
            let entry = entry.clone();
            if entry.refusals >= MAX_REFUSALS {
                self.remove(key);
                fates.push((*key, Fate::Dead(entry)));
            } else {
                fates.push((*key, Fate::Waits(entry)));
            }
        }
        fates
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.pending.remove(key)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    fn due(&self, entry: &Entry) -> Timestamp {
        match entry.failed < self.state.recovered {
            true => Timestamp::default(),
            false => Timestamp(entry.failed.0.saturating_add(entry.wait)),
        }
    }
}

/// The wait after a number of failures: between half and all of the backoff, so that lanes do not knock together.
fn backoff(retries: &Retries, times: u32, random: u64) -> u64 {
    let factor = 1_u64.checked_shl(times.saturating_sub(1)).unwrap_or(u64::MAX);
    let longest = retries.backoff.saturating_mul(factor).min(retries.max_backoff);
    longest - random % (longest / 2 + 1)
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;
