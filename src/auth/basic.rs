//! Users from htpasswd lines, checked with HTTP Basic authentication; anonymous rights by configuration.

use std::{cell::RefCell, collections::HashMap, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::{Access, Action, AuthError, Authorizer, Principal};

/// What may be done without proving who one is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing.
    #[default]
    None,
    /// Pull from every repository and list them.
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

impl Anonymous {
    fn allows(self, access: Access<'_>) -> bool {
        match access {
            Access::Base | Access::Catalog | Access::Repository(_, Action::Pull) => self != Self::None,
            Access::Repository(..) | Access::Administer => self == Self::Push,
        }
    }
}

/// Users and the bcrypt hashes of their passwords, as `htpasswd -nbB user password` prints them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Htpasswd(HashMap<String, String>);

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Htpasswd({} users)", self.0.len())
    }
}

impl FromStr for Htpasswd {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (index, line) in s.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line
                .split_once(':')
                .filter(|(user, hash)| !user.is_empty() && hash.starts_with("$2") && hash.len() == 60)
                .ok_or_else(|| {
                    format!(
                        "lines of user:bcrypt-hash, as `htpasswd -nbB user password` prints them (line {} is not)",
                        index + 1
                    )
                })?;
            users.insert(user.to_owned(), hash.to_owned());
        }
        Ok(Self(users))
    }
}

/// How many verified passwords are remembered.
const MAX_VERIFIED: usize = 256;

/// The authorizer. Every user may do everything.
pub struct BasicAuth {
    users: Htpasswd,
    anonymous: Anonymous,
    /// Salted hashes of the credentials that bcrypt has accepted: it is slow by design, and a push makes
    /// many requests. Lives as long as the isolate.
    verified: RefCell<HashMap<[u8; 32], ()>>,
    salt: [u8; 16],
}

impl BasicAuth {
    /// An authorizer for these users; `salt` is random.
    pub fn new(users: Htpasswd, anonymous: Anonymous, salt: [u8; 16]) -> Self {
        Self { users, anonymous, verified: RefCell::default(), salt }
    }

    fn unauthenticated() -> AuthError {
        let challenge = HeaderValue::from_static("Basic realm=\"Pierhead\", charset=\"UTF-8\"");
        AuthError::Unauthenticated { challenge }
    }

    fn user(&self, authorization: &HeaderValue) -> Option<String> {
        let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let credentials = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = credentials.split_once(':')?;
        let hash = self.users.0.get(user);
        let mut fingerprint = Sha256::new();
        fingerprint.update(self.salt);
        fingerprint.update(&credentials);
        let fingerprint: [u8; 32] = fingerprint.finalize().into();
        if hash.is_some() && self.verified.borrow().contains_key(&fingerprint) {
            return Some(user.to_owned());
        }
        // An unknown user's password is checked too, against anybody's: it takes as long as a known one's.
        let against = hash.or_else(|| self.users.0.values().next())?;
        let matches = bcrypt::verify(password, against).unwrap_or(false);
        if !matches || hash.is_none() {
            return None;
        }
        let mut verified = self.verified.borrow_mut();
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(fingerprint, ());
        Some(user.to_owned())
    }
}

impl Authorizer for BasicAuth {
    async fn authorize(
        &self,
        authorization: Option<&HeaderValue>,
        access: &[Access<'_>],
    ) -> Result<Principal, AuthError> {
        let principal = match authorization {
            // Wrong credentials are refused even where none are needed: the client should hear of it.
            Some(authorization) => {
                Principal::User(self.user(authorization).ok_or_else(Self::unauthenticated)?)
            }
            None => Principal::Anonymous,
        };
        match principal {
            Principal::Anonymous if !access.iter().all(|access| self.anonymous.allows(*access)) => {
                Err(Self::unauthenticated())
            }
            principal => Ok(principal),
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::RepositoryName;
    use futures_executor::block_on;

    fn header(text: &str) -> HeaderValue {
        format!("Basic {}", STANDARD.encode(text)).parse().unwrap()
    }

    fn auth(anonymous: Anonymous) -> BasicAuth {
        let hash =
            bcrypt::hash_with_salt("p:w", 4, [1; 16]).unwrap().format_for_version(bcrypt::Version::TwoY);
        BasicAuth::new(format!("# users\n\nann:{hash}\n").parse().unwrap(), anonymous, [2; 16])
    }

    #[test]
    fn users_prove_themselves_with_their_password() {
        let auth = auth(Anonymous::None);
        let authorize = |value: &HeaderValue| block_on(auth.authorize(Some(value), &[Access::Base]));
        for _ in 0..2 {
            assert_eq!(authorize(&header("ann:p:w")), Ok(Principal::User("ann".into())));
        }
        for wrong in [
            header("ann:x"),
            header("ann"),
            header("bob:p:w"),
            header(":"),
            HeaderValue::from_static("Bearer x"),
        ] {
            assert_eq!(authorize(&wrong), Err(BasicAuth::unauthenticated()), "{wrong:?}");
        }
    }

    #[test]
    fn nobody_gets_what_the_configuration_gives() {
        let name: RepositoryName = "a".parse().unwrap();
        let rights = [
            (Access::Base, [false, true, true]),
            (Access::Catalog, [false, true, true]),
            (Access::Repository(&name, Action::Pull), [false, true, true]),
            (Access::Repository(&name, Action::Push), [false, false, true]),
            (Access::Repository(&name, Action::Delete), [false, false, true]),
            (Access::Administer, [false, false, true]),
        ];
        for (index, anonymous) in [Anonymous::None, Anonymous::Pull, Anonymous::Push].into_iter().enumerate()
        {
            for (access, expected) in rights {
                let result = block_on(auth(anonymous).authorize(None, &[access]));
                assert_eq!(result.is_ok(), expected[index], "{anonymous:?} {access:?}");
            }
        }
        let wrong = header("ann:x");
        assert!(block_on(auth(Anonymous::Push).authorize(Some(&wrong), &[Access::Base])).is_err());
    }

    #[test]
    fn lines_that_are_not_bcrypt_are_refused_by_number() {
        for text in ["ann", "ann:plain", "\nann:{SHA}x", ":$2y$05$x"] {
            assert!(text.parse::<Htpasswd>().unwrap_err().contains("line"), "{text}");
        }
    }
}
