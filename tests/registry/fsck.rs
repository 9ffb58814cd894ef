//! The check of the two trees: what it finds, what it repairs, what it leaves alone, and what it costs.

use std::collections::BTreeMap;

use futures_executor::block_on;
use http::StatusCode;
use pierhead::{
    auth::Principal,
    blobs::Located,
    jobs::{Fsck, Job},
    layout::Key,
    oci::{Algorithm, RepositoryName, Tag},
    platform::{Body, memory::MemoryStream, metrics::Family},
    storage::{Metadata, ObjectMeta, PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    collect::{DAY, HOUR, collection},
    fixtures::{CONFIG, IMAGE, INDEX, bytes, descriptor, image, sha256},
    support::{Fault, PART, TestRegistry},
};

/// A manifest of a repository that has a subject.
pub fn referring() -> String {
    let subject = json!({"mediaType": IMAGE, "digest": sha256(image(&["layer"])), "size": 1});
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}).to_string()
}

/// A blob of several parts.
pub fn large() -> Vec<u8> {
    bytes(5 * PART)
}

/// A registry to which was pushed, and from which was deleted, by all ways.
pub fn populated() -> TestRegistry {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    registry.push_image("a", "v1", "layer");
    registry.push_manifest("a", "v2", IMAGE, &image(&["layer"]));
    registry.push_manifest("a", "latest", INDEX, &referring());
    registry.push_blob("a", "");
    registry.push_blob_by(Algorithm::Sha512, "a", "other algorithm");
    let location = registry.start_upload("");
    let patched = registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(large())));
    let finish = format!("PUT {}&digest={}", patched.header("location"), sha256(large()));
    assert_eq!(registry.get(&finish).status, StatusCode::CREATED);
    for blob in ["layer", "config"] {
        let mount = format!("POST /v2/b/c/blobs/uploads/?mount={}&from=a", sha256(blob));
        assert_eq!(registry.code(&mount), 201);
    }
    registry.push_manifest("b/c", "moved", IMAGE, &image(&["layer"]));
    registry.push_manifest("b/c", "moved", IMAGE, &image(&[]));
    // What is deleted.
    registry.push_image("d", "one", "of d");
    let untagged = registry.push_manifest("d", "two", IMAGE, &image(&[]));
    assert_eq!(registry.code("DELETE /v2/d/manifests/one"), 202);
    assert_eq!(registry.code(&format!("DELETE /v2/d/manifests/{untagged}")), 202);
    assert_eq!(registry.code(&format!("DELETE /v2/d/blobs/{}", sha256("of d"))), 202);
    registry.run_background();
    registry.settle();
    registry.pass(HOUR);
    registry
}

fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

fn tag(tag: &str) -> Tag {
    tag.parse().unwrap()
}

impl TestRegistry {
    /// Steps of a job until its end; one that fails is made again. Returns the reports and the errors.
    pub fn steps(&self, job: &dyn Job) -> (Vec<Value>, Vec<String>) {
        let (mut cursor, mut reports, mut errors) = (None::<String>, Vec::new(), Vec::new());
        loop {
            let context = self.context(Principal::Job(job.name()));
            match block_on(job.step(&self.app, &context, cursor.clone())) {
                Ok(step) => {
                    reports.push(step.report);
                    cursor = step.next;
                    if cursor.is_none() {
                        return (reports, errors);
                    }
                }
                Err(error) => errors.push(error.to_string()),
            }
            assert!(cursor.as_ref().is_none_or(|cursor| cursor.len() <= 1024), "{cursor:?}");
            assert!(reports.len() + errors.len() < 10_000, "it does not end: {cursor:?}");
        }
    }

    /// Writes an object beside the registry.
    pub fn overwrite(&self, path: &str, content: &[u8], metadata: Metadata) {
        let options = PutOptions { metadata, ..PutOptions::default() };
        let body = Body::Bytes(content.to_vec().into());
        block_on(self.storage.memory.put(&path.parse().unwrap(), body, options)).unwrap();
    }

