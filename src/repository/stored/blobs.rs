//! Blobs of a repository: their links.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::try_join, stream};

use super::Stored;
use crate::{
    blobs::{Freshness, Located},
    layout::Key,
    oci::Digest,
    storage::{Metadata, StorageError, both},
};

/// Limit of look-ups of one manifest at a time. Those above the platform's limit on connections wait there, and not
/// for the answer of another.
const LOOK_UPS: usize = 64;

impl Stored {
    /// Costs one look-up, of the link. A link without metadata costs two more, those of [`Blobs::locate`]. If
    /// a cached answer is allowed, an isolate that has met such a link makes all three concurrently.
    ///
    /// [`Blobs::locate`]: crate::blobs::Blobs::locate
    pub(in crate::repository) async fn locate_blob(
        &self,
        digest: &Digest,
        freshness: Freshness,
    ) -> Result<Option<Located>, StorageError> {
        let path = Key::Layer(&self.name, digest).path();
        let link = self.store().head(&path);
        let (link, early) = if freshness == Freshness::Cached && self.has_foreign_links.get() {
            let (link, located) = try_join(link, self.blobs.locate(digest, freshness)).await?;
            (link, Some(located))
        } else {
            (link.await?, None)
        };
        let Some(link) = link else { return Ok(None) };
        if let Some(located) = Located::from_metadata(&link.metadata) {
            if freshness == Freshness::Cached {
                self.blobs.cache_location(digest, &located);
            }
            return Ok(Some(located));
        }
        self.has_foreign_links.set(true);
        match early {
            Some(located) => Ok(located),
            None => self.blobs.locate(digest, freshness).await,
        }
    }

    /// The digests that this repository lacks.
    pub(in crate::repository) async fn missing(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, StorageError> {
        stream::iter(digests)
            .map(
                async |digest| Ok((!self.has(Key::Layer(&self.name, digest)).await?).then(|| digest.clone())),
            )
            .buffered(LOOK_UPS)
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    /// Writes both links concurrently; `false` if the blob was linked. A collector of unlinked bytes writes its marker
    /// before it lists links: the check for that marker belongs here, after the writes.
    pub(in crate::repository) async fn link_blob(
        &self,
        digest: &Digest,
        located: &Located,
    ) -> Result<bool, StorageError> {
        let metadata = located.to_metadata();
        let link = self.put_link(Key::Layer(&self.name, digest), digest, &metadata);
        Ok(both(link, self.reverse_link(digest)).await?.0)
    }

    /// Writes what another registry's link to a blob lacks: its metadata, and the reverse link. The link itself is not
    /// written again if it was removed meanwhile.
    pub(in crate::repository) async fn index_blob(
        &self,
        digest: &Digest,
        located: &Located,
    ) -> Result<(), StorageError> {
        let metadata = located.to_metadata();
        let link = self.upgrade_link(Key::Layer(&self.name, digest), digest, &metadata);
        both(link, self.reverse_link(digest)).await.map(drop)
    }

    /// A hint for whoever collects unlinked bytes, which looks at the link itself. So no request removes one: a push of
    /// the same blob may have written it.
    pub(super) async fn reverse_link(&self, digest: &Digest) -> Result<bool, StorageError> {
        self.put_new(Key::ReverseLink(digest, &self.name), Bytes::new(), Metadata::new()).await
    }

    pub(in crate::repository) async fn has_blob(&self, digest: &Digest) -> Result<bool, StorageError> {
        self.has(Key::Layer(&self.name, digest)).await
    }

    /// Removes the link to a blob.
    pub(in crate::repository) async fn unlink_blob(&self, digest: &Digest) -> Result<(), StorageError> {
        self.delete(&[Key::Layer(&self.name, digest)]).await
    }
}
