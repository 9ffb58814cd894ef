//! A blob whose digest the request names and whose bytes it has, all of them: no session is needed.

use futures_util::future::{join, join3};
use uuid::Uuid;

use super::{Chunk, FirstChunk, KEY_PAUSE, Refused, UploadAt, UploadError, Uploads, commit::note_blob};
use crate::{
    blobs::{Freshness, Located, Put, marker::Held},
    layout::Key,
    oci::{Digest, Hasher},
    platform::{Body, ReadError, Stream, Timestamp},
    repository::LinkReason,
    storage::{Path, PutOptions, StorageError, StorageErrorKind},
};

impl Uploads {
    /// Whether the store can take the chunk as a whole blob and verify it.
    pub(super) fn is_whole(&self, chunk: &Chunk<'_>, digest: &Digest) -> bool {
        let Some(length) = chunk.body.content_length() else { return false };
        let is_empty_blob = || *digest == digest.algorithm().digest(b"");
        chunk.range.is_none_or(|range| range == (0, length))
            && length <= self.blobs.store().capabilities().max_put
            && (length > 0 || is_empty_blob())
    }

    /// Stores a whole blob, verified by the store, and links it. Costs two rounds: the bytes, then the links. If it
    /// `may_be_over`, it asks the session at the same time as it stores the bytes: the upload may be cancelled.
    pub(super) async fn put_whole(
        &self,
        at: &UploadAt,
        body: Body,
        digest: &Digest,
        may_be_over: bool,
    ) -> Result<(), UploadError> {
        let size = body.content_length().unwrap_or_default();
        let stored = async {
            match body {
                Body::Stream(stream) if size <= self.buffers.part_size() as u64 => {
                    let body = self.read_whole(stream, size as usize).await?;
                    self.put_small(at, body, digest, false, None).await.map(|()| None)
                }
                Body::Stream(_) => self.put_large(at, body, digest, size).await.map(Some),
                body => self.put_small(at, body, digest, false, None).await.map(|()| None),
            }
        };
        let over = async { if may_be_over { self.offset(at).await.map(drop) } else { Ok(()) } };
        let (stored, over) = join(stored, over).await;
        if let Err(error) = over {
            if let Ok(Some((blob, _))) = stored {
                self.forget_blob(blob, Key::Blob(blob).path());
            }
            return Err(error);
        }
        match stored {
            Ok(None) => self.link(digest, size).await,
            Ok(Some((blob, located))) => self.describe(digest, blob, size, located).await,
            Err(error @ UploadError::DigestMismatch(_)) => Err(self.wrong_digest(at, error).await?),
            Err(error) => Err(error),
        }
    }

    /// Reads a blob of at most a part into a buffer.
    async fn read_whole(&self, mut stream: Stream, size: usize) -> Result<Body, UploadError> {
        let mut buffer = self.buffers.lend(size).await?;
        let read = match stream.read_into(&mut *buffer, 0..size, None).await {
            Ok(end) if end < size => Err(ReadError::Broken(format!("{end} of {size} bytes"))),
            read => read,
        };
        let end = read.inspect_err(|error| self.log_cut(0, error))?;
        Ok(Body::Buffer { buffer: buffer.into(), range: 0..end })
    }

    /// Stores content of at most a part at its canonical path, if there is none, and keeps it from being deleted until it
    /// is linked, unless it was `held` lately. Unless `is_verified`, the content must have the digest although nothing is written: who names a digest
    /// may not have the bytes.
    pub(super) async fn put_small(
        &self,
        at: &UploadAt,
        body: Body,
        digest: &Digest,
        is_verified: bool,
        held: Option<Timestamp>,
    ) -> Result<(), UploadError> {
        let sent = body.again();
        let mismatch = || UploadError::DigestMismatch(digest.clone());
        let hold = async {
            match held.filter(|held| self.blobs.is_held_since(*held)) {
                Some(_) => Ok(Held::Kept),
                None => self.blobs.hold(&at.repository, digest).await,
            }
        };
        let (put, held) = join(self.blobs.put(digest, body), hold).await;
        let refused = |error: StorageError| match error.kind {
            StorageErrorKind::DigestMismatch => mismatch(),
            _ => error.into(),
        };
        let mut put = put.map_err(refused)?;
        if let (Held::Removed, Some(sent)) = (held?, &sent) {
            // What was there may be gone.
            if let Some(body) = sent.again() {
                put = self.blobs.put(digest, body).await.map_err(refused)?;
            }
        }
        if put == Put::Existed && !is_verified {
            let mut hasher = Hasher::new(digest.algorithm());
            match &sent {
                Some(Body::Bytes(bytes)) => hasher.update(bytes),
                Some(Body::Buffer { buffer, range }) => buffer.hash(range.clone(), &mut hasher)?,
                _ => {}
            }
            if hasher.finish() != *digest {
                return Err(mismatch());
            }
        }
        if let Some(body) = sent {
            body.recycle();
        }
        Ok(())
    }

