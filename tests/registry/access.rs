//! Access: what anonymous clients and users may do.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pierhead::config::Config;

use crate::{
    fixtures::{bytes, sha256},
    support::{Persistent, TestRegistry},
    table::assert_well_formed,
};

const HOST: (&str, &str) = ("host", "registry.example");
const BASIC: &str = "Basic realm=\"Pierhead\", charset=\"UTF-8\"";
const CHALLENGE: &str = "Bearer realm=\"https://registry.example/token\",service=\"registry.example\"";

/// Read requests, with their status in an empty registry.
fn reads() -> Vec<(String, u16)> {
    let digest = sha256("x");
    [
        ("GET /v2/".to_owned(), 200),
        ("HEAD /v2/".to_owned(), 200),
        ("GET /v2/_catalog".to_owned(), 200),
        ("GET /v2/a/tags/list".to_owned(), 404),
        ("GET /v2/a/manifests/x".to_owned(), 404),
        (format!("GET /v2/a/manifests/{digest}"), 404),
        (format!("GET /v2/a/blobs/{digest}"), 404),
        (format!("HEAD /v2/a/blobs/{digest}"), 404),
        (format!("GET /v2/a/referrers/{digest}"), 200),
    ]
    .to_vec()
}

/// Requests that require push, delete or administration access, with their status in an empty registry.
fn writes() -> Vec<(String, u16)> {
    let digest = sha256("x");
    let upload = "/v2/a/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887";
    [
        ("POST /v2/a/blobs/uploads/".to_owned(), 202),
        (format!("POST /v2/a/blobs/uploads/?mount={digest}"), 202),
        (format!("GET {upload}"), 404),
        (format!("PATCH {upload}"), 404),
        (format!("PUT {upload}?digest={digest}"), 404),
        (format!("DELETE {upload}"), 404),
        ("PUT /v2/a/manifests/x".to_owned(), 400),
        ("DELETE /v2/a/manifests/x".to_owned(), 404),
        (format!("DELETE /v2/a/manifests/{digest}"), 404),
        (format!("DELETE /v2/a/blobs/{digest}"), 404),
        ("POST /v2/_pierhead/jobs/fsck/run".to_owned(), 200),
        ("GET /v2/_pierhead/events".to_owned(), 200),
        ("GET /v2/_pierhead/events/ci/dead".to_owned(), 404),
        ("POST /v2/_pierhead/events/ci/dead/1".to_owned(), 404),
        ("DELETE /v2/_pierhead/events/ci/dead".to_owned(), 404),
    ]
    .to_vec()
}

fn assert_challenged(registry: &TestRegistry, line: &str, headers: &[(&str, &str)]) {
    let answer = registry.send(line, &[headers, &[HOST]].concat(), None);
    assert_well_formed(line, &answer);
    assert_eq!(answer.status, 401, "{line}");
    let challenge = answer.header("www-authenticate");
    let expected = if line.contains("_pierhead") { BASIC } else { CHALLENGE };
    assert!(challenge.starts_with(expected), "{line}: {challenge}");
    assert!(line.starts_with("HEAD") || answer.codes() == ["UNAUTHORIZED"], "{line}: {answer:?}");
}

fn assert_answered(registry: &TestRegistry, line: &str, headers: &[(&str, &str)], status: u16) {
    let answer = registry.send(line, headers, None);
    assert_well_formed(line, &answer);
    assert_eq!(answer.status.as_u16(), status, "{line}: {answer:?}");
    assert_eq!(answer.header("www-authenticate"), "", "{line}");
}

fn registry(vars: &[(&str, &str)]) -> TestRegistry {
    TestRegistry::with(vars, Persistent::default())
}

#[test]
fn anonymous_decides_the_access_without_a_login() {
    for (anonymous, may_read, may_write) in
        // The default is `none`.
        [("", false, false), ("none", false, false), ("pull", true, false), ("push", true, true)]
    {
        let registry = registry(&[("ANONYMOUS", anonymous)]);
        for (requests, may) in [(reads(), may_read), (writes(), may_write)] {
            for (line, status) in requests {
                // Clients send a password only where `/v2/` challenges them.
                match may && (anonymous == "push" || !line.ends_with(" /v2/")) {
                    true => assert_answered(&registry, &line, &[], status),
                    false => assert_challenged(&registry, &line, &[]),
                }
            }
        }
    }
}

#[test]
fn a_refused_push_stores_nothing() {
    let persistent = Persistent::default();
    let registry = TestRegistry::with(&[("ANONYMOUS", "pull")], persistent.clone());
    let line = format!("POST /v2/a/blobs/uploads/?digest={}", sha256(bytes(10)));
    let body = pierhead::platform::memory::MemoryStream::new(bytes(10));
    assert_eq!(registry.send(&line, &[], Some(body)).status, 401);
    assert_eq!(persistent.storage.memory.paths(), Vec::<String>::new());
}

#[test]
fn invalid_requests_are_refused_before_authorization() {
    let registry = registry(&[("ANONYMOUS", "none")]);
    for (line, status) in [("GET /v2/none", 404), ("POST /v2/", 405), ("GET /v2/Bad/tags/list", 400)] {
        assert_answered(&registry, line, &[], status);
    }
}

pub fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// An htpasswd line, with the lowest bcrypt cost.
pub fn user(name: &str, password: &str) -> String {
    let hash = bcrypt::hash_with_salt(password, 4, [1; 16]).unwrap();
    format!("{name}:{}", hash.format_for_version(bcrypt::Version::TwoY))
}

#[test]
fn users_have_full_access() {
    let users = [user("ann", "p:w ü"), user("bob", "hunter2")].join("\n");
    for anonymous in ["none", "pull", "push"] {
        let registry = registry(&[("ANONYMOUS", anonymous), ("HTPASSWD", &users)]);
        for credentials in ["ann:p:w ü", "bob:hunter2"] {
            let authorization = basic(credentials);
            let headers = [("authorization", authorization.as_str())];
            for (line, status) in reads().into_iter().chain(writes()) {
                assert_answered(&registry, &line, &headers, status);
            }
        }
        // Wrong credentials are refused even where anonymous access would do.
        for authorization in [
            basic("ann:hunter2"),
            basic("ann:p:w"),
            basic("bob:"),
            basic("bob"),
            basic("eve:hunter2"),
            basic(":"),
            "Basic".to_owned(),
            "Basic !".to_owned(),
            basic("bob:hunter2").replace("Basic", "Bearer"),
        ] {
            assert_challenged(&registry, "GET /v2/", &[("authorization", &authorization)]);
            assert_challenged(&registry, "POST /v2/a/blobs/uploads/", &[("authorization", &authorization)]);
        }
        let authorization = basic("bob:hunter2").replace("Basic", "bASIC");
        assert_answered(&registry, "GET /v2/", &[("authorization", &authorization)], 200);
    }
    let registry = registry(&[("ANONYMOUS", ""), ("HTPASSWD", &users)]);
    assert_challenged(&registry, "GET /v2/", &[]);
}

#[test]
fn an_invalid_configuration_names_every_error() {
    let lookup = |name: &str| match name {
        "ANONYMOUS" => Some("everybody".to_owned()),
        "UPLOAD_TTL" => Some("soon".to_owned()),
        _ => None,
    };
    let message = Config::from_vars(lookup).unwrap_err().to_string();
    assert!(message.contains("ANONYMOUS must be one of none, pull, push"), "{message}");
    assert!(message.contains("UPLOAD_TTL must be a time"), "{message}");
}
