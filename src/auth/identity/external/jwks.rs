//! JSON Web Key Sets (RFC 7517): the public keys of an issuer.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Algorithm;
use crate::{
    oci::{InvalidJson, Raw},
    platform::verifier::PublicKey,
};

/// The most keys of a set.
const MAX_KEYS: usize = 100;

/// The longest field of a key, in bytes: a modulus of 8192 bits has 1,366.
const MAX_FIELD: usize = 2048;

/// A key that tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwk {
    /// Its name in the set.
    pub id: Option<String>,
    /// The key.
    pub key: PublicKey,
}

/// Why a document is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwks {
    /// Not of the form.
    #[error(transparent)]
    Json(#[from] InvalidJson),
    /// Too many keys.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

/// Reads a set. Keys that are not fit for signatures of tokens are left out: of other kinds, for other uses, too small, or
/// private.
pub fn read(json: &[u8]) -> Result<Vec<Jwk>, InvalidJwks> {
    let [keys] = Raw::read(json, "document")?.fields(["keys"])?;
    let keys = keys.ok_or(InvalidJson::Expected { field: "keys", expected: "an array" })?;
    let (mut usable, mut count) = (Vec::new(), 0);
    keys.array(|key| {
        count += 1;
        if count > MAX_KEYS {
            return Err(InvalidJwks::TooMany);
        }
        usable.extend(usable_key(key));
        Ok(())
    })?;
    Ok(usable)
}

fn usable_key(jwk: Raw<'_>) -> Option<Jwk> {
    // Of `d`, `p`, `q` and `k`, private keys have at least one: whoever has read the document can sign with those.
    let [kty, purpose, key_ops, alg, kid, crv, n, e, x, y, d, p, q, k] = jwk
        .fields(["kty", "use", "key_ops", "alg", "kid", "crv", "n", "e", "x", "y", "d", "p", "q", "k"])
        .ok()?;
    if [d, p, q, k].iter().any(Option::is_some) {
        return None;
    }
    if let Some(purpose) = purpose
        && text(purpose)? != "sig"
    {
        return None;
    }
    if let Some(uses) = key_ops {
        let mut can_verify = false;
        uses.array(|purpose| {
            can_verify |= purpose.text(MAX_FIELD)?.as_deref() == Some("verify");
            Ok::<_, InvalidJson>(())
        })
        .ok()?;
        if !can_verify {
            return None;
        }
    }
    let key = match (&*text(kty?)?, crv.map(text)) {
        ("RSA", _) => PublicKey::rsa(number(n?)?, number(e?)?)?,
        ("EC", Some(Some(crv))) if crv == "P-256" => {
            PublicKey::P256 { x: number(x?)?.try_into().ok()?, y: number(y?)?.try_into().ok()? }
        }
        ("OKP", Some(Some(crv))) if crv == "Ed25519" => PublicKey::Ed25519(number(x?)?.try_into().ok()?),
        _ => return None,
    };
    if let Some(alg) = alg
        && text(alg)?.parse::<Algorithm>().ok()? != key.algorithm()
    {
        return None;
    }
    let id = match kid {
        Some(kid) => Some(text(kid)?.into_owned()),
        None => None,
    };
    Some(Jwk { id, key })
}

fn text(value: Raw<'_>) -> Option<Cow<'_, str>> {
    value.text(MAX_FIELD).ok().flatten()
}

fn number(value: Raw<'_>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(&*text(value)?).ok()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn keys(keys: &Value) -> Vec<Jwk> {
        read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A number of so many bits that is odd.
    fn odd(bits: usize) -> String {
        let mut bytes = vec![0; bits.div_ceil(8)];
        bytes[0] = 1 << ((bits - 1) % 8);
        *bytes.last_mut().unwrap() |= 1;
        encoded(&bytes)
    }

    /// Three keys, one of each kind.
    fn good() -> [Value; 3] {
        let number = encoded(&[7; 32]);
        [
            json!({"kty": "RSA", "kid": "a", "n": odd(2048), "e": "AQAB"}),
            json!({"kty": "EC", "kid": "a", "crv": "P-256", "x": number, "y": number}),
            json!({"kty": "OKP", "kid": "a", "crv": "Ed25519", "x": number}),
        ]
    }

    fn with(key: &Value, fields: Value) -> Value {
        let mut key = key.clone();
        key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        key
    }

    #[test]
    fn keys_of_three_kinds_are_read() {
        let algorithms = |keys: &[Jwk]| keys.iter().map(|jwk| jwk.key.algorithm()).collect::<Vec<_>>();
        let read = keys(&json!(good()));
        assert_eq!(algorithms(&read), Algorithm::ALL);
        assert!(read.iter().all(|jwk| jwk.id.as_deref() == Some("a")));
        for (key, alg) in good().iter().zip(Algorithm::ALL) {
            let full =
                json!({"use": "sig", "key_ops": ["verify"], "alg": alg.as_str(), "x5c": [1], "d": null});
            assert_eq!(keys(&json!([with(key, full)])).len(), 1, "{key}");
        }
        assert_eq!(keys(&json!([with(&good()[2], json!({"alg": "Ed25519"}))])).len(), 1);
        assert_eq!(keys(&json!([with(&good()[0], json!({"e": "Aw"}))])).len(), 1);
        // Leading zeros are no part of a number.
        let zeros = encoded(&[&[0, 0][..], &URL_SAFE_NO_PAD.decode(odd(2048)).unwrap()].concat());
        assert_eq!(
            keys(&json!([with(&good()[0], json!({"n": zeros, "e": "AAEAAQ"}))])),
            keys(&json!([good()[0]]))
        );
    }

    #[test]
    fn keys_that_are_not_fit_are_left_out() {
        let [rsa, ec, okp] = good();
        let number = |length: usize| encoded(&vec![7; length]);
        for (key, wrong) in [
            (&rsa, json!({"kty": "EC"})),
            (&rsa, json!({"kty": "oct"})),
            (&rsa, json!({"kty": 1})),
            (&rsa, json!({"kty": null})),
            (&rsa, json!({"use": "enc"})),
            (&rsa, json!({"use": ["sig"]})),
            (&rsa, json!({"key_ops": ["sign"]})),
            (&rsa, json!({"key_ops": []})),
            (&rsa, json!({"key_ops": "verify"})),
            (&rsa, json!({"alg": "ES256"})),
            (&rsa, json!({"alg": "HS256"})),
            (&rsa, json!({"alg": "RS512"})),
            (&rsa, json!({"alg": "none"})),
            (&rsa, json!({"kid": 1})),
            (&rsa, json!({"n": odd(2047)})),
            (&rsa, json!({"n": odd(512)})),
            (&rsa, json!({"n": odd(8193)})),
            (&rsa, json!({"n": encoded(&[0; 256])})),
            (&rsa, json!({"n": encoded(&[254; 256])})),
            (&rsa, json!({"n": format!("{}==", odd(2048))})),
            (&rsa, json!({"e": "AQ"})),
            (&rsa, json!({"e": "Ag"})),
            (&rsa, json!({"e": ""})),
            (&rsa, json!({"e": "AA"})),
            (&rsa, json!({"e": "BQ"})),
            (&rsa, json!({"e": odd(18)})),
            (&rsa, json!({"e": odd(34)})),
            (&rsa, json!({"d": "AQ"})),
            (&rsa, json!({"p": "AQ"})),
            (&rsa, json!({"k": "AQ"})),
            (&ec, json!({"crv": "P-384"})),
            (&ec, json!({"crv": "secp256k1"})),
            (&ec, json!({"crv": null})),
            (&ec, json!({"x": number(31)})),
            (&ec, json!({"y": number(33)})),
            (&ec, json!({"d": number(32)})),
            (&okp, json!({"crv": "X25519"})),
            (&okp, json!({"x": number(33)})),
            (&okp, json!({"x": "!"})),
            (&okp, json!({"d": number(32)})),
        ] {
            let key = with(key, wrong);
            assert_eq!(keys(&json!([key, good()[2]])), keys(&json!([good()[2]])), "{key}");
        }
        assert_eq!(keys(&json!([1, [], "a", null, {}])), []);
        let twice = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","x":"AA"}]}"#;
        assert_eq!(read(twice.as_bytes()), Ok(Vec::new()));
    }

    #[test]
    fn another_document_is_refused() {
        for document in
            ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[],"keys":[]}"#, "<html>"]
        {
            assert!(matches!(read(document.as_bytes()), Err(InvalidJwks::Json(_))), "{document}");
        }
        assert_eq!(read(br#"{"keys":[]}"#), Ok(Vec::new()));
        for (count, expected) in [(100, Some(100)), (101, None), (10_000, None)] {
            let many = json!({ "keys": vec![good()[2].clone(); count] }).to_string();
            assert_eq!(read(many.as_bytes()).ok().map(|keys| keys.len()), expected);
        }
    }
}
