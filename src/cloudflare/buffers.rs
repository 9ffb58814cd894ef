//! Buffers in JavaScript's memory, within the memory budget of the isolate.
//!
//! The table of lent memory owns it, not the requests: the runtime may drop a request without running any of its
//! code, for instance half a minute after its client has gone. What the request holds then stays for ever. So the
//! memory of a request without a sign of life is taken back, and its loan ends together with it.

use std::{any::Any, cell::RefCell, collections::HashMap, ops::Range};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use js_sys::{ArrayBuffer, Function, Uint8Array};
use wasm_bindgen::{JsValue, prelude::*};

use super::{
    clock::{SystemClock, sleep},
    stream,
};
use crate::{
    oci::Hasher,
    platform::{
        Buffer, Buffers, Clock, ReadError, Reserved, Timestamp,
        budget::{
            Budget, End,
            limits::{BUFFERS, CONTENT, RESERVE},
        },
    },
    uploads::PART_SIZE,
};

/// The memory that a buffer starts with, in bytes.
const SMALL: usize = 64 * 1024;

/// Retry interval of a request that waits for memory, in milliseconds.
const RETRY: u32 = 10;

/// Time that a request waits for memory, in milliseconds.
const PATIENCE: u64 = 60_000;

/// Interval of the signs of life of a request that holds memory, in milliseconds.
const BEAT: u32 = 20_000;

thread_local! {
    static LENT: RefCell<Lent> = RefCell::new(Lent {
        budget: Budget::new(BUFFERS, RESERVE),
        memory: HashMap::new(),
        idle: Vec::new(),
    });
    /// Content in WebAssembly's memory. Its loans are never abandoned: nothing can take that memory back.
    static CONTENTS: RefCell<Budget> = const { RefCell::new(Budget::new(CONTENT, 0)) };
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setInterval)]
    fn set_interval(run: &Function, milliseconds: u32) -> JsValue;
    #[wasm_bindgen(js_name = clearInterval)]
    fn clear_interval(id: &JsValue);

    /// Missing in `js-sys`: a buffer that takes over the memory, here to free all of it at once.
    #[wasm_bindgen(js_name = ArrayBuffer)]
    type Transfer;
    #[wasm_bindgen(method, catch)]
    fn transfer(this: &Transfer, length: u32) -> Result<ArrayBuffer, JsValue>;
}

/// The buffers in use, by loan, and idle ones for reuse.
struct Lent {
    budget: Budget,
    memory: HashMap<u64, ArrayBuffer>,
    idle: Vec<ArrayBuffer>,
}

impl Lent {
    /// Allocates memory that the budget has granted. Idle buffers count towards the budget too.
    fn allocate(&mut self, bytes: usize) -> ArrayBuffer {
        let at = self.idle.iter().rposition(|idle| length(idle) == bytes);
        let reused = at.map(|at| self.idle.remove(at));
        self.trim();
        reused.unwrap_or_else(|| ArrayBuffer::new(bytes as u32))
    }

    /// Moves what a loan holds to memory of this size, which the budget has granted.
    fn replace(&mut self, id: u64, bytes: usize) {
        let memory = self.allocate(bytes);
        let outgrown = self.memory.remove(&id);
        if let Some(outgrown) = &outgrown {
            Uint8Array::new(&memory).set(&Uint8Array::new(outgrown), 0);
        }
        self.memory.insert(id, memory);
        if let Some(outgrown) = outgrown {
            self.keep(outgrown);
        }
    }

    /// Keeps a buffer for reuse, if there is room for it.
    fn keep(&mut self, memory: ArrayBuffer) {
        self.idle.push(memory);
        self.trim();
    }

    /// Frees the idle buffers for which there is no room.
    fn trim(&mut self) {
        let mut room = self.budget.free();
        self.idle.retain(|idle| {
            let fits = length(idle) <= room;
            if fits {
                room -= length(idle);
            } else {
                free(idle);
            }
            fits
        });
    }

    /// Takes back the memory of requests that the runtime has dropped.
    fn take_back(&mut self, now: Timestamp) {
        for id in self.budget.abandoned(now) {
            self.end(id);
        }
    }

    /// Ends a loan, with its memory.
    fn end(&mut self, id: u64) {
        if let Some(memory) = self.memory.remove(&id) {
            free(&memory);
        }
        self.budget.end(id);
    }
}

