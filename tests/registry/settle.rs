//! Settling: blobs of several parts move to the place where `distribution` looks for them, whatever happens meanwhile.

use futures_executor::block_on;
use futures_util::FutureExt;
use pierhead::{
    auth::Principal,
    blobs::Located,
    config::JobMode,
    jobs::{Fsck, Job, Purge, Scrub, Settle, schedule},
    layout::Key,
    oci::{Algorithm, Digest, RepositoryName},
    platform::{Body, Timestamp, memory::MemoryStream},
    storage::{Metadata, PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    collect::{DAY, HOUR, collection},
    fixtures::{CONFIG, IMAGE, bytes, descriptor, sha256},
    support::{Fault, PART, Persistent, TestRegistry},
};

const WAIT: u64 = HOUR;

/// Copies with one call.
const WHOLE: Settle =
    Settle { wait: WAIT, is_dry_run: false, bytes: 1 << 30, hashed: 1 << 30, max_put: u64::MAX, calls: 500 };

/// Copies part by part, one in each step.
const PARTS: Settle = Settle { hashed: 1, max_put: 2 * PART as u64, ..WHOLE };

/// Blobs of several parts, of different lengths.
fn large(n: usize) -> Vec<u8> {
    bytes(3 * PART + 7 * n + 1)
}

fn data(digest: &Digest) -> String {
    Key::Data(digest).to_string()
}

fn push(registry: &TestRegistry, name: &str, content: &[u8], digest: &Digest) -> u16 {
    let location =
        registry.get(&format!("POST /v2/{name}/blobs/uploads/?digest-algorithm={}", digest.algorithm()));
    let stream = MemoryStream::chunked(content.to_vec());
    let patched = registry.send(&format!("PATCH {}", location.header("location")), &[], Some(stream));
    let status = registry.code(&format!("PUT {}&digest={digest}", patched.header("location")));
    registry.run_background();
    status
}

/// Pushes an image with this layer.
fn push_image(registry: &TestRegistry, name: &str, layer: &[u8]) {
    registry.push_blob(name, "config");
    let digest = sha256(layer);
    assert_eq!(push(registry, name, layer, &digest), 201);
    let layers = [json!({"mediaType": "a/b", "digest": digest, "size": layer.len()})];
    let config = descriptor(CONFIG, "config");
    let content = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers});
    registry.push_manifest(name, "v1", IMAGE, &content.to_string());
}

/// A registry with an image, whose layer has several parts, that was pushed a day ago.
fn world() -> TestRegistry {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    push_image(&registry, "a", &large(0));
    registry.settle();
    registry.pass(DAY);
    registry
}

/// The same bucket, in another isolate.
fn elsewhere(registry: &TestRegistry, vars: &[(&str, &str)]) -> TestRegistry {
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let other = TestRegistry::with(vars, persistent);
    other.clock.0.set(registry.clock.0.get());
    other
}

/// A run. Returns the sums of its reports.
fn run(registry: &TestRegistry, job: &Settle) -> Value {
    let (reports, errors) = registry.steps(job);
    registry.run_background();
    assert_eq!(errors, Vec::<String>::new());
    sums(&reports)
}

