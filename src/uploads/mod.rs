//! Uploads: storing bytes as a blob.
//!
//! If the digest is known before the bytes, the store verifies them and no session is needed. Otherwise a session
//! holds the progress of the upload between requests. [`session`] is its pure state machine, [`plan`] cuts a
//! stream into parts, `append` writes them, `ledger` keeps session and storage consistent, and `commit` makes a
//! blob of them, in time independent of its size.

mod append;
mod commit;
mod ledger;
pub mod location;
pub mod memory;
pub mod plan;
pub mod protocol;
pub mod session;
mod whole;

use std::rc::Rc;

use futures_util::future::join;
use serde_json::json;
use uuid::Uuid;

use crate::{
    blobs::{Blobs, Located, marker::Held},
    context::Context,
    layout::Key,
    oci::{Digest, InvalidHashState, RepositoryName},
    platform::{Body, Buffers, Clock, Level, ReadError},
    repository::{LinkReason, Repository, RepositoryError},
    storage::{KEY_PAUSE, StorageError},
};

pub use append::IN_FLIGHT;
pub use commit::{JoinError, join as join_parts, note_blob, noted_digest};
pub use ledger::sweep;
pub use location::{FirstChunk, UploadAt, UploadState};
pub use protocol::{CallError, Checkpoint, Command, Refused, Reply, Staged, Upload, UploadSessions};

use self::{
    append::{Tail, Writer},
    ledger::Ledger,
    plan::WrongLength,
};

/// The usual size of a part, in bytes.
///
/// R2 requires parts of one size, at least 5 MiB, at most 10,000 of them: 8 MiB allows blobs of 78 GiB. An upload holds
/// [`IN_FLIGHT`] parts in flight and one being filled: 24 MiB, or 32 MiB of the largest parts, of the 48 MiB in
/// [`limits`](crate::platform::budget::limits). Each part stands in line anew. A cut connection loses at most one part. The
/// first chunk may suggest another size: see [`plan::part_size`].
pub const PART_SIZE: usize = 8 * 1024 * 1024;

/// The largest part number of R2.
const MAX_PARTS: u16 = 10_000;

/// Limit of parts that a writer has begun to store since the last checkpoint that its session acknowledged. The
/// next writer skips that many numbers.
pub const UNRECORDED: u16 = 8;

/// Limit of the time that a request which has failed still reads from its client, in milliseconds.
pub const DRAIN_TIME: u64 = 30_000;

/// A failed upload. Unless the digest is wrong, it can resume at its last checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The session refused a command, or cannot be reached.
    #[error(transparent)]
    Session(#[from] CallError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The blob could not be linked.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The client's stream failed.
    #[error(transparent)]
    Body(#[from] ReadError),
    /// The session's hash state is invalid.
    #[error(transparent)]
    Hash(#[from] InvalidHashState),
    /// The length of the chunk is not the announced one.
    #[error(transparent)]
    Length(#[from] WrongLength),
    /// The blob would have more than 10,000 parts.
    #[error(
        "the blob is larger than {} GiB, {MAX_PARTS} parts of {} MiB: split it into smaller blobs",
        (MAX_PARTS as u64 * part_size) >> 30,
        part_size >> 20
    )]
    TooLarge {
        /// The size of its parts, in bytes.
        part_size: u64,
    },
    /// The bytes do not have the digest. The upload is gone.
    #[error("the uploaded content does not have the digest {0}")]
    DigestMismatch(Digest),
}

impl From<Refused> for UploadError {
    fn from(error: Refused) -> Self {
        Self::Session(error.into())
    }
}

/// A chunk as the client sends it.
pub struct Chunk<'a> {
    /// The body of the request.
    pub body: &'a mut Body,
    /// The first byte and the length from `Content-Range`.
    pub range: Option<(u64, u64)>,
}

impl Chunk<'_> {
    fn is_empty(&self) -> bool {
        self.body.content_length() == Some(0)
    }

    /// Whether it may be the first one.
    fn may_be_first(&self) -> bool {
        self.range.is_none_or(|(first, _)| first == 0)
    }

    /// Whether its last byte, by its range, is the last one of so many.
    fn ends_at(&self, offset: u64) -> bool {
        self.range.is_some_and(|(first, length)| first.checked_add(length) == Some(offset))
    }

    /// The length that the client declared in addition to the body's own.
    fn declared(&self) -> Result<Option<u64>, WrongLength> {
        let declared = self.range.map(|(_, length)| length);
        match declared.zip(self.body.content_length()) {
            Some((declared, received)) if declared != received => Err(WrongLength { declared, received }),
            _ => Ok(declared),
        }
    }
}

