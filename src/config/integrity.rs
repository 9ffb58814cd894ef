//! Settings of the checks for damage.

use super::Vars;

/// The largest budget of the scrub, in MiB a day: its steps take some seconds of the CPU of a call of the cron trigger.
const MAX_SCRUB: u64 = 200_000;

/// The checks for damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntegrityConfig {
    /// `SCRUB_MIB_PER_DAY`: how much the scrub reads in a day, in bytes; 0 if it does not run by itself.
    pub scrub_bytes: u64,
}

impl IntegrityConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        Self { scrub_bytes: vars.read("SCRUB_MIB_PER_DAY", 0, budget) << 20 }
    }
}

fn budget(text: &str) -> Result<u64, String> {
    let budget = text.parse().ok().filter(|budget| *budget <= MAX_SCRUB);
    budget.ok_or_else(|| format!("a number of MiB from 0 to {MAX_SCRUB}"))
}
