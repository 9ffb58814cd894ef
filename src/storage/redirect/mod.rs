//! Redirects: URLs at which a client gets the bytes of a blob by itself.
//!
//! A way of making such URLs is a [`RedirectSigner`]: [`presigned`] makes those of S3, [`signed`] makes those
//! that this registry, or the CDN in front of it, checks. Another one is a file here, a [`Mode`], and a line in
//! [`crate::middleware`].

pub mod presigned;
pub mod signed;

use std::str::FromStr;

use futures_util::future::LocalBoxFuture;

use super::{Path, StorageError};
use crate::oci::{Digest, RepositoryName};

/// How a client gets the bytes of a blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// From the registry.
    #[default]
    Off,
    /// From the store, at a URL signed for S3.
    Presigned,
    /// From this registry or a CDN, at a URL that lets anybody in for a while.
    Signed,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "off" => Ok(Self::Off),
            "presigned" => Ok(Self::Presigned),
            "signed" => Ok(Self::Signed),
            _ => Err("one of off, presigned, signed".to_owned()),
        }
    }
}

/// What a redirect is wanted for: a GET of a blob, whole or in ranges.
#[derive(Debug, Clone, Copy)]
pub struct Redirect<'a> {
    /// Which kind of URL.
    pub mode: Mode,
    /// The blob.
    pub digest: &'a Digest,
}

/// Makes URLs that let a client do one GET, of one blob, for a limited time.
pub trait RedirectSigner {
    /// A URL of the object at `path`; `None` when the redirect is of another mode.
    fn url<'a>(
        &'a self,
        path: &'a Path,
        redirect: &'a Redirect<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<String>, StorageError>>;
}

/// Exceptions to the mode: `<repository>=<mode>`, or `<prefix>/*=<mode>` for all below a prefix. The first
/// that fits counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions(Vec<(String, Mode)>);

impl Exceptions {
    /// The mode for a repository; `None`: it is no exception.
    pub fn mode(&self, name: &RepositoryName) -> Option<Mode> {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.as_str().starts_with(prefix),
            None => pattern == name.as_str(),
        };
        self.0.iter().find(|(pattern, _)| fits(pattern)).map(|(_, mode)| *mode)
    }

    /// Every mode that occurs.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        self.0.iter().map(|(_, mode)| *mode)
    }
}

impl FromStr for Exceptions {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected =
            || "a list such as `team/app=off internal/*=signed`, of off, presigned or signed".to_owned();
        let exception = |entry: &str| {
            let (pattern, mode) = entry.split_once('=')?;
            let name = pattern.strip_suffix("/*").unwrap_or(pattern);
            name.parse::<RepositoryName>().ok()?;
            Some((pattern.to_owned(), mode.parse().ok()?))
        };
        let entries = s.split([' ', ',', '\n']).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(exception).collect::<Option<_>>().ok_or_else(expected)?))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn the_first_exception_that_fits_counts() {
        let exceptions: Exceptions = "team/app=off, team/*=presigned\nother=signed".parse().unwrap();
        for (name, mode) in [
            ("team/app", Some(Mode::Off)),
            ("team/app2", Some(Mode::Presigned)),
            ("team/x/y", Some(Mode::Presigned)),
            ("team", None),
            ("teams/x", None),
            ("other", Some(Mode::Signed)),
            ("other/x", None),
        ] {
            assert_eq!(exceptions.mode(&name.parse().unwrap()), mode, "{name}");
        }
        assert_eq!("".parse(), Ok(Exceptions::default()));
        for wrong in ["team", "team=on", "Team=off", "=off", "*=off", "a*=off", "a/*/b=off"] {
            assert!(wrong.parse::<Exceptions>().is_err(), "{wrong}");
        }
    }
}
