//! Pulls that stay near: what is cached at a data centre, how long, and what never comes from there.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::{LocalBoxFuture, ready};
use pierhead::{
    api::Handler,
    auth::Principal,
    middleware,
    oci::{Algorithm, Digest, Reference, RepositoryName},
    platform::{Body, ByteRange, EdgeCache, memory::MemoryStream},
    repository::facts::{Question, tag_of},
};

use crate::{
    reads::{LAYER, cold, layer, manifest},
    support::{Answer, Hook, Persistent, TestRegistry},
};

/// The start of the tests' time, in seconds: nothing happens in the moment 0.
const START: u64 = 1_000_000;
const BOUND: &[(&str, &str)] = &[("TAG_CACHE_SECONDS", "60"), ("DIGEST_CACHE_SECONDS", "60")];
const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// An answer of an inner entry point.
#[derive(Clone)]
struct Entry {
    body: Bytes,
    tag: String,
    max_age: Option<u64>,
    stored: u64,
}

/// A data centre: a cache before the inner entry points, which run in an isolate of their own.
struct Center {
    isolate: TestRegistry,
    entries: RefCell<HashMap<String, Entry>>,
    asked: RefCell<Vec<String>>,
    purged: RefCell<Vec<Vec<String>>>,
    refuses_purges: Cell<bool>,
    /// Serves entries after their lifetime, as if they had just been stored.
    forgets_age: Cell<bool>,
}

impl Center {
    fn new(vars: &[(&str, &str)], persistent: &Persistent) -> Rc<Self> {
        Rc::new(Self {
            isolate: isolate(vars, persistent),
            entries: RefCell::default(),
            asked: RefCell::default(),
            purged: RefCell::default(),
            refuses_purges: Cell::default(),
            forgets_age: Cell::default(),
        })
    }

    fn now(&self) -> u64 {
        self.isolate.clock.0.get() / 1000
    }