fn sums(reports: &[Value]) -> Value {
    let mut sums = serde_json::Map::new();
    for report in reports {
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

fn failures(registry: &TestRegistry, job: &Settle) -> Vec<String> {
    let (reports, errors) = registry.steps(job);
    assert_eq!(errors, Vec::<String>::new());
    let failed = reports.iter().filter_map(|report| report["failed"].as_array()).flatten();
    failed.map(|text| text.as_str().unwrap().to_owned()).collect()
}

impl TestRegistry {
    fn pulled(&self, name: &str, content: &[u8]) {
        let digest = sha256(content);
        let answer = self.get(&format!("GET /v2/{name}/blobs/{digest}"));
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, content));
        assert_eq!(self.code(&format!("HEAD /v2/{name}/blobs/{digest}")), 200);
        let range = self.send(&format!("GET /v2/{name}/blobs/{digest}"), &[("range", "bytes=10-19")], None);
        assert_eq!((range.status.as_u16(), &*range.body), (206, &content[10..20]));
    }

    fn content_of(&self, path: &str) -> Option<Vec<u8>> {
        let object = block_on(self.storage.memory.get(&path.parse().unwrap(), None)).unwrap()?;
        Some(block_on(object.body.read(usize::MAX)).unwrap().to_vec())
    }

    fn below(&self, prefix: &str) -> Vec<String> {
        let paths = self.storage.memory.paths().into_iter();
        paths.filter(|path| path.starts_with(prefix)).collect()
    }

    /// No job that looks for damage finds any, and none removes what is needed.
    fn assert_sound(&self) {
        let before = self.below("");
        for job in [
            &Fsck { is_dry_run: true, calls: 500 } as &dyn Job,
            &Scrub { bytes: 1 << 30, calls: 500 },
            &Purge { before: Timestamp(self.clock.0.get() - 1000), mode: JobMode::On },
        ] {
            let (reports, errors) = self.steps(job);
            self.run_background();
            assert_eq!(errors, Vec::<String>::new());
            for report in reports {
                let damage = report.get("damage").cloned().unwrap_or_else(|| json!({}));
                assert_eq!((damage, report.get("failed")), (json!({}), None), "{report}");
            }
        }
        assert_eq!(self.below(""), before);
    }

    /// The bytes are at their canonical key and nowhere else.
    fn assert_settled(&self, content: &[u8], digest: &Digest) {
        assert_eq!(self.content_of(&data(digest)).as_deref(), Some(content));
        assert_eq!(self.below("pierhead/blobs/"), Vec::<String>::new());
        assert_eq!(self.below("pierhead/uploads/"), Vec::<String>::new());
        // One without parts, whose id was lost, costs nothing.
        assert_eq!(self.storage.memory.open_parts(), 0);
        let metadata = self.meta(&Key::Descriptor(digest).to_string()).unwrap().metadata;
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["settled", "size"]);
    }
}

#[test]
fn bytes_move_to_their_canonical_key_and_the_first_object_goes() {
    for (job, hides_metadata) in [(WHOLE, false), (WHOLE, true), (PARTS, false), (PARTS, true)] {
        let registry = TestRegistry::new();
        registry.storage.hides_metadata.set(hides_metadata);
        registry.pass(30 * DAY);
        let (layer, digest) = (large(0), sha256(large(0)));
        push_image(&registry, "a", &layer);
        // Its push may still be under way.
        assert_eq!(run(&registry, &job)["waiting"], 1);
        registry.settle();
        registry.pass(HOUR);
        let links = || {
            let links = registry.below("docker/registry/v2/repositories/").into_iter();
            links.map(|path| registry.meta(&path).unwrap()).collect::<Vec<_>>()
        };
        let (links_before, [first]) = (links(), &*registry.below("pierhead/blobs/")) else { panic!() };
        let dry = Settle { is_dry_run: true, ..job };
        let objects = registry.below("");
        let size = layer.len() as u64;
        assert_eq!(run(&registry, &dry)["settled"], 1);
        assert_eq!(registry.below(""), objects);
        let done = run(&registry, &job);
        assert_eq!((&done["settled"], &done["bytes_settled"]), (&json!(1), &json!(size)), "{done}");
        let hashed = if job.max_put == u64::MAX { 0 } else { size };
        assert_eq!(done["bytes_hashed"], hashed);
        assert_eq!(registry.content_of(&data(&digest)), Some(layer.clone()));
        assert_eq!(registry.content_of(first), Some(layer.clone()));
        registry.pulled("a", &layer);
        registry.assert_sound();
        // Who was sent to the first object may still read it.
        registry.pass(WAIT - 1);
        let done = run(&registry, &job);
        assert_eq!((&done["removed"], &done["waiting"]), (&json!(0), &json!(1)));
        registry.pass(1);
        assert_eq!(run(&registry, &dry)["removed"], 1);
        assert!(registry.meta(first).is_some());
        let done = run(&registry, &job);
        assert_eq!((&done["removed"], &done["bytes_removed"]), (&json!(1), &json!(size)));
        registry.assert_settled(&layer, &digest);
        registry.pulled("a", &layer);
        registry.assert_sound();
        assert_eq!(links(), links_before);
        // There is nothing left to do: the listings, and a look for a copy.
        registry.storage.calls.borrow_mut().clear();
        let done = run(&registry, &job);
        assert_eq!(done["descriptors"], 1);
        let calls = registry.storage.calls.borrow().clone();
        assert_eq!(calls, ["get", "list", "list"]);
    }
}

