//! What a bucket has in the end: everything that the manifests of its repositories need, and nothing else.

use std::collections::BTreeSet;

use pierhead::{
    layout::{Key, Link},
    oci::{Algorithm, Digest, mentions},
    storage::Path,
};

use crate::store::Bucket;

/// What collections leave to others: uploads by the purge job, and the rest of the registry's own objects.
const OTHERS: &[&str] = &[
    "pierhead/uploads/",
    "pierhead/repositories/",
    "pierhead/referrers/",
    "pierhead/collection/",
    "pierhead/copy",
    "pierhead/retain-scan",
    "pierhead/usage/",
    "pierhead/jobs/",
    "pierhead/outbox/",
    "pierhead/deployment",
    "pierhead/secret",
];

/// What is there and should not be.
pub fn garbage(bucket: &Bucket) -> Vec<String> {
    let paths = bucket.below("");
    let links: Vec<(Link, Path)> =
        paths.iter().filter_map(|path| Some((Link::parse(path)?, path.parse().unwrap()))).collect();
    let mut needed: BTreeSet<String> = BTreeSet::new();
    let mut linked: BTreeSet<Digest> = BTreeSet::new();
    for (link, path) in &links {
        let Link::Revision(name, digest) = link else { continue };
        needed.extend([path.to_string(), Key::ReverseLink(digest, name).path().to_string()]);
        linked.insert(digest.clone());
        mentions(&bucket.content(&Key::Data(digest).path()).unwrap_or_default(), |blob| {
            for key in [Key::Layer(name, &blob), Key::ReverseLink(&blob, name)] {
                needed.insert(key.path().to_string());
            }
            linked.insert(blob);
        });
    }
    for digest in &linked {
        let descriptor = Key::Descriptor(digest).path();
        needed.extend([Key::Data(digest).path().to_string(), descriptor.to_string()]);
        // Those of other repositories are hints, which go with the content.
        needed.extend(bucket.below(&Key::ReverseLinks(digest).path().folder()));
        let described = bucket.meta(&descriptor).map(|meta| meta.metadata).unwrap_or_default();
        needed.extend(["at", "was"].iter().filter_map(|place| described.get(*place).cloned()));
    }
    // What was never described belongs to its session, and what is noted to the purge job.
    let is_left = |path: &str| {
        let uuid = path.strip_prefix("pierhead/blobs/").and_then(|uuid| uuid.parse().ok());
        let is_noted = |uuid| bucket.has(&Key::BlobNote(uuid).path());
        uuid.is_some_and(|uuid| is_noted(uuid) || !bucket.described.borrow().contains(path))
    };
    let is_of_others = |path: &str| {
        OTHERS.iter().any(|folder| path.starts_with(folder)) || path.contains("/_manifests/tags/")
    };
    paths.into_iter().filter(|path| !needed.contains(path) && !is_of_others(path) && !is_left(path)).collect()
}

/// What does not agree with the rest: a link without its reverse link or its content, a descriptor without its bytes.
pub fn disagreements(bucket: &Bucket) -> Vec<String> {
    let mut wrong = Vec::new();
    let has_bytes = |digest: &Digest| {
        let at =
            bucket.meta(&Key::Descriptor(digest).path()).and_then(|meta| meta.metadata.get("at").cloned());
        bucket.has(&Key::Data(digest).path()) || at.is_some_and(|at| bucket.has(&at.parse().unwrap()))
    };
    for path in bucket.below(&Key::Repositories.path().folder()) {
        let Some(Link::Layer(name, digest) | Link::Revision(name, digest)) = Link::parse(&path) else {
            continue;
        };
        let reverse_link = Key::ReverseLink(&digest, &name).path();
        if !bucket.has(&reverse_link) || !has_bytes(&digest) {
            wrong.push(path);
        }
    }
    for path in bucket.below(&Key::Descriptors(Algorithm::Sha256).path().folder()) {
        let at = bucket.meta(&path.parse().unwrap()).and_then(|meta| meta.metadata.get("at").cloned());
        if at.is_some_and(|at| !bucket.has(&at.parse().unwrap())) {
            wrong.push(path);
        }
    }
    wrong
}
