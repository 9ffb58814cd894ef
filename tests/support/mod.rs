//! A registry over the memory driver, with parts of a few bytes and calls that can be counted and broken.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use futures_executor::block_on;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Method, StatusCode};
use pierhead::{
    api::{Parts, Platform, Shared},
    auth::basic::{Anonymous, BasicAuth, Htpasswd},
    background::Background,
    body::Body,
    clock::{Clock, Timestamp},
    config::Config,
    edge::EdgeCache,
    log::Sink,
    oci::{Algorithm, Digest},
    storage::{
        ByteRange, Capabilities, Driver, Key, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageError, StorageErrorKind,
        memory::{Memory, MemoryStream},
    },
    uploads::memory::MemorySessions,
};

/// The size of a part in these tests, in bytes.
pub const PART: usize = 64;

/// A driver that notes every call and fails the one it is told to. Clones share everything.
#[derive(Default, Clone)]
pub struct Faulty {
    pub memory: Rc<Memory>,
    pub calls: Rc<RefCell<Vec<&'static str>>>,
    fail_at: Rc<Cell<Option<(usize, Fault)>>>,
    /// Listings tell no facts, as those of S3.
    pub hides_facts: Rc<Cell<bool>>,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store answers with an error, and has done nothing.
    Error,
    /// It is busy (429), and has done nothing.
    Busy,
    /// It has done what it was asked, but the answer is lost.
    Timeout,
}

impl Faulty {
    /// Fails the `n`th call from now, counted from 0; `None`: none.
    pub fn fail_at(&self, n: Option<(usize, Fault)>) {
        self.calls.borrow_mut().clear();
        self.fail_at.set(n);
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        self.calls.borrow_mut().push(operation);
        let calls = self.calls.borrow().len();
        let fault = self.fail_at.get().filter(|(n, _)| n + 1 == calls).map(|(_, fault)| fault);
        let Some(fault) = fault else { return work.await };
        if fault == Fault::Timeout {
            work.await?;
        }
        let (message, retryable) = ("asked to".into(), fault != Fault::Error);
        let kind = StorageErrorKind::Backend { operation, message, retryable };
        Err(StorageError { driver: "faulty", path: path.into(), kind })
    }
}

impl StorageDriver for Faulty {
    type Stream = MemoryStream;

    fn name(&self) -> &'static str {
        "faulty"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists_facts: !self.hides_facts.get(), ..self.memory.capabilities() }
    }
    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        self.call("head", path.as_str(), self.memory.head(path)).await
    }
    async fn get(
        &self,
        path: &Path,
        range: Option<ByteRange>,
    ) -> Result<Option<Object<MemoryStream>>, StorageError> {
        self.call("get", path.as_str(), self.memory.get(path, range)).await
    }
    async fn put(
        &self,
        path: &Path,
        body: Body<MemoryStream>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        self.call("put", path.as_str(), self.memory.put(path, body, options)).await
    }
    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        self.call("delete", "", self.memory.delete(paths)).await
    }
    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        let mut listing = self.call("list", prefix, self.memory.list(prefix, page)).await?;
        if self.hides_facts.get() {
            for (_, meta) in &mut listing.objects {
                meta.facts.clear();
                meta.media_type = None;
            }
        }
        Ok(listing)
    }
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        self.call("create_multipart", path.as_str(), self.memory.create_multipart(path)).await
    }
    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<MemoryStream>,
    ) -> Result<Part, StorageError> {
        self.call("put_part", path.as_str(), self.memory.put_part(path, id, number, body)).await
    }
    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        self.call("complete_multipart", path.as_str(), self.memory.complete_multipart(path, id, parts)).await
    }
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        self.call("abort_multipart", path.as_str(), self.memory.abort_multipart(path, id)).await
    }
    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        self.call("digest", path.as_str(), self.memory.digest(path, algorithm)).await
    }
}

/// A clock that tests move.
#[derive(Clone, Default)]
pub struct TestClock(pub Rc<Cell<u64>>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.get())
    }
}

/// An edge cache in memory, if it has one.
#[derive(Clone, Default)]
pub struct MemoryEdge(pub Option<Rc<Kept>>);

/// Blobs by digest.
pub type Kept = RefCell<HashMap<Digest, Vec<u8>>>;

impl EdgeCache for MemoryEdge {
    type Stream = MemoryStream;

