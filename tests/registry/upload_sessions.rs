//! Upload sessions: chunk order, lengths, signed locations, cancelling.

use std::{cell::Cell, future::pending, ops::Range, rc::Rc};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::{FutureExt, future::LocalBoxFuture};
use pierhead::{
    oci::{Algorithm, Hasher, Manifest, UploadId},
    platform::{self, Buffer, ByteStream, Clock, ReadError, Timestamp, memory::MemoryStream},
    secret::Purpose,
    uploads::{UploadAt, UploadState},
};

use crate::{
    fixtures::bytes,
    support::{Fault, PART, TestRegistry},
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
        // It ends where the upload ends, but is not the end of the blob.
        &refused(PUT, &[("content-range", "5-9")], &[("range", "0-9")]),
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
    let signed = at.sign(&block_on(registry.app.secret.keys(Purpose::Uploads)).unwrap());
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

/// Polls a request that never waits, from inside another one.
fn nested(registry: &TestRegistry, line: &str) -> u16 {
    let (method, target) = line.split_once(' ').unwrap();
    let request = http::Request::builder().method(method).uri(target).body(platform::Body::Empty).unwrap();
    registry.handle(request).now_or_never().map_or(0, |response| response.status().as_u16())
}

/// An upload, and a request to it that is in flight while it is cancelled.
struct InFlight {
    name: &'static str,
    /// What was sent before.
    chunks: &'static [usize],
    /// The request: its method, and the length of its body.
    request: (&'static str, usize),
}

#[test]
fn a_request_whose_upload_is_cancelled_gets_404_whenever_that_happens() {
    let cases = [
        InFlight { name: "a first chunk smaller than a part", chunks: &[], request: ("PATCH", 5) },
        InFlight { name: "a first chunk of several parts", chunks: &[], request: ("PATCH", 4 * PART + 5) },
        InFlight { name: "a later chunk", chunks: &[PART + 5], request: ("PATCH", 4 * PART) },
        InFlight { name: "a chunk after a first one", chunks: &[5], request: ("PATCH", 4 * PART) },
        InFlight { name: "a chunk after two", chunks: &[5, 7], request: ("PATCH", 11) },
        InFlight { name: "the end of one chunk", chunks: &[5], request: ("PUT", 0) },
        InFlight { name: "the end of two chunks", chunks: &[5, 7], request: ("PUT", 0) },
        InFlight { name: "the end of parts", chunks: &[3 * PART + 5], request: ("PUT", 0) },
        InFlight { name: "the end of whole parts", chunks: &[PART, PART], request: ("PUT", 0) },
        InFlight { name: "a last chunk", chunks: &[PART + 5], request: ("PUT", 2 * PART) },
        InFlight { name: "a small last chunk", chunks: &[5], request: ("PUT", 7) },
        InFlight { name: "a whole blob", chunks: &[], request: ("PUT", 5) },
        InFlight { name: "a large whole blob", chunks: &[], request: ("PUT", 4 * PART) },
    ];
    for InFlight { name, chunks, request: (method, length) } in cases {
        let mut cancelled = 0;
        for n in 0_u32.. {
            let registry = Rc::new(TestRegistry::new());
            let content = bytes(chunks.iter().sum::<usize>() + length);
            let mut location = registry.start_upload("");
            let mut at = 0;
            for chunk in chunks {
                location = patch(&registry, &location, &content[at..at + chunk]);
                at += chunk;
            }
            registry.run_background();
            // Cancels the upload at the nth call to storage or to the session.
            let (left, status) = (Rc::new(Cell::new(n)), Rc::new(Cell::new(None)));
            let hook = || {
                let (left, status, registry) = (left.clone(), status.clone(), Rc::downgrade(&registry));
                let cancel = format!("DELETE {location}");
                Box::new(move || {
                    if left.get() == 0 && status.get().is_none() {
                        status.set(Some(0));
                        status.set(Some(nested(&registry.upgrade().unwrap(), &cancel)));
                    }
                    left.set(left.get().saturating_sub(1));
                }) as Box<dyn Fn()>
            };
            *registry.storage.on_call.borrow_mut() = Some(hook());
            *registry.sessions.on_call.borrow_mut() = Some(hook());
            let digest = Algorithm::Sha256.digest(&content);
            let line = if method == "PUT" {
                format!("PUT {location}&digest={digest}")
            } else {
                format!("PATCH {location}")
            };
            let body = (length > 0).then(|| MemoryStream::new(content[at..].to_vec()));
            let answer = registry.send(&line, &[], body);
            let linked = registry.get(&format!("HEAD /v2/a/blobs/{digest}")).status.as_u16();
            let Some(status) = status.get() else { break };
            let what = format!("{name}, cancelled at call {n}: {answer:?}");
            match (status, answer.status.as_u16()) {
                // The request was over.
                (404, 201) => assert_eq!(linked, 200, "{what}"),
                (204, 404) => {
                    assert_eq!(linked, 404, "{what}");
                    assert_eq!(answer.codes(), ["BLOB_UPLOAD_UNKNOWN"], "{what}");
                    cancelled += 1;
                }
                // It was decided before.
                (204, 201) => assert_eq!(linked, 200, "{what}"),
                (204, 202) => assert_eq!(linked, 404, "{what}"),
                _ => panic!("{status} {what}"),
            }
            registry.run_background();
            registry.check_content();
            let after = registry.get(&format!("GET {location}")).status.as_u16();
            assert_eq!(after, 404, "{what}");
        }
        assert!(cancelled > 0, "{name}: never cancelled in time");
    }
}

#[test]
fn the_location_of_a_cancelled_upload_takes_no_whole_blob() {
    for length in [5, 4 * PART] {
        let registry = TestRegistry::new();
        let location = registry.start_upload("");
        assert_eq!(registry.get(&format!("DELETE {location}")).status, 204);
        let content = bytes(length);
        let digest = Algorithm::Sha256.digest(&content);
        let line = format!("PUT {location}&digest={digest}");
        let answer = registry.send(&line, &[], Some(MemoryStream::new(content)));
        assert_eq!((answer.status.as_u16(), answer.codes()), (404, vec!["BLOB_UPLOAD_UNKNOWN".into()]));
        assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{digest}")).status, 404);
        registry.run_background();
        assert!(registry.storage.memory.paths().iter().all(|path| !path.starts_with("pierhead/blobs/")));
    }
}

/// A stream whose client sends a part, and then nothing, without an end.
struct Stalling(MemoryStream, bool);

impl ByteStream for Stalling {
    fn content_length(&self) -> Option<u64> {
        self.0.content_length()
    }

    fn read_into<'a>(
        &'a mut self,
        buffer: &'a mut dyn Buffer,
        range: Range<usize>,
        hasher: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>> {
        match std::mem::replace(&mut self.1, true) {
            false => self.0.read_into(buffer, range, hasher),
            true => Box::pin(pending()),
        }
    }

    fn read(self: Box<Self>, _: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>> {
        Box::pin(pending())
    }

    fn discard<'a>(
        &'a mut self,
        _: u64,
        _: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>> {
        Box::pin(pending())
    }

    fn cancel(self: Box<Self>) {}
}

#[test]
fn a_failed_request_does_not_wait_for_a_client_that_sends_nothing() {
    let registry = TestRegistry::new();
    let location = registry.start_upload("");
    registry.storage.fail_at(Some((1, Fault::Error)));
    let body = platform::Body::Stream(Box::new(Stalling(MemoryStream::chunked(bytes(PART)), false)));
    let request = http::Request::builder().method("PATCH").uri(location).body(body).unwrap();
    // Time passes only while something sleeps.
    let answer = registry.handle(request).now_or_never().expect("it waits for its client");
    assert_eq!(answer.status(), 500);
    assert!(registry.clock.now() >= Timestamp(30_000));
    assert_eq!(registry.storage.calls.borrow()[1], "put_part");
}

#[test]
fn a_manifest_that_is_too_large_is_drained_but_not_for_ever() {
    let registry = TestRegistry::new();
    let content = MemoryStream::new(vec![b' '; Manifest::MAX_BYTES + 1]);
    let body = platform::Body::Stream(Box::new(Stalling(content, false)));
    let request = http::Request::builder().method("PUT").uri("/v2/a/manifests/v1").body(body).unwrap();
    let answer = registry.handle(request).now_or_never().expect("it waits for its client");
    assert_eq!(answer.status(), 413);
    assert_eq!(registry.clock.now(), Timestamp(30_000));
}

#[test]
fn a_client_that_hangs_up_while_the_store_reads_is_no_failure_of_the_store() {
    for method in ["PUT", "POST"] {
        let registry = TestRegistry::new();
        let content = bytes(2 * PART);
        let digest = Algorithm::Sha256.digest(&content);
        let target = match method {
            "PUT" => format!("{}&digest={digest}", registry.start_upload("")),
            _ => format!("/v2/a/blobs/uploads/?digest={digest}"),
        };
        let answer = registry.send(&format!("{method} {target}"), &[], Some(MemoryStream::cut(content)));
        assert_eq!((answer.status.as_u16(), answer.codes()), (400, vec!["BLOB_UPLOAD_INVALID".into()]));
        let lines = registry.lines.0.borrow();
        let cut: Vec<_> = lines.iter().filter(|line| line["upload"].is_object()).collect();
        assert!(matches!(cut[..], [line] if line["upload"]["kept"] == 0), "{method}: {lines:?}");
        assert!(lines.iter().all(|line| line["level"] != "error"), "{method}: {lines:?}");
    }
}

#[test]
fn an_upload_whose_client_falls_silent_or_hangs_up_keeps_its_parts() {
    type Make = fn(Vec<u8>) -> MemoryStream;
    for (make, status, message) in [
        (MemoryStream::silent as Make, 408, "no byte arrived for 60 s"),
        (MemoryStream::broken, 400, "the connection was cut"),
    ] {
        for (sent, kept) in [(0, 0), (5, 0), (3 * PART + 5, 3 * PART)] {
            let registry = TestRegistry::new();
            let first = registry.start_upload("");
            let content = bytes(5 * PART);
            let answer = registry.send(&format!("PATCH {first}"), &[], Some(make(content[..sent].to_vec())));
            assert_eq!(
                (answer.status.as_u16(), answer.codes()),
                (status, vec!["BLOB_UPLOAD_INVALID".into()]),
                "{sent}"
            );
            {
                let lines = registry.lines.0.borrow();
                let lines: Vec<_> = lines.iter().filter(|line| line["upload"].is_object()).collect();
                assert_eq!(lines.len(), 1, "{lines:?}");
                assert_eq!((&lines[0]["level"], &lines[0]["upload"]["kept"]), (&"info".into(), &kept.into()));
                assert!(lines[0]["message"].as_str().unwrap().contains(message), "{lines:?}");
            }
            let answer = registry.get(&format!("GET {first}"));
            assert_eq!(answer.header("range"), format!("0-{}", kept.saturating_sub(1)));
            let location = patch(&registry, answer.header("location"), &content[kept..]);
            let digest = Algorithm::Sha256.digest(&content);
            assert_created(&registry.get(&format!("PUT {location}&digest={digest}")), "a", &digest);
            assert_eq!(registry.leftovers(), Vec::<String>::new());
        }
    }
}
