//! The bottom of a repository's decorators: reads come from the bucket, changes go to the repository's writer.

use std::rc::Rc;

use bytes::Bytes;

use super::{
    Answer, LinkReason, ListPage, NewManifest, Referrer, Repository, RepositoryError, Revision, UnlinkReason,
    deployment::Deployment,
    stored::{Stored, referrer_entry},
    writer::protocol::{Call, Command, Entry, Reply, Writers},
};
use crate::{
    blobs::{Blobs, Freshness, Located},
    context::Context,
    oci::{Digest, Glob, Manifest, Reference, RepositoryName, Tag},
    storage::both,
};

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
    /// The request or job whose changes are told of; `None` if events are off.
    pub told: Option<Context>,
}

impl Ordered {
    async fn check(&self) -> Result<(), RepositoryError> {
        self.deployment.check(self.stored.store(), &*self.writers).await
    }

    /// Sends a command; `false` if the writer did not find what it names.
    async fn change(&self, command: Command) -> Result<bool, RepositoryError> {
        let call = Call { command, origin: self.told.as_ref().map(Context::origin) };
        Ok(self.writers.call(&self.name, call).await? == Reply::Done)
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

    /// Three rounds and a call: the content, while its blobs are looked up; then in the writer the links, and the tags.
    fn put_manifest<'a>(&'a self, new: &'a NewManifest, tags: &'a [Tag]) -> Answer<'a, ()> {
        Box::pin(async move {
            let stored = self.stored.patient();
            let (stage, ()) = both(stored.store_manifest(new), self.check()).await?;
            let entry = new.entry();
            let referrer = entry.subject.as_ref().map(|_| referrer_entry(&entry, &new.manifest));
            let (tags, blobs) = (tags.to_vec(), new.manifest.blobs.clone());
            let immutable = self.immutable.clone();
            self.change(Command::Push { entry, tags, blobs, stage, referrer, immutable }).await?;
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
            let entry = Entry { digest: digest.clone(), size, media_type, subject: manifest.subject.clone() };
            let referrer = Some(referrer_entry(&entry, manifest));
            self.change(Command::Index { entry, referrer }).await.map(drop)
        })
    }

    fn index_blob<'a>(&'a self, digest: &'a Digest, located: &'a Located) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.stored.index_blob(digest, located).await?) })
    }

    fn delete_manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, bool> {
        Box::pin(async move {
            let content = async { Ok(self.blobs.manifest(digest, Freshness::Cached).await?) };
            let (content, ()) = both(content, self.check()).await?;
            let (digest, lacks_content) = (digest.clone(), content.is_none());
            let subject = content.and_then(|content| Manifest::subject_of(&content));
            let immutable = self.immutable.clone();
            self.change(Command::DeleteManifest { digest, subject, lacks_content, immutable }).await
        })
    }

    fn delete_tag<'a>(&'a self, tag: &'a Tag) -> Answer<'a, bool> {
        Box::pin(async move {
            self.check().await?;
            let (tag, immutable) = (tag.clone(), self.immutable.clone());
            self.change(Command::DeleteTag { tag, immutable }).await
        })
    }

    fn link_blob<'a>(
        &'a self,
        digest: &'a Digest,
        located: &'a Located,
        _: LinkReason<'a>,
    ) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.stored.link_blob(digest, located).await?) })
    }

    fn unlink_blob<'a>(&'a self, digest: &'a Digest, reason: UnlinkReason) -> Answer<'a, bool> {
        Box::pin(async move {
            self.check().await?;
            let command = Command::DeleteBlob { digest: digest.clone() };
            match reason {
                UnlinkReason::Delete => self.change(command).await,
                UnlinkReason::Undo => Ok(self.writers.call(&self.name, command.into()).await? == Reply::Done),
            }
        })
    }
}
