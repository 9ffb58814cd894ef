//! A deterministic simulation of the registry: concurrent clients, isolates that crash, storage calls that fail, lose
//! their answers or land late, and a model that says what may be true after each answer.
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
mod random;
mod setup;
mod store;
mod universe;
mod world;

use std::collections::BTreeMap;

use self::{
    coverage::Coverage,
    model::Wrong,
    setup::{SCENARIOS, Setup},
    world::World,
};

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
        let report = World::run(seed, Setup::of(seed), false);
        self.seeds += 1;
        self.steps += report.steps;
        self.coverage.add(&report.coverage);
        if let Err(violation) = report.result {
            self.violations.entry(violation.wrong).or_insert((0, seed, violation.detail)).0 += 1;
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
#[ignore = "survey"]
fn survey() {
    let mut found = Found::default();
    (0..variable("SIMULATION_SEEDS").unwrap_or(300)).for_each(|seed| found.run(seed));
    println!("{} steps of {} seeds\n{}", found.steps, found.seeds, found.coverage);
    for (wrong, (count, seed, detail)) in &found.violations {
        println!("{wrong:?}: {count} times, first with seed {seed}: {detail}");
    }
}

#[test]
#[ignore = "survey"]
fn rows() {
    let turns = 2 * SCENARIOS.len() as u64;
    for (turn, scenario) in (0..).zip(SCENARIOS) {
        let mut found = Found::default();
        (0..100).for_each(|n| found.run(n * turns + turn));
        println!("== {}, {} steps", scenario.name, found.steps);
        for (wrong, (count, seed, detail)) in &found.violations {
            println!("{wrong:?}: {count} of 100, first with seed {seed} ({}): {detail}", seed / turns + 1);
        }
    }
}

#[test]
#[ignore = "one seed"]
fn one_seed() {
    let seed = variable("SIMULATION_SEED").unwrap();
    let report = World::run(seed, Setup::of(seed), true);
    println!("{}", report.trace.join("\n"));
    println!("{:?}", report.result);
}
