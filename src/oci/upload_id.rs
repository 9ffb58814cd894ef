//! Upload ids: the `<reference>` in the specification's upload locations.

use std::{fmt, str::FromStr};

/// The id of an upload session: a random UUID, unguessable, in lower-case hyphenated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(uuid::Uuid);

/// A text that is not an upload id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an upload id")]
pub struct InvalidUploadId;

impl UploadId {
    /// A new id.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(s: &str) -> Result<Self, InvalidUploadId> {
        let id = Self(uuid::Uuid::try_parse(s).map_err(|_| InvalidUploadId)?);
        // A session has one id: other spellings of the same UUID are refused.
        if id.to_string() == s { Ok(id) } else { Err(InvalidUploadId) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        let id = UploadId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in ["", "1", &id.to_string().to_uppercase(), &id.to_string().replace('-', "")] {
            assert_eq!(other.parse::<UploadId>(), Err(InvalidUploadId), "{other}");
        }
    }
}