    /// Deletes an object beside the registry, which has it.
    pub fn lose(&self, path: &str) {
        assert!(self.meta(path).is_some(), "{path}");
        block_on(self.storage.memory.delete(&[path.parse().unwrap()])).unwrap();
    }

    pub fn meta(&self, path: &str) -> Option<ObjectMeta> {
        block_on(self.storage.memory.head(&path.parse().unwrap())).unwrap()
    }

    /// The path of the object of a blob of several parts.
    pub fn object_of_large(&self) -> String {
        let paths = self.storage.memory.paths();
        paths.into_iter().find(|path| path.starts_with("pierhead/blobs/")).unwrap()
    }

    /// Everything but what jobs keep.
    fn everything(&self) -> Vec<(String, Metadata)> {
        let paths = self.storage.memory.paths().into_iter();
        let paths = paths.filter(|path| !path.starts_with("pierhead/jobs/"));
        paths.map(|path| (path.clone(), self.meta(&path).unwrap().metadata)).collect()
    }
}

/// The sums of the findings: those of `field`, by kind.
pub fn sums(reports: &[Value], field: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for counts in reports.iter().filter_map(|report| report[field].as_object()) {
        for (kind, count) in counts {
            *sums.entry(kind.clone()).or_default() += count.as_u64().unwrap();
        }
    }
    sums
}

pub fn texts(reports: &[Value]) -> Vec<String> {
    let failed = reports.iter().filter_map(|report| report["failed"].as_array()).flatten();
    failed.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn check(calls: usize) -> Fsck {
    Fsck { is_dry_run: false, calls }
}

fn dry() -> Fsck {
    Fsck { is_dry_run: true, calls: 500 }
}

fn of_one(kind: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(kind.to_owned(), 1)])
}

#[test]
fn a_healthy_registry_has_no_findings() {
    for hides_metadata in [false, true] {
        for calls in [1, 10, 500] {
            let registry = populated();
            registry.storage.hides_metadata.set(hides_metadata);
            let before = registry.everything();
            let (reports, errors) = registry.steps(&check(calls));
            for field in ["damage", "repaired", "repairable"] {
                assert_eq!(sums(&reports, field), BTreeMap::new(), "{reports:?}");
            }
            assert_eq!((texts(&reports), errors), (Vec::new(), Vec::new()));
            assert_eq!(registry.everything(), before);
            let keys: u64 = reports.iter().map(|report| report["keys"].as_u64().unwrap()).sum();
            let folders = ["docker/registry/v2/repositories/", "pierhead/links/", "pierhead/referrers/"];
            let folders = folders.iter().chain(&["pierhead/descriptors/", "pierhead/repositories/"]);
            let is_looked_at = |path: &&String| folders.clone().any(|folder| path.starts_with(folder));
            assert_eq!(keys as usize, registry.storage.memory.paths().iter().filter(is_looked_at).count());
        }
    }
}

