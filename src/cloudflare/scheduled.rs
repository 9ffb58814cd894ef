//! The entry point of the daily cron trigger: runs jobs.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use serde_json::json;
use worker::{Env, ScheduleContext, ScheduledEvent, event};

use super::{
    bindings::{Console, after},
    entry::isolate,
};
use crate::{
    api::Error,
    auth::Principal,
    config::PurgeMode,
    jobs::{self, Job, Purge},
    layout::Key,
    platform::{Background, Sink},
};

/// Time to keep an object after its upload has expired, in seconds.
const PURGE_MARGIN: u64 = 24 * 60 * 60;

/// Limit of steps of one purge: a run has 15 minutes and a limited number of calls.
const PURGE_STEPS: usize = 10;

/// `waitUntil` of a scheduled event.
struct WaitUntil(ScheduleContext);

impl Background for WaitUntil {
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.wait_until(work);
    }

    fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>) {
        self.spawn(after(milliseconds, work));
    }
}

#[event(scheduled)]
async fn scheduled(_event: ScheduledEvent, env: Env, context: ScheduleContext) {
    if let Err(error) = purge(&env, context).await {
        Console.line(json!({"level": "error", "job": "purge", "message": error.log_line()}));
    }
}

async fn purge(env: &Env, context: ScheduleContext) -> Result<(), Error> {
    let app = isolate(env)?.app;
    let uploads = &app.config.uploads;
    if uploads.purge == PurgeMode::Off {
        return Ok(());
    }
    let before = app.clock.now().minus_seconds(uploads.ttl_seconds + PURGE_MARGIN);
    let job = Purge { before, mode: uploads.purge };
    let id = uuid::Uuid::new_v4().to_string();
    let context = app.context(Principal::Job(job.name()), id, Rc::new(WaitUntil(context)));
    Ok(jobs::run(&job, Key::PurgeCursor, PURGE_STEPS, &app, &context).await?)
}
