//! Jobs: their state, and what an administrator may do with them.

use futures_util::future::try_join_all;
use http::Uri;
use serde_json::{Value, json};

use super::{Error, Registry, Response, json, parameter};
use crate::{
    jobs::{
        run::{self, Asked, Budget, Change, Refused, advance},
        schedule::{Entry, TABLE, find},
        state::{Failure, Pause, Run, Starter, State},
    },
    platform::Timestamp,
};

/// `openapi.json`, as `build.rs` compacts it.
const OPEN_API: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

impl Registry<'_> {
    /// `GET /v2/_pierhead/openapi.json`.
    pub(super) fn open_api(&self) -> Response {
        json(OPEN_API.to_owned())
    }

    /// `GET /v2/_pierhead/jobs`: every job, with its run under way and its last one. Costs a call for each.
    pub(super) async fn list_jobs(&self) -> Result<Response, Error> {
        let jobs = TABLE.iter().map(async |entry| {
            let mut state = run::state(entry, self.app, &self.context).await?;
            state.ended.truncate(1);
            Ok::<Value, Error>(self.shown(entry, &state))
        });
        Ok(json(json!({"jobs": try_join_all(jobs).await?}).to_string()))
    }

    /// `GET /v2/_pierhead/jobs/<job>`.
    pub(super) async fn read_job(&self, job: &str) -> Result<Response, Error> {
        let entry = entry(job)?;
        let state = run::state(entry, self.app, &self.context).await?;
        Ok(self.state(entry, &state))
    }

    /// `POST /v2/_pierhead/jobs/<job>/run?dry-run=<true|false>`: makes one step of the run under way, or of a new one. The
    /// answer is that of [`read_job`](Self::read_job), with what the step reports in `report`; `null` if another runner
    /// was faster.
    pub(super) async fn run_job(&self, job: &str, uri: &Uri) -> Result<Response, Error> {
        let wrong = |expected| Error::InvalidParameter { name: "dry-run", expected };
        let dry_run = match parameter(uri, "dry-run").as_deref() {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(wrong("true or false")),
        };
        let entry = entry(job)?;
        let (asked, mut budget) = (Asked::ByRequest { dry_run }, Budget::UNLIMITED);
        let made = advance(entry, asked, &mut budget, self.app, &self.context).await;
        let (state, report) = made.map_err(|refused| match refused {
            Refused::NoDryRun => wrong("leave it out, this job has no dry run"),
            Refused::Paused => Error::Conflict(format!(
                "the job {job} is paused: POST to /v2/_pierhead/jobs/{job}/resume resumes it"
            )),
            Refused::Other { is_dry } => Error::Conflict(format!(
                "the run of the job {job} under way is {} dry one: let it end, or POST to /v2/_pierhead/jobs/{job}/cancel",
                if is_dry { "a" } else { "not a" }
            )),
            Refused::Failed(error) => error.into(),
        })?;
        let mut answer = self.shown(entry, &state);
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("report".to_owned(), report.unwrap_or_default());
        }
        Ok(json(answer.to_string()))
    }

    /// `POST /v2/_pierhead/jobs/<job>/pause`, `/resume` and `/cancel`.
    pub(super) async fn change_job(&self, job: &str, change: Change) -> Result<Response, Error> {
        let entry = entry(job)?;
        let state = run::change(entry, change, self.app, &self.context).await?;
        Ok(self.state(entry, &state))
    }

    fn state(&self, entry: &Entry, state: &State) -> Response {
        json(self.shown(entry, state).to_string())
    }

    fn shown(&self, entry: &Entry, state: &State) -> Value {
        let scheduled = match (entry.scheduled)(self.app) {
            None => "off",
            Some(true) => "dry-run",
            Some(false) => "on",
        };
        json!({
            "name": entry.name,
            "schedule": scheduled,
            "every_seconds": entry.every,
            "has_dry_run": entry.has_dry_run,
            "paused": state.paused.as_ref().map(|Pause { at, by }| json!({"at": at.to_rfc3339(), "by": by})),
            "running": state.run.is_some(),
            "run": state.run.as_ref().map(shown_run),
            "ended": state.ended.iter().map(shown_run).collect::<Vec<_>>(),
        })
    }
}

fn entry(job: &str) -> Result<&'static Entry, Error> {
    find(job).ok_or(Error::Absent("job"))
}

fn shown_run(run: &Run) -> Value {
    let failure = |Failure { at, message }: &Failure| json!({"at": at.to_rfc3339(), "message": message});
    let (trigger, by) = match &run.starter {
        Starter::Schedule => ("schedule", None),
        Starter::Request(by) => ("request", Some(by)),
    };
    json!({
        "trigger": trigger,
        "by": by,
        "dry_run": run.dry_run,
        "started": run.started.to_rfc3339(),
        "stepped": run.stepped.map(Timestamp::to_rfc3339),
        "steps": run.steps,
        "cursor": run.cursor,
        "totals": run.totals,
        "failed": run.failed,
        "failures": run.failures.iter().map(failure).collect::<Vec<_>>(),
        "ended": run.ended.map(|(at, _)| at.to_rfc3339()),
        "outcome": run.ended.map(|(_, outcome)| outcome.as_str()),
    })
}
