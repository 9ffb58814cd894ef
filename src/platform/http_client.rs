//! Requests to other servers.

use futures_util::future::LocalBoxFuture;

use super::Body;

/// Sends HTTP requests. Use it for idempotent requests only: it retries a few times after 429, 5xx or a lost
/// connection. A request with a stream is not retried, because a stream can be sent only once.
pub trait HttpClient {
    /// Returns the response, whatever its status. An error means that there was no response.
    fn send(&self, request: http::Request<Body>) -> LocalBoxFuture<'_, Result<http::Response<Body>, String>>;
}
