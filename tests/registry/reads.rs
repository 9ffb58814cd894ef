//! Reads: storage calls, and the limits of the caches.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use futures_executor::block_on;
use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest},
    platform::{Body, memory::MemoryStream},
    storage::{Metadata, PutOptions, StorageDriver},
};

use crate::support::{Fault, Faulty, MemoryEdge, Persistent, TestRegistry};

pub const LAYER: &[u8] = b"the bytes of a layer";
pub const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

pub fn layer() -> Digest {
    Algorithm::Sha256.digest(LAYER)
}

pub fn manifest() -> Digest {
    Algorithm::Sha256.digest(MANIFEST.as_bytes())
}

fn push(registry: &TestRegistry) {
    let location = registry.start_upload("");
    let line = format!("PUT {location}&digest={}", layer());
    assert_eq!(registry.send(&line, &[], Some(MemoryStream::new(LAYER))).status, 201);
    let body = Some(MemoryStream::new(MANIFEST));
    assert_eq!(registry.send("PUT /v2/a/manifests/v1", &[], body).status, 201);
}

/// A new isolate, with empty memory, over the state of another.
pub fn cold(vars: &[(&str, &str)], persistent: &Persistent) -> TestRegistry {
    TestRegistry::with(vars, persistent.clone())
}

pub fn pushed() -> Persistent {
    let persistent = Persistent::default();
    push(&cold(&[], &persistent));
    persistent
}

/// Removes the metadata of all links: `distribution` writes none.
fn strip_metadata(storage: &Faulty) {
    for path in storage.memory.paths().iter().filter(|path| path.ends_with("/link")) {
        block_on(async {
            let path = path.parse().unwrap();
            let object = storage.memory.get(&path, None).await.unwrap().unwrap();
            let options = PutOptions { metadata: Metadata::new(), ..PutOptions::default() };
            storage.memory.put(&path, object.body, options).await.unwrap();
        });
    }
}

pub fn get_layer() -> String {
    format!("GET /v2/a/blobs/{}", layer())
}

#[test]
fn manifest_reads_cost_at_most_two_storage_calls() {
    let persistent = pushed();
    let registry = cold(&[], &persistent);
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    for (line, headers, status, calls) in [
        ("HEAD /v2/a/manifests/v1", None, 200, &["get"][..]),
        (&*format!("HEAD /v2/a/manifests/{}", manifest()), None, 200, &["head"]),
        ("GET /v2/a/manifests/v1", Some(manifest()), 304, &["get"]),
        (&by_digest, Some(manifest()), 304, &["head"]),
        // Cold: the content is read.
        (&by_digest, None, 200, &["head", "get"]),
        // Warm: only the look-up in the repository.
        (&by_digest, None, 200, &["head"]),
        ("GET /v2/a/manifests/v1", None, 200, &["get"]),
        // In the cache, but not in this repository.
        (&by_digest.replace("/a/", "/b/"), None, 404, &["head"]),
    ] {
        let etag = headers.map(|digest| format!("\"{digest}\""));
        let headers: Vec<_> = etag.iter().map(|etag| ("if-none-match", etag.as_str())).collect();
        let (made, answer) = registry.calls(line, &headers);
        assert_eq!((answer.status.as_u16(), made.as_slice()), (status, calls), "{line}");
        if status == 200 && line.starts_with("GET") {
            assert_eq!(answer.body, MANIFEST.as_bytes(), "{line}");
        }
    }
}

#[test]
fn blob_reads_cost_at_most_three_storage_calls() {
    let persistent = pushed();
    let signed = [("BLOB_REDIRECT", "signed"), ("BLOB_REDIRECT_KEYS", "0123456789abcdef0123456789abcdef")];
    let cost = |registry: &TestRegistry, line: &str, status: u16| {
        let (calls, answer) = registry.calls(line, &[]);
        assert_eq!(answer.status.as_u16(), status, "{line}");
        calls
    };
    // Links with metadata: one look-up, of the link, cold or warm.
    let registry = cold(&signed, &persistent);
    for _ in 0..2 {
        assert_eq!(cost(&registry, &get_layer(), 307), ["head"]);
        assert_eq!(cost(&registry, &get_layer().replace("GET", "HEAD"), 200), ["head"]);
    }
    let registry = cold(&[], &persistent);
    assert_eq!(cost(&registry, &get_layer(), 200), ["head", "get"]);

    // Links of another registry. Once the isolate has met one, it looks up link, data and descriptor in one
    // round; warm, the link only. A HEAD never uses the cache.
    strip_metadata(&persistent.storage);
    let registry = cold(&signed, &persistent);
    assert_eq!(cost(&registry, "HEAD /v2/a/manifests/v1", 200), ["get", "get"]);
    assert_eq!(cost(&registry, &get_layer(), 307), ["head"; 3]);
    assert_eq!(cost(&registry, &get_layer(), 307), ["head"]);
    assert_eq!(cost(&registry, &get_layer().replace("GET", "HEAD"), 200), ["head"; 3]);
}

