//! Commits an upload: makes a blob of the bytes written, in time independent of its size.

use super::{
    UploadError,
    append::{Tail, Writer},
    ledger::{NextPart, StoredPart},
};
use crate::{
    blobs::{Blobs, Freshness, Located},
    layout::Key,
    oci::Digest,
    platform::Body,
    storage::{Metadata, ObjectMeta, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

/// The metadata name of the digest in [`Key::UploadBlob`].
const DIGEST: &str = "digest";

impl Writer {
    /// Makes a blob with this digest of all bytes written and `tail`. The caller links it and closes the
    /// session.
    ///
    /// Costs a look-up and, for a blob smaller than a part, one write; otherwise the last part's write, one
    /// completion, one note and one descriptor. Idempotent: can be repeated after a failure.
    pub async fn commit(
        &mut self,
        blobs: &Blobs,
        mut tail: Tail,
        digest: &Digest,
    ) -> Result<Located, UploadError> {
        let size = self.ledger.upload.offset + tail.range.len() as u64;
        // The running hash verifies the digest at once. A digest of the other algorithm is verified in
        // storage, after completion.
        let is_verified = digest.algorithm() == self.ledger.upload.algorithm;
        if is_verified && self.hasher.clone().finish() != *digest {
            return Err(UploadError::DigestMismatch(digest.clone()));
        }
        // An existing blob costs only its links.
        if is_verified && let Some(located) = blobs.locate(digest, Freshness::Strict).await? {
            return Ok(located);
        }
        if self.ledger.upload.multipart.is_none() {
            let body = self.small_body(tail).await?;
            put_verified(blobs, digest, body).await?;
            return Ok(Located { size, at: None });
        }
        let end = tail.range.end;
        if end > 0 {
            let mut buffer = match tail.buffer.take() {
                Some(buffer) => buffer,
                None => self.buffers.lend(end).await,
            };
            self.ledger.read_staged(&mut *buffer).await?;
            let NextPart { path, multipart, number } = self.ledger.next_part().await?;
            let body = Body::Buffer { buffer, range: 0..end };
            let part = self.ledger.store.put_part(&path, &multipart, number, body).await?;
            self.ledger.record(StoredPart { part, offset: size, hash: self.hasher.state() }).await?;
        }
        self.commit_parts(blobs, digest, size, is_verified).await
    }

    /// The body of a blob without parts: the staged bytes and the tail.
    async fn small_body(&self, tail: Tail) -> Result<Body, UploadError> {
        let end = tail.range.end;
        Ok(match (tail.buffer, self.ledger.upload.staged.as_slice()) {
            (None, []) => Body::Empty,
            // A single piece passes through unread.
            (None, [staged]) => {
                let path = Key::Staged(&self.ledger.id, staged.epoch).path();
                self.ledger.store.get(&path, None).await?.map_or(Body::Empty, |object| object.body)
            }
            (buffer, _) => {
                let mut buffer = match buffer {
                    Some(buffer) => buffer,
                    None => self.buffers.lend(end).await,
                };
                self.ledger.read_staged(&mut *buffer).await?;
                Body::Buffer { buffer, range: 0..end }
            }
        })
    }

    async fn commit_parts(
        &self,
        blobs: &Blobs,
        digest: &Digest,
        size: u64,
        is_verified: bool,
    ) -> Result<Located, UploadError> {
        let (store, upload) = (&self.ledger.store, &self.ledger.upload);
        let Some(((id, _), path)) = upload.multipart.as_ref().zip(upload.object(&self.ledger.id)) else {
            return Err(UploadError::TooLarge);
        };
        let parts = self.ledger.parts().await?;
        if let Err(error) = store.complete_multipart(&path, id, &parts).await {
            // An earlier attempt may have completed it.
            match store.head(&path).await? {
                Some(meta) if meta.size == size => {}
                _ => return Err(error.into()),
            }
        }
        if !is_verified && store.digest(&path, digest.algorithm()).await?.as_ref() != Some(digest) {
            store.delete(&[path]).await?;
            return Err(UploadError::DigestMismatch(digest.clone()));
        }
        note_blob(store, &path, digest).await?;
        let located = Located { size, at: Some(path.clone()) };
        Ok(match blobs.put_descriptor(digest, &located).await? {
            // A concurrent upload of the same blob was faster.
            Some(winner) if winner.at.as_ref() != Some(&path) => {
                store.delete(&[Key::UploadBlob(&path).path(), path]).await?;
                winner
            }
            _ => located,
        })
    }
}

/// Writes a blob to its canonical path, verified by the store.
pub(super) async fn put_verified(blobs: &Blobs, digest: &Digest, body: Body) -> Result<(), UploadError> {
    blobs.put(digest, body).await.map_err(|error| match error {
        StorageError { kind: StorageErrorKind::DigestMismatch, .. } => {
            UploadError::DigestMismatch(digest.clone())
        }
        error => error.into(),
    })
}

/// Writes the note with the digest of a multipart blob, before its descriptor.
async fn note_blob(store: &Store, path: &Path, digest: &Digest) -> Result<(), StorageError> {
    let metadata = Metadata::from([(DIGEST.to_owned(), digest.to_string())]);
    let options = PutOptions { metadata, ..PutOptions::default() };
    store.put(&Key::UploadBlob(path).path(), Body::Empty, options).await.map(drop)
}

/// The digest in the note beside a multipart blob.
pub fn noted_digest(note: &ObjectMeta) -> Option<Digest> {
    note.metadata.get(DIGEST)?.parse().ok()
}
