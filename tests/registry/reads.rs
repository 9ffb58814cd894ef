//! Reads: what they cost in calls to storage, where they are sent, and what the caches may and may not answer.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use futures_executor::block_on;
use http::StatusCode;
use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest},
    platform::{Body, memory::MemoryStream},
    storage::{Metadata, PutOptions, StorageDriver},
};

use crate::support::{Answer, Fault, Faulty, Lasting, MemoryEdge, TestRegistry};

const LAYER: &[u8] = b"the bytes of a layer";
const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn layer() -> Digest {
    Algorithm::Sha256.digest(LAYER)
}

fn manifest() -> Digest {
    Algorithm::Sha256.digest(MANIFEST.as_bytes())
}

fn push(registry: &TestRegistry) {
    let location = registry.start_upload("");
    let line = format!("PUT {location}&digest={}", layer());
    assert_eq!(registry.send(&line, &[], Some(MemoryStream::new(LAYER))).status, 201);
    let body = Some(MemoryStream::new(MANIFEST));
    assert_eq!(registry.send("PUT /v2/a/manifests/v1", &[], body).status, 201);
}

/// A new isolate over what a registry has pushed: nothing is in its memory.
fn cold(vars: &[(&str, &str)], lasting: &Lasting) -> TestRegistry {
    TestRegistry::with(vars, lasting.clone())
}

fn pushed() -> Lasting {
    let lasting = Lasting::default();
    push(&cold(&[], &lasting));
    lasting
}

/// The links of the repository as `distribution` writes them: without metadata.
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

fn get_layer() -> String {
    format!("GET /v2/a/blobs/{}", layer())
}

