//! Fuzz targets: every parser that a client reaches, then whole requests over the memory driver.
//!
//! Inputs start from valid ones and are mutated: see [`mutate`]. What is accepted is compared with a second, simpler
//! implementation of its grammar. Each target runs for about a second; `FUZZ_CASES=<cases of each>` runs longer, best
//! with `--release`. proptest keeps the seeds of failures in `tests/proptest-regressions`; a fixed one becomes a unit
//! test beside the code.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

mod credentials;
#[path = "../registry/fixtures.rs"]
#[allow(dead_code, reason = "shared")]
mod fixtures;
mod headers;
#[path = "../registry/issuer.rs"]
#[allow(dead_code, reason = "shared")]
mod issuer;
mod manifests;
mod mutate;
mod names;
mod pages;
#[path = "../registry/receiver.rs"]
#[allow(dead_code, reason = "shared")]
mod receiver;
mod requests;
mod routes;
mod sessions;
#[path = "../registry/signed.rs"]
#[allow(dead_code, reason = "shared")]
mod signed;
mod signed_manifests;
#[path = "../registry/support.rs"]
#[allow(dead_code, reason = "shared")]
mod support;
mod tokens;

use proptest::test_runner::Config;

/// The configuration of a target that runs `cases` cases, unless `FUZZ_CASES` says otherwise.
fn cases(cases: u32) -> Config {
    let asked = std::env::var("FUZZ_CASES").ok().map(|text| text.parse().unwrap());
    Config { cases: asked.unwrap_or(cases), ..Config::default() }
}
