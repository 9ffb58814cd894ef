//! Identities that others vouch for: JSON Web Tokens of CI systems, and those of an outside token server.
//!
//! A token is checked in this order: its form, its issuer, its algorithm and type, its times, its audience, its subject, its
//! signature. So only what names a trusted issuer and could be valid now makes the registry fetch keys.

mod issuer;
mod jwks;
mod keys;
mod token_server;

use std::{collections::BTreeMap, rc::Rc};

pub use self::{
    issuer::{InvalidIssuer, Issuer},
    keys::{FAILURE_PAUSE, FRESH, MAX_DISCOVERY, MAX_JWKS, STALE, TIMEOUT, UNKNOWN_PAUSE},
    token_server::{TokenServer, TokenServerSettings},
};
pub use crate::platform::verifier::Algorithm;

use self::keys::{Keys, Source};
use crate::{
    auth::{
        External,
        jwt::{Claims, Compact, Invalid, LEEWAY},
    },
    oci::Raw,
    platform::{Clock, DocumentClient, Verifier},
};

/// The longest claim that rules can look at, and the longest subject, in bytes.
pub const MAX_CLAIM: usize = 1024;

/// The types of tokens that identify somebody (RFC 7519, RFC 9068). Others, for logouts and proofs, are signed by the same
/// keys.
const KINDS: [&str; 2] = ["JWT", "at+jwt"];

/// Why a token identifies nobody. The texts contain nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its form or its times.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Its `iss` is unknown.
    #[error("the token is not from a trusted issuer")]
    Issuer,
    /// Its `alg` is not allowed for the issuer.
    #[error("the token's algorithm is not allowed for its issuer")]
    Algorithm,
    /// Its `typ` is that of something else.
    #[error("the token's type (typ) is not JWT")]
    Kind,
    /// Its `aud` is another.
    #[error("the token is for another audience")]
    Audience,
    /// The issuer has no key with its `kid` that is fit for its algorithm.
    #[error("the token's issuer has no such key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// The issuer vouches for it, but it may be anybody in the world.
    #[error("no rule of the policy is for a job with these claims: compare them with the rule's")]
    Unnamed,
    /// The issuer's keys cannot be fetched. The token may be good: the client should try again later.
    #[error("the keys of {issuer} are not available: {reason}")]
    Unavailable {
        /// The issuer, as its tokens name it.
        issuer: String,
        /// Why, for the operator.
        reason: String,
    },
}

/// What verifies tokens: parts of the platform.
#[derive(Clone)]
pub struct Means {
    /// Fetches keys.
    pub client: Rc<dyn DocumentClient>,
    /// Verifies signatures.
    pub verifier: Rc<dyn Verifier>,
    /// The time.
    pub clock: Rc<dyn Clock>,
}

/// The issuers of the policy, with their keys. Lives as long as the isolate.
pub struct Issuers(Vec<(Issuer, Vec<String>, Trusted)>);

impl Issuers {
    /// These issuers, each with the names of the claims that rules look at. No two have the same URL. `may_be_private` is
    /// `EXTERNAL_PRIVATE_ISSUERS`.
    pub fn new(issuers: Vec<(Issuer, Vec<String>)>, may_be_private: bool, means: &Means) -> Self {
        let trusted = |issuer: &Issuer| {
            let source = Source { issuer: issuer.url.clone(), jwks: issuer.jwks.clone() };
            let (audience, algorithms) = (issuer.audience.clone(), issuer.algorithms.clone());
            Trusted::new(audience, algorithms, source, may_be_private, means)
        };
        let all = issuers.into_iter().map(|(issuer, claims)| {
            let trusted = trusted(&issuer);
            (issuer, claims, trusted)
        });
        Self(all.collect())
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Verifies a token. Costs no request to the issuer while its keys are known.
    pub async fn identify(&self, token: &str) -> Result<External, Refused> {
        let token = Compact::parse(token)?;
        let claims = token.claims()?;
        let url = issuer_of(&claims)?;
        let found = self.0.iter().find(|(issuer, ..)| issuer.url == url);
        let (issuer, names, trusted) = found.ok_or(Refused::Issuer)?;
        trusted.check(&token, &claims)?;
        let subject = subject_of(&claims)?.ok_or(Invalid::Missing("sub"))?;
        trusted.verify(&token).await?;
        let value = |name: &String| Some((name.clone(), as_text(claims.get(name)?)?));
        let mut claims = BTreeMap::new();
        // One by one: `collect` would sort them, which is more code in the worker.
        claims.extend(names.iter().filter_map(value));
        Ok(External { issuer: issuer.name.clone(), subject, claims })
    }
}

/// Somebody whose tokens count, and what they must be like.
struct Trusted {
    audience: String,
    algorithms: Vec<Algorithm>,
    keys: Keys,
    verifier: Rc<dyn Verifier>,
    clock: Rc<dyn Clock>,
}

impl Trusted {
    fn new(
        audience: String,
        algorithms: Vec<Algorithm>,
        source: Source,
        may_be_private: bool,
        means: &Means,
    ) -> Self {
        let Means { client, verifier, clock } = means.clone();
        let keys = Keys::new(source, may_be_private, client, clock.clone());
        Self { audience, algorithms, keys, verifier, clock }
    }

    /// Checks all but the signature.
    fn check(&self, token: &Compact<'_>, claims: &Claims<'_>) -> Result<(), Refused> {
        self.algorithm(token)?;
        if !token.is_kind(&KINDS) {
            return Err(Refused::Kind);
        }
        claims.check_times(self.clock.now(), LEEWAY)?;
        match claims.is_for(&self.audience)? {
            true => Ok(()),
            false => Err(Refused::Audience),
        }
    }

    fn algorithm(&self, token: &Compact<'_>) -> Result<Algorithm, Refused> {
        let algorithm = token.algorithm.parse().ok();
        algorithm.filter(|algorithm| self.algorithms.contains(algorithm)).ok_or(Refused::Algorithm)
    }

    async fn verify(&self, token: &Compact<'_>) -> Result<(), Refused> {
        let key = self.keys.find(token.key_id.as_deref(), self.algorithm(token)?).await?;
        // Platforms differ in what they do about another length: some report an error.
        if token.signature.len() != key.signature_length() {
            return Err(Refused::Signature);
        }
        match self.verifier.verify(&key, token.signing_input, &token.signature).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::Signature),
            Err(_) => Err(Refused::UnknownKey),
        }
    }
}

fn issuer_of(claims: &Claims<'_>) -> Result<String, Invalid> {
    let issuer = claims.text("iss", MAX_CLAIM, "a text of up to 1024 bytes")?;
    issuer.map(Into::into).ok_or(Invalid::Missing("iss"))
}

fn subject_of(claims: &Claims<'_>) -> Result<Option<String>, Invalid> {
    let (field, expected) = ("sub", "a text of up to 1024 bytes without control characters");
    let subject = claims.text(field, MAX_CLAIM, expected)?.filter(|subject| !subject.is_empty());
    match subject {
        Some(subject) if subject.chars().any(char::is_control) => Err(Invalid::Field { field, expected }),
        subject => Ok(subject.map(Into::into)),
    }
}

/// A claim as text: a number or a boolean as its JSON. `None` if it is longer than [`MAX_CLAIM`], or something else.
fn as_text(claim: Raw<'_>) -> Option<String> {
    let json = claim.json();
    match json.chars().next()? {
        '"' => claim.text(MAX_CLAIM).ok().flatten().map(Into::into),
        '[' | '{' => None,
        _ => Some(json.to_owned()).filter(|json| json.len() <= MAX_CLAIM),
    }
}
