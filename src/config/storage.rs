//! Storage settings.

use std::str::FromStr;

use super::Vars;
use crate::storage::s3::S3Bucket;

/// The backend, and the bucket's S3 settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageConfig {
    /// `STORAGE`: the kind of store.
    pub backend: Backend,
    /// `S3_ENDPOINT`, `S3_BUCKET`, `S3_REGION`, and the secrets `S3_ACCESS_KEY_ID` and
    /// `S3_SECRET_ACCESS_KEY`. With [`Backend::R2`], they name the same bucket at R2's S3 endpoint, for
    /// presigned URLs.
    pub s3: Option<S3Bucket>,
}

/// The kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backend {
    /// The R2 bucket bound to the worker.
    #[default]
    R2,
    /// A bucket of an S3-compatible store.
    S3,
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "r2" => Ok(Self::R2),
            "s3" => Ok(Self::S3),
            _ => Err("one of r2, s3".to_owned()),
        }
    }
}

impl StorageConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        Self { backend: vars.parse("STORAGE", Backend::default()), s3: read_s3(vars) }
    }
}

/// Reads the S3 variables: all or none, but the region has a default.
fn read_s3(vars: &mut Vars<'_>) -> Option<S3Bucket> {
    let endpoint = vars.text("S3_ENDPOINT");
    let bucket = vars.text("S3_BUCKET");
    let region = vars.text("S3_REGION").unwrap_or_else(|| "auto".to_owned());
    let key = vars.text("S3_ACCESS_KEY_ID");
    let secret = vars.text("S3_SECRET_ACCESS_KEY");
    if [&endpoint, &bucket, &key, &secret].iter().all(|value| value.is_none()) {
        return None;
    }
    for (name, value) in [
        ("S3_ENDPOINT", &endpoint),
        ("S3_BUCKET", &bucket),
        ("S3_ACCESS_KEY_ID", &key),
        ("S3_SECRET_ACCESS_KEY", &secret),
    ] {
        if value.is_none() {
            vars.error(format!("{name} must be set, as the other S3_ variables are"));
        }
    }
    let bucket = S3Bucket::new(&endpoint?, &bucket?, &region, key?, secret?);
    bucket.map_err(|expected| vars.error(format!("S3_ENDPOINT must be {expected}"))).ok()
}
