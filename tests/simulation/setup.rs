//! What a seed does: which operations, how many clients, which faults how often.

use crate::{
    clients::{Focus, Kind},
    random::Random,
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
}

impl Setup {
    /// The plan of a seed, with all kinds of operations and weather. A seed leaves out some kinds, so that the
    /// others meet more often.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5E70_17B5);
        let mix: Vec<_> = Kind::ALL.map(|kind| (kind, u32::from(random.chance(600)) * 10 + 1)).into();
        let weather = match random.below(4) {
            0 => Weather::default(),
            1 => Weather { crash: 15, ..Weather::default() },
            2 => Weather { fault: 60, outage: 300, late: 300, crash: 0 },
            _ => Weather { fault: 120, outage: 300, late: 600, crash: 15 },
        };
        Self {
            mix,
            weather,
            focus: Focus::choose(&mut random),
            clients: 2 + random.below(3),
            operations: 6 + random.below(15),
            rounds: 2,
        }
    }
}
