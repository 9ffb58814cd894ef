//! The simulation of one seed: isolates and clients over one bucket.

mod collecting;
mod harness;
mod schedule;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use pierhead::{
    api::Handler,
    app::{App, Platform},
    auth::Principal,
    config::Config,
    events::{Command, Lanes, Reply},
    middleware,
    oci::Tag,
    platform::{
        Body, ByteRange, DocumentClient, EdgeCache, Sink, Verifier, memory::MemoryBuffers,
        verifier::PublicKey,
    },
    storage::Store,
    uploads::memory::MemorySessions,
};

use crate::{
    calls::Calls,
    clients::{Kind, Operation},
    clock::VirtualClock,
    collection::RUNNERS,
    coverage::{self, Coverage},
    executor::{Executor, Group},
    images::Image,
    inspect,
    missing::Missing,
    model::{Model, Outcome, Register, Value, Violation, Wrong, violation},
    objects::{Client, Objects, Work},
    promises::{Moment, Promises},
    queue::SimulatedQueue,
    random::Random,
    retained::Retained,
    retention::OF_INDEX,
    sessions::Sessions,
    setup::{Guard, Setup},
    store::{Bucket, Simulated},
    telling::{Telling, add_outbox},
    trace::short,
    universe::UNIVERSE,
};

/// The number of isolates of clients. Each collection has another one.
pub const ISOLATES: usize = 2;

/// Limit of steps until what is waited for must have happened.
const PATIENCE: u64 = 20_000;

/// The client that fills the repositories, and empties them in the end.
const HARNESS: usize = usize::MAX;

/// An endpoint that wants all events.
const ENDPOINTS: &str = r#"[{"name": "all", "url": "https://all.example.com"}]"#;

/// Nothing is delivered.
struct NoLanes;

impl Lanes for NoLanes {
    fn call<'a>(&'a self, _: &'a str, _: Command) -> LocalBoxFuture<'a, Result<Reply, String>> {
        Box::pin(async { Err("nothing is delivered".to_owned()) })
    }
}

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
    /// Whether its manifest was there at any moment since it was sent.
    has_been_there: bool,
    /// When it was sent.
    started: Moment,
    /// How many of its requests are answered.
    answered: usize,
    /// Whether it belongs to the client's first image.
    is_of_image: bool,
}

/// An operation, its outcome, and where it goes on: a location, or a cursor.
type Answer = (u64, Outcome, String);

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
    sessions: Sessions,
    queue: SimulatedQueue,
    telling: Telling,
    /// The immutable tags that have been there, with their manifests.
    fixed: BTreeMap<Register, Value>,
    promises: Promises,
    retained: Retained,
    /// The changes of the bucket that were looked at.
    seen: u64,
    /// The images that each client has still to push.
    images: Vec<Vec<Image>>,
    /// How far each collection has come, and each run of the retain job.
    cursors: [Option<String>; RUNNERS],
    retain_cursors: [Option<String>; RUNNERS],
    /// Operations of several requests, between two of them, with the location of the next one.
    ready: Vec<(u64, String)>,
    /// Nobody begins anything until a long time has passed.
    is_leaping: bool,
    in_flight: BTreeMap<u64, InFlight>,
    /// Answers that arrived in the last step.
    answers: Rc<RefCell<Vec<Answer>>>,
    /// The operations that each client has still to send.
    queues: Vec<Vec<Operation>>,
    next_operation: u64,
    /// How fast the calls of an operation go, compared with those of others.
    speeds: BTreeMap<u64, u32>,
    /// Pushes of blobs with a write of the link that may land late.
    late_links: BTreeSet<u64>,
    /// Keys whose writes fail, until when.
    outages: BTreeMap<String, u64>,
    /// Blobs whose last push has failed, or was never answered.
    unfinished: BTreeSet<Register>,
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

/// There are no other servers in this world.
struct Alone;

impl DocumentClient for Alone {
    fn get<'a>(&'a self, _: &'a str, _: usize, _: u64) -> LocalBoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async { Err("there is no other server".to_owned()) })
    }
}

