//! Pushing and pulling manifests.

use futures_executor::block_on;
use pierhead::{
    layout::Key,
    oci::Algorithm,
    platform::{Body as StoredBody, memory::MemoryStream},
    storage::{Metadata, PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::{CONFIG, EMPTY_INDEX, IMAGE, INDEX, descriptor, image, sha256},
    support::{Fault, TestRegistry},
    table::{Body, CALL, Call, Client, Given, OF_IMAGE, OF_INDEX, Sent, assert_well_formed, each, in_order},
};

const GIVEN: &[Given] = &[Given::Image("a", "v1", "layer")];
const BY_TAG: &str = "/v2/a/manifests/v1";
const BY_DIGEST: &str = "/v2/a/manifests/{manifest:v1}";

#[test]
fn a_manifest_is_served_unchanged_by_tag_and_by_digest() {
    for (path, cache_control) in [
        (BY_TAG, "private, no-cache, no-transform"),
        (BY_DIGEST, "private, max-age=31536000, immutable, no-transform"),
    ] {
        for (method, body) in [("HEAD", Body::Empty), ("GET", Body::Text("{content:v1}"))] {
            let request = &*format!("{method} {path}");
            let validators = [
                ("etag", "\"{manifest:v1}\""),
                ("docker-content-digest", "{manifest:v1}"),
                ("cache-control", cache_control),
            ];
            let headers =
                [&validators[..], &[("content-type", IMAGE), ("content-length", "{size:v1}")]].concat();
            each(&[
                Call { description: "whole", given: GIVEN, request, headers: &headers, body, ..CALL },
                Call {
                    description: "a validator that does not match",
                    given: GIVEN,
                    request,
                    request_headers: &[("if-none-match", "\"{sha256:other}\"")],
                    headers: &headers,
                    body,
                    ..CALL
                },
            ]);
            for if_none_match in ["\"{manifest:v1}\"", "W/\"{manifest:v1}\"", "\"x\", \"{manifest:v1}\"", "*"]
            {
                each(&[Call {
                    description: "a validator that matches",
                    given: GIVEN,
                    request,
                    request_headers: &[("if-none-match", if_none_match)],
                    status: 304,
                    headers: &validators,
                    body: Body::Empty,
                    ..CALL
                }]);
            }
        }
    }
}

#[test]
fn a_manifest_is_served_only_from_its_repository() {
    for request in [
        "GET /v2/b/manifests/v1",
        "GET /v2/b/manifests/{manifest:v1}",
        "GET /v2/a/manifests/v2",
        "GET /v2/a/manifests/V1",
        // The digest of a blob.
        "GET /v2/a/manifests/{sha256:layer}",
    ] {
        each(&[Call {
            description: "not in this repository",
            given: GIVEN,
            request,
            status: 404,
            body: Body::Error("MANIFEST_UNKNOWN"),
            ..CALL
        }]);
    }
}

#[test]
fn a_push_returns_the_location_of_the_manifest() {
    each(&[
        Call {
            description: "by tag",
            given: GIVEN,
            request: "PUT /v2/a/manifests/v2",
            request_headers: OF_IMAGE,
            request_body: Sent::Text("{content:v1}"),
            status: 201,
            headers: &[
                ("location", "/v2/a/manifests/{manifest:v1}"),
                ("docker-content-digest", "{manifest:v1}"),
                ("oci-tag", ""),
                ("oci-subject", ""),
            ],
            body: Body::Empty,
        },
        Call {
            description: "by digest, as a stream without a length",
            given: GIVEN,
            request: "PUT /v2/a/manifests/{manifest:v1}",
            request_headers: OF_IMAGE,
            request_body: Sent::Chunked("{content:v1}"),
            status: 201,
            headers: &[("location", "/v2/a/manifests/{manifest:v1}"), ("oci-tag", "")],
            ..CALL
        },
    ]);
}

#[test]
fn a_moved_tag_leaves_its_old_manifest() {
    let registry = TestRegistry::new();
    let first = registry.push_image("a", "v1", "one");
    let second = registry.push_image("a", "v1", "two");
    assert_ne!(first, second);
    for (reference, digest) in [("v1", &second), (&first.to_string(), &first), (&second.to_string(), &second)]
    {
        let answer = registry.get(&format!("GET /v2/a/manifests/{reference}"));
        assert_eq!(answer.header("docker-content-digest"), digest.to_string(), "{reference}");
        assert_eq!(sha256(&answer.body), *digest, "{reference}");
    }
}

/// An index that differs from [`EMPTY_INDEX`].
const ANNOTATED: &str = "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\
                         \"manifests\":[],\"annotations\":{\"org.example\":\"x\"}}";

#[test]
fn a_push_by_digest_verifies_it_and_sets_tags() {
    for algorithm in Algorithm::ALL {
        let registry = TestRegistry::new();
        let mut client = Client::new(&registry, algorithm);
        let digest = &*algorithm.digest(ANNOTATED.as_bytes()).to_string();
        let by_digest = format!("PUT /v2/a/manifests/{digest}");
        let wrong = Call {
            description: "content with another digest",
            request: &by_digest,
            request_headers: OF_INDEX,
            request_body: Sent::Text(EMPTY_INDEX),
            status: 400,
            body: Body::Error("DIGEST_INVALID"),
            ..CALL
        };
        let get = format!("GET /v2/a/manifests/{digest}");
        client.call(&wrong);
        client.call(&Call { description: "nothing is stored", request: &get, status: 404, ..CALL });
        client.call(&Call {
            description: "with two tags",
            request: &format!("{by_digest}?tag=one&tag=two"),
            request_body: Sent::Text(ANNOTATED),
            status: 201,
            headers: &[
                ("oci-tag", "one, two"),
                ("docker-content-digest", digest),
                ("location", &format!("/v2/a/manifests/{digest}")),
            ],
            body: Body::Empty,
            ..wrong
        });
        for reference in ["one", "two", digest] {
            client.call(&Call {
                description: "by each reference",
                request: &format!("GET /v2/a/manifests/{reference}"),
                headers: &[("docker-content-digest", digest), ("content-type", INDEX)],
                body: Body::Text(ANNOTATED),
                ..CALL
            });
        }
        client.call(&wrong);
        client.call(&Call {
            description: "an invalid tag",
            request: &format!("{by_digest}?tag=three&tag=-x"),
            request_body: Sent::Text(ANNOTATED),
            body: Body::Error("MANIFEST_INVALID"),
            ..wrong
        });
        client.call(&Call {
            description: "no other tag is set",
            request: "GET /v2/a/tags/list",
            body: Body::Json(r#"{"name":"a","tags":["one","two"]}"#),
            ..CALL
        });
    }
}

#[test]
fn every_missing_blob_of_an_image_is_reported() {
    let registry = TestRegistry::new();
    registry.push_blob("a", "config");
    registry.push_blob("a", "here");
    registry.push_blob("elsewhere", "there");
    let push = |content: &str| {
        let body = Some(MemoryStream::new(content.to_owned()));
        registry.send("PUT /v2/a/manifests/v1", OF_IMAGE, body)
    };
    for (layers, missing) in [
        (&["here", "one", "two"][..], &["one", "two"][..]),
        (&["one", "one"], &["one"]),
        // A blob of another repository does not count.
        (&["there"], &["there"]),
    ] {
        let answer = push(&image(layers));
        assert_well_formed("PUT", &answer);
        assert_eq!(answer.status, 400, "{layers:?}");
        let named = |error: &Value| {
            assert_eq!(error["code"], "MANIFEST_BLOB_UNKNOWN");
            error["detail"]["digest"].as_str().unwrap().to_owned()
        };
        let mut named: Vec<String> = answer.errors().iter().map(named).collect();
        let mut expected: Vec<String> = missing.iter().map(|blob| sha256(blob).to_string()).collect();
        named.sort();
        expected.sort();
        assert_eq!(named, expected, "{layers:?}");
        assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 404);
    }
    assert_eq!(push(&image(&["here"])).status, 201);
    // The config is checked as well.
    let no_config = image(&["here"]).replace(&sha256("config").to_string(), &sha256("other").to_string());
    assert_eq!(push(&no_config).errors()[0]["detail"]["digest"], sha256("other").to_string());
}

#[test]
fn foreign_layers_subjects_and_children_may_be_absent() {
    let mut foreign = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign");
    foreign["urls"] = json!(["https://store.example/x"]);
    let image = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, "config"),
                       "layers": [foreign], "subject": descriptor(IMAGE, "absent")});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, "absent")]});
    for (description, media_type, content) in [
        ("a foreign layer and an absent subject", IMAGE, image.to_string()),
        ("a sparse index", INDEX, index.to_string()),
    ] {
        in_order(&[
            Call {
                description,
                given: &[Given::Blob("a", "config"), Given::Image("a", "other", "layer")],
                request: "PUT /v2/a/manifests/v1",
                request_headers: &[("content-type", media_type)],
                request_body: Sent::Text(&content),
                status: 201,
                ..CALL
            },
            Call { description, request: "GET /v2/a/manifests/v1", body: Body::Text(&content), ..CALL },
        ]);
    }
}

