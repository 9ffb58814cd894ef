//! Appends a chunk: cuts a request's stream into parts of one size, whatever sizes the client sends.

use std::{ops::Range, pin::pin, rc::Rc};

use futures_util::{
    StreamExt,
    future::{self, Either, LocalBoxFuture},
    stream::FuturesOrdered,
};

use super::{
    CallError, Checkpoint, DRAIN_TIME, UNRECORDED, UploadError,
    ledger::{Ledger, NextPart, StoredPart},
    plan::{Plan, Step},
};
use crate::{
    oci::{HashState, Hasher},
    platform::{Body, Buffer, Buffers, Clock, ReadError},
    storage::{PutOptions, StorageError, both},
};

/// Limit of parts of one upload in flight to storage while the next is being filled. R2 accepts two or three
/// of one upload at a time; more would only hold memory. Parts larger than the usual go one at a time.
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
    /// The bytes of the chunk that were read and not cut off, in bytes.
    pub received: u64,
    buffers: Rc<dyn Buffers>,
    work: Work,
}

/// The parts on their way to storage, in order, and the checkpoint on its way to the session.
#[derive(Default)]
struct Work {
    storing: FuturesOrdered<LocalBoxFuture<'static, Result<StoredPart, StorageError>>>,
    recording: Option<LocalBoxFuture<'static, Result<u16, CallError>>>,
}

impl Work {
    fn is_done(&self) -> bool {
        self.storing.is_empty() && self.recording.is_none()
    }

    /// Waits until a part is stored or a checkpoint recorded. A checkpoint is sent as soon as the last one was
    /// acknowledged.
    async fn step(&mut self, ledger: &mut Ledger) -> Result<(), UploadError> {
        let Self { storing, recording } = self;
        let stored = async {
            match storing.next().await {
                Some(stored) => stored,
                None => future::pending().await,
            }
        };
        let recorded = async {
            match recording {
                Some(recording) => recording.await,
                None => future::pending().await,
            }
        };
        let event = match future::select(pin!(stored), pin!(recorded)).await {
            Either::Left((stored, _)) => Either::Left(stored),
            Either::Right((recorded, _)) => Either::Right(recorded),
        };
        match event {
            Either::Left(stored) => ledger.add(stored?),
            Either::Right(recorded) => {
                self.recording = None;
                ledger.acknowledge(recorded?);
            }
        }
        if self.recording.is_none() {
            self.recording = ledger.send_checkpoint();
        }
        Ok(())
    }

    /// Waits until everything is stored, and for the checkpoint under way. Returns the first error, but not before
    /// all has ended: a write holds its buffer's memory until then.
    async fn settle(&mut self, ledger: &mut Ledger) -> Result<(), UploadError> {
        let mut settled = Ok(());
        while let Some(stored) = self.storing.next().await {
            match stored {
                Ok(stored) if settled.is_ok() => ledger.add(stored),
                // It follows a part that is missing.
                Ok(_) => {}
                Err(error) => settled = settled.and(Err(error.into())),
            }
        }
        if let Some(recording) = self.recording.take() {
            match recording.await {
                Ok(part) => ledger.acknowledge(part),
                Err(error) => settled = settled.and(Err(error.into())),
            }
        }
        settled
    }
}

impl Writer {
    /// Resumes an upload at the offset of its ledger.
    pub fn new(ledger: Ledger, buffers: Rc<dyn Buffers>) -> Result<Self, UploadError> {
        let hasher = Hasher::resume(ledger.upload.algorithm, &ledger.upload.hash)?;
        Ok(Self { ledger, hasher, received: 0, buffers, work: Work::default() })
    }

