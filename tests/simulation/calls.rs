//! Calls on their way: each waits here until the scheduler lets it take effect, and until it lets its answer
//! arrive, or never arrive.
//!
//! A call whose caller has given up or crashed may still take effect, until [`LATE`] after it was made.

use std::{cell::RefCell, rc::Rc};

use futures_util::future::LocalBoxFuture;

use crate::{
    clock::VirtualClock,
    executor::{Executor, Group, Sender, promise},
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
    /// Who made it.
    pub caller: Group,
    /// Whether it is over when its caller crashes, with or without effect.
    pub is_fenced: bool,
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
    /// Gives the error that says that there is no effect.
    fn refuse(&mut self);
}

struct Typed<T, E> {
    work: Option<Box<dyn FnOnce() -> Result<T, E>>>,
    result: Option<Result<T, E>>,
    error: Option<E>,
    refusal: Option<E>,
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

    fn refuse(&mut self) {
        match self.refusal.take() {
            Some(refusal) => {
                self.error = Some(refusal);
                self.fail();
            }
            None => self.fail(),
        }
    }
}

/// A call on its way.
pub struct Call {
    pub note: Note,
    /// The time at which its effect and its answer are over, in seconds.
    pub deadline: u64,
    /// Whether another request has changed its key since it was made.
    pub is_provoked: bool,
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

    pub fn refuse(&mut self) {
        self.work.refuse();
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
        let (caller, served) = self.executor.current();
        self.send(Note { operation, path, writes, served, caller, is_fenced: false }, work, error, None).await
    }

    /// Makes a call that may also be refused, with `refusal`: then it has no effect.
    pub async fn make_refusable<T: 'static, E: 'static>(
        &self,
        operation: &'static str,
        path: String,
        writes: bool,
        work: impl FnOnce() -> Result<T, E> + 'static,
        error: E,
        refusal: E,
    ) -> Result<T, E> {
        let (caller, served) = self.executor.current();
        let note = Note { operation, path, writes, served, caller, is_fenced: false };
        self.send(note, work, error, Some(refusal)).await
    }

    /// Makes a call of an object to its own storage, which it takes with it when it crashes.
    pub async fn make_fenced<T: 'static, E: 'static>(
        &self,
        operation: &'static str,
        path: String,
        writes: bool,
        work: impl FnOnce() -> Result<T, E> + 'static,
        error: E,
    ) -> Result<T, E> {
        let (caller, served) = self.executor.current();
        self.send(Note { operation, path, writes, served, caller, is_fenced: true }, work, error, None).await
    }

    async fn send<T: 'static, E: 'static>(
        &self,
        note: Note,
        work: impl FnOnce() -> Result<T, E> + 'static,
        error: E,
        refusal: Option<E>,
    ) -> Result<T, E> {
        let (sender, receiver) = promise();
        let (work, error, sender) = (Some(Box::new(work) as _), Some(error), Some(sender));
        let typed = Typed { work, result: None, error, refusal, sender };
        let deadline = self.clock.seconds() + LATE;
        self.pending.borrow_mut().push(Call { note, deadline, is_provoked: false, work: Box::new(typed) });
        receiver.await
    }

    /// Calls an object: `start` is its work, which runs as a task of `group`. The call may fail before it arrives,
    /// arrive late, end with the object, or lose its answer; each of them is `error`.
    pub async fn call_object<T: 'static, E: 'static>(
        self: Rc<Self>,
        group: Group,
        start: impl FnOnce() -> LocalBoxFuture<'static, Result<T, E>> + 'static,
        error: impl Fn() -> E,
    ) -> Result<T, E> {
        let name = format!("{group:?}");
        let (_, served) = self.executor.current();
        let (sender, receiver) = promise();
        let done = Done { sender, error: Some(error()) };
        let executor = self.executor.clone();
        let arrive = move || {
            executor.spawn(group, served, Box::pin(async move { done.with(start().await) }));
            Ok(())
        };
        self.make("call", name.clone(), true, arrive, error()).await?;
        let result = receiver.await;
        self.make("answer", name, false, move || result, error()).await
    }
}

/// Tells the caller how the work of an object ended: with an error if it is dropped.
struct Done<T, E> {
    sender: Sender<Result<T, E>>,
    error: Option<E>,
}

impl<T, E> Done<T, E> {
    fn with(mut self, result: Result<T, E>) {
        self.error = None;
        self.sender.send(result);
    }
}

impl<T, E> Drop for Done<T, E> {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            self.sender.send(Err(error));
        }
    }
}
