//! Pushes of content that is condemned, being deleted, or deleted.

use futures_executor::block_on;
use pierhead::{
    auth::Principal,
    blobs::{
        Blobs,
        marker::{LEASE, Marker, State},
    },
    layout::Key,
    oci::Digest,
    platform::{Body, Timestamp, memory::MemoryStream},
    storage::{PutOptions, SETTLE, StorageDriver},
};

use crate::{
    collect::{DAY, collection},
    fixtures::{IMAGE, image, sha256},
    support::{PART, TestRegistry},
};

/// Ways to push the blob `content` to the repository `a`; in the last one it is a manifest.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Whole,
    FirstChunk,
    LastChunk,
    Parts,
    Mount,
    Manifest,
}

const WAYS: [Way; 6] = [Way::Whole, Way::FirstChunk, Way::LastChunk, Way::Parts, Way::Mount, Way::Manifest];

impl Way {
    fn content(self) -> Vec<u8> {
        match self {
            Self::Parts => (0..3 * PART).map(|n| b'a' + (n % 23) as u8).collect(),
            Self::Manifest => image(&["layer"]).into_bytes(),
            _ => b"content".to_vec(),
        }
    }

    /// Pushes it; returns the status of the last request.
    fn push(self, registry: &TestRegistry) -> u16 {
        let content = self.content();
        let digest = sha256(&content);
        let stream = |bytes: &[u8]| Some(MemoryStream::chunked(bytes.to_vec()));
        let patch = |location: &str, bytes: &[u8]| {
            registry.send(&format!("PATCH {location}"), &[], stream(bytes)).header("location").to_owned()
        };
        let put = |location: &str, body| {
            registry.send(&format!("PUT {location}&digest={digest}"), &[], body).status.as_u16()
        };
        let pushed = match self {
            Self::Whole => put(&registry.start_upload(""), Some(MemoryStream::new(content))),
            Self::FirstChunk | Self::Parts => {
                let location = patch(&registry.start_upload(""), &content);
                put(&location, None)
            }
            Self::LastChunk => {
                let location = patch(&registry.start_upload(""), &content[..2]);
                put(&location, stream(&content[2..]))
            }
            Self::Mount => {
                let line = format!("POST /v2/a/blobs/uploads/?mount={digest}&from=b");
                registry.code(&line)
            }
            Self::Manifest => {
                let line = format!("PUT /v2/a/manifests/{digest}");
                registry.send(&line, &[("content-type", IMAGE)], stream(&content)).status.as_u16()
            }
        };
        registry.run_background();
        pushed
    }

    fn pull(self, registry: &TestRegistry) -> Vec<u8> {
        let kind = if self == Self::Manifest { "manifests" } else { "blobs" };
        registry.get(&format!("GET /v2/a/{kind}/{}", sha256(self.content()))).body
    }

    /// A registry that had the content before. A mount needs its source.
    fn registry(self) -> TestRegistry {
        let registry = TestRegistry::new();
        registry.pass(30 * DAY);
        registry.push_blob("a", "config");
        registry.push_blob("a", "layer");
        registry.push_blob(if self == Self::Mount { "b" } else { "a" }, self.content());
        if self == Self::Manifest {
            registry.push_manifest("a", "v1", IMAGE, &image(&["layer"]));
        }
        registry.run_background();
        registry.pass(DAY);
        registry
    }

    /// Removes the link, as a client does it.
    fn unlink(self, registry: &TestRegistry) {
        let digest = sha256(self.content());
        let kinds: &[&str] = match self {
            Self::Mount => &[],
            Self::Manifest => &["manifests", "blobs"],
            _ => &["blobs"],
        };
        for kind in kinds {
            assert_eq!(registry.code(&format!("DELETE /v2/a/{kind}/{digest}")), 202);
        }
        registry.settle();
        registry.pass(DAY);
    }
}

fn blobs(registry: &TestRegistry) -> Blobs {
    registry.app.blobs(&registry.context(Principal::Job("test")))
}

