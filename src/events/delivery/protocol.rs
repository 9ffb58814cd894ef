//! The protocol between the registry and the lane of an endpoint.
//!
//! During a deployment, a worker of one version calls a lane of another: as in [`crate::events::Event`], messages only
//! grow.

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    events::Event,
    platform::{Metrics, Timestamp, metrics::EventOutcome},
};

/// What a lane is asked. Every command can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Deliver these events. The answer comes when they are stored.
    Take {
        /// The events. One that waits already is not added again.
        events: Vec<Event>,
    },
    /// Answer with [`Reply::Status`].
    Status,
    /// Answer with [`Reply::Letters`]: the oldest dead letters first.
    Dead {
        /// Start after this letter.
        #[serde(default)]
        after: Option<String>,
        /// At most this many; at most [`super::keeper::PAGE`].
        limit: usize,
    },
    /// Answer with [`Reply::Letters`]: one dead letter, or none.
    ReadDead {
        /// Its id.
        id: String,
    },
    /// Deliver dead letters after all, as if they were taken now. Answers with [`Reply::Moved`].
    Replay {
        /// One letter; without it, up to [`super::dead::MOVES`].
        #[serde(default)]
        id: Option<String>,
    },
    /// Forget dead letters. Answers with [`Reply::Moved`].
    Drop {
        /// One letter; without it, up to [`super::dead::MOVES`].
        #[serde(default)]
        id: Option<String>,
    },
}

/// The answer of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The events are stored.
    Taken,
    /// See [`Command::Status`].
    Status(Status),
    /// Dead letters.
    Letters {
        /// The letters.
        letters: Vec<DeadLetter>,
        /// Whether there are more.
        #[serde(default)]
        has_more: bool,
    },
    /// Dead letters that were replayed or dropped.
    Moved {
        /// How many.
        moved: u64,
        /// How many are left.
        left: u64,
        /// Whether no more wait again because the lane has no room.
        #[serde(default)]
        is_full: bool,
    },
}

/// How a lane is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Events that wait.
    pub pending: u64,
    /// Their length, in bytes.
    pub pending_bytes: u64,
    /// Events that were delivered, ever.
    pub delivered: u64,
    /// Requests that failed, ever.
    pub failed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that were dropped to make room, ever.
    pub dropped: u64,
    /// The endpoint counts as down since then.
    pub down_since: Option<Timestamp>,
    /// The last failure.
    pub last_error: Option<String>,
    /// When something is tried next.
    pub next_attempt: Option<Timestamp>,
}

impl Status {
    /// Whether the lane never had an event.
    pub fn is_unused(&self) -> bool {
        let Self { pending, delivered, failed, dead, dropped, .. } = *self;
        pending + delivered + failed + dead + dropped == 0
    }

    /// Counts what a lane has done since `before`. A lane that only had questions is not counted: anybody who may
    /// administer could fill the metrics with names.
    pub fn count(&self, before: &Self, metrics: &Metrics, endpoint: &str, is_configured: bool) {
        if !is_configured && self.is_unused() {
            return;
        }
        let sum = |status: &Self| status.pending + status.delivered + status.dead + status.dropped;
        for (outcome, now, before) in [
            (EventOutcome::Accepted, sum(self), sum(before)),
            (EventOutcome::Delivered, self.delivered, before.delivered),
            (EventOutcome::Failed, self.failed, before.failed),
            (EventOutcome::Dead, self.dead, before.dead),
            (EventOutcome::Dropped, self.dropped, before.dropped),
        ] {
            metrics.count_event(endpoint, outcome, now.saturating_sub(before));
        }
        metrics.set_pending(endpoint, self.pending);
    }
}

/// An event that could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its id: not that of the event, which may die again after a replay.
    pub id: String,
    /// When it was given up.
    pub died: Timestamp,
    /// When the lane took it.
    pub taken: Timestamp,
    /// Requests that it was part of.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
    /// The event.
    pub event: Event,
}

/// The client of lanes, one for each endpoint.
pub trait Lanes {
    /// Sends a command to the lane of the endpoint with this name. An error means that it may have been carried out, and
    /// should be repeated.
    fn call<'a>(&'a self, endpoint: &'a str, command: Command) -> LocalBoxFuture<'a, Result<Reply, String>>;
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::platform::metrics::{Family, Value};

    #[test]
    fn a_lane_is_counted_if_it_is_configured_or_has_had_events() {
        let counted = |now: &Status, is_configured| {
            let metrics = Metrics::default();
            now.count(&Status::default(), &metrics, "ci", is_configured);
            let table = metrics.drain();
            let delivered = table.get(Family::Events, &["ci", "delivered"]).cloned();
            (delivered, table.get(Family::EventsPending, &["ci"]).cloned())
        };
        let used = Status { delivered: 2, ..Status::default() };
        assert_eq!(counted(&Status::default(), false), (None, None));
        assert_eq!(counted(&Status::default(), true), (None, Some(Value::Gauge(0))));
        assert_eq!(counted(&used, false), (Some(Value::Counter(2)), Some(Value::Gauge(0))));
    }
}
