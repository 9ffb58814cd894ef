//! A signature of a manifest: what it holds, and how it is written.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use super::{
    BASE64URL, InvalidSignature, Key, MAX_SIGNATURE, TOO_LONG, go_json::write_indented, key::Jwk, text,
};
use crate::oci::{certificate, raw::Raw};

/// Limit of the certificates in a signature.
const MAX_CHAIN: usize = 10;

/// Where a payload was cut for its signatures, by a protected header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// `formatLength`.
    pub length: usize,
    /// `formatTail`, decoded.
    pub tail: Vec<u8>,
}

impl Cut {
    fn read(protected: &str) -> Result<Self, InvalidSignature> {
        const FORM: InvalidSignature = InvalidSignature::Form(
            "protected must be base64url of an object with formatLength and formatTail",
        );
        let header = BASE64URL.decode(protected).map_err(|_| FORM)?;
        let [length, tail] = Raw::read(&header, "protected")?.fields(["formatLength", "formatTail"])?;
        let length = length.ok_or(FORM)?.number()?;
        let tail = BASE64URL.decode(text(tail.ok_or(FORM)?)?).map_err(|_| FORM)?;
        Ok(Self { length: usize::try_from(length).unwrap_or(usize::MAX), tail })
    }

    /// Whether it gives the payload again.
    pub fn fits(&self, payload: &[u8]) -> bool {
        payload.len().checked_sub(self.length) == Some(self.tail.len()) && payload.ends_with(&self.tail)
    }
}

/// A signature of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub(super) jwk: Option<Jwk>,
    pub(super) algorithm: String,
    /// Certificates, in base64. The key of the first one signs.
    pub(super) chain: Vec<String>,
    pub(super) signature: String,
    pub(super) protected: String,
    pub(super) cut: Cut,
}

impl Signature {
    /// Reads a signature that is stored as a blob, whatever it signs.
    pub fn stored(content: &[u8]) -> Result<Self, InvalidSignature> {
        Self::read(Raw::stored(content, "the signature")?)
    }

    pub(super) fn read(raw: Raw<'_>) -> Result<Self, InvalidSignature> {
        if raw.json().len() > MAX_SIGNATURE {
            return Err(TOO_LONG);
        }
        let [header, signature, protected] = raw.fields(["header", "signature", "protected"])?;
        let (Some(header), Some(signature), Some(protected)) = (header, signature, protected) else {
            return Err(InvalidSignature::Form("it must have header, signature and protected"));
        };
        let [jwk, algorithm, certificates] = header.fields(["jwk", "alg", "x5c"])?;
        let algorithm = text(algorithm.ok_or(InvalidSignature::Form("its header must have alg"))?)?;
        let mut chain = Vec::new();
        if let Some(certificates) = certificates {
            certificates.array(|certificate| {
                let certificate = text(certificate)?;
                if certificate.is_empty() || chain.len() == MAX_CHAIN {
                    return Err(InvalidSignature::Form("x5c must have at most 10 certificates, none empty"));
                }
                chain.push(certificate);
                Ok(())
            })?;
        }
        let (signature, protected) = (text(signature)?, text(protected)?);
        // They are written as they are, without escapes.
        let is_plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+/=".contains(&byte));
        if ![&algorithm, &signature, &protected].into_iter().chain(&chain).all(|text| is_plain(text)) {
            return Err(InvalidSignature::Form("its parts must be base64"));
        }
        let cut = Cut::read(&protected)?;
        let jwk = jwk.map(Jwk::read).transpose()?;
        Ok(Self { jwk, algorithm, chain, signature, protected, cut })
    }

    /// The signature as a blob, as `libtrust` writes it.
    pub fn to_json(&self) -> String {
        let Self { jwk, algorithm, chain, signature, protected, .. } = self;
        let jwk = jwk.as_ref().map(|jwk| ["\"jwk\":", &jwk.json, ","]).unwrap_or_default();
        let certificates = chain
            .iter()
            .enumerate()
            .flat_map(|(n, certificate)| [if n == 0 { ",\"x5c\":[\"" } else { "\",\"" }, certificate]);
        let end = if chain.is_empty() { "" } else { "\"]" };
        let pieces = ["{\"header\":{"].into_iter().chain(jwk);
        let pieces = pieces.chain(["\"alg\":\"", algorithm, "\""]).chain(certificates).chain([
            end,
            "},\"signature\":\"",
            signature,
            "\",\"protected\":\"",
            protected,
            "\"}",
        ]);
        // Of the right length: it may be long.
        pieces.collect::<Vec<&str>>().concat()
    }

    /// `alg`, whatever it says.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The key that has signed: that of the first certificate, if there is one. Who has the key is for those to decide who
    /// trust it: no certificate is verified.
    pub fn key(&self) -> Result<Key, InvalidSignature> {
        let Some(first) = self.chain.first() else {
            let jwk = self.jwk.as_ref().ok_or(InvalidSignature::Form("its header must have jwk or x5c"))?;
            return Ok(jwk.key.clone());
        };
        let key = STANDARD.decode(first).ok().and_then(|der| certificate::public_key(&der));
        key.ok_or(InvalidSignature::Form("x5c must begin with an X.509 certificate of RSA, P-256 or P-384"))
    }

    /// The signature itself.
    pub fn bytes(&self) -> Result<Vec<u8>, InvalidSignature> {
        BASE64URL.decode(&self.signature).map_err(|_| InvalidSignature::Form("signature must be base64url"))
    }

    /// What it signs: its protected header, and the payload.
    pub fn signing_input(&self, payload: &[u8]) -> Vec<u8> {
        let mut input = String::with_capacity(self.protected.len() + 2 + payload.len().div_ceil(3) * 4);
        input.push_str(&self.protected);
        input.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut input);
        input.into_bytes()
    }

    /// What decides where it is among others: the id of its key, then itself.
    pub(super) fn order(&self) -> (&str, &str) {
        (self.jwk.as_ref().map_or("", |jwk| &jwk.id), &self.signature)
    }

    /// Writes it as an element of the signatures of a manifest.
    pub(super) fn write(&self, indent: &str, write: &mut dyn FnMut(&str)) {
        let json = self.to_json();
        match indent {
            "" => write(&json),
            indent => write_indented(&json, indent, 2, write),
        }
    }

    /// How long that is, in bytes.
    pub(super) fn length(&self, indent: &str) -> usize {
        let mut length = 0;
        self.write(indent, &mut |piece| length += piece.len());
        length
    }
}
