//! Queries across repositories: the catalog, and the repositories that have a blob.

use super::ListPage;
use crate::{
    layout::{Key, trailing_name},
    oci::{Digest, RepositoryName},
    storage::{Page, StorageError, Store},
};

/// A page of the repositories that have or had a manifest, in byte order.
pub async fn repositories(
    store: &Store,
    after: Option<&str>,
    limit: usize,
) -> Result<ListPage<String>, StorageError> {
    let prefix = Key::Catalog.path().folder();
    let mut after = after.map(|last| format!("{prefix}{last}{}", Key::END_OF_NAME));
    let mut entries: Vec<String> = Vec::new();
    let mut has_more = false;
    while entries.len() < limit {
        let page =
            Page { after: after.as_deref(), limit: (limit - entries.len()).min(Page::MAX), folders: false };
        let listing = store.list(&prefix, page).await?;
        let names = listing.objects.iter().filter_map(|(path, _)| trailing_name(path, &prefix));
        entries.extend(names.map(str::to_owned));
        has_more = listing.next.is_some();
        // A page may be shorter than its limit.
        if !has_more {
            break;
        }
        after = listing.next;
    }
    Ok(ListPage { next: entries.last().filter(|_| has_more).cloned(), entries })
}

/// Up to `limit` repositories that may have a blob: a stale reverse link costs the caller one look-up.
pub async fn repositories_of(
    store: &Store,
    digest: &Digest,
    limit: usize,
) -> Result<Vec<RepositoryName>, StorageError> {
    let prefix = Key::ReverseLinks(digest).path().folder();
    let listing = store.list(&prefix, Page { limit, ..Page::first() }).await?;
    let names = listing.objects.iter().filter_map(|(path, _)| trailing_name(path, &prefix)?.parse().ok());
    Ok(names.collect())
}
