//! What a run has exercised: which kinds of operations met, and which faults fell on them while they did.

use std::{collections::BTreeMap, fmt};

use crate::clients::Kind;

/// What the scheduler does to calls and isolates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A call fails without effect, which the caller cannot know.
    Error,
    /// A call is refused: the caller knows that it has no effect.
    Throttled,
    /// A call takes effect, but its answer is lost.
    Lost,
    /// The answer is lost, and the call takes effect later, or never.
    Late,
    /// An isolate crashes.
    Crash,
    /// The object of a repository crashes.
    WriterCrash,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::Error, Self::Throttled, Self::Lost, Self::Late, Self::Crash, Self::WriterCrash];
}

/// What must happen.
const WANTED: [&str; 7] =
    [CHANGES, REPEATS, MOVED, PULLS, REFUSED_PUSHES, REFUSED_TAG_DELETIONS, REFUSED_DELETIONS];
pub const CHANGES: &str = "events of changes";
pub const REPEATS: &str = "events of changes, sent again";
pub const MOVED: &str = "events of changes, sent again with another sequence";
pub const PULLS: &str = "events of pulls";
pub const REFUSED_PUSHES: &str = "pushes that would have moved an immutable tag";
pub const REFUSED_TAG_DELETIONS: &str = "deletions of immutable tags";
pub const REFUSED_DELETIONS: &str = "deletions of manifests with immutable tags";

/// What the collection must do, by the fields of its reports.
pub const COLLECTED: [(&str, &str); 10] = [
    ("links_condemned", "collections that condemned links"),
    ("links_revived", "collections that revived links"),
    ("links_removed", "collections that removed links"),
    ("content_condemned", "collections that condemned content"),
    ("content_kept", "sweeps that kept the content"),
    ("content_deleted", "sweeps that deleted the content"),
    ("settled", "runs that settled blobs"),
    ("bytes_hashed", "runs that copied blobs in parts"),
    ("removed", "runs that removed what was settled"),
    ("busy", "runs that left condemned blobs alone"),
];
/// What retention must do, by the counts of its reports.
pub const RETAINED: [(&str, &str, &str); 4] = [
    ("tags", "dropped", "steps that dropped tags"),
    ("tags", "changed", "steps that left tags which were pushed meanwhile"),
    ("manifests", "dropped", "steps that dropped manifests"),
    ("manifests", "changed", "steps that left manifests which were needed meanwhile"),
];
pub const MET_SWEEP: &str = "seeds in which a push met a sweep";
pub const PUSHED_AGAIN: &str = "images that were pushed again";
pub const CLEAN_AFTER: [&str; 6] = [
    "clean after 1 run",
    "clean after 2 runs",
    "clean after 3 runs",
    "clean after 4 runs",
    "clean after 5 runs",
    "clean after 6 runs",
];

/// Two kinds, in order.
type Pair = (Kind, Kind);

fn pair(a: Kind, b: Kind) -> Pair {
    (a.min(b), a.max(b))
}

/// Counts of a run.
#[derive(Debug, Default, Clone)]
pub struct Coverage {
    /// How often two operations were in flight at once.
    met: BTreeMap<Pair, u64>,
    /// How often a fault happened while both were.
    faults: BTreeMap<(Pair, Fault), u64>,
    /// The calls at which faults happened, by operation and kind of key.
    points: BTreeMap<(Fault, String), u64>,
    /// Counts of other things.
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// An operation starts while others are in flight.
    pub fn begin(&mut self, kind: Kind, others: impl Iterator<Item = Kind>) {
        for other in others {
            *self.met.entry(pair(kind, other)).or_default() += 1;
        }
    }

    /// A fault happens at a call of this kind, or a crash while it is on its way.
    pub fn point(&mut self, fault: Fault, call: String) {
        *self.points.entry((fault, call)).or_default() += 1;
    }

    /// Counts something.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A fault happens while these are in flight.
    pub fn fault(&mut self, fault: Fault, in_flight: &[Kind]) {
        for (n, a) in in_flight.iter().enumerate() {
            for b in in_flight.iter().skip(n + 1) {
                *self.faults.entry((pair(*a, *b), fault)).or_default() += 1;
            }
        }
    }

    pub fn add(&mut self, other: &Self) {
        let add = |(total, count): (&mut u64, u64)| *total += count;
        other.met.iter().for_each(|(pair, n)| add((self.met.entry(*pair).or_default(), *n)));
        other.faults.iter().for_each(|(key, n)| add((self.faults.entry(*key).or_default(), *n)));
        other.points.iter().for_each(|(key, n)| add((self.points.entry(key.clone()).or_default(), *n)));
        other.counts.iter().for_each(|(what, n)| add((self.counts.entry(*what).or_default(), *n)));
    }

    fn pairs() -> impl Iterator<Item = Pair> {
        Kind::ALL.iter().enumerate().flat_map(|(n, a)| Kind::ALL[n..].iter().map(|b| (*a, *b)))
    }

    /// What the collection never did.
    pub fn collecting_gaps(&self) -> Vec<String> {
        let wanted = COLLECTED.iter().map(|(_, what)| *what).chain([PUSHED_AGAIN, MET_SWEEP]);
        wanted.filter(|what| !self.counts.contains_key(what)).map(str::to_owned).collect()
    }

    /// What retention never did.
    pub fn retaining_gaps(&self) -> Vec<String> {
        let wanted = RETAINED.iter().map(|(.., what)| *what);
        wanted.filter(|what| !self.counts.contains_key(what)).map(str::to_owned).collect()
    }

    /// The pairs that never met, those that never met under some fault, and what else never happened.
    pub fn gaps(&self) -> Vec<String> {
        let met = Self::pairs().filter(|pair| !self.met.contains_key(pair)).map(|pair| format!("{pair:?}"));
        let faults = Self::pairs().flat_map(|pair| Fault::ALL.map(|fault| (pair, fault)));
        let counts = WANTED.iter().filter(|what| !self.counts.contains_key(**what));
        let counts = counts.map(|what| (*what).to_owned());
        met.chain(counts)
            .chain(
                faults
                    .filter(|key| !self.faults.contains_key(key))
                    .map(|(pair, fault)| format!("{pair:?} {fault:?}")),
            )
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:30}{:>8}", "in flight at once", "times")?;
        Fault::ALL.iter().try_for_each(|fault| write!(f, "{:>12}", format!("{fault:?}")))?;
        writeln!(f)?;
        for pair in Self::pairs() {
            let (a, b) = pair;
            let count = self.met.get(&pair).unwrap_or(&0);
            write!(f, "{:30}{count:>8}", format!("{a:?} {b:?}"))?;
            for fault in Fault::ALL {
                write!(f, "{:>12}", self.faults.get(&(pair, fault)).unwrap_or(&0))?;
            }
            writeln!(f)?;
        }
        for (what, count) in &self.counts {
            writeln!(f, "{count:>8} {what}")?;
        }
        writeln!(f, "faults, by call:")?;
        for ((fault, at), count) in &self.points {
            writeln!(f, "{count:>8} {fault:?} at {at}")?;
        }
        Ok(())
    }
}
