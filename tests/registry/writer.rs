//! The writer of a repository: restarts, lost answers, and what it remembers.

use std::{cell::Cell, rc::Rc};

use futures_executor::block_on;
use futures_util::future::{LocalBoxFuture, ready};
use pierhead::{
    auth::Principal,
    blobs::Freshness,
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Body, Clock, Timestamp, memory::MemoryStream},
    repository::writer::{
        Means, Writer,
        journal::{Journal, MemoryJournal, Rows},
        ledger::Ledger,
        order::SETTLE,
        protocol::{Call, Command, Entry, Record, Refused, Reply, Stage, Writers},
    },
    storage::{PutOptions, StorageDriver},
};
use serde_json::json;

use crate::{
    collect::{DAY, collection},
    fixtures::{EMPTY_INDEX, IMAGE, INDEX, sha256},
    support::{Fault, Persistent, TestRegistry},
};

fn put(registry: &TestRegistry, line: &str, manifest: &str) -> u16 {
    let body = Some(MemoryStream::new(manifest.to_owned()));
    registry.send(line, &[("content-type", INDEX)], body).status.as_u16()
}

/// A manifest without blobs.
fn index(of: &str) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"of": of}}).to_string()
}

fn referring(to: &str) -> String {
    let subject = json!({"mediaType": IMAGE, "digest": sha256(to), "size": 1});
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}).to_string()
}

fn status(registry: &TestRegistry, line: &str) -> u16 {
    registry.get(line).status.as_u16()
}

/// What is listed can be read and removed.
fn check_listed(registry: &TestRegistry, about: &str) {
    let tags = registry.get("GET /v2/a/tags/list");
    if tags.status == 200 {
        for tag in tags.json()["tags"].as_array().unwrap() {
            let tag = tag.as_str().unwrap();
            assert_eq!(
                status(registry, &format!("GET /v2/a/manifests/{tag}")),
                200,
                "{about}: {tag} is listed"
            );
        }
    }
    let referrers = registry.get(&format!("GET /v2/a/referrers/{}", sha256("subject"))).json();
    for referrer in referrers["manifests"].as_array().unwrap() {
        let digest = referrer["digest"].as_str().unwrap();
        let line = format!("GET /v2/a/manifests/{digest}");
        assert_eq!(status(registry, &line), 200, "{about}: the referrer {digest} is listed");
    }
}

#[test]
fn a_tag_takes_no_other_manifest_while_a_lost_write_may_land() {
    let registry = TestRegistry::new();
    let (one, two) = (index("one"), index("two"));
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &one), 201);
    // The answer to a write of the next push is lost. It is repeated with success.
    let calls = {
        let registry = TestRegistry::new();
        put(&registry, "PUT /v2/a/manifests/v", &one);
        registry.storage.calls.borrow_mut().clear();
        put(&registry, "PUT /v2/a/manifests/v", &two);
        registry.storage.calls.borrow().clone()
    };
    let write_of_tag = calls.iter().rposition(|call| *call == "put").unwrap() - 1;
    registry.storage.fail_at(Some((write_of_tag, Fault::Timeout)));
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &two), 201);
    registry.storage.fail_at(None);
    let lost = registry.clock.now();
    // The same push again, another tag, and pulls need not wait.
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &two), 201);
    assert_eq!(put(&registry, "PUT /v2/a/manifests/w", &one), 201);
    assert_eq!(status(&registry, "GET /v2/a/manifests/v"), 200);
    assert!(registry.clock.now().milliseconds_since(lost) < 1000);
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &one), 201);
    assert!(registry.clock.now().milliseconds_since(lost) >= SETTLE * 1000 - 5_000, "it did not wait");
    registry.settle();
    assert_eq!(registry.get("GET /v2/a/manifests/v").body, one.as_bytes());
}

