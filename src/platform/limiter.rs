//! Limits of rate.

use futures_util::future::LocalBoxFuture;

/// Counts calls by key, and says when there are too many of them.
pub trait Limiter {
    /// Counts a call. `false` if there were too many with this key lately. A failure of the platform allows the call.
    fn allow<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, bool>;
}
