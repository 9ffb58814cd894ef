//! Streams that stay in JavaScript: bytes enter WebAssembly only to be hashed.

use std::{any::Any, ops::Range, pin::pin};

use bytes::Bytes;
use futures_util::future::{self, Either, LocalBoxFuture};
use js_sys::{Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStream, ReadableStreamDefaultReader};

use super::{buffers::JsBuffer, clock::sleep};
use crate::{
    oci::Hasher,
    platform::{
        Body, Buffer, ByteStream, ReadError, Stream,
        budget::{End, SILENCE},
    },
};

/// Limit of one read from a stream, in bytes: large, since each read costs a few microseconds, but small
/// enough for hashing to overlap with the next read.
const STRIDE: usize = 1024 * 1024;

/// Size of one read of bytes that are dropped: no budget counts them.
const DROPPED: usize = 64 * 1024;

/// Interval at which the pace of a client is looked at, in milliseconds.
const TICK: u32 = 1_000;

/// Size of one copy into WebAssembly for hashing, in bytes: fits the processor's cache.
const WINDOW: usize = 64 * 1024;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = ReadableStreamBYOBReader)]
    type ByobReader;
    #[wasm_bindgen(method, catch)]
    fn read(this: &ByobReader, view: Uint8Array) -> Result<js_sys::Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn cancel(this: &ByobReader) -> Result<js_sys::Promise, JsValue>;
}

/// A `ReadableStream` of bytes.
pub struct JsStream {
    raw: ReadableStream,
    length: Option<u64>,
    reader: Option<ByobReader>,
}

impl JsStream {
    /// Wraps a byte stream of `length` bytes, if known.
    pub fn new(raw: ReadableStream, length: Option<u64>) -> Self {
        Self { raw, length, reader: None }
    }

    /// Wraps a byte stream as a body.
    pub fn body(raw: ReadableStream, length: Option<u64>) -> Body {
        Body::Stream(Box::new(Self::new(raw, length)))
    }

    fn reader(&mut self) -> Result<&ByobReader, JsValue> {
        if self.reader.is_none() {
            let options = js_sys::Object::new();
            Reflect::set(&options, &"mode".into(), &"byob".into())?;
            let get_reader =
                Reflect::get(&self.raw, &"getReader".into())?.unchecked_into::<js_sys::Function>();
            self.reader = Some(get_reader.call1(&self.raw, &options)?.unchecked_into());
        }
        self.reader.as_ref().ok_or(JsValue::NULL)
    }

    /// Reads what has arrived into `view`, or waits for it; nothing is the end of the stream. Returns the bytes as a
    /// view of a new buffer. A read of all the bytes of `view` would hide those of a slow client.
    async fn fill(&mut self, view: Uint8Array) -> Result<Uint8Array, JsValue> {
        let promise = self.reader()?.read(view)?;
        Reflect::get(&JsFuture::from(promise).await?, &"value".into())?.dyn_into()
    }

    /// Ends the read that is under way, which holds the memory it reads into.
    fn give_up(&self) {
        let cancel = self.reader.as_ref().map(ByobReader::cancel);
        wasm_bindgen_futures::spawn_local(async {
            if let Some(Ok(cancelled)) = cancel {
                let _ = JsFuture::from(cancelled).await;
            }
        });
    }
}

/// Lets a stream be cancelled. Best effort: an error means that the stream has ended.
fn ignore(cancelled: js_sys::Promise) {
    wasm_bindgen_futures::spawn_local(async { drop(JsFuture::from(cancelled).await) });
}

/// Waits for a read, but not for ever.
async fn unless_silent<T>(read: impl Future<Output = Result<T, JsValue>>) -> Result<T, ReadError> {
    match future::select(pin!(read), pin!(sleep(SILENCE as u32))).await {
        Either::Left((read, _)) => read.map_err(broken),
        Either::Right(_) => Err(ReadError::Silent),
    }
}

/// The handle of a [`JsStream`]; `None` for a stream of another platform.
pub fn raw(stream: &Stream) -> Option<ReadableStream> {
    let stream: &dyn Any = &**stream;
    stream.downcast_ref::<JsStream>().map(|stream| stream.raw.clone())
}

/// The text of a JavaScript error.
pub fn message(error: &JsValue) -> String {
    let text = Reflect::get(error, &"message".into()).ok().and_then(|message| message.as_string());
    text.unwrap_or_else(|| format!("{error:?}"))
}

