//! What the registry keeps of a removal that an administrator has asked for: an object of JSON in the bucket, changed by
//! conditional writes.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    oci::from_json,
    platform::{Body, Clock},
    storage::{Condition, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

/// Time between the last write of a record and its deletion, in milliseconds: a key takes one write in a second.
const KEY_PAUSE: u64 = 1_100;

/// Size limit of a record, in bytes.
const MAX_RECORD: usize = 64 * 1024;

/// A record as it was read.
#[derive(Debug)]
pub struct Record<T> {
    /// What it says.
    pub value: T,
    path: Path,
    etag: String,
}

impl<T: Serialize + DeserializeOwned> Record<T> {
    /// Reads a record; `None` if there is none.
    pub async fn read(store: &Store, path: Path) -> Result<Option<Self>, StorageError> {
        let Some((content, meta)) = store.read(&path, MAX_RECORD).await? else { return Ok(None) };
        match from_json(&content) {
            Ok(value) => Ok(Some(Self { value, path, etag: meta.etag })),
            Err(error) => {
                let message = format!("the record cannot be read: {error}");
                let kind = StorageErrorKind::Backend { operation: "read", message, retryable: false };
                Err(store.error(&path, kind))
            }
        }
    }

    /// Writes a record, unless there is one: then that is read.
    pub async fn create(store: &Store, path: Path, value: T) -> Result<Self, StorageError> {
        match put(store, &path, &value, Condition::IfAbsent).await {
            Ok(etag) => Ok(Self { value, path, etag }),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {
                let gone = || {
                    let message = "the record was just removed".to_owned();
                    let kind = StorageErrorKind::Backend { operation: "put", message, retryable: true };
                    store.error(&path, kind)
                };
                Self::read(store, path.clone()).await?.ok_or_else(gone)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the record, if it still is as it was read; otherwise nothing is written, and `false`.
    pub async fn write(&mut self, store: &Store) -> Result<bool, StorageError> {
        match put(store, &self.path, &self.value, Condition::IfMatch(self.etag.clone())).await {
            Ok(etag) => {
                self.etag = etag;
                Ok(true)
            }
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the record still is as it was read.
    pub async fn is_current(&self, store: &Store) -> Result<bool, StorageError> {
        Ok(store.head(&self.path).await?.is_some_and(|meta| meta.etag == self.etag))
    }

    /// Removes the record a second after it was written, if it still is as it was read; `false` if another one is there. The
    /// deletion cannot have a condition: it is one attempt, right after the look.
    pub async fn remove(self, store: &Store, clock: &dyn Clock) -> Result<bool, StorageError> {
        clock.sleep(KEY_PAUSE).await;
        match store.head(&self.path).await? {
            Some(meta) if meta.etag == self.etag => store.once().delete(&[self.path]).await.map(|()| true),
            found => Ok(found.is_none()),
        }
    }
}

async fn put<T: Serialize>(
    store: &Store,
    path: &Path,
    value: &T,
    condition: Condition,
) -> Result<String, StorageError> {
    let content = serde_json::to_vec(value).unwrap_or_default();
    let options = PutOptions { condition, media_type: Some("application/json"), ..PutOptions::default() };
    Ok(store.put(path, Body::Bytes(content.into()), options).await?.etag)
}
