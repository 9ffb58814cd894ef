//! The blob service: content is stored once, and visible in the repositories that link it.
//!
//! Order makes every step repeatable: data before its link, links before a tag. The links this registry
//! writes carry the size, media type and place of what they link, so that one look-up answers a HEAD; links
//! without these facts, as `distribution` writes them, cost a look-up more.

pub mod by_digest;
pub mod cache;
pub mod tags;

use std::cell::Cell;

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    future::{try_join, try_join_all},
    stream,
};
use serde::{Deserialize, Serialize};

use self::by_digest::ByDigest;
use crate::{
    body::Body,
    oci::{Descriptor, Digest, Manifest, RepositoryName, Tag},
    storage::{
        ByteRange, Condition, Facts, Key, Object, ObjectMeta, Path, PutOptions, StorageDriver,
        StorageDriverExt, StorageError, StorageErrorKind, key::trailing_name,
    },
};

/// How many look-ups of one request are under way at once: the platform's limit for connections.
const CONCURRENCY: usize = 6;

/// The longest link, in bytes: a digest and a line end.
const MAX_LINK: usize = 256;

const SIZE: &str = "size";
const AT: &str = "at";
const MEDIA_TYPE: &str = "media-type";
const DESCRIPTOR: &str = "descriptor";

/// The longest descriptor kept beside a referrer's entry, in bytes, so that a listing needs no further read.
/// R2 allows 2 KiB of facts in all.
const MAX_DESCRIPTOR_FACT: usize = 1536;

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// How many, in bytes.
    pub size: u64,
    /// Under which path, when that is not [`Key::Data`].
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_text")]
    pub at: Option<Path>,
}

impl Located {
    /// The path of the bytes of `digest`.
    pub fn path(&self, digest: &Digest) -> Path {
        self.at.clone().unwrap_or_else(|| Key::Data(digest).path())
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::from([(SIZE.to_owned(), self.size.to_string())]);
        if let Some(at) = &self.at {
            facts.insert(AT.to_owned(), at.to_string());
        }
        facts
    }

    fn from_facts(facts: &Facts) -> Option<Self> {
        let size = facts.get(SIZE)?.parse().ok()?;
        let at = facts.get(AT).map(|at| at.parse()).transpose().ok()?;
        Some(Self { size, at })
    }
}

mod path_text {
    use super::Path;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(path: &Option<Path>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(path.as_ref().map_or("", Path::as_str))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Path>, D::Error> {
        String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
    }
}

/// A manifest as a repository has it, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its digest.
    pub digest: Digest,
    /// Length and media type. `None` for a link without facts: the content tells.
    pub known: Option<(u64, String)>,
}

/// The service, over any driver.
pub struct Content<'a, S> {
    storage: &'a S,
}

impl<'a, S: StorageDriver> Content<'a, S> {
    /// The service over `storage`.
    pub fn new(storage: &'a S) -> Self {
        Self { storage }
    }

    async fn put(&self, key: Key<'_>, content: impl Into<Bytes>, facts: Facts) -> Result<(), StorageError> {
        let options = PutOptions { facts, ..PutOptions::default() };
        self.storage.put(&key.path(), Body::Bytes(content.into()), options).await.map(drop)
    }

