//! Authentication. Each scheme is a file: so far [`basic`].

pub mod basic;

use http::{HeaderMap, HeaderValue, header};

use self::basic::{Basic, Htpasswd};

/// The identity that a request or job acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A client without credentials.
    Anonymous,
    /// An authenticated user.
    User(String),
    /// A job of the registry, by name.
    Job(&'static str),
}

/// The credentials of a request are wrong, or their scheme is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCredentials;

/// Authenticates requests.
pub struct Identity {
    basic: Basic,
}

impl Identity {
    /// Authenticates `users`. `salt` must be random: it protects passwords in memory.
    pub fn new(users: Htpasswd, salt: [u8; 16]) -> Self {
        Self { basic: Basic::new(users, salt) }
    }

    /// Authenticates a request. Wrong credentials are an error even where anonymous access would do, so that
    /// the client notices the mistake.
    pub fn of(&self, headers: &HeaderMap) -> Result<Principal, InvalidCredentials> {
        match headers.get(header::AUTHORIZATION) {
            None => Ok(Principal::Anonymous),
            Some(value) => self.basic.user(value).map(Principal::User).ok_or(InvalidCredentials),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 9110, section 11.6.1).
    pub fn challenge(&self) -> HeaderValue {
        HeaderValue::from_static("Basic realm=\"Pierhead\", charset=\"UTF-8\"")
    }
}
