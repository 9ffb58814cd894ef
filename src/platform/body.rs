//! Bodies: bytes that pass through the registry unread.
//!
//! Streams and buffers belong to the platform. Other code holds them as trait objects, without naming the
//! platform's types; the platform downcasts them with `Any`.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::ready,
    ops::Range,
    rc::Rc,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{LocalBoxFuture, join},
    stream,
};

use super::budget::{PACE, SILENCE};
use crate::oci::Hasher;

/// A failed read of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The stream exceeds the caller's limit.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The caller's limit, in bytes.
        limit: usize,
    },
    /// Other requests hold the memory for it.
    #[error("the registry has no memory for the body now")]
    NoMemory,
    /// The request was taken for dead, and its memory was given to others: see [`budget`](super::budget).
    #[error("the request gave no sign of life, and its memory was taken back")]
    TakenBack,
    /// The other side has sent nothing for [`SILENCE`].
    #[error("no byte arrived for {} s", SILENCE / 1000)]
    Silent,
    /// Others wait for memory, and the other side sends too slowly to keep it: see [`budget`](super::budget).
    #[error("others wait for memory, and the body arrives with less than {} KiB/s", PACE / 1024)]
    Slow,
    /// The other side closed the connection or broke the protocol.
    #[error("the body ended early: {0}")]
    Broken(String),
}

/// A range of content, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte. An offset at or after the end of the content is an error.
    pub offset: u64,
    /// The length, truncated at the end of the content. `None` reads to the end.
    pub length: Option<u64>,
}

impl ByteRange {
    /// The positions of the first and the last byte in content of `size` bytes, which has the offset.
    pub fn bounds(self, size: u64) -> (u64, u64) {
        (self.offset, self.offset + self.length.unwrap_or(size - self.offset) - 1)
    }
}

/// A boxed stream of the platform.
pub type Stream = Box<dyn ByteStream>;

/// A stream of bytes that the platform owns. Other code moves it, gets its length, and reads it in large
/// pieces into a [`Buffer`].
pub trait ByteStream: Any {
    /// The length of the whole stream in bytes, if known.
    fn content_length(&self) -> Option<u64>;

    /// Reads into `range` of `buffer` until it is full or the stream ends. Returns the end of the bytes read,
    /// as an offset in `buffer`: less than `range.end` means that the stream has ended. Updates `hasher` with
    /// the bytes. After an error, the content of the buffer is undefined.
    fn read_into<'a>(
        &'a mut self,
        buffer: &'a mut dyn Buffer,
        range: Range<usize>,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>>;

    /// Reads the whole stream into memory and fails once it exceeds `limit` bytes. For manifests and links only.
    fn read(self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>>;

    /// Reads up to `limit` bytes, updates `hasher` with them and drops them.
    fn discard<'a>(
        &'a mut self,
        limit: u64,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>>;

    /// Cancels the stream, so that the sender can stop.
    fn cancel(self: Box<Self>);
}

/// A buffer of limited capacity in the platform's memory, lent by [`Buffers`].
pub trait Buffer: Any {
    /// Updates `hasher` with a range of the bytes. [`ReadError::TakenBack`] if they are gone.
    fn hash(&self, range: Range<usize>, hasher: &mut Hasher) -> Result<(), ReadError>;

    /// Copies a range of the bytes. [`ReadError::TakenBack`] if they are gone.
    fn copy(&self, range: Range<usize>) -> Result<Bytes, ReadError>;

    /// Gives the memory back for reuse: nothing may read from it any more.
    fn recycle(&self);
}

/// Lends buffers for bytes on their way from a stream to storage, within the platform's memory budget.
pub trait Buffers {
    /// The usual size of an upload's parts, in bytes.
    fn part_size(&self) -> usize;

    /// Lends a buffer of `capacity` bytes. It takes little memory until bytes have arrived. Waits while the budget is
    /// exhausted, but not for ever: [`ReadError::NoMemory`].
    fn lend(&self, capacity: usize) -> LocalBoxFuture<'static, Result<Box<dyn Buffer>, ReadError>>;

    /// Counts `bytes` of content that a request holds elsewhere, until the answer is dropped. Waits as
    /// [`lend`](Self::lend) does. Who holds such bytes must not wait for a buffer.
    fn reserve(&self, bytes: usize) -> LocalBoxFuture<'static, Result<Box<dyn Reserved>, ReadError>>;
}

/// Memory counted by [`Buffers::reserve`].
pub trait Reserved {}

/// Content in memory, counted by [`Buffers`] until it is dropped.
pub struct Content {
    /// The bytes.
    pub bytes: Bytes,
    _held: Option<Box<dyn Reserved>>,
}

/// The content of a request, of a response, or of an object on its way to storage.
pub enum Body {
    /// No bytes.
    Empty,
    /// Bytes in memory: manifests, links, errors.
    Bytes(Bytes),
    /// Bytes that pass through unread.
    Stream(Stream),
    /// A range of a buffer.
    Buffer {
        /// The buffer.
        buffer: Rc<dyn Buffer>,
        /// The bytes to send.
        range: Range<usize>,
    },
    /// Several bodies with text between them, one after the other.
    Parts(Parts),
}

/// How many parts are opened while the one before them is sent: opening waits for the store. With that one, the platform's
/// limit of connections is not reached, of which there are six.
const AHEAD: usize = 3;

/// The longest part beside which others are opened, in bytes: what is open and not read for minutes may be closed.
const SHORT: u64 = 8 * 1024 * 1024;

/// Opens the content of a part.
pub type Opening = Box<dyn FnOnce() -> LocalBoxFuture<'static, Result<Body, ReadError>>>;

/// A part of a body.
pub struct Part {
    /// Text before the content.
    pub head: Bytes,
    /// The length of the content, in bytes.
    pub length: u64,
    /// The content, or how to open it when its turn comes.
    pub content: PartContent,
}

/// The content of a part.
pub enum PartContent {
    /// It is open.
    Open(Body),
    /// It is opened later.
    Later(Opening),
}

impl Part {
    async fn open(self) -> Result<(Bytes, Body), ReadError> {
        let Self { head, length, content } = self;
        let body = match content {
            PartContent::Open(body) => body,
            PartContent::Later(open) => open().await?,
        };
        match body.content_length() {
            Some(found) if found != length => {
                body.cancel();
                Err(ReadError::Broken(format!("a part has {found} bytes, not {length}")))
            }
            _ => Ok((head, body)),
        }
    }
}

/// Several bodies with text between them.
pub struct Parts {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// Text after the last one.
    pub tail: Bytes,
}

impl Parts {
    /// The length of everything, in bytes.
    pub fn content_length(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.head.len() as u64 + part.length);
        parts.sum::<u64>() + self.tail.len() as u64
    }

