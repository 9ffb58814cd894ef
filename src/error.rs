//! Errors as clients see them: one table from what went wrong to the specification's codes.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::{
    auth::AuthError,
    body::{Body, ByteStream, ReadError},
    oci::{
        Digest, InvalidDigest, InvalidManifest, InvalidName, InvalidReference, InvalidTag, Manifest,
        Reference, RepositoryName,
    },
    storage::{StorageError, StorageErrorKind},
    uploads::{CallError, UploadError, chunk::ChunkError, commit::CommitError},
};

/// The codes of the specification ("Error Codes") that this registry uses, and `distribution`'s two for what
/// is not the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// A blob is not in the repository.
    BlobUnknown,
    /// A chunk is out of order or broken.
    BlobUploadInvalid,
    /// There is no such upload.
    BlobUploadUnknown,
    /// A digest is malformed, or is not that of the content.
    DigestInvalid,
    /// A manifest refers to a blob that is not in the repository.
    ManifestBlobUnknown,
    /// A manifest is malformed.
    ManifestInvalid,
    /// A manifest or tag is not in the repository.
    ManifestUnknown,
    /// A repository's name is malformed.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// Something is too large, or not as long as announced.
    SizeInvalid,
    /// The client must say who it is.
    Unauthorized,
    /// The client may not do this.
    Denied,
    /// There is no such endpoint, or not with this method or parameter.
    Unsupported,
    /// The same request may work later.
    TooManyRequests,
    /// The registry is not configured.
    Unavailable,
    /// A fault of the registry's own.
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

/// Everything a request can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository does not have the blob.
    #[error("blob unknown to this repository: {0}")]
    BlobUnknown(Digest),
    /// The repository does not have the manifest, or the tag.
    #[error("manifest unknown: {0}")]
    ManifestUnknown(Reference),
    /// Nothing was ever pushed to the repository.
    #[error("repository name not known to registry: {0}")]
    NameUnknown(RepositoryName),
    /// A manifest refers to these blobs, which its repository does not have.
    #[error("the manifest refers to blobs that this repository does not have: push them first")]
    ManifestBlobUnknown(Vec<Digest>),
    /// A path's repository name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A digest in a path or parameter.
    #[error(transparent)]
    InvalidDigest(#[from] InvalidDigest),
    /// A tag in a path or parameter.
    #[error(transparent)]
    InvalidTag(#[from] InvalidTag),
    /// A manifest's content.
    #[error(transparent)]
    InvalidManifest(#[from] InvalidManifest),
    /// See [`Manifest::MAX_BYTES`].
    #[error("the manifest is larger than {} bytes", Manifest::MAX_BYTES)]
    ManifestTooLarge,
    /// The content does not have the digest it was pushed under.
    #[error("the content does not have the digest {0}")]
    DigestMismatch(Digest),
    /// The PUT of an upload does not say a digest.
    #[error("finishing an upload needs ?digest=<algorithm>:<hex>")]
    DigestMissing,
    /// The session is absent, over, or of another repository, or its location was not signed by us.
    #[error("there is no such upload, or it is over: start a new one")]
    UploadUnknown,
    /// With `location` and the number of bytes stored, for the headers.
    #[error("the next chunk must start at byte {offset}; continue there")]
    UploadOutOfOrder {
        /// Where to go on.
        location: String,
        /// How many bytes are stored.
        offset: u64,
    },
    /// A chunk's length and its `Content-Range` disagree; both in bytes.
    #[error("the chunk has {received} bytes where {declared} were announced")]
    ChunkLength {
        /// What was announced.
        declared: u64,
        /// What came.
        received: u64,
    },
    /// The blob would have more parts than storage takes.
    #[error("the blob is larger than this registry stores: {0}")]
    BlobTooLarge(String),
    /// The client's connection broke.
    #[error("the request's body ended early")]
    BodyBroken(ReadError),
    /// For content of `size` bytes.
    #[error("the requested range is not inside the content of {size} bytes")]
    RangeNotSatisfiable {
        /// The length of the content, in bytes.
        size: u64,
    },
    /// A query parameter, and what it should be.
    #[error("query parameter {name}: {expected}")]
    InvalidParameter {
        /// The parameter.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The client may not do this, or must say who it is.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A signed URL was changed, is over, or was made with another key.
    #[error("this URL is not, or no longer, signed: ask the registry for the blob again")]
    NotSigned,
    /// A known path with another method; `allow` are those it has.
    #[error("this registry does not do that here")]
    Unsupported {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// A path that means nothing here.
    #[error("there is no such endpoint")]
    NoSuchEndpoint,
    /// Storage or a session did not answer; the text is the operator's.
    #[error("storage or an upload session is busy: try again")]
    Busy(String),
    /// A setting or binding is wrong; the text says which and what it should be.
    #[error("{0}")]
    Misconfigured(String),
    /// A fault of the registry's own; the text is the operator's.
    #[error("something went wrong in the registry")]
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
            StorageErrorKind::Body(read) => Self::BodyBroken(read),
            StorageErrorKind::Backend { retryable: true, .. } => Self::Busy(error.to_string()),
            _ => Self::Internal(error.to_string()),
        }
    }
}

impl From<CallError> for Error {
    /// `OutOfOrder` needs a location: `api::uploads` maps it before it comes here.
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(UploadError::Unknown | UploadError::Closed) => Self::UploadUnknown,
            CallError::Refused(UploadError::OutOfOrder { .. }) => Self::Internal(error.to_string()),
            CallError::Unreachable(message) => Self::Busy(message),
        }
    }
}