#[test]
fn what_manifest_reads_cost() {
    let lasting = pushed();
    let registry = cold(&[], &lasting);
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    for (line, headers, status, calls) in [
        ("HEAD /v2/a/manifests/v1", None, 200, &["get"][..]),
        (&*format!("HEAD /v2/a/manifests/{}", manifest()), None, 200, &["head"]),
        ("GET /v2/a/manifests/v1", Some(manifest()), 304, &["get"]),
        (&by_digest, Some(manifest()), 304, &["head"]),
        // Cold: the content is read.
        (&by_digest, None, 200, &["head", "get"]),
        // Warm: the look-up in the repository is all.
        (&by_digest, None, 200, &["head"]),
        ("GET /v2/a/manifests/v1", None, 200, &["get"]),
        // A repository that does not have it, though it is in the cache.
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
fn what_blob_reads_cost() {
    let lasting = pushed();
    let signed = [("BLOB_REDIRECT", "signed"), ("BLOB_REDIRECT_KEYS", "0123456789abcdef0123456789abcdef")];
    let cost = |registry: &TestRegistry, line: &str, status: u16| {
        let (calls, answer) = registry.calls(line, &[]);
        assert_eq!(answer.status.as_u16(), status, "{line}");
        calls
    };
    // Links with metadata: the link is all there is to look up, cold or warm.
    let registry = cold(&signed, &lasting);
    for _ in 0..2 {
        assert_eq!(cost(&registry, &get_layer(), 307), ["head"]);
        assert_eq!(cost(&registry, &get_layer().replace("GET", "HEAD"), 200), ["head"]);
    }
    let registry = cold(&[], &lasting);
    assert_eq!(cost(&registry, &get_layer(), 200), ["head", "get"]);

    // Links of another registry. Once the isolate knows that there are some, link, data and descriptor are
    // asked for in one round; warm, the link only. A HEAD never asks the cache.
    strip_metadata(&lasting.storage);
    let registry = cold(&signed, &lasting);
    assert_eq!(cost(&registry, "HEAD /v2/a/manifests/v1", 200), ["get", "get"]);
    assert_eq!(cost(&registry, &get_layer(), 307), ["head"; 3]);
    assert_eq!(cost(&registry, &get_layer(), 307), ["head"]);
    assert_eq!(cost(&registry, &get_layer().replace("GET", "HEAD"), 200), ["head"; 3]);
}

#[test]
fn kv_serves_other_isolates() {
    let lasting = Lasting { kv: Some(Faulty::default()), ..pushed() };
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    let debug = [("LOG_LEVEL", "debug")];
    let counts = |registry: &TestRegistry| {
        let lines = registry.lines.0.borrow();
        let cache = &lines.iter().rfind(|line| line["request"].is_string()).unwrap()["cache"];
        ["memory", "kv", "miss", "error"].map(|count| cache[count].as_u64().unwrap())
    };
    let first = cold(&debug, &lasting);
    assert_eq!(first.calls(&by_digest, &[]).0, ["head", "get"]);
    assert_eq!(counts(&first), [0, 0, 1, 0]);
    first.finish_later();
    let second = cold(&debug, &lasting);
    for expected in [[0, 1, 0, 0], [1, 0, 0, 0]] {
        let (calls, answer) = second.calls(&by_digest, &[]);
        assert_eq!((calls, answer.body.as_slice()), (vec!["head"], MANIFEST.as_bytes()));
        assert_eq!(counts(&second), expected);
    }

    // When KV fails, or holds something else under the digest, the store answers.
    let kv = lasting.kv.clone().unwrap();
    kv.fail_at(Some((0, Fault::Error)));
    let third = cold(&debug, &lasting);
    assert_eq!(third.calls(&by_digest, &[]).1.body, MANIFEST.as_bytes());
    assert_eq!(counts(&third), [0, 0, 1, 1]);
    let path = kv.memory.paths().into_iter().find(|path| path.starts_with("manifest/")).unwrap();
    let forged = Body::Bytes("{\"forged\":true}".into());
    block_on(kv.memory.put(&path.parse().unwrap(), forged, PutOptions::default())).unwrap();
    let fourth = cold(&debug, &lasting);
    assert_eq!(fourth.calls(&by_digest, &[]).1.body, MANIFEST.as_bytes());
    assert_eq!(counts(&fourth), [0, 0, 1, 1]);
}

#[test]
fn what_is_deleted_is_gone_at_once_everywhere_and_forgotten() {
    let lasting = Lasting { kv: Some(Faulty::default()), ..pushed() };
    let kv = lasting.kv.clone().unwrap();
    let registry = cold(&[], &lasting);
    let others = cold(&[], &lasting);
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    for registry in [&registry, &others] {
        for line in [&by_digest, &get_layer()] {
            assert_eq!(registry.get(line).status, 200);
            registry.finish_later();
        }
    }
    assert!(!kv.memory.paths().is_empty());
    for line in [&by_digest, &get_layer()] {
        assert_eq!(registry.get(&line.replace("GET", "DELETE")).status, 202);
        registry.finish_later();
        for registry in [&registry, &others] {
            assert_eq!(registry.get(line).status, 404, "{line}");
            assert_eq!(registry.get(&line.replace("GET", "HEAD")).status, 404, "{line}");
        }
    }
    assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 404);
    assert_eq!(kv.memory.paths(), Vec::<String>::new());
}

#[test]
fn caches_never_answer_for_existence() {
    let lasting = Lasting { kv: Some(Faulty::default()), ..pushed() };
    let registry = cold(&[("BLOB_REDIRECT", "signed")], &lasting);
    assert_eq!(registry.get(&get_layer()).status, 307);
    // Behind the registry's back, as another isolate would.
    let storage = &lasting.storage.memory;
    let name = "a".parse().unwrap();
    block_on(storage.delete(&[Key::Layer(&name, &layer()).path()])).unwrap();
    for line in [get_layer(), get_layer().replace("GET", "HEAD")] {
        assert_eq!(registry.get(&line).status, 404, "{line}");
    }
    // A mount and a manifest that refers to it ask the store.
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
fn a_tag_is_as_fresh_as_the_configuration_says() {
    let lasting = pushed();
    let other = MANIFEST.replace("[]", "[],\"annotations\":{\"v\":\"2\"}");
    let move_tag = |registry: &TestRegistry, content: &str| {
        let body = Some(MemoryStream::new(content.to_owned()));
        assert_eq!(registry.send("PUT /v2/a/manifests/v1", &[], body).status, 201);
    };
    let tag = |registry: &TestRegistry| registry.get("GET /v2/a/manifests/v1").body;
    for (seconds, seen) in [("0", &other), ("30", &MANIFEST.to_owned())] {
        let registry = cold(&[("TAG_CACHE_SECONDS", seconds)], &lasting);
        assert_eq!(tag(&registry), MANIFEST.as_bytes());
        // Elsewhere.
        move_tag(&cold(&[], &lasting), &other);
        assert_eq!(tag(&registry), seen.as_bytes(), "{seconds}");
        registry.clock.0.set(30_000);
        assert_eq!(tag(&registry), other.as_bytes(), "{seconds}");
        // Here.
        move_tag(&registry, MANIFEST);
        assert_eq!(tag(&registry), MANIFEST.as_bytes(), "{seconds}");
    }
    let registry = cold(&[("TAG_CACHE_SECONDS", "30")], &lasting);
    tag(&registry);
    assert_eq!(registry.calls("GET /v2/a/manifests/v1", &[]).0, [""; 0]);
    assert_eq!(registry.get("DELETE /v2/a/manifests/v1").status, 202);
    assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 404);
}

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!((answer.header("cache-control"), answer.header("content-length")), ("no-store", "0"));
    answer.header("location").to_owned()
}

