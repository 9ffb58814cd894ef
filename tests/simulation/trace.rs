//! Calls as text: for traces, and for the count of faults.

use crate::{calls::Note, universe::UNIVERSE};

/// A text with short names for digests.
pub fn short(text: &str) -> String {
    let manifests = UNIVERSE.manifests.iter().map(|manifest| &manifest.digest).enumerate();
    let manifests = manifests.map(|(n, digest)| (format!("M{n}"), digest));
    let blobs = UNIVERSE.blobs.iter().enumerate().map(|(n, (digest, _))| (format!("B{n}"), digest));
    manifests.chain(blobs).fold(text.to_owned(), |text, (name, digest)| text.replace(digest.hex(), &name))
}

/// A call, for a trace.
pub fn text(note: &Note) -> String {
    format!("{} {} for {}", note.operation, short(&note.path), note.served)
}

/// A call as a kind of call: its operation, and its key without names.
pub fn point(note: &Note) -> String {
    let path = &note.path;
    let kinds = [
        ("/current/link", "tag"),
        ("/index/", "tag's index"),
        ("/tags", "tags"),
        ("/revisions/", "manifest"),
        ("/_layers/", "blob"),
        ("/data", "content"),
        ("pierhead/links/", "reverse link"),
        ("pierhead/referrers/", "referrer"),
        ("pierhead/repositories", "catalog"),
        ("pierhead/outbox", "outbox"),
        ("queue", "queue"),
        ("pierhead/gc/", "marker"),
        ("pierhead/descriptors/", "descriptor"),
        ("pierhead/uploads", "upload"),
        ("pierhead/blobs/", "bytes"),
        ("pierhead/collection", "collection"),
    ];
    let kind = kinds.iter().find(|(part, _)| path.contains(part)).map_or("other", |(_, kind)| kind);
    format!("{} {kind}", note.operation)
}
