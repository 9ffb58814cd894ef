//! The protocol between a request and the writer of a repository: commands, replies, and the intents that the
//! writer keeps.
//!
//! During a deployment, a worker of one version calls a writer of another, and an intent outlives its version: as in
//! [`crate::uploads::protocol`], messages and intents only grow.

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    events::Origin,
    oci::{Digest, Glob, RepositoryName, Tag},
    platform::Timestamp,
};

/// A manifest whose content is stored, as its links describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its digest.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// The manifest that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Its signatures, which are stored and are added to those that it has. A writer of an earlier version ignores them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Digest>,
}

/// What a repository has of a manifest that is pushed, when its content has been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its content only.
    New,
    /// Its link too. Of the rest, some may be missing.
    Linked,
    /// Everything but its new tags: this isolate has pushed it.
    Complete,
}

/// What a repository's manifests may refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Of how many bytes.
    pub bytes: u64,
    /// What a manifest mentions, besides the blobs that it needs: the collection keeps all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<Digest>,
}

/// What was seen of a tag when its deletion was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The manifest that it pointed to.
    pub digest: Digest,
    /// When it was pointed there.
    pub pushed: Timestamp,
}

/// A change of a repository. Every command can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Links a manifest whose content is stored, and points tags to it.
    Push {
        /// The manifest.
        entry: Entry,
        /// The tags.
        tags: Vec<Tag>,
        /// The blobs that it needs. The repository had them when the command was sent, unless they may be missing.
        blobs: Vec<Digest>,
        /// What the repository had of the manifest when the command was sent.
        stage: Stage,
        /// The content of its entry in the referrers of its subject.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        referrer: Option<String>,
        /// The patterns of tags that cannot be moved or deleted. A writer of an earlier version ignores them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        immutable: Vec<Glob>,
        /// When the content was [held](crate::blobs::Blobs::hold).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held: Option<Timestamp>,
        /// `None` if there is no quota. A writer of an earlier version ignores it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quota: Option<Quota>,
        /// The blobs that the repository did not have when the command was sent, if they may be missing. A writer of an
        /// earlier version refuses the manifest if one of them was removed before that.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<Digest>,
        /// The manifests of an index, unless they may be missing: retention must not have dropped them meanwhile. A writer
        /// of an earlier version ignores them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        children: Vec<Digest>,
    },
    /// Writes the index entries of a manifest, if the repository has it.
    Index {
        /// The manifest.
        entry: Entry,
        /// The tags that are to be found by it, if they point to it. A writer of an earlier version ignores them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<Tag>,
        /// As in a push.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        referrer: Option<String>,
    },
    /// Deletes a manifest, its tags, and its entry in the referrers of `subject`.
    DeleteManifest {
        /// The manifest.
        digest: Digest,
        /// The subject in its content.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Digest>,
        /// There was no content when the command was sent: the subject is not known.
        #[serde(default)]
        lacks_content: bool,
        /// It may have signatures. A writer of an earlier version leaves their links.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_be_signed: bool,
        /// As in a push.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        immutable: Vec<Glob>,
        /// Only if nothing needs it: nothing did at this time, and nothing that was pushed since does. A writer of an earlier
        /// version ignores it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unused_since: Option<Timestamp>,
    },
    /// Deletes a tag.
    DeleteTag {
        /// The tag.
        tag: Tag,
        /// As in a push.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        immutable: Vec<Glob>,
        /// Only if the tag is still as it was seen. A writer of an earlier version ignores it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seen>,
    },
    /// Removes the link to a blob.
    DeleteBlob {
        /// The blob.
        digest: Digest,
    },
    /// Removes condemned links to layers that no manifest names.
    CollectBlobs {
        /// The layers. No manifest named one when the command was sent.
        digests: Vec<Digest>,
        /// When the manifests were listed that were looked through.
        scanned: Timestamp,
    },
    /// Removes those of the links to signatures of a manifest of schema 1 that lead nowhere.
    CollectSignatures {
        /// The manifest, which may be gone.
        manifest: Digest,
        /// The signatures.
        signatures: Vec<Digest>,
    },
    /// Corrects what is counted for a quota. It changes nothing in the bucket, and waits for no turn.
    Count {
        /// Manifests, and blobs that manifests name, with their sizes in bytes.
        named: Vec<(Digest, u64)>,
        /// When the collection began to look through the manifests.
        scanned: Timestamp,
        /// Whether these are the last ones: what was not named, and not pushed since, is not counted any more.
        is_whole: bool,
    },
    /// Closes the repository: pushes are refused until it is reopened. Nothing to do if this removal has closed it.
    Close {
        /// The removal that closes it.
        removal: Uuid,
    },
    /// Deletes some of what is left of a closed repository beside the links of layers: see
    /// [`Stored::clear`](crate::repository::stored::Stored).
    Clear,
    /// Deletes the catalog entry of a repository without manifests, and lets pushes in again.
    Reopen {
        /// The removal that has closed it.
        removal: Uuid,
    },
}

