//! The state machine of a session.

use super::*;
use crate::{storage::MultipartId, uploads::protocol::golden};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000);
const LATER: Timestamp = Timestamp(2_000);

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn begin_in(repository: &str, offset: Option<u64>, writer: Option<Uuid>) -> Command {
    Command::Begin {
        repository: name(repository),
        algorithm: Algorithm::Sha256,
        offset,
        expires: LATER,
        part_size: 8 << 20,
        writer,
    }
}

fn close(repository: &str) -> Command {
    Command::Close {
        repository: name(repository),
        expires: LATER,
        finished: None,
        offset: None,
        writer: None,
    }
}

fn begin(offset: Option<u64>) -> Command {
    begin_in("a", offset, None)
}

fn checkpoint(upload: &Upload, parts: u16, bytes: u64) -> Checkpoint {
    Checkpoint {
        epoch: upload.epoch,
        offset: upload.offset + bytes,
        hash: upload.hash.clone(),
        multipart: Some((MultipartId("m".into()), 1)),
        blob: None,
        last: None,
        parts: (0..parts).map(|n| Part { number: upload.next_part + n, etag: "e".into() }).collect(),
        staged: Vec::new(),
        is_cut: false,
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
    assert_eq!(second.next_part, 3 + UNRECORDED + 1);
    let late = apply(Some(State::Open(second.clone())), &Command::Checkpoint(checkpoint(&first, 1, 10)), NOW);
    assert_eq!(late, Err(Refused::OutOfOrder { offset: 20 }));
    let second = open(Some(State::Open(second.clone())), &Command::Release(checkpoint(&second, 1, 10)));
    assert_eq!((second.offset, second.next_part), (30, 4 + UNRECORDED + 1));
}

#[test]
fn a_session_belongs_to_its_repository() {
    let state = Some(State::Open(open(None, &begin(None))));
    for command in [begin_in("b", None, None), Command::Status { repository: name("b") }, close("b")] {
        assert_eq!(apply(state.clone(), &command, NOW), Err(Refused::Unknown));
    }
}

#[test]
fn a_closed_session_stays_closed_until_its_locations_expire() {
    let state = apply(None, &close("a"), NOW).unwrap().state;
    for command in [begin(None), Command::Status { repository: name("a") }, Command::Finish { epoch: 1 }] {
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
    assert_eq!(rows(&close("a")), Rows { clear: true, ..Rows::default() });
    for command in [begin(None), Command::Status { repository: name("a") }] {
        assert_eq!(rows(&command), Rows::default());
    }
}

fn first(bytes: &[u8], writer: u128) -> Command {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    Command::First {
        repository: name("a"),
        expires: LATER,
        digest: hasher.clone().finish(),
        length: bytes.len() as u64,
        hash: hasher.state(),
        writer: Uuid::from_u128(writer),
    }
}

#[test]
fn a_first_chunk_is_recorded_once_and_only_at_the_start() {
    let state = apply(None, &first(b"abc", 1), NOW).unwrap().state;
    let upload = state.upload().clone();
    assert_eq!((upload.offset, upload.is_claimed), (3, false));
    // The same request once more.
    assert_eq!(apply(Some(state.clone()), &first(b"abc", 1), NOW).unwrap().state, state);
    for other in [first(b"abc", 2), first(b"xyz", 3), begin(Some(0))] {
        assert_eq!(apply(Some(state.clone()), &other, NOW), Err(Refused::OutOfOrder { offset: 3 }));
    }
    assert_eq!(open(Some(state), &begin(Some(3))).staged, upload.staged);
    // A writer that has stored nothing is replaced.
    let waiting = apply(None, &begin(Some(0)), NOW).unwrap().state;
    assert_eq!(open(Some(waiting), &first(b"abc", 1)).offset, 3);
}

#[test]
fn a_repeated_command_changes_nothing() {
    let writer = Some(Uuid::from_u128(1));
    let begin = begin_in("a", Some(0), writer);
    let begun = apply(None, &begin, NOW).unwrap();
    assert_eq!(apply(Some(begun.state.clone()), &begin, NOW).unwrap(), begun);
    // A checkpoint that arrives after the end of its chunk.
    let early = Command::Checkpoint(checkpoint(&begun.upload, 1, 10));
    let release = Command::Release(checkpoint(&begun.upload, 2, 20));
    let released = apply(Some(begun.state), &release, NOW).unwrap().state;
    for late in [early, release] {
        assert_eq!(apply(Some(released.clone()), &late, NOW).unwrap().state, released);
    }
    let end = |finished: Option<&[u8]>, writer: u128| Command::Close {
        repository: name("a"),
        expires: LATER,
        finished: finished.map(|bytes| Algorithm::Sha256.digest(bytes)),
        offset: Some(20),
        writer: Some(Uuid::from_u128(writer)),
    };
    let finished = apply(Some(released.clone()), &end(Some(b"x"), 2), NOW).unwrap().state;
    for (again, is_same) in [
        (end(Some(b"x"), 3), true),
        (end(None, 2), true),
        (end(Some(b"y"), 3), false),
        (end(None, 3), false),
        (commit(b"x"), true),
        (commit(b"y"), false),
    ] {
        let expected = if is_same { Ok(finished.clone()) } else { Err(Refused::Closed) };
        let got = apply(Some(finished.clone()), &again, NOW);
        assert_eq!(got.map(|done| done.state), expected, "{again:?}");
    }
    let shorter = Command::Close {
        repository: name("a"),
        expires: LATER,
        finished: None,
        offset: Some(19),
        writer: None,
    };
    assert_eq!(apply(Some(released), &shorter, NOW), Err(Refused::OutOfOrder { offset: 20 }));
}

fn commit(bytes: &[u8]) -> Command {
    let digest = Algorithm::Sha256.digest(bytes);
    Command::Commit { repository: name("a"), digest, checkpoint: None }
}

#[test]
fn a_commit_checks_the_digest_and_joins_parts() {
    assert_eq!(apply(None, &commit(b"abc"), NOW), Err(Refused::Unknown));
    let state = apply(None, &first(b"abc", 1), NOW).unwrap().state;
    assert_eq!(apply(Some(state.clone()), &commit(b"abd"), NOW), Err(Refused::WrongDigest));
    let done = apply(Some(state), &commit(b"abc"), NOW).unwrap();
    assert!(!done.join && !done.rows.list);
    // Of a writer that is still there, with the end of its chunk.
    let upload = open(None, &begin(Some(0)));
    let mut end = checkpoint(&upload, 1, 3);
    end.hash = first_hash(b"abc");
    end.last = Some(Part { number: 2, etag: "last".into() });
    let command = Command::Commit {
        repository: name("a"),
        digest: Algorithm::Sha256.digest(b"abc"),
        checkpoint: Some(end.clone()),
    };
    let done = apply(Some(State::Open(upload)), &command, NOW).unwrap();
    assert!(done.join && done.rows.list && done.rows.insert == end.parts);
    assert_eq!((done.upload.last, done.upload.next_part), (end.last, 3));
    // Repeated: it joins again, and finds the object.
    assert!(apply(Some(done.state), &command, NOW).unwrap().join);
}

#[test]
fn a_commit_is_taken_back_only_by_the_one_that_made_it() {
    let upload = open(None, &begin(Some(0)));
    let before = State::Open(upload.clone());
    let end = Checkpoint { hash: first_hash(b"abc"), ..checkpoint(&upload, 2, 3) };
    let command = Command::Commit {
        repository: name("a"),
        digest: Algorithm::Sha256.digest(b"abc"),
        checkpoint: Some(end.clone()),
    };
    let made = apply(Some(before.clone()), &command, NOW).unwrap();
    let undo = Undo { state: before.clone(), remove: end.parts };
    assert_eq!(made.undo(Some(before.clone()), Some(&made.state)), Some(undo));
    // Another command came since.
    for now in [Some(&before), None] {
        assert_eq!(made.undo(Some(before.clone()), now), None);
    }
    // Its answer was lost, and it is repeated: the rows belong to the first one.
    let again = apply(Some(made.state.clone()), &command, NOW).unwrap();
    assert_eq!(again.undo(Some(made.state.clone()), Some(&again.state)), None);
}

fn first_hash(bytes: &[u8]) -> crate::oci::HashState {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.state()
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
    /// For any interleaving of two writers and of commits, each accepted checkpoint starts where the last one ended,
    /// and no part number that one may use, recorded or not, is given to another.
    #[test]
    fn no_interleaving_mixes_two_writers(steps in prop::collection::vec((0usize..2, 0u8..6), 1..40)) {
        let mut state: Option<State> = None;
        let mut writers: [Option<Upload>; 2] = [None, None];
        let mut accepted = 0u64;
        let mut recorded = std::collections::BTreeSet::new();
        let mut owners = std::collections::BTreeMap::new();
        for (who, what) in steps {
            let command = match (&writers[who], what) {
                (_, 4) if state.is_some() => commit(b""),
                (None, _) | (_, 0) => begin(None),
                (Some(upload), 3) => Command::Release(checkpoint(upload, 0, 1)),
                (Some(upload), 5) => Command::Commit {
                    repository: name("a"),
                    digest: Algorithm::Sha256.digest(b""),
                    checkpoint: Some(checkpoint(upload, 1, 1)),
                },
                (Some(upload), _) => Command::Checkpoint(checkpoint(upload, 1, 1)),
            };
            match apply(state.clone(), &command, NOW) {
                Ok(Transition { state: next, upload, .. }) => {
                    if let Command::Checkpoint(made)
                    | Command::Release(made)
                    | Command::Commit { checkpoint: Some(made), .. } = &command
                    {
                        accepted += 1;
                        prop_assert_eq!(made.offset, accepted);
                        for part in &made.parts {
                            prop_assert!(recorded.insert(part.number));
                            prop_assert_eq!(*owners.entry(part.number).or_insert(made.epoch), made.epoch);
                        }
                        // A writer that has ended its chunk stores no more.
                        if !upload.is_claimed {
                            owners.retain(|number, epoch| *epoch != made.epoch || *number < upload.next_part);
                        }
                    }
                    // Without a multipart upload, each writer creates one of its own.
                    if upload.is_claimed && upload.multipart.is_some() {
                        for number in upload.next_part..=upload.next_part + UNRECORDED {
                            prop_assert_eq!(*owners.entry(number).or_insert(upload.epoch), upload.epoch);
                        }
                    }
                    prop_assert_eq!(upload.offset, accepted);
                    state = Some(next);
                    writers[who] = upload.is_claimed.then_some(upload);
                }
                Err(error) => {
                    prop_assert_eq!(error, Refused::OutOfOrder { offset: accepted });
                    writers[who] = None;
                }
            }
        }
    }
}

#[test]
fn every_upload_is_opened_once_and_ends_once() {
    use UploadEvent::{Cancelled, Finished, Opened, Resumed};
    let (one, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
    let finished = Command::Close {
        repository: name("a"),
        expires: LATER,
        finished: Some(Algorithm::Sha256.digest(b"")),
        offset: None,
        writer: None,
    };
    let cut =
        |is_cut| move |upload: &Upload| Command::Release(Checkpoint { is_cut, ..checkpoint(upload, 0, 10) });
    let just = |command: Command| move |_: &Upload| command.clone();
    type Step<'a> = (Box<dyn Fn(&Upload) -> Command + 'a>, Option<UploadEvent>);
    let runs: [Vec<Step>; 4] = [
        vec![
            (Box::new(just(begin_in("a", None, one))), Some(Opened)),
            (Box::new(just(begin_in("a", None, one))), None),
            (Box::new(cut(false)), None),
            (Box::new(just(begin_in("a", None, other))), None),
            (Box::new(just(finished.clone())), Some(Finished)),
            (Box::new(just(finished)), None),
        ],
        vec![
            (Box::new(just(begin_in("a", None, one))), Some(Opened)),
            (Box::new(cut(true)), None),
            (Box::new(just(begin_in("a", None, other))), Some(Resumed)),
            (Box::new(cut(false)), None),
            (Box::new(just(begin_in("a", None, one))), None),
            (Box::new(just(close("a"))), Some(Cancelled)),
        ],
        vec![
            (Box::new(just(begin_in("a", None, one))), Some(Opened)),
            (Box::new(just(begin_in("a", None, other))), Some(Resumed)),
        ],
        // Nothing was sent: only the id is closed.
        vec![(Box::new(just(close("a"))), None)],
    ];
    for run in runs {
        let mut state: Option<State> = None;
        for (command, expected) in run {
            let none = Upload::new(name("a"), Algorithm::Sha256, LATER);
            let command = command(state.as_ref().map_or(&none, State::upload));
            let after = apply(state.clone(), &command, NOW).unwrap().state;
            assert_eq!(event(state.as_ref(), &command, &after), expected, "{command:?}");
            state = Some(after);
        }
    }
}
