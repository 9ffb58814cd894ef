//! The edge cache of blob bodies, with a size limit and one concurrent fill per blob.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use serde_json::json;

use crate::{
    context::Context,
    oci::{Algorithm, Digest},
    platform::{
        Body, ByteRange, Clock, EdgeCache, Level, Timestamp,
        metrics::{CacheLevel, Lookup},
    },
    storage::{Path, Store},
};

/// Time after which a fill counts as lost, in seconds: the runtime may drop one silently.
const LOST: u64 = 60;

/// An entry that tells whether the cache keeps entries: on `workers.dev`, the Cache API accepts them and keeps none.
const PROBE: &[u8] = b"probe";

/// The limits and the fills of an isolate's edge cache.
pub struct Edge {
    limit: u64,
    clock: Rc<dyn Clock>,
    filling: RefCell<HashMap<Digest, Timestamp>>,
    /// The host of the last fill, and whether the cache keeps entries for it.
    keeps: RefCell<Option<(String, bool)>>,
}

impl Edge {
    /// A cache for blobs of up to `limit` bytes.
    pub fn new(limit: u64, clock: Rc<dyn Clock>) -> Self {
        Self { limit, clock, filling: RefCell::default(), keeps: RefCell::default() }
    }

    /// A blob, or a range of it; `None` if it is not cached.
    pub(super) async fn get(
        &self,
        context: &Context,
        host: &str,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> Option<Body> {
        if size > self.limit {
            return None;
        }
        let found = context.edge_cache.get(host, digest, size, range).await;
        let outcome = if found.is_some() { Lookup::Hit } else { Lookup::Miss };
        context.log.count_lookup(CacheLevel::Edge, outcome);
        found
    }

    /// Fills the cache in the background, with a separate read: a teed stream would buffer in memory whatever
    /// the slower reader has not yet read. Without effect where the cache fills itself or keeps nothing.
    pub(super) fn fill(
        self: &Rc<Self>,
        store: Store,
        (host, digest, path, size): (String, Digest, Path, u64),
        context: &Context,
    ) {
        let now = self.clock.now();
        let is_under_way =
            |started: Option<&Timestamp>| started.is_some_and(|started| started.plus_seconds(LOST) > now);
        if size > self.limit
            || context.edge_cache.has_entry_points()
            || self.keeps(&host) == Some(false)
            || is_under_way(self.filling.borrow().get(&digest))
        {
            return;
        }
        self.filling.borrow_mut().insert(digest.clone(), now);
        let (edge, log, cache) = (self.clone(), context.log.clone(), context.edge_cache.clone());
        context.background.spawn(Box::pin(async move {
            let filled = async {
                if edge.keeps(&host).is_none() {
                    let keeps = keeps(&*cache, &host).await;
                    edge.keeps.replace(Some((host.clone(), keeps)));
                    if !keeps {
                        return Err("the cache keeps nothing".to_owned());
                    }
                }
                let object = store.get(&path, None).await.map_err(|error| error.to_string())?;
                let object = object.ok_or("the blob is gone")?;
                cache.put(&host, &digest, size, object.body).await
            };
            if let Err(message) = filled.await {
                log.write(Level::Debug, || {
                    let digest = digest.to_string();
                    json!({"level": "debug", "id": log.id, "edge_cache": digest, "message": message})
                });
            }
            edge.filling.borrow_mut().remove(&digest);
        }));
    }

    /// Whether the cache keeps entries for `host`; `None` if not known.
    fn keeps(&self, host: &str) -> Option<bool> {
        let keeps = self.keeps.borrow();
        keeps.as_ref().filter(|(last, _)| last == host).map(|(_, keeps)| *keeps)
    }
}

/// Whether the cache keeps an entry for `host`.
async fn keeps(cache: &dyn EdgeCache, host: &str) -> bool {
    let (digest, size) = (Algorithm::Sha256.digest(PROBE), PROBE.len() as u64);
    if cache.put(host, &digest, size, Body::Bytes(PROBE.into())).await.is_err() {
        return false;
    }
    let found = cache.get(host, &digest, size, None).await;
    found.map(Body::cancel).is_some()
}
