//! Signed URLs: valid for anyone until they expire, and cacheable by a CDN.
//!
//! ```text
//! /v2/_pierhead/blobs/<alg>/<hex>?verify=<seconds>-<mac>
//! ```
//!
//! `<seconds>` is the time of signing, `<mac>` the HMAC-SHA256 of the path and those seconds, in base64,
//! percent-encoded. Cloudflare's `is_timed_hmac_valid_v0` verifies this form, so a rule can refuse requests
//! before they reach a cache or a worker. The time is rounded, so that clients share a URL and a cache can
//! answer later ones.

use std::rc::Rc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::Mac;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{
    oci::Digest,
    platform::{Clock, Timestamp},
    secret::{Purpose, SecretStore, mac},
    storage::StorageError,
};

/// The characters of base64 that a query value must not contain.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The number of steps in the lifetime of a URL. The time of signing is rounded down to a step.
const STEPS: u64 = 4;

/// Keys for signed URLs: the first signs, all verify. To rotate, put a new key in front, and remove the old one
/// when its URLs have expired.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<String>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl std::str::FromStr for Keys {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let keys: Vec<String> = s.split_whitespace().map(str::to_owned).collect();
        if keys.len() > 2 || keys.iter().any(|key| key.len() < 32) {
            return Err("one or two keys of at least 32 characters, with a space between".to_owned());
        }
        Ok(Self(keys))
    }
}

/// Makes and verifies signed URLs.
pub struct Signed {
    /// The keys; if empty, one is derived from the registry's secret.
    pub keys: Keys,
    /// The registry's secret.
    pub secret: Rc<SecretStore>,
    /// The origin of URLs (`https://<host>`), or empty for the registry's own.
    pub origin: String,
    /// The lifetime of a URL, in seconds; at least three quarters of it remain when a client gets the URL.
    pub ttl_seconds: u64,
    /// Source of the current time.
    pub clock: Rc<dyn Clock>,
}

/// The path of a blob's signed URL.
fn path(digest: &Digest) -> String {
    format!("/v2/_pierhead/blobs/{}/{}", digest.algorithm(), digest.hex())
}

impl Signed {
    /// The URL of a blob.
    pub async fn url(&self, digest: &Digest) -> Result<String, StorageError> {
        let path = path(digest);
        let query = self.sign(&path).await?;
        Ok(format!("{}{path}?{query}", self.origin))
    }

    async fn keys(&self) -> Result<Vec<String>, StorageError> {
        if !self.keys.0.is_empty() {
            return Ok(self.keys.0.clone());
        }
        let derived = self.secret.keys(Purpose::BlobUrls).await?;
        Ok(derived.as_bytes().iter().map(|key| STANDARD.encode(key)).collect())
    }

    /// The query that signs `path`.
    async fn sign(&self, path: &str) -> Result<String, StorageError> {
        let step = (self.ttl_seconds / STEPS).max(1);
        let seconds = self.clock.now().0 / 1000 / step * step;
        let keys = self.keys().await?;
        let key = keys.first().map(String::as_str).unwrap_or_default();
        let mac = STANDARD.encode(mac(key.as_bytes(), &format!("{path}{seconds}")).finalize().into_bytes());
        Ok(format!("verify={seconds}-{}", utf8_percent_encode(&mac, ENCODED)))
    }

