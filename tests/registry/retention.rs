//! Retention: what the job drops and keeps, what it tells, and races with pushes.

use std::{cell::Cell, rc::Rc};

use futures_executor::block_on;
use futures_util::FutureExt;
use pierhead::{
    auth::Principal,
    events::memory::MemoryQueue,
    jobs::{Job, Retain},
    layout::Key,
    oci::{Digest, RepositoryName, Tag},
    platform::{Body::Stream, Timestamp, memory::MemoryStream},
    repository::{Repository, Seen, writer::protocol::Command},
    storage::StorageDriver,
};
use serde_json::{Value, json};

use crate::{
    fixtures::{INDEX, sha256},
    support::{Fault, Faulty, Persistent, TestRegistry},
};

const HOUR: u64 = 60 * 60 * 1000;

/// Sets the time of the registry and of its storage, in hours.
fn at(registry: &TestRegistry, hours: u64) {
    registry.clock.0.set(hours * HOUR);
    registry.storage.memory.now.set(Timestamp(hours * HOUR));
}

/// A manifest without blobs.
fn index(of: &str) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"of": of}}).to_string()
}

fn push(registry: &TestRegistry, name: &str, reference: &str, content: &str) -> Digest {
    let line = format!("PUT /v2/{name}/manifests/{reference}");
    let body = Some(MemoryStream::new(content.to_owned()));
    assert_eq!(registry.send(&line, &[("content-type", INDEX)], body).status, 201, "{line}");
    sha256(content)
}

fn repository(registry: &TestRegistry) -> Rc<dyn Repository> {
    let name: RepositoryName = "a".parse().unwrap();
    registry.app.repository(&name, &registry.context(Principal::Job("test")))
}

fn status(registry: &TestRegistry, reference: impl std::fmt::Display) -> u16 {
    registry.get(&format!("HEAD /v2/a/manifests/{reference}")).status.as_u16()
}

#[test]
fn a_tag_that_was_pushed_since_it_was_seen_stays() {
    let registry = TestRegistry::new();
    let (tag, repository): (Tag, _) = ("v1".parse().unwrap(), repository(&registry));
    let delete = |digest: &Digest, hours: u64| {
        let seen = Seen { digest: digest.clone(), pushed: Timestamp(hours * HOUR) };
        block_on(repository.delete_tag_seen(&tag, &seen)).unwrap()
    };
    at(&registry, 1);
    let one = push(&registry, "a", "v1", &index("one"));
    assert!(!delete(&sha256("other"), 1));
    at(&registry, 2);
    let two = push(&registry, "a", "v1", &index("two"));
    assert!(!delete(&one, 1) && !delete(&one, 2));
    // The same manifest, but pushed again.
    at(&registry, 3);
    push(&registry, "a", "v1", &index("one"));
    assert!(!delete(&one, 1) && !delete(&two, 2));
    assert_eq!(status(&registry, "v1"), 200);
    assert!(delete(&one, 3) && !delete(&one, 3));
    assert_eq!((status(&registry, "v1"), status(&registry, &one)), (404, 200));
}

#[test]
fn a_manifest_that_a_tag_points_to_stays() {
    let registry = TestRegistry::new();
    let repository = repository(&registry);
    let delete = |digest: &Digest, hours: u64| {
        block_on(repository.delete_unused(digest, Timestamp(hours * HOUR))).unwrap()
    };
    at(&registry, 1);
    let one = push(&registry, "a", "latest", &index("one"));
    assert!(!delete(&one, 2));
    at(&registry, 3);
    let two = push(&registry, "a", "latest", &index("two"));
    // A tag was pushed since: what it points to may need the manifest.
    assert!(!delete(&one, 2) && !delete(&one, 3));
    assert!(!delete(&two, 4) && delete(&one, 4) && !delete(&one, 4));
    assert_eq!((status(&registry, &one), status(&registry, "latest")), (404, 200));
}

#[test]
fn commands_grow_only_where_something_was_seen() {
    let tag: Tag = "v1".parse().unwrap();
    let digest = sha256("x");
    let command = Command::DeleteTag {
        tag,
        immutable: Vec::new(),
        seen: Some(Seen { digest: digest.clone(), pushed: Timestamp(7) }),
    };
    let json = json!({"DeleteTag": {"tag": "v1", "seen": {"digest": digest, "pushed": 7}}});
    assert_eq!(serde_json::to_value(&command).unwrap(), json);
    let old = json!({"DeleteManifest": {"digest": digest}});
    let command: Command = serde_json::from_value(old).unwrap();
    assert!(matches!(command, Command::DeleteManifest { unused_since: None, .. }));
    let json = json!({"DeleteManifest": {"digest": digest, "lacks_content": false, "unused_since": 7}});
    let command: Command = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(&command).unwrap(), json);
}

