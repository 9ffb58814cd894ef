//! Takedowns: a digest goes from everywhere at once, and does not come back.

use std::rc::Rc;

use futures_executor::block_on;
use futures_util::FutureExt;
use pierhead::{
    auth::Principal,
    blobs::{
        Located,
        marker::{HOLD, LEASE, Marker, State},
    },
    events::memory::MemoryQueue,
    jobs::schedule,
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Body, memory::MemoryStream},
    storage::{PutOptions, SETTLE, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    center::{BOUND, Place},
    collect::{DAY, collection},
    fixtures::{IMAGE, bytes, descriptor, image, sha256},
    reads::LAYER,
    redirects::S3,
    support::{Answer, Fault, PART, Persistent, TestRegistry},
};

const REASON: &str = r#"{"reason": "a leaked key"}"#;

fn ask(registry: &TestRegistry, digest: &Digest, body: &str) -> Answer {
    let line = format!("POST /v2/_pierhead/takedown?digest={digest}");
    let body = (!body.is_empty()).then(|| MemoryStream::new(body.to_owned()));
    let answer = registry.send(&line, &[("content-type", "application/json")], body);
    registry.run_background();
    answer
}

/// Asks until the takedown waits, or is finished.
fn take_down(registry: &TestRegistry, digest: &Digest) -> Value {
    for _ in 0..100 {
        let answer = ask(registry, digest, REASON);
        assert!([200, 202].contains(&answer.status.as_u16()), "{answer:?}");
        let state = answer.json();
        assert_eq!(state["done"], answer.status == 200);
        if !state["goes_on"].is_null() || answer.status == 200 {
            return state;
        }
        registry.pass(1);
    }
    panic!("the takedown of {digest} does not end");
}

fn lift(registry: &TestRegistry, digest: &Digest) -> u16 {
    registry.code(&format!("DELETE /v2/_pierhead/takedown?digest={digest}"))
}

fn tick(registry: &TestRegistry) {
    block_on(schedule::tick(&registry.app, |job| registry.context(Principal::Job(job))));
    registry.run_background();
}

/// Lets the time pass for which pushes may be under way, and longer, with the cron trigger.
fn finish(registry: &TestRegistry) {
    for _ in 0..6 {
        registry.pass(300);
        block_on(registry.writers.run_alarms()).unwrap();
        tick(registry);
    }
}

fn marker(registry: &TestRegistry, digest: &Digest) -> Option<State> {
    let head = block_on(registry.storage.memory.head(&Key::Marker(digest).path())).unwrap();
    head.map(|meta| Marker::from_object(&meta).state)
}

/// Links and bytes of a digest.
fn left(registry: &TestRegistry, digest: &Digest) -> Vec<String> {
    let paths = registry.storage.memory.paths();
    let is_left = |path: &String| {
        let is_link = path.ends_with("/link") && !path.contains("/tags/") && path.contains(digest.hex());
        let is_bytes = path.ends_with("/data") && path.contains(digest.hex());
        let is_elsewhere = path.starts_with("pierhead/descriptors/") && path.contains(digest.hex());
        is_link || is_bytes || is_elsewhere || path.starts_with("pierhead/blobs/")
    };
    paths.into_iter().filter(is_left).collect()
}

fn put(registry: &TestRegistry, key: Key<'_>, content: &str) {
    let body = Body::Bytes(content.to_owned().into());
    block_on(registry.storage.memory.put(&key.path(), body, PutOptions::default())).unwrap();
}

fn large() -> Vec<u8> {
    bytes(5 * PART)
}

/// Pushes a blob in parts.
fn push_in_parts(registry: &TestRegistry, name: &str, content: &[u8]) -> Answer {
    let location = registry.get(&format!("POST /v2/{name}/blobs/uploads/")).header("location").to_owned();
    let body = Some(MemoryStream::chunked(content.to_vec()));
    let patched = registry.send(&format!("PATCH {location}"), &[], body);
    let finish = format!("PUT {}&digest={}", patched.header("location"), sha256(content));
    let answer = registry.get(&finish);
    registry.run_background();
    answer
}

/// What is taken down: a small layer, a manifest with a subject and tags, or a blob of several parts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Layer,
    Manifest,
    Parts,
}

const TARGETS: [Target; 3] = [Target::Layer, Target::Manifest, Target::Parts];