fn length(memory: &ArrayBuffer) -> usize {
    memory.byte_length() as usize
}

/// Frees memory at once: a buffer that is only dropped waits for the garbage collector, and many pile up before it
/// runs. If a read or a write of the runtime still uses the memory, it is freed when that ends.
fn free(memory: &ArrayBuffer) {
    // An error means that it is detached already.
    let _ = memory.unchecked_ref::<Transfer>().transfer(0);
}

/// Waits until `grow` grants memory. Polls with a timer of this request: another request cannot wake it.
async fn granted(mut grow: impl FnMut(Timestamp) -> Result<bool, ReadError>) -> Result<(), ReadError> {
    let started = SystemClock.now();
    while !grow(SystemClock.now())? {
        if SystemClock.now().milliseconds_since(started) > PATIENCE {
            return Err(ReadError::NoMemory);
        }
        sleep(RETRY).await;
    }
    Ok(())
}

/// A buffer's memory, given back when this is dropped. It tells that its request is alive, with a timer that ends with
/// the request.
struct Loan {
    id: u64,
    beat: Option<(JsValue, Closure<dyn FnMut()>)>,
}

impl Loan {
    async fn of(bytes: usize) -> Result<Self, ReadError> {
        let mut loan = Self { id: LENT.with_borrow_mut(|lent| lent.budget.id()), beat: None };
        loan.grow(bytes, bytes).await?;
        let id = loan.id;
        let beat =
            Closure::new(move || LENT.with_borrow_mut(|lent| lent.budget.touch(id, SystemClock.now())));
        let timer = set_interval(beat.as_ref().unchecked_ref(), BEAT);
        loan.beat = Some((timer, beat));
        Ok(loan)
    }

    /// Allocates `bytes`, or if the request must wait, all that it `needs` once it may hold them. The bytes there are
    /// stay in front.
    async fn grow(&self, mut bytes: usize, needs: usize) -> Result<(), ReadError> {
        let is_first = LENT.with_borrow(|lent| !lent.memory.contains_key(&self.id));
        granted(|now| {
            LENT.with_borrow_mut(|lent| {
                // All requests look dead after the machine has slept. This one is not.
                lent.budget.touch(self.id, now);
                lent.take_back(now);
                // New memory would not have the bytes of what was taken back, but those of another request.
                if !is_first && !lent.memory.contains_key(&self.id) {
                    return Err(ReadError::TakenBack);
                }
                let is_granted = lent.budget.grow(self.id, bytes, now);
                if is_granted {
                    lent.replace(self.id, bytes);
                }
                bytes = needs;
                Ok(is_granted)
            })
        })
        .await
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some((timer, _)) = &self.beat {
            clear_interval(timer);
        }
        LENT.with_borrow_mut(|lent| lent.end(self.id));
    }
}

/// Content counted in WebAssembly's memory, until this is dropped.
struct Counted(u64);

impl Drop for Counted {
    fn drop(&mut self) {
        CONTENTS.with_borrow_mut(|contents| contents.end(self.0));
    }
}

impl Reserved for Counted {}

/// The isolate's buffers.
pub struct JsBuffers;

impl Buffers for JsBuffers {
    fn part_size(&self) -> usize {
        PART_SIZE
    }

    fn lend(&self, capacity: usize) -> LocalBoxFuture<'static, Result<Box<dyn Buffer>, ReadError>> {
        Box::pin(async move {
            let loan = Loan::of(capacity.min(SMALL)).await?;
            Ok(Box::new(JsBuffer { capacity, loan }) as Box<dyn Buffer>)
        })
    }

    fn reserve(&self, bytes: usize) -> LocalBoxFuture<'static, Result<Box<dyn Reserved>, ReadError>> {
        Box::pin(async move {
            let counted = Counted(CONTENTS.with_borrow_mut(Budget::id));
            granted(|now| Ok(CONTENTS.with_borrow_mut(|contents| contents.grow(counted.0, bytes, now))))
                .await?;
            Ok(Box::new(counted) as Box<dyn Reserved>)
        })
    }
}

/// A buffer in JavaScript's memory, which grows with what arrives.
pub struct JsBuffer {
    capacity: usize,
    loan: Loan,
}

