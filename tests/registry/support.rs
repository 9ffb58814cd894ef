//! A registry over the memory driver, with parts of a few bytes, recorded storage calls and injected faults.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_executor::block_on;
use futures_util::future::{LocalBoxFuture, ready};
use http::{HeaderMap, Method, StatusCode};
use pierhead::{
    api::{Handler, Request, Response},
    app::{App, Platform},
    auth::Principal,
    blobs::{Blobs, Cache, Edge},
    config::Config,
    context::Context,
    events::delivery::memory::MemoryLanes,
    events::{Durable, Events, Outbox, Queue, memory::MemoryQueue},
    layout::Key,
    middleware,
    oci::{Algorithm, Digest},
    platform::{
        Background, Body, ByteRange, Clock, EdgeCache, Level, Limiter, Operation, RequestLog, Sink,
        memory::{ManualClock, MemoryBuffers, MemoryStream},
    },
    repository::{
        stored::Stored,
        writer::{
            Means,
            memory::{MemoryWriters, Open},
            order::{REMEMBER, SETTLE},
        },
    },
    storage::{
        Answer as Call, Capabilities, Copied, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageError, StorageErrorKind, Store, memory::Memory,
    },
    uploads::memory::MemorySessions,
};
use uuid::Uuid;

use crate::{
    issuer::{Ring, Server},
    receiver::Receiver,
};

#[path = "openapi.rs"]
pub mod openapi;

/// The size of a part in these tests, in bytes.
pub const PART: usize = 64;

/// A driver that records every call and fails a chosen one. Clones share state.
#[derive(Default, Clone)]
pub struct Faulty {
    pub memory: Rc<Memory>,
    pub calls: Rc<RefCell<Vec<&'static str>>>,
    fail_at: Rc<Cell<Option<(usize, Fault)>>>,
    /// Calls about paths with this prefix fail.
    pub fails_below: Rc<RefCell<Option<&'static str>>>,
    /// Whether listings omit metadata, like those of S3.
    pub hides_metadata: Rc<Cell<bool>>,
    /// Whether writes cannot have conditions, like those to KV.
    pub lacks_conditions: Rc<Cell<bool>>,
    /// Pages of listings have at most this many entries.
    pub short_pages: Rc<Cell<Option<usize>>>,
    /// Objects are cut off while they are read.
    pub cuts_reads: Rc<Cell<bool>>,
    /// Changes the bodies that are read.
    pub changes_reads: Rc<RefCell<Option<Change>>>,
    /// Runs at each call, for instance to move a clock.
    pub on_call: Rc<RefCell<Option<Hook>>>,
}

/// Runs at a call.
pub type Hook = Box<dyn Fn()>;

/// Changes a body.
pub type Change = Box<dyn Fn(Body) -> Body>;

/// The kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error, without any effect.
    Error,
    /// The store is busy (429), without any effect.
    Busy,
    /// The store takes no more such calls, and the driver knows the error.
    Refused,
    /// The call takes effect, but its answer is lost.
    Timeout,
}

impl Faulty {
    /// Clears the recorded calls and fails the `n`th from now, counted from 0; `None` fails none.
    pub fn fail_at(&self, n: Option<(usize, Fault)>) {
        self.calls.borrow_mut().clear();
        self.fail_at.set(n);
    }

    /// A store over this driver.
    pub fn store(&self) -> Store {
        Store::new(self.clone())
    }