    /// Verifies a path and query, both as received. Returns the expiry; `None` if forged or expired.
    pub async fn verify(&self, path: &str, query: &str) -> Result<Option<Timestamp>, StorageError> {
        let token = query.strip_prefix("verify=").and_then(|token| token.split_once('-'));
        let Some((seconds, encoded)) = token else { return Ok(None) };
        let Some(made) = seconds.parse::<u64>().ok().filter(|made| made.to_string() == seconds) else {
            return Ok(None);
        };
        let mac_given = percent_decode_str(encoded).decode_utf8_lossy().into_owned();
        let Ok(given) = STANDARD.decode(mac_given) else { return Ok(None) };
        let message = format!("{path}{seconds}");
        let mut is_valid = false;
        for key in self.keys().await? {
            // In constant time, with every key.
            is_valid |= mac(key.as_bytes(), &message).verify_slice(&given).is_ok();
        }
        let now = self.clock.now().0 / 1000;
        let ends = made.saturating_add(self.ttl_seconds);
        Ok((is_valid && made <= now && now < ends).then(|| Timestamp(ends.saturating_mul(1000))))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use std::cell::Cell;

    use futures_executor::block_on;

    use super::*;
    use crate::{
        oci::Algorithm,
        platform::memory::ManualClock,
        secret::Signing,
        storage::{Store, memory::Memory},
    };

    fn signed(keys: &str, clock: &Rc<ManualClock>) -> Signed {
        Signed {
            keys: keys.parse().unwrap(),
            secret: Rc::new(SecretStore::new(Store::new(Memory::default()), Signing::Generated)),
            origin: "https://cdn.example".into(),
            ttl_seconds: 1200,
            clock: clock.clone(),
        }
    }

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "a key that is a good deal longer than the sixty-four bytes of a block of SHA-256";

    #[test]
    fn a_url_is_valid_for_its_path_and_lifetime_only() {
        let clock = Rc::new(ManualClock(Rc::new(Cell::new(1_700_000_123_000))));
        let signed = signed(OLD, &clock);
        let digest = Algorithm::Sha256.digest(b"x");
        let url = block_on(signed.url(&digest)).unwrap();
        let target = url.strip_prefix("https://cdn.example").unwrap();
        let (path, query) = target.split_once('?').unwrap();
        let verify = |path: &str, query: &str| block_on(signed.verify(path, query)).unwrap();
        let ends = Timestamp(1_700_001_300_000);
        assert_eq!(verify(path, query), Some(ends), "{url}");
        let made = query.strip_prefix("verify=").unwrap().split('-').next().unwrap();
        let later = (made.parse::<u64>().unwrap() + 1).to_string();
        for (path, query) in [
            (path.replace("sha256", "sha512"), query.to_owned()),
            (path.replace(digest.hex(), Algorithm::Sha256.digest(b"y").hex()), query.to_owned()),
            (format!("{path}/"), query.to_owned()),
            (path.to_owned(), query.replace(made, &later)),
            (path.to_owned(), query.replace("verify=", "verify=0")),
            (path.to_owned(), query.replace("verify=", "verify=+")),
            (path.to_owned(), format!("{query}A")),
            (path.to_owned(), format!("{query}&x=1")),
            (path.to_owned(), format!("x=1&{query}")),
            (path.to_owned(), format!("verify={made}-")),
            (path.to_owned(), format!("verify={made}")),
            (path.to_owned(), String::new()),
        ] {
            assert_eq!(verify(&path, &query), None, "{path}?{query}");
        }
        for index in 0..query.len() {
            let mut forged = query.as_bytes().to_vec();
            forged[index] = if forged[index] == b'1' { b'2' } else { b'1' };
            assert_eq!(verify(path, std::str::from_utf8(&forged).unwrap()), None, "{index}");
        }
        clock.0.set((ends.0 / 1000 - 1) * 1000);
        assert_eq!(verify(path, query), Some(ends));
        clock.0.set(ends.0 / 1000 * 1000);
        assert_eq!(verify(path, query), None, "expired");
        clock.0.set((made.parse::<u64>().unwrap() - 1) * 1000);
        assert_eq!(verify(path, query), None, "from the future");
    }

    #[test]
    fn all_clients_get_the_same_url_within_a_step() {
        let clock = Rc::new(ManualClock(Rc::new(Cell::new(1_700_000_100_000))));
        let signed = signed("", &clock);
        let first = block_on(signed.sign("/a")).unwrap();
        clock.0.set(1_700_000_399_000);
        assert_eq!(block_on(signed.sign("/a")).unwrap(), first);
        clock.0.set(1_700_000_400_000);
        assert_ne!(block_on(signed.sign("/a")).unwrap(), first);
        assert!(block_on(signed.verify("/a", &first)).unwrap().is_some());
    }

    #[test]
    fn keys_can_be_rotated_without_a_gap() {
        let clock = Rc::new(ManualClock(Rc::new(Cell::new(1_700_000_100_000))));
        let [old, both, new] =
            [OLD.to_owned(), format!("{} {OLD}", NEW.replace(' ', "-")), NEW.replace(' ', "-")]
                .map(|keys| signed(&keys, &clock));
        let by_old = block_on(old.sign("/a")).unwrap();
        let by_both = block_on(both.sign("/a")).unwrap();
        let accepts = |signed: &Signed, query: &str| block_on(signed.verify("/a", query)).unwrap().is_some();
        assert!(accepts(&both, &by_old) && accepts(&both, &by_both) && accepts(&new, &by_both));
        assert!(!accepts(&new, &by_old) && !accepts(&old, &by_both));
    }

    #[test]
    fn short_keys_are_refused_and_keys_are_never_shown() {
        let keys: Keys = OLD.parse().unwrap();
        assert!(!format!("{keys:?}").contains(OLD));
        for wrong in ["short", &format!("{OLD} short"), &format!("{OLD} {OLD} {OLD}")] {
            assert!(wrong.parse::<Keys>().is_err(), "{wrong}");
        }
    }
}
