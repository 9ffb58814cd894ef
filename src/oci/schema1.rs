//! Docker's image manifest version 2, schema 1: a payload, and the signatures that are written into it.
//!
//! A signed manifest is its payload with one more field at the end, `signatures`. The protected header of each signature
//! says how much of the text is the payload's (`formatLength`), and how the payload goes on there (`formatTail`). The digest is that of
//! the payload. `libtrust` (github.com/docker/libtrust, `jsonsign.go`), with which docker and `distribution` signed, defines
//! the rest: what a signature looks like as a blob, and how payload and signatures become a text again, byte for byte.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig,
        general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    },
};
use std::{borrow::Cow, collections::BTreeMap};

use sha2::{Digest as _, Sha256};

use super::{Digest, InvalidJson, InvalidManifest, Manifest, certificate, manifest, raw::Raw};

/// Limit of the signatures of a manifest.
pub const MAX_SIGNATURES: usize = 16;

/// Size limit of a signature, in bytes, as it is sent, stored and written into a manifest: a chain of ten large certificates
/// fits.
pub const MAX_SIGNATURE: usize = 32 * 1024;

/// Limit of the certificates in a signature.
const MAX_CHAIN: usize = 10;

/// Size limit of a signed manifest that is pushed, in bytes. Those of docker, of up to 127 layers, have less than 400 KiB.
pub const MAX_SIGNED: usize = 1024 * 1024;

/// Limit of the values in a key, those within others included.
const MAX_KEY_VALUES: usize = 256;

/// The deepest nesting of arrays and objects in a key.
const MAX_KEY_DEPTH: usize = 8;

/// The longest modulus of an RSA key, in bytes.
const MAX_MODULUS: usize = 1024;

/// The longest name and tag, in bytes.
const MAX_NAME: usize = 255;

