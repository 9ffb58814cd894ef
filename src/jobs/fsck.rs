//! The check of the two trees: every link has its content, every tag its manifest, and every index its entries.
//!
//! Indexes that follow from the first tree are written again; of the rest, it only reports. A bucket that was copied from
//! another registry gets its indexes so. It looks twice before it says that something is wrong, and calls nothing wrong
//! that is so young that a push may be under way.
//!
//! Memory: the page of a listing, and the manifests that are read at the same time.

use std::cell::RefCell;

use futures_util::{StreamExt, future::LocalBoxFuture, stream};
use serde::{Deserialize, Serialize};

use super::{
    Job, Step,
    findings::{Findings, is_being_deleted, lacks_object},
};
use crate::{
    app::App,
    blobs::{
        Blobs, Freshness, Located,
        marker::{HOLD, signs},
    },
    context::Context,
    layout::{Key, Link, ReferrerKey, TagLink, reverse_link, trailing_digest, trailing_name},
    oci::{Algorithm, Digest, Manifest, RepositoryName, Tag},
    platform::{Timestamp, metrics::Finding},
    repository::{RepositoryError, Revision, stored::LinkMark},
    storage::{ObjectMeta, Page, Path, StorageError, both},
};

/// Limit of keys that are looked at at the same time: each takes two of the platform's six connections.
const CONCURRENCY: usize = 3;

/// The calls that a key costs, about: a page has so many fewer keys than a step has calls.
const PER_KEY: usize = 4;

/// Size limit of a tag's link, in bytes.
const MAX_LINK: usize = 256;

/// The settings of a check.
#[derive(Debug, Clone, Copy)]
pub struct Fsck {
    /// Whether to report only.
    pub is_dry_run: bool,
    /// The storage calls after which a step ends, about.
    pub calls: usize,
}

/// How far a run has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cursor {
    part: Part,
    /// The last key that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

/// What is looked through, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// The links of all repositories.
    Links,
    ReverseLinks(Algorithm),
    Referrers,
    Descriptors(Algorithm),
    Catalog,
}

impl Part {
    fn folder(self) -> String {
        let key = match self {
            Self::Links => Key::Repositories,
            Self::ReverseLinks(algorithm) => Key::AllReverseLinks(algorithm),
            Self::Referrers => Key::AllReferrers,
            Self::Descriptors(algorithm) => Key::Descriptors(algorithm),
            Self::Catalog => Key::Catalog,
        };
        key.path().folder()
    }

    fn next(self) -> Option<Self> {
        use Algorithm::{Sha256, Sha512};
        Some(match self {
            Self::Links => Self::ReverseLinks(Sha256),
            Self::ReverseLinks(Sha256) => Self::ReverseLinks(Sha512),
            Self::ReverseLinks(Sha512) => Self::Referrers,
            Self::Referrers => Self::Descriptors(Sha256),
            Self::Descriptors(Sha256) => Self::Descriptors(Sha512),
            Self::Descriptors(Sha512) => Self::Catalog,
            Self::Catalog => return None,
        })
    }
}

/// What a step has done.
#[derive(Debug, Default, Serialize)]
struct Done {
    dry_run: bool,
    finished: bool,
    /// The keys looked at.
    keys: u64,
    /// Reverse links that name no link, which the collection removes.
    unused_reverse_links: u64,
    /// Repositories of the catalog that have nothing any more.
    empty_repositories: u64,
    /// Links to signatures whose content or manifest is gone.
    #[serde(skip_serializing_if = "is_zero")]
    unused_signatures: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One step.
struct Run<'a> {
    app: &'a App,
    context: &'a Context,
    is_dry_run: bool,
    blobs: Blobs,
    findings: Findings<'a>,
    /// What was written since may belong to a request that is under way.
    young: Timestamp,
    /// The last repository whose catalog entry was looked at.
    cataloged: RefCell<Option<RepositoryName>>,
    done: RefCell<Done>,
}

