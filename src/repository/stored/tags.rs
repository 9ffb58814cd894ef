//! Tags of a repository: links and listing.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};

use super::{CONCURRENCY, Stored, manifests::description};
use crate::{
    layout::Key,
    oci::{Digest, RepositoryName, Tag},
    platform::{Body, Timestamp},
    repository::{ListPage, Revision, writer::protocol::Seen},
    storage::{
        Condition, Metadata, ObjectMeta, Page, Path, PutOptions, StorageError, StorageErrorKind, Store, all,
    },
};

/// Limit of attempts to move a tag that other pushes move at the same time.
const MAX_MOVES: usize = 8;

/// Limit of objects in one call of R2 to delete them.
const MAX_DELETE: usize = 1000;

/// Size limit of a link, in bytes: a digest and a line end fit.
const MAX_LINK: usize = 256;

impl Stored {
    /// The manifest that a tag points to. Costs one look-up; strongly consistent.
    pub(in crate::repository) async fn tag(&self, tag: &Tag) -> Result<Option<Revision>, StorageError> {
        let revision = self.read_link(&Key::TagCurrent(&self.name, tag).path()).await?;
        if revision.as_ref().is_some_and(|revision| revision.description.is_none()) {
            self.has_foreign_links.set(true);
        }
        Ok(revision)
    }

