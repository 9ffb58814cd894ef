//! What clients are told about the length of chunks, and what they do with it.

use pierhead::platform::memory::MemoryStream;

use crate::{
    fixtures::{bytes, sha256},
    support::{Answer, PART, Persistent, TestRegistry},
    table::{assert_created, assert_served, assert_well_formed},
};

const HEADERS: [&str; 2] = ["oci-chunk-min-length", "oci-chunk-max-length"];

fn advice(answer: &Answer) -> [&str; 2] {
    HEADERS.map(|name| answer.header(name))
}

fn with(vars: &[(&str, &str)]) -> TestRegistry {
    let storage = TestRegistry::new().storage;
    TestRegistry::with(vars, Persistent { storage, ..Persistent::default() })
}

#[test]
fn the_answer_to_a_post_says_how_long_chunks_should_be() {
    let part = PART.to_string();
    for (vars, most) in [
        (&[][..], "100000000"),
        (&[("MAX_BODY", "200 MB")], "200000000"),
        (&[("MAX_BODY", "5 GB")], "5000000000"),
        (&[("MAX_BODY", "96MiB")], "100663296"),
    ] {
        let registry = with(vars);
        let absent = sha256("absent");
        for query in
            ["", "?digest-algorithm=sha512", &format!("?mount={absent}&from=b"), &format!("?mount={absent}")]
        {
            let line = format!("POST /v2/a/blobs/uploads/{query}");
            let answer = registry.get(&line);
            assert_well_formed(&line, &answer);
            assert_eq!((answer.status.as_u16(), advice(&answer)), (202, [&*part, most]), "{line}");
        }
    }
}

#[test]
fn other_answers_do_not_repeat_it() {
    let registry = TestRegistry::new();
    let location = registry.start_upload("");
    let digest = sha256("blob");
    let patched = registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::new("blob")));
    let location = patched.header("location").to_owned();
    let got = registry.get(&format!("GET {location}"));
    let put = registry.get(&format!("PUT {location}&digest={digest}"));
    let whole = registry.send(
        &format!("POST /v2/a/blobs/uploads/?digest={digest}"),
        &[],
        Some(MemoryStream::new("blob")),
    );
    for (answer, status) in [(&patched, 202), (&got, 204), (&put, 201), (&whole, 201)] {
        assert_eq!((answer.status.as_u16(), advice(answer)), (status, ["", ""]), "{answer:?}");
    }
}

/// What regctl does with a blob that the front door has refused with a 413 (regclient, `scheme/reg/blob.go`): the digest
/// of the `PUT` stays in the URL, and its chunks, of 1 MiB otherwise, are as long as the registry asks.
fn push_like_regctl(registry: &TestRegistry, content: &[u8], configured: usize) -> Answer {
    let digest = sha256(content);
    let octets = ("content-type", "application/octet-stream");
    assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{digest}")).status, 404);
    let posted = registry.get(&format!("POST /v2/a/blobs/uploads/?mount={digest}"));
    assert_eq!(posted.status, 202);
    let least: usize = posted.header("oci-chunk-min-length").parse().unwrap();
    let chunk = configured.max(least);
    let mut location =
        format!("{}&digest={digest}", posted.header("location")).replace("sha256:", "sha256%3A");
    let mut at = 0;
    while at < content.len() {
        let end = content.len().min(at + chunk);
        let range = format!("{at}-{}", end - 1);
        let body = Some(MemoryStream::new(content[at..end].to_vec()));
        let patched = registry.send(&format!("PATCH {location}"), &[octets, ("content-range", &range)], body);
        assert_eq!((patched.status.as_u16(), patched.header("range")), (202, &*format!("0-{}", end - 1)));
        location = patched.header("location").to_owned();
        assert!(!location.contains("digest="), "{location}");
        at = end;
    }
    registry.send(&format!("PUT {location}&digest={digest}"), &[octets], Some(MemoryStream::new("")))
}

#[test]
fn a_client_that_falls_back_to_chunks_sends_parts() {
    for length in [1, PART - 1, PART, PART + 1, 3 * PART, 5 * PART - 7] {
        let registry = TestRegistry::new();
        let content = bytes(length);
        // Reads the key that signs locations.
        registry.start_upload("");
        registry.storage.calls.borrow_mut().clear();
        let answer = push_like_regctl(&registry, &content, PART / 8);
        assert_created(&answer, "a", &sha256(&content));
        if length.is_multiple_of(PART) {
            // Nothing is staged: each chunk is a part.
            let parts = registry.storage.calls.borrow().iter().filter(|call| **call == "put_part").count();
            assert_eq!(parts, length / PART, "{length}");
            assert!(!registry.storage.calls.borrow().contains(&"get"), "{length}: something is read back");
        }
        assert_served(&registry, "a", &sha256(&content), &content);
        assert_eq!(registry.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn shorter_chunks_cost_more_and_are_taken() {
    let content = bytes(4 * PART);
    let calls = |length: usize| {
        let registry = TestRegistry::new();
        let mut location = registry.start_upload("");
        registry.storage.calls.borrow_mut().clear();
        for chunk in content.chunks(length) {
            let patched =
                registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::new(chunk.to_vec())));
            location = patched.header("location").to_owned();
        }
        let digest = sha256(&content);
        assert_created(&registry.get(&format!("PUT {location}&digest={digest}")), "a", &digest);
        let calls = registry.storage.calls.borrow().len();
        assert_served(&registry, "a", &digest, &content);
        calls
    };
    let (advised, shorter) = (calls(PART), calls(PART / 4));
    assert!(advised < shorter, "{advised} calls by parts, {shorter} by shorter chunks");
}

#[test]
fn a_digest_in_the_url_of_a_chunk_says_nothing() {
    let content = bytes(2 * PART + 5);
    let (digest, other) = (sha256(&content), sha256("other"));
    for left in [
        format!("&digest={digest}"),
        format!("&digest={other}"),
        "&digest=".to_owned(),
        "&digest=sha256:bad&digest=none".to_owned(),
    ] {
        let registry = TestRegistry::new();
        let mut location = registry.start_upload("");
        for chunk in content.chunks(PART) {
            let line = format!("PATCH {location}{left}");
            let patched = registry.send(&line, &[], Some(MemoryStream::new(chunk.to_vec())));
            assert_eq!(patched.status, 202, "{line}: {patched:?}");
            location = patched.header("location").to_owned();
        }
        let status = registry.get(&format!("GET {location}{left}"));
        let range = format!("0-{}", content.len() - 1);
        assert_eq!((status.status.as_u16(), status.header("range")), (204, &*range));
        assert_created(&registry.get(&format!("PUT {location}&digest={digest}")), "a", &digest);
        assert_served(&registry, "a", &digest, &content);
        // A cancellation has it in its URL, too.
        let location = registry.start_upload("");
        assert_eq!(registry.get(&format!("DELETE {location}{left}")).status, 204);
    }
}

#[test]
fn a_body_above_the_setting_that_comes_through_is_taken() {
    let registry = with(&[("MAX_BODY", "10 MB")]);
    let content = bytes(10_000_001);
    let digest = sha256(&content);
    let location = registry.start_upload("");
    let put = format!("PUT {location}&digest={digest}");
    let answer = registry.send(&put, &[], Some(MemoryStream::new(content.clone())));
    assert_created(&answer, "a", &digest);
    assert_eq!(registry.get(&format!("HEAD /v2/a/blobs/{digest}")).header("content-length"), "10000001");
}
