//! The state of a job: its run under way, its last runs, and whether it is paused. One object of the bucket for each
//! job.
//!
//! Nothing locks a job. A runner reads the state, makes a step, and writes the state on the condition that it is still
//! the one it has read. Of two runners at the same time, one goes on and the other stops, and one that dies blocks
//! nobody. A step that both have made was made twice, which is harmless: steps are idempotent. A store without
//! conditional writes keeps the last state written.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::{
    layout::Key,
    oci::from_json,
    platform::{Body, Timestamp},
    storage::{Condition, Object, Path, PutOptions, StorageError, StorageErrorKind, Store},
};

/// The largest state, in bytes.
pub const MAX_STATE: usize = 64 * 1024;

/// Limit of finished runs that are kept.
const MAX_RUNS: usize = 5;

/// Limit of failures that a run keeps: the first ones.
const MAX_FAILURES: usize = 20;

/// Limit of the message of a failure, in bytes.
const MAX_MESSAGE: usize = 300;

/// Limit of different numbers that a run sums up, and of objects inside one another in a report.
const MAX_TOTALS: usize = 64;
const MAX_DEPTH: usize = 4;

/// Who began a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Starter {
    /// The schedule.
    Schedule,
    /// A request of this principal.
    Request(String),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// After its last step.
    Done,
    /// On request, or because a setting has changed.
    Cancelled,
}

impl Outcome {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What; for the operator.
    pub message: String,
}

/// A run of a job, from its first step to its last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began.
    pub started: Timestamp,
    /// Who began it.
    pub starter: Starter,
    /// Whether it only reports what it would do.
    pub dry_run: bool,
    /// The number of steps so far that succeeded.
    pub steps: u64,
    /// When the last of them ended.
    pub stepped: Option<Timestamp>,
    /// Where the next one starts; `None` at the beginning.
    pub cursor: Option<String>,
    /// The sums of the numbers in the reports of its steps. A list counts as its length.
    pub totals: Map<String, Value>,
    /// The number of failures: steps that failed, and what steps report as `failed`.
    pub failed: u64,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// When and how it ended; `None` while it is under way.
    pub ended: Option<(Timestamp, Outcome)>,
}

/// Who paused a job, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When.
    pub at: Timestamp,
    /// The principal.
    pub by: String,
}

/// The state of a job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Set while the job is paused: no step of it is made.
    pub paused: Option<Pause>,
    /// When the schedule began a run last.
    pub scheduled: Option<Timestamp>,
    /// The run under way.
    pub run: Option<Run>,
    /// The last runs that ended, the latest first.
    pub ended: Vec<Run>,
}

impl Run {
    /// A run that has made no step.
    pub fn new(started: Timestamp, starter: Starter, dry_run: bool) -> Self {
        Self {
            started,
            starter,
            dry_run,
            steps: 0,
            stepped: None,
            cursor: None,
            totals: Map::new(),
            failed: 0,
            failures: Vec::new(),
            ended: None,
        }
    }

    /// Notes a step: its report, and where the next one starts.
    pub fn note(&mut self, report: &Value, next: Option<String>, now: Timestamp) {
        self.steps += 1;
        self.stepped = Some(now);
        self.cursor = next;
        let Some(report) = report.as_object() else { return };
        add(&mut self.totals, report, 0);
        for failure in report.get("failed").and_then(Value::as_array).into_iter().flatten() {
            self.fail(&failure.as_str().map_or_else(|| failure.to_string(), str::to_owned), now);
        }
    }

    /// Notes a failure.
    pub fn fail(&mut self, message: &str, now: Timestamp) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            let message =
                message.get(..message.floor_char_boundary(MAX_MESSAGE)).unwrap_or_default().to_owned();
            self.failures.push(Failure { at: now, message });
        }
    }
}

/// Adds the numbers of a report to sums.
fn add(totals: &mut Map<String, Value>, report: &Map<String, Value>, depth: usize) {
    for (name, value) in report {
        if totals.len() >= MAX_TOTALS && !totals.contains_key(name) {
            continue;
        }
        let number = match value {
            Value::Number(number) => number.clone(),
            Value::Array(list) => list.len().into(),
            Value::Object(inner) if depth < MAX_DEPTH => {
                let sums = totals.entry(name.clone()).or_insert_with(|| Map::new().into());
                if let Some(sums) = sums.as_object_mut() {
                    add(sums, inner, depth + 1);
                }
                continue;
            }
            _ => continue,
        };
        let sum = totals
            .get(name)
            .and_then(Value::as_number)
            .map_or(Some(number.clone()), |sum| plus(sum, &number));
        totals.insert(name.clone(), sum.map_or(Value::Null, Value::Number));
    }
}

fn plus(a: &Number, b: &Number) -> Option<Number> {
    match (a.as_u64(), b.as_u64()) {
        (Some(a), Some(b)) => Some(a.saturating_add(b).into()),
        _ => Number::from_f64(a.as_f64()? + b.as_f64()?),
    }
}

impl State {
    /// Ends the run under way, if there is one.
    pub fn end(&mut self, outcome: Outcome, now: Timestamp) {
        let Some(run) = self.run.take() else { return };
        self.ended.insert(0, Run { ended: Some((now, outcome)), cursor: None, ..run });
        self.ended.truncate(MAX_RUNS);
    }

    /// The state as it is stored. What is too much for the limit is left out, the oldest run first.
    fn to_text(&self) -> String {
        let mut kept = self.clone();
        loop {
            let text = serde_json::to_string(&kept).unwrap_or_default();
            if text.len() <= MAX_STATE {
                return text;
            }
            if kept.ended.pop().is_some() {
                continue;
            }
            match kept.run.as_mut().filter(|run| !run.totals.is_empty() || !run.failures.is_empty()) {
                Some(run) => {
                    run.totals.clear();
                    run.failures.clear();
                }
                None => return text,
            }
        }
    }
}

