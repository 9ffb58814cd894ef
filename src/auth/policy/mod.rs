//! Authorization, as a pure function of the settings and of one document.

mod document;
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod model;
pub mod quota;
mod rule;
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;

use std::{collections::BTreeSet, fmt, rc::Rc, str::FromStr};

pub use self::{
    document::Document,
    rule::{Permission, Source},
};
use self::{
    document::Tags,
    quota::Quota,
    rule::{ALL, Rule, Who},
};
use super::{Access, Action, External, Key, Principal, identity::external::Issuer};
use crate::oci::{Glob, RepositoryName, Tag};

/// The access of clients without credentials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// What the rules of the document grant, if it has any.
    #[default]
    None,
    /// Pull from all repositories, and list them.
    Pull,
    /// Everything but the metrics and API keys.
    Push,
}

impl FromStr for Anonymous {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "none" => Ok(Self::None),
            "pull" => Ok(Self::Pull),
            "push" => Ok(Self::Push),
            _ => Err("one of none, pull, push".to_owned()),
        }
    }
}

impl Anonymous {
    /// The rule that the setting stands for. It is for everyone: nobody gets less by logging in.
    fn rule(self) -> Option<Rule> {
        let permissions = match self {
            Self::None => return None,
            Self::Pull => vec![Permission::Pull],
            Self::Push => vec![Permission::Pull, Permission::Push, Permission::Delete, Permission::Admin],
        };
        Some(Rule::of_all(Source::Anonymous, Who::Everyone, permissions))
    }
}

/// Who may do what. See `docs/policy.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    tags: Vec<Tags>,
    quotas: Vec<Rc<Quota>>,
    issuers: Vec<Issuer>,
    deletion: bool,
    admin: Option<String>,
}

/// Whether a principal has an access, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it has.
    pub allowed: bool,
    /// What has decided.
    pub reason: Reason,
}

/// What has decided about an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The most specific rule.
    Rule(Source),
    /// No rule matches.
    NoRule,
    /// The principal is the user of `ADMIN_PASSWORD`.
    Admin,
    /// Anybody who logs in has this access. The list of repositories has only what one may pull.
    LoggedIn,
    /// The scopes of the API key.
    Scopes,
    /// Deletion is off, and no rule of the document grants it: the answer is 405, not 403.
    DeletionOff,
    /// The principal is a job.
    Job,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allowed" } else { "refused" })?;
        match self.reason {
            Reason::Rule(source) => write!(f, " by {source}"),
            Reason::NoRule => f.write_str(": no rule matches"),
            Reason::Admin => f.write_str(": the user of ADMIN_PASSWORD may do everything"),
            Reason::LoggedIn => f.write_str(" to anybody who logs in"),
            Reason::Scopes => f.write_str(" by the scopes of the key"),
            Reason::DeletionOff => f.write_str(": DELETION is off, and no rule grants delete"),
            Reason::Job => f.write_str(" to jobs of the registry"),
        }
    }
}

impl Default for Policy {
    /// Users may do everything, and nobody else anything.
    fn default() -> Self {
        Self::simple(Anonymous::None)
    }
}

impl Policy {
    /// The policy of a document and of the settings `ANONYMOUS` and `DELETION`. `admin` is the user of `ADMIN_PASSWORD`.
    /// The errors are the rules of the document that `ANONYMOUS` contradicts.
    pub fn new(
        document: Document,
        anonymous: Anonymous,
        deletion: bool,
        admin: Option<&str>,
    ) -> Result<Self, Vec<String>> {
        if anonymous != Anonymous::None {
            let contradicts =
                |other: &&Rule| matches!(other.who, Who::Everyone | Who::Anonymous) && other.is_for_all();
            let ties = document.rules.iter().filter(contradicts);
            let error = |Rule { source, who, .. }: &Rule| {
                format!("ANONYMOUS must be none: {source} is for {who} and {ALL:?} already")
            };
            let errors: Vec<String> = ties.map(error).collect();
            if !errors.is_empty() {
                return Err(errors);
            }
        }
        let Document { issuers, rules, tags, quotas } = document;
        let mut policy = Self::simple(anonymous);
        if !rules.is_empty() {
            policy.rules.retain(|rule| rule.source != Source::Users);
            policy.rules.extend(rules);
        }
        let quotas = quotas.into_iter().map(Rc::new).collect();
        Ok(Self { tags, quotas, issuers, deletion, admin: admin.map(str::to_owned), ..policy })
    }

    /// The policy without a document, with deletion and without an administrator.
    pub fn simple(anonymous: Anonymous) -> Self {
        let all = Permission::NAMES.iter().map(|(_, permission)| *permission).collect();
        let users = Rule::of_all(Source::Users, Who::Users, all);
        let rules = std::iter::once(users).chain(anonymous.rule()).collect();
        Self { rules, tags: Vec::new(), quotas: Vec::new(), issuers: Vec::new(), deletion: true, admin: None }
    }

    /// Whether `principal` has `access`.
    pub fn allows(&self, principal: &Principal, access: Access<'_>) -> bool {
        self.decide(principal, access).allowed
    }

