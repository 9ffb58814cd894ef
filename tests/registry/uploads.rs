//! Pushing blobs by every method of the specification. `upload_sessions` tests refusals, `chunked_uploads`
//! random chunk sizes and storage faults.

use pierhead::{
    oci::{Algorithm, Digest},
    platform::memory::MemoryStream,
};

use crate::{
    fixtures::bytes,
    support::{Answer, PART, TestRegistry},
    table::{Body, CALL, Call, Given, assert_created, assert_served, assert_well_formed, each, in_order},
};

/// Pushes a blob to `a`; returns the answer to its last request.
type Push = fn(&TestRegistry, &Digest, &[u8]) -> Answer;

fn stream(content: &[u8]) -> Option<MemoryStream> {
    Some(MemoryStream::new(content.to_vec()))
}

fn stream_without_length(content: &[u8]) -> Option<MemoryStream> {
    Some(MemoryStream::chunked(content.to_vec()))
}

/// Sends a chunk; returns the next location.
fn patch(registry: &TestRegistry, location: &str, from: usize, chunk: &[u8]) -> String {
    let range = format!("{from}-{}", from + chunk.len() - 1);
    let headers = [("content-range", range.as_str()), ("content-type", "application/octet-stream")];
    let answer = registry.send(&format!("PATCH {location}"), &headers, stream(chunk));
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_well_formed("PATCH", &answer);
    assert_eq!(answer.header("range"), format!("0-{}", from + chunk.len() - 1));
    answer.header("location").to_owned()
}

fn in_chunks(
    registry: &TestRegistry,
    digest: &Digest,
    content: &[u8],
    query: &str,
    puts_last: bool,
) -> Answer {
    let mut location = registry.start_upload(query);
    let size = content.len().div_ceil(3).max(1);
    let mut at = 0;
    for chunk in content.chunks(size) {
        if puts_last && at + chunk.len() == content.len() {
            let range = format!("{at}-{}", content.len() - 1);
            let line = format!("PUT {location}&digest={digest}");
            return registry.send(&line, &[("content-range", range.as_str())], stream(chunk));
        }
        location = patch(registry, &location, at, chunk);
        at += chunk.len();
    }
    registry.get(&format!("PUT {location}&digest={digest}"))
}

fn announced(digest: &Digest) -> String {
    format!("?digest-algorithm={}", digest.algorithm())
}

const METHODS: [(&str, Push); 10] = [
    ("in one POST", |registry, digest, content| {
        registry.send(&format!("POST /v2/a/blobs/uploads/?digest={digest}"), &[], stream(content))
    }),
    ("in one POST without a length", |registry, digest, content| {
        let line = format!("POST /v2/a/blobs/uploads/?digest={digest}");
        registry.send(&line, &[], stream_without_length(content))
    }),
    ("by POST and PUT", |registry, digest, content| {
        let location = registry.start_upload("");
        registry.send(&format!("PUT {location}&digest={digest}"), &[], stream(content))
    }),
    ("by POST and PUT, with the algorithm announced", |registry, digest, content| {
        let location = registry.start_upload(&announced(digest));
        registry.send(&format!("PUT {location}&digest={digest}"), &[], stream(content))
    }),
    ("by POST and PUT without a length", |registry, digest, content| {
        let location = registry.start_upload("");
        registry.send(&format!("PUT {location}&digest={digest}"), &[], stream_without_length(content))
    }),
    ("as a stream without a length", |registry, digest, content| {
        let location = registry.start_upload("");
        let line = format!("PATCH {location}");
        let patched = registry.send(&line, &[], stream_without_length(content));
        assert_eq!(patched.status, 202, "{patched:?}");
        assert_eq!(patched.header("range"), format!("0-{}", content.len().saturating_sub(1)));
        registry.get(&format!("PUT {}&digest={digest}", patched.header("location")))
    }),
    ("in chunks", |registry, digest, content| in_chunks(registry, digest, content, "", false)),
    ("in chunks, the last one in the PUT", |registry, digest, content| {
        in_chunks(registry, digest, content, "", true)
    }),
    ("in chunks, with the algorithm announced", |registry, digest, content| {
        in_chunks(registry, digest, content, &announced(digest), false)
    }),
    ("in chunks, announced, the last one in the PUT", |registry, digest, content| {
        in_chunks(registry, digest, content, &announced(digest), true)
    }),
];

