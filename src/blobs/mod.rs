//! Content by digest, independent of repositories.
//!
//! Content by digest never changes, so it can be cached. Nothing here checks that a repository has a blob or
//! that a client may read it: a repository has a blob if it has a link to it, see
//! [`Repository`](crate::repository::Repository).

mod cache;
mod descriptor;
mod edge;
pub mod marker;

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use futures_util::future::try_join;
use serde::{Deserialize, Serialize};

use crate::{
    context::Context,
    layout::{CacheEntry, Key},
    oci::{Digest, Manifest, RepositoryName, schema1::MAX_SIGNATURE},
    platform::{Body, ByteRange, Clock, ReadError, Timestamp},
    storage::{Condition, LONG_PATIENCE, Metadata, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

pub use cache::{BLOBS, Cache, MANIFESTS};
pub use descriptor::Descriptor;
pub use edge::Edge;

const SIZE: &str = "size";
const AT: &str = "at";

/// The location of a blob's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// Their length, in bytes.
    pub size: u64,
    /// Their path; `None` for [`Key::Data`].
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_text")]
    pub at: Option<Path>,
}

impl Located {
    /// The path of the bytes of `digest`.
    pub fn path(&self, digest: &Digest) -> Path {
        self.at.clone().unwrap_or_else(|| Key::Data(digest).path())
    }

    /// Encodes the location as metadata of a link or descriptor.
    pub fn to_metadata(&self) -> Metadata {
        let mut metadata = Metadata::from([(SIZE.to_owned(), self.size.to_string())]);
        if let Some(at) = &self.at {
            metadata.insert(AT.to_owned(), at.to_string());
        }
        metadata
    }

    /// Decodes the metadata of a link or descriptor; `None` if another registry wrote it.
    pub fn from_metadata(metadata: &Metadata) -> Option<Self> {
        let size = metadata.get(SIZE)?.parse().ok()?;
        let at = metadata.get(AT).map(|at| at.parse()).transpose().ok()?;
        Some(Self { size, at })
    }
}

mod path_text {
    use super::Path;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(path: &Option<Path>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(path.as_ref().map_or("", Path::as_str))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Path>, D::Error> {
        String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
    }
}

/// The sources allowed for an answer about immutable content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The store only: the bytes exist now.
    Strict,
    /// A cache or the store: the bytes existed at some time.
    Cached,
}

/// The outcome of a write of content by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was written, and has the digest.
    Written,
    /// It was there already. The content sent was not verified.
    Existed,
}

/// The bytes of a blob, and their source.
pub struct Opened {
    /// The requested bytes.
    pub body: Body,
    /// The location of the whole blob.
    pub located: Located,
    /// The path of the object read; `None` for the edge cache.
    pub path: Option<Path>,
}

/// The key in the isolate's memory of a blob whose bytes are at [`Key::Data`], although its links may say otherwise.
fn settled(digest: &Digest) -> String {
    format!("settled/{digest}")
}

/// The key of a push in the isolate's memory.
fn pushed(name: &RepositoryName, manifest: &Digest) -> String {
    format!("pushed/{manifest}/{name}")
}

/// How long an isolate relies on a link to a blob that it has written, in milliseconds. The repository's writer remembers
/// removals for longer, by the time that a push may wait for its turn:
/// [`REMEMBER`](crate::repository::writer::order::REMEMBER).
pub const LINKED: u64 = 40_000;

/// The key of a link to a blob in the isolate's memory.
fn linked(name: &RepositoryName, blob: &Digest) -> String {
    format!("linked/{blob}/{name}")
}

/// The blobs of one request or job. Look-ups are strict unless the caller allows cached answers.
#[derive(Clone)]
pub struct Blobs {
    store: Store,
    cache: Cache,
    clock: Rc<dyn Clock>,
    context: Context,
}

impl Blobs {
    /// The blobs of `store`, with the isolate's cache.
    pub fn new(store: Store, cache: Cache, clock: Rc<dyn Clock>, context: Context) -> Self {
        Self { store, cache, clock, context }
    }

    /// Locates the bytes of a blob. [`Freshness::Strict`] costs two concurrent look-ups.
    pub async fn locate(
        &self,
        digest: &Digest,
        freshness: Freshness,
    ) -> Result<Option<Located>, StorageError> {
        if freshness == Freshness::Strict {
            return self.locate_in_store(digest).await;
        }
        let find = self.locate_in_store(digest);
        self.cached(CacheEntry::Located, digest, cache::read_located, find, cache::write_located).await
    }

    async fn locate_in_store(&self, digest: &Digest) -> Result<Option<Located>, StorageError> {
        let data = Key::Data(digest).path();
        let (data, described) = try_join(self.store.head(&data), self.descriptor(digest)).await?;
        Ok(data.map(|data| Located { size: data.size, at: None }).or(described))
    }