#[test]
fn kv_serves_other_isolates() {
    let persistent = Persistent { kv: Some(Faulty::default()), ..pushed() };
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    let debug = [("LOG_LEVEL", "debug")];
    let counts = |registry: &TestRegistry| {
        let lines = registry.lines.0.borrow();
        let cache = &lines
            .iter()
            .rfind(|line| line["path"].is_string() && line["cache"].is_object())
            .unwrap()["cache"];
        ["memory", "kv", "miss", "error"].map(|count| cache[count].as_u64().unwrap())
    };
    let first = cold(&debug, &persistent);
    assert_eq!(first.calls(&by_digest, &[]).0, ["head", "get"]);
    assert_eq!(counts(&first), [0, 0, 1, 0]);
    first.run_background();
    let second = cold(&debug, &persistent);
    for expected in [[0, 1, 0, 0], [1, 0, 0, 0]] {
        let (calls, answer) = second.calls(&by_digest, &[]);
        assert_eq!((calls, answer.body.as_slice()), (vec!["head"], MANIFEST.as_bytes()));
        assert_eq!(counts(&second), expected);
    }

    // If KV fails, or holds other content under the digest, the store answers.
    let kv = persistent.kv.clone().unwrap();
    kv.fail_at(Some((0, Fault::Error)));
    let third = cold(&debug, &persistent);
    assert_eq!(third.calls(&by_digest, &[]).1.body, MANIFEST.as_bytes());
    assert_eq!(counts(&third), [0, 0, 1, 1]);
    let path = kv.memory.paths().into_iter().find(|path| path.starts_with("manifest/")).unwrap();
    let forged = Body::Bytes("{\"forged\":true}".into());
    block_on(kv.memory.put(&path.parse().unwrap(), forged, PutOptions::default())).unwrap();
    let fourth = cold(&debug, &persistent);
    assert_eq!(fourth.calls(&by_digest, &[]).1.body, MANIFEST.as_bytes());
    assert_eq!(counts(&fourth), [0, 0, 1, 1]);
}

#[test]
fn deleted_content_is_gone_from_every_isolate_and_from_kv() {
    let persistent = Persistent { kv: Some(Faulty::default()), ..pushed() };
    let kv = persistent.kv.clone().unwrap();
    let registry = cold(&[], &persistent);
    let others = cold(&[], &persistent);
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    for registry in [&registry, &others] {
        for line in [&by_digest, &get_layer()] {
            assert_eq!(registry.get(line).status, 200);
            registry.run_background();
        }
    }
    assert!(!kv.memory.paths().is_empty());
    for line in [&by_digest, &get_layer()] {
        assert_eq!(registry.get(&line.replace("GET", "DELETE")).status, 202);
        registry.run_background();
        for registry in [&registry, &others] {
            assert_eq!(registry.get(line).status, 404, "{line}");
            assert_eq!(registry.get(&line.replace("GET", "HEAD")).status, 404, "{line}");
        }
    }
    assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 404);
    assert_eq!(kv.memory.paths(), Vec::<String>::new());
}

#[test]
fn existence_is_never_answered_from_a_cache() {
    let persistent = Persistent { kv: Some(Faulty::default()), ..pushed() };
    let registry = cold(&[("BLOB_REDIRECT", "signed")], &persistent);
    assert_eq!(registry.get(&get_layer()).status, 307);
    // Deletes the link as another isolate would.
    let storage = &persistent.storage.memory;
    let name = "a".parse().unwrap();
    block_on(storage.delete(&[Key::Layer(&name, &layer()).path()])).unwrap();
    for line in [get_layer(), get_layer().replace("GET", "HEAD")] {
        assert_eq!(registry.get(&line).status, 404, "{line}");
    }
    // A mount of it, and a manifest that refers to it, are checked in the store.
    let line = format!("POST /v2/b/blobs/uploads/?mount={}&from=a", layer());
    assert_eq!(registry.get(&line).status, 202);
    let config = format!(r#"{{"mediaType":"x/y","digest":"{}","size":20}}"#, layer());
    let referring = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[]}}"#
    );
    let answer = registry.send("PUT /v2/a/manifests/v2", &[], Some(MemoryStream::new(referring)));
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8(answer.body).unwrap().contains("MANIFEST_BLOB_UNKNOWN"));
}

