//! Manifests and tags.

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    future::{try_join, try_join_all},
    stream,
};

use super::{CONCURRENCY, Content, Located, SIZE};
use crate::{
    body::Body,
    oci::{Digest, Manifest, RepositoryName, Tag},
    storage::{
        Facts, Key, ObjectMeta, Path, PutOptions, StorageDriver, StorageDriverExt, StorageError,
        StorageErrorKind,
    },
};

/// The longest link, in bytes: a digest and a line end.
const MAX_LINK: usize = 256;

/// The fact in a link to a manifest that says its media type.
const MEDIA_TYPE: &str = "media-type";

/// A manifest as a repository has it, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its digest.
    pub digest: Digest,
    /// Length and media type. `None` for a link without facts: the content tells.
    pub known: Option<(u64, String)>,
}

impl<S: StorageDriver> Content<'_, S> {
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
}

fn known(meta: &ObjectMeta) -> Option<(u64, String)> {
    let size = meta.facts.get(SIZE)?.parse().ok()?;
    Some((size, meta.facts.get(MEDIA_TYPE)?.clone()))
}
