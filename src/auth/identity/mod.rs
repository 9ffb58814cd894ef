//! Who a request comes from. Each way of authenticating is a file: so far [`basic`].

pub mod basic;

use http::{HeaderMap, HeaderValue, header};

use self::basic::{Basic, Htpasswd};

/// Who a request or job acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// An authenticated user.
    User(String),
    /// A job of the registry, by name.
    Job(&'static str),
}

/// The credentials of a request are wrong, or of a kind that this registry does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCredentials;

/// Finds out who a request comes from.
pub struct Identity {
    basic: Basic,
}

impl Identity {
    /// Knows these users. `salt` is random, and protects passwords in memory.
    pub fn new(users: Htpasswd, salt: [u8; 16]) -> Self {
        Self { basic: Basic::new(users, salt) }
    }

    /// Who the request comes from. Wrong credentials are an error even where none are needed, so that the client
    /// learns of it.
    pub fn of(&self, headers: &HeaderMap) -> Result<Principal, InvalidCredentials> {
        match headers.get(header::AUTHORIZATION) {
            None => Ok(Principal::Anonymous),
            Some(value) => self.basic.user(value).map(Principal::User).ok_or(InvalidCredentials),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 9110, section 11.6.1): how to authenticate here.
    pub fn challenge(&self) -> HeaderValue {
        HeaderValue::from_static("Basic realm=\"Pierhead\", charset=\"UTF-8\"")
    }
}
