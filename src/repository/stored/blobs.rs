//! Blobs of a repository: their links.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::try_join, stream};

use super::{LinkMark, Stored};
use crate::{
    blobs::{Freshness, Located},
    layout::Key,
    oci::Digest,
    platform::Timestamp,
    storage::{Metadata, ObjectMeta, Page, StorageError, both},
};

/// Limit of look-ups of one manifest. They run at the same time: those above the platform's limit on connections wait
/// there. Of more digests, the repository's links are listed, which keeps a manifest of the usual sizes within the 50
/// calls of a request on Workers Free.
const MAX_LOOK_UPS: usize = 32;

impl Stored {
    /// Costs one look-up, of the link. A link without metadata costs two more, those of [`Blobs::locate`]. If
    /// a cached answer is allowed, an isolate that has met such a link makes all three concurrently.
    ///
    /// A link that the collection has marked is absent to a strict look-up, which comes before a push: the client pushes
    /// the blob again, which keeps it. Pulls find the blob for as long as the link is there.
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
        let is_there = |link: &ObjectMeta| freshness == Freshness::Cached || LinkMark::of(link).is_none();
        let Some(link) = link.filter(is_there) else { return Ok(None) };
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

    /// The digests that this repository lacks, of `digests`, which are sorted. Up to [`MAX_LOOK_UPS`] cost a look-up
    /// each. More cost listings, one after another: at most one for each digest, and at most one for each 1,000 blobs of
    /// the repository and another for each algorithm.
    pub(in crate::repository) async fn missing(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, StorageError> {
        if digests.len() > MAX_LOOK_UPS {
            let mut missing = Vec::new();
            for digests in digests.chunk_by(|a, b| a.algorithm() == b.algorithm()) {
                self.add_missing(digests, &mut missing).await?;
            }
            return Ok(missing);
        }
        stream::iter(digests)
            .map(async |digest| {
                let link = self.store().head(&Key::Layer(&self.name, digest).path()).await?;
                let Some(link) = link else { return Ok(Some(digest.clone())) };
                if let Some(LinkMark::Condemned(_)) = LinkMark::of(&link) {
                    // It stays either way. Those who look for it shall find it.
                    self.revive_blob(digest, &link).await?;
                }
                Ok(None)
            })
            .buffered(MAX_LOOK_UPS)
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    /// Adds those of `digests` to `missing` that no listed link has. They are sorted and have one algorithm, so one pass
    /// over the links finds them, and each listing starts at the next digest to look for.
    async fn add_missing(&self, digests: &[Digest], missing: &mut Vec<Digest>) -> Result<(), StorageError> {
        let Some(first) = digests.first() else { return Ok(()) };
        let link = Key::Layer(&self.name, first).path();
        let Some((prefix, _)) = link.as_str().split_once(first.hex()) else { return Ok(()) };
        let hex = |path: &str| Some(path.strip_prefix(prefix)?.split('/').next()?.to_owned());
        let mut wanted = digests.iter().peekable();
        let mut after = String::new();
        while let Some(next) = wanted.peek() {
            // Sorts before the link of that digest, and after those of all lower ones.
            after = after.max(format!("{prefix}{}", next.hex()));
            let page = Page { after: Some(&after), ..Page::first() };
            let listing = self.store().list(prefix, page).await?;
            for found in listing.objects.iter().filter_map(|(path, _)| hex(path)) {
                while let Some(digest) = wanted.next_if(|digest| digest.hex() < found.as_str()) {
                    missing.push(digest.clone());
                }
                wanted.next_if(|digest| digest.hex() == found);
            }
            let Some(next) = listing.next else { break };
            // A page may end behind its last object.
            let reached = hex(&next).unwrap_or_default();
            while let Some(digest) = wanted.next_if(|digest| digest.hex() < reached.as_str()) {
                missing.push(digest.clone());
            }
            after = next;
        }
        missing.extend(wanted.cloned());
        Ok(())
    }

    /// Writes the link; `false` if the blob was linked. The reverse link must be there: see [`Blobs::hold`].
    ///
    /// [`Blobs::hold`]: crate::blobs::Blobs::hold
    pub(in crate::repository) async fn link_blob(
        &self,
        digest: &Digest,
        located: &Located,
    ) -> Result<bool, StorageError> {
        let begun = self.blobs.now();
        let is_new = self.put_layer_link(digest, &located.to_metadata()).await?;
        self.blobs.set_linked(&self.name, digest, begun);
        Ok(is_new)
    }

    /// Writes what another registry's link to a blob lacks: the reverse link, and its metadata. The link itself is not
    /// written again if it was removed meanwhile.
    pub(in crate::repository) async fn index_blob(
        &self,
        digest: &Digest,
        located: &Located,
    ) -> Result<(), StorageError> {
        self.reverse_link(digest).await?;
        self.upgrade_link(Key::Layer(&self.name, digest), digest, &located.to_metadata()).await
    }

    /// A hint for the collection, which looks at the link itself. So no request removes one: a push of the same blob may
    /// have written it.
    pub(super) async fn reverse_link(&self, digest: &Digest) -> Result<bool, StorageError> {
        self.put_new(Key::ReverseLink(digest, &self.name), Bytes::new(), Metadata::new()).await
    }

    /// When the link to a blob was written.
    pub(in crate::repository) async fn blob_linked(
        &self,
        digest: &Digest,
    ) -> Result<Option<Timestamp>, StorageError> {
        let link = self.store().head(&Key::Layer(&self.name, digest).path()).await?;
        Ok(link.map(|link| link.modified))
    }

    pub(in crate::repository) async fn has_blob(&self, digest: &Digest) -> Result<bool, StorageError> {
        self.has(Key::Layer(&self.name, digest)).await
    }

    /// Removes the link to a blob, and condemns its content: whoever deletes that looks for links first.
    pub(in crate::repository) async fn unlink_blob(&self, digest: &Digest) -> Result<(), StorageError> {
        both(self.delete(&[Key::Layer(&self.name, digest)]), self.blobs.condemn(digest)).await.map(drop)
    }
}
