//! An issuer of tokens, as the policy names it.

use url::Url;

use super::Algorithm;
use crate::platform::address::{self, InvalidAddress};

/// The setting that allows http and private hosts.
const PRIVATE_ISSUERS: &str = "EXTERNAL_PRIVATE_ISSUERS";

/// The longest URL and audience, in bytes.
pub(super) const MAX_TEXT: usize = 1024;

/// Names that would make an identity look like one of another kind in logs and events.
const RESERVED_NAMES: [&str; 3] = ["key", "job", "token-server"];

/// Somebody who vouches for identities: the OpenID provider of a CI system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in rules, logs and events.
    pub name: String,
    /// The value of `iss` in its tokens, compared as text.
    pub url: String,
    /// The value that `aud` must have or contain.
    pub audience: String,
    /// The algorithms that its tokens may use.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are. `None`: where its discovery document says.
    pub jwks: Option<Url>,
}

/// What is wrong with a field of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {expected}")]
pub struct InvalidIssuer {
    /// The name of the field.
    pub field: &'static str,
    /// What it should be.
    pub expected: String,
}

impl Issuer {
    /// The longest name, in characters.
    const MAX_NAME: usize = 63;

    /// An issuer of valid fields, or all that is wrong with them. `may_be_private` is `EXTERNAL_PRIVATE_ISSUERS`: it
    /// allows http and private hosts.
    pub fn new(
        name: &str,
        url: &str,
        audience: &str,
        algorithms: &[Algorithm],
        jwks: Option<&str>,
        may_be_private: bool,
    ) -> Result<Self, Vec<InvalidIssuer>> {
        let mut errors = Vec::new();
        let mut error = |field, expected: &str| {
            errors.push(InvalidIssuer { field, expected: expected.to_owned() });
        };
        let is_inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=Self::MAX_NAME).contains(&name.len())
            || !name.chars().all(is_inside)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            error("name", "up to 63 lower case letters, digits, and dashes inside");
        } else if RESERVED_NAMES.contains(&name) {
            error("name", "none of key, job, token-server");
        }
        match checked(url, may_be_private) {
            // Nothing is fetched from there.
            Ok(_) | Err(Some(InvalidAddress::Private)) if jwks.is_some() => {}
            Ok(parsed) if parsed.query().is_some() => error("url", "a URL without a query"),
            Ok(_) => {}
            Err(reason) => error("url", &expected(reason)),
        }
        if !(1..=MAX_TEXT).contains(&audience.len()) || audience.chars().any(char::is_control) {
            error("audience", "1 to 1024 bytes of text");
        }
        let is_twice =
            |(at, one): (usize, &Algorithm)| algorithms.iter().skip(at + 1).any(|other| one == other);
        if algorithms.is_empty() || algorithms.iter().enumerate().any(is_twice) {
            error("algorithms", "a list of RS256, ES256, EdDSA, each at most once");
        }
        let jwks = match jwks.map(|jwks| public_url(jwks, may_be_private)).transpose() {
            Ok(jwks) => jwks,
            Err(expected) => {
                error("jwks", &expected);
                None
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let (name, url, audience) = (name.to_owned(), url.to_owned(), audience.to_owned());
        Ok(Self { name, url, audience, algorithms: algorithms.to_vec(), jwks })
    }
}

/// A URL that may be fetched, or what is expected instead.
pub(super) fn public_url(text: &str, may_be_private: bool) -> Result<Url, String> {
    checked(text, may_be_private).map_err(expected)
}

/// As [`public_url`]. The error is `None` for what is no URL at all.
fn checked(text: &str, may_be_private: bool) -> Result<Url, Option<InvalidAddress>> {
    let url = Some(text).filter(|text| text.len() <= MAX_TEXT).and_then(|text| text.parse().ok());
    let url: Url = url.ok_or(None)?;
    address::check(&url, may_be_private).map_err(Some)?;
    Ok(url)
}

fn expected(reason: Option<InvalidAddress>) -> String {
    reason.map_or_else(|| "an https URL".to_owned(), |reason| reason.unless(PRIVATE_ISSUERS))
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    const URL: &str = "https://token.actions.githubusercontent.com";
    const RS256: &[Algorithm] = &[Algorithm::Rs256];

    #[test]
    fn an_issuer_keeps_its_url_as_written() {
        let jwks = Some("https://ci.example.com/keys?v=1");
        for (url, jwks, private) in [
            (URL, None, false),
            ("https://ci.example.com/", jwks, false),
            ("https://kubernetes.default.svc.cluster.local", jwks, false),
            ("http://localhost:9000", None, true),
        ] {
            let issuer = Issuer::new("ci-1", url, "registry", &Algorithm::ALL, jwks, private).unwrap();
            assert_eq!((issuer.url.as_str(), issuer.jwks.as_ref().map(Url::as_str)), (url, jwks));
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        let long = "x".repeat(64);
        let name = "name must be up to 63 lower case letters, digits, and dashes inside";
        for wrong in ["", &long, "CI", "a:b", "-a", "a-", "a b"] {
            check(wrong, URL, "a", RS256, None, name);
        }
        for wrong in ["key", "job", "token-server"] {
            check(wrong, URL, "a", RS256, None, "name must be none of key, job, token-server");
        }
        let long = format!("{URL}/{}", "x".repeat(1024));
        for (url, expected) in [
            ("ci", "an https URL"),
            (long.as_str(), "an https URL"),
            ("ftp://ci.example.com", "an https URL with a host"),
            ("http://ci.example.com", "an https URL, unless EXTERNAL_PRIVATE_ISSUERS is on"),
            ("https://127.1", "a URL with a public host, unless EXTERNAL_PRIVATE_ISSUERS is on"),
            ("https://a:b@ci.example.com", "a URL without a user and a password"),
            ("https://ci.example.com/#a", "a URL without a fragment"),
        ] {
            check("ci", url, "a", RS256, None, &format!("url must be {expected}"));
            check("ci", URL, "a", RS256, Some(url), &format!("jwks must be {expected}"));
        }
        check("ci", "https://ci.example.com/?a", "a", RS256, None, "url must be a URL without a query");
        let http = "url must be an https URL, unless EXTERNAL_PRIVATE_ISSUERS is on";
        check("ci", "http://ci.example.com", "a", RS256, Some(URL), http);
        let long = "x".repeat(1025);
        for audience in ["", &long, "a\n"] {
            check("ci", URL, audience, RS256, None, "audience must be 1 to 1024 bytes of text");
        }
        let algorithms = "algorithms must be a list of RS256, ES256, EdDSA, each at most once";
        check("ci", URL, "a", &[], None, algorithms);
        check("ci", URL, "a", &[Algorithm::EdDsa, Algorithm::Rs256, Algorithm::EdDsa], None, algorithms);
        assert_eq!(Issuer::new("", "", "", &[], Some(""), true).unwrap_err().len(), 5);
    }

    fn check(
        name: &str,
        url: &str,
        audience: &str,
        algorithms: &[Algorithm],
        jwks: Option<&str>,
        expected: &str,
    ) {
        let errors = Issuer::new(name, url, audience, algorithms, jwks, false).unwrap_err();
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, [expected], "{name} {url} {audience} {algorithms:?} {jwks:?}");
    }
}
