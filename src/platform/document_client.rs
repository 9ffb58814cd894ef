//! Requests for small documents of other servers: the keys of token issuers.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

/// Reads documents.
pub trait DocumentClient {
    /// Requests a document once: no retries, no redirects. Returns its bytes. An error means that the answer was not 200,
    /// had more than `limit` bytes, or was not complete within `timeout` milliseconds; its text may be shown to anybody.
    fn get<'a>(
        &'a self,
        url: &'a str,
        limit: usize,
        timeout: u64,
    ) -> LocalBoxFuture<'a, Result<Bytes, String>>;
}
