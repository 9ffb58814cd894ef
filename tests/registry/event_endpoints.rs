//! The delivery of events, over memory: the same code as in production but for its storage and its requests.

use std::{cell::RefCell, collections::BTreeSet};

use futures_executor::block_on;
use hmac::{Hmac, KeyInit, Mac};
use pierhead::{
    events::{
        Action, Actor, Event, RequestRecord, Source, Target,
        delivery::{Command, DeadLetter, Lanes, Reply, Status, dead, lane},
    },
    oci::RepositoryName,
    platform::Timestamp,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    fixtures::sha256,
    receiver::Mode,
    support::{Persistent, TestRegistry},
};

const ENDPOINT: &str = r#"[{"name": "ci", "url": "https://ci.example.com/hook"}]"#;

/// 2023-11-14T22:13:20Z, in milliseconds.
const START: u64 = 1_700_000_000_000;

const HOUR: u64 = 3_600_000;

fn registry(endpoints: &str) -> TestRegistry {
    let registry = TestRegistry::with(
        &[("EVENT_ENDPOINTS", endpoints), ("HOOK", "s3cret"), ("ANONYMOUS", "push")],
        Persistent::default(),
    );
    registry.clock.0.set(START);
    registry
}

fn event(repository: &str, n: u64) -> Event {
    Event {
        id: Uuid::from_u128(u128::from(n)),
        timestamp: Timestamp(START + n),
        action: Action::Push,
        target: Target {
            media_type: Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
            size: Some(7),
            digest: Some(sha256("x")),
            length: Some(7),
            repository: repository.parse().unwrap(),
            from_repository: None,
            url: None,
            tag: Some("v1".parse().unwrap()),
            references: Vec::new(),
        },
        request: RequestRecord { id: "r".to_owned(), method: "PUT".to_owned(), ..RequestRecord::default() },
        actor: Actor::default(),
        source: Source { addr: "registry.example.com".to_owned(), instance_id: None },
        sequence: Some(START * 1000 + n),
    }
}

fn moved(moved: u64, left: u64) -> Reply {
    Reply::Moved { moved, left, is_full: false }
}

impl TestRegistry {
    fn lane(&self, command: Command) -> Result<Reply, String> {
        block_on(self.lanes.call("ci", command))
    }

    fn take(&self, events: impl IntoIterator<Item = Event>) {
        let events = events.into_iter().collect();
        assert_eq!(self.lane(Command::Take { events }), Ok(Reply::Taken));
    }

    fn status(&self) -> Status {
        let Ok(Reply::Status(status)) = self.lane(Command::Status) else { panic!() };
        status
    }

    fn dead(&self) -> Vec<DeadLetter> {
        let Ok(Reply::Letters { letters, .. }) = self.lane(Command::Dead { after: None, limit: 100 }) else {
            panic!()
        };
        letters
    }

    /// Lets time pass from alarm to alarm, up to a time.
    fn run_until(&self, end: u64) {
        let mut runs = 0;
        while let Some(alarm) = self.lanes.next_alarm().filter(|alarm| alarm.0 <= end) {
            self.clock.0.set(alarm.0.max(self.clock_now()));
            block_on(self.lanes.run_alarms()).unwrap();
            runs += 1;
            assert!(runs < 100_000, "the alarm never rests");
        }
        self.clock.0.set(end.max(self.clock_now()));
    }

    fn clock_now(&self) -> u64 {
        use pierhead::platform::Clock;
        self.clock.now().0
    }

    fn run(&self) {
        self.run_until(self.clock_now());
    }
}

