//! Writing a chunk: a request's stream cut into parts of fixed size, whatever sizes the client sends.

use std::future::Future;

use futures_util::{
    StreamExt,
    future::{self, Either},
    stream::FuturesOrdered,
};

use super::{
    CallError, Checkpoint, Command, MAX_PARTS, Staged, Upload, UploadError, UploadId, UploadSessions,
};
use crate::{
    body::{Block, Body, ByteStream, ReadError},
    oci::{HashState, Hasher, InvalidHashState},
    storage::{
        Key, MultipartId, Part, PutOptions, StorageDriver, StorageDriverExt, StorageError, StorageErrorKind,
    },
};

/// How many parts of one upload are on their way to storage while the next is being filled. R2 takes two
/// or three of one upload at a time; more would only hold memory.
pub const IN_FLIGHT: u16 = 2;

/// How many pieces are staged before they are put together. Each is read back when they fill a part.
const MAX_STAGED: usize = 16;

/// Why a chunk could not be written. What is in the last checkpoint stays.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The session refuses, or cannot be reached.
    #[error(transparent)]
    Session(#[from] CallError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The client's stream failed.
    #[error(transparent)]
    Body(#[from] ReadError),
    /// The session's hash cannot be read.
    #[error(transparent)]
    Hash(#[from] InvalidHashState),
    /// The chunk has another length than it said.
    #[error("the chunk has {received} bytes where {declared} were announced")]
    Length {
        /// What was announced, in bytes.
        declared: u64,
        /// What came, in bytes.
        received: u64,
    },
    /// The blob would have more than [`MAX_PARTS`] parts.
    #[error("the blob is larger than {} GiB", MAX_PARTS as u64 * super::PART_SIZE as u64 / (1 << 30))]
    TooLarge,
}

impl From<UploadError> for ChunkError {
    fn from(error: UploadError) -> Self {
        Self::Session(error.into())
    }
}

/// The end of a chunk that did not fill a part: the bytes `from..to` of a block. Before `from` there is room
/// for what is staged.
pub struct Tail<B> {
    /// The buffer; `None` when there are no bytes.
    pub block: Option<B>,
    /// The first byte's place, and how much is staged.
    pub from: usize,
    /// The place behind the last byte.
    pub to: usize,
}

/// A writer: an upload that it has claimed, and what it writes with.
pub struct ChunkWriter<'a, S: StorageDriver, U> {
    storage: &'a S,
    sessions: &'a U,
    id: &'a UploadId,
    part_size: usize,
    /// The session as of the last checkpoint.
    pub upload: Upload,
    /// The hash of everything written, also behind the last checkpoint.
    pub hasher: Hasher,
    next_part: u16,
}

struct Stored {
    part: Part,
    offset: u64,
    hash: HashState,
}

impl<'a, S: StorageDriver, U: UploadSessions> ChunkWriter<'a, S, U> {
    /// Claims the session with `begin` and takes it up where it is.
    pub async fn begin(
        storage: &'a S,
        sessions: &'a U,
        id: &'a UploadId,
        part_size: usize,
        begin: Command,
    ) -> Result<Self, ChunkError> {
        let upload = sessions.call(id, begin).await?.upload;
        let hasher = Hasher::resume(upload.algorithm, &upload.hash)?;
        let next_part = upload.next_part;
        Ok(Self { storage, sessions, id, part_size, upload, hasher, next_part })
    }

    /// Writes all of `stream`, whole parts to storage with a checkpoint behind each, and returns the rest.
    /// `declared` is the length the client announced beside the stream's own.
    pub async fn write(
        &mut self,
        stream: &mut S::Stream,
        declared: Option<u64>,
    ) -> Result<Tail<<S::Stream as ByteStream>::Block>, ChunkError> {
        let known = stream.content_length().or(declared);
        let start = self.upload.offset;
        let mut from = self.upload.staged_length() as usize;
        let mut received = 0_u64;
        let mut in_flight = FuturesOrdered::new();
        loop {
            // Room for one byte more than announced shows whether there are more. In 64 bits: a chunk may be
            // longer than this platform's memory.
            let left = known.map_or(u64::MAX, |known| known.saturating_sub(received).saturating_add(1));
            let capacity = left.saturating_add(from as u64).min(self.part_size as u64) as usize;
            let read = {
                let reading = async {
                    let mut block = <S::Stream as ByteStream>::Block::new(capacity).await;
                    let end = stream.read_into(&mut block, from, capacity, Some(&mut self.hasher)).await?;
                    Ok::<_, ReadError>((block, end))
                };
                let mut reading = std::pin::pin!(reading);
                // Store while reading, and while waiting for a buffer: whatever ends first is dealt with first.
                loop {
                    if in_flight.is_empty() {
                        break reading.as_mut().await;
                    }
                    match future::select(reading.as_mut(), in_flight.next()).await {
                        Either::Left((read, _)) => break read,
                        Either::Right((None, _)) => {}
                        Either::Right((Some(stored), _)) => {
                            checkpoint(self.storage, self.sessions, self.id, &mut self.upload, stored?)
                                .await?;
                        }
                    }
                }
            };
            let (mut block, end) = match read {
                Ok(read) => read,
                Err(error) => {
                    // The client is gone, but what has reached storage counts.
                    self.settle(&mut in_flight).await?;
                    let claim = Command::Release(self.upload.checkpoint());
                    self.upload = self.sessions.call(self.id, claim).await?.upload;
                    return Err(error.into());
                }
            };
            received += (end - from) as u64;
            let is_over = end < capacity;
            if declared.is_some_and(|declared| received > declared || (is_over && received < declared)) {
                // Nothing behind the last checkpoint is counted.
                let declared = declared.unwrap_or_default();
                return Err(ChunkError::Length { declared, received });
            }
            if is_over {
                self.settle(&mut in_flight).await?;
                let block = (end > from).then_some(block);
                return Ok(Tail { block, from, to: end });
            }
            if capacity < self.part_size {
                // A stream of known length that is longer than it said; the platform should not allow it.
                return Err(ChunkError::Length { declared: known.unwrap_or_default(), received });
            }
            if from > 0 {
                self.fill_front(&mut block).await?;
                from = 0;
            }
            while in_flight.len() >= usize::from(IN_FLIGHT) {
                if let Some(stored) = in_flight.next().await {
                    checkpoint(self.storage, self.sessions, self.id, &mut self.upload, stored?).await?;
                }
            }
            let (number, id, epoch) = self.next_part().await?;
            let body = Body::Block { block, from: 0, to: self.part_size };
            let (offset, hash) = (start + received, self.hasher.state());
            let path = Key::Upload(self.id, epoch).path();
            let storage = self.storage;
            in_flight.push_back(async move {
                let part = storage.put_part(&path, &id, number, body).await?;
                Ok(Stored { part, offset, hash })
            });
        }
    }

    /// Stages what a chunk left over and gives the session free for the next one.
    pub async fn release(&mut self, tail: Tail<<S::Stream as ByteStream>::Block>) -> Result<(), ChunkError> {
        let length = (tail.to - tail.from) as u64;
        let mut superseded = Vec::new();
        let mut staged = self.upload.staged.clone();
        if let Some(mut block) = tail.block {
            let (mut from, mut total) = (tail.from, length);
            if staged.len() >= MAX_STAGED {
                self.fill_front(&mut block).await?;
                (from, total) = (0, tail.to as u64);
                superseded = std::mem::take(&mut staged);
            }
            let path = Key::Staged(self.id, self.upload.epoch).path();
            let body = Body::Block { block, from, to: tail.to };
            self.storage.put(&path, body, PutOptions::default()).await?;
            staged.push(Staged { epoch: self.upload.epoch, length: total });
        }
        let checkpoint = Checkpoint {
            offset: self.upload.offset + length,
            hash: self.hasher.state(),
            staged,
            ..self.upload.checkpoint()
        };
        self.upload = self.sessions.call(self.id, Command::Release(checkpoint)).await?.upload;
        forget(self.storage, self.id, &superseded).await?;
        Ok(())
    }

    /// Reads everything staged into the front of a block.
    pub async fn fill_front(
        &self,
        block: &mut <S::Stream as ByteStream>::Block,
    ) -> Result<usize, ChunkError> {
        let mut at = 0;
        for staged in &self.upload.staged {
            let path = Key::Staged(self.id, staged.epoch).path();
            let to = at + staged.length as usize;
            let end = match self.storage.get(&path, None).await?.map(|object| object.body) {
                Some(Body::Stream(mut stream)) => stream.read_into(block, at, to, None).await?,
                _ => at,
            };
            if end != to {
                let message = format!("staged bytes are missing: {} of {}", end - at, staged.length);
                let kind = StorageErrorKind::Backend { operation: "get", message, retryable: false };
                return Err(self.storage.error(path.as_str(), kind).into());
            }
            at = to;
        }
        Ok(at)
    }

    /// The number of the next part and the multipart upload it belongs to, made when there is none.
    pub async fn next_part(&mut self) -> Result<(u16, MultipartId, u32), ChunkError> {
        if self.next_part > MAX_PARTS {
            return Err(ChunkError::TooLarge);
        }
        let (id, epoch) = match &self.upload.multipart {
            Some(multipart) => multipart.clone(),
            None => {
                let epoch = self.upload.epoch;
                let id = self.storage.create_multipart(&Key::Upload(self.id, epoch).path()).await?;
                // Known to the session before it holds anything, so that it is aborted whatever happens.
                let made = Checkpoint { multipart: Some((id.clone(), epoch)), ..self.upload.checkpoint() };
                self.upload = self.sessions.call(self.id, Command::Checkpoint(made)).await?.upload;
                (id, epoch)
            }
        };
        let number = self.next_part;
        self.next_part += 1;
        Ok((number, id, epoch))
    }

    /// The tail of a request without a body.
    pub fn nothing(&self) -> Tail<<S::Stream as ByteStream>::Block> {
        let at = self.upload.staged_length() as usize;
        Tail { block: None, from: at, to: at }
    }

    /// Where the bytes go.
    pub(super) fn storage(&self) -> &'a S {
        self.storage
    }

    /// Where the session is.
    pub(super) fn sessions(&self) -> &'a U {
        self.sessions
    }

    /// The session's name.
    pub(super) fn id(&self) -> &'a UploadId {
        self.id
    }

    /// Reports the last part.
    pub(super) async fn store(&mut self, part: Part, offset: u64) -> Result<(), ChunkError> {
        let stored = Stored { part, offset, hash: self.hasher.state() };
        checkpoint(self.storage, self.sessions, self.id, &mut self.upload, stored).await
    }

    async fn settle<F>(&mut self, in_flight: &mut FuturesOrdered<F>) -> Result<(), ChunkError>
    where
        F: Future<Output = Result<Stored, StorageError>>,
    {
        while let Some(stored) = in_flight.next().await {
            checkpoint(self.storage, self.sessions, self.id, &mut self.upload, stored?).await?;
        }
        Ok(())
    }
}

/// Reports a stored part, and deletes what was staged for it.
async fn checkpoint<S: StorageDriver, U: UploadSessions>(
    storage: &S,
    sessions: &U,
    id: &UploadId,
    upload: &mut Upload,
    stored: Stored,
) -> Result<(), ChunkError> {
    let staged = std::mem::take(&mut upload.staged);
    let Stored { part, offset, hash } = stored;
    let checkpoint = Checkpoint { offset, hash, parts: vec![part], ..upload.checkpoint() };
    *upload = sessions.call(id, Command::Checkpoint(checkpoint)).await?.upload;
    Ok(forget(storage, id, &staged).await?)
}

/// Deletes staged pieces that are part of something else now.
pub async fn forget<S: StorageDriver>(
    storage: &S,
    id: &UploadId,
    staged: &[Staged],
) -> Result<(), StorageError> {
    let paths: Vec<_> = staged.iter().map(|staged| Key::Staged(id, staged.epoch).path()).collect();
    if paths.is_empty() { Ok(()) } else { storage.delete(&paths).await }
}
