//! Compares the policy with a model that is written differently: it tries all names and identities over a small
//! alphabet where the policy compares patterns, and sorts where the policy looks for the greatest.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::auth::{External, KeyScope};

const USERS: [&str; 3] = ["ann", "bob", "admin"];
const KEYS: [&str; 2] = ["ci", "ann"];
const ISSUERS: [&str; 2] = ["hub", "lab"];
const CLAIMS: [&str; 2] = ["ref", "repository"];
/// Any two patterns of up to two letters that share a text share one of these.
const VALUES: [&str; 9] = ["", "a", "b", "aa", "ab", "ba", "bb", "a/", "/b"];
const WORDS: [&str; 5] = ["pull", "push", "delete", "admin", "metrics"];

/// A rule as it is written: the field of its subject, the name there, and the claims.
#[derive(Debug, Clone)]
struct Written {
    who: &'static str,
    name: &'static str,
    claims: BTreeMap<&'static str, &'static str>,
    repositories: Vec<String>,
    actions: BTreeSet<&'static str>,
}

fn written() -> impl Strategy<Value = Written> {
    let who = prop_oneof![
        Just(("everyone", "")),
        Just(("anonymous", "")),
        Just(("users", "")),
        proptest::sample::select(USERS.to_vec()).prop_map(|name| ("user", name)),
        proptest::sample::select(KEYS.to_vec()).prop_map(|name| ("key", name)),
        proptest::sample::select(ISSUERS.to_vec()).prop_map(|name| ("issuer", name)),
    ];
    let value = proptest::sample::select(vec!["a", "b", "a*", "*b", "a**", "**b"]);
    let claims = proptest::collection::btree_map(proptest::sample::select(CLAIMS.to_vec()), value, 1..=2);
    let pattern = prop_oneof![
        2 => Just("**".to_owned()),
        5 => "[ab*]{1,2}(/[ab*]{1,2})?",
    ];
    let repositories = prop_oneof![
        1 => Just(vec!["**".to_owned()]),
        3 => proptest::collection::vec(pattern, 1..=2),
    ];
    let actions = proptest::collection::btree_set(proptest::sample::select(WORDS.to_vec()), 0..=4);
    (who, claims, repositories, actions).prop_map(|((who, name), claims, repositories, mut actions)| {
        if repositories.iter().any(|pattern| pattern != "**") {
            actions.retain(|action| !["admin", "metrics"].contains(action));
        }
        if !["user", "users"].contains(&who) {
            actions.remove("admin");
        }
        let claims = if who == "issuer" { claims } else { BTreeMap::new() };
        Written { who, name, claims, repositories, actions }
    })
}

impl Written {
    /// In four lines.
    fn text(&self) -> String {
        let Self { who, name, claims, repositories, actions } = self;
        let claims =
            claims.iter().map(|(name, value)| format!("{name} = {value:?}")).collect::<Vec<_>>().join(", ");
        let who = match *who {
            "issuer" => format!("issuer = {name:?}, claims = {{ {claims} }}"),
            "user" | "key" => format!("{who} = {name:?}"),
            who => format!("{who} = true"),
        };
        format!("  {{ {who},\n repositories =\n {repositories:?},\n actions = {actions:?} }},\n")
            .replace("actions = {", "actions = [")
            .replace("} },\n", "] },\n")
    }

    /// Sorts rules by who they are for.
    fn level(&self) -> (usize, usize) {
        let level = ["everyone", "anonymous", "users"].iter().position(|who| *who == self.who).unwrap_or(3);
        (level, self.claims.len())
    }

    fn is_for(&self, principal: &Principal) -> bool {
        let is_all = self.who == "everyone";
        match principal {
            Principal::Anonymous => is_all || self.who == "anonymous",
            Principal::User(name) => is_all || self.who == "users" || (self.who, self.name) == ("user", name),
            Principal::Key(key) => is_all || (self.who, self.name) == ("key", &key.name),
            Principal::External(external) => {
                let mut claims = self.claims.iter();
                is_all
                    || (self.who, self.name) == ("issuer", &external.issuer)
                        && claims.all(|(name, pattern)| {
                            external.claims.get(*name).is_some_and(|value| naive(pattern, value))
                        })
            }
            Principal::Job(_) => unreachable!(),
        }
    }

    /// How well the rule's best pattern for a name says which it means.
    fn closeness(&self, name: &str) -> Option<(usize, isize, isize)> {
        let mut all: Vec<_> = self
            .repositories
            .iter()
            .filter(|pattern| naive(pattern, name))
            .map(|pattern| closeness(pattern))
            .collect();
        all.sort();
        all.pop()
    }
}

