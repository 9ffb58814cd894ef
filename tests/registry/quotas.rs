//! Quotas: what they refuse, what counts, what a collection corrects, and what repositories use.

use futures_executor::block_on;
use futures_util::future::join;
use pierhead::{
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Body, memory::MemoryStream},
    repository::writer::{
        Means, Writer,
        journal::{Journal, MemoryJournal},
        ledger::{Ledger, MemoryLedger},
        order::SETTLE,
        protocol::{Command, Entry, Intent, Phase, Quota, Record, Refused, Reply, Stage},
    },
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    collect::{DAY, HOUR, collection},
    fixtures::{CONFIG, IMAGE, INDEX, bytes, descriptor, image, sha256},
    support::{Answer, Fault, Persistent, TestRegistry},
};

fn with(policy: &str, persistent: Persistent) -> TestRegistry {
    TestRegistry::with(&[("POLICY", policy)], persistent)
}

/// A registry in which the repository `a` has a quota of bytes.
fn limited(bytes: usize) -> TestRegistry {
    let registry = with(&of_bytes(bytes), Persistent::default());
    // Times before the collection's margins are not negative.
    registry.pass(30 * DAY);
    registry
}

fn of_bytes(bytes: usize) -> String {
    format!("[[quota]]\nrepositories = [\"a\"]\nbytes = \"{bytes} B\"\n")
}

/// Pushes an image with these layers to `a`, blobs first.
fn push(registry: &TestRegistry, tag: &str, layers: &[&str]) -> Answer {
    for content in layers.iter().chain(&["config"]) {
        registry.push_blob("a", content);
    }
    put(registry, "a", tag, &image(layers))
}

fn put(registry: &TestRegistry, name: &str, tag: &str, manifest: &str) -> Answer {
    let body = Some(MemoryStream::new(manifest.to_owned()));
    let media_type = if manifest.contains("\"manifests\"") { INDEX } else { IMAGE };
    registry.send(&format!("PUT /v2/{name}/manifests/{tag}"), &[("content-type", media_type)], body)
}

/// What an image with these layers takes.
fn size(layers: &[&str]) -> usize {
    image(layers).len() + layers.iter().map(|layer| layer.len()).sum::<usize>() + "config".len()
}

fn a() -> RepositoryName {
    "a".parse().unwrap()
}

fn counted(registry: &TestRegistry) -> usize {
    registry.writers.counted(&a()) as usize
}

fn collect(registry: &TestRegistry) {
    registry.pass(DAY);
    registry.settle();
    registry.collect(&collection());
}

/// What clients can reach: the rest of a refused push is garbage.
fn linked(registry: &TestRegistry) -> Vec<String> {
    let is_reached = |path: &String| {
        ["docker/registry/v2/repositories/", "pierhead/repositories/"]
            .iter()
            .any(|prefix| path.starts_with(prefix))
    };
    registry.storage.memory.paths().into_iter().filter(is_reached).collect()
}

fn usage(registry: &TestRegistry) -> Vec<Value> {
    let answers = registry.pages("/v2/_pierhead/usage");
    answers.iter().flat_map(|page| page.json()["repositories"].as_array().unwrap().clone()).collect()
}

#[test]
fn the_last_byte_of_a_quota_can_be_used_and_no_more() {
    let layers = ["layer"];
    for (quota, status) in [(size(&layers), 201), (size(&layers) - 1, 403)] {
        let registry = limited(quota);
        for content in ["layer", "config"] {
            registry.push_blob("a", content);
        }
        let before = linked(&registry);
        let answer = put(&registry, "a", "v1", &image(&layers));
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 201 {
            assert_eq!(counted(&registry), quota);
            continue;
        }
        let message = format!(
            "the repository a would refer to {} B, and its quota is {quota} B: delete images, which counts after the next collection, or ask the administrator",
            quota + 1
        );
        let detail = json!({"bytes": quota + 1, "quota": quota});
        assert_eq!(answer.errors(), [json!({"code": "DENIED", "message": message, "detail": detail})]);
        assert_eq!((linked(&registry), counted(&registry)), (before, 0), "a refusal left something");
        assert_eq!(registry.code("GET /v2/a/manifests/v1"), 404);
        assert_eq!(registry.writers.records(), 0);
        // The quota is for one repository.
        assert_eq!(registry.push_image("b", "v1", "layer"), sha256(image(&layers)));
    }
}