/// The error of a stream that JavaScript reports.
pub(super) fn broken(error: JsValue) -> ReadError {
    ReadError::Broken(message(&error))
}

/// Copies bytes into WebAssembly, a window at a time, and hashes them.
pub(super) fn hash(bytes: &Uint8Array, window: &mut Vec<u8>, hasher: &mut Hasher) {
    let length = bytes.length() as usize;
    window.resize(WINDOW.min(length), 0);
    for start in (0..length).step_by(WINDOW) {
        let end = length.min(start + WINDOW);
        if let Some(window) = window.get_mut(..end - start) {
            bytes.subarray(start as u32, end as u32).copy_to(window);
            hasher.update(window);
        }
    }
}

impl ByteStream for JsStream {
    fn content_length(&self) -> Option<u64> {
        self.length
    }

    fn read_into<'a>(
        &'a mut self,
        buffer: &'a mut dyn Buffer,
        range: Range<usize>,
        mut hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>> {
        Box::pin(async move {
            let buffer: &mut dyn Any = buffer;
            let Some(buffer) = buffer.downcast_mut::<JsBuffer>() else {
                return Err(ReadError::Broken("the buffer belongs to another platform".into()));
            };
            let (mut window, mut at) = (Vec::new(), range.start);
            let mut tick = Box::pin(sleep(TICK));
            while at < range.end {
                let room = buffer.make_room(at).await?.min(range.end);
                buffer.arrived(0);
                let view = buffer.view(at..room.min(at + STRIDE))?;
                let read = {
                    let mut read = pin!(self.fill(view));
                    loop {
                        match future::select(read.as_mut(), tick.as_mut()).await {
                            Either::Left((read, _)) => break Ok(read.map_err(broken)?),
                            Either::Right(_) => tick.set(sleep(TICK)),
                        }
                        match buffer.must_end() {
                            Some(End::Silent) => break Err(ReadError::Silent),
                            Some(End::Slow) => break Err(ReadError::Slow),
                            None => {}
                        }
                    }
                };
                let read = read.inspect_err(|_| self.give_up())?;
                // A read detaches the memory and returns it as a new object.
                buffer.put_back(read.buffer())?;
                let length = read.length() as usize;
                if length == 0 {
                    break;
                }
                buffer.arrived(length);
                if let Some(hasher) = hasher.as_deref_mut() {
                    hash(&read, &mut window, hasher);
                }
                at += length;
            }
            buffer.stop_reading();
            Ok(at)
        })
    }

    fn read(self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>> {
        Box::pin(async move {
            let reader: ReadableStreamDefaultReader = self.raw.get_reader().unchecked_into();
            // A vector that grows would hold twice as much for a moment.
            let length = self.length.map_or(0, |length| length.min(limit as u64) as usize);
            let mut bytes = Vec::with_capacity(length);
            loop {
                let read = unless_silent(JsFuture::from(reader.read())).await;
                let read = read.inspect_err(|_| ignore(reader.cancel()))?;
                let value = Reflect::get(&read, &"value".into()).map_err(broken)?;
                // No value: the end.
                let Ok(piece) = value.dyn_into::<Uint8Array>() else { return Ok(bytes.into()) };
                if bytes.len() + piece.length() as usize > limit {
                    // The rest will not be read, so the runtime can drop it.
                    let _ = reader.cancel();
                    return Err(ReadError::TooLarge { limit });
                }
                let start = bytes.len();
                bytes.resize(start + piece.length() as usize, 0);
                if let Some(target) = bytes.get_mut(start..) {
                    piece.copy_to(target);
                }
            }
        })
    }

    fn discard<'a>(
        &'a mut self,
        limit: u64,
        mut hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>> {
        Box::pin(async move {
            let (mut view, mut window) = (Uint8Array::new_with_length(DROPPED as u32), Vec::new());
            let mut left = limit;
            while left > 0 {
                let read = unless_silent(self.fill(view)).await;
                let read = read.inspect_err(|_| self.give_up())?;
                if read.length() == 0 {
                    break;
                }
                if let Some(hasher) = hasher.as_deref_mut() {
                    hash(&read, &mut window, hasher);
                }
                left = left.saturating_sub(read.length().into());
                view = Uint8Array::new(&read.buffer());
            }
            Ok(())
        })
    }

    fn cancel(self: Box<Self>) {
        if self.reader.is_some() {
            // The stream is locked.
            return self.give_up();
        }
        ignore(self.raw.cancel());
    }
}
