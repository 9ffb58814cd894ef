//! Manifests of a repository: their content and links.

use bytes::Bytes;

use super::Stored;
use crate::{
    blobs::{Freshness, Located, Put},
    layout::Key,
    oci::{Digest, Tag},
    platform::Body,
    repository::{
        NewManifest, RepositoryError, Revision,
        writer::protocol::{Entry, Stage},
    },
    storage::{Metadata, ObjectMeta, StorageError, all, both},
};

/// The metadata name of the media type in a manifest's link.
const MEDIA_TYPE: &str = "media-type";

impl Stored {
    /// The manifest with this digest. Costs one look-up.
    pub(in crate::repository) async fn revision_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<Revision>, StorageError> {
        let link = self.store().head(&Key::Revision(&self.name, digest).path()).await?;
        Ok(link.map(|meta| Revision { digest: digest.clone(), description: description(&meta) }))
    }

    pub(in crate::repository) async fn has_manifest(&self, digest: &Digest) -> Result<bool, StorageError> {
        self.has(Key::Revision(&self.name, digest)).await
    }

    /// The content of a manifest.
    pub(in crate::repository) async fn content(
        &self,
        digest: &Digest,
    ) -> Result<Option<Bytes>, StorageError> {
        self.blobs.manifest(digest, Freshness::Cached).await
    }

    /// Stores the content of a manifest, unlinked, while its blobs are looked up. A key takes one write per second, so
    /// what is there is not written.
    pub(in crate::repository) async fn store_manifest(
        &self,
        new: &NewManifest,
    ) -> Result<Stage, RepositoryError> {
        let (missing, stage) = both(self.missing(&new.manifest.blobs), self.put_content(new)).await?;
        if missing.is_empty() { Ok(stage) } else { Err(RepositoryError::BlobsMissing(missing)) }
    }

    async fn put_content(&self, new: &NewManifest) -> Result<Stage, StorageError> {
        let NewManifest { digest, manifest, content } = new;
        let metadata = link_metadata(&new.entry());
        let is_linked = async || {
            let link = self.store().head(&Key::Revision(&self.name, digest).path()).await?;
            Ok::<_, StorageError>(link.is_some_and(|link| link.metadata == metadata))
        };
        // Another isolate may have deleted and pushed it since: the referrer is written again then.
        let may_be_complete = manifest.subject.is_none() && self.blobs.has_pushed(&self.name, digest);
        if may_be_complete && is_linked().await? {
            return Ok(Stage::Complete);
        }
        let put = self.blobs.put(digest, Body::Bytes(content.clone())).await?;
        Ok(if put == Put::Existed && is_linked().await? { Stage::Linked } else { Stage::New })
    }

    /// Links a stored manifest in at most two rounds: its link, then its tags. Another tag of a manifest that is linked
    /// takes one.
    pub(in crate::repository) async fn link_manifest(
        &self,
        entry: &Entry,
        referrer: Option<String>,
        stage: Stage,
        tags: &[Tag],
    ) -> Result<(), StorageError> {
        let metadata = link_metadata(entry);
        let moves = |seen: Vec<Option<String>>| {
            let moved =
                tags.iter().zip(seen).map(|(tag, seen)| self.move_tag(tag, &entry.digest, &metadata, seen));
            all(moved)
        };
        // Most tags of a known manifest are new.
        let unseen = || vec![None; tags.len()];
        match stage {
            Stage::New => {
                let link = self.put_link(Key::Revision(&self.name, &entry.digest), &entry.digest, &metadata);
                let seen = all(tags.iter().map(|tag| self.tag_etag(tag)));
                // A referrer is listed when its manifest can be read, which costs no round if there are tags.
                let (early, late) = if tags.is_empty() { (referrer, None) } else { (None, referrer) };
                let (_, (_, seen)) = both(link, both(self.index_manifest(entry, early), seen)).await?;
                both(self.add_referrer(entry, late), moves(seen)).await.map(drop)
            }
            Stage::Linked => both(self.index_manifest(entry, referrer), moves(unseen())).await.map(drop),
            Stage::Complete => moves(unseen()).await.map(drop),
        }
    }

    /// Writes the index entries of a manifest: the catalog entry, the reverse link, and the referrer of its subject.
    pub(in crate::repository) async fn index_manifest(
        &self,
        entry: &Entry,
        referrer: Option<String>,
    ) -> Result<(), StorageError> {
        let hints = self.hint_manifest(&entry.digest);
        both(hints, self.add_referrer(entry, referrer)).await.map(drop)
    }

    /// Writes the index entries of a manifest without a subject: the catalog entry and the reverse link. Neither is
    /// ever removed by a request.
    pub(in crate::repository) async fn hint_manifest(&self, digest: &Digest) -> Result<(), StorageError> {
        let catalog = self.put_new(Key::Repository(&self.name), Bytes::new(), Metadata::new());
        both(self.reverse_link(digest), catalog).await.map(drop)
    }

    /// Removes the entry in the referrers of `subject`, then the link.
    pub(in crate::repository) async fn unlink_manifest(
        &self,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<(), StorageError> {
        if let Some(subject) = subject {
            self.delete(&[Key::Referrer { name: &self.name, subject, referrer: digest }]).await?;
        }
        self.delete(&[Key::Revision(&self.name, digest)]).await
    }
}

/// The metadata of a manifest's links.
fn link_metadata(entry: &Entry) -> Metadata {
    let mut metadata = Located { size: entry.size, at: None }.to_metadata();
    metadata.insert(MEDIA_TYPE.to_owned(), entry.media_type.clone());
    metadata
}

/// Size and media type of a manifest, from the metadata of its link.
pub(super) fn description(meta: &ObjectMeta) -> Option<(u64, String)> {
    let located = Located::from_metadata(&meta.metadata)?;
    Some((located.size, meta.metadata.get(MEDIA_TYPE)?.clone()))
}
