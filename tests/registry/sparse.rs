//! Sparse images: manifests whose blobs are not all in their repository, where `MISSING_BLOBS` allows them.

use futures_executor::block_on;
use futures_util::future::join;
use pierhead::{
    auth::Principal,
    jobs::{Collect, Fsck, Job},
    oci::{Digest, RepositoryName},
    platform::{Body, memory::MemoryStream},
    repository::writer::protocol::{Command, Entry, Refused, Reply, Stage, Writers},
};
use serde_json::json;

use crate::{
    collect::{DAY, collection},
    fixtures::{IMAGE, INDEX, descriptor, image, sha256},
    fsck::{sums, texts},
    support::{Answer, Persistent, TestRegistry},
    table::{OF_IMAGE, OF_INDEX, assert_well_formed},
};

fn with(vars: &[(&str, &str)]) -> TestRegistry {
    let storage = TestRegistry::new().storage;
    let registry = TestRegistry::with(vars, Persistent { storage, ..Persistent::default() });
    // Times before the collection's margins are not negative.
    registry.pass(30 * DAY);
    registry
}

fn accepting() -> TestRegistry {
    with(&[("MISSING_BLOBS", "accept")])
}

fn put(registry: &TestRegistry, name: &str, tag: &str, manifest: &str) -> Answer {
    let body = Some(MemoryStream::new(manifest.to_owned()));
    registry.send(&format!("PUT /v2/{name}/manifests/{tag}"), OF_IMAGE, body)
}

fn codes(registry: &TestRegistry, name: &str, blob: &Digest) -> [u16; 2] {
    ["HEAD", "GET"].map(|method| registry.code(&format!("{method} /v2/{name}/blobs/{blob}")))
}

#[test]
fn missing_blobs_are_refused_unless_a_setting_says_otherwise() {
    let accept = ("MISSING_BLOBS", "accept");
    for (vars, accepted, refused) in [
        (&[][..], &[][..], &["a", "mirror/a"][..]),
        (&[("MISSING_BLOBS", "refuse")], &[], &["a"]),
        (&[accept], &["a", "mirror/a"], &[]),
        (&[("MISSING_BLOBS_REPOSITORIES", "mirror/*=accept")], &["mirror/a", "mirror/a/b"], &["a", "mirror"]),
        (&[accept, ("MISSING_BLOBS_REPOSITORIES", "team/app=refuse")], &["a", "team/b"], &["team/app"]),
    ] {
        let registry = with(vars);
        for name in accepted {
            let answer = put(&registry, name, "v1", &image(&["missing"]));
            assert_eq!(answer.status, 201, "{vars:?}, {name}: {answer:?}");
        }
        for name in refused {
            let answer = put(&registry, name, "v1", &image(&["missing"]));
            assert_well_formed("PUT", &answer);
            assert_eq!(answer.status, 400, "{vars:?}, {name}");
            assert_eq!(answer.codes(), ["MANIFEST_BLOB_UNKNOWN"; 2], "{vars:?}, {name}");
            assert_eq!(registry.code(&format!("GET /v2/{name}/manifests/v1")), 404);
        }
    }
}

#[test]
fn a_sparse_image_is_served_and_its_blobs_when_they_have_come() {
    let registry = accepting();
    registry.push_blob("a", "config");
    registry.push_blob("a", "here");
    // Another repository's blob is missing here like any other.
    registry.push_blob("b", "elsewhere");
    let content = image(&["here", "late", "elsewhere"]);
    let digest = sha256(&content);
    assert_eq!(put(&registry, "a", "v1", &content).status, 201);
    for reference in ["v1", &digest.to_string()] {
        let answer = registry.get(&format!("GET /v2/a/manifests/{reference}"));
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, content.as_bytes()));
    }
    for missing in ["late", "elsewhere"] {
        assert_eq!(codes(&registry, "a", &sha256(missing)), [404, 404], "{missing}");
        let answer = registry.get(&format!("GET /v2/a/blobs/{}", sha256(missing)));
        assert_eq!(answer.codes(), ["BLOB_UNKNOWN"]);
    }
    assert_eq!(codes(&registry, "a", &sha256("here")), [200, 200]);
    registry.push_blob("a", "late");
    let mount = format!("POST /v2/a/blobs/uploads/?mount={}&from=b", sha256("elsewhere"));
    assert_eq!(registry.code(&mount), 201);
    for blob in ["here", "late", "elsewhere", "config"] {
        assert_eq!(codes(&registry, "a", &sha256(blob)), [200, 200], "{blob}");
    }
    // The suite deletes what it has pushed.
    for line in ["DELETE /v2/a/manifests/v1", &format!("DELETE /v2/a/manifests/{digest}")] {
        assert_eq!(registry.code(line), 202, "{line}");
    }
    assert_eq!(registry.code("GET /v2/a/manifests/v1"), 404);
}

