//! The configuration: every setting, its default, and what is wrong with it.

use std::str::FromStr;

use crate::{
    auth::basic::{Anonymous, Htpasswd},
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
    pub const VARIABLES: [&'static str; 4] = ["ANONYMOUS", "HTPASSWD", "UPLOAD_TTL", "PURGE"];

    /// Reads every setting through `lookup` and reports all mistakes at once.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        let default = Self::default();
        let config = Self {
            anonymous: parsed(&lookup, &mut errors, "ANONYMOUS", default.anonymous),
            users: parsed(&lookup, &mut errors, "HTPASSWD", default.users),
            upload_ttl_seconds: parsed(
                &lookup,
                &mut errors,
                "UPLOAD_TTL",
                Seconds(default.upload_ttl_seconds),
            )
            .0,
            purge: parsed(&lookup, &mut errors, "PURGE", default.purge),
            part_size: default.part_size,
        };
        if errors.is_empty() { Ok(config) } else { Err(ConfigError(errors)) }
    }
}

fn parsed<T: FromStr<Err = String>>(
    lookup: &impl Fn(&str) -> Option<String>,
    errors: &mut Vec<String>,
    name: &str,
    default: T,
) -> T {
    let Some(text) = lookup(name).filter(|text| !text.trim().is_empty()) else { return default };
    text.trim().parse().unwrap_or_else(|expected| {
        errors.push(format!("{name} must be {expected}"));
        default
    })
}

struct Seconds(u64);

impl FromStr for Seconds {
    type Err = String;

    /// A number with a unit: `90s`, `30m`, `12h`, `7d`. Between a minute and 30 days.
    fn from_str(s: &str) -> Result<Self, String> {
        let expected = || "a time between 1m and 30d, such as 90s, 30m, 12h or 7d".to_owned();
        let unit = match s.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            _ => return Err(expected()),
        };
        let number: u64 = s.get(..s.len() - 1).and_then(|number| number.parse().ok()).ok_or_else(expected)?;
        match number.checked_mul(unit) {
            Some(seconds @ 60..=2_592_000) => Ok(Self(seconds)),
            _ => Err(expected()),
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
        for ttl in ["0s", "59s", "31d", "-1h", "7", "d", "99999999999999999999d", "1w"] {
            assert!(read(&[("UPLOAD_TTL", ttl)]).is_err(), "{ttl}");
        }
    }
}
