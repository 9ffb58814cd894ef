//! The collection of garbage: what goes, what stays, and what it costs.

use futures_executor::block_on;
use http::StatusCode;
use pierhead::{
    auth::Principal,
    jobs::{Collect, Job, schedule},
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Body, Timestamp, memory::MemoryStream},
    repository::stored::LinkMark,
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::{CONFIG, IMAGE, bytes, descriptor, image, sha256},
    support::{Fault, PART, Persistent, TestRegistry},
};

pub const HOUR: u64 = 60 * 60;
pub const DAY: u64 = 24 * HOUR;

/// The default of the worker, in small steps.
pub fn collection() -> Collect {
    Collect { grace: DAY, is_dry_run: false, upload_ttl: 7 * DAY, thoroughness: 1, calls: 20 }
}

impl TestRegistry {
    /// Lets time pass, also for storage.
    pub fn pass(&self, seconds: u64) {
        self.clock.0.set(self.clock.0.get() + seconds * 1000);
        self.storage.memory.now.set(Timestamp(self.clock.0.get()));
    }

    /// One run of a collection. Returns the sums of its reports, and fails if a step reports a failure.
    pub fn collect(&self, job: &Collect) -> Value {
        let reports = self.collect_steps(job);
        let mut sums = serde_json::Map::new();
        for report in &reports {
            assert_eq!(report.get("failed"), None, "{report}");
            for (name, value) in report.as_object().unwrap() {
                if let Some(number) = value.as_u64() {
                    let sum = sums.get(name).and_then(Value::as_u64).unwrap_or_default();
                    sums.insert(name.clone(), (sum + number).into());
                }
            }
        }
        Value::Object(sums)
    }

    pub fn collect_steps(&self, job: &Collect) -> Vec<Value> {
        let (mut cursor, mut reports) = (None, Vec::new());
        loop {
            let context = self.context(Principal::Job(job.name()));
            let step = block_on(job.step(&self.app, &context, cursor)).unwrap();
            self.run_background();
            reports.push(step.report);
            cursor = step.next;
            if cursor.is_none() {
                return reports;
            }
            assert!(reports.len() < 10_000, "it does not end: {cursor:?}");
        }
    }

    /// Daily runs, until everything that can go has gone.
    pub fn collect_for_days(&self, days: usize) {
        for _ in 0..days {
            self.pass(DAY);
            self.settle();
            self.collect(&collection());
        }
    }

    /// The objects that belong to content: bytes, descriptors, links, reverse links, markers.
    pub fn content(&self) -> Vec<String> {
        let is_content = |path: &String| {
            [
                "docker/registry/v2/",
                "pierhead/blobs/",
                "pierhead/descriptors/",
                "pierhead/links/",
                "pierhead/gc/",
            ]
            .iter()
            .any(|prefix| path.starts_with(prefix))
        };
        self.storage.memory.paths().into_iter().filter(is_content).collect()
    }

    pub fn code(&self, line: &str) -> u16 {
        self.get(line).status.as_u16()
    }
}

fn data(digest: &Digest) -> String {
    Key::Data(digest).to_string()
}

fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

/// Pushes an image whose second layer has several parts.
fn push_large(registry: &TestRegistry, repository: &str, tag: &str, large: &[u8]) -> Digest {
    registry.push_blob(repository, "config");
    let layer = registry.push_blob(repository, "layer");
    let location = registry.get(&format!("POST /v2/{repository}/blobs/uploads/"));
    let location = location.header("location").to_owned();
    let patched =
        registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(large.to_vec())));
    let digest = sha256(large);
    let finish = format!("PUT {}&digest={digest}", patched.header("location"));
    assert_eq!(registry.get(&finish).status, StatusCode::CREATED);
    registry.run_background();
    let layers = [
        json!({"mediaType": "a/b", "digest": layer, "size": 5}),
        json!({"mediaType": "a/b", "digest": digest, "size": large.len()}),
    ];
    let config = descriptor(CONFIG, "config");
    let content = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers});
    registry.push_manifest(repository, tag, IMAGE, &content.to_string())
}

