//! The secrets of the registry: from the configuration, or for a registry on one's own machine 32 random bytes that are
//! created at first use and stored. Each use has keys of its own, derived from them.

use std::{cell::OnceCell, fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{
    layout::Key,
    platform::Body,
    storage::{Condition, PutOptions, StorageError, StorageErrorKind, Store},
};

/// The fewest characters of a secret.
const MIN_LENGTH: usize = 32;

/// The fewest different characters of a secret. Of 32 random hexadecimal digits, 6 or fewer differ once in 10¹¹ times.
const MIN_DIFFERENT: usize = 7;

/// The value of `SIGNING_SECRET` that lets the registry make its own.
const GENERATED: &str = "generated";

/// What keys are for. A key for one use is worth nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signs the locations of uploads.
    Uploads,
    /// Signs the URLs of blobs, unless `BLOB_REDIRECT_KEYS` is set.
    BlobUrls,
    /// Signs access tokens.
    AccessTokens,
    /// Signs refresh tokens.
    RefreshTokens,
    /// Ties refresh tokens to the password that they were given for.
    Passwords,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Uploads => "pierhead: upload locations",
            Self::BlobUrls => "pierhead: blob URLs",
            Self::AccessTokens => "pierhead: access tokens",
            Self::RefreshTokens => "pierhead: refresh tokens",
            Self::Passwords => "pierhead: passwords",
        }
    }
}

/// Keys for one use, derived from as many secrets. The first signs, all verify.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// The keys of these secrets.
    fn derive(secrets: &[Secret], purpose: Purpose) -> Self {
        let derive = |Secret(secret): &Secret| mac(secret, purpose.label()).finalize().into_bytes().into();
        Self(secrets.iter().map(derive).collect())
    }

    /// The signature of a message: an HMAC-SHA256.
    pub fn sign(&self, message: &str) -> [u8; 32] {
        let key = self.0.first().map(<[u8; 32]>::as_slice).unwrap_or_default();
        mac(key, message).finalize().into_bytes().into()
    }

    /// Whether one of the keys has signed a message. Takes the same time for every signature.
    pub fn verify(&self, message: &str, signature: &[u8]) -> bool {
        // With every key.
        self.0
            .iter()
            .fold(false, |is_valid, key| mac(key, message).verify_slice(signature).is_ok() | is_valid)
    }

    /// The keys themselves.
    pub fn as_bytes(&self) -> &[[u8; 32]] {
        &self.0
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; 32]);

/// The setting `SIGNING_SECRET`.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Signing {
    /// The registry makes a secret and keeps it in the bucket. Whoever can read the bucket can make tokens.
    #[default]
    Generated,
    /// One secret, or two while they are rotated: the first signs, both verify.
    Configured(Secrets),
}

/// Secrets from the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<Secret>);

impl FromStr for Signing {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == GENERATED {
            return Ok(Self::Generated);
        }
        let is_strong = |word: &str| word.chars().count() >= MIN_LENGTH && different(word) >= MIN_DIFFERENT;
        let words: Vec<&str> = s.split_whitespace().collect();
        if words.is_empty() || words.len() > 2 || !words.iter().all(|word| is_strong(word)) {
            return Err(format!(
                "one or two secrets, with a space between, each of at least {MIN_LENGTH} random characters: see `openssl rand -hex 32`"
            ));
        }
        let secret =
            |word: &&str| Secret(mac(word.as_bytes(), "pierhead secret").finalize().into_bytes().into());
        Ok(Self::Configured(Secrets(words.iter().map(secret).collect())))
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generated => f.write_str("Generated"),
            Self::Configured(Secrets(secrets)) => write!(f, "Configured({})", secrets.len()),
        }
    }
}

/// The secrets: of the configuration, or else stored, and read once per isolate.
pub struct SecretStore {
    store: Store,
    secrets: OnceCell<Secrets>,
}

