//! The blob service: content is stored once, and visible in the repositories that link it.
//!
//! Order makes every step repeatable: data before its link, links before a tag. The links this registry
//! writes carry the size, media type and place of what they link, so that one look-up answers a HEAD; links
//! without these facts, as `distribution` writes them, cost a look-up more.

mod blobs;
pub mod by_digest;
pub mod cache;
mod manifests;
mod referrers;
pub mod tags;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    body::Body,
    oci::{Digest, RepositoryName},
    storage::{Facts, Key, Path, PutOptions, StorageDriver, StorageDriverExt, StorageError},
};

pub use manifests::Revision;

/// How many look-ups of one request are under way at once: the platform's limit for connections.
const CONCURRENCY: usize = 6;

const SIZE: &str = "size";
const AT: &str = "at";

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

    /// Whether anything was ever pushed to a repository.
    pub async fn repository_exists(&self, name: &RepositoryName) -> Result<bool, StorageError> {
        if self.storage.head(&Key::Repository(name).path()).await?.is_some() {
            return Ok(true);
        }
        // Its own folders start with an underscore; those of repositories below it do not.
        self.storage.exists_below(&format!("{}/_", Key::RepositoryFolder(name))).await
    }
}
