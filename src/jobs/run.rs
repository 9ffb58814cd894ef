//! Makes the steps of a job, and keeps its state.

use serde_json::Value;

use super::{
    counted, one_step,
    schedule::Entry,
    state::{Kept, Outcome, Pause, Run, Starter, State},
};
use crate::{
    app::App,
    context::Context,
    platform::Timestamp,
    repository::RepositoryError,
    storage::{StorageError, Store},
};

/// How often a change of a state is tried, while the job's runner writes it too.
const TRIES: usize = 8;

/// Who asks for steps.
#[derive(Debug, Clone, Copy)]
pub enum Asked {
    /// The schedule: as many as the table allows. It begins a run only if one is due.
    BySchedule,
    /// A request of the context's principal: one. It begins a run unless one is under way.
    ByRequest {
        /// Whether the run is a dry one; `None` goes on with the one under way, or begins one that is not.
        dry_run: Option<bool>,
    },
}

/// When the cron trigger stops beginning steps.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// From then on.
    pub until: Timestamp,
    /// After so many calls to storage and objects.
    pub calls: u32,
}

impl Budget {
    /// A budget that ends nothing.
    pub const UNLIMITED: Self = Self { until: Timestamp(u64::MAX), calls: u32::MAX };

    fn is_spent(&self, now: Timestamp) -> bool {
        now >= self.until || self.calls == 0
    }
}

/// Why no step was made, or none succeeded.
#[derive(Debug)]
pub enum Refused {
    /// The job is paused.
    Paused,
    /// The job has no dry run.
    NoDryRun,
    /// A run of the other kind is under way.
    Other {
        /// Whether that is a dry one.
        is_dry: bool,
    },
    /// A step failed, or the state could not be read or written.
    Failed(RepositoryError),
}

impl From<RepositoryError> for Refused {
    fn from(error: RepositoryError) -> Self {
        Self::Failed(error)
    }
}

