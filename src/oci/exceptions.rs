//! Exceptions by repository: the repositories for which a setting has another value.

use std::str::FromStr;

use super::RepositoryName;

/// A setting that may have another value for some repositories. Its parser says which values there are.
pub trait ByRepository: Copy + FromStr<Err = String> {
    /// A list of exceptions, for the message about a malformed one.
    const EXAMPLE: &'static str;
}

/// Repositories with another value. The first match wins.
///
/// A list such as `team/app=off internal/*=signed`, separated by spaces, commas or lines. A pattern is a
/// repository's name, or a prefix followed by `/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceptions<T>(Vec<(String, T)>);

impl<T> Default for Exceptions<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Exceptions<T> {
    /// The value for a repository; `None` without a match.
    pub fn of(&self, name: &RepositoryName) -> Option<T> {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.as_str().starts_with(prefix),
            None => pattern == name.as_str(),
        };
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|(_, value)| *value)
    }

    /// Every value in the list.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(_, value)| *value)
    }
}

impl<T: ByRepository> FromStr for Exceptions<T> {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let example = || format!("a list such as `{}`", T::EXAMPLE);
        let exception = |entry: &str| {
            let (pattern, value) = entry.split_once('=').ok_or_else(example)?;
            let name = pattern.strip_suffix("/*").unwrap_or(pattern);
            name.parse::<RepositoryName>().map_err(|_| example())?;
            let value = value.parse().map_err(|expected| format!("{}, each {expected}", example()))?;
            Ok::<_, String>((pattern.to_owned(), value))
        };
        let entries = s.split([' ', ',', '\n']).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(exception).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Mode {
        Off,
        Signed,
    }

    impl FromStr for Mode {
        type Err = String;

        fn from_str(s: &str) -> Result<Self, String> {
            match s {
                "off" => Ok(Self::Off),
                "signed" => Ok(Self::Signed),
                _ => Err("one of off, signed".to_owned()),
            }
        }
    }

    impl ByRepository for Mode {
        const EXAMPLE: &'static str = "team/app=off internal/*=signed";
    }

    #[test]
    fn the_first_match_wins() {
        let exceptions: Exceptions<Mode> = "team/app=off, team/*=signed\nother=signed".parse().unwrap();
        for (name, mode) in [
            ("team/app", Some(Mode::Off)),
            ("team/app2", Some(Mode::Signed)),
            ("team/x/y", Some(Mode::Signed)),
            ("team", None),
            ("teams/x", None),
            ("other", Some(Mode::Signed)),
            ("other/x", None),
        ] {
            assert_eq!(exceptions.of(&name.parse().unwrap()), mode, "{name}");
        }
        assert_eq!("".parse(), Ok(Exceptions::<Mode>::default()));
    }

    #[test]
    fn a_malformed_list_is_answered_with_an_example_and_the_values() {
        for wrong in ["team", "Team=off", "=off", "*=off", "a*=off", "a/*/b=off"] {
            let expected = "a list such as `team/app=off internal/*=signed`";
            assert_eq!(wrong.parse::<Exceptions<Mode>>().unwrap_err(), expected, "{wrong}");
        }
        let expected = "a list such as `team/app=off internal/*=signed`, each one of off, signed";
        assert_eq!("team=on".parse::<Exceptions<Mode>>().unwrap_err(), expected);
    }
}
