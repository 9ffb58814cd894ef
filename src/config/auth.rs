//! Access settings.

use super::{Vars, vars::on_or_off};
use crate::{
    auth::{
        Anonymous, Policy,
        identity::{
            basic::{ADMIN, AdminPassword, Htpasswd},
            external::TokenServerSettings,
        },
        policy::Document,
    },
    secret::Signing,
};

/// Users, and access without credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// `POLICY`, with `ANONYMOUS` and `DELETION`: who may do what.
    pub policy: Policy,
    /// Nobody can log in, and anybody may push: credentials are not looked at.
    pub is_open: bool,
    /// `ADMIN_PASSWORD` (a secret): the password of the user `admin`; at least 12 characters.
    pub admin: Option<AdminPassword>,
    /// `HTPASSWD` (a secret): users and the bcrypt hashes of their passwords.
    pub users: Htpasswd,
    /// `EXTERNAL_PRIVATE_ISSUERS`: issuers and the token server may use http and private addresses.
    pub private_issuers: bool,
    /// `TOKEN_REALM`, `TOKEN_SERVICE`, `TOKEN_ISSUER`, `TOKEN_JWKS`: an outside token server.
    pub token_server: Option<TokenServerSettings>,
    /// `READ_ONLY`: pushes and deletions are refused, for maintenance.
    pub read_only: bool,
    /// `SIGNING_SECRET` (a secret): signs tokens, upload locations and, unless `BLOB_REDIRECT_KEYS` is set, blob URLs.
    pub signing: Signing,
}

impl AuthConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        let anonymous = vars.parse("ANONYMOUS", Anonymous::default());
        let private_issuers = vars.read("EXTERNAL_PRIVATE_ISSUERS", false, on_or_off);
        let document = document(vars, private_issuers);
        let token_server = token_server(vars, private_issuers);
        let admin = vars.read("ADMIN_PASSWORD", None, |text| text.parse::<AdminPassword>().map(Some));
        let users = vars.parse("HTPASSWD", default.users);
        if admin.is_some() && users.has(ADMIN) {
            vars.error(format!("HTPASSWD must not have the user {ADMIN}, whose password is ADMIN_PASSWORD"));
        }
        let read_only = vars.read("READ_ONLY", default.read_only, on_or_off);
        let deletion = vars.read("DELETION", true, on_or_off);
        let signing = vars.required(
            "SIGNING_SECRET",
            default.signing,
            "set: `openssl rand -hex 32 | npx wrangler secret put SIGNING_SECRET`; on your own machine, to `generated`",
        );
        let is_open = anonymous == Anonymous::Push
            && admin.is_none()
            && users.is_empty()
            && token_server.is_none()
            && document.names_nobody();
        let policy = Policy::new(document, anonymous, deletion, admin.as_ref().map(|_| ADMIN));
        let policy = policy.unwrap_or_else(|errors| {
            errors.into_iter().for_each(|error| vars.error(error));
            default.policy
        });
        Self { policy, is_open, admin, users, private_issuers, token_server, read_only, signing }
    }
}

fn token_server(vars: &mut Vars<'_>, may_be_private: bool) -> Option<TokenServerSettings> {
    let texts = ["TOKEN_REALM", "TOKEN_SERVICE", "TOKEN_ISSUER", "TOKEN_JWKS"].map(|name| vars.text(name));
    match texts {
        [Some(realm), Some(service), Some(issuer), Some(jwks)] => {
            let settings = TokenServerSettings::new(&realm, &service, &issuer, &jwks, may_be_private);
            settings.map_err(|errors| errors.iter().for_each(|error| vars.error(error.to_string()))).ok()
        }
        [None, None, None, None] => None,
        _ => {
            vars.error(
                "TOKEN_REALM, TOKEN_SERVICE, TOKEN_ISSUER and TOKEN_JWKS must all be set, or none".to_owned(),
            );
            None
        }
    }
}

fn document(vars: &mut Vars<'_>, private_issuers: bool) -> Document {
    // The entry point sets it. An isolate without it would let users do everything.
    let Some(text) = vars.binding("POLICY") else {
        vars.error("POLICY must be set: src/cloudflare/entry.mjs does it from policy.toml".to_owned());
        return Document::default();
    };
    Document::parse(&text, private_issuers).unwrap_or_else(|errors| {
        errors.iter().for_each(|error| vars.error(format!("POLICY, {error}")));
        Document::default()
    })
}