#[test]
fn links_that_name_the_first_object_stay_good() {
    let registry = world();
    let (layer, digest) = (large(0), sha256(large(0)));
    run(&registry, &WHOLE);
    registry.pass(WAIT);
    run(&registry, &WHOLE);
    let link = registry.meta(&Key::Layer(&"a".parse().unwrap(), &digest).to_string()).unwrap();
    assert!(Located::from_metadata(&link.metadata).unwrap().at.is_some());
    // The first read of an isolate looks where the bytes are; those after it know.
    let other = elsewhere(&registry, &[]);
    let get = format!("GET /v2/a/blobs/{digest}");
    assert_eq!(other.calls(&get, &[]).0, ["head", "get", "head", "head", "get"]);
    for _ in 0..2 {
        let (calls, answer) = other.calls(&get, &[]);
        assert_eq!((answer.body, calls), (layer.clone(), vec!["head", "get"]));
    }
    // Whoever pushes it again, or mounts it, links what is there.
    assert_eq!(push(&registry, "b", &layer, &digest), 201);
    assert_eq!(registry.code(&format!("POST /v2/c/blobs/uploads/?mount={digest}&from=a")), 201);
    assert_eq!(registry.code(&format!("POST /v2/d/blobs/uploads/?mount={digest}")), 201);
    for name in ["a", "b", "c", "d"] {
        registry.pulled(name, &layer);
    }
    registry.assert_settled(&layer, &digest);
    // The check of both trees corrects the link.
    let (reports, _) = registry.steps(&Fsck { is_dry_run: false, calls: 500 });
    assert_eq!(reports.iter().filter(|report| report["repaired"]["wrong_place"].is_u64()).count(), 1);
    assert_eq!(elsewhere(&registry, &[]).calls(&get, &[]).0, ["head", "get"]);
}

/// What docs/settling.md counts: beside the look for a copy and the listings, the calls of a blob.
#[test]
fn a_blob_costs_a_few_calls() {
    let registry = world();
    let calls = |job: &Settle| {
        registry.storage.calls.borrow_mut().clear();
        run(&registry, job);
        let calls = registry.storage.calls.borrow().clone();
        assert_eq!((&calls[..2], calls.last()), (&["get", "list"][..], Some(&"list")));
        calls[2..calls.len() - 1].to_vec()
    };
    assert_eq!(calls(&WHOLE), ["head", "head", "get", "put", "head", "put"]);
    assert_eq!(calls(&WHOLE), Vec::<&str>::new());
    registry.pass(WAIT);
    let mut removed = calls(&WHOLE);
    removed.sort_unstable();
    assert_eq!(removed, ["delete", "head", "head", "put"]);
}

#[test]
fn blobs_of_both_algorithms_settle() {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    let contents: Vec<_> = (0..4).map(large).collect();
    let by = |n: usize| [Algorithm::Sha256, Algorithm::Sha512][n % 2];
    for (n, content) in contents.iter().enumerate() {
        assert_eq!(push(&registry, "a", content, &by(n).digest(content)), 201);
    }
    registry.pass(DAY);
    let small = Settle { calls: 1, ..WHOLE };
    assert_eq!(run(&registry, &small)["settled"], 4);
    registry.pass(WAIT);
    assert_eq!(run(&registry, &PARTS)["removed"], 4);
    for (n, content) in contents.iter().enumerate() {
        registry.assert_settled(content, &by(n).digest(content));
    }
    registry.assert_sound();
}

/// Earlier versions kept the bytes among the uploads.
#[test]
fn blobs_of_earlier_versions_settle() {
    let registry = world();
    let (layer, digest) = (large(0), sha256(large(0)));
    let first = "pierhead/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887/3";
    let old = registry.below("pierhead/blobs/");
    registry.lose(&old[0]);
    registry.overwrite(first, &layer, Metadata::new());
    let noted = Metadata::from([("digest".to_owned(), digest.to_string())]);
    registry.overwrite(&format!("{first}.blob"), b"", noted);
    let located = Located { size: layer.len() as u64, at: Some(first.parse().unwrap()) };
    let (content, metadata) = (serde_json::to_vec(&located).unwrap(), located.to_metadata());
    registry.overwrite(&Key::Descriptor(&digest).to_string(), &content, metadata.clone());
    let link = Key::Layer(&"a".parse().unwrap(), &digest).to_string();
    registry.overwrite(&link, digest.to_string().as_bytes(), metadata);
    registry.pass(DAY);
    registry.assert_sound();
    assert_eq!(run(&registry, &WHOLE)["settled"], 1);
    registry.pulled("a", &layer);
    // The purge job leaves both alone.
    registry.assert_sound();
    registry.pass(WAIT);
    assert_eq!(run(&registry, &WHOLE)["removed"], 1);
    registry.assert_settled(&layer, &digest);
    registry.pulled("a", &layer);
}

