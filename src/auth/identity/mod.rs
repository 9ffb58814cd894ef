//! Authentication: who a request comes from. Each way to prove it is a file: passwords ([`basic`]), API keys ([`keys`])
//! and tokens of trusted issuers ([`external`]). Tokens of the registry ([`super::token`]) stand for one of them.

pub mod attempts;
pub mod basic;
pub mod external;
pub mod keys;

use std::{borrow::Cow, rc::Rc};

use http::{HeaderMap, header};

use self::{
    attempts::Attempts,
    basic::{Credentials, Passwords},
    external::{Issuers, TokenServer},
    keys::ApiKeys,
};
use super::{
    Policy, Principal,
    jwt::Compact,
    scope::Grant,
    token::{self, Tokens},
};
use crate::{
    platform::{Background, Clock},
    secret::SecretStore,
    storage::StorageError,
};

/// Why a request has no identity.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The user, the password or the scheme is wrong.
    #[error("user name or password is wrong")]
    Credentials,
    /// The token is forged, has expired, or was revoked.
    #[error("the token is not valid, or has expired")]
    Token,
    /// There were too many failed logins from this address: see [`attempts::BREAK`].
    #[error("too many failed logins")]
    TooMany,
    /// The token of another issuer identifies nobody, or cannot be checked now.
    #[error(transparent)]
    External(#[from] external::Refused),
    /// The identity cannot be checked now.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Refused {
    /// Whether the credentials are at fault, and not what checks them.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Credentials | Self::Token => true,
            Self::External(error) => !matches!(error, external::Refused::Unavailable { .. }),
            Self::TooMany | Self::Storage(_) => false,
        }
    }

    /// Whether it counts as a guess. The registry's own tokens cannot be guessed, and expire where nobody looks.
    fn is_guess(&self) -> bool {
        self.is_fault() && !matches!(self, Self::Token)
    }
}

/// The identity of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it comes from.
    pub principal: Principal,
    /// What its token allows at most; `None` without a token.
    pub grants: Option<Rc<[Grant]>>,
}

impl From<Principal> for Authenticated {
    fn from(principal: Principal) -> Self {
        Self { principal, grants: None }
    }
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who has logged in.
    pub principal: Principal,
    /// Whether a refresh token may be given for it.
    pub may_refresh: bool,
}

impl Login {
    /// Of a client without credentials.
    pub const ANONYMOUS: Self = Self { principal: Principal::Anonymous, may_refresh: false };

    fn of(principal: Principal) -> Self {
        Self { principal, may_refresh: true }
    }
}

/// Where a request comes from, and where it goes.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The registry's host, as the client names it.
    pub host: &'a str,
    /// The client's address.
    pub address: &'a str,
    /// Whether everybody may have what it asks for.
    pub is_public: bool,
    /// Runs optional work after the answer.
    pub background: &'a dyn Background,
}

/// Authenticates requests.
pub struct Identity {
    /// Checks passwords.
    pub passwords: Passwords,
    /// Counts failed logins.
    pub attempts: Attempts,
    /// The API keys.
    pub keys: ApiKeys,
    /// The issuers that vouch for others.
    pub issuers: Issuers,
    /// Says which of their identities it knows.
    pub policy: Rc<Policy>,
    /// An outside token server, whose tokens stand in for the registry's own.
    pub token_server: Option<TokenServer>,
    /// The secrets that sign tokens.
    pub secrets: Rc<SecretStore>,
    /// Source of the current time.
    pub clock: Rc<dyn Clock>,
    /// Nobody can log in, and anybody may push: credentials are not looked at. Clients send what they have left over from
    /// other registries.
    pub is_open: bool,
}

/// What a request presents in `Authorization`.
enum Presented {
    Nothing,
    Basic(Credentials),
    Bearer(String),
}

fn presented(headers: &HeaderMap) -> Result<Presented, Refused> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Presented::Nothing) };
    let (scheme, rest) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refused::Credentials)?;
    match scheme {
        scheme if scheme.eq_ignore_ascii_case("basic") => {
            Credentials::decode(rest).map(Presented::Basic).ok_or(Refused::Credentials)
        }
        scheme if scheme.eq_ignore_ascii_case("bearer") => Ok(Presented::Bearer(rest.trim().to_owned())),
        _ => Err(Refused::Credentials),
    }
}

/// The user that a request names with a password.
pub fn user_of(headers: &HeaderMap) -> Option<String> {
    match presented(headers) {
        Ok(Presented::Basic(credentials)) => Some(credentials.user),
        _ => None,
    }
}

impl Identity {
    /// The identity of a request to `host`. A token costs no look-up; a password runs bcrypt, once for each isolate; an
    /// API key as a password costs a look-up, now and then.
    pub async fn of(&self, headers: &HeaderMap, client: Client<'_>) -> Result<Authenticated, Refused> {
        if self.is_open {
            return Ok(Principal::Anonymous.into());
        }
        match presented(headers)? {
            Presented::Nothing => Ok(Principal::Anonymous.into()),
            // It stands for a password at the token service only: what leaks from a build manages nothing.
            Presented::Basic(credentials) if token::is_own(&credentials.password) => Err(Refused::Token),
            Presented::Basic(credentials) => Ok(self.login(&credentials, client).await?.principal.into()),
            Presented::Bearer(token) => {
                if let Some(server) = &self.token_server {
                    let (external, grants) = server.identify(&token).await?;
                    let principal = Principal::External(external);
                    return Ok(Authenticated { principal, grants: Some(grants.into()) });
                }
                let claims = self.tokens(client.host).check_access(&token).await?.ok_or(Refused::Token)?;
                let principal = claims.principal;
                // Only a deployment can remove a user.
                if let Principal::User(name) = &principal
                    && self.passwords.tie(name).is_none()
                {
                    return Err(Refused::Token);
                }
                Ok(Authenticated { principal, grants: Some(claims.access.into()) })
            }
        }
    }

