//! Any driver, chosen and decorated at run time.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::{
    ByteRange, Capabilities, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path, PutOptions,
    Redirect, StorageDriver, StorageError, redirect::RedirectSigner,
};
use crate::{
    body::{Body, ByteStream},
    oci::{Algorithm, Digest},
};

/// A driver whose type is not known until the configuration has been read. Cheap to clone.
pub struct Driver<S: ByteStream> {
    driver: Rc<dyn Erased<S>>,
    signers: Vec<Rc<dyn RedirectSigner>>,
}

impl<S: ByteStream> Driver<S> {
    /// Hides a driver's type.
    pub fn new(driver: impl StorageDriver<Stream = S> + 'static) -> Self {
        Self { driver: Rc::new(driver), signers: Vec::new() }
    }

    /// The same driver with URLs from these signers: the first that has one gives it, then the driver's own.
    #[must_use]
    pub fn redirecting(self, signers: Vec<Rc<dyn RedirectSigner>>) -> Self {
        Self { signers, ..self }
    }
}

impl<S: ByteStream> Clone for Driver<S> {
    fn clone(&self) -> Self {
        Self { driver: self.driver.clone(), signers: self.signers.clone() }
    }
}

type Answer<'a, T> = LocalBoxFuture<'a, Result<T, StorageError>>;

/// [`StorageDriver`] with boxed futures, which `dyn` needs.
trait Erased<S: ByteStream> {
    fn name(&self) -> &'static str;
    fn capabilities(&self) -> Capabilities;
    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>>;
    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object<S>>>;
    fn put<'a>(&'a self, path: &'a Path, body: Body<S>, options: PutOptions<'a>) -> Answer<'a, ObjectMeta>;
    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()>;
    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing>;
    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId>;
    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body<S>,
    ) -> Answer<'a, Part>;
    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta>;
    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()>;
    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>>;
    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> Answer<'a, bool>;
    fn redirect_url<'a>(&'a self, path: &'a Path, redirect: &'a Redirect<'a>) -> Answer<'a, Option<String>>;
}

impl<D: StorageDriver> Erased<D::Stream> for D {
    fn name(&self) -> &'static str {
        StorageDriver::name(self)
    }
    fn capabilities(&self) -> Capabilities {
        StorageDriver::capabilities(self)
    }
    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>> {
        Box::pin(StorageDriver::head(self, path))
    }
    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object<D::Stream>>> {
        Box::pin(StorageDriver::get(self, path, range))
    }
    fn put<'a>(
        &'a self,
        path: &'a Path,
        body: Body<D::Stream>,
        options: PutOptions<'a>,
    ) -> Answer<'a, ObjectMeta> {
        Box::pin(StorageDriver::put(self, path, body, options))
    }
    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()> {
        Box::pin(StorageDriver::delete(self, paths))
    }
    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        Box::pin(StorageDriver::list(self, prefix, page))
    }
    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        Box::pin(StorageDriver::create_multipart(self, path))
    }
    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body<D::Stream>,
    ) -> Answer<'a, Part> {
        Box::pin(StorageDriver::put_part(self, path, id, number, body))
    }
    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta> {
        Box::pin(StorageDriver::complete_multipart(self, path, id, parts))
    }
    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()> {
        Box::pin(StorageDriver::abort_multipart(self, path, id))
    }
    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>> {
        Box::pin(StorageDriver::digest(self, path, algorithm))
    }
    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> Answer<'a, bool> {
        Box::pin(StorageDriver::copy(self, from, to))
    }
    fn redirect_url<'a>(&'a self, path: &'a Path, redirect: &'a Redirect<'a>) -> Answer<'a, Option<String>> {
        Box::pin(StorageDriver::redirect_url(self, path, redirect))
    }
}

impl<S: ByteStream> StorageDriver for Driver<S> {
    type Stream = S;

    fn name(&self) -> &'static str {
        self.driver.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }
    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        self.driver.head(path).await
    }
    async fn get(&self, path: &Path, range: Option<ByteRange>) -> Result<Option<Object<S>>, StorageError> {
        self.driver.get(path, range).await
    }
    async fn put(
        &self,
        path: &Path,
        body: Body<S>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        self.driver.put(path, body, options).await
    }
    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        self.driver.delete(paths).await
    }
    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        self.driver.list(prefix, page).await
    }
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        self.driver.create_multipart(path).await
    }
    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<S>,
    ) -> Result<Part, StorageError> {
        self.driver.put_part(path, id, number, body).await
    }
    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        self.driver.complete_multipart(path, id, parts).await
    }
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        self.driver.abort_multipart(path, id).await
    }
    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        self.driver.digest(path, algorithm).await
    }
    async fn copy(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        self.driver.copy(from, to).await
    }
    async fn redirect_url(
        &self,
        path: &Path,
        redirect: &Redirect<'_>,
    ) -> Result<Option<String>, StorageError> {
        for signer in &self.signers {
            if let Some(url) = signer.url(path, redirect).await? {
                return Ok(Some(url));
            }
        }
        self.driver.redirect_url(path, redirect).await
    }
}
