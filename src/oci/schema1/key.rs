//! The key in the header of a signature, as a JSON Web Key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::{BASE64URL, InvalidSignature, go_json, text};
use crate::oci::{certificate, raw::Raw};

/// The longest modulus of an RSA key, in bytes.
const MAX_MODULUS: usize = 1024;

/// A curve of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// P-256, for ES256.
    P256,
    /// P-384, for ES384.
    P384,
    /// P-521, for ES512, which is read but not verified.
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The value of `crv`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The length of a coordinate, in bytes.
    pub fn length(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A point of a curve, which may be off the curve.
    Ec {
        /// The curve.
        curve: Curve,
        /// The x coordinate, of the curve's length.
        x: Vec<u8>,
        /// The y coordinate.
        y: Vec<u8>,
    },
    /// An RSA key.
    Rsa {
        /// The modulus, big-endian, without leading zeros.
        n: Vec<u8>,
        /// The exponent, the same way.
        e: Vec<u8>,
    },
}

impl Key {
    fn read(jwk: Raw<'_>) -> Result<Self, InvalidSignature> {
        const FORM: InvalidSignature =
            InvalidSignature::Form("jwk must be a public key of RSA, P-256, P-384 or P-521");
        let [kty, crv, x, y, n, e, kid] = jwk.fields(["kty", "crv", "x", "y", "n", "e", "kid"])?;
        let text = |field: Option<Raw<'_>>| text(field.ok_or(FORM)?);
        let number = |field| BASE64URL.decode(text(field)?).map_err(|_| FORM);
        let key = match &*text(kty)? {
            "EC" => {
                let name = text(crv)?;
                let curve = Curve::ALL.into_iter().find(|curve| curve.as_str() == name).ok_or(FORM)?;
                Self::Ec { curve, x: number(x)?, y: number(y)? }
            }
            "RSA" => Self::rsa(&number(n)?, &number(e)?),
            _ => return Err(FORM),
        };
        if !key.is_sized() {
            return Err(FORM);
        }
        match kid {
            Some(kid) if text(Some(kid))? != key.id() => {
                Err(InvalidSignature::Form("kid is not the fingerprint of the key"))
            }
            _ => Ok(key),
        }
    }

    pub(in crate::oci) fn rsa(n: &[u8], e: &[u8]) -> Self {
        Self::Rsa { n: without_zeros(n).to_vec(), e: without_zeros(e).to_vec() }
    }

    pub(in crate::oci) fn is_sized(&self) -> bool {
        match self {
            Self::Ec { curve, x, y } => x.len() == curve.length() && y.len() == curve.length(),
            Self::Rsa { n, e } => (1..=MAX_MODULUS).contains(&n.len()) && (1..=4).contains(&e.len()),
        }
    }

    /// The key's fingerprint, as `libtrust` makes it of its encoding in DER.
    pub fn id(&self) -> String {
        const BASE32: [char; 32] = [
            'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S',
            'T', 'U', 'V', 'W', 'X', 'Y', 'Z', '2', '3', '4', '5', '6', '7',
        ];
        let hash = Sha256::digest(certificate::public_key_info(self));
        let mut id = String::with_capacity(59);
        // 240 bits, in 12 groups of 20.
        for (n, bytes) in hash.chunks_exact(5).take(6).enumerate() {
            let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            for digit in 0..8 {
                if digit % 4 == 0 && n + digit > 0 {
                    id.push(':');
                }
                let at = (bits >> (35 - 5 * digit)) & 31;
                id.extend(BASE32.get(at as usize));
            }
        }
        id
    }

    /// What makes the key, as a JWK with an id.
    pub(super) fn to_json(&self, id: &str) -> String {
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec { curve, x, y } => {
                let (crv, x, y) = (curve.as_str(), number(x), number(y));
                format!(r#"{{"crv":"{crv}","kid":"{id}","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            Self::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kid":"{id}","kty":"RSA","n":"{}"}}"#, number(e), number(n))
            }
        }
    }
}

/// A key in the header of a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jwk {
    pub key: Key,
    /// The key's fingerprint.
    pub id: String,
    /// The JWK as `libtrust` writes it: with the fields that it does not know, such as `keyID` and `hosts` of keys from files.
    pub json: String,
}

