//! HTTP Basic authentication (RFC 7617) against htpasswd lines.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

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

/// Limit of remembered credentials; at the limit, all are forgotten.
const MAX_VERIFIED: usize = 256;

/// Checks Basic credentials.
pub struct Basic {
    users: Htpasswd,
    /// Salted hashes of credentials that bcrypt has accepted. bcrypt is slow by design, and a push makes many
    /// requests. Lives as long as the isolate.
    verified: RefCell<HashSet<[u8; 32]>>,
    salt: [u8; 16],
}

impl Basic {
    /// Authenticates `users`. `salt` must be random.
    pub fn new(users: Htpasswd, salt: [u8; 16]) -> Self {
        Self { users, verified: RefCell::default(), salt }
    }

    /// The user name, if name and password are valid.
    pub fn user(&self, authorization: &HeaderValue) -> Option<String> {
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
        if hash.is_some() && self.verified.borrow().contains(&fingerprint) {
            return Some(user.to_owned());
        }
        // Check the password of an unknown user against any hash, so that the response takes as long.
        let against = hash.or_else(|| self.users.0.values().next())?;
        let matches = bcrypt::verify(password, against).unwrap_or(false);
        if !matches || hash.is_none() {
            return None;
        }
        let mut verified = self.verified.borrow_mut();
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(fingerprint);
        Some(user.to_owned())
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderValue {
        format!("Basic {}", STANDARD.encode(text)).parse().unwrap()
    }

    #[test]
    fn users_authenticate_with_their_password() {
        let hash =
            bcrypt::hash_with_salt("p:w", 4, [1; 16]).unwrap().format_for_version(bcrypt::Version::TwoY);
        let basic = Basic::new(format!("# users\n\nann:{hash}\n").parse().unwrap(), [2; 16]);
        for _ in 0..2 {
            assert_eq!(basic.user(&header("ann:p:w")), Some("ann".into()));
        }
        for wrong in [
            header("ann:x"),
            header("ann"),
            header("bob:p:w"),
            header(":"),
            HeaderValue::from_static("Bearer x"),
        ] {
            assert_eq!(basic.user(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn lines_without_bcrypt_are_refused_with_their_number() {
        for text in ["ann", "ann:plain", "\nann:{SHA}x", ":$2y$05$x"] {
            assert!(text.parse::<Htpasswd>().unwrap_err().contains("line"), "{text}");
        }
    }
}
