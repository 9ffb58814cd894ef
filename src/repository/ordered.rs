//! The bottom of a repository's decorators: reads come from the bucket, changes go to the repository's writer.

use std::{collections::BTreeSet, rc::Rc};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Answer, LinkReason, ListPage, NewManifest, Referrer, Repository, RepositoryError, Revision, Seen,
    catalog::has_matching,
    deployment::Deployment,
    missing::MissingBlobs,
    stored::{Stored, referrer_entry, subject_and_signatures},
    writer::protocol::{self, Call, Command, Entry, Reply, Stage, Writers},
};
use crate::{
    auth::{OverQuota, Quota},
    blobs::{Blobs, Freshness, Located},
    context::Context,
    oci::{
        Digest, Glob, Manifest, Reference, RepositoryName, Tag,
        media_type::{self, Shape},
        mentions,
    },
    platform::Timestamp,
    storage::both,
};

/// Limit of what a manifest mentions besides its blobs that is looked up for a quota: twice the manifests of an index. What
/// a manifest of another type mentions beyond it counts with the next collection.
const MAX_MENTIONS: usize = 2 * Manifest::MAX_CHILDREN;

/// A repository whose changes are ordered by its writer.
pub struct Ordered {
    /// Its name.
    pub name: RepositoryName,
    /// What the bucket has of it.
    pub stored: Stored,
    /// The blobs, with the isolate's caches.
    pub blobs: Blobs,
    /// The client of writers.
    pub writers: Rc<dyn Writers>,
    /// The deployment that writes to the bucket.
    pub deployment: Rc<Deployment>,
    /// The patterns of tags that cannot be moved or deleted.
    pub immutable: Vec<Glob>,
    /// The quota of the repository.
    pub quota: Option<Rc<Quota>>,
    /// What happens to manifests whose blobs are missing.
    pub missing_blobs: MissingBlobs,
    /// The removal of the repository that makes the changes.
    pub removal: Option<Uuid>,
    /// The request or job whose changes are told of; `None` if events are off.
    pub told: Option<Context>,
}

impl Ordered {
    async fn check(&self) -> Result<(), RepositoryError> {
        self.deployment.check(self.stored.store(), &*self.writers).await
    }

    /// Refuses a new repository if there are as many as its quota allows. Costs a look-up, and for a new one listings of the
    /// catalog. Those that others make at the same moment do not count yet.
    async fn check_number(&self) -> Result<(), RepositoryError> {
        let Some((quota, most)) =
            self.quota.as_ref().and_then(|quota| Some((quota, quota.max_repositories?)))
        else {
            return Ok(());
        };
        let (store, patterns) = (self.stored.store(), &quota.repositories);
        if self.stored.has_had_manifests().await? || !has_matching(store, patterns, most).await? {
            return Ok(());
        }
        let (repository, patterns) = (self.name.clone(), patterns.clone());
        Err(RepositoryError::OverQuota(OverQuota::Repositories { repository, patterns, quota: most }))
    }

    /// What the writer needs to know to check the quota of bytes.
    fn quota_of(&self, new: &NewManifest) -> Option<protocol::Quota> {
        let bytes = self.quota.as_ref()?.bytes?;
        let mut found = BTreeSet::new();
        mentions(&new.content, |digest| {
            if found.len() < MAX_MENTIONS && new.manifest.blobs.binary_search(&digest).is_err() {
                found.insert(digest);
            }
        });
        Some(protocol::Quota { bytes, mentions: found.into_iter().collect() })
    }

    /// Sends a command; `false` if the writer did not find what it names.
    async fn change(&self, command: Command) -> Result<bool, RepositoryError> {
        let origin = self.told.as_ref().map(Context::origin);
        let call = Call { command, origin, removal: self.removal };
        Ok(self.writers.call(&self.name, call).await? == Reply::Done)
    }

    async fn delete_manifest(
        &self,
        digest: &Digest,
        unused_since: Option<Timestamp>,
    ) -> Result<bool, RepositoryError> {
        let content = async { Ok(self.blobs.manifest(digest, Freshness::Cached).await?) };
        let (content, ()) = both(content, self.check()).await?;
        let (digest, lacks_content) = (digest.clone(), content.is_none());
        let (subject, may_be_signed) = subject_and_signatures(content.as_deref());
        let immutable = self.immutable.clone();
        self.change(Command::DeleteManifest {
            digest,
            subject,
            lacks_content,
            may_be_signed,
            immutable,
            unused_since,
        })
        .await
    }