fn marker(registry: &TestRegistry, digest: &Digest) -> Option<Marker> {
    block_on(blobs(registry).marker(digest)).unwrap()
}

/// Writes a marker in this state, over whatever there is.
fn mark(registry: &TestRegistry, digest: &Digest, state: State) {
    let (blobs, seen) = (blobs(registry), marker(registry, digest));
    assert!(block_on(blobs.mark(digest, seen.as_ref(), state)).unwrap().is_some());
}

/// Deletes the bytes, as a sweep does it, with all that says where they are.
fn delete(registry: &TestRegistry, digest: &Digest) {
    let memory = &registry.storage.memory;
    let paths = memory.paths();
    let is_gone = |path: &&String| {
        **path == Key::Data(digest).to_string()
            || path.starts_with("pierhead/blobs/")
            || path.contains(&format!("pierhead/links/sha256/{}/", digest.hex()))
            || path.contains(&format!("pierhead/descriptors/sha256/{}", digest.hex()))
    };
    let gone: Vec<_> = paths.iter().filter(is_gone).map(|path| path.parse().unwrap()).collect();
    block_on(memory.delete(&gone)).unwrap();
}

#[test]
fn whoever_deletes_condemns() {
    for way in WAYS {
        let registry = way.registry();
        let digest = sha256(way.content());
        assert_eq!(marker(&registry, &digest), None, "{way:?}");
        way.unlink(&registry);
        let state = marker(&registry, &digest).map(|marker| marker.state);
        assert_eq!(state, (way != Way::Mount).then_some(State::Condemned), "{way:?}");
    }
}

#[test]
fn a_push_rescues_what_is_condemned() {
    for way in WAYS {
        let registry = way.registry();
        way.unlink(&registry);
        let digest = sha256(way.content());
        if way == Way::Mount {
            mark(&registry, &digest, State::Condemned);
        }
        assert_eq!(way.push(&registry), 201, "{way:?}");
        assert_eq!(marker(&registry, &digest).unwrap().state, State::Rescued, "{way:?}");
        // Its image keeps it.
        if way != Way::Manifest {
            let layer = String::from_utf8(way.content()).unwrap();
            registry.push_manifest("a", "v1", IMAGE, &image(&[&layer]));
        }
        for _ in 0..3 {
            registry.pass(DAY - 1);
            registry.collect(&collection());
            assert!(!way.pull(&registry).is_empty());
        }
        assert_eq!(way.pull(&registry), way.content(), "{way:?}");
    }
}

#[test]
fn a_push_waits_for_a_sweeper_that_has_died_and_stores_again() {
    for way in WAYS {
        let registry = way.registry();
        way.unlink(&registry);
        let digest = sha256(way.content());
        mark(&registry, &digest, State::Sweeping);
        delete(&registry, &digest);
        let begun = registry.clock.0.get();
        let status = way.push(&registry);
        let waited = registry.clock.0.get() - begun;
        assert!(waited > LEASE + SETTLE * 1000, "{way:?} did not wait: {waited}");
        registry.storage.memory.now.set(Timestamp(registry.clock.0.get()));
        if way == Way::Mount {
            // There is nothing to mount: an upload begins.
            assert_eq!(status, 202);
            assert_eq!(registry.code(&format!("GET /v2/a/blobs/{digest}")), 404);
            continue;
        }
        assert_eq!(status, 201, "{way:?}");
        assert_eq!(way.pull(&registry), way.content(), "{way:?}");
        assert_eq!(marker(&registry, &digest).unwrap().state, State::Rescued, "{way:?}");
        registry.collect(&collection());
        assert_eq!(way.pull(&registry), way.content(), "{way:?}");
    }
}

