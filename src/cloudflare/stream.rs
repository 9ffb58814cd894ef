//! Streams and buffers that stay in JavaScript: bytes enter wasm only to be hashed.

use std::cell::RefCell;

use bytes::Bytes;
use js_sys::{ArrayBuffer, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStream, ReadableStreamDefaultReader};

use super::clock::sleep;
use crate::{
    body::{Block, ByteStream, ReadError},
    oci::Hasher,
    uploads::PART_SIZE,
};

/// How much is read from a stream at once, in bytes: large, since every read costs a few microseconds, but
/// small enough that hashing starts while the next is on its way.
const STRIDE: usize = 1024 * 1024;

/// How much is copied into wasm at once to be hashed, in bytes: fits the processor's cache.
const WINDOW: usize = 64 * 1024;

/// How many bytes of buffers an isolate hands out: half of its 128 MB. Uploads wait when they are spent.
const BUDGET: usize = 64 * 1024 * 1024;

/// A buffer that nothing has happened to for so long belongs to a request that is gone, in milliseconds.
/// The runtime may drop a request without telling us.
const ABANDONED: f64 = 120_000.0;

/// How often a waiting upload looks again, in milliseconds.
const RETRY: u32 = 10;

#[wasm_bindgen]
extern "C" {
    /// What `web-sys` lacks: a read that waits until it has `min` bytes or the stream ends.
    #[wasm_bindgen(js_name = ReadableStreamBYOBReader)]
    type ByobReader;
    #[wasm_bindgen(method, catch)]
    fn read(this: &ByobReader, view: Uint8Array, options: &JsValue) -> Result<js_sys::Promise, JsValue>;
}

/// A platform stream.
pub struct JsStream {
    raw: ReadableStream,
    length: Option<u64>,
    reader: Option<ByobReader>,
}

impl JsStream {
    /// Wraps a byte stream whose length, if known, is `length`.
    pub fn new(raw: ReadableStream, length: Option<u64>) -> Self {
        Self { raw, length, reader: None }
    }

    /// The stream's handle.
    pub fn raw(&self) -> &ReadableStream {
        &self.raw
    }

    /// The stream itself.
    pub fn into_raw(self) -> ReadableStream {
        self.raw
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

    /// Reads until `view` is full or the stream ends; the view comes back, over a new buffer.
    async fn fill(&mut self, view: Uint8Array) -> Result<Uint8Array, JsValue> {
        let options = js_sys::Object::new();
        Reflect::set(&options, &"min".into(), &view.length().into())?;
        let promise = self.reader()?.read(view, &options)?;
        Reflect::get(&JsFuture::from(promise).await?, &"value".into())?.dyn_into()
    }
}

/// An error as text.
pub fn message(error: &JsValue) -> String {
    let text = Reflect::get(error, &"message".into()).ok().and_then(|message| message.as_string());
    text.unwrap_or_else(|| format!("{error:?}"))
}

impl ByteStream for JsStream {
    type Block = JsBlock;

    fn content_length(&self) -> Option<u64> {
        self.length
    }

    async fn read_into(
        &mut self,
        block: &mut JsBlock,
        from: usize,
        to: usize,
        mut hasher: Option<&mut Hasher>,
    ) -> Result<usize, ReadError> {
        let mut window = vec![0; if hasher.is_some() { WINDOW.min(to - from) } else { 0 }];
        let mut at = from;
        while at < to {
            let want = STRIDE.min(to - at);
            let view = Uint8Array::new_with_byte_offset_and_length(&block.buffer, at as u32, want as u32);
            let read = self.fill(view).await.map_err(|error| ReadError::Broken(message(&error)))?;
            // Reading detaches the buffer and gives it back as a new one.
            block.buffer = read.buffer();
            block.touch();
            let length = read.length() as usize;
            if let Some(hasher) = hasher.as_deref_mut() {
                for start in (0..length).step_by(WINDOW) {
                    let end = length.min(start + WINDOW);
                    if let Some(window) = window.get_mut(..end - start) {
                        read.subarray(start as u32, end as u32).copy_to(window);
                        hasher.update(window);
                    }
                }
            }
            at += length;
            if length < want {
                break;
            }
        }
        Ok(at)
    }

