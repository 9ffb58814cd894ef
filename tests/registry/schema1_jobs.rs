//! What becomes of the signatures of schema 1 beside jobs: collections, the check of both trees, removals, takedowns.

use futures_executor::block_on;
use pierhead::{
    jobs::{Collect, Fsck, Job},
    layout::Key,
    oci::Digest,
    platform::{Body, memory::MemoryStream, verifier::Algorithm},
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    collect::{DAY, collection},
    fixtures::sha256,
    schema1::{SIGNED, UNSIGNED, assert_served, full, name, signer, text_of},
    signed::{LAYOUTS, Signature, payload, signed},
    support::{Persistent, TestRegistry},
};

#[test]
fn a_collection_keeps_the_signatures_of_what_is_there() {
    for hides_metadata in [false, true] {
        let registry = full();
        registry.storage.hides_metadata.set(hides_metadata);
        // An old image, one of whose signatures is gone; a new one; and a new one of the same layers.
        registry.write_layers("old", &["a", "b"]);
        let old_payload = payload("old", "v1", &["a", "b"], LAYOUTS[0]);
        let signatures: Vec<Signature> =
            (0..3).map(|_| Signature::new(&signer(Algorithm::Es256), &old_payload)).collect();
        let old = registry.write_old("old", "v1", &old_payload, &signatures);
        let gone = sha256(signatures[2].blob());
        block_on(registry.storage.memory.delete(&[Key::Data(&gone).path()])).unwrap();
        registry.push_blob("new", "a");
        let new_payload = payload("new", "v1", &["a"], LAYOUTS[1]);
        let signature = Signature::new(&signer(Algorithm::Es384), &new_payload);
        let new_text = signed(&new_payload, std::slice::from_ref(&signature), "");
        assert_eq!(registry.put("new/manifests/v1", Some(SIGNED), &new_text).status, 201);
        registry.settle();
        let (old_text, new) = (signed(&old_payload, &signatures[..2], LAYOUTS[0].0), sha256(&new_payload));
        // Condemned by somebody who does not know better.
        for signature in [&signatures[0], &signature] {
            let context = registry.context(pierhead::auth::Principal::Job("test"));
            block_on(registry.app.blobs(&context).condemn(&sha256(signature.blob()))).unwrap();
        }
        let serve = |old_text: &str| {
            let registry = TestRegistry::with(
                &[("SCHEMA1", "full")],
                Persistent { storage: registry.storage.clone(), ..Persistent::default() },
            );
            assert_served(&registry, "old/manifests/v1", None, (SIGNED, old_text), &old);
            assert_served(&registry, "new/manifests/v1", None, (SIGNED, &new_text), &new);
        };
        // A layer that nobody needs goes, with the manifests looked at in the writer's turn.
        registry.push_blob("new", "unused");
        registry.collect_for_days(8);
        serve(&old_text);
        assert_eq!(registry.code(&format!("HEAD /v2/new/blobs/{}", sha256("unused"))), 404);
        assert_eq!(registry.code(&format!("HEAD /v2/old/blobs/{}", sha256("b"))), 200);
        registry.check_for_damage();

        // What is deleted goes with its signatures; the other stays.
        assert_eq!(registry.code(&format!("DELETE /v2/old/manifests/{old}")), 202);
        assert_eq!(registry.revisions("old"), [""; 0]);
        registry.collect_for_days(8);
        assert_served(&registry, "new/manifests/v1", None, (SIGNED, &new_text), &new);
        assert_eq!(registry.code(&format!("DELETE /v2/new/manifests/{new}")), 202);
        registry.collect_for_days(8);
        assert_eq!(registry.content(), [""; 0]);
    }
}

