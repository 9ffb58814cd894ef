//! The registry's own tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256.
//!
//! Both kinds have one and the same header, and it is compared as text: no algorithm is read from a token. A key signs
//! one kind only.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Principal,
    jwt::{LEEWAY, MAX_LEN},
    scope::Grant,
};
use crate::{
    oci::from_json,
    platform::Timestamp,
    secret::{Keys, Purpose, SecretStore},
    storage::StorageError,
};

/// `{"alg":"HS256","typ":"JWT"}`, in base64.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// The lifetime of an access token, in seconds. So long can a key that was revoked still act.
pub const ACCESS_SECONDS: u64 = 5 * 60;

/// The lifetime of a refresh token of a user or key, in seconds: whoever has not pulled or pushed for so long logs in again.
pub const REFRESH_SECONDS: u64 = 30 * 24 * 60 * 60;

/// The lifetime of a refresh token for an external identity, in seconds: nobody vouches for it any more.
pub const EXTERNAL_SECONDS: u64 = 60 * 60;

/// The claims of a token. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The registry's host.
    pub iss: String,
    /// The name of the principal.
    pub sub: String,
    /// The registry's host.
    pub aud: String,
    /// The end.
    pub exp: u64,
    /// The begin.
    pub nbf: u64,
    /// When the token was made.
    pub iat: u64,
    /// Names the token.
    pub jti: Uuid,
    /// Who it is for.
    pub principal: Principal,
    /// What it allows; a refresh token allows nothing by itself.
    pub access: Vec<Grant>,
    /// Of a refresh token, the signature of the password that it was given for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie: Option<String>,
}

impl Claims {
    fn new(principal: &Principal, host: &str, now: Timestamp, seconds: u64) -> Self {
        let now = now.0 / 1000;
        Self {
            iss: host.to_owned(),
            sub: principal.name(),
            aud: host.to_owned(),
            exp: now + seconds,
            nbf: now,
            iat: now,
            jti: Uuid::new_v4(),
            principal: principal.clone(),
            access: Vec::new(),
            tie: None,
        }
    }

    fn are_valid(&self, host: &str, now: Timestamp) -> bool {
        let now = now.0 / 1000;
        self.iss == host && self.aud == host && now < self.exp && self.nbf <= now + LEEWAY
    }
}

/// Whether a text has the form of the registry's own tokens.
pub fn is_own(token: &str) -> bool {
    token.strip_prefix(HEADER).is_some_and(|rest| rest.starts_with('.'))
}

/// Makes and checks tokens for a host.
pub struct Tokens<'a> {
    /// The registry's secrets.
    pub secrets: &'a SecretStore,
    /// The registry's host, as the client names it. A token for one is worth nothing at another.
    pub host: &'a str,
    /// The time.
    pub now: Timestamp,
}

impl Tokens<'_> {
    /// An access token for [`ACCESS_SECONDS`].
    pub async fn access(&self, principal: &Principal, access: Vec<Grant>) -> Result<String, StorageError> {
        let claims = Claims { access, ..Claims::new(principal, self.host, self.now, ACCESS_SECONDS) };
        Ok(encode(&claims, &self.secrets.keys(Purpose::AccessTokens).await?))
    }

    /// The claims of an access token; `None` if it is forged, expired, or for another host.
    pub async fn check_access(&self, token: &str) -> Result<Option<Claims>, StorageError> {
        let claims = decode(token, &self.secrets.keys(Purpose::AccessTokens).await?);
        Ok(claims.filter(|claims| claims.are_valid(self.host, self.now)))
    }

    /// A refresh token, tied to a password if there is one.
    pub async fn refresh(
        &self,
        principal: &Principal,
        password: Option<&str>,
    ) -> Result<String, StorageError> {
        let seconds = match principal {
            Principal::External(_) => EXTERNAL_SECONDS,
            _ => REFRESH_SECONDS,
        };
        let tie = match password {
            Some(password) => Some(self.secrets.keys(Purpose::Passwords).await?.sign(password)),
            None => None,
        };
        let tie = tie.map(|signature| URL_SAFE_NO_PAD.encode(signature));
        let claims = Claims { tie, ..Claims::new(principal, self.host, self.now, seconds) };
        Ok(encode(&claims, &self.secrets.keys(Purpose::RefreshTokens).await?))
    }

    /// The claims of a refresh token; `None` if it is forged, expired, or for another host. The caller asks
    /// [`Self::is_tied`].
    pub async fn check_refresh(&self, token: &str) -> Result<Option<Claims>, StorageError> {
        let claims = decode(token, &self.secrets.keys(Purpose::RefreshTokens).await?);
        Ok(claims.filter(|claims| claims.are_valid(self.host, self.now)))
    }

    /// Whether a refresh token was given for this password.
    pub async fn is_tied(&self, claims: &Claims, password: &str) -> Result<bool, StorageError> {
        let signature = claims.tie.as_ref().and_then(|tie| URL_SAFE_NO_PAD.decode(tie).ok());
        let keys = self.secrets.keys(Purpose::Passwords).await?;
        Ok(signature.is_some_and(|signature| keys.verify(password, &signature)))
    }
}

