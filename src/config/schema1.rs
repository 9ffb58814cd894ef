//! The setting of manifests of Docker's schema 1.

use std::str::FromStr;

/// `SCHEMA1`: what the registry does with manifests of Docker's schema 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Schema1 {
    /// They are neither served nor taken.
    Off,
    /// They are served.
    #[default]
    Read,
    /// They are served, and taken if their signatures are valid.
    Full,
}

impl FromStr for Schema1 {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "off" => Ok(Self::Off),
            "read" => Ok(Self::Read),
            "full" => Ok(Self::Full),
            _ => Err("one of off, read, full".to_owned()),
        }
    }
}