    /// Passes everything to `write`, in order. A few parts are opened while the one before them is written, unless one of them
    /// is long. If one cannot be opened or written, what was opened ahead is cancelled, and nothing else is opened.
    pub async fn send(self, write: impl AsyncFn(Body) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let are_short = self.parts.iter().all(|part| part.length <= SHORT);
        let ahead = if are_short { AHEAD } else { 1 };
        let is_over = Rc::new(Cell::new(false));
        let is_wanted = is_over.clone();
        let parts = stream::iter(self.parts).take_while(move |_| ready(!is_wanted.get()));
        let mut parts = parts.map(Part::open).buffered(ahead).boxed_local();
        let mut next = parts.next().await;
        let failure = loop {
            let (head, body) = match next.take() {
                Some(Ok(part)) => part,
                Some(Err(error)) => break error,
                None => return write(Body::Bytes(self.tail)).await,
            };
            let written = async {
                if let Err(error) = write(Body::Bytes(head)).await {
                    body.cancel();
                    return Err(error);
                }
                write(body).await
            };
            let written = match are_short {
                true => {
                    let (written, following) = join(written, parts.next()).await;
                    next = following;
                    written
                }
                false => written.await,
            };
            if let Err(error) = written {
                break error;
            }
            if !are_short {
                next = parts.next().await;
            }
        };
        is_over.set(true);
        let mut opened = stream::iter(next).chain(parts);
        while let Some(part) = opened.next().await {
            if let Ok((_, body)) = part {
                body.cancel();
            }
        }
        Err(failure)
    }

    /// Reads everything into memory and fails once it exceeds `limit` bytes.
    async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        let bytes = RefCell::new(Vec::new());
        self.send(async |body| {
            let left = limit.saturating_sub(bytes.borrow().len());
            let content = body.read(left).await?;
            bytes.borrow_mut().extend_from_slice(&content);
            Ok(())
        })
        .await?;
        Ok(bytes.into_inner().into())
    }
}

impl Body {
    /// The length in bytes, if known.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Stream(stream) => stream.content_length(),
            Self::Buffer { range, .. } => Some(range.len() as u64),
            Self::Parts(parts) => Some(parts.content_length()),
        }
    }

    /// The same body once more; `None` for streams, which can be sent only once.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Bytes(bytes) => Some(Self::Bytes(bytes.clone())),
            Self::Stream(_) | Self::Parts(_) => None,
            Self::Buffer { buffer, range } => {
                Some(Self::Buffer { buffer: buffer.clone(), range: range.clone() })
            }
        }
    }

    /// Gives a sent buffer back, unless something else still holds it.
    pub fn recycle(self) {
        if let Self::Buffer { buffer, .. } = self
            && Rc::strong_count(&buffer) == 1
        {
            buffer.recycle();
        }
    }

    /// Releases content that will not be read.
    pub fn cancel(self) {
        match self {
            Self::Stream(stream) => stream.cancel(),
            Self::Parts(parts) => {
                for part in parts.parts {
                    if let PartContent::Open(body) = part.content {
                        body.cancel();
                    }
                }
            }
            Self::Empty | Self::Bytes(_) | Self::Buffer { .. } => {}
        }
    }

    /// Reads a client's whole body into memory and fails once it exceeds `limit` bytes. It takes memory as it arrives;
    /// once it is complete, what it is `counted` as, by its length.
    pub async fn read_counted(
        self,
        limit: usize,
        counted: fn(usize) -> usize,
        buffers: &dyn Buffers,
    ) -> Result<Content, ReadError> {
        let Self::Stream(mut stream) = self else {
            return Ok(Content { bytes: self.read(limit).await?, _held: None });
        };
        // One byte more, to detect a longer one.
        let most = stream.content_length().map_or(limit + 1, |length| length.min(limit as u64 + 1) as usize);
        let mut buffer = buffers.lend(most).await?;
        let end = stream.read_into(&mut *buffer, 0..most, None).await?;
        if end > limit {
            stream.cancel();
            return Err(ReadError::TooLarge { limit });
        }
        let held = buffers.reserve(counted(end)).await?;
        let bytes = buffer.copy(0..end)?;
        buffer.recycle();
        Ok(Content { bytes, _held: Some(held) })
    }

    /// Reads the whole body into memory and fails once it exceeds `limit` bytes.
    pub async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Bytes(bytes) if bytes.len() > limit => Err(ReadError::TooLarge { limit }),
            Self::Bytes(bytes) => Ok(bytes),
            Self::Stream(stream) => stream.read(limit).await,
            Self::Buffer { .. } => Err(ReadError::Broken("a buffer can only be sent to storage".into())),
            Self::Parts(parts) => Box::pin(parts.read(limit)).await,
        }
    }
}