fn referrer() -> String {
    let mut referrer: Value = serde_json::from_str(&image(&["shared"])).unwrap();
    referrer["subject"] = descriptor(IMAGE, &image(&["shared"]));
    referrer.to_string()
}

impl Target {
    fn digest(self) -> Digest {
        match self {
            Self::Layer => sha256("shared"),
            Self::Manifest => sha256(referrer()),
            Self::Parts => sha256(large()),
        }
    }

    fn kind(self) -> &'static str {
        if self == Self::Manifest { "manifests" } else { "blobs" }
    }

    fn push(self, registry: &TestRegistry, name: &str) -> Answer {
        let put = |line: String, content: String| {
            registry.send(&line, &[("content-type", IMAGE)], Some(MemoryStream::new(content)))
        };
        match self {
            Self::Layer => {
                put(format!("POST /v2/{name}/blobs/uploads/?digest={}", self.digest()), "shared".to_owned())
            }
            Self::Manifest => put(format!("PUT /v2/{name}/manifests/signature"), referrer()),
            Self::Parts => push_in_parts(registry, name, &large()),
        }
    }
}

/// Two repositories with images, and one that another registry has written: without reverse links, or any index.
fn world() -> TestRegistry {
    let registry = TestRegistry::new();
    registry.pass(1_000_000);
    for name in ["a/x", "b"] {
        registry.push_image(name, "v1", "shared");
        registry.push_image(name, "other", "another");
        registry.push_manifest(name, "signature", IMAGE, &referrer());
        assert_eq!(push_in_parts(&registry, name, &large()).status, 201);
    }
    let foreign: RepositoryName = "c/foreign".parse().unwrap();
    for target in TARGETS {
        let digest = target.digest();
        let key = match target {
            Target::Manifest => Key::Revision(&foreign, &digest),
            _ => Key::Layer(&foreign, &digest),
        };
        put(&registry, key, &digest.to_string());
    }
    registry.settle();
    registry.pass(3_600);
    registry
}

fn is_served(registry: &TestRegistry, target: Target, name: &str) -> bool {
    let line = format!("GET /v2/{name}/{}/{}", target.kind(), target.digest());
    match registry.code(&line) {
        200 => true,
        404 => false,
        other => panic!("{line}: {other}"),
    }
}

fn assert_others(registry: &TestRegistry, about: &str) {
    for name in ["a/x", "b"] {
        assert_eq!(registry.code(&format!("GET /v2/{name}/manifests/other")), 200, "{about}");
        assert_eq!(registry.code(&format!("GET /v2/{name}/blobs/{}", sha256("another"))), 200, "{about}");
    }
}

#[test]
fn content_goes_from_everywhere_and_does_not_come_back() {
    for target in TARGETS {
        let (registry, digest) = (world(), target.digest());
        for name in ["a/x", "b"] {
            assert!(is_served(&registry, target, name));
        }
        let state = take_down(&registry, &digest);
        // Nothing is left but a second look when pushes that had begun are over.
        assert_eq!(
            (&state["part"], &state["links_removed"]),
            (&json!("again"), &json!(3)),
            "{target:?}: {state}"
        );
        assert_eq!((&state["by"], &state["reason"]), (&json!("anonymous"), &json!("a leaked key")));
        assert_eq!(
            left(&registry, &digest).into_iter().filter(|path| !path.contains("pierhead/blobs")).count(),
            0
        );
        assert_eq!(marker(&registry, &digest), Some(State::TakenDown));
        for name in ["a/x", "b", "c/foreign"] {
            assert!(!is_served(&registry, target, name), "{target:?}");
        }
        if target == Target::Manifest {
            assert_eq!(registry.code("GET /v2/b/manifests/signature"), 404);
            let referrers = registry.get(&format!("GET /v2/b/referrers/{}", sha256(image(&["shared"]))));
            assert_eq!(referrers.json()["manifests"], json!([]));
        }
        assert_others(&registry, "taken down");
        // Whoever pushes it is refused, for as long as it is taken down.
        for days in [0, 0, 1, 30] {
            registry.pass(days * DAY);
            for name in ["a/x", "new"] {
                let pushed = match (target, name) {
                    // Its layer has to be there.
                    (Target::Manifest, "new") => continue,
                    _ => target.push(&registry, name),
                };
                assert_eq!(
                    (pushed.status.as_u16(), pushed.codes()),
                    (403, vec!["DENIED".to_owned()]),
                    "{target:?}"
                );
                assert!(pushed.errors()[0]["message"].as_str().unwrap().contains("taken this content down"));
                assert!(!is_served(&registry, target, name), "{target:?}");
            }
            finish(&registry);
            assert_eq!(ask(&registry, &digest, "").status, 200, "{target:?}");
            registry.collect(&collection());
            assert_eq!(marker(&registry, &digest), Some(State::TakenDown));
            // Those of an upload in parts wait for the purge.
            let left = left(&registry, &digest);
            assert!(left.iter().all(|path| path.contains("pierhead/blobs/")), "{target:?}, {days}: {left:?}");
        }
        assert_eq!(
            registry.storage.memory.paths().iter().filter(|path| path.contains("removals")).count(),
            0
        );
        assert_others(&registry, "refused");
        // Lifted, it is content like any other.
        registry.pass(DAY);
        assert_eq!(lift(&registry, &digest), 204);
        assert_eq!(lift(&registry, &digest), 404);
        if target != Target::Parts {
            assert_eq!(target.push(&registry, "b").status, 201, "{target:?}");
            assert!(is_served(&registry, target, "b"));
            finish(&registry);
            registry.collect(&collection());
            assert!(is_served(&registry, target, "b"));
        }
    }
}

