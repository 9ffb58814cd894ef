//! A deterministic simulation of the registry under races, crashes and lost answers.
//!
//! It runs the production code (the composed `App`, its HTTP handler, the writers of repositories, the collection,
//! retention and the check of both trees) in isolates and objects that share a bucket. Every storage call waits for a scheduler, which picks
//! what happens next by the seed alone: a call takes effect, or answers, or fails; a client sends its next request; time
//! passes; an alarm rings; an isolate or the object of a repository's writer crashes. A [`model`] of the history says
//! after every answer what the bucket may hold, and after every round, when all of it has come to rest, that what is
//! listed can be read and removed. After every step, immutable tags point where they pointed before.
//!
//! Half of it is about the collection: clients push images as `docker push` does, in chunks and in parts, mount, delete
//! and cancel, while one or two collections run, step by step, and are ended anywhere; so does the job that settles blobs
//! of several parts. Time leaps between operations.
//! After every change of the bucket, each acknowledged manifest has its content, the links of its blobs and their bytes,
//! and what was pushed within the grace time is there: see [`promises`]. In the end, within a few runs, the bucket has
//! what manifests need and nothing else: see [`garbage`].
//!
//! Another part is about retention: the job that drops tags and untagged manifests runs beside pushes, deletions and
//! collections. What is gone, and no client has deleted, a rule must have let go at that moment: see [`retained`].
//!
//! | file | what it simulates |
//! |---|---|
//! | `executor.rs` | tasks, and groups of them that crash together |
//! | `calls.rs` | calls on their way, which take effect and answer when the scheduler says so, or [late](calls::LATE) |
//! | `objects.rs` | the writers of repositories, as objects with a journal and an alarm |
//! | `sessions.rs` | the sessions of uploads |
//! | `clock.rs` | time, in whole seconds |
//! | `store.rs` | the bucket, with etags by content |
//! | `queue.rs` | the queue of events |
//! | `universe.rs`, `clients.rs`, `images.rs` | what clients use, what they ask, and in which order |
//! | `setup.rs`, `collection.rs`, `retention.rs` | what a seed does: operations, faults, scenarios |
//! | `world.rs` | isolates, clients and rounds; in `world/`, the scheduler, the collection, and the requests before and after the rounds |
//! | `model.rs`, `promises.rs`, `inspect.rs`, `garbage.rs`, `retained.rs` | what may be true, and what is |
//! | `telling.rs` | which events must have been told, and which may |
//! | `coverage.rs` | which operations met, and which faults fell on them |
//! | `missing.rs` | the guards of the collection that a test takes away |
//!
//! Accepted, and so not an error: an upload writes the link of a blob without the repository's writer. If that write
//! loses its answer, it may land after the blob was deleted. A reverse link of a repository that no longer has a blob
//! stays for as long as another one has it. Bytes of several parts that were never described, or are noted, are left to
//! sessions and the purge job.
//!
//! Not simulated: caches beyond the isolate's memory, clocks that differ, listings of several pages, a deletion of
//! several keys that takes effect in part, the purge job and the expiry of sessions.
//!
//! `SIMULATION_STEPS=10000000` runs longer. `SIMULATION_SEED=n` runs one seed and prints all its steps: name the test
//! whose seed it is. `SIMULATION_SEEDS=n` looks at so many seeds for each missing guard of the collection, and then also
//! for those that take thousands.
#![cfg(not(target_arch = "wasm32"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail"
)]

mod calls;
mod clients;
mod clock;
mod collection;
mod coverage;
mod executor;
mod garbage;
mod images;
mod inspect;
mod missing;
mod model;
mod objects;
mod promises;
mod queue;
mod random;
mod retained;
mod retention;
mod sessions;
mod setup;
mod store;
mod telling;
mod trace;
mod universe;
mod world;

use std::{collections::BTreeMap, thread};

use self::{
    coverage::Coverage,
    model::{Violation, Wrong},
    setup::{Guard, Setup, TURNS},
    world::World,
};

/// The steps of the test command, and those of the collection.
const STEPS: u64 = 900_000;
const COLLECTING_STEPS: u64 = 250_000;

/// The same, of retention.
const RETAINING_STEPS: u64 = 250_000;

/// The plan of a seed.
type Plan = fn(u64) -> Setup;

/// The seeds within which a missing guard must be noticed.
const SEEDS: u64 = 300;

/// The same, of the guards of the collection.
const COLLECTING_SEEDS: u64 = 300;

/// The last steps of a seed that failed, to print.
const TRACE: usize = 80;

/// What a number of seeds found.
#[derive(Default)]
struct Found {
    seeds: u64,
    steps: u64,
    coverage: Coverage,
    /// How often each violation was found, and the seed and words of its first time.
    violations: BTreeMap<Wrong, (u64, u64, String)>,
}

impl Found {
    fn run(&mut self, seed: u64, plan: Plan) {
        let report = World::run(seed, plan(seed), None, false);
        self.seeds += 1;
        self.steps += report.steps;
        self.coverage.add(&report.coverage);
        if let Err(violation) = report.result {
            self.violations.entry(violation.wrong).or_insert((0, seed, violation.detail)).0 += 1;
        }
    }