    /// Runs the entry point.
    async fn run(&self, path: &str) -> Option<Entry> {
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

    fn keep(&self, path: &str, entry: Entry) {
        if entry.max_age.is_some() {
            self.entries.borrow_mut().insert(path.to_owned(), Entry { stored: self.now(), ..entry });
        }
    }

    async fn answer(&self, path: &str) -> Option<Bytes> {
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

    fn facts(&self) -> Vec<String> {
        self.entries.borrow().keys().filter(|path| path.starts_with("/facts/")).cloned().collect()
    }
}

/// The cache as an isolate of the data centre sees it.
struct At(Rc<Center>);

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
}

fn isolate(vars: &[(&str, &str)], persistent: &Persistent) -> TestRegistry {
    let registry = cold(vars, persistent);
    registry.clock.0.set(START * 1000);
    registry
}

/// A data centre, and two isolates of it.
struct Place {
    persistent: Persistent,
    center: Rc<Center>,
    first: TestRegistry,
    second: TestRegistry,
}

impl Place {
    /// An image was pushed to repository `a` by another data centre.
    fn new(vars: &[(&str, &str)]) -> Self {
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
    fn at(&self, seconds: u64) {
        for registry in [&self.first, &self.second, &self.center.isolate] {
            registry.clock.0.set((START + seconds) * 1000);
        }
    }

    /// Storage calls and questions of a request.
    fn cost(&self, registry: &TestRegistry, line: &str) -> (usize, Vec<String>, Answer) {
        self.center.asked.borrow_mut().clear();
        let (calls, answer) = registry.calls(line, &[("host", "registry.example")]);
        (calls.len(), self.center.asked.borrow().clone(), answer)
    }
}

/// Changes the registry from elsewhere: its purge does not arrive.
fn elsewhere(persistent: &Persistent, line: &str, body: Option<&str>) {
    let body = body.map(|body| MemoryStream::new(body.to_owned()));
    let answer = isolate(&[], persistent).send(line, &[], body);
    assert!(answer.status.is_success(), "{line}: {}", answer.status);
}

fn other_manifest() -> String {
    MANIFEST.replace("[]", "[],\"annotations\":{\"v\":\"2\"}")
}

fn by_digest() -> String {
    format!("GET /v2/a/manifests/{}", manifest())
}

fn get_layer() -> String {
    format!("GET /v2/a/blobs/{}", layer())
}

#[test]
fn a_warm_pull_makes_no_storage_call() {
    let place = Place::new(BOUND);
    let lines = ["GET /v2/a/manifests/v1", "HEAD /v2/a/manifests/v1", &by_digest(), &get_layer()];
    for line in lines {
        assert_eq!(place.cost(&place.first, line).2.status, 200);
    }
    // Another isolate: a question about the repository, and one for the content.
    for (line, questions) in lines.iter().zip([2, 0, 1, 2]) {
        let (calls, asked, answer) = place.cost(&place.second, line);
        assert_eq!((calls, asked.len(), answer.status.as_u16()), (0, questions, 200), "{line}");
    }
    // The same isolate again: the bytes of the blob only.
    for (line, questions) in lines.iter().zip([0, 0, 0, 1]) {
        let (calls, asked, answer) = place.cost(&place.second, line);
        assert_eq!((calls, asked.len()), (0, questions), "{line}");
        if !line.starts_with("HEAD") {
            let expected = if line.contains("blobs") { LAYER } else { MANIFEST.as_bytes() };
            assert_eq!(answer.body, expected);
        }
    }
    // A range comes from the whole.
    let headers = [("host", "registry.example"), ("range", "bytes=4-8")];
    let (calls, answer) = place.second.calls(&get_layer(), &headers);
    assert_eq!((calls.len(), answer.status.as_u16(), answer.body.as_slice()), (0, 206, &b"bytes"[..]));
    assert_eq!(place.second.later.0.borrow().len(), 0, "nothing is read twice");
}

#[test]
fn strict_tags_cost_one_call_and_nothing_else_does() {
    let place = Place::new(&[("DIGEST_CACHE_SECONDS", "60")]);
    let lines = ["GET /v2/a/manifests/v1", &by_digest(), &get_layer()];
    for line in lines {
        place.cost(&place.first, line);
    }
    for (line, expected) in lines.iter().zip([1, 0, 0]) {
        assert_eq!(place.cost(&place.second, line).0, expected, "{line}");
    }
}

#[test]
fn by_default_no_fact_is_cached() {
    let place = Place::new(&[]);
    for line in ["GET /v2/a/manifests/v1", &by_digest(), &get_layer()] {
        place.cost(&place.first, line);
        for _ in 0..2 {
            let (calls, asked, answer) = place.cost(&place.first, line);
            assert_eq!((calls, answer.status.as_u16()), (1, 200), "{line}");
            assert!(asked.iter().all(|path| !path.starts_with("/facts/")), "{asked:?}");
        }
    }
    assert_eq!(place.center.facts(), [""; 0]);
    assert_eq!(place.first.get("DELETE /v2/a/manifests/v1").status, 202);
    assert!(place.first.later.1.borrow().is_empty(), "there is nothing to purge");
}

#[test]
fn no_answer_is_older_than_its_bound_if_the_purge_is_lost() {
    for forgets_age in [false, true] {
        let place = Place::new(BOUND);
        place.center.forgets_age.set(forgets_age);
        let lines = ["GET /v2/a/manifests/v1", &by_digest(), &get_layer()];
        let statuses =
            |registry: &TestRegistry| lines.map(|line| place.cost(registry, line).2.status.as_u16());
        assert_eq!(statuses(&place.first), [200; 3]);
        elsewhere(&place.persistent, &by_digest().replace("GET", "DELETE"), None);
        elsewhere(&place.persistent, &get_layer().replace("GET", "DELETE"), None);
        place.at(59);
        // From the memory of one isolate, and from the cache for the other.
        assert_eq!((statuses(&place.first), statuses(&place.second)), ([200; 3], [200; 3]));
        place.at(60);
        assert_eq!((statuses(&place.first), statuses(&place.second)), ([404; 3], [404; 3]));
    }
}

#[test]
fn a_fill_under_way_during_a_purge_is_not_kept_past_the_bound() {
    for forgets_age in [false, true] {
        let place = Place::new(BOUND);
        place.center.forgets_age.set(forgets_age);
        let name: RepositoryName = "a".parse().unwrap();
        let path = Question::Manifest(Reference::Tag("v1".parse().unwrap())).path(&name);
        let fill = block_on(place.center.run(&path)).unwrap();
        place.at(30);
        elsewhere(&place.persistent, "PUT /v2/a/manifests/v1", Some(&other_manifest()));
        block_on(At(place.center.clone()).purge(&[tag_of(&name)])).unwrap();
        // The slow answer arrives after the purge. The platform counts its age from now on.
        place.at(59);
        place.center.keep(&path, fill);
        let tag = |registry| place.cost(registry, "GET /v2/a/manifests/v1").2.body;
        assert_eq!(tag(&place.first), MANIFEST.as_bytes());
        place.at(60);
        assert_eq!(tag(&place.first), other_manifest().as_bytes());
        assert_eq!(tag(&place.second), other_manifest().as_bytes());
    }
}

#[test]
fn the_age_of_an_answer_counts_from_the_start_of_its_read() {
    let place = Place::new(BOUND);
    let name: RepositoryName = "a".parse().unwrap();
    let path = Question::Blob(layer()).path(&name);
    for (delay, expected) in [(0, Some(60)), (20, Some(40)), (59, Some(1)), (60, None), (90, None)] {
        place.at(0);
        let clock = place.center.isolate.clock.clone();
        let slow: Hook = Box::new(move || clock.0.set((START + delay) * 1000));
        place.persistent.storage.on_call.replace(Some(slow));
        assert_eq!(block_on(place.center.run(&path)).and_then(|entry| entry.max_age), expected, "{delay}");
    }
    place.persistent.storage.on_call.replace(None);

    // In memory, too: a read that took 50 seconds is good for 10.
    place.at(0);
    let clock = place.first.clock.clone();
    place.first.near.replace(None);
    let slow: Hook = Box::new(move || clock.0.set((START + 50) * 1000));
    place.persistent.storage.on_call.replace(Some(slow));
    assert_eq!(place.first.get("GET /v2/a/manifests/v1").status, 200);
    place.persistent.storage.on_call.replace(None);
    elsewhere(&place.persistent, "DELETE /v2/a/manifests/v1", None);
    for (seconds, status) in [(59, 200), (60, 404)] {
        place.at(seconds);
        assert_eq!(place.first.get("GET /v2/a/manifests/v1").status, status);
    }
}

#[test]
fn absence_is_never_cached() {
    let place = Place::new(BOUND);
    let other = Algorithm::Sha256.digest(other_manifest().as_bytes());
    let lines = ["GET /v2/a/manifests/v2".to_owned(), format!("GET /v2/a/manifests/{other}")];
    for line in &lines {
        for registry in [&place.first, &place.second] {
            assert_eq!(place.cost(registry, line).2.status, 404);
        }
    }
    assert_eq!(place.center.facts(), [""; 0]);
    elsewhere(&place.persistent, "PUT /v2/a/manifests/v2", Some(&other_manifest()));
    for line in &lines {
        for registry in [&place.first, &place.second] {
            assert_eq!(place.cost(registry, line).2.status, 200);
        }
    }
}

#[test]
fn checks_read_the_store() {
    let place = Place::new(BOUND);
    let blob = get_layer();
    for line in ["GET /v2/a/manifests/v1", &by_digest(), &blob] {
        assert_eq!(place.cost(&place.first, line).2.status, 200);
    }
    let check = |line: &str, headers: &[(&str, &str)], body: Option<String>, status: u16| {
        place.center.asked.borrow_mut().clear();
        let answer = place.first.send(line, headers, body.map(MemoryStream::new));
        assert_eq!(answer.status.as_u16(), status, "{line}");
        assert_eq!(*place.center.asked.borrow(), [""; 0], "{line}");
    };
    let config = format!(r#"{{"mediaType":"x/y","digest":"{}","size":20}}"#, layer());
    let referring = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[]}}"#
    );
    let mount = format!("POST /v2/b/blobs/uploads/?mount={}&from=a", layer());
    for is_there in [true, false] {
        if !is_there {
            place.at(1);
            assert_eq!(place.cost(&place.first, &blob).2.status, 200);
            elsewhere(&place.persistent, &blob.replace("GET", "DELETE"), None);
            elsewhere(&place.persistent, &by_digest().replace("GET", "DELETE"), None);
        }
        let found = if is_there { 200 } else { 404 };
        check(&blob.replace("GET", "HEAD"), &[], None, found);
        check(&by_digest().replace("GET", "HEAD"), &[], None, found);
        check(&mount, &[], None, if is_there { 201 } else { 202 });
        check("PUT /v2/a/manifests/v2", &[], Some(referring.clone()), if is_there { 201 } else { 400 });
        if !is_there {
            for line in [&by_digest(), &blob, "GET /v2/a/manifests/v1"] {
                check(line, &[("cache-control", "no-cache")], None, 404);
            }
            assert_eq!(place.cost(&place.first, &blob).2.status, 200, "within the bound");
        }
    }
}

