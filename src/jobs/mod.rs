//! Jobs: work over the whole bucket, in bounded steps, each a file.
//!
//! A step starts where the last one stopped, at a cursor, so that a run may end at any time. A scheduled run
//! keeps the cursor in the bucket; a run by request gives it to the client.

mod purge;
mod rebuild;

use futures_util::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::{
    app::App,
    context::Context,
    layout::Key,
    platform::{Body, Level},
    repository::RepositoryError,
    storage::{Metadata, PutOptions},
};

pub use purge::Purge;
pub use rebuild::Rebuild;

/// The metadata of a cursor object that holds the cursor.
const AFTER: &str = "after";

/// What a step has done.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// For the log: a JSON object.
    pub report: Value,
    /// The cursor of the next step; `None` at the end.
    pub next: Option<String>,
}

/// A job. It reads and writes through the same decorated store and repositories as requests.
pub trait Job {
    /// The job's name in logs and events.
    fn name(&self) -> &'static str;

    /// Does a bounded amount of work after `cursor`. Safe to repeat.
    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>>;
}

/// Runs up to `steps` steps of a job from the cursor that the last run left in the bucket at `key`, and logs each.
pub async fn run(
    job: &dyn Job,
    key: Key<'_>,
    steps: usize,
    app: &App,
    context: &Context,
) -> Result<(), RepositoryError> {
    let (store, path) = (app.store(context), key.path());
    let mut cursor = store.head(&path).await?.and_then(|meta| meta.metadata.get(AFTER).cloned());
    for _ in 0..steps {
        let Step { report, next } = job.step(app, context, cursor).await?;
        context.log.write(
            Level::Info,
            || json!({"level": "info", "id": context.log.id, "job": job.name(), "report": report}),
        );
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
