//! The check of immutable tags: one that exists points to its manifest for ever.
//!
//! It is made in the turn of a change, before anything is written. Until the change ends, nothing can point the tags
//! that it names elsewhere, and nothing can point another tag to a manifest that it deletes.

use super::{
    busy,
    protocol::{Intent, Refused},
};
use crate::{
    oci::{Glob, Tag},
    repository::stored::Stored,
};

/// Refuses a change that would move or delete an immutable tag, or delete its manifest. Costs nothing without patterns.
pub(super) async fn check(stored: &Stored, intent: &Intent, immutable: &[Glob]) -> Result<(), Refused> {
    if immutable.is_empty() {
        return Ok(());
    }
    let is_immutable = |tag: &Tag| immutable.iter().any(|glob| glob.matches(tag.as_str()));
    let found = match intent {
        Intent::Push { entry, tags } => {
            let targets = stored.targets(tags.iter().filter(|tag| is_immutable(tag)).collect()).await;
            targets.map(|targets| targets.into_iter().find(|(_, digest)| *digest != entry.digest))
        }
        Intent::DeleteTag { tag } if is_immutable(tag) => {
            stored.targets(vec![tag]).await.map(|targets| targets.into_iter().next())
        }
        Intent::DeleteManifest { digest, .. } => {
            let tag = stored.find_tag_of(digest, is_immutable).await;
            tag.map(|tag| tag.map(|tag| (tag, digest.clone())))
        }
        Intent::DeleteTag { .. }
        | Intent::Index { .. }
        | Intent::DeleteBlob { .. }
        | Intent::CollectBlobs { .. }
        | Intent::CollectSignatures { .. }
        | Intent::Close { .. }
        | Intent::Clear
        | Intent::Reopen { .. } => Ok(None),
    };
    match found.map_err(busy)? {
        Some((tag, digest)) => Err(Refused::Immutable { tag, digest }),
        None => Ok(()),
    }
}