    async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        let broken = |error: JsValue| ReadError::Broken(message(&error));
        let reader: ReadableStreamDefaultReader = self.raw.get_reader().unchecked_into();
        let mut bytes = Vec::new();
        loop {
            let read = JsFuture::from(reader.read()).await.map_err(broken)?;
            let value = Reflect::get(&read, &"value".into()).map_err(broken)?;
            // No value: the end.
            let Ok(piece) = value.dyn_into::<Uint8Array>() else { return Ok(bytes.into()) };
            if bytes.len() + piece.length() as usize > limit {
                // The runtime need not keep what nobody will read.
                let _ = reader.cancel();
                return Err(ReadError::TooLarge { limit });
            }
            bytes.extend_from_slice(&piece.to_vec());
        }
    }

    async fn drain(&mut self, limit: usize) {
        let mut view = Uint8Array::new_with_length(STRIDE as u32);
        for _ in 0..limit / STRIDE {
            match self.fill(view).await {
                Ok(read) if read.length() as usize == STRIDE => view = Uint8Array::new(&read.buffer()),
                _ => break,
            }
        }
    }

    fn cancel(self) {
        let cancelled = self.raw.cancel();
        // What fails here has ended already.
        wasm_bindgen_futures::spawn_local(async { drop(JsFuture::from(cancelled).await) });
    }
}

/// A buffer in JavaScript's memory.
pub struct JsBlock {
    buffer: ArrayBuffer,
    id: u64,
}

impl JsBlock {
    /// The bytes `from..to`, without copying them.
    pub fn view(&self, from: usize, to: usize) -> Uint8Array {
        Uint8Array::new_with_byte_offset_and_length(&self.buffer, from as u32, (to - from) as u32)
    }

    /// Gives the buffer back to be used again, once nobody reads from it any more. One that is only dropped
    /// waits for the garbage collector, which lets many pile up before it runs.
    pub fn recycle(self) {
        let bytes = self.buffer.byte_length() as usize;
        if bytes == PART_SIZE {
            LENT.with_borrow_mut(|lent| lent.idle.push(self.buffer.clone()));
        }
    }

    fn touch(&self) {
        LENT.with_borrow_mut(|lent| {
            if let Some(loan) = lent.loans.iter_mut().find(|loan| loan.id == self.id) {
                loan.seen = js_sys::Date::now();
            }
        });
    }
}

impl Drop for JsBlock {
    fn drop(&mut self) {
        LENT.with_borrow_mut(|lent| lent.loans.retain(|loan| loan.id != self.id));
    }
}

struct Loan {
    id: u64,
    bytes: usize,
    seen: f64,
}

/// The buffers of an isolate: those in use, and those of a part's size that wait to be used again.
#[derive(Default)]
struct Lent {
    loans: Vec<Loan>,
    idle: Vec<ArrayBuffer>,
    next: u64,
}

thread_local! {
    static LENT: RefCell<Lent> = RefCell::default();
}

fn lend(bytes: usize) -> Option<JsBlock> {
    LENT.with_borrow_mut(|lent| {
        let now = js_sys::Date::now();
        lent.loans.retain(|loan| now - loan.seen < ABANDONED);
        let used: usize = lent.loans.iter().map(|loan| loan.bytes).sum();
        if used > 0 && used + bytes > BUDGET {
            return None;
        }
        let reused = if bytes == PART_SIZE { lent.idle.pop() } else { None };
        // Idle buffers are within the budget too.
        lent.idle.truncate(BUDGET.saturating_sub(used + bytes) / PART_SIZE);
        lent.next += 1;
        lent.loans.push(Loan { id: lent.next, bytes, seen: now });
        Some(JsBlock { buffer: reused.unwrap_or_else(|| ArrayBuffer::new(bytes as u32)), id: lent.next })
    })
}

impl Block for JsBlock {
    async fn new(capacity: usize) -> Self {
        loop {
            if let Some(block) = lend(capacity) {
                return block;
            }
            // A timer of this request's own: another request may not wake this one up.
            sleep(RETRY).await;
        }
    }
}
