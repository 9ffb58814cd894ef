//! Signatures of tokens from other issuers, and of manifests.

use std::{fmt, str::FromStr};

use futures_util::future::LocalBoxFuture;

/// An asymmetric signature algorithm of JSON Web Signatures (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256. The signature is r and s, 32 bytes each.
    Es256,
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-384 with SHA-384, for manifests only. The signature is r and s, 48 bytes each.
    Es384,
}

impl Algorithm {
    /// All algorithms of tokens.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// The value of `alg` in headers and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Es384 => "ES384",
        }
    }
}

/// A text that names no algorithm of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of RS256, ES256, EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        match name {
            "RS256" => Ok(Self::Rs256),
            "ES256" => Ok(Self::Es256),
            // RFC 9864 renames it.
            "EdDSA" | "Ed25519" => Ok(Self::EdDsa),
            _ => Err(UnknownAlgorithm),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key. Its kind decides the algorithm, so that a token cannot choose another one for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// A key for [`Algorithm::Rs256`].
    Rsa {
        /// The modulus, big-endian, without leading zeros.
        n: Vec<u8>,
        /// The exponent, big-endian, without leading zeros.
        e: Vec<u8>,
    },
    /// A key for [`Algorithm::Es256`]. The point may be off the curve: the platform checks that.
    P256 {
        /// The x coordinate.
        x: [u8; 32],
        /// The y coordinate.
        y: [u8; 32],
    },
    /// A key for [`Algorithm::EdDsa`].
    Ed25519([u8; 32]),
    /// A key for [`Algorithm::Es384`]. The point may be off the curve.
    P384 {
        /// The x coordinate.
        x: [u8; 48],
        /// The y coordinate.
        y: [u8; 48],
    },
}

/// The sizes of RSA moduli, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The exponents of RSA keys: 3 and 65537.
const RSA_EXPONENTS: [&[u8]; 2] = [&[3], &[1, 0, 1]];

impl PublicKey {
    /// An RSA key with this modulus and exponent, big-endian; `None` unless all platforms accept it.
    pub fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Self> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let is_odd = n.last().is_some_and(|byte| byte % 2 == 1);
        let fits = RSA_BITS.contains(&bits(&n)) && RSA_EXPONENTS.contains(&&*e);
        (fits && is_odd).then_some(Self::Rsa { n, e })
    }

    /// The algorithm that the key is for.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256 { .. } => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
            Self::P384 { .. } => Algorithm::Es384,
        }
    }

    /// The length of the key's signatures, in bytes.
    pub fn signature_length(&self) -> usize {
        match self {
            Self::Rsa { n, .. } => n.len(),
            Self::P256 { .. } | Self::Ed25519(_) => 64,
            Self::P384 { .. } => 96,
        }
    }
}

fn without_zeros(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}

/// The length of a number without leading zeros, in bits.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// The platform's implementation of signatures.
pub trait Verifier {
    /// Whether `signature`, which has [`PublicKey::signature_length`], is `key`'s of `message`. An error means that the
    /// platform refused the key.
    fn verify<'a>(
        &'a self,
        key: &'a PublicKey,
        message: &'a [u8],
        signature: &'a [u8],
    ) -> LocalBoxFuture<'a, Result<bool, String>>;
}