#[test]
fn events_arrive_in_one_envelope_in_the_order_of_their_sequence() {
    let registry = registry(ENDPOINT);
    registry.take([event("a", 3), event("b", 1)]);
    registry.take([event("a", 2), event("b", 1)]);
    assert_eq!(registry.receiver.requests(), 0);
    registry.run();
    let received = registry.receiver.received.borrow().clone();
    let [request] = &received[..] else { panic!("{received:?}") };
    assert_eq!(request.events, [event("b", 1), event("a", 2), event("a", 3)]);
    assert_eq!(request.url, "https://ci.example.com/hook");
    let header = |name: &str| request.headers.get(name).map_or("", |value| value.to_str().unwrap());
    assert_eq!(header("content-type"), "application/vnd.docker.distribution.events.v2+json");
    assert_eq!(header("user-agent"), format!("pierhead/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!((header("pierhead-event-id"), header("pierhead-signature")), ("", ""));
    let status = registry.status();
    assert_eq!((status.pending, status.delivered, status.failed, status.dead), (0, 3, 0, 0));
    assert_eq!(registry.lanes.next_alarm(), None);
    let rows: Vec<String> = registry.lanes.storage("ci").rows.borrow().keys().cloned().collect();
    assert_eq!(rows, ["state"]);
}

#[test]
fn headers_and_a_signature_that_openssl_verifies() {
    let registry = registry(
        r#"[{"name": "ci", "url": "https://ci.example.com/hook", "signing_secret": "${HOOK}",
             "headers": {"Authorization": "Bearer ${HOOK}", "user-agent": "mine"}}]"#,
    );
    registry.take([event("a", 1)]);
    registry.run();
    let received = registry.receiver.received.borrow().clone();
    let request = &received[0];
    assert_eq!(request.headers["authorization"], "Bearer s3cret");
    assert_eq!(request.headers["user-agent"], "mine");
    assert_eq!(request.headers["pierhead-event-id"], event("a", 1).id.to_string());
    assert_eq!(request.headers["pierhead-attempt"], "1");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"s3cret").unwrap();
    mac.update(format!("{}.{}", START / 1000, request.body).as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(request.headers["pierhead-signature"], format!("t={},v1={hex}", START / 1000));
}

#[test]
fn cloud_events_arrive_one_by_one() {
    let registry =
        registry(r#"[{"name": "ci", "url": "https://ci.example.com/hook", "form": "cloudevents"}]"#);
    let mut pull = event("team/a", 2);
    pull.action = Action::Pull;
    pull.sequence = None;
    registry.take([event("team/a", 1), pull.clone()]);
    registry.run();
    let received = registry.receiver.received.borrow().clone();
    assert_eq!(received.len(), 2);
    for request in &received {
        assert_eq!(request.headers["content-type"], "application/cloudevents+json");
    }
    let bodies: Vec<Value> = received.iter().map(|r| serde_json::from_str(&r.body).unwrap()).collect();
    let push = event("team/a", 1);
    let expected = json!({
        "specversion": "1.0",
        "id": push.id,
        "source": "//registry.example.com/v2/",
        "type": "pierhead.push",
        "subject": "team/a",
        "time": "2023-11-14T22:13:20.001Z",
        "datacontenttype": "application/json",
        "sequence": format!("{:020}", START * 1000 + 1),
        "data": push,
    });
    assert!(bodies.contains(&expected), "{bodies:#?}");
    let pulled = bodies.iter().find(|body| body["type"] == "pierhead.pull").unwrap();
    assert_eq!((&pulled["data"], pulled.get("sequence")), (&json!(pull), None));
}

#[test]
fn endpoints_get_the_events_that_they_want() {
    let registry = registry(
        r#"[{"name": "ci", "url": "https://a.example.com", "repositories": ["team/**"],
             "ignore": {"actions": ["pull"], "media_types": ["application/octet-stream"]}},
            {"name": "off", "url": "https://a.example.com", "disabled": true}]"#,
    );
    let config = &registry.app.config.events;
    let wants = |name: &str, event: &Event| config.endpoint(name).unwrap().wants(event);
    let push = event("team/a", 1);
    assert!(wants("ci", &push) && !wants("off", &push) && !wants("ci", &event("other", 1)));
    assert!(!wants("ci", &Event { action: Action::Pull, ..push.clone() }));
    let blob = Target { media_type: Some("application/octet-stream".to_owned()), ..push.target.clone() };
    assert!(!wants("ci", &Event { target: blob, ..push.clone() }));
    let deleted = Target { media_type: None, ..push.target.clone() };
    assert!(wants("ci", &Event { target: deleted, action: Action::Delete, ..push }));
}

