//! Authentication ([`identity`]) and authorization ([`policy`]).

pub mod identity;
pub mod policy;

use crate::oci::RepositoryName;

pub use identity::{Identity, Principal};
pub use policy::{Anonymous, Policy};

/// An action on a repository, named as in token scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
}

/// The access that a request requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// Check that this is a registry (`GET /v2/`).
    Base,
    /// List the repositories.
    Catalog,
    /// Perform an action on a repository.
    Repository(&'a RepositoryName, Action),
    /// Run jobs over all repositories.
    Administer,
    /// Read the metrics.
    Metrics,
}
