//! The simulation of one seed: isolates and clients over one bucket, and the scheduler that picks what happens next.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use futures_util::future::LocalBoxFuture;
use pierhead::{
    api::Handler,
    app::{App, Platform},
    auth::Principal,
    config::Config,
    middleware,
    platform::{Body, ByteRange, EdgeCache, Sink, memory::MemoryBuffers},
    storage::Store,
    uploads::memory::MemorySessions,
};

use crate::{
    calls::{Call, Calls, Note},
    clients::{Focus, Kind, Operation, Read},
    clock::VirtualClock,
    coverage::{Coverage, Fault},
    executor::{Executor, Group},
    inspect,
    model::{Model, Outcome, Register, Violation, Wrong, violation},
    objects::{Client, Objects, Work},
    random::Random,
    setup::{Guard, OUTAGE, Setup},
    store::{Bucket, Simulated},
    universe::{BLOBS, MANIFESTS, TAGS, UNIVERSE},
};

/// The number of isolates.
const ISOLATES: usize = 2;

/// Limit of steps until what is waited for must have happened.
const PATIENCE: u64 = 20_000;

/// The client that fills the repositories, and empties them in the end.
const HARNESS: usize = usize::MAX;

/// An edge cache that keeps nothing.
struct NoCache;

impl EdgeCache for NoCache {
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a pierhead::oci::Digest,
        _: u64,
        _: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(async { None })
    }

    fn put<'a>(
        &'a self,
        _: &'a str,
        _: &'a pierhead::oci::Digest,
        _: u64,
        _: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(async { Err("this cache keeps nothing".to_owned()) })
    }
}

struct NoLog;

impl Sink for NoLog {
    fn line(&self, _: serde_json::Value) {}
}

struct Isolate {
    app: Rc<App>,
    handler: Rc<dyn Handler>,
}

struct InFlight {
    operation: Operation,
    client: usize,
    isolate: usize,
}

/// What a run found.
pub struct Report {
    pub steps: u64,
    pub coverage: Coverage,
    pub result: Result<(), Violation>,
    /// The last steps, if asked for.
    pub trace: Vec<String>,
}

/// The simulation of one seed.
pub struct World {
    setup: Setup,
    random: Random,
    clock: VirtualClock,
    executor: Rc<Executor>,
    calls: Rc<Calls>,
    bucket: Rc<Bucket>,
    objects: Rc<Objects>,
    isolates: Vec<Isolate>,
    model: Model,
    in_flight: BTreeMap<u64, InFlight>,
    /// Answers that arrived in the last step.
    answers: Rc<RefCell<Vec<(u64, Outcome)>>>,
    /// The operations that each client has still to send.
    queues: Vec<Vec<Operation>>,
    next_operation: u64,
    /// How fast the calls of an operation go, compared with those of others.
    speeds: BTreeMap<u64, u32>,
    /// Pushes of blobs with a write of the link that may land late.
    late_links: BTreeSet<u64>,
    /// Keys whose writes fail, until when.
    outages: BTreeMap<String, u64>,
    /// The guard that is missing.
    without: Option<Guard>,
    /// Nothing goes wrong.
    calm: bool,
    /// The last answer to the harness's own requests.
    asked: Option<Outcome>,
    steps: u64,
    coverage: Coverage,
    trace: Option<Vec<String>>,
}

impl World {
    /// Runs a seed, perhaps without one of the registry's guards.
    pub fn run(seed: u64, setup: Setup, without: Option<Guard>, with_trace: bool) -> Report {
        let mut world = Self::new(seed, setup, without, with_trace);
        let result = world.all_rounds();
        Report {
            steps: world.steps,
            coverage: world.coverage,
            result,
            trace: world.trace.unwrap_or_default(),
        }
    }

