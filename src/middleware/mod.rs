//! HTTP middleware around the API. Each is a file.

mod access_log;
mod server_timing;
mod telling;

use std::{cell::Cell, rc::Rc};

use self::access_log::AccessLog;
use crate::{
    api::{Api, Handler, inner::Inner},
    app::App,
    config::Middleware,
};

/// The inner entry points, with the access log.
pub fn inner(app: &Rc<App>) -> impl Handler + use<> {
    AccessLog { inner: Rc::new(Inner { app: app.clone() }), clock: app.clock.clone() }
}

/// The API with the middleware that the configuration enables, innermost first; the access log is outermost.
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
    Rc::new(AccessLog { inner: handler, clock: app.clock.clone() })
}