/// The command that ends an upload, which became the blob `finished`, and must have this length.
fn closing(at: &UploadAt, finished: Option<&Digest>, offset: Option<u64>) -> Command {
    Command::Close {
        repository: at.repository.clone(),
        expires: at.state.expires,
        finished: finished.cloned(),
        offset,
        writer: Some(Uuid::new_v4()),
    }
}

/// The uploads to one repository.
pub struct Uploads {
    /// The repository.
    pub repository: Rc<dyn Repository>,
    /// The destination of bytes.
    pub blobs: Blobs,
    /// The client of upload sessions.
    pub sessions: Rc<dyn UploadSessions>,
    /// Buffers for parts.
    pub buffers: Rc<dyn Buffers>,
    /// Source of the current time.
    pub clock: Rc<dyn Clock>,
    /// The request's context.
    pub context: Context,
}

impl Uploads {
    /// Adds a chunk. Returns where the upload continues, and its length in bytes.
    pub async fn append(&self, at: &UploadAt, chunk: Chunk<'_>) -> Result<(UploadAt, u64), UploadError> {
        let has_range = chunk.range.is_some();
        if at.state.has_session || !chunk.may_be_first() {
            let (writer, tail) = self.write(at, chunk).await?;
            return Ok((at.with_session(), self.release(writer, tail, has_range).await?));
        }
        let (writer, tail) = self.write_first(at, chunk).await?;
        if writer.ledger.has_begun() {
            return Ok((at.with_session(), self.release(writer, tail, has_range).await?));
        }
        let length = tail.range.len() as u64;
        match tail.buffer {
            // Nothing to store: the upload may have chunks, or may have ended.
            None => Ok(match self.offset(at).await? {
                Some(offset) => (at.with_session(), offset),
                None => (at.clone(), 0),
            }),
            Some(buffer) => {
                let body = Body::Buffer { buffer: buffer.into(), range: tail.range };
                let held = Some(self.clock.now());
                let digest = self.store_first(&writer, body, length).await?;
                Ok((at.with_first_chunk(FirstChunk { digest, length, held }), length))
            }
        }
    }

    async fn release(&self, mut writer: Writer, tail: Tail, has_range: bool) -> Result<u64, UploadError> {
        let offset = writer.release(tail, has_range).await?;
        self.tidy(writer.ledger);
        Ok(offset)
    }

    /// Stores a first chunk that is smaller than a part under its digest, and records it in a new session at the
    /// same time. It is not linked yet.
    async fn store_first(&self, writer: &Writer, body: Body, length: u64) -> Result<Digest, UploadError> {
        let digest = writer.hasher.clone().finish();
        let stored = self.put_held(&writer.ledger.at.repository, &digest, body);
        let begun = writer.ledger.record_first(&digest, length, writer.hasher.state());
        let (begun, stored) = join(begun, stored).await;
        let upload = begun?.upload;
        if let Err(error) = stored {
            // The session must not promise these bytes.
            writer.ledger.forget_first(&upload).await?;
            return Err(error.into());
        }
        Ok(digest)
    }

    /// Stores content that is linked by a later request, which confirms that it is kept and looks at the bytes.
    async fn put_held(&self, name: &RepositoryName, digest: &Digest, body: Body) -> Result<(), StorageError> {
        let again = body.again();
        let (put, held) = join(self.blobs.put(digest, body), self.blobs.hold(name, digest)).await;
        put?;
        if let (Held::Removed, Some(body)) = (held?, again) {
            // What was there may be gone.
            self.blobs.put(digest, body).await?;
        }
        Ok(())
    }

    /// Links a blob that another repository has, which `find` looks for; `false` if it is gone. Costs a round beside those of
    /// `find`.
    pub async fn mount(
        &self,
        at: &RepositoryName,
        digest: &Digest,
        find: impl Future<Output = Result<Option<(RepositoryName, Located)>, RepositoryError>>,
    ) -> Result<bool, UploadError> {
        let (found, held) = join(find, self.blobs.hold(at, digest)).await;
        let Some((from, located)) = found? else { return Ok(false) };
        let located = match held? {
            Held::Kept => Some(located),
            Held::Removed => self.blobs.find(digest).await?,
        };
        let Some(located) = located else { return Ok(false) };
        self.repository.link_blob(digest, &located, LinkReason::Mount(&from)).await?;
        Ok(true)
    }

    /// Stores a blob that comes with the request that starts its upload: nobody can have cancelled it.
    pub async fn put(&self, at: &UploadAt, chunk: Chunk<'_>, digest: &Digest) -> Result<(), UploadError> {
        if !self.is_whole(&chunk, digest) {
            return self.finish(at, chunk, digest).await;
        }
        let body = std::mem::replace(chunk.body, Body::Empty);
        self.put_whole(at, body, digest, false).await
    }

