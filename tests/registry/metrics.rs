//! Metrics: what is counted, who may read it, and that the dashboard names nothing else.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
};

use futures_executor::block_on;
use futures_util::future::LocalBoxFuture;
use pierhead::{
    auth::Principal,
    jobs,
    platform::{
        Operation,
        memory::MemoryStream,
        metrics::{Batch, Collector, Family, Kind, Point, Points, Samples, Sums, Value},
    },
};

use crate::{
    access::{basic, user},
    center,
    reads::{MANIFEST, get_layer, manifest, pushed},
    support::{Fault, PART, Persistent, TestRegistry},
};

fn by_digest() -> String {
    format!("GET /v2/a/manifests/{}", manifest())
}

/// A collector in memory, which may be out of reach.
#[derive(Default)]
struct Remote {
    sums: RefCell<Sums>,
    is_lost: Cell<bool>,
}

impl Collector for Remote {
    fn add<'a>(&'a self, batch: &'a Batch) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            if self.is_lost.get() {
                return Err("out of reach".to_owned());
            }
            self.sums.borrow_mut().add(batch.clone());
            Ok(())
        })
    }

    fn read(&self) -> LocalBoxFuture<'_, Result<Samples, String>> {
        Box::pin(async {
            let is_lost = self.is_lost.get();
            if is_lost { Err("out of reach".to_owned()) } else { Ok(self.sums.borrow().table.samples()) }
        })
    }
}

#[derive(Default)]
struct Written(RefCell<Vec<Point>>);

impl Points for Written {
    fn write(&self, point: &Point) {
        self.0.borrow_mut().push(point.clone());
    }
}

struct Place {
    registry: TestRegistry,
    remote: Rc<Remote>,
    points: Rc<Written>,
}

impl Place {
    fn new(vars: &[(&str, &str)], persistent: Persistent) -> Self {
        let (remote, points): (Rc<Remote>, Rc<Written>) = Default::default();
        let operation = Operation {
            collector: Some(remote.clone()),
            points: Some(points.clone()),
            ..Operation::default()
        };
        Self { registry: TestRegistry::operated(vars, persistent, operation), remote, points }
    }

    /// Lets the planned batches go, and returns their delays in milliseconds.
    fn send(&self) -> Vec<u32> {
        let planned = self.registry.later.1.take();
        let waits = planned.iter().map(|(wait, _)| *wait).collect();
        for (wait, work) in planned {
            self.registry.clock.0.set(self.registry.clock.0.get() + u64::from(wait));
            block_on(work);
        }
        waits
    }

    fn count(&self, family: Family, labels: &[&str]) -> u64 {
        match self.remote.sums.borrow().table.get(family, labels) {
            Some(Value::Counter(n) | Value::Gauge(n)) => *n,
            Some(Value::Histogram { buckets, .. }) => buckets.iter().sum(),
            None => 0,
        }
    }
}

#[test]
fn requests_are_counted_by_route_method_and_status_and_sent_in_one_batch() {
    let place = Place::new(&[], pushed());
    let registry = &place.registry;
    let blob = registry.get(&get_layer());
    for line in [&get_layer().replace("GET", "HEAD"), &get_layer(), "GET /v2/none/manifests/v1", "BREW /v2/"]
    {
        registry.get(line);
    }
    assert_eq!(registry.send("PUT /v2/a/manifests/v2", &[], Some(MemoryStream::new("{}"))).status, 400);
    assert_eq!(place.send(), [1_000], "one batch for all");
    for (labels, n) in [
        (["get_blob", "GET", "200"], 2),
        (["get_blob", "HEAD", "200"], 1),
        (["get_manifest", "GET", "404"], 1),
        (["none", "other", "405"], 1),
        (["put_manifest", "PUT", "400"], 1),
    ] {
        assert_eq!(place.count(Family::Requests, &labels), n, "{labels:?}");
    }
    assert_eq!(place.count(Family::RequestDuration, &["get_blob", "GET"]), 2);
    assert_eq!(place.count(Family::Sent, &["get_blob"]), 2 * blob.body.len() as u64);
    assert_eq!(place.count(Family::Received, &["put_manifest"]), 2);
    // The next one waits for the interval.
    registry.get("GET /v2/");
    assert_eq!(place.send(), [5_000]);
    // No repository is a label.
    let samples = place.remote.sums.borrow().table.samples();
    assert!(samples.iter().all(|(_, labels, _)| !labels.contains(&"a".to_owned())), "{samples:?}");
}

#[test]
fn each_request_is_a_point() {
    let place = Place::new(&[], pushed());
    place.registry.get(&get_layer());
    place.registry.get("GET /v2/a/manifests/none");
    let points = place.points.0.borrow();
    let Point { route, method, status, repository, code, storage_calls, rounds, .. } = &points[0];
    assert_eq!((*route, *method, *status, *code), ("get_blob", "GET", 200, None));
    assert_eq!((repository.as_deref(), *storage_calls, *rounds), (Some("a"), 2, 2));
    assert_eq!((points[1].status, points[1].code, points.len()), (404, Some("MANIFEST_UNKNOWN"), 2));
}