/// Damage, and what says of it: its kind, and a part of the text.
type Case = (&'static str, Damage);

/// Damages a registry.
pub type Damage = Box<dyn Fn(&TestRegistry)>;

fn lost(key: Key<'_>) -> Damage {
    let path = key.to_string();
    Box::new(move |registry| registry.lose(&path))
}

#[test]
fn what_follows_from_the_rest_is_repaired() {
    let (a, layer) = (name("a"), sha256("layer"));
    let large_link = Key::Layer(&a, &sha256(large())).to_string();
    let link = Key::Layer(&a, &layer).to_string();
    let subject = sha256(image(&["layer"]));
    let elsewhere = Located { size: 320, at: Some("pierhead/blobs/none".parse().unwrap()) }.to_metadata();
    let rewritten = |path: String, metadata: Metadata, content: String| {
        Box::new(move |registry: &TestRegistry| {
            registry.overwrite(&path, content.as_bytes(), metadata.clone());
            registry.pass(HOUR);
        })
    };
    let cases: Vec<Case> = vec![
        ("missing_reverse_link", lost(Key::ReverseLink(&layer, &a))),
        ("missing_reverse_link", lost(Key::ReverseLink(&subject, &a))),
        ("missing_catalog_entry", lost(Key::Repository(&a))),
        (
            "missing_referrer",
            lost(Key::Referrer { name: &a, subject: &subject, referrer: &sha256(referring()) }),
        ),
        ("missing_tag_index", lost(Key::TagIndex(&a, &tag("v2"), &subject))),
        ("missing_metadata", rewritten(link, Metadata::new(), format!("{layer}\n"))),
        ("wrong_place", rewritten(large_link, elsewhere, sha256(large()).to_string())),
    ];
    for hides_metadata in [false, true] {
        for (kind, damage) in &cases {
            let registry = populated();
            registry.storage.hides_metadata.set(hides_metadata);
            let before = registry.everything();
            damage(&registry);
            let damaged = registry.everything();
            assert_ne!(damaged, before, "{kind}");
            let (reports, _) = registry.steps(&dry());
            assert_eq!(sums(&reports, "repairable"), of_one(kind));
            assert_eq!((registry.everything(), sums(&reports, "damage")), (damaged, BTreeMap::new()));
            registry.app.metrics.drain();
            for calls in [1, 500] {
                let (reports, _) = registry.steps(&check(calls));
                let expected = if calls == 1 { of_one(kind) } else { BTreeMap::new() };
                assert_eq!((sums(&reports, "repaired"), texts(&reports)), (expected, Vec::new()), "{kind}");
                assert_eq!(registry.everything(), before, "{kind}");
            }
            let counted = registry.app.metrics.drain();
            assert!(counted.get(Family::Findings, &["fsck", kind, "repaired"]).is_some(), "{kind}");
            assert_eq!(registry.lines.0.borrow().iter().filter(|line| line["level"] == "error").count(), 0);
        }
    }
}

#[test]
fn what_nothing_can_repair_is_reported() {
    let (a, bc, layer) = (name("a"), name("b/c"), sha256("layer"));
    let tagged = sha256(image(&["layer"]));
    let current = Key::TagCurrent(&a, &tag("v1")).to_string();
    let unreadable = Box::new(move |registry: &TestRegistry| {
        registry.overwrite(&current, b"no digest", Metadata::new());
        registry.pass(HOUR);
    });
    let cut = Box::new(|registry: &TestRegistry| {
        registry.overwrite(&registry.object_of_large(), &large()[1..], Metadata::new());
    });
    let lost_object = Box::new(|registry: &TestRegistry| registry.lose(&registry.object_of_large()));
    let one = |kind: &'static str, count: u64| BTreeMap::from([(kind.to_owned(), count)]);
    let cases: Vec<(BTreeMap<String, u64>, Damage)> = vec![
        // Two repositories have it.
        (one("link_without_bytes", 2), lost(Key::Data(&layer))),
        (one("manifest_without_content", 1), lost(Key::Data(&sha256(referring())))),
        (one("tag_without_manifest", 2), lost(Key::Revision(&a, &tagged))),
        (one("tag_without_manifest", 1), lost(Key::Revision(&bc, &sha256(image(&[]))))),
        (one("unreadable_tag", 1), unreadable),
        (one("wrong_length", 1), cut),
        (
            BTreeMap::from([
                ("link_without_bytes".to_owned(), 1),
                ("descriptor_without_object".to_owned(), 1),
            ]),
            lost_object,
        ),
        (
            BTreeMap::from([
                ("referrer_without_manifest".to_owned(), 1),
                ("tag_without_manifest".to_owned(), 1),
            ]),
            lost(Key::Revision(&a, &sha256(referring()))),
        ),
    ];
    for hides_metadata in [false, true] {
        for (expected, damage) in &cases {
            let registry = populated();
            registry.storage.hides_metadata.set(hides_metadata);
            damage(&registry);
            let before = registry.everything();
            for calls in [1, 500] {
                registry.app.metrics.drain();
                registry.lines.0.take();
                let (reports, _) = registry.steps(&check(calls));
                assert_eq!(sums(&reports, "damage"), *expected);
                assert_eq!(
                    (sums(&reports, "repaired"), registry.everything()),
                    (BTreeMap::new(), before.clone())
                );
                let count: u64 = expected.values().sum();
                assert_eq!(texts(&reports).len() as u64, count);
                let lines = registry.lines.0.take();
                let errors = lines.iter().filter(|line| line["level"] == "error" && line["job"] == "fsck");
                assert_eq!(errors.count() as u64, count);
                let counted = registry.app.metrics.drain();
                for kind in expected.keys() {
                    assert!(counted.get(Family::Findings, &["fsck", kind, "damaged"]).is_some(), "{kind}");
                }
            }
        }
    }
}

#[test]
fn the_api_shows_what_was_found() {
    let registry = populated();
    registry.lose(&Key::Data(&sha256("layer")).to_string());
    for dry_run in [true, false] {
        let answer = registry.get(&format!("POST /v2/_pierhead/jobs/fsck/run?dry-run={dry_run}")).json();
        assert_eq!((&answer["report"]["dry_run"], &answer["running"]), (&json!(dry_run), &json!(false)));
        let last = &registry.get("GET /v2/_pierhead/jobs/fsck").json()["ended"][0];
        assert_eq!(last["totals"]["damage"], json!({"link_without_bytes": 2}));
        let failures: Vec<&str> = last["failures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text["message"].as_str().unwrap())
            .collect();
        assert_eq!(failures.len(), 2);
        for repository in ["a", "b/c"] {
            let link = Key::Layer(&name(repository), &sha256("layer")).to_string();
            assert!(failures.contains(&&*format!("link_without_bytes: {link}")), "{failures:?}");
        }
    }
}

#[test]
fn a_copied_bucket_gets_its_indexes_and_nobody_calls_them_missing() {
    let registry = TestRegistry::new();
    registry.pass(DAY);
    registry.push_image("team/app", "v1", "layer");
    registry.push_manifest("team/app", "v2", INDEX, &referring());
    registry.run_background();
    let before = registry.everything();
    for path in registry.storage.memory.paths() {
        if ["links/", "referrers/", "repositories/"]
            .iter()
            .any(|of| path.starts_with(&format!("pierhead/{of}")))
        {
            registry.lose(&path);
        }
    }
    let (reports, errors) = registry.steps(&check(500));
    assert_eq!((texts(&reports), sums(&reports, "repaired"), errors), Default::default());
    assert_eq!(registry.everything(), before);
}

#[test]
fn nothing_young_is_called_wrong() {
    for damage in [
        lost(Key::Data(&sha256("layer"))),
        lost(Key::Data(&sha256(referring()))),
        lost(Key::Revision(&name("a"), &sha256(referring()))),
    ] {
        let registry = TestRegistry::new();
        registry.pass(DAY);
        registry.push_image("a", "v1", "layer");
        registry.push_manifest("a", "v2", INDEX, &referring());
        registry.run_background();
        damage(&registry);
        for seconds in [0, 14 * 60] {
            registry.pass(seconds);
            let (reports, _) = registry.steps(&check(500));
            assert_eq!((sums(&reports, "damage"), texts(&reports)), Default::default());
        }
        registry.pass(120);
        assert_ne!(sums(&registry.steps(&check(500)).0, "damage"), BTreeMap::new());
    }
}

#[test]
fn what_is_about_to_be_deleted_is_no_damage() {
    // Runs of a collection that stop anywhere, and a check after each step.
    let registry = populated();
    let job = pierhead::jobs::Collect { calls: 1, grace: 0, ..collection() };
    assert_eq!(registry.code("DELETE /v2/a/manifests/v1"), 202);
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{}", sha256(image(&["layer"])))), 202);
    for _ in 0..3 {
        registry.pass(HOUR);
        registry.settle();
        let mut cursor = None;
        loop {
            let context = registry.context(Principal::Job("collect"));
            cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
            registry.pass(1);
            let (reports, _) = registry.steps(&dry());
            assert_eq!((sums(&reports, "damage"), texts(&reports)), Default::default());
            if cursor.is_none() {
                break;
            }
        }
    }
    assert!(registry.meta(&Key::Data(&sha256(large())).to_string()).is_none());
}

#[test]
fn a_link_that_the_collection_has_marked_stays_as_it_is() {
    let registry = TestRegistry::new();
    let blob = registry.push_blob("a", "never named");
    registry.pass(DAY);
    registry.collect(&collection());
    let link = Key::Layer(&name("a"), &blob).to_string();
    let condemned = registry.meta(&link);
    assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{blob}")), 404);
    registry.lose(&Key::ReverseLink(&blob, &name("a")).to_string());
    registry.steps(&check(500));
    assert_eq!(registry.meta(&link), condemned);
}

#[test]
fn a_fault_is_reported_and_the_rest_is_repaired() {
    let lose_all = |registry: &TestRegistry| {
        let a = name("a");
        let subject = sha256(image(&["layer"]));
        for key in [
            Key::ReverseLink(&sha256("layer"), &a),
            Key::Repository(&a),
            Key::Referrer { name: &a, subject: &subject, referrer: &sha256(referring()) },
            Key::TagIndex(&a, &tag("v1"), &subject),
        ] {
            registry.lose(&key.to_string());
        }
    };
    let mut faults = 0;
    for n in 0.. {
        let registry = populated();
        let before = registry.everything();
        lose_all(&registry);
        registry.storage.fail_at(Some((n, Fault::Error)));
        let (reports, errors) = registry.steps(&check(40));
        let has_failed = registry.storage.calls.borrow().len() > n;
        registry.storage.fail_at(None);
        assert_eq!(sums(&reports, "damage"), BTreeMap::new());
        if !has_failed {
            break;
        }
        faults += 1;
        assert_eq!(texts(&reports).len() + errors.len(), 1, "{n}: {reports:?} {errors:?}");
        // What was left, if anything, is found by the next run.
        registry.settle();
        let (reports, errors) = registry.steps(&check(40));
        assert_eq!((texts(&reports), errors), Default::default());
        assert_eq!(registry.everything(), before, "{n}");
    }
    assert!(faults > 50, "{faults}");
}

/// The calls of a check, by operation.
fn calls(registry: &TestRegistry) -> BTreeMap<&'static str, usize> {
    registry.storage.calls.borrow_mut().clear();
    let (reports, _) = registry.steps(&check(500));
    assert_eq!(texts(&reports), Vec::<String>::new());
    let mut counts = BTreeMap::new();
    for call in registry.storage.calls.take() {
        *counts.entry(call).or_default() += 1;
    }
    counts
}

#[test]
fn a_check_costs_a_few_look_ups_for_each_key() {
    let registry = TestRegistry::new();
    registry.pass(DAY);
    let layers: Vec<String> = (0..40).map(|n| format!("layer {n}")).collect();
    registry.push_blob("a", "config");
    for layer in &layers {
        registry.push_blob("a", layer);
    }
    registry.pass(DAY);
    // The first job of an isolate reads the name of the deployment.
    calls(&registry);
    let base = calls(&registry);
    for (n, layer) in layers.iter().enumerate() {
        let config = descriptor(CONFIG, "config");
        let layers = [descriptor("a/b", layer)];
        let content = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers});
        registry.push_manifest("a", &format!("v{n}"), IMAGE, &content.to_string());
    }
    registry.run_background();
    registry.pass(DAY);
    let all = calls(&registry);
    let of = |counts: &BTreeMap<&str, usize>, name: &str| counts.get(name).copied().unwrap_or_default();
    println!("41 blobs: {base:?}; with 40 manifests and tags: {all:?}");
    // Each link and each reverse link: two look-ups.
    assert_eq!((of(&base, "head"), of(&base, "get")), (4 * 41, 0));
    // Each manifest is read, its reverse link and both links of that are looked up; each tag is read, and two look-ups.
    // The catalog has one entry.
    assert_eq!(of(&all, "head") - of(&base, "head"), 40 * 3 + 40 * 2 + 1);
    assert_eq!(of(&all, "get"), 2 * 40);
    assert!(of(&all, "list") <= 20 && of(&all, "put") == 0, "{all:?}");
}