#[test]
fn an_endpoint_that_fails_for_an_hour_gets_everything_in_order() {
    let registry = registry(ENDPOINT);
    registry.receiver.script(|_, at| match at {
        ..1_700_003_600_000 => Mode::Status(500),
        _ => Mode::Status(200),
    });
    let repositories = ["a", "b", "c", "d/e"];
    for n in 0..1000 {
        // Every 3.6 s.
        registry.run_until(START + n * 3600);
        registry.take([event(repositories[n as usize % 4], n)]);
    }
    registry.run_until(START + 2 * HOUR);
    let accepted = registry.receiver.accepted();
    assert_eq!(accepted.iter().map(|event| event.id).collect::<BTreeSet<_>>().len(), 1000);
    assert_eq!(accepted.len(), 1000, "no repeats");
    for name in repositories {
        let name: RepositoryName = name.parse().unwrap();
        let order: Vec<u64> =
            accepted.iter().filter(|e| e.target.repository == name).map(|e| e.sequence.unwrap()).collect();
        assert!(order.is_sorted(), "{name}");
    }
    let status = registry.status();
    assert_eq!((status.pending, status.delivered, status.dead), (0, 1000, 0));
    // Ten in a row, and then ever longer waits up to 10 minutes.
    assert!((15..40).contains(&status.failed), "{status:?}");
    let received = registry.receiver.received.borrow();
    let last = received.iter().filter(|request| request.is_accepted).map(|request| request.at).max().unwrap();
    assert!(last < START + HOUR + 600_000, "{}", last - START);
    println!("an hour of 500: {} failed requests, {} in all", status.failed, received.len());
}

#[test]
fn a_poison_event_holds_back_its_repository_only_and_dies_of_refusals() {
    let registry = registry(ENDPOINT);
    let poison = event("a", 1).id;
    registry.receiver.script(move |events, _| match events.iter().any(|event| event.id == poison) {
        true => Mode::Status(422),
        false => Mode::Status(200),
    });
    registry.take((1..=4).map(|n| event(if n == 3 { "b" } else { "a" }, n)));
    registry.run();
    assert_eq!(registry.receiver.accepted_ids(), [event("b", 3).id]);
    registry.run_until(START + 100_000);
    let ids = [3, 2, 4].map(|n| event("a", n).id);
    assert_eq!(registry.receiver.accepted_ids(), ids);
    let dead = registry.dead();
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!((&letter.event, letter.reason.as_str()), (&event("a", 1), "status 422"));
    assert_eq!((letter.attempts, letter.taken), (6, Timestamp(START)));
    assert_eq!(letter.id, format!("{}-{}-{poison}", letter.died.0, START * 1000 + 1));
    let lines = registry.lines.0.borrow();
    assert!(lines.iter().any(|line| line["endpoint"] == "ci" && line["dead"] == 1), "{lines:?}");
}

#[test]
fn events_that_are_not_delivered_in_time_die() {
    let registry = registry(
        r#"[{"name": "ci", "url": "https://ci.example.com/hook", "give_up": "1h", "max_backoff": "5m"}]"#,
    );
    registry.receiver.answer(Mode::Hang);
    registry.take([event("a", 1), event("a", 2), event("b", 3)]);
    registry.run_until(START + HOUR - 60_000);
    assert_eq!((registry.status().pending, registry.status().dead), (3, 0));
    assert!(registry.status().down_since.is_some());
    assert_eq!(registry.status().last_error.as_deref(), Some("no answer in time"));
    registry.run_until(START + HOUR + 300_000);
    let dead = registry.dead();
    assert_eq!(
        dead.iter().map(|letter| letter.event.id).collect::<Vec<_>>(),
        [1, 2, 3].map(|n| event("a", n).id)
    );
    assert!(dead.iter().all(|letter| letter.died.0 >= START + HOUR));
    assert_eq!(dead[0].reason, "not delivered in time; the last failure: no answer in time");
    assert_eq!((registry.status().pending, registry.lanes.next_alarm()), (0, None));
}