const SIZES: [usize; 7] = [0, 1, PART - 1, PART, PART + 1, 512, 2 * PART + 13];

#[test]
fn every_push_method_stores_the_blob() {
    for algorithm in Algorithm::ALL {
        for (method, push) in METHODS {
            for size in SIZES {
                println!("{method}: {size} bytes, {algorithm}");
                let (registry, content) = (TestRegistry::new(), bytes(size));
                let digest = algorithm.digest(&content);
                let answer = push(&registry, &digest, &content);
                assert_well_formed(method, &answer);
                assert_created(&answer, "a", &digest);
                assert_served(&registry, "a", &digest, &content);
                assert_eq!(registry.leftovers(), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn a_wrong_digest_stores_nothing() {
    for algorithm in Algorithm::ALL {
        for (method, push) in METHODS {
            for size in SIZES {
                println!("{method}: {size} bytes, {algorithm}");
                let registry = TestRegistry::new();
                let wrong = algorithm.digest(b"something else");
                let answer = push(&registry, &wrong, &bytes(size));
                assert_well_formed(method, &answer);
                assert_eq!(
                    (answer.status.as_u16(), answer.codes()),
                    (400, vec!["DIGEST_INVALID".to_owned()])
                );
                assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{wrong}")).status, 404);
                let right = algorithm.digest(&bytes(size));
                assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{right}")).status, 404);
                assert_eq!(registry.leftovers(), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn an_upload_starts_empty_under_a_unique_id() {
    let registry = TestRegistry::new();
    let mut names = Vec::new();
    for line in ["POST /v2/team/app/blobs/uploads/", "POST /v2/team/app/blobs/uploads"] {
        let answer = registry.get(line);
        assert_well_formed(line, &answer);
        assert_eq!((answer.status.as_u16(), answer.header("range")), (202, "0-0"), "{line}");
        let name = answer.header("docker-upload-uuid").to_owned();
        assert!(name.len() == 64 && name.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{name}");
        let location = answer.header("location");
        assert!(location.starts_with(&format!("/v2/team/app/blobs/uploads/{name}?")), "{location}");
        assert!(!names.contains(&name));
        names.push(name);
    }
}

#[test]
fn finishing_an_upload_needs_a_digest() {
    for request in ["PUT {location}", "PUT {location}&digest=", "PUT {location}&digest=sha256:bad"] {
        each(&[Call {
            description: "no valid digest",
            given: &[Given::Upload("a"), Given::Chunk("hello")],
            request,
            status: 400,
            body: Body::Error("DIGEST_INVALID"),
            ..CALL
        }]);
    }
}

#[test]
fn the_empty_blob_can_be_pushed_and_deleted() {
    in_order(&[
        Call {
            description: "pushed",
            given: &[Given::Upload("a")],
            request: "PUT {location}&digest={digest:}",
            status: 201,
            headers: &[("location", "/v2/a/blobs/{digest:}"), ("docker-content-digest", "{digest:}")],
            ..CALL
        },
        Call {
            description: "served",
            request: "GET /v2/a/blobs/{digest:}",
            headers: &[("content-length", "0"), ("etag", "\"{digest:}\"")],
            body: Body::Empty,
            ..CALL
        },
        Call { description: "deleted", request: "DELETE /v2/a/blobs/{digest:}", status: 202, ..CALL },
        Call { description: "gone", request: "HEAD /v2/a/blobs/{digest:}", status: 404, ..CALL },
    ]);
}
