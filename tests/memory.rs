//! The memory that hostile content takes. In a binary of its own: a binary has one allocator.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

#[path = "registry/fixtures.rs"]
#[allow(dead_code, reason = "shared")]
mod fixtures;
#[path = "registry/issuer.rs"]
#[allow(dead_code, reason = "shared")]
mod issuer;
#[path = "registry/receiver.rs"]
#[allow(dead_code, reason = "shared")]
mod receiver;
#[path = "registry/signed.rs"]
#[allow(dead_code, reason = "shared")]
mod signed;
#[path = "registry/support.rs"]
#[allow(dead_code, reason = "the tests of the API use the rest")]
mod support;

use std::{cell::Cell, sync::Mutex};

use futures_executor::block_on;
use peak_alloc::PeakAlloc;
use pierhead::{
    layout::Key,
    oci::{
        Algorithm, Manifest, media_type,
        schema1::{MAX_SIGNATURE, MAX_SIGNATURES, MAX_SIGNED, Signature as Read, Signed, assemble},
    },
    platform::{Body, memory::MemoryStream, verifier},
    storage::{PutOptions, StorageDriver},
};

use serde_json::json;

use crate::{
    issuer::Signer,
    signed::{Signature, payload, signed},
    support::{Persistent, TestRegistry},
};

/// Counts what is allocated. A buffer that grows counts with its old and its new size: memory has to hold both.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Content of `size` bytes: `start`, then `element` as often as it fits, separated by commas, then `end`.
fn filled(size: usize, start: &str, element: impl Fn(usize) -> String, end: &str) -> Vec<u8> {
    let mut content = start.as_bytes().to_vec();
    for n in 0.. {
        let element = element(n);
        if content.len() + element.len() + 1 + end.len() > size {
            break;
        }
        if n > 0 {
            content.push(b',');
        }
        content.extend_from_slice(element.as_bytes());
    }
    content.extend_from_slice(end.as_bytes());
    content
}

/// Content of `size` bytes with `unit` repeated, without a separator.
fn repeated(size: usize, start: &str, unit: &str, end: &str) -> Vec<u8> {
    let times = (size - start.len() - end.len()) / unit.len();
    [start, &unit.repeat(times), end].concat().into_bytes()
}

/// An image of `size` bytes with all that is kept, each as much as fits or as is allowed. Of its annotations, `count` are
/// short and one is long, with escapes where a buffer that doubles grows most.
fn full(size: usize, count: usize) -> Vec<u8> {
    let descriptor = |n: usize| json!({"mediaType": "a/b", "size": 1, "digest": Algorithm::Sha512.digest(&n.to_be_bytes())});
    let layers: Vec<_> = (1..(size / 400).min(Manifest::MAX_BLOBS)).map(descriptor).collect();
    let mut annotations: serde_json::Map<_, _> =
        (0..count).map(|n| (short(n), "x".repeat(56).into())).collect();
    let left = (size / 4).min(Manifest::MAX_ANNOTATION_BYTES).saturating_sub(80 * count + 32);
    annotations.insert("long".to_owned(), format!("\n{}\n", "x".repeat(left)).into());
    let image = json!({"config": descriptor(0), "layers": layers, "subject": descriptor(0), "annotations": annotations});
    let mut content = image.to_string().into_bytes();
    content.resize(size.max(content.len()), b' ');
    content
}

/// Names of a few characters, all different.
fn short(n: usize) -> String {
    format!("{n:x}")
}

