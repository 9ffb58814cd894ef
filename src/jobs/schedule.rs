//! Which jobs there are, when they run, and what the cron trigger does.

use serde_json::json;

use super::{
    Collect, Fsck, Job, Purge, Remove, Resend, Retain, Scrub, Settle,
    run::{Asked, Budget, Refused, advance},
    state::{Run, Starter},
};
use crate::{
    app::App,
    config::{Config, JobMode},
    context::Context,
    platform::{Level, Timestamp},
    redirect::Mode,
};

/// The period of the cron trigger in `wrangler.toml`, in seconds.
pub const PERIOD: u64 = 5 * 60;

/// How long the cron trigger goes on with jobs, in milliseconds. The platform ends it after 15 minutes, and the last step may
/// take some of that.
const PATIENCE: u64 = 8 * 60 * 1000;

/// How many calls to storage and objects it makes before it begins no further step. The platform allows 10,000, and a
/// step makes up to a few thousand.
const CALLS: u32 = 5_000;

/// How long the purge keeps what an upload has left behind, after the upload has expired, in seconds.
const PURGE_MARGIN: u64 = 24 * 60 * 60;

/// The storage calls of a step of the collection, about.
const COLLECT_CALLS: usize = 500;

/// In how many days a collection looks behind every reverse link.
const COLLECT_THOROUGHNESS: u64 = 32;

/// The storage calls of a step of the scrub and of the check of both trees, about.
const INTEGRITY_CALLS: u32 = 500;

/// The bytes that a step of a scrub hashes that a request has begun: a second or two of CPU.
const SCRUB_REQUESTED: u64 = 256 << 20;

/// How long the settle job keeps the first copy of a blob beyond the life of whatever leads there, in seconds: for pulls
/// that are under way, and for clocks that differ.
const SETTLE_MARGIN: u64 = 60 * 60;

/// The bytes after which a step of the settle job begins no further copy, and those that it hashes.
const SETTLE_BYTES: u64 = 1 << 30;
const SETTLE_HASHED: u64 = 256 << 20;

/// The storage calls of a step of the settle job, about.
const SETTLE_CALLS: u32 = 500;

/// A job of the table.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// How often the schedule begins a run, in seconds; `None` if only requests do.
    pub every: Option<u64>,
    /// Limit of its steps in one call of the cron trigger.
    pub steps: usize,
    /// Whether it can report what it would do, without doing it.
    pub has_dry_run: bool,
    /// Whether it changes what repositories or the bucket hold. While the registry is read-only, the schedule makes no step
    /// of such a run.
    pub changes_content: bool,
    /// How the settings want the schedule to run it: `Some(true)` for a dry run, `None` for not at all.
    pub scheduled: fn(&App) -> Option<bool>,
    /// The job, for a step of this run.
    pub job: fn(&App, &Run) -> Box<dyn Job>,
}

