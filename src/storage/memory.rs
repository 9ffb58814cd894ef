//! A driver that keeps everything in memory: the reference for the contract, as unforgiving as R2.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use bytes::{Bytes, BytesMut};

use super::{
    ByteRange, Capabilities, Condition, Facts, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
    PutOptions, StorageDriver, StorageDriverExt, StorageError, StorageErrorKind,
};
use crate::{
    body::{Block, Body, ByteStream, ReadError},
    clock::Timestamp,
    oci::{Algorithm, Digest, Hasher},
};

/// A stream over bytes in memory, which may hide its length or break at its end as a connection does.
#[derive(Debug, Clone)]
pub struct MemoryStream {
    bytes: Bytes,
    knows_length: bool,
    breaks: bool,
}

impl MemoryStream {
    /// A stream that knows its length.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), knows_length: true, breaks: false }
    }

    /// A stream that does not know its length, as of a request with chunked transfer coding.
    pub fn chunked(bytes: impl Into<Bytes>) -> Self {
        Self { knows_length: false, ..Self::new(bytes) }
    }

    /// A stream that fails where its bytes end.
    pub fn broken(bytes: impl Into<Bytes>) -> Self {
        Self { knows_length: false, breaks: true, ..Self::new(bytes) }
    }
}

/// A buffer in memory.
pub struct MemoryBlock(Vec<u8>);

impl Block for MemoryBlock {
    async fn new(capacity: usize) -> Self {
        Self(vec![0; capacity])
    }
}

impl ByteStream for MemoryStream {
    type Block = MemoryBlock;

    fn content_length(&self) -> Option<u64> {
        self.knows_length.then_some(self.bytes.len() as u64)
    }

    async fn read_into(
        &mut self,
        block: &mut MemoryBlock,
        from: usize,
        to: usize,
        hasher: Option<&mut Hasher>,
    ) -> Result<usize, ReadError> {
        let bytes = self.bytes.split_to(self.bytes.len().min(to - from));
        if bytes.len() < to - from && self.breaks {
            return Err(ReadError::Broken("the connection was cut".into()));
        }
        if let Some(hasher) = hasher {
            hasher.update(&bytes);
        }
        let end = from + bytes.len();
        block.0.get_mut(from..end).ok_or(ReadError::TooLarge { limit: to })?.copy_from_slice(&bytes);
        Ok(end)
    }

    async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        match self {
            Self { breaks: true, .. } => Err(ReadError::Broken("the connection was cut".into())),
            Self { bytes, .. } if bytes.len() > limit => Err(ReadError::TooLarge { limit }),
            Self { bytes, .. } => Ok(bytes),
        }
    }

    async fn drain(&mut self, limit: usize) {
        let _ = self.bytes.split_to(self.bytes.len().min(limit));
    }

    fn cancel(self) {}
}

#[derive(Clone)]
struct Stored {
    meta: ObjectMeta,
    bytes: Bytes,
}

struct Multipart {
    path: Path,
    parts: BTreeMap<u16, (String, Bytes)>,
}

/// The driver.
#[derive(Default)]
pub struct Memory {
    objects: RefCell<BTreeMap<String, Stored>>,
    multiparts: RefCell<BTreeMap<String, Multipart>>,
    counter: Cell<u64>,
    /// What is written now was written at this moment.
    pub now: Cell<Timestamp>,
    min_part: Option<usize>,
}

/// R2's smallest part, in bytes.
const MIN_PART: usize = 5 * 1024 * 1024;
/// R2's limit for the facts beside an object, in bytes.
const MAX_FACTS: usize = 2048;

impl Memory {
    /// A driver that takes parts of `min_part` bytes and more, so that tests need not move megabytes.
    pub fn with_min_part(min_part: usize) -> Self {
        Self { min_part: Some(min_part), ..Self::default() }
    }

    /// Every path stored, in order.
    pub fn paths(&self) -> Vec<String> {
        self.objects.borrow().keys().cloned().collect()
    }

    /// How many multipart uploads are neither completed nor aborted.
    pub fn open_multiparts(&self) -> usize {
        self.multiparts.borrow().len()
    }

    fn etag(&self) -> String {
        self.counter.set(self.counter.get() + 1);
        format!("{:016x}", self.counter.get())
    }

    fn backend(&self, path: &Path, operation: &'static str, message: &str) -> StorageError {
        let message = message.to_owned();
        self.error(path.as_str(), StorageErrorKind::Backend { operation, message, retryable: false })
    }

