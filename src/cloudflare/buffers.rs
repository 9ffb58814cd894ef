//! Buffers in JavaScript's memory, within the memory budget of the isolate.

use std::{any::Any, cell::RefCell, ops::Range};

use futures_util::future::LocalBoxFuture;
use js_sys::{ArrayBuffer, Uint8Array};

use super::{
    clock::{SystemClock, sleep},
    stream,
};
use crate::{
    oci::Hasher,
    platform::{
        Buffer, Buffers, Clock, ReadError, Reserved,
        budget::{
            Budget,
            limits::{BUDGET, RESERVE},
        },
    },
    uploads::PART_SIZE,
};

/// The memory that a buffer starts with, in bytes.
const SMALL: usize = 64 * 1024;

/// Retry interval of a request that waits for memory, in milliseconds.
const RETRY: u32 = 10;

thread_local! {
    static LENT: RefCell<Lent> = const { RefCell::new(Lent { budget: Budget::new(BUDGET, RESERVE), idle: Vec::new() }) };
}

/// The buffers in use, and idle ones for reuse.
struct Lent {
    budget: Budget,
    idle: Vec<ArrayBuffer>,
}

impl Lent {
    /// Allocates memory that the budget has granted. Idle buffers count towards the budget too.
    fn allocate(&mut self, bytes: usize) -> ArrayBuffer {
        let at = self.idle.iter().rposition(|idle| idle.byte_length() as usize == bytes);
        let reused = at.map(|at| self.idle.remove(at));
        let mut room = self.budget.free();
        self.idle.retain(|idle| {
            let length = idle.byte_length() as usize;
            let fits = length <= room;
            room -= if fits { length } else { 0 };
            fits
        });
        reused.unwrap_or_else(|| ArrayBuffer::new(bytes as u32))
    }
}

/// Time that a request waits for memory, in milliseconds.
const PATIENCE: u64 = 30_000;

/// Waits until a request may hold `bytes`. Polls with a timer of this request: another request cannot wake it.
async fn granted(id: u64, bytes: usize) -> Result<(), ReadError> {
    let started = SystemClock.now();
    while !LENT.with_borrow_mut(|lent| lent.budget.grow(id, bytes, SystemClock.now())) {
        if SystemClock.now().milliseconds_since(started) > PATIENCE {
            return Err(ReadError::NoMemory);
        }
        sleep(RETRY).await;
    }
    Ok(())
}

/// Memory held by a request, given back when it is dropped.
struct Loan(u64);

impl Loan {
    async fn of(bytes: usize) -> Result<Self, ReadError> {
        let loan = Self(LENT.with_borrow_mut(|lent| lent.budget.id()));
        granted(loan.0, bytes).await?;
        Ok(loan)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.with_borrow_mut(|lent| lent.budget.end(self.0));
    }
}

impl Reserved for Loan {}

/// The isolate's buffers.
pub struct JsBuffers;

impl Buffers for JsBuffers {
    fn part_size(&self) -> usize {
        PART_SIZE
    }

    fn lend(&self, capacity: usize) -> LocalBoxFuture<'static, Result<Box<dyn Buffer>, ReadError>> {
        Box::pin(async move {
            let bytes = capacity.min(SMALL);
            let loan = Loan::of(bytes).await?;
            let memory = LENT.with_borrow_mut(|lent| lent.allocate(bytes));
            Ok(Box::new(JsBuffer { memory, capacity, loan }) as Box<dyn Buffer>)
        })
    }

    fn reserve(&self, bytes: usize) -> LocalBoxFuture<'static, Result<Box<dyn Reserved>, ReadError>> {
        Box::pin(async move { Ok(Box::new(Loan::of(bytes).await?) as Box<dyn Reserved>) })
    }
}

/// A buffer in JavaScript's memory. It has less memory than its capacity until that is needed.
pub struct JsBuffer {
    memory: ArrayBuffer,
    capacity: usize,
    loan: Loan,
}

impl Buffer for JsBuffer {
    fn hash(&self, range: Range<usize>, hasher: &mut Hasher) {
        stream::hash(&self.view(range), &mut Vec::new(), hasher);
    }

    /// A buffer that is only dropped waits for the garbage collector, and many pile up before it runs.
    fn recycle(&self) {
        if self.length() >= SMALL {
            LENT.with_borrow_mut(|lent| lent.idle.push(self.memory.clone()));
        }
    }
}

impl JsBuffer {
    fn length(&self) -> usize {
        self.memory.byte_length() as usize
    }

    /// A view of a range, without a copy.
    pub fn view(&self, range: Range<usize>) -> Uint8Array {
        Uint8Array::new_with_byte_offset_and_length(&self.memory, range.start as u32, range.len() as u32)
    }

    /// Makes room after the first `used` bytes, and returns the end of it.
    pub(super) async fn make_room(&mut self, used: usize) -> Result<usize, ReadError> {
        if used >= self.length() && self.length() < self.capacity {
            let bytes = (used + SMALL).max(self.length() * 4).min(self.capacity);
            granted(self.loan.0, bytes).await?;
            let memory = LENT.with_borrow_mut(|lent| lent.allocate(bytes));
            Uint8Array::new(&memory).set(&self.view(0..self.length()), 0);
            let outgrown = std::mem::replace(&mut self.memory, memory);
            LENT.with_borrow_mut(|lent| lent.idle.push(outgrown));
        }
        Ok(self.length())
    }

    /// The request still reads into this buffer.
    pub(super) fn touch(&self) {
        LENT.with_borrow_mut(|lent| lent.budget.touch(self.loan.0, SystemClock.now()));
    }

    /// Restores the memory after a read has detached it.
    pub(super) fn put_back(&mut self, memory: ArrayBuffer) {
        self.memory = memory;
        self.touch();
    }
}

/// A view of a range of a [`JsBuffer`], without a copy; `None` for a buffer of another platform.
pub fn view(buffer: &dyn Buffer, range: Range<usize>) -> Option<Uint8Array> {
    let buffer: &dyn Any = buffer;
    buffer.downcast_ref::<JsBuffer>().map(|buffer| buffer.view(range))
}

/// The bytes that requests hold.
#[cfg(test)]
pub fn used() -> usize {
    LENT.with_borrow(|lent| lent.budget.used())
}