impl Jwk {
    pub(super) fn read(raw: Raw<'_>) -> Result<Self, InvalidSignature> {
        let key = Key::read(raw)?;
        let id = key.id();
        let known = key.to_json(&id);
        let json = go_json::merged(raw, Raw::read(known.as_bytes(), "jwk")?)?;
        Ok(Self { key, id, json })
    }
}
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::{
        super::go_json::{MAX_KEY_DEPTH, MAX_KEY_VALUES},
        *,
    };

    #[test]
    fn a_key_has_the_fingerprint_of_libtrust() {
        // The key in the specification of schema 1, and another.
        for (x, y, id) in [
            (
                "3gAwX48IQ5oaYQAYSxor6rYYc_6yjuLCjtQ9LUakg4A",
                "t72ge6kIA1XOjqjVoEOiPPAURltJFBMGDSQvEGVB010",
                "OD6I:6DRK:JXEJ:KBM4:255X:NSAA:MUSF:E4VM:ZI6W:CUN2:L4Z6:LSF4",
            ),
            (
                "ReC5c0J9tgXSdUL4_xzEt5RsD8kFt2wWSgJcpAcOQx8",
                "3sBGEqQ3ZMeqPKwQBAadN2toOUEASha18xa0WwsDF-M",
                "OZ45:U3IG:TDOI:PMBD:NGP2:LDIW:II2U:PSBI:MMCZ:YZUP:TUUO:XPZT",
            ),
        ] {
            let number = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
            let key = Key::Ec { curve: Curve::P256, x: number(x), y: number(y) };
            assert_eq!(key.id(), id);
            assert_eq!(Key::read(Raw::read(key.to_json(&key.id()).as_bytes(), "key").unwrap()), Ok(key));
        }
        let key = Key::rsa(&[0, 0, 5, 0], &[0, 1, 0, 1]);
        let json = key.to_json(&key.id());
        assert!(json.contains(r#""e":"AQAB""#) && json.contains(r#""n":"BQA""#), "{json}");
        assert_eq!(Key::read(Raw::read(json.as_bytes(), "key").unwrap()), Ok(key));
    }

    #[test]
    fn a_key_keeps_the_fields_that_libtrust_does_not_know() {
        let key = Key::Ec { curve: Curve::P256, x: vec![1; 32], y: vec![2; 32] };
        let known = key.to_json(&key.id());
        let (head, tail) = known.split_once("\"kty\"").unwrap();
        // As a key from a file has them, and as Go writes all of it.
        let written = |hosts: &str, zone: &str| {
            let kid = head.replace("\"kid\"", &format!("\"hosts\":{hosts},\"keyID\":\"x\",\"kid\""));
            format!("{kid}\"kty\"{}", tail.replace('}', &format!(",\"zone\":{zone}}}")))
        };
        let read = |jwk: &str| Jwk::read(Raw::read(jwk.as_bytes(), "jwk").unwrap());
        for (hosts, zone, as_hosts, as_zone) in [
            (r#"["a.example","b"]"#, "null", r#"["a.example","b"]"#, "null"),
            ("[ ]", " { } ", "[]", "{}"),
            (r#""<\u003e&\u0026\/""#, "true", r#""\u003c\u003e\u0026\u0026/""#, "true"),
            (
                r#""\u2028 \u2029\"\\\n\r\t\u0001\u007f""#,
                "0",
                "\"\\u2028 \\u2029\\\"\\\\\\n\\r\\t\\u0001\u{7f}\"",
                "0",
            ),
            (r#"{"b":[{}],"a":1,"\u00e9":"é","b":2}"#, "-0.50", r#"{"a":1,"b":2,"é":"é"}"#, "-0.5"),
            (
                "[999999,1e6,123456789,-1.5e3,0.0001,0.00001,1e-7]",
                "1e100",
                "[999999,1e+06,1.23456789e+08,-1500,0.0001,1e-05,1e-07]",
                "1e+100",
            ),
        ] {
            let jwk = read(&written(hosts, zone)).unwrap();
            assert_eq!(jwk.json, written(as_hosts, as_zone));
            assert_eq!((&jwk.key, &*jwk.id), (&key, &*key.id()));
            assert_eq!(read(&jwk.json), Ok(jwk));
        }
        // Whatever is in their place, and in whichever order, and without an id.
        let shuffled =
            known.replace(&format!("\"kid\":\"{}\",", key.id()), "").replace('{', "{ \"z\":1,\"a\":2,");
        let expected =
            ["{\"a\":2,", known.strip_prefix('{').unwrap().strip_suffix('}').unwrap(), ",\"z\":1}"];
        assert_eq!(read(&shuffled).unwrap().json, expected.concat());
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let zeros = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        // A text of which each character is escaped has six times its length.
        let escaped = |length: usize| format!("\"{}\"", "<".repeat(length));
        for (value, is_read) in [
            (nested(MAX_KEY_DEPTH - 1), true),
            (nested(MAX_KEY_DEPTH), false),
            // With the other fields, and those that are known.
            (zeros(MAX_KEY_VALUES - 13), true),
            (zeros(MAX_KEY_VALUES - 12), false),
            (escaped(5000), true),
            (escaped(6000), false),
            ("1e999".to_owned(), false),
            (r#""\ud800""#.to_owned(), false),
        ] {
            assert_eq!(read(&written(&value, "1")).is_ok(), is_read, "{value}");
        }
    }
}
