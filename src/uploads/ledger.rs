//! The ledger of one upload: keeps its session and its stored objects consistent, for one writer.

use std::rc::Rc;

use futures_util::future::{LocalBoxFuture, join};
use uuid::Uuid;

use super::{
    CallError, Checkpoint, Command, MAX_PARTS, Refused, Reply, Staged, Upload, UploadAt, UploadError,
    UploadSessions,
};
use crate::{
    blobs::marker::condemn,
    layout::Key,
    oci::{Digest, HashState, UploadId},
    platform::{Body, Buffer},
    storage::{MultipartId, Part, Path, StorageError, StorageErrorKind, Store},
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

/// An upload as its writer knows it.
pub(super) struct Ledger {
    pub store: Store,
    sessions: Rc<dyn UploadSessions>,
    /// Where the upload is.
    pub at: UploadAt,
    /// The upload with every part that is stored, recorded in the session or not.
    pub upload: Upload,
    /// Staged bytes that are stored elsewhere now.
    pub obsolete: Vec<Staged>,
    writer: Uuid,
    /// The length of the upload before this chunk, in bytes; `None` for its first chunk.
    start: Option<u64>,
    is_claimed: bool,
    next_part: u16,
    /// The parts that are stored and not yet sent to the session.
    unsent: Vec<Part>,
    /// The number of the first part that the session has not acknowledged.
    acknowledged: u16,
}

impl Ledger {
    /// The ledger of an upload without bytes. Its session begins with its first part.
    pub fn new(store: Store, sessions: Rc<dyn UploadSessions>, at: UploadAt, part_size: usize) -> Self {
        let new = Upload::new(at.repository.clone(), at.state.algorithm, at.state.expires);
        let upload = Upload { part_size: part_size as u32, ..new };
        Self { is_claimed: false, ..Self::of(store, sessions, at, upload) }
    }

    /// The ledger of a claimed session.
    pub fn of(store: Store, sessions: Rc<dyn UploadSessions>, at: UploadAt, upload: Upload) -> Self {
        let next_part = upload.next_part;
        Self {
            store,
            sessions,
            at,
            upload,
            obsolete: Vec::new(),
            writer: Uuid::new_v4(),
            start: None,
            is_claimed: true,
            next_part,
            unsent: Vec::new(),
            acknowledged: next_part,
        }
    }

    /// Claims the session of an upload. `offset` is the first byte of the chunk, if the client sends it;
    /// `part_size` that of an upload without parts.
    pub async fn claim(
        store: Store,
        sessions: Rc<dyn UploadSessions>,
        at: UploadAt,
        offset: Option<u64>,
        part_size: usize,
    ) -> Result<Self, CallError> {
        let mut ledger = Self::new(store, sessions, at, part_size);
        ledger.begin(offset).await?;
        ledger.start = Some(ledger.upload.offset);
        Ok(ledger)
    }

    async fn begin(&mut self, offset: Option<u64>) -> Result<(), CallError> {
        let begin = Command::Begin {
            repository: self.at.repository.clone(),
            algorithm: self.at.state.algorithm,
            offset,
            expires: self.at.state.expires,
            part_size: self.upload.part_size,
            writer: Some(self.writer),
        };
        self.upload = self.sessions.call(&self.at.id, begin).await?.upload;
        self.is_claimed = true;
        self.next_part = self.upload.next_part;
        self.acknowledged = self.next_part;
        Ok(())
    }

    /// Whether the upload has a session.
    pub fn has_begun(&self) -> bool {
        self.is_claimed
    }

    /// Whether this is the upload's first chunk.
    pub fn is_new(&self) -> bool {
        self.start.is_none()
    }

    /// Whether this chunk follows others that parts divide, since their size was chosen for that.
    pub fn follows_whole_parts(&self) -> bool {
        let is_chosen = self.upload.part_size as usize != super::PART_SIZE;
        is_chosen
            && self.start.is_some_and(|start| start > 0 && start % u64::from(self.upload.part_size) == 0)
    }

    /// Whether the upload has parts.
    pub fn has_parts(&self) -> bool {
        self.upload.multipart.is_some()
    }

    /// Records a first chunk, in a session that begins and ends its chunk with it.
    pub async fn record_first(
        &self,
        digest: &Digest,
        length: u64,
        hash: HashState,
    ) -> Result<Reply, CallError> {
        let first = Command::First {
            repository: self.at.repository.clone(),
            expires: self.at.state.expires,
            digest: digest.clone(),
            length,
            hash,
            writer: self.writer,
        };
        self.sessions.call(&self.at.id, first).await
    }

    /// Takes a first chunk back: its bytes could not be stored. The client may send it again.
    pub async fn forget_first(&self, recorded: &Upload) -> Result<(), CallError> {
        let empty = self.upload.checkpoint();
        let nothing = Command::Release(Checkpoint { epoch: recorded.epoch, ..empty });
        self.sessions.call(&self.at.id, nothing).await.map(drop)
    }

    /// Reserves the next part. The first one creates the multipart upload, and begins the session at the same
    /// time.
    pub async fn next_part(&mut self) -> Result<NextPart, UploadError> {
        if self.next_part > MAX_PARTS {
            return Err(UploadError::TooLarge { part_size: self.upload.part_size.into() });
        }
        if self.upload.multipart.is_none() {
            self.create_multipart().await?;
        }
        let (Some((multipart, _)), Some(path)) = (&self.upload.multipart, self.upload.object(&self.at.id))
        else {
            return Err(Refused::Unknown.into());
        };
        let number = self.next_part;
        self.next_part += 1;
        Ok(NextPart { path, multipart: multipart.clone(), number })
    }

    /// The first checkpoint records the multipart upload. One that is never recorded is aborted by the bucket's
    /// lifecycle rule.
    async fn create_multipart(&mut self) -> Result<(), UploadError> {
        let (blob, store) = (Uuid::new_v4(), self.store.clone());
        let path = Key::Blob(blob).path();
        let created = if self.is_claimed {
            store.create_multipart(&path).await?
        } else {
            let part_size = self.upload.part_size;
            let (begun, created) = join(self.begin(Some(0)), store.create_multipart(&path)).await;
            let created = created?;
            let is_as_planned = self.upload.multipart.is_none() && self.upload.part_size == part_size;
            if begun.is_err() || !is_as_planned {
                store.abort_multipart(&path, &created).await?;
                begun?;
                return Err(Refused::OutOfOrder { offset: self.upload.offset }.into());
            }
            created
        };
        self.upload.multipart = Some((created, self.upload.epoch));
        self.upload.blob = Some(blob);
        Ok(())
    }

    /// The number of parts begun since the last checkpoint that the session has acknowledged.
    pub fn unrecorded(&self) -> u16 {
        self.next_part.saturating_sub(self.acknowledged)
    }

    /// Adds a stored part, which contains the staged bytes, to the next checkpoint.
    pub fn add(&mut self, StoredPart { part, offset, hash }: StoredPart) {
        self.obsolete.append(&mut self.upload.staged);
        (self.upload.offset, self.upload.hash, self.upload.last) = (offset, hash, None);
        self.unsent.push(part);
    }

    /// The next checkpoint, with all parts not sent yet.
    pub fn checkpoint(&mut self) -> Checkpoint {
        Checkpoint { parts: std::mem::take(&mut self.unsent), ..self.upload.checkpoint() }
    }

    /// Sends the next checkpoint, if there are parts to record. Resolves to what
    /// [`acknowledge`](Self::acknowledge) takes.
    pub fn send_checkpoint(&mut self) -> Option<LocalBoxFuture<'static, Result<u16, CallError>>> {
        let last = self.unsent.last()?.number;
        let (command, sessions, id) =
            (Command::Checkpoint(self.checkpoint()), self.sessions.clone(), self.at.id);
        Some(Box::pin(async move { sessions.call(&id, command).await.map(|_| last) }))
    }

    /// The session has recorded the parts up to this one.
    pub fn acknowledge(&mut self, part: u16) {
        self.acknowledged = part.saturating_add(1);
    }

    /// The id of the session.
    pub fn id(&self) -> &UploadId {
        &self.at.id
    }

    /// Where to stage bytes that do not fill a part.
    pub fn next_staged(&self, length: u64) -> Staged {
        Staged { epoch: self.upload.epoch, length, content: None }
    }

    /// Reads all staged bytes into the front of `buffer` and returns their length.
    pub async fn read_staged(&self, buffer: &mut dyn Buffer) -> Result<usize, UploadError> {
        let mut at = 0;
        for staged in &self.upload.staged {
            let path = staged.path(&self.at.id);
            let to = at + staged.length as usize;
            let end = match self.store.get(&path, None).await?.map(|object| object.body) {
                Some(Body::Stream(mut stream)) => {
                    let read = stream.read_into(buffer, at..to, None).await;
                    read.map_err(|error| self.store.unreadable(&path, error))?
                }
                // Deleted, by a rule of the bucket or by hand: the upload cannot go on.
                None => return Err(Refused::Unknown.into()),
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
    pub async fn release(&mut self) -> Result<(), CallError> {
        let command = Command::Release(self.checkpoint());
        self.sessions.call(&self.at.id, command).await.map(drop)
    }

    /// Ends this writer's chunk, which broke off.
    pub async fn release_cut(&mut self) -> Result<(), CallError> {
        let command = Command::Release(Checkpoint { is_cut: true, ..self.checkpoint() });
        self.sessions.call(&self.at.id, command).await.map(drop)
    }

    /// Deletes staged bytes that are stored elsewhere now.
    pub async fn delete_obsolete(&self) -> Result<(), StorageError> {
        delete_staged(&self.store, &self.at.id, &self.obsolete, None).await
    }
}

/// Deletes staged bytes. A first chunk is content, which others may have linked: it is condemned, unless it is the
/// `finished` blob.
async fn delete_staged(
    store: &Store,
    id: &UploadId,
    staged: &[Staged],
    finished: Option<&Digest>,
) -> Result<(), StorageError> {
    let (ours, content): (Vec<_>, Vec<_>) = staged.iter().partition(|staged| staged.content.is_none());
    for digest in content.iter().filter_map(|staged| staged.content.as_ref()) {
        if finished != Some(digest) {
            condemn(store, digest).await?;
        }
    }
    let paths: Vec<_> = ours.iter().map(|staged| staged.path(id)).collect();
    if paths.is_empty() { Ok(()) } else { store.delete(&paths).await }
}

/// Removes the parts and staged bytes of a closed upload; its parts unless they were joined. Idempotent.
pub(super) async fn discard(
    store: &Store,
    id: &UploadId,
    upload: &Upload,
    is_joined: bool,
) -> Result<(), StorageError> {
    if let Some(((multipart, _), path)) = upload.multipart.as_ref().zip(upload.object(id))
        && !is_joined
    {
        store.abort_multipart(&path, multipart).await?;
    }
    delete_staged(store, id, &upload.staged, upload.finished.as_ref()).await
}

/// Removes everything that an abandoned upload may have stored, recorded in its session or not.
pub async fn sweep(store: &Store, id: &UploadId, upload: &Upload) -> Result<(), StorageError> {
    discard(store, id, upload, upload.finished.is_some()).await?;
    store.delete_tree(&Key::StagedAll(id).path()).await
}
