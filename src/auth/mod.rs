//! Who may do what.
//!
//! A [route](crate::api::route::Route) says what right it needs; an [`Authorizer`] checks it once, before
//! dispatch. Another way of proving who one is means another authorizer.

pub mod basic;

use http::HeaderValue;

use crate::oci::RepositoryName;

/// What is done to a repository. Token scopes use these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
}

/// A right that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// To know that the registry is there (`GET /v2/`).
    Base,
    /// To list the repositories.
    Catalog,
    /// To work on a repository.
    Repository(&'a RepositoryName, Action),
    /// To run the registry: jobs over all repositories.
    Administer,
}

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// A user who proved it.
    User(String),
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It must prove who it comes from; the challenge says how.
    #[error("authentication required")]
    Unauthenticated {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// Whoever it comes from may not do this.
    #[error("requested access to the resource is denied")]
    Denied,
}

/// Checks rights.
pub trait Authorizer {
    /// Finds out who a request comes from, and whether they have every right it needs.
    async fn authorize(
        &self,
        authorization: Option<&HeaderValue>,
        access: &[Access<'_>],
    ) -> Result<Principal, AuthError>;
}
