//! What happens, for the operator: lines of JSON, and what one request has cost.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    str::FromStr,
};

use serde_json::Value;

/// How much is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What went wrong.
    Error,
    /// And what jobs have done.
    #[default]
    Info,
    /// And every request, with every call to storage.
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

/// Where lines go.
pub trait Sink {
    /// Takes a line: an object.
    fn line(&self, line: Value);
}

/// Where something was found, or was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheCounts {
    /// How often in the isolate's memory.
    pub memory: u32,
    /// How often in the cache behind it.
    pub far: u32,
    /// How often nowhere, so that storage was asked.
    pub miss: u32,
    /// How often the cache failed.
    pub error: u32,
}

/// What one request has done.
pub struct RequestLog {
    /// What may be said.
    pub level: Level,
    /// The request's name in the lines: the platform's.
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

    /// Says something, if the level allows; the line is only made then.
    pub fn say(&self, level: Level, line: impl FnOnce() -> Value) {
        if level <= self.level {
            self.sink.line(line());
        }
    }

    /// Counts a call to storage.
    pub fn storage_call(&self, milliseconds: u64) {
        self.storage_calls.set(self.storage_calls.get() + 1);
        self.storage_milliseconds.set(self.storage_milliseconds.get() + milliseconds);
    }

    /// How many calls to storage there have been, and how long they took together, in milliseconds.
    pub fn storage(&self) -> (u32, u64) {
        (self.storage_calls.get(), self.storage_milliseconds.get())
    }

    /// Counts a look into the cache.
    pub fn cache(&self, count: impl FnOnce(&mut CacheCounts)) {
        count(&mut self.cache.borrow_mut());
    }

    /// What the cache has done.
    pub fn cache_counts(&self) -> CacheCounts {
        *self.cache.borrow()
    }
}