/// The bytes of uploads in parts wait for the purge job.
#[test]
fn the_purge_deletes_refused_bytes() {
    let (registry, digest) = (world(), Target::Parts.digest());
    take_down(&registry, &digest);
    finish(&registry);
    assert_eq!(push_in_parts(&registry, "b", &large()).status, 403);
    registry.pass(30 * DAY);
    finish(&registry);
    for _ in 0..3 {
        assert_eq!(registry.code("POST /v2/_pierhead/jobs/purge/run"), 200);
    }
    let paths = registry.storage.memory.paths();
    assert!(!paths.iter().any(|path| path.starts_with("pierhead/blobs/")), "{paths:?}");
    assert_eq!(left(&registry, &digest), Vec::<String>::new());
}

#[test]
fn a_mount_is_refused() {
    let (registry, digest) = (world(), Target::Layer.digest());
    // A source that was written after the takedown: by another registry.
    take_down(&registry, &digest);
    let name: RepositoryName = "late".parse().unwrap();
    put(&registry, Key::Layer(&name, &digest), &digest.to_string());
    put(&registry, Key::Data(&digest), "shared");
    let mount = format!("POST /v2/d/blobs/uploads/?mount={digest}&from=late");
    let answer = registry.get(&mount);
    assert_eq!((answer.status.as_u16(), answer.codes()), (403, vec!["DENIED".to_owned()]));
    assert!(!is_served(&registry, Target::Layer, "d"));
}

/// A push that had read the marker before stores and links the content after all.
#[test]
fn a_push_that_had_begun_before_is_undone() {
    for target in [Target::Layer, Target::Manifest] {
        let (registry, digest) = (world(), target.digest());
        let state = take_down(&registry, &digest);
        let name: RepositoryName = "b".parse().unwrap();
        let content = if target == Target::Layer { "shared".to_owned() } else { referrer() };
        put(&registry, Key::ReverseLink(&digest, &name), "");
        put(&registry, Key::Data(&digest), &content);
        let key =
            if target == Target::Layer { Key::Layer(&name, &digest) } else { Key::Revision(&name, &digest) };
        let options = PutOptions {
            metadata: Located { size: content.len() as u64, at: None }.to_metadata(),
            ..PutOptions::default()
        };
        let body = Body::Bytes(digest.to_string().into());
        block_on(registry.storage.memory.put(&key.path(), body, options)).unwrap();
        assert!(is_served(&registry, target, "b"));
        // The answer has said so.
        let said = state["still_served"][0].clone();
        assert_eq!(said["place"], "a push that had begun before");
        assert_eq!(said["until"], state["goes_on"]);
        assert!(is_served(&registry, target, "b"));
        registry.pass(HOLD / 1000);
        tick(&registry);
        assert!(!is_served(&registry, target, "b"));
        assert_eq!(ask(&registry, &digest, "").json()["links_removed"], 4);
        finish(&registry);
        assert_eq!(
            left(&registry, &digest).iter().filter(|path| !path.contains("pierhead/blobs")).count(),
            0
        );
    }
}

