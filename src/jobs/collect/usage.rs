//! What a collection counts in a repository: for the administrator, and for the quota that the repository's writer checks.
//!
//! Manifests count with the length of their content, and layers that a manifest names with the size in their links. A
//! listing has those sizes, if storage lists metadata and the links have some. Otherwise they are looked up if there is a
//! quota, and the report says how many are not known if there is none.

use serde::{Deserialize, Serialize};

use super::Run;
use crate::{
    blobs::{Freshness, Located},
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Body, Timestamp},
    repository::RepositoryError,
    storage::{Metadata, ObjectMeta, PutOptions, StorageError},
};

/// What a link without metadata costs: its own look-up, and those of the content.
const LOOK_UPS: usize = 3;

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// When the first manifests were listed.
    since: Timestamp,
    manifests: u64,
    layers: u64,
    bytes: u64,
    /// Layers whose sizes are not known.
    unsized_layers: u64,
}

impl Sums {
    pub fn new(since: Timestamp) -> Self {
        Self { since, manifests: 0, layers: 0, bytes: 0, unsized_layers: 0 }
    }
}

/// Manifests and layers of a page, with their sizes.
pub(super) type Named = Vec<(Digest, u64)>;

impl Run<'_> {
    fn has_quota(&self, name: &RepositoryName) -> bool {
        !self.job.is_dry_run && self.app.policy.quota(name).is_some_and(|quota| quota.bytes.is_some())
    }

    /// Counts a manifest.
    pub(super) fn count_manifest(sums: &mut Option<Sums>, named: &mut Named, digest: &Digest, size: u64) {
        if let Some(sums) = sums {
            sums.manifests += 1;
            sums.bytes += size;
            named.push((digest.clone(), size));
        }
    }

    /// Counts a layer that a manifest names.
    pub(super) async fn count_layer(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
        link: &ObjectMeta,
        sums: &mut Option<Sums>,
        named: &mut Named,
    ) {
        let Some(counted) = sums else { return };
        let mut size = Located::from_metadata(&link.metadata).map(|located| located.size);
        if size.is_none() && self.has_quota(name) {
            self.calls += LOOK_UPS;
            let located = self.app.repository(name, self.context).locate(digest, Freshness::Cached).await;
            match located {
                Ok(located) => size = located.map(|located| located.size),
                Err(error) => {
                    *sums = None;
                    return self.failed(&format!("{name}, {digest}: {error}"));
                }
            }
        }
        counted.layers += 1;
        match size {
            Some(size) => {
                counted.bytes += size;
                named.push((digest.clone(), size));
            }
            None => counted.unsized_layers += 1,
        }
    }

    /// Tells the repository's writer what was counted. If that fails, the writer keeps what it has until the next run.
    pub(super) async fn tell_writer(
        &mut self,
        name: &RepositoryName,
        sums: &mut Option<Sums>,
        named: Named,
        is_whole: bool,
    ) {
        let Some(Sums { since, .. }) = *sums else { return };
        if !self.has_quota(name) || named.is_empty() && !is_whole {
            return;
        }
        self.calls += 1;
        let told = self.app.repository(name, self.context).count(named, since, is_whole).await;
        if let Err(error) = told {
            *sums = None;
            self.failed(&format!("{name}: {error}"));
        }
    }

    /// Ends the count of a repository.
    pub(super) async fn counted(
        &mut self,
        name: &RepositoryName,
        mut sums: Option<Sums>,
    ) -> Result<(), RepositoryError> {
        self.tell_writer(name, &mut sums, Named::new(), true).await;
        match sums.filter(|_| !self.job.is_dry_run) {
            Some(sums) => Ok(self.save_usage(name, sums).await?),
            None => Ok(()),
        }
    }

    async fn save_usage(&mut self, name: &RepositoryName, sums: Sums) -> Result<(), StorageError> {
        let Sums { since, manifests, layers, bytes, unsized_layers } = sums;
        let fields = [
            ("counted", since.0),
            ("manifests", manifests),
            ("layers", layers),
            ("bytes", bytes),
            ("unsized-layers", unsized_layers),
        ];
        let metadata: Metadata =
            fields.into_iter().map(|(name, number)| (name.to_owned(), number.to_string())).collect();
        let options = PutOptions { metadata, ..PutOptions::default() };
        self.calls += 1;
        self.blobs.store().put(&Key::Usage(name).path(), Body::Empty, options).await.map(drop)
    }
}