/// Every storage call of every step fails once: without effect, and with an effect whose answer is lost.
#[test]
fn interrupted_runs_are_made_good() {
    for job in [WHOLE, PARTS] {
        for kind in [Fault::Error, Fault::Busy, Fault::Timeout] {
            let mut faults = 0;
            for n in 0.. {
                let registry = world();
                let (layer, digest) = (large(0), sha256(large(0)));
                registry.storage.fail_at(Some((n, kind)));
                for _ in 0..3 {
                    let (reports, errors) = registry.steps(&job);
                    assert!(reports.len() < 20 && errors.len() <= 1, "{job:?} {kind:?} {n}: {errors:?}");
                    registry.pass(WAIT);
                }
                if registry.storage.calls.borrow().len() <= n {
                    break;
                }
                faults += 1;
                registry.storage.fail_at(None);
                registry.pulled("a", &layer);
                for _ in 0..2 {
                    registry.steps(&job);
                    registry.pass(WAIT);
                }
                run(&registry, &job);
                registry.assert_settled(&layer, &digest);
                registry.pulled("a", &layer);
                registry.assert_sound();
            }
            assert!(faults > 15, "{faults}");
        }
    }
}

/// Stops a run at each of its calls, as if the isolate had died, and begins a new one.
#[test]
fn runs_that_die_are_followed_by_others() {
    for job in [WHOLE, PARTS] {
        for n in 0.. {
            let registry = world();
            let (layer, digest) = (large(0), sha256(large(0)));
            registry.storage.fails_below.replace(None);
            let calls = registry.storage.calls.clone();
            calls.borrow_mut().clear();
            let storage = registry.storage.fails_below.clone();
            registry.storage.on_call.replace(Some(Box::new(move || {
                if calls.borrow().len() > n {
                    storage.replace(Some(""));
                }
            })));
            let context = registry.context(Principal::Job("settle"));
            let mut cursor = None;
            for _ in 0..20 {
                match block_on(job.step(&registry.app, &context, cursor)) {
                    Ok(step) if step.next.is_some() => cursor = step.next,
                    _ => break,
                }
            }
            let is_over = registry.storage.calls.borrow().len() <= n;
            registry.storage.on_call.replace(None);
            registry.storage.fails_below.replace(None);
            registry.pulled("a", &layer);
            for _ in 0..2 {
                registry.pass(WAIT);
                run(&registry, &job);
            }
            registry.pass(WAIT);
            run(&registry, &job);
            registry.assert_settled(&layer, &digest);
            if is_over {
                assert!(n > 8, "{n}");
                break;
            }
        }
    }
}

fn mark(registry: &TestRegistry, digest: &Digest, state: &str) {
    let now = registry.clock.0.get();
    let metadata = Metadata::from([
        ("state".to_owned(), state.to_owned()),
        ("until".to_owned(), (now + 60_000).to_string()),
        ("swept".to_owned(), now.to_string()),
        ("nonce".to_owned(), format!("{state} {now}")),
    ]);
    registry.write_at_once(&Key::Marker(digest).to_string(), metadata);
}

impl TestRegistry {
    /// Writes an empty object, within a call of another.
    fn write_at_once(&self, path: &str, metadata: Metadata) {
        let options = PutOptions { metadata, ..PutOptions::default() };
        let path = path.parse().unwrap();
        self.storage.memory.put(&path, Body::Empty, options).now_or_never().unwrap().unwrap();
    }

    fn delete_at_once(&self, paths: &[String]) {
        let paths: Vec<_> = paths.iter().map(|path| path.parse().unwrap()).collect();
        self.storage.memory.delete(&paths).now_or_never().unwrap().unwrap();
    }
}