fn closeness(pattern: &str) -> (usize, isize, isize) {
    let marked = pattern.replace("**", "#");
    let count = |c: char| marked.matches(c).count() as isize;
    (marked.len() - (count('#') + count('*')) as usize, -count('#'), -count('*'))
}

/// Whether a pattern matches, by trying every end of every star.
fn naive(pattern: &str, text: &str) -> bool {
    let ends = |rest: &str, may_cross: bool| {
        (0..=text.len()).any(|end| (may_cross || !text[..end].contains('/')) && naive(rest, &text[end..]))
    };
    if let Some(rest) = pattern.strip_prefix("**") {
        return ends(rest, true);
    }
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => ends(&pattern[1..], false),
        Some(c) => text.strip_prefix(c).is_some_and(|text| naive(&pattern[1..], text)),
    }
}

/// All texts of up to five letters: any two patterns that share a text share one of these.
fn texts() -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..5 {
        last = last.iter().flat_map(|text| ["a", "b", "/"].map(|c| format!("{text}{c}"))).collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// Clients without credentials, users, keys without and with scopes, and identities with all values of all claims.
fn principals() -> Vec<Principal> {
    let mut all = vec![Principal::Anonymous];
    all.extend(USERS.map(|name| Principal::User(name.to_owned())));
    all.push(Principal::User("cid".to_owned()));
    let scope = |glob: &str, actions: &[Action]| KeyScope {
        repositories: Glob::new(glob).unwrap(),
        actions: actions.to_vec(),
    };
    for name in ["ci", "ann", "other"] {
        for scopes in [
            vec![],
            vec![scope("**", &Action::ALL)],
            vec![scope("a/*", &[Action::Push]), scope("*b", &[Action::Pull, Action::Delete])],
        ] {
            all.push(Principal::Key(Key { id: "1".to_owned(), name: name.to_owned(), scopes }));
        }
    }
    let values = || VALUES.into_iter().map(Some).chain([None]);
    for issuer in ["hub", "lab", "other"] {
        for (first, second) in values().flat_map(|first| values().map(move |second| (first, second))) {
            let claims = CLAIMS.into_iter().zip([first, second]);
            let claims =
                claims.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
            let external = External { issuer: issuer.to_owned(), subject: "s".to_owned(), claims };
            all.push(Principal::External(external));
        }
    }
    all
}

/// The settings beside the document.
#[derive(Debug, Clone, Copy)]
struct Settings {
    anonymous: Anonymous,
    deletion: bool,
    has_admin: bool,
}

fn settings() -> impl Strategy<Value = Settings> {
    let anonymous = proptest::sample::select(vec![Anonymous::None, Anonymous::Pull, Anonymous::Push]);
    (anonymous, any::<bool>(), any::<bool>()).prop_map(|(anonymous, deletion, has_admin)| Settings {
        anonymous,
        deletion,
        has_admin,
    })
}

/// Whether a principal has an access, said again in other words.
fn may(rules: &[Written], settings: Settings, principal: &Principal, access: Access<'_>) -> bool {
    let word = match access {
        Access::Repository(_, action) => action.as_str(),
        Access::Administer => "admin",
        Access::Metrics => "metrics",
        Access::Base | Access::Catalog => unreachable!(),
    };
    // A rule of the document, which alone can grant a deletion that is off; then the rest.
    let (by_document, by_settings) = by_rule(rules, settings, principal, access, word);
    let is_named = |name: &str| rules.iter().any(|rule| (rule.who, rule.name) == ("key", name));
    let (by_document, by_settings) = match principal {
        Principal::Key(key) => {
            let is_in_scope = match access {
                Access::Repository(name, action) => key.scopes.iter().any(|scope| {
                    scope.actions.contains(&action) && naive(scope.repositories.as_str(), name.as_str())
                }),
                access => access == Access::Metrics,
            };
            match is_named(&key.name) {
                true => (is_in_scope && by_document, is_in_scope && by_settings),
                false => (false, is_in_scope && access != Access::Metrics),
            }
        }
        Principal::User(name) if name == "admin" && settings.has_admin => (by_document, true),
        _ => (by_document, by_settings),
    };
    by_document || by_settings && (settings.deletion || word != "delete")
}

fn by_rule(
    rules: &[Written],
    settings: Settings,
    principal: &Principal,
    access: Access<'_>,
    word: &str,
) -> (bool, bool) {
    // Level, closeness, whether it is of the document, whether it grants.
    let mut found = Vec::new();
    for rule in rules.iter().filter(|rule| rule.is_for(principal)) {
        let closeness = match access {
            Access::Repository(name, _) => rule.closeness(name.as_str()),
            _ => rule.repositories.iter().any(|pattern| pattern == "**").then_some((0, -1, 0)),
        };
        let grants = rule.actions.contains(word) || word == "metrics" && rule.actions.contains("admin");
        found.extend(closeness.map(|closeness| (rule.level(), closeness, true, grants)));
    }
    let everywhere = (0, -1, 0);
    match settings.anonymous {
        Anonymous::None => {}
        Anonymous::Pull => found.push(((0, 0), everywhere, false, word == "pull")),
        Anonymous::Push => found.push(((0, 0), everywhere, false, word != "metrics")),
    }
    if rules.is_empty() && matches!(principal, Principal::User(_)) {
        found.push(((2, 0), everywhere, false, true));
    }
    found.sort();
    match found.pop() {
        Some((level, closeness, is_document, grants)) => {
            // Nothing else is as specific.
            assert!(found.iter().all(|other| (other.0, other.1) < (level, closeness)));
            (is_document && grants, !is_document && grants)
        }
        None => (false, false),
    }
}

/// The lines of the rules that tie with an earlier one, as often as they do.
fn ties(rules: &[Written], principals: &[Principal], texts: &[String]) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        for other in &rules[..at] {
            let has_pattern = |text: &String| {
                rule.repositories.iter().any(|ours| {
                    other.repositories.iter().any(|theirs| {
                        closeness(ours) == closeness(theirs) && naive(ours, text) && naive(theirs, text)
                    })
                })
            };
            if rule.level() == other.level()
                && principals.iter().any(|principal| rule.is_for(principal) && other.is_for(principal))
                && texts.iter().any(has_pattern)
            {
                lines.push(2 + 4 * at);
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn decisions_are_those_of_the_model(
        written in proptest::collection::vec(written(), 0..7),
        settings in settings(),
    ) {
        let (principals, texts) = (principals(), texts());
        let mut text = "rule = [\n".to_owned();
        text.extend(written.iter().map(Written::text));
        text.push_str("]\n");
        for issuer in ISSUERS {
            text.push_str(&format!(
                "[[issuer]]\nname = {issuer:?}\nurl = \"https://{issuer}.example.com\"\naudience = \"r\"\n"
            ));
        }
        let parsed = Document::parse(&text, false);
        let expected: Vec<String> =
            ties(&written, &principals, &texts).iter().map(|line| format!("line {line}: a tie with")).collect();
        let errors = parsed.as_ref().err().cloned().unwrap_or_default();
        let starts: Vec<&str> =
            errors.iter().zip(&expected).filter_map(|(error, start)| error.get(..start.len())).collect();
        prop_assert_eq!(&starts, &expected, "{}", text);
        prop_assert_eq!(errors.len(), expected.len(), "{:?}\n{}", errors, text);

        // What remains without the rules that tie is a policy.
        let mut rules: Vec<Written> = Vec::new();
        for rule in written {
            rules.push(rule);
            if !ties(&rules, &principals, &texts).is_empty() {
                rules.pop();
            }
        }
        let text = text.split_off(text.find("]\n[[issuer]]").unwrap());
        let text = "rule = [\n".to_owned() + &rules.iter().map(Written::text).collect::<String>() + &text;
        let document = Document::parse(&text, false).unwrap();
        let admin = settings.has_admin.then_some("admin");
        let policy = Policy::new(document, settings.anonymous, settings.deletion, admin);
        let contradicts = |rule: &Written| ["anonymous", "everyone"].contains(&rule.who) && rule.repositories.iter().any(|pattern| pattern == "**");
        let is_contradicted = settings.anonymous != Anonymous::None && rules.iter().any(contradicts);
        prop_assert_eq!(policy.is_err(), is_contradicted, "{}", text);
        let Ok(policy) = policy else { return Ok(()) };
        let names: Vec<RepositoryName> =
            texts.iter().filter(|text| text.len() <= 3).filter_map(|text| text.parse().ok()).collect();
        for principal in &principals {
            let actions = |name| Action::ALL.map(|action| Access::Repository(name, action));
            let accesses = names.iter().flat_map(actions).chain([Access::Administer, Access::Metrics]);
            for access in accesses {
                let allowed = policy.allows(principal, access);
                prop_assert_eq!(
                    allowed, may(&rules, settings, principal, access),
                    "{:?} {:?} {:?}\n{}", principal, access, settings, text
                );
                // Who may pull something may see the list.
                let is_pull = matches!(access, Access::Repository(_, Action::Pull));
                prop_assert!(!allowed || !is_pull || policy.allows(principal, Access::Catalog), "{:?}\n{}", principal, text);
                prop_assert!(
                    !allowed || policy.allows(principal, Access::Base), "{:?} {:?}\n{}", principal, access, text
                );
            }
        }
    }
}
