//! Where a step of the retain job ends.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::oci::{RepositoryName, from_json};

/// Where to go on. As text, below 1 KiB for the longest names. Paths are relative to the folder that is listed, and empty
/// at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cursor {
    /// With the repository after this one; with the first one if this is empty.
    After(String),
    /// With the tags after this path.
    Tags { name: RepositoryName, after: String },
    /// Looking for the children of indexes, in the manifests after this path. The scan with this id has those before.
    Scan { name: RepositoryName, id: String, after: String },
    /// With the untagged manifests after this path.
    Untagged { name: RepositoryName, id: String, after: String },
    /// With the notes of pulls after this path.
    Pulls { name: RepositoryName, after: String },
}

impl Cursor {
    /// The start of a scan.
    pub fn scan(name: RepositoryName) -> Self {
        Self::Scan { name, id: Uuid::new_v4().to_string(), after: String::new() }
    }
}

impl Default for Cursor {
    fn default() -> Self {
        Self::After(String::new())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl FromStr for Cursor {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_json(text.as_bytes())
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::{
        layout::Key,
        oci::{Algorithm, Tag},
    };

    #[test]
    fn the_longest_cursor_is_a_kibibyte_at_most() {
        let name: RepositoryName = format!("a{}", "/a".repeat(127)).parse().unwrap();
        let (tag, digest): (Tag, _) = ("t".repeat(128).parse().unwrap(), Algorithm::Sha512.digest(b""));
        let folder = Key::Tags(&name).path().folder();
        let path = Key::TagIndex(&name, &tag, &digest).path().to_string();
        let tags = Cursor::Tags { name: name.clone(), after: path.strip_prefix(&folder).unwrap().to_owned() };
        let Cursor::Scan { name, id, .. } = Cursor::scan(name) else { panic!() };
        let untagged = Cursor::Untagged { name, id, after: format!("sha512/{}/link", digest.hex()) };
        for cursor in [tags, untagged, Cursor::default()] {
            let text = cursor.to_string();
            assert!(text.len() <= 1024 && text.is_ascii(), "{text}");
            assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
        }
        assert!("b".parse::<Cursor>().is_err());
    }
}