impl From<ChunkError> for Error {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Session(error) => error.into(),
            ChunkError::Storage(error) => error.into(),
            ChunkError::Body(error) => Self::BodyBroken(error),
            ChunkError::Hash(error) => Self::Internal(error.to_string()),
            ChunkError::Length { declared, received } => Self::ChunkLength { declared, received },
            ChunkError::TooLarge => Self::BlobTooLarge(error.to_string()),
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::DigestMismatch(digest) => Self::DigestMismatch(digest),
            CommitError::Chunk(error) => error.into(),
        }
    }
}

impl Error {
    /// Status and code: the table.
    pub fn wire(&self) -> (StatusCode, ErrorCode) {
        match self {
            Self::BlobUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            Self::ManifestUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            Self::NameUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            Self::ManifestBlobUnknown(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestBlobUnknown),
            Self::InvalidName(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            Self::InvalidDigest(_) | Self::DigestMismatch(_) | Self::DigestMissing => {
                (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
            }
            Self::InvalidTag(_) | Self::InvalidManifest(_) => {
                (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid)
            }
            Self::ManifestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            Self::BlobTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            Self::UploadUnknown => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
            Self::UploadOutOfOrder { .. } => {
                (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid)
            }
            Self::ChunkLength { .. } => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
            Self::BodyBroken(_) => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
            Self::RangeNotSatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid),
            Self::InvalidParameter { .. } => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
            Self::Auth(AuthError::Unauthenticated { .. }) => {
                (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized)
            }
            Self::Auth(AuthError::Denied) | Self::NotSigned => (StatusCode::FORBIDDEN, ErrorCode::Denied),
            Self::Unsupported { .. } => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            Self::NoSuchEndpoint => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            Self::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests),
            Self::Misconfigured(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
        }
    }

    /// What the operator should read and the client need not; `None` for a client's fault.
    pub fn log_line(&self) -> Option<&str> {
        match self {
            Self::Busy(message) | Self::Internal(message) | Self::Misconfigured(message) => Some(message),
            _ => None,
        }
    }

    /// The answer: the specification's JSON, an entry for each thing that is wrong.
    pub fn response<S: ByteStream>(&self) -> Response<Body<S>> {
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
                digests.iter().map(|digest| entry(json!({"digest": digest}))).collect()
            }
            Self::BlobUnknown(digest) | Self::DigestMismatch(digest) => {
                vec![entry(json!({"digest": digest}))]
            }
            Self::NameUnknown(name) => vec![entry(json!({"name": name}))],
            Self::ManifestUnknown(reference) => vec![entry(json!({"reference": reference.to_string()}))],
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
            Self::Auth(AuthError::Unauthenticated { challenge }) => {
                headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
            }
            Self::Unsupported { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::Busy(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::RangeNotSatisfiable { size } => {
                if let Ok(value) = format!("bytes */{size}").parse() {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            Self::UploadOutOfOrder { location, offset } => {
                crate::api::headers::upload_headers(headers, location, *offset);
            }
            _ => {}
        }
        response
    }
}
