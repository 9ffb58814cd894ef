//! The decorator that invalidates the isolate's caches on writes and, if the configuration allows stale tags,
//! caches tags.

use std::{cell::RefCell, num::NonZeroUsize, rc::Rc};

use lru::LruCache;

use super::{Answer, NewManifest, Repository, Revision};
use crate::{
    blobs::Blobs,
    oci::{Digest, Reference, RepositoryName, Tag},
    platform::{Clock, Timestamp},
};

/// Limit of tags that an isolate caches.
const TAGS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

type TagEntries = LruCache<(RepositoryName, Tag), (Revision, Timestamp)>;

/// The manifests that tags recently pointed to. With a lifetime of 0 nothing is cached, and every read of a
/// tag sees the last push.
pub struct TagCache {
    seconds: u64,
    clock: Rc<dyn Clock>,
    entries: RefCell<TagEntries>,
}

impl TagCache {
    /// A cache whose entries live for `seconds`.
    pub fn new(seconds: u64, clock: Rc<dyn Clock>) -> Self {
        Self { seconds, clock, entries: RefCell::new(LruCache::new(TAGS)) }
    }

    fn get(&self, name: &RepositoryName, tag: &Tag) -> Option<Revision> {
        if self.seconds == 0 {
            return None;
        }
        let mut entries = self.entries.borrow_mut();
        let (revision, expires) = entries.get(&(name.clone(), tag.clone()))?;
        (self.clock.now() < *expires).then(|| revision.clone())
    }

    fn put(&self, name: &RepositoryName, tag: &Tag, revision: &Revision) {
        if self.seconds > 0 {
            let entry = (revision.clone(), self.clock.now().plus_seconds(self.seconds));
            self.entries.borrow_mut().put((name.clone(), tag.clone()), entry);
        }
    }

    /// Drops every tag of a repository.
    fn evict(&self, name: &RepositoryName) {
        let mut entries = self.entries.borrow_mut();
        let keys: Vec<_> = entries.iter().map(|(key, _)| key).filter(|key| key.0 == *name).cloned().collect();
        for key in keys {
            entries.pop(&key);
        }
    }
}

/// The caching decorator.
pub struct Cached {
    /// The decorated repository.
    pub inner: Rc<dyn Repository>,
    /// The repository's name.
    pub name: RepositoryName,
    /// The isolate's tag cache.
    pub tags: Rc<TagCache>,
    /// The blobs, with the isolate's descriptor cache.
    pub blobs: Blobs,
}

impl Repository for Cached {
    fn inner(&self) -> &dyn Repository {
        &*self.inner
    }

    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        Box::pin(async move {
            let Reference::Tag(tag) = reference else { return self.inner.revision(reference).await };
            if let Some(revision) = self.tags.get(&self.name, tag) {
                return Ok(Some(revision));
            }
            let revision = self.inner.revision(reference).await?;
            if let Some(revision) = &revision {
                self.tags.put(&self.name, tag, revision);
            }
            Ok(revision)
        })
    }

    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        Box::pin(async move {
            let put = self.inner.put_manifest(new, tags).await;
            // After a failure too: some of the tags may have moved.
            self.tags.evict(&self.name);
            put
        })
    }

    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move {
            let deleted = self.inner.delete_manifest(digest).await;
            self.tags.evict(&self.name);
            if !matches!(deleted, Ok(false)) {
                self.blobs.evict(digest);
            }
            deleted
        })
    }

    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        Box::pin(async move {
            let deleted = self.inner.delete_tag(tag).await;
            self.tags.evict(&self.name);
            deleted
        })
    }

    fn unlink_blob<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move {
            let unlinked = self.inner.unlink_blob(digest).await;
            if !matches!(unlinked, Ok(false)) {
                self.blobs.evict(digest);
            }
            unlinked
        })
    }
}