#[test]
fn what_a_push_has_looked_up_may_have_been_removed_since() {
    let registry = TestRegistry::new();
    let digest = registry.push_image("a", "v1", "layer");
    let size = registry.get("GET /v2/a/manifests/v1").body.len() as u64;
    let (name, blob) = ("a".parse().unwrap(), sha256("layer"));
    let push = || {
        let entry = Entry {
            digest: digest.clone(),
            size,
            media_type: IMAGE.to_owned(),
            subject: None,
            signatures: Vec::new(),
        };
        let (tags, blobs) = (vec!["v2".parse().unwrap()], vec![blob.clone()]);
        let (stage, referrer, immutable) = (Stage::Complete, None, Vec::new());
        let (held, quota) = (None, None);
        let (missing, children) = (Vec::new(), Vec::new());
        let command =
            Command::Push { entry, tags, blobs, stage, referrer, immutable, held, quota, missing, children };
        block_on(registry.writers.call(&name, command.into()))
    };
    assert_eq!(status(&registry, &format!("DELETE /v2/a/blobs/{blob}")), 202);
    for is_restarted in [false, true] {
        if is_restarted {
            registry.writers.restart();
        }
        assert_eq!(push(), Err(Refused::BlobsMissing(vec![blob.clone()]).into()));
        assert_eq!(status(&registry, "GET /v2/a/manifests/v2"), 404);
    }
    registry.push_blob("a", "layer");
    assert_eq!(status(&registry, &format!("DELETE /v2/a/manifests/{digest}")), 202);
    // The link of the manifest is written again, whatever the push has seen.
    assert_eq!(push(), Ok(Reply::Done));
    assert_eq!(status(&registry, &format!("GET /v2/a/manifests/{digest}")), 200);
    assert_eq!(status(&registry, "GET /v2/a/manifests/v2"), 200);
}

#[test]
fn a_deletion_goes_on_where_it_was_interrupted() {
    // More than a page of tags and their indexes.
    let tags: Vec<String> = (0..700).map(|n| format!("t{n:03}")).collect();
    let (manifest, other) = (index("one"), index("two"));
    let digest = sha256(&manifest);
    // Fails a call of the deletion. Returns its status and the number of its calls.
    let delete = |at: Option<usize>| {
        let registry = TestRegistry::new();
        for tags in tags.chunks(50) {
            let line = format!("PUT /v2/a/manifests/{digest}?tag={}", tags.join("&tag="));
            assert_eq!(put(&registry, &line, &manifest), 201);
        }
        assert_eq!(put(&registry, "PUT /v2/a/manifests/t007", &other), 201);
        registry.storage.fail_at(at.map(|at| (at, Fault::Error)));
        let first = status(&registry, &format!("DELETE /v2/a/manifests/{digest}"));
        let calls = registry.storage.calls.borrow().len();
        registry.storage.fail_at(None);
        check_listed(&registry, "interrupted");
        registry.recover();
        assert_eq!(registry.get("GET /v2/a/tags/list").json()["tags"], json!(["t007"]), "at {at:?}");
        assert_eq!(status(&registry, &format!("GET /v2/a/manifests/{digest}")), 404);
        assert_eq!(registry.get("GET /v2/a/manifests/t007").body, other.as_bytes());
        (first, calls)
    };
    // It is more than a request deletes.
    let (deleted, calls) = delete(None);
    assert_eq!(deleted, 503);
    for at in [2, calls / 4, calls / 2, calls - 20, calls - 1] {
        assert_eq!(delete(Some(at)).0, 503, "at {at} of {calls}");
    }
}

#[test]
fn a_tag_that_points_to_nothing_can_be_deleted() {
    let registry = TestRegistry::new();
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &index("one")), 201);
    // Earlier versions could leave the index of a tag without its link.
    let (name, tag) = ("a".parse().unwrap(), "v".parse().unwrap());
    block_on(registry.storage.delete(&[Key::TagCurrent(&name, &tag).path()])).unwrap();
    assert_eq!(registry.get("GET /v2/a/tags/list").json()["tags"], json!(["v"]));
    assert_eq!(status(&registry, "DELETE /v2/a/manifests/v"), 202);
    assert_eq!(registry.get("GET /v2/a/tags/list").json()["tags"], json!([]));
    assert_eq!(status(&registry, "DELETE /v2/a/manifests/v"), 404);
}

#[test]
fn a_second_deployment_changes_nothing() {
    let registry = TestRegistry::new();
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &index("one")), 201);
    let path = Key::Deployment.path();
    let other = Body::Bytes("another".into());
    block_on(registry.storage.put(&path, other, PutOptions::default())).unwrap();
    // This isolate has looked already.
    assert_eq!(put(&registry, "PUT /v2/a/manifests/v", &index("two")), 201);
    let storage = registry.storage.clone();
    let second = TestRegistry::with(&[], Persistent { storage, ..Persistent::default() });
    let refused = second.get("DELETE /v2/a/manifests/v");
    assert_eq!((refused.status.as_u16(), refused.codes()), (503, vec!["UNAVAILABLE".to_owned()]));
    assert_eq!(put(&second, "PUT /v2/a/manifests/w", &index("two")), 503);
    assert_eq!(status(&second, "GET /v2/a/manifests/v"), 200);
    second.push_blob("a", "layer");
    block_on(registry.storage.delete(&[path])).unwrap();
    assert_eq!(put(&second, "PUT /v2/a/manifests/w", &index("two")), 201);
}

