//! What the jobs that look for damage have found: for their reports, the log and the metrics.

use std::{cell::RefCell, collections::BTreeMap};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    blobs::{Blobs, Located, marker::State},
    context::Context,
    layout::Key,
    oci::Digest,
    platform::{
        Level,
        metrics::{Finding, Remedy},
    },
    storage::{StorageError, both},
};

/// Limit of texts in a list of a report.
const LISTED: usize = 20;

/// What a step has found.
pub struct Findings<'a> {
    job: &'static str,
    app: &'a App,
    context: &'a Context,
    report: RefCell<Report>,
}

/// What a step has found, in its report.
#[derive(Default, Serialize)]
struct Report {
    /// What nothing can repair, by kind.
    damage: BTreeMap<&'static str, u64>,
    /// What was written again, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    repaired: BTreeMap<&'static str, u64>,
    /// What could be, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    repairable: BTreeMap<&'static str, u64>,
    /// The first of what was or could be repaired.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    examples: Vec<String>,
    /// The first of what is damaged, and of what could not be looked at. The job's state keeps them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<String>,
}

impl<'a> Findings<'a> {
    /// No findings of this job.
    pub fn new(job: &'static str, app: &'a App, context: &'a Context) -> Self {
        Self { job, app, context, report: RefCell::default() }
    }

    /// Notes what nothing here can repair. `what` names it for the operator.
    pub fn damage(&self, finding: Finding, what: &str) {
        let kind = finding.as_str();
        self.app.metrics.count_finding(self.job, finding, Remedy::Damaged);
        let Context { log, .. } = self.context;
        log.write(
            Level::Error,
            || json!({"level": "error", "id": log.id, "job": self.job, "damage": kind, "message": what}),
        );
        *self.report.borrow_mut().damage.entry(kind).or_default() += 1;
        self.list(format!("{kind}: {what}"));
    }

    /// Notes what was repaired, or what could be.
    pub fn repair(&self, finding: Finding, is_repaired: bool, what: &str) {
        let kind = finding.as_str();
        let remedy = if is_repaired { Remedy::Repaired } else { Remedy::Repairable };
        self.app.metrics.count_finding(self.job, finding, remedy);
        let mut report = self.report.borrow_mut();
        let counts = if is_repaired { &mut report.repaired } else { &mut report.repairable };
        *counts.entry(kind).or_default() += 1;
        if report.examples.len() < LISTED {
            report.examples.push(format!("{kind}: {what}"));
        }
    }

    /// Notes what could not be looked at, which keeps the job from nothing else.
    pub fn failed(&self, what: &str, error: &impl ToString) {
        self.list(format!("{what}: {}", error.to_string()));
    }

    fn list(&self, text: String) {
        let mut report = self.report.borrow_mut();
        if report.failed.len() < LISTED {
            report.failed.push(text);
        }
    }

    /// The findings, with these other fields, as the report of a step.
    pub fn into_report(self, fields: &impl Serialize) -> Value {
        let mut report = serde_json::to_value(self.report.into_inner()).unwrap_or_default();
        if let (Some(report), Ok(Value::Object(fields))) =
            (report.as_object_mut(), serde_json::to_value(fields))
        {
            report.extend(fields);
        }
        report
    }
}

/// Whether a descriptor names an object that is gone, although the content is not being deleted and is nowhere else. Looks at
/// everything once more: a collection deletes the bytes before their descriptor.
pub async fn lacks_object(blobs: &Blobs, digest: &Digest, located: &Located) -> Result<bool, StorageError> {
    let described = blobs.described(digest).await?.map(|described| described.located);
    if is_being_deleted(blobs, digest).await? || described.as_ref() != Some(located) {
        return Ok(false);
    }
    let (described, data) = (located.path(digest), Key::Data(digest).path());
    let (described, data) = both(blobs.store().head(&described), blobs.store().head(&data)).await?;
    Ok(described.is_none() && data.is_none())
}

/// Whether calls that delete content may be under way, or it was taken down.
pub async fn is_being_deleted(blobs: &Blobs, digest: &Digest) -> Result<bool, StorageError> {
    let marker = blobs.marker(digest).await?;
    Ok(marker.is_some_and(|marker| matches!(marker.state, State::Sweeping | State::TakenDown)))
}
