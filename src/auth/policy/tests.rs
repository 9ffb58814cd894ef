//! Decisions and errors by example.

use super::*;
use crate::auth::{External, KeyScope};

const ISSUER: &str = "[[issuer]]\nname = \"github\"\nurl = \"https://token.actions.githubusercontent.com\"\naudience = \"r\"\n";

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn user(name: &str) -> Principal {
    Principal::User(name.to_owned())
}

fn key(name: &str, repositories: &str, actions: &[Action]) -> Principal {
    let scope = KeyScope { repositories: Glob::new(repositories).unwrap(), actions: actions.to_vec() };
    Principal::Key(Key { id: "1".to_owned(), name: name.to_owned(), scopes: vec![scope] })
}

fn external(claims: &[(&str, &str)]) -> Principal {
    let claims = claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Principal::External(External { issuer: "github".to_owned(), subject: "s".to_owned(), claims })
}

fn policy(text: &str) -> Policy {
    let document = Document::parse(text, false).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
    Policy::new(document, Anonymous::None, true, None).unwrap()
}

/// The decisions on pull, push and delete, as letters: a capital is allowed.
fn rights(policy: &Policy, principal: &Principal, repository: &str) -> String {
    let name = name(repository);
    let letters = [(Action::Pull, 'p'), (Action::Push, 'u'), (Action::Delete, 'd')];
    let letter = |(action, letter): (Action, char)| match policy
        .allows(principal, Access::Repository(&name, action))
    {
        true => letter.to_ascii_uppercase(),
        false => letter,
    };
    letters.into_iter().map(letter).collect()
}

#[test]
fn without_rules_users_have_full_access_and_anonymous_clients_what_the_setting_says() {
    let name = name("a");
    let accesses = [
        (Access::Base, [false, true, true]),
        (Access::Catalog, [false, true, true]),
        (Access::Repository(&name, Action::Pull), [false, true, true]),
        (Access::Repository(&name, Action::Push), [false, false, true]),
        (Access::Repository(&name, Action::Delete), [false, false, true]),
        (Access::Administer, [false, false, true]),
        (Access::Metrics, [false; 3]),
    ];
    for (index, anonymous) in [Anonymous::None, Anonymous::Pull, Anonymous::Push].into_iter().enumerate() {
        // A document without rules changes nothing.
        let document = Document::parse(ISSUER, false).unwrap();
        for policy in
            [Policy::simple(anonymous), Policy::new(document.clone(), anonymous, true, None).unwrap()]
        {
            for (access, expected) in accesses {
                assert_eq!(
                    policy.allows(&Principal::Anonymous, access),
                    expected[index],
                    "{anonymous:?} {access:?}"
                );
                assert!(policy.allows(&user("ann"), access));
                assert!(policy.allows(&Principal::Job("purge"), access));
                assert_eq!(policy.allows(&external(&[("repository", "a")]), access), expected[index]);
            }
        }
    }
}

