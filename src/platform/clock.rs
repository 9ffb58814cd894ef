//! Time, injected: wasm32 has no clock of its own, and tests control it.

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// `seconds` earlier.
    #[must_use]
    pub fn minus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds.saturating_mul(1000)))
    }

    /// `seconds` later.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)))
    }

    /// The time as RFC 3339 writes it.
    pub fn to_rfc3339(self) -> String {
        let milliseconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default().to_string()
    }

    /// Milliseconds since `earlier`; 0 if that is in the future.
    pub fn milliseconds_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A source of the current time.
pub trait Clock {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// Waits.
    fn sleep(&self, milliseconds: u64) -> LocalBoxFuture<'static, ()>;
}

/// A number with a unit (`90s`, `30m`, `12h`, `7d`), in seconds; `None` for anything else.
pub fn seconds(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    text.get(..text.len() - 1)?.parse::<u64>().ok()?.checked_mul(unit)
}
