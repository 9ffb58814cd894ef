//! Bodies: bytes that pass through the registry without being looked at.
//!
//! Streams and buffers belong to the platform. Core holds them as trait objects, so that nothing else has to
//! name the platform's types; the platform's own code gets them back with `Any`.

use std::{any::Any, ops::Range};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::oci::Hasher;

/// Why a stream could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The stream has more bytes than the caller allows.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What the caller allows, in bytes.
        limit: usize,
    },
    /// The other side closed the connection or broke the protocol.
    #[error("the body ended early: {0}")]
    Broken(String),
}

/// A range of content, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte. At or after the end of the content it is an error.
    pub offset: u64,
    /// The length, cut at the end of the content. `None`: to the end.
    pub length: Option<u64>,
}

/// A stream of the platform.
pub type Stream = Box<dyn ByteStream>;

/// A stream of bytes that the platform owns. Core moves it, asks its length, and reads it in large pieces into
/// a [`Buffer`].
pub trait ByteStream: Any {
    /// The length of the whole stream in bytes, if the platform knows it.
    fn content_length(&self) -> Option<u64>;

    /// Reads into `range` of `buffer` until it is full or the stream ends, and returns where it stopped: before
    /// the end of `range` means that the stream has ended. `hasher` sees the bytes on the way. After an error
    /// the content of the buffer is undefined.
    fn read_into<'a>(
        &'a mut self,
        buffer: &'a mut dyn Buffer,
        range: Range<usize>,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>>;

    /// Reads the whole stream into memory and fails once it exceeds `limit` bytes. For manifests and links only.
    fn read(self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>>;

    /// Reads up to `limit` bytes, shows them to `hasher` and drops them.
    fn discard<'a>(
        &'a mut self,
        limit: u64,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>>;

    /// Tells the other side that nobody will read this.
    fn cancel(self: Box<Self>);
}

/// A buffer of fixed capacity outside the registry's own memory, lent by [`Buffers`].
pub trait Buffer: Any {}

/// Lends the buffers in which bytes travel from a stream to storage, within the platform's memory budget.
pub trait Buffers {
    /// The size of the parts that uploads are cut into, in bytes, and the largest buffer to ask for.
    fn part_size(&self) -> usize;

    /// Lends a buffer of `capacity` bytes; waits while the budget is spent.
    fn lend(&self, capacity: usize) -> LocalBoxFuture<'static, Box<dyn Buffer>>;
}

/// The content of a request, of a response, or of an object on its way to storage.
pub enum Body {
    /// No bytes.
    Empty,
    /// Bytes in memory: manifests, links, errors.
    Bytes(Bytes),
    /// Bytes that pass through.
    Stream(Stream),
    /// A range of a buffer.
    Buffer {
        /// The buffer.
        buffer: Box<dyn Buffer>,
        /// Which of its bytes.
        range: Range<usize>,
    },
}

impl Body {
    /// The length in bytes, if known.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Stream(stream) => stream.content_length(),
            Self::Buffer { range, .. } => Some(range.len() as u64),
        }
    }

    /// Releases content that nobody will read.
    pub fn cancel(self) {
        if let Self::Stream(stream) = self {
            stream.cancel();
        }
    }

    /// Reads the whole body into memory and fails once it exceeds `limit` bytes.
    pub async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Bytes(bytes) if bytes.len() > limit => Err(ReadError::TooLarge { limit }),
            Self::Bytes(bytes) => Ok(bytes),
            Self::Stream(stream) => stream.read(limit).await,
            Self::Buffer { .. } => Err(ReadError::Broken("a buffer can only be sent to storage".into())),
        }
    }
}
