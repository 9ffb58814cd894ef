//! Pierhead: an OCI and Docker container registry that runs at the edge.
//!
//! | to find | open |
//! |---|---|
//! | endpoint paths, and the access they require | [`api::route`] |
//! | endpoint handlers | `src/api/<noun>.rs`: blobs, uploads, manifests, tags, referrers, catalog, jobs, removal, keys, events, metrics, health |
//! | error codes and statuses | [`api::error`] |
//! | repositories and their decorators | [`repository`] |
//! | the order of a repository's changes | [`repository::writer`] |
//! | uploads, from chunk to blob | [`uploads`] |
//! | content by digest, and its caches | [`blobs`] |
//! | redirects of blob pulls | [`redirect`] |
//! | the keys of the bucket | [`layout`] |
//! | the contract of a storage driver | [`storage::StorageDriver`] |
//! | authentication and authorization | [`auth`] |
//! | which tags a repository keeps | [`retention`] |
//! | the context of a request or job | [`context`] |
//! | events, and their delivery | [`events`] |
//! | jobs | [`jobs`] |
//! | settings | [`config`] |
//! | the composition of all parts | [`app`] |
//! | anything that uses JavaScript | `src/cloudflare/` only |
//!
//! # Floors
//!
//! A module may use only itself and lower floors; a test checks every `use crate::` against this list. The
//! compiler keeps JavaScript out of all floors but the first: its crates do not exist on the host.
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
//! 11. `auth`, `redirect`, `retention`
//! 12. `secret`, `events`, `document`
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
mod document;
pub mod events;
pub mod jobs;
pub mod layout;
pub mod middleware;
pub mod oci;
pub mod platform;
pub mod redirect;
pub mod repository;
pub mod retention;
pub mod secret;
pub mod storage;
pub mod uploads;

#[cfg(target_arch = "wasm32")]
mod cloudflare;