#[test]
fn a_takedown_survives_a_crash_at_any_call() {
    let mut cases = 0;
    for target in TARGETS {
        let digest = target.digest();
        for kind in [Fault::Error, Fault::Busy, Fault::Timeout] {
            for at in 0.. {
                let about = format!("{target:?}, {kind:?} at call {at}");
                let registry = world();
                registry.storage.fail_at(Some((at, kind)));
                let first = ask(&registry, &digest, REASON).status.as_u16();
                let is_reached = registry.storage.calls.borrow().len() > at;
                registry.storage.fail_at(None);
                assert!([202, 500, 503].contains(&first), "{about}: {first}");
                registry.writers.restart();
                let is_begun = registry.storage.memory.paths().iter().any(|path| path.contains("removals"));
                if !is_begun {
                    // Nobody has been told that it has begun.
                    assert_ne!(first, 202);
                    ask(&registry, &digest, REASON);
                }
                finish(&registry);
                finish(&registry);
                assert_eq!(marker(&registry, &digest), Some(State::TakenDown), "{about}");
                let left = left(&registry, &digest);
                let is_other =
                    |path: &String| target == Target::Parts || !path.starts_with("pierhead/blobs/");
                assert_eq!(
                    left.into_iter().filter(is_other).collect::<Vec<_>>(),
                    Vec::<String>::new(),
                    "{about}"
                );
                for name in ["a/x", "b", "c/foreign"] {
                    assert!(!is_served(&registry, target, name), "{about}");
                }
                assert_eq!(ask(&registry, &digest, "").status, 200, "{about}");
                assert_others(&registry, &about);
                registry.pass(DAY);
                assert_eq!(lift(&registry, &digest), 204, "{about}");
                if !is_reached {
                    break;
                }
                cases += 1;
            }
        }
    }
    println!("{cases} crashes");
    assert!(cases > 200, "{cases}");
}

#[test]
fn a_takedown_can_be_lifted_when_its_calls_are_over() {
    let (registry, digest) = (world(), Target::Layer.digest());
    assert_eq!(lift(&registry, &digest), 404);
    take_down(&registry, &digest);
    assert_eq!(lift(&registry, &digest), 409);
    registry.pass(HOLD / 1000);
    tick(&registry);
    assert_eq!(ask(&registry, &digest, "").status, 200);
    let line = format!("DELETE /v2/_pierhead/takedown?digest={digest}");
    let resting = registry.get(&line);
    assert_eq!(resting.status, 409);
    assert!(resting.errors()[0]["message"].as_str().unwrap().contains("after 1970"), "{resting:?}");
    registry.pass(LEASE / 1000 + SETTLE);
    assert_eq!(lift(&registry, &digest), 204);
    assert_eq!(Target::Layer.push(&registry, "b").status, 201);
    // A runner that is late finds nothing to do, and blocks nothing.
    put(&registry, Key::OpenTakedown(&digest), "");
    finish(&registry);
    assert!(is_served(&registry, Target::Layer, "b"));
    assert_eq!(Target::Layer.push(&registry, "a/x").status, 201);
}

/// Each step of it, with the writers' calls.
#[test]
fn a_takedown_from_many_repositories_is_done_in_steps() {
    let registry = TestRegistry::new();
    registry.pass(1_000_000);
    for n in 0..300 {
        registry.push_blob(&format!("team/r{n}"), "shared");
    }
    let digest = sha256("shared");
    let (mut most, mut steps, mut all) = (0, 0, 0);
    loop {
        registry.storage.calls.borrow_mut().clear();
        let state = ask(&registry, &digest, REASON).json();
        let calls = registry.storage.calls.borrow().len();
        (most, steps, all) = (most.max(calls), steps + 1, all + calls);
        // The bytes are gone at once.
        assert_eq!(registry.code(&format!("GET /v2/team/r299/blobs/{digest}")), 404);
        if !state["goes_on"].is_null() {
            break;
        }
        registry.pass(1);
    }
    println!("{steps} steps, {all} calls, at most {most} in a step");
    assert!(steps > 3 && most < 1_000, "{steps} steps, {most} calls");
    assert_eq!(left(&registry, &digest), Vec::<String>::new());
}

