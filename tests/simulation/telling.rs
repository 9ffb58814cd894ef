//! The events that must have been told, and those that may.
//!
//! An event is told when the queue or the outbox has it. Each names the operation that has caused it by the id of the
//! request.

use std::collections::{BTreeMap, BTreeSet};

use pierhead::{
    events::{Action, Event},
    layout::Key,
    oci::media_type,
};
use uuid::Uuid;

use crate::{
    clients::{Kind, Operation},
    coverage::{self, Coverage},
    inspect,
    model::{Model, Register, Value, Violation, Wrong, violation},
    store::Bucket,
    universe::UNIVERSE,
};

/// What an event says. Everything by its number, within the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Pushed { manifest: usize, tag: Option<usize> },
    ManifestDeleted(usize),
    TagDeleted(usize),
    BlobPushed(usize),
    BlobMounted { blob: usize, from: usize },
    BlobDeleted(usize),
    Pulled,
}

impl Said {
    /// The repository of an event, and what it says; `None` if that is nothing of ours.
    fn by(event: &Event) -> Option<(usize, Self)> {
        let target = &event.target;
        let repository_of = |name| UNIVERSE.repositories.iter().position(|other| other == name);
        let repository = repository_of(&target.repository)?;
        let tag = match &target.tag {
            Some(tag) => Some(UNIVERSE.tags.iter().position(|other| other == tag)?),
            None => None,
        };
        let Some(digest) = &target.digest else {
            return (event.action == Action::Delete).then_some((repository, Self::TagDeleted(tag?)));
        };
        let manifest = UNIVERSE.manifests.iter().position(|manifest| manifest.digest == *digest);
        let blob = UNIVERSE.blobs.iter().position(|blob| blob.0 == *digest);
        let of = |what: &str, size: usize| {
            target.media_type.as_deref() == Some(what)
                && target.size == Some(size as u64)
                && target.length == target.size
        };
        let is_manifest =
            |n: usize| of(UNIVERSE.manifests[n].media_type, UNIVERSE.manifests[n].content.len());
        let is_blob = |n: usize| of(media_type::OCTET_STREAM, UNIVERSE.blobs[n].1.len());
        let said = match (event.action, manifest, blob) {
            (Action::Push, Some(manifest), _) if is_manifest(manifest) => Self::Pushed { manifest, tag },
            (Action::Push, _, Some(blob)) if is_blob(blob) => Self::BlobPushed(blob),
            (Action::Mount, _, Some(blob)) if is_blob(blob) => {
                Self::BlobMounted { blob, from: repository_of(target.from_repository.as_ref()?)? }
            }
            (Action::Delete, Some(manifest), _) if tag.is_none() => Self::ManifestDeleted(manifest),
            (Action::Delete, _, Some(blob)) => Self::BlobDeleted(blob),
            (Action::Pull, ..) => Self::Pulled,
            _ => return None,
        };
        Some((repository, said))
    }

    /// What an operation says if it succeeds.
    fn of(operation: &Operation) -> BTreeSet<Self> {
        let Operation { manifest, blob, tags, .. } = operation;
        let (manifest, blob) = (*manifest, *blob);
        match operation.kind {
            Kind::PushBlob | Kind::PushInChunks => BTreeSet::from([Self::BlobPushed(blob)]),
            Kind::Mount => BTreeSet::from([Self::BlobMounted { blob, from: operation.source() }]),
            Kind::DeleteTag => BTreeSet::from([Self::TagDeleted(tags[0])]),
            Kind::DeleteManifest => BTreeSet::from([Self::ManifestDeleted(manifest)]),
            Kind::DeleteBlob => BTreeSet::from([Self::BlobDeleted(blob)]),
            Kind::Rebuild
            | Kind::Read
            | Kind::CancelUpload
            | Kind::MountAnywhere
            | Kind::Head
            | Kind::Collect
            | Kind::Retain => BTreeSet::new(),
            Kind::PushByTag | Kind::PushByDigest | Kind::PushWithTags | Kind::Retag => {
                let moved = operation.moved_tags();
                let by_tag = moved.iter().map(|tag| Self::Pushed { manifest, tag: Some(*tag) });
                let by_digest = moved.is_empty().then_some(Self::Pushed { manifest, tag: None });
                by_tag.chain(by_digest).collect()
            }
        }
    }

