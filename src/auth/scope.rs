//! Scopes of tokens: what a client asks for, and what a token allows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Access, Action};
use crate::oci::RepositoryName;

/// The most scopes that one request for a token may name.
pub const MAX_SCOPES: usize = 64;

/// What a token allows on one resource: an entry of its claim `access`, as in Docker's token protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `repository`, or `registry` for the catalog.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the repository; `catalog`.
    pub name: String,
    /// The actions, sorted. `*` is every action on the catalog.
    pub actions: Vec<String>,
}

/// A scope: `repository:team/app:pull,push`, or `registry:catalog:*`. What a registry does not know (another type of
/// resource, a malformed name) is kept out of tokens: Docker's protocol refuses no request for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Actions on a repository.
    Repository(RepositoryName, Vec<Action>),
    /// The list of repositories.
    Catalog,
}

impl Scope {
    /// Reads the scopes of a request: each parameter may hold several, with spaces between. Reads up to [`MAX_SCOPES`].
    pub fn parse_all<'a>(parameters: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let words = parameters.into_iter().flat_map(str::split_ascii_whitespace);
        words.take(MAX_SCOPES).filter_map(Self::parse).collect()
    }

    /// Reads one scope. The name may contain a colon (a host with a port, which no repository here has).
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // `repository(plugin)` is a class of repository.
        match kind.split_once('(').map_or(kind, |(kind, _)| kind) {
            "repository" => {
                let is_named =
                    |action: &Action| actions.split(',').any(|word| word == "*" || word == action.as_str());
                let actions = Action::ALL.into_iter().filter(is_named).collect();
                Some(Self::Repository(name.parse().ok()?, actions))
            }
            "registry" => {
                (name == "catalog" && actions.split(',').any(|word| word == "*")).then_some(Self::Catalog)
            }
            _ => None,
        }
    }
}

impl Grant {
    /// The grant of these actions on a repository; `None` without any.
    pub fn repository(name: &RepositoryName, actions: &[Action]) -> Option<Self> {
        let actions: Vec<String> = actions.iter().map(|action| action.as_str().to_owned()).collect();
        (!actions.is_empty()).then(|| Self { kind: "repository".to_owned(), name: name.to_string(), actions })
    }

    /// The grant of the list of repositories.
    pub fn catalog() -> Self {
        Self { kind: "registry".to_owned(), name: "catalog".to_owned(), actions: vec!["*".to_owned()] }
    }

    /// Whether the grant covers an access.
    pub fn covers(&self, access: Access<'_>) -> bool {
        let has = |word: &str| self.actions.iter().any(|action| action == word || action == "*");
        match access {
            Access::Catalog => self.kind == "registry" && self.name == "catalog" && has("*"),
            Access::Repository(name, action) => {
                self.kind == "repository" && self.name == name.as_str() && has(action.as_str())
            }
            Access::Base | Access::Administer | Access::Metrics => false,
        }
    }
}

/// Whether a token with these grants covers an access.
pub fn cover(grants: &[Grant], access: Access<'_>) -> bool {
    match access {
        Access::Base => true,
        // No scope names administration and metrics: they need a password with the request.
        access => grants.iter().any(|grant| grant.covers(access)),
    }
}

impl fmt::Display for Grant {
    /// The scope that asks for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}