/// A manifest whose content does not tell its media type.
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

#[test]
fn a_manifest_keeps_the_media_type_of_its_push() {
    let registry = TestRegistry::new();
    let subject = json!({"mediaType": IMAGE, "digest": sha256("subject"), "size": 1});
    let list = json!({"schemaVersion": 2, "manifests": [], "subject": subject}).to_string();
    let digest = registry.push_manifest("a", "v", LIST, &list);
    let line = format!("GET /v2/a/referrers/{}", sha256("subject"));
    let referrers = || registry.get(&line).json()["manifests"].clone();
    assert_eq!(referrers()[0]["mediaType"], LIST);
    let entry = |path: &String| path.starts_with("pierhead/referrers/");
    let entries: Vec<_> = registry.storage.memory.paths().into_iter().filter(entry).collect();
    let paths: Vec<_> = entries.iter().map(|path| path.parse().unwrap()).collect();
    block_on(registry.storage.delete(&paths)).unwrap();
    assert_eq!(referrers(), json!([]));
    assert_eq!(status(&registry, "POST /v2/_pierhead/jobs/fsck/run"), 200);
    assert_eq!(referrers()[0]["mediaType"], LIST);
    assert_eq!(registry.get("GET /v2/a/manifests/v").header("content-type"), LIST);
    // Its entry goes with it.
    assert_eq!(status(&registry, &format!("DELETE /v2/a/manifests/{digest}")), 202);
    assert_eq!(referrers(), json!([]));
}

#[test]
fn an_index_brings_nothing_back() {
    let registry = TestRegistry::new();
    let name = "a".parse().unwrap();
    let (manifest, subject) = (referring("subject"), Some(sha256("subject")));
    let digest = registry.push_manifest("a", "v", INDEX, &manifest);
    let size = manifest.len() as u64;
    assert_eq!(status(&registry, &format!("DELETE /v2/a/manifests/{digest}")), 202);
    // A step of the job that had read the manifest before.
    let entry = Entry { digest, size, media_type: INDEX.to_owned(), subject, signatures: Vec::new() };
    let index = Command::Index { entry, tags: Vec::new(), referrer: None };
    assert_eq!(block_on(registry.writers.call(&name, index.into())), Ok(Reply::Absent));
    let blob = registry.push_blob("a", "layer");
    let context = registry.context(Principal::Anonymous);
    let repository = registry.app.repository(&name, &context);
    let located = block_on(repository.locate(&blob, Freshness::Strict)).unwrap().unwrap();
    assert_eq!(status(&registry, &format!("DELETE /v2/a/blobs/{blob}")), 202);
    block_on(repository.index_blob(&blob, &located)).unwrap();
    assert_eq!(status(&registry, &format!("GET /v2/a/blobs/{blob}")), 404);
    check_listed(&registry, "after the index");
}

#[test]
fn a_link_that_the_collection_has_marked_is_not_indexed() {
    let (registry, name) = (TestRegistry::new(), "a".parse().unwrap());
    let blob = registry.push_blob("a", "never named");
    let repository = registry.app.repository(&name, &registry.context(Principal::Anonymous));
    let located = block_on(repository.locate(&blob, Freshness::Strict)).unwrap().unwrap();
    registry.pass(DAY);
    registry.collect(&collection());
    let link = || block_on(registry.storage.memory.head(&Key::Layer(&name, &blob).path())).unwrap();
    let condemned = link();
    assert_eq!(status(&registry, &format!("HEAD /v2/a/blobs/{blob}")), 404);
    block_on(repository.index_blob(&blob, &located)).unwrap();
    assert_eq!(link(), condemned);
}

#[test]
fn a_tag_is_indexed_if_it_points_to_the_manifest() {
    let (registry, name) = (TestRegistry::new(), "a".parse().unwrap());
    let tag = "v".parse().unwrap();
    let (digest, other) = (
        registry.push_manifest("a", "v", INDEX, EMPTY_INDEX),
        registry.push_manifest("a", "w", INDEX, &referring("subject")),
    );
    registry.run_background();
    let repository = registry.app.repository(&name, &registry.context(Principal::Anonymous));
    let index = |digest: &Digest| block_on(repository.index_tag(&tag, digest)).unwrap();
    let path = |digest: &Digest| Key::TagIndex(&name, &tag, digest).path();
    let is_indexed =
        |digest: &Digest| block_on(registry.storage.memory.head(&path(digest))).unwrap().is_some();
    index(&other);
    assert_eq!((is_indexed(&digest), is_indexed(&other)), (true, false));
    block_on(registry.storage.memory.delete(&[path(&digest)])).unwrap();
    index(&digest);
    assert!(is_indexed(&digest));
    // A tag that is deleted stays so.
    assert_eq!(status(&registry, "DELETE /v2/a/manifests/v"), 202);
    index(&digest);
    assert!(!is_indexed(&digest));
    assert_eq!(registry.get("GET /v2/a/tags/list").json()["tags"], json!(["w"]));
}

