//! The scrub: what it finds, and what it takes for no damage.

use std::collections::BTreeMap;

use futures_executor::block_on;
use pierhead::{
    auth::Principal,
    jobs::{Job, Scrub, schedule},
    layout::Key,
    oci::Algorithm,
    platform::metrics::Family,
    storage::Metadata,
};
use serde_json::{Value, json};

use crate::{
    fixtures::{bytes, image, sha256},
    fsck::{Damage, large, populated, sums, texts},
    support::{Fault, Persistent, TestRegistry},
};

fn scrub(bytes: u64) -> Scrub {
    Scrub { bytes, calls: 500 }
}

const WHOLE: u64 = 1 << 30;

fn total(reports: &[Value], field: &str) -> u64 {
    reports.iter().map(|report| report[field].as_u64().unwrap()).sum()
}

/// The number of objects with bytes, and their length.
fn content(registry: &TestRegistry) -> (u64, u64) {
    let paths = registry.storage.memory.paths();
    let is_content = |path: &&String| path.ends_with("/data") || path.starts_with("pierhead/blobs/");
    let sizes = paths.iter().filter(is_content).map(|path| registry.meta(path).unwrap().size);
    sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size))
}

#[test]
fn all_bytes_are_hashed_once_however_small_the_steps_are() {
    for hides_metadata in [false, true] {
        let registry = populated();
        registry.storage.hides_metadata.set(hides_metadata);
        let before = registry.storage.memory.paths();
        let (blobs, bytes) = content(&registry);
        for job in [scrub(WHOLE), scrub(7), scrub(64), Scrub { bytes: 100, calls: 1 }] {
            let (reports, errors) = registry.steps(&job);
            assert_eq!((texts(&reports), sums(&reports, "damage"), errors), Default::default());
            assert_eq!((total(&reports, "blobs"), total(&reports, "bytes")), (blobs, bytes), "{job:?}");
            assert!(reports.iter().all(|report| report["bytes"].as_u64().unwrap() <= job.bytes));
            assert!(reports.len() as u64 > bytes / job.bytes);
        }
        assert_eq!(registry.storage.memory.paths(), before);
    }
}

#[test]
fn damage_is_named_and_left_as_it_is() {
    let changed = |path: String, content: &[u8]| -> Damage {
        let content = content.to_vec();
        Box::new(move |registry| registry.overwrite(&path, &content, Metadata::new()))
    };
    let mut flipped = large();
    flipped[300] ^= 1;
    let other = Algorithm::Sha512.digest(b"other algorithm");
    let manifest = sha256(image(&["layer"]));
    let cases: [(&str, String, Damage); 7] = [
        (
            "wrong_digest",
            sha256("layer").to_string(),
            changed(Key::Data(&sha256("layer")).to_string(), b"lager"),
        ),
        ("wrong_digest", sha256("layer").to_string(), changed(Key::Data(&sha256("layer")).to_string(), b"")),
        ("wrong_digest", manifest.to_string(), changed(Key::Data(&manifest).to_string(), b"{}")),
        ("wrong_digest", other.to_string(), changed(Key::Data(&other).to_string(), b"other algorithms")),
        (
            "wrong_digest",
            sha256(large()).to_string(),
            Box::new(move |registry| {
                registry.overwrite(&registry.object_of_large(), &flipped, Metadata::new());
            }),
        ),
        (
            "wrong_length",
            sha256(large()).to_string(),
            Box::new(|registry| {
                registry.overwrite(&registry.object_of_large(), &large()[..100], Metadata::new());
            }),
        ),
        (
            "descriptor_without_object",
            sha256(large()).to_string(),
            Box::new(|registry| registry.lose(&registry.object_of_large())),
        ),
    ];
    for (kind, digest, damage) in cases {
        let registry = populated();
        damage(&registry);
        let before: Vec<_> = registry.storage.memory.paths();
        for bytes in [3, 64, WHOLE] {
            registry.app.metrics.drain();
            registry.lines.0.take();
            let (reports, _) = registry.steps(&scrub(bytes));
            assert_eq!(sums(&reports, "damage"), BTreeMap::from([(kind.to_owned(), 1)]), "{digest}");
            let texts = texts(&reports);
            assert!(texts.len() == 1 && texts[0].starts_with(&format!("{kind}: {digest}")), "{texts:?}");
            let lines = registry.lines.0.take();
            let line = lines.iter().find(|line| line["level"] == "error").unwrap();
            assert_eq!((&line["job"], &line["damage"]), (&json!("scrub"), &json!(kind)));
            let counted = registry.app.metrics.drain();
            assert!(counted.get(Family::Findings, &["scrub", kind, "damaged"]).is_some());
        }
        assert_eq!(registry.storage.memory.paths(), before);
        let answer = registry.get("POST /v2/_pierhead/jobs/scrub/run").json();
        assert_eq!(answer["report"]["damage"], json!({kind: 1}));
        let last = &registry.get("GET /v2/_pierhead/jobs/scrub").json()["ended"][0];
        assert!(last["failures"][0]["message"].as_str().unwrap().contains(&digest));
        assert_eq!(last["totals"]["damage"], json!({kind: 1}));
    }
}

