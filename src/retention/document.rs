//! The document of retention, in TOML.

use semver::VersionReq;

use super::{Retention, Rule, Span, Versions};
use crate::{
    document::{Reader, Table},
    oci::Glob,
    platform::seconds,
};

/// The most that `keep_last` can keep: a step holds as many tags in memory.
const MAX_LAST: u64 = 1000;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The longest time in a rule, in seconds.
const MAX_SPAN: u64 = 3650 * DAY;

impl Retention {
    /// Parses a document. The errors are all that are in it, as `line N: ` and what is expected there; errors of TOML
    /// hide all others.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut reader, mut document) = Reader::parse(text)?;
        let mut parsed = Self { dry_run: reader.flag(&mut document, "dry_run"), rules: Vec::new() };
        for table in reader.tables(&mut document, "rule") {
            let errors = reader.errors();
            let rule = rule(&mut reader, table);
            parsed.rules.extend(rule.filter(|_| reader.errors() == errors));
        }
        reader.finish_table(document, "dry_run, [[rule]]");
        match reader.errors() {
            0 => Ok(parsed),
            _ => Err(reader.finish()),
        }
    }
}

fn rule(reader: &mut Reader, mut table: Table<'_>) -> Option<Rule> {
    const CONDITIONS: [&str; 6] =
        ["keep_last", "keep", "keep_semver", "keep_pulled_within", "keep_pushed_within", "ttl_tags"];
    let line = table.line;
    let is_about_tags = CONDITIONS.iter().any(|field| table.has(field));
    if !is_about_tags && !table.has("untagged") {
        let conditions = CONDITIONS.join(", ");
        reader.error(line, format!("a rule must have at least one of {conditions}, untagged"));
    } else if !is_about_tags && table.has("tags") {
        reader.error(line, format!("tags must stand beside one of {}", CONDITIONS.join(", ")));
    }
    let repositories = reader.repositories(&mut table);
    let mut globs = |table: &mut Table<'_>, field| {
        reader.patterns(table, field, "a list of patterns of tags", Glob::of_tags).unwrap_or_default()
    };
    let (tags, keep) = (globs(&mut table, "tags"), globs(&mut table, "keep"));
    let keep_last = reader.number(&mut table, "keep_last", 1..=MAX_LAST);
    let rule = Rule {
        line,
        repositories: repositories.unwrap_or_default(),
        tags,
        keep_last: keep_last.and_then(|number| usize::try_from(number).ok()),
        keep,
        versions: versions(reader, &mut table),
        pulled_within: span(reader, &mut table, "keep_pulled_within", DAY, "1d"),
        pushed_within: span(reader, &mut table, "keep_pushed_within", MINUTE, "1m"),
        untagged: span(reader, &mut table, "untagged", HOUR, "1h"),
        ttl_tags: reader.flag(&mut table, "ttl_tags"),
    };
    let known = "repositories, tags, keep_last, keep, keep_semver, keep_pulled_within, keep_pushed_within, ttl_tags, \
         untagged";
    reader.finish_table(table, known);
    Some(rule)
}

fn versions(reader: &mut Reader, table: &mut Table<'_>) -> Option<Versions> {
    let expected = "true, or a requirement such as \">=1.2, <2\"";
    let (line, text) = reader.true_or_text(table, "keep_semver", expected)?;
    let Some(text) = text else { return Some(Versions::All) };
    match VersionReq::parse(&text) {
        Ok(wanted) => Some(Versions::Matching(wanted)),
        Err(_) => {
            reader.error(line, format!("keep_semver must be {expected}, not {text:?}"));
            None
        }
    }
}

/// A time from `least` seconds, written as `from`, to 3650 days.
fn span(reader: &mut Reader, table: &mut Table<'_>, field: &str, least: u64, from: &str) -> Option<Span> {
    let (line, text) = reader.text(table, field)?;
    let valid = seconds(&text).filter(|seconds| (least..=MAX_SPAN).contains(seconds));
    if valid.is_none() {
        reader.error(line, format!("{field} must be a time from {from} to 3650d, such as 7d, not {text:?}"));
    }
    Some(Span { seconds: valid?, text: text.into_owned() })
}
