//! Pushes of whole images, as `docker push` makes them: it looks for each blob, sends what is missing, and then the
//! manifest.

use std::collections::BTreeMap;

use crate::{
    clients::{Focus, Kind, Operation},
    model::Outcome,
    promises::Moment,
    random::Random,
    universe::UNIVERSE,
};

/// How often something is tried again, in all.
const TRIES: usize = 4;

/// An image on its way.
#[derive(Debug, Clone)]
pub struct Image {
    pub repository: usize,
    pub manifest: usize,
    tag: usize,
    /// What is left to send, the next one last.
    blobs: Vec<usize>,
    /// Since when the repository is known to have each blob.
    pub known: BTreeMap<usize, Moment>,
    /// The repository lacks the next blob.
    is_missing: bool,
    /// How it sends the next blob.
    kind: Kind,
    way: usize,
    looks_first: bool,
    tries: usize,
}

/// How a push of an image goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// With another request.
    More,
    /// The manifest was refused for lack of blobs: it begins anew.
    Again,
    /// It is over.
    Over,
}

impl Image {
    /// A random image.
    pub fn choose(focus: Focus, random: &mut Random) -> Self {
        let kinds =
            [Kind::PushInChunks, Kind::PushInChunks, Kind::PushBlob, Kind::Mount, Kind::MountAnywhere];
        let manifest = random.below(focus.manifests);
        Self {
            repository: random.below(focus.repositories),
            manifest,
            tag: random.below(focus.tags),
            blobs: UNIVERSE.manifests[manifest].blobs.clone(),
            known: BTreeMap::new(),
            is_missing: false,
            kind: *random.pick(&kinds),
            way: random.below(6),
            looks_first: random.chance(800),
            tries: TRIES,
        }
    }

    /// The next operation.
    pub fn operation(&self) -> Operation {
        let Self { manifest, way, .. } = *self;
        let of = |kind| Operation { manifest, way, ..Operation::new(kind, self.repository) };
        match self.blobs.last() {
            Some(blob) if self.is_missing || !self.looks_first => Operation { blob: *blob, ..of(self.kind) },
            Some(blob) => Operation { blob: *blob, ..of(Kind::Head) },
            None => Operation { tags: vec![self.tag], ..of(Kind::PushByTag) },
        }
    }

    /// Its operation, which was sent at `started`, is answered, or never will be.
    pub fn answered(&mut self, kind: Kind, outcome: &Outcome, started: Moment) -> Next {
        match (kind, outcome.status()) {
            (Kind::PushByTag, Some(400)) => {
                self.tries -= 1;
                self.blobs.clone_from(&UNIVERSE.manifests[self.manifest].blobs);
                self.known.clear();
                self.is_missing = false;
                return if self.tries == 0 { Next::Over } else { Next::Again };
            }
            (Kind::PushByTag, Some(..500)) => return Next::Over,
            (Kind::Head, Some(404)) => self.is_missing = true,
            // What was to be mounted is not there.
            (Kind::Mount | Kind::MountAnywhere, Some(202)) => {
                self.kind = if self.way.is_multiple_of(2) { Kind::PushInChunks } else { Kind::PushBlob };
                self.is_missing = true;
            }
            (Kind::Head, Some(200)) | (_, Some(201)) => {
                self.is_missing = false;
                if let Some(blob) = self.blobs.pop() {
                    self.known.insert(blob, started);
                }
            }
            // As docker does, it begins with the blob again.
            _ => {
                self.tries -= 1;
                self.is_missing = false;
            }
        }
        if self.tries == 0 { Next::Over } else { Next::More }
    }
}