    /// Writes a stream: stores each full part and records it in the ledger. Returns the rest. `declared` is
    /// the length that the client announced in addition to the stream's own.
    ///
    /// Reading, storing and recording overlap. After a failure, a read that is under way may take [`DRAIN_TIME`].
    pub async fn write(
        &mut self,
        body: &mut Body,
        declared: Option<u64>,
        clock: &dyn Clock,
    ) -> Result<Tail, UploadError> {
        let staged = self.ledger.upload.staged_length();
        let Body::Stream(stream) = body else {
            return Ok(Tail { buffer: None, range: staged as usize..staged as usize });
        };
        let Self { ledger, hasher, received, buffers, work } = self;
        let start = ledger.upload.offset;
        let part_size = ledger.upload.part_size as usize;
        let in_flight = if part_size > buffers.part_size() { 1 } else { usize::from(IN_FLIGHT) };
        let mut plan = Plan::new(part_size, staged, stream.content_length(), declared);
        loop {
            let range = plan.next();
            let read = {
                let mut reading = pin!(async {
                    let mut buffer = buffers.lend(range.end).await?;
                    let end = stream.read_into(&mut *buffer, range.clone(), Some(&mut *hasher)).await?;
                    Ok::<_, ReadError>((buffer, end))
                });
                loop {
                    if work.is_done() {
                        break reading.as_mut().await;
                    }
                    match future::select(reading.as_mut(), pin!(work.step(ledger))).await {
                        Either::Left((read, _)) => break read,
                        Either::Right((Ok(()), _)) => {}
                        Either::Right((Err(error), _)) => {
                            // The stream will be drained, and allows one read at a time.
                            future::select(reading, clock.sleep(DRAIN_TIME)).await;
                            return Err(error);
                        }
                    }
                }
            };
            let (mut buffer, end) = match read {
                Ok(read) => read,
                Err(error) => {
                    // The client is gone: keep what has reached storage.
                    work.settle(ledger).await?;
                    if ledger.has_begun() {
                        ledger.release_cut().await?;
                    }
                    return Err(error.into());
                }
            };
            let step = plan.filled(end)?;
            *received = plan.received();
            if let Step::Tail(range) = step {
                let buffer = (!range.is_empty()).then_some(buffer);
                return Ok(Tail { buffer, range });
            }
            if range.start > 0 {
                ledger.read_staged(&mut *buffer).await?;
            }
            while work.storing.len() >= in_flight || ledger.unrecorded() >= UNRECORDED {
                work.step(ledger).await?;
            }
            let (offset, hash) = (start + plan.received(), hasher.state());
            let part = ledger.next_part().await?;
            let body = Body::Buffer { buffer: buffer.into(), range: 0..range.end };
            work.storing.push_back(Box::pin(put_part(ledger, part, body, offset, hash)));
        }
    }

    /// Ends a chunk: stages its rest and records it. Returns the length of the upload, in bytes.
    ///
    /// The rest is stored as the last part too if the upload probably ends here: with the first chunk of a client that
    /// sends no ranges, or with a chunk that parts do not divide although they divide those before it.
    pub async fn release(&mut self, tail: Tail, has_range: bool) -> Result<u64, UploadError> {
        let released = self.stage_and_release(tail, has_range).await;
        self.abandon_unless(&released).await;
        released
    }

    async fn stage_and_release(&mut self, tail: Tail, has_range: bool) -> Result<u64, UploadError> {
        let Range { start, end } = tail.range;
        if let Some(mut buffer) = tail.buffer {
            let mut range = start..end;
            if self.ledger.upload.staged.len() >= MAX_STAGED {
                self.ledger.read_staged(&mut *buffer).await?;
                let merged = std::mem::take(&mut self.ledger.upload.staged);
                self.ledger.obsolete.extend(merged);
                range.start = 0;
            }
            let staged = self.ledger.next_staged(range.len() as u64);
            let body = Body::Buffer { buffer: buffer.into(), range };
            let is_last = start == 0
                && self.ledger.has_parts()
                && if has_range { self.ledger.follows_whole_parts() } else { self.ledger.is_new() };
            let part = match body.again().filter(|_| is_last) {
                Some(body) => Some((self.ledger.next_part().await?, body)),
                None => None,
            };
            let store = self.ledger.store.clone();
            let last = async {
                let Some((NextPart { path, multipart, number }, body)) = part else { return Ok(None) };
                store.put_part(&path, &multipart, number, body).await.map(Some)
            };
            let path = staged.path(self.ledger.id());
            let stage = async { store.put(&path, body, PutOptions::default()).await.map(drop) };
            let stored = async { Ok::<_, UploadError>(both(last, stage).await?) };
            let ((last, ()), ()) = both(stored, self.work.settle(&mut self.ledger)).await?;
            self.ledger.upload.staged.push(staged);
            self.ledger.upload.last = last;
        } else {
            self.work.settle(&mut self.ledger).await?;
        }
        self.ledger.upload.offset += (end - start) as u64;
        self.ledger.upload.hash = self.hasher.state();
        self.ledger.release().await?;
        Ok(self.ledger.upload.offset)
    }

