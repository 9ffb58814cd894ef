//! Logs and `Server-Timing`.

use pierhead::{auth::Principal, layout::Key, platform::memory::MemoryStream};
use serde_json::{Value, json};

use crate::{
    access::{basic, user},
    reads::{cold, get_layer, layer, manifest, pushed},
    support::{Fault, Persistent, TestRegistry},
};

/// The lines of requests.
fn requests(registry: &TestRegistry) -> Vec<Value> {
    let lines = registry.lines.0.borrow();
    lines.iter().filter(|line| line["method"].is_string() && line.get("audit").is_none()).cloned().collect()
}

/// All lines as text.
fn text(registry: &TestRegistry) -> String {
    registry.lines.0.borrow().iter().map(ToString::to_string).collect()
}

#[test]
fn every_storage_call_is_logged_at_debug_level() {
    let persistent = pushed();
    let registry = cold(&[("LOG_LEVEL", "debug")], &persistent);
    assert_eq!(registry.get(&get_layer()).status, 200);
    assert_eq!(registry.get(&get_layer().replace("/a/", "/b/")).status, 404);
    persistent.storage.fail_at(Some((0, Fault::Error)));
    assert_eq!(registry.get(&get_layer()).status, 500);
    let logged: Vec<_> = registry
        .lines
        .0
        .borrow()
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(text("id"), "test");
            format!("{} {} {} {}", text("level"), text("driver"), text("operation"), text("outcome"))
        })
        .collect();
    assert_eq!(
        logged,
        [
            "debug faulty head found",
            "debug faulty get found",
            "info   ",
            // With the blob's location in memory, the link is looked up and the bytes are opened
            // concurrently.
            "debug faulty head absent",
            "debug faulty get found",
            "info   ",
            "debug faulty head head: asked to",
            "debug faulty get found",
            "error   ",
        ]
    );
    let path = registry.lines.0.borrow()[0]["path"].clone();
    assert_eq!(path, Key::Layer(&"a".parse().unwrap(), &layer()).path().as_str());
}

#[test]
fn a_request_has_one_line_with_what_it_was_and_what_it_cost() {
    let users = user("ann", "secret");
    let registry = cold(&[("HTPASSWD", &users)], &pushed());
    let login = basic("ann:secret");
    let headers = [("authorization", login.as_str()), ("x-request-id", "from/the.client-7")];
    let answer = registry.send(&get_layer(), &headers, None);
    assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (200, "from/the.client-7"));
    assert_eq!(registry.get("GET /v2/a/manifests/none?key=hidden").status, 404);
    assert_eq!(registry.get("GET /v2/a/manifests/none").header("x-request-id"), "test");
    assert_eq!(registry.send("GET /v2/", &[("authorization", &basic("ann:guess"))], None).status, 401);
    assert_eq!(registry.get("GET /elsewhere").status, 404);
    let lines = requests(&registry);
    assert_eq!(
        lines[0],
        json!({
            "level": "info",
            "id": "from/the.client-7",
            "method": "GET",
            "path": format!("/v2/a/blobs/{}", layer()),
            "route": "get_blob",
            "repository": "a",
            "principal": "ann",
            "status": 200,
            "bytes": {"in": 0, "out": answer.body.len()},
            "milliseconds": 0,
            "rounds": 2,
            "storage": {"calls": 2, "milliseconds": 0},
            "objects": 0,
            "cache": {"memory": 0, "edge": 0, "kv": 0, "miss": 0, "error": 0},
        })
    );
    let fields = |line: &Value| {
        json!(["route", "repository", "principal", "code", "status"].map(|name| line[name].clone()))
    };
    assert_eq!(fields(&lines[1]), json!(["get_manifest", "a", "anonymous", "MANIFEST_UNKNOWN", 404]));
    // Wrong credentials: nobody.
    assert_eq!(fields(&lines[3]), json!(["base", null, null, "UNAUTHORIZED", 401]));
    assert_eq!(fields(&lines[4]), json!(["none", null, null, "UNSUPPORTED", 404]));
    assert_eq!(lines.len(), 5);
    for secret in ["hidden", "secret", "guess", &login, "uthorization"] {
        assert!(!text(&registry).contains(secret), "{secret}");
    }
}

