//! Health: whether the worker is alive, and whether its bindings work.

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{Error, Registry, Response, json as json_response};
use crate::platform::{Level, health::Report};

impl Registry<'_> {
    /// `GET /healthz`: the worker runs, and its settings are valid.
    pub(super) fn healthz(&self) -> Response {
        uncached(json!({"status": "ok"}))
    }

    /// `GET /readyz`: exercises every binding, unless a report is recent. 503 if one fails.
    pub(super) async fn readyz(&self) -> Result<Response, Error> {
        let (report, is_new) = self.app.health.report().await;
        if is_new {
            self.log_failures(&report);
        }
        let status = if report.is_ready() { "ok" } else { "failing" };
        let mut response = uncached(json!({"status": status, "checks": report.checks}));
        if !report.is_ready() {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(response)
    }

    /// The answer has only the kind of a failure: anyone may read it.
    fn log_failures(&self, report: &Report) {
        let log = &self.context.log;
        for check in report.checks.iter().filter(|check| check.message.is_some()) {
            log.write(Level::Error, || {
                json!({
                    "level": "error",
                    "id": log.id,
                    "health": check.name,
                    "failures": check.failures,
                    "message": check.message,
                })
            });
        }
    }
}

fn uncached(body: Value) -> Response {
    let mut response = json_response(body.to_string());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
