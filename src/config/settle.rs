//! Settings of settling.

use super::{JobMode, Vars};

/// Copies of blobs to the places where `distribution` looks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleConfig {
    /// `SETTLE`: mode of the hourly job.
    pub mode: JobMode,
}

impl Default for SettleConfig {
    fn default() -> Self {
        Self { mode: JobMode::Off }
    }
}

impl SettleConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        Self { mode: vars.parse("SETTLE", Self::default().mode) }
    }
}
