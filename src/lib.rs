//! Pierhead: an OCI and Docker container registry that runs at the edge.
//!
//! | to find | open |
//! |---|---|
//! | what a path means and which right it needs | [`api::route`] |
//! | the answer to an endpoint | `src/api/<noun>.rs`: blobs, uploads, manifests, tags, referrers, catalog |
//! | how bytes become a blob | [`uploads`] |
//! | what is stored where | [`storage::key`] |
//! | what a store must do | [`storage::StorageDriver`] |
//! | what is put around the parts | [`middleware`] |
//! | where a GET of a blob is sent | [`storage::redirect`] |
//! | what is cached, and what never is | [`content::cache`], [`edge`] |
//! | codes and statuses of errors | [`error`] |
//! | settings | [`config`] |
//! | anything that names JavaScript | `src/cloudflare/`, and nowhere else |
//!
//! Dependencies point down: `cloudflare`, `api`, `error`, then `content`, `uploads`, `auth`, `storage`, then
//! `body`, `clock`, `config`, then `oci`. The compiler keeps JavaScript out of all but the first: its crates
//! do not exist on the host.

pub mod api;
pub mod auth;
pub mod background;
pub mod body;
pub mod clock;
pub mod config;
pub mod content;
pub mod edge;
pub mod error;
pub mod http_client;
pub mod log;
pub mod middleware;
pub mod oci;
pub mod secret;
pub mod storage;
pub mod uploads;

#[cfg(target_arch = "wasm32")]
mod cloudflare;
