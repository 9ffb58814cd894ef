//! The settings of an S3 bucket.

use std::fmt;

use rusty_s3::{Bucket, Credentials, UrlStyle};

use crate::platform::Clock;

/// A bucket of an S3-compatible store, and the credentials for it.
#[derive(Clone)]
pub struct S3Bucket {
    pub(crate) bucket: Bucket,
    pub(crate) credentials: Credentials,
}

impl PartialEq for S3Bucket {
    fn eq(&self, other: &Self) -> bool {
        let key = |this: &Self| {
            let (bucket, credentials) = (&this.bucket, &this.credentials);
            let (url, region) = (bucket.base_url().clone(), bucket.region().to_owned());
            (url, region, credentials.key().to_owned(), credentials.secret().to_owned())
        };
        key(self) == key(other)
    }
}

impl Eq for S3Bucket {}

/// Omits the credentials.
impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Bucket({})", self.bucket.base_url())
    }
}

impl S3Bucket {
    /// The bucket `name` at `endpoint` (`https://<host>`), addressed by path. The error describes a valid
    /// endpoint.
    pub fn new(
        endpoint: &str,
        name: &str,
        region: &str,
        key: String,
        secret: String,
    ) -> Result<Self, String> {
        let expected = || "a URL such as https://<account>.r2.cloudflarestorage.com".to_owned();
        let endpoint: url::Url = endpoint.parse().map_err(|_| expected())?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(expected());
        }
        let bucket = Bucket::new(endpoint, UrlStyle::Path, name.to_owned(), region.to_owned());
        Ok(Self { bucket: bucket.map_err(|_| expected())?, credentials: Credentials::new(key, secret) })
    }
}

/// The current time in the signer's type.
pub(crate) fn signing_time(clock: &dyn Clock) -> jiff::Timestamp {
    let milliseconds = i64::try_from(clock.now().0).unwrap_or_default();
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_must_be_an_http_url() {
        let bucket =
            |endpoint: &str| S3Bucket::new(endpoint, "images", "auto", "AKID".into(), "hidden".into());
        let valid = bucket("https://account.r2.cloudflarestorage.com").unwrap();
        assert!(!format!("{valid:?}").contains("hidden"));
        for wrong in ["", "account.r2.cloudflarestorage.com", "ftp://host", "https://"] {
            assert!(bucket(wrong).is_err(), "{wrong}");
        }
    }
}