    async fn delete(&self, keys: &[Key<'_>]) -> Result<(), StorageError> {
        let paths: Vec<Path> = keys.iter().map(Key::path).collect();
        self.storage.delete(&paths).await
    }

    // Blobs

    /// Where the bytes of a blob are, whichever repositories link it: two look-ups at once.
    pub async fn locate(&self, digest: &Digest) -> Result<Option<Located>, StorageError> {
        let data = Key::Data(digest).path();
        let (data, described) =
            try_join(self.storage.head(&data), self.located_by_descriptor(digest)).await?;
        Ok(data.map(|data| Located { size: data.size, at: None }).or(described))
    }

    /// Where the bytes of a blob are that are not at [`Key::Data`]: one look-up.
    pub async fn located_by_descriptor(&self, digest: &Digest) -> Result<Option<Located>, StorageError> {
        let descriptor = self.storage.head(&Key::Descriptor(digest).path()).await?;
        Ok(descriptor.and_then(|meta| Located::from_facts(&meta.facts)))
    }

    /// Where the bytes of a blob of this repository are: one look-up.
    pub async fn resolve(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Located>, StorageError> {
        let Some(link) = self.storage.head(&Key::Layer(name, digest).path()).await? else { return Ok(None) };
        match Located::from_facts(&link.facts) {
            Some(located) => Ok(Some(located)),
            None => self.locate(digest).await,
        }
    }

    /// [`Content::resolve`] for a GET: what a link without facts leaves open may come from the cache. In a
    /// bucket with such links, link and descriptor are asked for at once.
    pub async fn resolve_to_read(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        by_digest: &dyn ByDigest,
        has_foreign_links: &Cell<bool>,
    ) -> Result<Option<Located>, StorageError> {
        let path = Key::Layer(name, digest).path();
        let link = self.storage.head(&path);
        let (link, early) = if has_foreign_links.get() {
            let (link, located) = try_join(link, by_digest.located(digest)).await?;
            (link, Some(located))
        } else {
            (link.await?, None)
        };
        let Some(link) = link else { return Ok(None) };
        if let Some(located) = Located::from_facts(&link.facts) {
            by_digest.learn(digest, &located);
            return Ok(Some(located));
        }
        has_foreign_links.set(true);
        match early {
            Some(located) => Ok(located),
            None => by_digest.located(digest).await,
        }
    }

    /// Which of `digests` this repository does not have.
    pub async fn missing(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, StorageError> {
        stream::iter(digests)
            .map(async |digest| {
                let link = self.storage.head(&Key::Layer(name, digest).path()).await?;
                Ok(link.is_none().then(|| digest.clone()))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    /// Opens the bytes of a blob that [`Content::resolve`] found, and says where they were.
    pub async fn open(
        &self,
        digest: &Digest,
        located: &Located,
        range: Option<ByteRange>,
    ) -> Result<Option<(Object<S::Stream>, Path)>, StorageError> {
        let path = located.path(digest);
        if let Some(object) = self.storage.get(&path, range).await? {
            return Ok(Some((object, path)));
        }
        // What is known may be older than the bytes' last move.
        match self.locate(digest).await? {
            Some(moved) if moved != *located => {
                let path = moved.path(digest);
                Ok(self.storage.get(&path, range).await?.map(|object| (object, path)))
            }
            _ => Ok(None),
        }
    }

    /// Records where bytes are that are not at [`Key::Data`]. The first record stands and is returned.
    pub async fn describe(
        &self,
        digest: &Digest,
        located: &Located,
    ) -> Result<Option<Located>, StorageError> {
        let path = Key::Descriptor(digest).path();
        let content = serde_json::to_vec(located).unwrap_or_default();
        let options = PutOptions {
            facts: located.facts(),
            condition: Condition::IfAbsent,
            media_type: Some("application/json"),
            ..PutOptions::default()
        };
        match self.storage.put(&path, Body::Bytes(content.into()), options).await {
            Ok(_) => Ok(None),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => self.locate(digest).await,
            Err(error) => Err(error),
        }
    }

    /// Makes a stored blob visible in a repository: both links at once. Whatever collects unlinked blobs one
    /// day must look at the links after announcing itself, and this is the place to look for its
    /// announcement, after the links.
    pub async fn link_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        located: &Located,
    ) -> Result<(), StorageError> {
        let link = self.put(Key::Layer(name, digest), digest.to_string(), located.facts());
        let reverse = self.put(Key::ReverseLink(digest, name), Bytes::new(), Facts::new());
        try_join(link, reverse).await.map(drop)
    }

    /// Takes a blob out of a repository; `false` when it was not there. The bytes stay.
    pub async fn unlink_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
        if self.storage.head(&Key::Layer(name, digest).path()).await?.is_none() {
            return Ok(false);
        }
        // The visible link first: a reverse link too many is only looked at in vain.
        self.delete(&[Key::Layer(name, digest)]).await?;
        let is_manifest = self.storage.head(&Key::Revision(name, digest).path()).await?.is_some();
        if !is_manifest {
            self.delete(&[Key::ReverseLink(digest, name)]).await?;
        }
        Ok(true)
    }

    /// Repositories that link a blob, at most `limit`.
    pub async fn repositories_of(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, StorageError> {
        let prefix = Key::ReverseLinks(digest).path().folder();
        let page = crate::storage::Page { limit, ..crate::storage::Page::first() };
        let listing = self.storage.list(&prefix, page).await?;
        let names = listing.objects.iter().filter_map(|(path, _)| trailing_name(path, &prefix)?.parse().ok());
        Ok(names.collect())
    }

    // Manifests

    /// What a tag points at: one look-up, strongly consistent.
    pub async fn tag(&self, name: &RepositoryName, tag: &Tag) -> Result<Option<Revision>, StorageError> {
        self.read_link(&Key::TagCurrent(name, tag).path()).await
    }

    /// A manifest of a repository by its digest: one look-up.
    pub async fn revision(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Revision>, StorageError> {
        let link = self.storage.head(&Key::Revision(name, digest).path()).await?;
        Ok(link.map(|meta| Revision { digest: digest.clone(), known: known(&meta) }))
    }

    async fn read_link(&self, path: &Path) -> Result<Option<Revision>, StorageError> {
        let Some((content, meta)) = self.storage.read(path, MAX_LINK).await? else { return Ok(None) };
        match std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok()) {
            Some(digest) => Ok(Some(Revision { digest, known: known(&meta) })),
            None => {
                let message = "the link does not hold a digest".to_owned();
                let kind = StorageErrorKind::Backend { operation: "read", message, retryable: false };
                Err(self.storage.error(path.as_str(), kind))
            }
        }
    }

    /// The content of a manifest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<Bytes>, StorageError> {
        // Twice our limit: a bucket copied from elsewhere may hold larger ones.
        let content = self.storage.read(&Key::Data(digest).path(), 2 * Manifest::MAX_BYTES).await?;
        Ok(content.map(|(content, _)| content))
    }

    /// Stores a manifest: content, then links and referrer's entry at once, then tags.
    pub async fn put_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        content: Bytes,
        tags: &[Tag],
    ) -> Result<(), StorageError> {
        let size = content.len() as u64;
        let options = PutOptions { digest: Some(digest), ..PutOptions::default() };
        self.storage.put(&Key::Data(digest).path(), Body::Bytes(content), options).await?;

        let mut facts = Located { size, at: None }.facts();
        facts.insert(MEDIA_TYPE.to_owned(), manifest.media_type.clone());
        let link = self.put(Key::Revision(name, digest), digest.to_string(), facts.clone());
        let reverse = self.put(Key::ReverseLink(digest, name), Bytes::new(), Facts::new());
        let others = try_join(self.add_repository(name), self.add_referrer(name, digest, manifest, size));
        futures_util::future::try_join3(link, reverse, others).await?;

        try_join_all(tags.iter().map(async |tag| {
            self.put(Key::TagIndex(name, tag, digest), digest.to_string(), Facts::new()).await?;
            self.put(Key::TagCurrent(name, tag), digest.to_string(), facts.clone()).await
        }))
        .await
        .map(drop)
    }

    /// Puts a repository into the catalog. Looked up first: R2 takes one write a second to a key.
    pub async fn add_repository(&self, name: &RepositoryName) -> Result<(), StorageError> {
        match self.storage.head(&Key::Repository(name).path()).await? {
            Some(_) => Ok(()),
            None => self.put(Key::Repository(name), Bytes::new(), Facts::new()).await,
        }
    }

    /// Takes a tag away; `false` when it was not there.
    pub async fn delete_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<bool, StorageError> {
        let current = Key::TagCurrent(name, tag).path();
        if self.storage.head(&current).await?.is_none() {
            return Ok(false);
        }
        self.storage.delete(&[current]).await?;
        self.storage.delete_tree(&Key::Tag(name, tag).path()).await?;
        Ok(true)
    }

    /// Takes a manifest out of a repository with the tags on it and its entry as a referrer; `false` when it
    /// was not there. The content stays.
    pub async fn delete_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let revision = Key::Revision(name, digest).path();
        if self.storage.head(&revision).await?.is_none() {
            return Ok(false);
        }
        for tag in self.tags_on(name, digest).await? {
            self.delete_tag(name, &tag).await?;
        }
        if let Some(content) = self.manifest(digest).await? {
            let media_type = Manifest::detect_media_type(&content);
            if let Some(subject) =
                Manifest::parse(Some(&media_type), &content).ok().and_then(|parsed| parsed.subject)
            {
                self.delete(&[Key::Referrer { name, subject: &subject, referrer: digest }]).await?;
            }
        }
        self.storage.delete(&[revision]).await?;
        if self.storage.head(&Key::Layer(name, digest).path()).await?.is_none() {
            self.delete(&[Key::ReverseLink(digest, name)]).await?;
        }
        Ok(true)
    }

    /// The tags that point at a manifest: of those that ever did, those that still do.
    async fn tags_on(&self, name: &RepositoryName, digest: &Digest) -> Result<Vec<Tag>, StorageError> {
        let prefix = Key::Tags(name).path().folder();
        let index = format!("/index/{}/{}/link", digest.algorithm(), digest.hex());
        let candidates: Vec<Tag> = self
            .storage
            .list_all(&prefix)
            .await?
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(&prefix)?.strip_suffix(&index)?.parse().ok())
            .collect();
        stream::iter(candidates)
            .map(async |tag| {
                let revision = self.tag(name, &tag).await?;
                Ok(revision.is_some_and(|revision| revision.digest == *digest).then_some(tag))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |tag| Ok(tag))
            .try_collect()
            .await
    }

    // Referrers

    /// Adds a manifest to its subject's referrers, if it has a subject.
    pub async fn add_referrer(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        size: u64,
    ) -> Result<(), StorageError> {
        let Some(subject) = &manifest.subject else { return Ok(()) };
        let descriptor = Descriptor {
            media_type: manifest.media_type.clone(),
            digest: digest.clone(),
            size,
            urls: Vec::new(),
            artifact_type: manifest.artifact_type.clone(),
            annotations: manifest.annotations.clone(),
        };
        let content = serde_json::to_string(&descriptor).unwrap_or_default();
        let mut facts = Facts::new();
        // Facts travel as HTTP headers: plain ASCII, and no runs of spaces, which S3's signatures do not tell apart.
        if content.len() <= MAX_DESCRIPTOR_FACT && content.is_ascii() && !content.contains("  ") {
            facts.insert(DESCRIPTOR.to_owned(), content.clone());
        }
        self.put(Key::Referrer { name, subject, referrer: digest }, content, facts).await
    }

    /// The descriptors behind a page of a subject's referrers, in its order.
    pub async fn descriptors(
        &self,
        entries: Vec<(String, ObjectMeta)>,
    ) -> Result<Vec<Descriptor>, StorageError> {
        stream::iter(entries)
            .map(async |(path, meta)| {
                if let Some(fact) = meta.facts.get(DESCRIPTOR) {
                    return Ok(serde_json::from_str(fact).ok());
                }
                let Ok(path) = path.parse() else { return Ok(None) };
                let content = self.storage.read(&path, 2 * Manifest::MAX_BYTES).await?;
                Ok(content.and_then(|(content, _)| serde_json::from_slice(&content).ok()))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(async |descriptor| Ok(descriptor))
            .try_collect()
            .await
    }

    // Repositories

    /// Whether anything was ever pushed to a repository.
    pub async fn repository_exists(&self, name: &RepositoryName) -> Result<bool, StorageError> {
        if self.storage.head(&Key::Repository(name).path()).await?.is_some() {
            return Ok(true);
        }
        // Its own folders start with an underscore; those of repositories below it do not.
        self.storage.exists_below(&format!("{}/_", Key::RepositoryFolder(name))).await
    }
}

fn known(meta: &ObjectMeta) -> Option<(u64, String)> {
    let size = meta.facts.get(SIZE)?.parse().ok()?;
    Some((size, meta.facts.get(MEDIA_TYPE)?.clone()))
}
