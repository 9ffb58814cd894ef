//! Errors as clients see them: the mapping from failures to the specification's codes and statuses.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{Response, headers::upload_headers};
use crate::{
    auth::OverQuota,
    auth::identity::external::FAILURE_PAUSE,
    oci::{
        Digest, InvalidDigest, InvalidManifest, InvalidName, InvalidReference, InvalidTag, Manifest,
        Reference, RepositoryName, Tag,
    },
    platform::{Body, ReadError},
    repository::RepositoryError,
    storage::{StorageError, StorageErrorKind},
    uploads::{CallError, Refused, UploadError, plan::WrongLength},
};

/// When an issuer is asked for its keys again, in seconds.
const ISSUER_PAUSE: u64 = FAILURE_PAUSE / 1000;

/// The codes of the specification ("Error Codes") that this registry uses, and two of `distribution`'s for
/// server failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The repository does not have the blob.
    BlobUnknown,
    /// A chunk is out of order or broken.
    BlobUploadInvalid,
    /// There is no such upload.
    BlobUploadUnknown,
    /// A digest is malformed, or does not match the content.
    DigestInvalid,
    /// A manifest refers to a blob that the repository does not have.
    ManifestBlobUnknown,
    /// A manifest is malformed.
    ManifestInvalid,
    /// The repository does not have the manifest or tag.
    ManifestUnknown,
    /// The signatures of a manifest are not valid.
    ManifestUnverified,
    /// A repository name is malformed.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// Content is too large, or its length is not the announced one.
    SizeInvalid,
    /// The client must authenticate.
    Unauthorized,
    /// The client may not do this.
    Denied,
    /// The endpoint, its method or a parameter is not supported.
    Unsupported,
    /// There were too many requests.
    TooManyRequests,
    /// The same request may succeed later, or the configuration is invalid.
    Unavailable,
    /// An internal failure.
    Unknown,
}

impl ErrorCode {
    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::ManifestUnverified => "MANIFEST_UNVERIFIED",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The message about one blob that a manifest lacks: clients show one or all of them.
struct MissingBlob<'a>(&'a Digest);

impl fmt::Display for MissingBlob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(digest) = self;
        write!(
            f,
            "this repository does not have the blob {digest} of the manifest: push it first, or let the operator accept \
             missing blobs (MISSING_BLOBS)"
        )
    }
}