#[test]
fn bytes_are_served_only_with_a_current_fact() {
    let place = Place::new(BOUND);
    assert_eq!(place.cost(&place.first, &get_layer()).2.body, LAYER);
    assert!(place.center.entries.borrow().contains_key(&format!("/blobs/{}", layer())));
    for registry in [&place.first, &place.second] {
        assert_eq!(place.cost(registry, &get_layer().replace("/a/", "/b/")).2.status, 404);
        assert_eq!(place.cost(registry, &by_digest().replace("/a/", "/b/")).2.status, 404);
    }
    elsewhere(&place.persistent, &get_layer().replace("GET", "DELETE"), None);
    place.at(60);
    assert_eq!(place.cost(&place.first, &get_layer()).2.status, 404);
}

#[test]
fn an_isolate_sees_its_own_changes_at_once() {
    let place = Place::new(BOUND);
    for line in ["GET /v2/a/manifests/v1", &get_layer()] {
        assert_eq!(place.cost(&place.first, line).2.status, 200);
    }
    place.at(1);
    let body = Some(MemoryStream::new(other_manifest()));
    assert_eq!(place.first.send("PUT /v2/a/manifests/v1", &[], body).status, 201);
    assert_eq!(place.first.get(&get_layer().replace("GET", "DELETE")).status, 202);
    // The purge has not run: the cache still has the old answers.
    assert_eq!(place.center.facts().len(), 2);
    for seconds in [1, 2] {
        place.at(seconds);
        assert_eq!(place.cost(&place.first, "GET /v2/a/manifests/v1").2.body, other_manifest().as_bytes());
        assert_eq!(place.cost(&place.first, &get_layer()).2.status, 404);
        assert_eq!(place.cost(&place.second, "GET /v2/a/manifests/v1").2.body, MANIFEST.as_bytes());
    }
    assert_eq!(place.center.facts().len(), 2);
    run_purges(&place.first);
    assert_eq!(place.center.facts(), [""; 0]);
}

