//! The file operations of `distribution`'s drivers, for every driver: folders, moves, recursive deletes,
//! appends.

use bytes::{Bytes, BytesMut};

use super::{
    Copied, MultipartId, Object, ObjectMeta, Page, Part, Path, PutOptions, StorageError, StorageErrorKind,
    Store,
};
use crate::platform::{Body, ByteRange};

/// Part size of a [`Writer`], in bytes. R2 and S3 require at least 5 MiB.
pub(super) const PART_SIZE: usize = 8 * 1024 * 1024;

/// The kind of entry at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stat {
    /// An object.
    File(ObjectMeta),
    /// No object, but objects below it.
    Folder,
}

impl Store {
    /// Looks up a path. An object costs one look-up; anything else also costs a listing.
    pub async fn stat(&self, path: &Path) -> Result<Option<Stat>, StorageError> {
        if let Some(meta) = self.head(path).await? {
            return Ok(Some(Stat::File(meta)));
        }
        Ok(self.exists_below(&path.folder()).await?.then_some(Stat::Folder))
    }

    /// Deletes an object and everything below its path, but no sibling with the same prefix. Idempotent.
    pub async fn delete_tree(&self, path: &Path) -> Result<(), StorageError> {
        // The object itself is the first path with this prefix. Not by `head`: a store that keeps objects as
        // files may find a folder.
        let first = self.list(path.as_str(), Page { limit: 1, ..Page::first() }).await?;
        if first.objects.first().is_some_and(|(found, _)| found == path.as_str()) {
            self.delete(std::slice::from_ref(path)).await?;
        }
        loop {
            // From the start each time, because the entries of the last page are deleted.
            let listing = self.list(&path.folder(), Page::first()).await?;
            let paths: Vec<Path> = listing.objects.into_iter().map(|(path, _)| Path::trusted(path)).collect();
            self.delete(&paths).await?;
            if listing.next.is_none() {
                return Ok(());
            }
        }
    }

    /// Copies an object and replaces any object at `to`; `false` if `from` is absent. See
    /// [`StorageDriver::copy`](super::StorageDriver::copy). Reads and writes the bytes if the store cannot
    /// copy.
    pub async fn copy(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        match self.copy_inside(from, to).await? {
            Copied::Done => return Ok(true),
            Copied::Absent => return Ok(false),
            Copied::Unsupported => {}
        }
        let Some(meta) = self.head(from).await? else { return Ok(false) };
        if meta.size <= self.capabilities().max_put {
            let Some(Object { meta, body }) = self.get(from, None).await? else { return Ok(false) };
            let media_type = meta.media_type.as_deref();
            let options = PutOptions { media_type, metadata: meta.metadata.clone(), ..PutOptions::default() };
            self.put(to, body, options).await?;
        } else {
            let mut writer = Writer::create(self, to);
            writer.copy_from(from, meta.size).await?;
            writer.commit().await?;
        }
        Ok(true)
    }

    /// Moves an object and replaces any object at `to`; `false` if `from` is absent. Not atomic: an
    /// interrupted move leaves the object at both paths, and repeating the move completes it.
    pub async fn rename(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        if !self.copy(from, to).await? {
            return Ok(false);
        }
        self.delete(std::slice::from_ref(from)).await?;
        Ok(true)
    }

    /// Opens an object for overwriting or appending. Nothing is visible before [`Writer::commit`]. Appending
    /// writes the existing content again: the contract allows nothing cheaper.
    pub async fn writer(&self, path: &Path, append: bool) -> Result<Writer<'_>, StorageError> {
        let mut writer = Writer::create(self, path);
        if append && let Some(meta) = self.head(path).await? {
            writer.copy_from(path, meta.size).await?;
        }
        Ok(writer)
    }
}

/// A streamed write of any size: one put for a small object, parts for a large one. Holds at most one part in
/// memory.
pub struct Writer<'a> {
    store: &'a Store,
    path: Path,
    multipart: Option<MultipartId>,
    parts: Vec<Part>,
    buffer: BytesMut,
    size: u64,
}

impl<'a> Writer<'a> {
    fn create(store: &'a Store, path: &Path) -> Self {
        let buffer = BytesMut::new();
        Self { store, path: path.clone(), multipart: None, parts: Vec::new(), buffer, size: 0 }
    }

    /// The bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), StorageError> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = PART_SIZE - self.buffer.len();
            self.buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.buffer.len() == PART_SIZE {
                let part = self.buffer.split().freeze();
                self.put_part(Body::Bytes(part)).await?;
            }
        }
        Ok(())
    }

    /// Adds the first `size` bytes of a stored object, a part at a time.
    async fn copy_from(&mut self, from: &Path, size: u64) -> Result<(), StorageError> {
        let part = PART_SIZE as u64;
        for offset in (0..size).step_by(PART_SIZE) {
            let length = part.min(size - offset);
            let object = self.store.get(from, Some(ByteRange { offset, length: Some(length) })).await?;
            let invalid = || self.store.error(from, StorageErrorKind::InvalidOffset { offset });
            let body = object.ok_or_else(invalid)?.body;
            if length == part && self.buffer.is_empty() {
                self.put_part(body).await?;
                self.size += length;
            } else {
                let bytes = body.read(PART_SIZE).await;
                self.write(bytes.map_err(|error| self.store.unreadable(from, error))?).await?;
            }
        }
        Ok(())
    }

    async fn put_part(&mut self, body: Body) -> Result<(), StorageError> {
        let id = match &self.multipart {
            Some(id) => id,
            None => self.multipart.insert(self.store.create_multipart(&self.path).await?),
        };
        let number = u16::try_from(self.parts.len() + 1)
            .map_err(|_| self.store.error(&self.path, StorageErrorKind::Unsupported("so many parts")))?;
        self.parts.push(self.store.put_part(&self.path, id, number, body).await?);
        Ok(())
    }

    /// Completes the write and makes the object visible.
    pub async fn commit(mut self) -> Result<ObjectMeta, StorageError> {
        let rest = self.buffer.split().freeze();
        let Some(id) = self.multipart.clone() else {
            return self.store.put(&self.path, Body::Bytes(rest), PutOptions::default()).await;
        };
        if !rest.is_empty() {
            self.put_part(Body::Bytes(rest)).await?;
        }
        self.store.complete_multipart(&self.path, &id, &self.parts).await
    }

    /// Discards everything written.
    pub async fn cancel(self) -> Result<(), StorageError> {
        match &self.multipart {
            Some(id) => self.store.abort_multipart(&self.path, id).await,
            None => Ok(()),
        }
    }
}
