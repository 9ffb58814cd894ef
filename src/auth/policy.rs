//! Authorization, as a pure function.

use std::str::FromStr;

use super::{Access, Action, Principal};

/// The access of clients without credentials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing.
    #[default]
    None,
    /// List the repositories and pull from them.
    Pull,
    /// Everything.
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

/// The rules: users and jobs have full access, anonymous clients what the configuration allows, and never the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The access of clients without credentials.
    pub anonymous: Anonymous,
}

impl Policy {
    /// Whether `principal` has `access`.
    pub fn allows(&self, principal: &Principal, access: Access<'_>) -> bool {
        match (principal, access) {
            (Principal::User(_) | Principal::Job(_), _) => true,
            (Principal::Anonymous, Access::Base | Access::Catalog | Access::Repository(_, Action::Pull)) => {
                self.anonymous != Anonymous::None
            }
            (Principal::Anonymous, Access::Repository(..) | Access::Administer) => {
                self.anonymous == Anonymous::Push
            }
            // They tell how much the registry is used, and by which means.
            (Principal::Anonymous, Access::Metrics) => false,
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::RepositoryName;

    #[test]
    fn anonymous_access_is_configurable_and_users_have_full_access() {
        let name: RepositoryName = "a".parse().unwrap();
        let rights = [
            (Access::Base, [false, true, true]),
            (Access::Catalog, [false, true, true]),
            (Access::Repository(&name, Action::Pull), [false, true, true]),
            (Access::Repository(&name, Action::Push), [false, false, true]),
            (Access::Repository(&name, Action::Delete), [false, false, true]),
            (Access::Administer, [false, false, true]),
            (Access::Metrics, [false; 3]),
        ];
        for (index, anonymous) in [Anonymous::None, Anonymous::Pull, Anonymous::Push].into_iter().enumerate()
        {
            let policy = Policy { anonymous };
            for (access, expected) in rights {
                assert_eq!(
                    policy.allows(&Principal::Anonymous, access),
                    expected[index],
                    "{anonymous:?} {access:?}"
                );
                assert!(policy.allows(&Principal::User("ann".into()), access));
            }
        }
    }
}
