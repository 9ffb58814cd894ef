//! The decorator that tells the operator of every call: what, where, how long, with what result.

use std::rc::Rc;

use serde_json::json;

use super::{
    ByteRange, Capabilities, Driver, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path, PutOptions,
    Redirect, StorageDriver, StorageError,
};
use crate::{
    body::{Body, ByteStream},
    clock::Clock,
    log::{Level, RequestLog},
    oci::{Algorithm, Digest},
};

/// A driver whose calls are counted, and told at debug level.
pub struct Traced<S: ByteStream> {
    /// The driver.
    pub inner: Driver<S>,
    /// Whom to tell.
    pub log: Rc<RequestLog>,
    /// The time.
    pub clock: Rc<dyn Clock>,
}

impl<S: ByteStream> Traced<S> {
    async fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        outcome: impl FnOnce(&T) -> &'static str,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let begun = self.clock.now();
        let result = work.await;
        let milliseconds = self.clock.now().0.saturating_sub(begun.0);
        self.log.storage_call(milliseconds);
        self.log.say(Level::Debug, || {
            let outcome = match &result {
                Ok(value) => outcome(value).to_owned(),
                Err(error) => error.kind.to_string(),
            };
            json!({
                "level": "debug",
                "id": self.log.id,
                "driver": self.inner.name(),
                "operation": operation,
                "path": path,
                "milliseconds": milliseconds,
                "outcome": outcome,
            })
        });
        result
    }
}

fn done<T>(_: &T) -> &'static str {
    "done"
}

fn found<T>(value: &Option<T>) -> &'static str {
    if value.is_some() { "found" } else { "absent" }
}

impl<S: ByteStream> StorageDriver for Traced<S> {
    type Stream = S;

    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        self.call("head", path.as_str(), found, self.inner.head(path)).await
    }
    async fn get(&self, path: &Path, range: Option<ByteRange>) -> Result<Option<Object<S>>, StorageError> {
        self.call("get", path.as_str(), found, self.inner.get(path, range)).await
    }
    async fn put(
        &self,
        path: &Path,
        body: Body<S>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        self.call("put", path.as_str(), done, self.inner.put(path, body, options)).await
    }
    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        let names: Vec<&str> = paths.iter().map(Path::as_str).collect();
        self.call("delete", &names.join(" "), done, self.inner.delete(paths)).await
    }
    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        self.call("list", prefix, done, self.inner.list(prefix, page)).await
    }
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        self.call("create_multipart", path.as_str(), done, self.inner.create_multipart(path)).await
    }
    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<S>,
    ) -> Result<Part, StorageError> {
        self.call("put_part", path.as_str(), done, self.inner.put_part(path, id, number, body)).await
    }
    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        let work = self.inner.complete_multipart(path, id, parts);
        self.call("complete_multipart", path.as_str(), done, work).await
    }
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        self.call("abort_multipart", path.as_str(), done, self.inner.abort_multipart(path, id)).await
    }
    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        self.call("digest", path.as_str(), found, self.inner.digest(path, algorithm)).await
    }
    async fn copy(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        self.call("copy", from.as_str(), done, self.inner.copy(from, to)).await
    }
    async fn redirect_url(
        &self,
        path: &Path,
        redirect: &Redirect<'_>,
    ) -> Result<Option<String>, StorageError> {
        self.inner.redirect_url(path, redirect).await
    }
}