#[test]
fn the_secret_of_an_upload_is_not_logged_and_the_bytes_of_a_body_without_a_length_are() {
    let registry = cold(&[("LOG_LEVEL", "debug")], &Persistent::default());
    let location = registry.start_upload("");
    let body = MemoryStream::chunked(vec![7; 300]);
    assert_eq!(registry.send(&format!("PATCH {location}"), &[], Some(body)).status, 202);
    let lines = requests(&registry);
    assert_eq!((&lines[1]["bytes"]["in"], &lines[1]["route"]), (&json!(300), &json!("patch_upload")));
    assert!(lines[1]["objects"].as_u64().unwrap() > 0);
    let (path, state) = location.split_once("?_state=").unwrap();
    let all = text(&registry);
    assert!(all.contains(path) && !all.contains("_state") && !all.contains(state));
}

#[test]
fn an_id_that_a_client_sends_must_be_short_and_plain() {
    let registry = cold(&[], &pushed());
    let (long, longest) = ("x".repeat(129), "x".repeat(128));
    for (ours, ray, expected) in [
        (Some(longest.as_str()), None, longest.as_str()),
        (Some(long.as_str()), None, "test"),
        (Some("a b"), Some("8f2-FRA"), "8f2-FRA"),
        (Some("a\"}"), None, "test"),
        (Some(""), None, "test"),
        (Some("mine"), Some("8f2-FRA"), "mine"),
        (None, Some("8f2-FRA"), "8f2-FRA"),
    ] {
        let headers: Vec<_> = [("x-request-id", ours), ("cf-ray", ray)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        assert_eq!(registry.send("GET /v2/", &headers, None).header("x-request-id"), expected, "{ours:?}");
        assert_eq!(requests(&registry).last().unwrap()["id"], expected);
    }
}

#[test]
fn a_long_path_is_shortened() {
    let registry = cold(&[], &Persistent::default());
    assert_eq!(registry.get(&format!("GET /v2/{}", "x/".repeat(2_000))).status, 404);
    let path = requests(&registry)[0]["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("/v2/x/x/") && path.chars().count() == 1_025, "{path}");
}

#[test]
fn only_failures_are_logged_at_error_level() {
    let persistent = pushed();
    let registry = cold(&[("LOG_LEVEL", "error")], &persistent);
    assert_eq!(registry.get(&get_layer()).status, 200);
    assert_eq!(registry.get("GET /v2/a/manifests/none").status, 404);
    assert!(registry.lines.0.borrow().is_empty());
    persistent.storage.fail_at(Some((0, Fault::Error)));
    assert_eq!(registry.get("GET /v2/a/manifests/v1").status, 500);
    let lines = requests(&registry);
    assert_eq!((lines.len(), &lines[0]["status"], &lines[0]["code"]), (1, &json!(500), &json!("UNKNOWN")));
}

#[test]
fn rounds_count_calls_that_wait_for_one_another() {
    let registry = cold(&[], &Persistent::default());
    let log = registry.context(Principal::Anonymous).log;
    drop(log.begin_call());
    let (one, other) = (log.begin_call(), log.begin_call());
    drop(one);
    // The other is still under way: this one need not have waited for the first.
    let third = log.begin_call();
    drop((other, third));
    assert_eq!(log.rounds(), 2);
    drop(log.begin_call());
    assert_eq!(log.rounds(), 3);
}

#[test]
fn server_timing_is_sent_if_it_is_enabled() {
    let persistent = pushed();
    let by_digest = format!("GET /v2/a/manifests/{}", manifest());
    assert_eq!(cold(&[], &persistent).get(&by_digest).header("server-timing"), "");
    let registry = cold(&[("MIDDLEWARE", "server-timing")], &persistent);
    for (calls, cache) in
        [(2, "memory 0, edge 0, kv 0, miss 1, error 0"), (1, "memory 1, edge 0, kv 0, miss 0, error 0")]
    {
        let timing = format!("total;dur=0, storage;dur=0;desc=\"{calls} calls\", cache;desc=\"{cache}\"");
        assert_eq!(registry.get(&by_digest).header("server-timing"), timing);
    }
}

#[test]
fn an_object_cut_off_while_it_is_read_is_the_stores_failure() {
    let lasting = pushed();
    let registry = cold(&[], &lasting);
    lasting.storage.cuts_reads.set(true);
    let answer = registry.get("GET /v2/a/manifests/v1");
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    let lines = registry.lines.0.borrow();
    assert_eq!((&lines[0]["level"], &lines[0]["status"]), (&"error".into(), &503.into()));
    assert!(lines[0]["message"].as_str().unwrap().contains("/tags/v1/current/link: get: "), "{}", lines[0]);
}
