//! References: tags and digests, which name a manifest in a repository.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Digest, InvalidDigest};

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec, "Pulling manifests").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Tag(String);

/// A text that is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a tag: use 1 to 128 characters of letters, digits, '_', '.' and '-', not starting with '.' or '-'"
)]
pub struct InvalidTag(pub String);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(s: &str) -> Result<Self, InvalidTag> {
        let starts = s.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let goes_on = s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
        if !starts || !goes_on || s.len() > 128 {
            return Err(InvalidTag(s.to_owned()));
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for Tag {
    type Error = InvalidTag;

    fn try_from(s: String) -> Result<Self, InvalidTag> {
        s.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a manifest in a repository: `<reference>` in the specification's paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that can move to another manifest.
    Tag(Tag),
    /// The digest of its content.
    Digest(Digest),
}

/// A text that is neither a tag nor a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It has a colon, so it was parsed as a digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// It has no colon, so it was parsed as a tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(s: &str) -> Result<Self, InvalidReference> {
        Ok(if s.contains(':') { Self::Digest(s.parse()?) } else { Self::Tag(s.parse()?) })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_the_grammar_are_accepted() {
        for tag in ["a", "A", "_", "1.0", "v1-rc.2_x", "tagtest0", &"a".repeat(128)] {
            assert_eq!(tag.parse::<Tag>().unwrap().as_str(), tag);
        }
        for tag in ["", ".a", "-a", "a/b", "a b", "ä", "a+b", &"a".repeat(129)] {
            assert!(tag.parse::<Tag>().is_err(), "{tag}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        assert!(matches!("sha256:baddigeststring".parse::<Reference>(), Err(InvalidReference::Digest(_))));
        assert!(matches!("latest".parse::<Reference>(), Ok(Reference::Tag(_))));
    }
}