#[test]
fn a_slow_endpoint_delays_no_other() {
    let registry = registry(
        r#"[{"name": "ci", "url": "https://ci.example.com/"}, {"name": "fast", "url": "https://fast.example.com/"}]"#,
    );
    registry.receiver.answer(Mode::Hang);
    registry.take([event("a", 1)]);
    registry.run();
    registry.receiver.answer(Mode::Status(204));
    let events = vec![event("a", 1)];
    assert_eq!(block_on(registry.lanes.call("fast", Command::Take { events })), Ok(Reply::Taken));
    registry.run();
    let received = registry.receiver.received.borrow();
    assert_eq!(received.iter().filter(|r| r.is_accepted && r.url.contains("fast")).count(), 1);
}

#[test]
fn redirects_are_followed_on_the_same_origin_only() {
    for (status, to, requests, error) in [
        (307, "/other", 2, None),
        (308, "https://ci.example.com/other", 2, None),
        (307, "https://ci.example.com:443/other", 2, None),
        (307, "https://evil.example.com/", 1, Some("status 307 to another origin")),
        (307, "http://ci.example.com/other", 1, Some("status 307 to another origin")),
        (307, "https://ci.example.com:8443/", 1, Some("status 307 to another origin")),
        (308, "http://169.254.169.254/", 1, Some("status 308 to another origin")),
        (307, "//127.0.0.1/", 1, Some("status 307 to another origin")),
        (307, "file:///etc/passwd", 1, Some("status 307 to another origin")),
        (
            307,
            "https://u:p@ci.example.com/",
            1,
            Some("status 307: needs a URL without a user and a password"),
        ),
        (307, "/hook", 4, Some("more than 3 redirects")),
        (301, "/other", 1, Some("status 301")),
        (302, "/other", 1, Some("status 302")),
        (303, "/other", 1, Some("status 303")),
        (304, "/other", 1, Some("status 304")),
    ] {
        let registry = registry(ENDPOINT);
        let seen = RefCell::new(0);
        registry.receiver.script(move |_, _| {
            *seen.borrow_mut() += 1;
            let is_followed = *seen.borrow() > 1 && to != "/hook";
            if is_followed { Mode::Status(200) } else { Mode::Redirect(status, to) }
        });
        registry.take([event("a", 1)]);
        registry.run();
        assert_eq!(registry.receiver.requests(), requests, "{status} {to}");
        assert_eq!(registry.status().last_error.as_deref(), error, "{status} {to}");
        assert_eq!(registry.status().delivered, u64::from(error.is_none()), "{status} {to}");
        let received = registry.receiver.received.borrow();
        assert!(received.iter().all(|request| request.url.starts_with("https://ci.example.com")));
        if error.is_none() {
            assert_eq!(
                (received[1].url.as_str(), &received[1].body),
                ("https://ci.example.com/other", &received[0].body)
            );
        }
    }
}

#[test]
fn an_endpoint_that_asks_for_time_gets_it() {
    for (answer, wait) in [
        (Mode::RetryAfter(429, "7"), 7000),
        (Mode::RetryAfter(503, "7"), 7000),
        (Mode::RetryAfter(503, "Tue, 14 Nov 2023 22:13:30 GMT"), 10_000),
        (Mode::RetryAfter(429, "86400"), 600_000),
    ] {
        let registry = registry(ENDPOINT);
        registry.receiver.answer(answer.clone());
        registry.take([event("a", 1), event("b", 2)]);
        registry.run();
        assert_eq!(registry.receiver.requests(), 1);
        assert_eq!(registry.lanes.next_alarm(), Some(Timestamp(START + wait)), "{answer:?}");
        registry.receiver.answer(Mode::Status(200));
        registry.run_until(START + wait);
        assert_eq!((registry.receiver.requests(), registry.status().delivered), (2, 2), "{answer:?}");
    }
}

