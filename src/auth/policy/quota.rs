//! Quotas: how much the manifests of a repository may refer to, and how many repositories there may be.

use std::fmt;

use super::document::Tie;
use crate::{
    document::{Reader, Table},
    oci::{Glob, RepositoryName, Specificity},
    platform::size::{self, Bytes},
};

/// The largest size in the document: numbers up to this one are exact in JavaScript.
const MAX_BYTES: u64 = 1 << 53;

/// The most repositories in the document.
const MAX_REPOSITORIES: u64 = 1_000_000;

/// An entry of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The line in which the entry begins, counted from 1.
    pub line: usize,
    /// The repositories that it is for.
    pub repositories: Vec<Glob>,
    /// What the manifests of each of them may refer to, in bytes.
    pub bytes: Option<u64>,
    /// How many of them there may be.
    pub max_repositories: Option<u64>,
}

impl Quota {
    /// How specific the entry is for a repository; `None` if no pattern matches.
    pub(super) fn specificity(&self, name: &RepositoryName) -> Option<Specificity> {
        let matching = self.repositories.iter().filter(|glob| glob.matches(name.as_str()));
        matching.map(Glob::specificity).max()
    }

    /// What is said about two entries of which none always decides; `None` if one does.
    pub(super) fn tie(&self, other: &Self) -> Option<String> {
        let patterns = Tie::between(&self.repositories, &other.repositories)?;
        let line = other.line;
        Some(format!("a tie with the quota in line {line}: {}", Tie::advice(patterns)))
    }
}

/// Reads an entry.
pub(super) fn quota(reader: &mut Reader, mut table: Table<'_>) -> Option<Quota> {
    let line = table.line;
    let repositories = reader.repositories(&mut table);
    if !table.has("bytes") && !table.has("max_repositories") {
        reader.error(line, "a quota must have bytes, max_repositories or both");
    }
    let bytes = reader.text(&mut table, "bytes").and_then(|(line, text)| {
        let bytes = size::bytes(&text).filter(|bytes| *bytes <= MAX_BYTES);
        if bytes.is_none() {
            reader.error(line, "bytes must be a size up to 9000 TB, such as \"50 GB\" or \"512 MiB\"");
        }
        bytes
    });
    let max_repositories = reader.number(&mut table, "max_repositories", 0..=MAX_REPOSITORIES);
    reader.finish_table(table, "repositories, bytes, max_repositories");
    Some(Quota { line, repositories: repositories?, bytes, max_repositories })
}

/// What a push would need that a quota does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverQuota {
    /// More bytes in a repository.
    Bytes {
        /// The repository.
        repository: RepositoryName,
        /// What its manifests would refer to, in bytes.
        bytes: u64,
        /// What they may refer to, in bytes.
        quota: u64,
    },
    /// One more repository.
    Repositories {
        /// The repository that there would be.
        repository: RepositoryName,
        /// The patterns that it and the others match.
        patterns: Vec<Glob>,
        /// How many there may be.
        quota: u64,
    },
}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { repository, bytes, quota } => {
                let (mut needed, mut allowed) = (Bytes(*bytes).to_string(), Bytes(*quota).to_string());
                if needed == allowed {
                    (needed, allowed) = (format!("{bytes} bytes"), format!("{quota} bytes"));
                }
                write!(
                    f,
                    "the repository {repository} would refer to {needed}, and its quota is {allowed}: delete images, \
                     which counts after the next collection, or ask the administrator"
                )
            }
            Self::Repositories { repository, patterns, quota } => {
                let patterns: Vec<String> =
                    patterns.iter().map(|glob| format!("{:?}", glob.as_str())).collect();
                let patterns = patterns.join(" or ");
                write!(
                    f,
                    "the repository {repository} would be new, and the quota is {quota} repositories that match {patterns}: \
                     push to one that exists, or ask the administrator"
                )
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_numbers_that_differ() {
        let text = |bytes, quota| {
            OverQuota::Bytes { repository: "team-a/app".parse().unwrap(), bytes, quota }.to_string()
        };
        let expected = "the repository team-a/app would refer to 52.1 GB, and its quota is 50 GB: delete images, which counts after the next collection, or ask the administrator";
        assert_eq!(text(52_100_000_001, 50_000_000_000), expected);
        let precise = text(50_000_000_001, 50_000_000_000);
        assert!(
            precise.contains("would refer to 50000000001 bytes, and its quota is 50000000000 bytes"),
            "{precise}"
        );
    }
}
