//! Cached answers about a repository: which manifest a tag names, and that it has a manifest or a blob.
//!
//! Only presence is cached, and every answer has an age, counted from the start of the read that found it:
//! whoever uses an answer compares that age with the configured bound. The bound therefore holds wherever the
//! answer was kept in between, and whether or not a purge arrived.

use std::rc::Rc;

use bytes::Bytes;

use super::{Repository, RepositoryError, Revision, purges::Purges};
use crate::{
    blobs::{Cache, Freshness, Located},
    context::Context,
    oci::{Algorithm, Digest, Reference, RepositoryName},
    platform::{
        Clock, Timestamp,
        metrics::{CacheLevel, Lookup},
    },
    storage::Path,
};

/// Size limit of an answer, in bytes. Media types can be long.
const MAX_FACT: usize = 16 * 1024;

/// The start of the paths of questions.
const PREFIX: &str = "/facts/";

/// A question about a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The manifest that this reference names.
    Manifest(Reference),
    /// The location of this blob.
    Blob(Digest),
}

/// An answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The start of the read that found it. The read may have seen what a change in the same moment replaced.
    read: Timestamp,
    digest: Digest,
    /// The location of the blob, or the size of the manifest if it is known.
    located: Option<Located>,
    /// Of the manifest; empty if not known.
    media_type: String,
}

impl Fact {
    /// The answer as a manifest.
    pub fn into_revision(self) -> Revision {
        let description = self.located.map(|located| (located.size, self.media_type));
        Revision { digest: self.digest, description }
    }

    /// The answer as a blob.
    pub fn into_located(self) -> Option<Located> {
        self.located
    }

    /// When the answer stops to be valid, for a bound in seconds.
    pub fn expires(&self, bound: u64) -> Timestamp {
        self.read.plus_seconds(bound)
    }

    /// The answer as text: a line for each field, in order.
    pub fn to_text(&self) -> String {
        let (size, at) = match &self.located {
            Some(Located { size, at }) => (size.to_string(), at.as_ref().map_or("", Path::as_str)),
            None => (String::new(), ""),
        };
        [&self.read.0.to_string(), &self.digest.to_string(), &size, at, &self.media_type].join("\n")
    }

    fn parse(text: &Bytes) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.split('\n');
        let mut line = || lines.next();
        let (read, digest) = (line()?.parse().ok()?, line()?.parse().ok()?);
        let (size, at, media_type) = (line()?.parse().ok(), line()?.parse().ok(), line()?.to_owned());
        let located = size.map(|size| Located { size, at });
        Some(Self { read: Timestamp(read), digest, located, media_type })
    }
}

impl Question {
    /// The path of the question about a repository. No two questions share one.
    pub fn path(&self, name: &RepositoryName) -> String {
        let (kind, of) = match self {
            Self::Manifest(Reference::Tag(tag)) => ("manifests", tag.to_string()),
            Self::Manifest(Reference::Digest(digest)) => ("manifests", digest.to_string()),
            Self::Blob(digest) => ("blobs", digest.to_string()),
        };
        format!("{PREFIX}{kind}/{of}/{name}")
    }

    /// The question and the repository of a path.
    pub fn parse(path: &str) -> Option<(Self, RepositoryName)> {
        let (kind, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let (of, name) = rest.split_once('/')?;
        let question = match kind {
            "manifests" => Self::Manifest(of.parse().ok()?),
            "blobs" => Self::Blob(of.parse().ok()?),
            _ => return None,
        };
        Some((question, name.parse().ok()?))
    }

    /// Asks `repository`, at the time `read`.
    pub async fn read(
        &self,
        repository: &dyn Repository,
        read: Timestamp,
    ) -> Result<Option<Fact>, RepositoryError> {
        Ok(match self {
            Self::Manifest(reference) => repository.revision(reference).await?.map(|revision| {
                let (size, media_type) = revision.description.unzip();
                let located = size.map(|size| Located { size, at: None });
                Fact { read, digest: revision.digest, located, media_type: media_type.unwrap_or_default() }
            }),
            Self::Blob(digest) => repository.locate(digest, Freshness::Cached).await?.map(|located| {
                let (digest, located) = (digest.clone(), Some(located));
                Fact { read, digest, located, media_type: String::new() }
            }),
        })
    }
}

/// The cache tag of the answers about a repository.
pub fn tag_of(name: &RepositoryName) -> String {
    Algorithm::Sha256.digest(name.as_str().as_bytes()).hex().to_owned()
}

/// The key in memory of a repository's last change. It begins with a slash, like those of answers: no other key does.
fn changed_key(name: &RepositoryName) -> String {
    format!("/changed/{name}")
}

/// The answers that an isolate remembers or gets from the edge cache.
pub struct Facts {
    tag_seconds: u64,
    digest_seconds: u64,
    clock: Rc<dyn Clock>,
    /// Answers as text, by path, and the times of the last changes through this isolate.
    memory: Cache,
    purges: Rc<Purges>,
}

impl Facts {
    /// Answers that are at most `tag_seconds` old about a tag, and `digest_seconds` about a digest. With 0,
    /// nothing is cached.
    pub fn new(tag_seconds: u64, digest_seconds: u64, memory: Cache, clock: Rc<dyn Clock>) -> Self {
        let purges = Rc::new(Purges::new(tag_seconds.max(digest_seconds), clock.clone()));
        Self { tag_seconds, digest_seconds, clock, memory, purges }
    }

