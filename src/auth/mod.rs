//! Authentication ([`identity`]) and authorization ([`policy`]).

pub mod challenge;
pub mod identity;
pub mod jwt;
pub mod policy;
mod principal;
pub mod scope;
pub mod token;

use serde::{Deserialize, Serialize};

use crate::oci::RepositoryName;

pub use identity::Identity;
pub use policy::{
    Anonymous, Policy,
    quota::{OverQuota, Quota},
};
pub use principal::{External, Key, KeyScope, Principal};

/// An action on a repository, named as in token scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
}

impl Action {
    /// All actions, sorted.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The name in scopes and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
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
