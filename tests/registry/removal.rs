//! Deletion in bulk: a manifest with many tags, and whole repositories, in steps that survive a crash at any call.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures_executor::block_on;
use futures_util::{FutureExt, future::join};
use pierhead::{
    auth::Principal,
    events::memory::MemoryQueue,
    jobs::{remove, schedule},
    layout::Key,
    oci::{Digest, RepositoryName, Tag},
    platform::{Body, memory::MemoryStream},
    repository::writer::{
        order::SETTLE,
        protocol::{Call, Command, Reply, Writers},
    },
    storage::{Path, PutOptions, StorageDriver, memory::Memory},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    fixtures::{IMAGE, INDEX, descriptor, image, sha256},
    support::{Fault, Persistent, TestRegistry},
};

const KINDS: [Fault; 3] = [Fault::Error, Fault::Busy, Fault::Timeout];

/// The platform's limit of calls for a request or an alarm.
const CALLS: usize = 1_000;

fn put(registry: &TestRegistry, key: Key<'_>, content: &str) {
    let body = Body::Bytes(content.to_owned().into());
    block_on(registry.storage.memory.put(&key.path(), body, PutOptions::default())).unwrap();
}

/// A manifest without blobs.
fn index(of: &str) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"of": of}}).to_string()
}

fn push(registry: &TestRegistry, name: &str, tag: &str, content: &str) -> (u16, Value) {
    let body = Some(MemoryStream::new(content.to_owned()));
    let line = format!("PUT /v2/{name}/manifests/{tag}");
    let answer = registry.send(&line, &[("content-type", INDEX)], body);
    let error = if answer.status.is_success() { Value::Null } else { answer.errors()[0].clone() };
    (answer.status.as_u16(), error)
}

fn tags(registry: &TestRegistry) -> Vec<String> {
    let prefix = Key::Tags(&"a".parse().unwrap()).path().folder();
    let paths = registry.storage.memory.paths();
    let tags = paths.iter().filter_map(|path| path.strip_prefix(&prefix)?.strip_suffix("/current/link"));
    tags.map(str::to_owned).collect()
}

/// A manifest with many tags, of which the last one points elsewhere now.
fn tagged(count: usize) -> (TestRegistry, Digest) {
    let registry = TestRegistry::new();
    let name: RepositoryName = "a".parse().unwrap();
    let digest = registry.push_manifest("a", "first", INDEX, &index("one"));
    registry.run_background();
    for n in 0..count {
        let tag: Tag = format!("t{n:05}").parse().unwrap();
        put(&registry, Key::TagCurrent(&name, &tag), &digest.to_string());
        put(&registry, Key::TagIndex(&name, &tag, &digest), &digest.to_string());
    }
    assert_eq!(push(&registry, "a", &format!("t{:05}", count - 1), &index("other")).0, 201);
    registry.settle();
    (registry, digest)
}

#[test]
fn a_manifest_with_10_000_tags_is_deleted_in_steps() {
    let (registry, digest) = tagged(10_000);
    let line = format!("DELETE /v2/a/manifests/{digest}");
    let (calls, answer) = registry.calls(&line, &[]);
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    assert!(answer.errors()[0]["message"].as_str().unwrap().contains("goes on by itself"), "{answer:?}");
    let (mut most, mut alarms, mut all) = (calls.len(), 0, calls.len());
    while registry.code(&format!("HEAD /v2/a/manifests/{digest}")) == 200 {
        let before = tags(&registry).len();
        registry.pass(4);
        registry.storage.calls.borrow_mut().clear();
        block_on(registry.writers.run_alarms()).unwrap();
        let calls = registry.storage.calls.borrow().len();
        (most, alarms, all) = (most.max(calls), alarms + 1, all + calls);
        assert!(tags(&registry).len() < before || before == 1, "no progress at {before}");
        // A pull meanwhile: what is listed can be read.
        if let Some(tag) = tags(&registry).first() {
            assert_eq!(registry.code(&format!("GET /v2/a/manifests/{tag}")), 200);
        }
    }
    println!("{alarms} alarms, at most {most} calls, {all} in all");
    assert!(most < CALLS, "{most} calls");
    assert_eq!(tags(&registry), ["t09999"]);
    assert_eq!(registry.code(&line), 404);
}