    /// How old an answer to this question may be, in seconds.
    pub fn bound(&self, question: &Question) -> u64 {
        match question {
            Question::Manifest(Reference::Tag(_)) => self.tag_seconds,
            Question::Manifest(Reference::Digest(_)) | Question::Blob(_) => self.digest_seconds,
        }
    }

    /// The answer from memory, the edge cache or `repository`, in this order. Only presence comes from a cache: an
    /// entry point that finds nothing may have begun to look before a push.
    pub async fn find(
        &self,
        name: &RepositoryName,
        question: &Question,
        repository: &dyn Repository,
        context: &Context,
    ) -> Result<Option<Fact>, RepositoryError> {
        let (bound, path) = (self.bound(question), question.path(name));
        if bound > 0 {
            let known = self.memory.recall(&path).as_ref().and_then(Fact::parse);
            if let Some(fact) = known.filter(|fact| self.is_current(fact, bound, name)) {
                context.log.count_lookup(CacheLevel::Memory, Lookup::Hit);
                return Ok(Some(fact));
            }
            context.log.count_lookup(CacheLevel::Memory, Lookup::Miss);
            if let Some(answer) = context.edge_cache.ask(&path).await
                && let Ok(answer) = answer.read(MAX_FACT).await
                && let Some(fact) = Fact::parse(&answer)
                && self.keep(&path, &fact, bound, name)
            {
                context.log.count_lookup(CacheLevel::Edge, Lookup::Hit);
                return Ok(Some(fact));
            }
            if context.edge_cache.has_entry_points() {
                context.log.count_lookup(CacheLevel::Edge, Lookup::Miss);
            }
        }
        let fact = question.read(repository, self.clock.now()).await?;
        if let Some(fact) = &fact {
            self.keep(&path, fact, bound, name);
        }
        Ok(fact)
    }

    /// Remembers an answer if it is current; returns whether it is.
    fn keep(&self, path: &str, fact: &Fact, bound: u64, name: &RepositoryName) -> bool {
        let is_current = self.is_current(fact, bound, name);
        if is_current {
            // A clock that is ahead must not extend the answer's life.
            let fact = Fact { read: fact.read.min(self.clock.now()), ..fact.clone() };
            self.memory.remember(path.to_owned(), fact.to_text().into());
        }
        is_current
    }

    /// Whether the answer is within its bound and newer than the last change through this isolate.
    fn is_current(&self, fact: &Fact, bound: u64, name: &RepositoryName) -> bool {
        let changed = self.memory.recall(&changed_key(name));
        let changed = changed.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let is_older = changed.is_some_and(|changed| fact.read <= Timestamp(changed));
        !is_older && self.clock.now() < fact.expires(bound)
    }

    /// Forgets the answers about a repository after a change: here at once, elsewhere by a purge. `is_tag`: only
    /// tags have changed.
    pub fn forget(&self, name: &RepositoryName, is_tag: bool, context: &Context) {
        if self.tag_seconds == 0 && (is_tag || self.digest_seconds == 0) {
            return;
        }
        self.memory.remember(changed_key(name), self.clock.now().0.to_string().into());
        if context.edge_cache.has_entry_points() {
            self.purges.add(tag_of(name), context);
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn texts_are_parsed() {
        let at = Some("pierhead/blobs/x".parse().unwrap());
        for located in [None, Some(Located { size: 0, at: None }), Some(Located { size: u64::MAX, at })] {
            for media_type in ["", "application/json; charset=utf-8"] {
                let (digest, located) = (Algorithm::Sha512.digest(b""), located.clone());
                let fact = Fact { read: Timestamp(1), digest, located, media_type: media_type.to_owned() };
                assert_eq!(Fact::parse(&fact.to_text().into()), Some(fact));
            }
        }
        for text in ["", "1", "{}", "1\n2\n\n\n"] {
            assert_eq!(Fact::parse(&text.into()), None, "{text}");
        }
    }

    #[test]
    fn paths_are_parsed() {
        let digest = Algorithm::Sha256.digest(b"");
        for name in ["a", "a/b/c", "a/manifests"] {
            let name: RepositoryName = name.parse().unwrap();
            for question in [
                Question::Manifest(Reference::Tag("v1".parse().unwrap())),
                Question::Manifest(Reference::Digest(digest.clone())),
                Question::Blob(digest.clone()),
            ] {
                assert_eq!(Question::parse(&question.path(&name)), Some((question, name.clone())));
            }
        }
        for path in ["/facts/", "/facts/tags/v1/a", "/facts/blobs/v1/a", "/facts/manifests/v1/", "/blobs/x"] {
            assert_eq!(Question::parse(path), None, "{path}");
        }
    }
}
