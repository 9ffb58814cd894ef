//! What tags pointed at a moment ago, for those who set `TAG_CACHE_SECONDS`. Off by default: then every look
//! at a tag is a look into the store, and sees the last push.

use std::{cell::RefCell, num::NonZeroUsize};

use lru::LruCache;

use super::Revision;
use crate::{
    clock::Timestamp,
    oci::{RepositoryName, Tag},
};

/// How many tags an isolate remembers.
const ENTRIES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The isolate's memory of tags.
pub struct TagCache {
    seconds: u64,
    entries: RefCell<LruCache<(RepositoryName, Tag), (Revision, Timestamp)>>,
}

impl TagCache {
    /// A cache that answers for so long; 0: never.
    pub fn new(seconds: u64) -> Self {
        Self { seconds, entries: RefCell::new(LruCache::new(ENTRIES)) }
    }

    /// What the tag pointed at, if that was looked up less than so long ago.
    pub fn get(&self, name: &RepositoryName, tag: &Tag, now: Timestamp) -> Option<Revision> {
        if self.seconds == 0 {
            return None;
        }
        let mut entries = self.entries.borrow_mut();
        let (revision, ends) = entries.get(&(name.clone(), tag.clone()))?;
        (now < *ends).then(|| revision.clone())
    }

    /// Remembers what the store says now.
    pub fn put(&self, name: &RepositoryName, tag: &Tag, revision: &Revision, now: Timestamp) {
        if self.seconds > 0 {
            let entry = (revision.clone(), now.plus_seconds(self.seconds));
            self.entries.borrow_mut().put((name.clone(), tag.clone()), entry);
        }
    }

    /// Forgets a repository's tags: one of them has changed.
    pub fn forget(&self, name: &RepositoryName) {
        let mut entries = self.entries.borrow_mut();
        let keys: Vec<_> = entries.iter().map(|(key, _)| key).filter(|key| key.0 == *name).cloned().collect();
        for key in keys {
            entries.pop(&key);
        }
    }
}
