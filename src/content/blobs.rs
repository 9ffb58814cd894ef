//! Blobs: where their bytes are, and which repositories have them.

use std::cell::Cell;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::try_join, stream};

use super::{CONCURRENCY, Content, Located, by_digest::ByDigest};
use crate::{
    body::Body,
    oci::{Digest, RepositoryName},
    storage::{
        ByteRange, Condition, Facts, Key, Object, Path, PutOptions, StorageDriver, StorageError,
        StorageErrorKind, key::trailing_name,
    },
};

impl<S: StorageDriver> Content<'_, S> {
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
}
