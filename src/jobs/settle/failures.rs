//! What could not be copied. A copy reads and writes as many bytes as the blob is long, so it is not tried in each run.

use serde::{Deserialize, Serialize};

use crate::{oci::Digest, platform::Timestamp, storage::Path};

/// How long an object that has failed is left alone, in seconds, unless it changes: 7 days.
const REST: u64 = 7 * 24 * 60 * 60;

/// Limit of the objects that are remembered. The first of more are tried again early.
const MAX_REMEMBERED: usize = 100;

/// An object that has failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    digest: Digest,
    at: String,
    etag: String,
    since: Timestamp,
    /// The line of the report.
    pub(super) why: String,
}

impl Failure {
    pub(super) fn new(digest: &Digest, at: &Path, etag: &str, since: Timestamp, why: String) -> Self {
        Self { digest: digest.clone(), at: at.to_string(), etag: etag.to_owned(), since, why }
    }

    pub(super) fn is_of(&self, digest: &Digest, at: &Path, etag: &str) -> bool {
        self.digest == *digest && self.at == at.as_str() && self.etag == etag
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        now >= self.since.plus_seconds(REST)
    }

    /// Adds it to those that are remembered.
    pub(super) fn add_to(self, failures: &mut Vec<Self>) {
        failures.retain(|other| {
            !other.is_over(self.since) && (&other.digest, &other.at) != (&self.digest, &self.at)
        });
        failures.drain(..(failures.len() + 1).saturating_sub(MAX_REMEMBERED));
        failures.push(self);
    }
}
