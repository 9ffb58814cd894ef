//! Exceptions: repositories with a redirect mode of their own.

use std::str::FromStr;

use super::Mode;
use crate::oci::RepositoryName;

/// A list of `<repository>=<mode>`, or `<prefix>/*=<mode>` for every repository below a prefix. The first match
/// wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions(Vec<(String, Mode)>);

impl Exceptions {
    /// The mode of a repository; `None` without a match.
    pub fn mode(&self, name: &RepositoryName) -> Option<Mode> {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.as_str().starts_with(prefix),
            None => pattern == name.as_str(),
        };
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|(_, mode)| *mode)
    }

    /// Every mode in the list.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        self.0.iter().map(|(_, mode)| *mode)
    }
}

impl FromStr for Exceptions {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected =
            || "a list such as `team/app=off internal/*=signed`, of off, presigned or signed".to_owned();
        let exception = |entry: &str| {
            let (pattern, mode) = entry.split_once('=')?;
            let name = pattern.strip_suffix("/*").unwrap_or(pattern);
            name.parse::<RepositoryName>().ok()?;
            Some((pattern.to_owned(), mode.parse().ok()?))
        };
        let entries = s.split([' ', ',', '\n']).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(exception).collect::<Option<_>>().ok_or_else(expected)?))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_wins() {
        let exceptions: Exceptions = "team/app=off, team/*=presigned\nother=signed".parse().unwrap();
        for (name, mode) in [
            ("team/app", Some(Mode::Off)),
            ("team/app2", Some(Mode::Presigned)),
            ("team/x/y", Some(Mode::Presigned)),
            ("team", None),
            ("teams/x", None),
            ("other", Some(Mode::Signed)),
            ("other/x", None),
        ] {
            assert_eq!(exceptions.mode(&name.parse().unwrap()), mode, "{name}");
        }
        assert_eq!("".parse(), Ok(Exceptions::default()));
        for wrong in ["team", "team=on", "Team=off", "=off", "*=off", "a*=off", "a/*/b=off"] {
            assert!(wrong.parse::<Exceptions>().is_err(), "{wrong}");
        }
    }
}