/// Before each call of a run, a collection deletes the blob, as the last repository that had it did.
#[test]
fn a_sweep_in_the_middle_leaves_nothing_behind() {
    for job in [WHOLE, PARTS] {
        for n in 0.. {
            let registry = std::rc::Rc::new(world());
            let digest = sha256(large(0));
            let tag: RepositoryName = "a".parse().unwrap();
            registry.code("DELETE /v2/a/manifests/v1");
            let (hooked, calls) = (registry.clone(), registry.storage.calls.clone());
            calls.borrow_mut().clear();
            let swept = digest.clone();
            registry.storage.on_call.replace(Some(Box::new(move || {
                if calls.borrow().len() == n + 1 {
                    let mut gone = vec![Key::Layer(&tag, &swept).to_string(), data(&swept)];
                    gone.extend(hooked.below("pierhead/blobs/"));
                    gone.extend([
                        Key::Descriptor(&swept).to_string(),
                        Key::ReverseLink(&swept, &tag).to_string(),
                    ]);
                    hooked.delete_at_once(&gone);
                    mark(&hooked, &swept, "swept");
                }
            })));
            let (_, errors) = registry.steps(&job);
            assert_eq!(errors, Vec::<String>::new());
            let calls = registry.storage.calls.borrow().len();
            registry.storage.on_call.replace(None);
            if calls <= n {
                assert!(n > 8, "{n}");
                break;
            }
            // Nobody is told of the copy, if it has landed after that.
            assert_eq!(registry.meta(&Key::Descriptor(&digest).to_string()), None, "{job:?} {n}");
            assert_eq!(registry.code(&format!("GET /v2/a/blobs/{digest}")), 404);
            registry.collect_for_days(5);
            registry.steps(&job);
            let left: Vec<_> =
                registry.content().into_iter().filter(|path| path.contains(digest.hex())).collect();
            assert_eq!((left, registry.below("pierhead/blobs/")), (vec![], vec![]), "{job:?} {n}");
            assert_eq!(registry.storage.memory.open_multiparts(), 0);
            // The same blob can be pushed again.
            push_image(&registry, "a", &large(0));
            registry.pulled("a", &large(0));
        }
    }
}

/// Before each call of a run, somebody deletes the image, so that the content is condemned.
#[test]
fn condemned_content_stays_as_it_is_and_goes_with_both_places() {
    for job in [WHOLE, PARTS] {
        for n in 0.. {
            let registry = std::rc::Rc::new(world());
            let digest = sha256(large(0));
            registry.code("DELETE /v2/a/manifests/v1");
            registry.code(&format!("DELETE /v2/a/blobs/{digest}"));
            registry.settle();
            registry.storage.memory.now.set(Timestamp(registry.clock.0.get()));
            registry.delete_at_once(&[Key::Marker(&digest).to_string()]);
            let (hooked, calls) = (registry.clone(), registry.storage.calls.clone());
            calls.borrow_mut().clear();
            let condemned = digest.clone();
            registry.storage.on_call.replace(Some(Box::new(move || {
                if calls.borrow().len() == n + 1 {
                    mark(&hooked, &condemned, "condemned");
                }
            })));
            registry.steps(&job);
            let is_over = registry.storage.calls.borrow().len() <= n;
            registry.storage.on_call.replace(None);
            if is_over {
                assert!(n > 8, "{n}");
                break;
            }
            registry.collect_for_days(4);
            let left: Vec<_> =
                registry.content().into_iter().filter(|path| path.contains(digest.hex())).collect();
            assert_eq!((left, registry.below("pierhead/blobs/")), (vec![], vec![]), "{job:?} {n}");
            registry.steps(&job);
            assert_eq!(registry.storage.memory.open_multiparts(), 0);
        }
    }
}

/// What is settled goes with its descriptor, when nothing links it any more.
#[test]
fn settled_blobs_are_collected_with_their_descriptors() {
    for runs in 1..=2 {
        let registry = world();
        let digest = sha256(large(0));
        for _ in 0..runs {
            run(&registry, &WHOLE);
            registry.pass(WAIT);
        }
        assert_eq!(registry.below("pierhead/blobs/").len(), 2 - runs);
        assert_eq!(registry.code(&format!("DELETE /v2/a/blobs/{digest}")), 202);
        registry.collect_for_days(12);
        let left = registry.content().into_iter().filter(|path| path.contains(digest.hex()));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!(registry.below("pierhead/blobs/"), Vec::<String>::new());
    }
}

/// A push of the same blob, to another repository, keeps its bytes through the collection, wherever they are.
#[test]
fn a_push_between_the_steps_keeps_the_blob() {
    for job in [WHOLE, PARTS] {
        for at in 0..12 {
            let registry = world();
            let (layer, digest) = (large(0), sha256(large(0)));
            let (mut cursor, mut step) = (None, 0);
            let context = registry.context(Principal::Job("settle"));
            for run in 0..3 {
                loop {
                    if step == at {
                        assert_eq!(registry.code("DELETE /v2/a/manifests/v1"), 202);
                        assert_eq!(registry.code(&format!("DELETE /v2/a/blobs/{digest}")), 202);
                        push_image(&registry, "b", &layer);
                    }
                    step += 1;
                    cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
                    if step > at {
                        registry.pulled("b", &layer);
                    }
                    if cursor.is_none() {
                        break;
                    }
                }
                registry.settle();
                registry.pass(WAIT);
                if run == 1 {
                    registry.collect(&collection());
                }
            }
            if step <= at {
                push_image(&registry, "b", &layer);
            }
            registry.collect_for_days(3);
            for _ in 0..2 {
                registry.pass(WAIT);
                run(&registry, &job);
            }
            registry.assert_settled(&layer, &digest);
            registry.pulled("b", &layer);
        }
    }
}

