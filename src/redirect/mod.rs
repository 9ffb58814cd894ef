//! Redirects: URLs from which a client fetches the bytes of a blob directly.
//!
//! [`presigned`] makes URLs of the S3 store; [`signed`] makes URLs that this registry, or a CDN in front of
//! it, verifies. To add a kind, add a file here, a [`Mode`], and an arm in [`Redirects::url`].

pub mod presigned;
pub mod signed;

use std::str::FromStr;

use self::{presigned::Presigned, signed::Signed};
use crate::{
    oci::{ByRepository, Digest, Exceptions, RepositoryName},
    storage::{Path, StorageError},
};

/// The source of a blob's bytes for a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// From the registry.
    #[default]
    Off,
    /// From the store, at a presigned S3 URL.
    Presigned,
    /// From this registry or a CDN, at a signed URL valid for anyone until it expires.
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

impl ByRepository for Mode {
    const EXAMPLE: &'static str = "team/app=off internal/*=signed";
}

/// The rules that choose a [`Mode`] by repository and client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedirectRules {
    /// The mode for all repositories without an exception.
    pub mode: Mode,
    /// The repositories with another mode.
    pub exceptions: Exceptions<Mode>,
    /// Substrings of the `User-Agent`s that are never redirected, in lower case.
    pub skip_agents: Vec<String>,
}

impl RedirectRules {
    /// The mode for a repository and a `User-Agent`.
    pub fn mode(&self, name: &RepositoryName, agent: Option<&str>) -> Mode {
        let mode = self.exceptions.of(name).unwrap_or(self.mode);
        if mode == Mode::Off || self.skip_agents.is_empty() {
            return mode;
        }
        let agent = agent.unwrap_or_default().to_lowercase();
        if self.skip_agents.iter().any(|skipped| agent.contains(skipped)) { Mode::Off } else { mode }
    }

    /// Whether any repository uses this mode.
    pub fn uses(&self, mode: Mode) -> bool {
        self.mode == mode || self.exceptions.values().any(|other| other == mode)
    }
}

/// Makes redirect URLs.
pub struct Redirects {
    /// The choice of mode.
    pub rules: RedirectRules,
    /// Signs for [`Mode::Presigned`]; present if any repository uses it.
    pub presigned: Option<Presigned>,
    /// Signs for [`Mode::Signed`]; present if any repository uses it.
    pub signed: Option<Signed>,
}

impl Redirects {
    /// A URL for one `GET` of a blob, whose bytes are stored at `path`. `None`: the registry serves the bytes.
    pub async fn url(
        &self,
        mode: Mode,
        digest: &Digest,
        path: &Path,
    ) -> Result<Option<String>, StorageError> {
        Ok(match mode {
            Mode::Off => None,
            Mode::Presigned => self.presigned.as_ref().map(|presigned| presigned.url(path)),
            Mode::Signed => match &self.signed {
                Some(signed) => Some(signed.url(digest).await?),
                None => None,
            },
        })
    }
}
