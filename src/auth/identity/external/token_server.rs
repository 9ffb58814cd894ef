//! An outside token server, as in `distribution`'s mode `token`: it decides who may do what.

use url::Url;

use super::{Algorithm, InvalidIssuer, Means, Refused, Trusted, issuer, issuer_of, keys::Source, subject_of};
use crate::{
    auth::{
        External,
        jwt::{Compact, Invalid, MAX_LEN},
        scope::Grant,
    },
    oci::{InvalidJson, Raw},
};

/// The name of the issuer of its identities.
const NAME: &str = "token-server";

/// The settings of a token server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenServerSettings {
    /// `TOKEN_REALM`: where clients get tokens.
    pub realm: Url,
    /// `TOKEN_SERVICE`: the registry's name there, and the audience of tokens.
    pub service: String,
    /// `TOKEN_ISSUER`: `iss` of tokens, any text.
    pub issuer: String,
    /// `TOKEN_JWKS`: where the server's keys are.
    pub jwks: Url,
}

impl TokenServerSettings {
    /// Valid settings, or all that is wrong with them. `may_be_private` is `EXTERNAL_PRIVATE_ISSUERS`.
    pub fn new(
        realm: &str,
        service: &str,
        issuer: &str,
        jwks: &str,
        may_be_private: bool,
    ) -> Result<Self, Vec<InvalidIssuer>> {
        let mut errors = Vec::new();
        let mut url = |field, text| {
            let url = issuer::public_url(text, may_be_private);
            url.map_err(|expected| errors.push(InvalidIssuer { field, expected })).ok()
        };
        let (realm, jwks) = (url("TOKEN_REALM", realm), url("TOKEN_JWKS", jwks));
        for (field, text) in [("TOKEN_SERVICE", service), ("TOKEN_ISSUER", issuer)] {
            // The service is a quoted parameter of challenges.
            if !(1..=issuer::MAX_TEXT).contains(&text.len())
                || !text
                    .bytes()
                    .all(|byte| byte == b' ' || byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
            {
                let expected = "1 to 1024 visible ASCII characters without quotes and backslashes".to_owned();
                errors.push(InvalidIssuer { field, expected });
            }
        }
        match (realm, jwks) {
            (Some(realm), Some(jwks)) if errors.is_empty() => {
                Ok(Self { realm, service: service.to_owned(), issuer: issuer.to_owned(), jwks })
            }
            _ => Err(errors),
        }
    }
}

/// A token server, with its keys. Lives as long as the isolate.
pub struct TokenServer {
    issuer: String,
    trusted: Trusted,
}

impl TokenServer {
    /// The server of these settings. `may_be_private` is `EXTERNAL_PRIVATE_ISSUERS`.
    pub fn new(settings: &TokenServerSettings, may_be_private: bool, means: &Means) -> Self {
        let source = Source { issuer: settings.issuer.clone(), jwks: Some(settings.jwks.clone()) };
        let service = settings.service.clone();
        let trusted = Trusted::new(service, Algorithm::ALL.to_vec(), source, may_be_private, means);
        Self { issuer: settings.issuer.clone(), trusted }
    }

    /// Verifies a token. Returns whom it identifies (its subject may be empty), and what that one may do: nothing else
    /// decides.
    pub async fn identify(&self, token: &str) -> Result<(External, Vec<Grant>), Refused> {
        let token = Compact::parse(token)?;
        let claims = token.claims()?;
        if issuer_of(&claims)? != self.issuer {
            return Err(Refused::Issuer);
        }
        self.trusted.check(&token, &claims)?;
        let subject = subject_of(&claims)?.unwrap_or_default();
        let expected = "a list of objects with type, name and actions";
        let grants = claims.get("access").map_or_else(|| Ok(Vec::new()), grants);
        let grants = grants.map_err(|_| Invalid::Field { field: "access", expected })?;
        self.trusted.verify(&token).await?;
        let external = External { issuer: NAME.to_owned(), subject, claims: [].into() };
        Ok((external, grants))
    }
}

/// The entries of `access`. Servers written in Go send `null` for an empty list.
fn grants(access: Raw<'_>) -> Result<Vec<Grant>, InvalidJson> {
    let text = |value: Option<Raw<'_>>| {
        let text = value.and_then(|value| value.text(MAX_LEN).transpose());
        text.unwrap_or(Err(InvalidJson::Expected { field: "access", expected: "a text" })).map(String::from)
    };
    let mut grants = Vec::new();
    access.array(|entry| {
        let [kind, name, listed] = entry.fields(["type", "name", "actions"])?;
        let (kind, name, mut actions) = (text(kind)?, text(name)?, Vec::new());
        if let Some(listed) = listed {
            listed.array(|action| {
                actions.push(text(Some(action))?);
                Ok::<_, InvalidJson>(())
            })?;
            grants.push(Grant { kind, name, actions });
        }
        Ok(())
    })?;
    Ok(grants)
}