#[test]
fn a_signed_url_serves_the_blob_to_whoever_has_it() {
    let lasting = pushed();
    let vars = [("BLOB_REDIRECT", "signed"), ("BLOB_REDIRECT_TTL", "20m")];
    let registry = cold(&vars, &lasting);
    registry.clock.0.set(1_700_000_000_000);
    let target = location(&registry.get(&get_layer()));
    let get = |target: &str, headers: &[(&str, &str)]| registry.send(&format!("GET {target}"), headers, None);
    let whole = get(&target, &[]);
    assert_eq!((whole.status.as_u16(), whole.body.as_slice()), (200, LAYER));
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(whole.header("cache-control"), "public, max-age=1000, immutable, no-transform");
    let part = get(&target, &[("range", "bytes=4-8")]);
    assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, b"bytes".as_slice()));
    assert_eq!(part.header("content-range"), "bytes 4-8/20");
    assert_eq!(get(&target, &[("range", "bytes=99-")]).status, 416);
    let etag = format!("\"{}\"", layer());
    for (if_range, status) in
        [(etag.as_str(), 206), ("\"sha256:other\"", 200), ("Sat, 21 Nov 2026 00:00:00 GMT", 200)]
    {
        assert_eq!(
            get(&target, &[("range", "bytes=4-8"), ("if-range", if_range)]).status,
            status,
            "{if_range}"
        );
    }
    assert_eq!(get(&target, &[("if-none-match", &format!("\"{}\"", layer()))]).status, 304);

    for method in ["HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(registry.get(&format!("{method} {target}")).status, 405, "{method}");
    }
    let other = manifest();
    for forged in [
        target.replace(layer().hex(), other.hex()),
        target.replace("verify=1", "verify=2"),
        target.replace("verify=", "verify=0"),
        format!("{target}A"),
        target.split('?').next().unwrap().to_owned(),
        target.replace("verify", "Verify"),
    ] {
        let answer = get(&forged, &[]);
        assert_eq!(answer.status, 403, "{forged}");
        assert!(String::from_utf8(answer.body).unwrap().contains("\"DENIED\""));
    }
    assert_eq!(get(&target.replace("sha256", "md5"), &[]).status, 400);

    // Taken out of the repository: no new URL, and those that are about end with their time.
    assert_eq!(registry.get(&get_layer().replace("GET", "DELETE")).status, 202);
    assert_eq!(registry.get(&get_layer()).status, 404);
    assert_eq!(get(&target, &[]).status, 200);
    registry.clock.0.set(1_700_000_000_000 + 20 * 60 * 1000);
    assert_eq!(get(&target, &[]).status, 403);

    // Not where nobody is sent there.
    assert_eq!(cold(&[], &lasting).get(&format!("GET {target}")).status, 404);
}

