//! Jobs: their effects, and resuming at a cursor.

use futures_executor::block_on;
use pierhead::{
    auth::Principal,
    blobs::Located,
    config::PurgeMode,
    jobs::{self, Job, Purge, Step},
    layout::Key,
    oci::{Algorithm, Digest},
    platform::{Body, Timestamp, memory::MemoryStream},
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{fixtures::sha256, support::TestRegistry};

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

/// Stores an object with the digest of `noted` as metadata, and a descriptor of `described` at that path.
fn put_noted(registry: &TestRegistry, path: &str, content: &str, noted: Option<&Digest>) {
    let metadata = noted.map(|digest| ("digest".to_owned(), digest.to_string())).into_iter().collect();
    let options = PutOptions { metadata, ..PutOptions::default() };
    let body = Body::Bytes(content.to_owned().into());
    block_on(registry.storage.put(&path.parse().unwrap(), body, options)).unwrap();
}

fn describe(registry: &TestRegistry, digest: &Digest, at: &str) {
    let metadata = Located { size: 1, at: Some(at.parse().unwrap()) }.to_metadata();
    let options = PutOptions { metadata, ..PutOptions::default() };
    block_on(registry.storage.put(&Key::Descriptor(digest).path(), Body::Empty, options)).unwrap();
}

#[test]
fn a_purge_removes_only_objects_that_belong_to_no_blob() {
    for hides_metadata in [false, true] {
        let registry = TestRegistry::new();
        let storage = &registry.storage;
        storage.hides_metadata.set(hides_metadata);
        storage.memory.now.set(Timestamp(1_000));
        let [kept, unknown, moved, broken, old] = ["a", "b", "c", "d", "e"].map(sha256);
        let uuid = |n: u8| format!("0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a69788{n}");
        let (blob, note) =
            (|n| format!("pierhead/blobs/{}", uuid(n)), |n| format!("pierhead/uploads/blobs/{}", uuid(n)));
        // Described; never described; described elsewhere; never described, with other bytes.
        for (n, content, digest) in [(1, "a", &kept), (2, "b", &unknown), (3, "c", &moved), (4, "x", &broken)]
        {
            put_noted(&registry, &blob(n), content, None);
            put_noted(&registry, &note(n), "", Some(digest));
        }
        describe(&registry, &kept, &blob(1));
        describe(&registry, &moved, &blob(9));
        // As earlier versions stored them: one with a descriptor, one without.
        let earlier = |n| format!("pierhead/uploads/{}/1", uuid(n));
        for n in [5, 6] {
            put_noted(&registry, &earlier(n), "e", None);
            put_noted(&registry, &format!("{}.blob", earlier(n)), "", Some(&old));
        }
        describe(&registry, &old, &earlier(5));
        put(&registry, &format!("pierhead/uploads/{}/staged/2", uuid(7)));
        storage.memory.now.set(Timestamp(10_000));
        put(&registry, &format!("pierhead/uploads/{}/staged/1", uuid(8)));

        let mut removed = vec![note(1), note(2), blob(3), note(3), blob(4), note(4)];
        removed.extend([earlier(6), format!("{}.blob", earlier(6))]);
        removed.push(format!("pierhead/uploads/{}/staged/2", uuid(7)));
        removed.sort();
        let sorted = |report: &Value| {
            let mut paths: Vec<String> = serde_json::from_value(report["purged"].clone()).unwrap();
            paths.sort();
            paths
        };
        let before = storage.memory.paths();
        let dry = purge(&registry, PurgeMode::DryRun, 1);
        assert_eq!((sorted(&dry[0]), &dry[0]["seen"]), (removed.clone(), &json!(10)));
        let mut after = storage.memory.paths();
        after.retain(|path| path != "pierhead/purge");
        assert_eq!(after, before);

        assert_eq!(sorted(&purge(&registry, PurgeMode::On, 1)[0]), removed);
        assert_eq!(sorted(&purge(&registry, PurgeMode::On, 1)[0]), Vec::<String>::new());
        let after = storage.memory.paths();
        let described = Key::Descriptor(&unknown).path().to_string();
        for path in [blob(1), blob(2), earlier(5), described] {
            assert!(after.contains(&path), "{path}");
        }
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
    // These are not derived: they are created when needed.
    let is_derived = |path: &String| path != "pierhead/secret" && path != "pierhead/deployment";
    let paths = |all: Vec<String>| all.into_iter().filter(is_derived).collect::<Vec<_>>();
    assert_eq!(paths(registry.storage.memory.paths()), paths(all));
    assert_eq!(catalog(), r#"{"repositories":["team/app"]}"#);
    let referrers = registry.get(&format!("GET /v2/team/app/referrers/{subject}"));
    assert!(String::from_utf8(referrers.body).unwrap().contains(r#""artifactType":"application/x""#));
}