/// A client that repeats its request helps, and no request makes more calls than the platform allows.
#[test]
fn a_client_may_repeat_a_deletion_that_goes_on() {
    let (registry, digest) = tagged(1_000);
    let line = format!("DELETE /v2/a/manifests/{digest}");
    let mut statuses = Vec::new();
    while !matches!(statuses.last(), Some(202 | 404)) {
        let (calls, answer) = registry.calls(&line, &[]);
        assert!(calls.len() < CALLS, "{}", calls.len());
        statuses.push(answer.status.as_u16());
        registry.pass(1);
        assert!(statuses.len() < 20, "{statuses:?}");
    }
    println!("{statuses:?}");
    assert!(statuses.len() > 3 && statuses[..statuses.len() - 1].iter().all(|status| *status == 503));
    registry.settle();
    assert_eq!(tags(&registry), ["t00999"]);
    // Other changes of the repository are not held up.
    let (registry, digest) = tagged(1_000);
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{digest}")), 503);
    assert_eq!(push(&registry, "a", "new", &index("new")).0, 201);
    assert_eq!(registry.code("GET /v2/a/manifests/new"), 200);
    // But for deletions of tags, which wait for their turn.
    assert_eq!(registry.code("DELETE /v2/a/manifests/new"), 503);
    for _ in 0..10 {
        registry.pass(4);
        block_on(registry.writers.run_alarms()).unwrap();
    }
    assert_eq!(registry.code("DELETE /v2/a/manifests/new"), 202);
}

#[test]
fn a_deletion_of_many_tags_survives_a_writer_that_dies_at_any_call() {
    for (kind, at) in KINDS.into_iter().flat_map(|kind| (1..1_000).step_by(83).map(move |at| (kind, at))) {
        let (registry, digest) = tagged(450);
        registry.storage.fail_at(Some((at, kind)));
        let status = registry.code(&format!("DELETE /v2/a/manifests/{digest}"));
        assert_eq!(status, 503, "{kind:?} at {at}");
        registry.writers.restart();
        for _ in 0..20 {
            registry.pass(SETTLE + 61);
            registry.storage.calls.borrow_mut().clear();
            // It tells of the failure, and is repeated.
            let _told = block_on(registry.writers.run_alarms());
            assert!(registry.storage.calls.borrow().len() < CALLS);
        }
        registry.storage.fail_at(None);
        registry.settle();
        assert_eq!(registry.code(&format!("HEAD /v2/a/manifests/{digest}")), 404, "{kind:?} at {at}");
        assert_eq!(tags(&registry), ["t00449"], "{kind:?} at {at}");
    }
}

/// Asks for a removal until it is finished. Returns the answers.
fn remove(registry: &TestRegistry, name: &str) -> Vec<Value> {
    let mut answers = Vec::new();
    loop {
        let answer = registry.get(&format!("DELETE /v2/_pierhead/repositories/{name}"));
        registry.run_background();
        assert!([200, 202].contains(&answer.status.as_u16()), "{answer:?}");
        let is_done = answer.status == 200;
        answers.push(answer.json());
        assert_eq!(answers.last().unwrap()["done"], is_done);
        if is_done {
            return answers;
        }
        assert!(answers.len() < 100, "{answers:?}");
        registry.pass(1);
    }
}

fn tick(registry: &TestRegistry) {
    block_on(schedule::tick(&registry.app, |job| registry.context(Principal::Job(job))));
    registry.run_background();
}

fn referrer() -> String {
    let mut referrer: Value = serde_json::from_str(&image(&["own"])).unwrap();
    referrer["subject"] = descriptor(IMAGE, &image(&["shared"]));
    referrer.to_string()
}

/// The repository `gone/app`, with everything that one may have, and its neighbours.
fn world() -> TestRegistry {
    let registry = TestRegistry::new();
    registry.pass(1_000_000);
    for (name, layer) in [("gone/app", "shared"), ("gone/app/below", "below"), ("kept", "shared")] {
        registry.push_image(name, "v1", layer);
    }
    registry.push_image("gone/app", "v2", "shared");
    registry.push_blob("gone/app", "own");
    registry.push_manifest("gone/app", "signature", IMAGE, &referrer());
    registry.push_manifest(
        "gone/app",
        sha256(index("untagged")).to_string().as_str(),
        INDEX,
        &index("untagged"),
    );
    registry.run_background();
    let name: RepositoryName = "gone/app".parse().unwrap();
    put(&registry, Key::Pull(&name, &sha256("x")), "");
    for junk in
        ["_uploads/0/startedat", "_manifests/tags/.odd/current/link", "_manifests/revisions/md5/0/link"]
    {
        let path = format!("{}/{junk}", Key::RepositoryFolder(&name)).parse().unwrap();
        block_on(registry.storage.memory.put(&path, Body::Empty, PutOptions::default())).unwrap();
    }
    registry.settle();
    registry
}

