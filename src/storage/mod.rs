//! Storage drivers: a small contract at the level of keys and bytes.
//!
//! [`StorageDriver`] is what a driver writes; [`StorageDriverExt`] is what `distribution`'s drivers also
//! offer (folders, moving, appending, deleting trees), built on the contract once for all drivers.
//! [`Key`] is the bucket's layout. The suite in `contract` decides whether a driver keeps the contract.

#[cfg(test)]
pub mod contract;
mod copy;
mod driver;
mod ext;
pub mod key;
pub mod memory;
mod path;
pub mod redirect;
pub mod s3;
pub mod trace;
mod writer;

use std::collections::BTreeMap;

use crate::{
    body::{Body, ByteStream, ReadError},
    clock::Timestamp,
    oci::{Algorithm, Digest},
};

pub use driver::Driver;
pub use ext::{Stat, StorageDriverExt};
pub use key::Key;
pub use path::{InvalidPath, Path};
pub use redirect::Redirect;
pub use writer::Writer;

/// What is known of a stored object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length of the content, in bytes.
    pub size: u64,
    /// Changes whenever the object does; opaque.
    pub etag: String,
    /// When it was last written.
    pub modified: Timestamp,
    /// The `Content-Type` it was stored with.
    pub media_type: Option<String>,
    /// Small facts stored beside the content (at most 2 KiB in all).
    pub facts: Facts,
}

/// Small facts stored beside an object's content.
pub type Facts = BTreeMap<String, String>;

/// An object: what is known of it, and its content.
pub struct Object<S: ByteStream> {
    /// What [`StorageDriver::head`] answers. `size` is the whole object's, also when a range was asked for.
    pub meta: ObjectMeta,
    /// The content, or the range asked for. Its length is known.
    pub body: Body<S>,
}

/// Part of an object, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Where it starts. At or behind the object's end is [`StorageErrorKind::InvalidOffset`].
    pub offset: u64,
    /// How long it is; cut at the object's end. `None`: to the end.
    pub length: Option<u64>,
}

/// When a write may happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only if nothing is stored under the path.
    IfAbsent,
    /// Only if what is stored still has this etag.
    IfMatch(String),
}

/// How an object is written.
#[derive(Debug, Clone, Default)]
pub struct PutOptions<'a> {
    /// Refuse the write ([`StorageErrorKind::DigestMismatch`]) unless the content has this digest.
    pub digest: Option<&'a Digest>,
    /// The `Content-Type` to store.
    pub media_type: Option<&'a str>,
    /// Small facts to store beside the content.
    pub facts: Facts,
    /// When the write may happen.
    pub condition: Condition,
}

/// Which part of a listing to return.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Start strictly behind this path; a folder (ending in `/`) stands for all that is in it.
    pub after: Option<&'a str>,
    /// At most so many entries (objects and folders together), 1 to 1,000.
    pub limit: usize,
    /// Whether paths with a further `/` behind the prefix are folded into one folder each.
    pub folders: bool,
}

impl Page<'static> {
    /// The most a driver lists at once: R2's own limit.
    pub const MAX: usize = 1000;

    /// The first page of a flat listing.
    pub fn first() -> Self {
        Self { after: None, limit: Self::MAX, folders: false }
    }
}

/// A page of a listing, in byte order of the whole paths.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects. Their `media_type` and `facts` are filled in if the driver [`lists_facts`](Capabilities).
    pub objects: Vec<(String, ObjectMeta)>,
    /// Folders, each ending in `/`.
    pub folders: Vec<String>,
    /// `after` for the next page, when there is more. A page may hold fewer entries than its limit.
    pub next: Option<String>,
}

/// A multipart upload's name, given by the driver; opaque.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MultipartId(pub String);

/// A stored part of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// Its number, from 1 to 10,000. Parts are joined in this order; numbers may be left out.
    pub number: u16,
    /// What the driver answered; opaque.
    pub etag: String,
}