/// Every failure of a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository does not have the blob.
    #[error("blob unknown to this repository: {0}, push it here or mount it from a repository that has it")]
    BlobUnknown(Digest),
    /// The repository does not have the manifest or tag.
    #[error("manifest unknown: {0} is not in this repository, whose tags are at tags/list")]
    ManifestUnknown(Reference),
    /// What is asked for can be no tag and no digest: no repository has it.
    #[error("manifest unknown: {why}")]
    ImpossibleReference {
        /// The text in the path.
        reference: String,
        /// Why it is none.
        why: InvalidReference,
    },
    /// Nothing was ever pushed to the repository.
    #[error("repository name not known to registry: {0}, push to it first")]
    NameUnknown(RepositoryName),
    /// The query parameter `ns` of a pull names a host that the registry has nothing of.
    #[error(
        "this registry has nothing of {0:?}, which ?ns= names: pull from there, or let the operator add it to NAMESPACES"
    )]
    NamespaceUnknown(String),
    /// The manifest refers to these blobs, which the repository does not have.
    #[error("the manifest refers to {} blobs that this repository does not have", .0.len())]
    ManifestBlobUnknown(Vec<Digest>),
    /// A repository name in a path is malformed.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A digest in a path or parameter is malformed.
    #[error(transparent)]
    InvalidDigest(#[from] InvalidDigest),
    /// A tag in a path or parameter is malformed.
    #[error(transparent)]
    InvalidTag(#[from] InvalidTag),
    /// The content of a manifest is malformed.
    #[error(transparent)]
    InvalidManifest(#[from] InvalidManifest),
    /// A push of a manifest of Docker's schema 1, which is switched off.
    #[error(
        "this registry takes no manifests of Docker's schema 1 (SCHEMA1): convert the image, for instance with \
         `skopeo copy --format v2s2`, or push it with docker 1.10 or later"
    )]
    Schema1NotTaken,
    /// The manifest has Docker's schema 1, which is switched off.
    #[error(
        "the manifest {0} has Docker's schema 1, which is switched off in this registry: SCHEMA1 = read serves it"
    )]
    Schema1Off(Reference),
    /// The manifest exceeds [`Manifest::MAX_BYTES`].
    #[error(
        "the manifest is larger than {} bytes, which is a fixed limit: put content into layers",
        Manifest::MAX_BYTES
    )]
    ManifestTooLarge,
    /// The content does not have the digest in the request.
    #[error(
        "the content does not have the digest {0}: send the bytes of this digest, or the digest of these bytes"
    )]
    DigestMismatch(Digest),
    /// The `PUT` of an upload has no digest.
    #[error("finishing an upload needs ?digest=<algorithm>:<hex>, the digest of the whole blob")]
    DigestMissing,
    /// The session is absent, has ended, or belongs to another repository, or its location is forged.
    #[error("there is no such upload, or it has ended: start a new one")]
    UploadUnknown,
    /// A chunk that does not start at the end of the upload.
    #[error("the next chunk must start at byte {offset}: continue there")]
    UploadOutOfOrder {
        /// The location to continue at.
        location: String,
        /// The bytes stored.
        offset: u64,
    },
    /// The length of a chunk is not the announced one.
    #[error(transparent)]
    ChunkLength(#[from] WrongLength),
    /// The blob would have more parts than storage allows.
    #[error("{0}")]
    BlobTooLarge(String),
    /// The client's connection broke.
    #[error(
        "the request body ended early: send the request again, or continue an upload where GET of its location says"
    )]
    BodyBroken(ReadError),
    /// The client fell silent, or was slow while others waited for memory.
    #[error("{0}: send the request again, or continue an upload where GET of its location says")]
    BodyStalled(ReadError),
    /// A range outside the content.
    #[error(
        "the requested range is not inside the content of {size} bytes: ask for one that begins before its end"
    )]
    RangeNotSatisfiable {
        /// The length of the content, in bytes.
        size: u64,
    },
    /// A query parameter is malformed.
    #[error("query parameter {name}: {expected}")]
    InvalidParameter {
        /// The parameter.
        name: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// The body of a request to one of the registry's own endpoints is too large.
    #[error("the body of the request is larger than {limit} bytes, which is a fixed limit: send less")]
    BodyTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A body that is not what the endpoint reads; the text names the fault.
    #[error("the body of the request: {0}")]
    InvalidBody(String),
    /// The registry is read-only.
    #[error("this registry is read-only for maintenance (READ_ONLY): pulls go on, push again later")]
    ReadOnly,
    /// Deletion is switched off.
    #[error("deletion is switched off in this registry: the operator allows it by DELETION or the policy")]
    DeletionOff,
    /// A header that the registry reads has a value that is not visible ASCII, or one that HTTP does not allow.
    #[error("the value of the header {0} has characters that are not visible ASCII: leave them out")]
    InvalidHeader(String),
    /// Path and query are not a URI.
    #[error("path and query are not a valid URI: percent-encode what a URI cannot hold")]
    InvalidTarget,
    /// Path and query exceed [`MAX_TARGET`](super::MAX_TARGET).
    #[error(
        "path and query are longer than {} characters, the platform's limit: send less",
        super::MAX_TARGET
    )]
    TargetTooLong,
    /// The client must authenticate, or its credentials are wrong.
    #[error("{message}")]
    Unauthenticated {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
        /// What the client should know.
        message: Cow<'static, str>,
    },
    /// The client may not do this. The text is not that of `distribution`, after which docker tries a push again for 50 s and
    /// does not print it.
    #[error("{who} may not {what}: the policy of the registry does not allow it, ask its administrator")]
    Denied {
        /// The principal.
        who: String,
        /// What it has tried.
        what: &'static str,
    },
    /// An immutable tag would be moved or deleted, or lose its manifest.
    #[error(
        "the tag {tag} is immutable and refers to {digest}: it cannot be moved or deleted, push under another tag"
    )]
    Immutable {
        /// The tag.
        tag: Tag,
        /// The manifest that it refers to.
        digest: Digest,
    },
    /// A quota does not allow the push.
    #[error("{0}")]
    OverQuota(OverQuota),
    /// The repository is being removed.
    #[error("the repository is being removed: push again when that is done")]
    Removing,
    /// An administrator has taken the content down.
    #[error(
        "an administrator of the registry has taken this content down: it cannot be stored until that is lifted"
    )]
    TakenDown,
    /// A deletion is larger than a request, and goes on.
    #[error(
        "the repository is deleting a manifest with many tags, which goes on by itself: repeat the request later"
    )]
    GoesOn,
    /// A signed URL is forged, has expired, or was signed with another key.
    #[error("this URL is not signed, or has expired: ask the registry for the blob again")]
    NotSigned,
    /// The path does not support the method.
    #[error("this registry does not support that method here: it supports {allow}")]
    Unsupported {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// Too many failed logins, or too many requests.
    #[error("too many failed logins or requests: wait {seconds} seconds")]
    TooManyRequests {
        /// How long to wait.
        seconds: u64,
    },
    /// An event endpoint, a dead letter, an API key or a job that there is not.
    #[error("there is no such {0}: check its name against the list")]
    Absent(&'static str),
    /// The state of a job does not allow it; the text says what to do.
    #[error("{0}")]
    Conflict(String),
    /// A dead letter cannot wait again: too many events of its endpoint wait.
    #[error("too many events wait for this endpoint: try again when some are delivered")]
    LaneFull,
    /// An unknown path.
    #[error("there is no such endpoint: the registry's are below /v2/")]
    NoSuchEndpoint,
    /// Storage or an upload session is busy; the text is for the operator.
    #[error("storage or an upload session is busy: try again")]
    Busy(String),
    /// The keys of a token's issuer cannot be fetched.
    #[error(
        "the keys of the token's issuer, {issuer}, cannot be fetched now: try again in {ISSUER_PAUSE} seconds"
    )]
    IssuerUnavailable {
        /// The issuer, as its tokens name it.
        issuer: String,
        /// Whose, and why, for the operator.
        reason: String,
    },
    /// A setting or binding is invalid; the text names it and the expected value.
    #[error("{0}")]
    Misconfigured(String),
    /// An internal failure; the text is for the operator.
    #[error(
        "something went wrong in the registry: the operator finds the cause in its log by the X-Request-Id of this answer"
    )]
    Internal(String),
}

