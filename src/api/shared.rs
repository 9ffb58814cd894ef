//! What all requests of an isolate share, and how one of them is answered with it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use serde_json::json;

use super::{LogLine, Platform, Request, Response};
use crate::{
    background::Background,
    clock::Clock,
    config::Config,
    content::{
        cache::{MEMORY, MemoryCache},
        tags::TagCache,
    },
    edge::Edge,
    log::{Level, RequestLog, Sink},
    secret::SecretStore,
    storage::{
        Driver,
        redirect::{Mode, presigned::Presigned, signed::Signed},
    },
};

/// What a platform brings to make a [`Shared`] of.
pub struct Parts<P: Platform> {
    /// Settings.
    pub config: Config,
    /// Storage.
    pub storage: Driver<P::Stream>,
    /// Upload sessions.
    pub uploads: P::Uploads,
    /// Rights.
    pub auth: P::Auth,
    /// The cache of bodies.
    pub edge: Rc<P::Edge>,
    /// The cache behind the isolate's memory.
    pub far: Option<Driver<P::Stream>>,
    /// Time.
    pub clock: Rc<dyn Clock>,
    /// Where log lines go.
    pub sink: Rc<dyn Sink>,
}

/// What all requests of an isolate share.
pub struct Shared<P: Platform> {
    /// What the platform has brought.
    pub parts: Parts<P>,
    /// The isolate's memory of what digests stand for.
    pub memory: Rc<RefCell<MemoryCache>>,
    /// The isolate's memory of tags.
    pub tags: TagCache,
    /// Bodies near the client.
    pub edge: Rc<Edge<P::Edge>>,
    /// What signs upload locations.
    pub secret: Rc<SecretStore<P::Stream>>,
    /// Makes presigned URLs, if any repository wants them.
    pub presigned: Option<Rc<Presigned>>,
    /// Makes and checks signed URLs, if any repository wants them.
    pub signed: Option<Rc<Signed<P::Stream>>>,
    /// Whether this isolate has met links without facts, as `distribution` writes them.
    pub has_foreign_links: Cell<bool>,
}

impl<P: Platform> Shared<P> {
    /// What an isolate's requests share, made of these parts.
    pub fn new(parts: Parts<P>) -> Rc<Self> {
        let Parts { config, storage, clock, .. } = &parts;
        let secret = Rc::new(SecretStore::new(storage.clone()));
        let presigned = config.s3.clone().filter(|_| config.redirects(Mode::Presigned)).map(|bucket| {
            let ttl = Duration::from_secs(config.blob_redirect_ttl_seconds);
            Rc::new(Presigned { bucket, ttl, clock: clock.clone() })
        });
        let signed = config.redirects(Mode::Signed).then(|| {
            Rc::new(Signed {
                keys: config.blob_redirect_keys.clone(),
                secret: secret.clone(),
                origin: config.blob_redirect_origin.clone(),
                ttl_seconds: config.blob_redirect_ttl_seconds,
                clock: clock.clone(),
            })
        });
        Rc::new(Self {
            tags: TagCache::new(config.tag_cache_seconds),
            edge: Rc::new(Edge::new(parts.edge.clone(), config.edge_cache_bytes, clock.clone())),
            memory: Rc::new(RefCell::new(MemoryCache::new(MEMORY))),
            has_foreign_links: Cell::new(false),
            secret,
            presigned,
            signed,
            parts,
        })
    }

    /// Answers a request, through the middleware. `id` names it in the log.
    pub async fn handle(
        self: &Rc<Self>,
        request: Request<P>,
        id: String,
        background: Rc<dyn Background>,
    ) -> Response<P> {
        let log = Rc::new(RequestLog::new(self.parts.config.log_level, id, self.parts.sink.clone()));
        // A path may hold nothing secret, a query may: it is a signed URL's whole point.
        let line = format!("{} {}", request.method(), request.uri().path());
        let begun = self.parts.clock.now();
        let response = self.compose(background, log.clone()).handle(request).await;
        let status = response.status().as_u16();
        if let Some(LogLine(message)) = response.extensions().get() {
            log.say(Level::Error, || {
                json!({"level": "error", "id": log.id, "request": line, "status": status, "message": message})
            });
        }
        log.say(Level::Debug, || {
            let (calls, milliseconds) = log.storage();
            json!({
                "level": "debug",
                "id": log.id,
                "request": line,
                "status": status,
                "milliseconds": self.parts.clock.now().0.saturating_sub(begun.0),
                "storage": {"calls": calls, "milliseconds": milliseconds},
                "cache": log.cache_counts(),
            })
        });
        response
    }
}
