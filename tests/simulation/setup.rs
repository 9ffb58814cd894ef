//! What a seed does: which operations, how many clients, which faults how often.

use crate::{
    clients::{Focus, Kind},
    collection::Collection,
    random::Random,
    retention::Retention,
    universe::TAGS,
};

/// How often things go wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Calls that fail or lose their answer, of a thousand.
    pub fault: u32,
    /// Failures that last [`OUTAGE`] for their key, of a thousand failures.
    pub outage: u32,
    /// Lost answers whose call takes effect later, of a thousand lost answers.
    pub late: u32,
    /// Steps at which an isolate crashes, of a thousand.
    pub crash: u32,
}

impl Weather {
    pub fn choose(random: &mut Random) -> Self {
        match random.below(4) {
            0 => CALM,
            1 => CRASHES,
            2 => FAULTS,
            _ => STORM,
        }
    }
}

/// Only races.
const CALM: Weather = Weather { fault: 0, outage: 0, late: 0, crash: 0 };
const CRASHES: Weather = Weather { crash: 20, ..CALM };
const FAULTS: Weather = Weather { fault: 80, outage: 200, late: 400, crash: 0 };
const STORM: Weather = Weather { fault: 120, outage: 100, late: 600, crash: 20 };

/// Calls land late.
pub const LATE: Weather = Weather { fault: 150, outage: 0, late: 900, crash: 0 };

const HURRICANE: Weather = Weather { fault: 200, outage: 50, late: 600, crash: 40 };

const COLLAPSE: Weather = Weather { crash: 200, ..HURRICANE };

/// How long an outage of a key lasts, in seconds: longer than anything is repeated.
pub const OUTAGE: u64 = 30;

/// A plan for one seed.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The weights of the kinds of operations.
    pub mix: Vec<(Kind, u32)>,
    pub weather: Weather,
    pub focus: Focus,
    pub clients: usize,
    /// Operations in a round. After each round the registry comes to rest.
    pub operations: usize,
    pub rounds: usize,
    /// The queue of events forgets what it has before anyone looks: the outbox must have it. Then the outbox never
    /// fails, because one of them must have it.
    pub forgets: bool,
    /// The first so many tags of the first repository are immutable.
    pub immutable: usize,
    /// What collects, if anything does.
    pub collection: Option<Collection>,
    /// What is retained, if there are rules. Only beside collections.
    pub retention: Option<Retention>,
}

impl Setup {
    /// The plan of a seed: each scenario in turn, then everything at once.
    pub fn of(seed: u64) -> Self {
        SCENARIOS
            .get(seed as usize % TURNS)
            .map_or_else(|| Self::of_anything(seed), |scenario| scenario.setup(seed))
    }

    /// A seed leaves out most of some kinds, so that the others meet more often.
    fn of_anything(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5E70_17B5);
        let mix: Vec<_> = Kind::ALL.map(|kind| (kind, u32::from(random.chance(600)) * 10 + 1)).into();
        Self {
            mix,
            weather: Weather::choose(&mut random),
            focus: Focus::choose(&mut random),
            clients: 2 + random.below(3),
            operations: 10 + random.below(20),
            rounds: 3,
            forgets: random.chance(500),
            immutable: if random.chance(400) { 1 + random.below(TAGS) } else { 0 },
            collection: None,
            retention: None,
        }
    }
}

/// A plan for one kind of race: few kinds of operations on few things.
pub struct Scenario {
    mix: &'static [Kind],
    focus: Focus,
    /// The weather of every other seed.
    weather: Weather,
    /// As in a setup.
    immutable: usize,
}

/// Of so many seeds in a row, each scenario has one.
pub const TURNS: usize = 16;

/// Reads are fast: it takes many of them to meet something.
const BESIDE_READS: &[Kind] = &[
    Kind::Read,
    Kind::Read,
    Kind::Read,
    Kind::Read,
    Kind::PushBlob,
    Kind::Mount,
    Kind::PushByTag,
    Kind::PushByDigest,
    Kind::PushWithTags,
    Kind::Retag,
    Kind::DeleteTag,
    Kind::DeleteManifest,
    Kind::DeleteBlob,
    Kind::Rebuild,
];

