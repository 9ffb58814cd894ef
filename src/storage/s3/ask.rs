//! Requests to S3: signing, sending, and what its answers mean.

use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use rusty_s3::S3Action;

use super::S3;
use crate::{
    body::Body,
    http_client::HttpClient,
    storage::{StorageDriverExt, StorageError, StorageErrorKind, redirect::presigned::timestamp},
};

/// How long a request may take to arrive after it was signed.
const REQUEST_TTL: Duration = Duration::from_secs(300);
/// The longest answer that is not an object, in bytes: a page of 1,000 keys of 1,024 bytes, and what is around
/// them.
pub(super) const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Headers that are signed.
pub(super) type Headers = Vec<(String, String)>;

/// An answer whose body has been read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl<C: HttpClient> S3<C> {
    pub(super) fn backend(
        &self,
        path: &str,
        operation: &'static str,
        message: String,
        retryable: bool,
    ) -> StorageError {
        self.error(path, StorageErrorKind::Backend { operation, message, retryable })
    }

    /// Signs and sends; `headers` are signed too.
    pub(super) async fn send<'a, A: S3Action<'a>>(
        &self,
        path: &str,
        operation: &'static str,
        mut action: A,
        headers: Headers,
        body: Body<C::Stream>,
    ) -> Result<Response<Body<C::Stream>>, StorageError> {
        for (name, value) in &headers {
            action.headers_mut().insert(name.clone(), value.clone());
        }
        let url = action.sign_with_time(REQUEST_TTL, &timestamp(&*self.clock));
        let mut request = Request::builder().method(A::METHOD.to_str()).uri(url.as_str());
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request =
            request.body(body).map_err(|error| self.backend(path, operation, error.to_string(), false))?;
        self.client.send(request).await.map_err(|message| self.backend(path, operation, message, true))
    }

    /// Signs and sends, and reads the answer, whatever its status.
    pub(super) async fn ask_any<'a>(
        &self,
        path: &str,
        operation: &'static str,
        action: impl S3Action<'a>,
        headers: Headers,
        body: Body<C::Stream>,
    ) -> Result<Answer, StorageError> {
        let (parts, body) = self.send(path, operation, action, headers, body).await?.into_parts();
        let text = body.read(MAX_ANSWER).await.map_err(|error| self.error(path, error))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Answer { status: parts.status, headers: parts.headers, text })
    }

    /// Signs and sends, and reads the answer. A status that is not a success is an error.
    pub(super) async fn ask<'a>(
        &self,
        path: &str,
        operation: &'static str,
        action: impl S3Action<'a>,
        headers: Headers,
        body: Body<C::Stream>,
    ) -> Result<Answer, StorageError> {
        let answer = self.ask_any(path, operation, action, headers, body).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(path, operation, &answer)) }
    }

    pub(super) fn refused(
        &self,
        path: &str,
        operation: &'static str,
        Answer { status, text, .. }: &Answer,
    ) -> StorageError {
        // The rest of S3's answer may repeat what was signed.
        let (code, message) = (element(text, "Code"), element(text, "Message"));
        if *status == StatusCode::PRECONDITION_FAILED {
            return self.error(path, StorageErrorKind::Precondition);
        }
        if matches!(code, "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch") {
            return self.error(path, StorageErrorKind::DigestMismatch);
        }
        let retryable = status.is_server_error()
            || *status == StatusCode::TOO_MANY_REQUESTS
            || matches!(code, "RequestTimeout" | "ConditionalRequestConflict" | "OperationAborted");
        self.backend(path, operation, format!("{status} {code}: {message}"), retryable)
    }
}

/// The text of the first element of this name, or nothing.
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