    fn call<'a, T: 'a>(&'a self, operation: &'static str, path: &str, work: Call<'a, T>) -> Call<'a, T> {
        self.calls.borrow_mut().push(operation);
        if let Some(hook) = &*self.on_call.borrow() {
            hook();
        }
        let calls = self.calls.borrow().len();
        let fault = self.fail_at.get().filter(|(n, _)| n + 1 == calls).map(|(_, fault)| fault);
        let is_below = self.fails_below.borrow().is_some_and(|prefix| path.starts_with(prefix));
        let fault = fault.or(is_below.then_some(Fault::Error));
        let Some(fault) = fault else { return work };
        let path = path.to_owned();
        Box::pin(async move {
            if fault == Fault::Timeout {
                work.await?;
            }
            let (message, retryable) = ("asked to".into(), fault != Fault::Error);
            let kind = match fault {
                Fault::Refused => StorageErrorKind::Throttled { operation, message },
                _ => StorageErrorKind::Backend { operation, message, retryable },
            };
            Err(StorageError { driver: "faulty", path, kind })
        })
    }
}

#[deny(clippy::missing_trait_methods)]
impl StorageDriver for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            lists_metadata: !self.hides_metadata.get(),
            conditional_put: !self.lacks_conditions.get(),
            ..self.memory.capabilities()
        }
    }
    fn head<'a>(&'a self, path: &'a Path) -> Call<'a, Option<ObjectMeta>> {
        self.call("head", path.as_str(), self.memory.head(path))
    }
    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Call<'a, Option<Object>> {
        let object = self.call("get", path.as_str(), self.memory.get(path, range));
        Box::pin(async {
            let mut object = object.await?;
            if let Some(object) = object.as_mut().filter(|_| self.cuts_reads.get()) {
                object.body = Body::Stream(MemoryStream::broken("").into());
            }
            if let Some(change) = &*self.changes_reads.borrow() {
                object = object.map(|object| Object { body: change(object.body), ..object });
            }
            Ok(object)
        })
    }
    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Call<'a, ObjectMeta> {
        self.call("put", path.as_str(), self.memory.put(path, body, options))
    }
    fn delete<'a>(&'a self, paths: &'a [Path]) -> Call<'a, ()> {
        self.call("delete", "", self.memory.delete(paths))
    }
    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Call<'a, Listing> {
        let limit = self.short_pages.get().map_or(page.limit, |limit| limit.min(page.limit));
        let page = Page { limit, ..page };
        let listing = self.call("list", prefix, self.memory.list(prefix, page));
        Box::pin(async {
            let mut listing = listing.await?;
            if self.hides_metadata.get() {
                for (_, meta) in &mut listing.objects {
                    meta.metadata.clear();
                    meta.media_type = None;
                }
            }
            Ok(listing)
        })
    }
    fn create_multipart<'a>(&'a self, path: &'a Path) -> Call<'a, MultipartId> {
        self.call("create_multipart", path.as_str(), self.memory.create_multipart(path))
    }
    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body,
    ) -> Call<'a, Part> {
        self.call("put_part", path.as_str(), self.memory.put_part(path, id, number, body))
    }
    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Call<'a, ObjectMeta> {
        self.call("complete_multipart", path.as_str(), self.memory.complete_multipart(path, id, parts))
    }
    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Call<'a, ()> {
        self.call("abort_multipart", path.as_str(), self.memory.abort_multipart(path, id))
    }
    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Call<'a, Option<Digest>> {
        self.call("digest", path.as_str(), self.memory.digest(path, algorithm))
    }
    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> Call<'a, Copied> {
        self.call("copy", from.as_str(), self.memory.copy(from, to))
    }
}

/// An in-memory edge cache; `None` has no effect, like the Cache API on `workers.dev`.
#[derive(Clone, Default)]
pub struct MemoryEdge(pub Option<Rc<Kept>>);

/// Blobs by digest.
pub type Kept = RefCell<HashMap<Digest, Vec<u8>>>;

impl EdgeCache for MemoryEdge {
    fn get<'a>(
        &'a self,
        _: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>> {
        let bytes = self.0.as_ref().and_then(|entries| entries.borrow().get(digest).cloned());
        Box::pin(ready(bytes.map(|bytes| {
            assert_eq!(bytes.len() as u64, size);
            let range = range.map_or(0..bytes.len(), |range| {
                range.offset as usize..(range.offset + range.length.unwrap()) as usize
            });
            Body::Bytes(bytes[range].to_vec().into())
        })))
    }

    fn put<'a>(
        &'a self,
        _: &'a str,
        digest: &'a Digest,
        _: u64,
        body: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let bytes = body.read(usize::MAX).await.map_err(|error| error.to_string())?;
            self.0.as_ref().map(|entries| entries.borrow_mut().insert(digest.clone(), bytes.to_vec()));
            Ok(())
        })
    }
}

/// Background work, deferred until the test runs it.
#[derive(Default)]
pub struct Later(pub RefCell<Vec<LocalBoxFuture<'static, ()>>>, pub RefCell<Vec<Delayed>>);

/// Work with its delay, in milliseconds.
pub type Delayed = (u32, LocalBoxFuture<'static, ()>);

impl Background for Later {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.borrow_mut().push(work);
    }

    fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>) {
        self.1.borrow_mut().push((milliseconds, work));
    }
}

/// Recorded log lines.
#[derive(Default)]
pub struct Lines(pub RefCell<Vec<serde_json::Value>>);

