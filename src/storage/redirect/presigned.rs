//! URLs signed for S3 (AWS Signature Version 4 in the query), for R2's S3 endpoint or any other.

use std::{fmt, rc::Rc, time::Duration};

use futures_util::future::LocalBoxFuture;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use super::{Mode, Redirect, RedirectSigner};
use crate::{
    clock::Clock,
    oci::media_type,
    storage::{Path, StorageError},
};

/// A bucket of an S3-compatible store, and who we are there.
#[derive(Clone)]
pub struct S3Bucket {
    pub(in crate::storage) bucket: Bucket,
    pub(in crate::storage) credentials: Credentials,
}

impl PartialEq for S3Bucket {
    fn eq(&self, other: &Self) -> bool {
        (self.bucket.base_url(), self.bucket.region(), self.credentials.key(), self.credentials.secret())
            == (
                other.bucket.base_url(),
                other.bucket.region(),
                other.credentials.key(),
                other.credentials.secret(),
            )
    }
}

impl Eq for S3Bucket {}

/// Without the credentials.
impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Bucket({})", self.bucket.base_url())
    }
}

impl S3Bucket {
    /// The bucket `name` at `endpoint` (`https://<host>`), addressed as the first segment of the path.
    /// Says what is wrong with the endpoint.
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

/// The present moment as the signer wants it.
pub(in crate::storage) fn timestamp(clock: &dyn Clock) -> jiff::Timestamp {
    let milliseconds = i64::try_from(clock.now().0).unwrap_or_default();
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}

/// The signer.
pub struct Presigned {
    /// Where the bytes are.
    pub bucket: S3Bucket,
    /// How long a URL works.
    pub ttl: Duration,
    /// When it starts to.
    pub clock: Rc<dyn Clock>,
}

impl Presigned {
    /// The URL. It sets the type of what is answered: one that nothing on the way compresses.
    pub(in crate::storage) fn get(&self, path: &Path) -> String {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let mut get = bucket.get_object(Some(credentials), path.as_str());
        get.query_mut().insert("response-content-type", media_type::OCTET_STREAM);
        get.query_mut().insert("response-cache-control", "private, no-transform");
        get.sign_with_time(self.ttl, &timestamp(&*self.clock)).into()
    }
}

impl RedirectSigner for Presigned {
    fn url<'a>(
        &'a self,
        path: &'a Path,
        redirect: &'a Redirect<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<String>, StorageError>> {
        let url = (redirect.mode == Mode::Presigned).then(|| self.get(path));
        Box::pin(async { Ok(url) })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp(1_369_353_600_000)
        }
    }

    fn bucket(endpoint: &str) -> Result<S3Bucket, String> {
        S3Bucket::new(endpoint, "images", "auto", "AKID".into(), "hidden".into())
    }

    #[test]
    fn a_url_says_what_is_signed_and_for_how_long() {
        let bucket = bucket("https://account.r2.cloudflarestorage.com").unwrap();
        assert!(!format!("{bucket:?}").contains("hidden"));
        let ttl = Duration::from_secs(1200);
        let url = Presigned { bucket, ttl, clock: Rc::new(Fixed) }.get(&"a/b".parse().unwrap());
        assert!(url.starts_with("https://account.r2.cloudflarestorage.com/images/a/b?"), "{url}");
        for part in [
            "X-Amz-Expires=1200&",
            "X-Amz-Date=20130524T000000Z&",
            "X-Amz-Credential=AKID%2F20130524%2Fauto%2Fs3%2Faws4_request&",
            "response-content-type=application%2Foctet-stream",
            "X-Amz-Signature=",
        ] {
            assert!(url.contains(part), "{part} in {url}");
        }
        assert!(!url.contains("hidden"));
    }

    #[test]
    fn an_endpoint_is_a_url() {
        for wrong in ["", "account.r2.cloudflarestorage.com", "ftp://host", "https://"] {
            assert!(bucket(wrong).is_err(), "{wrong}");
        }
    }
}
