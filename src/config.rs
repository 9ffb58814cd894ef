//! The configuration: every setting, its default, and what is wrong with it.

use std::str::FromStr;

use crate::{
    auth::basic::{Anonymous, Htpasswd},
    log::Level,
    middleware::Middlewares,
    storage::redirect::{Exceptions, Mode, presigned::S3Bucket, signed::Keys},
    uploads::{PART_SIZE, purge::Purging},
};

/// What a deployment can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `ANONYMOUS`: what may be done without a login.
    pub anonymous: Anonymous,
    /// `HTPASSWD` (a secret): users and the bcrypt hashes of their passwords.
    pub users: Htpasswd,
    /// `UPLOAD_TTL`: how long an upload may take from its start, in seconds.
    pub upload_ttl_seconds: u64,
    /// `PURGE`: whether what abandoned uploads leave behind is removed.
    pub purge: Purging,
    /// `STORAGE`: where everything is stored.
    pub storage: Storage,
    /// `S3_ENDPOINT`, `S3_BUCKET`, `S3_REGION`, and the secrets `S3_ACCESS_KEY_ID` and
    /// `S3_SECRET_ACCESS_KEY`: the bucket as S3 has it. With `STORAGE = r2`, R2's own S3 endpoint for the same
    /// bucket, for presigned URLs.
    pub s3: Option<S3Bucket>,
    /// `BLOB_REDIRECT`: how clients get the bytes of blobs.
    pub blob_redirect: Mode,
    /// `BLOB_REDIRECT_REPOSITORIES`: exceptions to that.
    pub blob_redirect_repositories: Exceptions,
    /// `BLOB_REDIRECT_SKIP_AGENTS`: clients that are never redirected, by parts of their `User-Agent`, in
    /// lower case.
    pub blob_redirect_skip_agents: Vec<String>,
    /// `BLOB_REDIRECT_TTL`: how long a URL works, in seconds.
    pub blob_redirect_ttl_seconds: u64,
    /// `BLOB_REDIRECT_ORIGIN`: what stands before the path of a signed URL.
    pub blob_redirect_origin: String,
    /// `BLOB_REDIRECT_KEYS` (a secret): what signs and checks signed URLs.
    pub blob_redirect_keys: Keys,
    /// `EDGE_CACHE_MIB`: the largest blob that the edge cache keeps, in bytes here, in MiB there.
    pub edge_cache_bytes: u64,
    /// `TAG_CACHE_SECONDS`: how old an answer about a tag may be.
    pub tag_cache_seconds: u64,
    /// `MIDDLEWARE`: what is put around the registry's parts.
    pub middleware: Middlewares,
    /// `LOG_LEVEL`: how much is logged.
    pub log_level: Level,
    /// The size of a part, in bytes: a constant, which only tests make smaller.
    pub part_size: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            anonymous: Anonymous::None,
            users: Htpasswd::default(),
            upload_ttl_seconds: 7 * 24 * 60 * 60,
            purge: Purging::On,
            storage: Storage::R2,
            s3: None,
            blob_redirect: Mode::Off,
            blob_redirect_repositories: Exceptions::default(),
            blob_redirect_skip_agents: Vec::new(),
            blob_redirect_ttl_seconds: 20 * 60,
            blob_redirect_origin: String::new(),
            blob_redirect_keys: Keys::default(),
            edge_cache_bytes: 512 << 20,
            tag_cache_seconds: 0,
            middleware: Middlewares::default(),
            log_level: Level::Info,
            part_size: PART_SIZE,
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not valid: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// The names of all variables, for the tests that compare them with `wrangler.toml` and the README.
    pub const VARIABLES: [&'static str; 20] = [
        "ANONYMOUS",
        "HTPASSWD",
        "UPLOAD_TTL",
        "PURGE",
        "STORAGE",
        "S3_ENDPOINT",
        "S3_BUCKET",
        "S3_REGION",
        "S3_ACCESS_KEY_ID",
        "S3_SECRET_ACCESS_KEY",
        "BLOB_REDIRECT",
        "BLOB_REDIRECT_REPOSITORIES",
        "BLOB_REDIRECT_SKIP_AGENTS",
        "BLOB_REDIRECT_TTL",
        "BLOB_REDIRECT_ORIGIN",
        "BLOB_REDIRECT_KEYS",
        "EDGE_CACHE_MIB",
        "TAG_CACHE_SECONDS",
        "MIDDLEWARE",
        "LOG_LEVEL",
    ];

    /// Reads every setting through `lookup` and reports all mistakes at once.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let default = Self::default();
        let mut vars = Vars { lookup, errors: Vec::new() };
        let config = Self {
            anonymous: vars.parsed("ANONYMOUS", default.anonymous),
            users: vars.parsed("HTPASSWD", default.users),
            upload_ttl_seconds: vars.parsed("UPLOAD_TTL", Time(default.upload_ttl_seconds)).0,
            purge: vars.parsed("PURGE", default.purge),
            storage: vars.parsed("STORAGE", default.storage),
            s3: vars.s3(),
            blob_redirect: vars.parsed("BLOB_REDIRECT", default.blob_redirect),
            blob_redirect_repositories: vars
                .parsed("BLOB_REDIRECT_REPOSITORIES", default.blob_redirect_repositories),
            blob_redirect_skip_agents: vars.parsed("BLOB_REDIRECT_SKIP_AGENTS", Agents(Vec::new())).0,
            blob_redirect_ttl_seconds: vars
                .parsed("BLOB_REDIRECT_TTL", UrlTime(default.blob_redirect_ttl_seconds))
                .0,
            blob_redirect_origin: vars.parsed("BLOB_REDIRECT_ORIGIN", Origin(String::new())).0,
            blob_redirect_keys: vars.parsed("BLOB_REDIRECT_KEYS", default.blob_redirect_keys),
            edge_cache_bytes: vars.parsed("EDGE_CACHE_MIB", Number(default.edge_cache_bytes >> 20)).0 << 20,
            tag_cache_seconds: vars.parsed("TAG_CACHE_SECONDS", Number(default.tag_cache_seconds)).0,
            middleware: vars.parsed("MIDDLEWARE", default.middleware),
            log_level: vars.parsed("LOG_LEVEL", default.log_level),
            part_size: default.part_size,
        };
        let mut needs_s3 = |name: &str, value: &str| {
            if config.s3.is_none() && !vars.errors.iter().any(|error| error.starts_with("S3_")) {
                vars.errors.push(format!(
                    "{name} = {value} needs S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY"
                ));
            }
        };
        if config.storage == Storage::S3 {
            needs_s3("STORAGE", "s3");
        }
        if config.redirects(Mode::Presigned) {
            needs_s3("BLOB_REDIRECT", "presigned");
        }
        if vars.errors.is_empty() { Ok(config) } else { Err(ConfigError(vars.errors)) }
    }

    /// Whether any repository's blobs are redirected in this way.
    pub fn redirects(&self, mode: Mode) -> bool {
        self.blob_redirect == mode || self.blob_redirect_repositories.modes().any(|other| other == mode)
    }
}