#[test]
fn nothing_is_lost_when_storage_fails_or_the_object_restarts() {
    // Every write fails once, in turn.
    for failing in 0..12 {
        for restarts in [false, true] {
            let registry = registry(ENDPOINT);
            let storage = registry.lanes.storage("ci");
            let mut count = 0;
            registry.receiver.script(move |_, _| {
                count += 1;
                if count % 2 == 1 { Mode::Status(500) } else { Mode::Status(200) }
            });
            storage.writes_left.set(Some(failing));
            for n in 0..6 {
                let name = if n % 2 == 0 { "a" } else { "b" };
                let events = vec![event(name, n)];
                // What is not acknowledged is sent again.
                while registry.lane(Command::Take { events: events.clone() }).is_err() {
                    storage.writes_left.set(None);
                }
                if block_on(registry.lanes.run_alarms()).is_err() {
                    storage.writes_left.set(None);
                    storage.alarm.set(Some(Timestamp(START)));
                }
                if restarts {
                    registry.lanes.restart();
                }
            }
            storage.writes_left.set(None);
            storage.alarm.set(Some(Timestamp(START)));
            registry.run_until(START + HOUR);
            let ids: BTreeSet<Uuid> = registry.receiver.accepted_ids().into_iter().collect();
            assert_eq!(ids, (0..6).map(|n| event("a", n).id).collect(), "write {failing}");
            assert_eq!((registry.status().pending, registry.status().dead), (0, 0));
            // At most the request whose result was not stored is repeated.
            let repeats = registry.receiver.accepted_ids().len() - ids.len();
            assert!(repeats <= 2, "write {failing}: {repeats}");
        }
    }
}

#[test]
fn events_are_taken_while_a_request_is_under_way() {
    let registry = registry(ENDPOINT);
    for n in 1..4 {
        let lanes = registry.lanes.clone();
        registry.receiver.during.borrow_mut().push_back(Box::pin(async move {
            // The same event, one before it, and one of another repository.
            let events = vec![event("a", 10), event("a", 5 + n), event("b", 20 + n)];
            assert_eq!(lanes.call("ci", Command::Take { events }).await, Ok(Reply::Taken));
        }));
    }
    registry.take([event("a", 10)]);
    registry.run();
    let ids: BTreeSet<Uuid> = registry.receiver.accepted_ids().into_iter().collect();
    assert_eq!(ids, [10, 6, 7, 8, 21, 22, 23].into_iter().map(|n| event("a", n).id).collect());
    assert_eq!(registry.status().pending, 0);
}

#[test]
fn an_alarm_during_a_delivery_sends_nothing_twice() {
    let registry = registry(ENDPOINT);
    let lanes = registry.lanes.clone();
    registry.receiver.during.borrow_mut().push_back(Box::pin(async move {
        lanes.storage("ci").alarm.set(Some(Timestamp(START)));
        assert_eq!(lanes.run_alarms().await, Ok(1));
    }));
    registry.take([event("a", 1), event("b", 2)]);
    registry.run();
    assert_eq!((registry.receiver.requests(), registry.status().delivered), (1, 2));
    registry.take([event("a", 3)]);
    registry.run();
    assert_eq!(registry.status().delivered, 3);
}

#[test]
fn a_delivery_takes_a_break_and_goes_on() {
    let registry = registry(ENDPOINT);
    registry.receiver.delay.set(6000);
    registry.receiver.script(|_, _| Mode::Status(200));
    let names: Vec<String> = (0..200).map(|n| format!("r{n}")).collect();
    registry.take((0..200).map(|n| event(&names[n as usize], n)));
    block_on(registry.lanes.run_alarms()).unwrap();
    // 20 s after 4 of them.
    assert_eq!(registry.receiver.requests(), 4);
    assert_eq!(registry.lanes.next_alarm(), Some(Timestamp(registry.clock_now())));
    registry.run();
    assert_eq!((registry.receiver.requests(), registry.status().delivered), (7, 200));
}

