//! Decisions by example and by property, and the errors of documents.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

fn retention(text: &str) -> Retention {
    Retention::parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

fn name() -> RepositoryName {
    "team/app".parse().unwrap()
}

/// A tag that was pushed, and perhaps pulled, some hours after the start.
fn tag(tag: &str, pushed: u64, pulled: Option<u64>) -> TagTimes {
    let at = |hours: u64| Timestamp(hours * HOUR * 1000);
    TagTimes { tag: tag.parse().unwrap(), pushed: at(pushed), pulled: pulled.map(at) }
}

/// What is decided about tags `hours` after the start, in words.
fn decide(rules: &str, tags: &[TagTimes], hours: u64) -> Vec<String> {
    let text: String =
        rules.split("---").map(|rule| format!("[[rule]]\nrepositories = [\"team/**\"]\n{rule}\n")).collect();
    let retention = retention(&text);
    let verdicts = retention.rules_of(&name()).decide_all(tags, Timestamp(hours * HOUR * 1000));
    tags.iter().zip(verdicts).map(|(tag, verdict)| format!("{} {verdict}", tag.tag)).collect()
}

#[test]
fn a_rule_keeps_the_last_tags_and_names_by_pattern() {
    let tags = [tag("a", 1, None), tag("b", 4, None), tag("latest", 2, None), tag("d", 3, None)];
    assert_eq!(
        decide("keep_last = 2\nkeep = [\"l*\"]", &tags, 1_000_000),
        [
            "a dropped by the rule in line 1: nothing keeps it",
            "b kept by the rule in line 1: one of the last 2",
            "latest kept by the rule in line 1: its name matches \"l*\"",
            "d kept by the rule in line 1: one of the last 2",
        ]
    );
    // Only tags that the rule is for count, and those it is not for stay.
    assert_eq!(
        decide("tags = [\"a\", \"l*\"]\nkeep_last = 1", &tags, 1_000_000),
        [
            "a dropped by the rule in line 1: nothing keeps it",
            "b kept: no rule covers it",
            "latest kept by the rule in line 1: the last one",
            "d kept: no rule covers it",
        ]
    );
}

#[test]
fn versions_are_kept_by_requirement() {
    let all =
        ["v1.2.3", "1.2.0", "2.0.0", "1.9.0-rc.1", "1.2", "v1", "latest"].map(|name| tag(name, 0, None));
    let kept = |rule: &str| {
        let verdicts = decide(rule, &all, 9);
        let kept = verdicts
            .iter()
            .filter_map(|verdict| verdict.split_once(" kept"))
            .map(|(name, _)| name.to_owned());
        kept.collect::<Vec<_>>()
    };
    assert_eq!(kept("keep_semver = true"), ["v1.2.3", "1.2.0", "2.0.0", "1.9.0-rc.1"]);
    assert_eq!(kept("keep_semver = \">=1.2, <2\""), ["v1.2.3", "1.2.0"]);
    assert_eq!(kept("keep_semver = \"^1.9.0-rc.0\""), ["1.9.0-rc.1"]);
    let verdict = decide("keep_semver = \"1\"", &all, 9).remove(0);
    assert_eq!(verdict, "v1.2.3 kept by the rule in line 1: its name is a version that matches ^1");
}

#[test]
fn times_since_push_and_pull_keep() {
    let tags = [tag("old", 0, None), tag("pulled", 0, Some(240)), tag("new", 300, Some(1))];
    let rule = "keep_pulled_within = \"2d\"";
    // The note of a pull may be a day old.
    assert_eq!(
        decide(rule, &tags, 240 + 3 * 24 - 1),
        [
            "old dropped by the rule in line 1: nothing keeps it",
            "pulled kept by the rule in line 1: pulled or pushed within 2d",
            "new kept by the rule in line 1: pulled or pushed within 2d",
        ]
    );
    assert!(decide(rule, &tags, 240 + 3 * 24)[1].contains("dropped"));
    let pushed = "keep_pushed_within = \"5h\"";
    assert_eq!(decide(pushed, &tags, 304)[2], "new kept by the rule in line 1: pushed within 5h");
    assert!(decide(pushed, &tags, 305).iter().all(|verdict| verdict.contains("dropped")));
}

#[test]
fn tags_may_name_their_time_where_a_rule_says_so() {
    for (text, seconds) in [
        ("1h", HOUR),
        ("7d", 7 * DAY),
        ("pr-12-30m", 1800),
        ("365d", 365 * DAY),
        ("a-8760h", 365 * DAY),
        ("9999m", 9999 * 60),
    ] {
        assert_eq!(lifetime(&text.parse().unwrap()).map(|span| span.seconds), Some(seconds), "{text}");
    }
    for text in [
        "366d", "8761h", "0h", "07d", "h", "-7d", "7", "7w", "30s", "7d-", "a7d", "v1.7d", "99999m", "+7d",
        "latest",
    ] {
        let tag: Option<Tag> = text.parse().ok();
        assert_eq!(tag.and_then(|tag| lifetime(&tag)), None, "{text}");
    }
    let tags = [tag("1h", 0, None), tag("x-7d", 0, None), tag("other", 0, None)];
    let expected = [
        "1h dropped by the rule in line 1: its name gave it 1h",
        "x-7d kept by the rule in line 1: its name gives it 7d",
        "other kept: no rule covers it",
    ];
    assert_eq!(decide("ttl_tags = true", &tags, 1), expected);
    assert!(
        decide("keep_last = 1\nttl_tags = false", &tags, 1)[1]
            .contains("kept by the rule in line 1: the last one")
    );
    // In its rule the name decides alone, and is not one of the last. Another rule may keep it all the same.
    let both = decide("keep_last = 5\nttl_tags = true", &tags, 1);
    assert_eq!(
        (&both[0], &both[2]),
        (&expected[0].to_owned(), &"other kept by the rule in line 1: one of the last 5".to_owned())
    );
    assert!(
        decide("ttl_tags = true\n---keep = [\"1h\"]", &tags, 1)[0].contains("kept by the rule in line 5")
    );
}

#[test]
fn rules_add_up() {
    let tags = [tag("a", 1, None), tag("v1", 2, None), tag("b", 3, None)];
    let rules = "keep_last = 1\n---tags = [\"v*\"]\nkeep_pushed_within = \"1d\"";
    assert_eq!(
        decide(rules, &tags, 5),
        [
            "a dropped by the rule in line 1: nothing keeps it",
            "v1 kept by the rule in line 5: pushed within 1d",
            "b kept by the rule in line 1: the last one",
        ]
    );
    let other = retention("[[rule]]\nrepositories = [\"other\"]\nkeep_last = 1\n");
    assert!(other.rules_of(&name()).is_empty() && !other.is_empty());
    assert!(retention("# nothing\n").is_empty());
}

#[test]
fn the_longest_time_of_untagged_manifests_counts() {
    let text = |span: &str| format!("[[rule]]\nrepositories = [\"**\"]\nuntagged = \"{span}\"\n");
    let retention = retention(&(text("7d") + &text("30d") + &text("720h")));
    let rules = retention.rules_of(&name());
    let (line, span) = rules.untagged().unwrap();
    assert_eq!((line, span.to_string()), (4, "30d".to_owned()));
    assert!(!rules.are_about_tags() && rules.pulls().is_none());
    assert_eq!(rules.decide_all(&[tag("a", 0, None)], Timestamp(u64::MAX))[0].reason, Reason::NoRule);
}

#[test]
fn every_error_names_its_line() {
    for (text, expected) in [
        ("[[rule]]", "line 1: a rule must have at least one of keep_last, keep,"),
        ("[[rule]]\nkeep_last = 1", "line 1: repositories must be set: [\"**\"] is all"),
        (
            "\n[[rule]]\nrepositories = [\"A\"]\nkeep_last = 1",
            "line 3: repositories must be a list of patterns of",
        ),
        ("dry_run = 1", "line 1: dry_run must be true or false"),
        ("untagged = \"7d\"", "line 1: unknown field \"untagged\": expected dry_run, [[rule]]"),
    ] {
        let errors = Retention::parse(text).unwrap_err();
        assert!(errors.iter().any(|error| error.starts_with(expected)), "{text}\n{errors:?}");
    }
    for (field, expected) in [
        ("keep_last = 0", "keep_last must be a number from 1 to 1000"),
        ("keep_last = 1001", "keep_last must be a number from 1 to 1000"),
        ("keep_last = -1", "keep_last must be a number from 1 to 1000"),
        ("keep_last = \"3\"", "keep_last must be a number from 1 to 1000"),
        ("keep = []", "keep must be a list of patterns of tags, at least one"),
        ("keep = [\"a/b\"]", "keep must be a list of patterns of tags, not \"a/b\""),
        ("keep_semver = false", "keep_semver must be true, or a requirement such as \">=1.2, <2\""),
        (
            "keep_semver = \"one\"",
            "keep_semver must be true, or a requirement such as \">=1.2, <2\", not \"one\"",
        ),
        (
            "keep_pushed_within = \"59s\"",
            "keep_pushed_within must be a time from 1m to 3650d, such as 7d, not \"59s\"",
        ),
        (
            "keep_pulled_within = \"23h\"",
            "keep_pulled_within must be a time from 1d to 3650d, such as 7d, not \"23h\"",
        ),
        ("untagged = \"59m\"", "untagged must be a time from 1h to 3650d, such as 7d, not \"59m\""),
        ("untagged = \"3651d\"", "untagged must be a time from 1h to 3650d, such as 7d, not \"3651d\""),
        ("ttl_tags = \"yes\"", "ttl_tags must be true or false"),
        (
            "keep_first = 3\nkeep_last = 1",
            "unknown field \"keep_first\": expected repositories, tags, keep_last",
        ),
        ("tags = [\"v*\"]\nuntagged = \"7d\"", "tags must stand beside one of keep_last"),
    ] {
        let errors = Retention::parse(&format!("[[rule]]\nrepositories = [\"a\"]\n{field}\n")).unwrap_err();
        let line = if field.starts_with("tags") { 1 } else { 3 };
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("line {line}: {expected}")),
            "{field}\n{errors:?}"
        );
    }
}

