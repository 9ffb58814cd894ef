//! JSON Web Tokens in compact form (RFC 7515, RFC 7519), read as strictly as RFC 8725 advises. Signatures are the
//! caller's task.
//!
//! A parser of its own: the maintained crates verify without waiting, which `WebCrypto` cannot, and accept duplicate fields.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    oci::{InvalidJson, Raw},
    platform::Timestamp,
};

/// The longest token, in bytes.
pub const MAX_LEN: usize = 16 * 1024;

/// How far the clocks of an issuer and of the registry may be apart, in seconds.
pub const LEEWAY: u64 = 60;

/// The longest `kid`, in bytes.
const MAX_KID: usize = 256;

/// The longest `alg` and `typ` that are looked at, in bytes.
const MAX_NAME: usize = 64;

/// Why a token is not valid. The texts contain nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is too long.
    #[error("the token has more than {MAX_LEN} bytes")]
    Length,
    /// It is not three parts of base64url.
    #[error("a token has three parts of base64url without padding")]
    Form,
    /// The header or the claims are not JSON, or have something else in a field.
    #[error("the token has invalid JSON: {0}")]
    Json(#[from] InvalidJson),
    /// The header or the claims have a field twice.
    #[error("the token has a field twice")]
    Twice,
    /// The header has `crit`: extensions that a reader must know.
    #[error("the token requires extensions (crit)")]
    Critical,
    /// A field has a value that it may not have.
    #[error("the token's {field} must be {expected}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A field is absent.
    #[error("the token has no {0}")]
    Missing(&'static str),
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// `iat` is in the future.
    #[error("the token was issued in the future")]
    FromTheFuture,
}

/// A token that is well formed. Nothing in it is true until its signature was verified.
pub struct Compact<'a> {
    /// `alg`, whatever it says.
    pub algorithm: String,
    /// `kid`, up to 256 visible ASCII characters.
    pub key_id: Option<String>,
    /// `typ`, whatever it says.
    pub kind: Option<String>,
    /// The claims: JSON, not yet checked.
    pub payload: Vec<u8>,
    /// What is signed.
    pub signing_input: &'a [u8],
    /// The signature.
    pub signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Reads a token. Of the header, only the fields here count: a key or a certificate in it is never looked at.
    pub fn parse(token: &'a str) -> Result<Self, Invalid> {
        if token.len() > MAX_LEN {
            return Err(Invalid::Length);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Form);
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Invalid::Form)?;
        // More dots are in one of the parts, which is then no base64url.
        let (header, payload) = signing_input.split_once('.').ok_or(Invalid::Form)?;
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header = Claims::read(&header, "header")?;
        if header.has("crit") {
            return Err(Invalid::Critical);
        }
        let algorithm = header.text("alg", MAX_NAME, "a short text")?.ok_or(Invalid::Missing("alg"))?;
        let expected = "1 to 256 visible ASCII characters";
        let key_id = header.text("kid", MAX_KID, expected)?;
        if key_id.as_ref().is_some_and(|id| id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Invalid::Field { field: "kid", expected });
        }
        let kind = header.text("typ", MAX_NAME, "a short text")?;
        Ok(Self {
            algorithm: algorithm.into_owned(),
            key_id: key_id.map(Cow::into_owned),
            kind: kind.map(Cow::into_owned),
            payload,
            signing_input: signing_input.as_bytes(),
            signature,
        })
    }

    /// Whether `typ` is absent or one of these, as media types without `application/` (RFC 7515, section 4.1.9).
    pub fn is_kind(&self, kinds: &[&str]) -> bool {
        let Some(kind) = &self.kind else { return true };
        let kind = kind.to_ascii_lowercase();
        let kind = kind.strip_prefix("application/").unwrap_or(&kind);
        kinds.iter().any(|known| known.eq_ignore_ascii_case(kind))
    }

    /// The claims.
    pub fn claims(&self) -> Result<Claims<'_>, Invalid> {
        Claims::read(&self.payload, "claims")
    }
}

/// The fields of a header or of claims. `null` counts as absent.
pub struct Claims<'a>(BTreeMap<Cow<'a, str>, Raw<'a>>);

impl<'a> Claims<'a> {
    /// Reads an object that has no field twice. Errors call it `name`.
    fn read(json: &'a [u8], name: &'static str) -> Result<Self, Invalid> {
        let mut fields = BTreeMap::new();
        Raw::read(json, name)?.object(|name, value| {
            // No name is longer than the token.
            let name = name.text(MAX_LEN)?.ok_or(Invalid::Length)?;
            fields.insert(name, value).map_or(Ok(()), |_| Err(Invalid::Twice))
        })?;
        Ok(Self(fields))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A claim's value, unless it is `null`.
    pub fn get(&self, name: &str) -> Option<Raw<'a>> {
        self.0.get(name).copied().filter(|value| value.json() != "null")
    }