    async fn delete_tag(&self, tag: &Tag, seen: Option<&Seen>) -> Result<bool, RepositoryError> {
        self.check().await?;
        let (tag, immutable, seen) = (tag.clone(), self.immutable.clone(), seen.cloned());
        self.change(Command::DeleteTag { tag, immutable, seen }).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl Repository for Ordered {
    fn inner(&self) -> &dyn Repository {
        self
    }

    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        Box::pin(async move {
            Ok(match reference {
                Reference::Tag(tag) => self.stored.tag(tag).await?,
                Reference::Digest(digest) => self.stored.revision_by_digest(digest).await?,
            })
        })
    }

    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.blobs.manifest(digest, Freshness::Cached).await?) })
    }

    fn signatures<'a>(&'a self, manifest: &'a Digest) -> Answer<'a, Vec<Bytes>> {
        Box::pin(async move { Ok(self.stored.signatures(manifest).await?) })
    }

    fn locate<'a>(&'a self, digest: &'a Digest, freshness: Freshness) -> Answer<'a, Option<Located>> {
        Box::pin(async move { Ok(self.stored.locate_blob(digest, freshness).await?) })
    }

    fn tags<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Option<ListPage<String>>> {
        Box::pin(async move { Ok(self.stored.list_tags(after, limit).await?) })
    }

    fn referrers<'a>(
        &'a self,
        subject: &'a Digest,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> Answer<'a, ListPage<Referrer>> {
        Box::pin(async move { Ok(self.stored.list_referrers(subject, after, limit).await?) })
    }

    fn referrer<'a>(&'a self, subject: &'a Digest, referrer: &'a Digest) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.stored.read_referrer(subject, referrer).await?) })
    }

    /// Three rounds and a call: the content and its marker, while its blobs are looked up; then in the writer the links, and
    /// the tags.
    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        Box::pin(async move {
            let stored = self.stored.patient();
            let push = async || {
                let begun = self.blobs.now();
                let checks = both(self.check(), self.check_number());
                let ((stage, missing), _) =
                    both(stored.store_manifest(new, !tags.is_empty(), self.missing_blobs), checks).await?;
                let entry = new.entry();
                let referrer = entry.subject.as_ref().map(|_| referrer_entry(&entry, &new.manifest));
                let (tags, blobs) = (tags.to_vec(), new.manifest.blobs.clone());
                let (immutable, held) = (self.immutable.clone(), (stage == Stage::New).then_some(begun));
                let quota = self.quota_of(new);
                let children = match (self.missing_blobs, media_type::shape(&new.manifest.media_type)) {
                    (MissingBlobs::Refuse, Shape::Index) => Manifest::children_of(&new.content),
                    _ => Vec::new(),
                };
                self.change(Command::Push {
                    entry,
                    tags,
                    blobs,
                    stage,
                    referrer,
                    immutable,
                    held,
                    quota,
                    missing,
                    children,
                })
                .await
            };
            let pushed = match push().await {
                Err(RepositoryError::ContentGone) => push().await,
                pushed => pushed,
            };
            if let Err(RepositoryError::BlobsMissing(gone)) = &pushed {
                gone.iter().for_each(|blob| self.blobs.forget_linked(&self.name, blob));
            }
            pushed?;
            // Not before: a push that failed half-way is repeated as a whole.
            self.blobs.set_pushed(&self.name, &new.digest, &new.content);
            Ok(())
        })
    }

    fn index_manifest<'a>(
        &'a self,
        digest: &'a Digest,
        content: Option<(&'a Manifest, u64)>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some((manifest, size)) = content.filter(|(manifest, _)| manifest.subject.is_some()) else {
                return Ok(self.stored.hint_manifest(digest).await?);
            };
            self.check().await?;
            let media_type = manifest.media_type.clone();
            let (digest, subject) = (digest.clone(), manifest.subject.clone());
            let entry = Entry { digest, size, media_type, subject, signatures: Vec::new() };
            let referrer = Some(referrer_entry(&entry, manifest));
            self.change(Command::Index { entry, tags: Vec::new(), referrer }).await.map(drop)
        })
    }

    fn index_tag<'a>(&'a self, tag: &'a Tag, digest: &'a Digest) -> Answer<'a, ()> {
        Box::pin(async move {
            self.check().await?;
            // The manifest has its other entries, or gets them by `index_manifest`.
            let entry = Entry {
                digest: digest.clone(),
                size: 0,
                media_type: String::new(),
                subject: None,
                signatures: Vec::new(),
            };
            self.change(Command::Index { entry, tags: vec![tag.clone()], referrer: None }).await.map(drop)
        })
    }

    fn index_blob<'a>(&'a self, digest: &'a Digest, located: &'a Located) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.stored.index_blob(digest, located).await?) })
    }

    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(self.delete_manifest(digest, None))
    }

    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        Box::pin(self.delete_tag(tag, None))
    }

    fn delete_tag_seen<'a>(&'a self, tag: &'a Tag, seen: &'a Seen) -> Answer<'a, bool> {
        Box::pin(self.delete_tag(tag, Some(seen)))
    }

    fn delete_unused<'a>(&'a self, digest: &'a Digest, since: Timestamp) -> Answer<'a, bool> {
        Box::pin(self.delete_manifest(digest, Some(since)))
    }

    fn link_blob<'a>(
        &'a self,
        digest: &'a Digest,
        located: &'a Located,
        _: LinkReason<'a>,
    ) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.stored.link_blob(digest, located).await?) })
    }

    fn unlink_blob<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move {
            self.check().await?;
            self.change(Command::DeleteBlob { digest: digest.clone() }).await
        })
    }

    fn collect_blobs<'a>(&'a self, digests: &'a [Digest], scanned: Timestamp) -> Answer<'a, ()> {
        Box::pin(async move {
            self.check().await?;
            let command = Command::CollectBlobs { digests: digests.to_vec(), scanned };
            Ok(self.writers.call(&self.name, command.into()).await.map(drop)?)
        })
    }

    fn collect_signatures<'a>(&'a self, manifest: &'a Digest, signatures: Vec<Digest>) -> Answer<'a, ()> {
        Box::pin(async move {
            self.check().await?;
            let command = Command::CollectSignatures { manifest: manifest.clone(), signatures };
            Ok(self.writers.call(&self.name, command.into()).await.map(drop)?)
        })
    }

    fn count<'a>(&'a self, named: Vec<(Digest, u64)>, scanned: Timestamp, is_whole: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            self.check().await?;
            let command = Command::Count { named, scanned, is_whole };
            Ok(self.writers.call(&self.name, command.into()).await.map(drop)?)
        })
    }
}
