//! Looks straight into the bucket, past the scheduler.

use pierhead::layout::Key;

use crate::{
    model::{FOREIGN, Register, Value, Violation, Wrong, violation},
    store::Bucket,
    universe::{MANIFESTS, SUBJECT, TAGS, UNIVERSE},
};

/// The value of a register now.
pub fn value(bucket: &Bucket, register: Register) -> Value {
    match register {
        Register::Tag(repository, tag) => {
            let content = bucket.content(UNIVERSE.tag_link(repository, tag).as_str())?;
            Some(
                std::str::from_utf8(&content)
                    .ok()
                    .and_then(|text| UNIVERSE.manifest_of(text))
                    .unwrap_or(FOREIGN),
            )
        }
        Register::Manifest(repository, manifest) => {
            bucket.has(&UNIVERSE.revision(repository, manifest)).then_some(0)
        }
        Register::Blob(repository, blob) => bucket.has(&UNIVERSE.layer(repository, blob)).then_some(0),
    }
}

/// What must hold of a register and what belongs to it when nothing that concerns it is in flight.
pub fn structure(bucket: &Bucket, register: Register) -> Result<(), Violation> {
    let found = value(bucket, register);
    match register {
        Register::Tag(repository, tag) => {
            let folder = UNIVERSE.tag_folder(repository, tag);
            if found.is_none() && !bucket.below(&folder).is_empty() {
                return violation(
                    Wrong::TagListed,
                    format!("{register:?} is listed: {:?}", bucket.below(&folder)),
                );
            }
            Ok(())
        }
        Register::Manifest(repository, manifest) => {
            let of = &UNIVERSE.manifests[manifest];
            if of.has_subject {
                let is_listed = bucket.has(&UNIVERSE.referrer(repository, manifest));
                if is_listed && found.is_none() {
                    return violation(Wrong::ReferrerListed, format!("{register:?} is listed"));
                }
                if !is_listed && found.is_some() {
                    return violation(Wrong::ManifestIncomplete, format!("{register:?} is not listed"));
                }
            }
            if found.is_none() {
                return Ok(());
            }
            if !bucket.has(&UNIVERSE.reverse_link(repository, &of.digest)) {
                return violation(Wrong::ReverseLinkMissing, format!("{register:?}"));
            }
            if !bucket.has(&Key::Data(&of.digest).path()) || !bucket.has(&UNIVERSE.catalog_entry(repository))
            {
                return violation(
                    Wrong::ManifestIncomplete,
                    format!("{register:?} lacks content or catalog entry"),
                );
            }
            Ok(())
        }
        Register::Blob(repository, blob) => {
            let digest = &UNIVERSE.blobs[blob].0;
            if found.is_some() && !bucket.has(&UNIVERSE.reverse_link(repository, digest)) {
                return violation(Wrong::ReverseLinkMissing, format!("{register:?}"));
            }
            if found.is_some() && !bucket.has(&Key::Data(digest).path()) {
                return violation(Wrong::BlobGone, format!("{register:?} has no bytes"));
            }
            Ok(())
        }
    }
}

/// What must hold of a whole repository when nothing is in flight.
pub fn repository(bucket: &Bucket, repository: usize) -> Result<(), Violation> {
    for tag in 0..TAGS {
        let register = Register::Tag(repository, tag);
        if let Some(manifest) = value(bucket, register)
            && (usize::from(manifest) >= MANIFESTS
                || value(bucket, Register::Manifest(repository, manifest.into())).is_none())
        {
            return violation(Wrong::TagDangling, format!("{register:?} points to {manifest}"));
        }
    }
    let name = &UNIVERSE.repositories[repository];
    let folder = Key::Referrers(name, &UNIVERSE.manifests[SUBJECT].digest).path().folder();
    let foreign = bucket
        .below(&folder)
        .into_iter()
        .find(|path| (0..MANIFESTS).all(|manifest| UNIVERSE.referrer(repository, manifest).as_str() != path));
    match foreign {
        Some(path) => violation(Wrong::ReferrerListed, format!("no manifest of ours: {path}")),
        None => Ok(()),
    }
}