#[test]
fn the_answer_says_what_may_still_be_served() {
    let (registry, digest) = (world(), Target::Layer.digest());
    let places = |state: &Value| -> Vec<(String, Value)> {
        let list = state["still_served"].as_array().unwrap();
        list.iter().map(|of| (of["place"].as_str().unwrap().to_owned(), of["until"].clone())).collect()
    };
    let state = take_down(&registry, &digest);
    let names = |places: Vec<(String, Value)>| places.into_iter().map(|(place, _)| place).collect::<Vec<_>>();
    let always = ["downloads that had begun before", "copies that clients and proxies keep"];
    assert_eq!(names(places(&state)), [&["a push that had begun before"][..], &always].concat());
    let vars = [
        ("DIGEST_CACHE_SECONDS", "60"),
        ("TAG_CACHE_SECONDS", "30"),
        ("BLOB_REDIRECT", "signed"),
        ("BLOB_REDIRECT_TTL", "20m"),
    ];
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let cached = TestRegistry::with(&vars, persistent);
    cached.clock.0.set(registry.clock.0.get());
    let state = ask(&cached, &digest, "").json();
    let until = |place: &str| {
        let (_, until) = places(&state).into_iter().find(|(name, _)| name.starts_with(place)).unwrap();
        until.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second() as u64
    };
    let now = registry.clock.0.get() / 1000;
    assert_eq!((until("answers that isolates") - now, until("signed URLs") - now), (60, 1_200));
    let vars = [&[("BLOB_REDIRECT", "presigned"), ("BLOB_REDIRECT_TTL", "30m")][..], &S3[..]].concat();
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let redirected = TestRegistry::with(&vars, persistent);
    redirected.clock.0.set(registry.clock.0.get());
    let state = ask(&redirected, &digest, "").json();
    let found = places(&state).into_iter().find(|(name, _)| name.starts_with("presigned URLs"));
    let until = found.unwrap().1.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(until.as_second() as u64 - registry.clock.0.get() / 1000, 1_800);
    // It ends.
    registry.pass(DAY);
    finish(&registry);
    finish(&registry);
    redirected.clock.0.set(registry.clock.0.get());
    assert_eq!(names(places(&ask(&redirected, &digest, "").json())), always);
    assert_eq!(names(places(&ask(&registry, &digest, "").json())), always);
}

