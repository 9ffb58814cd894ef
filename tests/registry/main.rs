//! Tests of the HTTP API over the memory driver, in one binary so that `cargo test` links once.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

mod architecture;
mod chunked_uploads;
mod decorators;
mod documentation;
mod jobs;
mod reads;
mod support;