    async fn bytes(
        &self,
        path: &Path,
        operation: &'static str,
        body: Body<MemoryStream>,
    ) -> Result<Bytes, StorageError> {
        match body {
            Body::Block { block: MemoryBlock(bytes), from, to } => {
                let bytes = Bytes::from(bytes);
                if to > bytes.len() || from > to {
                    return Err(self.backend(path, operation, "a block is shorter than what is sent of it"));
                }
                Ok(bytes.slice(from..to))
            }
            Body::Stream(stream) if stream.content_length().is_none() => {
                Err(self.backend(path, operation, "the stream must have a known length"))
            }
            body => body.read(usize::MAX).await.map_err(|error| self.error(path.as_str(), error)),
        }
    }

    fn insert(&self, path: &Path, bytes: Bytes, media_type: Option<&str>, facts: Facts) -> ObjectMeta {
        let media_type = media_type.map(str::to_owned);
        let (size, modified) = (bytes.len() as u64, self.now.get());
        let meta = ObjectMeta { size, etag: self.etag(), modified, media_type, facts };
        self.objects.borrow_mut().insert(path.as_str().to_owned(), Stored { meta: meta.clone(), bytes });
        meta
    }
}

impl StorageDriver for Memory {
    type Stream = MemoryStream;

    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: true,
            multipart: true,
            max_put: 5 * 1024 * 1024 * 1024,
            lists_facts: true,
            nests: true,
        }
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        Ok(self.objects.borrow().get(path.as_str()).map(|stored| stored.meta.clone()))
    }

    async fn get(
        &self,
        path: &Path,
        range: Option<ByteRange>,
    ) -> Result<Option<Object<MemoryStream>>, StorageError> {
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
        Ok(Some(Object { meta, body: Body::Stream(MemoryStream::new(bytes)) }))
    }

    async fn put(
        &self,
        path: &Path,
        body: Body<MemoryStream>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        let facts: usize = options.facts.iter().map(|(key, value)| key.len() + value.len()).sum();
        if facts > MAX_FACTS {
            return Err(self.backend(path, "put", "the facts are larger than 2048 bytes"));
        }
        let bytes = self.bytes(path, "put", body).await?;
        let there = self.objects.borrow().get(path.as_str()).map(|stored| stored.meta.etag.clone());
        let holds = match options.condition {
            Condition::Always => true,
            Condition::IfAbsent => there.is_none(),
            Condition::IfMatch(etag) => there == Some(etag),
        };
        if !holds {
            return Err(self.error(path.as_str(), StorageErrorKind::Precondition));
        }
        if options.digest.is_some_and(|digest| digest.algorithm().digest(&bytes) != *digest) {
            return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
        }
        Ok(self.insert(path, bytes, options.media_type, options.facts))
    }

    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        for path in paths {
            self.objects.borrow_mut().remove(path.as_str());
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
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
    }

    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        let id = format!("multipart-{}", self.etag());
        let multipart = Multipart { path: path.clone(), parts: BTreeMap::new() };
        self.multiparts.borrow_mut().insert(id.clone(), multipart);
        Ok(MultipartId(id))
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<MemoryStream>,
    ) -> Result<Part, StorageError> {
        let bytes = self.bytes(path, "put_part", body).await?;
        let etag = self.etag();
        let mut multiparts = self.multiparts.borrow_mut();
        match multiparts.get_mut(&id.0) {
            Some(multipart) if multipart.path == *path && (1..=10_000).contains(&number) => {
                multipart.parts.insert(number, (etag.clone(), bytes));
                Ok(Part { number, etag })
            }
            _ => {
                Err(self.backend(path, "put_part", "no such multipart upload, or a part number out of range"))
            }
        }
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        let fail = |message| Err(self.backend(path, "complete_multipart", message));
        let mut bytes = BytesMut::new();
        {
            let multiparts = self.multiparts.borrow();
            let Some(multipart) = multiparts.get(&id.0).filter(|multipart| multipart.path == *path) else {
                return fail("no such multipart upload");
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
        Ok(self.insert(path, bytes.freeze(), None, Facts::new()))
    }

    async fn abort_multipart(&self, _path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        self.multiparts.borrow_mut().remove(&id.0);
        Ok(())
    }

    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        Ok(self.objects.borrow().get(path.as_str()).map(|stored| algorithm.digest(&stored.bytes)))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::storage::contract;
    use futures_executor::block_on;

    #[test]
    fn keeps_the_contract() {
        for (name, case) in contract::cases::<Memory>(Memory::default().capabilities()) {
            println!("{name}");
            block_on(case(Memory::default())).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn is_as_strict_as_r2_about_parts() {
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
