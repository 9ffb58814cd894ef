//! A deterministic simulation of the registry under races, crashes and lost answers.
//!
//! It runs the production code (the composed `App`, its HTTP handler, the writers of repositories, the rebuild job) in
//! isolates and objects that share a bucket. Every storage call waits for a scheduler, which picks what happens next by the seed alone: a call takes
//! effect, or answers, or fails; a client sends its next request; time passes; an alarm rings; an isolate or the object
//! of a repository's writer crashes. A [`model`] of the history says after every answer what the bucket may hold, and after every round, when all of it
//! has come to rest, that what is listed can be read and removed. After every step, immutable tags
//! point where they pointed before.
//!
//! | file | what it simulates |
//! |---|---|
//! | `executor.rs` | tasks, and groups of them that crash together |
//! | `calls.rs` | calls on their way, which take effect and answer when the scheduler says so, or [late](calls::LATE) |
//! | `objects.rs` | the writers of repositories, as objects with a journal and an alarm |
//! | `clock.rs` | time, in whole seconds |
//! | `store.rs` | the bucket, with etags by content |
//! | `queue.rs` | the queue of events |
//! | `universe.rs`, `clients.rs` | what clients use, and what they ask |
//! | `setup.rs` | what a seed does: operations, faults, scenarios |
//! | `world.rs` | isolates, clients and rounds; in `world/`, the scheduler, and the requests before and after the rounds |
//! | `model.rs`, `inspect.rs` | what may be true, and what is |
//! | `telling.rs` | which events must have been told, and which may |
//! | `coverage.rs` | which operations met, and which faults fell on them |
//!
//! Accepted, and so not an error: an upload writes the link of a blob without the repository's writer. If that write
//! loses its answer, it may land after the blob was deleted. And it writes that link and the reverse link at the same
//! time: if it ends half-way, there may be the first without the second.
//!
//! Not simulated: chunked uploads and blobs of several parts, caches beyond the isolate's memory, clocks that differ,
//! listings of several pages, a deletion of several keys that takes effect in part.
//!
//! `SIMULATION_STEPS=10000000` runs longer. `SIMULATION_SEED=n` runs one seed and prints all its steps.
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
mod coverage;
mod executor;
mod inspect;
mod model;
mod objects;
mod queue;
mod random;
mod setup;
mod store;
mod telling;
mod trace;
mod universe;
mod world;

use std::{collections::BTreeMap, thread};

use self::{
    coverage::Coverage,
    model::Wrong,
    setup::{Guard, Setup, TURNS},
    world::World,
};

/// The steps of the test command.
const STEPS: u64 = 550_000;

/// The seeds within which a missing guard must be noticed.
const SEEDS: u64 = 300;

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
    fn run(&mut self, seed: u64) {
        let report = World::run(seed, Setup::of(seed), None, false);
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
    fn of_steps(steps: u64) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
        thread::scope(|scope| {
            let run = move |core: u64| {
                let mut found = Self::default();
                let mut seeds = (core..).step_by(cores as usize);
                while let Some(seed) = seeds.next().filter(|_| found.steps < steps / cores) {
                    found.run(seed);
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
fn steps_of(seed: u64, last: usize) -> String {
    let report = World::run(seed, Setup::of(seed), None, true);
    let from = report.trace.len().saturating_sub(last);
    format!("{}\n{:?}", report.trace[from..].join("\n"), report.result)
}

#[test]
fn what_is_acknowledged_holds() {
    if let Some(seed) = variable("SIMULATION_SEED") {
        println!("{}", steps_of(seed, usize::MAX));
        return;
    }
    let found = Found::of_steps(variable("SIMULATION_STEPS").unwrap_or(STEPS));
    println!("{} steps of {} seeds\n{}", found.steps, found.seeds, found.coverage);
    for (wrong, (count, seed, detail)) in &found.violations {
        println!("{wrong:?}: {count} times, SIMULATION_SEED={seed}: {detail}");
    }
    if let Some((_, seed, _)) = found.violations.values().min_by_key(|(_, seed, _)| *seed) {
        panic!("SIMULATION_SEED={seed} ends in\n{}", steps_of(*seed, TRACE));
    }
    let gaps = found.coverage.gaps();
    assert!(gaps.is_empty(), "these never happened: {gaps:?}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..TURNS as u64 {
        assert_eq!(steps_of(seed, usize::MAX), steps_of(seed, usize::MAX), "seed {seed}");
    }
}

/// Each guard of the registry is needed: without it, one of so many seeds goes wrong.
#[test]
fn what_is_taken_away_is_missed() {
    let first = |guard| {
        let report = |seed| World::run(seed, Setup::of(seed), Some(guard), false).result.err();
        let seeds =
            guard.turn().map_or((0..SEEDS).step_by(1), |turn| (turn..SEEDS * TURNS as u64).step_by(TURNS));
        seeds.into_iter().find_map(|seed| Some((seed, report(seed)?)))
    };
    let found: Vec<_> = thread::scope(|scope| {
        let runs = Guard::ALL.map(|guard| (guard, scope.spawn(move || first(guard))));
        runs.into_iter().map(|(guard, run)| (guard, run.join().unwrap())).collect()
    });
    for (guard, found) in found {
        let (seed, violation) = found.unwrap_or_else(|| panic!("{SEEDS} seeds do not miss {guard:?}"));
        println!("{guard:?}: seed {seed}: {violation:?}");
    }
}
