//! Work that outlives the answer.

use futures_util::future::LocalBoxFuture;

/// Carries work on after the request has been answered.
pub trait Background {
    /// Takes work on. It may be cut short, and nobody hears of it: only for what can as well not be done.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>);
}
