//! Digests (`sha256:…`, `sha512:…`) and the hasher that computes them, whose state can be saved and resumed.

use std::{fmt, str::FromStr};

use ::digest::common::hazmat::{SerializableState, SerializedState};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// The hash algorithms a digest may use: the two that the image specification registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// The canonical algorithm, and the default.
    Sha256,
    /// Used only if a client chooses it.
    Sha512,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name in digests and in storage keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hexadecimal part of a digest, in characters.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == s)
            .ok_or_else(|| InvalidDigest::Algorithm(s.to_owned()))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A content digest: `<algorithm>:<lower-case hex of the right length>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// There is no `:`.
    #[error("digest {0:?} is not of the form <algorithm>:<hex>: use sha256 or sha512")]
    Form(String),
    /// The algorithm is not supported.
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    Algorithm(String),
    /// The encoded part has the wrong length, or characters other than `0-9a-f`.
    #[error(
        "digest {digest:?} is malformed: it must have {expected} lower-case hexadecimal characters after the colon"
    )]
    Hex {
        /// The text.
        digest: String,
        /// The length that the algorithm requires, in characters.
        expected: usize,
    },
}

impl Digest {
    /// The length of the longest digest, in characters.
    pub const MAX_LEN: usize = "sha512:".len() + 128;

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The raw hash.
    pub fn to_bytes(&self) -> Vec<u8> {
        let nibble = |c: u8| if c <= b'9' { c - b'0' } else { c - b'a' + 10 };
        let (pairs, _) = self.hex.as_bytes().as_chunks::<2>();
        pairs.iter().map(|[high, low]| nibble(*high) << 4 | nibble(*low)).collect()
    }

    /// The digest whose raw hash is `hash`; `None` if its length is not the algorithm's.
    pub fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        let hex = hash.iter().fold(String::with_capacity(hash.len() * 2), |mut hex, byte| {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }));
            }
            hex
        });
        (hex.len() == algorithm.hex_len()).then_some(Self { algorithm, hex })
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, hex) = s.split_once(':').ok_or_else(|| InvalidDigest::Form(s.to_owned()))?;
        let algorithm: Algorithm = algorithm.parse()?;
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidDigest::Hex { digest: s.to_owned(), expected: algorithm.hex_len() });
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(s: String) -> Result<Self, InvalidDigest> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running hash over a blob.
#[derive(Clone)]
pub enum Hasher {
    /// A running SHA-256.
    Sha256(Sha256),
    /// A running SHA-512.
    Sha512(Sha512),
}

/// The state of a [`Hasher`], saved between requests: the hash library's own serialisation, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashState(String);

/// A [`HashState`] that the hash library does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored hash state cannot be read")]
pub struct InvalidHashState;

impl Hasher {
    /// Starts a hash.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Resumes a hash from a saved [`Hasher::state`].
    pub fn resume(algorithm: Algorithm, state: &HashState) -> Result<Self, InvalidHashState> {
        fn restore<H: SerializableState>(bytes: &[u8]) -> Result<H, InvalidHashState> {
            let state = SerializedState::<H>::try_from(bytes).map_err(|_| InvalidHashState)?;
            H::deserialize(&state).map_err(|_| InvalidHashState)
        }
        let bytes = STANDARD.decode(&state.0).map_err(|_| InvalidHashState)?;
        Ok(match algorithm {
            Algorithm::Sha256 => Self::Sha256(restore(&bytes)?),
            Algorithm::Sha512 => Self::Sha512(restore(&bytes)?),
        })
    }

    /// The state to save for [`Hasher::resume`].
    pub fn state(&self) -> HashState {
        HashState(match self {
            Self::Sha256(hash) => STANDARD.encode(hash.serialize()),
            Self::Sha512(hash) => STANDARD.encode(hash.serialize()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        let (algorithm, hash) = match self {
            Self::Sha256(hash) => (Algorithm::Sha256, hash.finalize().to_vec()),
            Self::Sha512(hash) => (Algorithm::Sha512, hash.finalize().to_vec()),
        };
        // The hash library's output has the algorithm's length, so the default is never used.
        Digest::from_hash(algorithm, &hash).unwrap_or(Digest { algorithm, hex: String::new() })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_no_bytes_is_correct() {
        assert_eq!(Algorithm::Sha256.digest(b"").to_string(), EMPTY);
    }

    #[test]
    fn malformed_digests_are_refused() {
        for (text, expected) in [
            ("", InvalidDigest::Form(String::new())),
            ("latest", InvalidDigest::Form("latest".into())),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", InvalidDigest::Algorithm("md5".into())),
            ("SHA256:00", InvalidDigest::Algorithm("SHA256".into())),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{text}");
        }
        for text in [
            "sha256:".to_owned(),
            "sha256:baddigeststring".to_owned(),
            EMPTY.to_uppercase().replace("SHA256", "sha256"),
            format!("{EMPTY}0"),
            EMPTY.replace("sha256", "sha512"),
        ] {
            assert!(matches!(text.parse::<Digest>(), Err(InvalidDigest::Hex { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_hash_resumed_at_any_byte_gives_the_same_digest(bytes: Vec<u8>, cut in 0usize..4096) {
            for algorithm in Algorithm::ALL {
                let cut = cut.min(bytes.len());
                let mut first = Hasher::new(algorithm);
                first.update(&bytes[..cut]);
                let mut second = Hasher::resume(algorithm, &first.state()).unwrap();
                second.update(&bytes[cut..]);
                prop_assert_eq!(second.finish(), algorithm.digest(&bytes));
            }
        }

        #[test]
        fn text_and_bytes_round_trip(bytes: Vec<u8>) {
            for algorithm in Algorithm::ALL {
                let digest = algorithm.digest(&bytes);
                prop_assert_eq!(&digest.to_string().parse::<Digest>().unwrap(), &digest);
                prop_assert_eq!(Digest::from_hash(algorithm, &digest.to_bytes()), Some(digest));
            }
        }
    }

    #[test]
    fn an_invalid_hash_state_is_an_error() {
        for state in ["", "not base64", "AAAA"] {
            assert!(Hasher::resume(Algorithm::Sha256, &HashState(state.into())).is_err());
        }
    }
}
