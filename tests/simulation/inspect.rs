//! Looks straight into the bucket, past the scheduler.

use bytes::Bytes;
use pierhead::{blobs::Located, layout::Key};

use crate::{
    model::{FOREIGN, Register, Value, Violation, Wrong, violation},
    store::Bucket,
    universe::{MANIFESTS, SUBJECT, TAGS, UNIVERSE},
};

/// The value of a register now.
pub fn value(bucket: &Bucket, register: Register) -> Value {
    match register {
        Register::Tag(repository, tag) => {
            let content = bucket.content(&UNIVERSE.tag(repository, tag).link)?;
            let manifest = std::str::from_utf8(&content).ok().and_then(|text| UNIVERSE.manifest_of(text));
            Some(manifest.unwrap_or(FOREIGN))
        }
        Register::Manifest(repository, manifest) => {
            bucket.has(&UNIVERSE.manifest(repository, manifest).link).then_some(0)
        }
        Register::Blob(repository, blob) => bucket.has(&UNIVERSE.blob(repository, blob).link).then_some(0),
    }
}

/// What must hold of a register and what belongs to it when nothing that concerns it is in flight.
pub fn structure(bucket: &Bucket, register: Register) -> Result<(), Violation> {
    let is_there = value(bucket, register).is_some();
    match register {
        Register::Tag(repository, tag) => {
            let listed = bucket.below(&UNIVERSE.tag(repository, tag).folder);
            if !is_there && !listed.is_empty() {
                return violation(Wrong::TagListed, format!("{register:?} is listed: {listed:?}"));
            }
        }
        Register::Manifest(repository, manifest) => {
            let keys = UNIVERSE.manifest(repository, manifest);
            let has_subject = UNIVERSE.manifests[manifest].has_subject;
            let is_listed = has_subject && bucket.has(&keys.referrer);
            if is_listed && !is_there {
                return violation(Wrong::ReferrerListed, format!("{register:?} is listed"));
            }
            if is_there && !bucket.has(&keys.reverse_link) {
                return violation(Wrong::ReverseLinkMissing, format!("{register:?}"));
            }
            let is_complete =
                is_listed == has_subject && bucket.has(&keys.content) && bucket.has(&keys.catalog);
            if is_there && !is_complete {
                let detail = format!("{register:?} lacks its referrer entry, catalog entry or content");
                return violation(Wrong::ManifestIncomplete, detail);
            }
        }
        Register::Blob(repository, blob) => {
            let keys = UNIVERSE.blob(repository, blob);
            if is_there && !bucket.has(&keys.reverse_link) {
                return violation(Wrong::ReverseLinkMissing, format!("{register:?}"));
            }
            if is_there && bytes(bucket, repository, blob).is_none() {
                return violation(Wrong::BlobGone, format!("{register:?} has no bytes"));
            }
        }
    }
    Ok(())
}

/// The bytes of a blob that a repository links, as a pull finds them: where its link says, or else where they are.
pub fn bytes(bucket: &Bucket, repository: usize, blob: usize) -> Option<Bytes> {
    let (keys, digest) = (UNIVERSE.blob(repository, blob), &UNIVERSE.blobs[blob].0);
    let located = Located::from_metadata(&bucket.meta(&keys.link)?.metadata);
    let described = bucket.meta(&Key::Descriptor(digest).path());
    let described = described.and_then(|meta| Located::from_metadata(&meta.metadata));
    let at = |located: Option<Located>| bucket.content(&located?.path(digest));
    at(located).or_else(|| bucket.content(&keys.content)).or_else(|| at(described))
}

/// What must hold at any time of a blob that is promised.
pub fn blob(bucket: &Bucket, repository: usize, blob: usize) -> Result<(), String> {
    let keys = UNIVERSE.blob(repository, blob);
    if !bucket.has(&keys.link) {
        return Err(format!("repository {repository} has no link to blob {blob}"));
    }
    match bytes(bucket, repository, blob) {
        Some(bytes) if bytes == UNIVERSE.blobs[blob].1.as_bytes() => Ok(()),
        Some(_) => Err(format!("blob {blob} of repository {repository} has other bytes")),
        None => Err(format!("blob {blob} of repository {repository} has no bytes")),
    }
}

/// What must hold at any time of a manifest that is acknowledged, and of those of its blobs that must be there.
pub fn image(
    bucket: &Bucket,
    repository: usize,
    manifest: usize,
    must_be_there: impl Fn(usize) -> bool,
) -> Result<(), String> {
    let (keys, of) = (UNIVERSE.manifest(repository, manifest), &UNIVERSE.manifests[manifest]);
    if !bucket.has(&keys.link) {
        return Err(format!("repository {repository} has no link to manifest {manifest}"));
    }
    if bucket.content(&keys.content).is_none_or(|content| content != of.content.as_bytes()) {
        return Err(format!("manifest {manifest} of repository {repository} has no content"));
    }
    of.blobs.iter().filter(|other| must_be_there(**other)).try_for_each(|other| {
        blob(bucket, repository, *other).map_err(|what| format!("for manifest {manifest}: {what}"))
    })
}

/// What must hold of a whole repository when nothing is in flight: a tag points to a manifest that is there, and
/// nothing unknown is listed.
pub fn repository(bucket: &Bucket, repository: usize) -> Result<(), Violation> {
    for tag in 0..TAGS {
        let register = Register::Tag(repository, tag);
        let Some(manifest) = value(bucket, register).map(usize::from) else { continue };
        if manifest >= MANIFESTS || value(bucket, Register::Manifest(repository, manifest)).is_none() {
            return violation(Wrong::TagDangling, format!("{register:?} points to {manifest}"));
        }
    }
    let name = &UNIVERSE.repositories[repository];
    let folder = Key::Referrers(name, &UNIVERSE.manifests[SUBJECT].digest).path().folder();
    let is_known = |path: &str| {
        (0..MANIFESTS).any(|manifest| UNIVERSE.manifest(repository, manifest).referrer.as_str() == path)
    };
    match bucket.below(&folder).into_iter().find(|path| !is_known(path)) {
        Some(path) => violation(Wrong::ReferrerListed, format!("no manifest of ours: {path}")),
        None => Ok(()),
    }
}