impl TestRegistry {
    /// A run of the check of both trees, which finds nothing wrong. Returns its reports.
    fn check_for_damage(&self) -> Vec<Value> {
        use pierhead::jobs::Job;
        let (mut cursor, mut reports) = (None, Vec::new());
        loop {
            let job = Fsck { is_dry_run: false, calls: 500 };
            let context = self.context(pierhead::auth::Principal::Job(job.name()));
            let step = block_on(job.step(&self.app, &context, cursor)).unwrap();
            assert_eq!(step.report["damage"], json!({}), "{}", step.report);
            assert_eq!(step.report["failed"], Value::Null, "{}", step.report);
            reports.push(step.report);
            cursor = step.next;
            if cursor.is_none() {
                return reports;
            }
        }
    }
}

#[test]
fn the_check_of_both_trees_indexes_signatures() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures: Vec<Signature> =
        (0..2).map(|_| Signature::new(&signer(Algorithm::Es256), &payload)).collect();
    registry.write_old("old", "v1", &payload, &signatures);
    let (there, gone) = (sha256(signatures[0].blob()), sha256(signatures[1].blob()));
    block_on(registry.storage.memory.delete(&[Key::Data(&gone).path()])).unwrap();
    registry.pass(DAY);
    let sum =
        |reports: &[Value], of: &str| reports.iter().filter_map(|report| report[of].as_u64()).sum::<u64>();
    for _ in 0..2 {
        let reports = registry.check_for_damage();
        assert_eq!(sum(&reports, "unused_signatures"), 1, "{reports:?}");
        assert_eq!(sum(&reports, "unused_reverse_links"), 0, "{reports:?}");
        let path = Key::ReverseLink(&there, &name("old")).path();
        let link = block_on(registry.storage.memory.head(&path)).unwrap().unwrap();
        assert_eq!(pierhead::blobs::marker::signs(&link), Some(sha256(&payload)));
        registry.pass(DAY);
    }
}

/// The signatures of `old/manifests/v1` are in the bucket: another isolate serves them.
fn assert_is_kept(registry: &TestRegistry, payload: &str, signatures: &[Signature], digest: &Digest) {
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let other = TestRegistry::with(&[], persistent);
    let text = text_of(payload, signatures);
    assert_served(&other, "old/manifests/v1", None, (SIGNED, &text), digest);
}

#[test]
fn a_bucket_that_was_indexed_before_signatures_counted_is_indexed_again() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    let digest = registry.write_old("old", "v1", &payload, &signatures);
    registry.pass(DAY);
    registry.collect(&collection());
    // As the run of an earlier version has left it.
    let signature = sha256(signatures[0].blob());
    let path = Key::ReverseLink(&signature, &name("old")).path();
    block_on(registry.storage.memory.delete(&[path])).unwrap();
    let seen = Key::Collection("seen").path();
    let mut metadata = block_on(registry.storage.memory.head(&seen)).unwrap().unwrap().metadata;
    assert!(metadata.remove("signatures").is_some());
    let options = PutOptions { metadata, ..PutOptions::default() };
    block_on(registry.storage.memory.put(&seen, Body::Empty, options)).unwrap();
    registry.collect_for_days(5);
    assert_is_kept(&registry, &payload, &signatures, &digest);
}

