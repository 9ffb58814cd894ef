//! The descriptor cache: facts about digests, in the isolate's memory and then in KV.
//!
//! It holds only immutable facts: the location of a blob's bytes and the content of a manifest. It never
//! answers whether a repository has content or whether a client may read it. Its memory is shared with others.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use lru::LruCache;

use super::{Edge, Located};
use crate::{
    context::Context,
    layout::{CacheEntry, Key},
    oci::{Digest, Manifest, from_json},
    platform::{
        Body,
        metrics::{CacheLevel, Lookup},
    },
    storage::{PutOptions, Store},
};

/// The start of the paths of blobs at the inner entry points, before the digest.
pub const BLOBS: &str = "/blobs/";

/// The start of the paths of manifests at the inner entry points, before the digest.
pub const MANIFESTS: &str = "/manifests/";

/// Approximate memory overhead of an entry, in bytes, with its key.
const OVERHEAD: usize = 512;

/// A least-recently-used cache in the isolate's memory, with a limit in bytes.
struct MemoryCache {
    entries: LruCache<String, Bytes>,
    bytes: usize,
    limit: usize,
}

impl MemoryCache {
    fn new(limit: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, limit }
    }

    fn get(&mut self, key: &str) -> Option<Bytes> {
        self.entries.get(key).cloned()
    }

    fn put(&mut self, key: String, value: Bytes) {
        self.bytes += value.len() + OVERHEAD;
        if let Some((_, old)) = self.entries.push(key, value) {
            self.bytes -= old.len() + OVERHEAD;
        }
        while self.bytes > self.limit
            && let Some((_, old)) = self.entries.pop_lru()
        {
            self.bytes -= old.len() + OVERHEAD;
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(old) = self.entries.pop(key) {
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
        self.recall(Key::Cached(entry, digest).path().as_str())
    }

    pub(super) fn put_in_memory(&self, entry: CacheEntry, digest: &Digest, value: Bytes) {
        self.remember(Key::Cached(entry, digest).path().to_string(), value);
    }

    /// A value from the isolate's memory.
    pub fn recall(&self, key: &str) -> Option<Bytes> {
        self.memory.borrow_mut().get(key)
    }

    /// Stores a value in the isolate's memory. Those least recently used make room for it.
    pub fn remember(&self, key: String, value: Bytes) {
        self.memory.borrow_mut().put(key, value);
    }

    /// Removes a value from the isolate's memory.
    pub fn forget(&self, key: &str) {
        self.memory.borrow_mut().remove(key);
    }

    /// Looks in memory, for a manifest in the edge cache, then in KV. Verifies what is not from memory.
    pub(super) async fn get(&self, entry: CacheEntry, digest: &Digest, context: &Context) -> Option<Bytes> {
        if let Some(value) = self.in_memory(entry, digest) {
            context.log.count_lookup(CacheLevel::Memory, Lookup::Hit);
            return Some(value);
        }
        context.log.count_lookup(CacheLevel::Memory, Lookup::Miss);
        if entry == CacheEntry::Manifest
            && let Some(body) = context.edge_cache.ask(&manifest_path(digest)).await
            && let Ok(value) = body.read(2 * Manifest::MAX_BYTES).await
            && is_valid(entry, digest, &value)
        {
            context.log.count_lookup(CacheLevel::Edge, Lookup::Hit);
            self.put_in_memory(entry, digest, value.clone());
            return Some(value);
        }
        if entry == CacheEntry::Manifest && context.edge_cache.has_entry_points() {
            context.log.count_lookup(CacheLevel::Edge, Lookup::Miss);
        }
        let kv = self.kv.as_ref()?;
        match kv.read(&Key::Cached(entry, digest).path(), 2 * Manifest::MAX_BYTES).await {
            Ok(None) => {
                context.log.count_lookup(CacheLevel::Kv, Lookup::Miss);
                None
            }
            Ok(Some((value, _))) if is_valid(entry, digest, &value) => {
                context.log.count_lookup(CacheLevel::Kv, Lookup::Hit);
                self.put_in_memory(entry, digest, value.clone());
                Some(value)
            }
            Ok(Some(_)) | Err(_) => {
                context.log.count_lookup(CacheLevel::Kv, Lookup::Error);
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
                log.count_lookup(CacheLevel::Kv, Lookup::Error);
            }
        }));
    }

    /// Removes a digest's entries from memory, and from KV in the background.
    pub(super) fn remove(&self, digest: &Digest, context: &Context) {
        let entries = [CacheEntry::Located, CacheEntry::Manifest];
        let paths = entries.map(|entry| Key::Cached(entry, digest).path());
        for path in &paths {
            self.memory.borrow_mut().remove(path.as_str());
        }
        let Some(kv) = self.kv.clone() else { return };
        let log = context.log.clone();
        context.background.spawn(Box::pin(async move {
            if kv.delete(&paths).await.is_err() {
                log.count_lookup(CacheLevel::Kv, Lookup::Error);
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
        CacheEntry::Located => from_json::<Located>(value).is_ok(),
        CacheEntry::Manifest => digest.algorithm().digest(value) == *digest,
    }
}

pub(super) fn read_located(value: Bytes) -> Option<Located> {
    from_json(&value).ok()
}

pub(super) fn write_located(located: &Located) -> Bytes {
    // Infallible: a number and a string.
    serde_json::to_vec(located).unwrap_or_default().into()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_least_recently_used_entry_is_evicted() {
        let mut cache = MemoryCache::new(3 * (OVERHEAD + 100));
        for n in 0..3 {
            cache.put(n.to_string(), vec![n; 100].into());
        }
        assert!(cache.get("0").is_some());
        cache.put("3".into(), vec![3; 100].into());
        assert!(cache.get("1").is_none());
        for n in [0, 2, 3] {
            assert_eq!(cache.get(&n.to_string()), Some(vec![n; 100].into()));
        }
        // A replaced entry is no longer counted.
        cache.put("0".into(), vec![0; 50].into());
        assert_eq!(cache.bytes, 3 * OVERHEAD + 250);
        // An entry above the limit empties the cache.
        cache.put("9".into(), vec![9; 5000].into());
        assert!(cache.bytes <= cache.limit && cache.get("9").is_none());
        cache.put("0".into(), "{}".into());
        cache.remove("0");
        assert!(cache.get("0").is_none());
    }
}
