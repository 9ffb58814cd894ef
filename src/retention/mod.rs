//! Retention: which tags and untagged manifests a repository keeps, as a pure function of one document and of times.
//!
//! A rule covers tags and says what keeps them. The rules add up: a tag that any rule keeps stays, a tag that some rule
//! covers and none keeps goes, and a tag that no rule covers stays. See `docs/retention.md`.

mod document;
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;

use std::{collections::BTreeSet, fmt};

use semver::{Version, VersionReq};

use crate::{
    oci::{Glob, RepositoryName, Tag},
    platform::{Timestamp, seconds},
};

/// Pulls are noted once a day, so the last one may be a day later than its note, in seconds.
const PULL_STEP: u64 = 24 * 60 * 60;

/// The longest time to live that a tag can name, in seconds.
const MAX_LIFETIME: u64 = 365 * 24 * 60 * 60;

/// The rules of all repositories. Without any, everything stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Runs only report what they would delete.
    pub dry_run: bool,
    rules: Vec<Rule>,
}

/// A rule of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// The line in which it begins, counted from 1.
    line: usize,
    repositories: Vec<Glob>,
    /// The tags that it is for; empty for all.
    tags: Vec<Glob>,
    keep_last: Option<usize>,
    keep: Vec<Glob>,
    versions: Option<Versions>,
    pulled_within: Option<Span>,
    pushed_within: Option<Span>,
    untagged: Option<Span>,
    ttl_tags: bool,
}

/// A length of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// In seconds.
    pub seconds: u64,
    /// As it is written.
    text: String,
}

impl Span {
    fn contains(&self, start: Timestamp, now: Timestamp) -> bool {
        now < start.plus_seconds(self.seconds)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The versions that a rule keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Versions {
    All,
    Matching(VersionReq),
}

/// What a decision about a tag depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTimes {
    /// The tag.
    pub tag: Tag,
    /// When it was last pointed to its manifest.
    pub pushed: Timestamp,
    /// The noted time of its manifest's last pull; `None` if there is no note.
    pub pulled: Option<Timestamp>,
}

/// Whether a tag stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it stays.
    pub is_kept: bool,
    /// The line of the rule that decides; `None` if no rule covers the tag.
    pub line: Option<usize>,
    /// What decides.
    pub reason: Reason,
}

/// What decides about a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No rule covers it.
    NoRule,
    /// It is one of the last of its rule, by push.
    Last(usize),
    /// Its name matches a pattern.
    Pattern(Glob),
    /// Its name is a version that the rule keeps; `None` if that keeps all versions.
    Version(Option<VersionReq>),
    /// It was pulled, or pushed, within a time.
    Pulled(Span),
    /// It was pushed within a time.
    Pushed(Span),
    /// Its name gives it a time to live, which decides alone in this rule.
    Lifetime(Span),
    /// Nothing in the rules that cover it keeps it.
    Nothing,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_kept { "kept" } else { "dropped" })?;
        if let Some(line) = self.line {
            write!(f, " by the rule in line {line}")?;
        }
        match &self.reason {
            Reason::NoRule => f.write_str(": no rule covers it"),
            Reason::Last(1) => f.write_str(": the last one"),
            Reason::Last(n) => write!(f, ": one of the last {n}"),
            Reason::Pattern(glob) => write!(f, ": its name matches {:?}", glob.as_str()),
            Reason::Version(None) => f.write_str(": its name is a version"),
            Reason::Version(Some(wanted)) => write!(f, ": its name is a version that matches {wanted}"),
            Reason::Pulled(span) => write!(f, ": pulled or pushed within {span}"),
            Reason::Pushed(span) => write!(f, ": pushed within {span}"),
            Reason::Lifetime(span) if self.is_kept => write!(f, ": its name gives it {span}"),
            Reason::Lifetime(span) => write!(f, ": its name gave it {span}"),
            Reason::Nothing => f.write_str(": nothing keeps it"),
        }
    }
}

/// The time to live that a tag names: the whole tag, or what follows its last dash, is a number from 1 to 9999 without leading
/// zeros and `m`, `h` or `d`, and the time is at most 365 days. `None` for any other tag.
pub fn lifetime(tag: &Tag) -> Option<Span> {
    let (_, text) = tag.as_str().rsplit_once('-').unwrap_or(("", tag.as_str()));
    let number = text.strip_suffix(['m', 'h', 'd'])?;
    let is_number =
        !number.starts_with('0') && number.len() <= 4 && number.bytes().all(|c| c.is_ascii_digit());
    let seconds = seconds(text).filter(|seconds| is_number && (1..=MAX_LIFETIME).contains(seconds))?;
    Some(Span { seconds, text: text.to_owned() })
}

