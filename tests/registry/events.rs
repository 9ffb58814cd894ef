//! Events of pushes, pulls, mounts and deletions, and what becomes of them when things fail.

use std::{collections::BTreeSet, rc::Rc};

use futures_executor::block_on;
use futures_util::FutureExt;
use pierhead::{
    auth::Principal,
    events::{Event, memory::MemoryQueue},
    jobs::{self, Resend},
    layout::Key,
    platform::{Body, Clock, memory::MemoryStream},
    storage::{Answer as Call, PutOptions, StorageDriver},
};

use crate::{
    fixtures::{IMAGE, image},
    support::{Fault, Persistent, TestRegistry},
};

const ENDPOINT: [(&str, &str); 1] =
    [("EVENT_ENDPOINTS", r#"[{"name": "ci", "url": "https://ci.example.com"}]"#)];

/// A registry with events.
fn listening() -> (TestRegistry, Rc<MemoryQueue>) {
    listening_with(&ENDPOINT)
}

fn listening_with(vars: &[(&str, &str)]) -> (TestRegistry, Rc<MemoryQueue>) {
    let queue = Rc::new(MemoryQueue::default());
    let persistent = Persistent { queue: Some(queue.clone()), ..Persistent::default() };
    (TestRegistry::with(vars, persistent), queue)
}

fn pass(registry: &TestRegistry, seconds: u64) {
    registry.clock.0.set(registry.clock.0.get() + seconds * 1000);
}

/// Action, media type, digest and tag of an event, in short.
fn short(event: &Event) -> String {
    let digest = event.target.digest.as_ref().map_or("-", |digest| &digest.hex()[..6]);
    let tag = event.target.tag.as_ref().map_or("-", |tag| tag.as_str());
    format!("{} {digest} {tag}", event.action.as_str())
}

fn taken(queue: &MemoryQueue) -> Vec<String> {
    let events = queue.events().iter().map(short).collect();
    queue.messages.borrow_mut().clear();
    events
}

#[test]
fn a_push_has_an_event_for_each_tag_and_a_deletion_one_for_each_thing_that_goes() {
    let (registry, queue) = listening();
    let digest = registry.push_image("a", "v1", "layer");
    let hex = &digest.hex()[..6];
    let events = queue.events();
    assert_eq!(events.len(), 3, "two blobs and a manifest: {events:?}");
    let push = events.last().unwrap();
    assert_eq!(short(push), format!("push {hex} v1"));
    assert!(push.sequence.is_some());
    taken(&queue);

    let manifest = image(&["layer"]);
    registry.push_manifest("a", &format!("{digest}?tag=v2&tag=v3"), IMAGE, &manifest);
    assert_eq!(taken(&queue), [format!("push {hex} v2"), format!("push {hex} v3")]);
    registry.push_manifest("a", &digest.to_string(), IMAGE, &manifest);
    assert_eq!(taken(&queue), [format!("push {hex} -")]);

    assert_eq!(registry.send("DELETE /v2/a/manifests/v2", &[], None).status, 202);
    assert_eq!(taken(&queue), ["delete - v2"]);
    assert_eq!(registry.send(&format!("DELETE /v2/a/manifests/{digest}"), &[], None).status, 202);
    assert_eq!(taken(&queue), ["delete - v1".into(), "delete - v3".into(), format!("delete {hex} -")]);
    assert_eq!(registry.send(&format!("DELETE /v2/a/manifests/{digest}"), &[], None).status, 404);
    assert_eq!(taken(&queue), [""; 0]);
}

#[test]
fn pulls_are_gathered_and_sent_after_the_answer() {
    let (registry, queue) = listening();
    let digest = registry.push_image("a", "v1", "layer");
    let layer = pierhead::oci::Algorithm::Sha256.digest(b"layer");
    taken(&queue);
    registry.later.1.take();
    for line in [
        "GET /v2/a/manifests/v1".to_owned(),
        "HEAD /v2/a/manifests/v1".to_owned(),
        format!("GET /v2/a/manifests/{digest}"),
        format!("GET /v2/a/blobs/{layer}"),
        format!("HEAD /v2/a/blobs/{layer}"),
        "GET /v2/a/tags/list".to_owned(),
    ] {
        assert_eq!(registry.send(&line, &[], None).status, 200, "{line}");
    }
    let unchanged = format!("\"{layer}\"");
    let line = format!("GET /v2/a/blobs/{layer}");
    assert_eq!(registry.send(&line, &[("if-none-match", &unchanged)], None).status, 304);
    assert_eq!(registry.send(&line, &[("range", "bytes=90-")], None).status, 416);
    assert_eq!(registry.send(&line, &[("range", "bytes=1-2")], None).status, 206);
    assert_eq!(queue.messages.borrow().len(), 0, "nothing is sent before the answer");
    let later = registry.later.1.take();
    assert_eq!(later.len(), 1, "one request sends for all");
    later.into_iter().for_each(|(_, work)| block_on(work));
    assert_eq!(queue.messages.borrow().len(), 1);
    let (hex, layer) = (&digest.hex()[..6], &layer.hex()[..6]);
    let expected = [
        format!("pull {hex} v1"),
        format!("pull {hex} -"),
        format!("pull {layer} -"),
        format!("pull {layer} -"),
    ];
    assert_eq!(taken(&queue), expected);
}

#[test]
fn pulls_that_no_endpoint_wants_are_neither_gathered_nor_sent() {
    let endpoints = r#"[{"name": "ci", "url": "https://ci.example.com", "ignore": {"actions": ["pull"]}},
        {"name": "b", "url": "https://b.example.com", "repositories": ["b"]}]"#;
    let (registry, queue) = listening_with(&[("EVENT_ENDPOINTS", endpoints), ("EVENT_REFERENCES", "on")]);
    for (repository, pulls) in [("a", 0), ("b", 2)] {
        let digest = registry.push_image(repository, "v1", "layer");
        taken(&queue);
        registry.later.1.take();
        let layer = pierhead::oci::Algorithm::Sha256.digest(b"layer");
        for path in ["manifests/v1".to_owned(), format!("blobs/{layer}")] {
            assert_eq!(registry.get(&format!("GET /v2/{repository}/{path}")).status, 200);
        }
        let later = registry.later.1.take();
        assert_eq!(later.len(), pulls.min(1), "{repository}");
        later.into_iter().for_each(|(_, work)| block_on(work));
        let events = queue.events();
        assert_eq!(events.len(), pulls, "{repository}");
        if let Some(pull) = events.first() {
            assert_eq!((pull.target.digest.as_ref(), pull.target.references.len()), (Some(&digest), 2));
        }
    }
}

#[test]
fn references_are_named_as_long_as_a_message_holds_them() {
    let (registry, queue) = listening_with(&[ENDPOINT[0], ("EVENT_REFERENCES", "on")]);
    for (tag, count) in [("few", 400), ("many", 600)] {
        let manifest = image(&vec!["layer"; count]);
        registry.push_image("a", "v1", "layer");
        taken(&queue);
        registry.push_manifest("a", tag, IMAGE, &manifest);
        assert_eq!(registry.get(&format!("GET /v2/a/manifests/{tag}")).status, 200);
        registry.later.1.take().into_iter().for_each(|(_, work)| block_on(work));
        let named: Vec<usize> = queue.events().iter().map(|event| event.target.references.len()).collect();
        // With the config.
        let expected = if tag == "few" { count + 1 } else { 0 };
        assert_eq!(named, [expected; 2], "{tag}: the push and the pull");
        assert!(queue.messages.borrow().iter().all(|message| message.len() < 128_000));
    }
}

#[test]
fn what_an_event_repeats_of_its_request_has_a_limit() {
    let (registry, queue) = listening();
    let digest = registry.push_image("a", "v1", "layer");
    taken(&queue);
    let (agent, host) = ("x".repeat(10_000), "h".repeat(10_000));
    let line = format!("DELETE /v2/a/manifests/{digest}");
    assert_eq!(registry.send(&line, &[("user-agent", &agent), ("host", &host)], None).status, 202);
    for Event { request, source, .. } in queue.events() {
        assert_eq!((request.useragent.as_str(), request.host.as_str()), (&agent[..512], &host[..512]));
        assert_eq!(source.addr, request.host);
    }
    assert_eq!(taken(&queue).len(), 2);
}

#[test]
fn a_refused_request_has_no_event() {
    let (registry, queue) = listening();
    registry.get("GET /v2/");
    registry.later.1.take();
    let manifest = image(&["missing"]);
    let body = |text: &str| Some(MemoryStream::new(text.to_owned()));
    let put = registry.send("PUT /v2/a/manifests/v1", &[("content-type", IMAGE)], body(&manifest));
    assert_eq!(put.status, 400);
    let location = registry.start_upload("");
    let wrong = format!("PUT {location}&digest=sha256:{}", "0".repeat(64));
    assert_eq!(registry.send(&wrong, &[], body("x")).status, 400);
    assert_eq!(registry.send("DELETE /v2/a/manifests/v1", &[], None).status, 404);
    assert_eq!(registry.send("GET /v2/a/manifests/v1", &[], None).status, 404);
    assert!(registry.later.1.borrow().is_empty());
    assert_eq!(taken(&queue), [""; 0]);
}

#[test]
fn the_outbox_has_every_change_until_it_is_delivered() {
    let (registry, queue) = listening();
    queue.refuses.set(true);
    registry.push_image("a", "v1", "layer");
    let outbox = registry.app.outbox(&registry.context(Principal::Job("test")));
    let names = || block_on(outbox.names(registry.clock.now().plus_seconds(1), None, 10)).unwrap().names;
    assert_eq!(names().len(), 3);
    assert_eq!(taken(&queue), [""; 0]);

    // The job sends what is old enough.
    let context = registry.context(Principal::Job("resend"));
    let resend = |before| block_on(jobs::step(&Resend { before }, None, &registry.app, &context));
    queue.refuses.set(false);
    assert_eq!(resend(registry.clock.now().minus_seconds(60)).unwrap(), None);
    assert_eq!(queue.messages.borrow().len(), 0);
    assert_eq!(resend(registry.clock.now().plus_seconds(1)).unwrap(), None);
    assert_eq!(queue.messages.borrow().len(), 3);

    // So does a new isolate, after its first request.
    queue.messages.borrow_mut().clear();
    pass(&registry, 30);
    let persistent =
        Persistent { storage: registry.storage.clone(), queue: Some(queue.clone()), ..Persistent::default() };
    let second = TestRegistry::with(&ENDPOINT, persistent);
    second.clock.0.set(registry.clock.0.get());
    second.get("GET /v2/");
    for (_, work) in second.later.1.take() {
        block_on(work);
    }
    assert_eq!(queue.messages.borrow().len(), 3);
}

#[test]
fn a_new_isolate_sends_more_than_a_page_of_the_outbox_again() {
    // However short the pages of the storage are.
    for short_pages in [None, Some(6)] {
        let (registry, queue) = listening();
        for n in 0..150 {
            let path = Key::OutboxEntry(&format!("{n:013}-x")).path();
            block(registry.storage.memory.put(&path, Body::Bytes("[]".into()), PutOptions::default()));
        }
        registry.storage.short_pages.set(short_pages);
        pass(&registry, 30);
        registry.get("GET /v2/");
        registry.later.1.take().into_iter().for_each(|(_, work)| block_on(work));
        assert_eq!(queue.messages.borrow().len(), 150, "{short_pages:?}");
    }
}

#[test]
fn a_push_fails_if_neither_the_queue_nor_the_outbox_takes_its_events() {
    let (registry, queue) = listening();
    registry.push_image("a", "v1", "layer");
    taken(&queue);
    queue.refuses.set(true);
    let manifest = image(&["layer"]);
    let push = |tag: &str| {
        let line = format!("PUT /v2/a/manifests/{tag}");
        let body = Some(MemoryStream::new(manifest.clone()));
        registry.send(&line, &[("content-type", IMAGE)], body).status
    };
    assert_eq!(push("v2"), 201);
    registry.storage.fails_below.replace(Some("pierhead/outbox/"));
    assert_eq!(push("v3"), 503);
    assert_eq!(taken(&queue), [""; 0]);
    // The writer goes on with the change, and its event is sent then.
    registry.storage.fails_below.replace(None);
    queue.refuses.set(false);
    pass(&registry, 120);
    block_on(registry.writers.run_alarms()).unwrap();
    let hex = taken(&queue);
    assert_eq!(hex.len(), 1, "{hex:?}");
    assert!(hex[0].starts_with("push") && hex[0].ends_with("v3"));
}

#[test]
fn a_change_has_its_events_whichever_of_its_calls_fails() {
    let (registry, queue) = listening();
    let digest = registry.push_image("a", "v1", "layer");
    queue.messages.borrow_mut().clear();
    for n in 0..40 {
        registry.push_image("a", "v1", "layer");
        queue.messages.borrow_mut().clear();
        registry.storage.fail_at(Some((n, Fault::Timeout)));
        let status = registry.send(&format!("DELETE /v2/a/manifests/{digest}"), &[], None).status;
        let is_reached = registry.storage.calls.borrow().len() > n;
        registry.storage.fail_at(None);
        registry.writers.restart();
        for _ in 0..3 {
            pass(&registry, 120);
            block_on(registry.writers.run_alarms()).unwrap();
        }
        let events = queue.events();
        let ids: BTreeSet<_> = events.iter().map(|event| event.id).collect();
        let gone = registry.send(&format!("HEAD /v2/a/manifests/{digest}"), &[], None).status == 404;
        assert!(status == 202 || status == 503, "{status} at call {n}");
        assert!(gone || status == 503, "call {n}");
        assert_eq!(ids.len(), if gone { 2 } else { 0 }, "a tag and a manifest, at call {n}: {events:?}");
        if !is_reached {
            break;
        }
    }
}

#[test]
fn a_tag_that_moves_while_its_manifest_is_deleted_is_told_deleted_only_if_it_is() {
    let name = "a".parse().unwrap();
    let link = Key::TagCurrent(&name, &"v1".parse().unwrap()).path();
    let mut stayed = 0;
    for n in 0.. {
        let (registry, queue) = listening();
        let other = registry.push_image("a", "v2", "other");
        let digest = registry.push_image("a", "v1", "layer");
        queue.messages.borrow_mut().clear();
        let (memory, calls) = (registry.storage.memory.clone(), registry.storage.calls.clone());
        let (path, to) = (link.clone(), other.to_string());
        let moves = move || {
            if calls.borrow().len() == n + 1 && block(memory.head(&path)).is_some() {
                block(memory.put(&path, Body::Bytes(to.clone().into()), PutOptions::default()));
            }
        };
        registry.storage.calls.borrow_mut().clear();
        registry.storage.on_call.replace(Some(Box::new(moves)));
        let status = registry.send(&format!("DELETE /v2/a/manifests/{digest}"), &[], None).status;
        registry.storage.on_call.replace(None);
        assert_eq!(status, 202, "at call {n}");
        let is_there = block(registry.storage.memory.head(&link)).is_some();
        let is_told = taken(&queue).contains(&"delete - v1".to_owned());
        assert_ne!(is_there, is_told, "at call {n}");
        stayed += usize::from(is_there);
        if registry.storage.calls.borrow().len() <= n {
            break;
        }
    }
    assert!(stayed > 3, "{stayed}");
}

/// The answer of a driver in memory, which does not wait.
fn block<T>(answer: Call<'_, T>) -> T {
    answer.now_or_never().unwrap().unwrap()
}

#[test]
fn what_a_job_deletes_has_the_job_as_its_actor() {
    let (registry, queue) = listening();
    let digest = registry.push_image("a", "v1", "layer");
    taken(&queue);
    let name = "a".parse().unwrap();
    let repository = registry.app.repository(&name, &registry.context(Principal::Job("retain")));
    assert!(block_on(repository.delete_manifest(&digest)).unwrap());
    let events = queue.events();
    assert_eq!(events.len(), 2, "a tag and a manifest");
    for Event { actor, request, target, .. } in events {
        assert_eq!((&*actor.name, &*request.id, &*request.method), ("job:retain", "test", ""));
        assert_eq!(target.url, None);
    }
}