    /// The last known location of a blob, from the isolate's memory only.
    pub fn cached_location(&self, digest: &Digest) -> Option<Located> {
        self.cache.in_memory(CacheEntry::Located, digest).and_then(cache::read_located)
    }

    /// Stores the location of a blob, from its link, in the isolate's memory.
    pub fn cache_location(&self, digest: &Digest, located: &Located) {
        self.cache.put_in_memory(CacheEntry::Located, digest, cache::write_located(located));
    }

    /// Removes a digest from the caches.
    pub fn evict(&self, digest: &Digest) {
        self.cache.remove(digest, &self.context);
        self.cache.forget(&settled(digest));
    }

    /// Opens a blob, or a range of it, in the edge cache of `host` or in the store. `located` is a hint: links keep the
    /// place that the bytes had when they were pushed.
    pub async fn open(
        &self,
        digest: &Digest,
        located: &Located,
        range: Option<ByteRange>,
        host: Option<&str>,
    ) -> Result<Option<Opened>, StorageError> {
        if let Some(host) = host
            && let Some(body) = self.cache.edge.get(&self.context, host, digest, located.size, range).await
        {
            return Ok(Some(Opened { body, located: located.clone(), path: None }));
        }
        let is_settled = located.at.is_some() && self.cache.recall(&settled(digest)).is_some();
        let place = if is_settled { &Located { size: located.size, at: None } } else { located };
        if let Some(opened) = self.open_at(digest, place, range).await? {
            return Ok(Some(opened));
        }
        // The bytes may have moved since the link was written.
        match self.locate(digest, Freshness::Strict).await? {
            Some(moved) if moved != *place => {
                match moved.at {
                    None => self.cache.remember(settled(digest), Bytes::new()),
                    Some(_) => self.cache.forget(&settled(digest)),
                }
                self.open_at(digest, &moved, range).await
            }
            _ => Ok(None),
        }
    }

    async fn open_at(
        &self,
        digest: &Digest,
        located: &Located,
        range: Option<ByteRange>,
    ) -> Result<Option<Opened>, StorageError> {
        let path = located.path(digest);
        let object = self.store.get(&path, range).await?;
        Ok(object.map(|object| Opened { body: object.body, located: located.clone(), path: Some(path) }))
    }

    /// Copies a blob that was just read from the store into the edge cache of `host`, in the background.
    pub fn fill_edge(&self, host: &str, digest: &Digest, opened: &Opened) {
        if let Some(path) = &opened.path {
            let blob = (host.to_owned(), digest.clone(), path.clone(), opened.located.size);
            self.cache.edge.fill(self.store.clone(), blob, &self.context);
        }
    }

    /// Whether the content of a manifest is in the isolate's memory: then reading it takes no more.
    pub fn has_manifest_in_memory(&self, digest: &Digest) -> bool {
        self.cache.in_memory(CacheEntry::Manifest, digest).is_some()
    }

    /// The content of a manifest, from the store.
    pub async fn stored_manifest(&self, digest: &Digest) -> Result<Option<Bytes>, StorageError> {
        // Twice our limit: another registry may have stored larger manifests.
        let content = self.store.read(&Key::Data(digest).path(), 2 * Manifest::MAX_BYTES).await?;
        Ok(content.map(|(content, _)| content))
    }

    /// The content of a manifest.
    pub async fn manifest(
        &self,
        digest: &Digest,
        freshness: Freshness,
    ) -> Result<Option<Bytes>, StorageError> {
        let find = self.stored_manifest(digest);
        match freshness {
            Freshness::Strict => find.await,
            Freshness::Cached => self.cached(CacheEntry::Manifest, digest, Some, find, Bytes::clone).await,
        }
    }

    /// The content of a signature of a manifest; `None` if it is gone, or too large for one.
    pub async fn signature(&self, digest: &Digest) -> Result<Option<Bytes>, StorageError> {
        let find = async {
            let path = Key::Data(digest).path();
            let Some(object) = self.store.get(&path, None).await? else { return Ok(None) };
            match object.body.read(MAX_SIGNATURE).await {
                Err(ReadError::TooLarge { .. }) => Ok(None),
                read => Ok(Some(read.map_err(|error| self.store.unreadable(&path, error))?)),
            }
        };
        self.cached(CacheEntry::Manifest, digest, Some, find, Bytes::clone).await
    }

    /// Writes content to its canonical path if there is none, verified by the store.
    pub async fn put(&self, digest: &Digest, body: Body) -> Result<Put, StorageError> {
        let options =
            PutOptions { digest: Some(digest), condition: Condition::IfAbsent, ..PutOptions::default() };
        match self.store.put(&Key::Data(digest).path(), body, options).await {
            Ok(_) => Ok(Put::Written),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(Put::Existed),
            Err(error) => Err(error),
        }
    }

