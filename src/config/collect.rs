//! Settings of the collection of garbage.

use super::{JobMode, Vars, vars::seconds};

/// The longest grace time, in seconds: 90 days.
const MAX_GRACE: u64 = 90 * 24 * 60 * 60;

/// The collection of garbage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectConfig {
    /// `COLLECT`: mode of the daily collection.
    pub mode: JobMode,
    /// `COLLECT_GRACE`: the least age of what is condemned, and the time until it is deleted, in seconds.
    pub grace: u64,
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self { mode: JobMode::default(), grace: 24 * 60 * 60 }
    }
}

impl CollectConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            mode: vars.parse("COLLECT", default.mode),
            grace: vars.read("COLLECT_GRACE", default.grace, grace),
        }
    }
}

fn grace(text: &str) -> Result<u64, String> {
    let valid = seconds(text).filter(|seconds| *seconds <= MAX_GRACE);
    valid.ok_or_else(|| "a time of at most 90d, such as 0s, 30m, 24h or 7d".to_owned())
}
