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

use self::{model::Wrong, setup::Setup, world::World};

#[test]
#[ignore = "survey"]
fn survey() {
    let seeds: u64 = std::env::var("SIMULATION_SEEDS").map_or(300, |n| n.parse().unwrap());
    let mut found: BTreeMap<Wrong, (u64, u64, String)> = BTreeMap::new();
    let (mut steps, mut coverage) = (0, coverage::Coverage::default());
    for seed in 0..seeds {
        let report = World::run(seed, Setup::of(seed), false);
        steps += report.steps;
        coverage.add(&report.coverage);
        if let Err(violation) = report.result {
            found.entry(violation.wrong).or_insert((seed, 0, violation.detail)).1 += 1;
        }
    }
    println!("{steps} steps");
    println!("{coverage}");
    for (wrong, (seed, count, detail)) in &found {
        println!("{wrong:?}: {count} times, first with seed {seed}: {detail}");
    }
}

#[test]
#[ignore = "one seed"]
fn one_seed() {
    let seed: u64 = std::env::var("SIMULATION_SEED").unwrap().parse().unwrap();
    let report = World::run(seed, Setup::of(seed), true);
    println!("{}", report.trace.join("\n"));
    println!("{:?}", report.result);
}
