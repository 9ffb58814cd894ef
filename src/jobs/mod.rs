//! Jobs: work over the whole bucket, in bounded steps. Each job is a file.
//!
//! A step starts at the cursor of the last one, so a run can end at any time. A scheduled run stores the
//! cursor in the bucket; a run by request returns it to the client.

mod purge;
mod rebuild;
mod resend;

use futures_util::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::{
    app::App,
    context::Context,
    layout::Key,
    platform::{Body, Level, metrics::JobOutcome},
    repository::RepositoryError,
    storage::{Metadata, PutOptions},
};

pub use purge::Purge;
pub use rebuild::Rebuild;
pub use resend::Resend;

/// The metadata name of the cursor in its object.
const AFTER: &str = "after";

/// The result of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// A JSON object for the log.
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

/// Runs up to `steps` steps of a job, and logs each. Starts at the cursor that the last run stored at `key`.
pub async fn run(
    job: &dyn Job,
    key: Key<'_>,
    steps: usize,
    app: &App,
    context: &Context,
) -> Result<(), RepositoryError> {
    counted(job, app, context, run_steps(job, key, steps, app, context)).await
}

/// Counts how a run ends.
async fn counted<T>(
    job: &dyn Job,
    app: &App,
    context: &Context,
    run: impl Future<Output = Result<T, RepositoryError>>,
) -> Result<T, RepositoryError> {
    let result = run.await;
    app.metrics.count_job(job.name(), if result.is_ok() { JobOutcome::Done } else { JobOutcome::Failed });
    app.send_metrics(context);
    result
}

async fn run_steps(
    job: &dyn Job,
    key: Key<'_>,
    steps: usize,
    app: &App,
    context: &Context,
) -> Result<(), RepositoryError> {
    let (store, path) = (app.store(context), key.path());
    let mut cursor = store.head(&path).await?.and_then(|meta| meta.metadata.get(AFTER).cloned());
    for _ in 0..steps {
        let next = one_step(job, cursor, app, context).await?;
        let metadata = next.iter().map(|next| (AFTER.to_owned(), next.clone())).collect::<Metadata>();
        let options = PutOptions { metadata, ..PutOptions::default() };
        store.put(&path, Body::Empty, options).await?;
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

/// Runs one step of a job and logs its report. Returns the cursor of the next step. Counts as a run.
pub async fn step(
    job: &dyn Job,
    cursor: Option<String>,
    app: &App,
    context: &Context,
) -> Result<Option<String>, RepositoryError> {
    counted(job, app, context, one_step(job, cursor, app, context)).await
}

async fn one_step(
    job: &dyn Job,
    cursor: Option<String>,
    app: &App,
    context: &Context,
) -> Result<Option<String>, RepositoryError> {
    let Step { report, next } = job.step(app, context, cursor).await?;
    context.log.write(
        Level::Info,
        || json!({"level": "info", "id": context.log.id, "job": job.name(), "report": report}),
    );
    Ok(next)
}