const DAY: u64 = 24;

fn rules(rules: &str) -> TestRegistry {
    with(rules, &[])
}

fn with(rules: &str, vars: &[(&str, &str)]) -> TestRegistry {
    let rules = format!("[[rule]]\nrepositories = [\"a\", \"a/**\"]\n{rules}\n");
    let vars = [&[("RETENTION", rules.as_str())], vars].concat();
    TestRegistry::with(&vars, Persistent::default())
}

/// Runs one step of the job; returns its report, and where to go on.
fn step(registry: &TestRegistry, dry_run: bool, cursor: Option<String>) -> (Value, Option<String>) {
    let context = registry.context(Principal::Job("retain"));
    let step = block_on(Retain { dry_run }.step(&registry.app, &context, cursor)).unwrap();
    assert!(step.next.as_ref().is_none_or(|next| next.len() <= 1024));
    (step.report, step.next)
}

/// Runs the job to its end; returns the reports.
fn run_all(registry: &TestRegistry) -> Vec<Value> {
    let (mut reports, mut cursor) = (Vec::new(), None);
    loop {
        let (report, next) = step(registry, false, cursor);
        reports.push(report);
        cursor = next;
        if cursor.is_none() {
            return reports;
        }
    }
}

/// Runs the job, which takes one step.
fn run(registry: &TestRegistry) -> Value {
    let mut reports = run_all(registry);
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

fn tags(registry: &TestRegistry, name: &str) -> Vec<String> {
    let answer = registry.get(&format!("GET /v2/{name}/tags/list"));
    let list: Value = serde_json::from_slice(&answer.body).unwrap();
    serde_json::from_value(list["tags"].clone()).unwrap()
}

fn verdict(report: &Value, of: &str) -> String {
    let decisions = report["decisions"].as_array().unwrap();
    let is_of = |decision: &&Value| decision["tag"] == of || decision["digest"] == of;
    decisions
        .iter()
        .find(is_of)
        .map_or(String::new(), |decision| decision["verdict"].as_str().unwrap().to_owned())
}

#[test]
fn without_a_rule_nothing_is_dropped() {
    for text in ["", "# nothing\n", "[[rule]]\nrepositories = [\"b\"]\nkeep_last = 1\nuntagged = \"1h\"\n"] {
        let registry = TestRegistry::with(&[("RETENTION", text)], Persistent::default());
        at(&registry, 1);
        for tag in ["one", "two", "latest"] {
            push(&registry, "a", tag, &index(tag));
        }
        at(&registry, 1000 * DAY);
        let before = registry.storage.memory.paths();
        let report = run(&registry);
        assert_eq!((&report["tags"]["dropped"], &report["repositories"]), (&json!(0), &json!(0)));
        assert_eq!(registry.storage.memory.paths(), before);
    }
}

#[test]
fn only_the_last_tags_and_what_is_named_remain() {
    let registry = rules("keep_last = 2\nkeep = [\"latest\"]");
    for (hour, tag) in ["latest", "c", "b", "a", "old"].into_iter().enumerate() {
        at(&registry, hour as u64);
        push(&registry, "a", tag, &index(tag));
        push(&registry, "other", tag, &index(tag));
    }
    at(&registry, 6);
    // The oldest tag moves, and is the newest then.
    push(&registry, "a", "c", &index("again"));
    at(&registry, 7);
    let (dry, next) = step(&registry, true, None);
    assert_eq!((&dry["dry_run"], &dry["tags"]["dropped"], next), (&json!(true), &json!(2), None));
    assert_eq!(tags(&registry, "a").len(), 5);
    let report = run(&registry);
    assert_eq!(dry["decisions"], report["decisions"]);
    let expected = json!({"kept": 3, "dropped": 2, "immutable": 0, "changed": 0});
    assert_eq!((&report["dry_run"], &report["tags"]), (&json!(false), &expected));
    assert_eq!(tags(&registry, "a"), ["c", "latest", "old"]);
    assert_eq!(tags(&registry, "other").len(), 5);
    assert_eq!(verdict(&report, "a"), "dropped by the rule in line 1: nothing keeps it");
    assert_eq!(verdict(&report, "c"), "kept by the rule in line 1: one of the last 2");
    assert_eq!(verdict(&report, "latest"), "kept by the rule in line 1: its name matches \"latest\"");
    // Their manifests stay: no rule says otherwise.
    assert_eq!(status(&registry, sha256(index("a"))), 200);
    assert_eq!(run(&registry)["tags"]["dropped"], json!(0));
}

#[test]
fn the_document_and_maintenance_can_make_every_run_dry() {
    let text = "dry_run = true\n[[rule]]\nrepositories = [\"a\"]\nkeep_last = 1\n";
    let dry = TestRegistry::with(&[("RETENTION", text)], Persistent::default());
    for tag in ["one", "two"] {
        push(&dry, "a", tag, &index(tag));
    }
    let text = text.replace("dry_run = true\n", "");
    let vars = [("RETENTION", text.as_str()), ("READ_ONLY", "on")];
    let read_only =
        TestRegistry::with(&vars, Persistent { storage: dry.storage.clone(), ..Persistent::default() });
    for registry in [&dry, &read_only] {
        let report = run(registry);
        assert_eq!((&report["dry_run"], &report["tags"]["dropped"]), (&json!(true), &json!(1)));
        assert_eq!(tags(registry, "a").len(), 2);
    }
}

#[test]
fn what_goes_is_told() {
    let rules = "[[rule]]\nrepositories = [\"a\"]\nkeep = [\"new\"]\nuntagged = \"1h\"\n";
    let queue = Rc::new(MemoryQueue::default());
    let endpoints = r#"[{"name": "ci", "url": "https://ci.example.com"}]"#;
    let persistent = Persistent { queue: Some(queue.clone()), ..Persistent::default() };
    let registry = TestRegistry::with(&[("RETENTION", rules), ("EVENT_ENDPOINTS", endpoints)], persistent);
    at(&registry, 0);
    let digest = push(&registry, "a", "old", &index("old"));
    push(&registry, "a", "new", &index("new"));
    at(&registry, 2);
    queue.messages.take();
    run(&registry);
    let messages: Vec<Value> =
        queue.messages.take().iter().map(|message| serde_json::from_str(message).unwrap()).collect();
    let events = messages.iter().flat_map(|message| message["events"].as_array().unwrap());
    let told: Vec<(&Value, &Value, &Value)> =
        events.map(|event| (&event["action"], &event["target"]["tag"], &event["target"]["digest"])).collect();
    assert_eq!(
        told,
        [(&json!("delete"), &json!("old"), &Value::Null), (&json!("delete"), &Value::Null, &json!(digest))]
    );
    assert_eq!(messages[0]["events"][0]["actor"]["name"], json!("job:retain"));
}

#[test]
fn immutable_tags_stay_and_are_reported() {
    let policy = "[[tags]]\nrepositories = [\"a\"]\nimmutable = [\"v*\"]\n";
    let registry = with("keep_last = 1", &[("POLICY", policy)]);
    for (hour, tag) in ["v1", "x", "new"].into_iter().enumerate() {
        at(&registry, hour as u64);
        push(&registry, "a", tag, &index(tag));
    }
    let report = run(&registry);
    assert_eq!(report["tags"], json!({"kept": 1, "dropped": 1, "immutable": 1, "changed": 0}));
    assert_eq!(verdict(&report, "v1"), "kept: the policy makes it immutable by line 1");
    assert_eq!(tags(&registry, "a"), ["new", "v1"]);
}

/// From now on, pushes an index before a call of the registry, counted from 0, and returns whether it is acknowledged.
fn push_at_call(registry: &Rc<TestRegistry>, call: usize, reference: &str, content: &str) -> Rc<Cell<bool>> {
    let (calls, is_pushing) = (Cell::new(0), Cell::new(false));
    let acknowledged = Rc::new(Cell::new(false));
    let (target, content) = (format!("/v2/a/manifests/{reference}"), content.to_owned());
    let hook = {
        let (registry, acknowledged) = (Rc::downgrade(registry), acknowledged.clone());
        move || {
            if is_pushing.get() {
                return;
            }
            calls.set(calls.get() + 1);
            if calls.get() == call + 1 {
                is_pushing.set(true);
                let registry = registry.upgrade().unwrap();
                let body = Stream(MemoryStream::new(content.clone()).into());
                let request = http::Request::put(&target).header("content-type", INDEX);
                // It waits for its turn if the deletion has begun: this one does not.
                let answer = registry.handle(request.body(body).unwrap()).now_or_never();
                acknowledged.set(answer.is_some_and(|answer| answer.status() == 201));
                is_pushing.set(false);
            }
        }
    };
    registry.storage.on_call.replace(Some(Box::new(hook)));
    acknowledged
}

/// A push between any two calls of the job wins.
#[test]
fn a_tag_that_is_pushed_while_the_job_runs_stays() {
    let mut outcomes = Vec::new();
    for call in 0..12 {
        let registry = Rc::new(rules("keep_pulled_within = \"1d\""));
        at(&registry, 0);
        push(&registry, "a", "v1", &index("one"));
        at(&registry, 3 * DAY);
        let pushed = push_at_call(&registry, call, "v1", &index("two"));
        let report = run(&registry);
        registry.storage.on_call.replace(None);
        if pushed.get() {
            assert_eq!(
                registry.get("GET /v2/a/manifests/v1").body,
                index("two").into_bytes(),
                "{call} {report}"
            );
            outcomes.push(report["tags"].clone());
        }
    }
    let has = |field: &str| outcomes.iter().any(|tags| tags[field] == json!(1));
    assert!(has("kept") && has("changed"), "{outcomes:?}");
}

#[test]
fn ten_thousand_tags_take_several_steps() {
    let registry = rules("keep_last = 10");
    let name: RepositoryName = "a".parse().unwrap();
    at(&registry, 0);
    let digest = push(&registry, "a", "t", &index("x"));
    let copy = |from: Key<'_>, to: Key<'_>| {
        let object = block_on(registry.storage.memory.get(&from.path(), None)).unwrap().unwrap();
        let options = pierhead::storage::PutOptions { metadata: object.meta.metadata, ..Default::default() };
        block_on(registry.storage.memory.put(&to.path(), object.body, options)).unwrap();
    };
    let t: Tag = "t".parse().unwrap();
    for n in 1..10_000 {
        at(&registry, n);
        let tag: Tag = format!("t{n}").parse().unwrap();
        copy(Key::TagCurrent(&name, &t), Key::TagCurrent(&name, &tag));
        copy(Key::TagIndex(&name, &t, &digest), Key::TagIndex(&name, &tag, &digest));
    }
    at(&registry, 20_000);
    let (mut dropped, mut cursor, mut steps, mut most) = (0, None, 0, 0);
    loop {
        registry.storage.calls.borrow_mut().clear();
        // A run that is interrupted goes on with the cursor of the last step.
        let (report, next) = step(&registry, false, cursor);
        assert!(report["decisions"].as_array().unwrap().len() <= 100);
        dropped += report["tags"]["dropped"].as_u64().unwrap();
        (steps, most) = (steps + 1, most.max(registry.storage.calls.borrow().len()));
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    println!("{steps} steps, at most {most} calls");
    // The calls of the writer count here, too.
    assert!(dropped == 9_990 && (20..100).contains(&steps) && most < 2_500, "{dropped} {steps} {most}");
    assert_eq!(tags(&registry, "a"), (9_990..10_000).map(|n| format!("t{n}")).collect::<Vec<_>>());
}

#[test]
fn a_pull_is_noted_once_a_day_and_keeps_its_tag() {
    let registry = rules("keep_pulled_within = \"10d\"");
    at(&registry, 0);
    for tag in ["by-tag", "by-digest", "looked-at", "other"] {
        push(&registry, "a", tag, &index(tag));
        push(&registry, "b", tag, &index(tag));
    }
    let digest = |of: &str| sha256(index(of));
    let notes = || {
        registry.storage.memory.paths().into_iter().filter(|path| path.starts_with("pierhead/pulls/")).count()
    };
    let pull = |line: &str, headers: &[(&str, &str)]| {
        registry.storage.calls.borrow_mut().clear();
        assert!(registry.send(line, headers, None).status.as_u16() < 400);
        let during = registry.storage.calls.borrow().len();
        registry.run_background();
        registry.storage.calls.borrow().len() - during
    };
    at(&registry, 8 * DAY);
    assert_eq!(pull("GET /v2/a/manifests/by-tag", &[]), 2);
    assert_eq!(pull("GET /v2/a/manifests/by-tag", &[]), 0);
    assert_eq!(pull(&format!("GET /v2/a/manifests/{}", digest("by-tag")), &[]), 0);
    let etag = format!("\"{}\"", digest("by-digest"));
    assert_eq!(pull("GET /v2/a/manifests/by-digest", &[("if-none-match", &etag)]), 2);
    assert_eq!(pull("HEAD /v2/a/manifests/looked-at", &[]), 0);
    // No rule asks for these.
    assert_eq!(pull("GET /v2/b/manifests/other", &[]), 0);
    assert_eq!(notes(), 2);
    // Another isolate looks, and need not write.
    let other = TestRegistry::with(
        &[("RETENTION", "[[rule]]\nrepositories = [\"a\"]\nkeep_pulled_within = \"10d\"\n")],
        Persistent { storage: registry.storage.clone(), ..Persistent::default() },
    );
    at(&other, 8 * DAY + 23);
    other.get("GET /v2/a/manifests/by-tag");
    registry.storage.calls.borrow_mut().clear();
    other.run_background();
    assert_eq!(*registry.storage.calls.borrow(), ["head"]);

    at(&registry, 10 * DAY);
    let report = run(&registry);
    assert_eq!(tags(&registry, "a"), ["by-digest", "by-tag"]);
    assert_eq!(verdict(&report, "by-tag"), "kept by the rule in line 1: pulled or pushed within 10d");
    // The note may be a day old, so it counts for a day more. Then it is of no use.
    at(&registry, 19 * DAY - 1);
    assert_eq!((run(&registry)["tags"]["dropped"].clone(), notes()), (json!(0), 2));
    at(&registry, 19 * DAY);
    let report = run(&registry);
    assert_eq!((&report["tags"]["dropped"], &report["pull_notes"], notes()), (&json!(2), &json!(2), 0));
}

#[test]
fn a_note_that_fails_harms_nobody() {
    for fault in [Fault::Error, Fault::Refused, Fault::Timeout] {
        let registry = rules("keep_pulled_within = \"10d\"");
        push(&registry, "a", "v1", &index("x"));
        assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 200);
        registry.storage.fail_at(Some((1, fault)));
        registry.run_background();
        assert_eq!(*registry.storage.calls.borrow(), ["head", "put"], "{fault:?}");
        registry.storage.fail_at(None);
        assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 200);
    }
}

