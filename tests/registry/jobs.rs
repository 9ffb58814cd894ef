//! Jobs: their effects, and resuming at a cursor.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    future::poll_fn,
    mem::replace,
    rc::Rc,
    task::Poll,
};

use futures_executor::block_on;
use futures_util::future::{LocalBoxFuture, join};
use pierhead::{
    api::route::Route,
    app::App,
    auth::{Access, Principal},
    blobs::Located,
    context::Context,
    events::memory::MemoryQueue,
    jobs::{
        Job, Step,
        run::{Asked, Budget, Change, Refused, advance, change},
        schedule::{self, Entry},
        state::{MAX_STATE, Starter, State},
    },
    layout::Key,
    oci::{Algorithm, Digest},
    platform::{Body, Timestamp, memory::MemoryStream},
    repository::RepositoryError,
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::sha256,
    support::{Faulty, Persistent, TestRegistry, openapi},
};

/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

fn put(registry: &TestRegistry, path: &str) {
    let path = path.parse().unwrap();
    block_on(registry.storage.put(&path, Body::Empty, PutOptions::default())).unwrap();
}

/// Asks for something about a job.
fn ask(registry: &TestRegistry, line: &str) -> Value {
    let answer = registry.get(line);
    assert_eq!(answer.status, 200, "{line}: {answer:?}");
    answer.json()
}

fn run(registry: &TestRegistry, job: &str) -> Value {
    ask(registry, &format!("POST /v2/_pierhead/jobs/{job}/run"))
}

fn state_of(registry: &TestRegistry, job: &str) -> Value {
    ask(registry, &format!("GET /v2/_pierhead/jobs/{job}"))
}

/// Makes a step of a purge of what is older than 5 s; returns its report, which is also logged.
fn purge(registry: &TestRegistry, dry_run: bool) -> Value {
    registry.clock.0.set(5_000 + 8 * DAY * 1_000);
    registry.lines.0.borrow_mut().clear();
    let answer = ask(registry, &format!("POST /v2/_pierhead/jobs/purge/run?dry-run={dry_run}"));
    let lines = registry.lines.0.borrow();
    let line = lines.iter().find(|line| line["job"] == "purge").unwrap();
    assert_eq!((&line["level"], &line["id"]), (&json!("info"), &json!("test")));
    assert_eq!(line["report"], answer["report"]);
    answer["report"].clone()
}

/// Stores an object with the digest of `noted` as metadata, and a descriptor of `described` at that path.
fn put_noted(registry: &TestRegistry, path: &str, content: &str, noted: Option<&Digest>) {
    let metadata = noted.map(|digest| ("digest".to_owned(), digest.to_string())).into_iter().collect();
    let options = PutOptions { metadata, ..PutOptions::default() };
    let body = Body::Bytes(content.to_owned().into());
    block_on(registry.storage.put(&path.parse().unwrap(), body, options)).unwrap();
}

fn describe(registry: &TestRegistry, digest: &Digest, at: &str) {
    let metadata = Located { size: 1, at: Some(at.parse().unwrap()) }.to_metadata();
    let options = PutOptions { metadata, ..PutOptions::default() };
    block_on(registry.storage.put(&Key::Descriptor(digest).path(), Body::Empty, options)).unwrap();
}

