//! Settings of repositories: which manifests they take, and for which hosts they answer.

use super::Vars;
use crate::{oci::Namespaces, repository::missing::MissingBlobsRules};

/// What repositories take, and for which hosts they answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// `MISSING_BLOBS` and `MISSING_BLOBS_REPOSITORIES`.
    pub missing_blobs: MissingBlobsRules,
    /// `NAMESPACES`: the hosts that clients may name in the query parameter `ns`, besides the registry's own.
    pub namespaces: Namespaces,
}

impl RepositoryConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let MissingBlobsRules { usual, exceptions } = MissingBlobsRules::default();
        Self {
            missing_blobs: MissingBlobsRules {
                usual: vars.parse("MISSING_BLOBS", usual),
                exceptions: vars.parse("MISSING_BLOBS_REPOSITORIES", exceptions),
            },
            namespaces: vars.parse("NAMESPACES", Namespaces::default()),
        }
    }
}