impl From<InvalidReference> for Error {
    fn from(error: InvalidReference) -> Self {
        match error {
            InvalidReference::Digest(error) => Self::InvalidDigest(error),
            InvalidReference::Tag(error) => Self::InvalidTag(error),
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error.kind {
            StorageErrorKind::Body(read) => read.into(),
            StorageErrorKind::Blocked => Self::TakenDown,
            _ if error.is_retryable() => Self::Busy(error.to_string()),
            _ => Self::Internal(error.to_string()),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoMemory | ReadError::TakenBack => Self::Busy(error.to_string()),
            ReadError::Silent | ReadError::Slow => Self::BodyStalled(error),
            error => Self::BodyBroken(error),
        }
    }
}

impl From<RepositoryError> for Error {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Storage(error) => error.into(),
            RepositoryError::BlobsMissing(digests) => Self::ManifestBlobUnknown(digests),
            RepositoryError::Immutable { tag, digest } => Self::Immutable { tag, digest },
            RepositoryError::OverQuota(over) => Self::OverQuota(over),
            RepositoryError::Writer(message) | RepositoryError::Events(message) => Self::Busy(message),
            error @ RepositoryError::ContentGone => Self::Busy(error.to_string()),
            RepositoryError::Removing => Self::Removing,
            RepositoryError::TakenDown => Self::TakenDown,
            RepositoryError::GoesOn => Self::GoesOn,
            RepositoryError::Deployment(error) => Self::Misconfigured(error.to_string()),
        }
    }
}

impl From<CallError> for Error {
    /// [`Refused::OutOfOrder`] needs a location: `api::uploads` converts it.
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(Refused::Unknown | Refused::Closed) => Self::UploadUnknown,
            CallError::Refused(Refused::Storage { message, retryable: true }) => Self::Busy(message),
            CallError::Refused(_) => Self::Internal(error.to_string()),
            CallError::Unreachable(message) => Self::Busy(message),
        }
    }
}

impl From<UploadError> for Error {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Session(error) => error.into(),
            // R2 drops a multipart upload after 7 days: nothing is left to continue.
            UploadError::Storage(StorageError { kind: StorageErrorKind::NoSuchUpload, .. }) => {
                Self::UploadUnknown
            }
            UploadError::Storage(error) => error.into(),
            UploadError::Repository(error) => error.into(),
            UploadError::Body(error) => error.into(),
            UploadError::Hash(error) => Self::Internal(error.to_string()),
            UploadError::Length(error) => Self::ChunkLength(error),
            UploadError::TooLarge { .. } => Self::BlobTooLarge(error.to_string()),
            UploadError::DigestMismatch(digest) => Self::DigestMismatch(digest),
        }
    }
}

impl Error {
    /// The keys of `issuer` cannot be fetched, for this reason.
    pub(super) fn unavailable(issuer: String, reason: &str) -> Self {
        let reason = format!("{issuer}: {reason}");
        Self::IssuerUnavailable { issuer, reason }
    }