    fn add(mut self, other: Self) -> Self {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.coverage.add(&other.coverage);
        for (wrong, (count, seed, detail)) in other.violations {
            let found = self.violations.entry(wrong).or_insert((0, seed, detail));
            found.0 += count;
            found.1 = found.1.min(seed);
        }
        self
    }

    /// Runs seeds until they have made so many steps, on every core.
    fn of_steps(steps: u64, plan: Plan) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
        thread::scope(|scope| {
            let run = move |core: u64| {
                let mut found = Self::default();
                let mut seeds = (core..).step_by(cores as usize);
                while let Some(seed) = seeds.next().filter(|_| found.steps < steps / cores) {
                    found.run(seed, plan);
                }
                found
            };
            let runs: Vec<_> = (0..cores).map(|core| scope.spawn(move || run(core))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).fold(Self::default(), Self::add)
        })
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// The end of a seed's steps, and what it found.
fn steps_of(seed: u64, plan: Plan, last: usize) -> String {
    let report = World::run(seed, plan(seed), None, true);
    let from = report.trace.len().saturating_sub(last);
    format!("{}\n{:?}", report.trace[from..].join("\n"), report.result)
}

/// Runs a plan, or one of its seeds, as the environment says.
fn run(plan: Plan, steps: u64, gaps: impl Fn(&Coverage) -> Vec<String>) {
    if let Some(seed) = variable("SIMULATION_SEED") {
        println!("{}", steps_of(seed, plan, usize::MAX));
        return;
    }
    let found = Found::of_steps(variable("SIMULATION_STEPS").unwrap_or(steps), plan);
    println!("{} steps of {} seeds\n{}", found.steps, found.seeds, found.coverage);
    for (wrong, (count, seed, detail)) in &found.violations {
        println!("{wrong:?}: {count} times, SIMULATION_SEED={seed}: {detail}");
    }
    if let Some((_, seed, _)) = found.violations.values().min_by_key(|(_, seed, _)| *seed) {
        panic!("SIMULATION_SEED={seed} ends in\n{}", steps_of(*seed, plan, TRACE));
    }
    let gaps = gaps(&found.coverage);
    assert!(gaps.is_empty(), "these never happened: {gaps:?}");
}

#[test]
fn what_is_acknowledged_holds() {
    run(Setup::of, STEPS, Coverage::gaps);
}

#[test]
fn what_is_needed_is_not_collected() {
    run(Setup::collecting, COLLECTING_STEPS, Coverage::collecting_gaps);
}

#[test]
fn what_a_rule_keeps_is_not_dropped() {
    run(Setup::retaining, RETAINING_STEPS, Coverage::retaining_gaps);
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for plan in [Setup::of as Plan, Setup::collecting, Setup::retaining] {
        for seed in 0..TURNS as u64 {
            let run = || steps_of(seed, plan, usize::MAX);
            assert_eq!(run(), run(), "seed {seed}");
        }
    }
}

/// Which seed of these misses a guard first, and how.
fn missed(guard: Guard, plan: Plan, mut seeds: impl Iterator<Item = u64>) -> Option<(u64, Violation)> {
    let is_fit = |violation: &Violation| !Guard::COLLECTING.contains(&guard) || violation.wrong.is_loss();
    seeds.find_map(|seed| {
        let violation = World::run(seed, plan(seed), Some(guard), false).result.err();
        Some((seed, violation.filter(is_fit)?))
    })
}

/// Each guard of the registry is needed: without it, one of so many seeds goes wrong.
#[test]
fn what_is_taken_away_is_missed() {
    let seeds = variable("SIMULATION_SEEDS");
    let first = |guard: Guard| match guard.turn() {
        _ if Guard::COLLECTING.contains(&guard) => {
            missed(guard, Setup::collecting, 0..seeds.unwrap_or(COLLECTING_SEEDS))
        }
        _ if Guard::RETAINING.contains(&guard) => missed(guard, Setup::retaining, 0..SEEDS),
        Some(turn) => missed(guard, Setup::of, (turn..SEEDS * TURNS as u64).step_by(TURNS)),
        None => missed(guard, Setup::of, 0..SEEDS),
    };
    let found: Vec<_> = thread::scope(|scope| {
        let guards = Guard::ALL.into_iter().chain(Guard::COLLECTING).chain(Guard::RETAINING);
        let guards = guards.filter(|guard| seeds.is_some() || !guard.is_seldom_missed());
        let runs: Vec<_> = guards.map(|guard| (guard, scope.spawn(move || first(guard)))).collect();
        runs.into_iter().map(|(guard, run)| (guard, run.join().unwrap())).collect()
    });
    for (guard, found) in &found {
        match found {
            Some((seed, violation)) => println!("{guard:?}: seed {seed}: {violation:?}"),
            None => println!("{guard:?}: no seed"),
        }
    }
    let kept: Vec<_> = found.iter().filter(|(_, found)| found.is_none()).map(|(guard, _)| guard).collect();
    assert!(kept.is_empty(), "nothing misses {kept:?}");
}