/// That a blob is missing is not remembered, however old other answers may be.
#[test]
fn no_cache_hides_a_blob_that_has_come() {
    let vars = [("MISSING_BLOBS", "accept"), ("DIGEST_CACHE_SECONDS", "3600"), ("TAG_CACHE_SECONDS", "3600")];
    let registry = with(&vars);
    assert_eq!(put(&registry, "a", "v1", &image(&["late"])).status, 201);
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let other = TestRegistry::with(&vars, persistent);
    let late = sha256("late");
    for isolate in [&registry, &other] {
        assert_eq!(codes(isolate, "a", &late), [404, 404]);
        assert_eq!(isolate.code("GET /v2/a/manifests/v1"), 200);
    }
    registry.push_blob("a", "late");
    for isolate in [&registry, &other] {
        assert_eq!(codes(isolate, "a", &late), [200, 200]);
    }
}

#[test]
fn a_missing_blob_that_comes_late_is_not_collected() {
    for days_before in [0, 1, 5] {
        let registry = accepting();
        let digest = sha256(image(&["late"]));
        assert_eq!(put(&registry, "a", "v1", &image(&["late"])).status, 201);
        registry.collect_for_days(days_before);
        assert_eq!(registry.code("GET /v2/a/manifests/v1"), 200, "{days_before}");
        for blob in ["late", "config", "not named"] {
            registry.push_blob("a", blob);
        }
        registry.collect_for_days(6);
        for blob in ["late", "config"] {
            assert_eq!(codes(&registry, "a", &sha256(blob)), [200, 200], "{blob}, {days_before}");
        }
        assert_eq!(codes(&registry, "a", &sha256("not named")), [404, 404], "{days_before}");
        // With its manifest it goes, and leaves nothing.
        assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{digest}")), 202);
        registry.collect_for_days(6);
        let left: Vec<_> = registry.content().into_iter().filter(|path| path.contains("/_layers/")).collect();
        assert_eq!((codes(&registry, "a", &sha256("late")), left), ([404, 404], Vec::new()));
    }
}

/// Between which steps of a collection a manifest and its blob come, and which is first.
#[test]
fn blob_and_manifest_may_come_in_any_order_beside_a_collection() {
    let job = Collect { calls: 1, ..collection() };
    for is_old in [false, true] {
        for blob_first in [false, true] {
            for (first, second) in [(0, 0), (1, 1), (0, 3), (1, 2), (2, 2), (2, 4), (3, 3), (3, 9), (5, 6)] {
                let registry = accepting();
                registry.push_image("a", "other", "of another");
                if is_old {
                    // Its link is condemned, and about to be removed.
                    registry.push_blob("a", "layer");
                    registry.pass(DAY);
                    registry.collect(&collection());
                    registry.pass(DAY);
                }
                let push_blob = || drop(registry.push_blob("a", "layer"));
                let push_manifest =
                    || assert_eq!(put(&registry, "a", "v1", &image(&["layer", "never"])).status, 201);
                let context = registry.context(Principal::Job(job.name()));
                let (mut cursor, mut steps) = (None, 0);
                loop {
                    for at in [first, second].into_iter().enumerate() {
                        match at {
                            (0, at) if at == steps && blob_first => push_blob(),
                            (0, at) if at == steps => push_manifest(),
                            (1, at) if at == steps && blob_first => push_manifest(),
                            (1, at) if at == steps => push_blob(),
                            _ => {}
                        }
                    }
                    if steps > 0 && cursor.is_none() && steps > second {
                        break;
                    }
                    cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
                    registry.run_background();
                    steps += 1;
                }
                let about = format!("old: {is_old}, blob first: {blob_first}, at {first} and {second}");
                assert_eq!(codes(&registry, "a", &sha256("layer")), [200, 200], "{about}");
                registry.collect_for_days(5);
                assert_eq!(codes(&registry, "a", &sha256("layer")), [200, 200], "{about}");
                assert_eq!(codes(&registry, "a", &sha256("never")), [404, 404], "{about}");
            }
        }
    }
}

