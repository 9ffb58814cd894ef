//! The upload session as a pure state machine: `(state, command, now) -> state`.
//!
//! The newest writer wins. A client whose connection was cut reconnects long before its old request is known
//! to be dead, so `Begin` always takes over. The replaced writer is refused at its next checkpoint, and parts
//! that it has stored since are ignored. It may still be storing parts, so the new writer skips the part
//! numbers that the old one could be using.

use uuid::Uuid;

use super::{Checkpoint, Command, Refused, Staged, UNRECORDED, Upload};
use crate::{
    oci::{Algorithm, Hasher, RepositoryName},
    platform::{Timestamp, metrics::UploadEvent},
    storage::Part,
};

/// The state of a session.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It accepts chunks.
    Open(Upload),
    /// It has ended. Kept until its last location has expired, so that it is never opened again. Objects that
    /// a late writer has stored since are removed then.
    Closed(Upload),
}

impl State {
    /// The upload, open or not.
    pub fn upload(&self) -> &Upload {
        match self {
            Self::Open(upload) | Self::Closed(upload) => upload,
        }
    }
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state to store.
    pub state: State,
    /// The state to return.
    pub upload: Upload,
    /// The changes to the rows of parts, stored together with the state.
    pub rows: Rows,
    /// Whether to join the parts before the reply: see [`super::join`].
    pub join: bool,
}

/// What a host writes to take back a commit whose parts could not be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    /// The state to restore.
    pub state: State,
    /// The rows to remove, together with that.
    pub remove: Vec<Part>,
}

impl Transition {
    /// Takes a commit back, so that the client can repeat its request with the same last chunk. `None` if there is
    /// nothing to take back: another command has changed the state to `now` since, or this one repeated another, whose
    /// rows are not its own.
    pub fn undo(&self, before: Option<State>, now: Option<&State>) -> Option<Undo> {
        let before = before.filter(|before| *before != self.state && now == Some(&self.state))?;
        Some(Undo { state: before, remove: self.rows.insert.clone() })
    }
}

/// The changes to the rows of parts. A host stores one row per part beside the state, so that no row grows
/// with the blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Remove all of them.
    pub clear: bool,
    /// Add or replace these.
    pub insert: Vec<Part>,
    /// Return all of them, in order.
    pub list: bool,
}

/// What a command that was applied means for the upload, if anything that is counted.
pub fn event(before: Option<&State>, command: &Command, after: &State) -> Option<UploadEvent> {
    match (before, after) {
        (Some(State::Open(_)), State::Closed(upload)) => Some(match upload.finished {
            Some(_) => UploadEvent::Finished,
            None => UploadEvent::Cancelled,
        }),
        (Some(State::Open(old)), State::Open(new)) => {
            let takes_over = matches!(command, Command::Begin { .. }) && old.epoch < new.epoch;
            (takes_over && (old.is_claimed || old.is_cut)).then_some(UploadEvent::Resumed)
        }
        (_, State::Open(_)) => Some(UploadEvent::Opened),
        _ => None,
    }
}

/// Applies a command.
pub fn apply(state: Option<State>, command: &Command, now: Timestamp) -> Result<Transition, Refused> {
    let state = match state {
        Some(State::Closed(upload)) if now < upload.expires => return repeated(upload, command),
        Some(State::Open(upload)) if now < upload.expires => Some(upload),
        _ => None,
    };
    let stay =
        |upload: Upload, rows| Transition { state: State::Open(upload.clone()), upload, rows, join: false };
    let insert = |checkpoint: &Checkpoint| Rows { insert: checkpoint.parts.clone(), ..Rows::default() };
    match command {
        Command::Begin { repository, algorithm, offset, expires, part_size, writer } => {
            let new =
                Upload { part_size: *part_size, ..Upload::new(repository.clone(), *algorithm, *expires) };
            Ok(stay(begin(state, new, *offset, *writer, now)?, Rows::default()))
        }
        Command::First { repository, expires, digest, length, hash, writer } => {
            let writer = Some(*writer);
            if let Some(upload) = state.as_ref().filter(|upload| upload.writer == writer) {
                return Ok(stay(of_repository(upload.clone(), repository)?, Rows::default()));
            }
            let new = Upload::new(repository.clone(), digest.algorithm(), *expires);
            let upload = begin(state, new, Some(0), writer, now)?;
            let staged = Staged { epoch: upload.epoch, length: *length, content: Some(digest.clone()) };
            let upload = Upload {
                offset: *length,
                hash: hash.clone(),
                staged: vec![staged],
                is_claimed: false,
                ..upload
            };
            Ok(stay(upload, Rows::default()))
        }
        Command::Checkpoint(checkpoint) => {
            let upload = of_epoch(state, checkpoint.epoch)?;
            // One that was overtaken, by a later one or by the end of its chunk, changes nothing.
            if !upload.is_claimed || checkpoint.offset < upload.offset {
                return Ok(stay(upload, Rows::default()));
            }
            Ok(stay(advance(upload, checkpoint), insert(checkpoint)))
        }
        Command::Release(checkpoint) => {
            let mut upload = advance(of_epoch(state, checkpoint.epoch)?, checkpoint);
            upload.is_claimed = false;
            upload.is_cut = checkpoint.is_cut;
            Ok(stay(upload, insert(checkpoint)))
        }
        Command::Status { repository } => {
            Ok(stay(of_repository(state.ok_or(Refused::Unknown)?, repository)?, Rows::default()))
        }
        Command::Commit { repository, digest, checkpoint } => {
            let upload = of_repository(state.ok_or(Refused::Unknown)?, repository)?;
            let mut upload = match checkpoint {
                Some(checkpoint) => advance(of_epoch(Some(upload), checkpoint.epoch)?, checkpoint),
                None if upload.is_claimed => take_over(upload),
                None => upload,
            };
            upload.is_claimed = false;
            if digest.algorithm() == upload.algorithm {
                let hasher = Hasher::resume(upload.algorithm, &upload.hash)
                    .map_err(|error| Refused::Storage { message: error.to_string(), retryable: false })?;
                if hasher.finish() != *digest {
                    return Err(Refused::WrongDigest);
                }
            }
            let join = upload.multipart.is_some() && !upload.lacks_last_part();
            let parts = checkpoint.as_ref().map(|checkpoint| checkpoint.parts.clone()).unwrap_or_default();
            let rows = Rows { insert: parts, list: join, ..Rows::default() };
            Ok(Transition { join, ..stay(upload, rows) })
        }
        Command::Finish { epoch } => {
            Ok(stay(of_epoch(state, *epoch)?, Rows { list: true, ..Rows::default() }))
        }
        Command::Close { repository, expires, finished, offset, writer } => {
            let upload = match state {
                Some(upload) => of_repository(upload, repository)?,
                // Nothing was written: only the id is closed.
                None if now >= *expires => return Err(Refused::Unknown),
                None if offset.is_some() => return Err(Refused::Unknown),
                None => Upload::new(repository.clone(), Algorithm::Sha256, *expires),
            };
            if offset.is_some_and(|offset| offset != upload.offset) {
                return Err(Refused::OutOfOrder { offset: upload.offset });
            }
            let (finished, writer) = (finished.clone(), *writer);
            let closed = Upload { expires: *expires, finished, writer, ..upload.clone() };
            let rows = Rows { clear: true, ..Rows::default() };
            Ok(Transition { state: State::Closed(closed), upload, rows, join: false })
        }
    }
}