#[test]
fn every_kind_of_manifest_is_stored_with_its_media_type() {
    let config = descriptor("application/vnd.docker.container.image.v1+json", "config");
    for (media_type, mut content) in [
        (IMAGE, json!({"config": config, "layers": []})),
        (INDEX, json!({"manifests": []})),
        ("application/vnd.docker.distribution.manifest.v2+json", json!({"config": config, "layers": []})),
        ("application/vnd.docker.distribution.manifest.list.v2+json", json!({"manifests": []})),
        ("application/vnd.example.thing+json", json!({"anything": ["goes"], "layers": "none", "config": 1})),
    ] {
        content["schemaVersion"] = 2.into();
        let plain = content.to_string();
        content["mediaType"] = media_type.into();
        let typed = content.to_string();
        for (content_type, content) in [
            (media_type, &typed),
            (media_type, &plain),
            (&format!("{media_type}; charset=utf-8"), &typed),
            ("", &typed),
            ("application/json", &typed),
        ] {
            in_order(&[
                Call {
                    description: media_type,
                    given: &[Given::Image("a", "other", "layer")],
                    request: "PUT /v2/a/manifests/v1",
                    request_headers: &[("content-type", content_type)],
                    request_body: Sent::Text(content),
                    status: 201,
                    ..CALL
                },
                Call {
                    description: media_type,
                    request: "GET /v2/a/manifests/v1",
                    headers: &[("content-type", media_type)],
                    body: Body::Text(content),
                    ..CALL
                },
            ]);
        }
    }
}

