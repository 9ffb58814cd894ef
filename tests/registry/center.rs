//! A data centre in memory: a cache before the inner entry points, and isolates that use it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, ready};
use pierhead::{
    api::Handler,
    auth::Principal,
    middleware,
    oci::Digest,
    platform::{Body, ByteRange, EdgeCache, memory::MemoryStream},
};

use crate::{
    reads::{cold, layer, manifest},
    support::{Answer, Persistent, TestRegistry},
};

/// The start of the tests' time, in seconds: nothing happens in the moment 0.
pub const START: u64 = 1_000_000;
pub const BOUND: &[(&str, &str)] = &[("TAG_CACHE_SECONDS", "60"), ("DIGEST_CACHE_SECONDS", "60")];
pub const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// An answer of an inner entry point.
#[derive(Clone)]
pub struct Entry {
    pub body: Bytes,
    pub tag: String,
    pub max_age: Option<u64>,
    pub stored: u64,
}

/// A data centre: a cache before the inner entry points, which run in an isolate of their own.
pub struct Center {
    pub isolate: TestRegistry,
    pub entries: RefCell<HashMap<String, Entry>>,
    pub asked: RefCell<Vec<String>>,
    pub purged: RefCell<Vec<Vec<String>>>,
    pub refuses_purges: Cell<bool>,
    /// Serves entries after their lifetime, as if they had just been stored.
    pub forgets_age: Cell<bool>,
}

impl Center {
    pub fn new(vars: &[(&str, &str)], persistent: &Persistent) -> Rc<Self> {
        Rc::new(Self {
            isolate: isolate(vars, persistent),
            entries: RefCell::default(),
            asked: RefCell::default(),
            purged: RefCell::default(),
            refuses_purges: Cell::default(),
            forgets_age: Cell::default(),
        })
    }

    pub fn now(&self) -> u64 {
        self.isolate.clock.0.get() / 1000
    }

    /// Runs the entry point.
    pub async fn run(&self, path: &str) -> Option<Entry> {
        let request = http::Request::get(path).body(Body::Empty).unwrap();
        let response = middleware::inner(&self.isolate.app)
            .handle(request, self.isolate.context(Principal::Anonymous))
            .await;
        let (parts, body) = response.into_parts();
        let header =
            |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let control = header("cache-control");
        let max_age = control.split(", ").find_map(|part| part.strip_prefix("max-age=")?.parse().ok());
        assert_eq!(max_age.is_some(), parts.status == 200, "{control}");
        assert!(max_age.is_none() || control.contains("must-revalidate"), "stale answers are off");
        let body = body.read(usize::MAX).await.unwrap();
        (parts.status == 200).then(|| Entry { body, tag: header("cache-tag"), max_age, stored: 0 })
    }

    pub fn keep(&self, path: &str, entry: Entry) {
        if entry.max_age.is_some() {
            self.entries.borrow_mut().insert(path.to_owned(), Entry { stored: self.now(), ..entry });
        }
    }

    pub async fn answer(&self, path: &str) -> Option<Bytes> {
        self.asked.borrow_mut().push(path.to_owned());
        let kept = self.entries.borrow().get(path).cloned();
        let is_fresh = |entry: &Entry| {
            self.forgets_age.get() || entry.max_age.is_some_and(|age| self.now() < entry.stored + age)
        };
        if let Some(entry) = kept.filter(is_fresh) {
            return Some(entry.body);
        }
        let entry = self.run(path).await?;
        self.keep(path, entry.clone());
        Some(entry.body)
    }

    pub fn facts(&self) -> Vec<String> {
        self.entries.borrow().keys().filter(|path| path.starts_with("/facts/")).cloned().collect()
    }
}

/// The cache as an isolate of the data centre sees it.
pub struct At(pub Rc<Center>);

impl EdgeCache for At {
    fn get<'a>(
        &'a self,
        _: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(async move {
            let bytes = self.0.answer(&format!("/blobs/{digest}")).await?;
            assert_eq!(bytes.len() as u64, size);
            let range = range.map_or(0..bytes.len(), |range| {
                range.offset as usize..(range.offset + range.length.unwrap()) as usize
            });
            Some(Body::Bytes(bytes.slice(range)))
        })
    }

    fn put<'a>(
        &'a self,
        _: &'a str,
        _: &'a Digest,
        _: u64,
        _: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>> {
        panic!("this cache fills itself")
    }

    fn has_entry_points(&self) -> bool {
        true
    }

    fn ask<'a>(&'a self, path: &'a str) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(async { self.0.answer(path).await.map(Body::Bytes) })
    }

    fn purge<'a>(&'a self, tags: &'a [String]) -> LocalBoxFuture<'a, Result<(), String>> {
        self.0.purged.borrow_mut().push(tags.to_vec());
        Box::pin(ready(match self.0.refuses_purges.get() {
            true => Err("rate limited".to_owned()),
            false => {
                self.0.entries.borrow_mut().retain(|_, entry| !tags.contains(&entry.tag));
                Ok(())
            }
        }))
    }

    fn purge_content<'a>(&'a self, tags: &'a [String]) -> LocalBoxFuture<'a, Result<(), String>> {
        self.0.entries.borrow_mut().retain(|_, entry| !tags.contains(&entry.tag));
        Box::pin(ready(Ok(())))
    }
}

pub fn isolate(vars: &[(&str, &str)], persistent: &Persistent) -> TestRegistry {
    let registry = cold(vars, persistent);
    registry.clock.0.set(START * 1000);
    registry
}

/// A data centre, and two isolates of it.
pub struct Place {
    pub persistent: Persistent,
    pub center: Rc<Center>,
    pub first: TestRegistry,
    pub second: TestRegistry,
}

impl Place {
    /// An image was pushed to repository `a` by another data centre.
    pub fn new(vars: &[(&str, &str)]) -> Self {
        let persistent = crate::reads::pushed();
        let center = Center::new(vars, &persistent);
        let near = || {
            let registry = isolate(vars, &persistent);
            registry.near.replace(Some(Rc::new(At(center.clone()))));
            registry
        };
        Self { first: near(), second: near(), center, persistent }
    }

    /// Sets the time, in seconds after the start.
    pub fn at(&self, seconds: u64) {
        for registry in [&self.first, &self.second, &self.center.isolate] {
            registry.clock.0.set((START + seconds) * 1000);
        }
    }

    /// Storage calls and questions of a request.
    pub fn cost(&self, registry: &TestRegistry, line: &str) -> (usize, Vec<String>, Answer) {
        self.center.asked.borrow_mut().clear();
        let (calls, answer) = registry.calls(line, &[("host", "registry.example")]);
        (calls.len(), self.center.asked.borrow().clone(), answer)
    }
}

/// Changes the registry from elsewhere: its purge does not arrive.
pub fn elsewhere(persistent: &Persistent, line: &str, body: Option<&str>) {
    let body = body.map(|body| MemoryStream::new(body.to_owned()));
    let answer = isolate(&[], persistent).send(line, &[], body);
    assert!(answer.status.is_success(), "{line}: {}", answer.status);
}

pub fn other_manifest() -> String {
    MANIFEST.replace("[]", "[],\"annotations\":{\"v\":\"2\"}")
}

pub fn by_digest() -> String {
    format!("GET /v2/a/manifests/{}", manifest())
}

pub fn get_layer() -> String {
    format!("GET /v2/a/blobs/{}", layer())
}
