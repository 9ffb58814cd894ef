//! Retries of failed operations: when, how long, and with which delays.

use std::rc::Rc;

use crate::platform::{Clock, Timestamp};

/// Time between two writes of a key, a deletion among them, in milliseconds: R2 takes one in a second.
pub const KEY_PAUSE: u64 = 1_100;

/// How long a store keeps trying, in milliseconds. Clients repeat a failed blob, so a request about one may
/// fail early.
pub const PATIENCE: u64 = 5_000;

/// The patience of a manifest's push: docker does not repeat it.
pub const LONG_PATIENCE: u64 = 20_000;

/// The longest time that a call to storage whose answer was lost can take until it lands, in seconds. Cloudflare ends
/// what a request has begun 30 s after its response.
pub const SETTLE: u64 = 30;

/// Delays before the next attempts, in milliseconds; the last one repeats. R2 accepts one write per second to a
/// key, so a later attempt leaves it that second.
const DELAYS: [u64; 4] = [100, 300, 700, 1_500];

/// The attempts of one operation.
pub struct Attempts {
    clock: Rc<dyn Clock>,
    /// No attempt begins later.
    pub(super) until: Timestamp,
    made: usize,
}

impl Attempts {
    /// The attempts of an operation that begins now, within [`PATIENCE`].
    pub fn new(clock: Rc<dyn Clock>) -> Self {
        Self::within(clock, PATIENCE)
    }

    /// The attempts of an operation that begins now, within `patience` milliseconds.
    pub fn within(clock: Rc<dyn Clock>, patience: u64) -> Self {
        let until = Timestamp(clock.now().0 + patience);
        Self::until(clock, until)
    }

    pub(super) fn until(clock: Rc<dyn Clock>, until: Timestamp) -> Self {
        Self { clock, until, made: 0 }
    }

    /// Waits before the next attempt; `false` if the patience is exhausted. Each delay varies by a third, so that
    /// requests that failed together do not meet again.
    pub async fn next(&mut self) -> bool {
        let Some(longest) = DELAYS.get(self.made).or(DELAYS.last()) else { return false };
        let delay = longest - u64::from(getrandom::u32().unwrap_or_default()) % (longest / 3);
        if self.clock.now().0 + delay > self.until.0 {
            return false;
        }
        self.made += 1;
        self.clock.sleep(delay).await;
        true
    }
}
