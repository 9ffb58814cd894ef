//! The edge cache of blob bodies, with a size limit and one concurrent fill per blob.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use serde_json::json;

use crate::{
    context::Context,
    oci::Digest,
    platform::{Body, ByteRange, Clock, EdgeCache, Level, Timestamp},
    storage::{Path, Store},
};

/// Time after which a fill counts as lost, in seconds: the runtime may drop one silently.
const LOST: u64 = 60;

/// The platform's cache, with a limit on the size of blobs.
pub struct Edge {
    cache: Rc<dyn EdgeCache>,
    limit: u64,
    clock: Rc<dyn Clock>,
    filling: RefCell<HashMap<Digest, Timestamp>>,
}

impl Edge {
    /// A cache for blobs of up to `limit` bytes.
    pub fn new(cache: Rc<dyn EdgeCache>, limit: u64, clock: Rc<dyn Clock>) -> Self {
        Self { cache, limit, clock, filling: RefCell::default() }
    }

    /// A blob, or a range of it; `None` if it is not cached.
    pub(super) async fn get(
        &self,
        host: &str,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> Option<Body> {
        if size > self.limit { None } else { self.cache.get(host, digest, size, range).await }
    }

    /// Fills the cache in the background, with a separate read: a teed stream would buffer in memory whatever
    /// the slower reader has not yet read.
    pub(super) fn fill(
        self: &Rc<Self>,
        store: Store,
        (host, digest, path, size): (String, Digest, Path, u64),
        context: &Context,
    ) {
        let now = self.clock.now();
        let is_under_way =
            |started: Option<&Timestamp>| started.is_some_and(|started| started.plus_seconds(LOST) > now);
        if size > self.limit || is_under_way(self.filling.borrow().get(&digest)) {
            return;
        }
        self.filling.borrow_mut().insert(digest.clone(), now);
        let (edge, log) = (self.clone(), context.log.clone());
        context.background.spawn(Box::pin(async move {
            let filled = async {
                let object = store.get(&path, None).await.map_err(|error| error.to_string())?;
                let object = object.ok_or("the blob is gone")?;
                edge.cache.put(&host, &digest, size, object.body).await
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
}