impl Job for Fsck {
    fn name(&self) -> &'static str {
        "fsck"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            if !self.is_dry_run {
                app.check_deployment(context).await?;
            }
            let cursor = cursor.and_then(|cursor| serde_json::from_str::<Cursor>(&cursor).ok());
            let mut cursor = cursor.unwrap_or(Cursor { part: Part::Links, after: None });
            let run = Run {
                app,
                context,
                is_dry_run: self.is_dry_run,
                blobs: app.blobs(context),
                findings: Findings::new(self.name(), app, context),
                young: Timestamp(app.clock.now().0.saturating_sub(HOLD)),
                cataloged: RefCell::default(),
                done: RefCell::default(),
            };
            let calls = || context.log.storage_calls().0 as usize;
            let first = calls();
            let next = loop {
                let left = self.calls.saturating_sub(calls() - first);
                let next = run.look_through(cursor, left / PER_KEY).await?;
                match next {
                    Some(next) if calls() - first < self.calls => cursor = next,
                    next => break next,
                }
            };
            let done = Done { dry_run: self.is_dry_run, finished: next.is_none(), ..run.done.take() };
            let next = next.and_then(|next| serde_json::to_string(&next).ok());
            Ok(Step { report: run.findings.into_report(&done), next })
        })
    }
}

