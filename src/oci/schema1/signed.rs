//! Signed manifests: taking the text apart, and putting payload and signatures together.

use super::{InvalidSignature, MAX_SIGNATURE, MAX_SIGNATURES, MAX_SIGNED, Signature, TOO_LONG};
use crate::oci::{InvalidManifest, raw::Raw};

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
/// Whether stored content has its signatures in it: an earlier version has stored signed manifests as they were sent.
pub fn has_signatures(content: &[u8]) -> bool {
    let fields = Raw::stored(content, "the manifest").and_then(|raw| raw.fields(["signatures"]));
    fields.is_ok_and(|[signatures]| signatures.is_some())
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::oci::{
        Manifest,
        schema1::{Curve, Key, Payload},
    };

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
    fn the_key_is_indented_with_its_signature() {
        let key = Key::Ec { curve: Curve::P256, x: vec![1; 32], y: vec![2; 32] };
        let known = key.to_json(&key.id());
        let known = known.strip_prefix('{').and_then(|known| known.strip_suffix('}')).unwrap();
        let jwk = known.replace("\"kid\"", "\"hosts\":[\"\\u003ca\\u003e\"],\"keyID\":\"x\",\"kid\"");
        let plain = signature(r#"{"formatLength":8,"formatTail":"Cn0"}"#, "b2").to_json();
        let blob = plain.replace("\"alg\"", &format!("\"jwk\":{{{jwk},\"zone\":{{}}}},\"alg\""));
        let one = Signature::stored(blob.as_bytes()).unwrap();
        assert_eq!(one.to_json(), blob);
        let text = String::from_utf8(assemble(b"{\n \"a\":1\n}", vec![one]).unwrap()).unwrap();
        let lines =
            "     \"hosts\": [\n      \"\\u003ca\\u003e\"\n     ],\n     \"keyID\": \"x\",\n     \"kid\": ";
        assert!(text.contains(lines) && text.contains(",\n     \"zone\": {}\n    },\n    \"alg\""), "{text}");
        assert_eq!(Signed::parse(text.as_bytes()).unwrap().signatures[0].to_json(), blob);
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
}