/// An index of these manifests.
fn index_of(children: &[&str]) -> String {
    let child =
        |content: &&str| json!({"mediaType": INDEX, "digest": sha256(content), "size": content.len()});
    let children: Vec<Value> = children.iter().map(child).collect();
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).to_string()
}

/// A manifest that refers to another.
fn referrer_of(subject: &Digest) -> String {
    let subject = json!({"mediaType": INDEX, "digest": subject, "size": 1});
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}).to_string()
}

fn push_untagged(registry: &TestRegistry, content: &str) -> Digest {
    push(registry, "a", sha256(content).to_string().as_str(), content)
}

#[test]
fn untagged_manifests_go_from_the_top() {
    for (hides_metadata, short_pages) in [(false, None), (true, Some(1))] {
        let registry = rules("untagged = \"7d\"");
        registry.storage.hides_metadata.set(hides_metadata);
        registry.storage.short_pages.set(short_pages);
        at(&registry, 1);
        let (inner, loose, grand) = (index("inner"), index("loose"), index("grand"));
        let [inner_digest, loose_digest, grand_digest] =
            [&inner, &loose, &grand].map(|content| push_untagged(&registry, content));
        let middle = index_of(&[&grand]);
        let middle_digest = push_untagged(&registry, &middle);
        let tagged = push(&registry, "a", "v1", &index_of(&[&inner]));
        let top = push_untagged(&registry, &index_of(&[&middle]));
        let signature = push_untagged(&registry, &referrer_of(&tagged));
        let orphan = push_untagged(&registry, &referrer_of(&sha256("nowhere")));
        let all =
            [&inner_digest, &loose_digest, &grand_digest, &middle_digest, &tagged, &top, &signature, &orphan];
        let left = || all.map(|digest| status(&registry, digest) == 200);

        at(&registry, 7 * DAY);
        run_all(&registry);
        assert_eq!(left(), [true; 8]);
        at(&registry, 7 * DAY + 1);
        let young = push_untagged(&registry, &index("young"));
        let report = run_all(&registry).remove(0);
        assert_eq!(left(), [true, false, true, true, true, false, true, false]);
        let dropped = "dropped by the rule in line 1: untagged, and nothing needs it";
        assert_eq!(verdict(&report, &loose_digest.to_string()), dropped);
        assert_eq!(verdict(&report, &inner_digest.to_string()), "kept: an index names it");
        assert_eq!(verdict(&report, &signature.to_string()), "kept: it refers to a manifest that is there");
        run_all(&registry);
        assert_eq!(left(), [true, false, true, false, true, false, true, false]);
        run_all(&registry);
        assert_eq!(left(), [true, false, false, false, true, false, true, false]);
        assert_eq!((status(&registry, &young), status(&registry, "v1")), (200, 200));
        // The tag goes, and with the index what belongs to it.
        registry.get("DELETE /v2/a/manifests/v1");
        run_all(&registry);
        run_all(&registry);
        assert_eq!((left(), status(&registry, &young)), ([false; 8], 200));
    }
}