#[test]
fn a_blob_that_is_removed_while_its_manifest_is_pushed_is_missing() {
    let registry = accepting();
    let digest = registry.push_image("a", "v1", "layer");
    let size = registry.get("GET /v2/a/manifests/v1").body.len() as u64;
    let (name, blob) = ("a".parse::<RepositoryName>().unwrap(), sha256("layer"));
    assert_eq!(registry.code(&format!("DELETE /v2/a/blobs/{blob}")), 202);
    let push = |tag: &str, missing: &[Digest]| {
        let command = Command::Push {
            entry: Entry {
                digest: digest.clone(),
                size,
                media_type: IMAGE.to_owned(),
                subject: None,
                signatures: Vec::new(),
            },
            tags: vec![tag.parse().unwrap()],
            blobs: vec![blob.clone()],
            stage: Stage::Complete,
            referrer: None,
            immutable: Vec::new(),
            held: None,
            quota: None,
            missing: missing.to_vec(),
            children: Vec::new(),
        };
        // The command as a worker of another version reads it.
        let sent = serde_json::to_value(&command).unwrap();
        assert_eq!(sent["Push"].get("missing").is_some(), !missing.is_empty());
        let command: Command = serde_json::from_value(sent).unwrap();
        block_on(registry.writers.call(&name, command.into()))
    };
    assert_eq!(push("refused", &[]), Err(Refused::BlobsMissing(vec![blob.clone()]).into()));
    assert_eq!(push("accepted", std::slice::from_ref(&blob)), Ok(Reply::Done));
    assert_eq!(registry.code("GET /v2/a/manifests/refused"), 404);
    assert_eq!(registry.code("GET /v2/a/manifests/accepted"), 200);
    assert_eq!(codes(&registry, "a", &blob), [404, 404]);
}

#[test]
fn a_deletion_and_a_push_at_the_same_time_leave_a_manifest_that_can_be_completed() {
    let registry = accepting();
    registry.push_image("a", "v1", "layer");
    let (layer, again) = (sha256("layer"), image(&["layer", "missing"]));
    let request = |method: &str, target: String, body: Option<&str>| {
        let request = http::Request::builder().method(method).uri(target).header("content-type", IMAGE);
        let body = body.map(|text| MemoryStream::new(text.to_owned()));
        request.body(body.map_or(Body::Empty, |stream| Body::Stream(stream.into()))).unwrap()
    };
    let delete = registry.handle(request("DELETE", format!("/v2/a/blobs/{layer}"), None));
    let push = registry.handle(request("PUT", "/v2/a/manifests/v2".to_owned(), Some(&again)));
    let (deleted, pushed) = block_on(join(delete, push));
    // The push had found the blob: its client hears that it is gone, as of one that is never missing.
    assert_eq!((deleted.status().as_u16(), pushed.status().as_u16()), (202, 400));
    assert_eq!(put(&registry, "a", "v2", &again).status, 201);
    registry.push_blob("a", "layer");
    registry.collect_for_days(5);
    assert_eq!(codes(&registry, "a", &layer), [200, 200]);
}

