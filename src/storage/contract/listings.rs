//! Listings: order, folders, pages.

use super::{Failure, check, expect, failed, path, paths_below, put};
use crate::storage::{Page, Store};

pub(super) async fn root_exists(s: Store) -> Result<(), Failure> {
    let listing = s.list("", Page::first()).await.map_err(failed)?;
    check(listing.objects.is_empty() && listing.next.is_none(), || {
        format!("an empty store lists {listing:?}")
    })?;
    Ok(())
}

pub(super) async fn list(s: Store) -> Result<(), Failure> {
    for at in ["l/b", "l/a/2", "l/a/1", "l/a-b/x", "l/c/d/e", "lx", "k"] {
        put(&s, at, at).await?;
    }
    let flat = paths_below(&s, "l/").await?;
    check(flat == ["l/a-b/x", "l/a/1", "l/a/2", "l/b", "l/c/d/e"], || format!("flat: {flat:?}"))?;
    let listing = s.list("l/", Page { folders: true, ..Page::first() }).await.map_err(failed)?;
    let objects: Vec<&str> = listing.objects.iter().map(|(path, _)| path.as_str()).collect();
    check(objects == ["l/b"], || format!("objects: {objects:?}"))?;
    check(listing.folders == ["l/a-b/", "l/a/", "l/c/"], || format!("folders: {:?}", listing.folders))?;
    Ok(())
}

pub(super) async fn list_pages(s: Store) -> Result<(), Failure> {
    let mut expected = Vec::new();
    for tag in ["v1", "v1-a", "v1.0", "v2", "w"] {
        for leaf in ["current", "index/x", "index/y"] {
            put(&s, &format!("t/{tag}/{leaf}"), "x").await?;
        }
        expected.push(format!("t/{tag}/"));
    }
    put(&s, "t/loose", "x").await?;
    expected.push("t/loose".to_owned());
    expected.sort();
    for limit in [1, 2, 3, 1000] {
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        for _ in 0..20 {
            let page = Page { after: after.as_deref(), limit, folders: true };
            let listing = s.list("t/", page).await.map_err(failed)?;
            let mut entries = listing.folders;
            entries.extend(listing.objects.into_iter().map(|(path, _)| path));
            entries.sort();
            check(entries.len() <= limit, || format!("limit {limit}: a page of {}", entries.len()))?;
            seen.extend(entries);
            after = listing.next;
            if after.is_none() {
                break;
            }
        }
        check(seen == expected, || format!("limit {limit}: {seen:?}"))?;
    }
    Ok(())
}

pub(super) async fn nested(s: Store) -> Result<(), Failure> {
    for at in ["d/a/1", "d/a", "d/a/b/2", "d/b"] {
        put(&s, at, at).await?;
    }
    let flat = paths_below(&s, "d").await?;
    check(flat == ["d/a", "d/a/1", "d/a/b/2", "d/b"], || format!("flat: {flat:?}"))?;
    let listing = s.list("d/", Page { folders: true, ..Page::first() }).await.map_err(failed)?;
    let objects: Vec<&str> = listing.objects.iter().map(|(path, _)| path.as_str()).collect();
    check(objects == ["d/a", "d/b"] && listing.folders == ["d/a/"], || format!("folders: {listing:?}"))?;
    s.delete(&[path("d/a")?]).await.map_err(failed)?;
    expect(&s, "d/a/1", "d/a/1").await?;
    put(&s, "d/a", "again").await?;
    s.delete_tree(&path("d/a")?).await.map_err(failed)?;
    let left = paths_below(&s, "d").await?;
    check(left == ["d/b"], || format!("after d/a: {left:?}"))
}
