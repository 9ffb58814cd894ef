//! Jobs: their effects, and resuming at a cursor.

use futures_executor::block_on;
use pierhead::{
    auth::Principal,
    config::PurgeMode,
    jobs::{self, Job, Purge, Step},
    layout::Key,
    oci::Algorithm,
    platform::{Body, Timestamp, memory::MemoryStream},
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::support::{PART, TestRegistry};

fn put(registry: &TestRegistry, path: &str) {
    let path = path.parse().unwrap();
    block_on(registry.storage.put(&path, Body::Empty, PutOptions::default())).unwrap();
}

/// Runs up to `steps` steps of a purge; returns the logged reports.
fn purge(registry: &TestRegistry, mode: PurgeMode, steps: usize) -> Vec<Value> {
    registry.lines.0.borrow_mut().clear();
    let job = Purge { before: Timestamp(5_000), mode };
    let context = registry.context(Principal::Job(job.name()));
    block_on(jobs::run(&job, Key::PurgeCursor, steps, &registry.app, &context)).unwrap();
    let lines = registry.lines.0.borrow();
    lines
        .iter()
        .map(|line| {
            assert_eq!(
                (&line["level"], &line["job"], &line["id"]),
                (&json!("info"), &json!("purge"), &json!("test"))
            );
            line["report"].clone()
        })
        .collect()
}

#[test]
fn a_purge_removes_only_objects_that_belong_to_no_blob() {
    for hides_metadata in [false, true] {
        let registry = TestRegistry::new();
        let storage = &registry.storage;
        storage.hides_metadata.set(hides_metadata);
        let (old, now) = (Timestamp(1_000), Timestamp(10_000));
        let bytes: Vec<u8> = (0..3 * PART + 5).map(|n| (n * 3) as u8).collect();
        let id = "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887";
        storage.memory.now.set(old);
        let digest = Algorithm::Sha256.digest(&bytes);
        let location = registry.start_upload("");
        let body = Some(MemoryStream::chunked(bytes.clone()));
        let patched = registry.send(&format!("PATCH {location}"), &[], body);
        let finish = format!("PUT {}&digest={digest}", patched.header("location"));
        assert_eq!(registry.get(&finish).status, 201);
        let left = [format!("pierhead/uploads/{id}/1"), format!("pierhead/uploads/{id}/staged/2")];
        left.iter().for_each(|path| put(&registry, path));
        storage.memory.now.set(now);
        put(&registry, "pierhead/uploads/1d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887/staged/1");

        let before = storage.memory.paths();
        let dry = purge(&registry, PurgeMode::DryRun, 1);
        assert_eq!(dry, [json!({"dry_run": true, "seen": 5, "purged": left, "finished": true})]);
        let mut after = storage.memory.paths();
        after.retain(|path| path != "pierhead/purge");
        assert_eq!(after, before);
        assert_eq!(purge(&registry, PurgeMode::On, 1)[0]["purged"], json!(left));
        assert_eq!(purge(&registry, PurgeMode::On, 1)[0]["purged"], json!([]));
        assert_eq!(registry.get(&format!("GET /v2/a/blobs/{digest}")).body, bytes);

        // An object whose descriptor is gone, or points elsewhere, belongs to no blob.
        block_on(storage.delete(&[Key::Descriptor(&digest).path()])).unwrap();
        assert_eq!(purge(&registry, PurgeMode::On, 1)[0]["purged"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_purge_resumes_at_its_cursor() {
    let registry = TestRegistry::new();
    for n in 0..1_200 {
        put(&registry, &format!("pierhead/uploads/{n:08}-9f2a-4b5e-a1d2-3c4b5a697887/staged/1"));
    }
    let mut reports = purge(&registry, PurgeMode::On, 1);
    reports.extend(purge(&registry, PurgeMode::On, 10));
    let purged: Vec<usize> =
        reports.iter().map(|report| report["purged"].as_array().unwrap().len()).collect();
    let finished: Vec<bool> = reports.iter().map(|report| report["finished"].as_bool().unwrap()).collect();
    assert_eq!((purged, finished), (vec![500, 500, 200], vec![false, false, true]));
}

/// A job of five steps, which report their numbers.
struct Counting;

impl Job for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn step<'a>(
        &'a self,
        _: &'a pierhead::app::App,
        _: &'a pierhead::context::Context,
        cursor: Option<String>,
    ) -> futures_util::future::LocalBoxFuture<'a, Result<Step, pierhead::repository::RepositoryError>> {
        let n: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        let next = (n < 4).then(|| (n + 1).to_string());
        Box::pin(async move { Ok(Step { report: json!(n), next }) })
    }
}

#[test]
fn a_run_is_bounded_and_the_next_one_continues() {
    let registry = TestRegistry::new();
    let context = registry.context(Principal::Job(Counting.name()));
    let run = |steps| {
        registry.lines.0.borrow_mut().clear();
        block_on(jobs::run(&Counting, Key::PurgeCursor, steps, &registry.app, &context)).unwrap();
        registry.lines.0.borrow().iter().map(|line| line["report"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((run(2), run(1), run(10), run(1)), (vec![0, 1], vec![2], vec![3, 4], vec![0]));
}

#[test]
fn a_rebuild_adds_the_indexes_that_another_registry_lacks() {
    let registry = TestRegistry::new();
    let config = Algorithm::Sha256.digest(b"{}");
    let line = format!("POST /v2/team/app/blobs/uploads/?digest={config}");
    assert_eq!(registry.send(&line, &[], Some(MemoryStream::new("{}"))).status, 201);
    let subject = Algorithm::Sha256.digest(b"subject");
    let descriptor = |digest| json!({"mediaType": "application/x", "digest": digest, "size": 2});
    let manifest = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(&config), "layers": [], "subject": descriptor(&subject),
    });
    let body = Some(MemoryStream::new(manifest.to_string()));
    assert_eq!(registry.send("PUT /v2/team/app/manifests/v1", &[], body).status, 201);

    let all = registry.storage.memory.paths();
    let derived: Vec<_> =
        all.iter().filter(|path| path.starts_with("pierhead/")).map(|path| path.parse().unwrap()).collect();
    block_on(registry.storage.delete(&derived)).unwrap();
    let catalog = || String::from_utf8(registry.get("GET /v2/_catalog").body).unwrap();
    assert_eq!(catalog(), r#"{"repositories":[]}"#);
    for _ in 0..2 {
        let answer = registry.get("POST /v2/_pierhead/rebuild");
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, br#"{"next":null}"#.as_slice()));
    }
    // The secret is not derived: it is created when needed.
    let paths: Vec<String> = all.into_iter().filter(|path| path != "pierhead/secret").collect();
    assert_eq!(registry.storage.memory.paths(), paths);
    assert_eq!(catalog(), r#"{"repositories":["team/app"]}"#);
    let referrers = registry.get(&format!("GET /v2/team/app/referrers/{subject}"));
    assert!(String::from_utf8(referrers.body).unwrap().contains(r#""artifactType":"application/x""#));
}
