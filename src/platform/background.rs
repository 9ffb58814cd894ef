//! Work that continues after the response.

use futures_util::future::LocalBoxFuture;

/// Runs work after the response has been sent.
pub trait Background {
    /// Starts `work`. Best effort: the platform may cut it short, and errors are dropped. Use it for optional
    /// work only.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>);

    /// Starts `work` after a delay. Best effort, too; the delay should be a few seconds.
    fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>);
}
