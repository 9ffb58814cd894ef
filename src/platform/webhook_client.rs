//! Requests that deliver events.

use futures_util::future::LocalBoxFuture;

/// Sends a request once: no retries, no redirects.
pub trait WebhookClient {
    /// Returns status and headers of the answer. Its body is cancelled unread. An error means that there was no answer,
    /// or none within `timeout` milliseconds; it must not contain the URL, which may be secret.
    fn post(
        &self,
        request: http::Request<String>,
        timeout: u64,
    ) -> LocalBoxFuture<'_, Result<http::Response<()>, String>>;
}
