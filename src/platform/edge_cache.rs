//! The platform's cache of blob bodies near the client.

use futures_util::future::LocalBoxFuture;

use super::{Body, ByteRange};
use crate::oci::Digest;

/// A cache that may evict anything at any time, and refuse anything.
pub trait EdgeCache {
    /// A blob of `size` bytes, or a range inside it, of exactly the length asked for; `None` if absent. `host`
    /// is the registry's own, under which the cache keeps entries.
    fn get<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>>;

    /// Stores a whole blob. The error says why it was refused.
    fn put<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        body: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>>;
}