impl Run<'_> {
    /// Looks at the keys of a page; `None` at the end of the run.
    async fn look_through(&self, cursor: Cursor, keys: usize) -> Result<Option<Cursor>, StorageError> {
        let Cursor { part, after } = cursor;
        let folder = part.folder();
        let page = Page { after: after.as_deref(), limit: keys.clamp(1, Page::MAX), folders: false };
        let listing = self.blobs.store().list(&folder, page).await?;
        self.done.borrow_mut().keys += listing.objects.len() as u64;
        stream::iter(&listing.objects)
            .map(async |(key, meta)| {
                let looked = match part {
                    Part::Links => self.look_at_link(key, meta).await,
                    Part::ReverseLinks(_) => self.look_at_reverse_link(key, meta).await,
                    Part::Referrers => self.look_at_referrer(key, meta).await,
                    Part::Descriptors(_) => self.look_at_descriptor(key, meta).await,
                    Part::Catalog => self.look_at_repository(key, meta, &folder).await,
                };
                // One bad object must not keep the job from the others.
                if let Err(error) = looked {
                    self.findings.failed(key, &error);
                }
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<()>()
            .await;
        Ok(match listing.next {
            Some(after) => Some(Cursor { part, after: Some(after) }),
            None => part.next().map(|part| Cursor { part, after: None }),
        })
    }

    fn is_young(&self, meta: &ObjectMeta) -> bool {
        meta.modified >= self.young
    }

    async fn head(&self, key: Key<'_>) -> Result<Option<ObjectMeta>, StorageError> {
        self.blobs.store().head(&key.path()).await
    }

    async fn has(&self, key: Key<'_>) -> Result<bool, StorageError> {
        Ok(self.head(key).await?.is_some())
    }

    /// Where the bytes of a blob are, with their length: two look-ups, and another one if a descriptor says it.
    async fn find(&self, digest: &Digest) -> Result<Option<Located>, StorageError> {
        let Some(located) = self.blobs.locate(digest, Freshness::Strict).await? else { return Ok(None) };
        if located.at.is_none() {
            return Ok(Some(located));
        }
        let bytes = self.blobs.store().head(&located.path(digest)).await?;
        Ok(bytes.map(|bytes| Located { size: bytes.size, at: located.at }))
    }

    /// Whether an object is still as it was seen.
    async fn is_still(&self, path: &Path, seen: &ObjectMeta) -> Result<bool, StorageError> {
        Ok(self.blobs.store().head(path).await?.is_some_and(|found| found.etag == seen.etag))
    }

    /// Repairs what `key` lacks, unless the run is a dry one. What a request that is under way will write is written for it, and
    /// nobody is told.
    async fn repair(
        &self,
        finding: Finding,
        (key, meta): (&Path, &ObjectMeta),
        repair: impl Future<Output = Result<(), RepositoryError>>,
    ) -> Result<(), RepositoryError> {
        if self.is_dry_run {
            if !self.is_young(meta) && self.is_still(key, meta).await? {
                self.findings.repair(finding, false, key.as_str());
            }
            return Ok(());
        }
        repair.await?;
        if !self.is_young(meta) {
            self.findings.repair(finding, true, key.as_str());
        }
        Ok(())
    }

    async fn look_at_link(&self, key: &str, meta: &ObjectMeta) -> Result<(), RepositoryError> {
        if let Some(TagLink { name, tag }) = TagLink::parse(key) {
            return self.look_at_tag(&name, &tag).await;
        }
        let Some(link) = Link::parse(key) else { return Ok(()) };
        // Listings of some stores have no metadata.
        let path = Path::trusted(key.to_owned());
        let meta = match self.blobs.store().capabilities().lists_metadata {
            true => meta.clone(),
            false => match self.blobs.store().head(&path).await? {
                Some(meta) => meta,
                None => return Ok(()),
            },
        };
        match link {
            Link::Layer(name, digest) => self.look_at_layer(&name, &digest, (&path, &meta)).await,
            Link::Revision(name, digest) => self.look_at_manifest(&name, &digest, (&path, &meta)).await,
            Link::Signature { name, manifest, signature } => {
                self.look_at_signature(&name, (&manifest, &signature), (&path, &meta)).await
            }
        }
    }

    /// Looks at the link of a blob: two calls if nothing is wrong, four if another registry wrote it.
    async fn look_at_layer(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        link: (&Path, &ObjectMeta),
    ) -> Result<(), RepositoryError> {
        let (path, meta) = link;
        if LinkMark::of(meta).is_some() {
            // The collection is about to remove it.
            return Ok(());
        }
        let described = Located::from_metadata(&meta.metadata);
        let bytes = async {
            match &described {
                Some(located) => self.blobs.store().head(&located.path(digest)).await,
                None => Ok(None),
            }
        };
        let (bytes, is_indexed) = both(bytes, self.has(Key::ReverseLink(digest, name))).await?;
        let located = match (&described, bytes) {
            (Some(located), Some(bytes)) => Some(Located { size: bytes.size, at: located.at.clone() }),
            _ => self.find(digest).await?,
        };
        let Some(located) = located else {
            // A link that is older than its content's deletion is gone, or was written again.
            if !self.is_young(meta)
                && !is_being_deleted(&self.blobs, digest).await?
                && self.is_still(path, meta).await?
                && self.find(digest).await?.is_none()
            {
                self.findings.damage(Finding::LinkWithoutBytes, path.as_str());
            }
            return Ok(());
        };
        if !is_indexed {
            // A marker that was written without the reverse link must not take the bytes.
            let hold = async { Ok(self.blobs.hold(name, digest).await.map(drop)?) };
            self.repair(Finding::MissingReverseLink, link, hold).await?;
        }
        let repository = self.app.repository(name, self.context);
        let finding = match described {
            None => Finding::MissingMetadata,
            Some(described) if described.size != located.size => {
                let (found, said) = (located.size, described.size);
                let what = format!("{path}: {found} bytes in place of {said}");
                if !self.is_young(meta) && self.is_still(path, meta).await? {
                    self.findings.damage(Finding::WrongLength, &what);
                }
                return Ok(());
            }
            Some(described) if described.at != located.at => Finding::WrongPlace,
            Some(_) => return Ok(()),
        };
        self.repair(finding, link, repository.index_blob(digest, &located)).await
    }

    /// Looks at the link of a manifest: two calls if nothing is wrong, one more for the first of a repository, and one more
    /// if the manifest has a subject.
    async fn look_at_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        link: (&Path, &ObjectMeta),
    ) -> Result<(), RepositoryError> {
        let (path, meta) = link;
        let content = self.blobs.stored_manifest(digest);
        let (content, is_indexed) = both(content, self.has(Key::ReverseLink(digest, name))).await?;
        let Some(content) = content else {
            if !self.is_young(meta)
                && !is_being_deleted(&self.blobs, digest).await?
                && self.is_still(path, meta).await?
                && !self.has(Key::Data(digest)).await?
            {
                self.findings.damage(Finding::ManifestWithoutContent, path.as_str());
            }
            return Ok(());
        };
        if !is_indexed {
            let hold = async { Ok(self.blobs.hold(name, digest).await.map(drop)?) };
            self.repair(Finding::MissingReverseLink, link, hold).await?;
        }
        let repository = self.app.repository(name, self.context);
        let is_new = self.cataloged.replace(Some(name.clone())).as_ref() != Some(name);
        if is_new && !self.has(Key::Repository(name)).await? {
            self.repair(Finding::MissingCatalogEntry, link, repository.index_manifest(digest, None)).await?;
        }
        let revision = Revision::of_link(digest.clone(), meta);
        let media_type = revision.description.map(|(_, media_type)| media_type);
        let media_type = media_type.unwrap_or_else(|| Manifest::detect_media_type(&content));
        // Another registry takes manifests that this one does not: they have no subject that it knows.
        let Ok(manifest) = Manifest::parse(Some(&media_type), &content) else { return Ok(()) };
        let Some(subject) = &manifest.subject else { return Ok(()) };
        if !self.has(Key::Referrer { name, subject, referrer: digest }).await? {
            let index = repository.index_manifest(digest, Some((&manifest, content.len() as u64)));
            self.repair(Finding::MissingReferrer, link, index).await?;
        }
        Ok(())
    }

    /// Looks at the link of a signature: three calls if nothing is wrong. One without its content is no damage: the manifest is
    /// served without it.
    async fn look_at_signature(
        &self,
        name: &RepositoryName,
        (manifest, signature): (&Digest, &Digest),
        link: (&Path, &ObjectMeta),
    ) -> Result<(), RepositoryError> {
        let there = both(self.has(Key::Data(signature)), self.has(Key::Revision(name, manifest)));
        let (there, indexed) = both(there, self.head(Key::ReverseLink(signature, name))).await?;
        if there != (true, true) {
            self.done.borrow_mut().unused_signatures += u64::from(!self.is_young(link.1));
        } else if indexed.as_ref().and_then(signs).is_none() {
            let hold = async { Ok(self.blobs.hold_for(name, signature, Some(manifest)).await.map(drop)?) };
            self.repair(Finding::MissingReverseLink, link, hold).await?;
        }
        Ok(())
    }

    /// Looks at a tag: three calls.
    async fn look_at_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<(), RepositoryError> {
        let path = Key::TagCurrent(name, tag).path();
        let Some((content, meta)) = self.blobs.store().read(&path, MAX_LINK).await? else { return Ok(()) };
        if self.is_young(&meta) {
            return Ok(());
        }
        let digest = std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse::<Digest>().ok());
        let Some(digest) = digest else {
            self.findings.damage(Finding::UnreadableTag, path.as_str());
            return Ok(());
        };
        let manifest = self.has(Key::Revision(name, &digest));
        let (has_manifest, is_indexed) = both(manifest, self.has(Key::TagIndex(name, tag, &digest))).await?;
        if !has_manifest {
            if self.is_still(&path, &meta).await? && !self.has(Key::Revision(name, &digest)).await? {
                self.findings.damage(Finding::TagWithoutManifest, &format!("{path}, {digest}"));
            }
            return Ok(());
        }
        if !is_indexed {
            let repository = self.app.repository(name, self.context);
            self.repair(Finding::MissingTagIndex, (&path, &meta), repository.index_tag(tag, &digest)).await?;
        }
        Ok(())
    }

    async fn look_at_reverse_link(&self, key: &str, meta: &ObjectMeta) -> Result<(), RepositoryError> {
        let Some((digest, name)) = reverse_link(key).filter(|_| !self.is_young(meta)) else { return Ok(()) };
        let is_linked = self.blobs.is_linked(&name, &digest, meta).await?;
        self.done.borrow_mut().unused_reverse_links += u64::from(!is_linked);
        Ok(())
    }

    async fn look_at_referrer(&self, key: &str, meta: &ObjectMeta) -> Result<(), RepositoryError> {
        let Some(ReferrerKey { name, referrer, .. }) =
            ReferrerKey::parse(key).filter(|_| !self.is_young(meta))
        else {
            return Ok(());
        };
        if !self.has(Key::Revision(&name, &referrer)).await?
            && self.is_still(&Path::trusted(key.to_owned()), meta).await?
            && !self.has(Key::Revision(&name, &referrer)).await?
        {
            self.findings.damage(Finding::ReferrerWithoutManifest, key);
        }
        Ok(())
    }

    async fn look_at_descriptor(&self, key: &str, meta: &ObjectMeta) -> Result<(), RepositoryError> {
        let Some(digest) = trailing_digest(key) else { return Ok(()) };
        let located = match self.blobs.store().capabilities().lists_metadata {
            true => Located::from_metadata(&meta.metadata),
            false => self.blobs.described(&digest).await?.map(|described| described.located),
        };
        let Some(located) = located else { return Ok(()) };
        if self.blobs.store().head(&located.path(&digest)).await?.is_none()
            && lacks_object(&self.blobs, &digest, &located).await?
        {
            self.findings
                .damage(Finding::DescriptorWithoutObject, &format!("{digest}, {}", located.path(&digest)));
        }
        Ok(())
    }

    async fn look_at_repository(
        &self,
        key: &str,
        meta: &ObjectMeta,
        folder: &str,
    ) -> Result<(), RepositoryError> {
        let name = trailing_name(key, folder).and_then(|name| name.parse::<RepositoryName>().ok());
        let Some(name) = name.filter(|_| !self.is_young(meta)) else { return Ok(()) };
        // Its own folders start with an underscore; those of repositories below it do not.
        let prefix = format!("{}/_", Key::RepositoryFolder(&name));
        let has_anything = self.blobs.store().exists_below(&prefix).await?;
        self.done.borrow_mut().empty_repositories += u64::from(!has_anything);
        Ok(())
    }
}