fn encode(claims: &Claims, keys: &Keys) -> String {
    // Claims are plain data.
    let json = serde_json::to_vec(claims).unwrap_or_default();
    let signed = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(json));
    let signature = URL_SAFE_NO_PAD.encode(keys.sign(&signed));
    format!("{signed}.{signature}")
}

/// The claims, if one of the keys has signed them.
fn decode(token: &str, keys: &Keys) -> Option<Claims> {
    if token.len() > MAX_LEN {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let claims = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
    if !keys.verify(signed, &URL_SAFE_NO_PAD.decode(signature).ok()?) {
        return None;
    }
    from_json(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::storage::{Store, memory::Memory};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";

    fn secrets(setting: &str) -> SecretStore {
        SecretStore::new(Store::new(Memory::default()), setting.parse().unwrap())
    }

    fn tokens<'a>(secrets: &'a SecretStore, host: &'a str, now: Timestamp) -> Tokens<'a> {
        Tokens { secrets, host, now }
    }

    fn ann() -> Principal {
        Principal::User("ann".into())
    }

    #[test]
    fn the_header_is_what_it_says() {
        assert_eq!(URL_SAFE_NO_PAD.decode(HEADER).unwrap(), br#"{"alg":"HS256","typ":"JWT"}"#);
    }

    #[test]
    fn a_token_is_valid_at_its_host_and_in_its_time_only() {
        let secrets = secrets(OLD);
        let made = tokens(&secrets, "a.example", NOW);
        let token = block_on(made.access(&ann(), vec![Grant::catalog()])).unwrap();
        assert!(is_own(&token));
        let check = |host, now| block_on(tokens(&secrets, host, now).check_access(&token)).unwrap();
        let claims = check("a.example", NOW).unwrap();
        assert_eq!((claims.principal, claims.access), (ann(), vec![Grant::catalog()]));
        assert_eq!(check("b.example", NOW), None);
        assert!(check("a.example", NOW.plus_seconds(ACCESS_SECONDS - 1)).is_some());
        assert_eq!(check("a.example", NOW.plus_seconds(ACCESS_SECONDS)), None);
        assert!(check("a.example", Timestamp(NOW.0 - LEEWAY * 1000)).is_some());
        assert_eq!(check("a.example", Timestamp(NOW.0 - (LEEWAY + 1) * 1000)), None);
    }

    #[test]
    fn one_kind_of_token_is_not_the_other() {
        let secrets = secrets(OLD);
        let tokens = tokens(&secrets, "a.example", NOW);
        let access = block_on(tokens.access(&ann(), Vec::new())).unwrap();
        let refresh = block_on(tokens.refresh(&ann(), Some("password"))).unwrap();
        assert_eq!(block_on(tokens.check_access(&refresh)).unwrap(), None);
        assert_eq!(block_on(tokens.check_refresh(&access)).unwrap(), None);
        let claims = block_on(tokens.check_refresh(&refresh)).unwrap().unwrap();
        assert!(block_on(tokens.is_tied(&claims, "password")).unwrap());
        assert!(!block_on(tokens.is_tied(&claims, "changed")).unwrap());
        let untied = Claims { tie: None, ..claims };
        assert!(!block_on(tokens.is_tied(&untied, "password")).unwrap());
    }

    #[test]
    fn a_secret_rotates_without_a_gap() {
        let (old, both, new) = (secrets(OLD), secrets(&format!("{NEW} {OLD}")), secrets(NEW));
        let make = |secrets| block_on(tokens(secrets, "a.example", NOW).access(&ann(), Vec::new())).unwrap();
        let check = |secrets, token: &str| {
            block_on(tokens(secrets, "a.example", NOW).check_access(token)).unwrap().is_some()
        };
        assert!(check(&both, &make(&old)) && check(&both, &make(&new)) && check(&new, &make(&both)));
        assert!(!check(&new, &make(&old)) && !check(&old, &make(&both)));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let secrets = secrets(OLD);
        let tokens = tokens(&secrets, "a.example", NOW);
        let token = block_on(tokens.access(&ann(), Vec::new())).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else { panic!("{token}") };
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let admin = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap().replace("ann", "bob");
        let admin = URL_SAFE_NO_PAD.encode(admin);
        for forged in [
            String::new(),
            header.to_string(),
            format!("{header}."),
            format!("{header}.."),
            format!("{none}.{claims}."),
            format!("{none}.{claims}.{signature}"),
            format!("{header}.{claims}."),
            format!("{header}.{admin}.{signature}"),
            format!("{header}.{claims}.{signature}="),
            format!("{header}.{claims}.{signature}.{signature}"),
            format!(" {token}"),
            format!("{token}{}", "A".repeat(MAX_LEN)),
        ] {
            assert_eq!(block_on(tokens.check_access(&forged)).unwrap(), None, "{forged}");
        }
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            // The last character of base64 holds bits that mean nothing; the decoder refuses them unless they are zero.
            assert_eq!(block_on(tokens.check_access(&forged)).unwrap(), None, "{index}");
        }
    }
}
