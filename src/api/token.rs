//! The token service: Docker's token protocol, and its form of OAuth 2.
//!
//! A request with wrong credentials is refused, so that `docker login` tells the truth. But clients of a mirror send the
//! credentials of other registries: if all that is asked for is what everybody may have, the token is an anonymous one.

use std::borrow::Cow;

use http::{HeaderValue, header};
use serde_json::json;

use super::{Error, Registry, Request, Response, WrongCredentials, authorize::WRONG_PASSWORD, json};
use crate::auth::{
    Access, Action, Principal, challenge,
    identity::{Client, Login, Refused, attempts::BREAK, basic::Credentials, external, user_of},
    jwt::MAX_LEN,
    scope::{Grant, Scope},
    token::ACCESS_SECONDS,
};

/// The grant of a token exchange (RFC 8693, section 2.1).
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The largest form of a `POST`, in bytes.
const MAX_FORM: usize = 64 * 1024;

/// What a request for a token asks for.
struct Asked {
    scopes: Vec<Scope>,
    wants_refresh: bool,
}

/// The parameters of a request, in order.
type Fields = Vec<(String, String)>;

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn read_fields(encoded: &[u8]) -> Fields {
    form_urlencoded::parse(encoded).into_owned().collect()
}

/// The error of a login that is refused.
fn refused(error: Refused) -> Error {
    let unauthenticated = |message: Cow<'static, str>| {
        let challenge = challenge::basic();
        Error::Unauthenticated { challenge, message }
    };
    match error {
        Refused::Credentials | Refused::Token => unauthenticated(WRONG_PASSWORD.into()),
        Refused::External(external::Refused::Unavailable { issuer, reason }) => {
            Error::unavailable(issuer, &reason)
        }
        Refused::External(error) => unauthenticated(error.to_string().into()),
        Refused::TooMany => Error::TooManyRequests { seconds: BREAK },
        Refused::Storage(error) => error.into(),
    }
}