    /// Waits until everything that was written is stored.
    pub async fn settle(&mut self) -> Result<(), UploadError> {
        self.work.settle(&mut self.ledger).await
    }

    async fn abandon_unless<T>(&mut self, ended: &Result<T, UploadError>) {
        if ended.is_err() {
            self.abandon().await;
        }
    }

    /// Waits for what is under way, whatever becomes of it: it holds memory until it has ended.
    pub async fn abandon(&mut self) {
        while self.work.storing.next().await.is_some() {}
        if let Some(recording) = self.work.recording.take() {
            // The failure that ended the chunk is the one to report.
            let _ = recording.await;
        }
    }

    /// Ends the last chunk of an upload with parts: stores its rest as the last part. Returns what the session
    /// must record.
    pub async fn finish(&mut self, tail: Tail) -> Result<Checkpoint, UploadError> {
        let finished = self.store_last(tail).await;
        self.abandon_unless(&finished).await;
        finished
    }

    async fn store_last(&mut self, mut tail: Tail) -> Result<Checkpoint, UploadError> {
        let Range { start, end } = tail.range;
        // What was staged before may be stored as the last part already.
        if start < end || (end > 0 && self.ledger.upload.last.is_none()) {
            let mut buffer = match tail.buffer.take() {
                Some(buffer) => buffer,
                None => self.buffers.lend(end).await?,
            };
            if start > 0 {
                self.ledger.read_staged(&mut *buffer).await?;
            }
            let part = self.ledger.next_part().await?;
            let body = Body::Buffer { buffer: buffer.into(), range: 0..end };
            let stored = put_part(&self.ledger, part, body, 0, self.hasher.state());
            let stored = async { Ok::<_, UploadError>(stored.await?) };
            let (stored, ()) = both(stored, self.work.settle(&mut self.ledger)).await?;
            self.ledger.upload.last = Some(stored.part);
        } else {
            self.work.settle(&mut self.ledger).await?;
        }
        self.ledger.upload.offset += (end - start) as u64;
        self.ledger.upload.hash = self.hasher.state();
        Ok(self.ledger.checkpoint())
    }

    /// All bytes of an upload without parts: those staged, and the tail.
    pub async fn body(&mut self, tail: Tail) -> Result<Body, UploadError> {
        let Range { start, end } = tail.range;
        if end == 0 {
            return Ok(Body::Empty);
        }
        let mut buffer = match tail.buffer {
            Some(buffer) => buffer,
            None => self.buffers.lend(end).await?,
        };
        if start > 0 {
            self.ledger.read_staged(&mut *buffer).await?;
        }
        Ok(Body::Buffer { buffer: buffer.into(), range: 0..end })
    }
}

/// Stores a reserved part.
fn put_part(
    ledger: &Ledger,
    NextPart { path, multipart, number }: NextPart,
    body: Body,
    offset: u64,
    hash: HashState,
) -> impl Future<Output = Result<StoredPart, StorageError>> + 'static {
    let store = ledger.store.clone();
    async move {
        let part = store.put_part(&path, &multipart, number, body).await?;
        Ok(StoredPart { part, offset, hash })
    }
}