/// The races that the registry must be proof against, one by one.
pub const SCENARIOS: &[Scenario] = &[
    // Tags move while their manifest is deleted.
    Scenario {
        mix: &[Kind::PushByTag, Kind::PushWithTags, Kind::Retag, Kind::DeleteManifest],
        focus: Focus { repositories: 1, tags: 3, manifests: 2, blobs: 1 },
        weather: CALM,
        immutable: 0,
    },
    // A manifest is pushed and deleted.
    Scenario {
        mix: &[Kind::PushByTag, Kind::DeleteManifest],
        focus: Focus { repositories: 1, tags: 1, manifests: 1, blobs: 1 },
        weather: CALM,
        immutable: 0,
    },
    // Isolates crash while tags move.
    Scenario {
        mix: &[Kind::PushByTag, Kind::PushWithTags, Kind::DeleteTag],
        focus: Focus { repositories: 1, tags: 2, manifests: 2, blobs: 1 },
        weather: CRASHES,
        immutable: 0,
    },
    // Writes fail while tags move.
    Scenario {
        mix: &[Kind::PushByTag, Kind::PushWithTags, Kind::DeleteTag],
        focus: Focus { repositories: 1, tags: 2, manifests: 2, blobs: 1 },
        weather: FAULTS,
        immutable: 0,
    },
    // Referrers of odd types come and go.
    Scenario {
        mix: &[Kind::PushByDigest, Kind::DeleteManifest, Kind::Read],
        focus: Focus::ALL,
        weather: CALM,
        immutable: 0,
    },
    // A rebuild runs beside deletions.
    Scenario {
        mix: &[Kind::Rebuild, Kind::DeleteBlob, Kind::DeleteManifest, Kind::PushBlob],
        focus: Focus { repositories: 1, tags: 1, manifests: 3, blobs: 3 },
        weather: CALM,
        immutable: 0,
    },
    // Blobs of a push are deleted.
    Scenario {
        mix: &[Kind::PushByDigest, Kind::PushByTag, Kind::PushBlob, Kind::DeleteBlob, Kind::DeleteManifest],
        focus: Focus { repositories: 1, tags: 1, manifests: 2, blobs: 2 },
        weather: CALM,
        immutable: 0,
    },
    // A blob is pushed, mounted and deleted, while isolates and writers crash.
    Scenario {
        mix: &[Kind::PushBlob, Kind::Mount, Kind::DeleteBlob],
        focus: Focus { repositories: 2, tags: 1, manifests: 1, blobs: 1 },
        weather: CRASHES,
        immutable: 0,
    },
    // Calls land late while a tag moves.
    Scenario {
        mix: &[Kind::PushByTag, Kind::DeleteTag],
        focus: Focus { repositories: 1, tags: 1, manifests: 2, blobs: 1 },
        weather: Weather { fault: 150, outage: 0, late: 900, crash: 0 },
        immutable: 0,
    },
    // A manifest and its tags are deleted at once.
    Scenario {
        mix: &[Kind::PushWithTags, Kind::DeleteManifest, Kind::DeleteTag],
        focus: Focus { repositories: 1, tags: 2, manifests: 1, blobs: 1 },
        weather: CALM,
        immutable: 0,
    },
    // Reads run beside everything, in bad weather.
    Scenario { mix: BESIDE_READS, focus: Focus::ALL, weather: HURRICANE, immutable: 0 },
    Scenario { mix: BESIDE_READS, focus: Focus::ALL, weather: COLLAPSE, immutable: 0 },
    // Rebuilds run beside deletions of referrers.
    Scenario {
        mix: &[Kind::Rebuild, Kind::DeleteManifest, Kind::PushByDigest],
        focus: Focus { repositories: 1, tags: 1, manifests: 3, blobs: 1 },
        weather: CALM,
        immutable: 0,
    },
    // Clients race for immutable tags, while isolates and writers crash.
    Scenario {
        mix: &[
            Kind::PushByTag,
            Kind::PushByTag,
            Kind::PushByTag,
            Kind::PushWithTags,
            Kind::DeleteTag,
            Kind::DeleteManifest,
        ],
        focus: Focus { repositories: 1, tags: 3, manifests: 2, blobs: 3 },
        weather: CRASHES,
        immutable: 2,
    },
];