/// Where everything is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In the bucket that the worker is bound to.
    R2,
    /// In a bucket of an S3-compatible store.
    S3,
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "r2" => Ok(Self::R2),
            "s3" => Ok(Self::S3),
            _ => Err("one of r2, s3".to_owned()),
        }
    }
}

/// The variables, and what is wrong with them so far.
struct Vars<L> {
    lookup: L,
    errors: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Vars<L> {
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn parsed<T: FromStr<Err = String>>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|expected| {
            self.errors.push(format!("{name} must be {expected}"));
            default
        })
    }

    /// All of S3's variables or none; the region has a default.
    fn s3(&mut self) -> Option<S3Bucket> {
        let names = ["S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"];
        let values = names.map(|name| self.text(name));
        if values.iter().all(Option::is_none) {
            return None;
        }
        for (name, _) in names.iter().zip(&values).filter(|(_, value)| value.is_none()) {
            self.errors.push(format!("{name} must be set, as the other S3_ variables are"));
        }
        let [Some(endpoint), Some(bucket), Some(key), Some(secret)] = values else { return None };
        let region = self.text("S3_REGION").unwrap_or_else(|| "auto".to_owned());
        let bucket = S3Bucket::new(&endpoint, &bucket, &region, key, secret);
        bucket.map_err(|expected| self.errors.push(format!("S3_ENDPOINT must be {expected}"))).ok()
    }
}

