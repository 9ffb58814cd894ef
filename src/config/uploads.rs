//! Upload settings.

use std::str::FromStr;

use super::{Vars, vars::seconds};
use crate::platform::size;

/// Lifetime of uploads, and purge of abandoned ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadConfig {
    /// `UPLOAD_TTL`: lifetime of an upload from its start, in seconds; 1 minute to 7 days: R2 aborts a multipart
    /// upload 7 days after it began.
    pub ttl_seconds: u64,
    /// `PURGE`: mode of the daily purge job.
    pub purge: JobMode,
    /// `MAX_BODY`: the longest body that the domain's plan lets through, in bytes; 10 MB, which holds a part, to 5 GB. Clients
    /// are told, and a longer one is taken all the same.
    pub max_body: u64,
}

/// The treatment of what a job finds to be of no use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JobMode {
    /// Delete them.
    #[default]
    On,
    /// Only report them.
    DryRun,
    /// Do not run the job.
    Off,
}

impl FromStr for JobMode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "on" => Ok(Self::On),
            "dry-run" => Ok(Self::DryRun),
            "off" => Ok(Self::Off),
            _ => Err("one of on, dry-run, off".to_owned()),
        }
    }
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self { ttl_seconds: 7 * 24 * 60 * 60, purge: JobMode::default(), max_body: 100_000_000 }
    }
}

impl UploadConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            ttl_seconds: vars.read("UPLOAD_TTL", default.ttl_seconds, ttl),
            purge: vars.parse("PURGE", default.purge),
            max_body: vars.read("MAX_BODY", default.max_body, max_body),
        }
    }
}

fn ttl(text: &str) -> Result<u64, String> {
    let valid = seconds(text).filter(|seconds| (60..=604_800).contains(seconds));
    valid.ok_or_else(|| "a time between 1m and 7d, such as 90s, 30m, 12h or 7d".to_owned())
}

fn max_body(text: &str) -> Result<u64, String> {
    let valid = size::bytes(text).filter(|bytes| (10_000_000..=5_000_000_000).contains(bytes));
    valid.ok_or_else(|| "a size between 10 MB and 5 GB, such as 100 MB".to_owned())
}