/// What is acknowledged between any two calls of the job, without a tag, has what it needs.
#[test]
fn a_manifest_that_is_needed_while_the_job_runs_stays() {
    let (loose, subject) = (index("loose"), index("subject"));
    let orphan = referrer_of(&sha256(&subject));
    for (old, pushed) in [(&loose, &index_of(&[&loose])), (&orphan, &subject), (&loose, &loose)] {
        let mut outcomes = Vec::new();
        for call in 0..20 {
            let registry = Rc::new(rules("untagged = \"7d\""));
            at(&registry, 0);
            let digest = push_untagged(&registry, old);
            at(&registry, 8 * DAY);
            let acknowledged = push_at_call(&registry, call, &sha256(pushed).to_string(), pushed);
            let report = run(&registry);
            registry.storage.on_call.replace(None);
            if acknowledged.get() {
                // A subject does not need its referrers: they may have gone just before it came.
                let may_be_gone = pushed == &subject && report["manifests"]["dropped"] == json!(1);
                assert!(may_be_gone || status(&registry, &digest) == 200, "{call} {pushed} {report}");
                assert_eq!(status(&registry, sha256(pushed)), 200);
                outcomes.push(report["manifests"].clone());
            }
        }
        let has = |field: &str| outcomes.iter().any(|manifests| manifests[field] == json!(1));
        assert!(has("changed"), "{pushed} {outcomes:?}");
    }
}