    /// Adds the last chunk, which may be empty, and makes a linked blob of the upload.
    pub async fn finish(&self, at: &UploadAt, chunk: Chunk<'_>, digest: &Digest) -> Result<(), UploadError> {
        if !at.state.has_session && self.is_whole(&chunk, digest) {
            let body = std::mem::replace(chunk.body, Body::Empty);
            return self.put_whole(at, body, digest, true).await;
        }
        if !chunk.is_empty() {
            return self.finish_with_chunk(at, chunk, digest).await;
        }
        match &at.state.first {
            Some(first) if first.digest == *digest && chunk.range.is_none() => {
                self.finish_first(at, first).await
            }
            _ => self.commit(at, digest, None).await,
        }
    }

    async fn finish_with_chunk(
        &self,
        at: &UploadAt,
        chunk: Chunk<'_>,
        digest: &Digest,
    ) -> Result<(), UploadError> {
        let (mut writer, tail) = if at.state.has_session || !chunk.may_be_first() {
            let declared = chunk.declared()?;
            let ledger = self.claim_last(at, &chunk, digest).await?;
            if ledger.upload.has_digest(digest) {
                // The client repeats its last chunk: the first time, the blob could not be linked.
                if let Body::Stream(stream) = chunk.body {
                    stream.discard(u64::MAX, None).await?;
                }
                return self.commit(at, digest, None).await;
            }
            self.write_parts(ledger, chunk.body, declared).await?
        } else {
            self.write_first(at, chunk).await?
        };
        // A digest of the other algorithm is verified in storage.
        let is_sure = digest.algorithm() == writer.ledger.upload.algorithm;
        let is_wrong = is_sure && writer.hasher.clone().finish() != *digest;
        let stored = if is_wrong {
            Err(UploadError::DigestMismatch(digest.clone()))
        } else if writer.ledger.has_parts() {
            let checkpoint = writer.finish(tail).await?;
            self.commit(at, digest, Some(checkpoint)).await?;
            self.tidy(writer.ledger);
            return Ok(());
        } else {
            let length = writer.ledger.upload.offset + tail.range.len() as u64;
            let body = writer.body(tail).await?;
            self.put_small(at, body, digest, is_sure, None).await.map(|()| length)
        };
        if let Err(UploadError::DigestMismatch(_)) = &stored
            && writer.ledger.has_begun()
        {
            writer.settle().await?;
            self.close(at, None, None).await?;
            sweep(self.blobs.store(), &at.id, &writer.ledger.upload).await?;
        }
        if let Err(error @ UploadError::DigestMismatch(_)) = stored {
            return Err(self.wrong_digest(at, error).await?);
        }
        self.link(digest, stored?).await?;
        if writer.ledger.has_begun() {
            self.close_later(at, writer.ledger.upload, digest);
        }
        Ok(())
    }

    /// The error of a body without the digest: it may be only the last chunk, sent to the location of the `POST`.
    async fn wrong_digest(&self, at: &UploadAt, error: UploadError) -> Result<UploadError, UploadError> {
        if at.state.has_session {
            return Ok(error);
        }
        Ok(match self.offset(at).await {
            Ok(Some(offset)) if offset > 0 => Refused::OutOfOrder { offset }.into(),
            _ => error,
        })
    }