/// What happens to a blob after some steps.
type Change<'a> = (&'a str, &'a dyn Fn(&TestRegistry), usize);

#[test]
fn an_interrupted_copy_goes_on_in_the_next_run_or_is_aborted() {
    let steps = |registry: &TestRegistry, count: usize| {
        let (context, mut cursor) = (registry.context(Principal::Job("settle")), None);
        for _ in 0..count {
            cursor = block_on(PARTS.step(&registry.app, &context, cursor)).unwrap().next;
        }
    };
    let (layer, digest) = (large(0), sha256(large(0)));
    // The run was cancelled.
    let registry = world();
    steps(&registry, 3);
    assert_eq!(registry.storage.memory.open_multiparts(), 1);
    let done = run(&registry, &PARTS);
    assert_eq!(registry.content_of(&data(&digest)), Some(layer.clone()));
    assert!(done["bytes_hashed"].as_u64().unwrap() < layer.len() as u64, "{done}");
    // The store has dropped what was copied, as R2 does after some days.
    let registry = world();
    steps(&registry, 3);
    registry.storage.memory.drop_multiparts();
    assert_eq!(failures(&registry, &PARTS).len(), 1);
    run(&registry, &PARTS);
    assert_eq!(registry.content_of(&data(&digest)), Some(layer.clone()));
    // The object changes, goes, or is found to have other bytes; the content is condemned.
    let mut other = layer.clone();
    other[3] ^= 1;
    let first = |registry: &TestRegistry| registry.below("pierhead/blobs/").remove(0);
    let changes: [Change<'_>; 4] = [
        ("changed", &|registry| registry.overwrite(&first(registry), &layer, Metadata::new()), 3),
        ("gone", &|registry| registry.lose(&first(registry)), 3),
        ("wrong", &|registry| registry.overwrite(&first(registry), &other, Metadata::new()), 0),
        ("condemned", &|registry| mark(registry, &digest, "condemned"), 3),
    ];
    for (name, change, after) in changes {
        let registry = world();
        steps(&registry, after);
        change(&registry);
        let failed = failures(&registry, &PARTS);
        let expected = match name {
            "condemned" => vec![],
            "changed" => vec![format!("{digest}: {} has changed", first(&registry))],
            "gone" => vec![failed[0].clone(); 2],
            _ => vec![format!("{digest}: the bytes at {} have {}", first(&registry), sha256(&other))],
        };
        assert_eq!(failed, expected, "{name}");
        assert_eq!(registry.storage.memory.open_multiparts(), 0, "{name}");
        // The same bytes, written again, are copied from their start.
        let copied = (name == "changed").then(|| layer.clone());
        assert_eq!(registry.content_of(&data(&digest)), copied, "{name}");
    }
    // In one call, the store finds that out.
    let registry = world();
    registry.overwrite(&first(&registry), &other, Metadata::new());
    let expected = format!("{digest}: the bytes at {} have another digest", first(&registry));
    assert_eq!(failures(&registry, &WHOLE), [expected]);
    assert_eq!(registry.meta(&data(&digest)), None);
}

/// Bytes that another program has put at the canonical key count if their hash is right, and not for their length.
#[test]
fn a_copy_of_another_program_counts_if_its_hash_is_right() {
    let (layer, digest) = (large(0), sha256(large(0)));
    let mut other = layer.clone();
    other[3] ^= 1;
    let expected = format!("{digest}: the bytes at {} have {}", data(&digest), sha256(&other));
    for job in [WHOLE, PARTS] {
        // It comes before the job's own copy, or while that is under way.
        for steps in [0, 3] {
            let registry = world();
            let first = registry.below("pierhead/blobs/").remove(0);
            let described = || registry.meta(&Key::Descriptor(&digest).to_string());
            let before = described();
            let (context, mut cursor) = (registry.context(Principal::Job("settle")), None);
            if job.hashed == 1 {
                for _ in 0..steps {
                    cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
                }
            }
            registry.overwrite(&data(&digest), &other, Metadata::new());
            for _ in 0..3 {
                let failed = failures(&registry, &job);
                assert!(!failed.is_empty() && failed.iter().all(|failed| *failed == expected), "{failed:?}");
                registry.pass(WAIT);
                assert_eq!((described(), registry.content_of(&first)), (before.clone(), Some(layer.clone())));
                assert_eq!(registry.storage.memory.open_multiparts(), 0);
            }
            registry.pulled("a", &layer);
            // Somebody puts it right.
            registry.overwrite(&data(&digest), &layer, Metadata::new());
            let written = registry.meta(&data(&digest));
            let done = run(&registry, &job);
            assert_eq!((&done["settled"], &done["bytes_hashed"]), (&json!(1), &json!(layer.len())));
            assert_eq!(registry.meta(&data(&digest)), written);
            registry.pass(WAIT);
            run(&registry, &job);
            registry.assert_settled(&layer, &digest);
        }
    }
}