#[test]
fn an_index_whose_manifest_was_dropped_just_before_is_refused() {
    let registry = rules("untagged = \"7d\"");
    at(&registry, 0);
    let (child, other) = (index("child"), index("other"));
    let (dropped, deleted) = (push_untagged(&registry, &child), push_untagged(&registry, &other));
    push(&registry, "a", "v1", &other);
    at(&registry, 8 * DAY);
    run(&registry);
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{deleted}")), 202);
    let put = |tag: &str, child: &String| {
        let body = Some(MemoryStream::new(index_of(&[child])));
        registry.send(&format!("PUT /v2/a/manifests/{tag}"), &[("content-type", INDEX)], body)
    };
    let refused = put("v2", &child);
    let errors: Value = serde_json::from_slice(&refused.body).unwrap();
    let code = json!("MANIFEST_BLOB_UNKNOWN");
    assert_eq!((refused.status.as_u16(), &errors["errors"][0]["code"]), (400, &code), "{errors}");
    assert!(errors.to_string().contains(&dropped.to_string()), "{errors}");
    assert_eq!((status(&registry, &dropped), status(&registry, "v2")), (404, 404));
    // As a client does then.
    push_untagged(&registry, &child);
    assert_eq!(put("v2", &child).status, 201);
    // Whoever deletes a manifest may push an index without it, and so may anybody when nobody can rely on it any more.
    assert_eq!(put("v3", &other).status, 201);
}