    /// The length of the upload, in bytes; `None` if nothing was ever appended.
    pub async fn offset(&self, at: &UploadAt) -> Result<Option<u64>, UploadError> {
        let status = Command::Status { repository: at.repository.clone() };
        let upload = match self.sessions.call(&at.id, status).await {
            Ok(reply) => reply.upload,
            Err(CallError::Refused(Refused::Unknown)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // A session records its first chunk while the bytes are stored: a crash may have come between.
        if let [Staged { content: Some(digest), .. }] = upload.staged.as_slice()
            && self.blobs.store().head(&Key::Data(digest).path()).await?.is_none()
        {
            let (store, sessions) = (self.blobs.store().clone(), self.sessions.clone());
            let empty = Ledger::new(store, sessions, at.clone(), self.buffers.part_size());
            empty.forget_first(&upload).await?;
            return Ok(Some(0));
        }
        Ok(Some(upload.offset))
    }

    /// Ends an upload and deletes its stored bytes. A first chunk is condemned: others may have linked it.
    pub async fn cancel(&self, at: &UploadAt) -> Result<(), UploadError> {
        let upload = self.close(at, None, None).await?;
        Ok(sweep(self.blobs.store(), &at.id, &upload).await?)
    }

    /// Ends a session, which became the blob `finished`, and must have this length.
    async fn close(
        &self,
        at: &UploadAt,
        finished: Option<&Digest>,
        offset: Option<u64>,
    ) -> Result<Upload, CallError> {
        Ok(self.sessions.call(&at.id, closing(at, finished, offset)).await?.upload)
    }

    /// Claims the session and writes the full parts of the chunk. The tail is not yet stored.
    async fn write(&self, at: &UploadAt, chunk: Chunk<'_>) -> Result<(Writer, Tail), UploadError> {
        let declared = chunk.declared()?;
        let ledger = self.claim(at, &chunk).await?;
        self.write_parts(ledger, chunk.body, declared).await
    }

    async fn claim(&self, at: &UploadAt, chunk: &Chunk<'_>) -> Result<Ledger, UploadError> {
        Ok(self.claim_at(at, chunk.range.map(|(first, _)| first)).await?)
    }

    async fn claim_at(&self, at: &UploadAt, offset: Option<u64>) -> Result<Ledger, CallError> {
        let (store, sessions) = (self.blobs.store().clone(), self.sessions.clone());
        Ledger::claim(store, sessions, at.clone(), offset, self.buffers.part_size()).await
    }

    /// Claims the session for a last chunk, also one that the client repeats with its range: then the session has it
    /// already.
    async fn claim_last(
        &self,
        at: &UploadAt,
        chunk: &Chunk<'_>,
        digest: &Digest,
    ) -> Result<Ledger, UploadError> {
        let refused = match self.claim(at, chunk).await {
            Err(UploadError::Session(CallError::Refused(Refused::OutOfOrder { offset })))
                if chunk.ends_at(offset) =>
            {
                Refused::OutOfOrder { offset }
            }
            claimed => return claimed,
        };
        let status = Command::Status { repository: at.repository.clone() };
        let upload = self.sessions.call(&at.id, status).await?.upload;
        if !(chunk.ends_at(upload.offset) && upload.has_digest(digest)) {
            return Err(refused.into());
        }
        Ok(self.claim_at(at, Some(upload.offset)).await?)
    }

    /// Writes the full parts of a first chunk. A session begins with the first of them.
    async fn write_first(&self, at: &UploadAt, chunk: Chunk<'_>) -> Result<(Writer, Tail), UploadError> {
        let declared = chunk.declared()?;
        let length = chunk.body.content_length().or(declared);
        let part_size = plan::part_size(self.buffers.part_size(), length, declared.is_some());
        let ledger = Ledger::new(self.blobs.store().clone(), self.sessions.clone(), at.clone(), part_size);
        self.write_parts(ledger, chunk.body, declared).await
    }

    async fn write_parts(
        &self,
        ledger: Ledger,
        body: &mut Body,
        declared: Option<u64>,
    ) -> Result<(Writer, Tail), UploadError> {
        let mut writer = Writer::new(ledger, self.buffers.clone())?;
        let written = writer.write(body, declared, &*self.clock).await;
        if body.content_length().is_none() {
            self.context.log.count_received(writer.received);
        }
        match written {
            Ok(tail) => Ok((writer, tail)),
            Err(error) => {
                writer.abandon().await;
                // What a cut client has sent is recorded.
                if let UploadError::Body(read) = &error {
                    self.log_cut(writer.ledger.upload.offset, read);
                    self.tidy(writer.ledger);
                }
                Err(error)
            }
        }
    }

    /// Logs that a client hung up or fell silent, which is no failure of the registry, and how many bytes are kept.
    fn log_cut(&self, kept: u64, error: &ReadError) {
        let log = &self.context.log;
        if !matches!(error, ReadError::NoMemory | ReadError::TakenBack) {
            let message = error.to_string();
            log.write(
                Level::Info,
                || json!({"level": "info", "id": log.id, "message": message, "upload": {"kept": kept}}),
            );
        }
    }

    /// Deletes staged bytes that are stored elsewhere now, after the answer.
    fn tidy(&self, ledger: Ledger) {
        if !ledger.obsolete.is_empty() {
            let pause = self.clock.sleep(KEY_PAUSE);
            self.later(async move {
                pause.await;
                Ok(ledger.delete_obsolete().await?)
            });
        }
    }

    /// Work after the answer, which the session's alarm or the purge job repeats if it fails.
    fn later(&self, work: impl Future<Output = Result<(), UploadError>> + 'static) {
        let log = self.context.log.clone();
        self.context.background.spawn(Box::pin(async move {
            if let Err(error) = work.await {
                log.write(
                    Level::Error,
                    || json!({"level": "error", "id": log.id, "message": error.to_string()}),
                );
            }
        }));
    }
}
