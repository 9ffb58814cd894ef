//! What a seed of retention does: a rule about the tags of a repository, clients that push and delete there, mostly
//! without tags, and leaps of time, while the retain job runs beside collections and is ended anywhere.

use pierhead::platform::Timestamp;

use crate::{
    clients::{Focus, Kind},
    collection::Collection,
    random::Random,
    setup::{Setup, Weather},
    universe::{BLOBS, MANIFESTS, REPOSITORIES, TAGS, UNIVERSE},
};

/// The repository that has rules. Its tags and manifests may go at any time, as far as the model knows.
pub const REPOSITORY: usize = 0;

/// The time after which untagged manifests go, in seconds.
pub const UNTAGGED: u64 = 3600;

/// The leaps of time between two operations, in seconds: about the times of the rules.
const LEAPS: &[u64] = &[20, 61, 61, 400, 1900, 3700];
const MINUTES: &[u64] = &[61, 61, 400];
const HOURS: &[u64] = &[61, 1900, 3700, 3700, 3700];

/// A rule about tags. Each of its conditions is enough to keep one.
#[derive(Debug)]
pub struct Rule {
    text: &'static str,
    /// Tags that stay.
    pub keeps: &'static [usize],
    /// So many of the last ones stay.
    pub last: usize,
    /// The time that a tag stays, in seconds.
    within: u64,
}

/// What a seed retains.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The rule about the tags of [`REPOSITORY`].
    pub rule: &'static Rule,
    /// The operations that are about an index and what it names, of a thousand.
    pub of_index: u32,
}

/// What such an operation is about.
pub const OF_INDEX: [usize; 8] = [1, 4, 4, 4, 4, 4, 4, 4];

const RULES: &[Rule] = &[
    Rule { text: "keep_pushed_within = \"1m\"", keeps: &[], last: 0, within: 60 },
    Rule { text: "keep_last = 1", keeps: &[], last: 1, within: 0 },
    Rule {
        text: "keep = [\"a\"]\nkeep_last = 1\nkeep_pushed_within = \"10m\"",
        keeps: &[0],
        last: 1,
        within: 600,
    },
];

impl Rule {
    /// The document with this rule.
    pub fn document(&self) -> String {
        let name = UNIVERSE.repositories[REPOSITORY].as_str();
        format!("[[rule]]\nrepositories = [{name:?}]\n{}\nuntagged = \"{UNTAGGED}s\"\n", self.text)
    }

    /// Whether it keeps a tag, pushed at `pushed`, if the other tags have been pushed at `others`, the last time.
    pub fn keeps(&self, tag: usize, pushed: Timestamp, others: &[Timestamp], now: Timestamp) -> bool {
        let later = others.iter().filter(|other| **other >= pushed).count();
        self.keeps.contains(&tag) || later < self.last || now < pushed.plus_seconds(self.within)
    }
}

/// The operations beside the pushes of images.
const MIX: &[(Kind, u32)] = &[
    (Kind::PushByTag, 10),
    (Kind::PushByDigest, 16),
    (Kind::PushWithTags, 6),
    (Kind::PushBlob, 4),
    (Kind::DeleteTag, 6),
    (Kind::DeleteManifest, 2),
    (Kind::DeleteBlob, 1),
    (Kind::Rebuild, 1),
    (Kind::Read, 4),
];

/// Those that meet the deletion of what an index names.
const OF_INDEXES: &[(Kind, u32)] =
    &[(Kind::PushByDigest, 10), (Kind::PushByTag, 2), (Kind::DeleteManifest, 5)];

/// Those that meet the deletion of a tag.
const OF_TAGS: &[(Kind, u32)] = &[(Kind::PushByTag, 10), (Kind::Read, 1)];

/// One kind of seed.
struct Turn {
    mix: &'static [(Kind, u32)],
    leaps: &'static [u64],
    /// The operations that are about an index and what it names, of a thousand.
    of_index: u32,
    /// Limit of the tags.
    tags: usize,
    /// Limit of the steps of jobs in a round.
    steps: usize,
}

/// Of so many seeds in a row, each has its own.
const TURNS: [Turn; 3] = [
    Turn { mix: MIX, leaps: LEAPS, of_index: 0, tags: TAGS, steps: 20 },
    Turn { mix: OF_INDEXES, leaps: HOURS, of_index: 1000, tags: 1, steps: 60 },
    Turn { mix: OF_TAGS, leaps: MINUTES, of_index: 0, tags: 2, steps: 60 },
];

impl Setup {
    /// The plan of a seed of retention: clients push, and time leaps, while the job runs beside collections.
    pub fn retaining(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x4E7A_1412);
        let turn = seed as usize % TURNS.len();
        let Turn { mix, leaps, of_index, tags, steps } = TURNS[turn];
        let collection = Collection {
            grace: *random.pick(&[0, 60]),
            calls: 1000,
            runners: 1 + random.below(2),
            steps: steps / 2 + random.below(steps / 2),
            images: if of_index == 0 { 1 + random.below(3) } else { 0 },
            part_size: 1024,
            leaps,
            // A push is to fit between two calls of the job.
            is_slow: turn > 0 || random.chance(500),
        };
        let repositories = if random.chance(700) { 1 } else { REPOSITORIES };
        Self {
            mix: mix.into(),
            weather: Weather::choose(&mut random),
            focus: Focus { repositories, tags: 1 + random.below(tags), manifests: MANIFESTS, blobs: BLOBS },
            clients: 2 + random.below(2),
            operations: 20 + random.below(30),
            rounds: 2,
            forgets: random.chance(300),
            immutable: 0,
            collection: Some(collection),
            retention: Some(Retention { rule: random.pick(RULES), of_index }),
        }
    }
}