#[test]
fn a_push_after_a_sweep_stores_again() {
    let after =
        [vec![State::Swept], vec![State::Swept, State::Condemned], vec![State::Condemned, State::Rescued]];
    for (way, after) in WAYS.iter().flat_map(|way| after.iter().map(|after| (*way, after))) {
        let registry = way.registry();
        way.unlink(&registry);
        let digest = sha256(way.content());
        mark(&registry, &digest, State::Sweeping);
        delete(&registry, &digest);
        // Whatever became of the marker since.
        after.iter().for_each(|state| mark(&registry, &digest, *state));
        let status = way.push(&registry);
        if way == Way::Mount {
            assert_eq!(status, 202);
            continue;
        }
        assert_eq!((status, way.pull(&registry)), (201, way.content()), "{way:?}");
        let link = Key::ReverseLink(&digest, &"a".parse().unwrap()).to_string();
        assert!(registry.storage.memory.paths().contains(&link), "{way:?}");
    }
}

#[test]
fn a_first_chunk_that_was_deleted_is_pushed_again() {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    let digest = sha256("content");
    let location = registry.start_upload("");
    let patched = registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::new("content")));
    // Not within the time for which it is reserved.
    registry.pass(DAY);
    mark(&registry, &digest, State::Sweeping);
    delete(&registry, &digest);
    let finish = format!("PUT {}&digest={digest}", patched.header("location"));
    assert_eq!(registry.code(&finish), 404);
    assert_eq!(registry.code(&format!("HEAD /v2/a/blobs/{digest}")), 404);
    assert_eq!(Way::FirstChunk.push(&registry), 201);
    assert_eq!(Way::FirstChunk.pull(&registry), b"content");
}

/// A manifest is stored before its reverse link is written.
#[test]
fn bytes_that_were_just_stored_are_not_swept() {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    let digest = sha256("content");
    mark(&registry, &digest, State::Condemned);
    registry.pass(DAY);
    let (path, body) = (Key::Data(&digest).path(), Body::Bytes("content".into()));
    block_on(registry.storage.memory.put(&path, body, PutOptions::default())).unwrap();
    registry.collect(&collection());
    assert_eq!(marker(&registry, &digest).unwrap().state, State::Condemned);
    assert!(registry.content().contains(&path.to_string()));
    registry.collect_for_days(3);
    assert_eq!(registry.content(), Vec::<String>::new());
}

#[test]
fn a_descriptor_without_bytes_is_replaced() {
    let registry = Way::Parts.registry();
    Way::Parts.unlink(&registry);
    let digest = sha256(Way::Parts.content());
    mark(&registry, &digest, State::Sweeping);
    // The sweeper has died when the bytes were deleted.
    let paths = registry.storage.memory.paths();
    let bytes = paths.iter().filter(|path| path.starts_with("pierhead/blobs/"));
    let bytes: Vec<_> = bytes.map(|path| path.parse().unwrap()).collect();
    block_on(registry.storage.memory.delete(&bytes)).unwrap();
    assert_eq!(Way::Parts.push(&registry), 201);
    assert_eq!(Way::Parts.pull(&registry), Way::Parts.content());
    registry.storage.memory.now.set(Timestamp(registry.clock.0.get()));
    registry.collect_for_days(1);
    assert_eq!(Way::Parts.pull(&registry), Way::Parts.content());
    let stored = registry.content().iter().filter(|path| path.starts_with("pierhead/blobs/")).count();
    assert_eq!(stored, 1);
}

/// A reverse link that was written while a sweep removes it is written again.
#[test]
fn a_link_never_lacks_its_reverse_link() {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    let digest = registry.push_blob("b", "content");
    let location = registry.start_upload("");
    let patched = registry.send(&format!("PATCH {location}"), &[], Some(MemoryStream::new("content")));
    // The upload waits for longer than its first chunk is held without another look.
    registry.pass(10 * 60);
    mark(&registry, &digest, State::Sweeping);
    let link = Key::ReverseLink(&digest, &"a".parse().unwrap()).path();
    block_on(registry.storage.memory.delete(std::slice::from_ref(&link))).unwrap();
    mark(&registry, &digest, State::Rescued);
    assert_eq!(registry.code(&format!("PUT {}&digest={digest}", patched.header("location"))), 201);
    assert!(registry.storage.memory.paths().contains(&link.to_string()));
}
