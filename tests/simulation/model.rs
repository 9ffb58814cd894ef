//! What may be true, by the history of operations: a register for each tag, manifest and blob link of a
//! repository, with every value that some order of the operations explains.
//!
//! An operation takes effect at one moment between its start and its answer. One that failed, or whose answer was
//! lost, may take effect at any time, or never, until the registry has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    clients::{Kind, Operation, Read},
    retention,
    universe::{BLOBS, MANIFESTS, REPOSITORIES, TAGS, UNIVERSE},
};

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// A tag of a repository: the manifest that it points to.
    Tag(usize, usize),
    /// A manifest of a repository.
    Manifest(usize, usize),
    /// A blob of a repository.
    Blob(usize, usize),
}

impl Register {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..REPOSITORIES).flat_map(|repository| {
            let tags = (0..TAGS).map(move |tag| Self::Tag(repository, tag));
            let manifests = (0..MANIFESTS).map(move |manifest| Self::Manifest(repository, manifest));
            tags.chain(manifests).chain((0..BLOBS).map(move |blob| Self::Blob(repository, blob)))
        })
    }
}

/// `None` is absent. A tag that is there has the number of its manifest, anything else 0.
pub type Value = Option<u8>;

/// A value that is there and that no operation wrote.
pub const FOREIGN: u8 = u8::MAX;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// An acknowledged tag is gone, and no deletion explains it.
    TagGone,
    /// A tag points to a manifest that was replaced before.
    TagStale,
    /// A deleted tag is there again.
    TagCameBack,
    /// A tag points to a manifest that the repository does not have.
    TagDangling,
    /// A tag is listed that does not exist.
    TagListed,
    /// An acknowledged manifest is gone, and no deletion explains it.
    ManifestGone,
    /// A deleted manifest is there again.
    ManifestCameBack,
    /// An acknowledged manifest lacks its referrer entry, its catalog entry or its content.
    ManifestIncomplete,
    /// A referrer is listed that does not exist.
    ReferrerListed,
    /// An acknowledged blob is gone, and no deletion explains it.
    BlobGone,
    /// A deleted blob is there again.
    BlobCameBack,
    /// A push was acknowledged for an image whose blobs were not there.
    ImageLacksBlob,
    /// A link lacks its reverse link.
    ReverseLinkMissing,
    /// A read gave what no order of the operations explains.
    UnexplainedRead,
    /// A status that no order of the operations explains.
    UnexplainedStatus,
    /// Something listed could not be read or removed when nothing else was going on.
    NotRemovable,
    /// The registry did not come to rest.
    Stuck,
    /// An acknowledged change has no event.
    EventMissing,
    /// An event of a request that was refused, or of a change that did not happen, or has not happened yet.
    EventOfNothing,
    /// Events of two changes have one id, or those of one change have two.
    EventId,
    /// An immutable tag was moved or deleted.
    ImmutableChanged,
    /// By the sequence of events, something is there that is not, or the other way round.
    EventStale,
    /// An acknowledged manifest lacks its content, or the link or the bytes of a blob.
    ImageBroken,
    /// A blob that was pushed within the grace time is gone, and no deletion explains it.
    BlobCollected,
    /// An image was refused although each of its blobs was pushed within the grace time.
    ImageRefused,
    /// A request or a collection failed, although storage did not.
    Unavailable,
    /// Nothing references it, and it is not collected.
    Garbage,
    /// Retention has dropped what a rule keeps.
    Dropped,
    /// No rule keeps it, and it is not dropped.
    NotDropped,
}

impl Wrong {
    /// Whether something acknowledged is gone.
    pub fn is_loss(self) -> bool {
        matches!(
            self,
            Self::ImageBroken
                | Self::BlobCollected
                | Self::ImageRefused
                | Self::BlobGone
                | Self::ManifestIncomplete
                | Self::ReverseLinkMissing
        )
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub wrong: Wrong,
    pub detail: String,
}

pub fn violation<T>(wrong: Wrong, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { wrong, detail: detail.into() })
}

