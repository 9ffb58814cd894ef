//! The protocol between a request and an upload session: commands and replies.
//!
//! During a deployment, a worker of one version calls a session of another, and a session outlives many
//! deployments. So messages and states only grow: a new field has a `#[serde(default)]`, nothing is renamed
//! or reused, and a new command is sent only one release after sessions support it.
//! `tests/registry/golden/sessions` holds a document for each message; a change that breaks one of them
//! breaks a deployment.

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::PART_SIZE;
use crate::{
    layout::Key,
    oci::{Algorithm, Digest, HashState, Hasher, RepositoryName, UploadId},
    platform::Timestamp,
    storage::{MultipartId, Part, Path},
};

/// The state of an upload: its length and its stored parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The repository it was started in.
    pub repository: RepositoryName,
    /// The algorithm of the running hash.
    pub algorithm: Algorithm,
    /// The number of bytes safely stored.
    pub offset: u64,
    /// The running hash of those bytes.
    pub hash: HashState,
    /// The multipart upload that holds the parts, if there are any, and the epoch that created it.
    pub multipart: Option<(MultipartId, u32)>,
    /// The [`Key::Blob`] of the multipart upload's object. Sessions of earlier versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Uuid>,
    /// The size of its parts, in bytes.
    #[serde(default = "default_part_size", skip_serializing_if = "is_default_part_size")]
    pub part_size: u32,
    /// The number of the next part.
    pub next_part: u16,
    /// The bytes after the last part, which do not fill one.
    pub staged: Vec<Staged>,
    /// A part with the staged bytes: the last one, if the upload ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Part>,
    /// Counts the writers. Writers of earlier epochs are refused.
    pub epoch: u32,
    /// Whether the writer of this epoch may still be writing.
    pub is_claimed: bool,
    /// Whether the last chunk broke off.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_cut: bool,
    /// The request that changed the session last: its repeated command changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Uuid>,
    /// The blob that the upload became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Digest>,
    /// Expiry of the session.
    pub expires: Timestamp,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn default_part_size() -> u32 {
    PART_SIZE as u32
}

fn is_default_part_size(size: &u32) -> bool {
    *size == default_part_size()
}

/// Bytes stored until there are enough for a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The epoch that staged them; part of the object's key.
    pub epoch: u32,
    /// Their length, in bytes.
    pub length: u64,
    /// Their digest, if they are stored under it as content: an upload's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
}

impl Staged {
    /// The path of the bytes.
    pub fn path(&self, id: &UploadId) -> Path {
        match &self.content {
            Some(digest) => Key::Data(digest).path(),
            None => Key::Staged(id, self.epoch).path(),
        }
    }
}

impl Upload {
    /// An upload without bytes or writers.
    pub(super) fn new(repository: RepositoryName, algorithm: Algorithm, expires: Timestamp) -> Self {
        Self {
            repository,
            algorithm,
            offset: 0,
            hash: Hasher::new(algorithm).state(),
            multipart: None,
            blob: None,
            part_size: default_part_size(),
            next_part: 1,
            staged: Vec::new(),
            last: None,
            epoch: 0,
            is_claimed: false,
            is_cut: false,
            writer: None,
            finished: None,
            expires,
        }
    }

    /// The number of staged bytes.
    pub fn staged_length(&self) -> u64 {
        self.staged.iter().map(|staged| staged.length).sum()
    }

    /// Whether the bytes after the last full part are staged only: they must become a part before the join.
    pub(super) fn lacks_last_part(&self) -> bool {
        self.multipart.is_some() && !self.staged.is_empty() && self.last.is_none()
    }

    /// Whether the bytes so far have this digest; `false` if it has another algorithm than the session's hash.
    pub(super) fn has_digest(&self, digest: &Digest) -> bool {
        let hasher = Hasher::resume(self.algorithm, &self.hash);
        digest.algorithm() == self.algorithm && hasher.is_ok_and(|hasher| hasher.finish() == *digest)
    }

    /// A no-op checkpoint.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            epoch: self.epoch,
            offset: self.offset,
            hash: self.hash.clone(),
            multipart: self.multipart.clone(),
            blob: self.blob,
            parts: Vec::new(),
            staged: self.staged.clone(),
            last: self.last.clone(),
            is_cut: false,
        }
    }

    /// The path of the multipart upload's object.
    pub fn object(&self, id: &UploadId) -> Option<Path> {
        let (_, epoch) = self.multipart.as_ref()?;
        Some(self.blob.map_or_else(|| Key::Upload(id, *epoch).path(), |blob| Key::Blob(blob).path()))
    }
}