impl Buffer for JsBuffer {
    fn hash(&self, range: Range<usize>, hasher: &mut Hasher) -> Result<(), ReadError> {
        stream::hash(&self.view(range)?, &mut Vec::new(), hasher);
        Ok(())
    }

    fn copy(&self, range: Range<usize>) -> Result<Bytes, ReadError> {
        Ok(self.view(range)?.to_vec().into())
    }

    fn recycle(&self) {
        LENT.with_borrow_mut(|lent| {
            if let Some(memory) = lent.memory.remove(&self.loan.id) {
                lent.budget.end(self.loan.id);
                lent.keep(memory);
            }
        });
    }
}

impl JsBuffer {
    /// The buffer behind the trait; `None` for one of another platform.
    pub fn of(buffer: &dyn Buffer) -> Option<&Self> {
        let buffer: &dyn Any = buffer;
        buffer.downcast_ref()
    }

    /// A view of a range, without a copy. [`ReadError::TakenBack`] if the memory was taken back.
    pub fn view(&self, range: Range<usize>) -> Result<Uint8Array, ReadError> {
        let memory = LENT.with_borrow(|lent| lent.memory.get(&self.loan.id).cloned());
        let (start, length) = (range.start as u32, range.len() as u32);
        let memory = memory.ok_or(ReadError::TakenBack)?;
        Ok(Uint8Array::new_with_byte_offset_and_length(&memory, start, length))
    }

    /// Makes room after the first `used` bytes, and returns the end of it.
    pub(super) async fn make_room(&mut self, used: usize) -> Result<usize, ReadError> {
        let room = LENT.with_borrow(|lent| lent.memory.get(&self.loan.id).map(length));
        let room = room.ok_or(ReadError::TakenBack)?;
        if used < room || room >= self.capacity {
            return Ok(room);
        }
        let has_plenty = LENT.with_borrow(|lent| lent.budget.has_plenty());
        // Bytes may be read behind others that are read later.
        let step = (room * 4).max(used + SMALL).min(self.capacity);
        let step = if has_plenty { step } else { self.capacity };
        self.loan.grow(step, self.capacity).await?;
        LENT.with_borrow(|lent| lent.memory.get(&self.loan.id).map(length)).ok_or(ReadError::TakenBack)
    }

    /// Keeps the memory that a read has detached and returns as a new object.
    pub(super) fn put_back(&mut self, memory: ArrayBuffer) -> Result<(), ReadError> {
        LENT.with_borrow_mut(|lent| {
            let ours = lent.memory.get_mut(&self.loan.id).ok_or(ReadError::TakenBack)?;
            *ours = memory;
            Ok(())
        })
    }

    /// The request reads from its client, and these bytes have arrived.
    pub(super) fn arrived(&self, bytes: usize) {
        LENT.with_borrow_mut(|lent| lent.budget.arrived(self.loan.id, bytes, SystemClock.now()));
    }

    /// Whether the client is too slow. To be asked every few seconds.
    pub(super) fn must_end(&self) -> Option<End> {
        LENT.with_borrow_mut(|lent| lent.budget.must_end(self.loan.id, SystemClock.now()))
    }

    /// The request reads no more.
    pub(super) fn stop_reading(&self) {
        LENT.with_borrow_mut(|lent| lent.budget.stop_reading(self.loan.id));
    }
}

/// A view of a range of a [`JsBuffer`], without a copy; `None` for a buffer of another platform, or if its memory was
/// taken back.
pub fn view(buffer: &dyn Buffer, range: Range<usize>) -> Option<Uint8Array> {
    JsBuffer::of(buffer)?.view(range).ok()
}

/// The bytes of buffers lent, of idle buffers, and of contents counted.
#[cfg(any(test, feature = "test-endpoints"))]
pub fn used() -> (usize, usize, usize) {
    let (lent, idle) = LENT.with_borrow(|lent| (lent.budget.used(), lent.idle.iter().map(length).sum()));
    (lent, idle, CONTENTS.with_borrow(Budget::used))
}

/// Takes back what requests without a sign of life hold, as if it were this much later, in milliseconds.
#[cfg(test)]
pub fn take_back(later: u64) {
    LENT.with_borrow_mut(|lent| lent.take_back(Timestamp(SystemClock.now().0 + later)));
}
