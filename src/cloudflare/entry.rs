//! The entry point of requests, and the state that an isolate keeps between them.

use std::{cell::RefCell, rc::Rc};

use js_sys::{Reflect, Symbol};
use serde_json::json;
use worker::{Context, Env, event};

use super::{
    bindings::{self, Console, WaitUntil},
    http::{read_request, write_response},
};
use crate::{
    api::{Error, Handler, refuse},
    app::App,
    auth::Principal,
    middleware,
    platform::Sink,
};

/// The name of the symbol with which `entry.mjs` marks the environment of inner entry points.
const INNER: &str = "pierhead.inner";

/// The state of an isolate.
#[derive(Clone)]
pub struct Isolate {
    /// State shared by requests and jobs.
    pub app: Rc<App>,
    handler: Rc<dyn Handler>,
}

thread_local! {
    /// Created by the first request: settings and bindings never change. An invalid configuration is not
    /// kept.
    static ISOLATE: RefCell<Option<Isolate>> = const { RefCell::new(None) };
}

/// The isolate's state, created on first use.
pub fn isolate(env: &Env) -> Result<Isolate, Error> {
    if let Some(isolate) = ISOLATE.with_borrow(Clone::clone) {
        return Ok(isolate);
    }
    let config = bindings::config(env)?;
    let platform = bindings::platform(env, &config)?;
    let app = Rc::new(App::new(config, platform));
    let isolate = Isolate { handler: middleware::stack(&app), app };
    ISOLATE.set(Some(isolate.clone()));
    Ok(isolate)
}

/// Whether `entry.mjs` calls an inner entry point. Neither clients nor settings can set the symbol.
fn is_inner(env: &Env) -> bool {
    Reflect::has(env, &Symbol::for_(INNER)).unwrap_or_default()
}

#[event(start)]
fn start() {
    console_error_panic_hook::set_once();
}

#[event(fetch)]
async fn fetch(request: worker::Request, env: Env, context: Context) -> worker::Result<worker::Response> {
    #[cfg(feature = "test-endpoints")]
    if let Some(response) = super::test_endpoints::answer(&request).await {
        return response;
    }
    let response = match isolate(&env) {
        Ok(Isolate { app, handler }) => {
            let is_inner = is_inner(&env);
            let near = match is_inner {
                true => None,
                false => bindings::edge_cache(&app.config, context.as_ref()),
            };
            let request = match read_request(&request) {
                Ok(request) => request,
                Err(error) => return write_response(refuse(&error)),
            };
            let id = middleware::request_id(request.headers());
            let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            let mut context = app.context(Principal::Anonymous, id, Rc::new(WaitUntil(context)));
            if is_inner {
                middleware::inner(&app).handle(request, context).await
            } else {
                context.edge_cache = near.unwrap_or(context.edge_cache);
                handler.handle(request, context).await
            }
        }
        Err(error) => {
            Console.line(json!({"level": "error", "message": error.log_line()}));
            refuse(&error)
        }
    };
    write_response(response)
}