#[test]
fn a_deleted_image_goes_and_nothing_else() {
    let registry = TestRegistry::new();
    let large = bytes(5 * PART);
    registry.push_image("kept", "v1", "layer");
    let before = registry.content();
    let deleted = push_large(&registry, "gone/image", "v1", &large);
    assert!(registry.content().iter().any(|path| path.starts_with("pierhead/blobs/")));
    registry.collect_for_days(3);
    for blob in [sha256("layer"), sha256(&large)] {
        assert_eq!(registry.get(&format!("GET /v2/gone/image/blobs/{blob}")).status, StatusCode::OK);
    }
    assert_eq!(registry.code(&format!("DELETE /v2/gone/image/manifests/{deleted}")), 202);
    assert_eq!(registry.code(&format!("GET /v2/gone/image/blobs/{}", sha256(&large))), 200);
    // Condemned links, links removed, bytes deleted, markers removed.
    registry.collect_for_days(4);
    assert_eq!(registry.content(), before);
    assert_eq!(registry.get("GET /v2/kept/manifests/v1").status, StatusCode::OK);
    registry.push_image("gone/image", "v1", "layer");
    assert_eq!(registry.get("GET /v2/gone/image/manifests/v1").status, StatusCode::OK);
}

#[test]
fn what_is_pushed_and_never_named_goes_after_the_grace_time() {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    registry.push_image("a", "v1", "layer");
    let before = registry.content();
    let orphan = registry.push_blob("a", "orphan");
    // An upload that is never finished, and one that is cancelled.
    let location = registry.start_upload("");
    registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::new("first chunk")));
    let cancelled = registry.start_upload("");
    let patched = registry.send(&format!("PATCH {cancelled}"), &[], Some(MemoryStream::new("cancelled")));
    assert_eq!(registry.code(&format!("DELETE {}", patched.header("location"))), 204);
    registry.pass(DAY - 1);
    registry.collect(&collection());
    assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{orphan}")), 200);
    registry.pass(1);
    let report = registry.collect(&collection());
    assert_eq!((&report["links_condemned"], &report["links_removed"]), (&json!(1), &json!(0)), "{report}");
    // A push looks first: it must not rely on it. A pull may go on.
    assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{orphan}")), 404);
    assert_eq!(registry.code(&format!("GET /v2/a/blobs/{orphan}")), 200);
    // Eight days after its start, the unfinished upload is over.
    registry.collect_for_days(12);
    assert_eq!(registry.content(), before);
}

#[test]
fn a_condemned_layer_that_is_wanted_stays() {
    let registry = TestRegistry::new();
    registry.push_blob("a", "config");
    let (pushed, named) = (registry.push_blob("a", "pushed again"), registry.push_blob("a", "named"));
    registry.pass(DAY);
    registry.collect(&collection());
    for blob in [&pushed, &named] {
        assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{blob}")), 404);
    }
    // One is pushed again, with an event as for any push; the other is named by a manifest of a client that looked before.
    registry.push_blob("a", "pushed again");
    assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{pushed}")), 200);
    registry.push_blob("a", "config");
    registry.push_manifest("a", "v1", IMAGE, &image(&["named"]));
    assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{named}")), 200);
    registry.collect_for_days(6);
    assert_eq!(registry.code(&format!("GET /v2/a/blobs/{named}")), 200);
    assert_eq!(registry.code(&format!("GET /v2/a/blobs/{pushed}")), 404);
}

#[test]
fn a_manifest_that_is_pushed_while_its_repository_is_looked_through_keeps_its_layers() {
    let registry = TestRegistry::new();
    registry.push_blob("a", "config");
    let layer = registry.push_blob("a", "layer");
    registry.pass(DAY);
    registry.collect(&collection());
    registry.pass(DAY);
    // The manifests are read, and the layers are not compared yet.
    let job = Collect { calls: 1, ..collection() };
    let context = registry.context(Principal::Job(job.name()));
    let mut cursor = None;
    loop {
        cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
        if cursor.as_ref().unwrap().contains("layers") {
            break;
        }
    }
    registry.push_manifest("a", "v1", IMAGE, &image(&["layer"]));
    while let Some(at) = cursor {
        cursor = block_on(job.step(&registry.app, &context, Some(at))).unwrap().next;
    }
    registry.collect_for_days(4);
    for blob in [layer, sha256("config")] {
        assert_eq!(registry.code(&format!("GET /v2/a/blobs/{blob}")), 200);
        assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{blob}")), 200);
    }
}

