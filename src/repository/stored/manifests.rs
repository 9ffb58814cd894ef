//! Manifests of a repository: their content and links.

use bytes::Bytes;

use super::Stored;
use crate::{
    blobs::{Freshness, Located, Put, marker::Held},
    layout::Key,
    oci::{Digest, Tag},
    platform::{Body, Timestamp},
    repository::{
        NewManifest, RepositoryError, Revision,
        missing::MissingBlobs,
        writer::protocol::{Entry, Stage},
    },
    storage::{Condition, Metadata, ObjectMeta, PutOptions, StorageError, StorageErrorKind, all, both},
};

/// The age at which a push without a tag renews a manifest's link, in seconds: retention counts from its time. Whoever pushes
/// again at once pays for no write, and meets no limit of writes to a key.
const RENEWED_AFTER: u64 = 60;

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

    /// Those of the manifests that are not there. Costs a look-up for each, one after another.
    pub(in crate::repository) async fn missing_manifests(
        &self,
        digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, StorageError> {
        let mut missing = Vec::new();
        for digest in digests {
            if !self.has_manifest(&digest).await? {
                missing.push(digest);
            }
        }
        Ok(missing)
    }

    /// The content of a manifest.
    pub(in crate::repository) async fn content(
        &self,
        digest: &Digest,
    ) -> Result<Option<Bytes>, StorageError> {
        self.blobs.manifest(digest, Freshness::Cached).await
    }

    /// Stores the content of a manifest, unlinked, while its blobs are looked up, but for those that this isolate has just
    /// linked. Unlinked content is held. A key takes one write per second, so what is there is not written. Blobs that may
    /// be missing are looked up all the same: the links of those that are there become live. Returns those that are missing, too.
    /// Without a tag, what is linked since a while is pushed like a new one: see [`RENEWED_AFTER`].
    pub(in crate::repository) async fn store_manifest(
        &self,
        new: &NewManifest,
        is_tagged: bool,
        missing_blobs: MissingBlobs,
    ) -> Result<(Stage, Vec<Digest>), RepositoryError> {
        let blobs = new.manifest.blobs.iter().filter(|blob| !self.blobs.has_linked(&self.name, blob));
        let blobs: Vec<Digest> = blobs.cloned().collect();
        // Boxed: few have any.
        let signatures = Box::pin(self.store_signatures(new));
        let (missing, (stage, ())) =
            both(self.missing(&blobs), both(self.put_content(new, is_tagged), signatures)).await?;
        match missing_blobs {
            MissingBlobs::Refuse if !missing.is_empty() => Err(RepositoryError::BlobsMissing(missing)),
            MissingBlobs::Refuse | MissingBlobs::Accept => Ok((stage, missing)),
        }
    }

    async fn put_content(&self, new: &NewManifest, is_tagged: bool) -> Result<Stage, StorageError> {
        let NewManifest { digest, manifest, content, .. } = new;
        let metadata = link_metadata(&new.entry());
        let is_linked = async || {
            let link = self.store().head(&Key::Revision(&self.name, digest).path()).await?;
            let is_fresh = |link: &ObjectMeta| is_tagged || !self.is_due(link);
            Ok::<_, StorageError>(link.is_some_and(|link| link.metadata == metadata && is_fresh(&link)))
        };
        // Another isolate may have deleted and pushed it since: the referrer is written again then.
        let may_be_complete = manifest.subject.is_none() && self.blobs.has_pushed(&self.name, digest);
        if may_be_complete && is_linked().await? {
            return Ok(Stage::Complete);
        }
        let put = || self.blobs.put(digest, Body::Bytes(content.clone()));
        let (written, is_held) = both(put(), self.blobs.try_hold(&self.name, digest)).await?;
        if written == Put::Existed && is_linked().await? {
            return Ok(Stage::Linked);
        }
        if !is_held && self.blobs.hold(&self.name, digest).await? == Held::Removed {
            // What was there may be gone.
            put().await?;
        }
        Ok(Stage::New)
    }

    /// Links a stored manifest in at most two rounds, if it is `held` since a short time: its link and its hints, then its
    /// tags. Signatures take one round more, before the others. Another tag of a manifest that is linked takes one. `false` if its content is gone: it was deleted before it
    /// was linked.
    pub(in crate::repository) async fn link_manifest(
        &self,
        entry: &Entry,
        referrer: Option<String>,
        stage: Stage,
        tags: &[Tag],
        held: Option<Timestamp>,
    ) -> Result<bool, StorageError> {
        let metadata = link_metadata(entry);
        let moves = |seen: Vec<Option<String>>| {
            let moved =
                tags.iter().zip(seen).map(|(tag, seen)| self.move_tag(tag, &entry.digest, &metadata, seen));
            all(moved)
        };
        let is_held = held.is_some_and(|held| self.blobs.is_held_since(held));
        if !entry.signatures.is_empty() && !Box::pin(self.link_signatures(entry, is_held)).await? {
            return Ok(false);
        }
        // Most tags of a known manifest are new.
        let unseen = || vec![None; tags.len()];
        match stage {
            Stage::New => {
                let seen = all(tags.iter().map(|tag| self.tag_etag(tag)));
                // A referrer is listed when its manifest can be read, which costs no round if there are tags.
                let (early, late) = if tags.is_empty() { (referrer, None) } else { (None, referrer) };
                // Other pushes rely on it that the content of what is linked is there.
                if !is_held && !self.keep_content(&entry.digest).await? {
                    return Ok(false);
                }
                // Boxed: the future would carry all of them.
                let link = self.link_revision(entry, &metadata, tags.is_empty());
                let linked = Box::pin(both(link, self.add_referrer(entry, early)));
                let (_, ((), seen)) = both(linked, Box::pin(both(self.list_in_catalog(), seen))).await?;
                Box::pin(both(self.add_referrer(entry, late), moves(seen))).await?;
            }
            Stage::Linked => {
                let hints = both(self.list_in_catalog(), self.add_referrer(entry, referrer));
                both(hints, moves(unseen())).await.map(drop)?;
            }
            Stage::Complete => moves(unseen()).await.map(drop)?,
        }
        Ok(true)
    }

    /// Writes the link of a manifest. If it is there and due, its time is renewed.
    async fn link_revision(
        &self,
        entry: &Entry,
        metadata: &Metadata,
        renews: bool,
    ) -> Result<(), StorageError> {
        let key = Key::Revision(&self.name, &entry.digest);
        if self.put_link(key, &entry.digest, metadata).await? || !renews {
            return Ok(());
        }
        let path = key.path();
        let Some(found) = self.store().head(&path).await?.filter(|link| self.is_due(link)) else {
            return Ok(());
        };
        let condition = match self.store().capabilities().conditional_put {
            true => Condition::IfMatch(found.etag),
            false => Condition::Always,
        };
        let options = PutOptions { metadata: metadata.clone(), condition, ..PutOptions::default() };
        match self.store().put(&path, Body::Bytes(entry.digest.to_string().into()), options).await {
            // By whoever wrote it meanwhile.
            Ok(_) | Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_due(&self, link: &ObjectMeta) -> bool {
        link.modified.plus_seconds(RENEWED_AFTER) <= self.blobs.now()
    }

    /// Keeps the content of a manifest from being deleted until it is linked; `false` if it is gone.
    async fn keep_content(&self, digest: &Digest) -> Result<bool, StorageError> {
        self.blobs.hold(&self.name, digest).await?;
        self.has(Key::Data(digest)).await
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
        both(self.reverse_link(digest), self.list_in_catalog()).await.map(drop)
    }

    async fn list_in_catalog(&self) -> Result<(), StorageError> {
        self.put_new(Key::Repository(&self.name), Bytes::new(), Metadata::new()).await.map(drop)
    }

    /// Removes the entry in the referrers of `subject`, then the link. One that `may_be_signed` loses its signatures with it,
    /// which costs a listing.
    pub(in crate::repository) async fn unlink_manifest(
        &self,
        digest: &Digest,
        subject: Option<&Digest>,
        may_be_signed: bool,
    ) -> Result<(), StorageError> {
        if let Some(subject) = subject {
            self.delete(&[Key::Referrer { name: &self.name, subject, referrer: digest }]).await?;
        }
        if may_be_signed {
            return both(Box::pin(self.unlink_signed(digest)), self.blobs.condemn(digest)).await.map(drop);
        }
        both(self.delete(&[Key::Revision(&self.name, digest)]), self.blobs.condemn(digest)).await.map(drop)
    }
}

/// The metadata of a manifest's links.
fn link_metadata(entry: &Entry) -> Metadata {
    let mut metadata = Located { size: entry.size, at: None }.to_metadata();
    metadata.insert(MEDIA_TYPE.to_owned(), entry.media_type.clone());
    metadata
}

/// Size and media type of a manifest, from the metadata of its link.
pub(in crate::repository) fn description(meta: &ObjectMeta) -> Option<(u64, String)> {
    let located = Located::from_metadata(&meta.metadata)?;
    Some((located.size, meta.metadata.get(MEDIA_TYPE)?.clone()))
}
