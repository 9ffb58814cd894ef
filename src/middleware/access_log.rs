//! Logs each request at debug level, and failures always.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use serde_json::json;

use crate::{
    api::{Handler, LogLine, Request, Response},
    context::Context,
    platform::{Clock, Level},
};

pub(super) struct AccessLog {
    pub inner: Rc<dyn Handler>,
    pub clock: Rc<dyn Clock>,
}

impl Handler for AccessLog {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            // Without the query, which may contain a signature.
            let line = format!("{} {}", request.method(), request.uri().path());
            let (started, log) = (self.clock.now(), context.log.clone());
            let response = self.inner.handle(request, context).await;
            let status = response.status().as_u16();
            if let Some(LogLine(message)) = response.extensions().get() {
                log.write(Level::Error, || {
                    json!({"level": "error", "id": log.id, "request": line, "status": status, "message": message})
                });
            }
            log.write(Level::Debug, || {
                let (calls, milliseconds) = log.storage_calls();
                json!({
                    "level": "debug",
                    "id": log.id,
                    "request": line,
                    "status": status,
                    "milliseconds": self.clock.now().milliseconds_since(started),
                    "storage": {"calls": calls, "milliseconds": milliseconds},
                    "cache": log.cache_counts(),
                })
            });
            response
        })
    }
}