#[test]
fn a_purge_removes_only_objects_that_belong_to_no_blob() {
    for hides_metadata in [false, true] {
        let registry = TestRegistry::new();
        let storage = &registry.storage;
        storage.hides_metadata.set(hides_metadata);
        storage.memory.now.set(Timestamp(1_000));
        let [kept, unknown, moved, broken, old] = ["a", "b", "c", "d", "e"].map(sha256);
        let uuid = |n: u8| format!("0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a69788{n}");
        let (blob, note) =
            (|n| format!("pierhead/blobs/{}", uuid(n)), |n| format!("pierhead/uploads/blobs/{}", uuid(n)));
        // Described; never described; described elsewhere; never described, with other bytes.
        for (n, content, digest) in [(1, "a", &kept), (2, "b", &unknown), (3, "c", &moved), (4, "x", &broken)]
        {
            put_noted(&registry, &blob(n), content, None);
            put_noted(&registry, &note(n), "", Some(digest));
        }
        describe(&registry, &kept, &blob(1));
        describe(&registry, &moved, &blob(9));
        // As earlier versions stored them: one with a descriptor, one without.
        let earlier = |n| format!("pierhead/uploads/{}/1", uuid(n));
        for n in [5, 6] {
            put_noted(&registry, &earlier(n), "e", None);
            put_noted(&registry, &format!("{}.blob", earlier(n)), "", Some(&old));
        }
        describe(&registry, &old, &earlier(5));
        put(&registry, &format!("pierhead/uploads/{}/staged/2", uuid(7)));
        storage.memory.now.set(Timestamp(10_000));
        put(&registry, &format!("pierhead/uploads/{}/staged/1", uuid(8)));

        let mut removed = vec![note(1), note(2), blob(3), note(3), blob(4), note(4)];
        removed.extend([earlier(6), format!("{}.blob", earlier(6))]);
        removed.push(format!("pierhead/uploads/{}/staged/2", uuid(7)));
        removed.sort();
        let sorted = |report: &Value| {
            let mut paths: Vec<String> = serde_json::from_value(report["purged"].clone()).unwrap();
            paths.sort();
            paths
        };
        let before = storage.memory.paths();
        let dry = purge(&registry, true);
        assert_eq!(
            (sorted(&dry), &dry["seen"], &dry["dry_run"]),
            (removed.clone(), &json!(10), &json!(true))
        );
        let mut after = storage.memory.paths();
        after.retain(|path| path != "pierhead/jobs/purge");
        assert_eq!(after, before);

        assert_eq!(sorted(&purge(&registry, false)), removed);
        assert_eq!(sorted(&purge(&registry, false)), Vec::<String>::new());
        let after = storage.memory.paths();
        let described = Key::Descriptor(&unknown).path().to_string();
        for path in [blob(1), blob(2), earlier(5), described] {
            assert!(after.contains(&path), "{path}");
        }
    }
}