/// A call of a writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The change.
    pub command: Command,
    /// Where it comes from; `None` if it is not to be told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Only while the repository is closed by this removal: of one that is over, no call may come late. A writer of an
    /// earlier version ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Uuid>,
}

impl From<Command> for Call {
    fn from(command: Command) -> Self {
        Self { command, origin: None, removal: None }
    }
}

/// The answer of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The change is made.
    Done,
    /// The repository does not have what the command names, or not as it was seen. Nothing has changed.
    Absent,
}

/// The reason of a writer not to carry out a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// The repository lacks these blobs of a manifest. Nothing has changed.
    #[error("the repository lacks blobs of the manifest")]
    BlobsMissing(Vec<Digest>),
    /// An immutable tag would be moved or deleted, or lose its manifest. Nothing has changed.
    #[error("the tag {tag} is immutable and refers to {digest}")]
    Immutable {
        /// The tag.
        tag: Tag,
        /// The manifest that it points to.
        digest: Digest,
    },
    /// The repository's manifests would refer to more than its quota. Nothing has changed.
    #[error("{repository} would refer to {bytes} bytes, and its quota is {quota} bytes")]
    OverQuota {
        /// The repository.
        repository: RepositoryName,
        /// What they would refer to, in bytes.
        bytes: u64,
        /// The quota, in bytes.
        quota: u64,
    },
    /// The content of a manifest was being deleted when it was stored. It can be stored again now.
    #[error("the content of the manifest was deleted meanwhile")]
    ContentGone,
    /// The repository is being removed. Nothing has changed.
    #[error("the repository is being removed")]
    Removing,
    /// An administrator has taken the content of the manifest down. Nothing was linked.
    #[error("the content was taken down")]
    TakenDown,
    /// The change, or one that must be finished first, is larger than a request. The writer goes on with it.
    #[error("the deletion of a manifest with many tags goes on")]
    GoesOn,
    /// The change is not finished: storage failed, or another change must be finished first. The writer goes on
    /// with what it has begun.
    #[error("{0}")]
    Busy(String),
}

/// A failed call to a writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The writer refused the command.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The writer cannot be reached. It may have carried out the command.
    #[error("the writer of the repository cannot be reached: {0}")]
    Unreachable(String),
}

impl CallError {
    /// The result of a call, of which an earlier attempt may have been carried out if `is_repeated`.
    pub fn from_reply(reply: Result<Reply, Refused>, is_repeated: bool) -> Result<Reply, Self> {
        match reply {
            // The first attempt has removed it.
            Ok(Reply::Absent) if is_repeated => Ok(Reply::Done),
            // The first attempt may have been a push, and a blob may have been deleted since; or a deletion, and its
            // manifest may have been pushed since, under an immutable tag.
            Err(Refused::BlobsMissing(_) | Refused::Immutable { .. } | Refused::Removing) if is_repeated => {
                Err(Self::Unreachable("the answer to the first attempt was lost".to_owned()))
            }
            reply => Ok(reply?),
        }
    }
}

/// The client of writers, one for each repository.
pub trait Writers {
    /// Names this deployment: the writers of two deployments cannot order each other's changes.
    fn deployment(&self) -> Result<String, CallError>;

