//! The writers of repositories, each in an object of its own: the host that Cloudflare's Durable Objects are in
//! production.
//!
//! A command runs as a task of the object, not of the isolate that has sent it. An object that crashes loses its tasks
//! and its [`Writer`], and keeps its journal and its alarm. Calls of the object to its journal end with it; those to
//! the bucket may still land.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use futures_util::{FutureExt, future::LocalBoxFuture};
use pierhead::{
    app::App,
    auth::Principal,
    context::Context,
    events::{Action, Bridge, Content, Event, Events},
    oci::{Reference, RepositoryName},
    platform::{Background, Clock, Timestamp},
    repository::{
        Revision,
        writer::{
            Means, Writer,
            journal::{Journal, MemoryJournal, Rows},
            ledger::Ledger,
            order::SETTLE,
            protocol::{Call, CallError, Command, Record, Refused, Reply, Writers},
        },
    },
    storage::{Attempts, LONG_PATIENCE},
};

use uuid::Uuid;

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
    /// When it crashed last, in seconds.
    crashed: Cell<Option<u64>>,
}

/// Opens repositories for writers.
type OpenApp = Rc<dyn Fn() -> Rc<App>>;

/// The objects.
pub struct Objects {
    calls: Rc<Calls>,
    objects: RefCell<BTreeMap<RepositoryName, Rc<Object>>>,
    /// The operations whose deletion an earlier attempt may have made.
    unclear: RefCell<BTreeSet<u64>>,
    without: Option<Guard>,
    /// The isolate in which objects run.
    open: RefCell<Option<OpenApp>>,
}

impl Objects {
    /// No objects yet. `without` is a guard that is missing.
    pub fn new(calls: Rc<Calls>, without: Option<Guard>) -> Rc<Self> {
        let (objects, unclear, open) = (RefCell::default(), RefCell::default(), RefCell::default());
        Rc::new(Self { calls, objects, unclear, without, open })
    }

    /// Sets the isolate in which objects run.
    pub fn run_in(&self, open: OpenApp) {
        *self.open.borrow_mut() = Some(open);
    }

    /// Whether the deletion of an operation may have been made by an earlier attempt, or by another deletion.
    pub fn is_unclear(&self, operation: u64) -> bool {
        self.unclear.borrow_mut().remove(&operation)
    }

    fn object(&self, name: &RepositoryName) -> Rc<Object> {
        let new = || {
            let journal = SimulatedJournal {
                memory: Rc::default(),
                calls: self.calls.clone(),
                name: name.to_string(),
                without: self.without,
            };
            let (name, journal) = (name.clone(), Rc::new(journal));
            let (writer, is_settling, crashed) = (RefCell::default(), Cell::default(), Cell::default());
            Rc::new(Object { name, journal, writer, is_settling, crashed })
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
            objects.restarted(&object).await;
            let (writer, work) = (objects.writer(&object), objects.work(&object));
            if writer.settle(&objects.means(&object, work)).await.is_err() {
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
            object.crashed.set(Some(self.calls.clock.seconds()));
            if object.is_settling.take() {
                object.journal.ring_by(self.calls.clock.now().plus_seconds(1));
            }
        }
    }

    /// A restart takes time: more than the unit of the numbers that writers give to changes.
    async fn restarted(&self, object: &Object) {
        if object.crashed.get().is_some_and(|crashed| crashed >= self.calls.clock.seconds()) {
            self.calls.clock.sleep(1000).await;
        }
    }

    fn writer(&self, object: &Object) -> Rc<Writer> {
        let new = || {
            let clock = Rc::new(self.calls.clock.clone());
            Writer::new(object.name.clone(), object.journal.clone(), clock)
        };
        match self.without {
            Some(Guard::Order) => new(),
            _ => object.writer.borrow_mut().get_or_insert_with(new).clone(),
        }
    }

    fn events(&self, object: &Object) -> Option<Events> {
        let (app, context) = self.context(self.work(object));
        app.events(&context)
    }

    fn work(&self, object: &Object) -> Rc<Work> {
        Rc::new(Work { calls: self.calls.clone(), group: group(&object.name), operation: 0 })
    }

    fn means(&self, object: &Object, background: Rc<Work>) -> Means {
        let (app, context) = self.context(background);
        Means { stored: app.stored(&object.name, &context), events: app.events(&context) }
    }

    fn context(&self, background: Rc<Work>) -> (Rc<App>, Context) {
        let app = self.open.borrow().as_ref().expect("objects have an isolate")();
        let context = app.context(Principal::Job("writer"), "writer".to_owned(), background);
        (app, context)
    }

    /// Carries out a command in the object.
    fn start(
        self: Rc<Self>,
        name: RepositoryName,
        call: Call,
    ) -> LocalBoxFuture<'static, Result<Result<Reply, Refused>, &'static str>> {
        Box::pin(async move {
            let object = self.object(&name);
            self.restarted(&object).await;
            let (writer, work) = (self.writer(&object), self.work(&object));
            let means = self.means(&object, work.clone());
            if self.without == Some(Guard::Last) {
                self.tell_early(&object, &call).await;
            }
            Ok(writer.carry_out(&means, &*work, call).await)
        })
    }
}

impl Objects {
    /// Sends the events of a push before it is made.
    async fn tell_early(&self, object: &Object, call: &Call) {
        let (Command::Push { entry, tags, .. }, Some(origin)) = (&call.command, &call.origin) else { return };
        let Some(events) = self.events(object) else { return };
        let time = self.calls.clock.now();
        let bridge =
            Bridge { repository: &object.name, origin, instance: events.instance, time, sequence: None };
        let manifest = Content { digest: &entry.digest, size: entry.size, media_type: &entry.media_type };
        let push = |tag| bridge.manifest(Action::Push, manifest, tag, Vec::new());
        let by_tag: Vec<Event> = tags.iter().map(|tag| push(Some(tag))).collect();
        let told = events.tell(if by_tag.is_empty() { vec![push(None)] } else { by_tag }).await;
        // The writer tells them too.
        drop(told);
    }

