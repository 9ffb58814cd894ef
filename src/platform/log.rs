//! Logs for the operator: lines of JSON, and the cost of each request.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    str::FromStr,
};

use serde_json::Value;

/// The verbosity of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Failures.
    Error,
    /// Failures, and the reports of jobs.
    #[default]
    Info,
    /// Also each request and each call to storage.
    Debug,
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
    storage_calls: Cell<u32>,
    storage_milliseconds: Cell<u64>,
    cache: RefCell<CacheCounts>,
}

impl RequestLog {
    /// An empty log.
    pub fn new(level: Level, id: String, sink: Rc<dyn Sink>) -> Self {
        let (storage_calls, storage_milliseconds, cache) = Default::default();
        Self { level, id, sink, storage_calls, storage_milliseconds, cache }
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

    /// Counts a look-up in the descriptor cache.
    pub fn count_cache(&self, count: impl FnOnce(&mut CacheCounts)) {
        count(&mut self.cache.borrow_mut());
    }

    /// The descriptor cache's counters so far.
    pub fn cache_counts(&self) -> CacheCounts {
        *self.cache.borrow()
    }
}