    async fn read_link(&self, path: &Path) -> Result<Option<Revision>, StorageError> {
        let Some((content, meta)) = self.store().read(path, MAX_LINK).await? else { return Ok(None) };
        match std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok()) {
            Some(digest) => Ok(Some(Revision { digest, description: description(&meta) })),
            None => {
                let message = "the link does not hold a digest".to_owned();
                let kind = StorageErrorKind::Backend { operation: "read", message, retryable: false };
                Err(self.store().error(path, kind))
            }
        }
    }

    /// What tags point to, without those that point to nothing. Costs a look-up for each.
    pub(in crate::repository) async fn targets(
        &self,
        tags: Vec<&Tag>,
    ) -> Result<Vec<(Tag, Digest)>, StorageError> {
        stream::iter(tags)
            .map(async |tag| Ok(self.tag(tag).await?.map(|revision| (tag.clone(), revision.digest))))
            .buffered(CONCURRENCY)
            .try_filter_map(async |target| Ok(target))
            .try_collect()
            .await
    }

    /// A tag that points to a manifest and is wanted; `None` if there is none. Costs a listing of all tags, and a look-up
    /// for each wanted one that has ever pointed to the manifest.
    pub(in crate::repository) async fn find_tag_of(
        &self,
        digest: &Digest,
        is_wanted: impl Fn(&Tag) -> bool,
    ) -> Result<Option<Tag>, StorageError> {
        let mut after = None;
        loop {
            let (tags, next) = self.tags_indexed(digest, after.as_deref()).await?;
            let targets = self.targets(tags.iter().filter(|tag| is_wanted(tag)).collect()).await?;
            let found = targets.into_iter().find(|(_, target)| target == digest);
            if found.is_some() || next.is_none() {
                return Ok(found.map(|(tag, _)| tag));
            }
            after = next;
        }
    }

    /// Whether a tag is as it was seen: it has not been pushed since.
    pub(in crate::repository) async fn is_still(&self, tag: &Tag, seen: &Seen) -> Result<bool, StorageError> {
        let link = self.store().read(&Key::TagCurrent(&self.name, tag).path(), MAX_LINK).await?;
        Ok(link.is_some_and(|(content, meta)| {
            content.trim_ascii() == seen.digest.to_string().as_bytes() && meta.modified <= seen.pushed
        }))
    }

    /// Whether nothing needs a manifest that nothing needed at a time: neither a tag, nor what was pushed since. A referrer is
    /// needed if its `subject` is there. Costs listings of all tags and manifests, a look-up for each tag that has ever
    /// pointed to the manifest, and a read for each manifest pushed since.
    pub(in crate::repository) async fn is_unused_since(
        &self,
        digest: &Digest,
        subject: Option<&Digest>,
        since: Timestamp,
    ) -> Result<bool, StorageError> {
        if !self.is_untagged_since(digest, since).await?
            || self.mentioned_since(since).await?.contains(digest)
        {
            return Ok(false);
        }
        match subject {
            Some(subject) => Ok(!self.has_manifest(subject).await?),
            None => Ok(true),
        }
    }

    /// Whether no tag points to a manifest, and none has been pushed since a time: what it points to may name the manifest.
    async fn is_untagged_since(&self, digest: &Digest, since: Timestamp) -> Result<bool, StorageError> {
        let prefix = Key::Tags(&self.name).path().folder();
        let mut after: Option<String> = None;
        loop {
            let listing =
                self.store().list(&prefix, Page { after: after.as_deref(), ..Page::first() }).await?;
            let is_new = |(path, meta): &(String, ObjectMeta)| {
                meta.modified >= since && path.ends_with("/current/link")
            };
            let tags = indexed(&listing.objects, &prefix, digest);
            if listing.objects.iter().any(is_new)
                || self.targets(tags.iter().collect()).await?.iter().any(|(_, target)| target == digest)
            {
                return Ok(false);
            }
            after = listing.next;
            if after.is_none() {
                return Ok(true);
            }
        }
    }

    /// The etag of a tag's link; `None` if there is no such tag.
    pub(super) async fn tag_etag(&self, tag: &Tag) -> Result<Option<String>, StorageError> {
        Ok(self.store().head(&Key::TagCurrent(&self.name, tag).path()).await?.map(|meta| meta.etag))
    }

    /// Points a tag to a manifest, if it still has the etag `seen`: a write whose answer was lost must not land over
    /// the tag's next one. If it has another, that one is replaced.
    pub(super) async fn move_tag(
        &self,
        tag: &Tag,
        digest: &Digest,
        metadata: &Metadata,
        mut seen: Option<String>,
    ) -> Result<(), StorageError> {
        let path = Key::TagCurrent(&self.name, tag).path();
        for _ in 0..MAX_MOVES {
            let condition = match seen.take() {
                _ if !self.store().capabilities().conditional_put => Condition::Always,
                Some(etag) => Condition::IfMatch(etag),
                None => Condition::IfAbsent,
            };
            let options = PutOptions { metadata: metadata.clone(), condition, ..PutOptions::default() };
            match self.store().put(&path, Body::Bytes(digest.to_string().into()), options).await {
                Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {}
                put => return put.map(drop),
            }
            let Some((content, meta)) = self.store().read(&path, MAX_LINK).await? else { continue };
            if content.as_ref() == digest.to_string().as_bytes() && meta.metadata == *metadata {
                return Ok(());
            }
            seen = Some(meta.etag);
        }
        let message = "other pushes move the tag".to_owned();
        let kind = StorageErrorKind::Backend { operation: "put", message, retryable: true };
        Err(self.store().error(&path, kind))
    }

    /// Writes that tags have pointed to a manifest: its deletion looks for them there.
    pub(in crate::repository) async fn index_tags(
        &self,
        digest: &Digest,
        tags: &[Tag],
    ) -> Result<(), StorageError> {
        let indexed = tags.iter().map(async |tag| {
            self.put_new(Key::TagIndex(&self.name, tag, digest), digest.to_string(), Metadata::new()).await
        });
        all(indexed).await.map(drop)
    }

    /// Whether a tag is listed, even if it points to nothing.
    pub(in crate::repository) async fn has_tag(&self, tag: &Tag) -> Result<bool, StorageError> {
        self.store().exists_below(&Key::Tag(&self.name, tag).path().folder()).await
    }

    /// Deletes tags: their links last, so that what is listed can be read until the end.
    pub(in crate::repository) async fn remove_tags(&self, tags: &[Tag]) -> Result<(), StorageError> {
        let listed: Vec<Vec<_>> = stream::iter(tags)
            .map(async |tag| self.store().list_all(&Key::Tag(&self.name, tag).path().folder()).await)
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let paths = listed.into_iter().flatten().map(|(path, _)| Path::trusted(path));
        let (links, index): (Vec<Path>, Vec<Path>) =
            paths.partition(|path| path.as_str().ends_with("/current/link"));
        for paths in [index, links] {
            for paths in paths.chunks(MAX_DELETE) {
                self.store().delete(paths).await?;
            }
        }
        Ok(())
    }

    /// Deletes those of the tags that point to a manifest, or to nothing.
    pub(in crate::repository) async fn remove_tags_of(
        &self,
        digest: &Digest,
        tags: &[Tag],
    ) -> Result<(), StorageError> {
        let tags = self.only_of(digest, tags).await?;
        self.remove_tags(&tags).await
    }

    /// Those of the tags that point to a manifest, or to nothing.
    pub(in crate::repository) async fn only_of(
        &self,
        digest: &Digest,
        tags: &[Tag],
    ) -> Result<Vec<Tag>, StorageError> {
        stream::iter(tags)
            .map(async |tag| {
                let revision = self.tag(tag).await?;
                Ok(revision.is_none_or(|revision| revision.digest == *digest).then(|| tag.clone()))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |tag| Ok(tag))
            .try_collect()
            .await
    }

    pub(in crate::repository) async fn list_tags(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<ListPage<String>>, StorageError> {
        let mut entries = match limit {
            0 => Vec::new(),
            limit => first_tags(self.store(), &self.name, after, limit + 1).await?,
        };
        if entries.is_empty() && !self.exists().await? {
            return Ok(None);
        }
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Some(ListPage { next: entries.last().filter(|_| has_more).cloned(), entries }))
    }

    /// The tags that point to a manifest, or to nothing, of the next `limit` at most that ever pointed to it; how many that
    /// were; and where the listing goes on.
    pub(in crate::repository) async fn tags_of(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Tag>, usize, Option<String>), StorageError> {
        let (mut candidates, mut next) = self.tags_indexed(digest, after).await?;
        if candidates.len() > limit {
            candidates.truncate(limit);
            let last = candidates.last();
            next = last.map(|tag| Key::TagIndex(&self.name, tag, digest).path().as_str().to_owned());
        }
        Ok((self.only_of(digest, &candidates).await?, candidates.len(), next))
    }

    /// One page of the tags that ever pointed to a manifest, and where the listing goes on.
    async fn tags_indexed(
        &self,
        digest: &Digest,
        after: Option<&str>,
    ) -> Result<(Vec<Tag>, Option<String>), StorageError> {
        let prefix = Key::Tags(&self.name).path().folder();
        let listing = self.store().list(&prefix, Page { after, ..Page::first() }).await?;
        Ok((indexed(&listing.objects, &prefix, digest), listing.next))
    }
}

