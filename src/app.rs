//! What the requests and jobs of an isolate share, and how their parts are composed.

use std::{cell::Cell, rc::Rc, time::Duration};

use crate::{
    auth::{Identity, Policy, Principal},
    blobs::{Blobs, Cache, Edge, MEMORY},
    config::Config,
    context::Context,
    oci::RepositoryName,
    platform::{Background, Buffers, Clock, EdgeCache, RequestLog, Sink},
    redirect::{Mode, Redirects, presigned::Presigned, signed::Signed},
    repository::{
        Repository,
        cached::{Cached, TagCache},
        stored::Stored,
    },
    secret::SecretStore,
    storage::Store,
    uploads::{UploadSessions, Uploads},
};

/// What a platform brings.
pub struct Platform {
    /// Where everything is stored.
    pub store: Store,
    /// Where the descriptor cache continues after the isolate's memory, if anywhere.
    pub kv: Option<Store>,
    /// Where upload sessions live.
    pub sessions: Rc<dyn UploadSessions>,
    /// Where parts are buffered.
    pub buffers: Rc<dyn Buffers>,
    /// The cache of blob bodies.
    pub edge_cache: Rc<dyn EdgeCache>,
    /// The time.
    pub clock: Rc<dyn Clock>,
    /// Where log lines go.
    pub sink: Rc<dyn Sink>,
    /// Random bytes that protect passwords in memory.
    pub salt: [u8; 16],
}

/// What the requests and jobs of an isolate share.
pub struct App {
    /// The settings.
    pub config: Config,
    /// Who a request comes from.
    pub identity: Identity,
    /// What they may do.
    pub policy: Policy,
    /// Where clients are sent for the bytes of blobs.
    pub redirects: Redirects,
    /// The key for upload locations.
    pub secret: Rc<SecretStore>,
    /// The time.
    pub clock: Rc<dyn Clock>,
    store: Store,
    cache: Cache,
    tags: Rc<TagCache>,
    has_foreign_links: Rc<Cell<bool>>,
    sessions: Rc<dyn UploadSessions>,
    buffers: Rc<dyn Buffers>,
    sink: Rc<dyn Sink>,
}

impl App {
    /// The registry on this platform.
    pub fn new(config: Config, platform: Platform) -> Self {
        let Platform { store, kv, sessions, buffers, edge_cache, clock, sink, salt } = platform;
        let secret = Rc::new(SecretStore::new(store.clone()));
        Self {
            identity: Identity::new(config.auth.users.clone(), salt),
            policy: Policy { anonymous: config.auth.anonymous },
            redirects: redirects(&config, &secret, &clock),
            cache: Cache::new(MEMORY, kv, Edge::new(edge_cache, config.cache.edge_bytes, clock.clone())),
            tags: Rc::new(TagCache::new(config.cache.tag_seconds, clock.clone())),
            has_foreign_links: Rc::default(),
            config,
            secret,
            clock,
            store,
            sessions,
            buffers,
            sink,
        }
    }

    /// The context of a request or job run with this id.
    pub fn context(&self, principal: Principal, id: String, background: Rc<dyn Background>) -> Context {
        let log = Rc::new(RequestLog::new(self.config.operation.log_level, id, self.sink.clone()));
        Context { principal: Rc::new(principal), log, background }
    }

    /// The store, with its calls counted for this context.
    pub fn store(&self, context: &Context) -> Store {
        self.store.traced(context.log.clone(), self.clock.clone())
    }

    /// The blobs, with the isolate's caches.
    pub fn blobs(&self, context: &Context) -> Blobs {
        Blobs::new(self.store(context), self.cache.clone(), context.clone())
    }

    /// A repository, with its decorators.
    pub fn repository(&self, name: &RepositoryName, context: &Context) -> Rc<dyn Repository> {
        let blobs = self.blobs(context);
        let stored = Stored::new(name.clone(), blobs.clone(), self.has_foreign_links.clone());
        Rc::new(Cached { inner: Rc::new(stored), name: name.clone(), tags: self.tags.clone(), blobs })
    }

    /// The uploads to a repository.
    pub fn uploads(&self, name: &RepositoryName, context: &Context) -> Uploads {
        Uploads {
            repository: self.repository(name, context),
            blobs: self.blobs(context),
            sessions: self.sessions.clone(),
            buffers: self.buffers.clone(),
            context: context.clone(),
        }
    }
}

fn redirects(config: &Config, secret: &Rc<SecretStore>, clock: &Rc<dyn Clock>) -> Redirects {
    let settings = &config.redirect;
    let presigned =
        config.storage.s3.clone().filter(|_| settings.rules.uses(Mode::Presigned)).map(|bucket| Presigned {
            bucket,
            ttl: Duration::from_secs(settings.ttl_seconds),
            clock: clock.clone(),
        });
    let signed = settings.rules.uses(Mode::Signed).then(|| Signed {
        keys: settings.keys.clone(),
        secret: secret.clone(),
        origin: settings.origin.clone(),
        ttl_seconds: settings.ttl_seconds,
        clock: clock.clone(),
    });
    Redirects { rules: settings.rules.clone(), presigned, signed }
}
