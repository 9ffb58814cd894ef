//! The configuration: every setting, its default and its validation.
//!
//! Each group of settings is a file with its own reader. Only a reader names its variables.

mod auth;
mod cache;
mod collect;
mod events;
mod integrity;
mod operation;
mod reads;
mod redirect;
mod repositories;
mod retention;
mod schema1;
mod settle;
mod storage;
mod uploads;
mod vars;

pub use auth::AuthConfig;
pub use cache::CacheConfig;
pub use collect::CollectConfig;
pub use events::EventConfig;
pub use integrity::IntegrityConfig;
pub use operation::{Middleware, OperationConfig, Origins};
pub use reads::{MAX_RANGES, ReadConfig};
pub use redirect::RedirectConfig;
pub use repositories::RepositoryConfig;
pub use retention::RetentionConfig;
pub use schema1::Schema1;
pub use settle::SettleConfig;
pub use storage::{Backend, StorageConfig};
pub use uploads::{JobMode, UploadConfig};
pub use vars::seconds;

use self::vars::Vars;
use crate::redirect::Mode;

/// The settings of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Access.
    pub auth: AuthConfig,
    /// Lifetime and purge of uploads.
    pub uploads: UploadConfig,
    /// What repositories take, and for which hosts they answer.
    pub repositories: RepositoryConfig,
    /// The collection of garbage.
    pub collect: CollectConfig,
    /// Copies of blobs to their canonical places.
    pub settle: SettleConfig,
    /// What repositories keep.
    pub retention: RetentionConfig,
    /// The checks for damage.
    pub integrity: IntegrityConfig,
    /// Manifests of Docker's schema 1.
    pub schema1: Schema1,
    /// The storage backend.
    pub storage: StorageConfig,
    /// Redirects of blob pulls.
    pub redirect: RedirectConfig,
    /// Limits of reads.
    pub reads: ReadConfig,
    /// Caches.
    pub cache: CacheConfig,
    /// Events.
    pub events: EventConfig,
    /// Middleware and logs.
    pub operation: OperationConfig,
}

