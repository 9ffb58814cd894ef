//! The sums of a deployment, and the batches that isolates send.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Samples, Table};

/// Limit of isolates whose last batch is remembered: enough that one that repeats a batch, a moment later, is among
/// them.
const MAX_SENDERS: usize = 256;

/// What an isolate has counted since its last batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The isolate.
    pub from: Uuid,
    /// Counts its batches. A batch that is repeated has the same number and content.
    pub number: u64,
    /// The series.
    pub samples: Samples,
}

/// The sums of all batches.
#[derive(Debug, Default)]
pub struct Sums {
    /// The series.
    pub table: Table,
    /// The isolates heard of last, and the number of their last batch; the latest at the end.
    senders: Vec<(Uuid, u64)>,
}

/// [`Sums`] as they are stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    samples: Samples,
    #[serde(default)]
    senders: Vec<(Uuid, u64)>,
}

impl Sums {
    /// Reads what [`to_json`](Self::to_json) wrote, perhaps in another version.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let Stored { samples, senders } = serde_json::from_str(text)?;
        let mut table = Table::default();
        table.merge(samples);
        Ok(Self { table, senders })
    }

    /// The sums as JSON: at most about 300 KB.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Stored { samples: self.table.samples(), senders: self.senders.clone() })
    }

    /// Adds a batch; returns whether it is new.
    pub fn add(&mut self, Batch { from, number, samples }: Batch) -> bool {
        let known = self.senders.iter().position(|(sender, _)| *sender == from);
        if let Some((_, last)) = known.and_then(|at| self.senders.get(at))
            && number <= *last
        {
            return false;
        }
        if let Some(at) = known {
            self.senders.remove(at);
        } else if self.senders.len() >= MAX_SENDERS {
            self.senders.remove(0);
        }
        self.senders.push((from, number));
        self.table.merge(samples);
        true
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::{super::*, *};

    fn batch(from: Uuid, number: u64) -> Batch {
        let metrics = Metrics::default();
        metrics.count_job("purge", JobOutcome::Done);
        Batch { from, number, samples: metrics.drain().samples() }
    }

    fn count(sums: &Sums) -> Option<&Value> {
        sums.table.get(Family::Jobs, &["purge", "done"])
    }

    #[test]
    fn a_repeated_batch_is_counted_once_also_after_a_restart() {
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let mut sums = Sums::default();
        assert!(sums.add(batch(one, 1)) && sums.add(batch(one, 2)) && sums.add(batch(other, 1)));
        let mut sums = Sums::from_json(&sums.to_json().unwrap()).unwrap();
        assert!(!sums.add(batch(one, 2)) && !sums.add(batch(one, 1)) && !sums.add(batch(other, 1)));
        assert_eq!(count(&sums), Some(&Value::Counter(3)));
        assert!(sums.add(batch(other, 2)));
        assert_eq!(count(&sums), Some(&Value::Counter(4)));
    }

    #[test]
    fn the_isolates_that_are_remembered_are_bounded() {
        let mut sums = Sums::default();
        let first = Uuid::new_v4();
        for number in 1..=1_000 {
            assert!(sums.add(batch(Uuid::new_v4(), 1)) && sums.add(batch(first, number)));
        }
        assert!(sums.senders.len() == MAX_SENDERS && !sums.add(batch(first, 1_000)));
    }
}
