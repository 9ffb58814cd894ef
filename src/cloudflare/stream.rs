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
    platform::{Body, Buffer, ByteStream, ReadError, Stream},
};

/// Size of one read from a stream, in bytes: large, since each read costs a few microseconds, but small
/// enough for hashing to overlap with the next read.
const STRIDE: usize = 1024 * 1024;

/// Interval at which a request that waits for its client says that it is alive, in milliseconds.
const TOUCH: u32 = 30_000;

/// Size of one copy into WebAssembly for hashing, in bytes: fits the processor's cache.
const WINDOW: usize = 64 * 1024;

#[wasm_bindgen]
extern "C" {
    /// Missing in `web-sys`: a read that waits for `min` bytes or the end of the stream.
    #[wasm_bindgen(js_name = ReadableStreamBYOBReader)]
    type ByobReader;
    #[wasm_bindgen(method, catch)]
    fn read(this: &ByobReader, view: Uint8Array, options: &JsValue) -> Result<js_sys::Promise, JsValue>;
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

    /// Reads until `view` is full or the stream ends. Returns the bytes as a view of a new buffer.
    async fn fill(&mut self, view: Uint8Array) -> Result<Uint8Array, JsValue> {
        let options = js_sys::Object::new();
        Reflect::set(&options, &"min".into(), &view.length().into())?;
        let promise = self.reader()?.read(view, &options)?;
        Reflect::get(&JsFuture::from(promise).await?, &"value".into())?.dyn_into()
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

fn broken(error: JsValue) -> ReadError {
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
            let mut window = Vec::new();
            let mut at = range.start;
            while at < range.end {
                let room = buffer.make_room(at).await?.min(range.end);
                let want = STRIDE.min(room - at);
                let mut read = pin!(self.fill(buffer.view(at..at + want)));
                let read = loop {
                    match future::select(read.as_mut(), pin!(sleep(TOUCH))).await {
                        Either::Left((read, _)) => break read.map_err(broken)?,
                        // The client is slow, and the request is alive.
                        Either::Right(_) => buffer.touch(),
                    }
                };
                // A read detaches the memory and returns it as a new object.
                buffer.put_back(read.buffer());
                let length = read.length() as usize;
                if let Some(hasher) = hasher.as_deref_mut() {
                    hash(&read, &mut window, hasher);
                }
                at += length;
                if length < want {
                    break;
                }
            }
            Ok(at)
        })
    }

    fn read(self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>> {
        Box::pin(async move {
            let reader: ReadableStreamDefaultReader = self.raw.get_reader().unchecked_into();
            let mut bytes = Vec::new();
            loop {
                let read = JsFuture::from(reader.read()).await.map_err(broken)?;
                let value = Reflect::get(&read, &"value".into()).map_err(broken)?;
                // No value: the end.
                let Ok(piece) = value.dyn_into::<Uint8Array>() else { return Ok(bytes.into()) };
                if bytes.len() + piece.length() as usize > limit {
                    // The rest will not be read, so the runtime can drop it.
                    let _ = reader.cancel();
                    return Err(ReadError::TooLarge { limit });
                }
                bytes.extend_from_slice(&piece.to_vec());
            }
        })
    }

    fn discard<'a>(
        &'a mut self,
        limit: u64,
        mut hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>> {
        Box::pin(async move {
            let (mut view, mut window) = (Uint8Array::new_with_length(STRIDE as u32), Vec::new());
            for _ in 0..limit / STRIDE as u64 {
                let read = self.fill(view).await.map_err(broken)?;
                if let Some(hasher) = hasher.as_deref_mut() {
                    hash(&read, &mut window, hasher);
                }
                if (read.length() as usize) < STRIDE {
                    break;
                }
                view = Uint8Array::new(&read.buffer());
            }
            Ok(())
        })
    }

    fn cancel(self: Box<Self>) {
        let cancelled = self.raw.cancel();
        // Best effort: an error means that the stream has ended.
        wasm_bindgen_futures::spawn_local(async { drop(JsFuture::from(cancelled).await) });
    }
}
