//! The platform's cache of blob bodies near the client.

use futures_util::future::LocalBoxFuture;

use super::{Body, ByteRange};
use crate::oci::Digest;

/// A best-effort cache: it may evict or refuse any entry at any time.
pub trait EdgeCache {
    /// A blob of `size` bytes, or exactly the requested range of it; `None` if absent. Entries are stored
    /// under `host`, the registry's own.
    fn get<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>>;

    /// Stores a whole blob. The error is the reason for a refusal.
    fn put<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        body: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>>;
}
