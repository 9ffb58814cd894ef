//! `n` and `last` of lists.

use proptest::prelude::*;

use crate::{
    cases,
    fixtures::{EMPTY_INDEX, INDEX},
    mutate::text,
    requests::sendable,
    support::TestRegistry,
};

const TAGS: [&str; 8] = ["V", "_x", "latest", "v", "v1", "v1-a", "v1.0", "v10"];

const QUERIES: &[&str] =
    &["n=3", "n=0", "n=8&last=v1", "last=v1-a", "n=2&last=%5fx", "x=%26&n=1&last=v", "n=&last="];

/// The first value of a parameter, decoded as forms are.
fn first(query: &str, name: &str) -> Option<String> {
    let decoded = |text: &str| {
        let bytes = crate::tokens::decoded(&text.replace('+', " "));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value))
}

proptest! {
    #![proptest_config(cases(800))]

    #[test]
    fn a_page_has_what_was_asked_for(query in text(QUERIES)) {
        thread_local! {
            static REGISTRY: TestRegistry = {
                let registry = TestRegistry::new();
                for tag in TAGS {
                    registry.push_manifest("a", tag, INDEX, EMPTY_INDEX);
                }
                registry
            };
        }
        let Some(target) = sendable(&format!("/v2/a/tags/list?{query}")) else { return Ok(()) };
        let query = target.split_once('?').unwrap().1;
        let answer = REGISTRY.with(|registry| registry.get(&format!("GET {target}")));
        if answer.status == 414 {
            prop_assert!(target.len() > 8_000);
            return Ok(());
        }
        let n = match first(query, "n") {
            None => None,
            Some(n) if !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()) => {
                Some(n.parse().unwrap_or(usize::MAX))
            }
            Some(_) => {
                prop_assert_eq!(answer.status, 400);
                return Ok(());
            }
        };
        let last = first(query, "last").unwrap_or_default();
        if last.len() > 255 || !last.chars().all(|c| c.is_ascii_graphic()) {
            prop_assert_eq!(answer.status, 400);
            return Ok(());
        }
        prop_assert_eq!(answer.status, 200);
        let rest: Vec<&str> = TAGS.into_iter().filter(|tag| *tag > last.as_str()).collect();
        let page = &rest[..n.unwrap_or(usize::MAX).min(rest.len())];
        prop_assert_eq!(answer.json()["tags"].clone(), serde_json::json!(page));
        let link = answer.header("link");
        match page.last().filter(|_| page.len() < rest.len()) {
            Some(last) => prop_assert!(link.contains(&format!("&last={last}>; rel=\"next\"")), "{link}"),
            None => prop_assert_eq!(link, ""),
        }
    }
}
