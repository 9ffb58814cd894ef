//! The registry's secret: from the configuration, or else 32 random bytes, created at first use and stored.

use std::{cell::OnceCell, fmt};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{
    layout::Key,
    platform::Body,
    storage::{Condition, PutOptions, StorageError, StorageErrorKind, Store},
};

/// The key for upload locations and, unless keys are configured, for blob URLs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    /// The secret of a configured text.
    pub fn from_text(text: &str) -> Self {
        Self(mac(text.as_bytes(), "pierhead secret").finalize().into_bytes().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The secret: of the configuration, or else stored, and read once per isolate.
pub struct SecretStore {
    store: Store,
    secret: OnceCell<Secret>,
}

impl SecretStore {
    /// `configured`, or else the secret in `store`.
    pub fn new(store: Store, configured: Option<Secret>) -> Self {
        Self { store, secret: configured.map(OnceCell::from).unwrap_or_default() }
    }

    /// The secret, created if the store has none. Costs one look-up, once.
    pub async fn get(&self) -> Result<&Secret, StorageError> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let secret = match self.stored().await? {
            Some(secret) => secret,
            None => self.create().await?,
        };
        Ok(self.secret.get_or_init(|| secret))
    }

    async fn stored(&self) -> Result<Option<Secret>, StorageError> {
        let Some((bytes, _)) = self.store.read(&Key::Secret.path(), 32).await? else { return Ok(None) };
        let secret = bytes.as_ref().try_into().map_err(|_| {
            self.broken("the secret must have 32 bytes: delete the object to create a new one".to_owned())
        })?;
        Ok(Some(Secret(secret)))
    }

    /// Creates the secret, unless another request is faster: then that one's counts.
    async fn create(&self) -> Result<Secret, StorageError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| self.broken(error.to_string()))?;
        let options = PutOptions { condition: Condition::IfAbsent, ..PutOptions::default() };
        match self.store.put(&Key::Secret.path(), Body::Bytes(random.to_vec().into()), options).await {
            Ok(_) => Ok(Secret(random)),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {
                self.stored().await?.ok_or_else(|| self.broken("the secret is gone again".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn broken(&self, message: String) -> StorageError {
        let kind = StorageErrorKind::Backend { operation: "read", message, retryable: false };
        self.store.error(&Key::Secret.path(), kind)
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