#[test]
fn a_purge_resumes_at_its_cursor() {
    let registry = TestRegistry::new();
    for n in 0..1_200 {
        put(&registry, &format!("pierhead/uploads/{n:08}-9f2a-4b5e-a1d2-3c4b5a697887/staged/1"));
    }
    let steps: Vec<_> = (0..4)
        .map(|_| {
            let report = purge(&registry, false);
            (report["purged"].as_array().unwrap().len(), report["finished"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(steps, [(500, false), (500, false), (200, true), (0, true)]);
    let state = state_of(&registry, "purge");
    assert_eq!((&state["running"], &state["run"]), (&json!(false), &Value::Null));
    let runs: Vec<_> = state["ended"].as_array().unwrap().iter().map(|run| &run["totals"]).collect();
    assert_eq!(runs, [&json!({"purged": 0, "seen": 0}), &json!({"purged": 1200, "seen": 1200})]);
    assert_eq!(state["ended"][1]["steps"], 3);
}

thread_local! {
    /// The steps that [`Counting`] has made.
    static STEPS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// The step that fails.
    static FAILING: Cell<Option<usize>> = const { Cell::new(None) };
    /// The storage to fail at once when a step has been made.
    static BREAKING: RefCell<Option<Faulty>> = const { RefCell::new(None) };
}

/// A job of five steps, which report their numbers. Each waits once: another runner may go on meanwhile.
struct Counting;

impl Job for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn step<'a>(
        &'a self,
        _: &'a App,
        _: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        let n: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        let next = (n < 4).then(|| (n + 1).to_string());
        Box::pin(async move {
            let mut has_waited = false;
            poll_fn(|waker| {
                waker.waker().wake_by_ref();
                if replace(&mut has_waited, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            if FAILING.get() == Some(n) {
                return Err(RepositoryError::Writer(format!("step {n} fails")));
            }
            STEPS.with_borrow_mut(|steps| steps.push(n));
            if let Some(storage) = BREAKING.take() {
                storage.fails_below.replace(Some("pierhead/jobs"));
            }
            Ok(Step { report: json!({"n": n}), next })
        })
    }
}

/// As the schedule has it: every hour, two steps at a time.
const COUNTING: Entry = Entry {
    name: "counting",
    every: Some(60 * 60),
    steps: 2,
    has_dry_run: false,
    changes_content: false,
    scheduled: |_| Some(false),
    job: |_, _| Box::new(Counting),
};

const BY_REQUEST: Asked = Asked::ByRequest { dry_run: None };

/// Makes steps; returns which, and the state.
fn count(registry: &TestRegistry, asked: Asked) -> (Vec<usize>, Result<State, Refused>) {
    let context = registry.context(Principal::User("ann".into()));
    let mut budget = Budget::UNLIMITED;
    let made = block_on(advance(&COUNTING, asked, &mut budget, &registry.app, &context));
    (STEPS.take(), made.map(|(state, _)| state))
}

fn steps_of(registry: &TestRegistry, asked: Asked) -> Vec<usize> {
    let (steps, state) = count(registry, asked);
    state.unwrap();
    steps
}

#[test]
fn the_schedule_begins_runs_and_goes_on_with_those_under_way() {
    for lacks_conditions in [false, true] {
        let registry = TestRegistry::new();
        registry.storage.lacks_conditions.set(lacks_conditions);
        let scheduled = || steps_of(&registry, Asked::BySchedule);
        let at = |minutes: u64| registry.clock.0.set(minutes * 60_000);
        at(0);
        assert_eq!((scheduled(), steps_of(&registry, BY_REQUEST)), (vec![0, 1], vec![2]));
        at(5);
        assert_eq!((scheduled(), scheduled()), (vec![3, 4], vec![]));
        at(57);
        assert_eq!(scheduled(), [0_usize; 0]);
        // Cron triggers are not punctual.
        at(59);
        assert_eq!(scheduled(), vec![0, 1]);
        // What a request has begun, the schedule ends.
        let (steps, state) = count(&registry, BY_REQUEST);
        let state = state.unwrap();
        assert_eq!((steps, state.run.unwrap().starter), (vec![2], Starter::Schedule));
        assert_eq!((scheduled(), steps_of(&registry, BY_REQUEST)), (vec![3, 4], vec![0]));
        assert_eq!((scheduled(), scheduled()), (vec![1, 2], vec![3, 4]));
        let ended = count(&registry, Asked::BySchedule).1.unwrap().ended;
        let starters: Vec<_> = ended.into_iter().map(|run| run.starter).collect();
        assert_eq!(starters, [Starter::Request("ann".into()), Starter::Schedule, Starter::Schedule]);
    }
}

#[test]
fn of_two_runners_one_goes_on_and_the_other_stops() {
    for other in [Asked::BySchedule, BY_REQUEST] {
        let registry = TestRegistry::new();
        let context = registry.context(Principal::User("ann".into()));
        let advance = async |asked| {
            let mut budget = Budget::UNLIMITED;
            advance(&COUNTING, asked, &mut budget, &registry.app, &context).await.unwrap()
        };
        let ((state, report), (second, late)) = block_on(join(advance(Asked::BySchedule), advance(other)));
        assert_eq!((STEPS.take(), report, late), (vec![0, 0, 1], Some(json!({"n": 1})), None));
        assert_eq!(state.run.as_ref().unwrap().cursor.as_deref(), Some("2"));
        // It has read what the first one had written by then.
        assert_eq!(second.run.unwrap().steps, 1);
        assert_eq!(steps_of(&registry, Asked::BySchedule), [2, 3]);
    }
}

#[test]
fn a_pause_stops_a_runner_at_its_next_write() {
    let registry = TestRegistry::new();
    let context = registry.context(Principal::User("ann".into()));
    let mut budget = Budget::UNLIMITED;
    assert_eq!(steps_of(&registry, BY_REQUEST), [0]);
    let (made, paused) = block_on(join(
        advance(&COUNTING, Asked::BySchedule, &mut budget, &registry.app, &context),
        change(&COUNTING, Change::Pause, &registry.app, &context),
    ));
    assert_eq!(STEPS.take(), [1]);
    assert!(made.unwrap().0.paused.is_some());
    assert_eq!(paused.unwrap().run.unwrap().steps, 1);
    assert_eq!(steps_of(&registry, Asked::BySchedule), [0; 0]);
    block_on(change(&COUNTING, Change::Resume, &registry.app, &context)).unwrap();
    assert_eq!(steps_of(&registry, Asked::BySchedule), [1, 2]);
}

#[test]
fn a_step_that_fails_ends_the_call_and_not_the_run() {
    let registry = TestRegistry::new();
    FAILING.set(Some(1));
    for _ in 0..2 {
        let (steps, state) = count(&registry, Asked::BySchedule);
        assert!(matches!(state, Err(Refused::Failed(_))));
        assert!(steps.len() <= 1);
    }
    FAILING.set(None);
    let (steps, state) = count(&registry, Asked::BySchedule);
    let run = state.unwrap().run.unwrap();
    assert_eq!((steps, run.steps, run.failed), (vec![1, 2], 3, 2));
    assert_eq!(run.failures[1].message, "step 1 fails");
}

#[test]
fn a_step_whose_state_was_not_written_is_made_again() {
    let registry = TestRegistry::new();
    assert_eq!(steps_of(&registry, Asked::BySchedule), [0, 1]);
    BREAKING.set(Some(registry.storage.clone()));
    let (steps, state) = count(&registry, Asked::BySchedule);
    assert_eq!((steps, state.is_err()), (vec![2], true));
    registry.storage.fails_below.replace(None);
    assert_eq!(steps_of(&registry, Asked::BySchedule), [2, 3]);
}

#[test]
fn a_call_of_the_schedule_is_bounded_in_time_and_calls() {
    let registry = TestRegistry::new();
    let context = registry.context(Principal::Job("counting"));
    let now = registry.app.clock.now();
    for (until, calls, steps) in [(now, 100, 0), (Timestamp(u64::MAX), 0, 0), (Timestamp(u64::MAX), 1, 1)] {
        let mut budget = Budget { until, calls };
        block_on(advance(&COUNTING, Asked::BySchedule, &mut budget, &registry.app, &context)).ok();
        assert_eq!(STEPS.take().len(), steps);
    }
}

/// What the cron trigger does; returns the jobs that made steps, but for two that make one in any case.
fn tick(registry: &TestRegistry) -> Vec<String> {
    registry.lines.0.borrow_mut().clear();
    block_on(schedule::tick(&registry.app, |job| registry.context(Principal::Job(job))));
    let lines = registry.lines.0.borrow();
    lines
        .iter()
        .filter(|line| !["collect", "remove"].iter().any(|job| line["job"] == *job))
        .map(|line| format!("{}: {}", line["job"].as_str().unwrap(), line["level"].as_str().unwrap()))
        .collect()
}

#[test]
fn the_cron_trigger_runs_what_is_due_and_one_failure_stops_no_other() {
    let queue = Rc::new(MemoryQueue::default());
    let persistent = Persistent { queue: Some(queue.clone()), ..Persistent::default() };
    let registry = TestRegistry::with(
        &[("EVENT_ENDPOINTS", r#"[{"name": "ci", "url": "https://ci.example.com"}]"#)],
        persistent,
    );
    let pass = |seconds: u64| registry.clock.0.set(registry.clock.0.get() + seconds * 1000);
    pass(DAY);
    let path = Key::OutboxEntry("0000000000001-x").path();
    block_on(registry.storage.put(&path, Body::Bytes("[]".into()), PutOptions::default())).unwrap();
    queue.refuses.set(true);
    assert_eq!(tick(&registry), ["resend: error", "purge: info"]);
    assert_eq!(state_of(&registry, "resend")["run"]["failures"][0]["message"], "the queue refuses");
    queue.refuses.set(false);
    pass(schedule::PERIOD);
    assert_eq!(tick(&registry), ["resend: info"]);
    assert_eq!(state_of(&registry, "resend")["ended"][0]["totals"], json!({"sent": 1}));
    pass(DAY);
    assert_eq!(tick(&registry), ["resend: info", "purge: info"]);
    assert_eq!(state_of(&registry, "purge")["ended"][0]["trigger"], "schedule");
    // What a request has begun, too.
    for n in 0..600 {
        put(&registry, &format!("pierhead/uploads/{n:08}-9f2a-4b5e-a1d2-3c4b5a697887/staged/1"));
    }
    pass(30 * DAY);
    assert_eq!(run(&registry, "purge")["running"], true);
    assert_eq!(tick(&registry), ["resend: info", "purge: info"]);
    let last = &state_of(&registry, "purge")["ended"][0];
    assert_eq!(
        (&last["trigger"], &last["by"], &last["steps"]),
        (&json!("request"), &json!("anonymous"), &json!(2))
    );
}

#[test]
fn the_schedule_heeds_the_settings() {
    let registry = TestRegistry::new();
    for n in 0..6000 {
        put(&registry, &format!("pierhead/uploads/{n:08}-9f2a-4b5e-a1d2-3c4b5a697887/staged/1"));
    }
    let with = |vars: &[(&str, &str)]| {
        let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
        let registry = TestRegistry::with(vars, persistent);
        registry.clock.0.set(30 * DAY * 1000);
        registry
    };
    let left = || registry.storage.memory.paths().iter().filter(|path| path.ends_with("/staged/1")).count();
    // Neither of them changes anything.
    assert_eq!(tick(&with(&[("PURGE", "off")])), [""; 0]);
    assert_eq!(tick(&with(&[("READ_ONLY", "on")])), [""; 0]);
    let dry = with(&[("PURGE", "dry-run"), ("READ_ONLY", "on")]);
    assert_eq!((tick(&dry).len(), left()), (10, 6000));
    let state = state_of(&dry, "purge");
    assert_eq!((&state["schedule"], &state["run"]["dry_run"]), (&json!("dry-run"), &json!(true)));
    // A run that the schedule has begun ends when the setting changes.
    let off = with(&[("PURGE", "off")]);
    assert_eq!(tick(&off), [""; 0]);
    let ended = &state_of(&off, "purge")["ended"][0];
    assert_eq!((&ended["outcome"], &ended["steps"]), (&json!("cancelled"), &json!(10)));
    // One that a request has begun goes on, but not while the registry is read-only.
    assert_eq!((run(&off, "purge")["running"].clone(), left()), (json!(true), 5500));
    assert_eq!((tick(&with(&[("READ_ONLY", "on")])), left()), (vec![], 5500));
    assert_eq!((tick(&off).len(), left()), (10, 500));
}

#[test]
fn a_paused_job_makes_no_step() {
    // Read-only or not.
    for read_only in ["off", "on"] {
        let registry = TestRegistry::with(&[("READ_ONLY", read_only)], Persistent::default());
        registry.clock.0.set(DAY * 1000);
        let post = |action: &str| ask(&registry, &format!("POST /v2/_pierhead/jobs/purge/{action}"));
        for _ in 0..2 {
            let state = post("pause");
            assert_eq!((&state["paused"]["by"], &state["running"]), (&json!("anonymous"), &json!(false)));
        }
        assert_eq!(tick(&registry), [""; 0]);
        let answer = registry.get("POST /v2/_pierhead/jobs/purge/run?dry-run=true");
        assert_eq!((answer.status.as_u16(), answer.codes()), (409, vec!["UNSUPPORTED".to_owned()]));
        let message = answer.errors()[0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("/v2/_pierhead/jobs/purge/resume"), "{message}");
        for _ in 0..2 {
            assert_eq!(post("resume")["paused"], Value::Null);
        }
        assert_eq!(post("run")["ended"][0]["outcome"], "done");
    }
}

#[test]
fn a_run_is_paused_under_way_and_cancelled() {
    let registry = TestRegistry::new();
    registry.clock.0.set(30 * DAY * 1000);
    for n in 0..1200 {
        put(&registry, &format!("pierhead/uploads/{n:08}-9f2a-4b5e-a1d2-3c4b5a697887/staged/1"));
    }
    let post = |action: &str| ask(&registry, &format!("POST /v2/_pierhead/jobs/purge/{action}"));
    let dry = post("run?dry-run=true");
    assert_eq!((&dry["running"], &dry["run"]["totals"]["purged"]), (&json!(true), &json!(500)));
    // One of the other kind must wait.
    let answer = registry.get("POST /v2/_pierhead/jobs/purge/run?dry-run=false");
    assert_eq!((answer.status.as_u16(), answer.codes()), (409, vec!["UNSUPPORTED".to_owned()]));
    assert_eq!(post("pause")["running"], true);
    assert_eq!(post("resume")["run"]["cursor"], dry["run"]["cursor"]);
    assert_eq!(post("run")["run"]["steps"], 2);
    let cancelled = post("cancel");
    assert_eq!(
        (&cancelled["running"], &cancelled["ended"][0]["outcome"]),
        (&json!(false), &json!("cancelled"))
    );
    assert_eq!(post("cancel")["ended"].as_array().unwrap().len(), 1);
    assert_eq!(post("run?dry-run=false")["run"]["totals"]["purged"], 500);
}

#[test]
fn requests_about_jobs_are_checked() {
    let registry = TestRegistry::new();
    for (line, status, message) in [
        ("GET /v2/_pierhead/jobs/none", 404, "there is no such job: check its name against the list"),
        ("POST /v2/_pierhead/jobs/none/run", 404, "there is no such job: check its name against the list"),
        ("POST /v2/_pierhead/jobs/none/pause", 404, "there is no such job: check its name against the list"),
        ("POST /v2/_pierhead/jobs/none/resume", 404, "there is no such job: check its name against the list"),
        ("POST /v2/_pierhead/jobs/none/cancel", 404, "there is no such job: check its name against the list"),
        (
            "POST /v2/_pierhead/jobs/purge/stop",
            404,
            "there is no such endpoint: the registry's are below /v2/",
        ),
        (
            "POST /v2/_pierhead/jobs/resend/run?dry-run=true",
            400,
            "query parameter dry-run: leave it out, this job has no dry run",
        ),
        ("POST /v2/_pierhead/jobs/purge/run?dry-run=1", 400, "query parameter dry-run: true or false"),
    ] {
        let answer = registry.get(line);
        assert_eq!(
            (answer.status.as_u16(), answer.codes()),
            (status, vec!["UNSUPPORTED".to_owned()]),
            "{line}"
        );
        assert_eq!(answer.errors()[0]["message"], message, "{line}");
    }
    let list = ask(&registry, "GET /v2/_pierhead/jobs");
    let names: Vec<_> =
        list["jobs"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names, schedule::TABLE.map(|entry| entry.name));
}

#[test]
fn a_state_that_cannot_be_read_counts_as_new() {
    let newer = r#"{"paused": "since yesterday"}"#.to_owned();
    let long = format!("{{\"unknown\": \"{}\"}}", "x".repeat(MAX_STATE));
    for content in [String::new(), newer, long] {
        let registry = TestRegistry::new();
        registry.clock.0.set(DAY * 1000);
        let path = Key::Job("purge").path();
        block_on(registry.storage.put(&path, Body::Bytes(content.into()), PutOptions::default())).unwrap();
        assert_eq!(state_of(&registry, "purge")["paused"], Value::Null);
        assert_eq!(run(&registry, "purge")["ended"][0]["outcome"], "done");
        assert_eq!(state_of(&registry, "purge")["ended"].as_array().unwrap().len(), 1);
    }
}

/// The names of the routes that require the right to administer, as `Route::access` lists them.
fn administration() -> BTreeSet<String> {
    let source = include_str!("../../src/api/route.rs");
    let (before, _) = source.split_once("=> Access::Administer").unwrap();
    let (_, list) = before.rsplit_once("=> Access::").unwrap();
    let names = list.split("Self::").skip(1).map(|rest| rest.split([' ', '\n']).next().unwrap());
    names.map(snake_case).collect()
}

fn snake_case(name: &str) -> String {
    let words = name.chars().enumerate().flat_map(|(at, c)| {
        let separator = (at > 0 && c.is_uppercase()).then_some('_');
        separator.into_iter().chain(c.to_lowercase())
    });
    words.collect()
}

#[test]
fn the_description_of_the_admin_api_has_every_route_and_no_other() {
    let registry = TestRegistry::new();
    let served = ask(&registry, "GET /v2/_pierhead/openapi.json");
    assert_eq!(served, openapi::description());
    assert_eq!(served["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (template, item) in served["paths"].as_object().unwrap() {
        // One of them is the name of a file.
        let path = template
            .replace("{job}", "purge")
            .replace("{endpoint}", "ci")
            .replace("{id}", &"0".repeat(16))
            .replace("{name}", "a");
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let route = Route::parse(&method.to_uppercase().parse().unwrap(), &path).unwrap();
            assert_eq!(route.access(), Some(Access::Administer), "{method} {path}");
            let id = operation["operationId"].as_str().unwrap();
            // One dead letter, or all of them.
            assert!(id == route.name() || format!("{id}s") == route.name(), "{id}: {}", route.name());
            described.insert(route.name().to_owned());
        }
    }
    assert_eq!(described, administration());
}

#[test]
fn the_checker_of_descriptions_finds_what_is_wrong() {
    let document = openapi::description();
    let schema = |name| json!({"$ref": format!("#/components/schemas/{name}")});
    let is_valid = |name, value: &Value| openapi::validate(&document, &schema(name), value).is_ok();
    let right = state_of(&TestRegistry::new(), "purge");
    assert!(is_valid("Job", &right));
    for (field, wrong) in [
        ("name", json!(1)),
        ("schedule", json!("sometimes")),
        ("every_seconds", json!(-1)),
        ("paused", json!({"at": "today", "by": "ann"})),
        ("run", json!({})),
        ("ended", json!([null])),
        ("unknown", json!(1)),
    ] {
        let mut value = right.clone();
        value[field] = wrong;
        assert!(!is_valid("Job", &value), "{field}");
    }
    let mut missing = right;
    missing.as_object_mut().unwrap().remove("paused");
    assert!(!is_valid("Job", &missing));
    assert!(openapi::validate(&document, &json!({"pattern": "x"}), &json!("x")).is_err());
}

#[test]
fn a_check_adds_the_indexes_that_another_registry_lacks() {
    let registry = TestRegistry::new();
    let config = Algorithm::Sha256.digest(b"{}");
    let line = format!("POST /v2/team/app/blobs/uploads/?digest={config}");
    assert_eq!(registry.send(&line, &[], Some(MemoryStream::new("{}"))).status, 201);
    let subject = Algorithm::Sha256.digest(b"subject");
    let descriptor = |digest| json!({"mediaType": "application/x", "digest": digest, "size": 2});
    let manifest = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(&config), "layers": [], "subject": descriptor(&subject),
    });
    let body = Some(MemoryStream::new(manifest.to_string()));
    assert_eq!(registry.send("PUT /v2/team/app/manifests/v1", &[], body).status, 201);

    let all = registry.storage.memory.paths();
    let derived: Vec<_> =
        all.iter().filter(|path| path.starts_with("pierhead/")).map(|path| path.parse().unwrap()).collect();
    block_on(registry.storage.delete(&derived)).unwrap();
    let catalog = || String::from_utf8(registry.get("GET /v2/_catalog").body).unwrap();
    assert_eq!(catalog(), r#"{"repositories":[]}"#);
    for _ in 0..2 {
        assert_eq!(run(&registry, "fsck")["running"], false);
    }
    // These are not derived: they are created when needed.
    let is_derived = |path: &String| {
        path != "pierhead/secret" && path != "pierhead/deployment" && !path.starts_with("pierhead/jobs/")
    };
    let paths = |all: Vec<String>| all.into_iter().filter(is_derived).collect::<Vec<_>>();
    assert_eq!(paths(registry.storage.memory.paths()), paths(all));
    assert_eq!(catalog(), r#"{"repositories":["team/app"]}"#);
    let referrers = registry.get(&format!("GET /v2/team/app/referrers/{subject}"));
    assert!(String::from_utf8(referrers.body).unwrap().contains(r#""artifactType":"application/x""#));
}