#[test]
fn storage_is_counted_by_driver_operation_and_outcome() {
    let persistent = pushed();
    let place = Place::new(&[], persistent.clone());
    place.registry.get("GET /v2/a/manifests/v1");
    persistent.storage.fail_at(Some((0, Fault::Error)));
    place.registry.get("GET /v2/a/manifests/v1");
    persistent.storage.fail_at(Some((0, Fault::Refused)));
    place.registry.get("GET /v2/a/manifests/v1");
    persistent.storage.fail_at(None);
    // The same blob again: its content is not written twice.
    for _ in 0..2 {
        let digest = crate::fixtures::sha256("twice");
        let line = format!("POST /v2/a/blobs/uploads/?digest={digest}");
        assert_eq!(place.registry.send(&line, &[], Some(MemoryStream::new("twice"))).status, 201);
    }
    place.send();
    let count = |operation, outcome| place.count(Family::StorageCalls, &["faulty", operation, outcome]);
    assert_eq!((count("get", "error"), count("get", "refused")), (1, 1));
    assert!(count("get", "ok") > 0 && count("put", "ok") > 0);
    assert!(count("put", "condition") > 0);
    let all = ["ok", "error", "refused"].map(|outcome| count("get", outcome)).iter().sum::<u64>();
    assert_eq!(place.count(Family::StorageDuration, &["faulty", "get"]), all);
}

#[test]
fn caches_are_counted_one_by_one() {
    let persistent = Persistent { kv: Some(Default::default()), ..pushed() };
    let place = Place::new(&[], persistent.clone());
    for _ in 0..2 {
        assert_eq!(place.registry.get(&by_digest()).body, MANIFEST.as_bytes());
    }
    place.registry.run_background();
    let other = Place::new(&[], persistent.clone());
    other.registry.get(&by_digest());
    persistent.kv.as_ref().unwrap().fail_at(Some((0, Fault::Error)));
    let third = Place::new(&[], persistent.clone());
    third.registry.get(&by_digest());
    for (place, expected) in [(&place, [1, 1, 0, 1, 0]), (&other, [0, 1, 1, 0, 0]), (&third, [0, 1, 0, 0, 1])]
    {
        place.send();
        let counts = [("memory", "hit"), ("memory", "miss"), ("kv", "hit"), ("kv", "miss"), ("kv", "error")]
            .map(|(cache, outcome)| place.count(Family::CacheLookups, &[cache, outcome]));
        assert_eq!(counts, expected);
    }
    // KV is a driver too. The bucket was only asked for the link, by a `head`.
    assert_eq!(other.count(Family::StorageCalls, &["faulty", "get", "ok"]), 1);
}

#[test]
fn an_edge_cache_counts_what_it_has_to_fill() {
    let place = center::Place::new(center::BOUND);
    let edge = |registry: &TestRegistry| {
        let table = registry.app.metrics.drain();
        ["hit", "miss", "fill"].map(|outcome| match table.get(Family::CacheLookups, &["edge", outcome]) {
            Some(Value::Counter(n)) => *n,
            _ => 0,
        })
    };
    let (first, second, inner) = (&place.first, &place.second, &place.center.isolate);
    // The answer about the tag, and the content.
    for (registry, filled) in [(first, 2), (second, 0)] {
        assert_eq!(place.cost(registry, "GET /v2/a/manifests/v1").2.status, 200);
        assert_eq!((edge(registry), edge(inner)), ([2, 0, 0], [0, 0, filled]));
    }
    assert_eq!(place.cost(first, "GET /v2/a/manifests/none").2.status, 404);
    assert_eq!((edge(first), edge(inner)), ([0, 1, 0], [0, 0, 0]));
}

#[test]
fn jobs_are_counted_by_outcome() {
    let persistent = pushed();
    let place = Place::new(&[], persistent.clone());
    let run = || {
        let context = place.registry.context(Principal::Job("fsck"));
        let job = jobs::Fsck { is_dry_run: true, calls: 500 };
        block_on(jobs::step(&job, None, &place.registry.app, &context)).is_ok()
    };
    assert!(run());
    persistent.storage.fail_at(Some((0, Fault::Error)));
    assert!(!run());
    assert_eq!(place.send().len(), 1);
    let count = |outcome| place.count(Family::Jobs, &["fsck", outcome]);
    assert_eq!((count("done"), count("failed")), (1, 1));
}

