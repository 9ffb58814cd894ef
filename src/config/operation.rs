//! Settings of middleware, logs and health.

use std::str::FromStr;

use http::HeaderValue;

use super::Vars;
use crate::platform::Level;

/// Middleware, logs and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationConfig {
    /// `MIDDLEWARE`: HTTP middleware to enable, innermost first.
    pub middleware: Vec<Middleware>,
    /// `LOG_LEVEL`: verbosity of the log.
    pub log_level: Level,
    /// `CORS_ORIGINS`: the origins whose pages may read the registry's answers.
    pub cors_origins: Origins,
    /// `HEALTH_THRESHOLD`: failed checks in turn after which a binding counts as failing.
    pub health_threshold: u32,
}

impl Default for OperationConfig {
    fn default() -> Self {
        Self {
            middleware: Vec::new(),
            log_level: Level::default(),
            cors_origins: Origins::default(),
            health_threshold: 3,
        }
    }
}

/// Optional HTTP middleware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middleware {
    /// `server-timing`: adds the duration and cost of a request to its response.
    ServerTiming,
}

/// The origins whose pages may read the registry's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an origin is one of them.
    pub fn contain(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
    }
}

impl FromStr for Origins {
    type Err = String;

    /// Origins as browsers send them, separated by spaces or commas; `*` for every origin.
    fn from_str(s: &str) -> Result<Self, String> {
        let origin = |text: &str| {
            let is_origin = url::Url::parse(text).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
            });
            (text == "*" || is_origin).then(|| text.to_owned())
        };
        let origins: Option<Vec<String>> =
            s.split([' ', ',', '\n']).filter(|text| !text.is_empty()).map(origin).collect();
        origins.map(Self).ok_or_else(|| "a list of origins such as https://app.example.com, or *".to_owned())
    }
}

impl OperationConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            middleware: vars.read("MIDDLEWARE", default.middleware, middleware),
            log_level: vars.parse("LOG_LEVEL", default.log_level),
            cors_origins: vars.parse("CORS_ORIGINS", default.cors_origins),
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
