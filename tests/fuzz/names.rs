//! Repository names, tags, references, digests and upload ids.

use pierhead::oci::{Algorithm, Digest, Reference, RepositoryName, Tag, UploadId};
use proptest::prelude::*;

use crate::{cases, fixtures::sha256, mutate::text};

pub fn names() -> Vec<String> {
    let long = "a/".repeat(127) + "a";
    let names = ["a", "team/app", "a.b_c__d-e---f/0", "blobs/uploads", "tags/list", "v2/manifests/x"];
    names.into_iter().chain([long.as_str()]).map(str::to_owned).collect()
}

pub fn tags() -> Vec<String> {
    ["v1", "latest", "_", "1.0-rc.2_X", &"t".repeat(128)].map(str::to_owned).into()
}

pub fn digests() -> Vec<String> {
    vec![sha256("x").to_string(), sha256("layer").to_string(), Algorithm::Sha512.digest(b"x").to_string()]
}

fn ids() -> [String; 2] {
    [UploadId::unique([0xa5; 32]).to_string(), "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887".to_owned()]
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`, at most 255 characters.
fn is_name(text: &str) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum At {
        Start,
        Inside,
        Dot,
        Underscore,
        TwoUnderscores,
        Dashes,
    }
    let mut at = At::Start;
    for byte in text.bytes() {
        at = match (at, byte) {
            (_, b'a'..=b'z' | b'0'..=b'9') => At::Inside,
            (At::Inside, b'/') => At::Start,
            (At::Inside, b'.') => At::Dot,
            (At::Inside, b'_') => At::Underscore,
            (At::Underscore, b'_') => At::TwoUnderscores,
            (At::Inside | At::Dashes, b'-') => At::Dashes,
            _ => return false,
        };
    }
    at == At::Inside && text.len() <= 255
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let is_word = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_');
    let mut chars = text.chars();
    chars.next().is_some_and(is_word)
        && chars.all(|c| is_word(c) || c == '.' || c == '-')
        && text.len() <= 128
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| "0123456789abcdef".contains(c))
}

/// `sha256:[a-f0-9]{64}` or `sha512:[a-f0-9]{128}`
fn is_digest(text: &str) -> bool {
    let of = |prefix, length| text.strip_prefix(prefix).is_some_and(|hex| is_hex(hex, length));
    of("sha256:", 64) || of("sha512:", 128)
}

/// 64 hexadecimal digits, or a UUID with hyphens, in lower case.
fn is_id(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_uuid =
        groups.len() == 5 && groups.iter().zip([8, 4, 4, 4, 12]).all(|(group, length)| is_hex(group, length));
    is_uuid || is_hex(text, 64)
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn names_follow_the_grammar(text in text(&names())) {
        let name = text.parse::<RepositoryName>();
        prop_assert_eq!(name.is_ok(), is_name(&text));
        if let Ok(name) = name {
            prop_assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn tags_follow_the_grammar(text in text(&tags())) {
        let tag = text.parse::<Tag>();
        prop_assert_eq!(tag.is_ok(), is_tag(&text));
        if let Ok(tag) = tag {
            prop_assert_eq!(tag.to_string(), text);
        }
    }

    #[test]
    fn digests_follow_the_grammar(text in text(&digests())) {
        let digest = text.parse::<Digest>();
        prop_assert_eq!(digest.is_ok(), is_digest(&text));
        if let Ok(digest) = digest {
            prop_assert_eq!(digest.to_string(), text);
            prop_assert_eq!(Digest::from_hash(digest.algorithm(), &digest.to_bytes()), Some(digest));
        }
    }

    #[test]
    fn references_are_tags_or_digests(text in text(&[tags(), digests()].concat())) {
        match text.parse::<Reference>() {
            Ok(Reference::Tag(tag)) => prop_assert!(is_tag(&text) && tag.as_str() == text),
            Ok(Reference::Digest(digest)) => prop_assert!(is_digest(&text) && digest.to_string() == text),
            Err(_) => prop_assert!(!is_tag(&text) && !is_digest(&text)),
        }
    }

    #[test]
    fn upload_ids_have_one_spelling(text in text(&ids())) {
        let id = text.parse::<UploadId>();
        prop_assert_eq!(id.is_ok(), is_id(&text));
        if let Ok(id) = id {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