/// Whether a run stores bytes or begins to, and what it says.
fn attempt(registry: &TestRegistry, job: &Settle) -> (bool, Vec<String>) {
    registry.storage.calls.borrow_mut().clear();
    let failed = failures(registry, job);
    let calls = registry.storage.calls.borrow();
    // The state of a copy is put as well, in a run that copies.
    (calls.iter().any(|call| ["put", "create_multipart"].contains(call)), failed)
}

/// A copy costs as much as the blob is long: what is damaged is copied again after a week, or when it has changed.
#[test]
fn damaged_bytes_are_not_copied_in_each_run() {
    let layer = large(0);
    let mut other = layer.clone();
    other[3] ^= 1;
    for job in [WHOLE, PARTS] {
        let registry = world();
        let first = registry.below("pierhead/blobs/").remove(0);
        registry.overwrite(&first, &other, Metadata::new());
        let (copies, failed) = attempt(&registry, &job);
        assert_eq!((copies, failed.len()), (true, 1));
        registry.pass(7 * DAY - 1);
        assert_eq!(attempt(&registry, &job), (false, failed.clone()));
        registry.pass(2);
        assert_eq!(attempt(&registry, &job), (true, failed.clone()));
        registry.pass(HOUR);
        assert_eq!(attempt(&registry, &job), (false, failed));
        registry.overwrite(&first, &layer, Metadata::new());
        assert_eq!(run(&registry, &job)["settled"], 1);
        registry.pulled("a", &layer);
    }
}

/// A part that cannot be read keeps the other blobs waiting for five attempts, and no longer.
#[test]
fn a_copy_that_always_fails_is_given_up() {
    let registry = world();
    let (layer, digest) = (large(1), sha256(large(1)));
    push_image(&registry, "b", &layer);
    registry.settle();
    registry.pass(DAY);
    let (context, mut cursor) = (registry.context(Principal::Job("settle")), None);
    for _ in 0..2 {
        cursor = block_on(PARTS.step(&registry.app, &context, cursor)).unwrap().next;
    }
    let state: Value = serde_json::from_slice(&registry.content_of("pierhead/copy").unwrap()).unwrap();
    let from = state["copy"]["from"].as_str().unwrap().to_owned();
    let bad = state["copy"]["digest"].as_str().unwrap().to_owned();
    let (digest, layer) = match bad == digest.to_string() {
        true => (sha256(large(0)), large(0)),
        false => (digest, layer),
    };
    registry.storage.fails_below.replace(Some(from.leak()));
    let mut errors = 0;
    while block_on(PARTS.step(&registry.app, &context, None)).is_err() {
        errors += 1;
        assert!(errors < 10);
    }
    assert_eq!(errors, 4);
    // The others settle.
    failures(&registry, &PARTS);
    assert_eq!(registry.storage.memory.open_multiparts(), 0);
    assert_eq!(registry.content_of(&data(&digest)), Some(layer));
    // It can be read again, and is tried again after a week.
    registry.storage.fails_below.replace(None);
    let (copies, failed) = attempt(&registry, &PARTS);
    assert!(!copies && failed.len() == 1 && failed[0].starts_with(&bad), "{failed:?}");
    registry.pass(7 * DAY);
    assert_eq!(run(&registry, &PARTS)["settled"], 1);
    assert_eq!(registry.storage.memory.open_multiparts(), 0);
}

/// A copy whose answer was lost may land when the blob is deleted already: the collection finds it.
#[test]
fn a_copy_that_lands_late_is_collected() {
    let registry = world();
    let (layer, digest) = (large(0), sha256(large(0)));
    registry.code(&format!("DELETE /v2/a/blobs/{digest}"));
    registry.collect_for_days(12);
    let is_left = || registry.content().iter().any(|path| path.contains(digest.hex()));
    assert!(!is_left());
    registry.overwrite(&data(&digest), &layer, Metadata::new());
    assert_eq!(registry.code(&format!("GET /v2/a/blobs/{digest}")), 404);
    registry.collect_for_days(5);
    assert!(!is_left());
}