    /// The status and the code.
    pub fn wire(&self) -> (StatusCode, ErrorCode) {
        match self {
            Self::BlobUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            Self::ManifestUnknown(_) | Self::ImpossibleReference { .. } | Self::Schema1Off(_) => {
                (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown)
            }
            Self::NameUnknown(_) | Self::NamespaceUnknown(_) => {
                (StatusCode::NOT_FOUND, ErrorCode::NameUnknown)
            }
            Self::ManifestBlobUnknown(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestBlobUnknown),
            Self::InvalidName(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            Self::InvalidDigest(_) | Self::DigestMismatch(_) | Self::DigestMissing => {
                (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
            }
            Self::InvalidManifest(InvalidManifest::Signature(_)) => {
                (StatusCode::BAD_REQUEST, ErrorCode::ManifestUnverified)
            }
            Self::InvalidTag(_) | Self::InvalidManifest(_) | Self::Schema1NotTaken => {
                (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid)
            }
            Self::ManifestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            Self::BlobTooLarge(_) | Self::BodyTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid)
            }
            Self::UploadUnknown => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
            Self::UploadOutOfOrder { .. } => {
                (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid)
            }
            Self::ChunkLength(_) => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
            Self::BodyBroken(_) => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
            Self::BodyStalled(_) => (StatusCode::REQUEST_TIMEOUT, ErrorCode::BlobUploadInvalid),
            Self::RangeNotSatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid),
            Self::InvalidParameter { .. }
            | Self::InvalidBody(_)
            | Self::InvalidHeader(_)
            | Self::InvalidTarget => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
            Self::Conflict(_) => (StatusCode::CONFLICT, ErrorCode::Unsupported),
            Self::TargetTooLong => (StatusCode::URI_TOO_LONG, ErrorCode::Unsupported),
            Self::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
            Self::Denied { .. }
            | Self::Immutable { .. }
            | Self::OverQuota(_)
            | Self::Removing
            | Self::TakenDown
            | Self::NotSigned => (StatusCode::FORBIDDEN, ErrorCode::Denied),
            Self::Unsupported { .. } | Self::ReadOnly | Self::DeletionOff => {
                (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported)
            }
            Self::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests),
            Self::NoSuchEndpoint | Self::Absent(_) => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            // Not 429: docker never repeats that code, and containerd repeats it at once.
            Self::Busy(_)
            | Self::GoesOn
            | Self::LaneFull
            | Self::Misconfigured(_)
            | Self::IssuerUnavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
        }
    }

    /// The message for the log; `None` for client errors.
    pub fn log_line(&self) -> Option<&str> {
        match self {
            Self::Busy(message)
            | Self::Internal(message)
            | Self::Misconfigured(message)
            | Self::IssuerUnavailable { reason: message, .. } => Some(message),
            _ => None,
        }
    }

    /// The response: the specification's JSON, with an entry for each fault.
    pub fn response(&self) -> Response {
        let (status, code) = self.wire();
        let entry = |detail: serde_json::Value| {
            let (code, message) = (code.as_str(), self.to_string());
            match detail.is_null() {
                true => json!({"code": code, "message": message}),
                false => json!({"code": code, "message": message, "detail": detail}),
            }
        };
        let entries = match self {
            Self::ManifestBlobUnknown(digests) => {
                let missing = |digest: &Digest| {
                    let (code, message) = (code.as_str(), MissingBlob(digest).to_string());
                    json!({"code": code, "message": message, "detail": {"digest": digest}})
                };
                digests.iter().map(missing).collect()
            }
            Self::BlobUnknown(digest) | Self::DigestMismatch(digest) => {
                vec![entry(json!({"digest": digest}))]
            }
            Self::NameUnknown(name) => vec![entry(json!({"name": name}))],
            Self::NamespaceUnknown(namespace) => vec![entry(json!({"namespace": namespace}))],
            Self::Immutable { tag, digest } => vec![entry(json!({"tag": tag, "digest": digest}))],
            Self::OverQuota(OverQuota::Bytes { bytes, quota, .. }) => {
                vec![entry(json!({"bytes": bytes, "quota": quota}))]
            }
            Self::OverQuota(OverQuota::Repositories { quota, .. }) => vec![entry(json!({"quota": quota}))],
            Self::ManifestUnknown(reference) => vec![entry(json!({"reference": reference.to_string()}))],
            Self::ImpossibleReference { reference, .. } => vec![entry(json!({"reference": reference}))],
            _ => vec![entry(serde_json::Value::Null)],
        };
        let body = Bytes::from(json!({"errors": entries}).to_string());
        let length = body.len();
        let mut response = Response::new(Body::Bytes(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, length.into());
        match self {
            Self::Unauthenticated { challenge, .. } => {
                headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
            }
            Self::ReadOnly | Self::DeletionOff => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::Unsupported { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::TooManyRequests { seconds } => {
                headers.insert(header::RETRY_AFTER, (*seconds).into());
            }
            Self::Busy(_) | Self::GoesOn => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::IssuerUnavailable { .. } => {
                headers.insert(header::RETRY_AFTER, ISSUER_PAUSE.into());
            }
            Self::LaneFull => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            }
            Self::RangeNotSatisfiable { size } => {
                if let Ok(value) = format!("bytes */{size}").parse() {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            Self::UploadOutOfOrder { location, offset } => {
                upload_headers(headers, location, *offset);
            }
            _ => {}
        }
        response
    }
}
