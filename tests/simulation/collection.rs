//! What a seed of the collection does: clients that push and delete, while one or two collections run, in small steps,
//! and are ended anywhere.

use crate::{
    clients::{Focus, Kind},
    random::Random,
    setup::{LATE, Setup, Weather},
    universe::{BLOBS, IMAGES, REPOSITORIES},
};

/// The collections that run at the same time, at most.
pub const RUNNERS: usize = 2;

/// How long an upload may last, in seconds.
pub const UPLOAD_TTL: u64 = 1800;

/// The leaps of time between two operations, in seconds: about the times that the collection waits for, or less.
const FAR: &[u64] = &[20, 61, 61, 100, 400, 1000, 3000];
const NEAR: &[u64] = &[1, 5, 10, 20];

/// The operations beside the pushes of images.
const KINDS: [Kind; 13] = [
    Kind::PushBlob,
    Kind::PushInChunks,
    Kind::CancelUpload,
    Kind::Mount,
    Kind::MountAnywhere,
    Kind::Head,
    Kind::Read,
    Kind::PushByTag,
    Kind::PushByDigest,
    Kind::DeleteTag,
    Kind::DeleteManifest,
    Kind::DeleteBlob,
    Kind::Rebuild,
];

/// What collects, and how time passes meanwhile.
#[derive(Debug, Clone)]
pub struct Collection {
    /// In seconds.
    pub grace: u64,
    /// Limit of the calls of a step.
    pub calls: usize,
    pub runners: usize,
    /// The steps of each collection in a round.
    pub steps: usize,
    /// The images that clients push in a round.
    pub images: usize,
    /// The size of the parts of uploads, in bytes. Most blobs are larger than 5.
    pub part_size: usize,
    /// The leaps of time.
    pub leaps: &'static [u64],
    /// Whether it is slower than the clients.
    pub is_slow: bool,
}

/// The operations that meet the sweeps of a blob or two.
const MEETING: [(Kind, u32); 8] = [
    (Kind::PushBlob, 10),
    (Kind::PushInChunks, 10),
    (Kind::CancelUpload, 3),
    (Kind::Mount, 3),
    (Kind::MountAnywhere, 3),
    (Kind::PushByTag, 6),
    (Kind::DeleteManifest, 10),
    (Kind::DeleteBlob, 12),
];

/// The leaps of time after which condemned content may be deleted.
const SWEEPS: &[u64] = &[61, 61, 100, 1000];

impl Setup {
    pub fn collects_slowly(&self) -> bool {
        self.collection.as_ref().is_some_and(|collection| collection.is_slow)
    }

    /// The plan of a seed of the collection: of everything, or of few blobs, which come and go while they are swept.
    pub fn collecting(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xC011_EC75);
        let setup = if seed.is_multiple_of(2) { collecting } else { meeting };
        setup(&mut random)
    }
}

fn meeting(random: &mut Random) -> Setup {
    let mut up_to = |limit: usize, least: usize| least + random.below(limit - least + 1);
    let focus = Focus { repositories: up_to(2, 1), tags: 1, manifests: 1, blobs: up_to(2, 1) };
    let collection = Collection {
        grace: *random.pick(&[0, 0, 60]),
        calls: 1000,
        runners: 1 + random.below(RUNNERS),
        steps: 10 + random.below(20),
        images: 2 + random.below(4),
        part_size: *random.pick(&[5, 1024]),
        leaps: SWEEPS,
        is_slow: random.chance(700),
    };
    Setup {
        mix: MEETING.into(),
        weather: if random.chance(300) { LATE } else { Weather::choose(random) },
        focus,
        clients: 2 + random.below(2),
        operations: 15 + random.below(15),
        rounds: 2,
        forgets: false,
        immutable: 0,
        collection: Some(collection),
        retention: None,
    }
}

fn collecting(random: &mut Random) -> Setup {
    let mut mix: Vec<_> = KINDS.map(|kind| (kind, u32::from(random.chance(500)) * 10 + 1)).into();
    // What is never deleted is never collected.
    mix.extend([(Kind::DeleteManifest, 20), (Kind::DeleteTag, 5)]);
    let mut up_to = |limit: usize, least: usize| least + random.below(limit - least + 1);
    let focus = Focus {
        repositories: up_to(REPOSITORIES, 1),
        tags: up_to(2, 1),
        manifests: up_to(IMAGES - 1, 1),
        blobs: up_to(BLOBS, 1),
    };
    let collection = Collection {
        grace: *random.pick(&[0, 60]),
        calls: *random.pick(&[4, 10, 40, 1000]),
        runners: 1 + random.below(RUNNERS),
        steps: 4 + random.below(16),
        images: 1 + random.below(5),
        part_size: *random.pick(&[5, 5, 1024]),
        leaps: if random.chance(600) { FAR } else { NEAR },
        is_slow: false,
    };
    Setup {
        mix,
        weather: Weather::choose(random),
        focus,
        clients: 2 + random.below(3),
        operations: 4 + random.below(12),
        rounds: 2,
        forgets: false,
        immutable: 0,
        collection: Some(collection),
        retention: None,
    }
}