/// What only some drivers can do. Asking another driver for it is [`StorageErrorKind::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Condition`]s other than `Always`.
    pub conditional_put: bool,
    /// The multipart methods.
    pub multipart: bool,
    /// The largest object one `put` takes, in bytes.
    pub max_put: u64,
    /// Listings tell the media types and facts of objects.
    pub lists_facts: bool,
    /// There may be objects below an object's path.
    pub nests: bool,
}

/// An object store. Absence is `Ok(None)`; an error means that something went wrong.
///
/// Reads see every write that ended before they started, unless the driver says otherwise.
pub trait StorageDriver {
    /// The platform's stream, the same for every driver of a platform.
    type Stream: ByteStream;

    /// The driver's name in errors and logs.
    fn name(&self) -> &'static str;

    /// What this driver can do.
    fn capabilities(&self) -> Capabilities;

    /// Looks an object up.
    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError>;

    /// Reads an object, or a range of it.
    async fn get(
        &self,
        path: &Path,
        range: Option<ByteRange>,
    ) -> Result<Option<Object<Self::Stream>>, StorageError>;

    /// Writes an object. Atomic: it is there whole and verified, or what was there before still is.
    /// Repeating it changes nothing but the etag. A stream must know its length.
    async fn put(
        &self,
        path: &Path,
        body: Body<Self::Stream>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError>;

    /// Deletes objects, up to [`Page::MAX`]. Those that are not there are deleted already.
    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError>;

    /// Lists the paths that start with `prefix` (any text), in byte order.
    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError>;

    /// Starts writing an object in parts. It appears under the path on completion, not before.
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError>;

    /// Stores a part. All parts but the last have the same length, and that is at least 5 MiB.
    /// Storing a number again replaces it.
    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<Self::Stream>,
    ) -> Result<Part, StorageError>;

    /// Joins the parts named. Atomic. Takes a time that does not depend on their length.
    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError>;

    /// Forgets a multipart upload and its parts. One that is not there is forgotten already.
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError>;

    /// Hashes a stored object without moving it through the caller.
    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError>;

    /// Copies an object, over whatever is at `to`; `false` when there is nothing at `from`. Media type and facts
    /// come along, but for an object larger than `max_put`: those are written in parts, which carry none. The
    /// bytes pass through here unless the driver knows better.
    async fn copy(&self, from: &Path, to: &Path) -> Result<bool, StorageError>
    where
        Self: Sized,
    {
        copy::through(self, from, to).await
    }

    /// A URL at which a client gets the object by itself, if the driver has such URLs.
    async fn redirect_url(
        &self,
        _path: &Path,
        _redirect: &Redirect<'_>,
    ) -> Result<Option<String>, StorageError> {
        Ok(None)
    }
}

/// What went wrong in a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{driver}: {path}: {kind}")]
pub struct StorageError {
    /// The driver's name.
    pub driver: &'static str,
    /// The path it happened on, or the prefix.
    pub path: String,
    /// What it was.
    pub kind: StorageErrorKind,
}

/// The ways in which a driver fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageErrorKind {
    /// A range starts at or behind the object's end.
    #[error("offset {offset} is not inside the object")]
    InvalidOffset {
        /// Where it starts, in bytes.
        offset: u64,
    },
    /// This driver cannot do that.
    #[error("the driver does not support {0}")]
    Unsupported(&'static str),
    /// The write's [`Condition`] did not hold.
    #[error("the condition of the write does not hold")]
    Precondition,
    /// The content does not have the digest given.
    #[error("the content does not have the digest it was announced with")]
    DigestMismatch,
    /// The content came from a stream that broke.
    #[error(transparent)]
    Body(#[from] ReadError),
    /// The store answered with an error, or not at all.
    #[error("{operation}: {message}")]
    Backend {
        /// What was asked of it.
        operation: &'static str,
        /// Its own words.
        message: String,
        /// Whether the same request may work later.
        retryable: bool,
    },
}
