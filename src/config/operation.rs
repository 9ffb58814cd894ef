//! Middleware and log settings.

use super::Vars;
use crate::platform::Level;

/// Middleware and logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationConfig {
    /// `MIDDLEWARE`: HTTP middleware to enable, innermost first.
    pub middleware: Vec<Middleware>,
    /// `LOG_LEVEL`: verbosity of the log.
    pub log_level: Level,
}

/// Optional HTTP middleware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middleware {
    /// `server-timing`: adds the duration and cost of a request to its response.
    ServerTiming,
}

impl OperationConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            middleware: vars.read("MIDDLEWARE", default.middleware, middleware),
            log_level: vars.parse("LOG_LEVEL", default.log_level),
        }
    }
}

/// Names separated by spaces or commas; `none` is the empty list.
fn middleware(text: &str) -> Result<Vec<Middleware>, String> {
    let named = |name: &str| match name {
        "server-timing" => Some(Middleware::ServerTiming),
        _ => None,
    };
    let names = text.split([' ', ',']).filter(|name| !matches!(*name, "" | "none"));
    names.map(named).collect::<Option<_>>().ok_or_else(|| "`none`, or a list of server-timing".to_owned())
}
