//! Metrics: what is counted, with which labels, and how it gets to who reads it.
//!
//! An isolate counts in memory ([`Metrics`]). What it has counted goes to the deployment's one [`Collector`] as a
//! [`Batch`], in the background and seldom ([`Sender`]). The collector keeps [`Sums`], which [`Table::to_text`] shows to
//! Prometheus.
//!
//! Every label has few values: names from the code or from settings, never a repository's.

mod sender;
mod sums;
mod table;
mod text;

use std::{borrow::Cow, cell::RefCell, rc::Rc};

use futures_util::future::LocalBoxFuture;

pub use sender::Sender;
pub use sums::{Batch, Sums};
pub use table::{Samples, Table, Value};

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A current value.
    Gauge,
    /// Durations, in milliseconds, by [`BUCKETS`].
    Histogram,
}

/// The upper bounds of a histogram's buckets, in milliseconds. There is one more, for what is longer.
pub const BUCKETS: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

macro_rules! families {
    ($($(#[$meta:meta])* $family:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// A metric: a family of series, one for each combination of its labels.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Family {
            $(#[doc = $help] $family,)*
        }

        impl Family {
            /// Every metric, in the order of the text.
            pub const ALL: &'static [Self] = &[$(Self::$family),*];

            /// The name, as Prometheus has it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$family => $name,)* }
            }

            /// The names of the labels.
            pub fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$family => &[$($label),*],)* }
            }

            /// The kind.
            pub fn kind(self) -> Kind {
                match self { $(Self::$family => Kind::$kind,)* }
            }

            /// The description, on one line.
            pub fn help(self) -> &'static str {
                match self { $(Self::$family => $help,)* }
            }
        }
    };
}

families! {
    Requests: Counter "pierhead_requests_total" ["route", "method", "status"] "Requests answered.";
    RequestDuration: Histogram "pierhead_request_duration_seconds" ["route", "method"]
        "Time from a request to its answer, without the time to send a streamed body.";
    Received: Counter "pierhead_received_bytes_total" ["route"] "Bytes of request bodies.";
    Sent: Counter "pierhead_sent_bytes_total" ["route"] "Bytes of answers' bodies, as announced.";
    StorageCalls: Counter "pierhead_storage_calls_total" ["driver", "operation", "outcome"]
        "Calls to storage. An attempt that is repeated counts each time.";
    StorageDuration: Histogram "pierhead_storage_duration_seconds" ["driver", "operation"]
        "Time of a call to storage.";
    CacheLookups: Counter "pierhead_cache_lookups_total" ["cache", "outcome"] "Lookups in caches.";
    Uploads: Counter "pierhead_uploads_total" ["event"] "Events of upload sessions.";
    UploadsOpen: Gauge "pierhead_uploads_open" [] "Upload sessions that are open.";
    Events: Counter "pierhead_events_total" ["endpoint", "outcome"] "Events for an endpoint.";
    EventsPending: Gauge "pierhead_events_pending" ["endpoint"] "Events that wait for an endpoint.";
    Jobs: Counter "pierhead_jobs_total" ["job", "outcome"] "Runs of jobs.";
    Findings: Counter "pierhead_findings_total" ["job", "kind", "outcome"]
        "What is wrong in the bucket, counted in each run that finds it.";
    Dropped: Counter "pierhead_metrics_dropped_total" [] "Samples of series for which the table had no room.";
}

impl Family {
    /// The metric of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|family| family.name() == name)
    }
}

/// Enumerations whose names are label values.
macro_rules! labels {
    ($($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$about])* $variant,)*
        }

        impl $name {
            /// The value of the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    )*};
}

