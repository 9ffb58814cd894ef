//! Jobs: work over the whole bucket, in bounded steps. Each job is a file.
//!
//! A step starts at the cursor of the last one, so work can stop between any two. [`state`] keeps the cursor in the bucket,
//! [`schedule`] says which jobs there are and when they run, and [`run`] makes their steps: for the schedule, and for
//! requests.

pub mod collect;
mod findings;
mod fsck;
mod purge;
mod record;
pub mod remove;
mod resend;
mod retain;
pub mod run;
pub mod schedule;
mod scrub;
mod settle;
pub mod state;
pub mod takedown;

use futures_util::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::{
    app::App,
    context::Context,
    platform::{Level, metrics::JobOutcome},
    repository::RepositoryError,
};

pub use collect::Collect;
pub use fsck::Fsck;
pub use purge::Purge;
pub use remove::Remove;
pub use resend::Resend;
pub use retain::Retain;
pub use scrub::Scrub;
pub use settle::Settle;

/// The result of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// A JSON object for the log and the administrator. The state of the job keeps the sums of its numbers, and counts lists
    /// by their length; texts in a list named `failed` are failures.
    pub report: Value,
    /// The cursor of the next step; `None` at the end.
    pub next: Option<String>,
}

/// A job. It uses the same decorated store and repositories as requests.
pub trait Job {
    /// The job's name in logs and events.
    fn name(&self) -> &'static str;

    /// Does a bounded amount of work after `cursor`. Idempotent.
    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>>;
}

/// Runs one step of a job and logs its report, without regard to its state. Returns the cursor of the next step. Counts as a
/// run.
pub async fn step(
    job: &dyn Job,
    cursor: Option<String>,
    app: &App,
    context: &Context,
) -> Result<Option<String>, RepositoryError> {
    counted(job.name(), app, context, async { Ok(one_step(job, cursor, app, context).await?.next) }).await
}

/// Counts how steps end that are made one after another.
async fn counted<T>(
    job: &'static str,
    app: &App,
    context: &Context,
    steps: impl Future<Output = Result<T, RepositoryError>>,
) -> Result<T, RepositoryError> {
    let result = steps.await;
    app.metrics.count_job(job, if result.is_ok() { JobOutcome::Done } else { JobOutcome::Failed });
    app.send_metrics(context);
    result
}

async fn one_step(
    job: &dyn Job,
    cursor: Option<String>,
    app: &App,
    context: &Context,
) -> Result<Step, RepositoryError> {
    let step = job.step(app, context, cursor).await?;
    let report = &step.report;
    context.log.write(
        Level::Info,
        || json!({"level": "info", "id": context.log.id, "job": job.name(), "report": report}),
    );
    Ok(step)
}