#[test]
fn a_bucket_of_another_registry_loses_nothing_but_garbage() {
    for hides_metadata in [false, true] {
        let registry = TestRegistry::new();
        registry.storage.hides_metadata.set(hides_metadata);
        let put = |path: String, content: &str| {
            let body = Body::Bytes(content.to_owned().into());
            block_on(registry.storage.memory.put(&path.parse().unwrap(), body, PutOptions::default()))
                .unwrap();
        };
        let schema1 = json!({"schemaVersion": 1, "fsLayers": [{"blobSum": sha256("old layer")}]}).to_string();
        for (manifest, layers) in
            [(image(&["layer"]), ["config", "layer"]), (schema1, ["old layer", "old layer"])]
        {
            let digest = sha256(&manifest);
            put(data(&digest), &manifest);
            put(Key::Revision(&name("team/app"), &digest).to_string(), &digest.to_string());
            for layer in layers {
                put(data(&sha256(layer)), layer);
                put(Key::Layer(&name("team/app"), &sha256(layer)).to_string(), &sha256(layer).to_string());
            }
        }
        put(data(&sha256("garbage")), "garbage");
        // One manifest has lost its content: nobody knows what it needs.
        let name_of = |layer: &str| Key::Layer(&name("broken"), &sha256(layer)).to_string();
        put(data(&sha256("unknown")), "unknown");
        put(name_of("unknown"), &sha256("unknown").to_string());
        put(Key::Revision(&name("broken"), &sha256("lost")).to_string(), &sha256("lost").to_string());
        for _ in 0..8 {
            registry.pass(DAY);
            let reports = registry.collect_steps(&collection());
            assert!(reports.iter().any(|report| report["failed"].to_string().contains("broken")));
        }
        assert_eq!(registry.get(&format!("GET /v2/broken/blobs/{}", sha256("unknown"))).body, b"unknown");
        for layer in ["config", "layer", "old layer"] {
            assert_eq!(
                registry.get(&format!("GET /v2/team/app/blobs/{}", sha256(layer))).body,
                layer.as_bytes()
            );
        }
        let image = format!("GET /v2/team/app/manifests/{}", sha256(image(&["layer"])));
        assert_eq!(registry.code(&image), 200);
        assert!(!registry.content().contains(&data(&sha256("garbage"))));
    }
}

#[test]
fn a_dry_run_tells_what_would_go_and_removes_nothing() {
    let registry = TestRegistry::new();
    registry.push_image("a", "v1", "layer");
    registry.push_blob("a", "orphan");
    let unlinked = registry.push_blob("b", "unlinked");
    assert_eq!(registry.code(&format!("DELETE /v2/b/blobs/{unlinked}")), 202);
    registry.pass(2 * DAY);
    let before = registry.content();
    let job = Collect { is_dry_run: true, ..collection() };
    for _ in 0..2 {
        let report = registry.collect(&job);
        assert_eq!(report["links_condemned"], 1, "{report}");
        assert_eq!(
            (&report["content_deleted"], &report["bytes_deleted"]),
            (&json!(1), &json!(8)),
            "{report}"
        );
        assert_eq!(registry.content(), before);
    }
    let reports = registry.collect_steps(&Collect { calls: 1000, ..job });
    let examples = reports[0]["examples"].as_array().unwrap();
    let whys: Vec<_> = examples.iter().map(|example| (&example["what"], &example["digest"])).collect();
    assert_eq!(
        whys,
        [(&json!("link"), &json!(sha256("orphan"))), (&json!("bytes"), &json!(unlinked))],
        "{examples:?}"
    );
}

#[test]
fn layers_stay_where_a_manifest_has_no_content() {
    let registry = TestRegistry::new();
    let manifest = registry.push_image("a", "v1", "layer");
    block_on(registry.storage.memory.delete(&[data(&manifest).parse().unwrap()])).unwrap();
    for _ in 0..4 {
        registry.pass(DAY);
        let failed: Vec<_> =
            registry.collect_steps(&collection()).iter().map(|report| report["failed"].clone()).collect();
        assert!(failed.iter().any(|failed| failed.to_string().contains(&manifest.to_string())), "{failed:?}");
    }
    assert_eq!(registry.code(&format!("GET /v2/a/blobs/{}", sha256("layer"))), 200);
}

