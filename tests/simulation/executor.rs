//! Tasks of one thread, which run only when something they wait for has happened: between two events of the
//! scheduler, every task stands at an `await`.
//!
//! A task belongs to a group, which a crash ends as a whole: its futures are dropped where they stand.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use futures_util::future::LocalBoxFuture;

/// What crashes as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// An isolate: its requests and their background work.
    Isolate(usize),
    /// The object that writes a repository.
    Writer(String),
}

/// The id of a task.
type TaskId = u64;

#[derive(Default)]
struct Woken(Mutex<Vec<TaskId>>);

struct TaskWaker {
    id: TaskId,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.0.lock().unwrap().push(self.id);
    }
}

struct Task {
    group: Group,
    /// The client operation that it serves: 0 for none.
    operation: u64,
    /// `None` while it is polled.
    future: Option<LocalBoxFuture<'static, ()>>,
}

/// How often tasks may wake each other before anything else happens.
const MAX_TURNS: usize = 10_000;

/// The tasks.
#[derive(Default)]
pub struct Executor {
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    woken: Arc<Woken>,
    next: Cell<TaskId>,
    current: RefCell<Option<(Group, u64)>>,
}

impl Executor {
    /// Adds a task, to run at the next [`run`](Self::run).
    pub fn spawn(&self, group: Group, operation: u64, future: LocalBoxFuture<'static, ()>) {
        let id = self.next.get();
        self.next.set(id + 1);
        self.tasks.borrow_mut().insert(id, Task { group, operation, future: Some(future) });
        self.woken.0.lock().unwrap().push(id);
    }

    /// The group of the task that runs now, and the operation it serves.
    pub fn current(&self) -> (Group, u64) {
        self.current.borrow().clone().expect("calls are made by tasks")
    }

    /// Runs tasks until all of them wait; `false` if they wake each other for ever.
    pub fn run(&self) -> bool {
        for _ in 0..MAX_TURNS {
            let woken = std::mem::take(&mut *self.woken.0.lock().unwrap());
            if woken.is_empty() {
                return true;
            }
            for id in woken {
                self.poll(id);
            }
        }
        false
    }

    fn poll(&self, id: TaskId) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|task| {
            let future = task.future.take()?;
            Some((task.group.clone(), task.operation, future))
        });
        let Some((group, operation, mut future)) = taken else { return };
        let waker = Waker::from(Arc::new(TaskWaker { id, woken: self.woken.clone() }));
        *self.current.borrow_mut() = Some((group, operation));
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        *self.current.borrow_mut() = None;
        match poll {
            Poll::Pending => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
                    task.future = Some(future);
                }
            }
            Poll::Ready(()) => drop(self.tasks.borrow_mut().remove(&id)),
        }
    }

    /// Ends a group: drops the futures of its tasks.
    pub fn crash(&self, group: &Group) {
        let dropped: Vec<Task> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: Vec<_> =
                tasks.iter().filter(|(_, task)| task.group == *group).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
        };
        // Not while the tasks are borrowed: dropping a future may end others.
        drop(dropped);
    }

    /// The number of tasks that have not ended.
    pub fn len(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// The groups that have tasks.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.tasks.borrow().values().map(|task| task.group.clone()).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The end of a promise that gives the value.
pub struct Sender<T>(Weak<RefCell<Slot<T>>>);

impl<T> Sender<T> {
    /// Whether anyone still waits.
    pub fn is_awaited(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub fn send(&self, value: T) {
        if let Some(slot) = self.0.upgrade() {
            let waker = {
                let mut slot = slot.borrow_mut();
                slot.value = Some(value);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// A value that comes later. Dropping it tells the sender that nobody waits any more.
pub struct Receiver<T>(Rc<RefCell<Slot<T>>>);

impl<T> Future for Receiver<T> {
    type Output = T;

    fn poll(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A value that comes later, and the end that gives it.
pub fn promise<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
    (Sender(Rc::downgrade(&slot)), Receiver(slot))
}
