//! An endpoint: where events go, and which ones.

use std::fmt;

use http::{HeaderMap, HeaderValue};
use url::Url;

use crate::{
    events::{Action, Event},
    oci::{Glob, RepositoryName},
};

/// The longest name of an endpoint, in characters: that of a DNS label.
pub const MAX_NAME: usize = 63;

/// Whether a text is the name of an endpoint: lower case letters, digits, and dashes inside.
pub fn is_name(text: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MAX_NAME).contains(&text.len())
        && text.chars().all(is_inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A receiver of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, unique.
    pub name: String,
    /// Where events are posted to.
    pub target: Target,
    /// The form of a request.
    pub form: Form,
    /// Time limit of an attempt, in milliseconds.
    pub timeout: u64,
    /// When attempts are repeated.
    pub retries: Retries,
    /// What the endpoint does not want.
    pub ignore: Ignore,
    /// The repositories whose events it wants.
    pub repositories: Globs,
    /// Nothing is sent, and no new events are wanted.
    pub disabled: bool,
}

/// The secrets of an endpoint are here: `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL.
    pub url: Url,
    /// Headers of every request.
    pub headers: HeaderMap<HeaderValue>,
    /// The key of signatures.
    pub signing_secret: Option<String>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target")
    }
}

/// The form of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// `distribution`'s envelope, with up to [`super::lane::BATCH`] events.
    #[default]
    Distribution,
    /// One `CloudEvents` 1.0 event, in structured mode.
    CloudEvents,
}

/// When attempts are repeated. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Failures in a row after which the endpoint counts as down.
    pub threshold: u32,
    /// The first wait; each further one is twice as long.
    pub backoff: u64,
    /// The longest wait.
    pub max_backoff: u64,
    /// The age from which an event is not tried any more.
    pub give_up: u64,
}

impl Default for Retries {
    fn default() -> Self {
        Self { threshold: 10, backoff: 1000, max_backoff: 600_000, give_up: 86_400_000 }
    }
}

/// What an endpoint does not want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Media types of the target.
    pub media_types: Vec<String>,
    /// Actions.
    pub actions: Vec<Action>,
}

impl Endpoint {
    /// Whether the endpoint wants an event. One that is disabled wants none.
    pub fn wants(&self, event: &Event) -> bool {
        let Event { action, target, .. } = event;
        let is_ignored = |media_type: &String| self.ignore.media_types.contains(media_type);
        !self.disabled
            && !self.ignore.actions.contains(action)
            && !target.media_type.as_ref().is_some_and(is_ignored)
            && self.repositories.matches(&target.repository)
    }
}

/// Patterns of repository names. `*` stands for any characters but `/`, `**` for any characters; `!` in front
/// excludes. A name matches if one of the patterns matches, or there is none but for exclusions, and no exclusion does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globs {
    included: Vec<Glob>,
    excluded: Vec<Glob>,
}

impl Globs {
    /// Adds a pattern; `None` if it could match no repository.
    pub fn add(&mut self, pattern: &str) -> Option<()> {
        let (list, glob) = match pattern.strip_prefix('!') {
            Some(glob) => (&mut self.excluded, glob),
            None => (&mut self.included, pattern),
        };
        list.push(Glob::of_repositories(glob)?);
        Some(())
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        let matches = |glob: &Glob| glob.matches(name.as_str());
        (self.included.is_empty() || self.included.iter().any(matches)) && !self.excluded.iter().any(matches)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Globs {
        let mut globs = Globs::default();
        for pattern in patterns {
            globs.add(pattern).unwrap();
        }
        globs
    }

    #[test]
    fn globs_match_names() {
        for (patterns, matching, others) in [
            (&[][..], &["a", "a/b"][..], &[][..]),
            (&["team"], &["team"], &["teams", "team/a", "tea"]),
            (&["team/*"], &["team/a", "team/abc"], &["team", "team/a/b", "teams/a"]),
            (&["team/**"], &["team/a", "team/a/b/c"], &["team", "teams/a"]),
            (&["**/app"], &["x/app", "x/y/app"], &["app", "x/app2"]),
            (&["*-prod"], &["web-prod"], &["a/web-prod", "web-prod2"]),
            (&["a*b*c"], &["abc", "axbyc", "abbcc"], &["ab", "a/bc"]),
            (&["**"], &["a", "a/b"], &[]),
            (&["!private/**"], &["a", "private"], &["private/a", "private/a/b"]),
            (&["team/**", "other", "!team/x"], &["team/a", "other"], &["team/x", "a"]),
        ] {
            let globs = globs(patterns);
            for name in matching {
                assert!(globs.matches(&name.parse().unwrap()), "{patterns:?} {name}");
            }
            for name in others {
                assert!(!globs.matches(&name.parse().unwrap()), "{patterns:?} {name}");
            }
        }
        for wrong in ["", "!", "A", "a b", "a?", "!!a", &"a".repeat(256)] {
            assert_eq!(Globs::default().add(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_labels() {
        for name in ["a", "ci-2", &"x".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "ü", &"x".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
