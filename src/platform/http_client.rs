//! Requests to other servers.

use futures_util::future::LocalBoxFuture;

use super::Body;

/// Sends HTTP requests. It repeats a request a few times after 429, 5xx or a lost connection, unless the body
/// is a stream, which can be sent only once: use it for requests that are safe to repeat.
pub trait HttpClient {
    /// The response, whatever its status, or why there is none.
    fn send(&self, request: http::Request<Body>) -> LocalBoxFuture<'_, Result<http::Response<Body>, String>>;
}
