//! Upload ids: the `<reference>` in the specification's upload locations.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// The id of an upload session: unguessable, in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Unique([u8; 32]),
    Named(Uuid),
}

/// A text that is not an upload id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an upload id")]
pub struct InvalidUploadId;

impl UploadId {
    /// An id made of 32 random bytes: 64 hexadecimal digits.
    pub fn unique(bytes: [u8; 32]) -> Self {
        Self(Kind::Unique(bytes))
    }

    /// Whether the session has this id as its name: a UUID in hyphenated form. Earlier versions made such ids.
    pub fn is_name(&self) -> bool {
        matches!(self.0, Kind::Named(_))
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(s: &str) -> Result<Self, InvalidUploadId> {
        let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
        let id = if let Ok(text) = <&[u8; 64]>::try_from(s.as_bytes()) {
            let mut bytes = [0; 32];
            for (byte, [high, low]) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
                *byte = digit(*high)
                    .zip(digit(*low))
                    .map(|(high, low)| high << 4 | low)
                    .ok_or(InvalidUploadId)?;
            }
            Self(Kind::Unique(bytes))
        } else {
            Self(Kind::Named(Uuid::try_parse(s).map_err(|_| InvalidUploadId)?))
        };
        // A session has one id: other spellings of it are refused.
        if id.to_string() == s { Ok(id) } else { Err(InvalidUploadId) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Unique(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Kind::Named(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        let unique = UploadId::unique([0xa5; 32]);
        let named: UploadId = "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887".parse().unwrap();
        for (id, is_name) in [(unique, false), (named, true)] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.is_name(), is_name);
            let text = id.to_string();
            for other in ["", "1", &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")] {
                assert_eq!(other.parse::<UploadId>(), Err(InvalidUploadId), "{other}");
            }
        }
        assert!(named.to_string().replace('-', "").parse::<UploadId>().is_err());
    }
}
