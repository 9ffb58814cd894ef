//! The decorator that answers pulls from caches, as far as the configuration allows, and that invalidates the
//! caches on changes.

use std::rc::Rc;

use super::{
    Answer, NewManifest, Repository, RepositoryError, Revision, Seen,
    facts::{Facts, Question},
};
use crate::{
    blobs::{Blobs, Freshness, Located},
    context::Context,
    oci::{Digest, Reference, RepositoryName, Tag},
    platform::Timestamp,
};

/// The caching decorator.
pub struct Cached {
    /// The decorated repository.
    pub inner: Rc<dyn Repository>,
    /// The repository's name.
    pub name: RepositoryName,
    /// The cached answers.
    pub facts: Rc<Facts>,
    /// [`Freshness::Cached`] for a pull. Otherwise every answer comes from the decorated repository.
    pub freshness: Freshness,
    /// The blobs, with the isolate's descriptor cache.
    pub blobs: Blobs,
    /// The context of the request or job.
    pub context: Context,
}

impl Cached {
    /// Forgets a repository's tags after a deletion, also one that has failed: it may be made later.
    fn forget_tags(&self, deleted: Result<bool, RepositoryError>) -> Result<bool, RepositoryError> {
        if !matches!(deleted, Ok(false) | Err(RepositoryError::Immutable { .. })) {
            self.facts.forget(&self.name, true, &self.context);
        }
        deleted
    }

    /// The same, after the deletion of a manifest.
    fn forget_manifest(
        &self,
        digest: &Digest,
        deleted: Result<bool, RepositoryError>,
    ) -> Result<bool, RepositoryError> {
        if !matches!(deleted, Ok(false) | Err(RepositoryError::Immutable { .. })) {
            self.facts.forget(&self.name, false, &self.context);
            self.blobs.evict(digest);
        }
        deleted
    }
}

impl Repository for Cached {
    fn inner(&self) -> &dyn Repository {
        &*self.inner
    }

    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        Box::pin(async move {
            if self.freshness == Freshness::Strict {
                return self.inner.revision(reference).await;
            }
            let question = Question::Manifest(reference.clone());
            let fact = self.facts.find(&self.name, &question, &*self.inner, &self.context).await?;
            Ok(fact.map(|fact| fact.into_revision()))
        })
    }

    fn locate<'a>(&'a self, digest: &'a Digest, freshness: Freshness) -> Answer<'a, Option<Located>> {
        Box::pin(async move {
            if self.freshness == Freshness::Strict || freshness == Freshness::Strict {
                return self.inner.locate(digest, freshness).await;
            }
            let question = Question::Blob(digest.clone());
            let fact = self.facts.find(&self.name, &question, &*self.inner, &self.context).await?;
            let located = fact.and_then(|fact| fact.into_located());
            if let Some(located) = &located {
                self.blobs.cache_location(digest, located);
            }
            Ok(located)
        })
    }

    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        Box::pin(async move {
            let put = self.inner.put_manifest(new, tags).await;
            // After a failure too: some of the tags may have moved.
            let is_refused =
                matches!(put, Err(RepositoryError::BlobsMissing(_) | RepositoryError::Immutable { .. }));
            if !tags.is_empty() && !is_refused {
                self.facts.forget(&self.name, true, &self.context);
            }
            put
        })
    }

    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move {
            let deleted = self.inner.delete_manifest(digest).await;
            self.forget_manifest(digest, deleted)
        })
    }

    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        Box::pin(async move {
            let deleted = self.inner.delete_tag(tag).await;
            self.forget_tags(deleted)
        })
    }

    fn delete_tag_seen<'a>(&'a self, tag: &'a Tag, seen: &'a Seen) -> Answer<'a, bool> {
        Box::pin(async move {
            let deleted = self.inner.delete_tag_seen(tag, seen).await;
            self.forget_tags(deleted)
        })
    }

    fn delete_unused<'a>(&'a self, digest: &'a Digest, since: Timestamp) -> Answer<'a, bool> {
        Box::pin(async move {
            let deleted = self.inner.delete_unused(digest, since).await;
            self.forget_manifest(digest, deleted)
        })
    }

    fn unlink_blob<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move {
            let unlinked = self.inner.unlink_blob(digest).await;
            if !matches!(unlinked, Ok(false)) {
                self.facts.forget(&self.name, false, &self.context);
                self.blobs.evict(digest);
            }
            unlinked
        })
    }

    fn collect_blobs<'a>(&'a self, digests: &'a [Digest], scanned: Timestamp) -> Answer<'a, ()> {
        Box::pin(async move {
            let collected = self.inner.collect_blobs(digests, scanned).await;
            self.facts.forget(&self.name, false, &self.context);
            digests.iter().for_each(|digest| self.blobs.evict(digest));
            collected
        })
    }
}
