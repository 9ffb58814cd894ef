//! One rule: who it is for, where, and what it grants.

use std::fmt;

use super::document::Tie;
use crate::{
    auth::{Access, Action, External, Principal},
    oci::{Glob, RepositoryName, Specificity},
};

/// The pattern of all repositories. What belongs to no repository is decided by the rules that have it.
pub(super) const ALL: &str = "**";

/// What a rule can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Read from a repository.
    Pull,
    /// Write to a repository.
    Push,
    /// Remove from a repository.
    Delete,
    /// Run jobs, and manage keys and event endpoints. Includes the metrics.
    Admin,
    /// Read the metrics.
    Metrics,
}

impl Permission {
    /// The names in the document.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("pull", Self::Pull),
        ("push", Self::Push),
        ("delete", Self::Delete),
        ("admin", Self::Admin),
        ("metrics", Self::Metrics),
    ];

    /// Whether it belongs to no repository.
    pub fn is_global(self) -> bool {
        matches!(self, Self::Admin | Self::Metrics)
    }
}

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The document: the line in which the rule begins, counted from 1.
    Line(usize),
    /// The setting `ANONYMOUS`.
    Anonymous,
    /// The default: without any rule in the document, users may do everything.
    Users,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "the rule in line {line}"),
            Self::Anonymous => f.write_str("the setting ANONYMOUS"),
            Self::Users => f.write_str("the default for users, as there are no rules"),
        }
    }
}

/// Who a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// Anybody at all.
    Everyone,
    /// Clients without credentials.
    Anonymous,
    /// Anybody who logs in with a password.
    Users,
    /// One user.
    User(String),
    /// One robot account.
    Key(String),
    /// The identities of an issuer whose claims match all patterns.
    External { issuer: String, claims: Vec<(String, Glob)> },
}

/// How much a rule says of who it is for: greater is more specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Everyone,
    Anonymous,
    Users,
    /// One name, or this many claims.
    Named(usize),
}

impl Who {
    pub fn rank(&self) -> Rank {
        match self {
            Self::Everyone => Rank::Everyone,
            Self::Anonymous => Rank::Anonymous,
            Self::Users => Rank::Users,
            Self::User(_) | Self::Key(_) => Rank::Named(1),
            Self::External { claims, .. } => Rank::Named(claims.len()),
        }
    }

    pub fn includes(&self, principal: &Principal) -> bool {
        match (self, principal) {
            (Self::Everyone, _)
            | (Self::Anonymous, Principal::Anonymous)
            | (Self::Users, Principal::User(_)) => true,
            (Self::User(name), Principal::User(user)) => name == user,
            (Self::Key(name), Principal::Key(key)) => *name == key.name,
            (Self::External { issuer, claims }, Principal::External(external)) => {
                *issuer == external.issuer && claims.iter().all(|claim| has(external, claim))
            }
            _ => false,
        }
    }

    /// Whether a principal exists that both include.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::External { issuer, claims }, Self::External { issuer: other, claims: others }) => {
                let may_match = |(name, glob): &(String, Glob)| {
                    let same = others.iter().find(|(other, _)| name == other);
                    same.is_none_or(|(_, other)| glob.overlaps(other))
                };
                issuer == other && claims.iter().all(may_match)
            }
            _ => self == other,
        }
    }
}

fn has(external: &External, (name, glob): &(String, Glob)) -> bool {
    external.claims.get(name).is_some_and(|value| glob.matches(value))
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Anonymous => f.write_str("anonymous clients"),
            Self::Users => f.write_str("users"),
            Self::User(name) => write!(f, "the user {name}"),
            Self::Key(name) => write!(f, "the key {name}"),
            Self::External { issuer, claims } => {
                write!(f, "{issuer} with {} claim{}", claims.len(), if claims.len() == 1 { "" } else { "s" })
            }
        }
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub source: Source,
    pub who: Who,
    pub repositories: Vec<Glob>,
    pub permissions: Vec<Permission>,
}

impl Rule {
    /// A rule for all repositories.
    pub fn of_all(source: Source, who: Who, permissions: Vec<Permission>) -> Self {
        Self { source, who, repositories: Glob::new(ALL).into_iter().collect(), permissions }
    }

    pub fn grants(&self, access: Access<'_>) -> bool {
        let has = |permission| self.permissions.contains(&permission);
        match access {
            Access::Base => !self.permissions.is_empty(),
            Access::Catalog | Access::Repository(_, Action::Pull) => has(Permission::Pull),
            Access::Repository(_, Action::Push) => has(Permission::Push),
            Access::Repository(_, Action::Delete) => has(Permission::Delete),
            Access::Administer => has(Permission::Admin),
            Access::Metrics => has(Permission::Metrics),
        }
    }

    /// How specific the rule is for a repository; `None` if no pattern matches.
    pub fn specificity(&self, name: &RepositoryName) -> Option<Specificity> {
        let matching = self.repositories.iter().filter(|glob| glob.matches(name.as_str()));
        matching.map(Glob::specificity).max()
    }

    /// Whether the rule is for all repositories, and for what belongs to none.
    pub fn is_for_all(&self) -> bool {
        self.repositories.iter().any(|glob| glob.as_str() == ALL)
    }

    /// The patterns, ours first, that leave it open which of two rules decides for some principal and name.
    pub fn tie<'a>(&'a self, other: &'a Self) -> Option<(&'a Glob, &'a Glob)> {
        if self.who.rank() != other.who.rank() || !self.who.meets(&other.who) {
            return None;
        }
        Tie::between(&self.repositories, &other.repositories)
    }
}
