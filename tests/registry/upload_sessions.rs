//! Upload sessions: chunk order, lengths, signed locations, cancelling.

use futures_executor::block_on;
use pierhead::{
    oci::{Algorithm, UploadId},
    platform::{Timestamp, memory::MemoryStream},
    uploads::{UploadAt, UploadState},
};

use crate::{
    fixtures::bytes,
    support::{PART, TestRegistry},
    table::{Body, CALL, Call, Given, Sent, assert_created, in_order},
};

/// A refused chunk, then the status of the upload at the location in the refusal.
fn refused<'a>(
    request: &'a str,
    content_range: &'a [(&'a str, &'a str)],
    stored: &'a [(&'a str, &'a str)],
) -> [Call<'a>; 2] {
    [
        Call {
            description: "out of order",
            request,
            request_headers: content_range,
            request_body: Sent::Text("01234"),
            status: 416,
            headers: stored,
            body: Body::Error("BLOB_UPLOAD_INVALID"),
            ..CALL
        },
        Call {
            description: "status after the refusal",
            request: "GET {location}",
            status: 204,
            headers: stored,
            body: Body::Empty,
            ..CALL
        },
    ]
}

/// An accepted chunk.
fn accepted<'a>(
    content_range: &'a [(&'a str, &'a str)],
    content: &'a str,
    stored: &'a [(&'a str, &'a str)],
) -> [Call<'a>; 1] {
    [Call {
        description: "in order",
        request: "PATCH {location}",
        request_headers: content_range,
        request_body: Sent::Text(content),
        status: 202,
        headers: stored,
        body: Body::Empty,
        ..CALL
    }]
}

const PATCH: &str = "PATCH {location}";
const PUT: &str = "PUT {location}&digest={digest:0123456789abcde}";

#[test]
fn a_chunk_out_of_order_is_refused_and_the_upload_continues() {
    let calls: Vec<Call> = [
        &[Call {
            description: "start",
            request: "POST /v2/a/blobs/uploads/",
            status: 202,
            headers: &[("range", "0-0")],
            body: Body::Empty,
            ..CALL
        }][..],
        &refused(PATCH, &[("content-range", "5-9")], &[("range", "0-0")]),
        &refused(PUT, &[("content-range", "10-14")], &[("range", "0-0")]),
        &accepted(&[("content-range", "0-4")], "01234", &[("range", "0-4")]),
        &refused(PATCH, &[("content-range", "0-4")], &[("range", "0-4")]),
        &refused(PATCH, &[("content-range", "10-14")], &[("range", "0-4")]),
        &accepted(&[("content-range", "bytes 5-9/15")], "56789", &[("range", "0-9")]),
        &refused(PUT, &[("content-range", "0-4")], &[("range", "0-9")]),
        &refused(PATCH, &[("content-range", "not a range")], &[("range", "0-9")]),
        &[
            Call {
                description: "finish",
                request: PUT,
                request_headers: &[("content-range", "10-14")],
                request_body: Sent::Text("abcde"),
                status: 201,
                headers: &[
                    ("location", "/v2/a/blobs/{digest:0123456789abcde}"),
                    ("docker-content-digest", "{digest:0123456789abcde}"),
                ],
                body: Body::Empty,
                ..CALL
            },
            Call {
                description: "the blob",
                request: "GET /v2/a/blobs/{digest:0123456789abcde}",
                body: Body::Text("0123456789abcde"),
                ..CALL
            },
        ],
    ]
    .concat();
    in_order(&calls);
}

#[test]
fn a_last_chunk_sent_to_the_first_location_is_refused() {
    in_order(&[
        Call {
            description: "to the location of the POST",
            given: &[Given::Upload("a"), Given::Chunk("first half, ")],
            request: "PUT {started}&digest={digest:first half, second half}",
            request_body: Sent::Text("second half"),
            status: 416,
            headers: &[("range", "0-11")],
            body: Body::Error("BLOB_UPLOAD_INVALID"),
            ..CALL
        },
        Call {
            description: "to the location of the refusal",
            request: "PUT {location}&digest={digest:first half, second half}",
            request_body: Sent::Text("second half"),
            status: 201,
            headers: &[("docker-content-digest", "{digest:first half, second half}")],
            ..CALL
        },
        Call {
            description: "the blob",
            request: "GET /v2/a/blobs/{digest:first half, second half}",
            body: Body::Text("first half, second half"),
            ..CALL
        },
    ]);
}

#[test]
fn a_length_that_contradicts_content_range_is_refused() {
    let refused = Call {
        request: PATCH,
        request_headers: &[("content-range", "0-9")],
        status: 400,
        body: Body::Error("SIZE_INVALID"),
        ..CALL
    };
    in_order(&[
        Call {
            description: "shorter than announced",
            given: &[Given::Upload("a")],
            request_body: Sent::Text("01234"),
            ..refused
        },
        Call { description: "longer than announced", request_body: Sent::Text("0123456789abcde"), ..refused },
        Call {
            description: "a stream shorter than announced",
            request_body: Sent::Chunked("01234"),
            ..refused
        },
        Call {
            description: "a stream longer than announced",
            request_body: Sent::Chunked("0123456789abcde"),
            ..refused
        },
        Call {
            description: "a malformed Content-Range",
            request_headers: &[("content-range", "x")],
            request_body: Sent::Text("x"),
            status: 416,
            headers: &[("range", "0-0")],
            body: Body::Error("BLOB_UPLOAD_INVALID"),
            ..refused
        },
        Call {
            description: "none of the refused chunks is stored",
            request: "GET {started}",
            status: 204,
            headers: &[("range", "0-0")],
            ..CALL
        },
        Call {
            description: "the location still accepts a correct chunk",
            request: "PATCH {started}",
            request_headers: &[("content-range", "0-9")],
            request_body: Sent::Chunked("0123456789"),
            status: 202,
            headers: &[("range", "0-9")],
            ..CALL
        },
    ]);
}