#[test]
fn many_missing_blobs_cost_no_call_more_than_those_that_are_there() {
    for layers in [3, 40] {
        let names: Vec<String> = (0..layers).map(|n| format!("layer {n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let calls = |registry: &TestRegistry, pushed: usize| {
            registry.push_blob("a", "config");
            names.iter().take(pushed).for_each(|name| drop(registry.push_blob("a", name)));
            // Another isolate: it has linked none of them.
            let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
            let other = TestRegistry::with(&[("MISSING_BLOBS", "accept")], persistent);
            registry.storage.calls.borrow_mut().clear();
            assert_eq!(put(&other, "a", "v1", &image(&names)).status, 201);
            let mut calls = registry.storage.calls.borrow().clone();
            calls.sort_unstable();
            calls
        };
        let whole = calls(&accepting(), layers);
        for pushed in [0, layers / 2] {
            assert_eq!(calls(&accepting(), pushed), whole, "{pushed} of {layers}");
        }
    }
}

#[test]
fn a_check_finds_no_damage_in_a_sparse_repository() {
    let registry = accepting();
    registry.push_blob("a", "here");
    assert_eq!(put(&registry, "a", "v1", &image(&["here", "missing"])).status, 201);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor(IMAGE, &image(&["here", "missing"])), descriptor(IMAGE, "no such manifest"),
    ]});
    let body = Some(MemoryStream::new(index.to_string()));
    assert_eq!(registry.send("PUT /v2/a/manifests/index", OF_INDEX, body).status, 201);
    registry.settle();
    registry.pass(DAY);
    let (reports, errors) = registry.steps(&Fsck { is_dry_run: false, calls: 500 });
    for field in ["damage", "repaired", "repairable"] {
        assert!(sums(&reports, field).is_empty(), "{reports:?}");
    }
    assert_eq!((texts(&reports), errors), (Vec::new(), Vec::new()));
}

#[test]
fn quotas_count_what_storage_has_of_a_sparse_image() {
    let policy = "[[quota]]\nrepositories = [\"a\"]\nbytes = \"2 kB\"\n";
    let registry = with(&[("MISSING_BLOBS", "accept"), ("POLICY", policy)]);
    let large = "x".repeat(1800);
    // The manifest claims more than the quota: what is missing takes nothing.
    let content = image(&[&large, &"y".repeat(5000)]);
    assert_eq!(put(&registry, "a", "v1", &content).status, 201);
    let name = "a".parse().unwrap();
    assert_eq!(registry.writers.counted(&name), content.len() as u64);
    // What comes later counts with the next collection.
    registry.push_blob("a", &large);
    assert_eq!(registry.writers.counted(&name), content.len() as u64);
    registry.pass(DAY);
    registry.settle();
    registry.collect(&collection());
    assert_eq!(registry.writers.counted(&name), (content.len() + large.len()) as u64);
    let refused = put(&registry, "a", "v2", &image(&["another"]));
    assert_eq!((refused.status.as_u16(), refused.codes()), (403, vec!["DENIED".to_owned()]));
}

#[test]
fn what_was_taken_down_stays_missing() {
    let registry = accepting();
    let layer = registry.push_blob("a", "layer");
    let line = format!("POST /v2/_pierhead/takedown?digest={layer}");
    let reason = Some(MemoryStream::new(r#"{"reason": "a leaked key"}"#));
    let answer = registry.send(&line, &[("content-type", "application/json")], reason);
    assert!(answer.status.is_success(), "{answer:?}");
    registry.run_background();
    // This isolate has just linked it, and hears that it is gone.
    assert_eq!(put(&registry, "a", "v1", &image(&["layer"])).status, 400);
    assert_eq!(put(&registry, "a", "v1", &image(&["layer"])).status, 201);
    assert_eq!(codes(&registry, "a", &layer), [404, 404]);
    let push = format!("POST /v2/a/blobs/uploads/?digest={layer}");
    assert_eq!(registry.send(&push, &[], Some(MemoryStream::new("layer"))).status, 403);
    // A manifest that was taken down is refused as before.
    let manifest = sha256(image(&["of it"]));
    let line = format!("POST /v2/_pierhead/takedown?digest={manifest}");
    let reason = Some(MemoryStream::new(r#"{"reason": "a leaked key"}"#));
    registry.send(&line, &[("content-type", "application/json")], reason);
    assert_eq!(put(&registry, "a", "v2", &image(&["of it"])).status, 403);
}

#[test]
fn a_change_of_the_setting_keeps_what_is_there() {
    let registry = accepting();
    let content = image(&["missing"]);
    assert_eq!(put(&registry, "a", "v1", &content).status, 201);
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let strict = TestRegistry::with(&[], persistent);
    assert_eq!(strict.get("GET /v2/a/manifests/v1").body, content.as_bytes());
    // Another tag of it is a push: it needs its blobs now.
    assert_eq!(put(&strict, "a", "v2", &content).codes(), ["MANIFEST_BLOB_UNKNOWN"; 2]);
    strict.push_blob("a", "missing");
    strict.push_blob("a", "config");
    assert_eq!(put(&strict, "a", "v2", &content).status, 201);
}
