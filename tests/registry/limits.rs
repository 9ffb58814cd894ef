//! The limits of docs/limits.md: each at its edge and one beyond.

use futures_executor::block_on;
use http::{HeaderValue, Method};
use pierhead::{
    layout::Key,
    oci::{Digest, Manifest, media_type},
    platform::{Body, memory::MemoryStream},
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::{EMPTY_INDEX, IMAGE, INDEX, descriptor, sha256},
    support::{Answer, TestRegistry},
    table::{OF_INDEX, assert_well_formed},
};

const DOCUMENT: &str = include_str!("../../docs/limits.md");

/// The media type of a manifest whose fields may be anything.
const OTHER: &str = "application/vnd.example+json";

/// A limit, and a request that has `n` of what it limits.
struct Limit {
    /// As in the table of the document.
    name: &'static str,
    edge: usize,
    /// The status at the edge.
    within: u16,
    /// The status and the code beyond.
    beyond: (u16, &'static str),
    /// A part of the message beyond.
    message: &'static str,
    send: fn(&TestRegistry, usize) -> Answer,
}

fn put(registry: &TestRegistry, media_type: &str, content: String) -> Answer {
    let headers = [("content-type", media_type)];
    registry.send("PUT /v2/a/manifests/v1", &headers, Some(MemoryStream::new(content)))
}

/// An index with these fields.
fn put_index(registry: &TestRegistry, mut fields: Value) -> Answer {
    fields["manifests"] = json!([]);
    fields["subject"] = descriptor(IMAGE, "subject");
    put(registry, INDEX, fields.to_string())
}

/// A media type of this length: the longest first half, and the rest.
fn media_type_of(length: usize) -> String {
    format!("{}/{}", "x".repeat(127), "x".repeat(length - 128))
}

fn annotations(count: usize, length: usize) -> Value {
    (0..count)
        .map(|n| (format!("{n:04}"), Value::from("x".repeat(length))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

const LIMITS: &[Limit] = &[
    Limit {
        name: "repository name",
        edge: 255,
        within: 404,
        beyond: (400, "NAME_INVALID"),
        message: "at most 255 characters",
        send: |registry, n| registry.get(&format!("GET /v2/{}/manifests/v1", "a".repeat(n))),
    },
    Limit {
        name: "tag",
        edge: 128,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "1 to 128 characters",
        send: |registry, n| {
            let body = MemoryStream::new(EMPTY_INDEX);
            registry.send(&format!("PUT /v2/a/manifests/{}", "t".repeat(n)), OF_INDEX, Some(body))
        },
    },
    Limit {
        name: "path and query",
        edge: 16 * 1024,
        within: 404,
        beyond: (414, "UNSUPPORTED"),
        message: "longer than 16384 characters",
        send: |registry, n| {
            let path = "/v2/a/tags/list?x=";
            registry.get(&format!("GET {path}{}", "x".repeat(n - path.len())))
        },
    },
    Limit {
        name: "`?tag=` in a request",
        edge: 64,
        within: 201,
        beyond: (400, "UNSUPPORTED"),
        message: "at most 64",
        send: |registry, n| {
            let content = r#"{"manifests":[]}"#;
            let tags: Vec<String> = (0..n).map(|n| format!("tag=t{n}")).collect();
            let line = format!("PUT /v2/a/manifests/{}?{}", sha256(content), tags.join("&"));
            registry.send(&line, &[("content-type", INDEX)], Some(MemoryStream::new(content)))
        },
    },
    Limit {
        name: "`?last=`",
        edge: 255,
        within: 404,
        beyond: (400, "UNSUPPORTED"),
        message: "at most 255 characters",
        send: |registry, n| registry.get(&format!("GET /v2/a/tags/list?last={}", "x".repeat(n))),
    },
    Limit {
        name: "`?artifactType=`",
        edge: media_type::MAX_LEN,
        within: 200,
        beyond: (400, "UNSUPPORTED"),
        message: "at most 255 characters",
        send: |registry, n| {
            registry.get(&format!("GET /v2/a/referrers/{}?artifactType={}", sha256("x"), "x".repeat(n)))
        },
    },
    Limit {
        name: "manifest",
        edge: Manifest::MAX_BYTES,
        within: 201,
        beyond: (413, "SIZE_INVALID"),
        message: "larger than 4194304 bytes",
        send: |registry, n| {
            let content = r#"{"manifests":[],"x":""}"#;
            let padded = format!("{}{}\"}}", &content[..content.len() - 2], "x".repeat(n - content.len()));
            put(registry, INDEX, padded)
        },
    },
    Limit {
        name: "layers and config of an image",
        edge: Manifest::MAX_BLOBS,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 4096",
        send: |registry, n| {
            // One blob, many times.
            let blob = descriptor("a/b", "blob");
            registry.push_blob("a", "blob");
            put(registry, IMAGE, json!({"config": blob, "layers": vec![blob.clone(); n - 1]}).to_string())
        },
    },
    Limit {
        name: "manifests of an index",
        edge: Manifest::MAX_CHILDREN,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 4096",
        send: |registry, n| {
            let children = vec![descriptor(IMAGE, "child"); n];
            put(registry, INDEX, json!({"manifests": children}).to_string())
        },
    },
    Limit {
        name: "annotations of a manifest with a subject",
        edge: Manifest::MAX_ANNOTATIONS,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 4096",
        send: |registry, n| put_index(registry, json!({"annotations": annotations(n, 0)})),
    },
    Limit {
        name: "names and values of those",
        edge: Manifest::MAX_ANNOTATION_BYTES,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 262144",
        send: |registry, n| put_index(registry, json!({"annotations": annotations(1, n - 4)})),
    },
    Limit {
        name: "the same, of an unknown type",
        edge: Manifest::MAX_ANNOTATION_BYTES,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 262144",
        send: |registry, n| {
            let subject = descriptor(IMAGE, "subject");
            put(
                registry,
                OTHER,
                json!({"annotations": annotations(1, n - 4), "subject": subject}).to_string(),
            )
        },
    },
    Limit {
        name: "nesting of arrays and objects",
        edge: Manifest::MAX_DEPTH,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "more than 128 levels",
        send: |registry, n| {
            // The manifest itself is a level.
            let nested = "[".repeat(n - 1) + &"]".repeat(n - 1);
            put(registry, INDEX, format!(r#"{{"manifests":[],"x":{nested}}}"#))
        },
    },
    Limit {
        name: "each half of a media type",
        edge: 127,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "is not a media type",
        send: |registry, n| put(registry, &format!("application/{}", "x".repeat(n)), "{}".to_owned()),
    },
    Limit {
        name: "media type in the content",
        edge: media_type::MAX_LEN,
        // By the grammar it is one, but no such type is `application/`.
        within: 400,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 255",
        send: |registry, n| put(registry, "", json!({"mediaType": media_type_of(n)}).to_string()),
    },
    Limit {
        name: "artifact type",
        edge: media_type::MAX_LEN,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 255",
        send: |registry, n| put_index(registry, json!({"artifactType": media_type_of(n)})),
    },
    Limit {
        name: "config type in place of an artifact type",
        edge: media_type::MAX_LEN,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 255",
        send: |registry, n| {
            registry.push_blob("a", "config");
            let config = descriptor(&media_type_of(n), "config");
            put(
                registry,
                IMAGE,
                json!({"config": config, "subject": descriptor(IMAGE, "subject")}).to_string(),
            )
        },
    },
    Limit {
        name: "digest in a manifest",
        edge: Digest::MAX_LEN,
        within: 201,
        beyond: (400, "MANIFEST_INVALID"),
        message: "the limit is 135",
        send: |registry, n| {
            let digest = format!("sha512:{}", "a".repeat(n - "sha512:".len()));
            let child = json!({"mediaType": IMAGE, "size": 1, "digest": digest});
            put(registry, INDEX, json!({"manifests": [child]}).to_string())
        },
    },
];

#[test]
fn every_limit_holds_at_its_edge_and_not_beyond() {
    for Limit { name, edge, within, beyond: (status, code), message, send } in LIMITS {
        let registry = TestRegistry::new();
        let beyond = send(&registry, edge + 1);
        assert_well_formed(name, &beyond);
        assert_eq!((beyond.status.as_u16(), beyond.codes()), (*status, vec![(*code).to_owned()]), "{name}");
        let found = beyond.errors()[0]["message"].as_str().unwrap().to_owned();
        assert!(found.contains(message) && found.len() < 1000, "{name}: {found}");
        let stored = registry.storage.memory.paths().into_iter().filter(|path| !path.contains("/blobs/"));
        let stored: Vec<_> =
            stored.filter(|path| !path.contains("/_layers/") && !path.contains("/links/")).collect();
        assert!(stored.is_empty(), "{name}: {stored:?}");

        let answer = send(&TestRegistry::new(), *edge);
        assert_well_formed(name, &answer);
        let found = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status.as_u16(), *within, "{name}: {found}");
        assert!(!found.contains(message), "{name}: {found}");
    }
}

/// The rows of the tables in the document, without their headings.
fn rows() -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| limit"));
    rows.map(cells).collect()
}

/// A number as the document writes it.
fn written(limit: usize) -> String {
    match limit {
        _ if limit.is_multiple_of(1 << 20) => format!("{} MiB", limit >> 20),
        _ if limit.is_multiple_of(1 << 10) && limit > 4096 => format!("{} KiB", limit >> 10),
        _ if limit >= 1000 => format!("{},{:03}", limit / 1000, limit % 1000),
        _ => limit.to_string(),
    }
}

#[test]
fn pages_have_at_most_so_many_entries() {
    let registry = TestRegistry::new();
    let put = |key: Key, content: String| {
        let body = Body::Bytes(content.into());
        block_on(registry.storage.memory.put(&key.path(), body, PutOptions::default())).unwrap();
    };
    let (name, subject) = ("a".parse().unwrap(), sha256("subject"));
    for n in 0..=1000 {
        put(Key::Repository(&format!("r{n}").parse().unwrap()), String::new());
    }
    for n in 0..=10_000 {
        put(Key::TagCurrent(&name, &format!("t{n}").parse().unwrap()), sha256("x").to_string());
    }
    for n in 0..=500 {
        let referrer = sha256(n.to_string());
        put(Key::Referrer { name: &name, subject: &subject, referrer: &referrer }, "{}".to_owned());
    }
    for (row, target, field, limit) in [
        ("repositories in a page", "/v2/_catalog", "repositories", 1000),
        ("tags in a page", "/v2/a/tags/list", "tags", 10_000),
        ("referrers in a page", &format!("/v2/a/referrers/{subject}"), "manifests", 500),
    ] {
        let row = rows().into_iter().find(|cells| cells[0] == row).unwrap();
        assert_eq!(row[1], written(limit));
        // More than the limit is not refused, but paged.
        for query in [String::new(), format!("?n={}", limit + 1), "?n=99999999999999999999999".to_owned()] {
            let pages = registry.pages(&format!("{target}{query}"));
            let lengths: Vec<_> =
                pages.iter().map(|page| page.json()[field].as_array().unwrap().len()).collect();
            assert_eq!(lengths, [limit, 1], "{target}{query}");
        }
    }
}

#[test]
fn the_document_states_every_limit_that_is_tested() {
    let rows = rows();
    for Limit { name, edge, beyond: (status, code), .. } in LIMITS {
        let row = rows.iter().find(|row| row[0] == *name).unwrap_or_else(|| panic!("no row: {name}"));
        let (value, answer) = (written(*edge), format!("{status} `{code}`"));
        assert!(row[1].starts_with(&value), "{name}: {} does not say {value}", row[1]);
        assert_eq!(row[2], answer, "{name}");
    }
}

#[test]
fn a_header_that_is_read_has_visible_ascii() {
    let registry = TestRegistry::new();
    let digest = registry.push_blob("a", "blob");
    for name in
        ["authorization", "cache-control", "content-range", "content-type", "host", "if-none-match", "range"]
    {
        for line in
            [format!("GET /v2/a/blobs/{digest}"), "PUT /v2/a/manifests/v1".to_owned(), "GET /v2/".to_owned()]
        {
            let (method, target) = line.split_once(' ').unwrap();
            let value = HeaderValue::from_bytes(b"a\xe9\xff").unwrap();
            let method: Method = method.parse().unwrap();
            let answer =
                registry.answer(http::Request::builder().method(method).uri(target).header(name, value));
            assert_well_formed(&line, &answer);
            assert_eq!(
                (answer.status.as_u16(), answer.codes()),
                (400, vec!["UNSUPPORTED".to_owned()]),
                "{name}"
            );
            assert!(answer.errors()[0]["message"].as_str().unwrap().contains(name));
        }
    }
    let agent = HeaderValue::from_bytes(b"\xff").unwrap();
    let request = http::Request::builder().uri(format!("/v2/a/blobs/{digest}")).header("user-agent", agent);
    assert_eq!(registry.answer(request).status, 200);
}

#[test]
fn malformed_targets_get_an_error_of_the_registry() {
    let registry = TestRegistry::new();
    registry.push_blob("a", "blob");
    let long = "x".repeat(9000);
    for (target, status) in [
        ("/v2/%ff/manifests/v1", 400),
        ("/v2/a%00b/manifests/v1", 400),
        ("/v2/a/manifests/%zz", 404),
        ("/v2/a/manifests/%", 404),
        ("/v2/a/blobs/sha256:%ff", 400),
        ("/v2/a%2Fb/manifests/v1", 404),
        ("/v2/a/tags/list?last=%00", 400),
        ("/v2/a/tags/list?last=%ff%fe", 400),
        ("/v2/a/tags/list?n=%ff", 400),
        ("/v2/_catalog?last=%0a", 400),
        (&format!("/v2/{long}/manifests/v1"), 400),
        (&format!("/v2/a/manifests/{long}"), 404),
        (&format!("/v2/a/blobs/sha256:{long}"), 400),
        (&format!("/v2/a/tags/list?last={long}"), 400),
        ("/v2/a/unknown", 404),
        ("/v2//", 404),
        ("/v2/a/tags/list/", 404),
    ] {
        for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"] {
            let line = format!("{method} {target}");
            let answer = registry.get(&line);
            assert_well_formed(&line, &answer);
            assert!(answer.status.is_client_error(), "{method}: {}", answer.status);
            if method == "GET" {
                assert_eq!(answer.status.as_u16(), status, "{target}");
            }
        }
    }
}
