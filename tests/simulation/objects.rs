//! The writers of repositories, each in an object of its own: the host that Cloudflare's Durable Objects are in
//! production.
//!
//! A command runs as a task of the object, not of the isolate that has sent it. An object that crashes loses its tasks
//! and its [`Writer`], and keeps its journal and its alarm. Calls of the object to its journal end with it; those to
//! the bucket may still land.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use futures_util::{FutureExt, future::LocalBoxFuture};
use pierhead::{
    app::App,
    auth::Principal,
    oci::RepositoryName,
    platform::{Background, Clock, Timestamp},
    repository::{
        stored::Stored,
        writer::{
            Writer,
            journal::{Journal, MemoryJournal, Rows},
            order::SETTLE,
            protocol::{Call, CallError, Command, Record, Refused, Reply, Writers},
        },
    },
    storage::{Attempts, LONG_PATIENCE},
};

use crate::{
    calls::{Calls, LATE},
    executor::Group,
    setup::Guard,
};

const _: () = assert!(LATE < SETTLE, "writers must wait for late calls");

/// Time until an alarm that has failed runs again, in seconds.
const NEXT_ALARM: u64 = 10;

/// A failed call to an object, which may be repeated.
const FAILED: &str = "failed by the simulation";

/// What outlives the crashes of an object.
struct Object {
    name: RepositoryName,
    journal: Rc<SimulatedJournal>,
    writer: RefCell<Option<Rc<Writer>>>,
    is_settling: Cell<bool>,
}

/// Opens repositories for writers.
type OpenApp = Rc<dyn Fn() -> Rc<App>>;

/// The objects.
pub struct Objects {
    calls: Rc<Calls>,
    objects: RefCell<BTreeMap<RepositoryName, Rc<Object>>>,
    without: Option<Guard>,
    /// The isolate in which objects run.
    open: RefCell<Option<OpenApp>>,
}

impl Objects {
    /// No objects yet. `without` is a guard that is missing.
    pub fn new(calls: Rc<Calls>, without: Option<Guard>) -> Rc<Self> {
        Rc::new(Self { calls, objects: RefCell::default(), without, open: RefCell::default() })
    }

    /// Sets the isolate in which objects run.
    pub fn run_in(&self, open: OpenApp) {
        *self.open.borrow_mut() = Some(open);
    }

    fn object(&self, name: &RepositoryName) -> Rc<Object> {
        let new = || {
            let journal = SimulatedJournal {
                memory: Rc::default(),
                calls: self.calls.clone(),
                name: name.to_string(),
                is_lost: self.without == Some(Guard::Journal),
            };
            let (name, journal) = (name.clone(), Rc::new(journal));
            Rc::new(Object { name, journal, writer: RefCell::default(), is_settling: Cell::default() })
        };
        self.objects.borrow_mut().entry(name.clone()).or_insert_with(new).clone()
    }

    /// The objects whose alarms are due.
    pub fn due(&self) -> Vec<RepositoryName> {
        let now = self.calls.clock.now();
        let is_due = |object: &Object| {
            !object.is_settling.get() && object.journal.memory.alarm.get().is_some_and(|alarm| alarm <= now)
        };
        let objects = self.objects.borrow();
        objects.values().filter(|object| is_due(object)).map(|object| object.name.clone()).collect()
    }

