//! Health: `/healthz` and `/readyz`.

use std::{cell::Cell, rc::Rc};

use futures_util::future::ready;
use pierhead::platform::{
    Operation,
    health::{Check, Probe, Trouble},
};
use serde_json::{Value, json};

use crate::support::{Answer, Fault, Faulty, Persistent, TestRegistry};

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// Name and state of each check.
fn states(answer: &Answer) -> Vec<String> {
    let body = body(answer);
    let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    let checks = body["checks"].as_array().unwrap();
    checks.iter().map(|check| format!("{} {}", text(check, "name"), text(check, "state"))).collect()
}

fn later(registry: &TestRegistry, seconds: u64) {
    registry.clock.0.set(registry.clock.0.get() + seconds * 1_000);
}

#[test]
fn the_worker_is_alive_without_a_login_and_without_storage() {
    let registry = TestRegistry::with(&[("ANONYMOUS", "none")], Persistent::default());
    let (calls, answer) = registry.calls("GET /healthz", &[]);
    assert_eq!((calls.len(), answer.status.as_u16(), body(&answer)), (0, 200, json!({"status": "ok"})));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(registry.get("HEAD /healthz").status, 200);
    assert_eq!(registry.get("PUT /readyz").status, 405);
}

#[test]
fn the_bucket_is_read_each_time_and_written_once_a_minute() {
    let registry = TestRegistry::with(&[("ANONYMOUS", "none")], Persistent::default());
    let (calls, answer) = registry.calls("GET /readyz", &[]);
    assert_eq!(
        (answer.status.as_u16(), states(&answer)),
        (200, vec!["bucket ok".into(), "kv unbound".into()])
    );
    assert_eq!(calls, ["put", "head"]);
    // Nobody needs a login to ask: within five seconds, the answer is the same.
    later(&registry, 4);
    assert!(registry.calls("GET /readyz", &[]).0.is_empty());
    later(&registry, 1);
    assert_eq!(registry.calls("GET /readyz", &[]).0, ["head"]);
    later(&registry, 54);
    assert_eq!(registry.calls("GET /readyz", &[]).0, ["head"]);
    later(&registry, 5);
    assert_eq!(registry.calls("GET /readyz", &[]).0, ["put", "head"]);
}

#[test]
fn a_store_fails_after_three_failures_in_turn_and_says_why_in_the_log_only() {
    let persistent = Persistent { kv: Some(Faulty::default()), ..Persistent::default() };
    let registry = TestRegistry::with(&[], persistent.clone());
    let ask = |fault: Option<Fault>| {
        persistent.storage.fail_at(fault.map(|fault| (0, fault)));
        later(&registry, 60);
        let answer = registry.get("GET /readyz");
        (answer.status.as_u16(), body(&answer))
    };
    assert_eq!(ask(None).0, 200);
    for (fault, status, state) in [
        (Some(Fault::Error), 200, "doubtful"),
        (Some(Fault::Timeout), 200, "doubtful"),
        (None, 200, "ok"),
        (Some(Fault::Error), 200, "doubtful"),
        (Some(Fault::Error), 200, "doubtful"),
        (Some(Fault::Error), 503, "failing"),
        // It takes no more calls at the moment: it works.
        (Some(Fault::Refused), 200, "ok"),
    ] {
        let (answered, body) = ask(fault);
        assert_eq!((answered, &body["checks"][0]["state"]), (status, &json!(state)), "{body}");
        assert_eq!(body["checks"][1], json!({"name": "kv", "state": "ok", "milliseconds": 0}));
        assert!(!body.to_string().contains("asked to"), "{body}");
    }
    let lines = registry.lines.0.borrow();
    let failures: Vec<_> = lines.iter().filter(|line| line["health"] == "bucket").collect();
    assert_eq!(failures.len(), 5);
    assert!(failures[0]["message"].as_str().unwrap().contains("asked to"), "{}", failures[0]);
}

#[test]
fn the_threshold_and_the_other_bindings_are_settings_of_the_platform() {
    let is_broken = Rc::new(Cell::new(true));
    let broken = is_broken.clone();
    let check: Check = Rc::new(move || {
        let trouble = Trouble { reason: "it failed", message: "no route".to_owned() };
        Box::pin(ready(if broken.get() { Err(trouble) } else { Ok(()) }))
    });
    let probes = vec![("writers", Probe::Check(check)), ("queue", Probe::Bound)];
    let operation = Operation { probes, ..Operation::default() };
    let registry = TestRegistry::operated(&[("HEALTH_THRESHOLD", "1")], Persistent::default(), operation);
    let answer = registry.get("GET /readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(states(&answer), ["bucket ok", "kv unbound", "writers failing", "queue bound"]);
    assert_eq!(body(&answer)["status"], "failing");
    is_broken.set(false);
    later(&registry, 5);
    assert_eq!(registry.get("GET /readyz").status, 200);
}
