//! Tags: listing them.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use serde_json::json;

use super::{
    Platform, Registry, Request, Response, json,
    page::{Asked, link_next},
};
use crate::{
    error::Error,
    oci::{RepositoryName, Tag},
    storage::{Key, Page, StorageDriver, StorageError},
};

/// The longest list in one answer; the rest is behind its `Link`.
const MAX_TAGS: usize = 10_000;

impl<P: Platform> Registry<P> {
    /// end-8a, end-8b: `GET /v2/<name>/tags/list?n=<n>&last=<last>`
    pub(super) async fn list_tags(
        &self,
        name: &RepositoryName,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let asked = Asked::from_request(request)?;
        let limit = asked.n.unwrap_or(MAX_TAGS).min(MAX_TAGS);
        let mut tags = match limit {
            0 => Vec::new(),
            limit => first_tags(&self.storage, name, asked.last.as_deref(), limit + 1).await?,
        };
        if tags.is_empty() && !self.content().repository_exists(name).await? {
            return Err(Error::NameUnknown(name.clone()));
        }
        let has_more = tags.len() > limit;
        tags.truncate(limit);
        let mut response = json(json!({"name": name, "tags": tags}).to_string());
        if let Some(last) = tags.last().filter(|_| has_more) {
            link_next(response.headers_mut(), request, asked.n, last);
        }
        Ok(response)
    }
}

/// The first `limit` tags behind `last` in the order of their bytes.
///
/// Storage lists folders, whose order is that of the tags with a `/` behind them: `v1-a/` comes before `v1/`
/// because `-` and `.` sort before `/`. So a tag can come later than one that it is the beginning of. Of the
/// tags not listed yet, only beginnings of the last one listed can belong before any that has been: these few
/// are looked up one by one, and the rest of the listing need not be read.
async fn first_tags<S: StorageDriver>(
    storage: &S,
    name: &RepositoryName,
    last: Option<&str>,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let prefix = Key::Tags(name).path().folder();
    let is_wanted = |tag: &str| last.is_none_or(|last| tag > last);
    let mut tags = BTreeSet::new();
    // Whatever is greater than `last` is also listed behind it.
    let mut after = last.map(|last| format!("{prefix}{last}"));
    loop {
        let page = Page { after: after.as_deref(), limit: Page::MAX, folders: true };
        let listing = storage.list(&prefix, page).await?;
        let names =
            listing.folders.iter().filter_map(|folder| folder.strip_prefix(&prefix)?.strip_suffix('/'));
        tags.extend(names.filter(|tag| is_wanted(tag)).map(str::to_owned));
        let Some(next) = listing.next else { break };
        if tags.len() >= limit {
            let seen = next.strip_prefix(&prefix).unwrap_or_default().trim_end_matches('/');
            let beginnings = seen
                .match_indices(['-', '.'])
                .filter_map(|(end, _)| seen.get(..end)?.parse::<Tag>().ok())
                .filter(|tag| is_wanted(tag.as_str()) && !tags.contains(tag.as_str()));
            let found = try_join_all(beginnings.map(async |tag| {
                let current = storage.head(&Key::TagCurrent(name, &tag).path()).await?;
                Ok::<_, StorageError>(current.map(|_| tag.to_string()))
            }))
            .await?;
            tags.extend(found.into_iter().flatten());
            break;
        }
        after = Some(next);
    }
    Ok(tags.into_iter().take(limit).collect())
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::{
        body::Body,
        storage::{PutOptions, memory::Memory},
    };
    use futures_executor::block_on;
    use proptest::prelude::*;

    async fn check(tags: &BTreeSet<String>, step: usize) {
        let name: RepositoryName = "a".parse().unwrap();
        let storage = Memory::default();
        for tag in tags {
            for key in [Key::TagCurrent(&name, &tag.parse().unwrap())] {
                storage.put(&key.path(), Body::Empty, PutOptions::default()).await.unwrap();
            }
        }
        let (mut seen, mut last) = (Vec::<String>::new(), None::<String>);
        loop {
            let page = first_tags(&storage, &name, last.as_deref(), step).await.unwrap();
            assert!(page.len() <= step);
            if page.is_empty() {
                break;
            }
            last = page.last().cloned();
            seen.extend(page);
        }
        assert_eq!(seen, tags.iter().cloned().collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_are_in_the_order_of_tags(
            tags in prop::collection::btree_set("[ab0_][ab0_.-]{0,4}", 0..40),
            step in 1usize..7,
        ) {
            block_on(check(&tags, step));
        }
    }

    #[test]
    fn also_when_a_listing_has_several_pages() {
        // Enough tags for three pages of storage, each `v<n>` after its `v<n>-x` there.
        let tags = (0..700).flat_map(|n| [format!("v{n}"), format!("v{n}-x"), format!("v{n}.y")]).collect();
        for step in [999, 1000, 1500] {
            block_on(check(&tags, step));
        }
    }
}
