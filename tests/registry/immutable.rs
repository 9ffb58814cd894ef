//! Immutable tags: which pushes and deletions are refused, what that costs, and interrupted pushes.

use std::rc::Rc;

use pierhead::{
    events::memory::MemoryQueue,
    oci::Digest,
    platform::memory::MemoryStream,
    repository::writer::protocol::{CallError, Command, Refused, Reply},
};
use serde_json::json;

use crate::{
    fixtures::{INDEX, sha256},
    support::{Answer, Fault, Persistent, TestRegistry},
};

const POLICY: &str = "[[tags]]\nrepositories = [\"a\"]\nimmutable = [\"v*\", \"stable\"]\n";

fn with(policy: &str, persistent: Persistent) -> TestRegistry {
    let endpoints = r#"[{"name": "ci", "url": "https://ci.example.com"}]"#;
    TestRegistry::with(&[("POLICY", policy), ("EVENT_ENDPOINTS", endpoints)], persistent)
}

fn registry() -> TestRegistry {
    with(POLICY, Persistent::default())
}

/// A manifest without blobs.
fn index(of: &str) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"of": of}}).to_string()
}

fn put(registry: &TestRegistry, line: &str, of: &str) -> Answer {
    registry.send(line, &[("content-type", INDEX)], Some(MemoryStream::new(index(of))))
}

/// Pushes to a tag of the repository `a`; returns the status.
fn push(registry: &TestRegistry, tag: &str, of: &str) -> u16 {
    put(registry, &format!("PUT /v2/a/manifests/{tag}"), of).status.as_u16()
}

fn delete(registry: &TestRegistry, reference: impl std::fmt::Display) -> Answer {
    registry.get(&format!("DELETE /v2/a/manifests/{reference}"))
}

/// The manifest that a tag of `a` points to; empty if there is none.
fn target(registry: &TestRegistry, tag: &str) -> String {
    let answer = registry.get(&format!("HEAD /v2/a/manifests/{tag}"));
    answer.header("docker-content-digest").to_owned()
}

fn digest_of(of: &str) -> Digest {
    sha256(index(of))
}

/// Asserts a refusal that names the tag and its manifest.
fn assert_refused(answer: &Answer, tag: &str, of: &str) {
    let digest = digest_of(of);
    let message = format!(
        "the tag {tag} is immutable and refers to {digest}: it cannot be moved or deleted, push under another tag"
    );
    let error = json!({"code": "DENIED", "message": message, "detail": {"tag": tag, "digest": digest}});
    assert_eq!((answer.status.as_u16(), answer.errors()), (403, vec![error]));
}

/// What the repository `a` has.
fn links(registry: &TestRegistry) -> Vec<String> {
    let paths = registry.storage.memory.paths().into_iter();
    paths.filter(|path| path.starts_with("docker/registry/v2/repositories/a/")).collect()
}

#[test]
fn an_immutable_tag_keeps_its_manifest() {
    let queue = Rc::new(MemoryQueue::default());
    let registry = with(POLICY, Persistent { queue: Some(queue.clone()), ..Persistent::default() });
    assert_eq!(push(&registry, "v1", "one"), 201);
    assert_eq!(push(&registry, "latest", "one"), 201);
    // Patterns are about one repository.
    for of in ["one", "two"] {
        assert_eq!(put(&registry, "PUT /v2/b/manifests/v1", of).status, 201);
    }
    let (before, told) = (links(&registry), queue.messages.borrow().len());
    let (one, two) = (digest_of("one"), digest_of("two"));
    assert_refused(&put(&registry, "PUT /v2/a/manifests/v1", "two"), "v1", "one");
    for tags in ["tag=new&tag=v1&tag=v2", "tag=v1&tag=latest"] {
        let line = format!("PUT /v2/a/manifests/{two}?{tags}");
        assert_refused(&put(&registry, &line, "two"), "v1", "one");
    }
    assert_refused(&delete(&registry, "v1"), "v1", "one");
    assert_refused(&delete(&registry, &one), "v1", "one");
    assert_eq!((links(&registry), queue.messages.borrow().len()), (before, told), "a refusal left something");
    assert_eq!(registry.writers.records(), 0);
    let lines = registry.lines.0.borrow();
    let audit = lines.iter().filter(|line| line.get("audit").is_some() && line["status"] == 403);
    let outcomes: Vec<_> = audit.map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, vec![json!("refused"); 5]);
}

