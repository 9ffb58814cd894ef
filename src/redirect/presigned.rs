//! Presigned URLs (AWS Signature Version 4 in the query), for R2's S3 endpoint or any other.

use std::{rc::Rc, time::Duration};

use rusty_s3::S3Action;

use crate::{
    oci::media_type,
    platform::Clock,
    storage::{
        Path,
        s3::{S3Bucket, signing_time},
    },
};

/// Signs URLs of one bucket.
pub struct Presigned {
    /// The bucket.
    pub bucket: S3Bucket,
    /// The lifetime of a URL.
    pub ttl: Duration,
    /// Source of the time of signing.
    pub clock: Rc<dyn Clock>,
}

impl Presigned {
    /// The URL for a `GET` of `path`. It sets a response type that no proxy compresses.
    pub fn url(&self, path: &Path) -> String {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let mut get = bucket.get_object(Some(credentials), path.as_str());
        get.query_mut().insert("response-content-type", media_type::OCTET_STREAM);
        get.query_mut().insert("response-cache-control", "private, no-transform");
        get.sign_with_time(self.ttl, &signing_time(&*self.clock)).into()
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::platform::memory::ManualClock;

    #[test]
    fn a_url_contains_its_scope_and_lifetime() {
        let endpoint = "https://account.r2.cloudflarestorage.com";
        let bucket = S3Bucket::new(endpoint, "images", "auto", "AKID".into(), "hidden".into()).unwrap();
        let ttl = Duration::from_secs(1200);
        let clock = ManualClock::default();
        clock.0.set(1_369_353_600_000);
        let url = Presigned { bucket, ttl, clock: Rc::new(clock) }.url(&"a/b".parse().unwrap());
        assert!(url.starts_with(&format!("{endpoint}/images/a/b?")), "{url}");
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
}