#[test]
fn an_upload_is_opened_resumed_and_finished() {
    let registry = TestRegistry::new();
    let location = registry.start_upload("");
    let content = vec![7; 3 * PART];
    let broken = MemoryStream::broken(content[..2 * PART].to_vec());
    assert_eq!(registry.send(&format!("PATCH {location}"), &[], Some(broken)).status, 400);
    let answer = registry.get(&format!("GET {location}"));
    assert_eq!(answer.header("range"), format!("0-{}", 2 * PART - 1));
    let rest = MemoryStream::chunked(content[2 * PART..].to_vec());
    let answer = registry.send(&format!("PATCH {}", answer.header("location")), &[], Some(rest));
    assert_eq!(answer.status, 202);
    let digest = pierhead::oci::Algorithm::Sha256.digest(&content);
    let answer = registry.get(&format!("PUT {}&digest={digest}", answer.header("location")));
    assert_eq!(answer.status, 201);
    registry.run_background();
    let table = registry.sessions.metrics.drain();
    let count = |event| table.get(Family::Uploads, &[event]);
    for event in ["opened", "resumed", "finished"] {
        assert_eq!(count(event), Some(&Value::Counter(1)), "{event}");
    }
    assert_eq!((count("cancelled"), count("expired")), (None, None));
    assert!(table.to_text().contains("\npierhead_uploads_open 0\n"));
}

#[test]
fn a_collector_out_of_reach_delays_nothing_and_loses_nothing() {
    let place = Place::new(&[], Persistent::default());
    place.remote.is_lost.set(true);
    for _ in 0..3 {
        assert_eq!(place.registry.get("GET /v2/").status, 200);
        assert_eq!(place.send().len(), 1);
    }
    place.remote.is_lost.set(false);
    for _ in 0..2 {
        place.registry.get("GET /v2/");
        place.send();
    }
    assert_eq!(place.count(Family::Requests, &["base", "GET", "200"]), 5);
}

#[test]
fn only_a_user_reads_the_metrics() {
    let users = user("ann", "secret");
    for anonymous in ["none", "pull", "push"] {
        let place = Place::new(&[("ANONYMOUS", anonymous), ("HTPASSWD", &users)], Persistent::default());
        let registry = &place.registry;
        let refused = registry.get("GET /metrics");
        assert_eq!(refused.status, 401);
        assert!(refused.header("www-authenticate").starts_with("Basic"));
        place.send();
        let login = basic("ann:secret");
        let answer = registry.send("GET /metrics", &[("authorization", &login)], None);
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"));
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let text = String::from_utf8(answer.body).unwrap();
        let line = "pierhead_requests_total{route=\"metrics\",method=\"GET\",status=\"401\"} 1\n";
        assert!(text.contains(line), "{text}");
        let head = registry.send("HEAD /metrics", &[("authorization", &login)], None);
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(registry.send("POST /metrics", &[("authorization", &login)], None).status, 405);
        place.remote.is_lost.set(true);
        assert_eq!(registry.send("GET /metrics", &[("authorization", &login)], None).status, 503);
        // Without a collector.
        let registry = TestRegistry::with(&[("HTPASSWD", &users)], Persistent::default());
        assert_eq!(registry.send("GET /metrics", &[("authorization", &login)], None).status, 404);
        assert!(registry.later.1.borrow().is_empty());
    }
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|word| word.starts_with("pierhead_")).map(str::to_owned).collect()
}

/// The names as the text format has them.
fn exposed(family: Family) -> Vec<String> {
    let name = family.name();
    match family.kind() {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
        Kind::Counter | Kind::Gauge => vec![name.to_owned()],
    }
}

#[test]
fn names_and_labels_follow_the_conventions() {
    for family in Family::ALL {
        let name = family.name();
        assert_eq!(family.kind() == Kind::Counter, name.ends_with("_total"), "{name}");
        assert_eq!(family.kind() == Kind::Histogram, name.ends_with("_seconds"), "{name}");
        assert!(!family.help().contains('\n') && family.help().ends_with('.'), "{name}");
    }
    let names: BTreeSet<_> = Family::ALL.iter().map(|family| family.name()).collect();
    assert_eq!(names.len(), Family::ALL.len());
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let mut used = BTreeSet::new();
    let mut labels = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            let expression = target["expr"].as_str().unwrap();
            used.extend(names(expression));
            let lists = expression.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
            labels.extend(lists.flat_map(|(list, _)| list.split(", ").map(str::to_owned)));
        }
    }
    let known: BTreeSet<String> = Family::ALL.iter().flat_map(|family| exposed(*family)).collect();
    assert_eq!(used.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    for family in Family::ALL {
        assert!(exposed(*family).iter().any(|name| used.contains(name)), "{} has no panel", family.name());
    }
    let known: BTreeSet<&str> =
        Family::ALL.iter().flat_map(|family| family.labels()).copied().chain(["le"]).collect();
    assert!(labels.iter().all(|label| known.contains(label.as_str())), "{labels:?}");
}

#[test]
fn the_documentation_lists_every_metric_with_its_labels_and_no_other() {
    let document = include_str!("../../docs/operation.md");
    let families: BTreeSet<String> = Family::ALL.iter().map(|family| family.name().to_owned()).collect();
    let rows: BTreeSet<String> = document
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `pierhead_")?.split_once('`')?.0))
        .map(|name| format!("pierhead_{name}"))
        .collect();
    assert_eq!(rows, families);
    for family in Family::ALL {
        let start = format!("| `{}` |", family.name());
        let row = document.lines().find(|line| line.starts_with(&start)).unwrap();
        for label in family.labels() {
            assert!(row.contains(&format!("`{label}`")), "{row}: {label}");
        }
    }
}