/// Every error in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not valid: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads every setting through `lookup` and reports all errors at once.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut vars = Vars::new(&lookup);
        let config = Self::read(&mut vars);
        vars.finish().map(|()| config)
    }

    /// The names of all variables, in the order of the README's table.
    pub fn variables() -> Vec<&'static str> {
        let mut vars = Vars::new(&|_| None);
        Self::read(&mut vars);
        vars.names
    }

    fn read(vars: &mut Vars<'_>) -> Self {
        let config = Self {
            auth: AuthConfig::read(vars),
            uploads: UploadConfig::read(vars),
            repositories: RepositoryConfig::read(vars),
            collect: CollectConfig::read(vars),
            settle: SettleConfig::read(vars),
            retention: RetentionConfig::read(vars),
            integrity: IntegrityConfig::read(vars),
            schema1: vars.parse("SCHEMA1", Schema1::default()),
            storage: StorageConfig::read(vars),
            redirect: RedirectConfig::read(vars),
            reads: ReadConfig::read(vars),
            cache: CacheConfig::read(vars),
            events: EventConfig::read(vars),
            operation: OperationConfig::read(vars),
        };
        if config.storage.s3.is_none() && !vars.has_error_in("S3_") {
            let needs = "needs S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY";
            if config.storage.backend == Backend::S3 {
                vars.error(format!("STORAGE = s3 {needs}"));
            }
            if config.redirect.rules.uses(Mode::Presigned) {
                vars.error(format!("BLOB_REDIRECT = presigned {needs}"));
            }
        }
        config
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::auth::{Anonymous, Policy};

    fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars(|name| {
            let vars = vars.iter().chain(&[("SIGNING_SECRET", "generated"), ("POLICY", "")]);
            vars.into_iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn anonymous_access_is_denied_by_default() {
        assert_eq!(read(&[]).unwrap(), Config::default());
        assert_eq!(read(&[("ANONYMOUS", " ")]).unwrap().auth.policy, Policy::simple(Anonymous::None));
    }

    #[test]
    fn settings_are_parsed() {
        let config = read(&[("ANONYMOUS", "pull"), ("UPLOAD_TTL", "12h")]).unwrap();
        assert_eq!(config.auth.policy, Policy::simple(Anonymous::Pull));
        assert_eq!(config.uploads.ttl_seconds, 43_200);
        assert_eq!(read(&[("MAX_BODY", "5 GB")]).unwrap().uploads.max_body, 5_000_000_000);
        let config = read(&[("MIDDLEWARE", "server-timing"), ("EDGE_CACHE_MIB", "3")]).unwrap();
        assert_eq!(config.operation.middleware, [Middleware::ServerTiming]);
        assert_eq!(config.cache.edge_bytes, 3 << 20);
        let config = read(&[("MIDDLEWARE", "none"), ("BLOB_REDIRECT_SKIP_AGENTS", "A/1, , b")]).unwrap();
        assert_eq!(config.operation.middleware, []);
        assert_eq!(config.redirect.rules.skip_agents, ["a/1", "b"]);
    }

    #[test]
    fn every_error_names_its_variable_and_the_expected_value() {
        let vars =
            [("ANONYMOUS", "yes"), ("HTPASSWD", "ann:secret"), ("UPLOAD_TTL", "soon"), ("PURGE", "never")];
        let ConfigError(errors) = read(&vars).unwrap_err();
        assert_eq!(errors.len(), vars.len());
        for ((name, _), error) in vars.iter().zip(&errors) {
            assert!(error.starts_with(&format!("{name} must be ")), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for (name, value) in [
            ("STORAGE", "disk"),
            ("BLOB_REDIRECT", "on"),
            ("BLOB_REDIRECT_REPOSITORIES", "team"),
            ("BLOB_REDIRECT_TTL", "8d"),
            ("BLOB_REDIRECT_TTL", "9s"),
            ("BLOB_REDIRECT_ORIGIN", "cdn.example.com"),
            ("BLOB_REDIRECT_ORIGIN", "https://cdn.example.com/blobs"),
            ("BLOB_REDIRECT_KEYS", "short"),
            ("MAX_BODY", "100"),
            ("MAX_BODY", "9 MB"),
            ("MAX_BODY", "5001 MB"),
            ("MISSING_BLOBS", "yes"),
            ("MISSING_BLOBS_REPOSITORIES", "mirror/*"),
            ("MISSING_BLOBS_REPOSITORIES", "mirror/*=yes"),
            ("NAMESPACES", "https://docker.io"),
            ("NAMESPACES", "docker.io *"),
            ("COLLECT", "yes"),
            ("COLLECT_GRACE", "91d"),
            ("SETTLE", "yes"),
            ("SCRUB_MIB_PER_DAY", "200001"),
            ("SCHEMA1", "on"),
            ("MAX_RANGES", "0"),
            ("MAX_RANGES", "65"),
            ("EDGE_CACHE_MIB", "1G"),
            ("WORKERS_CACHING", "yes"),
            ("TAG_CACHE_SECONDS", "-1"),
            ("DIGEST_CACHE_SECONDS", "1m"),
            ("EVENT_ENDPOINTS", "https://ci.example.com/"),
            ("EVENT_REFERENCES", "yes"),
            ("EVENT_PRIVATE_ENDPOINTS", "1"),
            ("MIDDLEWARE", "server-timing cache"),
            ("LOG_LEVEL", "verbose"),
            ("HEALTH_THRESHOLD", "0"),
        ] {
            let ConfigError(errors) = read(&[(name, value)]).unwrap_err();
            assert!(errors.len() == 1 && errors[0].starts_with(&format!("{name} must be ")), "{errors:?}");
        }
        let rules = "[[rule]]\nrepositories = [\"a\"]\nkeep_last = 0\nkeep_first = 1\n";
        let ConfigError(errors) = read(&[("RETENTION", rules)]).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0], "RETENTION, line 3: keep_last must be a number from 1 to 1000");
        for ttl in ["0s", "59s", "31d", "-1h", "7", "d", "99999999999999999999d", "1w"] {
            assert!(read(&[("UPLOAD_TTL", ttl)]).is_err(), "{ttl}");
        }
    }

    #[test]
    fn s3_settings_must_be_complete_and_set_if_needed() {
        let s3 = [
            ("S3_ENDPOINT", "https://account.r2.cloudflarestorage.com"),
            ("S3_BUCKET", "images"),
            ("S3_ACCESS_KEY_ID", "AKID"),
            ("S3_SECRET_ACCESS_KEY", "hidden"),
        ];
        let config = read(&s3).unwrap();
        assert!(config.storage.s3.is_some() && !format!("{config:?}").contains("hidden"));
        for missing in 0..s3.len() {
            let rest: Vec<_> =
                s3.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, var)| *var).collect();
            let ConfigError(errors) = read(&rest).unwrap_err();
            assert_eq!(errors, [format!("{} must be set, as the other S3_ variables are", s3[missing].0)]);
        }
        for needy in [
            ("STORAGE", "s3"),
            ("BLOB_REDIRECT", "presigned"),
            ("BLOB_REDIRECT_REPOSITORIES", "team/*=presigned"),
        ] {
            assert!(read(&[needy]).unwrap_err().0[0].contains("needs S3_ENDPOINT"));
            assert!(read(&[&s3[..], &[needy]].concat()).is_ok());
        }
    }
}
