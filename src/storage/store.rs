//! The handle to a driver, which counts and traces its calls.

use std::rc::Rc;

use bytes::Bytes;
use serde_json::json;

use super::{
    Answer, Capabilities, Copied, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path, PutOptions,
    StorageDriver, StorageError, StorageErrorKind, driver::Errors,
};
use crate::{
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, Clock, Level, ReadError, RequestLog},
};

/// A store. Cheap to clone. Its operations are those of [`StorageDriver`], with the same guarantees.
#[derive(Clone)]
pub struct Store {
    driver: Rc<dyn StorageDriver>,
    trace: Option<Trace>,
}

#[derive(Clone)]
struct Trace {
    log: Rc<RequestLog>,
    clock: Rc<dyn Clock>,
}

fn done<T>(_: &T) -> &'static str {
    "done"
}

fn found<T>(value: &Option<T>) -> &'static str {
    if value.is_some() { "found" } else { "absent" }
}

impl Store {
    /// A handle to this driver.
    pub fn new(driver: impl StorageDriver + 'static) -> Self {
        Self { driver: Rc::new(driver), trace: None }
    }

    /// The same store, with its calls counted in `log`, and logged at debug level.
    #[must_use]
    pub fn traced(&self, log: Rc<RequestLog>, clock: Rc<dyn Clock>) -> Self {
        Self { driver: self.driver.clone(), trace: Some(Trace { log, clock }) }
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        outcome: impl FnOnce(&T) -> &'static str,
        answer: Answer<'_, T>,
    ) -> Result<T, StorageError> {
        let Some(Trace { log, clock }) = &self.trace else { return answer.await };
        let started = clock.now();
        let result = answer.await;
        let milliseconds = clock.now().milliseconds_since(started);
        log.count_storage_call(milliseconds);
        log.write(Level::Debug, || {
            let outcome = match &result {
                Ok(value) => outcome(value).to_owned(),
                Err(error) => error.kind.to_string(),
            };
            json!({
                "level": "debug",
                "id": log.id,
                "driver": self.driver.name(),
                "operation": operation,
                "path": path,
                "milliseconds": milliseconds,
                "outcome": outcome,
            })
        });
        result
    }

    /// See [`StorageDriver::capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    /// See [`StorageDriver::head`].
    pub async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        self.call("head", path.as_str(), found, self.driver.head(path)).await
    }

    /// See [`StorageDriver::get`].
    pub async fn get(&self, path: &Path, range: Option<ByteRange>) -> Result<Option<Object>, StorageError> {
        self.call("get", path.as_str(), found, self.driver.get(path, range)).await
    }

    /// See [`StorageDriver::put`].
    pub async fn put(
        &self,
        path: &Path,
        body: Body,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        self.call("put", path.as_str(), done, self.driver.put(path, body, options)).await
    }

    /// See [`StorageDriver::delete`].
    pub async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        let names: Vec<&str> = paths.iter().map(Path::as_str).collect();
        self.call("delete", &names.join(" "), done, self.driver.delete(paths)).await
    }

    /// See [`StorageDriver::list`].
    pub async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        self.call("list", prefix, done, self.driver.list(prefix, page)).await
    }

    /// See [`StorageDriver::create_multipart`].
    pub async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        self.call("create_multipart", path.as_str(), done, self.driver.create_multipart(path)).await
    }

    /// See [`StorageDriver::put_part`].
    pub async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body,
    ) -> Result<Part, StorageError> {
        self.call("put_part", path.as_str(), done, self.driver.put_part(path, id, number, body)).await
    }

    /// See [`StorageDriver::complete_multipart`].
    pub async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        let answer = self.driver.complete_multipart(path, id, parts);
        self.call("complete_multipart", path.as_str(), done, answer).await
    }

    /// See [`StorageDriver::abort_multipart`].
    pub async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        self.call("abort_multipart", path.as_str(), done, self.driver.abort_multipart(path, id)).await
    }

    /// See [`StorageDriver::digest`].
    pub async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        self.call("digest", path.as_str(), found, self.driver.digest(path, algorithm)).await
    }

    pub(super) async fn copy_inside(&self, from: &Path, to: &Path) -> Result<Copied, StorageError> {
        self.call("copy", from.as_str(), done, self.driver.copy(from, to)).await
    }

    /// An error of this store's driver.
    pub fn error(&self, path: &Path, kind: impl Into<StorageErrorKind>) -> StorageError {
        self.driver.error(path.as_str(), kind)
    }

    /// Reads a small object into memory. More than `limit` bytes is an error.
    pub async fn read(&self, path: &Path, limit: usize) -> Result<Option<(Bytes, ObjectMeta)>, StorageError> {
        let Some(Object { meta, body }) = self.get(path, None).await? else { return Ok(None) };
        let bytes = body.read(limit).await.map_err(|error| self.unreadable(path, error))?;
        Ok(Some((bytes, meta)))
    }

    /// The error of an object whose content could not be read: the store's, not a client's.
    pub fn unreadable(&self, path: &Path, error: ReadError) -> StorageError {
        let retryable = matches!(error, ReadError::Broken(_));
        self.error(
            path,
            StorageErrorKind::Backend { operation: "get", message: error.to_string(), retryable },
        )
    }

    /// Every object whose path starts with `prefix`, flat, in order.
    pub async fn list_all(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>, StorageError> {
        let mut objects = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let listing = self.list(prefix, Page { after: after.as_deref(), ..Page::first() }).await?;
            objects.extend(listing.objects);
            match listing.next {
                Some(next) => after = Some(next),
                None => return Ok(objects),
            }
        }
    }

    /// Whether the path of any object starts with `prefix`.
    pub async fn exists_below(&self, prefix: &str) -> Result<bool, StorageError> {
        let mut after: Option<String> = None;
        loop {
            let page = Page { after: after.as_deref(), limit: 1, folders: false };
            let listing = self.list(prefix, page).await?;
            if !listing.objects.is_empty() {
                return Ok(true);
            }
            let Some(next) = listing.next else { return Ok(false) };
            after = Some(next);
        }
    }
}
