//! Logs for the operator: lines of JSON, and the cost of each request.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    str::FromStr,
};

use serde_json::Value;

use super::metrics::{CacheLevel, Lookup, Metrics};

/// The verbosity of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Failures.
    Error,
    /// Also each request, and the reports of jobs.
    #[default]
    Info,
    /// Also each call to storage, and each request of the registry to itself.
    Debug,
}

impl Level {
    /// The name in settings and lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "error" => Ok(Self::Error),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            _ => Err("one of error, info, debug".to_owned()),
        }
    }
}

/// The destination of log lines.
pub trait Sink {
    /// Writes one line: a JSON object.
    fn line(&self, line: Value);
}

/// Hits and misses of the caches of facts and descriptors in one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheCounts {
    /// Hits in the isolate's memory.
    pub memory: u32,
    /// Answers of the edge cache.
    pub edge: u32,
    /// Hits in KV.
    pub kv: u32,
    /// Misses, answered by storage.
    pub miss: u32,
    /// Failures of KV.
    pub error: u32,
}

/// The log of one request or job run, and its counters.
pub struct RequestLog {
    /// The most verbose level that is written.
    pub level: Level,
    /// The request id in every line.
    pub id: String,
    sink: Rc<dyn Sink>,
    metrics: Rc<Metrics>,
    storage_calls: Cell<u32>,
    storage_milliseconds: Cell<u64>,
    object_calls: Cell<u32>,
    /// Calls under way.
    under_way: Cell<u32>,
    rounds: Cell<u32>,
    received: Cell<u64>,
    cache: RefCell<CacheCounts>,
}

/// A call to storage or to an object, under way until this is dropped.
pub struct UnderWay(Rc<RequestLog>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
    }
}

impl RequestLog {
    /// An empty log.
    pub fn new(level: Level, id: String, sink: Rc<dyn Sink>) -> Self {
        Self {
            level,
            id,
            sink,
            metrics: Rc::default(),
            storage_calls: Cell::default(),
            storage_milliseconds: Cell::default(),
            object_calls: Cell::default(),
            under_way: Cell::default(),
            rounds: Cell::default(),
            received: Cell::default(),
            cache: RefCell::default(),
        }
    }

    /// The same log, which counts lookups in `metrics` too.
    #[must_use]
    pub fn with_metrics(self, metrics: Rc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Writes a line if the level allows it; builds it only then.
    pub fn write(&self, level: Level, line: impl FnOnce() -> Value) {
        if level <= self.level {
            self.sink.line(line());
        }
    }

    /// Counts a call to storage.
    pub fn count_storage_call(&self, milliseconds: u64) {
        self.storage_calls.set(self.storage_calls.get() + 1);
        self.storage_milliseconds.set(self.storage_milliseconds.get() + milliseconds);
    }

    /// The number of calls to storage so far, and the sum of their times in milliseconds.
    pub fn storage_calls(&self) -> (u32, u64) {
        (self.storage_calls.get(), self.storage_milliseconds.get())
    }

    /// Begins a call to storage or to an object. If no other is under way, it has waited for those before: a new round.
    pub fn begin_call(self: &Rc<Self>) -> UnderWay {
        if self.under_way.get() == 0 {
            self.rounds.set(self.rounds.get() + 1);
        }
        self.under_way.set(self.under_way.get() + 1);
        UnderWay(self.clone())
    }

    /// The calls to storage and to objects so far that waited for one another. Work that goes on after the answer is
    /// included.
    pub fn rounds(&self) -> u32 {
        self.rounds.get()
    }

    /// Counts a call to an object.
    pub fn count_object_call(&self) {
        self.object_calls.set(self.object_calls.get() + 1);
    }

    /// The number of calls to objects so far.
    pub fn object_calls(&self) -> u32 {
        self.object_calls.get()
    }

    /// Counts bytes of a body that came without a length.
    pub fn count_received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// The bytes so far of a body that came without a length.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Counts what one cache answers, here and in the metrics.
    pub fn count_lookup(&self, cache: CacheLevel, outcome: Lookup) {
        self.metrics.count_lookup(cache, outcome);
        self.count_cache(|counts| match (cache, outcome) {
            (CacheLevel::Memory, Lookup::Hit) => counts.memory += 1,
            (CacheLevel::Edge, Lookup::Hit) => counts.edge += 1,
            (CacheLevel::Kv, Lookup::Hit) => counts.kv += 1,
            (_, Lookup::Error) => counts.error += 1,
            // Another cache may have it.
            (_, Lookup::Miss | Lookup::Fill) => {}
        });
    }

    /// Counts a look-up in the descriptor cache.
    pub fn count_cache(&self, count: impl FnOnce(&mut CacheCounts)) {
        count(&mut self.cache.borrow_mut());
    }

    /// The descriptor cache's counters so far.
    pub fn cache_counts(&self) -> CacheCounts {
        *self.cache.borrow()
    }
}