#[test]
fn the_most_specific_rule_decides_alone() {
    let policy = policy(&format!(
        r#"
        rule = [
            {{ everyone = true, repositories = ["**"], actions = ["pull"] }},
            {{ anonymous = true, repositories = ["internal/**"], actions = [] }},
            {{ users = true, repositories = ["team/**"], actions = ["pull", "push"] }},
            {{ users = true, repositories = ["team/secret/*"], actions = [] }},
            {{ user = "ann", repositories = ["team/**", "ann/*"], actions = ["pull", "push", "delete"] }},
            {{ user = "bob", repositories = ["**"], actions = [] }},
            {{ key = "deploy", repositories = ["team/app"], actions = ["pull"] }},
            {{ issuer = "github", claims = {{ repository = "org/*" }}, repositories = ["org/**"], actions = ["pull"] }},
            {{ issuer = "github", claims = {{ repository = "org/app", ref = "refs/heads/*" }}, repositories = ["org/**"], actions = ["push"] }},
        ]
        {ISSUER}"#
    ));
    let all = Action::ALL;
    for (principal, repository, expected) in [
        (Principal::Anonymous, "team/app", "Pud"),
        (Principal::Anonymous, "internal/app", "pud"),
        (user("cid"), "internal/app", "Pud"),
        (user("cid"), "team/app", "PUd"),
        (user("cid"), "team/secret/app", "pud"),
        (user("cid"), "other", "Pud"),
        // A named user comes before how specific the pattern is.
        (user("ann"), "team/secret/app", "PUD"),
        (user("ann"), "ann/x", "PUD"),
        (user("ann"), "ann/x/y", "Pud"),
        (user("bob"), "team/app", "pud"),
        // A key that no rule names has its scopes.
        (key("other", "team/**", &[Action::Push]), "team/app", "pUd"),
        (key("other", "team/**", &[Action::Push]), "internal", "pud"),
        (key("deploy", "**", &all), "team/app", "Pud"),
        // By the rule for everyone: that for users is not for keys.
        (key("deploy", "**", &all), "team/other", "Pud"),
        (key("deploy", "other", &all), "team/app", "pud"),
        (external(&[("repository", "org/web")]), "org/web", "Pud"),
        (external(&[("repository", "org/app"), ("ref", "refs/heads/main")]), "org/app", "pUd"),
        (external(&[("repository", "org/app"), ("ref", "refs/heads/a/b")]), "org/app", "Pud"),
        (external(&[("repository", "org/app")]), "team/app", "Pud"),
        (external(&[("ref", "refs/heads/main")]), "org/app", "Pud"),
    ] {
        assert_eq!(rights(&policy, &principal, repository), expected, "{principal:?} {repository}");
    }
    assert_eq!(policy.claims_of("github"), BTreeSet::from(["ref", "repository"]));
    assert_eq!(policy.claims_of("gitlab"), BTreeSet::new());
    assert_eq!(policy.issuers()[0].name, "github");
}

#[test]
fn what_belongs_to_no_repository_is_decided_by_rules_for_all_of_them() {
    let policy = policy(
        r#"
        rule = [
            { users = true, repositories = ["**"], actions = ["pull", "admin"] },
            { user = "ann", repositories = ["team/**"], actions = ["pull"] },
            { user = "bob", repositories = ["**"], actions = ["pull"] },
            { user = "prometheus", repositories = ["**"], actions = ["metrics"] },
            { everyone = true, repositories = ["**"], actions = ["metrics"] },
            { key = "prometheus", repositories = ["**"], actions = ["metrics"] },
            { key = "deploy", repositories = ["team/**"], actions = ["pull"] },
        ]
        "#,
    );
    let all = Action::ALL;
    for (principal, administers, metrics) in [
        (user("cid"), true, true),
        (user("ann"), true, true),
        (user("bob"), false, false),
        (user("prometheus"), false, true),
        (Principal::Anonymous, false, true),
        // A key never may administer, and has the metrics by a rule only.
        (key("prometheus", "a", &[]), false, true),
        (key("deploy", "**", &all), false, true),
        (key("other", "**", &all), false, false),
    ] {
        assert_eq!(policy.allows(&principal, Access::Administer), administers, "{principal:?}");
        assert_eq!(policy.allows(&principal, Access::Metrics), metrics, "{principal:?}");
    }
}

#[test]
fn the_base_and_the_catalog_are_for_those_who_may_do_something() {
    let rule = |who: &str, repositories: &str, actions: &str| {
        format!("[[rule]]\n{who}\nrepositories = [{repositories:?}]\nactions = [{actions}]\n")
    };
    let anonymous = "anonymous = true";
    for (text, base, catalog) in [
        (rule("users = true", "**", "\"pull\""), false, false),
        (rule(anonymous, "a", "\"pull\""), true, true),
        (rule(anonymous, "a", "\"push\""), true, false),
        (rule(anonymous, "a", ""), false, false),
        (rule("everyone = true", "a", "\"pull\""), true, true),
        (rule("everyone = true", "a", "\"pull\"") + &rule(anonymous, "b", ""), true, true),
        // Nothing is left of the rule for everyone.
        (rule("everyone = true", "a", "\"pull\"") + &rule(anonymous, "**", ""), false, false),
    ] {
        let policy = policy(&text);
        assert_eq!(policy.allows(&Principal::Anonymous, Access::Base), base, "{text}");
        assert_eq!(policy.allows(&Principal::Anonymous, Access::Catalog), catalog, "{text}");
        assert!(policy.allows(&user("ann"), Access::Base) && policy.allows(&user("ann"), Access::Catalog));
        assert_eq!(policy.allows(&external(&[]), Access::Base), text.contains("everyone"), "{text}");
    }
}