/// A push counts, although the manifest is there and this isolate or another one has pushed it.
#[test]
fn a_manifest_is_untagged_since_its_last_push() {
    for is_other_isolate in [false, true] {
        let storage = Faulty::default();
        let isolate = || {
            let rules = "[[rule]]\nrepositories = [\"a\"]\nuntagged = \"7d\"\n";
            let persistent = Persistent { storage: storage.clone(), ..Persistent::default() };
            TestRegistry::with(&[("RETENTION", rules)], persistent)
        };
        let mut registry = isolate();
        let (content, orphan) = (index("rolled back"), referrer_of(&sha256("nowhere")));
        for day in [0, 5, 10, 15] {
            if is_other_isolate {
                registry = isolate();
            }
            at(&registry, day * DAY);
            let digests = [&content, &orphan].map(|content| push_untagged(&registry, content));
            run(&registry);
            assert_eq!(digests.map(|digest| status(&registry, digest)), [200; 2], "day {day}");
        }
        let left = || [&content, &orphan].map(|content| status(&registry, sha256(content)));
        at(&registry, 21 * DAY + 23);
        run(&registry);
        assert_eq!(left(), [200; 2]);
        at(&registry, 22 * DAY);
        run(&registry);
        assert_eq!(left(), [404; 2]);
    }
}

