//! Manifests of a repository: their content and links.

use bytes::Bytes;

use super::Stored;
use crate::{
    blobs::{Freshness, Located, Put},
    layout::Key,
    oci::{Digest, Manifest, Tag},
    platform::Body,
    repository::{NewManifest, RepositoryError, Revision},
    storage::{Metadata, ObjectMeta, StorageError, all, both},
};

/// The metadata name of the media type in a manifest's link.
const MEDIA_TYPE: &str = "media-type";

/// What is there of a manifest that is pushed.
enum Stage {
    /// Its content, by now.
    New,
    /// Its link too. Of the rest, some may be missing.
    Linked,
    /// Everything but its new tags: this isolate has pushed it.
    Complete,
}

impl Stored {
    /// The manifest with this digest. Costs one look-up.
    pub(super) async fn revision_by_digest(&self, digest: &Digest) -> Result<Option<Revision>, StorageError> {
        let link = self.store().head(&Key::Revision(&self.name, digest).path()).await?;
        Ok(link.map(|meta| Revision { digest: digest.clone(), description: description(&meta) }))
    }

    /// Writes a manifest in three rounds: its content, while its blobs are looked up; its links; its tags. Another
    /// tag of a manifest that this isolate has pushed takes two.
    pub(super) async fn push(&self, new: &NewManifest, tags: &[Tag]) -> Result<(), RepositoryError> {
        let NewManifest { digest, manifest, content } = new;
        let size = content.len() as u64;
        let mut metadata = Located { size, at: None }.to_metadata();
        metadata.insert(MEDIA_TYPE.to_owned(), manifest.media_type.clone());
        let stored = self.put_content(new, &metadata);
        let (missing, stored) = both(self.missing(&manifest.blobs), stored).await?;
        if !missing.is_empty() {
            return Err(RepositoryError::BlobsMissing(missing));
        }
        let index = self.index(digest, Some((manifest, size)));
        let indexed = all(tags.iter().map(async |tag| {
            self.put_new(Key::TagIndex(&self.name, tag, digest), digest.to_string(), Metadata::new()).await
        }));
        if let Stage::New = stored {
            let link = self.put_link(Key::Revision(&self.name, digest), digest, &metadata);
            let seen = all(tags.iter().map(|tag| self.tag_etag(tag)));
            let (_, (_, (_, seen))) = both(link, both(index, both(indexed, seen))).await?;
            let moved = tags.iter().zip(seen).map(|(tag, seen)| self.move_tag(tag, digest, &metadata, seen));
            all(moved).await?;
        } else {
            // Most tags of a known manifest are new.
            let moved = all(tags.iter().map(|tag| self.move_tag(tag, digest, &metadata, None)));
            match stored {
                Stage::Complete => drop(both(indexed, moved).await?),
                _ => drop(both(index, both(indexed, moved)).await?),
            }
        }
        // Not before: a push that failed half-way is repeated as a whole.
        self.blobs.set_pushed(&self.name, digest, content);
        Ok(())
    }

    /// Writes the content of a manifest. A key takes one write per second, so what is there is not written.
    async fn put_content(
        &self,
        NewManifest { digest, manifest, content }: &NewManifest,
        metadata: &Metadata,
    ) -> Result<Stage, StorageError> {
        let is_linked = async || {
            let link = self.store().head(&Key::Revision(&self.name, digest).path()).await?;
            Ok::<_, StorageError>(link.is_some_and(|link| link.metadata == *metadata))
        };
        // Another isolate may have deleted and pushed it since: the referrer is written again then.
        let may_be_complete = manifest.subject.is_none() && self.blobs.has_pushed(&self.name, digest);
        if may_be_complete && is_linked().await? {
            return Ok(Stage::Complete);
        }
        let put = self.blobs.put(digest, Body::Bytes(content.clone())).await?;
        Ok(if put == Put::Existed && is_linked().await? { Stage::Linked } else { Stage::New })
    }

    pub(super) async fn index(
        &self,
        digest: &Digest,
        content: Option<(&Manifest, u64)>,
    ) -> Result<(), StorageError> {
        let reverse = self.put_new(Key::ReverseLink(digest, &self.name), Bytes::new(), Metadata::new());
        let catalog = self.put_new(Key::Repository(&self.name), Bytes::new(), Metadata::new());
        let referrer = async {
            match content {
                Some((manifest, size)) => self.add_referrer(digest, manifest, size).await,
                None => Ok(()),
            }
        };
        both(reverse, both(catalog, referrer)).await.map(drop)
    }

    pub(super) async fn remove_manifest(&self, digest: &Digest) -> Result<bool, StorageError> {
        if !self.has(Key::Revision(&self.name, digest)).await? {
            return Ok(false);
        }
        for tag in self.tags_of(digest).await? {
            self.remove_tag(&tag).await?;
        }
        if let Some(content) = self.blobs.manifest(digest, Freshness::Strict).await? {
            let media_type = Manifest::detect_media_type(&content);
            let manifest = Manifest::parse(Some(&media_type), &content).ok();
            if let Some(subject) = manifest.and_then(|manifest| manifest.subject) {
                self.delete(&[Key::Referrer { name: &self.name, subject: &subject, referrer: digest }])
                    .await?;
            }
        }
        self.delete(&[Key::Revision(&self.name, digest)]).await?;
        if !self.has(Key::Layer(&self.name, digest)).await? {
            self.delete(&[Key::ReverseLink(digest, &self.name)]).await?;
        }
        Ok(true)
    }
}

/// Size and media type of a manifest, from the metadata of its link.
pub(super) fn description(meta: &ObjectMeta) -> Option<(u64, String)> {
    let located = Located::from_metadata(&meta.metadata)?;
    Some((located.size, meta.metadata.get(MEDIA_TYPE)?.clone()))
}