/// Runs the purges that are scheduled now; returns their delays.
fn run_purges(registry: &TestRegistry) -> Vec<u32> {
    let work = registry.later.1.take();
    work.into_iter()
        .map(|(delay, work)| {
            let now = registry.clock.0.get();
            registry.clock.0.set(now + u64::from(delay));
            block_on(work);
            delay
        })
        .collect()
}

#[test]
fn purges_are_coalesced() {
    let place = Place::new(BOUND);
    let push = |name: &str| {
        let body = Some(MemoryStream::new(MANIFEST));
        assert_eq!(place.first.send(&format!("PUT /v2/{name}/manifests/v1"), &[], body).status, 201);
    };
    let purged = || place.center.purged.take().iter().map(Vec::len).collect::<Vec<_>>();
    // The first at once, those that follow together.
    push("a");
    assert_eq!((run_purges(&place.first), purged()), (vec![0], vec![1]));
    for name in ["a", "b", "a", "c"] {
        push(name);
    }
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![3]));
    // At most 100 tags at once.
    (0..150).for_each(|n| push(&format!("r{n}")));
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![100]));
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![50]));
    // A refused purge is repeated after a pause, until all answers have expired anyway.
    place.center.refuses_purges.set(true);
    push("a");
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![1]));
    assert_eq!((run_purges(&place.first), purged()), (vec![15_000], vec![1]));
    place.first.clock.0.set(place.first.clock.0.get() + 60_000);
    assert_eq!((run_purges(&place.first), purged()), (vec![15_000], vec![]));
    assert!(place.first.later.1.borrow().is_empty());
    // A purge that the platform dropped does not stop later ones.
    place.center.refuses_purges.set(false);
    push("a");
    place.first.later.1.take();
    push("b");
    assert!(place.first.later.1.borrow().is_empty());
    place.first.clock.0.set(place.first.clock.0.get() + 36_000);
    push("c");
    assert_eq!((run_purges(&place.first).len(), purged()), (1, vec![3]));
}

#[test]
fn only_changes_that_a_cache_can_hide_are_purged() {
    let scheduled = |vars: &[(&str, &str)], lines: &[String]| {
        let place = Place::new(vars);
        for line in lines {
            let body = line.starts_with("PUT").then(|| MemoryStream::new(MANIFEST));
            assert!(place.first.send(line, &[], body).status.is_success(), "{line}");
        }
        place.first.later.1.borrow().len()
    };
    let tag = ["PUT /v2/a/manifests/v2".to_owned(), "DELETE /v2/a/manifests/v2".to_owned()];
    let new = [by_digest().replace("GET", "PUT")];
    let deleted = [get_layer().replace("GET", "DELETE"), by_digest().replace("GET", "DELETE")];
    for (vars, expected) in [
        (&[("TAG_CACHE_SECONDS", "60")][..], [1, 0, 1]),
        (&[("DIGEST_CACHE_SECONDS", "60")], [0, 0, 1]),
        (&[], [0, 0, 0]),
    ] {
        let found = [&tag[..], &new, &deleted].map(|lines| scheduled(vars, lines));
        assert_eq!(found, expected, "{vars:?}");
    }
}

#[test]
fn inner_entry_points_answer_nothing_else() {
    let place = Place::new(BOUND);
    for path in ["/", "/v2/", "/v2/a/tags/list", "/facts/", "/facts/blobs/x/a", "/manifests/v1", "/blobs/"] {
        assert!(block_on(place.center.run(path)).is_none(), "{path}");
    }
}
