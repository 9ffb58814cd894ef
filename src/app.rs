//! The state shared by the requests and jobs of an isolate, and its composition.

mod checks;
mod counted;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use serde_json::json;
use uuid::Uuid;

use self::counted::Counted;

use crate::{
    auth::{
        Identity, Policy, Principal,
        identity::{
            attempts::Attempts,
            basic::Passwords,
            external::{Issuer, Issuers, Means, TokenServer},
            keys::ApiKeys,
        },
    },
    blobs::{Blobs, Cache, Edge, Freshness},
    config::{CacheConfig, Config},
    context::Context,
    events::{Broadcaster, Durable, Endpoint, Event, Events, Gatherer, Lanes, Outbox, Queue},
    oci::{Glob, RepositoryName, UploadId},
    platform::{
        Background, Body, Buffers, Clock, Content, DocumentClient, EdgeCache, Health, Level, Limiter,
        Metrics, Operation, ReadError, RequestLog, Reserved, Sink, Verifier, budget,
        metrics::{Points, Sender},
    },
    redirect::{Mode, Redirects, presigned::Presigned, signed::Signed},
    repository::{
        Repository, RepositoryError,
        cached::Cached,
        deployment::Deployment,
        facts::Facts,
        listening::Listening,
        ordered::Ordered,
        pulls::PullNotes,
        stored::Stored,
        writer::protocol::{Call, Command, Reply, Writers},
    },
    secret::SecretStore,
    storage::Store,
    uploads::{CallError, UploadSessions, Uploads},
};

/// The parts that a platform provides.
pub struct Platform {
    /// Primary storage.
    pub store: Store,
    /// The second level of the descriptor cache, behind the isolate's memory.
    pub kv: Option<Store>,
    /// The client of upload sessions.
    pub sessions: Rc<dyn UploadSessions>,
    /// The client of the repositories' writers.
    pub writers: Rc<dyn Writers>,
    /// The producer of the queue of events; `None` if there is none: events are off.
    pub queue: Option<Rc<dyn Queue>>,
    /// The client of event endpoints' lanes.
    pub lanes: Rc<dyn Lanes>,
    /// Buffers for upload parts.
    pub buffers: Rc<dyn Buffers>,
    /// The cache near the client, unless a request has its own.
    pub edge_cache: Rc<dyn EdgeCache>,
    /// Source of the current time.
    pub clock: Rc<dyn Clock>,
    /// The destination of log lines.
    pub sink: Rc<dyn Sink>,
    /// Metrics and health.
    pub operation: Operation,
    /// Fetches the keys of token issuers.
    pub documents: Rc<dyn DocumentClient>,
    /// Verifies signatures of token issuers, and of manifests.
    pub verifier: Rc<dyn Verifier>,
    /// Limits failed logins; `None` for no limit.
    pub logins: Option<Rc<dyn Limiter>>,
    /// Limits requests by identity; `None` for no limit.
    pub requests: Option<Rc<dyn Limiter>>,
    /// Random salt for hashes of credentials in memory.
    pub salt: [u8; 16],
}

/// The state shared by the requests and jobs of an isolate.
pub struct App {
    /// The settings.
    pub config: Config,
    /// Authentication.
    pub identity: Identity,
    /// Authorization.
    pub policy: Rc<Policy>,
    /// Limits requests by identity; `None` for no limit.
    pub requests: Option<Rc<dyn Limiter>>,
    /// Redirects of blob pulls.
    pub redirects: Redirects,
    /// Verifies signatures of manifests.
    pub verifier: Rc<dyn Verifier>,
    /// The key for upload locations.
    pub secret: Rc<SecretStore>,
    /// Source of the current time.
    pub clock: Rc<dyn Clock>,
    /// The client of event endpoints' lanes.
    pub lanes: Rc<dyn Lanes>,
    /// What the isolate has counted.
    pub metrics: Rc<Metrics>,
    /// Sends it, if there is somebody to send it to.
    pub sender: Option<Rc<Sender>>,
    /// The destination of a data point for each request.
    pub points: Option<Rc<dyn Points>>,
    /// The checks of the bindings.
    pub health: Health,
    /// Notes when manifests are pulled.
    pub pull_notes: PullNotes,
    store: Store,
    cache: Cache,
    facts: Rc<Facts>,
    edge_cache: Rc<dyn EdgeCache>,
    has_foreign_links: Rc<Cell<bool>>,
    sessions: Rc<dyn UploadSessions>,
    writers: Rc<dyn Writers>,
    deployment: Rc<Deployment>,
    queue: Option<Rc<dyn Queue>>,
    pulls: Option<Rc<Gatherer>>,
    endpoints: Rc<[Endpoint]>,
    /// Names the isolate in events.
    instance: Uuid,
    buffers: Rc<dyn Buffers>,
    sink: Rc<dyn Sink>,
}

