//! The upload session as a pure state machine: `(state, command, now) -> state`.
//!
//! The newest writer wins. A client whose connection was cut comes back long before anybody could know
//! that its old request is dead, so `Begin` always takes over; the writer it replaces learns of it at its
//! next checkpoint, and what it stored since is not counted. It may still be storing parts, so the new
//! writer leaves out the part numbers that the old one could be writing to.

use super::{Checkpoint, Command, Upload, UploadError, chunk::IN_FLIGHT};
use crate::{
    clock::Timestamp,
    oci::{Hasher, RepositoryName},
};

/// A session's memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It can be written to.
    Open(Upload),
    /// It is over. Kept until nobody can present its location any more, so that it is never opened again; what
    /// a writer that did not know may have stored since is removed then.
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

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state to keep.
    pub state: State,
    /// The state to answer with.
    pub upload: Upload,
}

/// Carries a command out.
pub fn apply(state: Option<State>, command: &Command, now: Timestamp) -> Result<Transition, UploadError> {
    let state = match state {
        Some(State::Closed(upload)) if now < upload.expires => return Err(UploadError::Closed),
        Some(State::Open(upload)) if now < upload.expires => Some(upload),
        _ => None,
    };
    let stay = |upload: Upload| Transition { state: State::Open(upload.clone()), upload };
    match command {
        Command::Begin { repository, algorithm, offset, expires } => {
            let mut upload = match state {
                Some(upload) => of_repository(upload, repository)?,
                None if now >= *expires => return Err(UploadError::Unknown),
                None => Upload {
                    repository: repository.clone(),
                    algorithm: *algorithm,
                    offset: 0,
                    hash: Hasher::new(*algorithm).state(),
                    multipart: None,
                    next_part: 1,
                    staged: Vec::new(),
                    epoch: 0,
                    is_claimed: false,
                    expires: *expires,
                },
            };
            if offset.is_some_and(|offset| offset != upload.offset) {
                return Err(UploadError::OutOfOrder { offset: upload.offset });
            }
            if upload.is_claimed && upload.multipart.is_some() {
                upload.next_part = upload.next_part.saturating_add(IN_FLIGHT);
            }
            upload.epoch += 1;
            upload.is_claimed = true;
            Ok(stay(upload))
        }
        Command::Checkpoint(checkpoint) => Ok(stay(advance(of_epoch(state, checkpoint.epoch)?, checkpoint))),
        Command::Release(checkpoint) => {
            let mut upload = advance(of_epoch(state, checkpoint.epoch)?, checkpoint);
            upload.is_claimed = false;
            Ok(stay(upload))
        }
        Command::Status { repository } => {
            Ok(stay(of_repository(state.ok_or(UploadError::Unknown)?, repository)?))
        }
        Command::Finish { epoch } => Ok(stay(of_epoch(state, *epoch)?)),
        Command::Close { repository, expires } => {
            let upload = match state {
                Some(upload) => of_repository(upload, repository)?,
                // Nothing was written yet: there is nothing but the name to close.
                None => {
                    let begin = Command::Begin {
                        repository: repository.clone(),
                        algorithm: crate::oci::Algorithm::Sha256,
                        offset: None,
                        expires: *expires,
                    };
                    apply(None, &begin, now)?.upload
                }
            };
            let closed = Upload { expires: *expires, ..upload.clone() };
            Ok(Transition { state: State::Closed(closed), upload })
        }
    }
}

fn of_repository(upload: Upload, repository: &RepositoryName) -> Result<Upload, UploadError> {
    if upload.repository == *repository { Ok(upload) } else { Err(UploadError::Unknown) }
}

fn of_epoch(state: Option<Upload>, epoch: u32) -> Result<Upload, UploadError> {
    match state {
        None => Err(UploadError::Unknown),
        Some(upload) if upload.epoch != epoch => Err(UploadError::OutOfOrder { offset: upload.offset }),
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
    use crate::{
        oci::Algorithm,
        storage::{MultipartId, Part},
    };
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
        assert_eq!(apply(None, &begin(Some(5)), NOW), Err(UploadError::OutOfOrder { offset: 0 }));
        let upload = open(Some(State::Open(upload.clone())), &Command::Release(checkpoint(&upload, 0, 10)));
        assert!(!upload.is_claimed);
        for offset in [0, 9, 11] {
            let result = apply(Some(State::Open(upload.clone())), &begin(Some(offset)), NOW);
            assert_eq!(result, Err(UploadError::OutOfOrder { offset: 10 }));
        }
        assert_eq!(open(Some(State::Open(upload.clone())), &begin(Some(10))).offset, 10);
        assert_eq!(open(Some(State::Open(upload)), &begin(None)).offset, 10);
    }

    #[test]
    fn the_newest_writer_wins_and_leaves_the_others_part_numbers_alone() {
        let first = open(None, &begin(None));
        let first = open(Some(State::Open(first.clone())), &Command::Checkpoint(checkpoint(&first, 2, 20)));
        assert_eq!((first.offset, first.next_part), (20, 3));
        let second = open(Some(State::Open(first.clone())), &begin(Some(20)));
        assert_eq!(second.next_part, 3 + IN_FLIGHT);
        let late =
            apply(Some(State::Open(second.clone())), &Command::Checkpoint(checkpoint(&first, 1, 10)), NOW);
        assert_eq!(late, Err(UploadError::OutOfOrder { offset: 20 }));
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
            assert_eq!(apply(state.clone(), &command, NOW), Err(UploadError::Unknown));
        }
    }

    #[test]
    fn what_is_closed_stays_closed_until_nobody_can_ask() {
        let state =
            apply(None, &Command::Close { repository: name("a"), expires: LATER }, NOW).unwrap().state;
        for command in [begin(None), Command::Status { repository: name("a") }, Command::Finish { epoch: 1 }]
        {
            assert_eq!(apply(Some(state.clone()), &command, NOW), Err(UploadError::Closed));
        }
        assert_eq!(apply(Some(state), &begin(None), LATER), Err(UploadError::Unknown));
    }

    #[test]
    fn an_expired_session_is_unknown() {
        let state = Some(State::Open(open(None, &begin(None))));
        let status = Command::Status { repository: name("a") };
        assert!(apply(state.clone(), &status, NOW).is_ok());
        assert_eq!(apply(state, &status, LATER), Err(UploadError::Unknown));
    }

    proptest! {
        /// Two writers, interleaved in any way: of the checkpoints that are accepted each starts where the
        /// one before it ended, and no part number is given to both.
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
                    Ok(Transition { state: next, upload }) => {
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
                        prop_assert_eq!(error, UploadError::OutOfOrder { offset: accepted });
                        writers[who] = None;
                    }
                }
            }
        }
    }
}
