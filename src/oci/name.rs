//! Repository names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a repository, `<name>` in the specification's paths.
///
/// Grammar (distribution-spec, "Pulling manifests"): components of `[a-z0-9]+`, joined inside by one of
/// `.`, `_`, `__` or any number of `-`, and between them by `/`; at most 255 characters in all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RepositoryName(String);

/// A text that is not a repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a repository name: use at most 255 characters, path components of a-z and 0-9, \
     with '.', '_', '__' or dashes inside them"
)]
pub struct InvalidName(pub String);

impl RepositoryName {
    /// The longest name, in characters ("less than 256" in the specification).
    pub const MAX_LEN: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !component.starts_with(is_alphanumeric) || !component.ends_with(is_alphanumeric) {
        return false;
    }
    component
        .split(is_alphanumeric)
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-'))
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(s: &str) -> Result<Self, InvalidName> {
        if s.len() > Self::MAX_LEN || !s.split('/').all(is_component) {
            return Err(InvalidName(s.to_owned()));
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = InvalidName;

    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> Self {
        name.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_names_of_the_grammar_are_accepted() {
        for name in
            ["a", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1/2", "tags/list", "blobs/uploads", "v2/x"]
        {
            assert!(name.parse::<RepositoryName>().is_ok(), "{name}");
        }
        let long = "a".repeat(256);
        for name in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", "_a", "a:b", "ü", "a b",
            &long,
        ] {
            assert!(name.parse::<RepositoryName>().is_err(), "{name}");
        }
        assert!("a".repeat(255).parse::<RepositoryName>().is_ok());
    }

    proptest! {
        #[test]
        fn every_name_of_the_grammar_is_accepted(
            name in "[a-z0-9]{1,4}((\\.|_|__|-{1,4})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,4})[a-z0-9]{1,4}){0,3}){0,3}"
        ) {
            prop_assert_eq!(name.parse::<RepositoryName>().unwrap().to_string(), name);
        }

        #[test]
        fn no_input_panics(text: String) {
            let _ = text.parse::<RepositoryName>();
        }
    }
}