/// What is in the bucket under the repository's name, but for hints of where content has been.
fn left(registry: &TestRegistry) -> Vec<String> {
    let is_left = |path: &String| {
        let below = ["repositories/gone/app/_", "referrers/gone/app/_", "pulls/gone/app/_"];
        below.iter().any(|prefix| path.contains(prefix))
            || path.ends_with("repositories/gone/app-")
            || path.starts_with("pierhead/removals")
    };
    registry.storage.memory.paths().into_iter().filter(is_left).collect()
}

fn assert_neighbours(registry: &TestRegistry, about: &str) {
    for name in ["gone/app/below", "kept"] {
        let answer = registry.get(&format!("GET /v2/{name}/manifests/v1"));
        assert_eq!(answer.status, 200, "{about}: {name}");
    }
    for (name, layer) in [("gone/app/below", "below"), ("kept", "shared")] {
        let answer = registry.get(&format!("GET /v2/{name}/blobs/{}", sha256(layer)));
        assert_eq!(answer.body, layer.as_bytes(), "{about}: {name}");
    }
}

#[test]
fn a_repository_is_removed_whole_and_nothing_else() {
    let registry = world();
    let answers = remove(&registry, "gone/app");
    let last = answers.last().unwrap();
    assert_eq!(last["removed"], json!({"tags": 3, "manifests": 3, "layers": 3}));
    assert_eq!((&last["by"], &last["removing"]), (&json!("anonymous"), &Value::Null));
    assert_eq!(left(&registry), Vec::<String>::new());
    let catalog = registry.get("GET /v2/_catalog").json();
    assert_eq!(catalog["repositories"], json!(["gone/app/below", "kept"]));
    for line in ["GET /v2/gone/app/tags/list", "DELETE /v2/_pierhead/repositories/gone/app"] {
        assert_eq!(registry.get(line).codes(), ["NAME_UNKNOWN"], "{line}");
    }
    assert_neighbours(&registry, "removed");
    // Its own content goes, and what others have stays.
    registry.settle();
    registry.collect_for_days(4);
    let has = |content: &str| registry.content().contains(&Key::Data(&sha256(content)).to_string());
    assert_eq!((has("own"), has(&index("untagged")), has("shared")), (false, false, true));
    assert_neighbours(&registry, "collected");
    // The name is free.
    registry.push_image("gone/app", "v1", "shared");
    registry.collect_for_days(2);
    assert_eq!(registry.code("GET /v2/gone/app/manifests/v1"), 200);
}

#[test]
fn a_removal_survives_a_crash_at_any_call() {
    let (mut cases, mut by_job) = (0, 0);
    for kind in KINDS {
        for at in 0.. {
            let about = format!("{kind:?} at call {at}");
            let registry = world();
            registry.storage.fail_at(Some((at, kind)));
            let mut status = 0;
            for _ in 0..10 {
                status = registry.code("DELETE /v2/_pierhead/repositories/gone/app");
                if status != 202 {
                    break;
                }
            }
            let is_reached = registry.storage.calls.borrow().len() > at;
            registry.storage.fail_at(None);
            registry.writers.restart();
            let is_begun = registry.storage.memory.paths().iter().any(|path| path.contains("removals"));
            if !is_begun && !left(&registry).is_empty() {
                // Nobody has been told otherwise.
                remove(&registry, "gone/app");
            }
            for _ in 0..4 {
                registry.pass(SETTLE + 300);
                block_on(registry.writers.run_alarms()).unwrap();
                tick(&registry);
            }
            by_job += usize::from(is_begun);
            assert_eq!(left(&registry), Vec::<String>::new(), "{about}: {status}");
            assert_neighbours(&registry, &about);
            // The name is free, and nothing comes late.
            registry.push_image("gone/app", "v1", "own");
            registry.pass(300);
            tick(&registry);
            registry.recover();
            assert_eq!(registry.code("GET /v2/gone/app/manifests/v1"), 200, "{about}");
            assert!(
                registry.get("GET /v2/_catalog").json()["repositories"].to_string().contains("\"gone/app\"")
            );
            if !is_reached {
                break;
            }
            cases += 1;
        }
    }
    println!("{cases} crashes, {by_job} finished by the job");
    assert!(cases > 150 && by_job > 50, "{cases}, {by_job}");
}