    /// Whether `principal` has `access`, and why.
    pub fn decide(&self, principal: &Principal, access: Access<'_>) -> Decision {
        let decision = match (principal, access) {
            (Principal::Job(_), _) => return Decision { allowed: true, reason: Reason::Job },
            (Principal::User(name), _) if self.admin.as_ref() == Some(name) => {
                let by_rule = self.by_rule(principal, access);
                let always = Decision { allowed: true, reason: Reason::Admin };
                if by_rule.allowed { by_rule } else { always }
            }
            (Principal::User(_) | Principal::Key(_), Access::Base | Access::Catalog) => {
                Decision { allowed: true, reason: Reason::LoggedIn }
            }
            (Principal::Key(key), _) => self.of_key(key, principal, access),
            (Principal::Anonymous | Principal::User(_) | Principal::External(_), _) => {
                self.by_rule(principal, access)
            }
        };
        let is_explicit = matches!(decision.reason, Reason::Rule(Source::Line(_)));
        let is_deletion = matches!(access, Access::Repository(_, Action::Delete));
        if is_deletion && !self.deletion && decision.allowed && !is_explicit {
            return Decision { allowed: false, reason: Reason::DeletionOff };
        }
        decision
    }

    /// Whether `principal` may pull from every repository, by rules that need no look at names.
    pub fn sees_all(&self, principal: &Principal) -> bool {
        let rules = || self.rules.iter().filter(|rule| rule.who.includes(principal));
        match principal {
            Principal::Job(_) => true,
            Principal::User(name) if self.admin.as_ref() == Some(name) => true,
            Principal::Key(_) => false,
            Principal::Anonymous | Principal::User(_) | Principal::External(_) => {
                rules().any(Rule::is_for_all) && rules().all(|rule| rule.grants(Access::Catalog))
            }
        }
    }

    /// A key has what its scopes allow, less what a rule takes away from it. It never may administer, and needs a rule
    /// for the metrics: its scopes are about repositories.
    fn of_key(&self, key: &Key, principal: &Principal, access: Access<'_>) -> Decision {
        let is_in_scope = match access {
            Access::Repository(name, action) => key.allows(name, action),
            Access::Administer => false,
            Access::Base | Access::Catalog | Access::Metrics => true,
        };
        let is_named = self.rules.iter().any(|rule| matches!(&rule.who, Who::Key(name) if *name == key.name));
        match access {
            _ if !is_in_scope => Decision { allowed: false, reason: Reason::Scopes },
            _ if is_named => self.by_rule(principal, access),
            Access::Metrics => Decision { allowed: false, reason: Reason::NoRule },
            _ => Decision { allowed: true, reason: Reason::Scopes },
        }
    }

    fn by_rule(&self, principal: &Principal, access: Access<'_>) -> Decision {
        let rules = || self.rules.iter().filter(|rule| rule.who.includes(principal));
        let deciding = match access {
            Access::Repository(name, _) => {
                let matching =
                    rules().filter_map(|rule| Some((rule.who.rank(), rule.specificity(name)?, rule)));
                matching.max_by_key(|(rank, specificity, _)| (*rank, *specificity)).map(|(.., rule)| rule)
            }
            Access::Administer | Access::Metrics => {
                rules().filter(|rule| rule.is_for_all()).max_by_key(|rule| rule.who.rank())
            }
            // Whether any rule grants it that does not give way to another everywhere.
            Access::Base | Access::Catalog => {
                let least = rules().filter(|rule| rule.is_for_all()).map(|rule| rule.who.rank()).max();
                rules().find(|rule| Some(rule.who.rank()) >= least && rule.grants(access))
            }
        };
        deciding.map_or(Decision { allowed: false, reason: Reason::NoRule }, |rule| Decision {
            allowed: rule.grants(access),
            reason: Reason::Rule(rule.source),
        })
    }

    /// Whether deletions are allowed without a rule that grants them.
    pub fn has_deletion(&self) -> bool {
        self.deletion
    }

    /// The patterns of a repository's immutable tags.
    pub fn immutable(&self, name: &RepositoryName) -> Vec<Glob> {
        self.tags_of(name).flat_map(|tags| tags.immutable.iter().cloned()).collect()
    }

    /// The line of the document that makes a tag immutable; `None` if it is not.
    pub fn immutable_by(&self, name: &RepositoryName, tag: &Tag) -> Option<usize> {
        let is_immutable = |tags: &&Tags| tags.immutable.iter().any(|glob| glob.matches(tag.as_str()));
        self.tags_of(name).find(is_immutable).map(|tags| tags.line)
    }

    fn tags_of(&self, name: &RepositoryName) -> impl Iterator<Item = &Tags> {
        self.tags.iter().filter(|tags| tags.repositories.iter().any(|glob| glob.matches(name.as_str())))
    }

    /// The quota of a repository: the most specific entry.
    pub fn quota(&self, name: &RepositoryName) -> Option<&Rc<Quota>> {
        let matching = self.quotas.iter().filter_map(|quota| Some((quota.specificity(name)?, quota)));
        matching.max_by_key(|(specificity, _)| *specificity).map(|(_, quota)| quota)
    }

    /// Whether a rule is for this identity by its claims: the issuer may vouch for anybody in the world.
    pub fn names(&self, external: &External) -> bool {
        let principal = Principal::External(external.clone());
        self.rules
            .iter()
            .any(|rule| matches!(rule.who, Who::External { .. }) && rule.who.includes(&principal))
    }

    /// The issuers whose tokens are accepted.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The claims that the rules for an issuer name.
    pub fn claims_of(&self, issuer: &str) -> BTreeSet<&str> {
        let claims = self.rules.iter().filter_map(|rule| match &rule.who {
            Who::External { issuer: name, claims } if name == issuer => Some(claims),
            _ => None,
        });
        let mut names = BTreeSet::new();
        // One by one: `collect` would sort them, which is more code in the worker.
        names.extend(claims.flatten().map(|(name, _)| name.as_str()));
        names
    }
}