#[test]
fn what_does_not_move_an_immutable_tag_is_allowed() {
    let registry = registry();
    assert_eq!(push(&registry, "v1", "one"), 201);
    assert_eq!(push(&registry, "v1", "one"), 201);
    let line = format!("PUT /v2/a/manifests/{}?tag=v1&tag=v2&tag=latest", digest_of("one"));
    assert_eq!(put(&registry, &line, "one").status, 201);
    assert_eq!(push(&registry, "latest", "two"), 201);
    assert_eq!(push(&registry, "next", "two"), 201);
    assert_eq!(delete(&registry, "latest").status, 202);
    assert_eq!(delete(&registry, digest_of("two")).status, 202);
    assert_eq!(registry.get("GET /v2/a/tags/list").json()["tags"], json!(["v1", "v2"]));
    assert_eq!(delete(&registry, "v9").status, 404);
    assert_eq!(delete(&registry, digest_of("unknown")).status, 404);
}

#[test]
fn a_tag_is_as_immutable_as_the_policy_says_now() {
    let storage = registry().storage;
    let under = |policy: &str| with(policy, Persistent { storage: storage.clone(), ..Persistent::default() });
    let free = under("");
    assert_eq!(push(&free, "v1", "one"), 201);
    assert_eq!(push(&free, "v1", "two"), 201);
    assert_refused(&put(&under(POLICY), "PUT /v2/a/manifests/v1", "one"), "v1", "two");
    assert_refused(&delete(&under(POLICY), "v1"), "v1", "two");
    // It pointed there before.
    assert_eq!(delete(&under(POLICY), digest_of("one")).status, 202);
    assert_eq!(delete(&under(""), "v1").status, 202);
}

#[test]
fn a_manifest_is_refused_before_any_of_its_tags_is_deleted() {
    let registry = registry();
    // More than a page of tags, and the immutable one behind them.
    let mut tags: Vec<String> = (0..700).map(|n| format!("t{n:03}")).collect();
    tags.push("v1".to_owned());
    for tags in tags.chunks(50) {
        let line = format!("PUT /v2/a/manifests/{}?tag={}", digest_of("one"), tags.join("&tag="));
        assert_eq!(put(&registry, &line, "one").status, 201);
    }
    let before = links(&registry);
    let (calls, answer) = registry.calls(&format!("DELETE /v2/a/manifests/{}", digest_of("one")), &[]);
    assert_refused(&answer, "v1", "one");
    assert_eq!(links(&registry), before);
    // The link, two pages, and the tag.
    assert_eq!(calls, ["head", "list", "list", "get"]);
}

/// The calls of the writer that are made because of patterns.
#[test]
fn only_tags_that_match_cost_a_lookup() {
    let (free, bound) = (with("", Persistent::default()), registry());
    let calls = |registry: &TestRegistry, line: &str| {
        registry.storage.calls.borrow_mut().clear();
        let answer = if line.starts_with("PUT") { put(registry, line, "one") } else { registry.get(line) };
        assert!(answer.status.is_success(), "{line}: {answer:?}");
        registry.storage.calls.borrow().clone()
    };
    for registry in [&free, &bound] {
        assert_eq!(push(registry, "first", "one"), 201);
    }
    let digest = digest_of("one");
    for (line, added) in [
        ("PUT /v2/a/manifests/latest".to_owned(), &[][..]),
        (format!("PUT /v2/a/manifests/{digest}"), &[]),
        ("PUT /v2/a/manifests/v1".to_owned(), &["get"]),
        (format!("PUT /v2/a/manifests/{digest}?tag=v1&tag=stable&tag=next"), &["get", "get"]),
        ("DELETE /v2/a/manifests/next".to_owned(), &[]),
        ("PUT /v2/b/manifests/v1".to_owned(), &[]),
    ] {
        let (mut free, mut bound) = (calls(&free, &line), calls(&bound, &line));
        free.extend(added);
        free.sort_unstable();
        bound.sort_unstable();
        assert_eq!(bound, free, "{line}");
    }
    // The listing of tags, once more.
    assert_eq!(push(&free, "other", "two"), 201);
    assert_eq!(push(&bound, "other", "two"), 201);
    let line = format!("DELETE /v2/a/manifests/{}", digest_of("two"));
    assert_eq!(calls(&bound, &line).len(), calls(&free, &line).len() + 1);
}

