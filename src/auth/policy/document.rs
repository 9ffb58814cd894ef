//! The document of the policy, in TOML.

use std::fmt;

use super::{
    quota::{Quota, quota},
    rule::{ALL, Permission, Rule, Source, Who},
};
use crate::{
    auth::identity::external::{Algorithm, Issuer},
    document::{Lined, Reader, Table},
    oci::Glob,
};

/// The claims that every token of an issuer has alike: they tell nobody apart.
const COMMON_CLAIMS: [&str; 2] = ["iss", "aud"];

/// A document: issuers, rules, immutable tags and quotas. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    pub(super) issuers: Vec<Issuer>,
    pub(super) rules: Vec<Rule>,
    pub(super) tags: Vec<Tags>,
    pub(super) quotas: Vec<Quota>,
}

/// An entry of immutable tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    pub line: usize,
    pub repositories: Vec<Glob>,
    pub immutable: Vec<Glob>,
}

impl Document {
    /// Whether the document has neither rules nor issuers.
    pub fn names_nobody(&self) -> bool {
        self.rules.is_empty() && self.issuers.is_empty()
    }

    /// Parses a document. The errors are all that are in it, as `line N: ` and what is expected there; errors of TOML
    /// hide all others. `private_issuers` allows issuers with http or with private hosts.
    pub fn parse(text: &str, private_issuers: bool) -> Result<Self, Vec<String>> {
        let (mut reader, mut document) = Reader::parse(text)?;
        let mut parsed = Self::default();
        let mut known = Vec::new();
        for table in reader.tables(&mut document, "issuer") {
            let errors = reader.errors();
            let issuer = issuer(&mut reader, table, private_issuers, &mut known);
            parsed.issuers.extend(issuer.filter(|_| reader.errors() == errors));
        }
        for table in reader.tables(&mut document, "rule") {
            let errors = reader.errors();
            let rule = rule(&mut reader, table, &known);
            parsed.rules.extend(rule.filter(|_| reader.errors() == errors));
        }
        for table in reader.tables(&mut document, "tags") {
            let errors = reader.errors();
            let tags = tags(&mut reader, table);
            parsed.tags.extend(tags.filter(|_| reader.errors() == errors));
        }
        for table in reader.tables(&mut document, "quota") {
            let errors = reader.errors();
            let quota = quota(&mut reader, table);
            parsed.quotas.extend(quota.filter(|_| reader.errors() == errors));
        }
        reader.finish_table(document, "[[issuer]], [[rule]], [[tags]], [[quota]]");
        for (at, rule) in parsed.rules.iter().enumerate() {
            let Source::Line(line) = rule.source else { continue };
            for tie in parsed.rules.iter().take(at).filter_map(|other| Tie::new(rule, other)) {
                reader.error(line, tie.to_string());
            }
        }
        for (at, quota) in parsed.quotas.iter().enumerate() {
            for tie in parsed.quotas.iter().take(at).filter_map(|other| quota.tie(other)) {
                reader.error(quota.line, tie);
            }
        }
        match reader.errors() {
            0 => Ok(parsed),
            _ => Err(reader.finish()),
        }
    }
}

/// Two rules of which none is more specific.
pub(super) struct Tie<'a> {
    rule: &'a Rule,
    other: &'a Rule,
    patterns: (&'a Glob, &'a Glob),
}

impl<'a> Tie<'a> {
    /// The tie of two rules; `None` if one of them always decides.
    pub fn new(rule: &'a Rule, other: &'a Rule) -> Option<Self> {
        rule.tie(other).map(|patterns| Self { rule, other, patterns })
    }

    /// The patterns, ours first, that leave it open which of two entries decides for some name.
    pub fn between(ours: &'a [Glob], theirs: &'a [Glob]) -> Option<(&'a Glob, &'a Glob)> {
        let is_tie =
            |our: &Glob, their: &Glob| our.specificity() == their.specificity() && our.overlaps(their);
        ours.iter().find_map(|our| theirs.iter().find(|their| is_tie(our, their)).map(|their| (our, their)))
    }

