//! The in-memory driver: the reference implementation of the contract, as strict as R2.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use bytes::{Bytes, BytesMut};

use super::{
    Answer, Capabilities, Condition, Listing, Metadata, MultipartId, Object, ObjectMeta, Page, Part, Path,
    PutOptions, StorageDriver, StorageError, StorageErrorKind, driver::Errors,
};
use crate::{
    oci::{Algorithm, Digest},
    platform::{
        Body, ByteRange, Timestamp,
        memory::{MemoryBuffer, MemoryStream},
    },
};

#[derive(Clone)]
struct Stored {
    meta: ObjectMeta,
    bytes: Bytes,
}

struct Multipart {
    path: Path,
    parts: BTreeMap<u16, (String, Bytes)>,
}

/// A store in memory.
#[derive(Default)]
pub struct Memory {
    objects: RefCell<BTreeMap<String, Stored>>,
    multiparts: RefCell<BTreeMap<String, Multipart>>,
    counter: Cell<u64>,
    /// The `modified` time of later writes.
    pub now: Cell<Timestamp>,
    min_part: Option<usize>,
}

/// R2's minimum part size, in bytes.
const MIN_PART: usize = 5 * 1024 * 1024;
/// R2's limit for the metadata of an object, in bytes.
const MAX_METADATA: usize = 2048;

impl Memory {
    /// A driver with this minimum part size, in bytes, so that tests need not move megabytes.
    pub fn with_min_part(min_part: usize) -> Self {
        Self { min_part: Some(min_part), ..Self::default() }
    }

    /// The path of every object, in order.
    pub fn paths(&self) -> Vec<String> {
        self.objects.borrow().keys().cloned().collect()
    }

    /// The number of multipart uploads neither completed nor aborted.
    pub fn open_multiparts(&self) -> usize {
        self.multiparts.borrow().len()
    }

    /// The number of parts that these have.
    pub fn open_parts(&self) -> usize {
        self.multiparts.borrow().values().map(|multipart| multipart.parts.len()).sum()
    }

    /// Drops all of them, as R2 does after 7 days.
    pub fn drop_multiparts(&self) {
        self.multiparts.borrow_mut().clear();
    }

    fn etag(&self) -> String {
        self.counter.set(self.counter.get() + 1);
        format!("{:016x}", self.counter.get())
    }

    fn backend(&self, path: &Path, operation: &'static str, message: &str) -> StorageError {
        let message = message.to_owned();
        self.error(path.as_str(), StorageErrorKind::Backend { operation, message, retryable: false })
    }

    async fn bytes(&self, path: &Path, operation: &'static str, body: Body) -> Result<Bytes, StorageError> {
        match body {
            Body::Buffer { buffer, range } => {
                let buffer: &dyn Any = &*buffer;
                let bytes = buffer.downcast_ref::<MemoryBuffer>().and_then(|buffer| buffer.0.get(range));
                let foreign = "the range is not inside a buffer of this platform";
                bytes.map(Bytes::copy_from_slice).ok_or_else(|| self.backend(path, operation, foreign))
            }
            Body::Stream(stream) if stream.content_length().is_none() => {
                Err(self.backend(path, operation, "the stream must have a known length"))
            }
            body => body.read(usize::MAX).await.map_err(|error| self.error(path.as_str(), error)),
        }
    }

    fn insert(&self, path: &Path, bytes: Bytes, media_type: Option<&str>, metadata: Metadata) -> ObjectMeta {
        let media_type = media_type.map(str::to_owned);
        let (size, modified) = (bytes.len() as u64, self.now.get());
        let meta = ObjectMeta { size, etag: self.etag(), modified, media_type, metadata };
        self.objects.borrow_mut().insert(path.as_str().to_owned(), Stored { meta: meta.clone(), bytes });
        meta
    }
}