/// The effect of an operation on a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Set(Value),
    /// Removes this value; leaves others.
    Clear(u8),
}

impl Write {
    fn apply(self, value: Value) -> Value {
        match self {
            Self::Set(value) => value,
            Self::Clear(old) if value == Some(old) => None,
            Self::Clear(_) => value,
        }
    }
}

/// The values that a register may have, each with the operations in flight that have taken effect in it.
#[derive(Default)]
struct History {
    states: BTreeSet<(Value, u32)>,
    /// Operations in flight. Each has the bit of its place.
    open: Vec<Option<(u64, Write)>>,
    /// Operations without an answer.
    loose: Vec<Write>,
    /// Whether it may be absent at any time: what is collected, or dropped.
    vanishes: bool,
}

impl History {
    fn begin(&mut self, operation: u64, write: Write) {
        match self.open.iter_mut().find(|open| open.is_none()) {
            Some(free) => *free = Some((operation, write)),
            None => self.open.push(Some((operation, write))),
        }
    }

    /// Every state after any of the operations in flight and without an answer.
    fn reachable(&self, vanishes: bool) -> BTreeSet<(Value, u32)> {
        let mut reached = self.states.clone();
        let mut new: Vec<(Value, u32)> = reached.iter().copied().collect();
        while let Some((value, applied)) = new.pop() {
            let open = self.open.iter().enumerate().filter_map(|(n, open)| {
                let (_, write) = open.as_ref()?;
                (applied & (1 << n) == 0).then(|| (write.apply(value), applied | 1 << n))
            });
            let loose = self.loose.iter().map(|write| (write.apply(value), applied));
            let vanished = vanishes.then_some((None, applied));
            for state in open.chain(loose).chain(vanished) {
                if reached.insert(state) {
                    new.push(state);
                }
            }
        }
        reached
    }

    fn possible(&self, vanishes: bool) -> BTreeSet<Value> {
        if self.open.iter().all(Option::is_none) && self.loose.is_empty() && !vanishes {
            return self.states.iter().map(|(value, _)| *value).collect();
        }
        self.reachable(vanishes).into_iter().map(|(value, _)| value).collect()
    }

    fn end(&mut self, operation: u64, end: End) {
        let Some(place) =
            self.open.iter().position(|open| open.as_ref().is_some_and(|(id, _)| *id == operation))
        else {
            return;
        };
        let bit = 1 << place;
        let reached = if end == End::Refused { self.states.clone() } else { self.reachable(false) };
        self.states = reached
            .into_iter()
            .filter(|(_, applied)| match end {
                End::Done => applied & bit != 0,
                End::Refused => applied & bit == 0,
                End::Perhaps | End::Lost => true,
            })
            .map(|(value, applied)| (value, applied & !bit))
            .collect();
        if let (Some((_, write)), End::Lost) = (self.open[place].take(), end)
            && !self.loose.contains(&write)
        {
            self.loose.push(write);
        }
    }
}

/// How an operation ended, for one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It took effect.
    Done,
    /// It had no effect.
    Refused,
    /// It may have taken effect, and does so no more.
    Perhaps,
    /// It may have taken effect, and may still do so.
    Lost,
}

/// The values that a register may have had while an operation was in flight.
struct Watch {
    operation: u64,
    register: Register,
    seen: BTreeSet<Value>,
}

/// The answer to an operation.
#[derive(Debug, Clone)]
pub enum Outcome {
    Answer {
        status: u16,
        /// `Docker-Content-Digest`.
        digest: String,
        body: Vec<u8>,
    },
    /// The isolate crashed.
    Lost,
}

impl Outcome {
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            Self::Lost => None,
        }
    }
}

/// The registers, and what was seen of them.
pub struct Model {
    histories: BTreeMap<Register, History>,
    watches: Vec<Watch>,
    immutable: usize,
}

