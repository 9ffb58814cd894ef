//! Pushing manifests with many blobs.

use futures_executor::block_on;
use pierhead::{
    layout::Key,
    oci::{Digest, Manifest, RepositoryName},
    platform::{Body, memory::MemoryStream},
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::{IMAGE, sha256},
    support::{Answer, TestRegistry},
};

/// Links blobs to the repository `a`, without their bytes: a push looks at the links only.
fn link<'a>(registry: &TestRegistry, digests: impl IntoIterator<Item = &'a Digest>) {
    let name: RepositoryName = "a".parse().unwrap();
    for digest in digests {
        let (path, body) = (Key::Layer(&name, digest).path(), Body::Bytes(digest.to_string().into()));
        block_on(registry.storage.memory.put(&path, body, PutOptions::default())).unwrap();
    }
}

/// Digests of distinct blobs.
fn digests(count: usize) -> Vec<Digest> {
    (0..count).map(|n| sha256(n.to_string())).collect()
}

/// Pushes an image of these blobs; returns its look-ups and listings.
fn push(registry: &TestRegistry, blobs: &[Digest]) -> (usize, usize, Answer) {
    let mut blobs = blobs.iter().map(|digest| json!({"mediaType": "a/b", "digest": digest, "size": 1}));
    let config = blobs.next().unwrap();
    let image = json!({"config": config, "layers": blobs.collect::<Vec<_>>()}).to_string();
    registry.storage.calls.borrow_mut().clear();
    let headers = [("content-type", IMAGE)];
    let answer = registry.send("PUT /v2/a/manifests/v1", &headers, Some(MemoryStream::new(image)));
    let calls = registry.storage.calls.borrow();
    let count = |call| calls.iter().filter(|other| **other == call).count();
    // One look-up is the tag's, and one the marker's.
    (count("head"), count("list"), answer)
}

fn named(answer: &Answer) -> Vec<String> {
    let name = |error: &Value| error["detail"]["digest"].as_str().unwrap().to_owned();
    answer.errors().iter().map(name).collect()
}

#[test]
fn many_blobs_cost_few_calls() {
    // The tag and the marker cost one look-up each.
    for (count, others, look_ups, listings) in [
        (1, 0, 3, 0),
        (32, 5000, 34, 0),
        (33, 0, 2, 1),
        (100, 0, 2, 1),
        (1000, 0, 2, 1),
        (1001, 0, 2, 2),
        (Manifest::MAX_BLOBS, 0, 2, 5),
        // The repository has more blobs than those, between them.
        (33, 5000, 2, 5),
        (1000, 5000, 2, 6),
    ] {
        let registry = TestRegistry::new();
        let all = digests(count + others);
        link(&registry, &all);
        let (heads, lists, answer) = push(&registry, &all[..count]);
        assert_eq!(answer.status, 201, "{count}");
        assert_eq!((heads, lists), (look_ups, listings), "{count} of {}", count + others);
    }
}

#[test]
fn a_listing_skips_ahead_to_the_blobs_of_the_manifest() {
    let registry = TestRegistry::new();
    let mut all = digests(20_000);
    link(&registry, &all);
    all.sort();
    // The first and the last, and nothing between.
    let ends = [&all[..20], &all[all.len() - 20..]].concat();
    let (heads, lists, answer) = push(&registry, &ends);
    assert_eq!((answer.status.as_u16(), heads, lists), (201, 2, 2));
}

#[test]
fn every_missing_blob_of_many_is_reported() {
    for (count, others) in [(33, 0), (40, 3000), (2500, 0), (2500, 1500)] {
        for missing in [&[0][..], &[1, 2, 3], &[32], &[0, 10, 20, 30, 32]] {
            let registry = TestRegistry::new();
            let (mut all, extra) = (digests(count), digests(count + others));
            all.sort();
            link(
                &registry,
                all.iter().enumerate().filter(|(n, _)| !missing.contains(n)).map(|(_, digest)| digest),
            );
            link(&registry, &extra[count..]);
            let (_, _, answer) = push(&registry, &all);
            let expected: Vec<_> = missing.iter().map(|n| all[*n].to_string()).collect();
            assert_eq!((answer.status.as_u16(), named(&answer)), (400, expected), "{count}, {others}");
        }
    }
    // None is there, in a repository without blobs and in one with others.
    for others in [0, 100] {
        let registry = TestRegistry::new();
        let mut all = digests(100);
        all.sort();
        link(&registry, &digests(100 + others)[100..]);
        let (_, _, answer) = push(&registry, &all);
        assert_eq!(named(&answer), all.iter().map(Digest::to_string).collect::<Vec<_>>());
    }
}

#[test]
fn blobs_of_both_algorithms_are_found() {
    let registry = TestRegistry::new();
    let mut all = digests(30);
    all.extend((0..30).map(|n: u8| pierhead::oci::Algorithm::Sha512.digest(&[n])));
    link(&registry, &all[1..]);
    let (_, lists, answer) = push(&registry, &all);
    assert_eq!((lists, named(&answer)), (2, vec![all[0].to_string()]));
    link(&registry, &all[..1]);
    assert_eq!(push(&registry, &all).2.status, 201);
}