    /// Streams content to a path of its own, verified by the store: no other push writes there, so it never has
    /// to be sent twice. Returns that path's name, and where the blob is stored already.
    async fn put_large(
        &self,
        at: &UploadAt,
        body: Body,
        digest: &Digest,
        size: u64,
    ) -> Result<(Uuid, Option<Located>), UploadError> {
        let (blob, store) = (Uuid::new_v4(), self.blobs.store());
        let path = Key::Blob(blob).path();
        let options = PutOptions { digest: Some(digest), ..PutOptions::default() };
        let noted = note_blob(store, &path, Some(blob), digest);
        let located = self.blobs.locate(digest, Freshness::Strict);
        let begun = self.clock.now();
        let held = self.blobs.hold(&at.repository, digest);
        let (put, noted, (held, located)) =
            join3(store.put(&path, body, options), noted, join(held, located)).await;
        let put = match put {
            Err(error) if error.is_retryable() => self.find_lost(&path, size, error).await,
            put => put.map(drop),
        };
        // A write that failed for a moment may still land: the purge job finds it by its note.
        let is_over = put.as_ref().map_or_else(|error| !error.is_retryable(), |()| noted.is_err());
        if is_over {
            self.forget_blob(blob, path);
        }
        put.map_err(|error| match error.kind {
            StorageErrorKind::DigestMismatch => UploadError::DigestMismatch(digest.clone()),
            StorageErrorKind::Body(read) => {
                self.log_cut(0, &read);
                read.into()
            }
            _ => error.into(),
        })?;
        noted?;
        let mut held = held?;
        if !self.blobs.is_held_since(begun) {
            // The bytes may have taken hours.
            self.blobs.hold(&at.repository, digest).await?;
            held = Held::Removed;
        }
        let located = match held {
            Held::Kept => located?,
            Held::Removed => self.blobs.find(digest).await?,
        };
        Ok((blob, located))
    }

    /// Whether a write whose answer was lost took effect.
    async fn find_lost(&self, path: &Path, size: u64, error: StorageError) -> Result<(), StorageError> {
        match self.blobs.store().head(path).await? {
            Some(meta) if meta.size == size => Ok(()),
            _ => Err(error),
        }
    }

    /// Finishes an upload of one chunk, stored under its digest: ends the session while it looks that the bytes are there,
    /// and stay; then links them. Costs two rounds.
    pub(super) async fn finish_first(&self, at: &UploadAt, first: &FirstChunk) -> Result<(), UploadError> {
        let FirstChunk { digest, length, held } = first;
        let path = Key::Data(digest).path();
        let confirm = async {
            match held.filter(|held| self.blobs.is_held_since(*held)) {
                Some(_) => Ok(Held::Kept),
                None => self.blobs.confirm(&at.repository, digest).await,
            }
        };
        let (held, stored, ended) =
            join3(confirm, self.blobs.store().head(&path), self.close(at, Some(digest), Some(*length))).await;
        ended?;
        let stored = match held? {
            Held::Kept => stored?,
            Held::Removed => self.blobs.store().head(&path).await?,
        };
        if stored.is_none() {
            return Err(Refused::Unknown.into());
        }
        self.link(digest, *length).await
    }

    /// Links content at its canonical path.
    pub(super) async fn link(&self, digest: &Digest, size: u64) -> Result<(), UploadError> {
        self.repository.link_blob(digest, &Located { size, at: None }, LinkReason::Push).await?;
        Ok(())
    }

    /// Records where the bytes of a blob are, and links them. Another push of the blob may have been faster: then
    /// its bytes are the blob's, and these go.
    pub(super) async fn describe(
        &self,
        digest: &Digest,
        blob: Uuid,
        size: u64,
        found: Option<Located>,
    ) -> Result<(), UploadError> {
        let path = Key::Blob(blob).path();
        self.describe_at(digest, path, Some(blob), size, found).await
    }

    pub(super) async fn describe_at(
        &self,
        digest: &Digest,
        path: Path,
        blob: Option<Uuid>,
        size: u64,
        found: Option<Located>,
    ) -> Result<(), UploadError> {
        let ours = Located { size, at: Some(path.clone()) };
        if let Some(found) = found.filter(|found| *found != ours) {
            self.repository.link_blob(digest, &found, LinkReason::Push).await?;
            if let Some(blob) = blob {
                self.forget_blob(blob, path);
            }
            return Ok(());
        }
        let described = self.blobs.put_descriptor(digest, &ours);
        let (described, linked) =
            join(described, self.repository.link_blob(digest, &ours, LinkReason::Push)).await;
        linked?;
        let winner = described?.filter(|winner| *winner != ours);
        let Some(blob) = blob else { return Ok(()) };
        let (repository, store, digest) =
            (self.repository.clone(), self.blobs.store().clone(), digest.clone());
        let pause = self.clock.sleep(KEY_PAUSE);
        self.later(async move {
            pause.await;
            if let Some(winner) = winner {
                // The link names these bytes: it must name the winner's before they go.
                repository.link_blob(&digest, &winner, LinkReason::Correction).await?;
                if repository.locate(&digest, Freshness::Strict).await?.as_ref() != Some(&winner) {
                    return Ok(());
                }
                store.delete(std::slice::from_ref(&path)).await?;
            }
            Ok(store.delete(&[Key::BlobNote(blob).path()]).await?)
        });
        Ok(())
    }

    /// Deletes bytes that are no blob, and then their note, after the answer.
    pub(super) fn forget_blob(&self, blob: Uuid, path: Path) {
        let (store, pause) = (self.blobs.store().clone(), self.clock.sleep(KEY_PAUSE));
        self.later(async move {
            pause.await;
            store.delete(&[path]).await?;
            Ok(store.delete(&[Key::BlobNote(blob).path()]).await?)
        });
    }
}
