//! A table of series: what an isolate has counted, or the sums of a deployment.

use std::borrow::Cow;

use super::{BUCKETS, Family, Kind, Labels, UploadEvent};

/// Limit of series in a table. The code's own labels make some hundreds; the rest is for endpoints of events.
const MAX_SERIES: usize = 2_000;

/// The value of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A sum.
    Counter(u64),
    /// The last value.
    Gauge(u64),
    /// Observations.
    Histogram {
        /// Their number in each bucket of [`BUCKETS`], and above.
        buckets: Vec<u64>,
        /// Their sum, in milliseconds.
        sum: u64,
    },
}

impl Value {
    /// A histogram of one observation.
    pub(super) fn observation(milliseconds: u64) -> Self {
        let at = BUCKETS.iter().take_while(|bound| **bound < milliseconds).count();
        let buckets = (0..=BUCKETS.len()).map(|bucket| u64::from(bucket == at)).collect();
        Self::Histogram { buckets, sum: milliseconds }
    }

    /// The value that these numbers are of a metric of this kind: see [`Samples`].
    fn from_numbers(kind: Kind, mut numbers: Vec<u64>) -> Option<Self> {
        let last = numbers.pop()?;
        match kind {
            Kind::Counter if numbers.is_empty() => Some(Self::Counter(last)),
            Kind::Gauge if numbers.is_empty() => Some(Self::Gauge(last)),
            Kind::Histogram if numbers.len() == BUCKETS.len() + 1 => {
                Some(Self::Histogram { buckets: numbers, sum: last })
            }
            _ => None,
        }
    }

    fn numbers(&self) -> Vec<u64> {
        match self {
            Self::Counter(n) | Self::Gauge(n) => vec![*n],
            Self::Histogram { buckets, sum } => buckets.iter().copied().chain([*sum]).collect(),
        }
    }

    fn merge(&mut self, newer: Self) {
        match (self, newer) {
            (Self::Counter(sum), Self::Counter(n)) => *sum = sum.saturating_add(n),
            (Self::Histogram { buckets, sum }, Self::Histogram { buckets: more, sum: n }) => {
                for (bucket, n) in buckets.iter_mut().zip(more) {
                    *bucket = bucket.saturating_add(n);
                }
                *sum = sum.saturating_add(n);
            }
            (old, newer) => *old = newer,
        }
    }
}

/// Series as they are stored and sent: names, the values of labels, and numbers. These are the value itself, or a
/// histogram's buckets and its sum.
pub type Samples = Vec<(String, Vec<String>, Vec<u64>)>;

/// Series, in the order of [`Family::ALL`] and of their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Sorted by metric and labels.
    series: Vec<(Family, Labels, Value)>,
}

impl Table {
    /// Adds to a series. A new one that finds no room is counted in [`Family::Dropped`].
    #[inline(never)]
    pub(super) fn add(&mut self, family: Family, labels: Labels, value: Value) {
        let at = self.find(family, &labels);
        if let Some((_, _, old)) = at.ok().and_then(|at| self.series.get_mut(at)) {
            old.merge(value);
        } else if self.series.len() < MAX_SERIES || family == Family::Dropped {
            let (Ok(at) | Err(at)) = at;
            self.series.insert(at, (family, labels, value));
        } else {
            self.add(Family::Dropped, Vec::new(), Value::Counter(1));
        }
    }

