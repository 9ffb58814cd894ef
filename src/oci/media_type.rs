//! Media types: their grammar, and those with a meaning to this registry.
//!
//! Case does not matter in them (RFC 6838, section 4.2). Those of manifests are stored and served in lower case.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image manifest, version 2, schema 1, signed.
pub const DOCKER_SIGNED_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// The same without its signatures: what they sign.
pub const DOCKER_UNSIGNED_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Artifact manifest of the release candidates of image-spec 1.1: the releases have none.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Artifact manifest of ORAS, before that one.
pub const ORAS_ARTIFACT: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";
/// Arbitrary bytes: the type of every blob response.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The longest media type, in characters: two names of 127 and a slash (RFC 6838, section 4.2).
pub const MAX_LEN: usize = 255;

/// The structure of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A config and layers. One of the OCI may have no config.
    Image,
    /// A list of blobs.
    Artifact,
    /// A list of manifests.
    Index,
    /// Docker's schema 1: a list of layers, without their sizes.
    Schema1,
    /// An unknown type: any JSON object.
    Other,
}

/// The structure of manifests of this media type, given in lower case.
pub fn shape(media_type: &str) -> Shape {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Shape::Image,
        OCI_INDEX | DOCKER_MANIFEST_LIST => Shape::Index,
        OCI_ARTIFACT | ORAS_ARTIFACT => Shape::Artifact,
        DOCKER_SIGNED_MANIFEST | DOCKER_UNSIGNED_MANIFEST => Shape::Schema1,
        _ => Shape::Other,
    }
}

/// Whether a text is `<type>/<subtype>` by the grammar of RFC 6838, without parameters.
pub fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        name.len() <= 127
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&c))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

/// Whether a manifest may have this media type, given in lower case: `application/*`, but no type that browsers
/// execute or render, which are the XML, HTML, PDF and JavaScript types of the WHATWG's MIME Sniffing Standard.
pub fn is_inert(media_type: &str) -> bool {
    media_type.strip_prefix("application/").is_some_and(|subtype| {
        let is_script = matches!(subtype.trim_start_matches("x-"), "javascript" | "ecmascript");
        !is_script && !matches!(subtype, "xml" | "pdf" | "html" | "xhtml") && !subtype.ends_with("+xml")
    })
}

/// The media type with which to serve a manifest that is stored with this one, perhaps by an earlier version or
/// another registry.
pub fn served(stored: &str) -> &str {
    match is_media_type(stored) && is_inert(&stored.to_ascii_lowercase()) {
        true => stored,
        false => OCTET_STREAM,
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn media_types_follow_the_grammar() {
        let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
        assert_eq!(longest.len(), MAX_LEN);
        for text in [OCI_INDEX, DOCKER_SIGNED_MANIFEST, "a/b", "A/1!#$&-^_.+", &longest] {
            assert!(is_media_type(text), "{text}");
        }
        let longer = longest.replacen('a', "aa", 1);
        for text in [
            "", "a", "/", "a/", "/b", "a/b/c", "a/b;c=d", "a /b", "a/b ", "a/+b", ".a/b", "ä/b", "a/b\n",
            &longer,
        ] {
            assert!(!is_media_type(text), "{text}");
        }
    }

    #[test]
    fn what_browsers_execute_is_not_a_manifest() {
        for text in
            [OCI_MANIFEST, DOCKER_SIGNED_MANIFEST, "application/json", "application/x", "application/vnd.xml"]
        {
            assert!(is_inert(text), "{text}");
            assert_eq!(served(text), text);
        }
        for text in [
            "text/html",
            "text/plain",
            "text/xml",
            "text/javascript",
            "image/svg+xml",
            "application/xml",
            "application/xhtml+xml",
            "application/vnd.mozilla.xul+xml",
            "application/javascript",
            "application/x-javascript",
            "application/ecmascript",
            "application/pdf",
            "multipart/mixed",
        ] {
            assert!(!is_inert(text), "{text}");
            assert_eq!(served(text), OCTET_STREAM);
            assert_eq!(served(&text.to_uppercase()), OCTET_STREAM);
        }
        assert_eq!(served("a b"), OCTET_STREAM);
        assert_eq!(served("APPLICATION/JSON"), "APPLICATION/JSON");
    }
}
