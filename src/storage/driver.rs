//! The contract of a driver: operations on paths and bytes, with their guarantees.

use std::collections::BTreeMap;

use futures_util::future::{LocalBoxFuture, ready};

use super::{Path, StorageError, StorageErrorKind};
use crate::{
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, Timestamp},
};

/// The future result of a storage operation.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, StorageError>>;

/// Metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length of the content, in bytes.
    pub size: u64,
    /// Opaque; changes with every write.
    pub etag: String,
    /// The time of the last write.
    pub modified: Timestamp,
    /// The `Content-Type` it was stored with.
    pub media_type: Option<String>,
    /// The custom metadata it was stored with.
    pub metadata: Metadata,
}

/// Custom metadata of an object: names and values of visible ASCII, at most 2 KiB in all.
pub type Metadata = BTreeMap<String, String>;

/// An object and its content.
pub struct Object {
    /// The result of [`StorageDriver::head`]. `size` is that of the whole object, even for a range.
    pub meta: ObjectMeta,
    /// The content or the requested range, of known length.
    pub body: Body,
}

/// The condition of a write.
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

/// Options of a write.
#[derive(Debug, Clone, Default)]
pub struct PutOptions<'a> {
    /// Refuse the write ([`StorageErrorKind::DigestMismatch`]) unless the content has this digest.
    pub digest: Option<&'a Digest>,
    /// The `Content-Type` to store.
    pub media_type: Option<&'a str>,
    /// The metadata to store.
    pub metadata: Metadata,
    /// The condition of the write.
    pub condition: Condition,
}

/// The page of a listing to return.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Start after this path. A folder, ending in `/`, includes everything below it.
    pub after: Option<&'a str>,
    /// Page size, objects and folders together: 1 to 1,000.
    pub limit: usize,
    /// Whether to group paths with a further `/` after the prefix into folders.
    pub folders: bool,
}

impl Page<'static> {
    /// The largest page that R2 allows.
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
    /// `after` of the next page; `None` on the last page. A page may hold fewer entries than its limit.
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
    /// The driver's etag of the part; opaque.
    pub etag: String,
}

/// Optional features of a driver. The others return [`StorageErrorKind::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Condition`]s other than `Always`.
    pub conditional_put: bool,
    /// The multipart operations.
    pub multipart: bool,
    /// Size limit of one `put`, in bytes.
    pub max_put: u64,
    /// Listings include the media types and metadata of objects.
    pub lists_metadata: bool,
    /// The path of an object may also be a folder of other objects.
    pub allows_nested_objects: bool,
}

/// The outcome of a [`StorageDriver::copy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The object was copied.
    Done,
    /// The source is absent.
    Absent,
    /// The store cannot copy: read and write instead.
    Unsupported,
}

/// An object store. Absence is `Ok(None)`; an error is a failure.
///
/// Reads see every write that ended before they started, unless the driver documents otherwise. Callers use
/// the [`Store`](super::Store) handle.
pub trait StorageDriver {
    /// The driver's name in errors and logs.
    fn name(&self) -> &'static str;

    /// The optional features of this driver.
    fn capabilities(&self) -> Capabilities;

    /// Looks up an object.
    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>>;

    /// Reads an object, or a range of it.
    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>>;

    /// Writes an object. Atomic: either the whole object becomes visible, verified, or nothing changes.
    /// Idempotent but for the etag and the time. A stream must know its length.
    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta>;

    /// Deletes up to [`Page::MAX`] objects. Idempotent: absent objects are ignored.
    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()>;

    /// Lists the paths that start with `prefix` (any text), in byte order.
    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing>;

    /// Starts a multipart upload. The object becomes visible on completion.
    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId>;

    /// Stores a part. All parts but the last must have the same length, at least 5 MiB. Storing a number
    /// again replaces that part.
    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body,
    ) -> Answer<'a, Part>;

    /// Joins the given parts. Atomic, in time independent of their length.
    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta>;

    /// Drops a multipart upload and its parts. Idempotent: an absent one is ignored.
    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()>;

    /// Hashes a stored object inside the driver. `None` if absent.
    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>>;

    /// Copies an object inside the store, with its media type and metadata, and replaces any object at `to`.
    /// An object larger than `max_put` may lose both, because multipart uploads carry none.
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
