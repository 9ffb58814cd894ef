//! Requests to S3: signing, sending, and reading the reply.

use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use rusty_s3::S3Action;

use super::{S3, signing_time};
use crate::{
    platform::Body,
    storage::{Errors, StorageError, StorageErrorKind},
};

/// The lifetime of a signature.
const REQUEST_TTL: Duration = Duration::from_secs(300);
/// Size limit of a reply other than an object, in bytes: fits a listing of 1,000 keys of 1,024 bytes, with
/// its XML.
pub(super) const MAX_RESPONSE: usize = 4 * 1024 * 1024;
/// Headers to sign.
pub(super) type Headers = Vec<(String, String)>;

/// A response whose body has been read.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl S3 {
    pub(super) fn backend(
        &self,
        path: &str,
        operation: &'static str,
        message: String,
        retryable: bool,
    ) -> StorageError {
        self.error(path, StorageErrorKind::Backend { operation, message, retryable })
    }

    /// Signs and sends a request; `headers` are signed too.
    pub(super) async fn send<'a, A: S3Action<'a>>(
        &self,
        path: &str,
        operation: &'static str,
        mut action: A,
        headers: Headers,
        body: Body,
    ) -> Result<Response<Body>, StorageError> {
        for (name, value) in &headers {
            action.headers_mut().insert(name.clone(), value.clone());
        }
        let url = action.sign_with_time(REQUEST_TTL, &signing_time(&*self.clock));
        let mut request = Request::builder().method(A::METHOD.to_str()).uri(url.as_str());
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request =
            request.body(body).map_err(|error| self.backend(path, operation, error.to_string(), false))?;
        self.client.send(request).await.map_err(|message| self.backend(path, operation, message, true))
    }

    /// Signs and sends a request, and reads the reply, whatever its status.
    pub(super) async fn exchange<'a>(
        &self,
        path: &str,
        operation: &'static str,
        action: impl S3Action<'a>,
        headers: Headers,
        body: Body,
    ) -> Result<Reply, StorageError> {
        let (parts, body) = self.send(path, operation, action, headers, body).await?.into_parts();
        let text = body.read(MAX_RESPONSE).await;
        let text = text.map_err(|error| self.backend(path, operation, error.to_string(), true))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Reply { status: parts.status, headers: parts.headers, text })
    }

    /// Like [`exchange`](Self::exchange), but a status other than success is an error.
    pub(super) async fn request<'a>(
        &self,
        path: &str,
        operation: &'static str,
        action: impl S3Action<'a>,
        headers: Headers,
        body: Body,
    ) -> Result<Reply, StorageError> {
        let reply = self.exchange(path, operation, action, headers, body).await?;
        if reply.status.is_success() { Ok(reply) } else { Err(self.refused(path, operation, &reply)) }
    }

    pub(super) fn refused(
        &self,
        path: &str,
        operation: &'static str,
        Reply { status, text, .. }: &Reply,
    ) -> StorageError {
        // The rest of the reply may quote the signed request.
        let (code, message) = (element(text, "Code"), element(text, "Message"));
        if *status == StatusCode::PRECONDITION_FAILED {
            return self.error(path, StorageErrorKind::Precondition);
        }
        if matches!(code, "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch") {
            return self.error(path, StorageErrorKind::DigestMismatch);
        }
        if code == "NoSuchUpload" {
            return self.error(path, StorageErrorKind::NoSuchUpload);
        }
        if *status == StatusCode::TOO_MANY_REQUESTS || code == "SlowDown" {
            let message = format!("{status} {code}: {message}");
            return self.error(path, StorageErrorKind::Throttled { operation, message });
        }
        let retryable = status.is_server_error()
            || matches!(code, "RequestTimeout" | "ConditionalRequestConflict" | "OperationAborted");
        self.backend(path, operation, format!("{status} {code}: {message}"), retryable)
    }
}

/// The text of the first element with this name, or an empty string.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let inner = || {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
    };
    inner().unwrap_or_default()
}

pub(super) fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&#34;", "\"").replace("&amp;", "&")
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
