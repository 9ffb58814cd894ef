//! What a collection costs: storage calls by the number of keys, counted over synthetic registries.
//!
//! `COLLECT_KEYS=1000000 cargo test --release --test registry collect_costs -- --nocapture` counts larger ones.

use std::collections::BTreeMap;

use futures_executor::block_on;
use pierhead::{
    auth::Principal,
    blobs::Located,
    jobs::{Collect, Job},
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::Body,
    storage::{Metadata, PutOptions, StorageDriver},
};
use serde_json::json;

use crate::{
    collect::{DAY, collection},
    fixtures::{IMAGE, sha256},
    support::TestRegistry,
};

/// Images of a repository, and layers of an image, of which half are its own.
const IMAGES: usize = 50;
const LAYERS: usize = 4;

/// Of the images' repositories, one in so many is garbage: links that no manifest names, and content without a link.
const GARBAGE: usize = 10;

/// Writes a registry of so many repositories. Returns how many keys it has.
fn fill(registry: &TestRegistry, repositories: usize) -> usize {
    let memory = &registry.storage.memory;
    let put = |key: Key<'_>, content: String, metadata: Metadata| {
        let options = PutOptions { metadata, ..PutOptions::default() };
        block_on(memory.put(&key.path(), Body::Bytes(content.into()), options)).unwrap();
    };
    let empty = Metadata::new;
    let link = |name: &RepositoryName, digest: &Digest, is_manifest: bool| {
        let key = if is_manifest { Key::Revision(name, digest) } else { Key::Layer(name, digest) };
        put(key, digest.to_string(), Located { size: 1, at: None }.to_metadata());
        put(Key::ReverseLink(digest, name), String::new(), empty());
    };
    for n in 0..repositories {
        let name: RepositoryName = format!("team{}/app{n}", n % 7).parse().unwrap();
        put(Key::Repository(&name), String::new(), empty());
        for image in 0..IMAGES {
            let layer = |at: usize| {
                sha256(if at < LAYERS / 2 { format!("{n} {at}") } else { format!("{n} {image} {at}") })
            };
            let layers: Vec<Digest> = (0..LAYERS).map(layer).collect();
            for digest in &layers {
                put(Key::Data(digest), "x".to_owned(), empty());
                if n % GARBAGE != 1 {
                    link(&name, digest, false);
                }
            }
            if n % GARBAGE == 0 || n % GARBAGE == 1 {
                continue;
            }
            let layers: Vec<_> = layers
                .iter()
                .map(|digest| json!({"digest": digest, "size": 1, "mediaType": "a/b"}))
                .collect();
            let content = json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": layers, "n": [n, image]})
                .to_string();
            let digest = sha256(&content);
            put(Key::Data(&digest), content, empty());
            link(&name, &digest, true);
        }
    }
    memory.paths().len()
}

/// The calls of one run, by operation, and the most of a step.
fn count(registry: &TestRegistry, job: &Collect) -> (BTreeMap<&'static str, usize>, usize) {
    let (mut cursor, mut most) = (None, 0);
    let mut counts = BTreeMap::new();
    loop {
        registry.storage.calls.borrow_mut().clear();
        let context = registry.context(Principal::Job(job.name()));
        let step = block_on(job.step(&registry.app, &context, cursor)).unwrap();
        let calls = registry.storage.calls.borrow();
        most = most.max(calls.len());
        for call in calls.iter() {
            *counts.entry(*call).or_default() += 1;
        }
        assert_eq!(step.report.get("failed"), None);
        cursor = step.next;
        if cursor.is_none() {
            return (counts, most);
        }
    }
}

#[test]
fn a_collection_costs_calls_in_proportion_to_the_keys() {
    let sizes = match std::env::var("COLLECT_KEYS") {
        Ok(keys) => vec![keys.parse::<usize>().unwrap() / 5_300 * GARBAGE],
        Err(_) => vec![GARBAGE, 2 * GARBAGE],
    };
    let mut costs = Vec::new();
    for size in sizes {
        let registry = TestRegistry::new();
        registry.pass(30 * DAY);
        let keys = fill(&registry, size);
        let job = Collect { calls: 500, thoroughness: 32, ..collection() };
        let mut daily = Vec::new();
        // Indexes all links, and condemns; removes links; deletes; has nothing left to do.
        for day in 0..6 {
            registry.pass(DAY);
            let (counts, most) = count(&registry, &job);
            // What a page of a listing makes necessary may be more than the rest of a step.
            assert!(most < 2 * job.calls, "{most} calls in a step");
            let calls: usize = counts.values().sum();
            println!("{keys} keys, day {day}: {calls} calls, at most {most} in a step: {counts:?}");
            daily.push(calls as f64 / keys as f64);
        }
        assert!(memory_has_no_garbage(&registry), "{size}");
        costs.push(daily);
    }
    for daily in costs.windows(2) {
        for (small, large) in daily[0].iter().zip(&daily[1]) {
            assert!((large / small - 1.0).abs() < 0.1, "{costs:?}");
        }
    }
}

fn memory_has_no_garbage(registry: &TestRegistry) -> bool {
    let paths = registry.storage.memory.paths();
    let count = |prefix: &str, suffix: &str| {
        paths.iter().filter(|path| path.starts_with(prefix) && path.ends_with(suffix)).count()
    };
    let manifests = paths.iter().filter(|path| path.contains("/revisions/")).count();
    let repositories = manifests / IMAGES;
    let layers = repositories * (LAYERS / 2 + IMAGES * (LAYERS - LAYERS / 2));
    count("docker/registry/v2/blobs/", "/data") == manifests + layers
        && paths.iter().filter(|path| path.contains("/_layers/")).count() == layers
        && count("pierhead/gc/", "") == 0
        && count("pierhead/links/", "-") == manifests + layers
}