#[test]
fn a_manifest_is_untagged_since_its_tag_moved_on() {
    let registry = rules("untagged = \"7d\"");
    let mut digests = Vec::new();
    for day in [0, 10, 20, 30] {
        at(&registry, day * DAY);
        digests.push(push(&registry, "a", "latest", &index(&day.to_string())));
        let name = if day == 0 { "first" } else { "second" };
        push(&registry, "a", name, &index(&day.to_string()));
    }
    let left = || digests.iter().map(|digest| status(&registry, digest) == 200).collect::<Vec<_>>();
    at(&registry, 31 * DAY);
    let report = run(&registry);
    // The first still has a tag; the second lost both on day 20, and the third on day 30.
    assert_eq!(left(), [true, false, true, true]);
    assert_eq!(verdict(&report, &digests[2].to_string()), "kept: a tag pointed to it until lately");
    at(&registry, 37 * DAY + 1);
    run(&registry);
    assert_eq!(left(), [true, false, false, true]);
}

#[test]
fn an_untagged_manifest_that_is_pulled_stays() {
    let registry = rules("untagged = \"7d\"\nkeep_pulled_within = \"7d\"");
    at(&registry, 0);
    let (pulled, other) =
        (push_untagged(&registry, &index("pulled")), push_untagged(&registry, &index("other")));
    at(&registry, 8 * DAY);
    registry.get(&format!("GET /v2/a/manifests/{pulled}"));
    registry.run_background();
    at(&registry, 9 * DAY);
    let report = run(&registry);
    assert_eq!((status(&registry, &pulled), status(&registry, &other)), (200, 404));
    assert_eq!(verdict(&report, &pulled.to_string()), "kept: it was pulled lately");
    at(&registry, 16 * DAY);
    run(&registry);
    assert_eq!(status(&registry, &pulled), 404);
    // The note has gone with it.
    assert!(!registry.storage.memory.paths().iter().any(|path| path.starts_with("pierhead/pulls/")));
}

/// More indexes than a step reads: the scan is kept in the bucket from step to step.
#[test]
fn a_scan_takes_several_steps() {
    let registry = rules("untagged = \"1h\"");
    at(&registry, 0);
    let children: Vec<String> = (0..600).map(|n| index(&format!("child {n}"))).collect();
    for (n, child) in children.iter().enumerate() {
        push_untagged(&registry, child);
        push(&registry, "a", &format!("t{n}"), &index_of(&[child]));
    }
    let loose = push_untagged(&registry, &index("loose"));
    at(&registry, 2);
    let (mut cursor, mut steps, mut late) = (None, 0, None);
    loop {
        let (report, next) = step(&registry, false, cursor);
        assert!(report["manifests"]["changed"] == json!(0) && report.get("failures").is_none(), "{report}");
        cursor = next;
        steps += 1;
        let Some(at_cursor) = &cursor else { break };
        let is_stored = registry.storage.memory.paths().contains(&"pierhead/retain-scan".to_owned());
        assert_eq!(is_stored, at_cursor.contains("Scan") || at_cursor.contains("Untagged"), "{at_cursor}");
        if steps == 2 {
            // The scan may have passed its place by now.
            late = Some(push_untagged(&registry, &index_of(&[&index("loose")])));
            registry.clock.0.set(2 * HOUR + 60_000);
        }
    }
    assert!(steps > 3, "{steps}");
    for child in &children {
        assert_eq!(status(&registry, sha256(child)), 200);
    }
    assert_eq!((status(&registry, &loose), status(&registry, late.unwrap())), (200, 200));
    assert!(!registry.storage.memory.paths().contains(&"pierhead/retain-scan".to_owned()));
    // Another run has taken the place of its scan: it begins again, and drops nothing that is needed.
    let cursor = r#"{"Untagged":{"name":"a","id":"x","after":""}}"#;
    let (report, next) = step(&registry, false, Some(cursor.to_owned()));
    assert!(report["manifests"]["dropped"] == json!(0) && next.unwrap().contains("Scan"), "{report}");
}

