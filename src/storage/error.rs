//! Errors of drivers.

use crate::platform::ReadError;

/// A failed storage operation. The message is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{driver}: {path}: {kind}")]
pub struct StorageError {
    /// The driver's name.
    pub driver: &'static str,
    /// The path or prefix of the operation.
    pub path: String,
    /// The failure.
    pub kind: StorageErrorKind,
}

impl StorageError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            StorageErrorKind::Backend { retryable: true, .. } | StorageErrorKind::Throttled { .. }
        )
    }

    /// Whether a write that failed like this may have taken effect, or may yet.
    pub fn is_unsettled(&self) -> bool {
        matches!(self.kind, StorageErrorKind::Backend { .. })
    }
}

/// The kinds of failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageErrorKind {
    /// A range starts at or after the end of the object.
    #[error("offset {offset} is not inside the object")]
    InvalidOffset {
        /// The requested offset.
        offset: u64,
    },
    /// The driver cannot do this.
    #[error("the driver does not support {0}")]
    Unsupported(&'static str),
    /// The [`Condition`](super::Condition) of a write did not hold.
    #[error("the condition of the write does not hold")]
    Precondition,
    /// The multipart upload was completed or aborted, or has expired, or lacks one of its parts.
    #[error("there is no such multipart upload, or a part of it is missing")]
    NoSuchUpload,
    /// The content does not have the announced digest.
    #[error("the content does not have the announced digest")]
    DigestMismatch,
    /// An administrator has taken the content down: it must not be stored.
    #[error("the content was taken down")]
    Blocked,
    /// The stream of the content failed.
    #[error(transparent)]
    Body(#[from] ReadError),
    /// The store takes no more such calls at the moment. This one had no effect.
    #[error("{operation}: {message}")]
    Throttled {
        /// The operation.
        operation: &'static str,
        /// The store's message.
        message: String,
    },
    /// The store returned an error or no response.
    #[error("{operation}: {message}")]
    Backend {
        /// The operation.
        operation: &'static str,
        /// The store's message.
        message: String,
        /// Whether the same request may succeed later.
        retryable: bool,
    },
}