/// Base64url as JWS has it, or with the padding that other encoders leave.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why the signatures of a manifest are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignature {
    /// There are none.
    #[error(
        "the manifest has no signatures: sign it, or convert the image, for instance with `skopeo copy --format v2s2`"
    )]
    Missing,
    /// There are too many.
    #[error("the manifest has more than {MAX_SIGNATURES} signatures: sign it again with fewer")]
    TooMany,
    /// One is not JSON, or not of its form.
    #[error("a signature of the manifest is malformed: {0}")]
    Json(#[from] InvalidJson),
    /// A part of one is not what it should be.
    #[error("a signature of the manifest is malformed: {0}")]
    Form(&'static str),
    /// They sign different payloads.
    #[error(
        "the signatures of the manifest must agree on formatLength and formatTail: sign them over the same text"
    )]
    Conflict,
    /// There is less text than they say.
    #[error(
        "formatLength of the signatures does not fit the manifest: its text was changed after it was signed"
    )]
    Length,
    /// One is not by its key, or not of this payload.
    #[error(
        "a signature of the manifest is not valid: the manifest was changed after it was signed, or signed with another key"
    )]
    Wrong,
}

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

    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Self {
        Self::Rsa { n: without_zeros(n).to_vec(), e: without_zeros(e).to_vec() }
    }

    pub(super) fn is_sized(&self) -> bool {
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
    fn to_json(&self, id: &str) -> String {
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
struct Jwk {
    key: Key,
    id: String,
    /// The JWK as `libtrust` writes it: with the fields that it does not know, such as `keyID` and `hosts` of keys from files.
    json: String,
}

impl Jwk {
    fn read(raw: Raw<'_>) -> Result<Self, InvalidSignature> {
        let key = Key::read(raw)?;
        let id = key.id();
        let known = key.to_json(&id);
        let mut written = Written { json: String::new(), values_left: MAX_KEY_VALUES };
        let mut fields = written.fields(raw)?;
        fields.extend(written.fields(Raw::read(known.as_bytes(), "jwk")?)?);
        written.object(fields, 1)?;
        Ok(Self { key, id, json: written.json })
    }
}

/// JSON as Go's `encoding/json` writes what it has read without a type: compact, sorted by the names of fields, the last of
/// those with the same name.
struct Written {
    json: String,
    values_left: usize,
}

impl Written {
    fn count(&mut self) -> Result<(), InvalidSignature> {
        const MANY: InvalidSignature = InvalidSignature::Form("its key has more than 256 values");
        self.values_left = self.values_left.checked_sub(1).ok_or(MANY)?;
        Ok(())
    }

    fn put(&mut self, piece: &str) -> Result<(), InvalidSignature> {
        if self.json.len() + piece.len() > MAX_SIGNATURE {
            return Err(TOO_LONG);
        }
        self.json.push_str(piece);
        Ok(())
    }

    fn fields<'a>(&mut self, object: Raw<'a>) -> Result<BTreeMap<Cow<'a, str>, Raw<'a>>, InvalidSignature> {
        let mut fields = BTreeMap::new();
        object.object(|name, value| {
            self.count()?;
            fields.insert(name.text(MAX_SIGNATURE)?.ok_or(TOO_LONG)?, value);
            Ok::<_, InvalidSignature>(())
        })?;
        Ok(fields)
    }

    fn object(
        &mut self,
        fields: BTreeMap<Cow<'_, str>, Raw<'_>>,
        depth: usize,
    ) -> Result<(), InvalidSignature> {
        self.put("{")?;
        for (n, (name, value)) in fields.into_iter().enumerate() {
            self.put(if n > 0 { "," } else { "" })?;
            self.text(&name)?;
            self.put(":")?;
            self.value(value, depth)?;
        }
        self.put("}")
    }

    /// Writes a value within `depth` arrays and objects.
    fn value(&mut self, value: Raw<'_>, depth: usize) -> Result<(), InvalidSignature> {
        match value.json().as_bytes().first() {
            Some(b'{' | b'[') if depth == MAX_KEY_DEPTH => {
                Err(InvalidSignature::Form("its key is nested more than 8 levels deep"))
            }
            Some(b'{') => {
                let fields = self.fields(value)?;
                self.object(fields, depth + 1)
            }
            Some(b'[') => {
                self.put("[")?;
                let mut is_first = true;
                value.array(|element| {
                    self.count()?;
                    self.put(if std::mem::take(&mut is_first) { "" } else { "," })?;
                    self.value(element, depth + 1)
                })?;
                self.put("]")
            }
            Some(b'"') => self.text(&value.text(MAX_SIGNATURE)?.ok_or(TOO_LONG)?),
            Some(b't' | b'f' | b'n') => self.put(value.json()),
            _ => self.number(value.json()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), InvalidSignature> {
        self.put("\"")?;
        for piece in text.split_inclusive(is_escaped) {
            let last = piece.chars().next_back().filter(|last| is_escaped(*last));
            self.put(piece.get(..piece.len() - last.map_or(0, char::len_utf8)).unwrap_or_default())?;
            match last {
                None => {}
                Some('"') => self.put("\\\"")?,
                Some('\\') => self.put("\\\\")?,
                Some('\n') => self.put("\\n")?,
                Some('\r') => self.put("\\r")?,
                Some('\t') => self.put("\\t")?,
                Some(other) => self.put(&format!("\\u{:04x}", u32::from(other)))?,
            }
        }
        self.put("\"")
    }

    /// Writes a number as Go did it until 1.7, which reads it as one with 64 bits: `1e+06`.
    fn number(&mut self, json: &str) -> Result<(), InvalidSignature> {
        const FORM: InvalidSignature = InvalidSignature::Form("its key has a number that is too large");
        let number: f64 = json.parse().ok().filter(|number: &f64| number.is_finite()).ok_or(FORM)?;
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').ok_or(FORM)?;
        match exponent.parse().map_err(|_| FORM)? {
            -4..6 => self.put(&number.to_string()),
            exponent @ i32::MIN..=i32::MAX => self.put(&format!("{digits}e{exponent:+03}")),
        }
    }
}

/// Whether Go escapes a character of a text: those that HTML or JavaScript would read as their own as well.
fn is_escaped(character: char) -> bool {
    character < ' ' || matches!(character, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A signature above [`MAX_SIGNATURE`].
const TOO_LONG: InvalidSignature = InvalidSignature::Form("a signature is too long");

/// The text of a field of a signature.
fn text(field: Raw<'_>) -> Result<String, InvalidSignature> {
    field.text(MAX_SIGNATURE)?.map(|text| text.into_owned()).ok_or(TOO_LONG)
}

/// Where a payload was cut for its signatures, by a protected header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    /// `formatLength`.
    length: usize,
    /// `formatTail`, decoded.
    tail: Vec<u8>,
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
    fn fits(&self, payload: &[u8]) -> bool {
        payload.len().checked_sub(self.length) == Some(self.tail.len()) && payload.ends_with(&self.tail)
    }
}

/// A signature of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    jwk: Option<Jwk>,
    algorithm: String,
    /// Certificates, in base64. The key of the first one signs.
    chain: Vec<String>,
    signature: String,
    protected: String,
    cut: Cut,
}

impl Signature {
    /// Reads a signature that is stored as a blob, whatever it signs.
    pub fn stored(content: &[u8]) -> Result<Self, InvalidSignature> {
        Self::read(Raw::stored(content, "the signature")?)
    }

    fn read(raw: Raw<'_>) -> Result<Self, InvalidSignature> {
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
    fn order(&self) -> (&str, &str) {
        (self.jwk.as_ref().map_or("", |jwk| &jwk.id), &self.signature)
    }

    /// Writes it as an element of the signatures of a manifest.
    fn write(&self, indent: &str, write: &mut dyn FnMut(&str)) {
        let json = self.to_json();
        match indent {
            "" => write(&json),
            indent => write_indented(&json, indent, 2, write),
        }
    }

    /// How long that is, in bytes.
    fn length(&self, indent: &str) -> usize {
        let mut length = 0;
        self.write(indent, &mut |piece| length += piece.len());
        length
    }
}

/// A signed manifest, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What is signed, and has the digest of the manifest.
    pub payload: Vec<u8>,
    /// The signatures, not yet verified.
    pub signatures: Vec<Signature>,
}

impl Signed {
    /// Takes the text of a signed manifest apart. All signatures must sign the same payload, which must become a text with
    /// them again.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidManifest> {
        if text.len() > MAX_SIGNED {
            let what = "a manifest of schema 1 is too long, in bytes";
            return Err(InvalidManifest::Limit { what, limit: MAX_SIGNED });
        }
        let [found] = Raw::read(text, "the manifest")?.fields(["signatures"])?;
        let mut signatures: Vec<Signature> = Vec::new();
        if let Some(found) = found {
            found.array(|signature| {
                if signatures.len() == MAX_SIGNATURES {
                    return Err(InvalidSignature::TooMany);
                }
                signatures.push(Signature::read(signature)?);
                Ok(())
            })?;
        }
        let Some(Signature { cut, .. }) = signatures.first() else {
            return Err(InvalidSignature::Missing.into());
        };
        if signatures.iter().any(|signature| signature.cut != *cut) {
            return Err(InvalidSignature::Conflict.into());
        }
        let head = text.get(..cut.length).ok_or(InvalidSignature::Length)?;
        let payload = [head, &cut.tail].concat();
        let [nested] =
            Raw::read(&payload, "the manifest").and_then(|raw| raw.fields(["signatures"])).map_err(
                // What the signatures leave of the text is no JSON.
                |_| InvalidSignature::Length,
            )?;
        // What is stored would look like a signed manifest, of another digest, or could not be put together.
        if nested.is_some() || ends(&payload).is_none_or(|(_, close)| cut.length > close) {
            return Err(InvalidSignature::Length.into());
        }
        let indent = indent(&payload);
        if signatures.iter().any(|signature| signature.length(indent) > MAX_SIGNATURE) {
            return Err(TOO_LONG.into());
        }
        Ok(Self { payload, signatures })
    }
}

/// How much of a payload comes before the signatures, and where its object ends.
fn ends(payload: &[u8]) -> Option<(usize, usize)> {
    let close = payload.trim_ascii_end().len().checked_sub(1)?;
    let (before, rest) = payload.split_at_checked(close)?;
    let before = before.trim_ascii_end();
    // An empty object has no place for a comma.
    let is_object = rest.starts_with(b"}") && before.trim_ascii_start().len() > 1 && !before.ends_with(b",");
    is_object.then_some((before.len(), close))
}

/// How a payload is indented; empty if it is compact.
fn indent(payload: &[u8]) -> &str {
    let rest = payload.strip_prefix(b"{\n").unwrap_or_default();
    let quote = rest.iter().position(|byte| *byte == b'"').unwrap_or_default();
    let indent = rest.get(..quote).unwrap_or_default();
    std::str::from_utf8(indent).ok().filter(|_| indent.trim_ascii().is_empty()).unwrap_or_default()
}

/// The text of a signed manifest, as `libtrust` writes it: sorted by key and signature, each signature once. `None` if there
/// is no signature that fits. Of signatures that were cut differently, which clients refuse together, those stay that were
/// cut where `libtrust` does it, or else those that come first. It adds at most [`MAX_SIGNATURE`] for each signature: what is
/// longer, indented, is left out.
pub fn assemble(payload: &[u8], mut signatures: Vec<Signature>) -> Option<Vec<u8>> {
    let (length, close) = ends(payload)?;
    let indent = indent(payload);
    signatures.retain(|signature| {
        let cut = &signature.cut;
        cut.length <= close && cut.fits(payload) && signature.length(indent) <= MAX_SIGNATURE
    });
    signatures.sort_by(|one, other| one.order().cmp(&other.order()));
    signatures.dedup();
    let first = signatures.first()?.cut.length;
    let is_usual = signatures.iter().any(|signature| signature.cut.length == length);
    let wanted = if is_usual { length } else { first };
    signatures.retain(|signature| signature.cut.length == wanted);

    // The longer of the two, so that the signatures find what they have cut off.
    let head = payload.get(..length.max(wanted))?;
    let (line, space) = if indent.is_empty() { ("", "") } else { ("\n", " ") };
    // Between elements, and before each of them.
    let between = [line, indent, indent].concat();
    let start = format!(",{line}{indent}\"signatures\":{space}[");
    let end = format!("{line}{indent}]{line}}}");
    let added: usize = signatures.iter().map(|one| one.length(indent) + 1 + between.len()).sum();
    let mut text = Vec::with_capacity(head.len() + start.len() + added + end.len());
    text.extend_from_slice(head);
    text.extend_from_slice(start.as_bytes());
    for (n, signature) in signatures.iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        text.extend_from_slice(between.as_bytes());
        signature.write(indent, &mut |piece| text.extend_from_slice(piece.as_bytes()));
    }
    text.extend_from_slice(end.as_bytes());
    Some(text)
}

/// Writes compact JSON, indented as Go does it, for a value that is `depth` levels deep.
fn write_indented(json: &str, indent: &str, mut depth: usize, write: &mut dyn FnMut(&str)) {
    let line = |depth: usize, write: &mut dyn FnMut(&str)| {
        write("\n");
        (0..depth).for_each(|_| write(indent));
    };
    let (mut rest, mut is_text) = (json, false);
    while let Some(at) =
        rest.find(|next| if is_text { matches!(next, '"' | '\\') } else { "\"{}[],:".contains(next) })
    {
        // An escape has a second character, which is not the end of the text; an empty object or array has no lines.
        let is_pair = rest.get(at..).is_some_and(|found| {
            found.starts_with('\\') || found.starts_with("{}") || found.starts_with("[]")
        });
        let found = rest.as_bytes().get(at).copied();
        let (before, after) = rest.split_at_checked(at + 1 + usize::from(is_pair)).unwrap_or((rest, ""));
        rest = after;
        match found {
            Some(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                write(before.get(..at).unwrap_or_default());
                line(depth, write);
                write(before.get(at..).unwrap_or_default());
                continue;
            }
            Some(b'"') => is_text = !is_text,
            _ => {}
        }
        write(before);
        match found {
            Some(b'{' | b'[') if !is_pair => {
                depth += 1;
                line(depth, write);
            }
            Some(b',') => line(depth, write),
            Some(b':') => write(" "),
            _ => {}
        }
    }
    write(rest);
}

/// Whether stored content has its signatures in it: an earlier version has stored signed manifests as they were sent.
pub fn has_signatures(content: &[u8]) -> bool {
    let fields = Raw::stored(content, "the manifest").and_then(|raw| raw.fields(["signatures"]));
    fields.is_ok_and(|[signatures]| signatures.is_some())
}

/// What a registry reads of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The name of the repository that it is for.
    pub name: String,
    /// The tag that it is for.
    pub tag: String,
    /// The layers. Sorted, each once.
    pub layers: Vec<Digest>,
}