/// Rules without `repositories`.
fn any_rule() -> impl Strategy<Value = String> {
    let field = |some: BoxedStrategy<String>| prop_oneof![Just(String::new()), some].boxed();
    (
        field(Just("tags = [\"v*\", \"a*\"]\n".to_owned()).boxed()),
        field((1usize..6).prop_map(|n| format!("keep_last = {n}\n")).boxed()),
        field(Just("keep = [\"*1\"]\n".to_owned()).boxed()),
        field(Just("keep_semver = \"<2\"\n".to_owned()).boxed()),
        field((1u64..20).prop_map(|d| format!("keep_pulled_within = \"{d}d\"\n")).boxed()),
        field((1u64..500).prop_map(|h| format!("keep_pushed_within = \"{h}h\"\n")).boxed()),
        any::<bool>(),
    )
        .prop_map(|(tags, last, keep, semver, pulled, pushed, ttl)| {
            let conditions = [last, keep, semver, pulled, pushed].concat();
            let ttl = if ttl || conditions.is_empty() { "ttl_tags = true\n" } else { "" };
            format!("[[rule]]\nrepositories = [\"**\"]\n{tags}{conditions}{ttl}")
        })
}

fn any_tags() -> impl Strategy<Value = Vec<TagTimes>> {
    let times = (0u64..600, prop::option::of(0u64..600));
    prop::collection::btree_map("(a|v|)[12](\\.[12]\\.0)?(-[1-9]{1,2}[hd])?", times, 0..30).prop_map(|tags| {
        tags.into_iter().map(|(name, (pushed, pulled))| tag(&name, pushed, pulled)).collect()
    })
}