impl Sink for Lines {
    fn line(&self, line: serde_json::Value) {
        self.0.borrow_mut().push(line);
    }
}

/// State that outlives an isolate.
#[derive(Clone, Default)]
pub struct Persistent {
    pub storage: Faulty,
    pub kv: Option<Faulty>,
    pub edge: MemoryEdge,
    /// The queue of events; `None` if events are off.
    pub queue: Option<Rc<MemoryQueue>>,
}

/// The limits of failed logins and of requests.
type Limits = (Option<Rc<dyn Limiter>>, Option<Rc<dyn Limiter>>);

/// How a test's requests prove who they come from, unless they say so themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Proof {
    #[default]
    Nothing,
    /// The password of the user `admin`, with each request.
    Basic,
    /// A token for what the challenge of the same request names, as clients get it.
    Bearer,
}

impl Proof {
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Basic, Self::Bearer];
}

/// The password of the user `admin` of [`TestRegistry::behind`].
pub const PASSWORD: &str = "correct horse battery";

pub struct TestRegistry {
    pub proof: Proof,
    pub app: Rc<App>,
    handler: Rc<dyn Handler>,
    pub storage: Faulty,
    pub sessions: Rc<MemorySessions<ManualClock>>,
    pub writers: Rc<MemoryWriters>,
    pub receiver: Rc<Receiver>,
    /// The servers of token issuers.
    pub documents: Rc<Server>,
    pub lanes: Rc<MemoryLanes>,
    pub clock: ManualClock,
    pub later: Rc<Later>,
    pub lines: Rc<Lines>,
    /// The cache near the client, if it is not that of the platform.
    pub near: RefCell<Option<Rc<dyn EdgeCache>>>,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// How a repository's writer opens the repository.
fn opened(storage: &Faulty, clock: &ManualClock, queue: Option<Rc<MemoryQueue>>, references: bool) -> Open {
    let clock: Rc<dyn Clock> = Rc::new(clock.clone());
    let (store, clock) = (storage.store().retrying(clock.clone()), clock);
    let log = Rc::new(RequestLog::new(Level::Error, "writer".into(), Rc::new(Lines::default())));
    let events = queue.map(|queue| Events {
        sink: Rc::new(Durable { queue, outbox: Outbox { store: store.clone() }, clock: clock.clone(), log }),
        wants: Rc::new(|_| true),
        instance: Uuid::nil(),
        references,
    });
    Rc::new(move |name| {
        let log = Rc::new(RequestLog::new(Level::Error, "writer".into(), Rc::new(Lines::default())));
        let (principal, background) = (Rc::new(Principal::Anonymous), Rc::new(Later::default()));
        let context = Context {
            principal,
            log,
            background,
            edge_cache: Rc::new(MemoryEdge::default()),
            grants: None,
            notes: Rc::default(),
        };
        let cache = Cache::new(0, None, Edge::new(0, clock.clone()));
        let blobs = Blobs::new(store.clone(), cache, clock.clone(), context);
        Means { stored: Stored::new(name.clone(), blobs, Rc::default()), events: events.clone() }
    })
}

impl TestRegistry {
    pub fn new() -> Self {
        let storage = Faulty { memory: Rc::new(Memory::with_min_part(PART / 8 * 5)), ..Faulty::default() };
        Self::with(&[], Persistent { storage, ..Persistent::default() })
    }

    /// A registry that lets nobody in without this proof.
    pub fn behind(proof: Proof) -> Self {
        if proof == Proof::Nothing {
            return Self::new();
        }
        let storage = Self::new().storage;
        let vars = [("ANONYMOUS", "none"), ("ADMIN_PASSWORD", PASSWORD)];
        Self::with(&vars, Persistent { storage, ..Persistent::default() }).proving(proof)
    }

    /// The same, whose requests have this proof.
    pub fn proving(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }

    /// A new isolate, with these variables, over the state of others. Without `ANONYMOUS`, anyone may push.
    pub fn with(vars: &[(&str, &str)], persistent: Persistent) -> Self {
        Self::operated(vars, persistent, Operation::default())
    }

    /// The same, with limits for failed logins and for requests.
    pub fn limited(
        vars: &[(&str, &str)],
        logins: Option<Rc<dyn Limiter>>,
        requests: Option<Rc<dyn Limiter>>,
    ) -> Self {
        Self::composed(vars, Persistent::default(), Operation::default(), (logins, requests))
    }