/// What isolates and the data centre remember is forgotten there and ends elsewhere within its bound.
#[test]
fn caches_serve_nothing_after_their_bound() {
    let place = Place::new(BOUND);
    let digest = sha256(LAYER);
    let line = format!("GET /v2/a/blobs/{digest}");
    for registry in [&place.first, &place.second] {
        assert_eq!(registry.code(&line), 200);
        assert_eq!(registry.code(&line), 200);
    }
    let state = take_down(&place.first, &digest);
    assert_eq!(place.first.code(&line), 404);
    let until = state["still_served"][1].clone();
    assert_eq!(until["place"], "answers that isolates and the edge cache remember");
    let until = until["until"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
    for registry in [&place.first, &place.second] {
        registry.clock.0.set(until);
    }
    assert_eq!(place.second.code(&line), 404);
    assert_eq!(place.first.code(&line), 404);
}

#[test]
fn requests_for_takedowns_are_checked_and_audited() {
    let queue = Rc::new(MemoryQueue::default());
    let persistent = Persistent { queue: Some(queue.clone()), ..Persistent::default() };
    let endpoints = r#"[{"name": "ci", "url": "https://ci.example.com"}]"#;
    let policy = "[[tags]]\nrepositories = [\"**\"]\nimmutable = [\"v*\"]\n";
    let vars = [("EVENT_ENDPOINTS", endpoints), ("POLICY", policy)];
    let registry = TestRegistry::with(&vars, persistent);
    let digest = registry.push_image("a", "v1", "layer");
    for (target, body, status) in [
        ("", REASON, 400),
        ("?digest=x", REASON, 400),
        (&format!("?digest={digest}") as &str, "", 400),
        (&format!("?digest={digest}"), "{}", 400),
        (&format!("?digest={digest}"), r#"{"reason": " "}"#, 400),
        (&format!("?digest={digest}"), &json!({"reason": "x".repeat(3_000)}).to_string(), 400),
    ] {
        let body = (!body.is_empty()).then(|| MemoryStream::new(body.to_owned()));
        let answer = registry.send(&format!("POST /v2/_pierhead/takedown{target}"), &[], body);
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
    assert_eq!(registry.code("GET /v2/a/manifests/v1"), 200);
    queue.messages.borrow_mut().clear();
    registry.lines.0.take();
    // Although the tag is immutable.
    take_down(&registry, &digest);
    assert_eq!(registry.code("GET /v2/a/manifests/v1"), 404);
    let actions: Vec<_> = queue.events().iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["delete", "delete"]);
    let lines = registry.lines.0.borrow();
    let audit = lines.iter().find(|line| line["audit"] == "administer").unwrap();
    assert_eq!((&audit["digest"], &audit["reason"]), (&json!(digest), &json!("a leaked key")));
    let vars = [("ANONYMOUS", "pull"), ("ADMIN_PASSWORD", crate::support::PASSWORD)];
    let registry = TestRegistry::with(&vars, Persistent::default());
    assert_eq!(ask(&registry, &digest, REASON).status, 401);
}

/// Takes content down, waits until that can be lifted, and has a call of the lift fail. Returns the answer to the lift, and
/// whether it makes that call.
fn interrupt_lift(registry: &TestRegistry, digest: &Digest, at: usize, kind: Fault) -> (u16, bool) {
    take_down(registry, digest);
    finish(registry);
    registry.storage.fail_at(Some((at, kind)));
    let status = lift(registry, digest);
    let is_reached = registry.storage.calls.borrow().len() > at;
    registry.storage.fail_at(None);
    (status, is_reached)
}

fn record(registry: &TestRegistry, digest: &Digest) -> Option<Value> {
    let object = block_on(registry.storage.memory.get(&Key::Takedown(digest).path(), None)).unwrap()?;
    Some(serde_json::from_slice(&block_on(object.body.read(64 * 1024)).unwrap()).unwrap())
}

#[test]
fn content_is_taken_down_again_after_a_lift_that_was_interrupted() {
    let (digest, mut interrupted) = (Target::Layer.digest(), 0);
    for kind in [Fault::Error, Fault::Timeout] {
        for at in 0.. {
            let about = format!("{kind:?} at call {at}");
            let registry = world();
            let (status, is_reached) = interrupt_lift(&registry, &digest, at, kind);
            let state = record(&registry, &digest);
            let is_lifted = state.as_ref().is_some_and(|state| state["part"] == "lifted");
            interrupted += usize::from(is_lifted);
            let again = r#"{"reason": "another key"}"#;
            if is_lifted {
                // Its last call may be under way.
                let refused = ask(&registry, &digest, again);
                assert_eq!(refused.status, 409, "{about}: {refused:?}");
                let message = refused.errors()[0]["message"].to_string();
                assert!(message.contains("is being lifted"), "{about}: {message}");
                registry.pass(LEASE / 1000 + SETTLE);
                assert_eq!(ask(&registry, &digest, "").status, 400, "{about}");
            }
            let is_known = state.is_some() && !is_lifted;
            let answer = ask(&registry, &digest, again);
            assert_eq!(answer.status, if is_known { 200 } else { 202 }, "{about}: {status}, {answer:?}");
            let reason = if is_known { "a leaked key" } else { "another key" };
            assert_eq!(answer.json()["reason"], reason, "{about}");
            assert_eq!(marker(&registry, &digest), Some(State::TakenDown), "{about}");
            assert_eq!(Target::Layer.push(&registry, "b").status, 403, "{about}");
            finish(&registry);
            finish(&registry);
            assert_eq!(ask(&registry, &digest, "").status, 200, "{about}");
            registry.pass(DAY);
            assert_eq!(lift(&registry, &digest), 204, "{about}");
            assert_eq!(Target::Layer.push(&registry, "b").status, 201, "{about}");
            if !is_reached {
                break;
            }
        }
    }
    assert!(interrupted > 3, "{interrupted}");
}

#[test]
fn an_interrupted_lift_can_be_repeated() {
    let (registry, digest) = (world(), Target::Layer.digest());
    for at in 0.. {
        let (status, is_reached) = interrupt_lift(&registry, &digest, at, Fault::Error);
        let is_over = record(&registry, &digest).is_none();
        registry.pass(2 * LEASE);
        assert_eq!(lift(&registry, &digest), if is_over { 404 } else { 204 }, "call {at}: {status}");
        assert_eq!(Target::Layer.push(&registry, "b").status, 201, "call {at}");
        if !is_reached {
            break;
        }
        registry.pass(DAY);
    }
}

/// Whatever becomes of a lift, it leaves the record of another takedown alone.
#[test]
fn a_lift_keeps_the_record_of_the_next_takedown() {
    let (registry, digest) = (world(), Target::Layer.digest());
    take_down(&registry, &digest);
    finish(&registry);
    let mut next = record(&registry, &digest).unwrap();
    (next["part"], next["reason"]) = (json!("linked"), json!("another key"));
    let (memory, clock, now) =
        (registry.storage.memory.clone(), registry.clock.0.clone(), registry.clock.0.get());
    let (path, content) = (Key::Takedown(&digest).path(), next.to_string());
    // It waits for a second before it deletes the record.
    let hook = move || {
        if clock.get() > now {
            let body = Body::Bytes(content.clone().into());
            memory.put(&path, body, PutOptions::default()).now_or_never().unwrap().unwrap();
        }
    };
    registry.storage.on_call.replace(Some(Box::new(hook)));
    let status = lift(&registry, &digest);
    registry.storage.on_call.replace(None);
    assert_eq!((status, record(&registry, &digest)), (409, Some(next)));
}

/// A client that repeats a refused push, every half minute.
#[test]
fn what_refused_pushes_store_is_deleted_while_they_go_on() {
    let (registry, digest) = (world(), Target::Layer.digest());
    take_down(&registry, &digest);
    finish(&registry);
    let opened = || {
        let open = block_on(registry.storage.memory.head(&Key::OpenTakedown(&digest).path())).unwrap();
        open.map(|meta| meta.modified)
    };
    let mut writes = vec![opened()];
    assert_eq!(writes, [None]);
    for n in 1..=40 {
        registry.pass(30);
        assert_eq!(Target::Layer.push(&registry, "b").status, 403);
        // Whether it stores them depends on the kind of the push.
        put(&registry, Key::Data(&digest), "shared");
        writes.push(opened());
        if n % 10 == 0 {
            tick(&registry);
            let paths = registry.storage.memory.paths();
            assert!(!paths.contains(&Key::Data(&digest).to_string()), "push {n}");
            // The deletion may be under way.
            assert_eq!(lift(&registry, &digest), 409, "push {n}");
            assert!(opened().is_some(), "push {n}");
        }
    }
    writes.dedup();
    assert_eq!(writes.len() - 1, 20, "{writes:?}");
    // The last ones may still be storing something.
    registry.pass(120);
    put(&registry, Key::Data(&digest), "shared");
    finish(&registry);
    assert!(!registry.storage.memory.paths().contains(&Key::Data(&digest).to_string()));
    assert_eq!((opened(), lift(&registry, &digest)), (None, 204));
    assert_eq!(Target::Layer.push(&registry, "b").status, 201);
}

/// A collection had looked at the marker before, and its deletion lands late. Whatever call of the step fails that finds that.
#[test]
fn a_takedown_whose_marker_was_removed_waits_again() {
    let digest = Target::Layer.digest();
    for at in 0.. {
        let registry = world();
        take_down(&registry, &digest);
        block_on(registry.storage.memory.delete(&[Key::Marker(&digest).path()])).unwrap();
        registry.pass(HOLD / 1000);
        registry.storage.fail_at(Some((at, Fault::Error)));
        let first = ask(&registry, &digest, "").status;
        let is_reached = registry.storage.calls.borrow().len() > at;
        registry.storage.fail_at(None);
        let state = ask(&registry, &digest, "");
        assert_eq!(state.status, 202, "call {at}: {first}, {state:?}");
        assert!(!state.json()["goes_on"].is_null(), "call {at}: {state:?}");
        assert_eq!(marker(&registry, &digest), Some(State::TakenDown), "call {at}");
        // A push that had begun without a marker.
        let name: RepositoryName = "b".parse().unwrap();
        put(&registry, Key::ReverseLink(&digest, &name), "");
        put(&registry, Key::Data(&digest), "shared");
        put(&registry, Key::Layer(&name, &digest), &digest.to_string());
        assert!(is_served(&registry, Target::Layer, "b"), "call {at}");
        registry.pass(HOLD / 1000);
        assert_eq!(ask(&registry, &digest, "").status, 200, "call {at}");
        assert!(!is_served(&registry, Target::Layer, "b"), "call {at}");
        if !is_reached {
            break;
        }
    }
}
