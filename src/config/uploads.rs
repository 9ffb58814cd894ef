//! Upload settings.

use std::str::FromStr;

use super::{Vars, vars::seconds};

/// Lifetime of uploads, and purge of abandoned ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadConfig {
    /// `UPLOAD_TTL`: lifetime of an upload from its start, in seconds; 1 minute to 7 days: R2 aborts a multipart
    /// upload 7 days after it began.
    pub ttl_seconds: u64,
    /// `PURGE`: mode of the daily purge job.
    pub purge: JobMode,
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
        Self { ttl_seconds: 7 * 24 * 60 * 60, purge: JobMode::default() }
    }
}

impl UploadConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            ttl_seconds: vars.read("UPLOAD_TTL", default.ttl_seconds, ttl),
            purge: vars.parse("PURGE", default.purge),
        }
    }
}

fn ttl(text: &str) -> Result<u64, String> {
    let valid = seconds(text).filter(|seconds| (60..=604_800).contains(seconds));
    valid.ok_or_else(|| "a time between 1m and 7d, such as 90s, 30m, 12h or 7d".to_owned())
}