    /// The same, with a collector of metrics or probes.
    pub fn operated(vars: &[(&str, &str)], persistent: Persistent, operation: Operation) -> Self {
        Self::composed(vars, persistent, operation, (None, None))
    }

    fn composed(
        vars: &[(&str, &str)],
        Persistent { storage, kv, edge, queue }: Persistent,
        operation: Operation,
        (logins, requests): Limits,
    ) -> Self {
        let lookup =
            |name: &str| vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.to_string());
        let default = |name: &str| match name {
            "ANONYMOUS" => Some("push".to_owned()),
            "SIGNING_SECRET" => Some("generated".to_owned()),
            "POLICY" => Some(String::new()),
            _ => None,
        };
        let config = Config::from_vars(|name| lookup(name).or_else(|| default(name))).unwrap();
        let clock = ManualClock::default();
        let (later, lines) = (Rc::new(Later::default()), Rc::new(Lines::default()));
        let sessions =
            Rc::new(MemorySessions::new(clock.clone(), storage.store().retrying(Rc::new(clock.clone()))));
        let writers = Rc::new(MemoryWriters::new(
            Rc::new(clock.clone()),
            opened(&storage, &clock, queue.clone(), config.events.references),
        ));
        let receiver = Rc::new(Receiver::new(clock.clone()));
        let lanes = Rc::new(MemoryLanes::new(receiver.clone(), Rc::new(clock.clone()), lines.clone()));
        lanes.endpoints.replace(config.events.endpoints.clone());
        let documents = Rc::new(Server::new(Rc::new(clock.clone())));
        let platform = Platform {
            store: storage.store(),
            kv: kv.map(|kv| kv.store()),
            sessions: sessions.clone(),
            writers: writers.clone(),
            queue: queue.map(|queue| queue as Rc<dyn Queue>),
            lanes: lanes.clone(),
            buffers: Rc::new(MemoryBuffers { part_size: PART }),
            edge_cache: Rc::new(edge),
            clock: Rc::new(clock.clone()),
            sink: lines.clone(),
            operation,
            documents: documents.clone(),
            verifier: Rc::new(Ring),
            logins,
            requests,
            salt: [0; 16],
        };
        let app = Rc::new(App::new(config, platform));
        // It says that there is no queue.
        lines.0.take();
        let near = RefCell::default();
        Self {
            proof: Proof::Nothing,
            handler: middleware::stack(&app),
            app,
            storage,
            sessions,
            writers,
            receiver,
            documents,
            lanes,
            clock,
            later,
            lines,
            near,
        }
    }

    /// A context of a request or job.
    pub fn context(&self, principal: Principal) -> Context {
        let mut context = self.app.context(principal, "test".into(), self.later.clone());
        context.edge_cache = self.near.borrow().clone().unwrap_or(context.edge_cache);
        context
    }

    /// Runs the deferred background work.
    pub fn run_background(&self) {
        for work in self.later.0.take() {
            block_on(work);
        }
    }

    /// Runs the alarms of the writers until nothing is left to do, and the clock with them.
    pub fn settle(&self) {
        for _ in 0..10 {
            self.clock.0.set(self.clock.0.get() + (SETTLE + REMEMBER) * 1000);
            block_on(self.writers.run_alarms()).unwrap();
        }
        assert_eq!(self.writers.records(), 0);
    }

    /// Restarts the writers, as after a crash: alarms finish what is open.
    pub fn recover(&self) {
        self.writers.restart();
        self.settle();
    }

    /// Sends a request; returns its storage calls and the answer.
    pub fn calls(&self, line: &str, headers: &[(&str, &str)]) -> (Vec<&'static str>, Answer) {
        self.storage.calls.borrow_mut().clear();
        let answer = self.send(line, headers, None);
        (self.storage.calls.borrow().clone(), answer)
    }

