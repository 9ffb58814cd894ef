//! Referrers of a repository's manifests.

use bytes::Bytes;

use super::Stored;
use crate::{
    blobs::Freshness,
    layout::{Key, trailing_digest},
    oci::{Descriptor, Digest, Manifest},
    repository::{ListPage, Referrer, writer::protocol::Entry},
    storage::{Metadata, ObjectMeta, Page, StorageError},
};

/// The metadata name of the descriptor in a referrer's entry.
const DESCRIPTOR: &str = "descriptor";

/// Size limit of a descriptor in metadata, in bytes, where it saves a read per listed referrer. R2 allows 2
/// KiB in all.
const MAX_DESCRIPTOR: usize = 1536;

/// The subject of a manifest, from its content, and whether it may have signatures: so may all whose content is gone.
pub(in crate::repository) fn subject_and_signatures(content: Option<&[u8]>) -> (Option<Digest>, bool) {
    let subject = content.and_then(Manifest::subject_of);
    (subject, content.is_none_or(|content| Manifest::is_schema1(None, content)))
}

impl Stored {
    /// Adds a manifest to its subject's referrers, if it has a subject.
    pub(super) async fn add_referrer(
        &self,
        entry: &Entry,
        content: Option<String>,
    ) -> Result<(), StorageError> {
        let (Some(subject), Some(content)) = (&entry.subject, content) else { return Ok(()) };
        let mut metadata = Metadata::new();
        // Metadata travels in HTTP headers: ASCII, and no runs of spaces, which S3's signatures fold.
        if content.len() <= MAX_DESCRIPTOR && content.is_ascii() && !content.contains("  ") {
            metadata.insert(DESCRIPTOR.to_owned(), content.clone());
        }
        // Its content follows from the referrer's.
        self.put_new(Key::Referrer { name: &self.name, subject, referrer: &entry.digest }, content, metadata)
            .await?;
        Ok(())
    }

    /// The subject of a manifest, from its content, and whether it may have signatures.
    pub(in crate::repository) async fn subject_of(
        &self,
        digest: &Digest,
    ) -> Result<(Option<Digest>, bool), StorageError> {
        let content = self.blobs.manifest(digest, Freshness::Strict).await?;
        Ok(subject_and_signatures(content.as_deref()))
    }

    /// The content of a manifest's entry in the referrers of its subject, from the manifest's content.
    pub(in crate::repository) async fn referrer_of(
        &self,
        entry: &Entry,
    ) -> Result<Option<String>, StorageError> {
        let content = self.blobs.manifest(&entry.digest, Freshness::Strict).await?;
        let manifest = content.and_then(|content| Manifest::parse(Some(&entry.media_type), &content).ok());
        Ok(manifest.map(|manifest| referrer_entry(entry, &manifest)))
    }

    /// Costs a listing, and another one for each page of the storage that is shorter than asked for: clients that do not
    /// follow `Link` see the first page only. Descriptors that are in metadata come with it.
    pub(in crate::repository) async fn list_referrers(
        &self,
        subject: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<ListPage<Referrer>, StorageError> {
        let prefix = Key::Referrers(&self.name, subject).path().folder();
        let after = after.map(|referrer| Key::Referrer { name: &self.name, subject, referrer }.path());
        let mut after = after.map(|path| path.as_str().to_owned());
        let mut objects = Vec::new();
        let next = loop {
            let page =
                Page { after: after.as_deref(), limit: limit.saturating_sub(objects.len()), folders: false };
            let listing = self.store().list(&prefix, page).await?;
            objects.extend(listing.objects);
            after = listing.next;
            if after.is_none() || objects.len() >= limit {
                break after;
            }
        };
        let next = next.as_deref().and_then(trailing_digest).map(|digest| digest.to_string());
        let entry = |(path, mut meta): (String, ObjectMeta)| {
            let descriptor = meta.metadata.remove(DESCRIPTOR).map(Bytes::from);
            Some(Referrer { digest: trailing_digest(&path)?, size: meta.size, descriptor })
        };
        Ok(ListPage { entries: objects.into_iter().filter_map(entry).collect(), next })
    }

    /// Costs one read.
    pub(in crate::repository) async fn read_referrer(
        &self,
        subject: &Digest,
        referrer: &Digest,
    ) -> Result<Option<Bytes>, StorageError> {
        let path = Key::Referrer { name: &self.name, subject, referrer }.path();
        // Twice our limit: earlier versions stored annotations of any size.
        let content = self.store().read(&path, 2 * Manifest::MAX_BYTES).await?;
        Ok(content.map(|(content, _)| content))
    }
}

/// The descriptor of a manifest in the referrers of its subject, as JSON.
pub(in crate::repository) fn referrer_entry(entry: &Entry, manifest: &Manifest) -> String {
    let descriptor = Descriptor {
        media_type: entry.media_type.clone(),
        digest: entry.digest.clone(),
        size: entry.size,
        artifact_type: manifest.artifact_type.clone(),
        annotations: manifest.annotations.clone(),
    };
    serde_json::to_string(&descriptor).unwrap_or_default()
}
