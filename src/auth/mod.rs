//! Authentication and authorization: [`identity`] says who a request comes from, [`policy`] what they may do.

pub mod identity;
pub mod policy;

use crate::oci::RepositoryName;

pub use identity::{Identity, Principal};
pub use policy::{Anonymous, Policy};

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
    /// Learn that this is a registry (`GET /v2/`).
    Base,
    /// List the repositories.
    Catalog,
    /// Do something to a repository.
    Repository(&'a RepositoryName, Action),
    /// Run jobs over all repositories.
    Administer,
}
