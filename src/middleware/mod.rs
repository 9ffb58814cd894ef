//! HTTP middleware around the API. Each is a file.

mod access_log;
mod server_timing;

use std::rc::Rc;

use crate::{
    api::{Api, Handler},
    app::App,
    config::Middleware,
};

/// The API with the middleware that the configuration enables, innermost first; the access log is outermost.
pub fn stack(app: &Rc<App>) -> Rc<dyn Handler> {
    let mut handler: Rc<dyn Handler> = Rc::new(Api { app: app.clone() });
    for middleware in &app.config.operation.middleware {
        handler = match middleware {
            Middleware::ServerTiming => {
                Rc::new(server_timing::ServerTiming { inner: handler, clock: app.clock.clone() })
            }
        };
    }
    Rc::new(access_log::AccessLog { inner: handler, clock: app.clock.clone() })
}
