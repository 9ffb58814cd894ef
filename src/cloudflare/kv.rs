//! The driver for a KV namespace: small, immutable content near its readers.
//!
//! KV is eventually consistent: a read may return an old value, or miss a new one, for a minute or more. Use
//! it only to cache content that never changes.

use worker::KvStore;

use super::clock::SystemClock;
use crate::{
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, Clock, ReadError, Timestamp},
    storage::{
        Answer, Capabilities, Condition, Errors, Listing, Metadata, MultipartId, Object, ObjectMeta, Page,
        Part, Path, PutOptions, StorageDriver, StorageError, StorageErrorKind,
    },
};

/// KV's limit for a value, in bytes.
const MAX_VALUE: usize = 25 * 1024 * 1024;
/// The lifetime of a value, in seconds.
const LIFETIME: u64 = 30 * 24 * 60 * 60;
/// KV's limit for a key, in bytes.
const MAX_KEY: usize = 512;

/// The driver of one namespace.
pub struct Kv {
    store: KvStore,
}

/// The metadata of a value, which KV's listings include. Its field names are part of the stored format.
#[derive(serde::Serialize, serde::Deserialize)]
struct Beside {
    size: f64,
    etag: String,
    #[serde(default)]
    modified: f64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default, rename = "facts")]
    metadata: Vec<(String, String)>,
}

impl From<Beside> for ObjectMeta {
    fn from(beside: Beside) -> Self {
        let Beside { size, etag, modified, media_type, metadata } = beside;
        let (size, modified) = (size as u64, Timestamp(modified as u64));
        Self { size, etag, modified, media_type, metadata: Metadata::from_iter(metadata) }
    }
}

impl Kv {
    /// Wraps the binding.
    pub fn new(store: KvStore) -> Self {
        Self { store }
    }

    fn failure(&self, path: &str, operation: &'static str, error: impl ToString) -> StorageError {
        let message = error.to_string();
        let retryable = message.contains("429") || message.contains("onnection lost");
        self.error(path, StorageErrorKind::Backend { operation, message, retryable })
    }

    fn unsupported<T>(&self, path: &Path, what: &'static str) -> Result<T, StorageError> {
        Err(self.error(path.as_str(), StorageErrorKind::Unsupported(what)))
    }

    async fn value(&self, path: &Path) -> Result<Option<(Vec<u8>, ObjectMeta)>, StorageError> {
        if path.as_str().len() > MAX_KEY {
            return Ok(None);
        }
        let found = self.store.get(path.as_str()).bytes_with_metadata::<Beside>().await;
        match found.map_err(|error| self.failure(path.as_str(), "get", error))? {
            (Some(value), Some(beside)) => Ok(Some((value, beside.into()))),
            _ => Ok(None),
        }
    }
}