impl From<StorageError> for Refused {
    fn from(error: StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// Makes steps of a job. Returns its state then, and the report of the last step, if this call has made one whose state was
/// kept: another runner may have been faster.
pub async fn advance(
    entry: &Entry,
    asked: Asked,
    budget: &mut Budget,
    app: &App,
    context: &Context,
) -> Result<(State, Option<Value>), Refused> {
    let store = app.store(context);
    let mut kept = Kept::read(&store, entry.name).await?;
    match asked {
        Asked::BySchedule => {
            let is_stopped = !prepare(entry, &mut kept.state, app);
            if is_stopped || budget.is_spent(app.clock.now()) {
                return Ok((kept.state, None));
            }
        }
        Asked::ByRequest { dry_run } => begin(entry, &mut kept.state, dry_run, app, context)?,
    }
    // The setting that began a run has changed: there is no step to make.
    if kept.state.run.is_none() {
        return if kept.write(&store).await? { Ok((kept.state, None)) } else { reread(&store, entry).await };
    }
    let limit = match asked {
        Asked::BySchedule => entry.steps,
        Asked::ByRequest { .. } => 1,
    };
    let steps = steps(entry, &mut kept, limit, budget, app, context);
    match counted(entry.name, app, context, steps).await? {
        Some(report) => Ok((kept.state, Some(report))),
        None => reread(&store, entry).await,
    }
}

async fn reread(store: &Store, entry: &Entry) -> Result<(State, Option<Value>), Refused> {
    Ok((Kept::read(store, entry.name).await?.state, None))
}

/// Decides for the schedule; returns whether there is something to do. Ends a run that the schedule began and that the
/// settings no longer want; begins one that is due.
fn prepare(entry: &Entry, state: &mut State, app: &App) -> bool {
    let (now, wanted) = (app.clock.now(), (entry.scheduled)(app));
    if state.paused.is_some() {
        return false;
    }
    let mut has_changed = false;
    if state.run.as_ref().is_some_and(|run| run.starter == Starter::Schedule && wanted != Some(run.dry_run)) {
        state.end(Outcome::Cancelled, now);
        has_changed = true;
    }
    let may_run = |is_dry: bool| is_dry || !entry.changes_content || !app.config.auth.read_only;
    if let Some(run) = &state.run {
        return may_run(run.dry_run);
    }
    if let Some(is_dry) = wanted.filter(|is_dry| may_run(*is_dry) && entry.is_due(state.scheduled, now)) {
        state.run = Some(Run::new(now, Starter::Schedule, is_dry));
        state.scheduled = Some(now);
        has_changed = true;
    }
    has_changed
}

/// Decides for a request: begins a run unless one is under way.
fn begin(
    entry: &Entry,
    state: &mut State,
    dry_run: Option<bool>,
    app: &App,
    context: &Context,
) -> Result<(), Refused> {
    if dry_run == Some(true) && !entry.has_dry_run {
        return Err(Refused::NoDryRun);
    }
    if state.paused.is_some() {
        return Err(Refused::Paused);
    }
    match &state.run {
        Some(run) if dry_run.is_some_and(|asked| asked != run.dry_run) => {
            return Err(Refused::Other { is_dry: run.dry_run });
        }
        Some(_) => {}
        None => {
            let starter = Starter::Request(context.principal.name());
            state.run = Some(Run::new(app.clock.now(), starter, dry_run.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Makes up to `limit` steps, and writes the state after each. Returns the report of the last; `None` if another runner has
/// changed the state meanwhile.
async fn steps(
    entry: &Entry,
    kept: &mut Kept,
    limit: usize,
    budget: &mut Budget,
    app: &App,
    context: &Context,
) -> Result<Option<Value>, RepositoryError> {
    let store = app.store(context);
    let calls = || context.log.storage_calls().0 + context.log.object_calls();
    let mut last = None;
    for _ in 0..limit {
        let Some(run) = &mut kept.state.run else { break };
        let before = calls();
        let step = one_step(&*(entry.job)(app, run), run.cursor.clone(), app, context).await;
        let now = app.clock.now();
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                run.fail(&error.to_string(), now);
                // The step's failure is what counts.
                kept.write(&store).await.unwrap_or_default();
                return Err(error);
            }
        };
        let is_last = step.next.is_none();
        run.note(&step.report, step.next, now);
        if is_last {
            kept.state.end(Outcome::Done, now);
        }
        if !kept.write(&store).await? {
            return Ok(None);
        }
        last = Some(step.report);
        budget.calls = budget.calls.saturating_sub(calls().saturating_sub(before));
        if is_last || budget.is_spent(now) {
            break;
        }
    }
    Ok(last)
}

/// What people do with a job. All of it is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Pauses it: no step begins until it is resumed. A step under way may still take effect, and is made again then.
    Pause,
    /// Resumes it.
    Resume,
    /// Ends the run under way. What it has done stays done.
    Cancel,
}

impl Change {
    /// Makes the change; returns whether there was something to change.
    fn make(self, state: &mut State, app: &App, context: &Context) -> bool {
        let now = app.clock.now();
        match self {
            Self::Pause if state.paused.is_none() => {
                state.paused = Some(Pause { at: now, by: context.principal.name() });
                true
            }
            Self::Pause => false,
            Self::Resume => state.paused.take().is_some(),
            Self::Cancel => {
                let is_running = state.run.is_some();
                state.end(Outcome::Cancelled, now);
                is_running
            }
        }
    }
}

/// Changes the state of a job, beside runners.
pub async fn change(
    entry: &Entry,
    change: Change,
    app: &App,
    context: &Context,
) -> Result<State, RepositoryError> {
    let store = app.store(context);
    for _ in 0..TRIES {
        let mut kept = Kept::read(&store, entry.name).await?;
        if !change.make(&mut kept.state, app, context) || kept.write(&store).await? {
            return Ok(kept.state);
        }
    }
    Err(RepositoryError::Writer(format!("the job {} changes its state all the time", entry.name)))
}

/// The state of a job.
pub async fn state(entry: &Entry, app: &App, context: &Context) -> Result<State, StorageError> {
    Ok(Kept::read(&app.store(context), entry.name).await?.state)
}