#[test]
fn what_manifests_share_counts_once() {
    let (one, two) = (["shared", "first"], ["shared", "second"]);
    let both = size(&one) + image(&two).len() + "second".len();
    let registry = limited(both);
    assert_eq!(push(&registry, "v1", &one).status, 201);
    assert_eq!(counted(&registry), size(&one));
    assert_eq!(push(&registry, "v2", &two).status, 201);
    assert_eq!(counted(&registry), both);
    // What is there costs nothing more, under any tag, also if the quota is less by now.
    let lower = with(&of_bytes(1), Persistent { storage: registry.storage.clone(), ..Persistent::default() });
    for registry in [&registry, &lower] {
        assert_eq!(push(registry, "v3", &one).status, 201);
        let line = format!("PUT /v2/a/manifests/{}?tag=v4&tag=v5", sha256(image(&two)));
        let body = Some(MemoryStream::new(image(&two)));
        assert_eq!(registry.send(&line, &[("content-type", IMAGE)], body).status, 201);
    }
    assert_eq!(push(&registry, "v6", &["x"]).status, 403);
    assert_eq!(push(&lower, "v6", &["x"]).status, 403);
}

#[test]
fn the_count_survives_restarts() {
    let registry = limited(size(&["one"]) + 10);
    assert_eq!(push(&registry, "v1", &["one"]).status, 201);
    registry.recover();
    assert_eq!(counted(&registry), size(&["one"]));
    assert_eq!(push(&registry, "v2", &["two"]).status, 403);
    assert_eq!(push(&registry, "v1", &["one"]).status, 201);
}

#[test]
fn of_two_pushes_that_exceed_the_quota_together_one_is_refused() {
    let registry = limited(2 * size(&["layer 1"]) - 10);
    for content in ["layer 1", "layer 2", "config"] {
        registry.push_blob("a", content);
    }
    let request = |n: usize| {
        let content = image(&[&format!("layer {n}")]);
        let request = http::Request::builder().method("PUT").uri(format!("/v2/a/manifests/v{n}"));
        let body = Body::Stream(MemoryStream::new(content).into());
        registry.handle(request.header("content-type", IMAGE).body(body).unwrap())
    };
    let (one, two) = block_on(join(request(1), request(2)));
    let mut statuses = [one.status().as_u16(), two.status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 403]);
    let tags = registry.get("GET /v2/a/tags/list").json()["tags"].as_array().unwrap().len();
    assert_eq!((tags, counted(&registry)), (1, size(&["layer 1"])));
}

#[test]
fn a_manifest_cannot_hide_what_it_keeps() {
    let large = String::from_utf8(vec![b'x'; 5000]).unwrap();
    let config = || descriptor(CONFIG, "config");
    let digest = sha256(&large);
    let claim = json!({"mediaType": "a/b", "digest": digest, "size": 1});
    let elsewhere =
        json!({"mediaType": "a/b", "digest": digest, "size": 1, "urls": ["https://example.com/x"]});
    for manifest in [
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config(), "layers": [claim]}),
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config(), "layers": [elsewhere]}),
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [claim]}),
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config(), "layers": [], "annotations": {"x": digest}}),
    ] {
        let registry = limited(4000);
        for content in [&large, "config"] {
            registry.push_blob("a", content);
        }
        let answer = put(&registry, "a", "v1", &manifest.to_string());
        assert_eq!(answer.status, 403, "{manifest}");
        // Without the layer, the same would be small enough.
        assert_eq!(push(&registry, "v2", &[]).status, 201);
    }
}

#[test]
fn many_layers_are_counted_by_listings() {
    let layers: Vec<String> = (0..80).map(|n| format!("layer {n}")).collect();
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    for (hides_metadata, short_pages) in [(false, None), (false, Some(7)), (true, Some(30))] {
        let registry = limited(size(&layers));
        registry.storage.hides_metadata.set(hides_metadata);
        registry.push_blob("a", "another");
        registry.storage.short_pages.set(short_pages);
        assert_eq!(push(&registry, "v1", &layers).status, 201);
        assert_eq!(counted(&registry), size(&layers));
    }
}

