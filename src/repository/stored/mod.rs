//! Repositories stored in the bucket.
//!
//! The order of writes makes them idempotent: data before its link, links before a tag. The links written
//! here carry size, media type and path of their target, so that one look-up answers a HEAD. Links without
//! this metadata, as `distribution` writes them, cost another round of look-ups.

mod blobs;
mod manifests;
mod referrers;
mod tags;

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;

use super::{Answer, ListPage, NewManifest, Repository, Revision};
use crate::{
    blobs::{Blobs, Freshness, Located},
    layout::Key,
    oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, Tag},
    platform::Body,
    storage::{Condition, Metadata, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

/// Limit of concurrent look-ups of one request: the platform's limit on connections.
const CONCURRENCY: usize = 6;

/// The repository below all decorators.
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

    /// The same repository, whose storage calls are repeated for longer.
    fn patient(&self) -> Self {
        Self { blobs: self.blobs.patient(), ..self.clone() }
    }

    fn store(&self) -> &Store {
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

    /// Writes a link if there is none; `false` if there is. One with other metadata is replaced, unless another
    /// request replaces it at the same time: a link of another registry has none.
    async fn put_link(
        &self,
        key: Key<'_>,
        digest: &Digest,
        metadata: &Metadata,
    ) -> Result<bool, StorageError> {
        if self.put_new(key, digest.to_string(), metadata.clone()).await? {
            return Ok(true);
        }
        let path = key.path();
        let Some(found) = self.store().head(&path).await?.filter(|found| found.metadata != *metadata) else {
            return Ok(false);
        };
        let condition = Condition::IfMatch(found.etag);
        let options = PutOptions { metadata: metadata.clone(), condition, ..PutOptions::default() };
        match self.store().put(&path, Body::Bytes(digest.to_string().into()), options).await {
            Ok(_) | Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            // The old link works too.
            Err(error) if error.is_retryable() => Ok(false),
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

    /// Whether anything was ever pushed.
    async fn exists(&self) -> Result<bool, StorageError> {
        if self.has(Key::Repository(&self.name)).await? {
            return Ok(true);
        }
        // Its own folders start with an underscore; those of repositories below it do not.
        self.store().exists_below(&format!("{}/_", Key::RepositoryFolder(&self.name))).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl Repository for Stored {
    fn inner(&self) -> &dyn Repository {
        self
    }

    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        Box::pin(async move {
            Ok(match reference {
                Reference::Tag(tag) => self.tag(tag).await?,
                Reference::Digest(digest) => self.revision_by_digest(digest).await?,
            })
        })
    }

    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.blobs.manifest(digest, Freshness::Cached).await?) })
    }

    fn locate<'a>(&'a self, digest: &'a Digest, freshness: Freshness) -> Answer<'a, Option<Located>> {
        Box::pin(async move { Ok(self.locate_blob(digest, freshness).await?) })
    }

    fn tags<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Option<ListPage<String>>> {
        Box::pin(async move { Ok(self.list_tags(after, limit).await?) })
    }

    fn referrers<'a>(
        &'a self,
        subject: &'a Digest,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> Answer<'a, ListPage<Descriptor>> {
        Box::pin(async move { Ok(self.list_referrers(subject, after, limit).await?) })
    }

    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        // docker does not repeat a manifest's push.
        Box::pin(async move { self.patient().push(new, tags).await })
    }

    fn index_manifest<'a>(
        &'a self,
        digest: &'a Digest,
        content: Option<(&'a Manifest, u64)>,
    ) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.index(digest, content).await?) })
    }

    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.remove_manifest(digest).await?) })
    }

    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.remove_tag(tag).await?) })
    }

    fn link_blob<'a>(&'a self, digest: &'a Digest, located: &'a Located) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.link(digest, located).await?) })
    }

    fn unlink_blob<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.unlink(digest).await?) })
    }
}