#[test]
fn an_endpoint_that_is_disabled_keeps_its_events_and_one_that_is_gone_gives_them_up() {
    let registry = registry(ENDPOINT);
    registry.take([event("a", 1)]);
    let enabled = registry.lanes.endpoints.borrow().clone();
    registry.lanes.endpoints.borrow_mut()[0].disabled = true;
    registry.run_until(START + HOUR);
    assert_eq!((registry.receiver.requests(), registry.status().pending), (0, 1));
    registry.lanes.endpoints.replace(enabled.clone());
    registry.run_until(START + HOUR + 600_000);
    assert_eq!(registry.status().delivered, 1);

    registry.lanes.endpoints.borrow_mut()[0].disabled = true;
    registry.take([event("a", 2)]);
    registry.run_until(START + 26 * HOUR);
    assert_eq!((registry.status().pending, registry.status().dead), (0, 1));
    assert_eq!(registry.dead()[0].reason, "not delivered in time");
    assert_eq!((registry.receiver.requests(), registry.lanes.next_alarm()), (1, None));

    // One that is missing for less than an hour, as during a deployment, loses nothing.
    registry.lanes.endpoints.borrow_mut().clear();
    registry.take((3..100).map(|n| event("a", n)));
    registry.run_until(START + 26 * HOUR + 2_900_000);
    registry.lanes.endpoints.replace(enabled);
    registry.run_until(START + 27 * HOUR - 1);
    assert_eq!((registry.status().delivered, registry.status().dead), (98, 1));

    registry.lanes.endpoints.borrow_mut().clear();
    registry.take((100..200).map(|n| event("a", n)));
    registry.run_until(START + 28 * HOUR);
    assert_eq!((registry.status().pending, registry.status().dead), (0, 101));
    assert_eq!(registry.dead()[99].reason, "the endpoint is not configured any more");
    assert_eq!(registry.lanes.next_alarm(), None);
}

#[test]
fn a_lane_without_room_makes_dead_letters() {
    let registry = registry(ENDPOINT);
    registry.receiver.answer(Mode::Status(500));
    let mut large = event("a", 0);
    large.request.useragent = "x".repeat(100_000);
    let size = serde_json::to_string(&large).unwrap().len();
    let room = lane::MAX_PENDING_BYTES / size;
    for n in 0..room as u64 + 3 {
        registry.take([Event { id: event("a", n).id, ..large.clone() }]);
    }
    let status = registry.status();
    assert_eq!((status.pending, status.dead), (room as u64, 3));
    assert!(registry.dead().iter().all(|letter| letter.reason == "the lane is full"));
    // There is no room for them yet.
    let path = "/v2/_pierhead/events/ci/dead";
    for line in [format!("POST {path}"), format!("POST {path}/{}", registry.dead()[0].id)] {
        let answer = registry.get(&line);
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "60"), "{line}");
    }
    assert_eq!(registry.status().dead, 3);
    registry.receiver.answer(Mode::Status(200));
    registry.run_until(START + HOUR);
    assert_eq!(registry.lane(Command::Replay { id: None }), Ok(moved(3, 0)));
    registry.run();
    assert_eq!(registry.status().delivered, room as u64 + 3);
}

#[test]
fn the_oldest_dead_letters_make_room() {
    let registry = registry(ENDPOINT);
    registry.lanes.endpoints.borrow_mut().clear();
    let die = |n: u64| {
        registry.take([event("a", n)]);
        registry.run_until(registry.clock_now() + HOUR);
    };
    (0..5).for_each(die);
    assert_eq!(registry.status().dead, 5);
    // As if they were large.
    registry.lanes.restart();
    let storage = registry.lanes.storage("ci");
    let mut state: Value = serde_json::from_str(&storage.rows.borrow()["state"]).unwrap();
    state["dead_bytes"] = (dead::MAX_DEAD_BYTES + 100).into();
    storage.rows.borrow_mut().insert("state".to_owned(), state.to_string());
    die(5);
    let status = registry.status();
    assert_eq!((status.dead, status.dropped), (4, 2));
    let first = registry.dead()[0].event.id;
    assert_eq!(first, event("a", status.dropped).id);
    let lines = registry.lines.0.borrow();
    let dropped: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
    assert_eq!(dropped, status.dropped);
}