#[test]
fn a_deletion_frees_with_the_next_collection() {
    let registry = limited(size(&["one"]) + size(&["two"]) - "config".len() - 1);
    assert_eq!(push(&registry, "v1", &["one"]).status, 201);
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{}", sha256(image(&["one"])))), 202);
    assert_eq!(push(&registry, "v2", &["two"]).status, 403);
    collect(&registry);
    assert_eq!(counted(&registry), 0);
    assert_eq!(push(&registry, "v2", &["two"]).status, 201);
    collect(&registry);
    assert_eq!(counted(&registry), size(&["two"]));
    // A dry run corrects nothing.
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{}", sha256(image(&["two"])))), 202);
    registry.pass(DAY);
    registry.collect(&pierhead::jobs::Collect { is_dry_run: true, ..collection() });
    assert_eq!(counted(&registry), size(&["two"]));
}

#[test]
fn a_collection_counts_what_was_there_before_the_quota() {
    for (hides_metadata, is_foreign) in [(false, false), (true, false), (false, true)] {
        let free = TestRegistry::with(&[], Persistent::default());
        free.pass(30 * DAY);
        assert_eq!(push(&free, "v1", &["one"]).status, 201);
        assert_eq!(push(&free, "v2", &["two"]).status, 201);
        if is_foreign {
            // As `distribution` writes it.
            let link = Key::Layer(&a(), &sha256("one")).path();
            let content = Body::Bytes(sha256("one").to_string().into());
            block_on(free.storage.memory.put(&link, content, PutOptions::default())).unwrap();
        }
        let all = size(&["one"]) + size(&["two"]) - "config".len();
        let persistent = Persistent { storage: free.storage.clone(), ..Persistent::default() };
        let registry = with(&of_bytes(all), persistent);
        registry.storage.hides_metadata.set(hides_metadata);
        registry.pass(31 * DAY);
        // What is in the repository can be pushed again, whatever it takes.
        assert_eq!(push(&registry, "v3", &["one"]).status, 201);
        assert_eq!(counted(&registry), size(&["one"]));
        collect(&registry);
        assert_eq!(counted(&registry), all);
        assert_eq!(push(&registry, "v4", &["four"]).status, 403);
        let [used] = &usage(&registry)[..] else { panic!() };
        assert_eq!((&used["bytes"], &used["unsized_layers"]), (&json!(all), &json!(0)));
    }
}

