//! Paths: the keys of a store, validated once.

use std::{fmt, str::FromStr};

/// The path of an object: segments of `[A-Za-z0-9._-]+` joined by `/`, as in `distribution`'s drivers but
/// without the leading slash; at most 1,024 bytes (R2's limit for a key). `.` and `..` are not segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(String);

/// A text that is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a storage path")]
pub struct InvalidPath(pub String);

impl Path {
    /// The longest path, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Wraps a path whose parts are valid by their types, as in [`crate::layout`].
    pub(crate) fn trusted(path: String) -> Self {
        debug_assert!(path.parse::<Self>().is_ok(), "{path}");
        Self(path)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of everything below this path.
    pub fn folder(&self) -> String {
        format!("{}/", self.0)
    }
}

impl FromStr for Path {
    type Err = InvalidPath;

    fn from_str(s: &str) -> Result<Self, InvalidPath> {
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
        };
        if s.len() > Self::MAX_LEN || !s.split('/').all(is_segment) {
            return Err(InvalidPath(s.to_owned()));
        }
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
