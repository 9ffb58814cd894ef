//! The edge cache: bodies of blobs near the client, under their digests.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use crate::{
    background::Background,
    body::{Body, ByteStream},
    clock::{Clock, Timestamp},
    log::{Level, RequestLog},
    oci::Digest,
    storage::{ByteRange, Driver, Path, StorageDriver},
};

/// The platform's cache of responses. It may forget anything at any time, and refuse anything.
pub trait EdgeCache {
    /// The platform's stream.
    type Stream: ByteStream;

    /// A blob of `size` bytes, or a range inside it, with exactly the length asked for; `None` when it is not
    /// there. `host` is the registry's own, under which the cache keeps things.
    async fn get(
        &self,
        host: &str,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> Option<Body<Self::Stream>>;

    /// Keeps a whole blob.
    async fn put(
        &self,
        host: &str,
        digest: &Digest,
        size: u64,
        body: Body<Self::Stream>,
    ) -> Result<(), String>;
}

/// After so long a fill counts as lost, in seconds: the runtime may drop one without telling us.
const LOST: u64 = 60;

/// The platform's cache, with a limit, filled once for each blob.
pub struct Edge<E> {
    cache: Rc<E>,
    limit: u64,
    clock: Rc<dyn Clock>,
    filling: RefCell<HashMap<Digest, Timestamp>>,
}

impl<E: EdgeCache + 'static> Edge<E> {
    /// A cache for blobs of up to `limit` bytes.
    pub fn new(cache: Rc<E>, limit: u64, clock: Rc<dyn Clock>) -> Self {
        Self { cache, limit, clock, filling: RefCell::default() }
    }

    /// What the cache has of a blob.
    pub async fn get(
        &self,
        host: &str,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> Option<Body<E::Stream>> {
        if size > self.limit { None } else { self.cache.get(host, digest, size, range).await }
    }

    /// Fills the cache in the background, with a read of its own: a stream that were split in two would hold
    /// in memory what the slower reader has not taken yet.
    pub fn fill(
        self: &Rc<Self>,
        storage: Driver<E::Stream>,
        blob: (String, Digest, Path, u64),
        background: &Rc<dyn Background>,
        log: Rc<RequestLog>,
    ) {
        let (host, digest, path, size) = blob;
        let now = self.clock.now();
        let is_under_way =
            |begun: Option<&Timestamp>| begun.is_some_and(|begun| begun.plus_seconds(LOST) > now);
        if size > self.limit || is_under_way(self.filling.borrow().get(&digest)) {
            return;
        }
        self.filling.borrow_mut().insert(digest.clone(), now);
        let edge = self.clone();
        background.spawn(Box::pin(async move {
            let filled = async {
                let object = storage.get(&path, None).await.map_err(|error| error.to_string())?;
                let object = object.ok_or("the blob is gone")?;
                edge.cache.put(&host, &digest, size, object.body).await
            };
            if let Err(message) = filled.await {
                log.say(Level::Debug, || {
                    serde_json::json!({
                        "level": "debug", "id": log.id, "edge_cache": digest.to_string(), "message": message,
                    })
                });
            }
            edge.filling.borrow_mut().remove(&digest);
        }));
    }
}