    /// Records the path of bytes that are not at [`Key::Data`]. The first record wins: `Some` is the record
    /// of a concurrent upload.
    pub async fn put_descriptor(
        &self,
        digest: &Digest,
        located: &Located,
    ) -> Result<Option<Located>, StorageError> {
        let content = Bytes::from(serde_json::to_vec(located).unwrap_or_default());
        let options = PutOptions {
            metadata: located.to_metadata(),
            condition: Condition::IfAbsent,
            media_type: Some("application/json"),
            ..PutOptions::default()
        };
        match self
            .store
            .put(&Key::Descriptor(digest).path(), Body::Bytes(content.clone()), options.clone())
            .await
        {
            Ok(_) => Ok(None),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {
                match self.find(digest).await? {
                    Some(winner) => Ok(Some(winner)),
                    None => self.replace_descriptor(digest, options, content).await,
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces a descriptor whose bytes are gone: a sweep was interrupted before it was deleted.
    async fn replace_descriptor(
        &self,
        digest: &Digest,
        options: PutOptions<'_>,
        content: Bytes,
    ) -> Result<Option<Located>, StorageError> {
        let path = Key::Descriptor(digest).path();
        let found = self.store.head(&path).await?;
        let condition = found.map_or(Condition::IfAbsent, |found| Condition::IfMatch(found.etag));
        let options = PutOptions { condition, ..options };
        match self.store.put(&path, Body::Bytes(content), options).await {
            Ok(_) => Ok(None),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => self.find(digest).await,
            Err(error) => Err(error),
        }
    }

    /// Locates the bytes of a blob that may have been deleted: looks that they are there. Costs up to two rounds.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Located>, StorageError> {
        let located = self.locate_in_store(digest).await?;
        let Some(at) = located.as_ref().and_then(|located| located.at.clone()) else { return Ok(located) };
        Ok(if self.store.head(&at).await?.is_some() { located } else { None })
    }

    /// The same blobs, whose storage calls are repeated for longer.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { store: self.store.with_patience(LONG_PATIENCE), ..self.clone() }
    }

    /// The same blobs, whose store sets `unsettled` when the answer to a write is lost.
    #[must_use]
    pub fn noting(&self, unsettled: Rc<Cell<bool>>) -> Self {
        Self { store: self.store.noting(unsettled), ..self.clone() }
    }

    /// Whether this isolate has pushed a manifest to a repository, with everything that belongs to it.
    pub fn has_pushed(&self, name: &RepositoryName, manifest: &Digest) -> bool {
        self.cache.recall(&pushed(name, manifest)).is_some()
    }

    /// Notes that this isolate has pushed a manifest, and keeps its content for pulls.
    pub fn set_pushed(&self, name: &RepositoryName, manifest: &Digest, content: &Bytes) {
        self.cache.remember(pushed(name, manifest), Bytes::new());
        self.cache.put_in_memory(CacheEntry::Manifest, manifest, content.clone());
    }

    /// Whether this isolate has just linked a blob to a repository.
    pub fn has_linked(&self, name: &RepositoryName, blob: &Digest) -> bool {
        let linked = self.cache.recall(&linked(name, blob));
        let at = linked.and_then(|at| Some(Timestamp(u64::from_le_bytes(at.as_ref().try_into().ok()?))));
        at.is_some_and(|at| self.clock.now().milliseconds_since(at) < LINKED)
    }

    /// Notes that this isolate has linked a blob to a repository: it was there after `at`.
    pub fn set_linked(&self, name: &RepositoryName, blob: &Digest, at: Timestamp) {
        self.cache.remember(linked(name, blob), Bytes::copy_from_slice(&at.0.to_le_bytes()));
    }

    /// Forgets that this isolate has linked a blob to a repository: the link is gone.
    pub fn forget_linked(&self, name: &RepositoryName, blob: &Digest) {
        self.cache.remember(linked(name, blob), Bytes::new());
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Waits.
    pub async fn sleep(&self, milliseconds: u64) {
        self.clock.sleep(milliseconds).await;
    }

    /// The underlying store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    async fn cached<T>(
        &self,
        entry: CacheEntry,
        digest: &Digest,
        read: impl FnOnce(Bytes) -> Option<T>,
        find: impl Future<Output = Result<Option<T>, StorageError>>,
        write: impl FnOnce(&T) -> Bytes,
    ) -> Result<Option<T>, StorageError> {
        let cached = self.cache.get(entry, digest, &self.context).await;
        if let Some(value) = cached.and_then(read) {
            return Ok(Some(value));
        }
        self.context.log.count_cache(|counts| counts.miss += 1);
        let value = find.await?;
        if let Some(value) = &value {
            self.cache.put(entry, digest, write(value), &self.context);
        }
        Ok(value)
    }
}
