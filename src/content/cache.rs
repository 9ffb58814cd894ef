//! The descriptor cache: what digests stand for, in the isolate's memory and, behind that, in a store near it.
//!
//! Only facts that never change are here: where the bytes of a blob are and how many, and the content of
//! manifests. Nothing here says that a repository has something, or that somebody may read it.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use lru::LruCache;

use super::{Located, by_digest::ByDigest};
use crate::{
    background::Background,
    body::{Body, ByteStream},
    log::RequestLog,
    oci::{Digest, Manifest},
    storage::{Driver, Key, PutOptions, StorageDriver, StorageDriverExt, StorageError, key::Fact},
};

/// How much an isolate keeps in memory, in bytes: an eighth of what it has.
pub const MEMORY: usize = 16 * 1024 * 1024;

/// What an entry costs beside its content, in bytes, roughly.
const OVERHEAD: usize = 256;

/// The isolate's memory: the least recently used goes first.
pub struct MemoryCache {
    entries: LruCache<(Fact, Digest), Bytes>,
    bytes: usize,
    limit: usize,
}

impl MemoryCache {
    /// An empty cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, limit }
    }

    fn get(&mut self, fact: Fact, digest: &Digest) -> Option<Bytes> {
        self.entries.get(&(fact, digest.clone())).cloned()
    }

    fn put(&mut self, fact: Fact, digest: &Digest, value: Bytes) {
        self.bytes += value.len() + OVERHEAD;
        if let Some((_, old)) = self.entries.push((fact, digest.clone()), value) {
            self.bytes -= old.len() + OVERHEAD;
        }
        while self.bytes > self.limit
            && let Some((_, old)) = self.entries.pop_lru()
        {
            self.bytes -= old.len() + OVERHEAD;
        }
    }

    fn remove(&mut self, fact: Fact, digest: &Digest) {
        if let Some(old) = self.entries.pop(&(fact, digest.clone())) {
            self.bytes -= old.len() + OVERHEAD;
        }
    }
}

/// The decorator.
pub struct Cached<S: ByteStream> {
    /// Who knows when the cache does not.
    pub inner: Rc<dyn ByDigest>,
    /// The isolate's memory.
    pub memory: Rc<RefCell<MemoryCache>>,
    /// A store near the isolate.
    pub far: Option<Driver<S>>,
    /// Fills and empties the far store.
    pub background: Rc<dyn Background>,
    /// Counts.
    pub log: Rc<RequestLog>,
}

impl<S: ByteStream> Cached<S> {
    /// Looks into both levels. What the far one has must be what its digest says.
    async fn look_up(&self, fact: Fact, digest: &Digest) -> Option<Bytes> {
        if let Some(value) = self.memory.borrow_mut().get(fact, digest) {
            self.log.cache(|counts| counts.memory += 1);
            return Some(value);
        }
        let far = self.far.as_ref()?;
        match far.read(&Key::Cached(fact, digest).path(), 2 * Manifest::MAX_BYTES).await {
            Ok(None) => None,
            Ok(Some((value, _))) if is_sound(fact, digest, &value) => {
                self.log.cache(|counts| counts.far += 1);
                self.memory.borrow_mut().put(fact, digest, value.clone());
                Some(value)
            }
            Ok(Some(_)) | Err(_) => {
                self.log.cache(|counts| counts.error += 1);
                None
            }
        }
    }

    fn keep(&self, fact: Fact, digest: &Digest, value: Bytes) {
        self.memory.borrow_mut().put(fact, digest, value.clone());
        let Some(far) = self.far.clone() else { return };
        let (path, log) = (Key::Cached(fact, digest).path(), self.log.clone());
        self.background.spawn(Box::pin(async move {
            if far.put(&path, Body::Bytes(value), PutOptions::default()).await.is_err() {
                log.cache(|counts| counts.error += 1);
            }
        }));
    }