impl Verifier for Alone {
    fn verify<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a [u8],
        _: &'a [u8],
    ) -> LocalBoxFuture<'a, Result<bool, String>> {
        Box::pin(async { Ok(false) })
    }
}

impl World {
    /// Runs a seed, perhaps without one of the registry's guards.
    pub fn run(seed: u64, setup: Setup, without: Option<Guard>, with_trace: bool) -> Report {
        let mut world = Self::new(seed, setup, without, with_trace);
        let result = world.all_rounds();
        if world.bucket.met.get() > 0 {
            world.coverage.count(coverage::MET_SWEEP);
        }
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
        let bucket = Rc::new(Bucket::default());
        let (driver_calls, driver_bucket) = (calls.clone(), bucket.clone());
        let driver =
            Simulated { bucket: driver_bucket, calls: driver_calls, without, missing: Missing(without) };
        let store = Store::new(driver).retrying(Rc::new(clock.clone()));
        let sessions = Rc::new(MemorySessions::new(clock.clone(), store));
        let mut world = Self {
            queues: vec![Vec::new(); setup.clients + RUNNERS],
            model: Model::new(setup.immutable, setup.collection.is_some(), setup.retention.is_some()),
            retained: Retained::new(setup.retention),
            promises: Promises::new(setup.collection.as_ref().map_or(0, |collection| collection.grace)),
            seen: 0,
            images: vec![Vec::new(); setup.clients],
            cursors: Default::default(),
            retain_cursors: Default::default(),
            ready: Vec::new(),
            is_leaping: false,
            sessions: Sessions { inner: sessions, calls: calls.clone() },
            fixed: BTreeMap::new(),
            setup,
            random: Random::new(seed),
            clock,
            executor,
            calls: calls.clone(),
            bucket,
            objects: Objects::new(calls.clone(), without),
            without,
            isolates: Vec::new(),
            queue: SimulatedQueue::new(calls, without),
            telling: Telling::default(),
            in_flight: BTreeMap::new(),
            answers: Rc::default(),
            next_operation: 1,
            speeds: BTreeMap::new(),
            late_links: BTreeSet::new(),
            outages: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            calm: true,
            asked: None,
            steps: 0,
            coverage: Coverage::default(),
            trace: with_trace.then(Vec::new),
        };
        let runners = if world.setup.collection.is_some() { RUNNERS } else { 0 };
        world.isolates = (0..ISOLATES + runners).map(|_| world.isolate()).collect();
        let app = world.isolate().app;
        world.objects.run_in(Rc::new(move || app.clone()));
        world
    }