/// All jobs, in the order in which the cron trigger goes on with them.
pub const TABLE: [Entry; 8] = [
    Entry {
        name: "resend",
        every: Some(PERIOD),
        steps: 10,
        has_dry_run: false,
        changes_content: false,
        scheduled: |app| app.queue().map(|_| false),
        job: |app, _| Box::new(Resend::now(&*app.clock)),
    },
    Entry {
        name: "remove",
        every: Some(PERIOD),
        steps: 10,
        has_dry_run: false,
        changes_content: true,
        scheduled: |_| Some(false),
        job: |_, _| Box::new(Remove),
    },
    Entry {
        name: "purge",
        every: Some(24 * 60 * 60),
        steps: 10,
        has_dry_run: true,
        changes_content: true,
        scheduled: |app| match app.config.uploads.purge {
            JobMode::Off => None,
            mode => Some(mode == JobMode::DryRun),
        },
        job: |app, run| {
            let before = app.clock.now().minus_seconds(app.config.uploads.ttl_seconds + PURGE_MARGIN);
            Box::new(Purge { before, mode: if run.dry_run { JobMode::DryRun } else { JobMode::On } })
        },
    },
    Entry {
        name: "retain",
        every: Some(24 * 60 * 60),
        steps: 10,
        has_dry_run: true,
        changes_content: true,
        scheduled: |app| {
            let rules = &app.config.retention.rules;
            (!rules.is_empty()).then_some(rules.dry_run)
        },
        job: |_, run| Box::new(Retain { dry_run: run.dry_run }),
    },
    Entry {
        name: "collect",
        every: Some(24 * 60 * 60),
        steps: 10,
        has_dry_run: true,
        changes_content: true,
        scheduled: |app| match app.config.collect.mode {
            JobMode::Off => None,
            mode => Some(mode == JobMode::DryRun),
        },
        job: |app, run| {
            Box::new(Collect {
                grace: app.config.collect.grace,
                is_dry_run: run.dry_run,
                upload_ttl: app.config.uploads.ttl_seconds,
                thoroughness: COLLECT_THOROUGHNESS,
                calls: COLLECT_CALLS,
            })
        },
    },
    Entry {
        name: "settle",
        every: Some(60 * 60),
        steps: 5,
        has_dry_run: true,
        changes_content: true,
        scheduled: |app| match app.config.settle.mode {
            JobMode::Off => None,
            mode => Some(mode == JobMode::DryRun),
        },
        job: |app, run| {
            Box::new(Settle {
                wait: settle_wait(&app.config),
                is_dry_run: run.dry_run,
                bytes: SETTLE_BYTES,
                hashed: SETTLE_HASHED,
                max_put: u64::MAX,
                calls: SETTLE_CALLS,
            })
        },
    },
    Entry {
        name: "scrub",
        every: Some(24 * 60 * 60),
        steps: 1,
        has_dry_run: false,
        changes_content: false,
        scheduled: |app| (app.config.integrity.scrub_bytes > 0).then_some(false),
        job: |app, run| {
            let bytes = match run.starter {
                Starter::Schedule => app.config.integrity.scrub_bytes * PERIOD / (24 * 60 * 60),
                Starter::Request(_) => SCRUB_REQUESTED,
            };
            Box::new(Scrub { bytes, calls: INTEGRITY_CALLS })
        },
    },
    Entry {
        name: "fsck",
        every: None,
        steps: 10,
        has_dry_run: true,
        changes_content: true,
        scheduled: |_| None,
        job: |_, run| Box::new(Fsck { is_dry_run: run.dry_run, calls: INTEGRITY_CALLS as usize }),
    },
];

/// How long the settle job keeps the first copy of a blob, in seconds. Presigned URLs lead there for as long as they live,
/// and cached answers until the registry has looked again.
fn settle_wait(config: &Config) -> u64 {
    let presigned = match config.redirect.rules.uses(Mode::Presigned) {
        true => config.redirect.ttl_seconds,
        false => 0,
    };
    presigned.max(config.cache.digest_seconds) + SETTLE_MARGIN
}

/// The job of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

impl Entry {
    /// Whether the schedule begins a run now, whose last one began at `last`. Calls of the cron trigger vary by some seconds.
    pub(super) fn is_due(&self, last: Option<Timestamp>, now: Timestamp) -> bool {
        let is_over =
            |every| last.is_none_or(|last| now.plus_seconds(PERIOD / 2) >= last.plus_seconds(every));
        self.every.is_some_and(is_over)
    }
}

/// What the cron trigger does: goes on with each run under way, and begins those that are due. `context` makes the context
/// of a job. A job that fails is logged, and keeps no other from running.
pub async fn tick(app: &App, context: impl Fn(&'static str) -> Context) {
    let mut budget = Budget { until: Timestamp(app.clock.now().0 + PATIENCE), calls: CALLS };
    for entry in &TABLE {
        let context = context(entry.name);
        let done = advance(entry, Asked::BySchedule, &mut budget, app, &context).await;
        if let Err(Refused::Failed(error)) = done {
            let message = error.to_string();
            context.log.write(
                Level::Error,
                || json!({"level": "error", "id": context.log.id, "job": entry.name, "message": message}),
            );
        }
    }
}