/// The state of a job as it was read, to be written back.
#[derive(Debug)]
pub struct Kept {
    /// The state.
    pub state: State,
    path: Path,
    etag: Option<String>,
}

impl Kept {
    /// Reads the state of a job. One that cannot be read, which another version has written, counts as new.
    pub async fn read(store: &Store, job: &str) -> Result<Self, StorageError> {
        let path = Key::Job(job).path();
        let Some(Object { meta, body }) = store.get(&path, None).await? else {
            return Ok(Self { state: State::default(), path, etag: None });
        };
        let is_readable = meta.size <= MAX_STATE as u64;
        let content = if is_readable { body.read(MAX_STATE).await } else { Ok(Bytes::new()) };
        let content = content.map_err(|error| store.unreadable(&path, error))?;
        Ok(Self { state: from_json(&content).unwrap_or_default(), path, etag: Some(meta.etag) })
    }

    /// Writes the state; returns whether it was still the one that was read. If not, nothing is written, and it must be
    /// read again.
    pub async fn write(&mut self, store: &Store) -> Result<bool, StorageError> {
        let condition = match &self.etag {
            _ if !store.capabilities().conditional_put => Condition::Always,
            None => Condition::IfAbsent,
            Some(etag) => Condition::IfMatch(etag.clone()),
        };
        let options = PutOptions { condition, media_type: Some("application/json"), ..PutOptions::default() };
        match store.put(&self.path, Body::Bytes(self.state.to_text().into()), options).await {
            Ok(meta) => {
                self.etag = Some(meta.etag);
                Ok(true)
            }
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use serde_json::json;

    use super::*;

    fn run() -> Run {
        Run::new(Timestamp(1), Starter::Request("ann".to_owned()), false)
    }

    #[test]
    fn totals_sum_numbers_and_count_lists() {
        let mut run = run();
        for (n, next) in [(1, Some("a".to_owned())), (2, None)] {
            let report = json!({
                "seen": n, "purged": ["x", "y"], "share": 0.5, "why": {"old": n, "deeper": {"n": n}},
                "finished": true, "name": "text", "nothing": null,
            });
            run.note(&report, next, Timestamp(n));
        }
        let expected = json!({"seen": 3, "purged": 4, "share": 1.0, "why": {"old": 3, "deeper": {"n": 3}}});
        assert_eq!((Value::from(run.totals), run.steps, run.stepped), (expected, 2, Some(Timestamp(2))));
        // A report of another form in each step.
        let mut changing = Run::new(Timestamp(1), Starter::Schedule, false);
        changing.note(&json!({"n": 1}), None, Timestamp(2));
        changing.note(&json!({"n": {"inner": 1}}), None, Timestamp(2));
        changing.note(&json!(1), None, Timestamp(2));
        assert_eq!((Value::from(changing.totals), changing.steps), (json!({"n": 1}), 3));
    }

    #[test]
    fn the_first_failures_are_kept_and_all_are_counted() {
        let mut run = run();
        run.note(&json!({"failed": ["a", {"b": 1}]}), None, Timestamp(2));
        for _ in 0..100 {
            run.fail(&"ü".repeat(MAX_MESSAGE), Timestamp(3));
        }
        assert_eq!((run.failed, run.failures.len()), (102, MAX_FAILURES));
        assert_eq!((&*run.failures[0].message, &*run.failures[1].message), ("a", r#"{"b":1}"#));
        assert_eq!(run.failures[2].message, "ü".repeat(MAX_MESSAGE / 2));
    }

    #[test]
    fn the_last_runs_are_kept() {
        let mut state = State::default();
        for n in 0..8 {
            state.run = Some(Run::new(Timestamp(n), Starter::Schedule, false));
            state.end(Outcome::Done, Timestamp(n + 1));
        }
        state.end(Outcome::Done, Timestamp(100));
        let kept: Vec<u64> = state.ended.iter().map(|run| run.started.0).collect();
        assert_eq!(kept, [7, 6, 5, 4, 3]);
    }

    #[test]
    fn a_state_never_exceeds_its_limit() {
        let mut state = State::default();
        for ended in [true, true, true, true, true, false] {
            let mut run = Run { cursor: Some("c".repeat(1000)), ..run() };
            for n in 0..100 {
                let (report, next) = (json!({(format!("{}{n}", "n".repeat(30))): n}), run.cursor.clone());
                run.note(&report, next, Timestamp(2));
                // Escaped, each takes six bytes.
                run.fail(&"\u{1}".repeat(MAX_MESSAGE), Timestamp(3));
            }
            state.run = Some(run);
            if ended {
                state.end(Outcome::Done, Timestamp(4));
            }
        }
        let stored = |state: &State| {
            let text = state.to_text();
            assert!(text.len() <= MAX_STATE, "{}", text.len());
            from_json::<State>(text.as_bytes()).unwrap()
        };
        let kept = stored(&state);
        assert_eq!((&kept.run, kept.ended.is_empty()), (&state.run, true));
        // Not even the run under way fits.
        let totals = state.run.as_mut().map(|run| &mut run.totals).unwrap();
        totals.insert("x".repeat(MAX_STATE), 1.into());
        let kept = stored(&state).run.unwrap();
        assert_eq!((kept.cursor, kept.totals.len()), (Some("c".repeat(1000)), 0));
    }
}
