//! Logs and `Server-Timing`.

use pierhead::layout::Key;

use crate::{
    reads::{cold, get_layer, layer, manifest, pushed},
    support::Fault,
};

#[test]
fn every_storage_call_is_logged_at_debug_level() {
    let persistent = pushed();
    let registry = cold(&[("LOG_LEVEL", "debug")], &persistent);
    assert_eq!(registry.get(&get_layer()).status, 200);
    assert_eq!(registry.get(&get_layer().replace("/a/", "/b/")).status, 404);
    persistent.storage.fail_at(Some((0, Fault::Error)));
    assert_eq!(registry.get(&get_layer()).status, 500);
    let lines = registry.lines.0.borrow();
    let logged: Vec<_> = lines
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
            "debug   ",
            // With the blob's location in memory, the link is looked up and the bytes are opened
            // concurrently.
            "debug faulty head absent",
            "debug faulty get found",
            "debug   ",
            "debug faulty head head: asked to",
            "debug faulty get found",
            "error   ",
            "debug   ",
        ]
    );
    assert_eq!(lines[0]["path"], Key::Layer(&"a".parse().unwrap(), &layer()).path().as_str());
    assert_eq!(lines[2]["request"], format!("GET /v2/a/blobs/{}", layer()));
    assert_eq!((&lines[2]["storage"]["calls"], &lines[2]["status"]), (&2.into(), &200.into()));
    let quiet = cold(&[], &persistent);
    assert_eq!(quiet.get(&get_layer()).status, 200);
    assert!(quiet.lines.0.borrow().is_empty());
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