    /// What to do about them.
    pub fn advice((ours, theirs): (&Glob, &Glob)) -> String {
        match ours == theirs {
            true => format!("both are for {:?}. Merge them, or make one more specific", ours.as_str()),
            false => format!(
                "{:?} and {:?} are equally specific and match the same names. Make one more specific",
                ours.as_str(),
                theirs.as_str()
            ),
        }
    }
}

impl fmt::Display for Tie<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { rule, other, .. }, (ours, theirs)) = (self, self.patterns);
        write!(f, "a tie with {}: both are for {}", other.source, rule.who)?;
        match ours == theirs {
            true => write!(f, " and {:?}. Merge them, or make one more specific", ours.as_str()),
            false => write!(f, ", and {}", Self::advice(self.patterns)),
        }
    }
}

/// An issuer as far as it is read: its name counts even if something else is wrong, so that rules do not repeat the error.
struct Known {
    line: usize,
    name: Option<String>,
    url: Option<String>,
}

fn issuer(
    reader: &mut Reader,
    mut table: Table<'_>,
    may_be_private: bool,
    others: &mut Vec<Known>,
) -> Option<Issuer> {
    let line = table.line;
    for field in ["name", "url", "audience"] {
        if !table.has(field) {
            reader.error(line, format!("an issuer must have {field}"));
        }
    }
    let errors = reader.errors();
    let name = reader.text(&mut table, "name");
    let url = reader.text(&mut table, "url");
    let audience = reader.text(&mut table, "audience");
    let jwks = reader.text(&mut table, "jwks");
    let expected = "a list of RS256, ES256, EdDSA";
    let (algorithms_line, names) = reader
        .texts(&mut table, "algorithms", expected)
        .unwrap_or_else(|| (line, vec![(line, "RS256".into())]));
    let mut algorithms = Vec::new();
    for (line, name) in names {
        match name.parse::<Algorithm>() {
            Ok(algorithm) => algorithms.push(algorithm),
            Err(_) => reader.error(line, format!("algorithms must be {expected}, not {name:?}")),
        }
    }
    let is_well_formed = reader.errors() == errors;
    reader.finish_table(table, "name, url, audience, algorithms, jwks");

    let text =
        |field: &Option<Lined<_>>| field.as_ref().map(|(_, text)| String::from(AsRef::<str>::as_ref(text)));
    let known = Known { line, name: text(&name), url: text(&url) };
    for other in others.iter() {
        for (field, is_same) in [
            ("name", known.name.is_some() && known.name == other.name),
            ("url", known.url.is_some() && known.url == other.url),
        ] {
            if is_same {
                let other = other.line;
                reader.error(
                    line,
                    format!("an issuer must have a {field} of its own, not that of line {other}"),
                );
            }
        }
    }
    others.push(known);

    let (Some(name), Some(url), Some(audience), true) = (name, url, audience, is_well_formed) else {
        return None;
    };
    let key_url = jwks.as_ref().map(|(_, url)| url.as_ref());
    let issuer = Issuer::new(&name.1, &url.1, &audience.1, &algorithms, key_url, may_be_private);
    for error in issuer.as_ref().err().into_iter().flatten() {
        let line = match error.field {
            "name" => name.0,
            "url" => url.0,
            "audience" => audience.0,
            "algorithms" => algorithms_line,
            _ => jwks.as_ref().map_or(line, |(line, _)| *line),
        };
        reader.error(line, error.to_string());
    }
    issuer.ok()
}

