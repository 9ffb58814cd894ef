//! Tests of the HTTP API over the memory driver, in one binary so that `cargo test` links once.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

mod access;
mod architecture;
mod blobs;
mod catalog;
mod center;
mod chunked_uploads;
mod decorators;
mod deletion;
mod documentation;
mod errors;
mod event_endpoints;
mod events;
mod external;
mod faults;
mod first_chunks;
mod fixtures;
mod health;
mod immutable;
mod issuer;
mod jobs;
mod large_manifests;
mod limits;
mod logins;
mod logs;
mod manifests;
mod metrics;
mod mounts;
mod near;
mod permissions;
mod reads;
mod receiver;
mod recorded_events;
mod redirects;
mod referrers;
mod rights;
mod support;
mod table;
mod tags;
mod tokens;
mod upload_sessions;
mod uploads;
mod writer;