/// A repository whose removal takes several steps.
fn large() -> TestRegistry {
    let (registry, _) = tagged(1_000);
    registry
}

#[test]
fn pushes_are_refused_until_a_repository_is_removed() {
    let registry = large();
    let step = |registry: &TestRegistry| registry.code("DELETE /v2/_pierhead/repositories/a");
    assert_eq!(step(&registry), 202);
    for is_restarted in [false, true] {
        if is_restarted {
            registry.writers.restart();
        }
        let before = tags(&registry).len();
        let (status, error) = push(&registry, "a", "new", &index("new"));
        assert_eq!((status, &error["code"]), (403, &json!("DENIED")));
        assert!(error["message"].as_str().unwrap().contains("is being removed"), "{error}");
        // Also of what is there.
        assert_eq!(push(&registry, "a", "t00999", &index("other")).0, 403);
        assert_eq!(tags(&registry).len(), before);
        // Other repositories are open, and so is what is left of this one for pulls.
        assert_eq!(push(&registry, "b", "new", &index("new")).0, 201);
        let tag = tags(&registry).last().unwrap().clone();
        assert_eq!(registry.code(&format!("GET /v2/a/manifests/{tag}")), 200);
        // A blob waits for its manifest.
        registry.push_blob("a", "early");
    }
    assert_eq!(registry.writers.records(), {
        registry.pass(1_000);
        block_on(registry.writers.run_alarms()).unwrap();
        registry.writers.records()
    });
    let answers = remove(&registry, "a");
    assert_eq!(answers.last().unwrap()["removed"]["tags"], 1_001);
    assert_eq!(push(&registry, "a", "new", &index("new")).0, 201);
    tick(&registry);
    registry.recover();
    assert_eq!(registry.code("GET /v2/a/manifests/new"), 200);
    assert_eq!(registry.code("GET /v2/a/manifests/t00999"), 404);
}

#[test]
fn steps_of_a_removal_are_bounded() {
    let registry = large();
    let (mut most, mut steps, mut all) = (0, 0, 0);
    loop {
        let (calls, answer) = registry.calls("DELETE /v2/_pierhead/repositories/a", &[]);
        (most, steps, all) = (most.max(calls.len()), steps + 1, all + calls.len());
        registry.pass(1);
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 202);
    }
    println!("{steps} steps, {all} calls, at most {most} in a step with those of the writer");
    assert!(steps > 2);
    // Those of the writer are counted here, too: up to 4 for each of its calls.
    assert!(most < 4 * 400, "{most}");
}

#[test]
fn two_runners_do_the_same() {
    let registry = world();
    registry.code("DELETE /v2/_pierhead/repositories/gone/app");
    let registry = world();
    let name: RepositoryName = "gone/app".parse().unwrap();
    let context = registry.context(Principal::User("ann".into()));
    assert!(block_on(remove::begin(&registry.app, &context, &name)).unwrap());
    let step = || remove::step(&registry.app, &context, &name);
    let (first, second) = block_on(join(step(), step()));
    first.unwrap();
    second.unwrap();
    tick(&registry);
    assert_eq!(left(&registry), Vec::<String>::new());
    registry.push_image("gone/app", "v1", "own");
    tick(&registry);
    assert_eq!(registry.code("GET /v2/gone/app/manifests/v1"), 200);
}