fn descriptor(content: &[u8]) -> String {
    format!(r#"{{"mediaType":"a/b","size":1,"digest":"{}"}}"#, Algorithm::Sha512.digest(content))
}

fn empty_text(n: usize) -> String {
    format!(r#""{}":"""#, short(n))
}

/// What a client may send to make the registry keep as much as it allows, of `size` bytes or a little less.
fn kept(size: usize) -> Vec<(&'static str, Vec<u8>)> {
    let with = |start: &str, rest: &str| [start, rest].concat();
    let subject = format!(r#"{{"subject":{},"#, descriptor(b"s"));
    let image = format!(r#"{{"config":{},"#, descriptor(b"c"));
    vec![
        (
            "layers, as many as fit",
            filled(size, &with(&image, r#""layers":["#), |n| descriptor(&n.to_be_bytes()), "]}"),
        ),
        (
            "manifests, as many as fit",
            filled(size, r#"{"manifests":["#, |n| descriptor(&n.to_be_bytes()), "]}"),
        ),
        ("annotations, short", filled(size, &with(&subject, r#""annotations":{"#), empty_text, "}}")),
        (
            "annotations, one long",
            repeated(size, &with(&subject, r#""annotations":{"a":""#), "x", r#""},"manifests":[]}"#),
        ),
        (
            "annotations, one escaped",
            repeated(size, &with(&subject, r#""annotations":{"a":""#), "\\n", "\"}}"),
        ),
        ("everything, annotations short", full(size, (size / 1024).min(3000))),
        ("everything, an annotation long", full(size, 0)),
    ]
}

/// What a client may send to make the registry build something large, none of which it keeps, of `size` bytes or a little
/// less.
fn dropped(size: usize) -> Vec<(&'static str, Vec<u8>)> {
    let image = format!(r#"{{"config":{},"layers":["#, descriptor(b"c"));
    let object = |_| r#"{"":0}"#.to_owned();
    let zero = |_| "0".to_owned();
    vec![
        ("annotations that are an array of objects", filled(size, r#"{"annotations":["#, object, "]}")),
        ("annotations without a subject, short", filled(size, r#"{"annotations":{"#, empty_text, "}}")),
        (
            "annotations without a subject, one escaped",
            repeated(size, r#"{"annotations":{"a":""#, "\\n", "\"}}"),
        ),
        ("a subject that is an array of numbers", filled(size, r#"{"subject":["#, zero, "]}")),
        ("config, an array", filled(size, r#"{"config":["#, zero, "]}")),
        ("layers, a million", filled(size, &image, |_| "{}".to_owned(), "]}")),
        ("layers, a million numbers", filled(size, &image, zero, "]}")),
        ("urls of a layer", filled(size, r#"{"config":{"urls":["#, |_| r#""""#.to_owned(), "]}}")),
        ("annotations of a layer", filled(size, r#"{"config":{"annotations":{"#, empty_text, "}}}")),
        ("fields, short", filled(size, "{", empty_text, "}")),
        ("a field that occurs often", filled(size, "{", |_| r#""annotations":{}"#.to_owned(), "}")),
        ("a name, long", repeated(size, "{\"", "x", "\":0}")),
        ("a name, escaped", repeated(size, "{\"", "\\u0061", "\":0}")),
        ("a media type, long", repeated(size, r#"{"mediaType":""#, "x", "\"}")),
        ("a media type, escaped", repeated(size, r#"{"mediaType":""#, "\\u0061", "\"}")),
        ("an artifact type, escaped", repeated(size, r#"{"artifactType":""#, "\\ud83d\\ude00", "\"}")),
        ("a digest, long", repeated(size, r#"{"subject":{"digest":""#, "\u{7f}", "\"}}")),
        ("text for an array", repeated(size, r#"{"layers":""#, "\u{7f}", "\"}")),
        ("text in place of all", repeated(size, "\"", "\\n", "\"")),
        ("nesting", repeated(size, "", "[", "")),
        ("nesting of objects", repeated(size, "", "{\"a\":", "")),
        ("nesting of a field", repeated(size, r#"{"x":"#, "[", "")),
        ("siblings", filled(size, "[", |_| "[[[[]]]]".to_owned(), "]")),
        ("a number", repeated(size, r#"{"x":"#, "1", "}")),
        ("a size", repeated(size, r#"{"config":{"size":"#, "1", "}}")),
        ("blanks", repeated(size, "", " ", "{}")),
        ("an unfinished text", repeated(size, "{\"a\":\"", "x", "")),
        ("not UTF-8", vec![0xff; size]),
        ("zeros", vec![0; size]),
    ]
}

/// One test at a time: all allocate in the same memory.
static ALONE: Mutex<()> = Mutex::new(());

/// The most that `work` has allocated at a time, in bytes.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    drop(work());
    ALLOCATOR.peak_usage() - before
}

/// Asserts that reading each of `contents`, of `size` bytes, takes at most `limit` bytes.
fn check(size: usize, limit: usize, contents: Vec<(&str, Vec<u8>)>) {
    let mut most = 0;
    for (name, content) in contents {
        assert!(content.len() <= size && content.len() > size - 300, "{name}");
        // As an image, which reads the most fields, unless it says what it is.
        let media_type = match name {
            _ if name.starts_with("manifests") => media_type::OCI_INDEX,
            _ if name.starts_with("annotations") => "application/vnd.example+json",
            _ => media_type::OCI_MANIFEST,
        };
        let parse = || Manifest::parse(Some(media_type), &content).map_err(|error| error.to_string());
        if name.starts_with("everything") {
            parse().unwrap();
        }
        for (taken, by) in [(peak(parse), "parse"), (peak(|| Manifest::subject_of(&content)), "subject_of")] {
            assert!(taken <= limit, "{name}: {by} takes {taken} bytes for {size}");
            most = most.max(taken);
        }
    }
    println!("{size} bytes of content: at most {most} more");
}

#[test]
fn reading_a_manifest_takes_little_memory_whatever_it_contains() {
    let _alone = ALONE.lock().unwrap();
    for size in [4096, 64 << 10, 2 << 20] {
        check(size, Manifest::memory(size), kept(size));
    }
    for size in [4096, 256 << 10] {
        check(size, 32 << 10, dropped(size));
    }
}

/// A registry with 60 referrers of `{sha256:subject}`, whose entries are as long as earlier versions stored them; and
/// the request for their list.
fn with_long_referrers() -> (TestRegistry, String) {
    let registry = TestRegistry::new();
    let (name, subject) = ("a".parse().unwrap(), Algorithm::Sha256.digest(b"subject"));
    let annotations = filled(Manifest::MAX_BYTES - 4096, "", |n| format!("\"{n:x}\":\"\""), "");
    let annotations = String::from_utf8(annotations).unwrap();
    for n in 0..60u8 {
        let referrer = Algorithm::Sha256.digest(&[n]);
        let entry = format!(
            r#"{{"mediaType":"a/b","digest":"{referrer}","size":1,"annotations":{{{annotations}}}}}"#
        );
        let path = Key::Referrer { name: &name, subject: &subject, referrer: &referrer }.path();
        let put = registry.storage.memory.put(&path, Body::Bytes(entry.into()), PutOptions::default());
        block_on(put).unwrap();
    }
    (registry, format!("GET /v2/a/referrers/{subject}"))
}

#[test]
fn a_page_of_referrers_takes_at_most_twice_its_size() {
    let _alone = ALONE.lock().unwrap();
    let (registry, request) = with_long_referrers();
    let taken = peak(|| {
        let answer = registry.get(&request);
        assert_eq!(answer.status, 200);
        assert!(answer.body.len() > Manifest::MAX_BYTES - 8192);
    });
    // The test itself copies the answer.
    println!("a page of 4 MiB: {taken} bytes");
    assert!(taken <= 3 * Manifest::MAX_BYTES, "{taken}");
}

#[test]
fn an_answer_with_many_ranges_holds_none_of_them() {
    let _alone = ALONE.lock().unwrap();
    let registry = TestRegistry::new();
    let (count, length) = (64, 128 << 10);
    let content = vec![7; count * (length + 1)];
    let digest = Algorithm::Sha256.digest(&content);
    let put = async |key: Key<'_>, body: Body| {
        registry.storage.memory.put(&key.path(), body, PutOptions::default()).await.unwrap();
    };
    block_on(put(Key::Layer(&"a".parse().unwrap(), &digest), Body::Bytes(digest.to_string().into())));
    block_on(put(Key::Data(&digest), Body::Bytes(content.into())));
    let at = |n: usize| n * (length + 1);
    let ranges: Vec<_> = (0..count).map(|n| format!("{}-{}", at(n), at(n) + length - 1)).collect();
    let request = http::Request::get(format!("/v2/a/blobs/{digest}"));
    let request = request.header("range", format!("bytes={}", ranges.join(","))).body(Body::Empty).unwrap();
    let taken = peak(|| {
        block_on(async {
            let Body::Parts(parts) = registry.handle(request).await.into_body() else { panic!("no parts") };
            let sent = Cell::new(0);
            // As a platform sends it: piece by piece. The memory driver lends its own bytes.
            let write = async |body: Body| {
                sent.set(sent.get() + body.read(length).await?.len());
                Ok(())
            };
            parts.send(write).await.unwrap();
            assert!(sent.get() > count * length);
        });
    });
    println!("{count} ranges of {length} bytes: {taken} bytes");
    assert!(taken <= length, "{taken}");
}

/// What a push of schema 1 reserves.
fn reserved_for_push(length: usize) -> usize {
    let signed = length.min(MAX_SIGNED);
    length + 4 * signed + Manifest::memory(length) + reserved_for_signatures().min(4 * signed)
}

/// What a pull of schema 1 reserves for signatures.
fn reserved_for_signatures() -> usize {
    3 * MAX_SIGNATURES * MAX_SIGNATURE
}

/// A payload of one layer, of `size` bytes.
fn payload_of(size: usize, indent: &str) -> String {
    let payload = payload("a", "v1", &["a"], (indent, ""));
    let filling = "x".repeat(size.saturating_sub(payload.len()));
    payload.replace("amd64", &["amd64", &filling].concat())
}

/// A signature of a payload, different for each `n`.
fn signature(signer: &Signer, payload: &str, n: usize) -> Signature {
    let cut = signed::cut(payload);
    let tail = issuer::encode(&payload[cut..]);
    Signature::with(signer, payload, &json!({"formatLength": cut, "formatTail": tail, "time": n}))
}

/// A signature that indentation makes much longer.
fn inflated(payload: &str) -> Signature {
    let signer = Signer::new("", verifier::Algorithm::Es256);
    Signature { chain: vec![String::new(); 10_000], ..signature(&signer, payload, 0) }
}

#[test]
fn signatures_do_not_grow_with_the_indentation() {
    let _alone = ALONE.lock().unwrap();
    for (width, count) in [(64, 1), (10_000, 1), (64, MAX_SIGNATURES), (30_000, MAX_SIGNATURES)] {
        let payload = format!("{{\n{}\"a\": 1\n}}", " ".repeat(width));
        let cut = signed::cut(&payload);
        let signer = Signer::new("", verifier::Algorithm::Es256);
        let plain: Vec<_> = (0..count).map(|n| signature(&signer, &payload, n)).collect();
        // Compact, so that much of it fits.
        let blobs = |signatures: &[Signature]| signatures.iter().map(Signature::blob).collect::<Vec<_>>();
        let with = |value: &str| {
            let field = format!("{{\"jwk\":{{\"a\":{value},");
            blobs(&plain).iter().map(|blob| blob.replace("{\"jwk\":{", &field)).collect::<Vec<_>>()
        };
        for blobs in [
            blobs(&vec![inflated(&payload); count]),
            blobs(&plain),
            // Keys with other fields: many, nested, and what is written longer than it is read.
            with(&format!("[{}0]", "0,".repeat(15_000))),
            with(&format!("[{}0]", "{\"\":0},".repeat(4_500))),
            with(&format!("{{{}\"\":0}}", (0..4_000).map(|n| format!("\"{n:x}\":0,")).collect::<String>())),
            with(&format!("{}{}", "[".repeat(90), "]".repeat(90))),
            with(&format!("\"{}\"", "<".repeat(32_000))),
            with(&format!("\"{}\"", "<".repeat(5_000))),
        ] {
            let text = format!("{},\"signatures\":[{}]}}", &payload[..cut], blobs.join(","));
            let taken = peak(|| Signed::parse(text.as_bytes()).map_err(|error| error.to_string()));
            assert!(taken <= reserved_for_push(text.len()) - text.len(), "{width}, {count}: {taken}");
            let read = || blobs.iter().filter_map(|blob| Read::stored(blob.as_bytes()).ok()).collect();
            let taken = peak(|| assemble(payload.as_bytes(), read()));
            let limit = 2 * payload.len() + reserved_for_signatures();
            assert!(taken <= limit, "{width}, {count}: {taken}");
        }
    }
}

#[test]
fn a_signed_manifest_takes_what_is_reserved_for_it() {
    let _alone = ALONE.lock().unwrap();
    let signer = Signer::new("", verifier::Algorithm::Es256);
    for (size, certificate, indent) in [
        (1024, 0, ""),
        (1024, 0, &" ".repeat(300)),
        (16 << 10, 3300, "   "),
        // As long as a push may be.
        (MAX_SIGNED - 500_000, 3300, ""),
        (MAX_SIGNED - 500_000, 3300, "   "),
    ] {
        let registry = TestRegistry::with(&[("SCHEMA1", "full")], Persistent::default());
        let (name, layer) = ("a".parse().unwrap(), fixtures::sha256("a"));
        for (key, content) in
            [(Key::Data(&layer), "a".to_owned()), (Key::Layer(&name, &layer), layer.to_string())]
        {
            let (path, body) = (key.path(), Body::Bytes(content.into()));
            block_on(registry.storage.memory.put(&path, body, PutOptions::default())).unwrap();
        }
        let payload = payload_of(size, indent);
        let signatures = (0..MAX_SIGNATURES).map(|n| {
            let one = signature(&signer, &payload, n);
            match certificate {
                0 => one,
                length => {
                    let mut chain = Signature::certified(&signer, &payload).chain;
                    chain.truncate(1);
                    chain.resize(10, "x".repeat(length));
                    Signature { chain, ..one }
                }
            }
        });
        let signatures: Vec<_> = signatures.collect();
        let text = signed(&payload, &signatures, indent);
        assert!(text.len() < MAX_SIGNED);
        let headers = [("content-type", media_type::DOCKER_SIGNED_MANIFEST)];
        // As small as it can be sent.
        let compact = format!("{}{}", &payload[..signed::cut(&payload)], {
            let blobs: Vec<_> = signatures.iter().map(Signature::blob).collect();
            format!(",\"signatures\":[{}]}}", blobs.join(","))
        });
        let length = compact.len();
        // What is made once, whatever is pushed, is made for another payload.
        let other = payload_of(size + 4096, indent);
        let other = signed(&other, &[signature(&signer, &other, 0)], indent);
        assert_eq!(
            registry.send("PUT /v2/a/manifests/v1", &headers, Some(MemoryStream::new(other))).status,
            201
        );
        let body = Some(MemoryStream::new(compact));
        let taken = peak(|| {
            let answer = registry.send("PUT /v2/a/manifests/v1", &headers, body);
            assert_eq!(answer.status, 201, "{answer:?}");
        });
        // The storage of the test keeps what it gets; and the signatures are stored at once, each by futures of its own.
        let limit = reserved_for_push(length) + length + MAX_SIGNATURES * (20 << 10);
        println!("push of {length} bytes: {taken} of {limit}");
        assert!(taken <= limit, "{length}: {taken}");
        let taken = peak(|| {
            let answer = registry.get("GET /v2/a/manifests/v1");
            assert_eq!(String::from_utf8(answer.body).unwrap(), text);
        });
        // The test itself copies the answer.
        let limit = 2 * payload.len() + reserved_for_signatures() + text.len();
        println!("pull of {} bytes: {taken} of {limit}", text.len());
        assert!(taken <= limit, "{}: {taken}", text.len());
    }
}