labels! {
    /// What became of a call to storage.
    StorageOutcome {
        /// It succeeded; what it looked for may be absent.
        Ok = "ok",
        /// The condition of a write did not hold.
        Condition = "condition",
        /// The store takes no more such calls at the moment.
        Refused = "refused",
        /// The content was at fault: it broke off or has another digest.
        Content = "content",
        /// The store failed.
        Error = "error",
    }
    /// A cache of content and of answers about it.
    CacheLevel {
        /// The isolate's memory.
        Memory = "memory",
        /// The cache of the data centre.
        Edge = "edge",
        /// The KV namespace.
        Kv = "kv",
    }
    /// What a lookup found.
    Lookup {
        /// An entry.
        Hit = "hit",
        /// None.
        Miss = "miss",
        /// None, and the cache asked the registry for one. The lookup that led to it is a hit.
        Fill = "fill",
        /// The cache failed, or its entry was not valid.
        Error = "error",
    }
    /// What happened to an upload session.
    UploadEvent {
        /// It began: its first bytes are stored.
        Opened = "opened",
        /// It became a blob.
        Finished = "finished",
        /// The client cancelled it, or its content was wrong.
        Cancelled = "cancelled",
        /// It ran out of time.
        Expired = "expired",
        /// A chunk continues after one that broke off.
        Resumed = "resumed",
    }
    /// What became of events for an endpoint.
    EventOutcome {
        /// They were taken on.
        Accepted = "accepted",
        /// The endpoint has them.
        Delivered = "delivered",
        /// An attempt failed; another follows.
        Failed = "failed",
        /// No attempt succeeded: they are among the dead letters.
        Dead = "dead",
        /// They were given up without a trace.
        Dropped = "dropped",
    }
    /// What is wrong in the bucket.
    Finding {
        /// Bytes with another digest.
        WrongDigest = "wrong_digest",
        /// Bytes of another length than their link or descriptor says.
        WrongLength = "wrong_length",
        /// Bytes that the store has, and cannot be read.
        Unreadable = "unreadable",
        /// A descriptor that names an object that is gone.
        DescriptorWithoutObject = "descriptor_without_object",
        /// A repository's link to a blob that is gone.
        LinkWithoutBytes = "link_without_bytes",
        /// A repository's link to a manifest whose content is gone.
        ManifestWithoutContent = "manifest_without_content",
        /// A tag whose link holds no digest.
        UnreadableTag = "unreadable_tag",
        /// A tag of a manifest that the repository lacks.
        TagWithoutManifest = "tag_without_manifest",
        /// A referrer that the repository lacks.
        ReferrerWithoutManifest = "referrer_without_manifest",
        /// A link without its reverse link.
        MissingReverseLink = "missing_reverse_link",
        /// A link of another registry, without metadata.
        MissingMetadata = "missing_metadata",
        /// A link that names a place without the bytes, which are elsewhere.
        WrongPlace = "wrong_place",
        /// A repository that the catalog lacks.
        MissingCatalogEntry = "missing_catalog_entry",
        /// A manifest that the referrers of its subject lack.
        MissingReferrer = "missing_referrer",
        /// A tag that the deletion of its manifest would not find.
        MissingTagIndex = "missing_tag_index",
    }
    /// What became of a finding.
    Remedy {
        /// It cannot be repaired.
        Damaged = "damaged",
        /// It was repaired.
        Repaired = "repaired",
        /// It would be, by a run that is not dry.
        Repairable = "repairable",
    }
    /// How a run of a job ended.
    JobOutcome {
        /// Well.
        Done = "done",
        /// With an error.
        Failed = "failed",
    }
}

/// The request that [`Metrics::count_request`] counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The name of the route.
    pub route: &'static str,
    /// The method; `other` for one that HTTP does not define.
    pub method: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// The repository, if the route has one. Not a label.
    pub repository: Option<String>,
    /// The error code of the answer, if it is an error. Not a label.
    pub code: Option<&'static str>,
    /// The time until the answer, in milliseconds.
    pub milliseconds: u64,
    /// The length of the request's body, in bytes.
    pub received: u64,
    /// The length of the answer's body, in bytes.
    pub sent: u64,
    /// Calls to storage.
    pub storage_calls: u32,
    /// The sum of their times, in milliseconds.
    pub storage_milliseconds: u64,
    /// Calls to storage or objects that waited for one another.
    pub rounds: u32,
    /// Lookups that a cache answered.
    pub cache_hits: u32,
    /// Lookups that storage answered.
    pub cache_misses: u32,
}

/// The destination of one data point for each request.
pub trait Points {
    /// Writes a point. Nobody waits, and a failure is dropped.
    fn write(&self, point: &Point);
}