/// A call of a removal that is over, or was never there, deletes nothing.
#[test]
fn a_writer_refuses_the_calls_of_a_removal_that_is_over() {
    let registry = TestRegistry::new();
    let name: RepositoryName = "a".parse().unwrap();
    let (removal, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(push(&registry, "a", "v", &index("x")).0, 201);
    let call = |removal: Option<Uuid>, command: Command| {
        block_on(registry.writers.call(&name, Call { command, origin: None, removal })).unwrap()
    };
    let delete = || Command::DeleteTag { tag: "v".parse().unwrap(), immutable: Vec::new(), seen: None };
    assert_eq!(call(Some(removal), delete()), Reply::Absent);
    assert_eq!(call(Some(removal), Command::Clear), Reply::Absent);
    assert_eq!(call(None, Command::Reopen { removal }), Reply::Absent);
    assert_eq!(call(None, Command::Close { removal }), Reply::Done);
    assert_eq!(call(None, Command::Close { removal }), Reply::Absent);
    assert_eq!(call(Some(other), delete()), Reply::Absent);
    assert_eq!(call(None, Command::Reopen { removal: other }), Reply::Absent);
    assert_eq!(push(&registry, "a", "w", &index("x")).0, 403);
    // It has manifests: it stays in the catalog.
    assert_eq!(call(None, Command::Reopen { removal }), Reply::Done);
    assert_eq!(call(Some(removal), delete()), Reply::Absent);
    assert_eq!(registry.get("GET /v2/_catalog").json()["repositories"], json!(["a"]));
    assert_eq!(push(&registry, "a", "w", &index("x")).0, 201);
    assert_eq!(registry.code("GET /v2/a/manifests/v"), 200);
    registry.settle();
}

#[test]
fn a_removal_is_for_administrators_and_goes_over_immutable_tags() {
    let vars = [("ANONYMOUS", "pull"), ("ADMIN_PASSWORD", crate::support::PASSWORD)];
    let registry = TestRegistry::with(&vars, Persistent::default());
    let answer = registry.get("DELETE /v2/_pierhead/repositories/a");
    assert_eq!(answer.status, 401, "{answer:?}");
    let policy = "[[tags]]\nrepositories = [\"**\"]\nimmutable = [\"v*\"]\n";
    let queue = Rc::new(MemoryQueue::default());
    let persistent = Persistent { queue: Some(queue.clone()), ..Persistent::default() };
    let endpoints = r#"[{"name": "ci", "url": "https://ci.example.com"}]"#;
    let registry =
        TestRegistry::with(&[("POLICY", policy), ("EVENT_ENDPOINTS", endpoints)], persistent.clone());
    assert_eq!(push(&registry, "a", "v1", &index("x")).0, 201);
    assert_eq!(registry.code("DELETE /v2/a/manifests/v1"), 403);
    queue.messages.borrow_mut().clear();
    registry.lines.0.take();
    remove(&registry, "a");
    assert_eq!(registry.code("GET /v2/a/manifests/v1"), 404);
    // As if a client had deleted it.
    let events: Vec<_> = queue
        .events()
        .iter()
        .map(|event| (event.action.as_str(), event.target.tag.as_ref().map(|tag| tag.to_string())))
        .collect();
    assert_eq!(events, [("delete", Some("v1".to_owned())), ("delete", None)]);
    let lines = registry.lines.0.borrow();
    let audit = lines.iter().find(|line| line["audit"] == "administer").unwrap();
    assert_eq!((&audit["route"], &audit["repository"]), (&json!("remove_repository"), &json!("a")));
    let vars = [("READ_ONLY", "on")];
    let registry = TestRegistry::with(&vars, persistent);
    assert_eq!(registry.code("DELETE /v2/_pierhead/repositories/a"), 405);
}

/// One that cannot be removed keeps no other from it.
#[test]
fn a_removal_that_fails_is_reported_and_others_go_on() {
    let registry = TestRegistry::new();
    for name in ["a", "b", "c"] {
        assert_eq!(push(&registry, name, "v", &index("x")).0, 201);
        let context = registry.context(Principal::User("ann".into()));
        assert!(block_on(remove::begin(&registry.app, &context, &name.parse().unwrap())).unwrap());
    }
    registry.storage.fails_below.replace(Some("docker/registry/v2/repositories/b/"));
    tick(&registry);
    let has = |name: &str| {
        let key = Key::Repository(&name.parse().unwrap()).to_string();
        registry.storage.memory.paths().contains(&key)
    };
    assert_eq!(["a", "b", "c"].map(has), [false, true, false]);
    let job = registry.get("GET /v2/_pierhead/jobs/remove").json();
    let run = &job["ended"][0];
    assert_eq!((&run["totals"]["repositories_removed"], &run["failed"]), (&json!(2), &json!(1)), "{job}");
    registry.storage.fails_below.replace(None);
    registry.pass(SETTLE + 300);
    tick(&registry);
    assert_eq!(["a", "b", "c"].map(has), [false; 3]);
}

/// One job makes all steps of a removal that a request has begun, also if it is the first in line.
#[test]
fn the_job_goes_on_until_nothing_is_left() {
    let registry = large();
    let context = registry.context(Principal::User("ann".into()));
    for name in ["a", "b"] {
        assert_eq!(push(&registry, name, "v", &index("x")).0, 201);
        assert!(block_on(remove::begin(&registry.app, &context, &name.parse().unwrap())).unwrap());
    }
    let mut steps = 0;
    loop {
        let state = registry.get("POST /v2/_pierhead/jobs/remove/run").json();
        registry.run_background();
        registry.pass(1);
        steps += 1;
        if state["running"] == false {
            assert_eq!(state["ended"][0]["totals"]["repositories_removed"], 2, "{state}");
            break;
        }
    }
    assert!(steps > 3, "{steps}");
    assert_eq!(registry.get("GET /v2/_catalog").json()["repositories"], json!([]));
}

/// Two runners end a removal, and the next one of that name begins before the second deletes the record.
#[test]
fn the_end_of_a_removal_keeps_the_record_of_the_next() {
    let registry = world();
    let name: RepositoryName = "gone/app".parse().unwrap();
    let context = registry.context(Principal::User("ann".into()));
    assert!(block_on(remove::begin(&registry.app, &context, &name)).unwrap());
    let (memory, clock, ended) = (registry.storage.memory.clone(), registry.clock.0.clone(), Cell::new(None));
    let path = Key::Removal(&name).path();
    let next = Rc::new(RefCell::new(None));
    let hook = {
        let (next, path) = (next.clone(), path.clone());
        move || {
            let Some(mut record) = read(&memory, &path).filter(|_| next.borrow().is_none()) else { return };
            if record["part"] != "reopening" {
                return;
            }
            let since = ended.get().unwrap_or_else(|| clock.get());
            ended.set(Some(since));
            if clock.get() > since {
                record["removal"] = json!(Uuid::from_u128(7));
                record["part"] = json!("tags");
                let body = Body::Bytes(record.to_string().into());
                memory.put(&path, body, PutOptions::default()).now_or_never().unwrap().unwrap();
                next.replace(Some(record));
            }
        }
    };
    registry.storage.on_call.replace(Some(Box::new(hook)));
    let (_, is_done) = block_on(remove::step(&registry.app, &context, &name)).unwrap().unwrap();
    registry.storage.on_call.replace(None);
    assert!(is_done && next.borrow().is_some());
    assert_eq!(read(&registry.storage.memory, &path), next.take());
}

/// An object of JSON, also within a call.
fn read(memory: &Memory, path: &Path) -> Option<Value> {
    let object = memory.get(path, None).now_or_never().unwrap().unwrap()?;
    let content = object.body.read(64 * 1024).now_or_never().unwrap().unwrap();
    Some(serde_json::from_slice(&content).unwrap())
}

/// A removal that takes many steps does not keep the others from theirs.
#[test]
fn removals_take_turns() {
    let registry = large();
    let context = registry.context(Principal::User("ann".into()));
    for name in ["b", "c"] {
        assert_eq!(push(&registry, name, "v", &index("x")).0, 201);
    }
    let begin =
        |name: &str| block_on(remove::begin(&registry.app, &context, &name.parse().unwrap())).unwrap();
    let step = || {
        let state = registry.get("POST /v2/_pierhead/jobs/remove/run").json();
        registry.run_background();
        registry.pass(1);
        state
    };
    let catalog = || registry.get("GET /v2/_catalog").json()["repositories"].clone();
    assert!(begin("a") && begin("b"));
    step();
    assert_eq!(catalog(), json!(["a", "b", "c"]));
    step();
    assert_eq!(catalog(), json!(["a", "c"]));
    // One that begins later, too.
    assert!(begin("c"));
    for _ in 0..2 {
        step();
    }
    assert_eq!(catalog(), json!(["a"]));
    // The run ends when nothing is left, not before.
    let mut state = json!({"running": true});
    while state["running"] == true {
        state = step();
    }
    assert_eq!((catalog(), left(&registry)), (json!([]), Vec::new()));
    assert_eq!(state["ended"][0]["totals"]["repositories_removed"], 3, "{state}");
    assert_eq!(state["ended"].as_array().unwrap().len(), 1, "{state}");
}