impl Model {
    /// Everything is absent. The first `immutable` tags of the first repository are immutable. If it `collects`, blobs
    /// may go at any time: [`Promises`](crate::promises::Promises) tells which may not. If it `retains`, so may the tags and
    /// manifests of a repository: see [`Retained`](crate::retained::Retained).
    pub fn new(immutable: usize, collects: bool, retains: bool) -> Self {
        let absent = |register| History {
            states: BTreeSet::from([(None, 0)]),
            vanishes: match register {
                Register::Blob(..) => collects,
                Register::Tag(repository, _) | Register::Manifest(repository, _) => {
                    retains && repository == retention::REPOSITORY
                }
            },
            ..History::default()
        };
        Self {
            histories: Register::all().map(|register| (register, absent(register))).collect(),
            watches: Vec::new(),
            immutable,
        }
    }

    /// The immutable tags.
    pub fn immutable(&self) -> impl Iterator<Item = Register> + use<> {
        (0..self.immutable).map(|tag| Register::Tag(0, tag))
    }

    /// From now on, no tag is immutable.
    pub fn lift(&mut self) {
        self.immutable = 0;
    }

    pub fn possible(&self, register: Register) -> BTreeSet<Value> {
        let history = &self.histories[&register];
        history.possible(history.vanishes)
    }

    /// Whether it must be there, unless it was collected or dropped.
    pub fn is_kept(&self, register: Register) -> bool {
        self.histories[&register].possible(false).iter().all(Option::is_some)
    }

    /// It was dropped.
    pub fn vanish(&mut self, register: Register) {
        if self.is_settled(register) {
            self.settle(register, None);
        }
    }

    fn writes(operation: &Operation) -> Vec<(Register, Write)> {
        let Operation { repository, manifest, blob, tags, .. } = operation;
        let (here, gone) = (Write::Set(Some(0)), Write::Set(None));
        let manifest_register = Register::Manifest(*repository, *manifest);
        match operation.kind {
            Kind::PushBlob | Kind::PushInChunks | Kind::Mount | Kind::MountAnywhere => {
                vec![(Register::Blob(*repository, *blob), here)]
            }
            Kind::DeleteBlob => vec![(Register::Blob(*repository, *blob), gone)],
            Kind::DeleteTag => vec![(Register::Tag(*repository, tags[0]), gone)],
            Kind::DeleteManifest => {
                let tags =
                    (0..TAGS).map(|tag| (Register::Tag(*repository, tag), Write::Clear(*manifest as u8)));
                tags.chain([(manifest_register, gone)]).collect()
            }
            Kind::Rebuild | Kind::Read | Kind::Head | Kind::CancelUpload | Kind::Collect | Kind::Retain => {
                Vec::new()
            }
            Kind::PushByTag | Kind::PushByDigest | Kind::PushWithTags | Kind::Retag => {
                let moved = operation.moved_tags().iter();
                let tags =
                    moved.map(|tag| (Register::Tag(*repository, *tag), Write::Set(Some(*manifest as u8))));
                tags.chain([(manifest_register, here)]).collect()
            }
        }
    }