impl Registry<'_> {
    /// `GET /token?service=<service>&scope=<scope>&offline_token=<bool>`, with or without Basic credentials.
    pub(super) async fn get_token(
        mut self,
        request: Request,
        acting: &mut Option<Principal>,
    ) -> Result<Response, Error> {
        let fields = read_fields(request.uri().query().unwrap_or_default().as_bytes());
        let asked = self.asked(&fields, field(&fields, "offline_token") == Some("true"))?;
        let login = self.app.identity.of_login(request.headers(), self.client_asking(&asked)).await;
        self.answer(login, user_of(request.headers()), asked, acting).await
    }

    /// `POST /token` with a form: `grant_type` is `password`, `refresh_token`, or that of a token exchange (RFC 8693).
    pub(super) async fn post_token(
        mut self,
        request: Request,
        acting: &mut Option<Principal>,
    ) -> Result<Response, Error> {
        let (_, body) = request.into_parts();
        let fields = read_fields(&super::read_small(body, MAX_FORM).await?);
        // The subject's own token is too short-lived to be shown again.
        let wants_refresh = field(&fields, "access_type") == Some("offline")
            || field(&fields, "grant_type") == Some(EXCHANGE);
        let asked = self.asked(&fields, wants_refresh)?;
        let required = |name: &'static str| {
            let expected = "a value, in the form of the request";
            field(&fields, name).ok_or(Error::InvalidParameter { name, expected })
        };
        let (identity, client) = (&self.app.identity, self.client_asking(&asked));
        let login = match required("grant_type")? {
            "refresh_token" => identity.refresh(required("refresh_token")?, client).await,
            "password" => {
                let (user, password) = (required("username")?.to_owned(), required("password")?.to_owned());
                let credentials = Credentials { user, password };
                identity.login(&credentials, client).await
            }
            EXCHANGE => identity.exchange(required("subject_token")?, client).await,
            _ => {
                let expected =
                    "one of password, refresh_token, urn:ietf:params:oauth:grant-type:token-exchange";
                return Err(Error::InvalidParameter { name: "grant_type", expected });
            }
        };
        self.answer(login, field(&fields, "username").map(str::to_owned), asked, acting).await
    }

    fn client_asking(&self, asked: &Asked) -> Client<'_> {
        Client { is_public: self.is_public(&asked.scopes), ..self.client() }
    }

    fn asked(&self, fields: &Fields, wants_refresh: bool) -> Result<Asked, Error> {
        if self.app.config.auth.token_server.is_some() {
            return Err(Error::NoSuchEndpoint);
        }
        if field(fields, "service").is_some_and(|service| service != self.host()) {
            let expected = "that of the challenge, which is the registry's host";
            return Err(Error::InvalidParameter { name: "service", expected });
        }
        let scopes = fields.iter().filter(|(key, _)| key == "scope").map(|(_, value)| value.as_str());
        Ok(Asked { scopes: Scope::parse_all(scopes), wants_refresh })
    }

    /// What the policy allows a principal, of what it asks for.
    fn granted(&self, principal: &Principal, scopes: &[Scope]) -> Vec<Grant> {
        let policy = &self.app.policy;
        let grant = |scope: &Scope| match scope {
            Scope::Repository(name, actions) => {
                let may = |action: &Action| policy.allows(principal, Access::Repository(name, *action));
                let actions: Vec<Action> = actions.iter().copied().filter(may).collect();
                Grant::repository(name, &actions)
            }
            Scope::Catalog => policy.allows(principal, Access::Catalog).then(Grant::catalog),
        };
        scopes.iter().filter_map(grant).collect()
    }

    /// Whether everybody may have all that is asked for.
    fn is_public(&self, scopes: &[Scope]) -> bool {
        let may = |access: Access<'_>| self.app.policy.allows(&Principal::Anonymous, access);
        let is_public = |scope: &Scope| match scope {
            Scope::Repository(name, actions) => {
                actions.iter().all(|action| may(Access::Repository(name, *action)))
            }
            Scope::Catalog => may(Access::Catalog),
        };
        !scopes.is_empty() && scopes.iter().all(is_public)
    }

    async fn answer(
        &mut self,
        login: Result<Login, Refused>,
        user: Option<String>,
        asked: Asked,
        acting: &mut Option<Principal>,
    ) -> Result<Response, Error> {
        let is_wrong = login.is_err();
        if is_wrong {
            self.note_failure(user);
        }
        let Login { principal, may_refresh } = match login {
            Ok(login) => login,
            // Too many failures are no reason to refuse what needs no login, and no password is looked at.
            Err(error)
                if (error.is_fault() || matches!(error, Refused::TooMany))
                    && self.is_public(&asked.scopes) =>
            {
                Login::ANONYMOUS
            }
            Err(error) => {
                self.limited().await?;
                return Err(refused(error));
            }
        };
        *acting = Some(principal.clone());
        self.context = self.context.acting_for(principal);
        self.limited().await?;
        let principal = &*self.context.principal;
        let identity = &self.app.identity;
        let granted = self.granted(principal, &asked.scopes);
        let scope: Vec<String> = granted.iter().map(ToString::to_string).collect();
        let scope = scope.join(" ");
        let token = identity.tokens(self.host()).access(principal, granted).await?;
        if token.len() > MAX_LEN {
            let expected = "fewer scopes: the token would be too long";
            return Err(Error::InvalidParameter { name: "scope", expected });
        }
        let mut answer = json!({
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "scope": scope,
            "expires_in": ACCESS_SECONDS,
            "issued_at": self.app.clock.now().to_rfc3339(),
        });
        if asked.wants_refresh
            && may_refresh
            && let Some(answer) = answer.as_object_mut()
        {
            let refresh = identity.refresh_token(principal, self.host()).await?;
            answer.insert("refresh_token".to_owned(), refresh.into());
        }
        let mut response = json(answer.to_string());
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if is_wrong {
            response.extensions_mut().insert(WrongCredentials);
        }
        Ok(response)
    }
}
