//! Calls on their way: each waits here until the scheduler lets it take effect, and until it lets its answer
//! arrive, or never arrive.
//!
//! A call whose caller has given up or crashed may still take effect, until [`LATE`] after it was made.

use std::{cell::RefCell, rc::Rc};

use crate::{
    clock::VirtualClock,
    executor::{Executor, Sender, promise},
};

/// The longest time from the start of a call to its effect, in seconds.
pub const LATE: u64 = 25;

/// What a call does, for the scheduler's choice and for the trace.
#[derive(Debug, Clone)]
pub struct Note {
    /// The operation: `put`, `delete`, ...
    pub operation: &'static str,
    /// The key that it names first.
    pub path: String,
    /// Whether it changes anything.
    pub writes: bool,
    /// The client operation that it serves: 0 for none.
    pub served: u64,
}

trait Work {
    /// Takes effect.
    fn land(&mut self);
    fn has_landed(&self) -> bool;
    fn is_awaited(&self) -> bool;
    /// Gives the result of the effect.
    fn answer(&mut self);
    /// Gives an error, whatever the effect.
    fn fail(&mut self);
}

struct Typed<T, E> {
    work: Option<Box<dyn FnOnce() -> Result<T, E>>>,
    result: Option<Result<T, E>>,
    error: Option<E>,
    sender: Option<Sender<Result<T, E>>>,
}

impl<T, E> Work for Typed<T, E> {
    fn land(&mut self) {
        if let Some(work) = self.work.take() {
            self.result = Some(work());
        }
    }

    fn has_landed(&self) -> bool {
        self.work.is_none()
    }

    fn is_awaited(&self) -> bool {
        self.sender.as_ref().is_some_and(Sender::is_awaited)
    }

    fn answer(&mut self) {
        if let (Some(sender), Some(result)) = (self.sender.take(), self.result.take()) {
            sender.send(result);
        }
    }

    fn fail(&mut self) {
        if let (Some(sender), Some(error)) = (self.sender.take(), self.error.take()) {
            sender.send(Err(error));
        }
    }
}

/// A call on its way.
pub struct Call {
    pub note: Note,
    /// The time at which its effect and its answer are over, in seconds.
    pub deadline: u64,
    work: Box<dyn Work>,
}

impl Call {
    pub fn land(&mut self) {
        self.work.land();
    }

    pub fn has_landed(&self) -> bool {
        self.work.has_landed()
    }

    pub fn is_awaited(&self) -> bool {
        self.work.is_awaited()
    }

    pub fn answer(&mut self) {
        self.work.answer();
    }

    pub fn fail(&mut self) {
        self.work.fail();
    }
}

/// The calls on their way.
pub struct Calls {
    pub executor: Rc<Executor>,
    pub clock: VirtualClock,
    pub pending: RefCell<Vec<Call>>,
}

impl Calls {
    pub fn new(executor: Rc<Executor>, clock: VirtualClock) -> Self {
        Self { executor, clock, pending: RefCell::default() }
    }

    /// Makes a call: `work` is its effect, `error` the answer if it fails or its answer is lost.
    pub async fn make<T: 'static, E: 'static>(
        &self,
        operation: &'static str,
        path: String,
        writes: bool,
        work: impl FnOnce() -> Result<T, E> + 'static,
        error: E,
    ) -> Result<T, E> {
        let (sender, receiver) = promise();
        let (_, served) = self.executor.current();
        let typed =
            Typed { work: Some(Box::new(work)), result: None, error: Some(error), sender: Some(sender) };
        let note = Note { operation, path, writes, served };
        let deadline = self.clock.seconds() + LATE;
        self.pending.borrow_mut().push(Call { note, deadline, work: Box::new(typed) });
        receiver.await
    }
}
