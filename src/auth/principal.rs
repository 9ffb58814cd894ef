//! Who a request or job acts for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Action;
use crate::oci::{Glob, RepositoryName};

/// The identity that a request or job acts for. Tokens carry it, except that of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A client without credentials.
    Anonymous,
    /// A user with a password.
    User(String),
    /// A robot account with an API key.
    Key(Key),
    /// An identity that somebody else vouches for: a CI job.
    External(External),
    /// A job of the registry, by name.
    #[serde(skip)]
    Job(#[serde(skip)] &'static str),
}

/// A robot account, as one of its keys identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The key's public part.
    pub id: String,
    /// The name of the robot account: what a client gives as its user name.
    pub name: String,
    /// What the key may do.
    pub scopes: Vec<KeyScope>,
}

/// A part of what an API key may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyScope {
    /// The repositories.
    pub repositories: Glob,
    /// The actions.
    pub actions: Vec<Action>,
}

/// An identity from an issuer that the policy trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// The issuer's name in the policy.
    pub issuer: String,
    /// Its claim `sub`.
    pub subject: String,
    /// The claims that the policy's rules name, as text.
    pub claims: BTreeMap<String, String>,
}

impl Key {
    /// Whether a scope of the key covers an action.
    pub fn allows(&self, name: &RepositoryName, action: Action) -> bool {
        let covers =
            |scope: &KeyScope| scope.actions.contains(&action) && scope.repositories.matches(name.as_str());
        self.scopes.iter().any(covers)
    }
}

impl Principal {
    /// The name in logs and events. A user's name has no colon.
    pub fn name(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::User(name) => name.clone(),
            Self::Key(key) => format!("key:{}", key.name),
            Self::External(External { issuer, subject, .. }) => format!("{issuer}:{subject}"),
            Self::Job(name) => format!("job:{name}"),
        }
    }
}