impl App {
    /// Composes the registry from settings and a platform.
    pub fn new(config: Config, platform: Platform) -> Self {
        let Platform { store, kv, sessions, writers, queue, lanes, .. } = platform;
        let Platform { buffers, edge_cache, clock, sink, operation, requests, .. } = platform;
        let Platform { documents, verifier, logins, salt, .. } = platform;
        let (queue, endpoints) = listeners(&config, queue, &*sink);
        let Operation { collector, points, probes } = operation;
        let metrics = Rc::new(Metrics::default());
        let metered = |store: Store| store.metered(metrics.clone(), clock.clone());
        let (store, kv) = (metered(store), kv.map(metered));
        let mut checks =
            vec![("bucket", checks::bucket(store.clone(), clock.clone())), ("kv", checks::kv(kv.clone()))];
        checks.extend(probes);
        let health = Health::new(checks, config.operation.health_threshold, clock.clone());
        let sender = |collector| Rc::new(Sender::new(metrics.clone(), collector, clock.clone()));
        let sender = collector.map(sender);
        let rules = Rc::new(config.retention.rules.clone());
        let pull_notes = PullNotes::new(store.clone(), clock.clone(), rules);
        let store = store.retrying(clock.clone());
        let secret = Rc::new(SecretStore::new(store.clone(), config.auth.signing.clone()));
        let pulls = queue.clone().map(|queue| Gatherer::new(queue, clock.clone()));
        let CacheConfig { edge_bytes, tag_seconds, digest_seconds, .. } = config.cache;
        let cache = Cache::new(budget::limits::CACHE, kv, Edge::new(edge_bytes, clock.clone()));
        let means = Means { client: documents, verifier: verifier.clone(), clock: clock.clone() };
        let identity = identity(&config, (salt, logins), means, &store, &secret);
        Self {
            policy: identity.policy.clone(),
            identity,
            requests,
            redirects: redirects(&config, &secret, &clock),
            facts: Rc::new(Facts::new(tag_seconds, digest_seconds, cache.clone(), clock.clone())),
            cache,
            edge_cache,
            has_foreign_links: Rc::default(),
            config,
            verifier,
            secret,
            clock,
            lanes,
            endpoints,
            metrics,
            sender,
            points,
            health,
            pull_notes,
            store,
            sessions,
            writers,
            deployment: Rc::default(),
            pulls,
            queue,
            instance: Uuid::new_v4(),
            buffers,
            sink,
        }
    }

    /// The context of a request or job run; `id` appears in its log lines.
    pub fn context(&self, principal: Principal, id: String, background: Rc<dyn Background>) -> Context {
        let log = RequestLog::new(self.config.operation.log_level, id, self.sink.clone());
        let log = Rc::new(log.with_metrics(self.metrics.clone()));
        let edge_cache = self.edge_cache.clone();
        let principal = Rc::new(principal);
        Context { principal, grants: None, log, background, edge_cache, notes: Rc::default() }
    }

    /// What tells of changes that are made in this context; `None` if events are off.
    pub fn events(&self, context: &Context) -> Option<Events> {
        let queue = self.queue.clone()?;
        let (outbox, clock, log) = (self.outbox(context), self.clock.clone(), context.log.clone());
        let durable = Durable { queue, outbox, clock, log };
        Some(Events {
            sink: Rc::new(durable),
            wants: self.wants(),
            instance: self.instance,
            references: self.config.events.references,
        })
    }