    /// A claim that must be a text of up to `limit` bytes, if it is there. The error says what is `expected`.
    pub fn text(
        &self,
        field: &'static str,
        limit: usize,
        expected: &'static str,
    ) -> Result<Option<Cow<'a, str>>, Invalid> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = value.text(limit).ok().flatten();
        text.map(Some).ok_or(Invalid::Field { field, expected })
    }

    /// A claim that is a time, in seconds since 1970. A fraction is dropped.
    fn time(&self, field: &'static str) -> Result<Option<u64>, Invalid> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let time = serde_json::from_str::<f64>(value.json()).ok().filter(|time| *time >= 0.0);
        let expected = "a number of seconds since 1970";
        time.map(|time| Some(time as u64)).ok_or(Invalid::Field { field, expected })
    }

    /// Checks `exp`, which must be there, `nbf` and `iat`. The clocks may be `leeway` seconds apart.
    pub fn check_times(&self, now: Timestamp, leeway: u64) -> Result<(), Invalid> {
        let now = now.0 / 1000;
        let is_future = |time: u64| time > now.saturating_add(leeway);
        let ends = self.time("exp")?.ok_or(Invalid::Missing("exp"))?;
        if ends.saturating_add(leeway) <= now {
            return Err(Invalid::Expired);
        }
        if self.time("nbf")?.is_some_and(is_future) {
            return Err(Invalid::NotYet);
        }
        match self.time("iat")?.is_some_and(is_future) {
            true => Err(Invalid::FromTheFuture),
            false => Ok(()),
        }
    }

    /// Whether `aud` is, or contains, an audience.
    pub fn is_for(&self, audience: &str) -> Result<bool, Invalid> {
        let wrong = || Invalid::Field { field: "aud", expected: "a text or a list of texts" };
        let value = self.get("aud").ok_or(Invalid::Missing("aud"))?;
        let mut is_for = false;
        let mut look = |value: Raw<'a>| {
            let text = value.text(MAX_LEN).ok().flatten().ok_or_else(wrong)?;
            is_for |= text == audience;
            Ok::<_, Invalid>(())
        };
        match value.json().starts_with('[') {
            true => value.array(look)?,
            false => look(value)?,
        }
        Ok(is_for)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn encode(header: &str, claims: &str) -> String {
        let part = |part: &str| URL_SAFE_NO_PAD.encode(part);
        format!("{}.{}.{}", part(header), part(claims), part("signature"))
    }

    fn refusal(token: &str) -> Invalid {
        match Compact::parse(token).and_then(|token| token.claims().map(drop)) {
            Ok(()) => panic!("{token} was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_token_has_three_parts() {
        let text = encode(r#"{"alg":"RS256","typ":"JWT","kid":"a/b:c","x5c":["x"]}"#, r#"{"sub":"a"}"#);
        let token = Compact::parse(&text).unwrap();
        assert_eq!((token.algorithm.as_str(), token.key_id.as_deref()), ("RS256", Some("a/b:c")));
        assert_eq!(token.signature, b"signature");
        let (signed, _) = text.rsplit_once('.').unwrap();
        assert_eq!(token.signing_input, signed.as_bytes());
        assert_eq!(token.claims().unwrap().text("sub", 1, "x").unwrap().as_deref(), Some("a"));
    }

    #[test]
    fn another_form_is_refused() {
        let (header, claims) = ("eyJhbGciOiJSUzI1NiJ9", "e30");
        for token in [
            String::new(),
            "..".to_owned(),
            header.to_owned(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}.YQ.YQ"),
            format!("{header}.{claims}.YQ."),
            format!(".{header}.{claims}.YQ"),
            // Padding, the other alphabet, white space, and bits that belong to no byte.
            format!("{header}.{claims}.YQ=="),
            format!("{header}.{claims}.a+/a"),
            format!("{header}.{claims}. YQ"),
            format!("{header}.{claims}.YQ\n"),
            format!("{header}.{claims}.YR"),
            format!("{header}.e31.YQ"),
            format!("ü.{claims}.YQ"),
        ] {
            let error = refusal(&token);
            let is_empty = matches!(error, Invalid::Json(InvalidJson::Expected { .. })) && token == "..";
            assert!(error == Invalid::Form || is_empty, "{token}: {error}");
        }
        assert!(
            Compact::parse(&format!("{header}.{claims}.")).is_ok(),
            "an empty signature is for the verifier"
        );
        let limit = format!("{header}.{claims}.");
        let long = |length: usize| format!("{limit}{}", "A".repeat(length - limit.len()));
        assert_eq!(refusal(&long(MAX_LEN + 1)), Invalid::Length);
        assert_ne!(Compact::parse(&long(MAX_LEN)).err(), Some(Invalid::Length));
    }

    #[test]
    fn every_part_is_an_object_without_duplicates() {
        let alg = r#"{"alg":"RS256"}"#;
        for (header, claims) in [
            (r#"{"alg":"none","alg":"RS256"}"#, "{}"),
            (r#"{"alg":"RS256","\u0061lg":"none"}"#, "{}"),
            (r#"{"alg":"RS256","x":1,"x":1}"#, "{}"),
            (alg, r#"{"sub":"a","sub":"b"}"#),
            (alg, r#"{"sub":null,"s\u0075b":"b"}"#),
        ] {
            assert_eq!(refusal(&encode(header, claims)), Invalid::Twice, "{header} {claims}");
        }
        for (header, claims) in [
            ("[]", "{}"),
            ("\"a\"", "{}"),
            ("", "{}"),
            ("{", "{}"),
            (alg, "[]"),
            (alg, "null"),
            (alg, "1"),
            (alg, ""),
            (alg, "{} {}"),
            (alg, "{\"\\ud800\":1}"),
        ] {
            let error = refusal(&encode(header, claims));
            assert!(matches!(error, Invalid::Json(_)), "{header} {claims}: {error}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert_eq!(refusal(&encode(alg, &deep)), Invalid::Json(InvalidJson::Depth));
    }

    #[test]
    fn a_header_is_checked() {
        let header = |fields: &str| refusal(&encode(&format!("{{{fields}}}"), "{}"));
        assert_eq!(header(""), Invalid::Missing("alg"));
        assert_eq!(header(r#""alg":null"#), Invalid::Missing("alg"));
        assert_eq!(header(r#""alg":["RS256"]"#).to_string(), "the token's alg must be a short text");
        for crit in ["[]", "null", r#"["exp"]"#] {
            assert_eq!(header(&format!(r#""alg":"RS256","crit":{crit}"#)), Invalid::Critical);
        }
        for id in ["", "a b", "a\\n", "a\\u0000", "\u{fc}", &"a".repeat(257), &"a".repeat(10_000)] {
            let error = header(&format!(r#""alg":"RS256","kid":"{id}""#));
            assert_eq!(
                error.to_string(),
                "the token's kid must be 1 to 256 visible ASCII characters",
                "{id}"
            );
        }
        let kind = |kind: &str| {
            let text = encode(&format!(r#"{{"alg":"RS256","typ":{kind}}}"#), "{}");
            Compact::parse(&text).unwrap().is_kind(&["JWT"])
        };
        assert_eq!(["null", "\"JWT\"", "\"jwt\"", "\"application/jwt\""].map(kind), [true; 4]);
        assert_eq!(["\"\"", "\"logout+jwt\"", "\"JOSE\"", "\"text/jwt\""].map(kind), [false; 4]);
    }

    #[test]
    fn times_have_a_leeway() {
        let now = Timestamp(1_000_999);
        let check = |claims: &str| {
            Claims::read(format!("{{{claims}}}").as_bytes(), "claims").unwrap().check_times(now, 60).err()
        };
        for (claims, expected) in [
            (r#""exp":941"#, None),
            (r#""exp":940.9"#, Some(Invalid::Expired)),
            (r#""exp":940"#, Some(Invalid::Expired)),
            (r#""exp":0"#, Some(Invalid::Expired)),
            (r#""exp":1e300"#, None),
            ("", Some(Invalid::Missing("exp"))),
            (r#""exp":null"#, Some(Invalid::Missing("exp"))),
            (r#""exp":2000,"nbf":1060,"iat":1060"#, None),
            (r#""exp":2000,"nbf":1061"#, Some(Invalid::NotYet)),
            (r#""exp":2000,"iat":1061"#, Some(Invalid::FromTheFuture)),
        ] {
            assert_eq!(check(claims), expected, "{claims}");
        }
        for wrong in ["\"2000\"", "true", "-1", "1e999", "[2000]"] {
            for field in ["exp", "nbf", "iat"] {
                let error = check(
                    &format!(r#""exp":2000,"{field}":{wrong}"#).replace(r#""exp":2000,"exp""#, r#""exp""#),
                );
                let expected = "a number of seconds since 1970";
                assert_eq!(error, Some(Invalid::Field { field, expected }), "{wrong}");
            }
        }
    }

    #[test]
    fn an_audience_is_a_text_or_a_list() {
        let is_for = |aud: &str| {
            Claims::read(format!("{{\"aud\":{aud}}}").as_bytes(), "claims").unwrap().is_for("registry")
        };
        for (aud, expected) in [
            (r#""registry""#, true),
            (r#""regi\u0073try""#, true),
            (r#"["other","registry"]"#, true),
            (r#""registry2""#, false),
            (r#""Registry""#, false),
            (r#""other registry""#, false),
            ("[]", false),
            (r#"["other"]"#, false),
        ] {
            assert_eq!(is_for(aud), Ok(expected), "{aud}");
        }
        for aud in ["1", "{}", r#"["registry",1]"#, r#"[["registry"]]"#, r#"{"registry":1}"#] {
            assert!(matches!(is_for(aud), Err(Invalid::Field { field: "aud", .. })), "{aud}");
        }
        assert_eq!(is_for("null"), Err(Invalid::Missing("aud")));
    }
}