#[test]
fn the_configuration_limits_the_staleness_of_a_tag() {
    let persistent = pushed();
    let other = MANIFEST.replace("[]", "[],\"annotations\":{\"v\":\"2\"}");
    let move_tag = |registry: &TestRegistry, content: &str| {
        let body = Some(MemoryStream::new(content.to_owned()));
        assert_eq!(registry.send("PUT /v2/a/manifests/v1", &[], body).status, 201);
    };
    let tag = |registry: &TestRegistry| registry.get("GET /v2/a/manifests/v1").body;
    for (seconds, seen) in [("0", &other), ("30", &MANIFEST.to_owned())] {
        let registry = cold(&[("TAG_CACHE_SECONDS", seconds)], &persistent);
        assert_eq!(tag(&registry), MANIFEST.as_bytes());
        // In another isolate.
        move_tag(&cold(&[], &persistent), &other);
        assert_eq!(tag(&registry), seen.as_bytes(), "{seconds}");
        registry.clock.0.set(30_000);
        assert_eq!(tag(&registry), other.as_bytes(), "{seconds}");
        // In this isolate.
        move_tag(&registry, MANIFEST);
        assert_eq!(tag(&registry), MANIFEST.as_bytes(), "{seconds}");
    }
    let registry = cold(&[("TAG_CACHE_SECONDS", "30")], &persistent);
    tag(&registry);
    assert_eq!(registry.calls("GET /v2/a/manifests/v1", &[]).0, [""; 0]);
    assert_eq!(registry.get("DELETE /v2/a/manifests/v1").status, 202);
    assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 404);
}

#[test]
fn the_edge_cache_serves_blobs_that_were_pulled_whole() {
    let edge = MemoryEdge(Some(Rc::new(RefCell::new(HashMap::new()))));
    let persistent = Persistent { edge, ..pushed() };
    let registry = cold(&[], &persistent);
    let host = ("host", "registry.example");
    let range = ("range", "bytes=4-8");
    // A range does not fill it. Concurrent pulls of the whole blob fill it once.
    assert_eq!(registry.calls(&get_layer(), &[host, range]).0, ["head", "get"]);
    assert_eq!(registry.later.0.borrow().len(), 0);
    for _ in 0..3 {
        assert_eq!(registry.calls(&get_layer(), &[host]).0, ["head", "get"]);
    }
    assert_eq!(registry.later.0.borrow().len(), 1);
    registry.run_background();
    for (headers, expected) in [(vec![host], LAYER), (vec![host, range], b"bytes")] {
        let (calls, answer) = registry.calls(&get_layer(), &headers);
        assert_eq!((calls.as_slice(), answer.body.as_slice()), (["head"].as_slice(), expected));
    }
    // It serves nothing to a repository without the blob.
    let line = get_layer().replace("/a/", "/b/");
    assert_eq!(registry.send(&line, &[host], None).status, 404);
    assert_eq!(registry.get(&get_layer().replace("GET", "DELETE")).status, 202);
    assert_eq!(registry.send(&get_layer(), &[host], None).status, 404);
}

#[test]
fn reads_work_without_the_edge_cache() {
    for (vars, edge) in
        [(vec![("EDGE_CACHE_MIB", "0")], MemoryEdge(Some(Rc::default()))), (vec![], MemoryEdge(None))]
    {
        let registry = cold(&vars, &Persistent { edge: edge.clone(), ..pushed() });
        for _ in 0..2 {
            let (calls, answer) = registry.calls(&get_layer(), &[("host", "registry.example")]);
            assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, LAYER));
            // From the store, every time.
            assert_eq!(calls, ["head", "get"]);
            registry.run_background();
            assert_eq!(
                registry.storage.calls.borrow().len(),
                2,
                "nothing is read for a cache that keeps nothing"
            );
        }
        assert!(edge.0.is_none_or(|kept| kept.borrow().is_empty()));
    }
}
