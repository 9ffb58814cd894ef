//! Signed manifests of Docker's schema 1, written a second time, as `libtrust` writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pierhead::platform::verifier::Algorithm;
use serde_json::{Value, json};

use crate::{
    fixtures::sha256,
    issuer::{Signer, encode},
};

/// The layouts of JSON in which payloads were written: how far they are indented, and what follows them.
pub const LAYOUTS: [(&str, &str); 5] = [("   ", ""), ("", ""), ("\t", ""), (" ", "\n"), ("", " \n\n")];

/// A payload for a repository and a tag, in a layout.
pub fn payload(name: &str, tag: &str, layers: &[&str], (indent, end): (&str, &str)) -> String {
    let (line, space) = if indent.is_empty() { (String::new(), "") } else { (format!("\n{indent}"), " ") };
    let layer = |layer: &&str| format!(r#"{{"blobSum":"{}"}}"#, sha256(layer));
    let layer_list = layers.iter().map(layer).collect::<Vec<_>>().join(",");
    let history = r#"{"v1Compatibility":"{\"id\":\"<é>\"}"}"#;
    let history = vec![history; layers.len()].join(",");
    let fields = [
        ("schemaVersion", "1".to_owned()),
        ("name", format!("{name:?}")),
        ("tag", format!("{tag:?}")),
        ("architecture", r#""amd64""#.to_owned()),
        ("fsLayers", format!("[{layer_list}]")),
        ("history", format!("[{history}]")),
    ];
    let fields = fields.map(|(field, value)| format!("{line}\"{field}\":{space}{value}")).join(",");
    let last = if indent.is_empty() { "" } else { "\n" };
    format!("{{{fields}{last}}}{end}")
}

/// A signature, as its blob and its place in a manifest have it.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The fields of its key, in the order of their names, as Go escapes them; empty without one. `hosts` is in an array.
    pub jwk: Vec<(&'static str, String)>,
    pub algorithm: String,
    pub chain: Vec<String>,
    pub signature: String,
    pub protected: String,
}

/// Where `libtrust` cuts a payload.
pub fn cut(payload: &str) -> usize {
    payload.trim_end().strip_suffix('}').unwrap().trim_end().len()
}

/// The fingerprint of a key.
fn fingerprint(signer: &Signer) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, &public_key_info(signer));
    let bits: String = hash.as_ref()[..30].iter().map(|byte| format!("{byte:08b}")).collect();
    let digit = |at: usize| {
        let value = usize::from_str_radix(&bits[at * 5..at * 5 + 5], 2).unwrap();
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[value])
    };
    let groups = (0..12).map(|group| (0..4).map(|n| digit(group * 4 + n)).collect::<String>());
    groups.collect::<Vec<_>>().join(":")
}

/// The public key of a signer, as it is in a signature.
pub fn jwk(signer: &Signer) -> Vec<(&'static str, String)> {
    let jwk = signer.jwk();
    let text = |field: &str| jwk[field].as_str().unwrap().to_owned();
    let kid = fingerprint(signer);
    if signer.algorithm() == Algorithm::Rs256 {
        // Read from a file, which has fields of its own.
        let (hosts, id) = ("registry.example".to_owned(), r#"\u003cé\u0026\"\\\u003e"#.to_owned());
        let (e, kty, n) = (text("e"), text("kty"), text("n"));
        return vec![("e", e), ("hosts", hosts), ("keyID", id), ("kid", kid), ("kty", kty), ("n", n)];
    }
    vec![("crv", text("crv")), ("kid", kid), ("kty", text("kty")), ("x", text("x")), ("y", text("y"))]
}

/// A value in DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        short @ 0..128 => vec![short as u8],
        middle @ 128..256 => vec![0x81, middle as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    [&[tag], length.as_slice(), &content].concat()
}

fn public_key_info(signer: &Signer) -> Vec<u8> {
    let jwk = signer.jwk();
    let number = |field: &str| {
        let text = jwk[field].as_str().unwrap();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    let null = [5, 0];
    let (algorithm, key) = match signer.algorithm() {
        Algorithm::Rs256 => {
            let integer = |field| match number(field) {
                positive if positive[0] < 128 => der(2, &[&positive]),
                number => der(2, &[&[0], &number]),
            };
            let oid = der(6, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]]);
            (der(0x30, &[&oid, &null]), der(0x30, &[&integer("n"), &integer("e")]))
        }
        curve => {
            let named: &[u8] = match curve {
                Algorithm::Es256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
                _ => &[0x2b, 0x81, 4, 0, 0x22],
            };
            let oid = der(6, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]]);
            (der(0x30, &[&oid, &der(6, &[named])]), [&[4][..], &number("x"), &number("y")].concat())
        }
    };
    der(0x30, &[&algorithm, &der(3, &[&[0], &key])])
}

