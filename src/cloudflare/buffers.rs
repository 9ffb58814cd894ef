//! Buffers in JavaScript's memory, within a memory budget for the whole isolate.

use std::{any::Any, cell::RefCell, ops::Range};

use futures_util::future::LocalBoxFuture;
use js_sys::{ArrayBuffer, Uint8Array};

use super::{clock::sleep, stream};
use crate::{
    oci::Hasher,
    platform::{Buffer, Buffers},
    uploads::PART_SIZE,
};

/// Memory budget of an isolate's buffers, in bytes: half of its 128 MB. Uploads wait while it is exhausted.
const BUDGET: usize = 64 * 1024 * 1024;

/// Time after which an unused buffer counts as abandoned, in milliseconds: the runtime may drop a request
/// silently.
const ABANDONED: f64 = 120_000.0;

/// Retry interval of a waiting upload, in milliseconds.
const RETRY: u32 = 10;

/// The isolate's buffers.
pub struct JsBuffers;

impl Buffers for JsBuffers {
    fn part_size(&self) -> usize {
        PART_SIZE
    }

    fn lend(&self, capacity: usize) -> LocalBoxFuture<'static, Box<dyn Buffer>> {
        Box::pin(async move {
            loop {
                if let Some(buffer) = try_lend(capacity) {
                    return Box::new(buffer) as Box<dyn Buffer>;
                }
                // Poll with a timer of this request: another request cannot wake it.
                sleep(RETRY).await;
            }
        })
    }
}

/// A buffer in JavaScript's memory.
pub struct JsBuffer {
    memory: ArrayBuffer,
    id: u64,
}

impl Buffer for JsBuffer {
    fn hash(&self, range: Range<usize>, hasher: &mut Hasher) {
        stream::hash(&self.view(range), &mut Vec::new(), hasher);
    }

    /// A buffer that is only dropped waits for the garbage collector, and many pile up before it runs.
    fn recycle(&self) {
        if self.memory.byte_length() as usize == PART_SIZE {
            LENT.with_borrow_mut(|lent| lent.idle.push(self.memory.clone()));
        }
    }
}

impl JsBuffer {
    /// A view of a range, without a copy.
    pub fn view(&self, range: Range<usize>) -> Uint8Array {
        Uint8Array::new_with_byte_offset_and_length(&self.memory, range.start as u32, range.len() as u32)
    }

    /// Restores the memory after a read has detached it.
    pub(super) fn put_back(&mut self, memory: ArrayBuffer) {
        self.memory = memory;
        LENT.with_borrow_mut(|lent| {
            if let Some(loan) = lent.loans.iter_mut().find(|loan| loan.id == self.id) {
                loan.seen = js_sys::Date::now();
            }
        });
    }
}

impl Drop for JsBuffer {
    fn drop(&mut self) {
        LENT.with_borrow_mut(|lent| lent.loans.retain(|loan| loan.id != self.id));
    }
}

/// A view of a range of a [`JsBuffer`], without a copy; `None` for a buffer of another platform.
pub fn view(buffer: &dyn Buffer, range: Range<usize>) -> Option<Uint8Array> {
    let buffer: &dyn Any = buffer;
    buffer.downcast_ref::<JsBuffer>().map(|buffer| buffer.view(range))
}

struct Loan {
    id: u64,
    bytes: usize,
    seen: f64,
}

/// The buffers in use, and idle ones of a part's size for reuse.
#[derive(Default)]
struct Lent {
    loans: Vec<Loan>,
    idle: Vec<ArrayBuffer>,
    next: u64,
}

thread_local! {
    static LENT: RefCell<Lent> = RefCell::default();
}

fn try_lend(bytes: usize) -> Option<JsBuffer> {
    LENT.with_borrow_mut(|lent| {
        let now = js_sys::Date::now();
        lent.loans.retain(|loan| now - loan.seen < ABANDONED);
        let used: usize = lent.loans.iter().map(|loan| loan.bytes).sum();
        if used > 0 && used + bytes > BUDGET {
            return None;
        }
        let reused = if bytes == PART_SIZE { lent.idle.pop() } else { None };
        // Idle buffers count towards the budget too.
        lent.idle.truncate(BUDGET.saturating_sub(used + bytes) / PART_SIZE);
        lent.next += 1;
        lent.loans.push(Loan { id: lent.next, bytes, seen: now });
        Some(JsBuffer { memory: reused.unwrap_or_else(|| ArrayBuffer::new(bytes as u32)), id: lent.next })
    })
}