/// Sends a chunk; returns the next location.
fn patch(registry: &TestRegistry, location: &str, chunk: &[u8]) -> String {
    let body = Some(MemoryStream::new(chunk.to_vec()));
    let answer = registry.send(&format!("PATCH {location}"), &[], body);
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.header("location").to_owned()
}

#[test]
fn a_cancelled_upload_is_unknown() {
    let over = |request| Call {
        description: "after the upload was cancelled",
        request,
        status: 404,
        body: Body::Error("BLOB_UPLOAD_UNKNOWN"),
        ..CALL
    };
    for given in [&[Given::Upload("a")][..], &[Given::Upload("a"), Given::Chunk("hello")]] {
        let cancelled = Call {
            description: "cancelled",
            given,
            request: "DELETE {location}",
            status: 204,
            body: Body::Empty,
            ..CALL
        };
        in_order(&[
            cancelled,
            over("GET {location}"),
            over("PATCH {location}"),
            over("PUT {location}&digest={digest:hello}"),
            over("DELETE {location}"),
            over("GET {started}"),
            over("PATCH {started}"),
            over("DELETE {started}"),
        ]);
    }
    let registry = TestRegistry::new();
    let location = registry.start_upload("");
    let location = patch(&registry, &location, &bytes(2 * PART + 5));
    assert_eq!(registry.get(&format!("DELETE {location}")).status, 204);
    assert_eq!(registry.leftovers(), Vec::<String>::new());
}

#[test]
fn an_upload_belongs_to_its_repository_and_its_location_is_signed() {
    let registry = TestRegistry::new();
    let first = registry.start_upload("");
    let location = patch(&registry, &first, b"hello");
    let digest = Algorithm::Sha256.digest(b"hello");
    let other = registry.start_upload("");
    let (path, state) = location.split_once('?').unwrap();
    for stolen in [
        location.replace("/v2/a/", "/v2/b/"),
        location.replace("/v2/a/", "/v2/a/b/"),
        path.to_owned(),
        format!("{path}?_state="),
        format!("{path}?{}", other.split_once('?').unwrap().1),
        format!("{}?{state}", other.split_once('?').unwrap().0),
        location.replace("sha256", "sha512"),
    ] {
        for line in [
            format!("GET {stolen}"),
            format!("PATCH {stolen}"),
            format!("PUT {stolen}{}digest={digest}", if stolen.contains('?') { "&" } else { "?" }),
            format!("DELETE {stolen}"),
        ] {
            let answer = registry.get(&line);
            assert_eq!(
                (answer.status.as_u16(), answer.codes()),
                (404, vec!["BLOB_UPLOAD_UNKNOWN".into()]),
                "{line}"
            );
        }
    }
    assert_created(&registry.get(&format!("PUT {location}&digest={digest}")), "a", &digest);
}

#[test]
fn a_wrong_digest_ends_the_upload() {
    in_order(&[
        Call {
            description: "a digest of other content",
            given: &[Given::Upload("a"), Given::Chunk("hello")],
            request: "PUT {location}&digest={digest:something else}",
            status: 400,
            body: Body::Error("DIGEST_INVALID"),
            ..CALL
        },
        Call {
            description: "the location of the upload",
            request: "GET {location}",
            status: 404,
            body: Body::Error("BLOB_UPLOAD_UNKNOWN"),
            ..CALL
        },
    ]);
}

#[test]
fn an_upload_whose_parts_were_dropped_is_unknown() {
    for ends in ["PATCH", "PUT"] {
        let registry = TestRegistry::new();
        let location = registry.start_upload("");
        let bytes = vec![7; 3 * PART];
        let patched =
            registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(bytes.clone())));
        registry.storage.memory.drop_multiparts();
        let digest = Algorithm::Sha256.digest(&bytes);
        let line = match ends {
            "PATCH" => format!("PATCH {}", patched.header("location")),
            _ => format!("PUT {}&digest={digest}", patched.header("location")),
        };
        let body = (ends == "PATCH").then(|| MemoryStream::chunked(vec![8; 2 * PART]));
        let answer = registry.send(&line, &[], body);
        assert_eq!(answer.status, 404, "{ends}");
        assert!(String::from_utf8_lossy(&answer.body).contains("BLOB_UPLOAD_UNKNOWN"), "{ends}");
        assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{digest}")).status, 404);
    }
}

#[test]
fn a_location_of_an_earlier_version_still_works() {
    let registry = TestRegistry::new();
    let id: UploadId = "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887".parse().unwrap();
    let state = UploadState {
        expires: Timestamp(60_000),
        algorithm: Algorithm::Sha256,
        has_session: false,
        first: None,
    };
    let at = UploadAt { repository: "a".parse().unwrap(), id, state };
    let signed = at.sign(block_on(registry.app.secret.get()).unwrap());
    let mut location = format!("/v2/a/blobs/uploads/{id}?_state={signed}");
    let bytes: Vec<u8> = (0..3 * PART + 7).map(|n| n as u8).collect();
    for chunk in bytes.chunks(PART) {
        let patched =
            registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(chunk.to_vec())));
        assert_eq!(patched.status, 202);
        location = patched.header("location").to_owned();
    }
    let digest = Algorithm::Sha256.digest(&bytes);
    assert_eq!(registry.get(&format!("PUT {location}&digest={digest}")).status, 201);
    assert_eq!(registry.get(&format!("GET /v2/a/blobs/{digest}")).body, bytes);
}