    async fn through<T>(
        &self,
        fact: Fact,
        digest: &Digest,
        read: impl FnOnce(Bytes) -> Option<T>,
        ask: impl Future<Output = Result<Option<T>, StorageError>>,
        write: impl FnOnce(&T) -> Bytes,
    ) -> Result<Option<T>, StorageError> {
        if let Some(value) = self.look_up(fact, digest).await.and_then(read) {
            return Ok(Some(value));
        }
        self.log.cache(|counts| counts.miss += 1);
        let value = ask.await?;
        if let Some(value) = &value {
            self.keep(fact, digest, write(value));
        }
        Ok(value)
    }
}

fn is_sound(fact: Fact, digest: &Digest, value: &[u8]) -> bool {
    match fact {
        Fact::Located => serde_json::from_slice::<Located>(value).is_ok(),
        Fact::Manifest => digest.algorithm().digest(value) == *digest,
    }
}

fn read_located(value: Bytes) -> Option<Located> {
    serde_json::from_slice(&value).ok()
}

fn json(located: &Located) -> Bytes {
    // Numbers and text: cannot fail.
    serde_json::to_vec(located).unwrap_or_default().into()
}

impl<S: ByteStream> ByDigest for Cached<S> {
    fn located<'a>(
        &'a self,
        digest: &'a Digest,
    ) -> LocalBoxFuture<'a, Result<Option<Located>, StorageError>> {
        Box::pin(self.through(Fact::Located, digest, read_located, self.inner.located(digest), json))
    }

    fn known(&self, digest: &Digest) -> Option<Located> {
        let value = self.memory.borrow_mut().get(Fact::Located, digest);
        value.and_then(read_located).or_else(|| self.inner.known(digest))
    }

    fn manifest<'a>(&'a self, digest: &'a Digest) -> LocalBoxFuture<'a, Result<Option<Bytes>, StorageError>> {
        Box::pin(self.through(Fact::Manifest, digest, Some, self.inner.manifest(digest), Bytes::clone))
    }

    fn learn(&self, digest: &Digest, located: &Located) {
        self.memory.borrow_mut().put(Fact::Located, digest, json(located));
        self.inner.learn(digest, located);
    }

    fn forget(&self, digest: &Digest) {
        for fact in [Fact::Located, Fact::Manifest] {
            self.memory.borrow_mut().remove(fact, digest);
        }
        self.inner.forget(digest);
        let Some(far) = self.far.clone() else { return };
        let paths = [Fact::Located, Fact::Manifest].map(|fact| Key::Cached(fact, digest).path());
        let log = self.log.clone();
        self.background.spawn(Box::pin(async move {
            if far.delete(&paths).await.is_err() {
                log.cache(|counts| counts.error += 1);
            }
        }));
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn memory_is_bounded_and_the_least_recently_used_goes_first() {
        let mut cache = MemoryCache::new(3 * (OVERHEAD + 100));
        let digest = |n: u8| Algorithm::Sha256.digest(&[n]);
        for n in 0..3 {
            cache.put(Fact::Manifest, &digest(n), vec![n; 100].into());
        }
        assert!(cache.get(Fact::Manifest, &digest(0)).is_some());
        cache.put(Fact::Manifest, &digest(3), vec![3; 100].into());
        assert!(cache.get(Fact::Manifest, &digest(1)).is_none());
        for n in [0, 2, 3] {
            assert_eq!(cache.get(Fact::Manifest, &digest(n)), Some(vec![n; 100].into()));
        }
        // The same again, longer: what it was before is no longer counted.
        cache.put(Fact::Manifest, &digest(0), vec![0; 50].into());
        assert_eq!(cache.bytes, 3 * OVERHEAD + 250);
        // Larger than all of it: not kept, and everything else neither.
        cache.put(Fact::Manifest, &digest(9), vec![9; 5000].into());
        assert!(cache.bytes <= cache.limit && cache.get(Fact::Manifest, &digest(9)).is_none());
        cache.put(Fact::Located, &digest(0), "{}".into());
        cache.remove(Fact::Located, &digest(0));
        assert!(cache.get(Fact::Located, &digest(0)).is_none());
    }
}
