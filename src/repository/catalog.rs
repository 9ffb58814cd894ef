//! Queries across repositories: the catalog, and the repositories that have a blob.

use super::ListPage;
use crate::{
    layout::{Key, trailing_name},
    oci::{Digest, Glob, RepositoryName},
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

/// Whether at least so many repositories in the catalog match one of these patterns. Costs a listing for each 1,000 entries
/// that begin as all patterns do.
pub async fn has_matching(store: &Store, patterns: &[Glob], number: u64) -> Result<bool, StorageError> {
    let mut common = patterns.first().map_or("", Glob::prefix);
    for pattern in patterns {
        let same = common.bytes().zip(pattern.prefix().bytes()).take_while(|(a, b)| a == b).count();
        // Patterns of repositories are ASCII.
        common = common.get(..same).unwrap_or_default();
    }
    let folder = Key::Catalog.path().folder();
    let prefix = format!("{folder}{common}");
    let (mut found, mut after) = (0, None::<String>);
    while found < number {
        let listing = store.list(&prefix, Page { after: after.as_deref(), ..Page::first() }).await?;
        let names = listing.objects.iter().filter_map(|(path, _)| trailing_name(path, &folder));
        let matching = names.filter(|name| patterns.iter().any(|glob| glob.matches(name)));
        found += matching.count() as u64;
        after = listing.next;
        if after.is_none() {
            break;
        }
    }
    Ok(found >= number)
}

/// Sorts after every key of a repository itself: its folders begin with an underscore.
const END: &str = "_~";

/// The next repository in `distribution`'s tree, and where the listing goes on after it; `None` at the end. Without a name,
/// there is none on this page. Costs one listing.
pub async fn next_in_tree(
    store: &Store,
    after: Option<&str>,
) -> Result<Option<(Option<RepositoryName>, String)>, StorageError> {
    let prefix = Key::Repositories.path().folder();
    let listing = store.list(&prefix, Page { after, limit: 1, folders: false }).await?;
    let Some((path, _)) = listing.objects.first() else { return Ok(listing.next.map(|next| (None, next))) };
    let name = path.strip_prefix(&prefix).and_then(|rest| rest.split_once("/_"));
    let name = name.and_then(|(name, _)| name.parse::<RepositoryName>().ok());
    let next =
        name.as_ref().map_or_else(|| path.clone(), |name| format!("{}/{END}", Key::RepositoryFolder(name)));
    Ok(Some((name, next)))
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
