//! Appends a chunk: cuts a request's stream into parts of a fixed size, whatever sizes the client sends.

use std::{ops::Range, rc::Rc};

use futures_util::{
    StreamExt,
    future::{self, Either},
    stream::FuturesOrdered,
};

use super::{
    UploadError,
    ledger::{Ledger, NextPart, StoredPart},
    plan::{Plan, Step},
};
use crate::{
    oci::Hasher,
    platform::{Body, Buffer, Buffers, ByteStream, ReadError},
    storage::StorageError,
};

/// Limit of parts of one upload in flight to storage while the next is being filled. R2 accepts two or three
/// of one upload at a time; more would only hold memory.
pub const IN_FLIGHT: u16 = 2;

/// Limit of staged pieces before they are joined. Each is read back when they fill a part.
const MAX_STAGED: usize = 16;

/// The end of a chunk, which does not fill a part: a range of a buffer, with room in front for staged bytes.
pub(super) struct Tail {
    /// The buffer; `None` if the range is empty.
    pub buffer: Option<Box<dyn Buffer>>,
    /// The bytes. `start` is the length of the staged bytes.
    pub range: Range<usize>,
}

/// The writer of one chunk.
pub(super) struct Writer {
    pub ledger: Ledger,
    /// The hash of everything written, recorded or not.
    pub hasher: Hasher,
    pub buffers: Rc<dyn Buffers>,
}

impl Writer {
    /// Resumes an upload at the offset of its ledger.
    pub fn resume(ledger: Ledger, buffers: Rc<dyn Buffers>) -> Result<Self, UploadError> {
        let hasher = Hasher::resume(ledger.upload.algorithm, &ledger.upload.hash)?;
        Ok(Self { ledger, hasher, buffers })
    }

    /// Writes a stream: stores each full part and records it in the ledger. Returns the rest. `declared` is
    /// the length that the client announced in addition to the stream's own.
    ///
    /// Reading, storing and recording overlap: whichever finishes first is handled first.
    pub async fn write(
        &mut self,
        stream: &mut dyn ByteStream,
        declared: Option<u64>,
    ) -> Result<Tail, UploadError> {
        let Self { ledger, hasher, buffers } = self;
        let start = ledger.upload.offset;
        let staged = ledger.upload.staged_length();
        let mut plan = Plan::new(buffers.part_size(), staged, stream.content_length(), declared);
        let mut in_flight = FuturesOrdered::new();
        loop {
            let range = plan.next();
            let read = {
                let reading = async {
                    let mut buffer = buffers.lend(range.end).await;
                    let end = stream.read_into(&mut *buffer, range.clone(), Some(&mut *hasher)).await?;
                    Ok::<_, ReadError>((buffer, end))
                };
                let mut reading = std::pin::pin!(reading);
                loop {
                    if in_flight.is_empty() {
                        break reading.as_mut().await;
                    }
                    match future::select(reading.as_mut(), in_flight.next()).await {
                        Either::Left((read, _)) => break read,
                        Either::Right((None, _)) => {}
                        Either::Right((Some(stored), _)) => ledger.record(stored?).await?,
                    }
                }
            };
            let (mut buffer, end) = match read {
                Ok(read) => read,
                Err(error) => {
                    // The client is gone: keep what has reached storage.
                    settle(ledger, &mut in_flight).await?;
                    ledger.release(ledger.upload.checkpoint()).await?;
                    return Err(error.into());
                }
            };
            if let Step::Tail(range) = plan.filled(end)? {
                settle(ledger, &mut in_flight).await?;
                let buffer = (!range.is_empty()).then_some(buffer);
                return Ok(Tail { buffer, range });
            }
            if range.start > 0 {
                ledger.read_staged(&mut *buffer).await?;
            }
            while in_flight.len() >= usize::from(IN_FLIGHT) {
                if let Some(stored) = in_flight.next().await {
                    ledger.record(stored?).await?;
                }
            }
            let NextPart { path, multipart, number } = ledger.next_part().await?;
            let body = Body::Buffer { buffer, range: 0..range.end };
            let (offset, hash, store) = (start + plan.received(), hasher.state(), ledger.store.clone());
            in_flight.push_back(async move {
                let part = store.put_part(&path, &multipart, number, body).await?;
                Ok(StoredPart { part, offset, hash })
            });
        }
    }

    /// Stages the rest of a chunk and ends the chunk. Returns the length of the upload, in bytes.
    pub async fn release(&mut self, tail: Tail) -> Result<u64, UploadError> {
        let Range { start, end } = tail.range;
        let mut checkpoint = self.ledger.upload.checkpoint();
        let mut replaced = Vec::new();
        if let Some(mut buffer) = tail.buffer {
            let mut range = start..end;
            if checkpoint.staged.len() >= MAX_STAGED {
                self.ledger.read_staged(&mut *buffer).await?;
                replaced = std::mem::take(&mut checkpoint.staged);
                range.start = 0;
            }
            let length = range.len() as u64;
            checkpoint.staged.push(self.ledger.stage(Body::Buffer { buffer, range }, length).await?);
        }
        checkpoint.offset += (end - start) as u64;
        checkpoint.hash = self.hasher.state();
        self.ledger.release(checkpoint).await?;
        self.ledger.delete_staged(&replaced).await?;
        Ok(self.ledger.upload.offset)
    }

    /// The tail of a request without a body.
    pub fn empty_tail(&self) -> Tail {
        let at = self.ledger.upload.staged_length() as usize;
        Tail { buffer: None, range: at..at }
    }
}

async fn settle<F>(ledger: &mut Ledger, in_flight: &mut FuturesOrdered<F>) -> Result<(), UploadError>
where
    F: Future<Output = Result<StoredPart, StorageError>>,
{
    while let Some(stored) = in_flight.next().await {
        ledger.record(stored?).await?;
    }
    Ok(())
}