#[test]
fn what_is_pushed_while_a_collection_runs_stays_counted() {
    use pierhead::{auth::Principal, jobs::Job};
    let registry = limited(100_000);
    for n in 0..30 {
        assert_eq!(push(&registry, &format!("v{n}"), &[&format!("layer {n}")]).status, 201);
    }
    registry.pass(DAY);
    registry.settle();
    let before = counted(&registry);
    let layer = |n: usize| format!("layer {n}");
    // Nothing names this layer any more when the collection begins; a push names it again while it runs.
    let deleted = sha256(image(&[&layer(3)]));
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{deleted}")), 202);
    let (mut cursor, mut steps) = (None, 0);
    loop {
        let context = registry.context(Principal::Job("collect"));
        let step = block_on(collection().step(&registry.app, &context, cursor)).unwrap();
        steps += 1;
        if steps == 2 {
            assert_eq!(push(&registry, "again", &[&layer(3), "new"]).status, 201);
        }
        cursor = step.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(steps > 4, "{steps}");
    let added = image(&[&layer(3), "new"]).len() + "new".len();
    assert_eq!(counted(&registry), before - image(&[&layer(3)]).len() + added);
    collect(&registry);
    assert_eq!(counted(&registry), before - image(&[&layer(3)]).len() + added);
}

#[test]
fn a_count_that_fails_half_way_frees_nothing() {
    let registry = limited(100_000);
    assert_eq!(push(&registry, "v1", &["one"]).status, 201);
    assert_eq!(push(&registry, "v2", &["two"]).status, 201);
    let all = counted(&registry);
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{}", sha256(image(&["two"])))), 202);
    let count = |named: Vec<(Digest, u64)>, is_whole| {
        let scanned = registry.app.clock.now();
        let command = Command::Count { named, scanned, is_whole };
        let writers: &dyn pierhead::repository::writer::protocol::Writers = &*registry.writers;
        assert_eq!(block_on(writers.call(&a(), command.into())), Ok(Reply::Done));
    };
    registry.pass(DAY);
    count(vec![(sha256("one"), 3), (sha256("other"), 7)], false);
    assert_eq!(counted(&registry), all + 7);
    // What was needed within minutes before may be linked only now.
    registry.pass(5 * 60);
    count(vec![(sha256("one"), 3)], true);
    assert_eq!(counted(&registry), 10);
    // A run that begins later sees the rest.
    registry.pass(HOUR);
    count(vec![(sha256("one"), 3)], true);
    assert_eq!(counted(&registry), 3);
}

/// A push that was begun long before a collection and finished during it is not seen by it, nor is it young.
#[test]
fn what_a_late_push_needs_is_not_forgotten() {
    let registry = limited(100_000);
    for content in ["layer", "config"] {
        registry.push_blob("a", content);
    }
    let manifest = image(&["layer"]);
    let digest = sha256(&manifest);
    registry.push_manifest("b", "v", INDEX, r#"{"schemaVersion":2,"manifests":[]}"#);
    let data = Key::Data(&digest).path();
    let content = Body::Bytes(manifest.clone().into());
    block_on(registry.storage.memory.put(&data, content, PutOptions::default())).unwrap();
    let journal = std::rc::Rc::new(MemoryJournal::default());
    let clock: std::rc::Rc<dyn pierhead::platform::Clock> = std::rc::Rc::new(registry.clock.clone());
    let context = registry.context(pierhead::auth::Principal::Job("writer"));
    let means = || Means { stored: registry.app.stored(&a(), &context), events: None };
    let entry = || Entry {
        digest: digest.clone(),
        size: manifest.len() as u64,
        media_type: IMAGE.to_owned(),
        subject: None,
        signatures: Vec::new(),
    };
    let command = Command::Push {
        entry: entry(),
        tags: vec!["v1".parse().unwrap()],
        blobs: vec![sha256("layer"), sha256("config")],
        stage: Stage::New,
        referrer: None,
        immutable: Vec::new(),
        held: None,
        quota: Some(Quota { bytes: 100_000, mentions: Vec::new() }),
        missing: Vec::new(),
        children: Vec::new(),
    };
    let writer = || Writer::new(a(), journal.clone(), clock.clone());
    let count = |writer: &std::rc::Rc<Writer>, scanned| {
        let command = Command::Count { named: Vec::new(), scanned, is_whole: true };
        block_on(writer.carry_out(&means(), &*context.background, command.into())).unwrap();
        journal.ledger.bytes() as usize
    };
    // It is counted, and its first write fails.
    registry.storage.fails_below.replace(Some("docker/registry/v2/repositories/a/_manifests/"));
    let refused = block_on(writer().carry_out(&means(), &*context.background, command.into()));
    assert!(matches!(refused, Err(Refused::Busy(_))), "{refused:?}");
    let records: Vec<(u64, Record)> = block_on(journal.load()).unwrap();
    assert!(matches!(&records[..], [(_, Record { intent: Intent::Push { .. }, phase: Phase::Open, .. })]));
    registry.pass(DAY);
    assert_eq!(count(&writer(), registry.app.clock.now()), size(&["layer"]), "it is open");
    let scanned = registry.app.clock.now();
    registry.storage.fails_below.replace(None);
    registry.pass(HOUR);
    block_on(writer().settle(&means())).unwrap().unwrap();
    registry.pass(SETTLE);
    block_on(writer().settle(&means())).unwrap().unwrap();
    assert_eq!(registry.code("GET /v2/a/manifests/v1"), 200);
    assert_eq!(count(&writer(), scanned), size(&["layer"]), "it was finished after the scan");
    registry.pass(DAY);
    assert_eq!(count(&writer(), registry.app.clock.now()), 0);
}

#[test]
fn a_refused_push_is_repeated_with_success_when_storage_fails() {
    let registry = limited(size(&["one"]));
    for content in ["one", "config"] {
        registry.push_blob("a", content);
    }
    registry.storage.fail_at(Some((5, Fault::Timeout)));
    put(&registry, "a", "v1", &image(&["one"]));
    registry.storage.fail_at(None);
    registry.recover();
    // What it has counted is no reason to refuse the same push.
    assert_eq!(put(&registry, "a", "v1", &image(&["one"])).status, 201);
    assert_eq!(counted(&registry), size(&["one"]));
}

#[test]
fn repositories_are_counted_below_their_patterns() {
    let policy = "[[quota]]\nrepositories = [\"team\", \"team/**\"]\nmax_repositories = 2\n\
         [[quota]]\nrepositories = [\"team/free\"]\nbytes = \"1 GB\"\n\
         [[quota]]\nrepositories = [\"none/**\"]\nmax_repositories = 0\n";
    let registry = with(policy, Persistent::default());
    let push = |name: &str| put(&registry, name, "v1", r#"{"schemaVersion":2,"manifests":[]}"#);
    assert_eq!(push("team-b/app").status, 201);
    assert_eq!(push("team/one").status, 201);
    assert_eq!(push("team").status, 201);
    // The blobs of a repository are pushed before it is one.
    registry.push_blob("team/two", "layer");
    let before = linked(&registry);
    let answer = push("team/two");
    let message = "the repository team/two would be new, and the quota is 2 repositories that match \"team\" or \
         \"team/**\": push to one that exists, or ask the administrator";
    let expected = json!({"code": "DENIED", "message": message, "detail": {"quota": 2}});
    assert_eq!((answer.status.as_u16(), answer.errors()), (403, vec![expected]));
    assert_eq!(linked(&registry), before);
    for name in ["team/one", "team", "team/free", "other"] {
        assert_eq!(push(name).status, 201, "{name}");
    }
    assert_eq!(push("none/at/all").status, 403);
    // A repository of another registry, which the catalog does not have yet, is not a new one.
    let digest = sha256(r#"{"schemaVersion":2,"manifests":[]}"#);
    let link = Key::Revision(&"team/old".parse().unwrap(), &digest).path();
    let content = Body::Bytes(digest.to_string().into());
    block_on(registry.storage.memory.put(&link, content, PutOptions::default())).unwrap();
    assert_eq!(push("team/old").status, 201);
}

#[test]
fn without_a_quota_a_push_costs_what_it_did() {
    let calls = |policy: &str| {
        let registry = with(policy, Persistent::default());
        for content in ["layer", "config"] {
            registry.push_blob("a", content);
        }
        registry.storage.calls.borrow_mut().clear();
        assert_eq!(put(&registry, "a", "v1", &image(&["layer"])).status, 201);
        let mut calls = registry.storage.calls.borrow().clone();
        calls.sort_unstable();
        (calls, counted(&registry))
    };
    let (free, nothing) = calls("");
    assert_eq!(nothing, 0);
    assert_eq!(calls("[[quota]]\nrepositories = [\"b\"]\nbytes = \"1 B\"\n").0, free);
    // A look-up for each blob that is not counted yet.
    let mut of_bytes = free.clone();
    of_bytes.extend(["head"; 2]);
    of_bytes.sort_unstable();
    assert_eq!(calls("[[quota]]\nrepositories = [\"a\"]\nbytes = \"1 GB\"\n").0, of_bytes);
    // None for those that are.
    let registry = limited(1_000_000);
    for (layers, more) in [(&["layer"][..], 2), (&["layer"], 0), (&["layer", "new"], 1)] {
        let look_ups = |name: &str| {
            layers.iter().chain(&["config"]).for_each(|content| drop(registry.push_blob(name, content)));
            registry.storage.calls.borrow_mut().clear();
            assert_eq!(put(&registry, name, "v1", &image(layers)).status, 201);
            registry.storage.calls.borrow().iter().filter(|call| **call == "head").count()
        };
        // The first one stores the content.
        look_ups("c");
        assert_eq!(look_ups("a"), look_ups("b") + more, "{layers:?}");
    }
    // The catalog's entry, two listings for a new one.
    let mut of_repositories = free;
    of_repositories.extend(["head", "list", "list"]);
    of_repositories.sort_unstable();
    assert_eq!(calls("[[quota]]\nrepositories = [\"a\"]\nmax_repositories = 1\n").0, of_repositories);
}

#[test]
fn the_usage_of_repositories_is_what_the_last_collection_has_counted() {
    let registry = limited(100_000);
    assert!(usage(&registry).is_empty());
    assert_eq!(push(&registry, "v1", &["one", "shared"]).status, 201);
    assert_eq!(push(&registry, "v2", &["two", "shared"]).status, 201);
    registry.push_blob("a", bytes(20));
    registry.push_image("b/c", "v1", "layer");
    registry.push_image("b", "v1", "layer");
    assert!(usage(&registry).is_empty());
    collect(&registry);
    let shown = usage(&registry);
    let names: Vec<&str> = shown.iter().map(|used| used["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "b/c"]);
    let all = size(&["one", "shared"]) + image(&["two", "shared"]).len() + "two".len();
    let expected = json!({
        "name": "a", "manifests": 2, "layers": 4, "bytes": all, "unsized_layers": 0, "quota": 100_000,
        "counted": shown[0]["counted"],
    });
    assert_eq!(shown[0], expected);
    assert_eq!((&shown[2]["bytes"], &shown[2]["quota"]), (&json!(size(&["layer"])), &Value::Null));
    let pages = registry.pages("/v2/_pierhead/usage?n=2");
    let entries: Vec<usize> =
        pages.iter().map(|page| page.json()["repositories"].as_array().unwrap().len()).collect();
    assert_eq!(entries, [2, 1]);
    registry.storage.calls.borrow_mut().clear();
    registry.get("GET /v2/_pierhead/usage");
    assert_eq!(*registry.storage.calls.borrow(), ["list"]);
    // Where listings have no metadata, each is looked up.
    registry.storage.hides_metadata.set(true);
    assert_eq!(usage(&registry), shown);
    // Without a quota, nothing is looked up for its size.
    collect(&registry);
    let [a, b, _] = &usage(&registry)[..] else { panic!() };
    assert_eq!((&a["bytes"], &a["unsized_layers"]), (&json!(all), &json!(0)));
    assert_eq!((&b["bytes"], &b["unsized_layers"]), (&json!(image(&["layer"]).len()), &json!(2)));
    assert_eq!(registry.code("POST /v2/_pierhead/usage"), 405);
    assert_eq!(registry.code("GET /v2/_pierhead/usage?n=x"), 400);
    let closed = TestRegistry::with(&[("ANONYMOUS", "pull")], Persistent::default());
    assert_eq!(closed.code("GET /v2/_pierhead/usage"), 401);
}

#[test]
fn a_ledger_counts_each_digest_once_and_forgets_what_is_old() {
    use pierhead::platform::Timestamp;
    let ledger = MemoryLedger::default();
    let (one, two) = (sha256("one"), sha256("two"));
    let count = |of: &[(Digest, u64)], at, limit| ledger.count(of, Timestamp(at), limit).unwrap();
    assert_eq!(count(&[(one.clone(), 3)], 1, Some(3)), None);
    assert_eq!(count(&[(one.clone(), 3), (two.clone(), 1)], 2, Some(3)), Some(4));
    assert_eq!(count(&[(one.clone(), 3)], 2, Some(0)), None, "nothing is new");
    assert_eq!(count(&[(two.clone(), 0)], 3, Some(2)), Some(3), "it is new, although empty");
    assert_eq!(count(&[(two.clone(), 1)], 3, None), None);
    assert_eq!(
        ledger.keep(&[one.clone(), sha256("x")], Timestamp(5)).unwrap(),
        std::slice::from_ref(&sha256("x"))
    );
    ledger.finished_late(Timestamp(4)).unwrap();
    ledger.forget(Timestamp(4)).unwrap();
    assert_eq!(ledger.bytes(), 4);
    ledger.forget(Timestamp(5)).unwrap();
    assert_eq!(ledger.bytes(), 3);
}