impl StorageDriver for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: true,
            multipart: true,
            max_put: 5 * 1024 * 1024 * 1024,
            lists_metadata: true,
            allows_nested_objects: true,
        }
    }

    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>> {
        Box::pin(
            async move { Ok(self.objects.borrow().get(path.as_str()).map(|stored| stored.meta.clone())) },
        )
    }

    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
            let Some(Stored { meta, bytes }) = self.objects.borrow().get(path.as_str()).cloned() else {
                return Ok(None);
            };
            let bytes = match range {
                None => bytes,
                Some(ByteRange { offset, .. }) if offset >= meta.size => {
                    return Err(self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset }));
                }
                Some(ByteRange { offset, length }) => {
                    let end = length.map_or(meta.size, |length| meta.size.min(offset.saturating_add(length)));
                    bytes.slice(offset as usize..end as usize)
                }
            };
            Ok(Some(Object { meta, body: Body::Stream(MemoryStream::new(bytes).into()) }))
        })
    }

    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            let metadata: usize = options.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
            if metadata > MAX_METADATA {
                return Err(self.backend(path, "put", "the metadata is larger than 2048 bytes"));
            }
            // Metadata travels in HTTP headers.
            let is_visible = |text: &String| text.bytes().all(|c| matches!(c, b' '..=b'~'));
            if !options.metadata.iter().all(|(key, value)| is_visible(key) && is_visible(value)) {
                return Err(self.backend(path, "put", "the metadata is not visible ASCII"));
            }
            let bytes = self.bytes(path, "put", body).await?;
            let current = self.objects.borrow().get(path.as_str()).map(|stored| stored.meta.etag.clone());
            let holds = match options.condition {
                Condition::Always => true,
                Condition::IfAbsent => current.is_none(),
                Condition::IfMatch(etag) => current == Some(etag),
            };
            if !holds {
                return Err(self.error(path.as_str(), StorageErrorKind::Precondition));
            }
            if options.digest.is_some_and(|digest| digest.algorithm().digest(&bytes) != *digest) {
                return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
            }
            Ok(self.insert(path, bytes, options.media_type, options.metadata))
        })
    }

    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()> {
        Box::pin(async move {
            for path in paths {
                self.objects.borrow_mut().remove(path.as_str());
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        Box::pin(async move {
            let mut listing = Listing::default();
            let objects = self.objects.borrow();
            let mut last: Option<String> = None;
            for (path, stored) in objects.range(prefix.to_owned()..) {
                let Some(rest) = path.strip_prefix(prefix) else { break };
                let folder =
                    rest.split_once('/').filter(|_| page.folders).map(|(name, _)| format!("{prefix}{name}/"));
                let entry = folder.clone().unwrap_or_else(|| path.clone());
                let is_seen = page.after.is_some_and(|after| {
                    entry.as_str() <= after || (after.ends_with('/') && entry.starts_with(after))
                });
                if is_seen || last.as_ref() == Some(&entry) {
                    continue;
                }
                if listing.objects.len() + listing.folders.len() >= page.limit {
                    listing.next = last;
                    break;
                }
                last = Some(entry.clone());
                match folder {
                    Some(folder) => listing.folders.push(folder),
                    None => listing.objects.push((entry, stored.meta.clone())),
                }
            }
            Ok(listing)
        })
    }

    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        Box::pin(async move {
            let id = format!("multipart-{}", self.etag());
            let multipart = Multipart { path: path.clone(), parts: BTreeMap::new() };
            self.multiparts.borrow_mut().insert(id.clone(), multipart);
            Ok(MultipartId(id))
        })
    }

    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body,
    ) -> Answer<'a, Part> {
        Box::pin(async move {
            let bytes = self.bytes(path, "put_part", body).await?;
            let etag = self.etag();
            let mut multiparts = self.multiparts.borrow_mut();
            match multiparts.get_mut(&id.0) {
                Some(multipart) if multipart.path == *path && (1..=10_000).contains(&number) => {
                    multipart.parts.insert(number, (etag.clone(), bytes));
                    Ok(Part { number, etag })
                }
                _ => Err(self.error(path.as_str(), StorageErrorKind::NoSuchUpload)),
            }
        })
    }

    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            let fail = |message| Err(self.backend(path, "complete_multipart", message));
            let mut bytes = BytesMut::new();
            {
                let multiparts = self.multiparts.borrow();
                let Some(multipart) = multiparts.get(&id.0).filter(|multipart| multipart.path == *path)
                else {
                    return Err(self.error(path.as_str(), StorageErrorKind::NoSuchUpload));
                };
                let mut size = None;
                for (index, part) in parts.iter().enumerate() {
                    let Some((etag, content)) = multipart.parts.get(&part.number) else {
                        return fail("no such part");
                    };
                    if *etag != part.etag {
                        return fail("the part was replaced");
                    }
                    let size = *size.get_or_insert(content.len());
                    let is_last = index + 1 == parts.len();
                    if content.len() > size || (!is_last && content.len() < size) {
                        return fail("all parts but the last must have the same length");
                    }
                    if !is_last && content.len() < self.min_part.unwrap_or(MIN_PART) {
                        return fail("all parts but the last must have at least 5 MiB");
                    }
                    bytes.extend_from_slice(content);
                }
            }
            self.multiparts.borrow_mut().remove(&id.0);
            Ok(self.insert(path, bytes.freeze(), None, Metadata::new()))
        })
    }

    fn abort_multipart<'a>(&'a self, _path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()> {
        Box::pin(async move {
            self.multiparts.borrow_mut().remove(&id.0);
            Ok(())
        })
    }

    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>> {
        Box::pin(async move {
            Ok(self.objects.borrow().get(path.as_str()).map(|stored| algorithm.digest(&stored.bytes)))
        })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::storage::{Store, contract};
    use futures_executor::block_on;

    #[test]
    fn passes_the_driver_suite() {
        for (name, case) in contract::cases(Memory::default().capabilities()) {
            println!("{name}");
            block_on(case(Store::new(Memory::default()))).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn checks_parts_as_strictly_as_r2() {
        block_on(async {
            let driver = Memory::with_min_part(4);
            let path: Path = "a".parse().unwrap();
            let id = driver.create_multipart(&path).await.unwrap();
            let mut parts = Vec::new();
            for (number, bytes) in [(1, "12345"), (2, "1234"), (3, "12345")] {
                parts.push(driver.put_part(&path, &id, number, Body::Bytes(bytes.into())).await.unwrap());
            }
            assert!(driver.complete_multipart(&path, &id, &parts).await.is_err());
            assert!(driver.complete_multipart(&path, &id, &parts[..2]).await.is_ok());
        });
    }
}