    async fn get(
        &self,
        _: &str,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> Option<Body<MemoryStream>> {
        let bytes = self.0.as_ref()?.borrow().get(digest)?.clone();
        assert_eq!(bytes.len() as u64, size);
        let range = range.map_or(0..bytes.len(), |range| {
            range.offset as usize..(range.offset + range.length.unwrap()) as usize
        });
        Some(Body::Bytes(bytes[range].to_vec().into()))
    }

    async fn put(&self, _: &str, digest: &Digest, _: u64, body: Body<MemoryStream>) -> Result<(), String> {
        let entries = self.0.as_ref().ok_or("refused")?;
        let bytes = body.read(usize::MAX).await.map_err(|error| error.to_string())?;
        entries.borrow_mut().insert(digest.clone(), bytes.to_vec());
        Ok(())
    }
}

/// Work that waits until the test runs it.
#[derive(Default)]
pub struct Later(pub RefCell<Vec<LocalBoxFuture<'static, ()>>>);

impl Background for Later {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.borrow_mut().push(work);
    }
}

/// Log lines, kept.
#[derive(Default)]
pub struct Lines(pub RefCell<Vec<serde_json::Value>>);

impl Sink for Lines {
    fn line(&self, line: serde_json::Value) {
        self.0.borrow_mut().push(line);
    }
}

pub struct Tested;

impl Platform for Tested {
    type Stream = MemoryStream;
    type Uploads = MemorySessions<TestClock>;
    type Auth = BasicAuth;
    type Edge = MemoryEdge;
}

/// The parts that outlive an isolate.
#[derive(Clone, Default)]
pub struct Lasting {
    pub storage: Faulty,
    /// The far cache.
    pub far: Option<Faulty>,
    pub edge: MemoryEdge,
}

pub struct TestRegistry {
    pub shared: Rc<Shared<Tested>>,
    pub storage: Faulty,
    pub clock: TestClock,
    pub later: Rc<Later>,
    pub lines: Rc<Lines>,
}

/// What came back.
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

impl TestRegistry {
    pub fn new() -> Self {
        let storage = Faulty { memory: Rc::new(Memory::with_min_part(PART)), ..Faulty::default() };
        Self::with(&[], Lasting { storage, ..Lasting::default() })
    }

    /// A new isolate, with these variables, over what others have left.
    pub fn with(vars: &[(&str, &str)], Lasting { storage, far, edge }: Lasting) -> Self {
        let lookup =
            |name: &str| vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.to_string());
        let config = Config { part_size: PART, ..Config::from_vars(lookup).unwrap() };
        let (clock, later, lines) =
            (TestClock::default(), Rc::new(Later::default()), Rc::new(Lines::default()));
        let shared = Shared::new(Parts {
            config,
            storage: Driver::new(storage.clone()),
            uploads: MemorySessions::new(clock.clone()),
            auth: BasicAuth::new(Htpasswd::default(), Anonymous::Push, [0; 16]),
            edge: Rc::new(edge),
            far: far.map(Driver::new),
            clock: Rc::new(clock.clone()),
            sink: lines.clone(),
        });
        Self { shared, storage, clock, later, lines }
    }

    /// Runs what outlives the answers so far.
    pub fn finish_later(&self) {
        for work in self.later.0.take() {
            block_on(work);
        }
    }

    /// The calls to storage that a request makes, and its answer.
    pub fn calls(&self, line: &str, headers: &[(&str, &str)]) -> (Vec<&'static str>, Answer) {
        self.storage.calls.borrow_mut().clear();
        let answer = self.send(line, headers, None);
        (self.storage.calls.borrow().clone(), answer)
    }

    /// A request; `line` is its method and target.
    pub fn send(&self, line: &str, headers: &[(&str, &str)], body: Option<MemoryStream>) -> Answer {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method.parse::<Method>().unwrap()).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.map_or(Body::Empty, Body::Stream)).unwrap();
        let (parts, body) =
            block_on(self.shared.handle(request, "test".into(), self.later.clone())).into_parts();
        let body = block_on(body.read(usize::MAX)).unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub fn get(&self, line: &str) -> Answer {
        self.send(line, &[], None)
    }

    pub fn start_upload(&self, query: &str) -> String {
        let answer = self.get(&format!("POST /v2/a/blobs/uploads/{query}"));
        assert_eq!(answer.status, 202);
        answer.header("location").to_owned()
    }

    /// What uploads have left behind: open multipart uploads, staged bytes, objects that are no blob.
    pub fn leftovers(&self) -> Vec<String> {
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

    /// Every blob visible in the repository has the bytes its digest says.
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