#[test]
fn bytes_that_cannot_be_read_are_reported() {
    let registry = populated();
    let empty = 1;
    registry.storage.cuts_reads.set(true);
    let (reports, _) = registry.steps(&scrub(WHOLE));
    let expected = BTreeMap::from([("unreadable".to_owned(), content(&registry).0 - empty)]);
    assert_eq!(sums(&reports, "damage"), expected);
}

/// Steps until some bytes of the large blob are hashed.
fn begun(registry: &TestRegistry) -> String {
    let (context, mut cursor) = (registry.context(Principal::Job("scrub")), None);
    loop {
        cursor = block_on(scrub(64).step(&registry.app, &context, cursor)).unwrap().next;
        let text = cursor.clone().unwrap();
        let partial = &serde_json::from_str::<Value>(&text).unwrap()["partial"];
        if partial["key"] == Key::Descriptor(&sha256(large())).to_string() && partial["offset"] != 0 {
            return text;
        }
    }
}

/// Steps from there on.
fn finish(registry: &TestRegistry, cursor: String) -> Vec<Value> {
    let (context, mut cursor, mut reports) =
        (registry.context(Principal::Job("scrub")), Some(cursor), Vec::new());
    while let Some(at) = cursor {
        let step = block_on(scrub(64).step(&registry.app, &context, Some(at))).unwrap();
        reports.push(step.report);
        cursor = step.next;
    }
    reports
}

#[test]
fn a_blob_that_changes_meanwhile_is_hashed_anew() {
    let registry = populated();
    let cursor = begun(&registry);
    // The same bytes, written again.
    registry.overwrite(&registry.object_of_large(), &large(), Metadata::new());
    let reports = finish(&registry, cursor.clone());
    assert_eq!((total(&reports, "blobs"), sums(&reports, "damage")), (1, BTreeMap::new()));
    assert!(total(&reports, "bytes") >= large().len() as u64);
    // Other bytes: only the hash of all of them tells.
    let mut other = large();
    other[0] ^= 1;
    registry.overwrite(&registry.object_of_large(), &other, Metadata::new());
    let reports = finish(&registry, cursor);
    assert_eq!(sums(&reports, "damage"), BTreeMap::from([("wrong_digest".to_owned(), 1)]));
}

#[test]
fn a_blob_that_is_deleted_meanwhile_is_no_damage() {
    let registry = populated();
    let cursor = begun(&registry);
    registry.lose(&registry.object_of_large());
    registry.lose(&Key::Descriptor(&sha256(large())).to_string());
    let reports = finish(&registry, cursor);
    assert_eq!((texts(&reports), sums(&reports, "damage")), Default::default());
    // Nor is one whose descriptor is about to go.
    let registry = populated();
    let cursor = begun(&registry);
    registry.lose(&registry.object_of_large());
    let sweeping = Metadata::from([("state".to_owned(), "sweeping".to_owned())]);
    registry.overwrite(&Key::Marker(&sha256(large())).to_string(), b"", sweeping);
    let reports = finish(&registry, cursor);
    assert_eq!((texts(&reports), sums(&reports, "damage")), Default::default());
}

#[test]
fn a_fault_keeps_nothing_from_being_read() {
    let registry = populated();
    let (blobs, _) = content(&registry);
    let mut faults = 0;
    for n in 0.. {
        registry.storage.fail_at(Some((n, Fault::Error)));
        let (reports, errors) = registry.steps(&scrub(50));
        if registry.storage.calls.borrow().len() <= n {
            break;
        }
        faults += 1;
        // A read is made again; a listing fails the step, which the next call makes again.
        assert_eq!((texts(&reports), sums(&reports, "damage")), Default::default(), "{n}");
        assert!(errors.len() <= 1 && total(&reports, "blobs") == blobs, "{n}: {errors:?}");
    }
    assert!(faults > 30, "{faults}");
}

#[test]
fn a_day_of_calls_of_the_cron_trigger_reads_what_the_setting_says() {
    let registry = TestRegistry::with(&[("SCRUB_MIB_PER_DAY", "1")], Persistent::default());
    for n in 0..3 {
        registry.push_blob("a", [&bytes(10_000)[..], &[n]].concat());
    }
    let tick = || {
        registry.pass(schedule::PERIOD);
        block_on(schedule::tick(&registry.app, |job| registry.context(Principal::Job(job))));
        registry.get("GET /v2/_pierhead/jobs/scrub").json()
    };
    let state = tick();
    assert_eq!((&state["schedule"], &state["running"]), (&json!("on"), &json!(true)));
    let share = (1 << 20) / 288;
    assert_eq!((&state["run"]["totals"]["bytes"], &state["run"]["steps"]), (&json!(share), &json!(1)));
    assert_eq!(tick()["run"]["totals"]["bytes"], json!(2 * share));
    // A pass every day at most.
    let passes = |ticks: usize| {
        for _ in 1..ticks {
            tick();
        }
        tick()["ended"].as_array().unwrap().len()
    };
    assert_eq!((passes(20), passes(270), passes(20)), (1, 1, 2));
    let ended = registry.get("GET /v2/_pierhead/jobs/scrub").json()["ended"][0].clone();
    assert_eq!(ended["totals"], json!({"blobs": 3, "bytes": 30_003, "damage": {}}));
    // It is off by default.
    let registry = TestRegistry::new();
    assert_eq!(registry.get("GET /v2/_pierhead/jobs/scrub").json()["schedule"], "off");
}