    /// The login at the token service, or that of nobody.
    pub async fn of_login(&self, headers: &HeaderMap, client: Client<'_>) -> Result<Login, Refused> {
        if self.is_open {
            return Ok(Login::ANONYMOUS);
        }
        match presented(headers)? {
            Presented::Nothing => Ok(Login::ANONYMOUS),
            Presented::Basic(credentials) => self.login(&credentials, client).await,
            Presented::Bearer(_) => Err(Refused::Credentials),
        }
    }

    /// Whom the token of a trusted issuer identifies.
    pub async fn exchange(&self, token: &str, client: Client<'_>) -> Result<Login, Refused> {
        self.slowed(client, "", self.identify(token)).await
    }

    /// Whose credentials these are. The password may be that of a user, an API key, a refresh token, or the token of a
    /// trusted issuer.
    pub async fn login(&self, credentials: &Credentials, client: Client<'_>) -> Result<Login, Refused> {
        self.slowed(client, &credentials.user, self.check(credentials, client)).await
    }

    /// A login, unless too many have failed.
    async fn slowed(
        &self,
        client: Client<'_>,
        user: &str,
        login: impl Future<Output = Result<Login, Refused>>,
    ) -> Result<Login, Refused> {
        let Client { address, is_public, .. } = client;
        if self.is_open {
            return Ok(Login::ANONYMOUS);
        }
        if self.attempts.are_too_many(address, user) {
            return Err(Refused::TooMany);
        }
        let login = login.await;
        if login.as_ref().is_err_and(Refused::is_guess) {
            self.attempts.count(address, user, is_public).await;
            if self.attempts.are_too_many(address, user) {
                return Err(Refused::TooMany);
            }
        }
        login
    }

    async fn identify(&self, token: &str) -> Result<Login, Refused> {
        let external = self.issuers.identify(token).await?;
        match self.policy.names(&external) {
            true => Ok(Login::of(Principal::External(external))),
            false => Err(external::Refused::Unnamed.into()),
        }
    }

    async fn check(&self, credentials: &Credentials, client: Client<'_>) -> Result<Login, Refused> {
        if token::is_own(&credentials.password) {
            return self.refresh(&credentials.password, client).await;
        }
        if !self.issuers.is_empty() && Compact::parse(&credentials.password).is_ok() {
            return self.identify(&credentials.password).await;
        }
        if let Some(key) = self.keys.authenticate(credentials, client.background).await? {
            return Ok(Login::of(Principal::Key(key)));
        }
        match self.passwords.verify(credentials) {
            true => Ok(Login::of(Principal::User(credentials.user.clone()))),
            false => Err(Refused::Credentials),
        }
    }

    /// Whom a refresh token stands for, if the password or key that it was given for is still valid. It gives no other: else it
    /// would never end.
    pub async fn refresh(&self, token: &str, client: Client<'_>) -> Result<Login, Refused> {
        if self.is_open {
            return Ok(Login::ANONYMOUS);
        }
        let tokens = self.tokens(client.host);
        let claims = tokens.check_refresh(token).await?.ok_or(Refused::Token)?;
        let principal = match claims.principal.clone() {
            Principal::Key(key) => {
                Principal::Key(self.keys.identity(&key.id, client.background).await?.ok_or(Refused::Token)?)
            }
            principal => {
                let tie = self.tie(&principal).ok_or(Refused::Token)?;
                if !tokens.is_tied(&claims, &tie).await? {
                    return Err(Refused::Token);
                }
                principal
            }
        };
        Ok(Login { principal, may_refresh: false })
    }

    /// What must not change while a refresh token lasts: a user's password; of a CI job, which claims rules look at, since
    /// a token has no others.
    fn tie(&self, principal: &Principal) -> Option<Cow<'_, str>> {
        match principal {
            Principal::User(name) => self.passwords.tie(name).map(Cow::Borrowed),
            Principal::External(external) => {
                let names: Vec<&str> = self.policy.claims_of(&external.issuer).into_iter().collect();
                (!names.is_empty()).then(|| Cow::Owned(names.join(" ")))
            }
            Principal::Anonymous | Principal::Key(_) | Principal::Job(_) => None,
        }
    }

    /// A refresh token for whoever has logged in.
    pub async fn refresh_token(&self, principal: &Principal, host: &str) -> Result<String, StorageError> {
        self.tokens(host).refresh(principal, self.tie(principal).as_deref()).await
    }

    /// Makes and checks tokens for a host.
    pub fn tokens<'a>(&'a self, host: &'a str) -> Tokens<'a> {
        Tokens { secrets: &self.secrets, host, now: self.clock.now() }
    }
}
