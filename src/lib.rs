//! Pierhead: an OCI and Docker container registry that runs at the edge.
//!
//! | to find | open |
//! |---|---|
//! | what a path means, and the right it needs | [`api::route`] |
//! | the answer to an endpoint | `src/api/<noun>.rs`: blobs, uploads, manifests, tags, referrers, catalog, admin |
//! | codes and statuses of errors | [`api::error`] |
//! | what a repository is, and its decorators | [`repository`] |
//! | how bytes become a blob | [`uploads`] |
//! | how bytes are found and cached by digest | [`blobs`] |
//! | where a client is sent for them | [`redirect`] |
//! | which keys the bucket has | [`layout`] |
//! | what a store must do | [`storage::StorageDriver`] |
//! | who a request comes from, and what they may do | [`auth`] |
//! | what every request and job carries | [`context`] |
//! | jobs | [`jobs`] |
//! | settings | [`config`] |
//! | how everything is composed | [`app`] |
//! | anything that names JavaScript | `src/cloudflare/`, and nowhere else |
//!
//! # Floors
//!
//! A module uses only itself and the floors below it; a test reads this list and every `use crate::`. The compiler
//! keeps JavaScript out of all but the first: its crates do not exist on the host.
//!
//! 1. `cloudflare`
//! 2. `middleware`
//! 3. `api`
//! 4. `jobs`
//! 5. `app`
//! 6. `config`
//! 7. `uploads`
//! 8. `repository`
//! 9. `blobs`
//! 10. `context`
//! 11. `auth`, `redirect`
//! 12. `secret`
//! 13. `layout`
//! 14. `storage`
//! 15. `platform`
//! 16. `oci`

pub mod api;
pub mod app;
pub mod auth;
pub mod blobs;
pub mod config;
pub mod context;
pub mod jobs;
pub mod layout;
pub mod middleware;
pub mod oci;
pub mod platform;
pub mod redirect;
pub mod repository;
pub mod secret;
pub mod storage;
pub mod uploads;

#[cfg(target_arch = "wasm32")]
mod cloudflare;