fn rule(reader: &mut Reader, mut table: Table<'_>, issuers: &[Known]) -> Option<Rule> {
    const WHO: [&str; 6] = ["user", "users", "key", "issuer", "anonymous", "everyone"];
    let line = table.line;
    if WHO.iter().filter(|field| table.has(field)).count() != 1 {
        reader.error(line, format!("a rule must have exactly one of {}", WHO.join(", ")));
    }
    let mut who = None;
    for (field, one) in [("everyone", Who::Everyone), ("anonymous", Who::Anonymous), ("users", Who::Users)] {
        if reader.is_true(&mut table, field) {
            who = Some(one);
        }
    }
    for (field, one) in [("user", Who::User as fn(String) -> Who), ("key", Who::Key)] {
        if let Some((line, name)) = reader.text(&mut table, field) {
            if name.is_empty() || name.contains(|c: char| c == ':' || c.is_control()) {
                reader.error(line, format!("{field} must be a name, without colons"));
            }
            who = Some(one(name.into_owned()));
        }
    }
    let (issuer, claims) = (reader.text(&mut table, "issuer"), claims(reader, &mut table));
    if let Some((line, issuer)) = &issuer
        && !issuers.iter().any(|other| other.name.as_deref() == Some(issuer))
    {
        reader.error(*line, "issuer must be the name of an [[issuer]]");
    }
    match (issuer, claims) {
        (Some((_, issuer)), Some((_, claims))) => {
            who = Some(Who::External { issuer: issuer.into_owned(), claims });
        }
        (Some((line, _)), None) => {
            reader.error(line, "a rule with issuer must have claims: they say whose tokens it is for");
        }
        (None, Some((line, _))) => reader.error(line, "claims must stand beside issuer"),
        (None, None) => {}
    }
    let repositories = reader.repositories(&mut table);
    let permissions = permissions(reader, &mut table);
    let known = "one of user, users, key, issuer (with claims), anonymous, everyone; repositories; actions";
    reader.finish_table(table, known);
    let (who, repositories, (actions_line, permissions)) = (who?, repositories?, permissions?);
    if !matches!(who, Who::User(_) | Who::Users) && permissions.contains(&Permission::Admin) {
        reader.error(actions_line, "only user and users may have admin: who has it makes keys that last");
    }
    let is_for_all_only = repositories.iter().all(|glob| glob.as_str() == ALL);
    if permissions.iter().any(|permission| permission.is_global()) && !is_for_all_only {
        let expected = "admin and metrics belong to no repository: repositories must be";
        reader.error(actions_line, format!("{expected} [\"{ALL}\"]"));
    }
    Some(Rule { source: Source::Line(line), who, repositories, permissions })
}

fn claims(reader: &mut Reader, table: &mut Table<'_>) -> Option<Lined<Vec<(String, Glob)>>> {
    let errors = reader.errors();
    let (line, texts) = reader.named_texts(table, "claims", "a table of claims and their patterns")?;
    let mut claims = Vec::new();
    for (name, (line, text)) in texts {
        match Glob::new(&text) {
            Some(glob) => claims.push((name.into_owned(), glob)),
            None => {
                let longest = Glob::MAX_LEN;
                reader.error(line, format!("the claim {name} must be a pattern of 1 to {longest} bytes"));
            }
        }
    }
    let tells_apart = |(name, glob): &(String, Glob)| {
        !COMMON_CLAIMS.contains(&name.as_str()) && glob.as_str().contains(|c| c != '*' && c != '/')
    };
    if reader.errors() == errors && !claims.iter().any(tells_apart) {
        let expected = "claims must have one besides iss and aud that is more than stars: otherwise anybody with an \
             account there matches";
        reader.error(line, expected);
    }
    Some((line, claims))
}

fn permissions(reader: &mut Reader, table: &mut Table<'_>) -> Option<Lined<Vec<Permission>>> {
    if !table.has("actions") {
        reader.error(table.line, "actions must be set: [] takes away");
    }
    let expected = "a list of pull, push, delete, admin, metrics";
    let (line, words) = reader.texts(table, "actions", expected)?;
    let mut permissions = Vec::new();
    for (line, word) in words {
        match Permission::NAMES.iter().find(|(name, _)| *name == word) {
            Some((_, permission)) => permissions.push(*permission),
            None => reader.error(line, format!("actions must be {expected}, not {word:?}")),
        }
    }
    if permissions.contains(&Permission::Admin) {
        permissions.push(Permission::Metrics);
    }
    Some((line, permissions))
}

fn tags(reader: &mut Reader, mut table: Table<'_>) -> Option<Tags> {
    let line = table.line;
    let repositories = reader.repositories(&mut table);
    if !table.has("immutable") {
        reader.error(line, "immutable must be set: a list of patterns of tags");
    }
    let immutable = reader.patterns(&mut table, "immutable", "a list of patterns of tags", Glob::of_tags);
    reader.finish_table(table, "repositories, immutable");
    Some(Tags { line, repositories: repositories?, immutable: immutable? })
}
