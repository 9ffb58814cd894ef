//! The platform's clock. It stands still while a request computes, and moves on with every wait.

use crate::clock::{Clock, Timestamp};

/// `Date.now()`.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(js_sys::Date::now() as u64)
    }
}