#[test]
fn no_rule_locks_the_administrator_out() {
    let text = "[[rule]]\nuser = \"admin\"\nrepositories = [\"**\"]\nactions = []\n";
    let document = Document::parse(text, false).unwrap();
    let policy = Policy::new(document.clone(), Anonymous::None, true, Some("admin")).unwrap();
    assert_eq!(rights(&policy, &user("admin"), "a"), "PUD");
    assert!(
        policy.allows(&user("admin"), Access::Administer) && policy.allows(&user("admin"), Access::Metrics)
    );
    let policy = Policy::new(document, Anonymous::None, true, None).unwrap();
    assert_eq!(rights(&policy, &user("admin"), "a"), "pud");
}

#[test]
fn deletion_that_is_off_needs_a_rule() {
    let rules = "rule = [\n{ user = \"ann\", repositories = [\"a\"], actions = [\"delete\"] },\n\
        { key = \"ann\", repositories = [\"a\"], actions = [\"delete\"] },\n]";
    let (a, b) = (name("a"), name("b"));
    let all = Action::ALL;
    for (text, anonymous, principal, name, expected) in [
        ("", Anonymous::Push, user("ann"), &a, Reason::DeletionOff),
        ("", Anonymous::Push, user("admin"), &a, Reason::DeletionOff),
        ("", Anonymous::Push, Principal::Anonymous, &a, Reason::DeletionOff),
        ("", Anonymous::Pull, Principal::Anonymous, &a, Reason::Rule(Source::Anonymous)),
        ("", Anonymous::None, Principal::Anonymous, &a, Reason::NoRule),
        ("", Anonymous::None, Principal::Job("gc"), &a, Reason::Job),
        ("", Anonymous::None, key("ann", "**", &all), &a, Reason::DeletionOff),
        (rules, Anonymous::None, user("ann"), &a, Reason::Rule(Source::Line(2))),
        (rules, Anonymous::None, user("ann"), &b, Reason::NoRule),
        (rules, Anonymous::None, user("admin"), &a, Reason::DeletionOff),
        (rules, Anonymous::None, key("ann", "**", &all), &a, Reason::Rule(Source::Line(3))),
        (rules, Anonymous::None, key("bob", "**", &all), &a, Reason::DeletionOff),
        (rules, Anonymous::None, key("ann", "b", &all), &a, Reason::Scopes),
    ] {
        let document = Document::parse(text, false).unwrap();
        let policy = Policy::new(document, anonymous, false, Some("admin")).unwrap();
        let decision = policy.decide(&principal, Access::Repository(name, Action::Delete));
        assert_eq!(decision.reason, expected, "{text} {anonymous:?} {principal:?}");
        let is_allowed = matches!(expected, Reason::Job | Reason::Rule(Source::Line(_)));
        assert_eq!(decision.allowed, is_allowed, "{text} {anonymous:?} {principal:?}");
    }
}

#[test]
fn entries_of_immutable_tags_add_up() {
    let policy = policy(
        "[[tags]]\nrepositories = [\"team/**\", \"base\"]\nimmutable = [\"v*\"]\n\
        [[tags]]\nrepositories = [\"team/app\"]\nimmutable = [\"release-*\", \"stable\"]\n",
    );
    let globs = |repository: &str| -> Vec<String> {
        policy.immutable(&name(repository)).into_iter().map(String::from).collect()
    };
    assert_eq!(globs("team/app"), ["v*", "release-*", "stable"]);
    assert_eq!(globs("base"), ["v*"]);
    assert_eq!(globs("other"), [""; 0]);
    let line = |repository, tag: &str| policy.immutable_by(&name(repository), &tag.parse().unwrap());
    assert_eq!(line("team/app", "v1"), Some(1));
    assert_eq!(line("team/app", "stable"), Some(4));
    assert_eq!(line("team/web", "stable"), None);
    assert_eq!(line("team/app", "latest"), None);
}

