//! Settings of middleware, logs and health.

use super::Vars;
use crate::platform::Level;

/// Middleware, logs and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationConfig {
    /// `MIDDLEWARE`: HTTP middleware to enable, innermost first.
    pub middleware: Vec<Middleware>,
    /// `LOG_LEVEL`: verbosity of the log.
    pub log_level: Level,
    /// `HEALTH_THRESHOLD`: failed checks in turn after which a binding counts as failing.
    pub health_threshold: u32,
}

impl Default for OperationConfig {
    fn default() -> Self {
        Self { middleware: Vec::new(), log_level: Level::default(), health_threshold: 3 }
    }
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
            health_threshold: vars.read("HEALTH_THRESHOLD", default.health_threshold, threshold),
        }
    }
}

fn threshold(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=100).contains(number));
    number.ok_or_else(|| "a number from 1 to 100".to_owned())
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