    /// The place of a series, or the one where it would be.
    fn find(&self, family: Family, labels: &[Cow<'static, str>]) -> Result<usize, usize> {
        self.series.binary_search_by(|(of, values, _)| of.cmp(&family).then_with(|| values[..].cmp(labels)))
    }

    /// Adds series. Those that another version sends, with a name, labels or buckets unknown here, are left out.
    pub fn merge(&mut self, samples: Samples) {
        for (name, labels, numbers) in samples {
            if let Some(family) = Family::from_name(&name)
                && family.labels().len() == labels.len()
                && let Some(value) = Value::from_numbers(family.kind(), numbers)
            {
                self.add(family, labels.into_iter().map(Cow::Owned).collect(), value);
            }
        }
    }

    /// The series as they are stored and sent.
    pub fn samples(&self) -> Samples {
        let owned = |labels: &Labels| labels.iter().map(|label| label.clone().into_owned()).collect();
        let samples = self
            .series
            .iter()
            .map(|(family, labels, value)| (family.name().to_owned(), owned(labels), value.numbers()));
        samples.collect()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The value of a series.
    pub fn get(&self, family: Family, labels: &[&str]) -> Option<&Value> {
        let labels: Labels = labels.iter().map(|label| Cow::Owned((*label).to_owned())).collect();
        let (_, _, value) = self.series.get(self.find(family, &labels).ok()?)?;
        Some(value)
    }

    /// The series of a metric, with those that are computed from others.
    pub(super) fn of(&self, family: Family) -> Vec<(&Labels, Cow<'_, Value>)> {
        static NONE: Labels = Vec::new();
        if family == Family::UploadsOpen {
            return vec![(&NONE, Cow::Owned(Value::Gauge(self.open_uploads())))];
        }
        let series = self.series.iter().filter(|(of, _, _)| *of == family);
        series.map(|(_, labels, value)| (labels, Cow::Borrowed(value))).collect()
    }

    fn open_uploads(&self) -> u64 {
        let count = |event: UploadEvent| match self.get(Family::Uploads, &[event.as_str()]) {
            Some(Value::Counter(n)) => *n,
            _ => 0,
        };
        let ended = [UploadEvent::Finished, UploadEvent::Cancelled, UploadEvent::Expired].map(count);
        count(UploadEvent::Opened).saturating_sub(ended.iter().sum())
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use proptest::prelude::*;

    use super::{super::*, *};

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        for (milliseconds, bucket) in [(0, 0), (5, 0), (6, 1), (10, 1), (30_000, 11), (30_001, 12)] {
            let Value::Histogram { buckets, sum } = Value::observation(milliseconds) else { panic!() };
            assert_eq!((buckets.iter().position(|n| *n == 1), sum), (Some(bucket), milliseconds));
            assert_eq!(buckets.iter().sum::<u64>(), 1);
        }
    }

    #[test]
    fn a_full_table_counts_what_it_drops() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 5 {
            metrics.count_event(&n.to_string(), EventOutcome::Delivered, 1);
        }
        metrics.count_event("0", EventOutcome::Delivered, 7);
        let table = metrics.drain();
        assert_eq!(table.get(Family::Dropped, &[]), Some(&Value::Counter(5)));
        assert_eq!(table.get(Family::Events, &["0", "delivered"]), Some(&Value::Counter(8)));
        assert_eq!(table.samples().len(), MAX_SERIES + 1);
        assert!(metrics.is_empty());
    }

    #[test]
    fn series_of_another_version_are_left_out() {
        let known = ("pierhead_uploads_total".to_owned(), vec!["opened".to_owned()], vec![1]);
        let duration = "pierhead_storage_duration_seconds".to_owned();
        let call = vec!["r2".to_owned(), "get".to_owned()];
        let mut table = Table::default();
        table.merge(vec![
            ("pierhead_unknown_total".to_owned(), vec![], vec![1]),
            (known.0.clone(), vec![], vec![1]),
            (known.0.clone(), known.1.clone(), vec![]),
            (known.0.clone(), known.1.clone(), vec![1, 2]),
            (duration, call, vec![1, 2, 3]),
            known.clone(),
        ]);
        assert_eq!(table.samples(), [known]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_samples_are_cut_into_batches(
            steps in prop::collection::vec((0u64..40_000, 0..3_usize, any::<bool>()), 0..60)
        ) {
            let (whole, parts, mut merged) = (Metrics::default(), Metrics::default(), Table::default());
            for (milliseconds, operation, is_end) in steps {
                let operation = ["get", "put", "head"][operation];
                for metrics in [&whole, &parts] {
                    metrics.count_storage("r2", operation, StorageOutcome::Ok, milliseconds);
                    metrics.set_pending("hook", milliseconds);
                }
                if is_end {
                    merged.merge(parts.drain().samples());
                }
            }
            merged.merge(parts.drain().samples());
            prop_assert_eq!(merged, whole.drain());
        }
    }
}