/// A command to a session that has ended: the answer to an earlier one like it may have been lost.
fn repeated(upload: Upload, command: &Command) -> Result<Transition, Refused> {
    let is_repeated = match command {
        Command::Close { repository, finished, writer, .. } => {
            let is_same = writer.is_some() && *writer == upload.writer;
            *repository == upload.repository
                && (is_same || (finished.is_some() && *finished == upload.finished))
        }
        Command::Commit { repository, digest, .. } => {
            *repository == upload.repository && upload.finished.as_ref() == Some(digest)
        }
        _ => false,
    };
    if !is_repeated {
        return Err(Refused::Closed);
    }
    let rows = Rows::default();
    Ok(Transition { state: State::Closed(upload.clone()), upload, rows, join: false })
}

/// Lets a new writer take over, or begins with `new`.
fn begin(
    state: Option<Upload>,
    new: Upload,
    offset: Option<u64>,
    writer: Option<Uuid>,
    now: Timestamp,
) -> Result<Upload, Refused> {
    let part_size = new.part_size;
    let mut upload = match state {
        Some(upload) => of_repository(upload, &new.repository)?,
        None if now >= new.expires => return Err(Refused::Unknown),
        None => new,
    };
    if upload.is_claimed && writer.is_some() && upload.writer == writer {
        return Ok(upload);
    }
    if offset.is_some_and(|offset| offset != upload.offset) {
        return Err(Refused::OutOfOrder { offset: upload.offset });
    }
    if upload.multipart.is_none() {
        upload.part_size = part_size;
    }
    Ok(Upload { is_claimed: true, is_cut: false, writer, ..take_over(upload) })
}

/// Refuses what the last writer sends from now on, and skips the part numbers that it may still use.
fn take_over(mut upload: Upload) -> Upload {
    if upload.is_claimed && upload.multipart.is_some() {
        // One more for the end of a chunk.
        upload.next_part = upload.next_part.saturating_add(UNRECORDED + 1);
    }
    upload.epoch += 1;
    upload
}

fn of_repository(upload: Upload, repository: &RepositoryName) -> Result<Upload, Refused> {
    if upload.repository == *repository { Ok(upload) } else { Err(Refused::Unknown) }
}

fn of_epoch(state: Option<Upload>, epoch: u32) -> Result<Upload, Refused> {
    match state {
        None => Err(Refused::Unknown),
        Some(upload) if upload.epoch != epoch => Err(Refused::OutOfOrder { offset: upload.offset }),
        Some(upload) => Ok(upload),
    }
}

fn advance(upload: Upload, checkpoint: &Checkpoint) -> Upload {
    let last = checkpoint.parts.iter().chain(&checkpoint.last).map(|part| part.number).max();
    Upload {
        offset: checkpoint.offset,
        hash: checkpoint.hash.clone(),
        multipart: checkpoint.multipart.clone(),
        blob: checkpoint.blob,
        next_part: last.map_or(upload.next_part, |last| last.saturating_add(1).max(upload.next_part)),
        staged: checkpoint.staged.clone(),
        last: checkpoint.last.clone(),
        ..upload
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;
