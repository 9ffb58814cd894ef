//! Pulling blobs: ranges and validators. `reads` tests storage calls, `uploads` pushes.

use pierhead::oci::Algorithm;

use crate::{
    fixtures::bytes,
    support::{PART, TestRegistry},
    table::{Body, CALL, Call, Given, assert_served, each_algorithm},
};

/// A blob of 20 bytes.
const BLOB: &[Given] = &[Given::Blob("a", "0123456789abcdefghij")];
const GET: &str = "GET /v2/a/blobs/{digest:0123456789abcdefghij}";
const HEAD: &str = "HEAD /v2/a/blobs/{digest:0123456789abcdefghij}";
const ETAG: &str = "\"{digest:0123456789abcdefghij}\"";

#[test]
fn blobs_of_every_length_are_served_whole() {
    for algorithm in Algorithm::ALL {
        let registry = TestRegistry::new();
        for length in [0, 1, 512, PART, 3 * PART + 1] {
            let content = bytes(length);
            let digest = registry.push_blob_by(algorithm, "team/app", &content);
            assert_served(&registry, "team/app", &digest, &content);
        }
    }
}

#[test]
fn a_blob_is_served_only_from_its_repository() {
    let unknown = |request| Call {
        description: "not in this repository",
        given: BLOB,
        request,
        status: 404,
        body: Body::Error("BLOB_UNKNOWN"),
        ..CALL
    };
    each_algorithm(&[
        unknown("GET /v2/b/blobs/{digest:0123456789abcdefghij}"),
        unknown("GET /v2/a/b/blobs/{digest:0123456789abcdefghij}"),
        unknown("GET /v2/a/blobs/{digest:other}"),
        Call {
            description: "a percent-encoded path",
            given: BLOB,
            request: "GET /v2/a/%62lobs/{digest:0123456789abcdefghij}",
            body: Body::Text("0123456789abcdefghij"),
            ..CALL
        },
    ]);
}

#[test]
fn a_range_is_a_part_of_the_blob() {
    for (range, content_range, content) in [
        ("bytes=0-99999999999999999999999", "bytes 0-19/20", "0123456789abcdefghij"),
        ("bytes=5-14", "bytes 5-14/20", "56789abcde"),
        ("bytes=5-", "bytes 5-19/20", "56789abcdefghij"),
        ("bytes=-5", "bytes 15-19/20", "fghij"),
        ("bytes=18-50", "bytes 18-19/20", "ij"),
        ("bytes=-50", "bytes 0-19/20", "0123456789abcdefghij"),
        ("bytes=0-0", "bytes 0-0/20", "0"),
        ("bytes=19-19", "bytes 19-19/20", "j"),
    ] {
        each_algorithm(&[Call {
            description: range,
            given: BLOB,
            request: GET,
            request_headers: &[("range", range)],
            status: 206,
            headers: &[
                ("content-range", content_range),
                ("etag", ETAG),
                ("accept-ranges", "bytes"),
                ("content-type", "application/octet-stream"),
                ("docker-content-digest", "{digest:0123456789abcdefghij}"),
            ],
            body: Body::Text(content),
            ..CALL
        }]);
    }
}

#[test]
fn a_range_outside_the_blob_is_refused_with_its_length() {
    for range in ["bytes=5-0", "bytes=50-100", "bytes=20-", "bytes=-0"] {
        each_algorithm(&[Call {
            description: range,
            given: BLOB,
            request: GET,
            request_headers: &[("range", range)],
            status: 416,
            headers: &[("content-range", "bytes */20")],
            body: Body::Error("SIZE_INVALID"),
            ..CALL
        }]);
    }
    // containerd asks for this when it pulls in parallel, whatever the size.
    each_algorithm(&[Call {
        description: "a range of the empty blob",
        given: &[Given::Blob("a", "")],
        request: "GET /v2/a/blobs/{digest:}",
        request_headers: &[("range", "bytes=0-")],
        headers: &[("content-range", ""), ("content-length", "0")],
        ..CALL
    }]);
}

#[test]
fn anything_but_ranges_gets_the_whole_blob() {
    for range in ["bytes=0-1,5-6,x", "bytes=", "bytes=a-b", "bytes=5-x", "lines=0-1"] {
        each_algorithm(&[Call {
            description: range,
            given: BLOB,
            request: GET,
            request_headers: &[("range", range)],
            headers: &[("content-range", "")],
            body: Body::Text("0123456789abcdefghij"),
            ..CALL
        }]);
    }
    each_algorithm(&[Call {
        description: "HEAD ignores Range",
        given: BLOB,
        request: HEAD,
        request_headers: &[("range", "bytes=0-1")],
        headers: &[("content-range", ""), ("content-length", "20")],
        ..CALL
    }]);
}

#[test]
fn a_matching_validator_gets_304() {
    for request in [GET, HEAD] {
        for if_none_match in
            [ETAG, "\"x\", \"{digest:0123456789abcdefghij}\"", "W/\"{digest:0123456789abcdefghij}\"", "*"]
        {
            each_algorithm(&[Call {
                description: "a validator that matches",
                given: BLOB,
                request,
                request_headers: &[("if-none-match", if_none_match)],
                status: 304,
                headers: &[
                    ("etag", ETAG),
                    ("docker-content-digest", "{digest:0123456789abcdefghij}"),
                    ("cache-control", "private, max-age=31536000, immutable, no-transform"),
                    ("content-type", ""),
                ],
                body: Body::Empty,
                ..CALL
            }]);
        }
        each_algorithm(&[
            Call {
                description: "a validator that does not match",
                given: BLOB,
                request,
                request_headers: &[("if-none-match", "\"x\"")],
                headers: &[("content-length", "20")],
                ..CALL
            },
            Call {
                description: "If-None-Match takes precedence over Range",
                given: BLOB,
                request,
                request_headers: &[("if-none-match", ETAG), ("range", "bytes=50-")],
                status: 304,
                body: Body::Empty,
                ..CALL
            },
            Call {
                description: "a validator for a blob of another repository",
                given: BLOB,
                request: "HEAD /v2/b/blobs/{digest:0123456789abcdefghij}",
                request_headers: &[("if-none-match", "*")],
                status: 404,
                ..CALL
            },
        ]);
    }
}

#[test]
fn if_range_decides_whether_the_range_applies() {
    for (if_range, status, content) in [
        (ETAG, 206, "56789"),
        ("\"{digest:other}\"", 200, "0123456789abcdefghij"),
        ("W/\"{digest:0123456789abcdefghij}\"", 200, "0123456789abcdefghij"),
        ("Sat, 21 Nov 2026 00:00:00 GMT", 200, "0123456789abcdefghij"),
    ] {
        each_algorithm(&[Call {
            description: if_range,
            given: BLOB,
            request: GET,
            request_headers: &[("range", "bytes=5-9"), ("if-range", if_range)],
            status,
            body: Body::Text(content),
            ..CALL
        }]);
    }
    each_algorithm(&[Call {
        description: "an unsatisfiable range with another validator",
        given: BLOB,
        request: GET,
        request_headers: &[("range", "bytes=50-"), ("if-range", "\"x\"")],
        body: Body::Text("0123456789abcdefghij"),
        ..CALL
    }]);
}