#[test]
fn a_run_that_an_earlier_version_has_begun_begins_anew() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    let digest = registry.write_old("old", "v1", &payload, &signatures);
    registry.pass(30 * DAY);
    // It has seen the repositories, and condemned the signatures, or would do so now.
    let context = registry.context(pierhead::auth::Principal::Job("test"));
    let job = collection();
    for at in [r#"{"content":{"algorithm":"sha256","after":""}}"#, r#"{"markers":{"after":null}}"#] {
        let started = registry.app.clock.now().0;
        let mut cursor = Some(format!(r#"{{"started":{started},"at":{at}}}"#));
        loop {
            cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
            registry.run_background();
            if cursor.is_none() {
                break;
            }
        }
        registry.pass(2 * DAY);
    }
    registry.collect_for_days(5);
    assert_is_kept(&registry, &payload, &signatures, &digest);
}

#[test]
fn a_signature_that_is_taken_down_is_served_no_more() {
    let registry = full();
    registry.push_blob("a", "a");
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let signature = Signature::new(&signer(Algorithm::Es256), &payload);
    let text = signed(&payload, std::slice::from_ref(&signature), LAYOUTS[0].0);
    assert_eq!(registry.put("a/manifests/v1", Some(SIGNED), &text).status, 201);
    assert_eq!(registry.pull("GET", "a/manifests/v1", None).header("content-type"), SIGNED);
    let line = format!("POST /v2/_pierhead/takedown?digest={}", sha256(signature.blob()));
    let reason = Some(MemoryStream::new(r#"{"reason": "a private certificate"}"#));
    let answer = registry.send(&line, &[("content-type", "application/json")], reason);
    assert!(answer.status.is_success(), "{answer:?}");
    registry.run_background();
    // This isolate still has its content in memory.
    let answer = registry.pull("GET", "a/manifests/v1", None);
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, UNSIGNED));
}

#[test]
fn links_to_signatures_that_lead_nowhere_go() {
    for short_pages in [None, Some(5)] {
        let registry = full();
        registry.storage.short_pages.set(short_pages);
        let old_payload = payload("old", "v1", &["a"], LAYOUTS[0]);
        registry.write_layers("old", &["a"]);
        let old = registry.write_old("old", "v1", &old_payload, &[]);
        let link = |manifest: &Digest, signature: &Digest| {
            let key = Key::Signature { name: &name("old"), manifest, signature };
            registry.write(key, signature.to_string());
        };
        // As many as a garbage collection of `distribution` may have left: more than a pull looks at.
        (0..300).for_each(|n| link(&old, &sha256(format!("gone {n}"))));
        // Of a manifest that was deleted: one with its content, and one without.
        let deleted = sha256("deleted");
        registry.write(Key::Data(&sha256("there")), "there");
        link(&deleted, &sha256("there"));
        link(&deleted, &sha256("gone"));
        // A signature that is pushed now, and comes last.
        let late = (0..).find_map(|_| {
            let signature = Signature::new(&signer(Algorithm::Es256), &old_payload);
            sha256(signature.blob()).hex().starts_with('f').then_some(signature)
        });
        let signatures = [late.unwrap()];
        let text = signed(&old_payload, &signatures, LAYOUTS[0].0);
        assert_eq!(registry.put("old/manifests/v1", Some(SIGNED), &text).status, 201);

        registry.pass(DAY);
        registry.settle();
        let dry = registry.collect(&Collect { is_dry_run: true, ..collection() });
        assert_eq!(dry["signatures_removed"], 302, "{dry}");
        assert!(registry.revisions("old").len() > 300);
        let report = registry.collect(&collection());
        assert_eq!(report["signatures_removed"], 302, "{report}");
        assert_is_kept(&registry, &old_payload, &signatures, &old);
        assert_eq!(registry.revisions("old").len(), 2, "the manifest and its signature");
        registry.collect_for_days(8);
        assert!(!registry.content().iter().any(|path| path.contains(sha256("there").hex())));
        assert_is_kept(&registry, &old_payload, &signatures, &old);
        assert_eq!(registry.code(&format!("DELETE /v2/old/manifests/{old}")), 202);
        registry.collect_for_days(8);
        assert_eq!(registry.content(), [""; 0]);
    }
}

#[test]
fn only_links_to_signatures_that_are_new_here_or_have_their_turn_are_looked_at() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let manifest = registry.write_old("old", "v1", &payload, &[]);
    let link = |of: &str| {
        let signature = sha256(of);
        let key = Key::Signature { name: &name("old"), manifest: &manifest, signature: &signature };
        registry.write(key, signature.to_string());
    };
    let run = || registry.collect(&Collect { thoroughness: 8, ..collection() })["signatures_removed"].clone();
    registry.pass(DAY);
    (0..50).for_each(|n| link(&format!("gone {n}")));
    registry.pass(2 * 60 * 60);
    // They are younger than the grace time.
    assert_eq!(run(), 0);
    registry.pass(2 * DAY);
    // They were written before the last run, which has seen them: an eighth goes in each of the next.
    let removed: Vec<u64> = (0..8).map(|_| run().as_u64().unwrap()).collect();
    assert!(removed.iter().all(|removed| *removed < 25), "{removed:?}");
    assert_eq!((removed.iter().sum::<u64>(), registry.revisions("old").len()), (50, 1), "{removed:?}");
    // A bucket that no run has seen.
    (0..50).for_each(|n| link(&format!("gone {n}")));
    registry.pass(2 * DAY);
    block_on(registry.storage.memory.delete(&[Key::Collection("seen").path()])).unwrap();
    assert_eq!(run(), 50);
}