#[test]
fn manifests_that_browsers_could_execute_are_refused() {
    let registry = TestRegistry::new();
    for media_type in
        ["text/html", "image/svg+xml", "TEXT/HTML; charset=utf-8", "application/xhtml+xml", "text/x+json"]
    {
        for (header, field) in [(media_type, None), ("", Some(media_type.split(';').next()))] {
            let content = json!({"mediaType": field, "a": "<script>alert(1)</script>"}).to_string();
            let headers = [("content-type", header)];
            let answer = registry.send("PUT /v2/a/manifests/v1", &headers, Some(MemoryStream::new(content)));
            assert_well_formed("PUT", &answer);
            assert_eq!((answer.status.as_u16(), answer.codes()), (400, vec!["MANIFEST_INVALID".to_owned()]));
        }
    }
    assert!(registry.storage.memory.paths().is_empty(), "something is stored");
}

#[test]
fn manifests_of_earlier_versions_are_served_as_what_browsers_save() {
    let registry = TestRegistry::new();
    let html = "{\"mediaType\":\"text/html\",\"a\":\"<script>alert(1)</script>\"}";
    let (name, digest) = ("a".parse().unwrap(), sha256(html));
    let put = |key: Key, content: String, metadata: Metadata| {
        let options = PutOptions { metadata, ..PutOptions::default() };
        block_on(registry.storage.memory.put(&key.path(), StoredBody::Bytes(content.into()), options))
            .unwrap();
    };
    put(Key::Data(&digest), html.to_owned(), Metadata::new());
    let described = Metadata::from([
        ("size".to_owned(), html.len().to_string()),
        ("media-type".to_owned(), "text/html".to_owned()),
    ]);
    // As an earlier version and as `distribution` wrote it.
    for metadata in [described, Metadata::new()] {
        put(Key::Revision(&name, &digest), digest.to_string(), metadata);
        for method in ["GET", "HEAD"] {
            let line = format!("{method} /v2/a/manifests/{digest}");
            let answer = registry.get(&line);
            assert_well_formed(&line, &answer);
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-type")),
                (200, "application/octet-stream")
            );
        }
    }
}

#[test]
fn content_of_two_types_has_that_of_the_push_by_tag_and_of_the_last_push_by_digest() {
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let registry = TestRegistry::new();
    let untyped = r#"{"schemaVersion":2,"manifests":[]}"#;
    let digest = registry.push_manifest("a", "oci", INDEX, untyped);
    registry.push_manifest("a", "docker", LIST, untyped);
    let served = |reference: &str| {
        registry.get(&format!("HEAD /v2/a/manifests/{reference}")).header("content-type").to_owned()
    };
    assert_eq!([served("oci"), served("docker"), served(&digest.to_string())], [INDEX, LIST, LIST]);
    registry.push_manifest("a", "oci", INDEX, untyped);
    assert_eq!([served("oci"), served("docker"), served(&digest.to_string())], [INDEX, LIST, INDEX]);
}

