//! Work that continues after the response.

use futures_util::future::LocalBoxFuture;

/// Runs work after the response has been sent.
pub trait Background {
    /// Starts `work`. The platform may cut it short and nobody learns of its errors, so use it for optional
    /// work only.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>);
}