    fn new(seed: u64, setup: Setup, without: Option<Guard>, with_trace: bool) -> Self {
        let (clock, executor) = (VirtualClock::default(), Rc::new(Executor::default()));
        let calls = Rc::new(Calls::new(executor.clone(), clock.clone()));
        let mut world = Self {
            queues: vec![Vec::new(); setup.clients],
            setup,
            random: Random::new(seed),
            clock,
            executor,
            calls: calls.clone(),
            bucket: Rc::default(),
            objects: Objects::new(calls.clone(), without),
            without,
            isolates: Vec::new(),
            model: Model::new(),
            in_flight: BTreeMap::new(),
            answers: Rc::default(),
            next_operation: 1,
            speeds: BTreeMap::new(),
            late_links: BTreeSet::new(),
            outages: BTreeMap::new(),
            calm: true,
            asked: None,
            steps: 0,
            coverage: Coverage::default(),
            trace: with_trace.then(Vec::new),
        };
        world.isolates = (0..ISOLATES).map(|_| world.isolate()).collect();
        let app = world.isolate().app;
        world.objects.run_in(Rc::new(move || app.clone()));
        world
    }

    /// A new isolate.
    fn isolate(&self) -> Isolate {
        let config = Config::from_vars(|name| (name == "ANONYMOUS").then(|| "push".to_owned())).unwrap();
        let is_settled = self.without == Some(Guard::Rest);
        let store =
            Store::new(Simulated { bucket: self.bucket.clone(), calls: self.calls.clone(), is_settled });
        let platform = Platform {
            sessions: Rc::new(MemorySessions::new(self.clock.clone(), store.clone())),
            writers: Rc::new(Client(self.objects.clone())),
            store,
            kv: None,
            buffers: Rc::new(MemoryBuffers { part_size: 1024 }),
            edge_cache: Rc::new(NoCache),
            clock: Rc::new(self.clock.clone()),
            sink: Rc::new(NoLog),
            salt: [0; 16],
        };
        let app = Rc::new(App::new(config, platform));
        Isolate { handler: middleware::stack(&app), app }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        let (step, time) = (self.steps, self.clock.seconds());
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{step:>5} {time:>4}s {}", line()));
        }
    }

    fn all_rounds(&mut self) -> Result<(), Violation> {
        self.prepare()?;
        for _ in 0..self.setup.rounds {
            self.plan_round();
            self.calm = false;
            let is_busy = |world: &Self| {
                world.queues.iter().any(|queue| !queue.is_empty()) || !world.in_flight.is_empty()
            };
            self.step_while(is_busy)?;
            self.rest()?;
        }
        self.tear_down()
    }

    /// Fills the repositories, some of them by halves.
    fn prepare(&mut self) -> Result<(), Violation> {
        let Focus { repositories, tags, manifests, .. } = self.setup.focus;
        let mut plan = Vec::new();
        for repository in 0..repositories {
            for blob in (0..BLOBS).filter(|_| self.random.chance(850)) {
                plan.push(Operation { blob, ..Operation::new(Kind::PushBlob, repository) });
            }
            for manifest in 0..manifests {
                if !self.random.chance(600) {
                    continue;
                }
                let tags = (0..tags).filter(|_| self.random.chance(400)).collect();
                plan.push(Operation { manifest, tags, ..Operation::new(Kind::PushWithTags, repository) });
            }
        }
        for operation in plan {
            self.ask(operation)?;
        }
        self.rest()
    }

    fn plan_round(&mut self) {
        let weights: Vec<u32> = self.setup.mix.iter().map(|(_, weight)| *weight).collect();
        for _ in 0..self.setup.operations {
            let Some(kind) = self.random.weighted(&weights) else { return };
            let operation = Operation::choose(self.setup.mix[kind].0, self.setup.focus, &mut self.random);
            let client = self.random.below(self.queues.len());
            self.queues[client].push(operation);
        }
    }

    /// Sends a request while nothing goes wrong, and waits for its answer.
    fn ask(&mut self, operation: Operation) -> Result<Outcome, Violation> {
        self.calm = true;
        self.asked = None;
        self.begin(operation, HARNESS);
        self.step_while(|world| world.asked.is_none())?;
        Ok(self.asked.take().unwrap_or(Outcome::Lost))
    }

    /// Lets the registry come to rest: every call lands or is lost, every task ends.
    fn rest(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.outages.clear();
        self.step_while(Self::is_moving)?;
        if self.objects.intents() > 0 {
            return violation(
                Wrong::Stuck,
                format!("{} intents are left, and no alarm", self.objects.intents()),
            );
        }
        // What an object has in memory only, it may do whenever it is called.
        for name in self.objects.names() {
            self.objects.ring(&name);
        }
        self.step_while(Self::is_moving)?;
        for register in Register::all() {
            let found = inspect::value(&self.bucket, register);
            self.model.check(register, found)?;
            self.model.settle(register, found);
            inspect::structure(&self.bucket, register)?;
        }
        (0..UNIVERSE.repositories.len())
            .try_for_each(|repository| inspect::repository(&self.bucket, repository))
    }

    fn step_while(&mut self, goes_on: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let started = self.steps;
        while goes_on(self) {
            self.step()?;
            if self.steps - started > PATIENCE {
                let waiting: Vec<u64> = self.in_flight.keys().copied().collect();
                return violation(
                    Wrong::Stuck,
                    format!("{} tasks, requests {waiting:?}", self.executor.len()),
                );
            }
        }
        Ok(())
    }

    fn is_moving(&self) -> bool {
        self.executor.len() > 0 || !self.calls.pending.borrow().is_empty() || self.next_alarm().is_some()
    }

    fn next_alarm(&self) -> Option<u64> {
        self.objects.next_alarm().filter(|_| self.without != Some(Guard::Alarm))
    }

    /// One step: something happens, then every task that it woke runs until it waits again.
    fn step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        if !self.calm && self.random.chance(self.setup.weather.crash) {
            self.crash();
        } else {
            self.happen();
        }
        if !self.executor.run() {
            return violation(Wrong::Stuck, "tasks wake each other for ever");
        }
        for (id, outcome) in self.answers.take() {
            self.end(id, outcome)?;
        }
        Ok(())
    }

    fn happen(&mut self) {
        // Landed, and nobody waits: it is over.
        self.calls.pending.borrow_mut().retain(|call| call.is_awaited() || !call.has_landed());
        let mut weights: Vec<u32> = (self.calls.pending.borrow().iter())
            .map(|call| match call.is_awaited() {
                true => self.speeds.get(&call.note.served).copied().unwrap_or(64),
                false if call.is_provoked => 32,
                false => 1,
            })
            .collect();
        let calls = weights.len();
        let busy = |client: &usize| self.in_flight.values().any(|other| other.client == *client);
        let idle: Vec<usize> = (0..self.queues.len())
            .filter(|client| !self.queues[*client].is_empty() && !busy(client))
            .collect();
        weights.extend(idle.iter().map(|_| 32));
        let due = if self.without == Some(Guard::Alarm) { Vec::new() } else { self.objects.due() };
        weights.extend(due.iter().map(|_| 16));
        // Time passes, mostly when there is nothing else to do.
        weights.push(if weights.iter().all(|weight| *weight == 1) { 8 } else { 1 });
        match self.random.weighted(&weights) {
            Some(n) if n < calls => self.carry_on(n, false),
            Some(n) if n < calls + idle.len() => {
                let client = idle[n - calls];
                let operation = self.queues[client].remove(0);
                self.begin(operation, client);
            }
            Some(n) if n < calls + idle.len() + due.len() => {
                let name = &due[n - calls - idle.len()];
                self.note(|| format!("the alarm of {name} rings"));
                self.objects.ring(name);
            }
            _ => self.pass_time(),
        }
    }

    /// Moves the clock to the next timer, or by a few seconds, but not beyond the end of a call.
    fn pass_time(&mut self) {
        let now = self.clock.seconds();
        let timer =
            self.clock.next_timer().into_iter().chain(self.next_alarm().filter(|alarm| *alarm > now)).min();
        let target = timer.unwrap_or(now + 1 + self.random.below(3) as u64).max(now);
        let due = (self.calls.pending.borrow().iter().enumerate())
            .map(|(n, call)| (call.deadline, n))
            .min()
            .filter(|(deadline, _)| *deadline <= target);
        match due {
            Some((deadline, n)) => {
                self.clock.advance_to(deadline);
                self.carry_on(n, true);
            }
            None => self.clock.advance_to(target),
        }
        self.note(|| "time passes".to_owned());
    }

    /// Something happens to a call. At its deadline, it ends.
    fn carry_on(&mut self, n: usize, at_deadline: bool) {
        let mut call = self.calls.pending.borrow_mut().swap_remove(n);
        if !call.is_awaited() {
            let lands = self.random.chance(if at_deadline { 500 } else { 900 });
            if lands {
                self.land(&mut call);
            }
            self.note(|| {
                format!("{} late: {}", if lands { "lands" } else { "never lands" }, text(&call.note))
            });
            return;
        }
        if call.has_landed() {
            self.note(|| format!("answers {}", text(&call.note)));
            call.answer();
            return;
        }
        if let Some(fault) = self.fault(&call) {
            self.note(|| format!("{fault:?} at {}", text(&call.note)));
            match fault {
                Fault::Lost => self.land(&mut call),
                Fault::Late if !at_deadline => {
                    if point(&call.note) == "put blob" {
                        self.late_links.insert(call.note.served);
                    }
                    call.fail();
                    self.calls.pending.borrow_mut().push(call);
                    return;
                }
                Fault::Throttled => return call.refuse(),
                _ => {}
            }
            call.fail();
            return;
        }
        self.land(&mut call);
        if !self.calm && !at_deadline && self.random.chance(250) {
            self.note(|| format!("lands {}", text(&call.note)));
            self.calls.pending.borrow_mut().push(call);
        } else {
            self.note(|| format!("does {}", text(&call.note)));
            call.answer();
        }
    }

    /// A call takes effect. Late ones of other requests on the same key like to follow: there they do most harm.
    fn land(&mut self, call: &mut Call) {
        call.land();
        for other in self.calls.pending.borrow_mut().iter_mut().filter(|_| call.note.writes) {
            other.is_provoked |= other.note.path == call.note.path && other.note.served != call.note.served;
        }
    }

    /// Whether and how a call goes wrong.
    fn fault(&mut self, call: &Call) -> Option<Fault> {
        if self.calm {
            return None;
        }
        let now = self.clock.seconds();
        let is_out = call.note.writes && self.outages.get(&call.note.path).is_some_and(|until| *until > now);
        if !is_out && !self.random.chance(self.setup.weather.fault) {
            return None;
        }
        let fault = match call.note.writes {
            _ if is_out => Fault::Error,
            // Nothing reaches an object later, or its storage.
            true if call.note.is_fenced || call.note.operation == "call" => {
                *self.random.pick(&[Fault::Error, Fault::Lost])
            }
            true if self.random.chance(700) => match self.random.chance(self.setup.weather.late) {
                true => Fault::Late,
                false => Fault::Lost,
            },
            _ => *self.random.pick(&[Fault::Error, Fault::Throttled]),
        };
        if !is_out && call.note.writes && self.random.chance(self.setup.weather.outage) {
            self.outages.insert(call.note.path.clone(), now + OUTAGE);
        }
        self.coverage.fault(fault, &self.kinds_in_flight());
        self.coverage.point(fault, point(&call.note));
        Some(fault)
    }

    fn kinds_in_flight(&self) -> Vec<Kind> {
        self.in_flight.values().map(|other| other.operation.kind).collect()
    }

    /// An isolate or an object ends where it stands. Its calls may still land.
    fn crash(&mut self) {
        let groups = self.executor.groups();
        if groups.is_empty() {
            return self.happen();
        }
        let group = self.random.pick(&groups).clone();
        self.note(|| format!("{group:?} crashes"));
        let fault = match group {
            Group::Isolate(_) => Fault::Crash,
            Group::Writer(_) => Fault::WriterCrash,
        };
        let kinds = self.kinds_in_flight();
        self.coverage.fault(fault, &kinds);
        for call in self.calls.pending.borrow().iter().filter(|call| call.note.caller == group) {
            self.coverage.point(fault, point(&call.note));
        }
        self.executor.crash(&group);
        let random = &mut self.random;
        self.calls.pending.borrow_mut().retain_mut(|call| {
            let ends = call.note.is_fenced && call.note.caller == group;
            if ends && random.chance(500) {
                call.land();
            }
            !ends
        });
        match group {
            Group::Writer(name) => self.objects.crash(&name),
            Group::Isolate(n) => {
                self.isolates[n] = self.isolate();
                let lost = self.in_flight.iter().filter(|(_, other)| other.isolate == n);
                self.answers.borrow_mut().extend(lost.map(|(id, _)| (*id, Outcome::Lost)));
            }
        }
    }

    /// A client sends a request.
    fn begin(&mut self, operation: Operation, client: usize) {
        let id = self.next_operation;
        self.next_operation += 1;
        let n = self.random.below(ISOLATES);
        self.note(|| {
            let who = if client == HARNESS { "the harness".to_owned() } else { format!("client {client}") };
            let (method, target) = operation.line();
            format!("{who} sends {id}: {method} {} to isolate {n}", short(&target))
        });
        self.coverage.begin(operation.kind, self.in_flight.values().map(|other| other.operation.kind));
        self.model.begin(id, &operation);
        self.speeds.insert(id, 4 << (2 * self.random.below(4)));
        let group = Group::Isolate(n);
        let work = Work { calls: self.calls.clone(), group: group.clone(), operation: id };
        let Isolate { app, handler } = &self.isolates[n];
        let context = app.context(Principal::Anonymous, id.to_string(), Rc::new(work));
        let (handler, request, answers) = (handler.clone(), operation.request(), self.answers.clone());
        self.in_flight.insert(id, InFlight { operation, client, isolate: n });
        let task = async move {
            let (parts, body) = handler.handle(request, context).await.into_parts();
            let body = body.read(usize::MAX).await.unwrap_or_default().to_vec();
            let digest = parts.headers.get("docker-content-digest");
            let digest = digest.and_then(|digest| digest.to_str().ok()).unwrap_or_default().to_owned();
            let outcome = Outcome::Answer { status: parts.status.as_u16(), digest, body };
            answers.borrow_mut().push((id, outcome));
        };
        self.executor.spawn(group, id, Box::pin(task));
    }

    /// A client has its answer, or never will.
    fn end(&mut self, id: u64, outcome: Outcome) -> Result<(), Violation> {
        let Some(InFlight { operation, client, .. }) = self.in_flight.remove(&id) else { return Ok(()) };
        self.speeds.remove(&id);
        self.note(|| match &outcome {
            Outcome::Answer { status, digest, body } => {
                let body =
                    if operation.kind == Kind::Read { String::from_utf8_lossy(body) } else { "".into() };
                format!("{id} is answered: {status} {} {body}", short(digest))
            }
            Outcome::Lost => format!("{id} is never answered"),
        });
        let (in_flight, bucket) = (&self.in_flight, &self.bucket);
        let is_ahead = |id: u64| {
            in_flight.get(&id).is_some_and(|InFlight { operation, .. }| {
                let revision = Register::Manifest(operation.repository, operation.manifest);
                operation.pushes_manifest() && inspect::value(bucket, revision).is_none()
            })
        };
        let is_late = self.late_links.remove(&id);
        self.model.end(id, &operation, &outcome, is_late, is_ahead)?;
        // While nothing else goes on, it is enough to look when all of it has come to rest.
        for register in Register::all().filter(|_| client != HARNESS) {
            self.model.check(register, inspect::value(&self.bucket, register))?;
            if self.model.is_settled(register) {
                inspect::structure(&self.bucket, register)?;
            }
        }
        let failed = outcome.status().is_none_or(|status| status >= 500);
        if client == HARNESS {
            self.asked = Some(outcome);
        } else if failed && self.random.chance(500) {
            self.queues[client].insert(0, operation);
        }
        Ok(())
    }

    /// Reads and removes whatever is listed, through the API, while nothing goes wrong.
    fn tear_down(&mut self) -> Result<(), Violation> {
        let tags_first = self.random.chance(500);
        for repository in 0..self.setup.focus.repositories {
            let of = |kind| Operation::new(kind, repository);
            let read = |read| Operation { read, ..of(Kind::Read) };
            let is_there = |world: &Self, register| inspect::value(&world.bucket, register).is_some();
            let listed = self.listed(read(Read::Tags))?;
            for tag in (0..TAGS).filter(|tag| listed.contains(&format!("\"{}\"", UNIVERSE.tags[*tag]))) {
                self.expect(Operation { tags: vec![tag], ..read(Read::Tag) }, 200)?;
                if tags_first {
                    self.expect(Operation { tags: vec![tag], ..of(Kind::DeleteTag) }, 202)?;
                }
            }
            let listed = self.listed(read(Read::Referrers))?;
            for manifest in 0..MANIFESTS {
                let is_listed = listed.contains(UNIVERSE.manifests[manifest].digest.hex());
                if is_listed || is_there(self, Register::Manifest(repository, manifest)) {
                    self.expect(Operation { manifest, ..read(Read::Manifest) }, 200)?;
                    self.expect(Operation { manifest, ..of(Kind::DeleteManifest) }, 202)?;
                }
            }
            for blob in 0..BLOBS {
                if is_there(self, Register::Blob(repository, blob)) {
                    self.expect(Operation { blob, ..read(Read::Blob) }, 200)?;
                    self.expect(Operation { blob, ..of(Kind::DeleteBlob) }, 202)?;
                }
            }
            for list in [Read::Tags, Read::Referrers] {
                let listed = self.listed(read(list))?;
                if !listed.contains("[]") && !listed.contains("errors") {
                    return violation(Wrong::NotRemovable, listed);
                }
            }
        }
        let listed = self.listed(Operation { read: Read::Catalog, ..Operation::new(Kind::Read, 0) })?;
        for (repository, name) in UNIVERSE.repositories.iter().enumerate() {
            if listed.contains(name.as_str()) {
                self.expect(Operation { read: Read::Tags, ..Operation::new(Kind::Read, repository) }, 200)?;
            }
        }
        self.rest()
    }

    fn expect(&mut self, operation: Operation, status: u16) -> Result<(), Violation> {
        let line = operation.line();
        match self.ask(operation)?.status() {
            Some(found) if found == status => Ok(()),
            found => violation(Wrong::NotRemovable, format!("{line:?}: {found:?} in place of {status}")),
        }
    }

    /// The body of a list.
    fn listed(&mut self, operation: Operation) -> Result<String, Violation> {
        Ok(match self.ask(operation)? {
            Outcome::Answer { body, .. } => String::from_utf8_lossy(&body).into_owned(),
            Outcome::Lost => String::new(),
        })
    }
}

