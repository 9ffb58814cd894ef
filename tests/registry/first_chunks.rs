//! Uploads of one chunk, and content that is there already.

use futures_executor::block_on;
use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest, RepositoryName},
    platform::{Body, memory::MemoryStream},
    storage::{PutOptions, StorageDriver},
};

use crate::support::{Answer, Fault, PART, TestRegistry};

const CONTENT: &[u8] = b"a layer";

fn digest() -> Digest {
    Algorithm::Sha256.digest(CONTENT)
}

fn patch(registry: &TestRegistry, location: &str) -> Answer {
    registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::chunked(CONTENT)))
}

fn finish(patched: &Answer) -> String {
    format!("PUT {}&digest={}", patched.header("location"), digest())
}

fn head(registry: &TestRegistry) -> u16 {
    registry.get(&format!("HEAD /v2/a/blobs/{}", digest())).status.as_u16()
}

#[test]
fn a_first_chunk_is_not_linked_before_its_upload_is_finished() {
    let registry = TestRegistry::new();
    let patched = patch(&registry, &registry.start_upload(""));
    assert_eq!((patched.status.as_u16(), head(&registry)), (202, 404));
    assert_eq!(registry.get(&finish(&patched)).status, 201);
    assert_eq!(head(&registry), 200);
}

#[test]
fn the_link_of_a_cancelled_upload_is_taken_back() {
    let registry = TestRegistry::new();
    let patched = patch(&registry, &registry.start_upload(""));
    let cancel = format!("DELETE {}", patched.header("location"));
    assert_eq!(registry.get(&cancel).status, 204);
    assert_eq!((registry.get(&finish(&patched)).status.as_u16(), head(&registry)), (404, 404));

    // Another upload linked the blob: its link stays.
    let other = patch(&registry, &registry.start_upload(""));
    assert_eq!(registry.get(&finish(&other)).status, 201);
    assert_eq!((registry.get(&finish(&patched)).status.as_u16(), head(&registry)), (404, 200));
}

#[test]
fn an_upload_whose_content_is_gone_is_unknown() {
    let registry = TestRegistry::new();
    let patched = patch(&registry, &registry.start_upload(""));
    block_on(registry.storage.memory.delete(&[Key::Data(&digest()).path()])).unwrap();
    assert_eq!((registry.get(&finish(&patched)).status.as_u16(), head(&registry)), (404, 404));
}

#[test]
fn a_finished_upload_may_be_finished_again() {
    for content in [CONTENT.to_vec(), vec![7; 3 * PART]] {
        let registry = TestRegistry::new();
        let stream = MemoryStream::chunked(content.clone());
        let patched = registry.send(&format!("PATCH {}", registry.start_upload("")), &[], Some(stream));
        let line =
            format!("PUT {}&digest={}", patched.header("location"), Algorithm::Sha256.digest(&content));
        for _ in 0..2 {
            assert_eq!(registry.get(&line).status, 201);
            registry.run_background();
        }
        let other = line.replace(&digest().to_string(), &Algorithm::Sha256.digest(b"other").to_string());
        assert_eq!(registry.get(&other).status == 201, other == line);
    }
}

#[test]
fn a_first_chunk_that_could_not_be_stored_may_be_sent_again() {
    // The first call is that of the content.
    for fault in [Fault::Error, Fault::Busy, Fault::Timeout] {
        let registry = TestRegistry::new();
        let location = registry.start_upload("");
        registry.storage.fail_at(Some((0, fault)));
        let first = patch(&registry, &location);
        if fault == Fault::Error {
            assert_eq!(first.status, 500);
            let status = registry.get(&format!("GET {location}"));
            assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-0"));
        }
        let patched = if first.status == 202 { first } else { patch(&registry, &location) };
        assert_eq!(registry.get(&finish(&patched)).status, 201, "{fault:?}");
        registry.check_content();
    }
}

#[test]
fn who_does_not_have_the_bytes_gets_no_link() {
    for size in [10, 3 * PART] {
        let registry = TestRegistry::new();
        let (content, garbage) = (vec![1; size], vec![2; size]);
        let digest = Algorithm::Sha256.digest(&content);
        let push = |repository: &str, bytes: &[u8], body: fn(Vec<u8>) -> MemoryStream| {
            let started = registry.get(&format!("POST /v2/{repository}/blobs/uploads/"));
            let line = format!("PUT {}&digest={digest}", started.header("location"));
            registry.send(&line, &[], Some(body(bytes.to_vec()))).status.as_u16()
        };
        assert_eq!(push("a", &content, MemoryStream::new), 201);
        for body in [MemoryStream::new, MemoryStream::chunked] as [fn(Vec<u8>) -> MemoryStream; 2] {
            assert_eq!(push("b", &garbage, body), 400, "{size}");
            assert_eq!(registry.get(&format!("HEAD /v2/b/blobs/{digest}")).status, 404, "{size}");
        }
        assert_eq!(push("b", &content, MemoryStream::new), 201);
        assert_eq!(registry.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn a_link_of_another_registry_is_upgraded_when_the_blob_is_pushed_again() {
    let registry = TestRegistry::new();
    let (name, digest): (RepositoryName, _) = ("a".parse().unwrap(), digest());
    let link = Key::Layer(&name, &digest).path();
    let text = Body::Bytes(digest.to_string().into());
    block_on(registry.storage.memory.put(&link, text, PutOptions::default())).unwrap();
    let patched = patch(&registry, &registry.start_upload(""));
    assert_eq!(registry.get(&finish(&patched)).status, 201);
    let upgraded = block_on(registry.storage.memory.head(&link)).unwrap().unwrap();
    assert_eq!(upgraded.metadata["size"], CONTENT.len().to_string());
}