#[test]
fn the_most_specific_quota_decides_alone() {
    let policy = policy(
        "[[quota]]\nrepositories = [\"**\"]\nbytes = \"50 GB\"\nmax_repositories = 100\n\
        [[quota]]\nrepositories = [\"team\", \"team/**\"]\nbytes = \"2 TiB\"\n\
        [[quota]]\nrepositories = [\"team/*-test\"]\nmax_repositories = 0\n",
    );
    for (repository, line, bytes, max_repositories) in [
        ("a/b", 1, Some(50_000_000_000), Some(100)),
        ("team", 5, Some(2 << 40), None),
        ("team/app/web", 5, Some(2 << 40), None),
        ("team/app-test", 8, None, Some(0)),
    ] {
        let quota = policy.quota(&name(repository)).unwrap();
        let found = (quota.line, quota.bytes, quota.max_repositories);
        assert_eq!(found, (line, bytes, max_repositories), "{repository}");
    }
    assert_eq!(Policy::default().quota(&name("a")), None);
}

#[test]
fn the_setting_for_anonymous_clients_is_a_rule_among_the_rules() {
    let rule = |who: &str, repositories: &str| {
        format!("[[rule]]\n{who} = true\nrepositories = [{repositories:?}]\nactions = []\n")
    };
    let new =
        |text: &str, anonymous| Policy::new(Document::parse(text, false).unwrap(), anonymous, true, None);
    let policy = new(&(rule("users", "team/*") + &rule("anonymous", "secret/*")), Anonymous::Pull).unwrap();
    assert_eq!(rights(&policy, &Principal::Anonymous, "a"), "Pud");
    assert_eq!(rights(&policy, &Principal::Anonymous, "secret/a"), "pud");
    // Nobody gets less by logging in, but by a rule.
    assert_eq!(rights(&policy, &user("ann"), "a"), "Pud");
    assert_eq!(rights(&policy, &user("ann"), "team/a"), "pud");
    for (who, named) in [("anonymous", "anonymous clients"), ("everyone", "everyone")] {
        let text = rule("users", "**") + &rule(who, "**");
        assert!(new(&text, Anonymous::None).is_ok());
        let error = format!("ANONYMOUS must be none: the rule in line 5 is for {named} and \"**\" already");
        assert_eq!(new(&text, Anonymous::Push).unwrap_err(), [error]);
    }
}

#[test]
fn a_decision_says_what_has_decided() {
    let text = "\n[[rule]]\nuser = \"ann\"\nrepositories = [\"a\"]\nactions = [\"pull\"]\n";
    let document = Document::parse(text, false).unwrap();
    let policy = Policy::new(document, Anonymous::Pull, false, Some("admin")).unwrap();
    let (a, b) = (name("a"), name("b"));
    let repository = |action| Access::Repository(&a, action);
    for (principal, access, expected) in [
        (user("ann"), repository(Action::Pull), "allowed by the rule in line 2"),
        (user("ann"), repository(Action::Push), "refused by the rule in line 2"),
        (user("ann"), Access::Repository(&b, Action::Pull), "allowed by the setting ANONYMOUS"),
        (user("ann"), Access::Repository(&b, Action::Push), "refused by the setting ANONYMOUS"),
        (user("ann"), Access::Catalog, "allowed to anybody who logs in"),
        (Principal::Anonymous, repository(Action::Pull), "allowed by the setting ANONYMOUS"),
        (user("admin"), repository(Action::Push), "allowed: the user of ADMIN_PASSWORD may do everything"),
        (user("admin"), repository(Action::Delete), "refused: DELETION is off, and no rule grants delete"),
        (key("k", "b", &[]), repository(Action::Push), "refused by the scopes of the key"),
        (Principal::Job("purge"), repository(Action::Delete), "allowed to jobs of the registry"),
    ] {
        assert_eq!(policy.decide(&principal, access).to_string(), expected);
    }
    let decision = Policy::default().decide(&Principal::Anonymous, Access::Administer);
    assert_eq!(decision.to_string(), "refused: no rule matches");
    let decision = Policy::default().decide(&user("ann"), Access::Administer);
    assert_eq!(decision.to_string(), "allowed by the default for users, as there are no rules");
}