#[test]
fn malformed_manifests_are_refused() {
    let config = descriptor(CONFIG, "config");
    for (description, content_type, content) in [
        ("an empty body", IMAGE, String::new()),
        ("not JSON", IMAGE, "not json".to_owned()),
        ("not an object", IMAGE, "[]".to_owned()),
        ("no media type", "", "{}".to_owned()),
        ("a generic Content-Type and no mediaType", "application/octet-stream", "{}".to_owned()),
        ("an image without a config, layers and a type", IMAGE, "{}".to_owned()),
        (
            "a Docker image without a config",
            "application/vnd.docker.distribution.manifest.v2+json",
            json!({"layers": []}).to_string(),
        ),
        ("an index without manifests", INDEX, "{}".to_owned()),
        ("an image sent as an index", INDEX, json!({"mediaType": IMAGE, "manifests": []}).to_string()),
        ("an index sent as an image", IMAGE, EMPTY_INDEX.to_owned()),
        (
            "an image with manifests",
            IMAGE,
            json!({"config": config, "layers": [], "manifests": []}).to_string(),
        ),
        ("an index with layers", INDEX, json!({"manifests": [], "layers": []}).to_string()),
        ("an index with a config", INDEX, json!({"manifests": [], "config": config}).to_string()),
        ("an invalid digest", INDEX, json!({"manifests": [{"digest": "sha256:x"}]}).to_string()),
        ("a media type that no header can carry", "", json!({"mediaType": "a\nb"}).to_string()),
    ] {
        in_order(&[
            Call {
                description,
                given: &[Given::Image("a", "other", "layer")],
                request: "PUT /v2/a/manifests/v1",
                request_headers: &[("content-type", content_type)],
                request_body: Sent::Text(&content),
                status: 400,
                body: Body::Error("MANIFEST_INVALID"),
                ..CALL
            },
            Call {
                description,
                request: "GET /v2/a/manifests/v1",
                status: 404,
                body: Body::Error("MANIFEST_UNKNOWN"),
                ..CALL
            },
        ]);
    }
}

#[test]
fn manifests_of_4_mib_are_accepted_and_larger_ones_refused() {
    let padded = |length: usize| {
        let empty = EMPTY_INDEX.replace("[]", "[],\"pad\":\"\"");
        empty.replace("\"pad\":\"", &format!("\"pad\":\"{}", "x".repeat(length - empty.len())))
    };
    const LIMIT: usize = 4 * 1024 * 1024;
    let (largest, larger) = (padded(LIMIT), padded(LIMIT + 1));
    assert_eq!((largest.len(), larger.len()), (LIMIT, LIMIT + 1));
    let streams: [fn(String) -> MemoryStream; 2] = [MemoryStream::new, MemoryStream::chunked];
    for stream in streams {
        let registry = TestRegistry::new();
        let refused = registry.send("PUT /v2/a/manifests/larger", OF_INDEX, Some(stream(larger.clone())));
        assert_eq!((refused.status.as_u16(), refused.codes()), (413, vec!["SIZE_INVALID".to_owned()]));
        assert_eq!(registry.get("GET /v2/a/manifests/larger").status, 404);
        let taken = registry.send("PUT /v2/a/manifests/largest", OF_INDEX, Some(stream(largest.clone())));
        assert_eq!(taken.status, 201);
        assert!(registry.get("GET /v2/a/manifests/largest").body == largest.as_bytes());
    }
}

#[test]
fn a_push_that_failed_half_way_is_completed_by_the_next() {
    // The calls of a push: the content and the deployment's name, then the links, the tag, and its index.
    for (fault, kind) in (0..12).flat_map(|at| [(at, Fault::Error), (at, Fault::Timeout)]) {
        let registry = TestRegistry::new();
        let subject = sha256("a subject");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [],
            "subject": {"mediaType": IMAGE, "digest": subject, "size": 9},
        })
        .to_string();
        let put = || {
            let headers = [("content-type", INDEX)];
            registry.send("PUT /v2/a/manifests/v1", &headers, Some(MemoryStream::new(manifest.clone())))
        };
        registry.storage.fail_at(Some((fault, kind)));
        let first = put().status;
        registry.storage.fail_at(None);
        assert!(first == 201 || first == 500 || first == 503, "{first}");
        // A pull of what is there does not keep the next push from completing it.
        registry.get(&format!("GET /v2/a/manifests/{}", sha256(&manifest)));
        assert_eq!(put().status, 201);
        let referrers = registry.get(&format!("GET /v2/a/referrers/{subject}")).json();
        assert_eq!(referrers["manifests"].as_array().unwrap().len(), 1, "{kind:?} at {fault}");
        assert_eq!(registry.get("GET /v2/_catalog").json()["repositories"], json!(["a"]));
        assert_eq!(registry.get("GET /v2/a/manifests/v1").body, manifest.as_bytes());
    }
}