impl StorageDriver for Kv {
    fn name(&self) -> &'static str {
        "kv"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: false,
            multipart: false,
            max_put: MAX_VALUE as u64,
            lists_metadata: true,
            allows_nested_objects: true,
        }
    }

    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>> {
        Box::pin(async move { Ok(self.value(path).await?.map(|(_, meta)| meta)) })
    }

    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
            let Some((value, meta)) = self.value(path).await? else { return Ok(None) };
            let value = bytes::Bytes::from(value);
            let body = match range {
                None => value,
                Some(ByteRange { offset, .. }) if offset >= meta.size => {
                    return Err(self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset }));
                }
                Some(ByteRange { offset, length }) => {
                    let end = length.map_or(meta.size, |length| meta.size.min(offset.saturating_add(length)));
                    value.slice(offset as usize..end as usize)
                }
            };
            Ok(Some(Object { meta, body: Body::Bytes(body) }))
        })
    }

    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            if options.condition != Condition::Always {
                return self.unsupported(path, "conditional puts");
            }
            if path.as_str().len() > MAX_KEY {
                return self.unsupported(path, "paths of more than 512 bytes");
            }
            let value = match body.read(MAX_VALUE).await {
                Ok(value) => value,
                Err(ReadError::TooLarge { .. }) => {
                    return self.unsupported(path, "objects of more than 25 MiB");
                }
                Err(error) => return Err(self.error(path.as_str(), error)),
            };
            if options.digest.is_some_and(|digest| digest.algorithm().digest(&value) != *digest) {
                return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
            }
            let beside = Beside {
                size: value.len() as f64,
                etag: uuid::Uuid::new_v4().to_string(),
                modified: SystemClock.now().0 as f64,
                media_type: options.media_type.map(str::to_owned),
                metadata: options.metadata.into_iter().collect(),
            };
            let put = async {
                let put = self.store.put_bytes(path.as_str(), &value)?.metadata(&beside)?;
                put.expiration_ttl(LIFETIME).execute().await
            };
            put.await.map_err(|error| self.failure(path.as_str(), "put", error))?;
            Ok(beside.into())
        })
    }

    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()> {
        Box::pin(async move {
            for path in paths.iter().filter(|path| path.as_str().len() <= MAX_KEY) {
                let deleted = self.store.delete(path.as_str()).await;
                deleted.map_err(|error| self.failure(path.as_str(), "delete", error))?;
            }
            Ok(())
        })
    }

    /// KV cannot start a listing at a key, so this reads from the start of the prefix every time.
    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        Box::pin(async move {
            let mut listing = Listing::default();
            let (mut cursor, mut last) = (None::<String>, None::<String>);
            loop {
                let mut list = self.store.list().prefix(prefix.to_owned());
                if let Some(cursor) = cursor.take() {
                    list = list.cursor(cursor);
                }
                let found = list.execute().await.map_err(|error| self.failure(prefix, "list", error))?;
                for key in found.keys {
                    let Some(rest) = key.name.strip_prefix(prefix) else { continue };
                    let folder = rest
                        .split_once('/')
                        .filter(|_| page.folders)
                        .map(|(name, _)| format!("{prefix}{name}/"));
                    let entry = folder.clone().unwrap_or_else(|| key.name.clone());
                    let is_seen = page.after.is_some_and(|after| {
                        entry.as_str() <= after || (after.ends_with('/') && entry.starts_with(after))
                    });
                    if is_seen || last.as_ref() == Some(&entry) {
                        continue;
                    }
                    if listing.objects.len() + listing.folders.len() >= page.limit {
                        listing.next = last;
                        return Ok(listing);
                    }
                    last = Some(entry.clone());
                    match (folder, key.metadata.map(serde_json::from_value::<Beside>)) {
                        (Some(folder), _) => listing.folders.push(folder),
                        (None, Some(Ok(beside))) => listing.objects.push((entry, beside.into())),
                        (None, _) => {}
                    }
                }
                match found.cursor.filter(|_| !found.list_complete) {
                    Some(next) => cursor = Some(next),
                    None => return Ok(listing),
                }
            }
        })
    }

    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        Box::pin(async move { self.unsupported(path, "multipart uploads") })
    }

    fn put_part<'a>(&'a self, path: &'a Path, _: &'a MultipartId, _: u16, _: Body) -> Answer<'a, Part> {
        Box::pin(async move { self.unsupported(path, "multipart uploads") })
    }

    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        _: &'a MultipartId,
        _: &'a [Part],
    ) -> Answer<'a, ObjectMeta> {
        Box::pin(async move { self.unsupported(path, "multipart uploads") })
    }

    fn abort_multipart<'a>(&'a self, path: &'a Path, _: &'a MultipartId) -> Answer<'a, ()> {
        Box::pin(async move { self.unsupported(path, "multipart uploads") })
    }

    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>> {
        Box::pin(async move { Ok(self.value(path).await?.map(|(value, _)| algorithm.digest(&value))) })
    }
}
