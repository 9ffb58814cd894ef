//! Authenticates a request, and checks that it may have what it asks for. Challenges are made here.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};

use super::{Api, Error, Registry};
use crate::{
    auth::{
        Access, Action, Principal,
        challenge::{self, Fault, TokenService},
        identity::{
            Client, Refused,
            attempts::{BREAK, network},
            external, user_of,
        },
        policy::Reason,
        scope,
    },
    context::Context,
    oci::RepositoryName,
};

/// The period of the limit of requests, in seconds.
const LIMIT_PERIOD: u64 = 60;

/// What somebody hears who must log in.
pub(super) const LOG_IN: &str = "authentication required: log in";

/// What somebody hears who has logged in with a wrong password.
pub(super) const WRONG_PASSWORD: &str = "the user name or the password is wrong";

impl Api {
    /// Authenticates a request and checks its access. `source` is the repository that it wants to mount a blob from: a client
    /// without a token hears that it needs that too, and one whose token lacks it uploads the blob.
    pub(super) async fn authorize(
        &self,
        headers: &HeaderMap,
        access: Access<'_>,
        source: Option<&RepositoryName>,
        context: Context,
        acting: &mut Option<Principal>,
    ) -> Result<Registry<'_>, Error> {
        let identity = &self.app.identity;
        let registry = Registry { app: &self.app, context };
        let authenticated = match identity.of(headers, registry.client()).await {
            Ok(authenticated) => authenticated,
            Err(error) => {
                registry.note_failure(user_of(headers));
                registry.limited().await?;
                return Err(registry.refuse(error, access));
            }
        };
        let context = registry.context.authenticated(authenticated);
        *acting = Some(Principal::clone(&context.principal));
        let registry = Registry { context, ..registry };
        registry.limited().await?;
        let has_token = registry.context.grants.is_some();
        let is_stranger = *registry.context.principal == Principal::Anonymous && !has_token;
        // Clients send a password only where `/v2/` challenges them.
        let is_challenged = is_stranger && access == Access::Base && !identity.is_open;
        if registry.may(access) && !is_challenged {
            registry.writable(access)?;
            return Ok(registry);
        }
        let decision = self.app.policy.decide(&registry.context.principal, access);
        if decision.reason == Reason::DeletionOff {
            return Err(Error::DeletionOff);
        }
        let may_log_in = *registry.context.principal == Principal::Anonymous;
        let fault = has_token.then_some(Fault::InsufficientScope);
        match may_log_in || decision.allowed || registry.is_decided_outside(access) {
            true => {
                let challenge = registry.challenge_of(access, source.filter(|_| !has_token), fault);
                Err(Error::Unauthenticated { challenge, message: LOG_IN.into() })
            }
            false => Err(registry.denied(access)),
        }
    }
}