/// A deployment's one keeper of sums.
pub trait Collector {
    /// Adds a batch. Repeating one changes nothing.
    fn add<'a>(&'a self, batch: &'a Batch) -> LocalBoxFuture<'a, Result<(), String>>;

    /// The sums, as they will be after a restart of the collector.
    fn read(&self) -> LocalBoxFuture<'_, Result<Samples, String>>;
}

type Labels = Vec<Cow<'static, str>>;

/// The counters of an isolate since it last sent them.
#[derive(Debug, Default)]
pub struct Metrics {
    table: RefCell<Table>,
}

impl Metrics {
    fn add(&self, family: Family, labels: Labels, value: Value) {
        self.table.borrow_mut().add(family, labels, value);
    }

    #[inline(never)]
    fn count(&self, family: Family, labels: &[&'static str], n: u64) {
        if n > 0 {
            self.add(family, labels.iter().map(|label| Cow::Borrowed(*label)).collect(), Value::Counter(n));
        }
    }

    #[inline(never)]
    fn observe(&self, family: Family, labels: &[&'static str], milliseconds: u64) {
        let labels = labels.iter().map(|label| Cow::Borrowed(*label)).collect();
        self.add(family, labels, Value::observation(milliseconds));
    }

    /// Counts an answered request.
    #[inline(never)]
    pub fn count_request(&self, point: &Point) {
        let Point { route, method, status, milliseconds, received, sent, .. } = point;
        let labels = vec![(*route).into(), (*method).into(), status.to_string().into()];
        self.add(Family::Requests, labels, Value::Counter(1));
        self.observe(Family::RequestDuration, &[route, method], *milliseconds);
        self.count(Family::Received, &[route], *received);
        self.count(Family::Sent, &[route], *sent);
    }

    /// Counts a call to storage.
    pub fn count_storage(
        &self,
        driver: &'static str,
        operation: &'static str,
        outcome: StorageOutcome,
        milliseconds: u64,
    ) {
        self.count(Family::StorageCalls, &[driver, operation, outcome.as_str()], 1);
        self.observe(Family::StorageDuration, &[driver, operation], milliseconds);
    }

    /// Counts a lookup in a cache.
    pub fn count_lookup(&self, cache: CacheLevel, outcome: Lookup) {
        self.count(Family::CacheLookups, &[cache.as_str(), outcome.as_str()], 1);
    }

    /// Counts an event of an upload session.
    pub fn count_upload(&self, event: UploadEvent) {
        self.count(Family::Uploads, &[event.as_str()], 1);
    }

    /// Counts `n` events for an endpoint, by its name in the settings.
    pub fn count_event(&self, endpoint: &str, outcome: EventOutcome, n: u64) {
        let labels = vec![endpoint.to_owned().into(), outcome.as_str().into()];
        if n > 0 {
            self.add(Family::Events, labels, Value::Counter(n));
        }
    }

    /// Sets how many events wait for an endpoint.
    pub fn set_pending(&self, endpoint: &str, n: u64) {
        self.add(Family::EventsPending, vec![endpoint.to_owned().into()], Value::Gauge(n));
    }

    /// Counts a run of a job.
    pub fn count_job(&self, job: &'static str, outcome: JobOutcome) {
        self.count(Family::Jobs, &[job, outcome.as_str()], 1);
    }

    /// Counts something wrong that a job has found.
    pub fn count_finding(&self, job: &'static str, finding: Finding, remedy: Remedy) {
        self.count(Family::Findings, &[job, finding.as_str(), remedy.as_str()], 1);
    }

    /// Takes everything counted so far.
    pub fn drain(&self) -> Table {
        self.table.take()
    }

    /// Whether nothing was counted since.
    pub fn is_empty(&self) -> bool {
        self.table.borrow().is_empty()
    }
}

/// The parts of a platform that only the operation of a registry needs. All of them are optional.
#[derive(Default)]
pub struct Operation {
    /// The keeper of the deployment's sums.
    pub collector: Option<Rc<dyn Collector>>,
    /// The destination of a data point for each request.
    pub points: Option<Rc<dyn Points>>,
    /// The bindings besides the store and KV, for [`super::health`].
    pub probes: Vec<(&'static str, super::health::Probe)>,
}
