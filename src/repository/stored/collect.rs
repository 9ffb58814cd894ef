//! The links of layers that the collection removes: which no manifest of the repository names.
//!
//! A link is condemned first: its metadata say so, and a push that looks for the blob does not find it, so that the client
//! sends it again, which makes the link live. After a grace time the repository's writer removes it. As with
//! [markers](crate::blobs::marker), whatever may happen at the same time is decided by conditional writes, and a key
//! that a deletion names is not written while that may be under way:
//!
//! ```text
//! live <---> condemned ---> sweeping ---> (absent)
//!   ^                           |
//!   +---------------------------+ a push, when the lease is over
//! ```
//!
//! The content of a live link is its digest. Other states add a nonce to it: etags are made of the content, and no two
//! writes may have the same.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, future::LocalBoxFuture, stream};
use uuid::Uuid;

use super::{CONCURRENCY, Stored};
use crate::{
    blobs::marker::LEASE,
    layout::{Key, Link},
    oci::{Digest, mentions},
    platform::{Body, Timestamp},
    storage::{
        Condition, KEY_PAUSE, Metadata, ObjectMeta, Page, Path, PutOptions, SETTLE, StorageError,
        StorageErrorKind, all,
    },
};

/// How long a push waits for the end of a sweep of a link, in milliseconds.
const PATIENCE: u64 = 10_000 + LEASE + SETTLE * 1000;

/// Limit of manifests that are read at the same time, of up to 8 MiB each.
const READS: usize = 3;

/// Limit of manifests that were pushed while a collection has looked at the others: the platform limits the calls of a
/// writer's turn to 10,000.
const MAX_YOUNG: usize = 2_000;

/// Time between two looks at a link, in milliseconds.
const PAUSE: u64 = 500;

/// How far the clocks of the collection and of storage may differ, in seconds, with the time that a push takes from its
/// turn until its link is written.
pub(in crate::repository) const CLOCKS: u64 = 600;

/// The metadata name of the mark.
const MARK: &str = "collection";

/// What the collection has written to the link of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMark {
    /// It is removed after the grace time, unless it is pushed again or a manifest names it. Since when.
    Condemned(Timestamp),
    /// It is being removed. The end of the lease.
    Sweeping(Timestamp),
}

impl LinkMark {
    /// The mark of a link; `None` if it is live.
    pub fn of(link: &ObjectMeta) -> Option<Self> {
        let (state, time) = link.metadata.get(MARK)?.split_once(' ')?;
        let time = Timestamp(time.parse().ok()?);
        match state {
            "condemned" => Some(Self::Condemned(time)),
            "sweeping" => Some(Self::Sweeping(time)),
            _ => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Condemned(since) => format!("condemned {}", since.0),
            Self::Sweeping(until) => format!("sweeping {}", until.0),
        }
    }

    /// Whether a deletion of the link may be under way.
    pub fn is_swept(self, now: Timestamp) -> bool {
        matches!(self, Self::Sweeping(until) if now <= until.plus_seconds(SETTLE))
    }
}

impl Stored {
    /// Marks the link of a layer, if it still is as it was `found`; `false` if it is not.
    async fn mark_link(
        &self,
        digest: &Digest,
        found: &ObjectMeta,
        mark: Option<LinkMark>,
    ) -> Result<bool, StorageError> {
        let mut metadata = found.metadata.clone();
        metadata.remove(MARK);
        let mut content = digest.to_string();
        if let Some(mark) = mark {
            metadata.insert(MARK.to_owned(), mark.text());
            content = format!("{content}\n{}\n", Uuid::new_v4());
        }
        let condition = Condition::IfMatch(found.etag.clone());
        let (path, wanted) = (Key::Layer(&self.name, digest).path(), metadata.clone());
        let options = PutOptions { metadata, condition, ..PutOptions::default() };
        match self.store().put(&path, Body::Bytes(content.clone().into()), options).await {
            Ok(_) => Ok(true),
            // An attempt whose answer was lost may have been this one.
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {
                let read = self.store().read(&path, 2 * content.len()).await?;
                Ok(read.is_some_and(|(read, meta)| read == content && meta.metadata == wanted))
            }
            Err(error) => Err(error),
        }
    }

    /// Condemns the link of a layer, since this time, if it still is as it was `found`; `false` if it is not.
    pub async fn condemn_blob(
        &self,
        digest: &Digest,
        found: &ObjectMeta,
        since: Timestamp,
    ) -> Result<bool, StorageError> {
        self.mark_link(digest, found, Some(LinkMark::Condemned(since))).await
    }

    /// Makes a condemned link live, if it still is as it was `found`: a manifest names the layer. `false` if it is not.
    pub async fn revive_blob(&self, digest: &Digest, found: &ObjectMeta) -> Result<bool, StorageError> {
        self.mark_link(digest, found, None).await
    }