    /// Gathers the events of pulls; `None` if events are off.
    pub fn pulls(&self) -> Option<&Rc<Gatherer>> {
        self.pulls.as_ref()
    }

    /// The producer of the queue of events.
    pub fn queue(&self) -> Option<&Rc<dyn Queue>> {
        self.queue.as_ref()
    }

    /// Hands events over to the endpoints that want them.
    pub fn broadcaster(&self) -> Broadcaster {
        Broadcaster { endpoints: self.endpoints.clone(), lanes: self.lanes.clone() }
    }

    fn wants(&self) -> Rc<dyn Fn(&Event) -> bool> {
        let endpoints = self.endpoints.clone();
        Rc::new(move |event| endpoints.iter().any(|endpoint| endpoint.wants(event)))
    }

    /// The events that are not delivered yet.
    pub fn outbox(&self, context: &Context) -> Outbox {
        Outbox { store: self.store(context) }
    }

    /// Sends what the isolate has counted, in the background: see [`Sender::send_later`].
    pub fn send_metrics(&self, context: &Context) {
        if let Some(sender) = &self.sender {
            sender.send_later(&*context.background);
        }
    }

    /// The store, with calls counted and logged in this context.
    pub fn store(&self, context: &Context) -> Store {
        self.store.traced(context.log.clone(), self.clock.clone())
    }

    /// The blobs, with the isolate's caches.
    pub fn blobs(&self, context: &Context) -> Blobs {
        Blobs::new(self.store(context), self.cache.clone(), self.clock.clone(), context.clone())
    }

    /// A repository, with its decorators. What it has is read from the store.
    pub fn repository(&self, name: &RepositoryName, context: &Context) -> Rc<dyn Repository> {
        self.compose(name, Freshness::Strict, (self.policy.immutable(name), None), context)
    }

    /// A repository for a pull: answers may be as old as the configuration allows.
    pub fn repository_for_pull(&self, name: &RepositoryName, context: &Context) -> Rc<dyn Repository> {
        self.compose(name, Freshness::Cached, (self.policy.immutable(name), None), context)
    }

    /// A repository for an administrator who removes what is in it: its immutable tags go too. With a `removal`, only while
    /// the repository is closed by it.
    pub fn repository_to_remove(
        &self,
        name: &RepositoryName,
        removal: Option<Uuid>,
        context: &Context,
    ) -> Rc<dyn Repository> {
        self.compose(name, Freshness::Strict, (Vec::new(), removal), context)
    }

    /// Sends a command to the writer of a repository that is being removed; `false` if there was nothing to do.
    pub async fn command_removal(
        &self,
        name: &RepositoryName,
        removal: Option<Uuid>,
        command: Command,
        context: &Context,
    ) -> Result<bool, RepositoryError> {
        self.check_deployment(context).await?;
        let writers: Rc<dyn Writers> =
            Rc::new(Counted { inner: self.writers.clone(), log: context.log.clone() });
        Ok(writers.call(name, Call { command, origin: None, removal }).await? == Reply::Done)
    }

    /// The cached answers about repositories.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Fails if the bucket belongs to another deployment.
    pub async fn check_deployment(&self, context: &Context) -> Result<(), RepositoryError> {
        self.deployment.check(&self.store(context), &*self.writers).await
    }

    /// A repository as the bucket has it, for its writer.
    pub fn stored(&self, name: &RepositoryName, context: &Context) -> Stored {
        Stored::new(name.clone(), self.blobs(context), self.has_foreign_links.clone())
    }

