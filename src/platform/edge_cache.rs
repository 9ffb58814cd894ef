//! The platform's cache near the client.

use futures_util::future::{LocalBoxFuture, ready};

use super::{Body, ByteRange};
use crate::oci::Digest;

/// A best-effort cache at the data centre: it may evict or refuse any entry at any time, and may serve an entry
/// after its lifetime.
///
/// There are two kinds. One is filled by [`put`](Self::put). The other stands before the registry's own inner
/// entry points and fills itself: on a miss, the entry point runs, and its answer is kept as long as its
/// headers allow. Only the second kind implements the last four methods.
pub trait EdgeCache {
    /// A blob of `size` bytes, or exactly the requested range of it; `None` if absent. Entries that were
    /// [`put`](Self::put) are stored under `host`, the registry's own.
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

    /// Whether there are inner entry points behind this cache: it fills itself.
    fn has_entry_points(&self) -> bool {
        false
    }

    /// The answer of the inner entry point of `path`, cached or new; `None` if it has none.
    fn ask<'a>(&'a self, _path: &'a str) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(ready(None))
    }

    /// Removes the answers about facts that carry one of `tags`, at most 100, in all data centres. May fail, may
    /// be late, and does not stop a fill under way.
    fn purge<'a>(&'a self, _tags: &'a [String]) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }

    /// Removes content by digest that carries one of `tags`, like [`purge`](Self::purge).
    fn purge_content<'a>(&'a self, _tags: &'a [String]) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }
}