    /// A new isolate.
    fn isolate(&self) -> Isolate {
        let tags = &UNIVERSE.tags[..self.setup.immutable];
        let policy = match tags {
            [] => String::new(),
            tags => format!(
                "[[tags]]\nrepositories = [{:?}]\nimmutable = {:?}",
                UNIVERSE.repositories[0].as_str(),
                tags.iter().map(Tag::as_str).collect::<Vec<_>>()
            ),
        };
        let variable = |name: &str| match name {
            "POLICY" => Some(policy.clone()),
            "ANONYMOUS" => Some("push".to_owned()),
            "RETENTION" => self.setup.retention.map(|retention| retention.rule.document()),
            "SIGNING_SECRET" => Some("generated".to_owned()),
            "EVENT_ENDPOINTS" => Some(ENDPOINTS.to_owned()),
            _ => None,
        };
        let config = Config::from_vars(variable).unwrap();
        let (bucket, calls) = (self.bucket.clone(), self.calls.clone());
        let missing = Missing(self.without);
        let store = Store::new(Simulated { bucket, calls, without: self.without, missing });
        let part_size = self.setup.collection.as_ref().map_or(1024, |collection| collection.part_size);
        let platform = Platform {
            sessions: Rc::new(self.sessions.clone()),
            writers: Rc::new(Client(self.objects.clone())),
            lanes: Rc::new(NoLanes),
            store,
            kv: None,
            queue: Some(Rc::new(self.queue.clone())),
            buffers: Rc::new(MemoryBuffers { part_size }),
            edge_cache: Rc::new(NoCache),
            clock: Rc::new(self.clock.clone()),
            sink: Rc::new(NoLog),
            operation: Default::default(),
            documents: Rc::new(Alone),
            verifier: Rc::new(Alone),
            logins: None,
            requests: None,
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
                let has_more = world.queues.iter().any(|queue| !queue.is_empty())
                    || world.images.iter().any(|images| !images.is_empty());
                has_more || !world.in_flight.is_empty()
            };
            self.step_while(is_busy)?;
            self.rest()?;
        }
        self.retain_all()?;
        self.collect_all()?;
        self.tear_down()?;
        self.collect_all()
    }
    fn plan_round(&mut self) {
        let weights: Vec<u32> = self.setup.mix.iter().map(|(_, weight)| *weight).collect();
        for _ in 0..self.setup.operations {
            let Some(kind) = self.random.weighted(&weights) else { return };
            let mut operation = Operation::choose(self.setup.mix[kind].0, self.setup.focus, &mut self.random);
            if self.setup.collection.is_some() {
                operation.way = self.random.below(6);
            }
            let of_index = self.setup.retention.map_or(0, |retention| retention.of_index);
            if of_index > 0 && self.random.chance(of_index) {
                operation.manifest = *self.random.pick(&OF_INDEX);
            }
            let client = self.random.below(self.setup.clients);
            self.queues[client].push(operation);
        }
        self.plan_collection();
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
            self.look_at_structure(register)?;
        }
        self.look_at_events()?;
        self.promises.rest(self.moment());
        (0..UNIVERSE.repositories.len())
            .try_for_each(|repository| inspect::repository(&self.bucket, repository))
    }

    /// An upload writes a link and its reverse link at the same time: if it fails, one of them may be there.
    fn look_at_structure(&self, register: Register) -> Result<(), Violation> {
        match inspect::structure(&self.bucket, register) {
            Err(Violation { wrong: Wrong::ReverseLinkMissing, .. })
                if self.unfinished.contains(&register) =>
            {
                Ok(())
            }
            structure => structure,
        }
    }

    fn look_at_events(&mut self) -> Result<(), Violation> {
        let mut told = self.queue.consume();
        if self.setup.forgets {
            told.clear();
        }
        add_outbox(&mut told, &self.bucket);
        self.telling.rest(&told, &self.bucket, &mut self.coverage)
    }

    fn step_while(&mut self, goes_on: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let started = self.steps;
        while goes_on(self) {
            self.step()?;
            self.look_at_pushes();
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

    /// An immutable tag points to its first manifest for ever: whoever has pulled it once gets the same again.
    fn look_at_immutable_tags(&mut self) -> Result<(), Violation> {
        for tag in self.model.immutable() {
            let found = inspect::value(&self.bucket, tag);
            if let Some(fixed) = self.fixed.get(&tag).filter(|fixed| **fixed != found) {
                return violation(Wrong::ImmutableChanged, format!("{tag:?} was {fixed:?}, is {found:?}"));
            }
            if found.is_some() {
                self.fixed.insert(tag, found);
            }
        }
        Ok(())
    }

    /// Of the pushes to an immutable tag, those of its manifest are acknowledged, and no others.
    fn look_at_acknowledged(&self, operation: &Operation) -> Result<(), Violation> {
        let pushed = Some(operation.manifest as u8);
        let moved = operation.moved_tags().iter().map(|tag| Register::Tag(operation.repository, *tag));
        for tag in moved.filter(|tag| self.model.immutable().any(|other| other == *tag)) {
            let fixed = self.fixed.get(&tag).copied().flatten();
            if fixed != pushed {
                return violation(
                    Wrong::ImmutableChanged,
                    format!("{tag:?} was acknowledged as {pushed:?}, is {fixed:?}"),
                );
            }
        }
        Ok(())
    }

    /// From now on, no tag is immutable: a deployment with another policy.
    fn lift_immutability(&mut self) {
        self.setup.immutable = 0;
        self.model.lift();
        self.isolates = (0..self.isolates.len()).map(|_| self.isolate()).collect();
    }

    fn look_at_pushes(&mut self) {
        let bucket = &self.bucket;
        for push in self.in_flight.values_mut().filter(|push| push.operation.pushes_manifest()) {
            let revision = Register::Manifest(push.operation.repository, push.operation.manifest);
            push.has_been_there |= inspect::value(bucket, revision).is_some();
        }
    }

    fn is_moving(&self) -> bool {
        self.executor.len() > 0 || !self.calls.pending.borrow().is_empty() || self.next_alarm().is_some()
    }

    fn next_alarm(&self) -> Option<u64> {
        self.objects.next_alarm().filter(|_| self.without != Some(Guard::Alarm))
    }

    fn moment(&self) -> Moment {
        Moment { step: self.steps, seconds: self.clock.seconds() }
    }

    /// A client begins an operation.
    fn begin(&mut self, operation: Operation, client: usize) {
        self.begin_of(operation, client, false);
    }

    fn begin_of(&mut self, operation: Operation, client: usize, is_of_image: bool) {
        let is_job = operation.is_job();
        let id = self.next_operation;
        self.next_operation += 1;
        self.coverage.begin(operation.kind, self.in_flight.values().map(|other| other.operation.kind));
        self.model.begin(id, &operation);
        self.promises.begin(&operation);
        self.telling.begin(id, &operation);
        let (started, isolate) = (self.moment(), usize::MAX);
        let (has_been_there, answered) = (false, 0);
        let flight = InFlight { operation, client, isolate, has_been_there, started, answered, is_of_image };
        self.in_flight.insert(id, flight);
        self.send(id, "");
        let speed = 4 << (2 * self.random.below(4));
        let is_slow = is_job && self.setup.collects_slowly();
        self.speeds.insert(id, if is_slow { 4 } else { speed });
    }

    /// A client sends the next request of an operation, to the location that the last one was given.
    fn send(&mut self, id: u64, location: &str) {
        let Some(InFlight { operation, client, answered, .. }) = self.in_flight.get(&id) else { return };
        let (operation, client, answered) = (operation.clone(), *client, *answered);
        let n = match operation.is_job() {
            true => ISOLATES + self.runner_of(client),
            false => self.random.below(ISOLATES),
        };
        self.note(|| {
            let who = if client == HARNESS { "the harness".to_owned() } else { format!("client {client}") };
            let (method, target) = operation.line();
            let of = if answered > 0 { format!("request {answered} of ") } else { String::new() };
            format!("{who} sends {of}{id}: {method} {} to isolate {n}", short(&target))
        });
        if let Some(flight) = self.in_flight.get_mut(&id) {
            flight.isolate = n;
        }
        let (group, answers) = (Group::Isolate(n), self.answers.clone());
        if operation.is_job() {
            let step = match operation.kind {
                Kind::Retain => self.retain(id, self.runner_of(client)),
                _ => self.collect(id, self.runner_of(client), client == HARNESS),
            };
            let task = async move {
                let (outcome, next) = step.await;
                answers.borrow_mut().push((id, outcome, next));
            };
            return self.executor.spawn(group, id, Box::pin(task));
        }
        let work = Work { calls: self.calls.clone(), group: group.clone(), operation: id };
        let Isolate { app, handler } = &self.isolates[n];
        let context = app.context(Principal::Anonymous, id.to_string(), Rc::new(work));
        let (handler, request) = (handler.clone(), operation.request(answered, location));
        let task = async move {
            let (parts, body) = handler.handle(request, context).await.into_parts();
            let body = body.read(usize::MAX).await.unwrap_or_default().to_vec();
            let text = |name: &str| {
                let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let (digest, location) = (text("docker-content-digest"), text("location"));
            let outcome = Outcome::Answer { status: parts.status.as_u16(), digest, body };
            answers.borrow_mut().push((id, outcome, location));
        };
        self.executor.spawn(group, id, Box::pin(task));
    }

    /// An operation of several requests goes on when its client likes to.
    fn wait_for_next(&mut self, id: u64, outcome: &Outcome, location: &str) -> bool {
        let Some(flight) = self.in_flight.get_mut(&id) else { return false };
        let is_last = flight.answered + 1 == flight.operation.requests();
        if is_last || outcome.status() != Some(202) {
            return false;
        }
        flight.answered += 1;
        flight.isolate = usize::MAX;
        self.ready.push((id, location.to_owned()));
        true
    }

    /// A client has its answer, or never will.
    fn end(&mut self, id: u64, outcome: Outcome, next: &str) -> Result<(), Violation> {
        if self.wait_for_next(id, &outcome, next) {
            return Ok(());
        }
        let Some(InFlight { operation, client, started, is_of_image, .. }) = self.in_flight.remove(&id)
        else {
            return Ok(());
        };
        self.speeds.remove(&id);
        self.note(|| match &outcome {
            Outcome::Answer { status, digest, body } => {
                let body =
                    if operation.kind == Kind::Read { String::from_utf8_lossy(body) } else { "".into() };
                format!("{id} is answered: {status} {} {body}", short(digest))
            }
            Outcome::Lost => format!("{id} is never answered"),
        });
        let in_flight = &self.in_flight;
        let is_ahead = |id: u64| {
            let push = in_flight.get(&id).filter(|push| push.operation.pushes_manifest());
            push.is_some_and(|push| !push.has_been_there)
        };
        let is_late = self.late_links.remove(&id);
        let failed = outcome.status().is_none_or(|status| status >= 500);
        if operation.pushes_blob() {
            let blob = Register::Blob(operation.repository, operation.blob);
            if failed {
                self.unfinished.insert(blob);
            } else if outcome.status() == Some(201) {
                self.unfinished.remove(&blob);
            }
        }
        let mut is_acknowledged = false;
        match (outcome.status(), operation.kind) {
            (Some(403), Kind::DeleteTag) => self.coverage.count(coverage::REFUSED_TAG_DELETIONS),
            (Some(403), Kind::DeleteManifest) => self.coverage.count(coverage::REFUSED_DELETIONS),
            (Some(403), _) => self.coverage.count(coverage::REFUSED_PUSHES),
            (Some(400), _) => self.retained.refuse(&operation, started)?,
            (Some(201), _) => {
                self.look_at_acknowledged(&operation)?;
                is_acknowledged = true;
            }
            _ => {}
        }
        self.look_at_fairness(&operation, &outcome, started)?;
        self.promises.end(&operation, &outcome, started, self.moment());
        self.model.end(id, &operation, &outcome, is_late, is_ahead)?;
        self.telling.end(id, outcome.status(), self.objects.is_unclear(id))?;
        if is_acknowledged {
            self.retained.acknowledge(&operation, started, self.clock.seconds())?;
        }
        // While nothing else goes on, it is enough to look when all of it has come to rest.
        for register in Register::all().filter(|_| client != HARNESS) {
            self.model.check(register, inspect::value(&self.bucket, register))?;
            // Beside the job, a deletion may be under way.
            if self.model.is_settled(register) && self.setup.retention.is_none() {
                self.look_at_structure(register)?;
            }
        }
        if operation.kind == Kind::Retain {
            self.retained_step(self.runner_of(client), &outcome, next)?;
        }
        if operation.kind == Kind::Collect {
            self.collected(self.runner_of(client), &outcome, next)?;
        }
        if client == HARNESS {
            self.asked = Some(outcome);
        } else if is_of_image {
            self.carry_image_on(client, &operation, &outcome, started)?;
        } else if failed && self.random.chance(500) {
            self.queues[client].insert(0, operation);
        }
        Ok(())
    }
}
