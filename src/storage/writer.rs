//! Streamed writes of any size: small objects in one put, large ones in parts.

use bytes::{Bytes, BytesMut};

use super::{
    ByteRange, MultipartId, ObjectMeta, Part, Path, PutOptions, StorageDriver, StorageDriverExt,
    StorageError, StorageErrorKind,
};
use crate::{body::Body, uploads::PART_SIZE};

/// An object being written. Holds at most one part in memory; visible only after [`Writer::commit`].
pub struct Writer<'a, S: StorageDriver> {
    driver: &'a S,
    path: Path,
    multipart: Option<MultipartId>,
    parts: Vec<Part>,
    buffer: BytesMut,
    size: u64,
}

impl<'a, S: StorageDriver> Writer<'a, S> {
    pub(super) fn create(driver: &'a S, path: &Path) -> Self {
        let buffer = BytesMut::new();
        Self { driver, path: path.clone(), multipart: None, parts: Vec::new(), buffer, size: 0 }
    }

    /// How many bytes have been written.
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

    /// Adds the first `size` bytes of a stored object. They pass through, a part at a time.
    pub(super) async fn copy_from(&mut self, from: &Path, size: u64) -> Result<(), StorageError> {
        let part = PART_SIZE as u64;
        for offset in (0..size).step_by(PART_SIZE) {
            let length = part.min(size - offset);
            let object = self.driver.get(from, Some(ByteRange { offset, length: Some(length) })).await?;
            let invalid = || self.driver.error(from.as_str(), StorageErrorKind::InvalidOffset { offset });
            let body = object.ok_or_else(invalid)?.body;
            if length == part && self.buffer.is_empty() {
                self.put_part(body).await?;
                self.size += length;
            } else {
                let bytes = body.read(PART_SIZE).await;
                self.write(bytes.map_err(|error| self.driver.error(from.as_str(), error))?).await?;
            }
        }
        Ok(())
    }

    async fn put_part(&mut self, body: Body<S::Stream>) -> Result<(), StorageError> {
        let id = match &self.multipart {
            Some(id) => id,
            None => self.multipart.insert(self.driver.create_multipart(&self.path).await?),
        };
        let number = u16::try_from(self.parts.len() + 1).map_err(|_| {
            self.driver.error(self.path.as_str(), StorageErrorKind::Unsupported("so many parts"))
        })?;
        self.parts.push(self.driver.put_part(&self.path, id, number, body).await?);
        Ok(())
    }

    /// Makes what was written visible.
    pub async fn commit(mut self) -> Result<ObjectMeta, StorageError> {
        let rest = self.buffer.split().freeze();
        let Some(id) = self.multipart.clone() else {
            return self.driver.put(&self.path, Body::Bytes(rest), PutOptions::default()).await;
        };
        if !rest.is_empty() {
            self.put_part(Body::Bytes(rest)).await?;
        }
        self.driver.complete_multipart(&self.path, &id, &self.parts).await
    }

    /// Forgets what was written.
    pub async fn cancel(self) -> Result<(), StorageError> {
        match &self.multipart {
            Some(id) => self.driver.abort_multipart(&self.path, id).await,
            None => Ok(()),
        }
    }
}
