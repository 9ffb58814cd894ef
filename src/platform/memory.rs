//! An in-memory platform for tests: streams, buffers and a clock, but no background.

use std::{any::Any, cell::Cell, ops::Range, rc::Rc};

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, ready};

use super::{Buffer, Buffers, ByteStream, Clock, ReadError, Reserved, Stream, Timestamp};
use crate::oci::Hasher;

/// A stream over bytes in memory. It can hide its length, or fail at its end, like a client that hangs up or falls
/// silent.
#[derive(Debug, Clone)]
pub struct MemoryStream {
    bytes: Bytes,
    knows_length: bool,
    ends: Option<ReadError>,
}

impl MemoryStream {
    /// A stream of known length.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), knows_length: true, ends: None }
    }

    /// A stream of unknown length, like a request with chunked transfer coding.
    pub fn chunked(bytes: impl Into<Bytes>) -> Self {
        Self { knows_length: false, ..Self::new(bytes) }
    }

    /// A stream that fails at its end.
    pub fn broken(bytes: impl Into<Bytes>) -> Self {
        let ends = Some(ReadError::Broken("the connection was cut".into()));
        Self { knows_length: false, ends, ..Self::new(bytes) }
    }

    /// A stream of known length that fails at its end.
    pub fn cut(bytes: impl Into<Bytes>) -> Self {
        Self { knows_length: true, ..Self::broken(bytes) }
    }

    /// A stream that falls silent at its end. No time passes.
    pub fn silent(bytes: impl Into<Bytes>) -> Self {
        Self { ends: Some(ReadError::Silent), ..Self::broken(bytes) }
    }

    fn take(&mut self, limit: usize, hasher: Option<&mut Hasher>) -> Result<Bytes, ReadError> {
        let bytes = self.bytes.split_to(self.bytes.len().min(limit));
        if let Some(error) = self.ends.clone().filter(|_| bytes.len() < limit) {
            return Err(error);
        }
        if let Some(hasher) = hasher {
            hasher.update(&bytes);
        }
        Ok(bytes)
    }
}

impl From<MemoryStream> for Stream {
    fn from(stream: MemoryStream) -> Self {
        Box::new(stream)
    }
}

impl ByteStream for MemoryStream {
    fn content_length(&self) -> Option<u64> {
        self.knows_length.then_some(self.bytes.len() as u64)
    }

    fn read_into<'a>(
        &'a mut self,
        buffer: &'a mut dyn Buffer,
        range: Range<usize>,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>> {
        let read = || {
            let bytes = self.take(range.len(), hasher)?;
            let end = range.start + bytes.len();
            let buffer: &mut dyn Any = buffer;
            let target =
                buffer.downcast_mut::<MemoryBuffer>().and_then(|buffer| buffer.0.get_mut(range.start..end));
            target.ok_or(ReadError::TooLarge { limit: range.end })?.copy_from_slice(&bytes);
            Ok(end)
        };
        Box::pin(ready(read()))
    }

    fn read(self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>> {
        Box::pin(ready(match *self {
            Self { ends: Some(error), .. } => Err(error),
            Self { bytes, .. } if bytes.len() > limit => Err(ReadError::TooLarge { limit }),
            Self { bytes, .. } => Ok(bytes),
        }))
    }

    fn discard<'a>(
        &'a mut self,
        limit: u64,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Box::pin(ready(self.take(limit, hasher).map(drop)))
    }

    fn cancel(self: Box<Self>) {}
}

/// A buffer in memory.
pub struct MemoryBuffer(pub(crate) Vec<u8>);

impl Buffer for MemoryBuffer {
    fn hash(&self, range: Range<usize>, hasher: &mut Hasher) -> Result<(), ReadError> {
        hasher.update(self.0.get(range).unwrap_or_default());
        Ok(())
    }

    fn copy(&self, range: Range<usize>) -> Result<Bytes, ReadError> {
        Ok(Bytes::copy_from_slice(self.0.get(range).unwrap_or_default()))
    }

    fn recycle(&self) {}
}

struct Unlimited;

impl Reserved for Unlimited {}

/// Buffers without a budget, for parts of `part_size` bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryBuffers {
    /// The size of a part, in bytes.
    pub part_size: usize,
}

impl Buffers for MemoryBuffers {
    fn part_size(&self) -> usize {
        self.part_size
    }

    fn lend(&self, capacity: usize) -> LocalBoxFuture<'static, Result<Box<dyn Buffer>, ReadError>> {
        Box::pin(async move { Ok(Box::new(MemoryBuffer(vec![0; capacity])) as Box<dyn Buffer>) })
    }

    fn reserve(&self, _: usize) -> LocalBoxFuture<'static, Result<Box<dyn Reserved>, ReadError>> {
        Box::pin(async { Ok(Box::new(Unlimited) as Box<dyn Reserved>) })
    }
}

/// A clock that moves only when a test sets it or code sleeps, in milliseconds. Clones share the time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(pub Rc<Cell<u64>>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.get())
    }

    fn sleep(&self, milliseconds: u64) -> LocalBoxFuture<'static, ()> {
        let time = self.0.clone();
        Box::pin(async move { time.set(time.get() + milliseconds) })
    }
}
