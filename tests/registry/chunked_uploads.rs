//! Uploads in chunks, with parts of a few bytes: random chunk sizes, and a fault at every storage call.

use pierhead::{
    oci::{Algorithm, Digest},
    platform::memory::MemoryStream,
};
use proptest::prelude::*;

use crate::support::{Fault, PART, TestRegistry};

/// The division of a blob into chunks.
#[derive(Debug, Clone)]
struct Chunking {
    algorithm: Algorithm,
    announced: bool,
    /// For each chunk, its length, whether the stream knows it, and whether Content-Range is sent.
    chunks: Vec<(usize, bool, bool)>,
    /// Whether the PUT carries the last chunk.
    puts_last: bool,
}

fn chunkings() -> impl Strategy<Value = Chunking> {
    let length = prop_oneof![0..4usize, PART - 2..PART + 3, 0..4 * PART];
    (
        prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)],
        any::<bool>(),
        prop::collection::vec((length, any::<bool>(), any::<bool>()), 0..30),
        any::<bool>(),
    )
        .prop_map(|(algorithm, announced, chunks, puts_last)| Chunking {
            algorithm,
            announced,
            chunks,
            puts_last,
        })
}

fn content(chunking: &Chunking) -> Vec<u8> {
    let length: usize = chunking.chunks.iter().map(|(length, ..)| length).sum();
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// Uploads by `chunking`, and resumes after a failure at the offset that the registry reports. `break_at` is
/// the chunk whose connection is cut half-way.
fn upload(registry: &TestRegistry, chunking: &Chunking, digest: &Digest, break_at: Option<usize>) {
    let bytes = content(chunking);
    let query =
        if chunking.announced { format!("?digest-algorithm={}", chunking.algorithm) } else { String::new() };
    let mut location = registry.start_upload(&query);
    let mut at = 0;
    for (index, (length, knows_length, says_range)) in chunking.chunks.iter().enumerate() {
        let is_put = chunking.puts_last && index + 1 == chunking.chunks.len();
        let mut end = at + length;
        let mut breaks = break_at == Some(index);
        loop {
            let piece = bytes[at..end].to_vec();
            let stream = match (breaks, knows_length) {
                (true, _) => MemoryStream::broken(piece[..piece.len() / 2].to_vec()),
                (false, true) => MemoryStream::new(piece),
                (false, false) => MemoryStream::chunked(piece),
            };
            let range = format!("{at}-{}", end.saturating_sub(1));
            let headers = [("content-range", range.as_str())];
            let headers = if *says_range && end > at { &headers[..] } else { &[] };
            let line =
                if is_put { format!("PUT {location}&digest={digest}") } else { format!("PATCH {location}") };
            let answer = registry.send(&line, headers, Some(stream));
            if breaks {
                assert_eq!(answer.status, 400, "{answer:?}");
                breaks = false;
                let status = registry.get(&format!("GET {location}"));
                assert_eq!(status.status, 204);
                let last: usize = status.header("range")[2..].parse().unwrap();
                let stored = if last == 0 { 0 } else { last + 1 };
                assert!(stored >= at || (at == 1 && stored == 0), "{stored} of {at}..{end}");
                at = if at == 1 && last == 0 { 1 } else { stored };
                location = status.header("location").to_owned();
                end = end.max(at);
                continue;
            }
            if is_put {
                assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
                return;
            }
            assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
            assert_eq!(answer.header("range"), format!("0-{}", end.saturating_sub(1)));
            location = answer.header("location").to_owned();
            break;
        }
        at = end;
    }
    let answer = registry.get(&format!("PUT {location}&digest={digest}"));
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_chunking_of_a_blob_keeps_its_digest(chunking in chunkings()) {
        let registry = TestRegistry::new();
        let bytes = content(&chunking);
        let digest = chunking.algorithm.digest(&bytes);
        upload(&registry, &chunking, &digest, None);
        let answer = registry.get(&format!("GET /v2/a/blobs/{digest}"));
        prop_assert_eq!(answer.status, 200);
        prop_assert!(answer.body == bytes);
        prop_assert_eq!(registry.leftovers(), Vec::<String>::new());
        prop_assert_eq!(registry.sessions.open(), 0);
    }

    #[test]
    fn an_upload_resumes_after_a_cut_connection(chunking in chunkings(), break_at in 0usize..30) {
        prop_assume!(chunking.chunks.get(break_at).is_some_and(|(length, ..)| *length > 1));
        let registry = TestRegistry::new();
        let bytes = content(&chunking);
        let digest = chunking.algorithm.digest(&bytes);
        upload(&registry, &chunking, &digest, Some(break_at));
        let served = registry.get(&format!("GET /v2/a/blobs/{digest}")).body == bytes;
        prop_assert!(served, "wrong bytes");
        prop_assert_eq!(registry.leftovers(), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_digest_leaves_nothing_behind(chunking in chunkings()) {
        let registry = TestRegistry::new();
        let bytes = content(&chunking);
        let wrong = chunking.algorithm.digest(b"something else");
        let location = registry.start_upload("");
        let location = match registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(bytes))) {
            answer if answer.status == 202 => answer.header("location").to_owned(),
            answer => panic!("{answer:?}"),
        };
        let answer = registry.get(&format!("PUT {location}&digest={wrong}"));
        prop_assert_eq!(answer.status, 400);
        prop_assert!(String::from_utf8_lossy(&answer.body).contains("DIGEST_INVALID"));
        prop_assert_eq!(registry.leftovers(), Vec::<String>::new());
        prop_assert_eq!(registry.get(&format!("GET {location}")).status, 404);
        prop_assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{wrong}")).status, 404);
    }
}

/// Uploads in three chunks, the last one in the PUT. Retries each step until it succeeds, at the offset that
/// the registry reports.
fn upload_through_a_fault(registry: &TestRegistry, bytes: &[u8], digest: &Digest) {
    let start = || {
        let answers = (0..3).map(|_| registry.get("POST /v2/a/blobs/uploads/"));
        let answer = answers.into_iter().find(|answer| answer.status == 202).unwrap();
        answer.header("location").to_owned()
    };
    let mut location = start();
    let edges = [0, (PART / 2).min(bytes.len() / 2), (3 * PART + 1).min(bytes.len() - 1), bytes.len()];
    let mut step = 1;
    for _ in 0..20 {
        let status = registry.get(&format!("GET {location}"));
        if status.status == 404 {
            // Either the blob exists, or the upload must start again.
            if registry.get(&format!("HEAD /v2/a/blobs/{digest}")).status == 200 {
                return;
            }
            (location, step) = (start(), 1);
            continue;
        }
        if [500, 503].contains(&status.status.as_u16()) {
            // It looks for a first chunk.
            assert!(status.body.starts_with(b"{\"errors\":"), "{status:?}");
            continue;
        }
        assert_eq!(status.status, 204, "{status:?}");
        location = status.header("location").to_owned();
        let last: usize = status.header("range")[2..].parse().unwrap();
        let at = if last == 0 { 0 } else { last + 1 };
        while step < edges.len() - 1 && edges[step] <= at {
            step += 1;
        }
        let is_put = step == edges.len() - 1;
        let end = edges[step];
        let line =
            if is_put { format!("PUT {location}&digest={digest}") } else { format!("PATCH {location}") };
        let answer = registry.send(&line, &[], Some(MemoryStream::chunked(bytes[at..end].to_vec())));
        match answer.status.as_u16() {
            201 => return,
            202 => location = answer.header("location").to_owned(),
            429 | 500 | 503 => assert!(answer.body.starts_with(b"{\"errors\":"), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    panic!("the upload never completed");
}

#[test]
fn an_upload_survives_a_storage_failure_at_any_call() {
    let mut cases = 0;
    for kind in [Fault::Error, Fault::Busy, Fault::Timeout] {
        for size in [10, PART - 1, PART, 3 * PART + 2, 5 * PART + 9, 9 * PART + 30] {
            let bytes: Vec<u8> = (0..size).map(|n| (n * 13) as u8).collect();
            let digest = Algorithm::Sha256.digest(&bytes);
            for fault in 0.. {
                let registry = TestRegistry::new();
                let storage = &registry.storage;
                registry.start_upload(""); // Creates the secret in advance.
                storage.fail_at(Some((fault, kind)));
                upload_through_a_fault(&registry, &bytes, &digest);
                let calls = storage.calls.borrow().len();
                storage.fail_at(None);
                let answer = registry.get(&format!("GET /v2/a/blobs/{digest}"));
                assert!(answer.status == 200 && answer.body == bytes, "{kind:?} at {fault} of {size} bytes");
                registry.check_content();
                if fault >= calls {
                    break;
                }
                cases += 1;
            }
        }
    }
    println!("{cases} faults");
    assert!(cases >= 200, "only {cases} faults were reached");
}

#[test]
fn the_request_with_the_last_chunk_can_be_repeated() {
    let bytes: Vec<u8> = (0..5 * PART + 9).map(|n| (n * 7) as u8).collect();
    let (first, last) = bytes.split_at(3 * PART + 5);
    let digest = Algorithm::Sha256.digest(&bytes);
    let mut failures = 0;
    for fault in 0..40 {
        let registry = TestRegistry::new();
        let location = registry.start_upload("");
        let patched =
            registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(first.to_vec())));
        let line = format!("PUT {}&digest={digest}", patched.header("location"));
        registry.storage.fail_at(Some((fault, Fault::Error)));
        for _ in 0..2 {
            let answer = registry.send(&line, &[], Some(MemoryStream::chunked(last.to_vec())));
            if answer.status == 201 {
                break;
            }
            failures += 1;
            assert_eq!(answer.status, 500, "{fault}: {}", String::from_utf8_lossy(&answer.body));
        }
        registry.storage.fail_at(None);
        let answer = registry.get(&format!("GET /v2/a/blobs/{digest}"));
        assert!(answer.status == 200 && answer.body == bytes, "{fault}");
        // The session's alarm removes what is staged.
        assert!(registry.leftovers().iter().all(|path| path.contains("/staged/")), "{fault}");
    }
    assert!(failures > 5, "only {failures} failures were reached");
}

#[test]
fn the_last_chunk_can_be_repeated_if_only_the_note_of_the_joined_parts_failed() {
    let bytes: Vec<u8> = (0..5 * PART + 9).map(|n| (n * 7) as u8).collect();
    let (first, last) = bytes.split_at(3 * PART);
    let digest = Algorithm::Sha256.digest(&bytes);
    for range in [false, true] {
        let registry = TestRegistry::new();
        let location = registry.start_upload("");
        let patched =
            registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(first.to_vec())));
        let line = format!("PUT {}&digest={digest}", patched.header("location"));
        let field = format!("{}-{}", first.len(), bytes.len() - 1);
        let headers = [("content-range", field.as_str())];
        let headers = if range { &headers[..] } else { &[] };
        let put = || registry.send(&line, headers, Some(MemoryStream::chunked(last.to_vec())));
        // Nothing but the note is written there: no chunk has an end that is staged.
        registry.storage.fails_below.replace(Some("pierhead/uploads/"));
        assert_eq!(put().status, 500);
        registry.storage.fails_below.replace(None);
        let again = put();
        assert_eq!(again.status, 201, "{range}: {}", String::from_utf8_lossy(&again.body));
        let answer = registry.get(&format!("GET /v2/a/blobs/{digest}"));
        assert!(answer.status == 200 && answer.body == bytes);
        assert_eq!(registry.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn a_failed_chunk_ends_after_all_writes_that_it_has_begun() {
    let bytes = vec![7; 2 * PART + 9];
    let patch = |fails_at: Option<usize>| {
        let registry = TestRegistry::new();
        let location = registry.start_upload("");
        registry.storage.fail_at(fails_at.map(|n| (n, Fault::Error)));
        let stream = Some(MemoryStream::chunked(bytes.clone()));
        let status = registry.send(&format!("PATCH {location}"), &[], stream).status;
        let calls = registry.storage.calls.borrow().clone();
        (status.as_u16(), calls)
    };
    let (status, calls) = patch(None);
    assert_eq!(status, 202);
    let first = calls.iter().position(|call| *call == "put_part").unwrap();
    let (status, calls) = patch(Some(first));
    assert_eq!(status, 500);
    assert!(calls.iter().filter(|call| **call == "put_part").count() >= 2, "{calls:?}");
}

#[test]
fn a_blob_that_is_pushed_twice_is_stored_once() {
    let registry = TestRegistry::new();
    for size in [10, 3 * PART] {
        let bytes = vec![7; size];
        let digest = Algorithm::Sha256.digest(&bytes);
        for _ in 0..2 {
            let location = registry.start_upload("");
            let stream = Some(MemoryStream::chunked(bytes.clone()));
            let patched = registry.send(&format!("PATCH {location}"), &[], stream);
            let finish = format!("PUT {}&digest={digest}", patched.header("location"));
            assert_eq!(registry.get(&finish).status, 201);
        }
    }
    assert_eq!(registry.leftovers(), Vec::<String>::new());
    let stored = registry.storage.memory.paths();
    let blobs = stored.iter().filter(|path| path.starts_with("pierhead/blobs/") || path.ends_with("/data"));
    assert_eq!(blobs.count(), 2, "{stored:?}");
}

#[test]
fn a_blob_in_one_request_costs_one_write_two_links_and_a_look_up() {
    let registry = TestRegistry::new();
    let location = registry.start_upload("");
    let digest = Algorithm::Sha256.digest(b"blob");
    registry.storage.fail_at(None);
    let answer =
        registry.send(&format!("PUT {location}&digest={digest}"), &[], Some(MemoryStream::new("blob")));
    assert_eq!(answer.status, 201);
    // The bytes and the reverse link; the marker; the link.
    assert_eq!(*registry.storage.calls.borrow(), ["put", "put", "head", "put"]);
    assert_eq!(registry.sessions.open(), 0);

    registry.storage.fail_at(None);
    assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{digest}")).status, 200);
    assert_eq!(*registry.storage.calls.borrow(), ["head"]);

    registry.storage.fail_at(None);
    assert_eq!(registry.get(&format!("GET /v2/a/blobs/{digest}")).body, b"blob");
    assert_eq!(*registry.storage.calls.borrow(), ["head", "get"]);
}

#[test]
fn an_upload_expires_after_its_ttl() {
    let registry = TestRegistry::new();
    let location = registry.start_upload("");
    let patched = registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::new("x")));
    let after = patched.header("location").to_owned();
    registry.clock.0.set(7 * 24 * 60 * 60 * 1000 - 1);
    assert_eq!(registry.get(&format!("GET {after}")).status, 204);
    registry.clock.0.set(7 * 24 * 60 * 60 * 1000);
    for line in
        [format!("GET {after}"), format!("PATCH {location}"), format!("PUT {after}&digest=sha256:{:064}", 0)]
    {
        assert_eq!(registry.get(&line).status, 404, "{line}");
    }
}
