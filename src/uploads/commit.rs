//! Committing an upload: a blob out of what was written, without reading it again.

use super::{
    Command, Upload, UploadId, UploadSessions,
    chunk::{ChunkError, ChunkWriter, Tail, forget},
    purge::note_blob,
};
use crate::{
    body::{Block, Body, ByteStream},
    content::{Content, Located},
    oci::Digest,
    storage::{Key, Path, PutOptions, StorageDriver, StorageDriverExt, StorageError, StorageErrorKind},
};

/// Why an upload was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The bytes have another digest than the client says. The upload is gone.
    #[error("the uploaded content does not have the digest {0}")]
    DigestMismatch(Digest),
    /// Something else. The upload can be taken up where its last checkpoint is.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

impl From<StorageError> for CommitError {
    fn from(error: StorageError) -> Self {
        Self::Chunk(error.into())
    }
}

impl<S: StorageDriver, U: UploadSessions> ChunkWriter<'_, S, U> {
    /// Makes the blob `digest` of everything written and `tail`, and says where it is. The caller links it
    /// and closes the session.
    ///
    /// Costs a look-up, and one write for a blob smaller than a part; otherwise the last part's write, one completion and
    /// one descriptor, whatever the size. Repeating it after a failure is harmless.
    pub async fn commit(
        &mut self,
        mut tail: Tail<<S::Stream as ByteStream>::Block>,
        digest: &Digest,
    ) -> Result<Located, CommitError> {
        let size = self.upload.offset + (tail.to - tail.from) as u64;
        // The running hash tells at once; only a digest of the other algorithm has to wait for storage.
        let is_verified = digest.algorithm() == self.upload.algorithm;
        if is_verified && self.hasher.clone().finish() != *digest {
            return Err(CommitError::DigestMismatch(digest.clone()));
        }
        // Somebody has pushed the same before: it costs its links only.
        if is_verified && let Some(located) = Content::new(self.storage()).locate(digest).await? {
            return Ok(located);
        }
        if self.upload.multipart.is_none() {
            return self.commit_small(tail, digest, size).await;
        }
        if tail.to > 0 {
            let mut block = match tail.block.take() {
                Some(block) => block,
                None => <S::Stream as ByteStream>::Block::new(tail.to).await,
            };
            self.fill_front(&mut block).await?;
            let (number, id, epoch) = self.next_part().await?;
            let path = Key::Upload(self.id(), epoch).path();
            let body = Body::Block { block, from: 0, to: tail.to };
            let part = self.storage().put_part(&path, &id, number, body).await?;
            self.store(part, size).await?;
        }
        self.commit_parts(digest, size, is_verified).await
    }

    async fn commit_small(
        &self,
        tail: Tail<<S::Stream as ByteStream>::Block>,
        digest: &Digest,
        size: u64,
    ) -> Result<Located, CommitError> {
        let body = match (tail.block, self.upload.staged.as_slice()) {
            (None, []) => Body::Empty,
            // One piece passes through as it is.
            (None, [staged]) => {
                let path = Key::Staged(self.id(), staged.epoch).path();
                self.storage().get(&path, None).await?.map_or(Body::Empty, |object| object.body)
            }
            (block, _) => {
                let mut block = match block {
                    Some(block) => block,
                    None => <S::Stream as ByteStream>::Block::new(tail.to).await,
                };
                self.fill_front(&mut block).await?;
                Body::Block { block, from: 0, to: tail.to }
            }
        };
        put_verified(self.storage(), body, digest).await?;
        Ok(Located { size, at: None })
    }

    async fn commit_parts(
        &self,
        digest: &Digest,
        size: u64,
        is_verified: bool,
    ) -> Result<Located, CommitError> {
        let (storage, content) = (self.storage(), Content::new(self.storage()));
        let Some(((id, _), path)) = self.upload.multipart.as_ref().zip(self.upload.object(self.id())) else {
            return Err(ChunkError::TooLarge.into());
        };
        let command = Command::Finish { epoch: self.upload.epoch };
        let parts = self.sessions().call(self.id(), command).await.map_err(ChunkError::from)?.parts;
        if let Err(error) = storage.complete_multipart(&path, id, &parts).await {
            // An earlier attempt may have come this far.
            match storage.head(&path).await? {
                Some(meta) if meta.size == size => {}
                _ => return Err(error.into()),
            }
        }
        if !is_verified && storage.digest(&path, digest.algorithm()).await?.as_ref() != Some(digest) {
            storage.delete(&[path]).await?;
            return Err(CommitError::DigestMismatch(digest.clone()));
        }
        note_blob(storage, &path, digest).await?;
        let located = Located { size, at: Some(path.clone()) };
        Ok(match content.describe(digest, &located).await? {
            // Somebody else was faster with the same blob.
            Some(winner) if winner.at.as_ref() != Some(&path) => {
                storage.delete(&[Key::UploadBlob(&path).path(), path]).await?;
                winner
            }
            _ => located,
        })
    }
}

/// Writes a blob to its place, verified by the store on the way.
pub async fn put_verified<S: StorageDriver>(
    storage: &S,
    body: Body<S::Stream>,
    digest: &Digest,
) -> Result<(), CommitError> {
    let options = PutOptions { digest: Some(digest), ..PutOptions::default() };
    match storage.put(&Key::Data(digest).path(), body, options).await {
        Ok(_) => Ok(()),
        Err(StorageError { kind: StorageErrorKind::DigestMismatch, .. }) => {
            Err(CommitError::DigestMismatch(digest.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what an upload that is over has stored: its parts, and what it staged. `keep` is the object
/// that became a blob. Repeating it is harmless.
pub async fn discard<S: StorageDriver>(
    storage: &S,
    id: &UploadId,
    upload: &Upload,
    keep: Option<&Path>,
) -> Result<(), StorageError> {
    if let Some(((multipart, _), path)) = upload.multipart.as_ref().zip(upload.object(id))
        && keep != Some(&path)
    {
        storage.abort_multipart(&path, multipart).await?;
    }
    forget(storage, id, &upload.staged).await
}

/// Removes everything an abandoned upload may have stored, also what its session does not know of.
pub async fn sweep<S: StorageDriver>(
    storage: &S,
    id: &UploadId,
    upload: &Upload,
) -> Result<(), StorageError> {
    discard(storage, id, upload, None).await?;
    storage.delete_tree(&Key::StagedAll(id).path()).await
}
