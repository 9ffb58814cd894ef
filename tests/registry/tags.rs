//! Listing tags.

use crate::{
    fixtures::{EMPTY_INDEX, INDEX},
    support::TestRegistry,
    table::{Body, CALL, Call, Given, each, in_order},
};

/// In the order of pushes.
const TAGS: [&str; 8] = ["v1", "v1-a", "v1.0", "v10", "V", "_x", "latest", "v"];

/// In byte order. Storage lists `v1-a/` before `v1/`.
const SORTED: [&str; 8] = ["V", "_x", "latest", "v", "v1", "v1-a", "v1.0", "v10"];

const TAGGED: &[Given] = &[
    Given::Index("a", "v1"),
    Given::Index("a", "v1-a"),
    Given::Index("a", "v1.0"),
    Given::Index("a", "v10"),
    Given::Index("a", "V"),
    Given::Index("a", "_x"),
    Given::Index("a", "latest"),
    Given::Index("a", "v"),
    Given::Index("a/b", "of-another-repository"),
];

#[test]
fn tags_are_listed_in_order_and_in_pages() {
    let last_page = "";
    for (description, request, tags, link) in [
        ("all", "GET /v2/a/tags/list", &SORTED[..], last_page),
        (
            "the first page",
            "GET /v2/a/tags/list?n=3",
            &["V", "_x", "latest"],
            "</v2/a/tags/list?n=3&last=latest>; rel=\"next\"",
        ),
        (
            "a page in the middle",
            "GET /v2/a/tags/list?n=3&last=latest",
            &["v", "v1", "v1-a"],
            "</v2/a/tags/list?n=3&last=v1-a>; rel=\"next\"",
        ),
        ("the last page", "GET /v2/a/tags/list?n=3&last=v1-a", &["v1.0", "v10"], last_page),
        (
            "the link keeps other parameters",
            "GET /v2/a/tags/list?x=%26&n=1&last=v1",
            &["v1-a"],
            "</v2/a/tags/list?x=%26&n=1&last=v1-a>; rel=\"next\"",
        ),
        (
            "all but one",
            "GET /v2/a/tags/list?n=7",
            &["V", "_x", "latest", "v", "v1", "v1-a", "v1.0"],
            "</v2/a/tags/list?n=7&last=v1.0>; rel=\"next\"",
        ),
        ("as many as there are", "GET /v2/a/tags/list?n=8", &SORTED, last_page),
        ("more than there are", "GET /v2/a/tags/list?n=99999999999999999999", &SORTED, last_page),
        ("none", "GET /v2/a/tags/list?n=0", &[], last_page),
        ("after a tag", "GET /v2/a/tags/list?last=v1", &["v1-a", "v1.0", "v10"], last_page),
        ("after an unknown tag", "GET /v2/a/tags/list?last=v1-zzz", &["v1.0", "v10"], last_page),
        ("after the last tag", "GET /v2/a/tags/list?last=zzz", &[], last_page),
        (
            "after an empty string",
            "GET /v2/a/tags/list?n=1&last=",
            &["V"],
            "</v2/a/tags/list?n=1&last=V>; rel=\"next\"",
        ),
        ("of another repository", "GET /v2/a/b/tags/list", &["of-another-repository"], last_page),
    ] {
        let name = if request.contains("/a/b/") { "a/b" } else { "a" };
        let expected = serde_json::json!({"name": name, "tags": tags}).to_string();
        each(&[Call {
            description,
            given: TAGGED,
            request,
            headers: &[("content-type", "application/json"), ("link", link)],
            body: Body::Json(&expected),
            ..CALL
        }]);
    }
}

#[test]
fn following_links_lists_every_tag_once() {
    let registry = TestRegistry::new();
    for tag in TAGS {
        registry.push_manifest("a", tag, INDEX, EMPTY_INDEX);
    }
    for n in [1, 2, 3, 8] {
        let mut seen = Vec::new();
        for page in registry.pages(&format!("/v2/a/tags/list?n={n}")) {
            let tags: Vec<String> = serde_json::from_value(page.json()["tags"].clone()).unwrap();
            assert!(!tags.is_empty() && tags.len() <= n, "n={n}: {tags:?}");
            seen.extend(tags);
        }
        assert_eq!(seen, SORTED, "n={n}");
    }
}

#[test]
fn only_an_existing_repository_has_a_tag_list() {
    let unknown = |request| Call {
        description: "an unknown repository",
        given: TAGGED,
        request,
        status: 404,
        body: Body::Error("NAME_UNKNOWN"),
        ..CALL
    };
    each(&[
        unknown("GET /v2/none/tags/list"),
        unknown("GET /v2/none/tags/list?n=0"),
        unknown("GET /v2/none/tags/list?last=a"),
        unknown("GET /v2/a/b/c/tags/list"),
    ]);
    in_order(&[
        Call {
            description: "its only tag is deleted",
            given: &[Given::Index("a", "v1")],
            request: "DELETE /v2/a/manifests/v1",
            status: 202,
            ..CALL
        },
        Call {
            description: "its list is empty",
            request: "GET /v2/a/tags/list",
            body: Body::Json(r#"{"name":"a","tags":[]}"#),
            ..CALL
        },
    ]);
}
