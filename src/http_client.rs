//! Requests to other servers.

use crate::body::{Body, ByteStream};

/// Sends requests. What may work later (429, 5xx, a lost connection) is tried again a few times, unless the
/// body is a stream, which can be sent once only: use it for requests that may be repeated.
pub trait HttpClient {
    /// The platform's stream.
    type Stream: ByteStream;

    /// The answer, whatever its status; an error, as text, when there was none.
    async fn send(
        &self,
        request: http::Request<Body<Self::Stream>>,
    ) -> Result<http::Response<Body<Self::Stream>>, String>;
}