#[test]
fn keys_are_rotated() {
    let lasting = pushed();
    let (old, new) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let with = |keys: &str| cold(&[("BLOB_REDIRECT", "signed"), ("BLOB_REDIRECT_KEYS", keys)], &lasting);
    let (first, both, last) = (with(old), with(&format!("{new} {old}")), with(new));
    let by_old = location(&first.get(&get_layer()));
    let by_both = location(&both.get(&get_layer()));
    let status =
        |registry: &TestRegistry, target: &str| registry.get(&format!("GET {target}")).status.as_u16();
    assert_eq!((status(&both, &by_old), status(&both, &by_both), status(&last, &by_both)), (200, 200, 200));
    assert_eq!((status(&last, &by_old), status(&first, &by_both)), (403, 403));
}

const S3: [(&str, &str); 4] = [
    ("S3_ENDPOINT", "https://account.r2.cloudflarestorage.com"),
    ("S3_BUCKET", "images"),
    ("S3_ACCESS_KEY_ID", "AKID"),
    ("S3_SECRET_ACCESS_KEY", "hidden-secret"),
];

#[test]
fn who_is_redirected_where() {
    let lasting = pushed();
    for name in ["team/x", "team/app", "other"] {
        let line = format!("POST /v2/{name}/blobs/uploads/?mount={}&from=a", layer());
        assert_eq!(cold(&[], &lasting).get(&line).status, 201);
    }
    let vars = [
        ("BLOB_REDIRECT", "presigned"),
        ("BLOB_REDIRECT_REPOSITORIES", "team/app=off team/*=signed"),
        ("BLOB_REDIRECT_SKIP_AGENTS", "containerd/1.2, Old Client"),
        ("BLOB_REDIRECT_ORIGIN", "https://blobs.example.com"),
        ("LOG_LEVEL", "debug"),
    ];
    let registry = cold(&[&vars[..], &S3[..]].concat(), &lasting);
    let path = Key::Data(&layer()).path();
    let presigned = format!("https://account.r2.cloudflarestorage.com/images/{path}?X-Amz-");
    let signed = format!("https://blobs.example.com/v2/_pierhead/blobs/sha256/{}?verify=", layer().hex());
    for (name, expected) in
        [("a", Some(&presigned)), ("other", Some(&presigned)), ("team/x", Some(&signed)), ("team/app", None)]
    {
        let line = get_layer().replace("/a/", &format!("/{name}/"));
        let answer = registry.send(&line, &[("user-agent", "docker/28.0")], None);
        match expected {
            Some(start) => assert!(location(&answer).starts_with(start), "{name}: {}", location(&answer)),
            None => assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, LAYER)),
        }
        for (agent, range) in [("containerd/1.2.9", ""), ("an OLD client", "bytes=0-2")] {
            let answer = registry.send(&line, &[("user-agent", agent), ("range", range)], None);
            assert!(answer.status.is_success(), "{agent}");
        }
        let head = registry.get(&line.replace("GET", "HEAD"));
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "20"));
    }
    let lines = registry.lines.0.borrow().iter().map(ToString::to_string).collect::<String>();
    assert!(!lines.contains("hidden-secret") && !lines.contains("verify=") && !lines.contains("X-Amz"));
}