    /// The registers on which the answer depends.
    fn watched(&self, operation: &Operation) -> Vec<Register> {
        let Operation { repository, manifest, blob, tags, read, .. } = operation;
        let immutable = |tags: &[usize]| {
            let tags: Vec<_> = tags.iter().map(|tag| Register::Tag(*repository, *tag)).collect();
            self.immutable().filter(move |tag| tags.contains(tag))
        };
        match operation.kind {
            Kind::Mount => vec![Register::Blob(operation.source(), *blob)],
            Kind::Head => vec![Register::Blob(*repository, *blob)],
            Kind::DeleteBlob => (0..MANIFESTS)
                .filter(|manifest| UNIVERSE.manifests[*manifest].blobs.contains(blob))
                .map(|manifest| Register::Manifest(*repository, manifest))
                .collect(),
            Kind::Read => match read {
                Read::Tag => vec![Register::Tag(*repository, tags[0])],
                Read::Manifest => vec![Register::Manifest(*repository, *manifest)],
                Read::Blob => vec![Register::Blob(*repository, *blob)],
                Read::Tags => (0..TAGS).map(|tag| Register::Tag(*repository, tag)).collect(),
                Read::Referrers => (0..MANIFESTS)
                    .filter(|manifest| UNIVERSE.manifests[*manifest].has_subject)
                    .map(|manifest| Register::Manifest(*repository, manifest))
                    .collect(),
                Read::Catalog => Vec::new(),
            },
            Kind::DeleteTag => immutable(tags).collect(),
            Kind::DeleteManifest => immutable(&Vec::from_iter(0..TAGS)).collect(),
            _ if operation.pushes_manifest() => {
                let blobs = UNIVERSE.manifests[*manifest].blobs.iter();
                let blobs = blobs.map(|blob| Register::Blob(*repository, *blob));
                let children = UNIVERSE.manifests[*manifest].children.iter();
                let children = children.map(|child| Register::Manifest(*repository, *child));
                blobs.chain(children).chain(immutable(operation.moved_tags())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// An operation is sent.
    pub fn begin(&mut self, id: u64, operation: &Operation) {
        for (register, write) in Self::writes(operation) {
            self.histories.get_mut(&register).unwrap().begin(id, write);
            let possible = self.possible(register);
            let watches = self.watches.iter_mut().filter(|watch| watch.register == register);
            watches.for_each(|watch| watch.seen.extend(possible.iter().copied()));
        }
        for register in self.watched(operation) {
            let seen = self.possible(register);
            self.watches.push(Watch { operation: id, register, seen });
        }
    }

    /// A push in flight whose manifest is not there yet must find its blobs after this moment: the deletion of one
    /// of them was acknowledged.
    fn restart_watches(&mut self, blob: Register, is_ahead: impl Fn(u64) -> bool) {
        let possible = self.possible(blob);
        for watch in self.watches.iter_mut().filter(|watch| watch.register == blob) {
            if is_ahead(watch.operation) {
                watch.seen.clone_from(&possible);
            }
        }
    }

    /// An operation is answered, or never will be. If it `is_late`, it may take effect once more: uploads write the
    /// links of blobs without the repository's writer, so that one whose answer was lost may land after a deletion.
    /// `is_ahead` tells whether another operation in flight pushes a
    /// manifest that is not there yet.
    pub fn end(
        &mut self,
        id: u64,
        operation: &Operation,
        outcome: &Outcome,
        is_late: bool,
        is_ahead: impl Fn(u64) -> bool,
    ) -> Result<(), Violation> {
        let (seen, watches): (Vec<Watch>, Vec<Watch>) =
            self.watches.drain(..).partition(|watch| watch.operation == id);
        self.watches = watches;
        let status = outcome.status();
        let is_deletion = matches!(operation.kind, Kind::DeleteTag | Kind::DeleteManifest | Kind::DeleteBlob);
        for (register, write) in Self::writes(operation) {
            let end = match status {
                None | Some(500..) => End::Lost,
                Some(201) => End::Done,
                Some(202) if is_deletion => End::Done,
                // It was gone: either before, or by a first attempt of this very operation.
                Some(404) if is_deletion && matches!(write, Write::Set(_)) => End::Done,
                Some(404) if is_deletion => End::Perhaps,
                _ => End::Refused,
            };
            let history = self.histories.get_mut(&register).unwrap();
            history.end(id, end);
            if is_late && !history.loose.contains(&write) {
                history.loose.push(write);
            }
            if let (Register::Blob(..), Write::Set(None), End::Done) = (register, write, end) {
                self.restart_watches(register, &is_ahead);
            }
        }
        check_answer(operation, outcome, &seen)
    }

    /// Compares a register with the bucket.
    pub fn check(&self, register: Register, found: Value) -> Result<(), Violation> {
        let possible = self.possible(register);
        if possible.contains(&found) {
            return Ok(());
        }
        let wrong = match (register, found) {
            (Register::Tag(..), None) => Wrong::TagGone,
            (Register::Tag(..), Some(_)) if possible.iter().all(Option::is_none) => Wrong::TagCameBack,
            (Register::Tag(..), Some(_)) => Wrong::TagStale,
            (Register::Manifest(..), None) => Wrong::ManifestGone,
            (Register::Manifest(..), Some(_)) => Wrong::ManifestCameBack,
            (Register::Blob(..), None) => Wrong::BlobGone,
            (Register::Blob(..), Some(_)) => Wrong::BlobCameBack,
        };
        violation(wrong, format!("{register:?} is {found:?}, not one of {possible:?}"))
    }

    /// Whether nothing in flight or without an answer may change a register.
    pub fn is_settled(&self, register: Register) -> bool {
        let history = &self.histories[&register];
        history.loose.is_empty() && history.open.iter().all(Option::is_none)
    }

    /// The registry has come to rest: from now on, what is there is there.
    pub fn settle(&mut self, register: Register, found: Value) {
        let history = self.histories.get_mut(&register).unwrap();
        let vanishes = history.vanishes;
        *history = History { states: BTreeSet::from([(found, 0)]), vanishes, ..History::default() };
    }
}

/// Whether some order of the operations explains the answer, by the values seen while it was in flight.
fn check_answer(operation: &Operation, outcome: &Outcome, seen: &[Watch]) -> Result<(), Violation> {
    let Outcome::Answer { status, digest, body } = outcome else { return Ok(()) };
    let wrong = |wrong: Wrong, what: &str| {
        let seen: Vec<_> = seen.iter().map(|watch| (watch.register, &watch.seen)).collect();
        violation(wrong, format!("{what}: {status} {digest} for {:?}, with {seen:?}", operation.line()))
    };
    let may_be = |register: Register, value: Value| {
        seen.iter().any(|watch| watch.register == register && watch.seen.contains(&value))
    };
    let content = || seen.iter().filter(|watch| !matches!(watch.register, Register::Tag(..)));
    let all_there = || content().all(|watch| watch.seen.contains(&Some(0)));
    // The manifests of an index may be absent.
    let mut blobs = content().filter(|watch| matches!(watch.register, Register::Blob(..)));
    let all_perhaps_absent = || content().any(|watch| watch.seen.contains(&None));
    // An immutable tag, by its value.
    let is_held = |holds: &dyn Fn(u8) -> bool| {
        let mut tags = seen.iter().filter(|watch| matches!(watch.register, Register::Tag(..)));
        tags.any(|watch| watch.seen.iter().flatten().any(|manifest| holds(*manifest)))
    };
    let own = operation.manifest as u8;
    match (operation.kind, status) {
        (_, 503) => Ok(()),
        (Kind::PushBlob | Kind::PushInChunks, 201) | (Kind::Rebuild | Kind::Collect | Kind::Retain, 200) => {
            Ok(())
        }
        // The session has ended, or has lost an answer.
        (Kind::PushInChunks | Kind::CancelUpload, 404 | 416) | (Kind::CancelUpload, 204) => Ok(()),
        (Kind::MountAnywhere, 201 | 202) => Ok(()),
        (Kind::Head, 200) if all_there() => Ok(()),
        (Kind::Head, 404) if all_perhaps_absent() => Ok(()),
        (Kind::DeleteTag | Kind::DeleteManifest, 202 | 404) => Ok(()),
        (Kind::DeleteBlob, 202 | 404) => Ok(()),
        (Kind::DeleteTag, 403) if is_held(&|_| true) => Ok(()),
        (Kind::DeleteManifest, 403) if is_held(&|manifest| manifest == own) => Ok(()),
        (Kind::PushByTag | Kind::PushWithTags | Kind::Retag, 403) if is_held(&|manifest| manifest != own) => {
            Ok(())
        }
        // A manifest needs it.
        (Kind::DeleteBlob, 409) if seen.iter().any(|watch| watch.seen.contains(&Some(0))) => Ok(()),
        (Kind::Mount, 201) if all_there() => Ok(()),
        (Kind::Mount, 202) if all_perhaps_absent() => Ok(()),
        (Kind::PushByTag | Kind::PushByDigest | Kind::PushWithTags | Kind::Retag, 201) => {
            if blobs.all(|watch| watch.seen.contains(&Some(0))) {
                Ok(())
            } else {
                wrong(Wrong::ImageLacksBlob, "pushed without its blobs")
            }
        }
        (Kind::PushByTag | Kind::PushByDigest | Kind::PushWithTags | Kind::Retag, 400)
            if all_perhaps_absent() =>
        {
            Ok(())
        }
        (Kind::Read, 200) => match operation.read {
            Read::Tag => {
                let Some(manifest) = UNIVERSE.manifest_of(digest) else {
                    return wrong(Wrong::UnexplainedRead, "no manifest of ours");
                };
                let register = Register::Tag(operation.repository, operation.tags[0]);
                if may_be(register, Some(manifest)) { Ok(()) } else { wrong(Wrong::UnexplainedRead, "stale") }
            }
            Read::Blob if *body != UNIVERSE.blobs[operation.blob].1.as_bytes() => {
                wrong(Wrong::UnexplainedRead, "other bytes")
            }
            Read::Manifest | Read::Blob if all_there() => Ok(()),
            Read::Manifest | Read::Blob => wrong(Wrong::UnexplainedRead, "deleted"),
            Read::Tags | Read::Referrers => {
                let text = String::from_utf8_lossy(body).into_owned();
                for watch in seen {
                    let entry = match watch.register {
                        Register::Tag(_, tag) => format!("\"{}\"", UNIVERSE.tags[tag]),
                        Register::Manifest(_, manifest) => UNIVERSE.manifests[manifest].digest.to_string(),
                        Register::Blob(..) => continue,
                    };
                    let explains = |value: &Value| value.is_some() == text.contains(&entry);
                    if !watch.seen.iter().any(explains) {
                        return wrong(Wrong::UnexplainedRead, &format!("listed wrongly: {entry}"));
                    }
                }
                Ok(())
            }
            Read::Catalog => Ok(()),
        },
        (Kind::Read, 404) => match operation.read {
            Read::Tag | Read::Manifest | Read::Blob | Read::Tags
                if seen.iter().all(|watch| watch.seen.contains(&None)) =>
            {
                Ok(())
            }
            _ => wrong(Wrong::UnexplainedRead, "not found"),
        },
        _ => wrong(Wrong::UnexplainedStatus, "unexpected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Register = Register::Tag(0, 0);

    fn push(manifest: usize) -> Operation {
        Operation { manifest, ..Operation::new(Kind::PushByTag, 0) }
    }

    fn answer(status: u16) -> Outcome {
        Outcome::Answer { status, digest: String::new(), body: Vec::new() }
    }

    /// The model after these steps: an operation begins, or ends with a status (0: never).
    fn after(steps: &[(u64, Result<Operation, u16>)]) -> Model {
        let mut model = Model::new(1, false, false);
        for blob in 0..BLOBS {
            model.settle(Register::Blob(0, blob), Some(0));
        }
        let mut begun = BTreeMap::new();
        for (id, step) in steps {
            match step {
                Ok(operation) => {
                    model.begin(*id, operation);
                    begun.insert(id, operation.clone());
                }
                Err(0) => model.end(*id, &begun[id], &Outcome::Lost, false, |_| false).unwrap(),
                Err(status) => model.end(*id, &begun[id], &answer(*status), false, |_| false).unwrap(),
            }
        }
        model
    }

    #[test]
    fn an_acknowledged_tag_has_its_value() {
        let model = after(&[(1, Ok(push(0))), (1, Err(201)), (2, Ok(push(1))), (2, Err(201))]);
        assert_eq!(model.possible(TAG), BTreeSet::from([Some(1)]));
        assert_eq!(model.check(TAG, None).unwrap_err().wrong, Wrong::TagGone);
        assert_eq!(model.check(TAG, Some(0)).unwrap_err().wrong, Wrong::TagStale);
    }

    #[test]
    fn a_deletion_of_a_replaced_manifest_does_not_explain_that_a_tag_is_gone() {
        let delete = Operation { manifest: 0, ..Operation::new(Kind::DeleteManifest, 0) };
        let start = [(1, Ok(push(0))), (1, Err(201)), (2, Ok(delete)), (3, Ok(push(1)))];
        let both = after(&[&start[..], &[(3, Err(201)), (2, Err(202))]].concat());
        assert_eq!(both.possible(TAG), BTreeSet::from([Some(1)]));
        let one = after(&[&start[..], &[(2, Err(202))]].concat());
        assert_eq!(one.possible(TAG), BTreeSet::from([None, Some(1)]));
    }

    #[test]
    fn an_operation_without_an_answer_may_take_effect_until_all_has_come_to_rest() {
        let delete = Operation::new(Kind::DeleteTag, 0);
        let mut model = after(&[(1, Ok(push(0))), (1, Err(0)), (2, Ok(delete)), (2, Err(202))]);
        assert_eq!(model.possible(TAG), BTreeSet::from([None, Some(0)]));
        model.settle(TAG, None);
        assert_eq!(model.check(TAG, Some(0)).unwrap_err().wrong, Wrong::TagCameBack);
    }

    #[test]
    fn a_refusal_needs_an_immutable_tag() {
        let start = [(1, Ok(push(0))), (1, Err(201))];
        let delete = |kind, manifest| Operation { manifest, ..Operation::new(kind, 0) };
        let other = Operation { tags: vec![1], ..push(1) };
        for (operation, expected) in [
            (push(1), true),
            (push(0), false),
            (other, false),
            (delete(Kind::DeleteTag, 0), true),
            (delete(Kind::DeleteManifest, 0), true),
            (delete(Kind::DeleteManifest, 1), false),
        ] {
            let mut model = after(&[&start[..], &[(2, Ok(operation.clone()))]].concat());
            let end = model.end(2, &operation, &answer(403), false, |_| false);
            assert_eq!(end.is_ok(), expected, "{operation:?}");
            // It has had no effect.
            assert_eq!(model.possible(TAG), BTreeSet::from([Some(0)]));
        }
    }

    #[test]
    fn a_push_needs_blobs_that_were_there_while_it_ran() {
        let delete = Operation::new(Kind::DeleteBlob, 0);
        let mut model = after(&[(1, Ok(delete)), (1, Err(202)), (2, Ok(push(0)))]);
        let wrong = model.end(2, &push(0), &answer(201), false, |_| false).unwrap_err().wrong;
        assert_eq!(wrong, Wrong::ImageLacksBlob);
    }

    #[test]
    fn a_push_that_is_not_there_when_its_blob_is_gone_must_fail() {
        let delete = Operation::new(Kind::DeleteBlob, 0);
        for (is_ahead, found) in [(true, Some(Wrong::ImageLacksBlob)), (false, None)] {
            let mut model = after(&[(1, Ok(delete.clone())), (2, Ok(push(0)))]);
            model.end(1, &delete, &answer(202), false, |_| is_ahead).unwrap();
            let end = model.end(2, &push(0), &answer(201), false, |_| false);
            assert_eq!(end.err().map(|violation| violation.wrong), found);
        }
    }
}