impl SecretStore {
    /// The secrets of the configuration, or else the one in `store`.
    pub fn new(store: Store, signing: Signing) -> Self {
        let secrets = match signing {
            Signing::Generated => OnceCell::new(),
            Signing::Configured(secrets) => secrets.into(),
        };
        Self { store, secrets }
    }

    /// The keys for a use. Costs one look-up, once, if the secret is generated.
    pub async fn keys(&self, purpose: Purpose) -> Result<Keys, StorageError> {
        if let Some(Secrets(secrets)) = self.secrets.get() {
            return Ok(Keys::derive(secrets, purpose));
        }
        let secret = match self.stored().await? {
            Some(secret) => secret,
            None => self.create().await?,
        };
        let Secrets(secrets) = self.secrets.get_or_init(|| Secrets(vec![secret]));
        Ok(Keys::derive(secrets, purpose))
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

/// The number of different characters of a text.
pub fn different(text: &str) -> usize {
    let is_first = |(at, c): &(usize, char)| text.split_at(*at).0.find(*c).is_none();
    text.char_indices().filter(is_first).count()
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

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn keys(setting: &str, purpose: Purpose) -> Keys {
        let store =
            SecretStore::new(Store::new(crate::storage::memory::Memory::default()), setting.parse().unwrap());
        futures_executor::block_on(store.keys(purpose)).unwrap()
    }

    #[test]
    fn weak_secrets_are_refused() {
        for weak in [
            "",
            "short",
            &"a".repeat(64),
            &"abc".repeat(20),
            &format!("{SECRET} short"),
            &[SECRET; 3].join(" "),
        ] {
            assert!(weak.parse::<Signing>().is_err(), "{weak}");
        }
        let shown = format!("{:?}", SECRET.parse::<Signing>().unwrap());
        assert_eq!(shown, "Configured(1)");
        assert_eq!("generated".parse::<Signing>(), Ok(Signing::Generated));
    }

    #[test]
    fn the_first_secret_signs_and_both_verify() {
        let (old, both, new) = (SECRET, format!("{OTHER} {SECRET}"), OTHER);
        let signed = |setting: &str| keys(setting, Purpose::Uploads).sign("x");
        let verifies =
            |setting: &str, signature: &[u8]| keys(setting, Purpose::Uploads).verify("x", signature);
        assert!(
            verifies(&both, &signed(old)) && verifies(&both, &signed(new)) && verifies(new, &signed(&both))
        );
        assert!(!verifies(old, &signed(&both)) && !verifies(new, &signed(old)));
        assert!(!keys(&both, Purpose::Uploads).verify("y", &signed(old)));
    }

    #[test]
    fn each_use_has_keys_of_its_own() {
        use Purpose::{AccessTokens, BlobUrls, Passwords, RefreshTokens, Uploads};
        for setting in [SECRET, "generated"] {
            let store = SecretStore::new(
                Store::new(crate::storage::memory::Memory::default()),
                setting.parse().unwrap(),
            );
            let all = [Uploads, BlobUrls, AccessTokens, RefreshTokens, Passwords];
            let keys = all.map(|purpose| futures_executor::block_on(store.keys(purpose)).unwrap());
            for (index, key) in keys.iter().enumerate() {
                for (other, verifier) in keys.iter().enumerate() {
                    assert_eq!(verifier.verify("x", &key.sign("x")), index == other, "{index} {other}");
                }
            }
        }
    }

    #[test]
    fn the_mac_matches_openssl() {
        // From `printf '/images/cat.jpg1484063787' | openssl dgst -sha256 -hmac mysecrettoken -binary | base64`.
        let got = STANDARD.encode(mac(b"mysecrettoken", "/images/cat.jpg1484063787").finalize().into_bytes());
        assert_eq!(got, "XsZ5NmtNBxOd4f4fBOtqVmpWRnDRNkHKVZieqDPKu3U=");
        let got = STANDARD.encode(mac(&[b'k'; 80], "/images/cat.jpg1484063787").finalize().into_bytes());
        assert_eq!(got, "T4L80hdf3smZ8A4ybq05+1s3XHAdx6UGl4YozWiOU2Y=");
    }
}
