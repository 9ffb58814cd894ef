//! Cache settings.

use super::{Vars, vars::number};

/// Limits of the caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// `EDGE_CACHE_MIB`, converted to bytes: size limit of blobs in the edge cache; 0 disables it.
    pub edge_bytes: u64,
    /// `TAG_CACHE_SECONDS`: maximum staleness of a tag, in seconds; 0 disables the tag cache.
    pub tag_seconds: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { edge_bytes: 512 << 20, tag_seconds: 0 }
    }
}

impl CacheConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            edge_bytes: vars.read("EDGE_CACHE_MIB", default.edge_bytes >> 20, number) << 20,
            tag_seconds: vars.read("TAG_CACHE_SECONDS", default.tag_seconds, number),
        }
    }
}