    /// When the next alarm is due, in seconds.
    pub fn next_alarm(&self) -> Option<u64> {
        let objects = self.objects.borrow();
        objects
            .values()
            .filter_map(|object| object.journal.memory.alarm.get())
            .map(|alarm| alarm.0.div_ceil(1000))
            .min()
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<RepositoryName> {
        self.objects.borrow().keys().cloned().collect()
    }

    /// The number of intents in all journals.
    pub fn intents(&self) -> usize {
        self.objects.borrow().values().map(|object| object.journal.memory.len()).sum()
    }

    /// Runs an alarm.
    pub fn ring(self: &Rc<Self>, name: &RepositoryName) {
        let (objects, object) = (self.clone(), self.object(name));
        object.journal.memory.alarm.set(None);
        object.is_settling.set(true);
        let settle = async move {
            let (writer, work) = (objects.writer(&object), objects.work(&object));
            if writer.settle(&objects.stored(&object, work)).await.is_err() {
                object.journal.ring_by(objects.calls.clock.now().plus_seconds(NEXT_ALARM));
            }
            object.is_settling.set(false);
        };
        self.calls.executor.spawn(group(name), 0, Box::pin(settle));
    }

    /// Forgets what a crash of this object loses. An alarm that was running runs again.
    pub fn crash(&self, name: &str) {
        for object in self.objects.borrow().values().filter(|object| object.name.as_str() == name) {
            object.writer.take();
            if object.is_settling.take() {
                object.journal.ring_by(self.calls.clock.now().plus_seconds(1));
            }
        }
    }

    fn writer(&self, object: &Object) -> Rc<Writer> {
        let new = || {
            let clock = Rc::new(self.calls.clock.clone());
            Writer::new(object.name.clone(), object.journal.clone(), clock, None)
        };
        match self.without {
            Some(Guard::Order) => new(),
            _ => object.writer.borrow_mut().get_or_insert_with(new).clone(),
        }
    }

    fn work(&self, object: &Object) -> Rc<Work> {
        Rc::new(Work { calls: self.calls.clone(), group: group(&object.name), operation: 0 })
    }

    fn stored(&self, object: &Object, background: Rc<Work>) -> Stored {
        let app = self.open.borrow().as_ref().expect("objects have an isolate")();
        let context = app.context(Principal::Job("writer"), "writer".to_owned(), background);
        app.stored(&object.name, &context)
    }

    /// Carries out a command in the object.
    fn start(
        self: Rc<Self>,
        name: RepositoryName,
        call: Call,
    ) -> LocalBoxFuture<'static, Result<Result<Reply, Refused>, &'static str>> {
        Box::pin(async move {
            let object = self.object(&name);
            let (writer, work) = (self.writer(&object), self.work(&object));
            let stored = self.stored(&object, work.clone());
            Ok(writer.carry_out(&stored, &*work, call).await)
        })
    }
}

fn group(name: &RepositoryName) -> Group {
    Group::Writer(name.to_string())
}

/// The client of writers in an isolate. It repeats failed calls, as that of production.
pub struct Client(pub Rc<Objects>);

impl Writers for Client {
    fn deployment(&self) -> Result<String, CallError> {
        Ok("simulated".to_owned())
    }

    fn call<'a>(
        &'a self,
        repository: &'a RepositoryName,
        mut call: Call,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        if let (Some(Guard::Blobs), Command::Push { blobs, .. }) = (self.0.without, &mut call.command) {
            blobs.clear();
        }
        Box::pin(async move {
            let calls = &self.0.calls;
            let mut attempts = Attempts::within(Rc::new(calls.clock.clone()), LONG_PATIENCE);
            let mut is_repeated = false;
            loop {
                let (objects, name, call) = (self.0.clone(), repository.clone(), call.clone());
                let start = move || objects.start(name, call);
                match calls.clone().call_object(group(repository), start, || FAILED).await {
                    Err(_) if attempts.next().await => is_repeated = true,
                    Err(message) => return Err(CallError::Unreachable(message.to_owned())),
                    Ok(reply) => return CallError::from_reply(reply, is_repeated),
                }
            }
        })
    }
}

/// Background work of a request, or of an object.
pub struct Work {
    pub calls: Rc<Calls>,
    pub group: Group,
    pub operation: u64,
}

impl Background for Work {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.calls.executor.spawn(self.group.clone(), self.operation, work);
    }

    fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>) {
        let sleep = self.calls.clock.sleep(milliseconds.into());
        self.spawn(Box::pin(sleep.then(|()| work)));
    }
}

/// The journal of an object.
struct SimulatedJournal {
    memory: Rc<MemoryJournal>,
    calls: Rc<Calls>,
    name: String,
    /// It keeps nothing.
    is_lost: bool,
}

impl SimulatedJournal {
    /// Sets the alarm, unless it is due earlier.
    fn ring_by(&self, time: Timestamp) {
        self.memory.alarm.set(Some(self.memory.alarm.get().map_or(time, |earlier| earlier.min(time))));
    }
}

impl Journal for SimulatedJournal {
    fn load(&self) -> LocalBoxFuture<'_, Result<Vec<(u64, Record)>, String>> {
        let memory = self.memory.clone();
        let load = move || memory.load().now_or_never().expect("memory answers at once");
        Box::pin(self.calls.make_fenced("load", self.name.clone(), false, load, FAILED.to_owned()))
    }

    fn write(&self, rows: Rows, alarm: Option<Timestamp>) -> LocalBoxFuture<'_, Result<(), String>> {
        let memory = self.memory.clone();
        let rows = if self.is_lost { Rows::new() } else { rows };
        let write = move || memory.write(rows, alarm).now_or_never().expect("memory answers at once");
        Box::pin(self.calls.make_fenced("journal", self.name.clone(), true, write, FAILED.to_owned()))
    }
}
