//! Limits of rate by the platform's binding. Each location of Cloudflare counts for itself.

use futures_util::future::LocalBoxFuture;

use crate::platform::Limiter;

/// A binding for limits of rate.
pub struct RateLimit(pub worker::RateLimiter);

impl Limiter for RateLimit {
    fn allow<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, bool> {
        Box::pin(async move { self.0.limit(key.to_owned()).await.map_or(true, |outcome| outcome.success) })
    }
}