/// The tags of a listing below `prefix` that ever pointed to a manifest.
fn indexed(objects: &[(String, ObjectMeta)], prefix: &str, digest: &Digest) -> Vec<Tag> {
    let index = format!("/index/{}/{}/link", digest.algorithm(), digest.hex());
    let tag_of = |path: &str| path.strip_prefix(prefix)?.strip_suffix(&index)?.parse().ok();
    objects.iter().filter_map(|(path, _)| tag_of(path)).collect()
}

/// The first `limit` tags after `last`, in byte order.
///
/// Storage lists folders, in the order of tags with `/` appended: `v1-a/` comes before `v1/`, because `-` and
/// `.` sort before `/`. So a tag may be listed after a longer tag that starts with it. Of the tags not yet
/// listed, only prefixes of the last one listed can sort before those already seen. These few are looked up
/// individually, which saves reading the rest of the listing.
async fn first_tags(
    store: &Store,
    name: &RepositoryName,
    last: Option<&str>,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let prefix = Key::Tags(name).path().folder();
    let is_wanted = |tag: &str| last.is_none_or(|last| tag > last);
    let mut tags = BTreeSet::new();
    // Every tag after `last` is also listed after it.
    let mut after = last.map(|last| format!("{prefix}{last}"));
    loop {
        let page = Page { after: after.as_deref(), limit: Page::MAX, folders: true };
        let listing = store.list(&prefix, page).await?;
        let names =
            listing.folders.iter().filter_map(|folder| folder.strip_prefix(&prefix)?.strip_suffix('/'));
        tags.extend(names.filter(|tag| is_wanted(tag)).map(str::to_owned));
        let Some(next) = listing.next else { break };
        if tags.len() >= limit {
            let seen = next.strip_prefix(&prefix).unwrap_or_default().trim_end_matches('/');
            let prefixes = seen
                .match_indices(['-', '.'])
                .filter_map(|(end, _)| seen.get(..end)?.parse::<Tag>().ok())
                .filter(|tag| is_wanted(tag.as_str()) && !tags.contains(tag.as_str()));
            let found = try_join_all(prefixes.map(async |tag| {
                let current = store.head(&Key::TagCurrent(name, &tag).path()).await?;
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
        platform::Body,
        storage::{PutOptions, memory::Memory},
    };
    use futures_executor::block_on;
    use proptest::prelude::*;

    async fn assert_pages(tags: &BTreeSet<String>, step: usize) {
        let name: RepositoryName = "a".parse().unwrap();
        let store = Store::new(Memory::default());
        for tag in tags {
            let path = Key::TagCurrent(&name, &tag.parse().unwrap()).path();
            store.put(&path, Body::Empty, PutOptions::default()).await.unwrap();
        }
        let (mut seen, mut last) = (Vec::<String>::new(), None::<String>);
        loop {
            let page = first_tags(&store, &name, last.as_deref(), step).await.unwrap();
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
        fn pages_list_tags_in_byte_order(
            tags in prop::collection::btree_set("[ab0_][ab0_.-]{0,4}", 0..40),
            step in 1usize..7,
        ) {
            block_on(assert_pages(&tags, step));
        }
    }

    #[test]
    fn pages_list_tags_in_byte_order_across_several_listings() {
        // Enough tags for three pages of storage, each `v<n>` listed after its `v<n>-x`.
        let tags = (0..700).flat_map(|n| [format!("v{n}"), format!("v{n}-x"), format!("v{n}.y")]).collect();
        for step in [999, 1000, 1500] {
            block_on(assert_pages(&tags, step));
        }
    }
}
