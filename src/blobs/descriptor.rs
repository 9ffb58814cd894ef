//! Descriptors: where the bytes of a blob are that has several parts.
//!
//! Such a blob gets a key of its own. The settle job copies its bytes to [`Key::Data`] later, and the descriptor then
//! says so. It stays: storage can delete an object only without a condition, and a push of the same blob may have written
//! a new one. Only a sweep deletes it, under the marker.
//!
//! ```text
//! {size, at: K}  --- copied --->  {size, was: K, settled}  --- K is removed --->  {size, settled}
//! ```

use bytes::Bytes;
use serde_json::json;

use super::{Blobs, Located, SIZE};
use crate::{
    layout::Key,
    oci::Digest,
    platform::{Body, Timestamp},
    storage::{Condition, Metadata, ObjectMeta, Path, PutOptions, StorageError, StorageErrorKind},
};

const WAS: &str = "was";
const SETTLED: &str = "settled";

/// The size of a descriptor that names no other place, in bytes, at most: listings without metadata tell it by that. One
/// that names a place has more, since a place has a uuid.
const PLACELESS: u64 = 64;

/// A descriptor as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the bytes are.
    pub located: Located,
    /// Where they were, and still may be.
    pub was: Option<Path>,
    /// When they were copied to [`Key::Data`].
    pub settled: Option<Timestamp>,
    /// When it was written.
    pub written: Timestamp,
    etag: String,
}

impl Descriptor {
    /// Decodes the object of a descriptor; `None` if another version has written it.
    pub fn from_object(meta: &ObjectMeta) -> Option<Self> {
        let text = |name: &str| meta.metadata.get(name);
        Some(Self {
            located: Located::from_metadata(&meta.metadata)?,
            was: text(WAS).map(|was| was.parse()).transpose().ok()?,
            settled: text(SETTLED).and_then(|settled| settled.parse().ok()).map(Timestamp),
            written: meta.modified,
            etag: meta.etag.clone(),
        })
    }

    /// The object with the bytes that is not at [`Key::Data`], if there may be one.
    pub fn elsewhere(&self) -> Option<&Path> {
        self.located.at.as_ref().or(self.was.as_ref())
    }

    /// Whether a listed descriptor names no object that is not at [`Key::Data`], as far as its size tells.
    pub fn is_placeless(listed: &ObjectMeta) -> bool {
        listed.size <= PLACELESS
    }
}

impl Blobs {
    /// The descriptor of a blob, also if its bytes are at [`Key::Data`] by now. Costs one look-up.
    pub async fn described(&self, digest: &Digest) -> Result<Option<Descriptor>, StorageError> {
        let descriptor = self.store.head(&Key::Descriptor(digest).path()).await?;
        Ok(descriptor.as_ref().and_then(Descriptor::from_object))
    }

    /// The location of bytes that are not at [`Key::Data`], from their descriptor. Costs one look-up.
    pub async fn descriptor(&self, digest: &Digest) -> Result<Option<Located>, StorageError> {
        let described = self.described(digest).await?;
        Ok(described.map(|described| described.located).filter(|located| located.at.is_some()))
    }

    /// Writes a descriptor of bytes at [`Key::Data`], which were at `was`, if it still is as it was `seen`; `false` if it
    /// is not.
    pub async fn settle_descriptor(
        &self,
        digest: &Digest,
        seen: &Descriptor,
        was: Option<&Path>,
    ) -> Result<bool, StorageError> {
        // Etags are made of the content: the time tells two writes apart.
        let (size, settled) = (seen.located.size, seen.settled.unwrap_or(self.clock.now()));
        let mut content = json!({SIZE: size, SETTLED: settled.0});
        let mut metadata = Metadata::from([
            (SIZE.to_owned(), size.to_string()),
            (SETTLED.to_owned(), settled.0.to_string()),
        ]);
        if let (Some(was), Some(fields)) = (was, content.as_object_mut()) {
            fields.insert(WAS.to_owned(), was.as_str().into());
            metadata.insert(WAS.to_owned(), was.to_string());
        }
        let options = PutOptions {
            metadata,
            condition: Condition::IfMatch(seen.etag.clone()),
            media_type: Some("application/json"),
            ..PutOptions::default()
        };
        let content = Body::Bytes(Bytes::from(content.to_string()));
        match self.store.put(&Key::Descriptor(digest).path(), content, options).await {
            Ok(_) => Ok(true),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