/// Documents and their errors. Line 1 is the first after the issuer, where there is one.
#[test]
fn every_error_has_its_line() {
    let rule = "[[rule]]\nuser = \"ann\"\nrepositories = [\"a\"]\nactions = []\n";
    let table: &[(&str, &[&str])] = &[
        ("[[rule]\nuser = 1", &["line 1: invalid TOML: unclosed array table, expected `]`"]),
        (
            "a = 1\n\nrule = {}\ntags = 1\nissuer = [1]",
            &[
                "line 1: unknown field \"a\": expected [[issuer]], [[rule]], [[tags]], [[quota]]",
                "line 3: rule must be a list of tables: [[rule]]",
                "line 4: tags must be a list of tables: [[tags]]",
                "line 5: issuer must be a list of tables: [[issuer]]",
            ],
        ),
        // Quotas.
        (
            "[[quota]]\n[[quota]]\nrepositories = [\"a\"]\nbytes = 5\nmax_repositories = \"5\"\nbites = \"5 B\"",
            &[
                "line 1: repositories must be set: [\"**\"] is all",
                "line 1: a quota must have bytes, max_repositories or both",
                "line 4: bytes must be text",
                "line 5: max_repositories must be a number from 0 to 1000000",
                "line 6: unknown field \"bites\": expected repositories, bytes, max_repositories",
            ],
        ),
        (
            "[[quota]]\nrepositories = [\"a\"]\nbytes = \"5\"\nmax_repositories = 1000001",
            &[
                "line 3: bytes must be a size up to 9000 TB, such as \"50 GB\" or \"512 MiB\"",
                "line 4: max_repositories must be a number from 0 to 1000000",
            ],
        ),
        (
            "[[quota]]\nrepositories = [\"a\", \"a/*\"]\nbytes = \"5 B\"\n\n\
            [[quota]]\nrepositories = [\"*/b\"]\nbytes = \"5 B\"\n\n\
            [[quota]]\nrepositories = [\"a\"]\nmax_repositories = 1",
            &[
                "line 5: a tie with the quota in line 1: \"*/b\" and \"a/*\" are equally specific and match the same names. \
                 Make one more specific",
                "line 9: a tie with the quota in line 1: both are for \"a\". Merge them, or make one more specific",
            ],
        ),
        // Rules: who.
        (
            "\n[[rule]]\nrepositories = [\"a\"]\nactions = []",
            &["line 2: a rule must have exactly one of user, users, key, issuer, anonymous, everyone"],
        ),
        (
            &(rule.to_owned() + "users = true"),
            &["line 1: a rule must have exactly one of user, users, key, issuer, anonymous, everyone"],
        ),
        (&rule.replace("user = \"ann\"", "users = false"), &["line 2: users must be true"]),
        (&rule.replace("user = \"ann\"", "everyone = \"yes\""), &["line 2: everyone must be true"]),
        (&rule.replace("\"ann\"", "true"), &["line 2: user must be text"]),
        (&rule.replace("\"ann\"", "\"\""), &["line 2: user must be a name, without colons"]),
        (&rule.replace("\"ann\"", "\"a:b\""), &["line 2: user must be a name, without colons"]),
        (
            &rule.replace("user = \"ann\"", "issuer = \"github\""),
            &[
                "line 2: issuer must be the name of an [[issuer]]",
                "line 2: a rule with issuer must have claims: they say whose tokens it is for",
            ],
        ),
        (&(rule.to_owned() + "claims = { sub = \"a\" }"), &["line 5: claims must stand beside issuer"]),
        // Rules: where and what.
        (
            "[[rule]]\nuser = \"ann\"",
            &[
                "line 1: repositories must be set: [\"**\"] is all",
                "line 1: actions must be set: [] takes away",
            ],
        ),
        (
            &rule.replace("[\"a\"]", "[]"),
            &["line 3: repositories must be a list of patterns of repository names, at least one"],
        ),
        (
            &rule.replace("[\"a\"]", "\"a\""),
            &["line 3: repositories must be a list of patterns of repository names"],
        ),
        (
            &rule.replace("[\"a\"]", "[\n\"a\",\n\"/a\", \"a/\", \"A\",\n\"\", \"a//b\", 1]"),
            &[
                "line 5: repositories must be a list of patterns of repository names, not \"/a\"",
                "line 5: repositories must be a list of patterns of repository names, not \"a/\"",
                "line 5: repositories must be a list of patterns of repository names, not \"A\"",
                "line 6: repositories must be a list of patterns of repository names",
                "line 6: repositories must be a list of patterns of repository names, not \"\"",
                "line 6: repositories must be a list of patterns of repository names, not \"a//b\"",
            ],
        ),
        (
            &rule.replace("[]", "[\"pull\", \"write\"]"),
            &["line 4: actions must be a list of pull, push, delete, admin, metrics, not \"write\""],
        ),
        (
            &rule.replace("[]", "\"pull\""),
            &["line 4: actions must be a list of pull, push, delete, admin, metrics"],
        ),
        (
            &rule.replace("[]", "[\"admin\"]"),
            &["line 4: admin and metrics belong to no repository: repositories must be [\"**\"]"],
        ),
        (
            &rule.replace("[\"a\"]", "[\"**\", \"a\"]").replace("[]", "[\"metrics\"]"),
            &["line 4: admin and metrics belong to no repository: repositories must be [\"**\"]"],
        ),
        (
            &rule.replace("user", "key").replace("[\"a\"]", "[\"**\"]").replace("[]", "[\"admin\"]"),
            &["line 4: only user and users may have admin: who has it makes keys that last"],
        ),
        (
            &(rule.to_owned() + "action = []\nrepos = []"),
            &[
                "line 5: unknown field \"action\": expected one of user, users, key, issuer (with claims), anonymous, \
             everyone; repositories; actions",
                "line 6: unknown field \"repos\": expected one of user, users, key, issuer (with claims), anonymous, \
             everyone; repositories; actions",
            ],
        ),
        // Ties.
        (
            &format!("{rule}{rule}"),
            &[
                "line 5: a tie with the rule in line 1: both are for the user ann and \"a\". Merge them, or make one more \
             specific",
            ],
        ),
        (
            &(rule.replace("\"a\"", "\"**\", \"a/*\"") + &rule.replace("\"a\"", "\"b/*\", \"**\"")),
            &[
                "line 5: a tie with the rule in line 1: both are for the user ann and \"**\". Merge them, or make one \
             more specific",
            ],
        ),
        (
            &(rule.replace("\"a\"", "\"a/*\"") + &rule.replace("\"a\"", "\"*/b\"")),
            &[
                "line 5: a tie with the rule in line 1: both are for the user ann, and \"*/b\" and \"a/*\" are equally \
             specific and match the same names. Make one more specific",
            ],
        ),
        // Tags.
        (
            "[[tags]]\nrepositories = [\"a\"]\nimmutable = []\n[[tags]]\nimmutable = [\"v/1\", \"v*\"]\nx = 1",
            &[
                "line 3: immutable must be a list of patterns of tags, at least one",
                "line 4: repositories must be set: [\"**\"] is all",
                "line 5: immutable must be a list of patterns of tags, not \"v/1\"",
                "line 6: unknown field \"x\": expected repositories, immutable",
            ],
        ),
        ("[[tags]]\nrepositories = [\"a\"]", &["line 1: immutable must be set: a list of patterns of tags"]),
        // Issuers.
        (
            "[[issuer]]\nalgorithms = [\"HS256\"]\nkeys = 1",
            &[
                "line 1: an issuer must have name",
                "line 1: an issuer must have url",
                "line 1: an issuer must have audience",
                "line 2: algorithms must be a list of RS256, ES256, EdDSA, not \"HS256\"",
                "line 3: unknown field \"keys\": expected name, url, audience, algorithms, jwks",
            ],
        ),
        (
            "[[issuer]]\nname = \"CI\"\nurl = \"http://a.example\"\naudience = \"r\"\nalgorithms = []\njwks = \"x\"",
            &[
                "line 2: name must be up to 63 lower case letters, digits, and dashes inside",
                "line 3: url must be an https URL, unless EXTERNAL_PRIVATE_ISSUERS is on",
                "line 5: algorithms must be a list of RS256, ES256, EdDSA, each at most once",
                "line 6: jwks must be an https URL",
            ],
        ),
        (
            "[[issuer]]\nname = \"ci\"\nurl = \"https://10.0.0.1\"\naudience = \"r\"",
            &["line 3: url must be a URL with a public host, unless EXTERNAL_PRIVATE_ISSUERS is on"],
        ),
        (
            &format!("{ISSUER}{ISSUER}"),
            &[
                "line 5: an issuer must have a name of its own, not that of line 1",
                "line 5: an issuer must have a url of its own, not that of line 1",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(Document::parse(text, false).unwrap_err(), *expected, "{text}");
    }
}

#[test]
fn rules_for_issuers_must_tell_identities_apart() {
    let rule = |claims: &str| {
        format!(
            "{ISSUER}[[rule]]\nissuer = \"github\"\nclaims = {{ {claims} }}\nrepositories = [\"a\"]\nactions = []\n"
        )
    };
    let stars = "line 7: claims must have one besides iss and aud that is more than stars: otherwise anybody with \
         an account there matches";
    for (claims, expected) in [
        ("", stars),
        ("iss = \"https://a.example\"", stars),
        ("iss = \"https://a.example\", aud = \"r\"", stars),
        ("repository = \"*/*\", ref = \"**\"", stars),
        (
            "repository = 1",
            "line 7: claims must be a table of claims and their patterns: repository must be text",
        ),
        ("repository = \"\"", "line 7: the claim repository must be a pattern of 1 to 255 bytes"),
    ] {
        assert_eq!(Document::parse(&rule(claims), false).unwrap_err(), [expected], "{claims}");
    }
    // A tie: the second repeats the issuer's four lines, and starts in line 9.
    let both = |first: &str, second: &str| {
        let text = rule(first) + rule(second).strip_prefix(ISSUER).unwrap();
        Document::parse(&text, false)
    };
    for (first, second, is_tie) in [
        ("sub = \"a\"", "sub = \"a\"", true),
        ("sub = \"a\"", "sub = \"b\"", false),
        ("sub = \"a*\"", "sub = \"*b\"", true),
        ("sub = \"a/*\"", "sub = \"b/*\"", false),
        ("sub = \"a\"", "ref = \"b\"", true),
        ("sub = \"a\"", "sub = \"a\", ref = \"b\"", false),
        ("sub = \"a\", ref = \"a\"", "sub = \"*\", ref = \"b\"", false),
        ("sub = \"a\", ref = \"a\"", "sub = \"*\", environment = \"b\"", true),
    ] {
        let result = both(first, second);
        assert_eq!(result.is_err(), is_tie, "{first} {second}");
        if let Err(errors) = result {
            let start = "line 10: a tie with the rule in line 5: both are for github with ";
            assert!(errors.len() == 1 && errors[0].starts_with(start), "{errors:?}");
        }
    }
}

#[test]
fn private_issuers_need_the_setting() {
    let text = ISSUER.replace("https://token.actions.githubusercontent.com", "http://localhost:9000");
    assert!(Document::parse(&text, false).is_err());
    assert_eq!(Document::parse(&text, true).unwrap().issuers[0].url, "http://localhost:9000");
}

#[test]
fn the_document_of_the_project_changes_nothing() {
    let text = include_str!("../../../policy.toml");
    assert_eq!(Document::parse(text, false), Ok(Document::default()));
    // Its examples are valid.
    let examples: String = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("# ").filter(|line| line.contains(" = ") || line.starts_with("[["))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let document = Document::parse(&examples, false).unwrap();
    assert!(!document.rules.is_empty() && !document.issuers.is_empty() && !document.tags.is_empty());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = Document::parse(&text, false);
    }

    #[test]
    fn no_fields_panic(lines in proptest::collection::vec("(\\[\\[(rule|tags|issuer|quota)\\]\\]|(user|users|key|issuer|claims|repositories|actions|immutable|name|url|bytes|max_repositories) = (true|1|\"a\"|\\[\"\\*\\*\"\\]|\\{ a = \"b\" \\}|\\[\\]))", 0..12)) {
        let _ = Document::parse(&lines.join("\n"), false);
    }
}
