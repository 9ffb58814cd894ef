//! What is put around the registry's parts: a list in the configuration, applied in its order.
//!
//! As in `distribution`, there are three kinds. Storage middleware decorates the driver, repository middleware
//! decorates [`ByDigest`], registry middleware decorates the [`Handler`] of requests. What comes later in the
//! list is further out. A new one is a decorator in a file of its own, a name here, and a line in
//! `Shared::compose`.

use std::{fmt, rc::Rc, str::FromStr};

use futures_util::future::LocalBoxFuture;
use http::HeaderName;

use crate::{
    api::{Platform, Registry, Request, Response, Shared, headers},
    background::Background,
    clock::Clock,
    content::{
        by_digest::{ByDigest, Stored},
        cache::Cached,
    },
    log::RequestLog,
    storage::{Driver, redirect::RedirectSigner, trace::Traced},
};

/// One of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middleware {
    /// `storage:redirect`: the driver has URLs from the signers that the configuration names.
    StorageRedirect,
    /// `storage:trace`: calls to the driver are counted, and logged at debug level.
    StorageTrace,
    /// `repository:cache`: what digests stand for is remembered.
    RepositoryCache,
    /// `registry:server-timing`: answers say how long they took, and with what.
    RegistryServerTiming,
}

impl Middleware {
    const ALL: [Self; 4] =
        [Self::StorageRedirect, Self::StorageTrace, Self::RepositoryCache, Self::RegistryServerTiming];

    fn as_str(self) -> &'static str {
        match self {
            Self::StorageRedirect => "storage:redirect",
            Self::StorageTrace => "storage:trace",
            Self::RepositoryCache => "repository:cache",
            Self::RegistryServerTiming => "registry:server-timing",
        }
    }
}

/// The list.
#[derive(Clone, PartialEq, Eq)]
pub struct Middlewares(Vec<Middleware>);

impl Default for Middlewares {
    fn default() -> Self {
        Self(vec![Middleware::StorageRedirect, Middleware::StorageTrace, Middleware::RepositoryCache])
    }
}

impl fmt::Debug for Middlewares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|middleware| middleware.as_str())).finish()
    }
}

impl FromStr for Middlewares {
    type Err = String;

    /// Names with spaces or commas between; `none` is the empty list.
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(Self(Vec::new()));
        }
        let named = |name: &str| Middleware::ALL.into_iter().find(|middleware| middleware.as_str() == name);
        let names = s.split([' ', ',']).filter(|name| !name.is_empty());
        names.map(named).collect::<Option<_>>().map(Self).ok_or_else(|| {
            let all = Middleware::ALL.map(Middleware::as_str).join(", ");
            format!("`none`, or a list of {all}")
        })
    }
}

/// Answers requests.
pub trait Handler<P: Platform> {
    /// The answer; never fails.
    fn handle(&self, request: Request<P>) -> LocalBoxFuture<'_, Response<P>>;
}

impl<P: Platform> Handler<P> for Registry<P> {
    fn handle(&self, request: Request<P>) -> LocalBoxFuture<'_, Response<P>> {
        Box::pin(Registry::handle(self, request))
    }
}

impl<P: Platform> Shared<P> {
    /// The registry for one request, with everything around it.
    pub(crate) fn compose(
        self: &Rc<Self>,
        background: Rc<dyn Background>,
        log: Rc<RequestLog>,
    ) -> Rc<dyn Handler<P>> {
        let list = &self.parts.config.middleware.0;
        let mut storage = self.parts.storage.clone();
        for middleware in list {
            storage = match middleware {
                Middleware::StorageRedirect => storage.redirecting(self.signers()),
                Middleware::StorageTrace => {
                    let (log, clock) = (log.clone(), self.parts.clock.clone());
                    Driver::new(Traced { inner: storage, log, clock })
                }
                Middleware::RepositoryCache | Middleware::RegistryServerTiming => storage,
            };
        }
        let mut by_digest: Rc<dyn ByDigest> = Rc::new(Stored(storage.clone()));
        for _ in list.iter().filter(|middleware| **middleware == Middleware::RepositoryCache) {
            by_digest = Rc::new(Cached {
                inner: by_digest,
                memory: self.memory.clone(),
                far: self.parts.far.clone(),
                background: background.clone(),
                log: log.clone(),
            });
        }
        let registry = Registry { shared: self.clone(), storage, by_digest, background, log: log.clone() };
        let mut handler: Rc<dyn Handler<P>> = Rc::new(registry);
        for _ in list.iter().filter(|middleware| **middleware == Middleware::RegistryServerTiming) {
            handler =
                Rc::new(ServerTiming { inner: handler, log: log.clone(), clock: self.parts.clock.clone() });
        }
        handler
    }

    fn signers(&self) -> Vec<Rc<dyn RedirectSigner>> {
        let presigned = self.presigned.clone().map(|signer| signer as Rc<dyn RedirectSigner>);
        let signed = self.signed.clone().map(|signer| signer as Rc<dyn RedirectSigner>);
        presigned.into_iter().chain(signed).collect()
    }
}

/// Adds `Server-Timing`: the whole request, its calls to storage, its looks into the cache.
struct ServerTiming<P: Platform> {
    inner: Rc<dyn Handler<P>>,
    log: Rc<RequestLog>,
    clock: Rc<dyn Clock>,
}

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

impl<P: Platform> Handler<P> for ServerTiming<P> {
    fn handle(&self, request: Request<P>) -> LocalBoxFuture<'_, Response<P>> {
        Box::pin(async {
            let begun = self.clock.now();
            let mut response = self.inner.handle(request).await;
            let total = self.clock.now().0.saturating_sub(begun.0);
            let ((calls, storage), cache) = (self.log.storage(), self.log.cache_counts());
            let timing = format!(
                "total;dur={total}, storage;dur={storage};desc=\"{calls} calls\", \
                 cache;desc=\"memory {}, far {}, miss {}, error {}\"",
                cache.memory, cache.far, cache.miss, cache.error
            );
            headers::set(response.headers_mut(), SERVER_TIMING, timing);
            response
        })
    }
}
