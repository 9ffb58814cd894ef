//! The ledger of one upload: keeps its session and its stored objects consistent, for one writer.

use std::rc::Rc;

use super::{CallError, Checkpoint, Command, MAX_PARTS, Staged, Upload, UploadError, UploadSessions};
use crate::{
    layout::Key,
    oci::{HashState, UploadId},
    platform::{Body, Buffer},
    storage::{MultipartId, Part, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

/// A stored part, to be recorded.
pub(super) struct StoredPart {
    pub part: Part,
    /// The length of the upload with this part, in bytes.
    pub offset: u64,
    /// The running hash of those bytes.
    pub hash: HashState,
}

/// A reserved part of a multipart upload, to be stored.
pub(super) struct NextPart {
    pub path: Path,
    pub multipart: MultipartId,
    pub number: u16,
}

/// An upload that this writer has claimed.
pub(super) struct Ledger {
    pub store: Store,
    sessions: Rc<dyn UploadSessions>,
    pub id: UploadId,
    /// The session as of the last checkpoint.
    pub upload: Upload,
    next_part: u16,
}

impl Ledger {
    /// Claims a session with `begin`.
    pub async fn claim(
        store: Store,
        sessions: Rc<dyn UploadSessions>,
        id: UploadId,
        begin: Command,
    ) -> Result<Self, CallError> {
        let upload = sessions.call(&id, begin).await?.upload;
        let next_part = upload.next_part;
        Ok(Self { store, sessions, id, upload, next_part })
    }

    async fn send(&mut self, command: Command) -> Result<(), CallError> {
        self.upload = self.sessions.call(&self.id, command).await?.upload;
        Ok(())
    }

    /// Reserves the next part, and creates the multipart upload for the first.
    pub async fn next_part(&mut self) -> Result<NextPart, UploadError> {
        if self.next_part > MAX_PARTS {
            return Err(UploadError::TooLarge);
        }
        let (multipart, epoch) = match &self.upload.multipart {
            Some(multipart) => multipart.clone(),
            None => {
                let epoch = self.upload.epoch;
                let id = self.store.create_multipart(&Key::Upload(&self.id, epoch).path()).await?;
                // Record it in the session before it holds parts, so that it is always aborted.
                let multipart = Some((id.clone(), epoch));
                self.send(Command::Checkpoint(Checkpoint { multipart, ..self.upload.checkpoint() })).await?;
                (id, epoch)
            }
        };
        let number = self.next_part;
        self.next_part += 1;
        Ok(NextPart { path: Key::Upload(&self.id, epoch).path(), multipart, number })
    }

    /// Records a stored part, and deletes the staged bytes that it contains.
    pub async fn record(&mut self, stored: StoredPart) -> Result<(), UploadError> {
        let staged = std::mem::take(&mut self.upload.staged);
        let StoredPart { part, offset, hash } = stored;
        let checkpoint = Checkpoint { offset, hash, parts: vec![part], ..self.upload.checkpoint() };
        self.send(Command::Checkpoint(checkpoint)).await?;
        Ok(self.delete_staged(&staged).await?)
    }

    /// Stages `length` bytes that do not fill a part.
    pub async fn stage(&self, body: Body, length: u64) -> Result<Staged, StorageError> {
        let epoch = self.upload.epoch;
        self.store.put(&Key::Staged(&self.id, epoch).path(), body, PutOptions::default()).await?;
        Ok(Staged { epoch, length })
    }

    /// Reads all staged bytes into the front of `buffer` and returns their length.
    pub async fn read_staged(&self, buffer: &mut dyn Buffer) -> Result<usize, UploadError> {
        let mut at = 0;
        for staged in &self.upload.staged {
            let path = Key::Staged(&self.id, staged.epoch).path();
            let to = at + staged.length as usize;
            let end = match self.store.get(&path, None).await?.map(|object| object.body) {
                Some(Body::Stream(mut stream)) => {
                    let read = stream.read_into(buffer, at..to, None).await;
                    read.map_err(|error| self.store.unreadable(&path, error))?
                }
                _ => at,
            };
            if end != to {
                let message = format!("staged bytes are missing: {} of {}", end - at, staged.length);
                let kind = StorageErrorKind::Backend { operation: "get", message, retryable: false };
                return Err(self.store.error(&path, kind).into());
            }
            at = to;
        }
        Ok(at)
    }

    /// Ends this writer's chunk.
    pub async fn release(&mut self, checkpoint: Checkpoint) -> Result<(), CallError> {
        self.send(Command::Release(checkpoint)).await
    }

    /// All parts, in order.
    pub async fn parts(&self) -> Result<Vec<Part>, CallError> {
        let finish = Command::Finish { epoch: self.upload.epoch };
        Ok(self.sessions.call(&self.id, finish).await?.parts)
    }

    /// Deletes staged bytes that are now stored elsewhere.
    pub async fn delete_staged(&self, staged: &[Staged]) -> Result<(), StorageError> {
        delete_staged(&self.store, &self.id, staged).await
    }
}

async fn delete_staged(store: &Store, id: &UploadId, staged: &[Staged]) -> Result<(), StorageError> {
    let paths: Vec<_> = staged.iter().map(|staged| Key::Staged(id, staged.epoch).path()).collect();
    if paths.is_empty() { Ok(()) } else { store.delete(&paths).await }
}

/// Removes the parts and staged bytes of a closed upload. `keep` is the object that became a blob.
/// Idempotent.
pub(super) async fn discard(
    store: &Store,
    id: &UploadId,
    upload: &Upload,
    keep: Option<&Path>,
) -> Result<(), StorageError> {
    if let Some(((multipart, _), path)) = upload.multipart.as_ref().zip(upload.object(id))
        && keep != Some(&path)
    {
        store.abort_multipart(&path, multipart).await?;
    }
    delete_staged(store, id, &upload.staged).await
}

/// Removes everything that an abandoned upload may have stored, recorded in its session or not.
pub async fn sweep(store: &Store, id: &UploadId, upload: &Upload) -> Result<(), StorageError> {
    discard(store, id, upload, None).await?;
    store.delete_tree(&Key::StagedAll(id).path()).await
}