    /// Whether an operation may say this, although not whenever it succeeds.
    fn may_be_of(self, operation: &Operation) -> bool {
        match self {
            // It had it.
            Self::TagDeleted(_) => matches!(operation.kind, Kind::DeleteManifest | Kind::Retain),
            Self::ManifestDeleted(_) => operation.kind == Kind::Retain,
            Self::Pulled => matches!(operation.kind, Kind::Read | Kind::Head),
            // From whichever repository has it.
            Self::BlobMounted { blob, .. } => operation.kind == Kind::MountAnywhere && operation.blob == blob,
            _ => false,
        }
    }

    /// Whether the bucket is as it says.
    fn is_so(self, repository: usize, bucket: &Bucket, model: &Model) -> bool {
        let is = |register, value: Value| inspect::value(bucket, register) == value;
        let manifest_is = |manifest, value| is(Register::Manifest(repository, manifest), value);
        // Nothing orders the pushes of a blob: others may have changed it since.
        let blob_is = |blob, value| {
            let register = Register::Blob(repository, blob);
            is(register, value) || model.possible(register).iter().any(|possible| *possible != value)
        };
        match self {
            Self::Pushed { manifest, tag } => {
                let names = |tag| is(Register::Tag(repository, tag), Some(manifest as u8));
                manifest_is(manifest, Some(0)) && tag.is_none_or(names)
            }
            Self::ManifestDeleted(manifest) => manifest_is(manifest, None),
            Self::TagDeleted(tag) => is(Register::Tag(repository, tag), None),
            Self::BlobPushed(blob) | Self::BlobMounted { blob, .. } => blob_is(blob, Some(0)),
            Self::BlobDeleted(blob) => blob_is(blob, None),
            Self::Pulled => true,
        }
    }

    /// The ordered registers that it says something about, with the values that they have then.
    fn values(self, repository: usize) -> Vec<(Register, Value)> {
        let manifest_register = |manifest| Register::Manifest(repository, manifest);
        match self {
            Self::Pushed { manifest, tag } => {
                let tag = tag.map(|tag| (Register::Tag(repository, tag), Some(manifest as u8)));
                tag.into_iter().chain([(manifest_register(manifest), Some(0))]).collect()
            }
            Self::ManifestDeleted(manifest) => vec![(manifest_register(manifest), None)],
            Self::TagDeleted(tag) => vec![(Register::Tag(repository, tag), None)],
            _ => Vec::new(),
        }
    }
}

/// An operation since the registry came to rest.
struct Asked {
    operation: Operation,
    /// Its status, if it has one.
    status: Option<u16>,
    /// Whether the answer says that a deletion is done because another one may have been.
    is_unclear: bool,
    /// What was sent of it, with its id.
    sent: BTreeMap<Said, Uuid>,
}

/// What the events say of a register.
#[derive(Clone, Copy)]
struct Last {
    sequence: u64,
    value: Value,
}

/// The events of a run.
#[derive(Default)]
pub struct Telling {
    asked: BTreeMap<u64, Asked>,
    /// What each id says, of which operation, and with which sequences.
    ids: BTreeMap<Uuid, (u64, Said, BTreeSet<Option<u64>>)>,
    /// By the highest sequence.
    last: BTreeMap<Register, Last>,
    /// The same without repeats.
    first: BTreeMap<Register, Last>,
}

impl Telling {
    /// An operation is sent.
    pub fn begin(&mut self, id: u64, operation: &Operation) {
        let (status, is_unclear, sent) = (None, false, BTreeMap::new());
        self.asked.insert(id, Asked { operation: operation.clone(), status, is_unclear, sent });
    }

    /// An operation is answered.
    pub fn end(&mut self, id: u64, status: Option<u16>, is_unclear: bool) -> Result<(), Violation> {
        let Some(asked) = self.asked.get_mut(&id) else { return Ok(()) };
        (asked.status, asked.is_unclear) = (status, is_unclear);
        if let (Some(status @ 400..500), Some(said)) = (status, asked.sent.keys().next()) {
            return violation(Wrong::EventOfNothing, format!("{id} was answered {status}, after {said:?}"));
        }
        Ok(())
    }