/// A tag as a version: three numbers, perhaps with a pre-release, and perhaps after a `v`.
fn version(tag: &Tag) -> Option<Version> {
    let text = tag.as_str();
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

impl Rule {
    fn is_for(&self, name: &RepositoryName) -> bool {
        self.repositories.iter().any(|glob| glob.matches(name.as_str()))
    }

    /// Whether it says which tags to keep, other than those that name their time.
    fn has_conditions(&self) -> bool {
        self.keep_last.is_some()
            || !self.keep.is_empty()
            || self.versions.is_some()
            || self.pulled_within.is_some()
            || self.pushed_within.is_some()
    }

    /// The time that the tag names, if the rule lets tags do so.
    fn lifetime(&self, tag: &Tag) -> Option<Span> {
        if self.ttl_tags { lifetime(tag) } else { None }
    }

    fn selects(&self, tag: &Tag) -> bool {
        self.tags.is_empty() || self.tags.iter().any(|glob| glob.matches(tag.as_str()))
    }

    /// Whether the tag counts among the last of the rule.
    fn ranks(&self, tag: &Tag) -> bool {
        self.selects(tag) && self.lifetime(tag).is_none()
    }

    /// Whether it keeps a tag that it selects, and why; `None` if it does not cover the tag.
    fn decide(
        &self,
        TagTimes { tag, pushed, pulled }: &TagTimes,
        is_last: bool,
        now: Timestamp,
    ) -> Option<Verdict> {
        let verdict = |is_kept, reason| Some(Verdict { is_kept, line: Some(self.line), reason });
        if let Some(span) = self.lifetime(tag) {
            return verdict(span.contains(*pushed, now), Reason::Lifetime(span));
        }
        if !self.has_conditions() {
            return None;
        }
        if let Some(n) = self.keep_last.filter(|_| is_last) {
            return verdict(true, Reason::Last(n));
        }
        if let Some(glob) = self.keep.iter().find(|glob| glob.matches(tag.as_str())) {
            return verdict(true, Reason::Pattern(glob.clone()));
        }
        match &self.versions {
            Some(Versions::All) if version(tag).is_some() => return verdict(true, Reason::Version(None)),
            Some(Versions::Matching(wanted))
                if version(tag).is_some_and(|version| wanted.matches(&version)) =>
            {
                return verdict(true, Reason::Version(Some(wanted.clone())));
            }
            _ => {}
        }
        if let Some(span) = self.pushed_within.as_ref().filter(|span| span.contains(*pushed, now)) {
            return verdict(true, Reason::Pushed(span.clone()));
        }
        let used =
            (*pushed).max(pulled.map_or(Timestamp::default(), |pulled| pulled.plus_seconds(PULL_STEP)));
        if let Some(span) = self.pulled_within.as_ref().filter(|span| span.contains(used, now)) {
            return verdict(true, Reason::Pulled(span.clone()));
        }
        verdict(false, Reason::Nothing)
    }
}

impl Retention {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules for a repository.
    pub fn rules_of(&self, name: &RepositoryName) -> Rules<'_> {
        Rules(self.rules.iter().filter(|rule| rule.is_for(name)).collect())
    }

    /// Whether a rule for a repository looks at pulls.
    pub fn needs_pulls(&self, name: &RepositoryName) -> bool {
        self.rules.iter().any(|rule| rule.pulled_within.is_some() && rule.is_for(name))
    }
}

/// The rules for one repository.
#[derive(Debug, Clone)]
pub struct Rules<'a>(Vec<&'a Rule>);

/// The last tags of each rule with `keep_last`, among those added so far. It holds no other tags.
#[derive(Debug, Default, Clone)]
pub struct Ranking(Vec<BTreeSet<(Timestamp, Tag)>>);

impl<'a> Rules<'a> {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they can drop a tag.
    pub fn are_about_tags(&self) -> bool {
        self.0.iter().any(|rule| rule.ttl_tags || rule.has_conditions())
    }

    /// Whether all tags must be [ranked](Self::rank) before a decision about one.
    pub fn need_ranking(&self) -> bool {
        self.0.iter().any(|rule| rule.keep_last.is_some())
    }

    /// How long notes of pulls are of use, in seconds; `None` if no rule looks at pulls.
    pub fn pulls(&self) -> Option<u64> {
        self.0.iter().filter_map(|rule| Some(rule.pulled_within.as_ref()?.seconds + PULL_STEP)).max()
    }

    /// The time after which untagged manifests go, and the line of its rule: the longest of all rules. `None` if
    /// they stay.
    pub fn untagged(&self) -> Option<(usize, &'a Span)> {
        let spans = self.0.iter().filter_map(|rule| Some((rule.line, rule.untagged.as_ref()?)));
        spans.max_by_key(|(line, span)| (span.seconds, std::cmp::Reverse(*line)))
    }

    /// Adds a tag to a ranking.
    pub fn rank(&self, Ranking(tops): &mut Ranking, tag: &Tag, pushed: Timestamp) {
        tops.resize_with(self.0.len(), BTreeSet::new);
        for (rule, top) in self.0.iter().zip(tops) {
            let Some(n) = rule.keep_last.filter(|_| rule.ranks(tag)) else { continue };
            if top.len() < n || top.first().is_some_and(|(least, _)| pushed >= *least) {
                top.insert((pushed, tag.clone()));
            }
            if top.len() > n {
                top.pop_first();
            }
        }
    }

    /// Decides about a tag. All tags of the repository are in `ranking`, unless no rule needs that.
    pub fn decide(&self, Ranking(tops): &Ranking, tag: &TagTimes, now: Timestamp) -> Verdict {
        let mut dropped = None;
        for (at, rule) in self.0.iter().enumerate().filter(|(_, rule)| rule.selects(&tag.tag)) {
            // A tag that was pushed since it was ranked is one of the last, too.
            let is_last = rule.keep_last.is_some_and(|n| {
                tops.get(at).is_none_or(|top| {
                    let is_above =
                        |(pushed, least): &(Timestamp, Tag)| (tag.pushed, &tag.tag) >= (*pushed, least);
                    top.len() < n || top.first().is_none_or(is_above)
                })
            });
            match rule.decide(tag, is_last, now) {
                Some(verdict) if verdict.is_kept => return verdict,
                verdict => dropped = dropped.or(verdict),
            }
        }
        dropped.unwrap_or(Verdict { is_kept: true, line: None, reason: Reason::NoRule })
    }

    /// Decides about all tags of the repository.
    pub fn decide_all(&self, tags: &[TagTimes], now: Timestamp) -> Vec<Verdict> {
        let mut ranking = Ranking::default();
        for TagTimes { tag, pushed, .. } in tags {
            self.rank(&mut ranking, tag, *pushed);
        }
        tags.iter().map(|tag| self.decide(&ranking, tag, now)).collect()
    }
}
