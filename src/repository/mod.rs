//! Repositories: what they have, and how that changes.
//!
//! [`Repository`] is the only way in which a request or a job reads or changes one. [`stored`] keeps it in the
//! bucket; a decorator changes some of what happens on the way there and leaves the rest to what it decorates:
//!
//! ```text
//! in the worker              Cached -> (mirrored) -> (client of the writer) -> Stored
//! in a repository's writer   (listening) -> (guarded) -> Stored
//! ```
//!
//! The names in parentheses are places for what comes: a mirror; the one Durable Object that orders the writes of
//! a repository; events; immutable tags and quotas. `App::repository` composes them.

pub mod cached;
pub mod catalog;
pub mod stored;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::{
    blobs::{Freshness, Located},
    oci::{Descriptor, Digest, Manifest, Reference, Tag},
    storage::StorageError,
};

/// The result of an operation on a repository, later.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, RepositoryError>>;

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The repository lacks these blobs of a manifest. Nothing was written.
    #[error("the repository lacks blobs of the manifest")]
    BlobsMissing(Vec<Digest>),
}

/// A manifest as a repository has it, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its digest.
    pub digest: Digest,
    /// Length in bytes, and media type. `None` if another registry wrote the link: the content says.
    pub description: Option<(u64, String)>,
}

/// A manifest to be pushed.
pub struct NewManifest {
    /// The digest of `content`, verified.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes, stored as they are.
    pub content: Bytes,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage<T> {
    /// The entries, in order.
    pub entries: Vec<T>,
    /// The entry after which the next page starts, if there is one.
    pub next: Option<String>,
}

/// One repository.
///
/// A decorator implements [`inner`](Self::inner) and what it changes. At the bottom is an implementation that
/// writes every method, which `clippy::missing_trait_methods` checks there.
pub trait Repository {
    /// What this decorates.
    fn inner(&self) -> &dyn Repository;

    /// The manifest that a reference names now.
    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        self.inner().revision(reference)
    }

    /// The content of a manifest that this repository has: call [`revision`](Self::revision) first.
    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Option<Bytes>> {
        self.inner().manifest(digest)
    }

    /// Where the bytes of a blob of this repository are; `None` if it does not have the blob. The link is always
    /// read from the store. If it does not say where the bytes are, `freshness` decides who is asked.
    fn locate<'a>(&'a self, digest: &'a Digest, freshness: Freshness) -> Answer<'a, Option<Located>> {
        self.inner().locate(digest, freshness)
    }

    /// A page of tags in byte order; `None` if nothing was ever pushed.
    fn tags<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Option<ListPage<String>>> {
        self.inner().tags(after, limit)
    }

    /// A page of the manifests that refer to `subject`, in the order of their digests.
    fn referrers<'a>(
        &'a self,
        subject: &'a Digest,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> Answer<'a, ListPage<Descriptor>> {
        self.inner().referrers(subject, after, limit)
    }

    /// Pushes a manifest and points `tags` to it. Content first, then links, then tags: safe to repeat.
    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        self.inner().put_manifest(new, tags)
    }

    /// Writes what can be derived from a manifest that this repository has: the catalog's entry, the reverse
    /// link and, from its parsed content, the entry among its subject's referrers.
    fn index_manifest<'a>(
        &'a self,
        digest: &'a Digest,
        content: Option<(&'a Manifest, u64)>,
    ) -> Answer<'a, ()> {
        self.inner().index_manifest(digest, content)
    }

    /// Removes a manifest with its tags and its entry as a referrer; `false` if absent. The content stays.
    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        self.inner().delete_manifest(digest)
    }

    /// Removes a tag; `false` if absent.
    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        self.inner().delete_tag(tag)
    }

    /// Makes stored bytes a blob of this repository.
    fn link_blob<'a>(&'a self, digest: &'a Digest, located: &'a Located) -> Answer<'a, ()> {
        self.inner().link_blob(digest, located)
    }

    /// Removes a blob; `false` if absent. The bytes stay for other repositories.
    fn unlink_blob<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        self.inner().unlink_blob(digest)
    }
}
