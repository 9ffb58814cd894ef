//! The value of `WWW-Authenticate` (RFC 9110, section 11.6.1; RFC 6750, section 3).

use http::HeaderValue;

use super::{Access, Action, scope::Grant};
use crate::oci::RepositoryName;

/// The challenge of a token service that itself wants a password.
pub fn basic() -> HeaderValue {
    HeaderValue::from_static("Basic realm=\"Pierhead\", charset=\"UTF-8\"")
}

/// Why a token does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is forged, has expired, or was revoked.
    InvalidToken,
    /// It does not allow this.
    InsufficientScope,
}

/// Where a client gets a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenService {
    /// The URL of the token service.
    pub realm: String,
    /// The name of the registry there.
    pub service: String,
}

impl TokenService {
    /// The challenge to a request that requires `access`, and may also need to pull from `source`.
    pub fn challenge(
        &self,
        access: Access<'_>,
        source: Option<&RepositoryName>,
        fault: Option<Fault>,
    ) -> HeaderValue {
        let Self { realm, service } = self;
        let mut text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
        if let Some(scope) = scope_of(access) {
            let source = source.and_then(|source| Grant::repository(source, &[Action::Pull]));
            let source = source.map(|source| format!(" {source}")).unwrap_or_default();
            text = format!("{text},scope=\"{scope}{source}\"");
        }
        match fault {
            Some(Fault::InvalidToken) => text.push_str(",error=\"invalid_token\""),
            Some(Fault::InsufficientScope) => text.push_str(",error=\"insufficient_scope\""),
            None => {}
        }
        HeaderValue::try_from(text).unwrap_or_else(|_| basic())
    }
}

/// The scope that a client needs for an access.
fn scope_of(access: Access<'_>) -> Option<Grant> {
    match access {
        Access::Repository(name, Action::Push) => Grant::repository(name, &[Action::Pull, Action::Push]),
        Access::Repository(name, action) => Grant::repository(name, &[action]),
        Access::Catalog => Some(Grant::catalog()),
        Access::Base | Access::Administer | Access::Metrics => None,
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_realm_service_scope_and_fault() {
        let service = TokenService { realm: "https://r.example/token".into(), service: "r.example".into() };
        let name = "team/app".parse().unwrap();
        let start = "Bearer realm=\"https://r.example/token\",service=\"r.example\"";
        for (access, fault, rest) in [
            (Access::Base, None, ""),
            (Access::Base, Some(Fault::InvalidToken), ",error=\"invalid_token\""),
            (Access::Catalog, None, ",scope=\"registry:catalog:*\""),
            (Access::Repository(&name, Action::Pull), None, ",scope=\"repository:team/app:pull\""),
            (Access::Repository(&name, Action::Delete), None, ",scope=\"repository:team/app:delete\""),
            (
                Access::Repository(&name, Action::Push),
                Some(Fault::InsufficientScope),
                ",scope=\"repository:team/app:pull,push\",error=\"insufficient_scope\"",
            ),
        ] {
            assert_eq!(service.challenge(access, None, fault), format!("{start}{rest}"));
        }
        let source = "team/base".parse().unwrap();
        let challenge = service.challenge(Access::Repository(&name, Action::Push), Some(&source), None);
        let scope = ",scope=\"repository:team/app:pull,push repository:team/base:pull\"";
        assert_eq!(challenge, format!("{start}{scope}"));
    }
}