    /// Handles a request.
    pub fn handle(&self, request: Request) -> LocalBoxFuture<'_, Response> {
        let mut context = self.context(Principal::Anonymous);
        if let Some(id) = middleware::request_id(request.headers()) {
            let near = context.edge_cache;
            context = self.app.context(Principal::Anonymous, id, self.later.clone());
            context.edge_cache = near;
        }
        self.handler.handle(request, context)
    }

    /// Sends a request; `line` is its method and target.
    pub fn send(&self, line: &str, headers: &[(&str, &str)], body: Option<MemoryStream>) -> Answer {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method.parse::<Method>().unwrap()).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer_with(request, body)
    }

    /// Sends a request without a body.
    pub fn answer(&self, request: http::request::Builder) -> Answer {
        self.answer_with(request, None)
    }

    fn answer_with(&self, request: http::request::Builder, body: Option<MemoryStream>) -> Answer {
        let mut request =
            request.body(body.map_or(Body::Empty, |stream| Body::Stream(stream.into()))).unwrap();
        if !request.headers().contains_key("authorization")
            && let Some(authorization) = self.authorization(&request)
        {
            request.headers_mut().insert("authorization", authorization.parse().unwrap());
        }
        self.answer_to(request)
    }

    /// What proves who a request comes from; `None` if it needs no proof.
    fn authorization(&self, request: &Request) -> Option<String> {
        let basic = format!("Basic {}", STANDARD.encode(format!("admin:{PASSWORD}")));
        let send = |method: &Method, target: &str, headers: &[(&str, &str)]| {
            let mut sent = http::Request::builder().method(method).uri(target);
            // A token is for one host.
            if let Some(host) = request.headers().get("host") {
                sent = sent.header("host", host);
            }
            let sent = headers.iter().fold(sent, |sent, (name, value)| sent.header(*name, *value));
            self.answer_to(sent.body(Body::Empty).unwrap())
        };
        match self.proof {
            Proof::Nothing => None,
            Proof::Basic => Some(basic),
            Proof::Bearer => {
                let answer = send(request.method(), &request.uri().to_string(), &[]);
                let challenge = answer.header("www-authenticate");
                if answer.status != StatusCode::UNAUTHORIZED {
                    return None;
                }
                if challenge.starts_with("Basic") {
                    return Some(basic);
                }
                let (_, scope) = challenge.split_once("scope=\"").unwrap_or_default();
                let scope = scope.split('"').next().unwrap_or_default();
                let query = request.uri().query().unwrap_or_default();
                let from = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "from");
                let source = from.map_or(String::new(), |(_, name)| format!("repository:{name}:pull"));
                let query = form_urlencoded::Serializer::new(String::new())
                    .extend_pairs([("scope", scope), ("scope", &source)])
                    .finish();
                let answer = send(&Method::GET, &format!("/token?{query}"), &[("authorization", &basic)]);
                let token: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                Some(format!("Bearer {}", token["token"].as_str().unwrap()))
            }
        }
    }

    fn answer_to(&self, request: Request) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (parts, body) = block_on(self.handle(request)).into_parts();
        let body = block_on(body.read(usize::MAX)).unwrap().to_vec();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        openapi::check(&method, &path, &answer);
        answer
    }

    pub fn get(&self, line: &str) -> Answer {
        self.send(line, &[], None)
    }

    pub fn start_upload(&self, query: &str) -> String {
        let answer = self.get(&format!("POST /v2/a/blobs/uploads/{query}"));
        assert_eq!(answer.status, 202);
        answer.header("location").to_owned()
    }

    /// Leftovers of uploads: open multipart uploads, staged bytes, and objects that belong to no blob.
    pub fn leftovers(&self) -> Vec<String> {
        self.run_background();
        let memory = &self.storage.memory;
        let described: Vec<String> = memory
            .paths()
            .iter()
            .filter(|path| path.starts_with("pierhead/descriptors/"))
            .filter_map(|path| {
                let object = block_on(memory.get(&path.parse().unwrap(), None)).unwrap().unwrap();
                let bytes = block_on(object.body.read(1000)).unwrap();
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                value["at"].as_str().map(str::to_owned)
            })
            .collect();
        let mut left: Vec<String> = memory
            .paths()
            .into_iter()
            .filter(|path| path.starts_with("pierhead/uploads/"))
            .filter(|path| !described.contains(&path.trim_end_matches(Key::UPLOAD_BLOB).to_owned()))
            .collect();
        left.extend((0..memory.open_multiparts()).map(|_| "an open multipart upload".to_owned()));
        left
    }

    /// Asserts that every blob in the repository has the content of its digest.
    pub fn check_content(&self) {
        for path in self.storage.memory.paths() {
            let Some(rest) = path.strip_prefix("docker/registry/v2/repositories/a/_layers/") else {
                continue;
            };
            let digest: Digest = rest.strip_suffix("/link").unwrap().replace('/', ":").parse().unwrap();
            let answer = self.get(&format!("GET /v2/a/blobs/{digest}"));
            assert_eq!(answer.status, 200, "{digest} is linked but not served");
            assert_eq!(digest.algorithm().digest(&answer.body), digest);
        }
    }
}
