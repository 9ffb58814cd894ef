//! Adds `Server-Timing`: duration, storage calls and descriptor cache look-ups of a request.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::HeaderName;

use crate::{
    api::{Handler, Request, Response, headers},
    context::Context,
    platform::Clock,
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

pub(super) struct ServerTiming {
    pub inner: Rc<dyn Handler>,
    pub clock: Rc<dyn Clock>,
}

impl Handler for ServerTiming {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let (started, log) = (self.clock.now(), context.log.clone());
            let mut response = self.inner.handle(request, context).await;
            let total = self.clock.now().milliseconds_since(started);
            let ((calls, storage), cache) = (log.storage_calls(), log.cache_counts());
            let timing = format!(
                "total;dur={total}, storage;dur={storage};desc=\"{calls} calls\", \
                 cache;desc=\"memory {}, edge {}, kv {}, miss {}, error {}\"",
                cache.memory, cache.edge, cache.kv, cache.miss, cache.error
            );
            headers::set(response.headers_mut(), SERVER_TIMING, timing);
            response
        })
    }
}