    fn compose(
        &self,
        name: &RepositoryName,
        freshness: Freshness,
        (immutable, removal): (Vec<Glob>, Option<Uuid>),
        context: &Context,
    ) -> Rc<dyn Repository> {
        let (blobs, facts) = (self.blobs(context), self.facts.clone());
        let ordered = Ordered {
            name: name.clone(),
            stored: self.stored(name, context),
            blobs: blobs.clone(),
            writers: Rc::new(Counted { inner: self.writers.clone(), log: context.log.clone() }),
            deployment: self.deployment.clone(),
            immutable,
            quota: self.policy.quota(name).cloned(),
            missing_blobs: self.config.repositories.missing_blobs.of(name),
            removal,
            told: self.queue.is_some().then(|| context.clone()),
        };
        let (name, context) = (name.clone(), context.clone());
        let cached: Rc<dyn Repository> = Rc::new(Cached {
            inner: Rc::new(ordered),
            name: name.clone(),
            facts,
            freshness,
            blobs,
            context: context.clone(),
        });
        match self.queue {
            None => cached,
            Some(_) => Rc::new(Listening {
                inner: cached,
                name,
                context,
                clock: self.clock.clone(),
                instance: self.instance,
                wants: self.wants(),
                references: self.config.events.references,
                found: RefCell::default(),
            }),
        }
    }

    /// Reads a client's body into memory: see [`Body::read_counted`].
    pub async fn read(
        &self,
        body: Body,
        limit: usize,
        counted: fn(usize) -> usize,
    ) -> Result<Content, ReadError> {
        body.read_counted(limit, counted, &*self.buffers).await
    }

    /// Counts memory that a request holds, until the answer is dropped; waits while too much is in use.
    pub async fn reserve(&self, bytes: usize) -> Result<Box<dyn Reserved>, ReadError> {
        self.buffers.reserve(bytes).await
    }

    /// Lends memory for bytes on their way to storage.
    pub fn buffers(&self) -> &dyn Buffers {
        &*self.buffers
    }

    /// The id of a new upload.
    pub fn new_upload_id(&self) -> Result<UploadId, CallError> {
        self.sessions.new_id()
    }

    /// The uploads to a repository.
    pub fn uploads(&self, name: &RepositoryName, context: &Context) -> Uploads {
        Uploads {
            repository: self.repository(name, context),
            blobs: self.blobs(context),
            sessions: Rc::new(Counted { inner: self.sessions.clone(), log: context.log.clone() }),
            buffers: self.buffers.clone(),
            clock: self.clock.clone(),
            context: context.clone(),
        }
    }
}

/// The queue, if there is one and an endpoint that wants events; and the endpoints.
fn listeners(
    config: &Config,
    queue: Option<Rc<dyn Queue>>,
    sink: &dyn Sink,
) -> (Option<Rc<dyn Queue>>, Rc<[Endpoint]>) {
    let endpoints: Rc<[Endpoint]> = config.events.endpoints.clone().into();
    if queue.is_none() && config.operation.log_level >= Level::Info {
        sink.line(
            json!({"level": "info", "message": "events are off: there is no queue, the binding EVENTS"}),
        );
    }
    let is_listening = endpoints.iter().any(|endpoint| !endpoint.disabled);
    (queue.filter(|_| is_listening), endpoints)
}

fn identity(
    config: &Config,
    (salt, logins): ([u8; 16], Option<Rc<dyn Limiter>>),
    means: Means,
    store: &Store,
    secrets: &Rc<SecretStore>,
) -> Identity {
    let (auth, clock) = (&config.auth, &means.clock);
    let claims = |issuer: &Issuer| {
        let claims = auth.policy.claims_of(&issuer.name);
        (issuer.clone(), claims.into_iter().map(str::to_owned).collect())
    };
    let issuers = auth.policy.issuers().iter().map(claims).collect();
    let server = |settings| TokenServer::new(settings, auth.private_issuers, &means);
    let passwords = Passwords::new(auth.users.clone(), auth.admin.clone(), salt);
    Identity {
        is_open: auth.is_open,
        policy: Rc::new(auth.policy.clone()),
        passwords,
        attempts: Attempts::new(logins, clock.clone()),
        keys: ApiKeys::new(store.clone(), clock.clone()),
        issuers: Issuers::new(issuers, auth.private_issuers, &means),
        token_server: auth.token_server.as_ref().map(server),
        secrets: secrets.clone(),
        clock: clock.clone(),
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
