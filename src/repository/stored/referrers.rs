//! Referrers of a repository's manifests.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{CONCURRENCY, Stored};
use crate::{
    blobs::Freshness,
    layout::{Key, trailing_digest},
    oci::{Descriptor, Digest, Manifest},
    repository::{ListPage, writer::protocol::Entry},
    storage::{Metadata, ObjectMeta, Page, StorageError},
};

/// The metadata name of the descriptor in a referrer's entry.
const DESCRIPTOR: &str = "descriptor";

/// Size limit of a descriptor in metadata, in bytes, where it saves a read per listed referrer. R2 allows 2
/// KiB in all.
const MAX_DESCRIPTOR: usize = 1536;

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

    /// The content of a manifest's entry in the referrers of its subject, from the manifest's content.
    pub(in crate::repository) async fn read_referrer(
        &self,
        entry: &Entry,
    ) -> Result<Option<String>, StorageError> {
        let content = self.blobs.manifest(&entry.digest, Freshness::Strict).await?;
        let manifest = content.and_then(|content| Manifest::parse(Some(&entry.media_type), &content).ok());
        Ok(manifest.map(|manifest| referrer_entry(entry, &manifest)))
    }

    /// Costs one listing, and a read for each descriptor that is not in metadata.
    pub(in crate::repository) async fn list_referrers(
        &self,
        subject: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<ListPage<Descriptor>, StorageError> {
        let prefix = Key::Referrers(&self.name, subject).path().folder();
        let after = after.map(|referrer| Key::Referrer { name: &self.name, subject, referrer }.path());
        let page = Page { after: after.as_ref().map(|path| path.as_str()), limit, folders: false };
        let listing = self.store().list(&prefix, page).await?;
        let next = listing.next.as_deref().and_then(trailing_digest).map(|digest| digest.to_string());
        Ok(ListPage { entries: self.descriptors(listing.objects).await?, next })
    }

    async fn descriptors(&self, entries: Vec<(String, ObjectMeta)>) -> Result<Vec<Descriptor>, StorageError> {
        stream::iter(entries)
            .map(async |(path, meta)| {
                if let Some(descriptor) = meta.metadata.get(DESCRIPTOR) {
                    return Ok(serde_json::from_str(descriptor).ok());
                }
                let Ok(path) = path.parse() else { return Ok(None) };
                let content = self.store().read(&path, 2 * Manifest::MAX_BYTES).await?;
                Ok(content.and_then(|(content, _)| serde_json::from_slice(&content).ok()))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |descriptor| Ok(descriptor))
            .try_collect()
            .await
    }
}

/// The descriptor of a manifest in the referrers of its subject, as JSON.
pub(in crate::repository) fn referrer_entry(entry: &Entry, manifest: &Manifest) -> String {
    let descriptor = Descriptor {
        media_type: entry.media_type.clone(),
        digest: entry.digest.clone(),
        size: entry.size,
        urls: Vec::new(),
        artifact_type: manifest.artifact_type.clone(),
        annotations: manifest.annotations.clone(),
    };
    serde_json::to_string(&descriptor).unwrap_or_default()
}
