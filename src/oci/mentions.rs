//! Every digest that a manifest mentions, whatever its type: what must not be deleted while the manifest is there.

use super::{Algorithm, Digest, Manifest};

/// Calls `found` with each digest in the text of a manifest, and with each blob that a push of it needs. More than the
/// manifest refers to at worst: a digest in an annotation counts too. References of schema 1 count as others do.
pub fn mentions(content: &[u8], mut found: impl FnMut(Digest)) {
    for algorithm in Algorithm::ALL {
        let name = algorithm.as_str().as_bytes();
        for (at, _) in content.windows(name.len()).enumerate().filter(|(_, window)| *window == name) {
            let end = at + name.len() + 1 + algorithm.hex_len();
            let text = content.get(at..end).and_then(|text| std::str::from_utf8(text).ok());
            if let Some(digest) = text.and_then(|text| text.parse().ok()) {
                found(digest);
            }
        }
    }
    // JSON may write any character as an escape. No known encoder does so in a digest.
    if content.windows(2).any(|window| window == b"\\u")
        && let Ok(manifest) = Manifest::parse(Some(&Manifest::detect_media_type(content)), content)
    {
        manifest.blobs.into_iter().chain(manifest.subject).for_each(found);
    }
}

/// Whether a manifest names content by a `tarsum`, as the first clients of schema 1 did: such a name is no digest of the
/// content. It is the beginning of a text; texts within a text have their quotes escaped.
pub fn mentions_tarsum(content: &[u8]) -> bool {
    let mut texts = content.split(|byte| *byte == b'"');
    let mut before = texts.next().unwrap_or_default();
    texts.any(|text| {
        let is_escaped = std::mem::replace(&mut before, text).ends_with(b"\\");
        !is_escaped && text.starts_with(b"tarsum")
    })
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(content: &str) -> Vec<Digest> {
        let mut all = Vec::new();
        mentions(content.as_bytes(), |digest| all.push(digest));
        all.sort();
        all
    }

    #[test]
    fn digests_of_any_manifest_are_found() {
        let (a, b) = (Algorithm::Sha256.digest(b"a"), Algorithm::Sha512.digest(b"b"));
        let mut both = vec![a.clone(), b.clone()];
        both.sort();
        assert_eq!(all(&format!("{{\"layers\":[{{\"digest\":\"{a}\"}}],\"x\":\"{b}\"}}")), both);
        // Schema 1.
        assert_eq!(all(&format!("{{\"fsLayers\":[{{\"blobSum\":\"{a}\"}}]}}")), vec![a.clone()]);
        assert_eq!(all(&format!("sha256:sha256:{a}{a}")), vec![a.clone(); 2]);
        let cut = a.to_string();
        assert_eq!(all(&cut[..cut.len() - 1]), []);
        assert_eq!(all(&cut.to_uppercase()), []);
    }

    #[test]
    fn a_tarsum_is_found_where_a_digest_may_be() {
        let text = r#"{"fsLayers":[{"blobSum":"tarsum.v1+sha256:ab"}]}"#;
        assert!(mentions_tarsum(text.as_bytes()));
        // The checksum of an image in the history.
        let text = r#"{"history":[{"v1Compatibility":"{\"checksum\":\"tarsum.dev+sha256:ab\"}"}]}"#;
        assert!(!mentions_tarsum(text.as_bytes()) && !mentions_tarsum(b"tarsums") && !mentions_tarsum(b""));
    }

    #[test]
    fn escapes_do_not_hide_a_digest() {
        let (config, layer) = (Algorithm::Sha256.digest(b"c"), Algorithm::Sha256.digest(b"l"));
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let descriptor = |digest: &Digest| {
            let digest = digest.to_string().replace(':', "\\u003a");
            format!("{{\"mediaType\":\"application/octet-stream\",\"size\":1,\"digest\":\"{digest}\"}}")
        };
        let text = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{media_type}\",\"config\":{},\"layers\":[{}]}}",
            descriptor(&config),
            descriptor(&layer)
        );
        let mut expected = vec![config, layer];
        expected.sort();
        assert_eq!(all(&text), expected);
    }

    proptest! {
        #[test]
        fn digests_are_found_in_any_text(before in "\\PC{0,20}", after in "[^0-9a-f]\\PC{0,20}", seed: u64) {
            let digest = Algorithm::Sha256.digest(&seed.to_be_bytes());
            let text = format!("{before}{digest}{after}");
            prop_assert!(all(&text).contains(&digest));
        }
    }
}