/// A text with short names for digests.
fn short(text: &str) -> String {
    let manifests = UNIVERSE.manifests.iter().map(|manifest| &manifest.digest).enumerate();
    let manifests = manifests.map(|(n, digest)| (format!("M{n}"), digest));
    let blobs = UNIVERSE.blobs.iter().enumerate().map(|(n, (digest, _))| (format!("B{n}"), digest));
    manifests.chain(blobs).fold(text.to_owned(), |text, (name, digest)| text.replace(digest.hex(), &name))
}

fn text(note: &Note) -> String {
    format!("{} {} for {}", note.operation, short(&note.path), note.served)
}

/// A call as a kind of call: its operation, and its key without names.
fn point(note: &Note) -> String {
    let path = &note.path;
    let kinds = [
        ("/current/link", "tag"),
        ("/index/", "tag's index"),
        ("/tags", "tags"),
        ("/revisions/", "manifest"),
        ("/_layers/", "blob"),
        ("/data", "content"),
        ("pierhead/links/", "reverse link"),
        ("pierhead/referrers/", "referrer"),
        ("pierhead/repositories", "catalog"),
    ];
    let kind = kinds.iter().find(|(part, _)| path.contains(part)).map_or("other", |(_, kind)| kind);
    format!("{} {kind}", note.operation)
}
