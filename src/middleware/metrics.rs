//! Counts each request, and sends what the isolate has counted once the answer is on its way.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::{Sizes, method_name};
use crate::{
    api::{ErrorCode, Handler, Matched, Request, Response},
    app::App,
    context::Context,
    platform::metrics::{CacheLevel, Lookup, Point},
};

pub(super) struct Metrics {
    pub inner: Rc<dyn Handler>,
    pub app: Rc<App>,
}

impl Handler for Metrics {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let started = self.app.clock.now();
            let (method, length) = (method_name(request.method()), request.body().content_length());
            let response = self.inner.handle(request, context.clone()).await;
            let log = &context.log;
            let Sizes { received, sent } = Sizes::of(length, &response, log);
            let extensions = response.extensions();
            let matched = extensions.get::<Matched>();
            let ((storage_calls, storage_milliseconds), cache) = (log.storage_calls(), log.cache_counts());
            let point = Point {
                route: matched.map_or("none", Matched::route_name),
                method,
                status: response.status().as_u16(),
                repository: matched.and_then(Matched::repository).map(ToString::to_string),
                code: extensions.get::<ErrorCode>().map(|code| code.as_str()),
                milliseconds: self.app.clock.now().milliseconds_since(started),
                received,
                sent,
                storage_calls,
                storage_milliseconds,
                rounds: log.rounds(),
                cache_hits: cache.memory + cache.edge + cache.kv,
                cache_misses: cache.miss,
            };
            self.app.metrics.count_request(&point);
            if let Some(points) = &self.app.points {
                points.write(&point);
            }
            self.app.send_metrics(&context);
            response
        })
    }
}

/// Counts the requests of the platform's cache, which it makes when it has no answer.
pub(super) struct Fills {
    pub inner: Rc<dyn Handler>,
    pub app: Rc<App>,
}

impl Handler for Fills {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let response = self.inner.handle(request, context.clone()).await;
            // Otherwise the lookup is a miss.
            if response.status().is_success() {
                self.app.metrics.count_lookup(CacheLevel::Edge, Lookup::Fill);
            }
            self.app.send_metrics(&context);
            response
        })
    }
}