#[test]
fn the_same_layer_of_other_repositories_stays() {
    let registry = TestRegistry::new();
    // More repositories than a sweep looks at in one go.
    let names: Vec<String> = (0..120).map(|n| format!("r{n:03}")).collect();
    for name in &names {
        registry.push_image(name, "v1", "layer");
    }
    let manifest = sha256(image(&["layer"]));
    for name in &names[..119] {
        assert_eq!(registry.code(&format!("DELETE /v2/{name}/manifests/{manifest}")), 202);
    }
    registry.collect_for_days(4);
    assert_eq!(registry.code("GET /v2/r119/manifests/v1"), 200);
    assert_eq!(registry.code(&format!("GET /v2/r119/blobs/{}", sha256("layer"))), 200);
    assert_eq!(registry.code(&format!("GET /v2/r000/blobs/{}", sha256("layer"))), 404);
    assert_eq!(registry.code(&format!("DELETE /v2/r119/manifests/{manifest}")), 202);
    registry.collect_for_days(7);
    assert_eq!(registry.content(), Vec::<String>::new());
}

#[test]
fn whatever_call_fails_nothing_that_is_needed_goes() {
    for fault in [Fault::Error, Fault::Busy, Fault::Timeout] {
        // Two days of collections, of which the second removes links, and the third bytes.
        for day in 0..3 {
            let mut n = 0;
            loop {
                let registry = TestRegistry::new();
                registry.push_image("a", "v1", "kept");
                let gone = registry.push_image("a", "v2", "gone");
                assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{gone}")), 202);
                registry.collect_for_days(day);
                registry.pass(DAY);
                let job = Collect { calls: 1000, ..collection() };
                let context = registry.context(Principal::Job(job.name()));
                registry.storage.fail_at(Some((n, fault)));
                let failed = block_on(job.step(&registry.app, &context, None));
                let calls = registry.storage.calls.borrow().len();
                registry.storage.fail_at(None);
                drop(failed);
                registry.run_background();
                registry.collect_for_days(5);
                assert_eq!(registry.code("GET /v2/a/manifests/v1"), 200, "{fault:?} {day} {n}");
                for (layer, status) in [("kept", 200), ("gone", 404)] {
                    let line = format!("GET /v2/a/blobs/{}", sha256(layer));
                    assert_eq!(registry.code(&line), status, "{fault:?} {day} {n} {layer}");
                }
                let left: Vec<_> = registry
                    .content()
                    .into_iter()
                    .filter(|path| path.contains(sha256("gone").hex()))
                    .collect();
                assert_eq!(left, Vec::<String>::new(), "{fault:?} {day} {n}");
                n += 7;
                if n >= calls {
                    break;
                }
            }
        }
    }
}

#[test]
fn marks_of_links_are_read_back() {
    let registry = TestRegistry::new();
    let orphan = registry.push_blob("a", "orphan");
    let path = Key::Layer(&name("a"), &orphan).path();
    let mark = || LinkMark::of(&block_on(registry.storage.memory.head(&path)).unwrap().unwrap());
    assert_eq!(mark(), None);
    registry.pass(DAY);
    registry.collect(&collection());
    assert_eq!(mark(), Some(LinkMark::Condemned(Timestamp(DAY * 1000))));
    registry.push_blob("a", "orphan");
    assert_eq!(mark(), None);
}

#[test]
fn the_schedule_collects_as_the_settings_say() {
    for (mode, is_left) in [("on", false), ("dry-run", true), ("off", true)] {
        let registry =
            TestRegistry::with(&[("COLLECT", mode), ("COLLECT_GRACE", "2h")], Persistent::default());
        registry.pass(30 * DAY);
        let orphan = registry.push_blob("a", "orphan");
        for _ in 0..4 {
            registry.pass(DAY);
            block_on(schedule::tick(&registry.app, |job| registry.context(Principal::Job(job))));
            registry.settle();
        }
        assert_eq!(registry.content().contains(&data(&orphan)), is_left, "{mode}");
    }
}
