//! The contract of a driver: ten operations on keys and bytes, each with its guarantees.

use std::collections::BTreeMap;

use futures_util::future::{LocalBoxFuture, ready};

use super::{Path, StorageError, StorageErrorKind};
use crate::{
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, Timestamp},
};

/// The result of a storage operation, later.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, StorageError>>;

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length of the content, in bytes.
    pub size: u64,
    /// Changes whenever the object does; opaque.
    pub etag: String,
    /// When the object was last written.
    pub modified: Timestamp,
    /// The `Content-Type` it was stored with.
    pub media_type: Option<String>,
    /// The metadata it was stored with.
    pub metadata: Metadata,
}

/// Names and values stored beside an object's content: at most 2 KiB in all, visible ASCII.
pub type Metadata = BTreeMap<String, String>;

/// An object and its content.
pub struct Object {
    /// What [`StorageDriver::head`] answers. `size` is that of the whole object, also for a range.
    pub meta: ObjectMeta,
    /// The content, or the range asked for. Its length is known.
    pub body: Body,
}

/// When a write may happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only if there is no object at the path.
    IfAbsent,
    /// Only if the object still has this etag.
    IfMatch(String),
}

/// How an object is written.
#[derive(Debug, Clone, Default)]
pub struct PutOptions<'a> {
    /// Refuse the write ([`StorageErrorKind::DigestMismatch`]) unless the content has this digest.
    pub digest: Option<&'a Digest>,
    /// The `Content-Type` to store.
    pub media_type: Option<&'a str>,
    /// The metadata to store.
    pub metadata: Metadata,
    /// When the write may happen.
    pub condition: Condition,
}

/// Which entries of a listing to return.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Start after this path; a folder (ending in `/`) stands for everything in it.
    pub after: Option<&'a str>,
    /// The most entries to return, objects and folders together: 1 to 1,000.
    pub limit: usize,
    /// Whether paths with a further `/` after the prefix are folded into one folder each.
    pub folders: bool,
}

impl Page<'static> {
    /// The most entries that a driver lists at once: R2's limit.
    pub const MAX: usize = 1000;

    /// The first page of a flat listing.
    pub fn first() -> Self {
        Self { after: None, limit: Self::MAX, folders: false }
    }
}

/// A page of a listing, in byte order of the whole paths.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects. Their `media_type` and `metadata` are present if the driver
    /// [`lists_metadata`](Capabilities::lists_metadata).
    pub objects: Vec<(String, ObjectMeta)>,
    /// Folders, each ending in `/`.
    pub folders: Vec<String>,
    /// `after` for the next page, if there is one. A page may hold fewer entries than its limit.
    pub next: Option<String>,
}

/// The driver's id of a multipart upload; opaque.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MultipartId(pub String);

/// A stored part of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// Its number, 1 to 10,000. Parts are joined in this order; there may be gaps.
    pub number: u16,
    /// What the driver answered; opaque.
    pub etag: String,
}

/// What only some drivers can do. Others answer [`StorageErrorKind::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Condition`]s other than `Always`.
    pub conditional_put: bool,
    /// The multipart operations.
    pub multipart: bool,
    /// The largest object that one `put` takes, in bytes.
    pub max_put: u64,
    /// Listings contain the media types and metadata of objects.
    pub lists_metadata: bool,
    /// There may be objects below the path of an object.
    pub nests: bool,
}

/// The outcome of a [`StorageDriver::copy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The store has copied the object.
    Done,
    /// There is no object to copy.
    Absent,
    /// The store cannot copy: read and write instead.
    Unsupported,
}

/// An object store. Absence is `Ok(None)`; an error means that something went wrong.
///
/// Reads see every write that ended before they started, unless the driver says otherwise. Callers use the
/// [`Store`](super::Store) handle.
pub trait StorageDriver {
    /// The driver's name in errors and logs.
    fn name(&self) -> &'static str;

    /// What this driver can do.
    fn capabilities(&self) -> Capabilities;

    /// Looks an object up.
    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>>;

    /// Reads an object, or a range of it.
    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>>;

    /// Writes an object. Atomic: either the new object is there, whole and verified, or the old state remains.
    /// Repeating it changes nothing but the etag. A stream must know its length.
    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta>;

    /// Deletes up to [`Page::MAX`] objects. An absent object counts as deleted.
    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()>;

    /// Lists the paths that start with `prefix` (any text), in byte order.
    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing>;

    /// Starts a multipart upload. The object appears at the path on completion, not before.
    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId>;

    /// Stores a part. All parts but the last have the same length, at least 5 MiB. Storing a number again
    /// replaces that part.
    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body,
    ) -> Answer<'a, Part>;

    /// Joins the given parts. Atomic, in a time that does not depend on their length.
    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta>;

    /// Drops a multipart upload and its parts. An absent one counts as dropped.
    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()>;

    /// Hashes a stored object inside the driver. `None` if absent.
    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>>;

    /// Copies an object inside the store, over whatever is at `to`, with its media type and metadata. An object
    /// larger than `max_put` may lose these: it is written in parts, which carry none.
    fn copy<'a>(&'a self, _from: &'a Path, _to: &'a Path) -> Answer<'a, Copied> {
        Box::pin(ready(Ok(Copied::Unsupported)))
    }
}

/// Errors of a driver, with its name.
pub(crate) trait Errors: StorageDriver {
    /// An error of this driver.
    fn error(&self, path: impl Into<String>, kind: impl Into<StorageErrorKind>) -> StorageError {
        StorageError { driver: self.name(), path: path.into(), kind: kind.into() }
    }
}

impl<D: StorageDriver + ?Sized> Errors for D {}