/// A command to a session.
///
/// A writer claims the session with `Begin`, stores parts itself, and records them with `Checkpoint`;
/// `Release` ends its chunk. These carry the epoch that `Begin` returned, as does `Finish`. `First` does all of
/// it for a first chunk smaller than a part. `Commit` joins the parts.
///
/// A command may be repeated: its answer may have been lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Claim the right to write the next chunk. Creates the session if there is none.
    Begin {
        /// The repository of the request.
        repository: RepositoryName,
        /// The algorithm of a new session's hash.
        algorithm: Algorithm,
        /// The first byte of the chunk, if the client sends it.
        offset: Option<u64>,
        /// Expiry of a new session.
        expires: Timestamp,
        /// Size of the parts of a new session, in bytes.
        #[serde(default = "default_part_size", skip_serializing_if = "is_default_part_size")]
        part_size: u32,
        /// The request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        writer: Option<Uuid>,
    },
    /// Record a first chunk that is smaller than a part, and stored under its digest.
    First {
        /// The repository of the request.
        repository: RepositoryName,
        /// Expiry of the session.
        expires: Timestamp,
        /// The digest of the chunk; its algorithm is that of the session's hash.
        digest: Digest,
        /// Its length, in bytes.
        length: u64,
        /// Its hash.
        hash: HashState,
        /// The request.
        writer: Uuid,
    },
    /// Record stored parts.
    Checkpoint(Checkpoint),
    /// Record the last parts and staged bytes of a chunk, and end it.
    Release(Checkpoint),
    /// Read the state.
    Status {
        /// The repository of the request.
        repository: RepositoryName,
    },
    /// Check the digest and join the parts, if there are any.
    Commit {
        /// The repository of the request.
        repository: RepositoryName,
        /// The digest of the blob. If its algorithm is not the session's, it is not checked.
        digest: Digest,
        /// The end of the last chunk, if the request has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<Checkpoint>,
    },
    /// List the parts to join. Workers of earlier versions send it.
    Finish {
        /// The writer's epoch.
        epoch: u32,
    },
    /// End the session after completion, cancellation or wrong content. The id is never used again.
    Close {
        /// The repository of the request.
        repository: RepositoryName,
        /// Expiry of the last location of this id.
        expires: Timestamp,
        /// The blob that the upload became. Ending it once more for the same blob succeeds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        finished: Option<Digest>,
        /// The length that the upload must have, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// The request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        writer: Option<Uuid>,
    },
}

/// The progress of a writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The writer's epoch.
    pub epoch: u32,
    /// The number of bytes safely stored.
    pub offset: u64,
    /// The running hash of those bytes.
    pub hash: HashState,
    /// The multipart upload.
    pub multipart: Option<(MultipartId, u32)>,
    /// The [`Key::Blob`] of its object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Uuid>,
    /// The parts stored since the last checkpoint.
    pub parts: Vec<Part>,
    /// The bytes staged.
    pub staged: Vec<Staged>,
    /// A part with the staged bytes, to be the last one if the upload ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Part>,
    /// Whether the chunk broke off.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_cut: bool,
}

/// A session's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The state after the command; for `Close`, the state before it.
    pub upload: Upload,
    /// All parts in order, for [`Command::Finish`] only.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// A session's refusal of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum Refused {
    /// There is no such session, it has expired, or it belongs to another repository.
    #[error("there is no such upload: start a new one")]
    Unknown,
    /// It was completed or cancelled.
    #[error("the upload is completed or cancelled: start a new one")]
    Closed,
    /// The chunk does not start at the end of the upload, or another writer has taken over.
    #[error("the next chunk must start at byte {offset}")]
    OutOfOrder {
        /// The number of bytes safely stored.
        offset: u64,
    },
    /// The content does not have the digest of [`Command::Commit`].
    #[error("the uploaded content does not have the digest")]
    WrongDigest,
    /// The session could not join the parts.
    #[error("the parts cannot be joined: {message}")]
    Storage {
        /// The store's message.
        message: String,
        /// Whether the same command may succeed later.
        retryable: bool,
    },
}

/// A failed call to a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The session refused the command.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The session cannot be reached, or does not support the command. It may have executed the command.
    #[error("the upload session cannot be reached: {0}")]
    Unreachable(String),
}

/// The client of upload sessions. Repeats a call whose session was out of reach for a moment.
pub trait UploadSessions {
    /// The id of a new session. Costs no call.
    fn new_id(&self) -> Result<UploadId, CallError>;

    /// Sends a command. Commands to one session are executed one after another, each atomically.
    fn call<'a>(&'a self, id: &'a UploadId, command: Command)
    -> LocalBoxFuture<'a, Result<Reply, CallError>>;
}

/// Compares a message with its golden document; `UPDATE_GOLDEN=1` writes it.
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn golden<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    name: &str,
    value: &T,
) {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/registry/golden/sessions/{name}.json"));
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}: incompatible with sessions of other versions");
    // A session of a newer version may add fields.
    let mut newer: serde_json::Value = serde_json::from_str(&golden).unwrap();
    if let Some(ok) = newer.get_mut("Ok") {
        ok["added_later"] = 1.into();
    }
    assert_eq!(&serde_json::from_value::<T>(newer).unwrap(), value, "{name}");
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;
