//! The keys of an issuer, fetched when they are needed and kept in the isolate.

use std::{cell::RefCell, rc::Rc};

use url::Url;

use super::{
    Algorithm, Refused,
    jwks::{self, Jwk},
};
use crate::{
    oci::Raw,
    platform::{Clock, DocumentClient, Timestamp, address, verifier::PublicKey},
};

/// Time for which keys are used without another look, in milliseconds: how long a key still works that its issuer withdrew.
pub const FRESH: u64 = 60 * 60 * 1000;

/// Time for which keys are used while newer ones cannot be fetched, in milliseconds.
pub const STALE: u64 = 24 * 60 * 60 * 1000;

/// Time from one fetch until an unknown key may cause another, in milliseconds.
pub const UNKNOWN_PAUSE: u64 = 60 * 1000;

/// Time from a fetch of keys that are not fresh until the next, in milliseconds.
pub const FAILURE_PAUSE: u64 = 10 * 1000;

/// Time limit of a fetch, in milliseconds, discovery included.
pub const TIMEOUT: u64 = 5000;

/// Limit of a discovery document, in bytes.
pub const MAX_DISCOVERY: usize = 64 * 1024;

/// Limit of a set of keys, in bytes.
pub const MAX_JWKS: usize = 256 * 1024;

/// The longest URL in a discovery document, in bytes.
const MAX_URL: usize = 1024;

/// Time between two looks at a fetch of another request, in milliseconds. A request cannot wait for the promises of
/// another one: the runtime forbids it.
const LOOK: u64 = 20;

/// Time after which a fetch of another request is taken for lost, in milliseconds.
const PATIENCE: u64 = TIMEOUT + 1000;

/// Whose keys, and where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The issuer, as its tokens name it.
    pub issuer: String,
    /// The URL of the keys; `None` for that in the issuer's discovery document (OpenID Connect Discovery 1.0).
    pub jwks: Option<Url>,
}

/// The keys of an issuer.
pub struct Keys {
    source: Source,
    /// Whether the discovery document may name a private address.
    may_be_private: bool,
    client: Rc<dyn DocumentClient>,
    clock: Rc<dyn Clock>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    keys: Vec<Jwk>,
    /// When the keys were fetched.
    fetched: Option<Timestamp>,
    /// When the last fetch ended, and why it failed.
    tried: Option<(Timestamp, Option<String>)>,
    /// When the fetch under way began. Its request may be gone: then nobody ends it.
    fetching: Option<Timestamp>,
}

/// What to do about a key.
enum Step {
    Done(Result<PublicKey, Refused>),
    Wait,
    Fetch,
}

impl Keys {
    /// The keys at `source`.
    pub fn new(
        source: Source,
        may_be_private: bool,
        client: Rc<dyn DocumentClient>,
        clock: Rc<dyn Clock>,
    ) -> Self {
        Self { source, may_be_private, client, clock, state: RefCell::default() }
    }

    /// The key with an id, for an algorithm. Without an id, the only one for the algorithm.
    pub async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<PublicKey, Refused> {
        loop {
            let now = self.clock.now();
            let step = self.state.borrow().step(&self.source.issuer, id, algorithm, now);
            match step {
                Step::Done(result) => return result,
                Step::Wait => self.clock.sleep(LOOK).await,
                Step::Fetch => {
                    self.state.borrow_mut().fetching = Some(now);
                    let result = self.fetch(now).await;
                    self.state.borrow_mut().end(result, self.clock.now());
                }
            }
        }
    }

    async fn fetch(&self, now: Timestamp) -> Result<Vec<Jwk>, String> {
        let url = match &self.source {
            Source { jwks: Some(url), .. } => url.clone(),
            Source { issuer, jwks: None } => self.discover(issuer).await?,
        };
        let left = TIMEOUT.saturating_sub(self.clock.now().milliseconds_since(now));
        let document = self.client.get(url.as_str(), MAX_JWKS, left).await;
        let document = document.map_err(|error| format!("its keys: {error}"))?;
        jwks::read(&document).map_err(|error| format!("its keys: {error}"))
    }

    async fn discover(&self, issuer: &str) -> Result<Url, String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let failed = |error: String| format!("its discovery document: {error}");
        let document = self.client.get(&url, MAX_DISCOVERY, TIMEOUT).await.map_err(failed)?;
        let fields = Raw::read(&document, "document").and_then(|raw| raw.fields(["issuer", "jwks_uri"]));
        let fields = fields.map_err(|error| failed(error.to_string()))?;
        let [named, keys] = fields.map(|field| field?.text(MAX_URL).ok()?);
        if named.as_deref() != Some(issuer) {
            return Err(failed("issuer is another".to_owned()));
        }
        let keys = keys.and_then(|keys| keys.parse().ok());
        let keys: Url = keys.ok_or_else(|| failed("jwks_uri is no URL".to_owned()))?;
        address::check(&keys, self.may_be_private)
            .map_err(|error| failed(format!("jwks_uri must be {error}")))?;
        Ok(keys)
    }
}

impl State {
    fn step(&self, issuer: &str, id: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Step {
        let age = self.fetched.map(|fetched| now.milliseconds_since(fetched));
        let is_within = |limit| age.is_some_and(|age| age < limit);
        let found = if is_within(STALE) { self.key(id, algorithm) } else { None };
        let is_fresh = is_within(FRESH);
        if let (true, Some(key)) = (is_fresh, found) {
            return Step::Done(Ok(key.clone()));
        }
        let pause = if is_fresh { UNKNOWN_PAUSE } else { FAILURE_PAUSE };
        match &self.tried {
            Some((at, failure)) if now.milliseconds_since(*at) < pause => {
                let refused = || match failure {
                    Some(reason) => {
                        Refused::Unavailable { issuer: issuer.to_owned(), reason: reason.clone() }
                    }
                    None => Refused::UnknownKey,
                };
                Step::Done(found.cloned().ok_or_else(refused))
            }
            _ if self.fetching.is_some_and(|since| now.milliseconds_since(since) < PATIENCE) => Step::Wait,
            _ => Step::Fetch,
        }
    }

    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&PublicKey> {
        let is_for = |jwk: &&Jwk| jwk.key.algorithm() == algorithm;
        let mut keys = self.keys.iter().filter(is_for);
        let found = match id {
            Some(id) => keys.find(|jwk| jwk.id.as_deref() == Some(id)),
            None => keys.next().filter(|_| keys.next().is_none()),
        };
        found.map(|jwk| &jwk.key)
    }

    fn end(&mut self, result: Result<Vec<Jwk>, String>, now: Timestamp) {
        self.fetching = None;
        self.tried = Some((now, result.as_ref().err().cloned()));
        if let Ok(keys) = result {
            (self.keys, self.fetched) = (keys, Some(now));
        }
    }
}