#[test]
fn dead_letters_are_listed_read_replayed_and_dropped() {
    let registry = registry(ENDPOINT);
    let path = "/v2/_pierhead/events/ci/dead";
    let json = |line: &str| -> Value {
        let answer = registry.get(line);
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        serde_json::from_slice(&answer.body).unwrap()
    };
    assert_eq!(json(&format!("GET {path}")), json!({"dead": []}));
    registry.receiver.answer(Mode::Gone);
    registry.take((0..5).map(|n| event("a", n)));
    registry.run_until(START + 25 * HOUR);
    let status = json("GET /v2/_pierhead/events");
    let [status] = &status["endpoints"].as_array().unwrap()[..] else { panic!() };
    assert_eq!((&status["name"], &status["pending"], &status["dead"]), (&json!("ci"), &json!(0), &json!(5)));
    assert_eq!(status["last_error"], "connection refused");
    assert!(status["down_since"].as_str().unwrap().starts_with("2023-11-14T"), "{status}");

    // Pages, as of the catalog.
    let mut ids = Vec::new();
    let mut next = format!("{path}?n=2");
    let mut pages = 0;
    loop {
        let answer = registry.get(&format!("GET {next}"));
        let page: Value = serde_json::from_slice(&answer.body).unwrap();
        ids.extend(page["dead"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_owned()));
        pages += 1;
        let link = answer.header("link");
        if link.is_empty() {
            break;
        }
        next = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
    }
    assert_eq!((ids.len(), pages, ids.iter().collect::<BTreeSet<_>>().len()), (5, 3, 5));

    let letter = json(&format!("GET {path}/{}", ids[0]));
    assert_eq!((&letter["id"], &letter["event"]), (&json!(ids[0]), &json!(event("a", 0))));
    assert_eq!(letter["taken"], "2023-11-14T22:13:20Z");
    assert!(letter["attempts"].as_u64().unwrap() > 0);
    for wrong in ["x", "1-2", &ids[0][1..]] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = registry.get(&format!("{method} {path}/{wrong}"));
            assert_eq!(
                (answer.status.as_u16(), answer.codes()),
                (404, vec!["UNSUPPORTED".to_owned()]),
                "{wrong}"
            );
        }
    }

    registry.receiver.answer(Mode::Status(200));
    assert_eq!(registry.get(&format!("POST {path}/{}", ids[3])).status, 204);
    assert_eq!(registry.get(&format!("POST {path}/{}", ids[3])).status, 404);
    assert_eq!(registry.get(&format!("DELETE {path}/{}", ids[0])).status, 204);
    registry.run_until(START + 26 * HOUR);
    assert_eq!(registry.receiver.accepted_ids(), [event("a", 3).id]);
    assert_eq!(json(&format!("POST {path}")), json!({"replayed": 3, "left": 0}));
    registry.run_until(START + 27 * HOUR);
    assert_eq!(registry.receiver.accepted_ids(), [3, 1, 2, 4].map(|n| event("a", n).id));
    assert_eq!(json(&format!("DELETE {path}")), json!({"dropped": 0, "left": 0}));
    assert_eq!(registry.status().dead, 0);
}

#[test]
fn letters_of_one_event_that_die_together_are_two() {
    let registry = registry(ENDPOINT);
    registry.receiver.answer(Mode::Status(500));
    let first = event("a", 1);
    let again = Event { sequence: Some(START * 1000 + 9), ..first.clone() };
    registry.take([first.clone(), again.clone()]);
    registry.run_until(START + 25 * HOUR);
    let dead = registry.dead();
    assert_eq!(dead.iter().map(|letter| &letter.event).collect::<Vec<_>>(), [&first, &again]);
    assert_eq!((dead[0].died, registry.status().dead), (dead[1].died, 2));
    for letter in &dead {
        assert_eq!(registry.get(&format!("DELETE /v2/_pierhead/events/ci/dead/{}", letter.id)).status, 204);
    }
    assert_eq!(registry.status().dead, 0);
}

