//! Settings of repositories: which manifests they take.

use super::Vars;
use crate::repository::missing::MissingBlobsRules;

/// What repositories take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// `MISSING_BLOBS` and `MISSING_BLOBS_REPOSITORIES`.
    pub missing_blobs: MissingBlobsRules,
}

impl RepositoryConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let MissingBlobsRules { usual, exceptions } = MissingBlobsRules::default();
        Self {
            missing_blobs: MissingBlobsRules {
                usual: vars.parse("MISSING_BLOBS", usual),
                exceptions: vars.parse("MISSING_BLOBS_REPOSITORIES", exceptions),
            },
        }
    }
}