    /// Writes the link of a layer; `false` if there is a live one. Waits while it is being removed.
    pub(super) async fn put_layer_link(
        &self,
        digest: &Digest,
        metadata: &Metadata,
    ) -> Result<bool, StorageError> {
        let (key, path) = (Key::Layer(&self.name, digest), Key::Layer(&self.name, digest).path());
        let begun = self.blobs.now();
        let mut has_revived = false;
        loop {
            if self.put_new(key, digest.to_string(), metadata.clone()).await? {
                return Ok(true);
            }
            let Some(found) = self.store().head(&path).await? else { continue };
            let Some(mark) = LinkMark::of(&found) else {
                if found.metadata != *metadata {
                    self.upgrade_link(key, digest, metadata).await?;
                }
                return Ok(has_revived);
            };
            let now = self.blobs.now();
            if !mark.is_swept(now) {
                let live = ObjectMeta { metadata: metadata.clone(), ..found };
                has_revived = self.mark_link(digest, &live, None).await?;
            } else if now.milliseconds_since(begun) < PATIENCE {
                self.blobs.sleep(PAUSE).await;
            } else {
                let message = "the link of the blob is being removed".to_owned();
                let kind = StorageErrorKind::Backend { operation: "put", message, retryable: true };
                return Err(self.store().error(&path, kind));
            }
        }
    }

    /// Removes condemned links of layers that no manifest names, in the writer's turn. The caller has looked through the
    /// manifests that were there at `scanned`; here only those pushed since are looked at. Then the content of the
    /// layers is condemned. Costs a listing for each 1,000 manifests of the repository, a look-up and two writes for
    /// each layer, and one deletion.
    pub(in crate::repository) async fn sweep_blobs(
        &self,
        digests: &[Digest],
        scanned: Timestamp,
    ) -> Result<(), StorageError> {
        let named = self.mentioned_since(scanned.minus_seconds(CLOCKS)).await?;
        let until = Timestamp(self.blobs.now().0 + LEASE);
        let sweeping: Vec<Digest> = stream::iter(digests.iter().filter(|digest| !named.contains(*digest)))
            .map(async |digest| {
                let link = self.store().head(&Key::Layer(&self.name, digest).path()).await?;
                let Some((found, mark)) = link.and_then(|link| LinkMark::of(&link).map(|mark| (link, mark)))
                else {
                    return Ok(None);
                };
                let is_ours = !mark.is_swept(self.blobs.now())
                    && self.mark_link(digest, &found, Some(LinkMark::Sweeping(until))).await?;
                Ok(is_ours.then(|| digest.clone()))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |digest| Ok(digest))
            .try_collect()
            .await?;
        // The next collection finds those that are left.
        if !sweeping.is_empty() && self.blobs.now().0 + LEASE / 2 < until.0 {
            let paths: Vec<Path> =
                sweeping.iter().map(|digest| Key::Layer(&self.name, digest).path()).collect();
            // They were just marked.
            self.blobs.sleep(KEY_PAUSE).await;
            // Once: an earlier attempt could land when the layer is linked again.
            self.store().once().delete(&paths).await?;
        }
        self.condemn_unlinked(&sweeping).await
    }

    /// Condemns the content of those of the layers whose links are gone.
    pub(in crate::repository) async fn condemn_unlinked(
        &self,
        digests: &[Digest],
    ) -> Result<(), StorageError> {
        let condemned = digests.iter().map(async |digest| {
            if self.has_blob(digest).await? { Ok(()) } else { self.blobs.condemn(digest).await }
        });
        all(condemned).await.map(drop)
    }

    /// The manifests that were linked since then, and what they mention. Costs a listing for each 1,000 manifests of the
    /// repository, and a read for each of these. Boxed: two callers would carry it.
    pub(super) fn mentioned_since(
        &self,
        since: Timestamp,
    ) -> LocalBoxFuture<'_, Result<BTreeSet<Digest>, StorageError>> {
        Box::pin(async move {
            let (prefix, mut after) = (Key::Revisions(&self.name).path().folder(), None::<String>);
            let (mut named, mut count) = (BTreeSet::new(), 0);
            loop {
                let page = Page { after: after.as_deref(), ..Page::first() };
                let listing = self.store().list(&prefix, page).await?;
                let young = listing.objects.iter().filter(|(_, meta)| meta.modified >= since);
                let digest = |(path, _): &(String, ObjectMeta)| match Link::parse(path)? {
                    Link::Revision(_, digest) => Some(digest),
                    Link::Layer(..) | Link::Signature { .. } => None,
                };
                let young: Vec<Digest> = young.filter_map(digest).collect();
                count += young.len();
                let refused = |digest: &Digest, message: String| {
                    let kind = StorageErrorKind::Backend { operation: "collect", message, retryable: false };
                    self.store().error(&Key::Data(digest).path(), kind)
                };
                if let Some(digest) = young.first().filter(|_| count > MAX_YOUNG) {
                    let message = format!(
                        "more than {MAX_YOUNG} manifests were pushed meanwhile: the next run looks again"
                    );
                    return Err(refused(digest, message));
                }
                named.extend(young.iter().cloned());
                let mut contents = stream::iter(&young)
                    .map(async |digest| Ok((digest, self.content(digest).await?)))
                    .buffer_unordered(READS);
                while let Some((digest, content)) = contents.try_next().await? {
                    let missing =
                        || refused(digest, format!("the content of the manifest {digest} is missing"));
                    mentions(&content.ok_or_else(missing)?, |digest| {
                        named.insert(digest);
                    });
                }
                let Some(next) = listing.next else { return Ok(named) };
                after = Some(next);
            }
        })
    }
}