/// The copy is gone although its first object is still there: that one stays.
#[test]
fn the_first_object_stays_until_its_copy_is_there() {
    let registry = world();
    let digest = sha256(large(0));
    run(&registry, &WHOLE);
    registry.pass(WAIT);
    registry.lose(&data(&digest));
    let first = registry.below("pierhead/blobs/").remove(0);
    assert_eq!(failures(&registry, &WHOLE), [format!("{digest}: the copy of {first} is gone")]);
    assert!(registry.meta(&first).is_some());
    registry.overwrite(&data(&digest), b"short", Metadata::new());
    assert_eq!(failures(&registry, &WHOLE), [format!("{digest}: 5 bytes in place of {}", large(0).len())]);
    assert!(registry.meta(&first).is_some());
}

/// There is a copy, and the descriptor does not say so yet: the purge job leaves the first object alone, whose note an
/// upload that died has left.
#[test]
fn the_first_object_stays_while_the_descriptor_names_it() {
    let registry = world();
    let (layer, digest) = (large(0), sha256(large(0)));
    let first = registry.below("pierhead/blobs/").remove(0);
    let note = Key::BlobNote(Key::uuid_of_blob(&first).unwrap()).to_string();
    let note_it = || {
        registry.overwrite(&note, b"", Metadata::from([("digest".to_owned(), digest.to_string())]));
        registry.pass(DAY);
        let job = Purge { before: Timestamp(registry.clock.0.get() - 1000), mode: JobMode::On };
        let (reports, errors) = registry.steps(&job);
        registry.run_background();
        assert_eq!((&reports[0]["purged"], errors), (&json!([note]), vec![]));
        assert!(registry.meta(&first).is_some());
    };
    registry.overwrite(&data(&digest), &layer, Metadata::new());
    note_it();
    let slow = Settle { wait: 2 * DAY, ..WHOLE };
    assert_eq!(run(&registry, &slow)["settled"], 1);
    note_it();
    registry.pass(DAY);
    assert_eq!(run(&registry, &slow)["removed"], 1);
    registry.assert_settled(&layer, &digest);
}

/// Whoever is sent to the store cannot look again.
#[test]
fn presigned_urls_lead_to_where_the_bytes_are() {
    let registry = world();
    let (digest, first) = (sha256(large(0)), registry.below("pierhead/blobs/").remove(0));
    let presigning = elsewhere(
        &registry,
        &[
            ("BLOB_REDIRECT", "presigned"),
            ("BLOB_REDIRECT_TTL", "2h"),
            ("SETTLE", "on"),
            ("S3_ENDPOINT", "https://s3.example"),
            ("S3_BUCKET", "images"),
            ("S3_ACCESS_KEY_ID", "AKID"),
            ("S3_SECRET_ACCESS_KEY", "hidden"),
        ],
    );
    let target = || {
        let answer = presigning.get(&format!("GET /v2/a/blobs/{digest}"));
        assert_eq!(answer.status, 307);
        answer.header("location").split('?').next().unwrap().to_owned()
    };
    let tick = |seconds: u64| {
        presigning.pass(seconds);
        block_on(schedule::tick(&presigning.app, |job| presigning.context(Principal::Job(job))));
        presigning.run_background();
    };
    assert_eq!(target(), format!("https://s3.example/images/{first}"));
    tick(0);
    assert_eq!(target(), format!("https://s3.example/images/{}", data(&digest)));
    // As long as a URL lives, and an hour.
    tick(HOUR);
    tick(HOUR + HOUR / 2);
    assert!(registry.meta(&first).is_some());
    tick(HOUR);
    assert_eq!(registry.meta(&first), None);
    assert_eq!(target(), format!("https://s3.example/images/{}", data(&digest)));
    // It is off by default.
    let state = registry.get("GET /v2/_pierhead/jobs/settle").json();
    assert_eq!((&state["schedule"], &state["every_seconds"]), (&json!("off"), &json!(HOUR)));
}

/// A place that is no object of a blob is never copied, and so never deleted.
#[test]
fn only_objects_of_blobs_are_moved() {
    let registry = world();
    let digest = sha256(large(0));
    let place = data(&sha256("config"));
    let located = Located { size: 6, at: Some(place.parse().unwrap()) };
    let content = serde_json::to_vec(&located).unwrap();
    registry.overwrite(&Key::Descriptor(&digest).to_string(), &content, located.to_metadata());
    registry.pass(DAY);
    assert_eq!(run(&registry, &WHOLE)["settled"], 0);
    assert!(registry.meta(&place).is_some());
}
