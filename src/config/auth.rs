//! Access settings.

use super::Vars;
use crate::auth::{Anonymous, identity::basic::Htpasswd};

/// Users, and access without credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// `ANONYMOUS`: access without credentials.
    pub anonymous: Anonymous,
    /// `HTPASSWD` (a secret): users and the bcrypt hashes of their passwords.
    pub users: Htpasswd,
}

impl AuthConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            anonymous: vars.parse("ANONYMOUS", default.anonymous),
            users: vars.parse("HTPASSWD", default.users),
        }
    }
}
