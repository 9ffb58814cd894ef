//! The upload session as a pure state machine: `(state, command, now) -> state`.
//!
//! The newest writer wins. A client whose connection was cut reconnects long before its old request is known
//! to be dead, so `Begin` always takes over. The replaced writer is refused at its next checkpoint, and parts
//! that it has stored since are ignored. It may still be storing parts, so the new writer skips the part
//! numbers that the old one could be using.

use super::{Checkpoint, Command, IN_FLIGHT, Refused, Upload};
use crate::{
    oci::{Algorithm, RepositoryName},
    platform::Timestamp,
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

/// Applies a command.
pub fn apply(state: Option<State>, command: &Command, now: Timestamp) -> Result<Transition, Refused> {
    let state = match state {
        Some(State::Closed(upload)) if now < upload.expires => return Err(Refused::Closed),
        Some(State::Open(upload)) if now < upload.expires => Some(upload),
        _ => None,
    };
    let stay = |upload: Upload, rows: Rows| Transition { state: State::Open(upload.clone()), upload, rows };
    let insert = |checkpoint: &Checkpoint| Rows { insert: checkpoint.parts.clone(), ..Rows::default() };
    match command {
        Command::Begin { repository, algorithm, offset, expires } => {
            let upload = begin(state, (repository, *algorithm, *offset, *expires), now)?;
            Ok(stay(upload, Rows::default()))
        }
        Command::Checkpoint(checkpoint) => {
            let upload = advance(of_epoch(state, checkpoint.epoch)?, checkpoint);
            Ok(stay(upload, insert(checkpoint)))
        }
        Command::Release(checkpoint) => {
            let mut upload = advance(of_epoch(state, checkpoint.epoch)?, checkpoint);
            upload.is_claimed = false;
            Ok(stay(upload, insert(checkpoint)))
        }
        Command::Status { repository } => {
            Ok(stay(of_repository(state.ok_or(Refused::Unknown)?, repository)?, Rows::default()))
        }
        Command::Finish { epoch } => {
            Ok(stay(of_epoch(state, *epoch)?, Rows { list: true, ..Rows::default() }))
        }
        Command::Close { repository, expires } => {
            let upload = match state {
                Some(upload) => of_repository(upload, repository)?,
                // Nothing was written: only the id is closed.
                None if now >= *expires => return Err(Refused::Unknown),
                None => Upload::new(repository.clone(), Algorithm::Sha256, *expires),
            };
            let closed = Upload { expires: *expires, ..upload.clone() };
            let rows = Rows { clear: true, ..Rows::default() };
            Ok(Transition { state: State::Closed(closed), upload, rows })
        }
    }
}

/// The state after [`Command::Begin`], which lets the new writer take over.
fn begin(
    state: Option<Upload>,
    (repository, algorithm, offset, expires): (&RepositoryName, Algorithm, Option<u64>, Timestamp),
    now: Timestamp,
) -> Result<Upload, Refused> {
    let mut upload = match state {
        Some(upload) => of_repository(upload, repository)?,
        None if now >= expires => return Err(Refused::Unknown),
        None => Upload::new(repository.clone(), algorithm, expires),
    };
    if offset.is_some_and(|offset| offset != upload.offset) {
        return Err(Refused::OutOfOrder { offset: upload.offset });
    }
    if upload.is_claimed && upload.multipart.is_some() {
        upload.next_part = upload.next_part.saturating_add(IN_FLIGHT);
    }
    upload.epoch += 1;
    upload.is_claimed = true;
    Ok(upload)
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
    let last = checkpoint.parts.iter().map(|part| part.number).max();
    Upload {
        offset: checkpoint.offset,
        hash: checkpoint.hash.clone(),
        multipart: checkpoint.multipart.clone(),
        next_part: last.map_or(upload.next_part, |last| last.saturating_add(1)),
        staged: checkpoint.staged.clone(),
        ..upload
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::{storage::MultipartId, uploads::protocol::golden};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000);
    const LATER: Timestamp = Timestamp(2_000);

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn begin(offset: Option<u64>) -> Command {
        Command::Begin { repository: name("a"), algorithm: Algorithm::Sha256, offset, expires: LATER }
    }

    fn checkpoint(upload: &Upload, parts: u16, bytes: u64) -> Checkpoint {
        Checkpoint {
            epoch: upload.epoch,
            offset: upload.offset + bytes,
            hash: upload.hash.clone(),
            multipart: Some((MultipartId("m".into()), 1)),
            parts: (0..parts).map(|n| Part { number: upload.next_part + n, etag: "e".into() }).collect(),
            staged: Vec::new(),
        }
    }

    fn open(state: Option<State>, command: &Command) -> Upload {
        apply(state, command, NOW).unwrap().upload
    }

    #[test]
    fn a_chunk_must_start_where_the_upload_ends() {
        let upload = open(None, &begin(Some(0)));
        assert_eq!(apply(None, &begin(Some(5)), NOW), Err(Refused::OutOfOrder { offset: 0 }));
        let upload = open(Some(State::Open(upload.clone())), &Command::Release(checkpoint(&upload, 0, 10)));
        assert!(!upload.is_claimed);
        for offset in [0, 9, 11] {
            let result = apply(Some(State::Open(upload.clone())), &begin(Some(offset)), NOW);
            assert_eq!(result, Err(Refused::OutOfOrder { offset: 10 }));
        }
        assert_eq!(open(Some(State::Open(upload.clone())), &begin(Some(10))).offset, 10);
        assert_eq!(open(Some(State::Open(upload)), &begin(None)).offset, 10);
    }

    #[test]
    fn the_newest_writer_wins_and_skips_part_numbers_in_use() {
        let first = open(None, &begin(None));
        let first = open(Some(State::Open(first.clone())), &Command::Checkpoint(checkpoint(&first, 2, 20)));
        assert_eq!((first.offset, first.next_part), (20, 3));
        let second = open(Some(State::Open(first.clone())), &begin(Some(20)));
        assert_eq!(second.next_part, 3 + IN_FLIGHT);
        let late =
            apply(Some(State::Open(second.clone())), &Command::Checkpoint(checkpoint(&first, 1, 10)), NOW);
        assert_eq!(late, Err(Refused::OutOfOrder { offset: 20 }));
        let second = open(Some(State::Open(second.clone())), &Command::Release(checkpoint(&second, 1, 10)));
        assert_eq!((second.offset, second.next_part), (30, 4 + IN_FLIGHT));
    }

    #[test]
    fn a_session_belongs_to_its_repository() {
        let state = Some(State::Open(open(None, &begin(None))));
        for command in [
            Command::Begin {
                repository: name("b"),
                algorithm: Algorithm::Sha256,
                offset: None,
                expires: LATER,
            },
            Command::Status { repository: name("b") },
            Command::Close { repository: name("b"), expires: LATER },
        ] {
            assert_eq!(apply(state.clone(), &command, NOW), Err(Refused::Unknown));
        }
    }

    #[test]
    fn a_closed_session_stays_closed_until_its_locations_expire() {
        let state =
            apply(None, &Command::Close { repository: name("a"), expires: LATER }, NOW).unwrap().state;
        for command in [begin(None), Command::Status { repository: name("a") }, Command::Finish { epoch: 1 }]
        {
            assert_eq!(apply(Some(state.clone()), &command, NOW), Err(Refused::Closed));
        }
        assert_eq!(apply(Some(state), &begin(None), LATER), Err(Refused::Unknown));
    }

    #[test]
    fn each_command_changes_the_right_rows() {
        let first = open(None, &begin(None));
        let state = Some(State::Open(first.clone()));
        let rows = |command: &Command| apply(state.clone(), command, NOW).unwrap().rows;
        let checkpoint = checkpoint(&first, 2, 20);
        let insert = Rows { insert: checkpoint.parts.clone(), ..Rows::default() };
        assert_eq!(rows(&Command::Checkpoint(checkpoint.clone())), insert);
        assert_eq!(rows(&Command::Release(checkpoint)), insert);
        assert_eq!(rows(&Command::Finish { epoch: first.epoch }), Rows { list: true, ..Rows::default() });
        let close = Command::Close { repository: name("a"), expires: LATER };
        assert_eq!(rows(&close), Rows { clear: true, ..Rows::default() });
        for command in [begin(None), Command::Status { repository: name("a") }] {
            assert_eq!(rows(&command), Rows::default());
        }
    }

    #[test]
    fn an_expired_session_is_unknown() {
        let state = Some(State::Open(open(None, &begin(None))));
        let status = Command::Status { repository: name("a") };
        assert!(apply(state.clone(), &status, NOW).is_ok());
        assert_eq!(apply(state, &status, LATER), Err(Refused::Unknown));
    }

    #[test]
    fn states_are_stored_in_the_form_of_every_version() {
        let upload = Upload::new(name("team/app"), Algorithm::Sha256, LATER);
        golden("state-open", &State::Open(upload.clone()));
        golden("state-closed", &State::Closed(upload));
    }

    proptest! {
        /// For any interleaving of two writers, each accepted checkpoint starts where the last one ended, and
        /// no part number is given to both.
        #[test]
        fn no_interleaving_mixes_two_writers(steps in prop::collection::vec((0usize..2, 0u8..4), 1..40)) {
            let mut state: Option<State> = None;
            let mut writers: [Option<Upload>; 2] = [None, None];
            let mut accepted = 0u64;
            let mut owners = std::collections::BTreeMap::new();
            for (who, what) in steps {
                let command = match (&writers[who], what) {
                    (None, _) | (_, 0) => begin(None),
                    (Some(upload), 3) => Command::Release(checkpoint(upload, 0, 1)),
                    (Some(upload), _) => Command::Checkpoint(checkpoint(upload, 1, 1)),
                };
                match apply(state.clone(), &command, NOW) {
                    Ok(Transition { state: next, upload, .. }) => {
                        if let Command::Checkpoint(made) | Command::Release(made) = &command {
                            accepted += 1;
                            prop_assert_eq!(made.offset, accepted);
                            for part in &made.parts {
                                prop_assert!(owners.insert(part.number, upload.epoch).is_none());
                            }
                        }
                        prop_assert_eq!(upload.offset, accepted);
                        state = Some(next);
                        writers[who] = (!matches!(command, Command::Release(_))).then_some(upload);
                    }
                    Err(error) => {
                        prop_assert_eq!(error, Refused::OutOfOrder { offset: accepted });
                        writers[who] = None;
                    }
                }
            }
        }
    }
}
