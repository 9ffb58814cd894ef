//! Uploads: how bytes become a blob.
//!
//! Two ways lead there. When the digest is known before the bytes ([`api::uploads`](crate::api) does this by
//! itself) the store verifies them and no session is involved. Otherwise a session remembers, between
//! requests, how far the upload has come: [`session`] is that memory as a pure state machine, [`chunk`] turns
//! a request's stream into parts of fixed size, [`commit`] makes a blob of them in a time that does not
//! depend on its size.

pub mod chunk;
pub mod commit;
pub mod location;
pub mod memory;
pub mod purge;
pub mod session;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    oci::{Algorithm, HashState, RepositoryName},
    storage::{Key, MultipartId, Part, Path},
};

/// The size of a part, in bytes.
///
/// R2 wants parts of one size, at least 5 MiB, at most 10,000 of them: 8 MiB makes room for blobs of 78 GiB.
/// An upload holds [`chunk::IN_FLIGHT`] parts on their way to storage and one being filled: 24 MiB of the
/// 128 MB that an isolate has, so a few uploads fit at once. A cut connection costs at most one part.
pub const PART_SIZE: usize = 8 * 1024 * 1024;

/// The largest part number R2 takes.
pub const MAX_PARTS: u16 = 10_000;

/// An upload session's name: random, unguessable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(uuid::Uuid);

/// A text that is not an upload's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an upload")]
pub struct InvalidUploadId;

impl UploadId {
    /// A new name.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(s: &str) -> Result<Self, InvalidUploadId> {
        let id = Self(uuid::Uuid::try_parse(s).map_err(|_| InvalidUploadId)?);
        // One session has one name: other spellings of the same number are not it.
        if id.to_string() == s { Ok(id) } else { Err(InvalidUploadId) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of an upload session: how far it has come, and what is stored of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The repository it was started in.
    pub repository: RepositoryName,
    /// What its running hash computes.
    pub algorithm: Algorithm,
    /// How many bytes are safely stored.
    pub offset: u64,
    /// The hash of those bytes, to be resumed.
    pub hash: HashState,
    /// The multipart upload that holds the parts, once there are any, and the epoch it was made in.
    pub multipart: Option<(MultipartId, u32)>,
    /// The number of the next part.
    pub next_part: u16,
    /// Bytes behind the last part that do not fill one: the lengths of what is staged, by epoch.
    pub staged: Vec<Staged>,
    /// Counts the writers. A writer whose epoch is over may not write any more.
    pub epoch: u32,
    /// Whether the writer of this epoch is, as far as we know, still writing.
    pub is_claimed: bool,
    /// When it ends by itself.
    pub expires: Timestamp,
}

/// Bytes put aside until there are enough for a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The epoch that put them aside: names the object.
    pub epoch: u32,
    /// How many, in bytes.
    pub length: u64,
}

impl Upload {
    /// How many bytes are staged.
    pub fn staged_length(&self) -> u64 {
        self.staged.iter().map(|staged| staged.length).sum()
    }

    /// A checkpoint that changes nothing.
    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            epoch: self.epoch,
            offset: self.offset,
            hash: self.hash.clone(),
            multipart: self.multipart.clone(),
            parts: Vec::new(),
            staged: self.staged.clone(),
        }
    }

    /// Where the multipart upload's object is, or will be.
    pub fn object(&self, id: &UploadId) -> Option<Path> {
        self.multipart.as_ref().map(|(_, epoch)| Key::Upload(id, *epoch).path())
    }
}

/// What a session can be told.
///
/// A writer claims the session with `Begin`, stores parts by itself, and reports each with `Checkpoint`;
/// `Release` ends its chunk. Every command but `Begin` of a writer carries the epoch it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Claim the right to write the next chunk, making the session if there is none.
    Begin {
        /// The repository of the request.
        repository: RepositoryName,
        /// What a new session's hash computes.
        algorithm: Algorithm,
        /// Where the chunk starts, when the client says so.
        offset: Option<u64>,
        /// When a new session ends by itself.
        expires: Timestamp,
    },
    /// Parts are stored.
    Checkpoint(Checkpoint),
    /// The chunk is stored.
    Release(Checkpoint),
    /// How far has it come?
    Status {
        /// The repository of the request.
        repository: RepositoryName,
    },
    /// Name the parts, so that they can be joined.
    Finish {
        /// The writer's epoch.
        epoch: u32,
    },
    /// It is over: completed, cancelled, or its content was wrong. The name is never used again.
    Close {
        /// The repository of the request.
        repository: RepositoryName,
        /// Until when the name could be tried again.
        expires: Timestamp,
    },
}

/// How far a writer has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The writer's epoch.
    pub epoch: u32,
    /// How many bytes are safely stored now.
    pub offset: u64,
    /// The hash of those bytes.
    pub hash: HashState,
    /// The multipart upload.
    pub multipart: Option<(MultipartId, u32)>,
    /// The parts stored since the last checkpoint.
    pub parts: Vec<Part>,
    /// What is staged now.
    pub staged: Vec<Staged>,
}

/// What a session answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The state that the command left behind, or found, where it ended the session.
    pub upload: Upload,
    /// The names of all parts, in order: only for [`Command::Finish`].
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// Why a session refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum UploadError {
    /// There is none, it has expired, or it belongs to another repository.
    #[error("there is no such upload: start a new one")]
    Unknown,
    /// It was completed or cancelled.
    #[error("the upload is completed or cancelled: start a new one")]
    Closed,
    /// The chunk does not start where the upload ends, or another writer has taken over.
    #[error("the next chunk must start at byte {offset}")]
    OutOfOrder {
        /// How many bytes are stored.
        offset: u64,
    },
}

/// Why a command has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The session refuses.
    #[error(transparent)]
    Refused(#[from] UploadError),
    /// The session cannot be reached, or does not understand: nothing is known of what happened.
    #[error("the upload session cannot be reached: {0}")]
    Unreachable(String),
}

/// Where the sessions live.
pub trait UploadSessions {
    /// Tells a session something. Commands to one session happen one after the other, each whole or not.
    async fn call(&self, id: &UploadId, command: Command) -> Result<Reply, CallError>;
}
