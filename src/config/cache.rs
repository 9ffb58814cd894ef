//! Cache settings.

use super::{Vars, vars::number};

/// Limits of the caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// `EDGE_CACHE_MIB`, converted to bytes: size limit of blobs in the edge cache; 0 disables it.
    pub edge_bytes: u64,
    /// `WORKERS_CACHING`: whether to use the platform's cache before the inner entry points.
    pub workers_caching: bool,
    /// `TAG_CACHE_SECONDS`: how old an answer about a tag may be, in seconds; 0 reads the store.
    pub tag_seconds: u64,
    /// `DIGEST_CACHE_SECONDS`: how old an answer may be that a repository has a digest, in seconds; 0 reads the
    /// store.
    pub digest_seconds: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { edge_bytes: 512 << 20, workers_caching: true, tag_seconds: 0, digest_seconds: 0 }
    }
}

impl CacheConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            edge_bytes: vars.read("EDGE_CACHE_MIB", default.edge_bytes >> 20, number) << 20,
            workers_caching: vars.read("WORKERS_CACHING", default.workers_caching, switch),
            tag_seconds: vars.read("TAG_CACHE_SECONDS", default.tag_seconds, number),
            digest_seconds: vars.read("DIGEST_CACHE_SECONDS", default.digest_seconds, number),
        }
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("one of on, off".to_owned()),
    }
}