fn kept(retention: &Retention, tags: &[TagTimes], hours: u64) -> Vec<bool> {
    let verdicts = retention.rules_of(&name()).decide_all(tags, Timestamp(hours * HOUR * 1000));
    verdicts.into_iter().map(|verdict| verdict.is_kept).collect()
}

proptest! {
    #[test]
    fn the_last_n_are_as_many_as_there_are(n in 1usize..12, tags in any_tags()) {
        let retention = retention(&format!("[[rule]]\nrepositories = [\"**\"]\nkeep_last = {n}\n"));
        let kept = kept(&retention, &tags, 1_000_000);
        prop_assert_eq!(kept.iter().filter(|kept| **kept).count(), n.min(tags.len()));
        let newest_dropped = tags.iter().zip(&kept).filter(|(_, kept)| !**kept).map(|(tag, _)| tag.pushed).max();
        let oldest_kept = tags.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(tag, _)| tag.pushed).min();
        prop_assert!(newest_dropped <= oldest_kept || oldest_kept.is_none());
    }

    #[test]
    fn what_is_dropped_stays_dropped_with_time(
        rules in prop::collection::vec(any_rule(), 0..4), tags in any_tags(), now in 0u64..900, later in 0u64..900,
    ) {
        let retention = retention(&rules.concat());
        for (now, later) in kept(&retention, &tags, now).into_iter().zip(kept(&retention, &tags, now + later)) {
            prop_assert!(now || !later);
        }
    }

    #[test]
    fn the_order_of_tags_and_rules_does_not_matter(
        rules in prop::collection::vec(any_rule(), 0..4), tags in any_tags(), now in 0u64..900, seed in any::<usize>(),
    ) {
        let forward = kept(&retention(&rules.concat()), &tags, now);
        let rotate = |length: usize| if length == 0 { 0 } else { seed % length };
        let (mut rules, mut turned) = (rules, tags.clone());
        rules.reverse();
        turned.rotate_left(rotate(tags.len()));
        let mut other = kept(&retention(&rules.concat()), &turned, now);
        other.rotate_right(rotate(tags.len()));
        prop_assert_eq!(forward, other);
    }

    // The union of what each rule says alone.
    #[test]
    fn a_tag_stays_if_any_rule_keeps_it_or_none_covers_it(
        rules in prop::collection::vec(any_rule(), 0..4), tags in any_tags(), now in 0u64..900,
    ) {
        let alone: Vec<Vec<Verdict>> = rules
            .iter()
            .map(|rule| retention(rule).rules_of(&name()).decide_all(&tags, Timestamp(now * HOUR * 1000)))
            .collect();
        for (at, is_kept) in kept(&retention(&rules.concat()), &tags, now).into_iter().enumerate() {
            let covering = || alone.iter().map(|verdicts| &verdicts[at]).filter(|verdict| verdict.line.is_some());
            let expected = covering().next().is_none() || covering().any(|verdict| verdict.is_kept);
            prop_assert_eq!(is_kept, expected, "{}", tags[at].tag);
        }
    }

    #[test]
    fn a_step_needs_only_the_ranking(rules in prop::collection::vec(any_rule(), 0..4), tags in any_tags(), now in 0u64..900) {
        let retention = retention(&rules.concat());
        let rules = retention.rules_of(&name());
        let mut ranking = Ranking::default();
        if rules.need_ranking() {
            for TagTimes { tag, pushed, .. } in tags.iter().rev() {
                rules.rank(&mut ranking, tag, *pushed);
            }
        }
        let now = Timestamp(now * HOUR * 1000);
        let one_by_one: Vec<Verdict> = tags.iter().map(|tag| rules.decide(&ranking, tag, now)).collect();
        prop_assert_eq!(one_by_one, rules.decide_all(&tags, now));
    }
}