    /// An event is about to be sent.
    pub fn send(
        &mut self,
        event: &Event,
        bucket: &Bucket,
        model: &Model,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let id = event.request.id.parse().unwrap_or_default();
        let Some((repository, said)) = Said::by(event) else {
            return violation(Wrong::EventOfNothing, format!("nothing of ours: {:?}", event.target));
        };
        let Some(asked) = self.asked.get_mut(&id) else {
            return violation(Wrong::EventOfNothing, format!("{said:?} of {id}, after it was at rest"));
        };
        let Asked { operation, status, sent, .. } = asked;
        let is_refused = status.is_some_and(|status| (400..500).contains(&status));
        let is_its = Said::of(operation).contains(&said) || said.may_be_of(operation);
        if is_refused || !is_its || operation.repository != repository {
            return violation(Wrong::EventOfNothing, format!("{said:?} in {repository} of {id}: {status:?}"));
        }
        if !said.is_so(repository, bucket, model) {
            return violation(Wrong::EventOfNothing, format!("{said:?} in {repository} of {id} is not so"));
        }
        let (of, same, sequences) = self.ids.entry(event.id).or_insert_with(|| (id, said, BTreeSet::new()));
        if (*of, *same) != (id, said) {
            return violation(Wrong::EventId, format!("{said:?} of {id} has the id of {same:?} of {of}"));
        }
        if said != Said::Pulled && *sent.entry(said).or_insert(event.id) != event.id {
            return violation(Wrong::EventId, format!("{said:?} of {id} has two ids"));
        }
        let is_new = sequences.is_empty();
        let is_moved = sequences.insert(event.sequence) && !is_new;
        coverage.count(match said {
            Said::Pulled => coverage::PULLS,
            _ if is_new => coverage::CHANGES,
            _ if is_moved => coverage::MOVED,
            _ => coverage::REPEATS,
        });
        Ok(())
    }

    /// The registry has come to rest, and these were told.
    pub fn rest(
        &mut self,
        told: &[Event],
        bucket: &Bucket,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        let mut said_by: BTreeMap<u64, BTreeSet<Said>> = BTreeMap::new();
        for event in told {
            let Some((repository, said)) = Said::by(event) else { continue };
            said_by.entry(event.request.id.parse().unwrap_or_default()).or_default().insert(said);
            let is_first = seen.insert(event.id);
            for (register, value) in said.values(repository) {
                let sequence = event.sequence.unwrap_or_default();
                let all = [&mut self.last, &mut self.first];
                for last in all.into_iter().take(if is_first { 2 } else { 1 }) {
                    let last = last.entry(register).or_insert(Last { sequence, value });
                    if last.sequence <= sequence {
                        *last = Last { sequence, value };
                    }
                }
            }
        }
        for (id, Asked { operation, status, is_unclear, .. }) in std::mem::take(&mut self.asked) {
            // A mount that starts an upload has mounted nothing.
            let is_done = match (operation.kind, status) {
                (Kind::Mount, status) => status == Some(201),
                (_, status) => status.is_some_and(|status| (200..300).contains(&status)),
            };
            let said = said_by.remove(&id).unwrap_or_default();
            let missing = Said::of(&operation).difference(&said).next().copied();
            if missing.is_some() && is_done && is_unclear {
                coverage.count("deletions that were done before, perhaps by others");
            }
            if let Some(missing) = missing.filter(|_| is_done && !is_unclear) {
                let line = operation.line();
                return violation(Wrong::EventMissing, format!("{missing:?} of {id}, {line:?}: {status:?}"));
            }
        }
        self.ids.clear();
        let is_ordered = |register: &Register| !matches!(register, Register::Blob(..));
        for register in Register::all().filter(is_ordered) {
            let found = inspect::value(bucket, register);
            let value = |last: &BTreeMap<Register, Last>| last.get(&register).and_then(|last| last.value);
            let said = value(&self.last);
            if value(&self.first) != said {
                coverage.count("registers of which a receiver that drops repeats has an old value");
            }
            if found != said {
                return violation(
                    Wrong::EventStale,
                    format!("{register:?} is {found:?}, and was told to be {said:?}"),
                );
            }
        }
        Ok(())
    }
}

/// Takes the events in the outbox, and adds them to those that the queue had. An entry is named by its first event: one
/// of known events need not be read.
pub fn add_outbox(events: &mut Vec<Event>, bucket: &Bucket) {
    let known: BTreeSet<String> = events.iter().map(|event| event.id.to_string()).collect();
    for path in bucket.below(&Key::Outbox.path().folder()) {
        let id = path.split_once('-').map(|(_, id)| id).unwrap_or_default();
        let (is_known, path) = (known.contains(id), path.parse().unwrap());
        if !is_known {
            let content = bucket.content(&path).unwrap_or_default();
            events.extend(serde_json::from_slice::<Vec<Event>>(&content).expect("the outbox holds JSON"));
        }
        bucket.remove(&path);
    }
}
