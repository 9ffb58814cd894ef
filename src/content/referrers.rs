//! What refers to a manifest.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{CONCURRENCY, Content};
use crate::{
    oci::{Descriptor, Digest, Manifest, RepositoryName},
    storage::{Facts, Key, ObjectMeta, StorageDriver, StorageDriverExt, StorageError},
};

/// The fact in a referrer's entry that holds its descriptor.
const DESCRIPTOR: &str = "descriptor";

/// The longest descriptor kept beside a referrer's entry, in bytes, so that a listing needs no further read.
/// R2 allows 2 KiB of facts in all.
const MAX_DESCRIPTOR_FACT: usize = 1536;

impl<S: StorageDriver> Content<'_, S> {
    /// Adds a manifest to its subject's referrers, if it has a subject.
    pub async fn add_referrer(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        size: u64,
    ) -> Result<(), StorageError> {
        let Some(subject) = &manifest.subject else { return Ok(()) };
        let descriptor = Descriptor {
            media_type: manifest.media_type.clone(),
            digest: digest.clone(),
            size,
            urls: Vec::new(),
            artifact_type: manifest.artifact_type.clone(),
            annotations: manifest.annotations.clone(),
        };
        let content = serde_json::to_string(&descriptor).unwrap_or_default();
        let mut facts = Facts::new();
        // Facts travel as HTTP headers: plain ASCII, and no runs of spaces, which S3's signatures do not tell apart.
        if content.len() <= MAX_DESCRIPTOR_FACT && content.is_ascii() && !content.contains("  ") {
            facts.insert(DESCRIPTOR.to_owned(), content.clone());
        }
        self.put(Key::Referrer { name, subject, referrer: digest }, content, facts).await
    }

    /// The descriptors behind a page of a subject's referrers, in its order.
    pub async fn descriptors(
        &self,
        entries: Vec<(String, ObjectMeta)>,
    ) -> Result<Vec<Descriptor>, StorageError> {
        stream::iter(entries)
            .map(async |(path, meta)| {
                if let Some(fact) = meta.facts.get(DESCRIPTOR) {
                    return Ok(serde_json::from_str(fact).ok());
                }
                let Ok(path) = path.parse() else { return Ok(None) };
                let content = self.storage.read(&path, 2 * Manifest::MAX_BYTES).await?;
                Ok(content.and_then(|(content, _)| serde_json::from_slice(&content).ok()))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |descriptor| Ok(descriptor))
            .try_collect()
            .await
    }
}