impl Payload {
    /// Reads a payload.
    pub fn parse(content: &[u8]) -> Result<Self, InvalidManifest> {
        Self::read(Raw::read(content, "the manifest")?)
    }

    pub(super) fn read(raw: Raw<'_>) -> Result<Self, InvalidManifest> {
        let [version, name, tag, layers, history] =
            raw.fields(["schemaVersion", "name", "tag", "fsLayers", "history"])?;
        if version.map(Raw::number).transpose()? != Some(1) {
            return Err(InvalidManifest::Shape("a manifest of schema 1 must have schemaVersion 1"));
        }
        let (Some(name), Some(tag), Some(layers), Some(history)) = (name, tag, layers, history) else {
            return Err(InvalidManifest::Shape(
                "a manifest of schema 1 must have name, tag, fsLayers and history",
            ));
        };
        let name = manifest::text(name, MAX_NAME, "a name is too long, in characters")?;
        let tag = manifest::text(tag, MAX_NAME, "a tag is too long, in characters")?;
        let mut found = Vec::new();
        layers.array(|layer| {
            manifest::within(found.len() + 1, Manifest::MAX_BLOBS, "too many layers")?;
            let [digest] = layer.fields(["blobSum"])?;
            let missing = InvalidManifest::Shape("each of fsLayers must have a blobSum");
            found.push(manifest::digest(digest.ok_or(missing)?)?);
            Ok::<_, InvalidManifest>(())
        })?;
        let mut count = 0;
        history.array(|entry| {
            count += 1;
            let [compatibility] = entry.fields(["v1Compatibility"])?;
            let missing = InvalidManifest::Shape("each of history must have v1Compatibility");
            compatibility.ok_or(missing)?.escaped()?;
            Ok::<_, InvalidManifest>(())
        })?;
        if found.is_empty() || found.len() != count {
            return Err(InvalidManifest::Shape(
                "fsLayers and history of a manifest of schema 1 must have the same length, and not be empty",
            ));
        }
        found.sort_unstable();
        found.dedup();
        Ok(Self { name, tag, layers: found })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    /// Signed by `libtrust`, in skopeo 1.9.3.
    const SIGNED: &str = concat!(
        r#"{"name":"clients/app","tag":"v1","architecture":"amd64","fsLayers":[{"blobSum":"sha256:1588a73dd"#,
        r#"00f801005b3146fb882ca10fea27b7c5e73f69d6425f933a30019e5"},{"blobSum":"sha256:74665ce1b62825f6a12"#,
        r#"06bc57a896d79d59561a8dee92bb5084139da32c40dc3"}],"history":[{"v1Compatibility":"{\"architecture\"#,
        r#"":\"amd64\",\"config\":{},\"id\":\"60c8761e1b57a1aadd25ac26e8c4c31017244d20ea3d9382e3c98f0a5ed58"#,
        r#"391\",\"os\":\"linux\",\"parent\":\"45c9dc5c45ed7a856af9711721f646aa6b374762835d8fc11ff255d55647"#,
        r#"c062\"}"},{"v1Compatibility":"{\"id\":\"45c9dc5c45ed7a856af9711721f646aa6b374762835d8fc11ff255d5"#,
        r#"5647c062\",\"created\":\"2025-01-01T00:00:00Z\",\"container_config\":{\"Cmd\":[\"layer 0\"]}}"}]"#,
        r#","schemaVersion":1,"signatures":[{"header":{"jwk":{"crv":"P-256","kid":"DI2R:R46N:7E2S:U64Q:YPJT"#,
        r#":FY2M:AP35:HFL6:AQTS:2I5D:5SBI:LJKB","kty":"EC","x":"WvjLsUX7CPeG0_moZ0VsN817U0sNlXarcHdm6057PR4"#,
        r#"","y":"0H1ke5Wemgq89Mx4LfgLhDH8ZDgtRj3ZUwPLrowIQLs"},"alg":"ES256"},"signature":"WWWAqa7QYQqrTi-"#,
        r#"OFexCY5yvbNVK-mXlIF6IBTbg2STyJ9rtPWJVtOY9XMWfqU58U0qSM-FDU-qXqLfJfFlynw","protected":"eyJmb3JtYX"#,
        r#"RMZW5ndGgiOjY5MCwiZm9ybWF0VGFpbCI6ImZRIiwidGltZSI6IjIwMjYtMTEtMjJUMTQ6Mjc6MDZaIn0"}]}"#,
    );

    fn signature(protected: &str, value: &str) -> Signature {
        let protected = URL_SAFE_NO_PAD.encode(protected);
        let blob = format!(
            r#"{{"protected":"{protected}","signature":"{value}","header":{{"alg":"ES256"}},"x":1}}"#
        );
        Signature::stored(blob.as_bytes()).unwrap()
    }

    #[test]
    fn what_libtrust_has_signed_is_taken_apart_and_put_together() {
        let Signed { payload, signatures } = Signed::parse(SIGNED.as_bytes()).unwrap();
        assert_eq!(payload, [SIGNED.split_once(",\"signatures\"").unwrap().0, "}"].concat().as_bytes());
        let read = Payload::parse(&payload).unwrap();
        assert_eq!((&*read.name, &*read.tag, read.layers.len()), ("clients/app", "v1", 2));
        let blob = signatures[0].to_json();
        assert!(SIGNED.contains(&blob), "{blob}");
        assert_eq!(Signature::stored(blob.as_bytes()).as_ref(), Ok(&signatures[0]));
        assert_eq!(signatures[0].algorithm(), "ES256");
        let text = assemble(&payload, vec![signatures[0].clone(), signatures[0].clone()]).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), SIGNED);
        let manifest = Manifest::parse(None, SIGNED.as_bytes()).unwrap();
        assert_eq!(manifest.media_type, crate::oci::media_type::DOCKER_SIGNED_MANIFEST);
        assert_eq!(manifest.blobs, read.layers);
        assert!(has_signatures(SIGNED.as_bytes()) && !has_signatures(&payload));
    }

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

        // In a manifest, with its indentation.
        let jwk = read(&written(r#"["<a>"]"#, "{}")).unwrap();
        let plain = signature(r#"{"formatLength":8,"formatTail":"Cn0"}"#, "b2");
        let blob = Signature { jwk: Some(jwk), ..plain }.to_json();
        let one = Signature::stored(blob.as_bytes()).unwrap();
        assert_eq!(one.to_json(), blob);
        let text = String::from_utf8(assemble(b"{\n \"a\":1\n}", vec![one]).unwrap()).unwrap();
        let lines =
            "     \"hosts\": [\n      \"\\u003ca\\u003e\"\n     ],\n     \"keyID\": \"x\",\n     \"kid\": ";
        assert!(text.contains(lines) && text.contains(",\n     \"zone\": {}\n    },\n    \"alg\""), "{text}");
        assert_eq!(Signed::parse(text.as_bytes()).unwrap().signatures[0].to_json(), blob);
    }

    #[test]
    fn the_text_is_indented_as_the_payload() {
        let payload = "{\n \"a\": [\n  1\n ]\n}\n";
        let cut = payload.find("\n}").unwrap();
        let tail = URL_SAFE_NO_PAD.encode(&payload[cut..]);
        let one = signature(&format!(r#"{{"formatLength":{cut},"formatTail":"{tail}"}}"#), "b2");
        let two = Signature { signature: "a1".to_owned(), chain: vec!["x+/=".to_owned()], ..one.clone() };
        let protected = &one.protected;
        let expected = format!(
            "{{\n \"a\": [\n  1\n ],\n \"signatures\": [\n  {{\n   \"header\": {{\n    \"alg\": \"ES256\",\n    \"x5c\": [\n     \
             \"x+/=\"\n    ]\n   }},\n   \"signature\": \"a1\",\n   \"protected\": \"{protected}\"\n  }},\n  {{\n   \"header\": \
             {{\n    \"alg\": \"ES256\"\n   }},\n   \"signature\": \"b2\",\n   \"protected\": \"{protected}\"\n  }}\n ]\n}}"
        );
        let text = assemble(payload.as_bytes(), vec![one, two]).unwrap();
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        assert_eq!(Signed::parse(&text).unwrap().payload, payload.as_bytes());
    }

    #[test]
    fn a_payload_may_be_cut_elsewhere() {
        let payload = b"{\"a\":1 }";
        let at = |cut: usize, value: &str| {
            let tail = URL_SAFE_NO_PAD.encode(&payload[cut..]);
            signature(&format!(r#"{{"formatLength":{cut},"formatTail":"{tail}","time":"x"}}"#), value)
        };
        let parsed = |signatures: Vec<Signature>| {
            let text = assemble(payload, signatures)?;
            let parsed = Signed::parse(&text).unwrap();
            assert_eq!(parsed.payload, payload);
            Some((String::from_utf8(text).unwrap(), parsed.signatures.len()))
        };
        for (cut, head) in [(0, "{\"a\":1,"), (3, "{\"a\":1,"), (6, "{\"a\":1,"), (7, "{\"a\":1 ,")] {
            let (text, count) = parsed(vec![at(cut, "b2"), at(cut, "a1")]).unwrap();
            assert!(count == 2 && text.starts_with(head), "{cut}: {text}");
        }
        // Clients refuse signatures that do not agree: those stay that were cut as usual, or else the first.
        assert_eq!(parsed(vec![at(7, "a1"), at(6, "b2"), at(6, "c3")]).unwrap().1, 2);
        assert_eq!(parsed(vec![at(7, "a1"), at(3, "b2"), at(7, "c3")]).unwrap().1, 2);
        assert_eq!(parsed(vec![at(8, "a1")]), None);
        let wrong = signature(r#"{"formatLength":3,"formatTail":"fQ"}"#, "a1");
        assert_eq!(parsed(vec![wrong.clone()]), None);
        assert_eq!(parsed(vec![wrong, at(6, "b2")]).unwrap().1, 1);
        for payload in ["", "{}", " { } ", "[1]", "{\"a\":1,}", "1"] {
            assert_eq!(ends(payload.as_bytes()), None, "{payload}");
        }
        assert_eq!(ends(b"{\"a\":\"\xc3\xa9\"\r\n}\n"), Some((9, 11)));
    }

    #[test]
    fn a_signature_fits_wherever_it_is_written() {
        let key = Key::rsa(&[7; 256], &[1, 0, 1]);
        let json = key.to_json(&key.id());
        let parsed = |padding: usize, indent: &str, kid: &str| {
            let (line, tail) =
                if indent.is_empty() { (String::new(), "fQ") } else { (format!("\n{indent}"), "Cn0") };
            let head = format!("{{{line}\"a\":1");
            let protected = format!(r#"{{"formatLength":{},"formatTail":"{tail}"}}"#, head.len());
            let (protected, chain) = (URL_SAFE_NO_PAD.encode(protected), "A".repeat(padding));
            let jwk = json.replace(&format!("\"kid\":\"{}\",", key.id()), kid);
            let signature = format!(
                r#"{{"header":{{"jwk":{jwk},"alg":"RS256","x5c":["{chain}"]}},"signature":"A","protected":"{protected}"}}"#
            );
            let text = format!("{head},\"signatures\":[{signature}]}}");
            (signature.len(), Signed::parse(text.as_bytes()))
        };
        let kid = format!("\"kid\":\"{}\",", key.id());
        let room = MAX_SIGNATURE - parsed(0, "", &kid).0;
        let signed = parsed(room, "", &kid).1.unwrap();
        assert_eq!(signed.signatures[0].to_json().len(), MAX_SIGNATURE);
        assert!(assemble(&signed.payload, signed.signatures).is_some());
        // It is stored with the id of the key, and served with indentation.
        for (padding, indent, kid) in [(room + 1, "", &*kid), (room + 1, "", ""), (room, " ", &kid)] {
            let (length, parsed) = parsed(padding, indent, kid);
            let error = parsed.map(drop).unwrap_err();
            assert_eq!(error.to_string(), TOO_LONG.to_string(), "{length}");
        }
        let payload = b"{\"a\":1}";
        let long = signature(r#"{"formatLength":6,"formatTail":"fQ"}"#, &"A".repeat(MAX_SIGNATURE - 150));
        assert!(assemble(payload, vec![long.clone()]).is_some());
        let wide = Signature { algorithm: "A".repeat(150), ..long };
        assert_eq!(assemble(payload, vec![wide]), None);
        for (count, element, is_read) in [(10, "A", true), (11, "A", false), (1, "", false)] {
            let chain = vec![format!("\"{element}\""); count].join(",");
            let blob = format!(
                r#"{{"header":{{"alg":"A","x5c":[{chain}]}},"signature":"A","protected":"{}"}}"#,
                URL_SAFE_NO_PAD.encode(r#"{"formatLength":6,"formatTail":"fQ"}"#)
            );
            assert_eq!(Signature::stored(blob.as_bytes()).is_ok(), is_read, "{count}");
        }
    }

    #[test]
    fn json_is_indented_as_go_does_it() {
        let json = r#"{"a":[],"b":{},"c":["\\\"[,:",{"\u0022":"}"}],"d":[[1,null]],"é":-1.5e3}"#;
        let mut text = String::new();
        write_indented(json, " ", 1, &mut |piece| text.push_str(piece));
        let expected = r#"{
  "a": [],
  "b": {},
  "c": [
   "\\\"[,:",
   {
    "\u0022": "}"
   }
  ],
  "d": [
   [
    1,
    null
   ]
  ],
  "é": -1.5e3
 }"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn layers_and_history_belong_together() {
        let digest = Algorithm::Sha256.digest(b"");
        let layer = format!(r#"{{"blobSum":"{digest}"}}"#);
        let read = |layers: usize, history: usize| {
            let (layers, history) =
                (vec![&*layer; layers].join(","), vec![r#"{"v1Compatibility":""}"#; history].join(","));
            Payload::parse(
                format!(r#"{{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[{layers}],"history":[{history}]}}"#)
                    .as_bytes(),
            )
        };
        assert_eq!(read(2, 2).unwrap().layers, std::slice::from_ref(&digest));
        for (layers, history) in [(0, 0), (1, 0), (0, 1), (2, 1), (1, 2)] {
            assert!(matches!(read(layers, history), Err(InvalidManifest::Shape(_))));
        }
        assert!(read(Manifest::MAX_BLOBS, Manifest::MAX_BLOBS).is_ok());
        let beyond = Manifest::MAX_BLOBS + 1;
        assert!(matches!(read(beyond, beyond), Err(InvalidManifest::Limit { .. })));
    }
}
