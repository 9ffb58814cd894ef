//! Redirect settings.

use super::{Vars, vars::seconds};
use crate::redirect::{RedirectRules, signed::Keys};

/// Rules for redirects, and settings of their URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectConfig {
    /// `BLOB_REDIRECT`, `BLOB_REDIRECT_REPOSITORIES` and `BLOB_REDIRECT_SKIP_AGENTS`.
    pub rules: RedirectRules,
    /// `BLOB_REDIRECT_TTL`: lifetime of a URL, in seconds; 10 seconds to 7 days, S3's limit.
    pub ttl_seconds: u64,
    /// `BLOB_REDIRECT_ORIGIN`: the origin of signed URLs; empty for the registry's own.
    pub origin: String,
    /// `BLOB_REDIRECT_KEYS` (a secret): the keys for signed URLs.
    pub keys: Keys,
}

impl Default for RedirectConfig {
    fn default() -> Self {
        Self {
            rules: RedirectRules::default(),
            ttl_seconds: 20 * 60,
            origin: String::new(),
            keys: Keys::default(),
        }
    }
}

impl RedirectConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let default = Self::default();
        Self {
            rules: RedirectRules {
                mode: vars.parse("BLOB_REDIRECT", default.rules.mode),
                exceptions: vars.parse("BLOB_REDIRECT_REPOSITORIES", default.rules.exceptions),
                skip_agents: vars.read("BLOB_REDIRECT_SKIP_AGENTS", Vec::new(), agents),
            },
            ttl_seconds: vars.read("BLOB_REDIRECT_TTL", default.ttl_seconds, ttl),
            origin: vars.read("BLOB_REDIRECT_ORIGIN", default.origin, origin),
            keys: vars.parse("BLOB_REDIRECT_KEYS", default.keys),
        }
    }
}

fn agents(text: &str) -> Result<Vec<String>, String> {
    let agents = text.split([',', '\n']).map(|agent| agent.trim().to_lowercase());
    Ok(agents.filter(|agent| !agent.is_empty()).collect())
}

fn ttl(text: &str) -> Result<u64, String> {
    let valid = seconds(text).filter(|seconds| (10..=604_800).contains(seconds));
    valid.ok_or_else(|| "a time between 10s and 7d, such as 90s, 20m or 12h".to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    if url.is_some_and(|url| url.path() == "/" && url.query().is_none() && url.has_host()) {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("a URL with a host and no path, such as https://blobs.example.com".to_owned())
    }
}
