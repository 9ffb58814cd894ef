//! Uploads: storing bytes as a blob.
//!
//! If the digest is known before the bytes, the store verifies them and no session is needed
//! ([`Uploads::finish`]). Otherwise a session holds the progress of the upload between requests. [`session`] is
//! its pure state machine, [`plan`] cuts a stream into parts, `append` writes them, `ledger` keeps session
//! and storage consistent, and `commit` makes a blob of the parts, in time independent of its size.

mod append;
mod commit;
mod ledger;
pub mod location;
pub mod memory;
pub mod plan;
pub mod protocol;
pub mod session;

use std::rc::Rc;

use serde_json::json;

use crate::{
    blobs::{Blobs, Located},
    context::Context,
    oci::{Digest, InvalidHashState},
    platform::{Body, Buffers, Level, ReadError},
    repository::{Repository, RepositoryError},
    storage::StorageError,
};

pub use append::IN_FLIGHT;
pub use commit::noted_digest;
pub use ledger::sweep;
pub use location::{UploadAt, UploadState};
pub use protocol::{CallError, Checkpoint, Command, Refused, Reply, Staged, Upload, UploadSessions};

use self::{
    append::{Tail, Writer},
    ledger::{Ledger, discard},
    plan::WrongLength,
};

/// The size of a part, in bytes.
///
/// R2 requires parts of one size, at least 5 MiB, at most 10,000 of them: 8 MiB allows blobs of 78 GiB. An
/// upload holds [`IN_FLIGHT`] parts in flight and one being filled: 24 MiB of an isolate's 128 MB, so a few
/// uploads fit at once. A cut connection loses at most one part.
pub const PART_SIZE: usize = 8 * 1024 * 1024;

/// The largest part number of R2.
const MAX_PARTS: u16 = 10_000;

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
    #[error("the blob is larger than {} GiB", MAX_PARTS as u64 * PART_SIZE as u64 / (1 << 30))]
    TooLarge,
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
    /// The request's context.
    pub context: Context,
}

impl Uploads {
    /// Adds a chunk. Returns the length of the upload, in bytes.
    pub async fn append(&self, at: &UploadAt, chunk: Chunk<'_>) -> Result<u64, UploadError> {
        let (mut writer, tail) = self.write(at, chunk).await?;
        writer.release(tail).await
    }

    /// Adds the last chunk, which may be empty, and makes a linked blob of the upload. A chunk that is the
    /// whole blob needs no session: it costs one write, verified by the store, then two links.
    pub async fn finish(&self, at: &UploadAt, chunk: Chunk<'_>, digest: &Digest) -> Result<(), UploadError> {
        if !at.state.has_session && self.is_whole(&chunk, digest) {
            return self.put(at, std::mem::replace(chunk.body, Body::Empty), digest).await;
        }
        let (mut writer, tail) = self.write(at, chunk).await?;
        match writer.commit(&self.blobs, tail, digest).await {
            Ok(located) => {
                self.repository.link_blob(digest, &located).await?;
                // The blob exists. A failed cleanup is repeated when the session expires.
                if let Err(error) = self.clean_up(at, &writer.ledger.upload, &located).await {
                    self.context.log.write(Level::Error, || {
                        let (upload, message) = (at.id.to_string(), error.to_string());
                        json!({"level": "error", "id": self.context.log.id, "upload": upload, "message": message})
                    });
                }
                Ok(())
            }
            Err(UploadError::DigestMismatch(digest)) => {
                self.cancel(at).await?;
                Err(UploadError::DigestMismatch(digest))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the store can take the chunk as a whole blob and verify it.
    fn is_whole(&self, chunk: &Chunk<'_>, digest: &Digest) -> bool {
        let Some(length) = chunk.body.content_length() else { return false };
        let is_empty_blob = || *digest == digest.algorithm().digest(b"");
        chunk.range.is_none_or(|range| range == (0, length))
            && length <= self.blobs.store().capabilities().max_put
            && (length > 0 || is_empty_blob())
    }

    async fn put(&self, at: &UploadAt, body: Body, digest: &Digest) -> Result<(), UploadError> {
        let size = body.content_length().unwrap_or_default();
        match commit::put_verified(&self.blobs, digest, body).await {
            Ok(()) => Ok(self.repository.link_blob(digest, &Located { size, at: None }).await?),
            // The body may be only the last chunk, sent to the location of the POST.
            Err(error @ UploadError::DigestMismatch(_)) => match self.offset(at).await? {
                Some(offset) if offset > 0 => Err(Refused::OutOfOrder { offset }.into()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The length of the upload, in bytes; `None` if nothing was ever appended.
    pub async fn offset(&self, at: &UploadAt) -> Result<Option<u64>, UploadError> {
        match self.sessions.call(&at.id, Command::Status { repository: at.repository.clone() }).await {
            Ok(reply) => Ok(Some(reply.upload.offset)),
            Err(CallError::Refused(Refused::Unknown)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends an upload and deletes its stored bytes.
    pub async fn cancel(&self, at: &UploadAt) -> Result<(), UploadError> {
        let upload = self.close(at).await?;
        Ok(sweep(self.blobs.store(), &at.id, &upload).await?)
    }

    async fn close(&self, at: &UploadAt) -> Result<Upload, CallError> {
        let close = Command::Close { repository: at.repository.clone(), expires: at.state.expires };
        Ok(self.sessions.call(&at.id, close).await?.upload)
    }

    async fn clean_up(&self, at: &UploadAt, upload: &Upload, located: &Located) -> Result<(), UploadError> {
        self.close(at).await?;
        Ok(discard(self.blobs.store(), &at.id, upload, located.at.as_ref()).await?)
    }

    /// Claims the session and writes the full parts of the chunk. The tail is not yet stored.
    async fn write(&self, at: &UploadAt, chunk: Chunk<'_>) -> Result<(Writer, Tail), UploadError> {
        let declared = chunk.range.map(|(_, length)| length);
        if let (Some(declared), Some(received)) = (declared, chunk.body.content_length())
            && declared != received
        {
            return Err(WrongLength { declared, received }.into());
        }
        let begin = Command::Begin {
            repository: at.repository.clone(),
            algorithm: at.state.algorithm,
            offset: chunk.range.map(|(first, _)| first),
            expires: at.state.expires,
        };
        let ledger = Ledger::claim(self.blobs.store().clone(), self.sessions.clone(), at.id, begin).await?;
        let mut writer = Writer::resume(ledger, self.buffers.clone())?;
        let tail = match chunk.body {
            Body::Stream(stream) => writer.write(&mut **stream, declared).await?,
            _ => writer.empty_tail(),
        };
        Ok((writer, tail))
    }
}