    /// Checks immutable tags before a push or the deletion of a tag has its turn, which leaves the writer nothing to check.
    async fn check_early(&self, name: &RepositoryName, command: &mut Command) -> Result<(), CallError> {
        let (immutable, tags, own) = match command {
            Command::Push { entry, tags, immutable, .. } => (immutable, tags.clone(), Some(&entry.digest)),
            Command::DeleteTag { tag, immutable, .. } => (immutable, vec![tag.clone()], None),
            _ => return Ok(()),
        };
        let immutable = std::mem::take(immutable);
        let (app, context) = self.context(self.work(&self.object(name)));
        let repository = app.repository(name, &context);
        for tag in tags.into_iter().filter(|tag| immutable.iter().any(|glob| glob.matches(tag.as_str()))) {
            let found = repository.revision(&Reference::Tag(tag.clone())).await;
            let found = found.map_err(|error| CallError::Unreachable(error.to_string()))?;
            if let Some(Revision { digest, .. }) = found.filter(|found| Some(&found.digest) != own) {
                return Err(Refused::Immutable { tag, digest }.into());
            }
        }
        Ok(())
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
        match (self.0.without, &mut call.command) {
            (Some(Guard::Blobs), Command::Push { blobs, .. }) => blobs.clear(),
            (
                Some(Guard::Immutable),
                Command::Push { immutable, .. }
                | Command::DeleteManifest { immutable, .. }
                | Command::DeleteTag { immutable, .. },
            ) => immutable.clear(),
            (Some(Guard::Seen), Command::DeleteTag { seen, .. }) => *seen = None,
            (Some(Guard::Unused), Command::DeleteManifest { unused_since, .. }) => *unused_since = None,
            (Some(Guard::Children), Command::Push { children, .. }) => children.clear(),
            _ => {}
        }
        Box::pin(async move {
            let calls = &self.0.calls;
            if self.0.without == Some(Guard::Turn) {
                self.0.check_early(repository, &mut call.command).await?;
            }
            let mut attempts = Attempts::within(Rc::new(calls.clock.clone()), LONG_PATIENCE);
            let mut is_repeated = false;
            loop {
                let (objects, name, call) = (self.0.clone(), repository.clone(), call.clone());
                let start = move || objects.start(name, call);
                match calls.clone().call_object(group(repository), start, || FAILED).await {
                    Err(_) if attempts.next().await => is_repeated = true,
                    Err(message) => return Err(CallError::Unreachable(message.to_owned())),
                    Ok(reply) => {
                        if is_repeated && reply == Ok(Reply::Absent) {
                            self.0.unclear.borrow_mut().insert(calls.executor.current().1);
                        }
                        return CallError::from_reply(reply, is_repeated);
                    }
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
    without: Option<Guard>,
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
        let forgets_names = self.without == Some(Guard::Name);
        let load = move || {
            let mut records = memory.load().now_or_never().expect("memory answers at once")?;
            let origins = records.iter_mut().filter_map(|(_, record)| record.origin.as_mut());
            origins.filter(|_| forgets_names).for_each(|origin| origin.change = Uuid::new_v4());
            Ok(records)
        };
        Box::pin(self.calls.make_fenced("load", self.name.clone(), false, load, FAILED.to_owned()))
    }

    fn write(&self, rows: Rows, alarm: Option<Timestamp>) -> LocalBoxFuture<'_, Result<(), String>> {
        let memory = self.memory.clone();
        let mut rows = if self.without == Some(Guard::Journal) { Rows::new() } else { rows };
        if self.without == Some(Guard::Origin) {
            rows.iter_mut().filter_map(|(_, record)| record.as_mut()).for_each(|record| record.origin = None);
        }
        let write = move || memory.write(rows, alarm).now_or_never().expect("memory answers at once");
        Box::pin(self.calls.make_fenced("journal", self.name.clone(), true, write, FAILED.to_owned()))
    }

    fn ledger(&self) -> &dyn Ledger {
        self.memory.ledger()
    }
}