#[test]
fn one_bad_tag_does_not_keep_the_job_from_the_others() {
    let registry = rules("keep = [\"latest\"]\nuntagged = \"1h\"");
    at(&registry, 0);
    for tag in ["bad", "good", "latest"] {
        push(&registry, "a", tag, &index(tag));
    }
    let (name, tag): (RepositoryName, Tag) = ("a".parse().unwrap(), "bad".parse().unwrap());
    let body = pierhead::platform::Body::Bytes("not a digest".into());
    let path = Key::TagCurrent(&name, &tag).path();
    block_on(registry.storage.memory.put(&path, body, Default::default())).unwrap();
    at(&registry, 2);
    let report = run(&registry);
    assert_eq!((&report["tags"]["dropped"], &report["failures"]), (&json!(1), &json!(1)));
    assert_eq!(tags(&registry, "a"), ["bad", "latest"]);
    // It is not known what the bad tag points to: what it has pointed to stays.
    assert_eq!(
        (status(&registry, sha256(index("bad"))), status(&registry, sha256(index("good")))),
        (200, 404)
    );
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_those_that_it_may_need() {
    let registry = rules("untagged = \"1h\"");
    at(&registry, 0);
    let needed = push_untagged(&registry, &index("needed"));
    let parent = push(&registry, "a", "v1", &index_of(&[&index("needed")]));
    let other = push(&registry, "a/b", sha256(index("other")).to_string().as_str(), &index("other"));
    let body = pierhead::platform::Body::Bytes(vec![b' '; 9 << 20].into());
    block_on(registry.storage.memory.put(&Key::Data(&parent).path(), body, Default::default())).unwrap();
    at(&registry, 2);
    let report = run(&registry);
    assert_eq!((&report["failures"], &report["manifests"]["dropped"]), (&json!(1), &json!(1)));
    assert_eq!(status(&registry, &needed), 200);
    assert_eq!(registry.get(&format!("HEAD /v2/a/b/manifests/{other}")).status, 404);
}

#[test]
fn a_run_goes_on_after_the_last_repository() {
    let registry = rules("keep = [\"latest\"]");
    at(&registry, 0);
    for name in ["a", "a/b", "a/c"] {
        push(&registry, name, "old", &index("x"));
        push(&registry, name, "latest", &index("x"));
    }
    let cursor = Some(r#"{"After":"a"}"#.to_owned());
    assert_eq!(step(&registry, false, cursor).0["repositories"], json!(2));
    assert_eq!(
        (tags(&registry, "a").len(), tags(&registry, "a/b").len(), tags(&registry, "a/c").len()),
        (2, 1, 1)
    );
    assert_eq!(registry.get("POST /v2/_pierhead/jobs/retain/run").status, 200);
    assert_eq!(tags(&registry, "a"), ["latest"]);
}

#[test]
fn a_run_that_fails_anywhere_is_completed_by_the_next() {
    let mut failed = 0;
    for fault in [Fault::Error, Fault::Timeout] {
        for call in 0.. {
            let registry = rules("keep = [\"latest\"]\nkeep_pulled_within = \"1d\"\nuntagged = \"1h\"");
            at(&registry, 0);
            let [old, latest] = ["old", "latest"].map(|tag| push(&registry, "a", tag, &index(tag)));
            let child = push_untagged(&registry, &index("child"));
            push(&registry, "a", "latest-index", &index_of(&[&index("child")]));
            at(&registry, 10 * DAY);
            registry.storage.fail_at(Some((call, fault)));
            let context = registry.context(Principal::Job("retain"));
            let step = block_on(Retain { dry_run: false }.step(&registry.app, &context, None));
            let is_over = registry.storage.calls.borrow().len() <= call;
            registry.storage.fail_at(None);
            failed += usize::from(step.is_err());
            assert_eq!(
                (status(&registry, "latest"), status(&registry, &latest)),
                (200, 200),
                "{call} {fault:?}"
            );
            registry.recover();
            // The index goes in the first of these runs, and its child in the second.
            run_all(&registry);
            run_all(&registry);
            assert_eq!(tags(&registry, "a"), ["latest"], "{call} {fault:?}");
            let left = [&old, &child, &latest].map(|digest| status(&registry, digest));
            assert_eq!(left, [404, 404, 200], "{call} {fault:?}");
            if is_over {
                assert!(call > 20, "{call}");
                break;
            }
        }
    }
    assert!(failed > 3, "{failed}");
}
