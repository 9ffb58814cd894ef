//! Repositories stored in the bucket: reads, and the writes of a repository's [`writer`](super::writer).
//!
//! Every write can be repeated, and their order keeps what is listed readable: content before its link, the link
//! before a tag; of a tag that is deleted, the link last. The links written here carry size, media type and path of their target, so that one look-up answers a HEAD. Links without
//! this metadata, as `distribution` writes them, cost another round of look-ups.

mod blobs;
mod collect;
mod manifests;
mod referrers;
mod removal;
mod signatures;
mod sizes;
mod tags;

pub(super) use collect::CLOCKS;
pub use collect::LinkMark;
pub(super) use manifests::description;
pub(super) use referrers::{referrer_entry, subject_and_signatures};

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;

use crate::{
    blobs::Blobs,
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::Body,
    storage::{Condition, Metadata, ObjectMeta, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

/// Limit of concurrent look-ups of one request: the platform's limit on connections.
const CONCURRENCY: usize = 6;

/// A repository as the bucket has it.
#[derive(Clone)]
pub struct Stored {
    name: RepositoryName,
    blobs: Blobs,
    has_foreign_links: Rc<Cell<bool>>,
}

impl Stored {
    /// The repository `name`. `has_foreign_links` is shared by the isolate: whether it has met links without
    /// metadata.
    pub fn new(name: RepositoryName, blobs: Blobs, has_foreign_links: Rc<Cell<bool>>) -> Self {
        Self { name, blobs, has_foreign_links }
    }

    /// The same repository, whose storage calls are repeated for longer: docker does not repeat a manifest's push.
    pub(super) fn patient(&self) -> Self {
        Self { blobs: self.blobs.patient(), ..self.clone() }
    }

    /// The same repository, which sets `unsettled` when the answer to a write is lost.
    pub(super) fn noting(&self, unsettled: Rc<Cell<bool>>) -> Self {
        Self { blobs: self.blobs.noting(unsettled), ..self.clone() }
    }

    /// The store.
    pub(super) fn store(&self) -> &Store {
        self.blobs.store()
    }

    /// Writes an object if there is none; `false` if there is.
    async fn put_new(
        &self,
        key: Key<'_>,
        content: impl Into<Bytes>,
        metadata: Metadata,
    ) -> Result<bool, StorageError> {
        let options = PutOptions { metadata, condition: Condition::IfAbsent, ..PutOptions::default() };
        match self.store().put(&key.path(), Body::Bytes(content.into()), options).await {
            Ok(_) => Ok(true),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a link if there is none; `false` if there is. One with other metadata is replaced.
    async fn put_link(
        &self,
        key: Key<'_>,
        digest: &Digest,
        metadata: &Metadata,
    ) -> Result<bool, StorageError> {
        if self.put_new(key, digest.to_string(), metadata.clone()).await? {
            return Ok(true);
        }
        self.upgrade_link(key, digest, metadata).await.map(|()| false)
    }

    /// Replaces a link that has other metadata, unless another request replaces it at the same time: a link of another
    /// registry has none. One that the collection has marked stays: its deletion may be under way.
    async fn upgrade_link(
        &self,
        key: Key<'_>,
        digest: &Digest,
        metadata: &Metadata,
    ) -> Result<(), StorageError> {
        let path = key.path();
        let is_other = |found: &ObjectMeta| found.metadata != *metadata && LinkMark::of(found).is_none();
        let Some(found) = self.store().head(&path).await?.filter(is_other) else { return Ok(()) };
        let condition = Condition::IfMatch(found.etag);
        let options = PutOptions { metadata: metadata.clone(), condition, ..PutOptions::default() };
        match self.store().put(&path, Body::Bytes(digest.to_string().into()), options).await {
            Ok(_) | Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(()),
            // The old link works too.
            Err(error) if error.is_retryable() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, keys: &[Key<'_>]) -> Result<(), StorageError> {
        let paths: Vec<Path> = keys.iter().map(Key::path).collect();
        self.store().delete(&paths).await
    }

    async fn has(&self, key: Key<'_>) -> Result<bool, StorageError> {
        Ok(self.store().head(&key.path()).await?.is_some())
    }

    /// Whether a manifest was ever pushed.
    pub(super) async fn has_had_manifests(&self) -> Result<bool, StorageError> {
        if self.has(Key::Repository(&self.name)).await? {
            return Ok(true);
        }
        // Another registry writes no entry in the catalog.
        self.store().exists_below(&Key::Revisions(&self.name).path().folder()).await
    }

    /// Whether anything was ever pushed.
    async fn exists(&self) -> Result<bool, StorageError> {
        if self.has(Key::Repository(&self.name)).await? {
            return Ok(true);
        }
        // Its own folders start with an underscore; those of repositories below it do not.
        self.store().exists_below(&format!("{}/_", Key::RepositoryFolder(&self.name))).await
    }
}
