//! The registry's secret: 32 random bytes, created at first use and stored, so that it needs no
//! configuration.

use std::cell::OnceCell;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{
    layout::Key,
    platform::Body,
    storage::{Condition, PutOptions, StorageError, StorageErrorKind, Store},
};

/// The key for upload locations and, unless keys are configured, for blob URLs.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

/// The stored secret, read once per isolate.
pub struct SecretStore {
    store: Store,
    secret: OnceCell<Secret>,
}

impl SecretStore {
    /// Reads the secret from `store`.
    pub fn new(store: Store) -> Self {
        Self { store, secret: OnceCell::new() }
    }

    /// The secret, created if the store has none.
    pub async fn get(&self) -> Result<&Secret, StorageError> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let path = Key::Secret.path();
        let broken = |message: String| {
            let kind = StorageErrorKind::Backend { operation: "read", message, retryable: false };
            self.store.error(&path, kind)
        };
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| broken(error.to_string()))?;
        if self.store.head(&path).await?.is_none() {
            let options = PutOptions { condition: Condition::IfAbsent, ..PutOptions::default() };
            match self.store.put(&path, Body::Bytes(random.to_vec().into()), options).await {
                // Another isolate has just created the secret: use that one.
                Err(error) if error.kind != StorageErrorKind::Precondition => return Err(error),
                _ => {}
            }
        }
        let stored = self.store.read(&path, 32).await?;
        let secret = stored.and_then(|(bytes, _)| bytes.as_ref().try_into().ok());
        let secret = secret.ok_or_else(|| {
            broken("the secret must have 32 bytes: delete the object to create a new one".to_owned())
        })?;
        Ok(self.secret.get_or_init(|| Secret(secret)))
    }
}

/// The HMAC-SHA256 of a message, with a key of any length.
pub fn mac(key: &[u8], message: &str) -> Hmac<Sha256> {
    // RFC 2104: a key longer than a block is hashed, a shorter one padded with zeros.
    let hashed = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    let mut block = [0; 64];
    block.iter_mut().zip(hashed).for_each(|(to, from)| *to = from);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    mac.update(message.as_bytes());
    mac
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn the_mac_matches_openssl() {
        // From `printf '/images/cat.jpg1484063787' | openssl dgst -sha256 -hmac mysecrettoken -binary | base64`.
        let got = STANDARD.encode(mac(b"mysecrettoken", "/images/cat.jpg1484063787").finalize().into_bytes());
        assert_eq!(got, "XsZ5NmtNBxOd4f4fBOtqVmpWRnDRNkHKVZieqDPKu3U=");
        let got = STANDARD.encode(mac(&[b'k'; 80], "/images/cat.jpg1484063787").finalize().into_bytes());
        assert_eq!(got, "T4L80hdf3smZ8A4ybq05+1s3XHAdx6UGl4YozWiOU2Y=");
    }
}