    /// Sends a command. Commands about the same manifest, tag or blob are carried out one after another.
    fn call<'a>(
        &'a self,
        repository: &'a RepositoryName,
        call: Call,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>>;
}

/// How far a deletion has listed the tags of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cursor {
    /// Not yet.
    #[default]
    Start,
    /// Up to this path.
    After(String),
    /// To the end.
    End,
}

/// A change that a writer has begun: what is needed to finish it after a restart. Content is not part of it, it is
/// read again by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// See [`Command::Push`].
    Push {
        /// The manifest.
        entry: Entry,
        /// The tags to point to it.
        tags: Vec<Tag>,
    },
    /// See [`Command::Index`].
    Index {
        /// The manifest.
        entry: Entry,
        /// The tags.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<Tag>,
    },
    /// See [`Command::DeleteManifest`].
    DeleteManifest {
        /// The manifest.
        digest: Digest,
        /// Its subject.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Digest>,
        /// It may have signatures.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_be_signed: bool,
        /// It is deleted because nothing needs it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_unused: bool,
        /// Where the listing of tags goes on, after those below.
        #[serde(default)]
        cursor: Cursor,
        /// The tags that are being deleted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<Tag>,
    },
    /// See [`Command::DeleteTag`].
    DeleteTag {
        /// The tag.
        tag: Tag,
    },
    /// See [`Command::DeleteBlob`].
    DeleteBlob {
        /// The blob.
        digest: Digest,
    },
    /// See [`Command::CollectBlobs`].
    CollectBlobs {
        /// The layers.
        digests: Vec<Digest>,
    },
    /// See [`Command::CollectSignatures`].
    CollectSignatures {
        /// The manifest.
        manifest: Digest,
        /// The signatures.
        signatures: Vec<Digest>,
    },
    /// See [`Command::Close`]. Its record stays until the repository is reopened.
    Close {
        /// The removal.
        removal: Uuid,
    },
    /// See [`Command::Clear`].
    Clear,
    /// See [`Command::Reopen`].
    Reopen {
        /// The removal.
        removal: Uuid,
    },
}

impl Command {
    /// What to remember of the command until it is carried out; `None` if it changes nothing in the bucket.
    pub fn intent(&self) -> Option<Intent> {
        Some(match self {
            Self::Push { entry, tags, .. } => Intent::Push { entry: entry.clone(), tags: tags.clone() },
            Self::Index { entry, tags, .. } => Intent::Index { entry: entry.clone(), tags: tags.clone() },
            Self::DeleteManifest { digest, subject, may_be_signed, unused_since, .. } => {
                Intent::DeleteManifest {
                    digest: digest.clone(),
                    subject: subject.clone(),
                    may_be_signed: *may_be_signed,
                    is_unused: unused_since.is_some(),
                    cursor: Cursor::Start,
                    tags: Vec::new(),
                }
            }
            Self::DeleteTag { tag, .. } => Intent::DeleteTag { tag: tag.clone() },
            Self::DeleteBlob { digest } => Intent::DeleteBlob { digest: digest.clone() },
            Self::CollectBlobs { digests, .. } => Intent::CollectBlobs { digests: digests.clone() },
            Self::CollectSignatures { manifest, signatures } => {
                Intent::CollectSignatures { manifest: manifest.clone(), signatures: signatures.clone() }
            }
            Self::Close { removal } => Intent::Close { removal: *removal },
            Self::Clear => Intent::Clear,
            Self::Reopen { removal } => Intent::Reopen { removal: *removal },
            Self::Count { .. } => return None,
        })
    }
}

/// How far an intent has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Some of its writes may be missing.
    Open,
    /// All its writes are made, but the answer to one was lost: that one may land until then, and is looked for then.
    Resting(Timestamp),
    /// It is finished. What it has removed is remembered until then.
    Finished(Timestamp),
}

/// An intent as a writer stores it, under its number in the order of the repository's changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The repository.
    pub repository: RepositoryName,
    /// The change.
    pub intent: Intent,
    /// How far it has come.
    pub phase: Phase,
    /// Where it comes from, until its events are sent; `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}