/// A journal that fails so many times, without effect.
#[derive(Default)]
struct FailingJournal {
    memory: MemoryJournal,
    failures: Cell<usize>,
}

impl Journal for FailingJournal {
    fn load(&self) -> LocalBoxFuture<'_, Result<Vec<(u64, Record)>, String>> {
        self.memory.load()
    }

    fn write(&self, rows: Rows, alarm: Option<Timestamp>) -> LocalBoxFuture<'_, Result<(), String>> {
        match self.failures.get() {
            0 => self.memory.write(rows, alarm),
            left => {
                self.failures.set(left - 1);
                Box::pin(ready(Err("the journal fails".to_owned())))
            }
        }
    }

    fn ledger(&self) -> &dyn Ledger {
        self.memory.ledger()
    }
}

#[test]
fn the_events_of_a_call_are_logged_as_its_own() {
    let endpoints = r#"[{"name": "ci", "url": "https://ci.example.com"}]"#;
    let persistent = Persistent { queue: Some(Rc::default()), ..Persistent::default() };
    let registry = TestRegistry::with(&[("EVENT_ENDPOINTS", endpoints), ("LOG_LEVEL", "debug")], persistent);
    let name: RepositoryName = "a".parse().unwrap();
    let writer =
        Writer::new(name.clone(), Rc::new(MemoryJournal::default()), Rc::new(registry.clock.clone()));
    for tag in ["one", "two"] {
        assert_eq!(put(&registry, &format!("PUT /v2/a/manifests/{tag}"), &index("x")), 201);
        let context = registry.app.context(Principal::Job("writer"), tag.into(), registry.later.clone());
        let means =
            Means { stored: registry.app.stored(&name, &context), events: registry.app.events(&context) };
        let command = Command::DeleteTag { tag: tag.parse().unwrap(), immutable: Vec::new(), seen: None };
        let call = Call { command, origin: Some(context.origin()), removal: None };
        registry.lines.0.take();
        block_on(writer.carry_out(&means, &*context.background, call)).unwrap();
        let lines = registry.lines.0.take();
        let is_outbox = |path: &str| path.starts_with("pierhead/outbox/");
        let ids: Vec<_> = lines
            .iter()
            .filter(|line| line["path"].as_str().is_some_and(is_outbox))
            .map(|line| &line["id"])
            .collect();
        assert_eq!(ids, [tag]);
    }
}

/// A crash half-way would leave what nobody finishes.
#[test]
fn nothing_is_written_before_the_journal_has_the_intent() {
    let registry = TestRegistry::new();
    assert_eq!(put(&registry, "PUT /v2/a/manifests/old", &index("x")), 201);
    let (name, journal) = ("a".parse().unwrap(), Rc::new(FailingJournal::default()));
    let context = registry.context(Principal::Job("writer"));
    let means = Means { stored: registry.app.stored(&name, &context), events: None };
    let writer = Writer::new(name, journal.clone(), Rc::new(registry.clock.clone()));
    let (storage, kept) = (registry.storage.clone(), journal.clone());
    let at_call = move || {
        let call = storage.calls.borrow().last().copied().unwrap_or_default();
        assert!(["head", "list"].contains(&call) || kept.memory.len() == 1, "{call}");
    };
    registry.storage.on_call.replace(Some(Box::new(at_call)));
    registry.storage.calls.borrow_mut().clear();
    // The intent, its removal, and the intent again.
    journal.failures.set(3);
    let command = Command::DeleteTag { tag: "old".parse().unwrap(), immutable: Vec::new(), seen: None };
    block_on(writer.carry_out(&means, &*context.background, command.into())).unwrap_err();
    for _ in 0..3 {
        registry.clock.0.set(registry.clock.0.get() + SETTLE * 1000);
        block_on(writer.settle(&means)).unwrap().unwrap_or_default();
    }
    registry.storage.on_call.replace(None);
    assert_eq!(journal.failures.get(), 0);
    assert_eq!(status(&registry, "GET /v2/a/manifests/old"), 404);
}