/// A number with a unit, in seconds: `90s`, `30m`, `12h`, `7d`.
fn seconds(s: &str) -> Option<u64> {
    let unit = match s.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    s.get(..s.len() - 1)?.parse::<u64>().ok()?.checked_mul(unit)
}

/// Between a minute and 30 days.
struct Time(u64);

impl FromStr for Time {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected = "a time between 1m and 30d, such as 90s, 30m, 12h or 7d";
        let inside = seconds(s).filter(|seconds| (60..=2_592_000).contains(seconds));
        inside.map(Self).ok_or_else(|| expected.to_owned())
    }
}

/// Between ten seconds and seven days, which is S3's limit.
struct UrlTime(u64);

impl FromStr for UrlTime {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected = "a time between 10s and 7d, such as 90s, 20m or 12h";
        let inside = seconds(s).filter(|seconds| (10..=604_800).contains(seconds));
        inside.map(Self).ok_or_else(|| expected.to_owned())
    }
}

struct Number(u64);

impl FromStr for Number {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = s.parse().ok().filter(|number| *number <= 1_000_000);
        number.map(Self).ok_or_else(|| "a number from 0 to 1000000".to_owned())
    }
}

struct Agents(Vec<String>);

impl FromStr for Agents {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let agents = s.split([',', '\n']).map(|agent| agent.trim().to_lowercase());
        Ok(Self(agents.filter(|agent| !agent.is_empty()).collect()))
    }
}

struct Origin(String);

impl FromStr for Origin {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let url = url::Url::parse(s).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let is_origin = url.is_some_and(|url| url.path() == "/" && url.query().is_none() && url.has_host());
        if is_origin {
            Ok(Self(s.trim_end_matches('/').to_owned()))
        } else {
            Err("a host's URL without a path, such as https://blobs.example.com".to_owned())
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_the_default_and_allows_nobody() {
        assert_eq!(read(&[]).unwrap(), Config::default());
        assert_eq!(read(&[("ANONYMOUS", " ")]).unwrap().anonymous, Anonymous::None);
    }

    #[test]
    fn settings_are_read() {
        let config = read(&[("ANONYMOUS", "pull"), ("UPLOAD_TTL", "12h")]).unwrap();
        assert_eq!((config.anonymous, config.upload_ttl_seconds), (Anonymous::Pull, 43_200));
    }

    #[test]
    fn every_mistake_is_named_with_what_is_expected() {
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
            ("EDGE_CACHE_MIB", "1G"),
            ("TAG_CACHE_SECONDS", "-1"),
            ("MIDDLEWARE", "storage:trace cache"),
            ("LOG_LEVEL", "verbose"),
        ] {
            let ConfigError(errors) = read(&[(name, value)]).unwrap_err();
            assert!(errors.len() == 1 && errors[0].starts_with(&format!("{name} must be ")), "{errors:?}");
        }
        for ttl in ["0s", "59s", "31d", "-1h", "7", "d", "99999999999999999999d", "1w"] {
            assert!(read(&[("UPLOAD_TTL", ttl)]).is_err(), "{ttl}");
        }
    }

    #[test]
    fn s3_is_set_as_a_whole_where_it_is_needed() {
        let s3 = [
            ("S3_ENDPOINT", "https://account.r2.cloudflarestorage.com"),
            ("S3_BUCKET", "images"),
            ("S3_ACCESS_KEY_ID", "AKID"),
            ("S3_SECRET_ACCESS_KEY", "hidden"),
        ];
        let config = read(&s3).unwrap();
        assert!(config.s3.is_some() && !format!("{config:?}").contains("hidden"));
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