/// A certificate of the signer's key, signed by nobody.
pub fn certificate(signer: &Signer) -> Vec<u8> {
    let info = public_key_info(signer);
    let (empty, version, serial) = (der(0x30, &[]), der(0xa0, &[&der(2, &[&[2]])]), der(2, &[&[7]]));
    let signed = der(0x30, &[&version, &serial, &empty, &empty, &empty, &empty, &info]);
    der(0x30, &[&signed, &empty, &der(3, &[&[0]])])
}

impl Signature {
    /// A signature of a payload that is cut there.
    pub fn at(signer: &Signer, payload: &str, cut: usize) -> Self {
        Self::with(signer, payload, &json!({"formatLength": cut, "formatTail": encode(&payload[cut..])}))
    }

    /// A signature of a payload, with this protected header.
    pub fn with(signer: &Signer, payload: &str, protected: &Value) -> Self {
        let protected = encode(protected.to_string());
        let signed = format!("{protected}.{}", encode(payload));
        let signature = encode(signer.sign(signed.as_bytes()));
        let algorithm = signer.algorithm().as_str().to_owned();
        Self { jwk: jwk(signer), algorithm, chain: Vec::new(), signature, protected }
    }

    /// As `libtrust` signs.
    pub fn new(signer: &Signer, payload: &str) -> Self {
        Self::at(signer, payload, cut(payload))
    }

    /// With certificates in place of the key.
    pub fn certified(signer: &Signer, payload: &str) -> Self {
        let chain = vec![STANDARD.encode(certificate(signer)), STANDARD.encode("the next one")];
        Self { jwk: Vec::new(), chain, ..Self::new(signer, payload) }
    }

    fn lines(&self, indent: &str) -> Vec<String> {
        let at = |depth: usize, text: String| format!("{}{text}", indent.repeat(depth));
        let space = if indent.is_empty() { "" } else { " " };
        let field = |name: &str, value: &str| format!("\"{name}\":{space}\"{value}\"");
        let mut lines = vec![at(2, "{".into()), at(3, format!("\"header\":{space}{{"))];
        if !self.jwk.is_empty() {
            lines.push(at(4, format!("\"jwk\":{space}{{")));
            for (n, (name, value)) in self.jwk.iter().enumerate() {
                let comma = if n + 1 < self.jwk.len() { "," } else { "" };
                if *name == "hosts" {
                    lines.push(at(5, format!("\"hosts\":{space}[")));
                    lines.push(at(6, format!("\"{value}\"")));
                    lines.push(at(5, format!("]{comma}")));
                    continue;
                }
                lines.push(at(5, field(name, value) + comma));
            }
            lines.push(at(4, "},".into()));
        }
        let comma = if self.chain.is_empty() { "" } else { "," };
        lines.push(at(4, field("alg", &self.algorithm) + comma));
        if !self.chain.is_empty() {
            lines.push(at(4, format!("\"x5c\":{space}[")));
            for (n, certificate) in self.chain.iter().enumerate() {
                let comma = if n + 1 < self.chain.len() { "," } else { "" };
                lines.push(at(5, format!("\"{certificate}\"{comma}")));
            }
            lines.push(at(4, "]".into()));
        }
        lines.push(at(3, "},".into()));
        lines.push(at(3, field("signature", &self.signature) + ","));
        lines.push(at(3, field("protected", &self.protected)));
        lines.push(at(2, "}".into()));
        lines
    }

    /// Its blob.
    pub fn blob(&self) -> String {
        self.lines("").concat()
    }

    fn key_id(&self) -> &str {
        self.jwk.iter().find(|(name, _)| *name == "kid").map_or("", |(_, id)| id)
    }
}

/// The text of a manifest, with its signatures.
pub fn signed(payload: &str, signatures: &[Signature], indent: &str) -> String {
    let mut sorted: Vec<&Signature> = signatures.iter().collect();
    sorted.sort_by_key(|one| (one.key_id(), &one.signature));
    let head = &payload[..cut(payload)];
    if indent.is_empty() {
        let blobs: Vec<String> = sorted.iter().map(|one| one.blob()).collect();
        return format!("{head},\"signatures\":[{}]}}", blobs.join(","));
    }
    let blocks: Vec<String> = sorted.iter().map(|one| one.lines(indent).join("\n")).collect();
    format!("{head},\n{indent}\"signatures\": [\n{}\n{indent}]\n}}", blocks.join(",\n"))
}