impl Scenario {
    /// The plan of a seed.
    fn setup(&self, seed: u64) -> Setup {
        let mut random = Random::new(seed ^ 0x05CE_4A12);
        Setup {
            mix: self.mix.iter().map(|kind| (*kind, 1)).collect(),
            weather: if random.chance(500) { self.weather } else { Weather::choose(&mut random) },
            focus: self.focus,
            clients: 2 + random.below(3),
            operations: 8 + random.below(12),
            rounds: 2,
            forgets: random.chance(500),
            immutable: self.immutable,
            collection: None,
            retention: None,
        }
    }
}

/// A guard of the registry that a test takes away, to see that the simulation misses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Changes of a repository are brought into an order: without it, each command has a writer of its own.
    Order,
    /// Intents are stored before the first write: without it, a journal keeps nothing.
    Journal,
    /// Open intents are finished by an alarm: without it, none rings.
    Alarm,
    /// Keys rest after a lost answer: without it, a lost answer looks like a refusal.
    Rest,
    /// Blobs that were removed lately are looked up again: without it, pushes do not name their blobs.
    Blobs,
    /// Immutable tags are checked: without it, commands do not name their patterns.
    Immutable,
    /// They are checked in the turn of a change: without it, before the writer is called.
    Turn,
    /// Events are sent after the writes: without it, before.
    Last,
    /// Events are kept in the outbox: without it, the bucket loses them.
    Outbox,
    /// An intent has the origin of its events: without it, the journal loses that.
    Origin,
    /// The origin names the change: without it, a restart gives it another name.
    Name,
    /// The answer waits for the events: without it, the queue says that it has what it may never get.
    Answer,
    /// A sweep looks at the reverse links when its marker says so: without it, they seem to be gone.
    Look,
    /// A push reads the marker: without it, there seems to be none.
    Marker,
    /// It writes a reverse link: without it, the bucket loses that.
    ReverseLink,
    /// A sweep of links looks at the manifests pushed since: without it, there seem to be none.
    Mentioned,
    /// Deletions are made once: without it, they are repeated.
    Once,
    /// Nobody goes on while a sweep has its lease: without it, it seems to be over.
    Lease,
    /// A tag is dropped as it was seen: without it, commands do not say how.
    Seen,
    /// A manifest is dropped if nothing needs it: without it, commands do not say since when.
    Unused,
    /// An index and the manifests that it names take turns: without it, commands do not name them.
    Children,
}

impl Guard {
    /// The turn whose scenario is made for it, if the others seldom miss it.
    pub fn turn(self) -> Option<u64> {
        match self {
            Self::Blobs => Some(6),
            Self::Answer => Some(11),
            Self::Immutable | Self::Turn => Some(13),
            _ => None,
        }
    }

    /// Whether it takes hundreds of seeds to miss it, or thousands: a push must meet a sweep, and a call land late.
    pub fn is_seldom_missed(self) -> bool {
        matches!(self, Self::Once | Self::Lease)
    }

    /// The guards of the collection.
    pub const COLLECTING: [Self; 6] =
        [Self::Look, Self::Marker, Self::ReverseLink, Self::Mentioned, Self::Once, Self::Lease];

    /// The guards of retention.
    pub const RETAINING: [Self; 3] = [Self::Seen, Self::Unused, Self::Children];

    pub const ALL: [Self; 12] = [
        Self::Order,
        Self::Journal,
        Self::Alarm,
        Self::Rest,
        Self::Blobs,
        Self::Immutable,
        Self::Turn,
        Self::Last,
        Self::Outbox,
        Self::Origin,
        Self::Name,
        Self::Answer,
    ];
}