/// A writer finishes what it has begun, whoever pushes next: the first push that got so far wins.
#[test]
fn an_interrupted_push_wins_or_never_was() {
    // Fails a call of a push, crashes the writer, and pushes another manifest. Returns whether the first won.
    let race = |at: usize, fault: Fault| {
        let registry = registry();
        assert_eq!(push(&registry, "old", "old"), 201);
        registry.storage.fail_at(Some((at, fault)));
        let first = push(&registry, "v1", "one");
        let calls = registry.storage.calls.borrow().len();
        registry.storage.fail_at(None);
        registry.writers.restart();
        let about = format!("{fault:?} at {at}: {first}");
        let second = push(&registry, "v1", "two");
        let won = if second == 403 { "one" } else { "two" };
        assert!([201, 403].contains(&second), "{about}: {second}");
        assert_eq!(target(&registry, "v1"), digest_of(won).to_string(), "{about}");
        assert!(first != 201 || won == "one", "{about}: two pushes have won");
        registry.recover();
        assert_eq!(target(&registry, "v1"), digest_of(won).to_string(), "{about}");
        for of in ["one", "two"] {
            assert_eq!(push(&registry, "v1", of), if of == won { 201 } else { 403 }, "{about}");
        }
        // What was refused has left no link.
        let lost = if won == "one" { "two" } else { "one" };
        let status = registry.get(&format!("HEAD /v2/a/manifests/{}", digest_of(lost))).status;
        assert!(status == 404, "{about}: {lost} is linked");
        (first, won, calls)
    };
    let (first, won, calls) = race(usize::MAX - 1, Fault::Error);
    assert_eq!((first, won), (201, "one"));
    let mut seen = Vec::new();
    for at in 0..calls {
        for fault in [Fault::Error, Fault::Timeout] {
            let (first, won, _) = race(at, fault);
            seen.push((first == 201, won));
        }
    }
    for outcome in [(true, "one"), (false, "one"), (false, "two")] {
        assert!(seen.contains(&outcome), "never happened: acknowledged and won by {outcome:?}");
    }
}

#[test]
fn commands_grow_only_where_there_are_patterns() {
    let tag = "v1".parse().unwrap();
    let command = Command::DeleteTag { tag, immutable: Vec::new(), seen: None };
    let old = json!({"DeleteTag": {"tag": "v1"}});
    assert_eq!(serde_json::to_value(&command).unwrap(), old);
    assert_eq!(serde_json::from_value::<Command>(old).unwrap(), command);
    let new = json!({"DeleteTag": {"tag": "v1", "immutable": ["v*"]}});
    let command: Command = serde_json::from_value(new.clone()).unwrap();
    assert_eq!(serde_json::to_value(&command).unwrap(), new);
}

/// The first attempt may have deleted the manifest, which was pushed again since.
#[test]
fn a_repeated_call_does_not_say_that_nothing_has_changed() {
    let refused = Refused::Immutable { tag: "v1".parse().unwrap(), digest: digest_of("one") };
    let reply = |is_repeated| CallError::from_reply(Err(refused.clone()), is_repeated);
    assert_eq!(reply(false), Err(CallError::Refused(refused.clone())));
    assert!(matches!(reply(true), Err(CallError::Unreachable(_))));
    assert_eq!(CallError::from_reply(Ok(Reply::Done), true), Ok(Reply::Done));
}
