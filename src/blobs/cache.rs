//! The descriptor cache: facts about digests, in the isolate's memory and then in KV.
//!
//! It holds only immutable facts: the location of a blob's bytes and the content of a manifest. It never
//! answers whether a repository has content or whether a client may read it.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use lru::LruCache;

use super::{Edge, Located};
use crate::{
    context::Context,
    layout::{CacheEntry, Key},
    oci::{Digest, Manifest},
    platform::Body,
    storage::{PutOptions, Store},
};

/// The start of the paths of blobs at the inner entry points, before the digest.
pub const BLOBS: &str = "/blobs/";

/// The start of the paths of manifests at the inner entry points, before the digest.
pub const MANIFESTS: &str = "/manifests/";

/// Approximate memory overhead of an entry, in bytes.
const OVERHEAD: usize = 256;

/// A least-recently-used cache in the isolate's memory, with a limit in bytes.
struct MemoryCache {
    entries: LruCache<(CacheEntry, Digest), Bytes>,
    bytes: usize,
    limit: usize,
}

impl MemoryCache {
    fn new(limit: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, limit }
    }

    fn get(&mut self, entry: CacheEntry, digest: &Digest) -> Option<Bytes> {
        self.entries.get(&(entry, digest.clone())).cloned()
    }

    fn put(&mut self, entry: CacheEntry, digest: &Digest, value: Bytes) {
        self.bytes += value.len() + OVERHEAD;
        if let Some((_, old)) = self.entries.push((entry, digest.clone()), value) {
            self.bytes -= old.len() + OVERHEAD;
        }
        while self.bytes > self.limit
            && let Some((_, old)) = self.entries.pop_lru()
        {
            self.bytes -= old.len() + OVERHEAD;
        }
    }

    fn remove(&mut self, entry: CacheEntry, digest: &Digest) {
        if let Some(old) = self.entries.pop(&(entry, digest.clone())) {
            self.bytes -= old.len() + OVERHEAD;
        }
    }
}

/// The caches of an isolate. Clones share state.
#[derive(Clone)]
pub struct Cache {
    memory: Rc<RefCell<MemoryCache>>,
    kv: Option<Store>,
    pub(super) edge: Rc<Edge>,
}

impl Cache {
    /// An empty cache: `limit` bytes in memory, then `kv` if there is one, and the edge cache for bodies.
    pub fn new(limit: usize, kv: Option<Store>, edge: Edge) -> Self {
        Self { memory: Rc::new(RefCell::new(MemoryCache::new(limit))), kv, edge: Rc::new(edge) }
    }

    pub(super) fn in_memory(&self, entry: CacheEntry, digest: &Digest) -> Option<Bytes> {
        self.memory.borrow_mut().get(entry, digest)
    }

    pub(super) fn put_in_memory(&self, entry: CacheEntry, digest: &Digest, value: Bytes) {
        self.memory.borrow_mut().put(entry, digest, value);
    }

    /// Looks in memory, for a manifest in the edge cache, then in KV. Verifies what is not from memory.
    pub(super) async fn get(&self, entry: CacheEntry, digest: &Digest, context: &Context) -> Option<Bytes> {
        if let Some(value) = self.in_memory(entry, digest) {
            context.log.count_cache(|counts| counts.memory += 1);
            return Some(value);
        }
        if entry == CacheEntry::Manifest
            && let Some(body) = context.edge_cache.ask(&manifest_path(digest)).await
            && let Ok(value) = body.read(2 * Manifest::MAX_BYTES).await
            && is_valid(entry, digest, &value)
        {
            context.log.count_cache(|counts| counts.edge += 1);
            self.put_in_memory(entry, digest, value.clone());
            return Some(value);
        }
        let kv = self.kv.as_ref()?;
        match kv.read(&Key::Cached(entry, digest).path(), 2 * Manifest::MAX_BYTES).await {
            Ok(None) => None,
            Ok(Some((value, _))) if is_valid(entry, digest, &value) => {
                context.log.count_cache(|counts| counts.kv += 1);
                self.put_in_memory(entry, digest, value.clone());
                Some(value)
            }
            Ok(Some(_)) | Err(_) => {
                context.log.count_cache(|counts| counts.error += 1);
                None
            }
        }
    }

    /// Stores an entry in memory, and in KV in the background.
    pub(super) fn put(&self, entry: CacheEntry, digest: &Digest, value: Bytes, context: &Context) {
        self.put_in_memory(entry, digest, value.clone());
        let Some(kv) = self.kv.clone() else { return };
        let (path, log) = (Key::Cached(entry, digest).path(), context.log.clone());
        context.background.spawn(Box::pin(async move {
            if kv.put(&path, Body::Bytes(value), PutOptions::default()).await.is_err() {
                log.count_cache(|counts| counts.error += 1);
            }
        }));
    }

    /// Removes a digest's entries from memory, and from KV in the background.
    pub(super) fn remove(&self, digest: &Digest, context: &Context) {
        let entries = [CacheEntry::Located, CacheEntry::Manifest];
        for entry in entries {
            self.memory.borrow_mut().remove(entry, digest);
        }
        let Some(kv) = self.kv.clone() else { return };
        let paths = entries.map(|entry| Key::Cached(entry, digest).path());
        let log = context.log.clone();
        context.background.spawn(Box::pin(async move {
            if kv.delete(&paths).await.is_err() {
                log.count_cache(|counts| counts.error += 1);
            }
        }));
    }
}

/// The path of a manifest's content at the inner entry points.
fn manifest_path(digest: &Digest) -> String {
    format!("{MANIFESTS}{digest}")
}

fn is_valid(entry: CacheEntry, digest: &Digest, value: &[u8]) -> bool {
    match entry {
        CacheEntry::Located => serde_json::from_slice::<Located>(value).is_ok(),
        CacheEntry::Manifest => digest.algorithm().digest(value) == *digest,
    }
}

pub(super) fn read_located(value: Bytes) -> Option<Located> {
    serde_json::from_slice(&value).ok()
}

pub(super) fn write_located(located: &Located) -> Bytes {
    // Infallible: a number and a string.
    serde_json::to_vec(located).unwrap_or_default().into()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn memory_is_bounded_and_the_least_recently_used_entry_is_evicted() {
        let mut cache = MemoryCache::new(3 * (OVERHEAD + 100));
        let digest = |n: u8| Algorithm::Sha256.digest(&[n]);
        for n in 0..3 {
            cache.put(CacheEntry::Manifest, &digest(n), vec![n; 100].into());
        }
        assert!(cache.get(CacheEntry::Manifest, &digest(0)).is_some());
        cache.put(CacheEntry::Manifest, &digest(3), vec![3; 100].into());
        assert!(cache.get(CacheEntry::Manifest, &digest(1)).is_none());
        for n in [0, 2, 3] {
            assert_eq!(cache.get(CacheEntry::Manifest, &digest(n)), Some(vec![n; 100].into()));
        }
        // A replaced entry is no longer counted.
        cache.put(CacheEntry::Manifest, &digest(0), vec![0; 50].into());
        assert_eq!(cache.bytes, 3 * OVERHEAD + 250);
        // An entry above the limit empties the cache.
        cache.put(CacheEntry::Manifest, &digest(9), vec![9; 5000].into());
        assert!(cache.bytes <= cache.limit && cache.get(CacheEntry::Manifest, &digest(9)).is_none());
        cache.put(CacheEntry::Located, &digest(0), "{}".into());
        cache.remove(CacheEntry::Located, &digest(0));
        assert!(cache.get(CacheEntry::Located, &digest(0)).is_none());
    }
}