impl Registry<'_> {
    /// Whether the request's principal, with its token, has an access.
    pub(super) fn may(&self, access: Access<'_>) -> bool {
        let Context { principal, grants, .. } = &self.context;
        if access == Access::Base {
            return true;
        }
        let is_covered = grants.as_ref().is_none_or(|grants| scope::cover(grants, access));
        is_covered && (self.is_decided_outside(access) || self.app.policy.allows(principal, access))
    }

    /// Whether the token of an outside server decides alone: about repositories and their list.
    pub(super) fn is_decided_outside(&self, access: Access<'_>) -> bool {
        let is_in_scopes = matches!(access, Access::Base | Access::Catalog | Access::Repository(..));
        is_in_scopes && self.app.config.auth.token_server.is_some() && self.context.grants.is_some()
    }

    /// Refuses changes while the registry is read-only, and deletions if they are switched off.
    fn writable(&self, access: Access<'_>) -> Result<(), Error> {
        let auth = &self.app.config.auth;
        match access {
            Access::Repository(_, Action::Push | Action::Delete) if auth.read_only => Err(Error::ReadOnly),
            // Elsewhere the policy says so, which may have a rule.
            Access::Repository(_, Action::Delete)
                if self.is_decided_outside(access) && !self.app.policy.has_deletion() =>
            {
                Err(Error::DeletionOff)
            }
            _ => Ok(()),
        }
    }

    /// Notes for the audit whose login has failed, if there is such a user: another name may be a password.
    pub(super) fn note_failure(&self, user: Option<String>) {
        let is_known = |user: &String| self.app.identity.passwords.tie(user).is_some();
        self.context.notes.failed.replace(user.filter(is_known));
    }

    /// Where the request comes from, and where it goes.
    pub(super) fn client(&self) -> Client<'_> {
        let Context { notes, background, .. } = &self.context;
        let (host, address) = (self.host(), &notes.request.addr);
        Client { host, address, is_public: false, background: &**background }
    }

    /// Refuses a request if its identity, or for an anonymous one its address, has sent too many.
    pub(super) async fn limited(&self) -> Result<(), Error> {
        let Some(limiter) = &self.app.requests else { return Ok(()) };
        let key = match &*self.context.principal {
            Principal::Anonymous => format!("request from {}", network(&self.context.notes.request.addr)),
            principal => format!("request by {}", principal.name()),
        };
        match limiter.allow(&key).await {
            true => Ok(()),
            false => Err(Error::TooManyRequests { seconds: LIMIT_PERIOD }),
        }
    }

    /// The registry's host, as the client names it.
    pub(super) fn host(&self) -> &str {
        &self.context.notes.request.host
    }

    pub(super) fn challenge(
        &self,
        access: Access<'_>,
        fault: Option<Fault>,
        message: impl Into<Cow<'static, str>>,
    ) -> Error {
        let challenge = self.challenge_of(access, None, fault);
        Error::Unauthenticated { challenge, message: message.into() }
    }

    fn challenge_of(
        &self,
        access: Access<'_>,
        source: Option<&RepositoryName>,
        fault: Option<Fault>,
    ) -> HeaderValue {
        match access {
            // No token is needed, and people read these with a browser or a monitor.
            Access::Administer | Access::Metrics => challenge::basic(),
            access => self.token_service().challenge(access, source, fault),
        }
    }

    /// Where a client gets a token: here, or at an outside server.
    fn token_service(&self) -> TokenService {
        match &self.app.config.auth.token_server {
            Some(server) => TokenService { realm: server.realm.to_string(), service: server.service.clone() },
            None => TokenService {
                realm: format!("{}/token", self.context.notes.base),
                service: self.host().to_owned(),
            },
        }
    }

    /// The error of a request that a login does not help.
    pub(super) fn denied(&self, access: Access<'_>) -> Error {
        let what = match access {
            Access::Base => "use this registry",
            Access::Catalog => "list the repositories",
            Access::Repository(_, Action::Pull) => "pull from this repository",
            Access::Repository(_, Action::Push) => "push to this repository",
            Access::Repository(_, Action::Delete) => "delete from this repository",
            Access::Administer => "administer the registry",
            Access::Metrics => "read the metrics",
        };
        Error::Denied { who: self.context.principal.name(), what }
    }

    /// The error of a request whose credentials are refused.
    fn refuse(&self, refused: Refused, access: Access<'_>) -> Error {
        match refused {
            Refused::Credentials => self.challenge(access, None, WRONG_PASSWORD),
            Refused::Token => self.challenge(
                access,
                Some(Fault::InvalidToken),
                "the token is not valid, or has expired: log in again",
            ),
            Refused::External(external::Refused::Unavailable { issuer, reason }) => {
                Error::unavailable(issuer, &reason)
            }
            Refused::External(error) => self.challenge(access, Some(Fault::InvalidToken), error.to_string()),
            Refused::TooMany => Error::TooManyRequests { seconds: BREAK },
            Refused::Storage(error) => error.into(),
        }
    }
}
