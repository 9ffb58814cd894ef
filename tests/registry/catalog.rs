//! The catalog of repositories.

use serde_json::json;

use crate::{
    support::TestRegistry,
    table::{Body, CALL, Call, Given, each},
};

const PUSHED: &[Given] = &[
    Given::Index("b", "x"),
    Given::Index("a/b", "x"),
    Given::Index("a", "x"),
    Given::Index("a-b", "x"),
    Given::Blob("blobs/only", "a repository without a manifest"),
];

#[test]
fn repositories_are_listed_in_order_and_in_pages() {
    let last_page = "";
    for (description, request, repositories, link) in [
        ("all", "GET /v2/_catalog", &["a", "a-b", "a/b", "b"][..], last_page),
        ("a page", "GET /v2/_catalog?n=2", &["a", "a-b"], "</v2/_catalog?n=2&last=a-b>; rel=\"next\""),
        ("the last page", "GET /v2/_catalog?n=2&last=a-b", &["a/b", "b"], last_page),
        (
            "a name with a slash",
            "GET /v2/_catalog?n=1&last=a-b",
            &["a/b"],
            "</v2/_catalog?n=1&last=a%2Fb>; rel=\"next\"",
        ),
        ("after a name with a slash", "GET /v2/_catalog?n=1&last=a%2Fb", &["b"], last_page),
        ("as many as there are", "GET /v2/_catalog?n=4", &["a", "a-b", "a/b", "b"], last_page),
        ("none", "GET /v2/_catalog?n=0", &[], last_page),
        ("after a repository", "GET /v2/_catalog?last=a", &["a-b", "a/b", "b"], last_page),
        ("after an unknown repository", "GET /v2/_catalog?last=a-c", &["a/b", "b"], last_page),
        ("after the last repository", "GET /v2/_catalog?last=b", &[], last_page),
    ] {
        let expected = json!({"repositories": repositories}).to_string();
        each(&[Call {
            description,
            given: PUSHED,
            request,
            headers: &[("content-type", "application/json"), ("link", link)],
            body: Body::Json(&expected),
            ..CALL
        }]);
    }
    each(&[
        Call {
            description: "an empty registry",
            request: "GET /v2/_catalog",
            body: Body::Json(r#"{"repositories":[]}"#),
            ..CALL
        },
        Call {
            description: "an invalid page size",
            request: "GET /v2/_catalog?n=-1",
            status: 400,
            body: Body::Error("UNSUPPORTED"),
            ..CALL
        },
    ]);
}

#[test]
fn following_links_lists_every_repository_once() {
    let registry = TestRegistry::new();
    for name in ["b", "a/b", "a", "a-b"] {
        registry.push_image(name, "x", "layer");
        registry.push_image(name, "y", "another layer");
    }
    for n in [1, 2, 3, 4] {
        let mut seen = Vec::new();
        for page in registry.pages(&format!("/v2/_catalog?n={n}")) {
            let names: Vec<String> = serde_json::from_value(page.json()["repositories"].clone()).unwrap();
            assert!(!names.is_empty() && names.len() <= n, "n={n}: {names:?}");
            seen.extend(names);
        }
        assert_eq!(seen, ["a", "a-b", "a/b", "b"], "n={n}");
    }
}