#[test]
fn many_dead_letters_are_moved_in_steps() {
    let registry = registry(ENDPOINT);
    registry.lanes.endpoints.borrow_mut().clear();
    registry.take((0..1500).map(|n| event("a", n)));
    registry.run_until(START + HOUR);
    assert_eq!(registry.status().dead, 1500);
    assert_eq!(registry.lane(Command::Drop { id: None }), Ok(moved(1000, 500)));
    // The rest is written in one order, and read back in it.
    assert_eq!(registry.dead()[0].event.id, event("a", 1000).id);
    registry.lanes.restart();
    assert_eq!(registry.lane(Command::Drop { id: None }), Ok(moved(500, 0)));
    assert_eq!(registry.lane(Command::Drop { id: None }), Ok(moved(0, 0)));
}

#[test]
fn unknown_endpoints_are_absent_and_the_busy_ones_are_busy() {
    let registry = registry(ENDPOINT);
    for line in [
        "GET /v2/_pierhead/events/none/dead",
        "POST /v2/_pierhead/events/none/dead",
        "DELETE /v2/_pierhead/events/none/dead/1-x",
        "GET /v2/_pierhead/events/No/dead",
        "GET /v2/_pierhead/events/ci",
        "GET /v2/_pierhead/events/ci/dead/",
        "GET /v2/_pierhead/events/ci/dead/a/b",
    ] {
        let answer = registry.get(line);
        assert_eq!((answer.status.as_u16(), answer.codes()), (404, vec!["UNSUPPORTED".to_owned()]), "{line}");
    }
    for (path, allow) in
        [("/v2/_pierhead/events", "GET, HEAD"), ("/v2/_pierhead/events/ci/dead", "GET, HEAD, POST, DELETE")]
    {
        let answer = registry.get(&format!("PUT {path}"));
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allow));
    }
    registry.lanes.is_down.set(true);
    assert_eq!(registry.get("GET /v2/_pierhead/events/ci/dead").status, 503);
}

#[test]
fn an_endpoint_that_cannot_be_asked_hides_no_other() {
    let registry = registry(
        r#"[{"name": "ci", "url": "https://ci.example.com/"}, {"name": "b", "url": "https://b.example.com/"}]"#,
    );
    registry.take([event("a", 1)]);
    registry.lanes.restart();
    let storage = registry.lanes.storage("b");
    storage.rows.borrow_mut().insert("state".to_owned(), "broken".to_owned());
    let answer = registry.get("GET /v2/_pierhead/events");
    assert_eq!(answer.status, 200);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["endpoints"][0]["pending"], &body["endpoints"][0]["error"]), (&json!(1), &Value::Null));
    assert_eq!(
        (&body["endpoints"][1]["name"], &body["endpoints"][1]["disabled"]),
        (&json!("b"), &json!(false))
    );
    assert!(body["endpoints"][1]["error"].is_string(), "{body}");
}

#[test]
fn the_dead_letters_of_a_removed_endpoint_can_be_reached() {
    let registry = registry(ENDPOINT);
    let events = vec![event("a", 1)];
    assert_eq!(block_on(registry.lanes.call("old", Command::Take { events })), Ok(Reply::Taken));
    registry.run_until(START + HOUR);
    assert_eq!(registry.get("GET /v2/_pierhead/events/old/dead").status, 200);
    let answer = registry.get("DELETE /v2/_pierhead/events/old/dead");
    assert_eq!(answer.body, br#"{"dropped":1,"left":0}"#);
}

#[test]
fn commands_and_replies_keep_their_form() {
    let message = |command: &Command| serde_json::to_string(command).unwrap();
    assert_eq!(message(&Command::Status), r#""Status""#);
    assert_eq!(message(&Command::Drop { id: None }), r#"{"Drop":{"id":null}}"#);
    let read = |text: &str| serde_json::from_str::<Command>(text).unwrap();
    assert_eq!(read(r#"{"Replay":{}}"#), Command::Replay { id: None });
    assert_eq!(read(r#"{"Dead":{"limit":5}}"#), Command::Dead { after: None, limit: 5 });
    let status: Reply = serde_json::from_str(r#"{"Status":{"pending":3,"later":1}}"#).unwrap();
    assert_eq!(status, Reply::Status(Status { pending: 3, ..Status::default() }));
}
