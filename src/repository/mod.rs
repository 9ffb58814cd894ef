//! Repositories: reading and changing their content.
//!
//! Requests and jobs read and change a repository only through [`Repository`]. A decorator overrides some methods
//! and forwards the others; [`ordered`] is at the bottom. It reads the bucket, and sends changes to the repository's
//! [`writer`]:
//!
//! ```text
//! in the worker              Listening -> Cached -> (mirrored) -> Ordered -> Stored
//! in a repository's writer   Writer -> Stored
//! ```
//!
//! `App::repository` composes them. The name in parentheses is the place of a planned decorator.

pub mod cached;
pub mod catalog;
pub mod deployment;
pub mod facts;
pub mod listening;
pub mod missing;
pub mod ordered;
pub mod pulls;
mod purges;
pub mod stored;
pub mod writer;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

pub use self::writer::protocol::Seen;
use self::writer::protocol::{CallError, Entry, Refused};
use crate::{
    auth::OverQuota,
    blobs::{Freshness, Located},
    events,
    oci::{Digest, Manifest, Reference, Referenced, RepositoryName, Tag},
    platform::Timestamp,
    storage::{ObjectMeta, StorageError},
};

/// The future result of an operation on a repository.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, RepositoryError>>;

/// A failed operation on a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The repository lacks these blobs of a manifest. Nothing was linked.
    #[error("the repository lacks blobs of the manifest")]
    BlobsMissing(Vec<Digest>),
    /// An immutable tag would be moved or deleted, or lose its manifest. Nothing has changed.
    #[error("the tag {tag} is immutable and refers to {digest}")]
    Immutable {
        /// The tag.
        tag: Tag,
        /// The manifest that it points to.
        digest: Digest,
    },
    /// A quota does not allow it. Nothing was linked.
    #[error("{0}")]
    OverQuota(OverQuota),
    /// The content of a manifest was being deleted when it was stored. It can be stored again now.
    #[error("the content of the manifest was deleted meanwhile: push it again")]
    ContentGone,
    /// The repository is being removed. Nothing has changed.
    #[error("the repository is being removed")]
    Removing,
    /// An administrator has taken the content down. Nothing was linked.
    #[error("the content was taken down")]
    TakenDown,
    /// A deletion is larger than a request. The repository's writer goes on with it.
    #[error("the deletion of a manifest with many tags goes on")]
    GoesOn,
    /// The repository's writer cannot be reached, or is busy. It may have made the change, or may make it later.
    #[error("{0}")]
    Writer(String),
    /// The queue of events refuses.
    #[error("{0}")]
    Events(String),
    /// Another deployment writes to the bucket.
    #[error(transparent)]
    Deployment(#[from] deployment::OtherDeployment),
}

impl From<CallError> for RepositoryError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(Refused::BlobsMissing(digests)) => Self::BlobsMissing(digests),
            CallError::Refused(Refused::Immutable { tag, digest }) => Self::Immutable { tag, digest },
            CallError::Refused(Refused::OverQuota { repository, bytes, quota }) => {
                Self::OverQuota(OverQuota::Bytes { repository, bytes, quota })
            }
            CallError::Refused(Refused::ContentGone) => Self::ContentGone,
            CallError::Refused(Refused::Removing) => Self::Removing,
            CallError::Refused(Refused::TakenDown) => Self::TakenDown,
            CallError::Refused(Refused::GoesOn) => Self::GoesOn,
            error => Self::Writer(error.to_string()),
        }
    }
}

/// What a manifest refers to, as events have it: nothing if that is too long for one.
fn references_of(content: &[u8]) -> Vec<events::Reference> {
    let reference = |Referenced { media_type, size, digest, urls, annotations }| events::Reference {
        media_type,
        size,
        digest,
        urls,
        annotations,
    };
    let references: Vec<_> = Manifest::references_of(content).into_iter().map(reference).collect();
    let length = serde_json::to_vec(&references).map_or(usize::MAX, |json| json.len());
    if length > events::MAX_REFERENCES { Vec::new() } else { references }
}

/// A manifest of a repository, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its digest.
    pub digest: Digest,
    /// Length in bytes, and media type. `None` if another registry wrote the link: read the content instead.
    pub description: Option<(u64, String)>,
}

impl Revision {
    /// What the metadata of a manifest's link says of it.
    pub fn of_link(digest: Digest, link: &ObjectMeta) -> Self {
        Self { digest, description: stored::description(link) }
    }
}

/// A manifest to be pushed.
pub struct NewManifest {
    /// The digest of `content`, verified.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes, stored unchanged.
    pub content: Bytes,
    /// The signatures of a manifest of schema 1, with their digests: they are added to those that it has.
    pub signatures: Vec<(Digest, Bytes)>,
}

impl NewManifest {
    /// What its links say.
    pub fn entry(&self) -> Entry {
        Entry {
            digest: self.digest.clone(),
            size: self.content.len() as u64,
            media_type: self.manifest.media_type.clone(),
            subject: self.manifest.subject.clone(),
            signatures: self.signatures.iter().map(|(digest, _)| digest.clone()).collect(),
        }
    }
}

/// A manifest that refers to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// The length of its descriptor, in bytes.
    pub size: u64,
    /// Its descriptor, as JSON. `None` if the list does not have it: read it with [`Repository::referrer`].
    pub descriptor: Option<Bytes>,
}