#[test]
fn links_to_signatures_that_were_pushed_meanwhile_stay() {
    let registry = full();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    let manifest = registry.write_old("old", "v1", &payload, &signatures);
    let signature = sha256(signatures[0].blob());
    let remove = || {
        let context = registry.context(pierhead::auth::Principal::Job("collect"));
        let repository = registry.app.repository(&name("old"), &context);
        block_on(repository.collect_signatures(&manifest, vec![signature.clone()])).unwrap();
    };
    // The writer looks once more: they were pushed meanwhile.
    remove();
    assert_is_kept(&registry, &payload, &signatures, &manifest);
    block_on(registry.storage.memory.delete(&[Key::Data(&signature).path()])).unwrap();
    remove();
    assert_eq!(registry.revisions("old").len(), 1);
    // A push writes content and link again.
    registry.pass(60);
    let text = signed(&payload, &signatures, LAYOUTS[0].0);
    assert_eq!(registry.put("old/manifests/v1", Some(SIGNED), &text).status, 201);
    assert_is_kept(&registry, &payload, &signatures, &manifest);
}

#[test]
fn layers_that_are_named_by_tarsum_stay() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a", "b"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let tarsum = format!("tarsum.v1+{}", sha256("files"));
    registry.write_old("old", "v1", &payload.replace(&sha256("a").to_string(), &tarsum), &[]);
    for _ in 0..8 {
        registry.pass(DAY);
        let reports = registry.collect_steps(&collection());
        let told: Vec<&Value> =
            reports.iter().filter_map(|report| report["examples"].as_array()).flatten().collect();
        let is_told = |told: &&&Value| told["why"].as_str().is_some_and(|why| why.contains("by tarsum"));
        assert_eq!(told.iter().filter(is_told).count(), 1, "{told:?}");
    }
    for layer in ["a", "b"] {
        assert_eq!(registry.code(&format!("HEAD /v2/old/blobs/{}", sha256(layer))), 200);
    }
}

#[test]
fn a_removed_repository_leaves_no_signatures() {
    let registry = full();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    registry.write_old("old", "v1", &payload, &signatures);
    // A signature of a manifest that the old registry has deleted.
    let other = sha256("other");
    let signature = sha256(signatures[0].blob());
    registry.write(
        Key::Signature { name: &name("old"), manifest: &other, signature: &signature },
        signature.to_string(),
    );
    let context = registry.context(pierhead::auth::Principal::Job("test"));
    let old = name("old");
    assert!(block_on(pierhead::jobs::remove::begin(&registry.app, &context, &old)).unwrap());
    loop {
        let step = block_on(pierhead::jobs::remove::step(&registry.app, &context, &old)).unwrap();
        if step.is_none_or(|(_, is_done)| is_done) {
            break;
        }
        registry.pass(60);
    }
    assert_eq!(registry.revisions("old"), [""; 0]);
    registry.collect_for_days(8);
    assert_eq!(registry.content(), [""; 0]);
}
