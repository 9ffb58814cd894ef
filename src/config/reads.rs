//! Settings of reads.

use super::Vars;

/// The most ranges that one answer may have. Each costs a storage call.
pub const MAX_RANGES: usize = 64;

/// Limits of reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadConfig {
    /// `MAX_RANGES`: the most ranges of a blob in one answer, 1 to [`MAX_RANGES`]. A request for more gets the whole blob.
    pub max_ranges: usize,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self { max_ranges: MAX_RANGES }
    }
}

impl ReadConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        Self { max_ranges: vars.read("MAX_RANGES", Self::default().max_ranges, ranges) }
    }
}

fn ranges(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_RANGES).contains(number));
    number.ok_or_else(|| format!("a number from 1 to {MAX_RANGES}"))
}
