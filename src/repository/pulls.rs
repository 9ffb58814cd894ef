//! Notes of pulls, for the rules of retention that ask when a manifest was pulled last.

use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroUsize,
    rc::Rc,
};

use lru::LruCache;

use crate::{
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Background, Body, Clock, Timestamp},
    retention::Retention,
    storage::{PutOptions, Store},
};

/// Shortest time between two notes of the same manifest, in milliseconds.
const STEP: u64 = 24 * 60 * 60 * 1000;

/// Limit of the manifests that an isolate remembers to have noted: about 1 MB.
const MAX_NOTED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

/// Notes when manifests are pulled: a day at most after the last note. Nothing waits for it, and a note that fails is
/// dropped: the store's metrics count it.
pub struct PullNotes {
    store: Store,
    clock: Rc<dyn Clock>,
    retention: Rc<Retention>,
    /// When a manifest was noted, by a hash of its repository and digest. Two with the same hash share their notes.
    noted: RefCell<LruCache<u64, Timestamp>>,
}

impl PullNotes {
    /// Notes of what the rules ask for. `store` makes one attempt of each call.
    pub fn new(store: Store, clock: Rc<dyn Clock>, retention: Rc<Retention>) -> Self {
        Self { store, clock, retention, noted: RefCell::new(LruCache::new(MAX_NOTED)) }
    }

    /// Notes a pull in the background, unless no rule asks for it or this isolate has noted it within a day. Costs a look-up,
    /// and a write if no other isolate has noted it either: a key takes one write per second.
    pub fn note(&self, name: &RepositoryName, digest: &Digest, background: &dyn Background) {
        if !self.retention.needs_pulls(name) {
            return;
        }
        let mut hasher = DefaultHasher::new();
        (name, digest).hash(&mut hasher);
        let (hash, now) = (hasher.finish(), self.clock.now());
        let is_noted = move |at: &Timestamp| now.milliseconds_since(*at) < STEP;
        if self.noted.borrow_mut().get(&hash).is_some_and(is_noted) {
            return;
        }
        self.noted.borrow_mut().put(hash, now);
        let (store, path) = (self.store.clone(), Key::Pull(name, digest).path());
        background.spawn(Box::pin(async move {
            let Ok(note) = store.head(&path).await else { return };
            if note.is_none_or(|note| !is_noted(&note.modified)) {
                let _dropped = store.put(&path, Body::Empty, PutOptions::default()).await;
            }
        }));
    }
}