#[test]
fn the_edge_cache_serves_what_was_asked_for_whole() {
    let edge = MemoryEdge(Some(Rc::new(RefCell::new(HashMap::new()))));
    let lasting = Lasting { edge, ..pushed() };
    let registry = cold(&[], &lasting);
    let host = ("host", "registry.example");
    let range = ("range", "bytes=4-8");
    // A range does not fill it, the whole does, once for many at the same time.
    assert_eq!(registry.calls(&get_layer(), &[host, range]).0, ["head", "get"]);
    assert_eq!(registry.later.0.borrow().len(), 0);
    for _ in 0..3 {
        assert_eq!(registry.calls(&get_layer(), &[host]).0, ["head", "get"]);
    }
    assert_eq!(registry.later.0.borrow().len(), 1);
    registry.finish_later();
    for (headers, expected) in [(vec![host], LAYER), (vec![host, range], b"bytes")] {
        let (calls, answer) = registry.calls(&get_layer(), &headers);
        assert_eq!((calls.as_slice(), answer.body.as_slice()), (["head"].as_slice(), expected));
    }
    // Who may not read it does not get it from there.
    let line = get_layer().replace("/a/", "/b/");
    assert_eq!(registry.send(&line, &[host], None).status, 404);
    assert_eq!(registry.get(&get_layer().replace("GET", "DELETE")).status, 202);
    assert_eq!(registry.send(&get_layer(), &[host], None).status, 404);
}

#[test]
fn the_edge_cache_may_be_limited_and_may_refuse() {
    for (vars, edge) in
        [(vec![("EDGE_CACHE_MIB", "0")], MemoryEdge(Some(Rc::default()))), (vec![], MemoryEdge(None))]
    {
        let registry = cold(&vars, &Lasting { edge: edge.clone(), ..pushed() });
        for _ in 0..2 {
            let (calls, answer) = registry.calls(&get_layer(), &[("host", "registry.example")]);
            assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, LAYER));
            // From the store, every time.
            assert_eq!(calls, ["head", "get"]);
            registry.finish_later();
        }
        assert!(edge.0.is_none_or(|kept| kept.borrow().is_empty()));
    }
}

#[test]
fn every_call_to_storage_is_told_at_debug_level() {
    let lasting = pushed();
    let registry = cold(&[("LOG_LEVEL", "debug")], &lasting);
    assert_eq!(registry.get(&get_layer()).status, 200);
    assert_eq!(registry.get(&get_layer().replace("/a/", "/b/")).status, 404);
    lasting.storage.fail_at(Some((0, Fault::Error)));
    assert_eq!(registry.get(&get_layer()).status, 500);
    let lines = registry.lines.0.borrow();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(text("id"), "test");
            format!("{} {} {} {}", text("level"), text("driver"), text("operation"), text("outcome"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "debug faulty head found",
            "debug faulty get found",
            "debug   ",
            // An isolate that knows the blob asks for access and bytes at once.
            "debug faulty head absent",
            "debug faulty get found",
            "debug   ",
            "debug faulty head head: asked to",
            "debug faulty get found",
            "error   ",
            "debug   ",
        ]
    );
    assert_eq!(lines[0]["path"], Key::Layer(&"a".parse().unwrap(), &layer()).path().as_str());
    assert_eq!(lines[2]["request"], format!("GET /v2/a/blobs/{}", layer()));
    assert_eq!((&lines[2]["storage"]["calls"], &lines[2]["status"]), (&2.into(), &200.into()));
    let quiet = cold(&[], &lasting);
    assert_eq!(quiet.get(&get_layer()).status, 200);
    assert!(quiet.lines.0.borrow().is_empty());
}

#[test]
fn server_timing_is_there_when_asked_for() {
    let lasting = pushed();
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    assert_eq!(cold(&[], &lasting).get(&by_digest).header("server-timing"), "");
    let registry = cold(&[("MIDDLEWARE", "server-timing")], &lasting);
    for (calls, cache) in [(2, "memory 0, kv 0, miss 1, error 0"), (1, "memory 1, kv 0, miss 0, error 0")] {
        let timing = format!("total;dur=0, storage;dur=0;desc=\"{calls} calls\", cache;desc=\"{cache}\"");
        assert_eq!(registry.get(&by_digest).header("server-timing"), timing);
    }
}