/// Why a blob is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkReason<'a> {
    /// It was pushed.
    Push,
    /// It was found in this repository.
    Mount(&'a RepositoryName),
    /// Its bytes are elsewhere now. The repository had it.
    Correction,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage<T> {
    /// The entries, in order.
    pub entries: Vec<T>,
    /// The cursor of the next page; `None` on the last page.
    pub next: Option<String>,
}

/// One repository.
///
/// A decorator implements [`inner`](Self::inner) and the methods that it changes. The implementation at the
/// bottom must write every method, which `clippy::missing_trait_methods` checks there.
pub trait Repository {
    /// The decorated repository.
    fn inner(&self) -> &dyn Repository;

    /// The manifest that a reference currently names.
    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        self.inner().revision(reference)
    }

    /// The content of a manifest that this repository has: call [`revision`](Self::revision) first.
    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Option<Bytes>> {
        self.inner().manifest(digest)
    }

    /// The signatures of a manifest of schema 1, as they are stored. No cache tells which they are: others may be added.
    fn signatures<'a>(&'a self, manifest: &'a Digest) -> Answer<'a, Vec<Bytes>> {
        self.inner().signatures(manifest)
    }

    /// Locates the bytes of a blob; `None` if this repository does not have it. `freshness` decides whether a
    /// cache may answer: about the repository within the configured bound, about the blob without one.
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
    ) -> Answer<'a, ListPage<Referrer>> {
        self.inner().referrers(subject, after, limit)
    }

    /// The descriptor, as JSON, of a manifest that refers to `subject`.
    fn referrer<'a>(&'a self, subject: &'a Digest, referrer: &'a Digest) -> Answer<'a, Option<Bytes>> {
        self.inner().referrer(subject, referrer)
    }

    /// Pushes a manifest and points `tags` to it. Idempotent: writes content, then links, then tags.
    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        self.inner().put_manifest(new, tags)
    }

    /// Writes the index entries of a manifest that this repository has: the catalog entry, the reverse link
    /// and, from `content` (the parsed manifest and its size in bytes), the referrer of its subject.
    fn index_manifest<'a>(
        &'a self,
        digest: &'a Digest,
        content: Option<(&'a Manifest, u64)>,
    ) -> Answer<'a, ()> {
        self.inner().index_manifest(digest, content)
    }

    /// Writes that a tag points to a manifest, if it does: the manifest's deletion looks for its tags there.
    fn index_tag<'a>(&'a self, tag: &'a Tag, digest: &'a Digest) -> Answer<'a, ()> {
        self.inner().index_tag(tag, digest)
    }

    /// Writes what a link of another registry to a blob lacks: its metadata, and the reverse link.
    fn index_blob<'a>(&'a self, digest: &'a Digest, located: &'a Located) -> Answer<'a, ()> {
        self.inner().index_blob(digest, located)
    }

    /// Deletes a manifest, its tags and its referrer entry; `false` if absent. The content stays.
    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        self.inner().delete_manifest(digest)
    }

    /// Deletes a tag; `false` if absent.
    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        self.inner().delete_tag(tag)
    }

    /// Deletes a tag if it is as it was `seen`; `false` if absent, or if it was pushed since.
    fn delete_tag_seen<'a>(&'a self, tag: &'a Tag, seen: &'a Seen) -> Answer<'a, bool> {
        self.inner().delete_tag_seen(tag, seen)
    }

    /// Deletes a manifest like [`delete_manifest`](Self::delete_manifest) that nothing needed at `since`, if nothing that was
    /// pushed since needs it either: no tag points to it, no tag is new, no new index names it, and its subject is not there.
    /// Otherwise `false`. For five minutes, an index that names it is refused.
    fn delete_unused<'a>(&'a self, digest: &'a Digest, since: Timestamp) -> Answer<'a, bool> {
        self.inner().delete_unused(digest, since)
    }

    /// Links stored bytes as a blob of this repository; `false` if it had the blob. The bytes must be kept from being
    /// deleted: see [`Blobs::hold`](crate::blobs::Blobs::hold). A link without a location, or with another one, is
    /// replaced. It does not go through the repository's writer.
    fn link_blob<'a>(
        &'a self,
        digest: &'a Digest,
        located: &'a Located,
        reason: LinkReason<'a>,
    ) -> Answer<'a, bool> {
        self.inner().link_blob(digest, located, reason)
    }

    /// Removes the link to a blob; `false` if absent. The bytes stay for other repositories. A manifest that needs the
    /// blob does not keep it: like `distribution`, and because no index tells which manifests do.
    fn unlink_blob<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        self.inner().unlink_blob(digest)
    }

    /// Removes those of the links to layers that are condemned and that no manifest names. The caller has looked through
    /// the manifests that were there at `scanned`: the writer looks at those that were pushed since.
    fn collect_blobs<'a>(&'a self, digests: &'a [Digest], scanned: Timestamp) -> Answer<'a, ()> {
        self.inner().collect_blobs(digests, scanned)
    }

    /// Removes those of the links to signatures of a manifest of schema 1 whose content is gone, or the manifest.
    fn collect_signatures<'a>(&'a self, manifest: &'a Digest, signatures: Vec<Digest>) -> Answer<'a, ()> {
        self.inner().collect_signatures(manifest, signatures)
    }

    /// Corrects what the repository's writer counts for a quota. `named` are manifests and blobs that they name, with their
    /// sizes in bytes, as the caller has found them since `scanned`. Of several calls, the last one `is_whole`.
    fn count<'a>(&'a self, named: Vec<(Digest, u64)>, scanned: Timestamp, is_whole: bool) -> Answer<'a, ()> {
        self.inner().count(named, scanned, is_whole)
    }
}
