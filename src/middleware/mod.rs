//! HTTP middleware around the API. Each is a file.

mod access_log;
mod audit;
mod cors;
mod metrics;
mod noting;
mod server_timing;
mod telling;

use std::{cell::Cell, rc::Rc};

use http::{Method, header};

use self::{
    access_log::AccessLog,
    metrics::{Fills, Metrics},
};
use crate::{
    api::{Api, Handler, Response, inner::Inner},
    app::App,
    config::Middleware,
    platform::{Level, RequestLog},
};

pub use access_log::request_id;

/// The inner entry points, with metrics and the access log. Their answers are cached, so they name no request.
pub fn inner(app: &Rc<App>) -> impl Handler + use<> {
    let inner = Rc::new(Fills { inner: Rc::new(Inner { app: app.clone() }), app: app.clone() });
    AccessLog { inner, clock: app.clock.clone(), level: Level::Debug, is_named: false }
}

/// The API with the middleware that the configuration enables, innermost first; metrics and the access log are outermost.
pub fn stack(app: &Rc<App>) -> Rc<dyn Handler> {
    let mut handler: Rc<dyn Handler> = Rc::new(Api { app: app.clone() });
    if app.pulls().is_some() {
        handler = Rc::new(telling::Telling { inner: handler, app: app.clone(), has_begun: Cell::default() });
    }
    for middleware in &app.config.operation.middleware {
        handler = match middleware {
            Middleware::ServerTiming => {
                Rc::new(server_timing::ServerTiming { inner: handler, clock: app.clock.clone() })
            }
        };
    }
    handler = Rc::new(audit::Audit { inner: handler });
    let origins = &app.config.operation.cors_origins;
    if !origins.is_empty() {
        handler = Rc::new(cors::Cors { inner: handler, origins: origins.clone() });
    }
    let inner = Rc::new(Metrics { inner: handler, app: app.clone() });
    let inner = Rc::new(AccessLog { inner, clock: app.clock.clone(), level: Level::Info, is_named: true });
    Rc::new(noting::Noting { inner })
}

/// The lengths of the bodies of a request and its answer, in bytes.
struct Sizes {
    received: u64,
    sent: u64,
}

impl Sizes {
    /// `length` is that of the request's body, if it announced one. Streams do not pass through WebAssembly: of an answer,
    /// what it announces counts, whether or not the client takes it.
    fn of(length: Option<u64>, response: &Response, log: &RequestLog) -> Self {
        let announced = || response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let sent = response.body().content_length().or_else(announced).unwrap_or_default();
        Self { received: length.unwrap_or_else(|| log.received()), sent }
    }
}

/// A method as a label: clients may send any.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
