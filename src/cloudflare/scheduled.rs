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
    jobs::{self, Job, Purge, Resend},
    layout::Key,
    platform::{Background, Sink},
};

/// Time to keep an object after its upload has expired, in seconds.
const PURGE_MARGIN: u64 = 24 * 60 * 60;

/// Limit of steps of one purge: a run has 15 minutes and a limited number of calls.
const PURGE_STEPS: usize = 10;

/// When only the resend job runs: the same as in `wrangler.toml`.
const RESEND: &str = "*/5 * * * *";

/// Limit of steps of one run, of 100 messages each.
const RESEND_STEPS: usize = 10;

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

/// Runs the resend job, and unless it is its time only, the purge job.
#[event(scheduled)]
async fn scheduled(event: ScheduledEvent, env: Env, context: ScheduleContext) {
    let context = Rc::new(WaitUntil(context));
    let report = |job: &str, done: Result<(), Error>| {
        if let Err(error) = done {
            Console.line(json!({"level": "error", "job": job, "message": error.log_line()}));
        }
    };
    report("resend", resend(&env, context.clone()).await);
    if event.cron() != RESEND {
        report("purge", purge(&env, context).await);
    }
}

async fn resend(env: &Env, background: Rc<WaitUntil>) -> Result<(), Error> {
    let app = isolate(env)?.app;
    if app.queue().is_none() {
        return Ok(());
    }
    let job = Resend::now(&*app.clock);
    let id = uuid::Uuid::new_v4().to_string();
    let context = app.context(Principal::Job(job.name()), id, background);
    Ok(jobs::run(&job, Key::ResendCursor, RESEND_STEPS, &app, &context).await?)
}

async fn purge(env: &Env, background: Rc<WaitUntil>) -> Result<(), Error> {
    let app = isolate(env)?.app;
    let uploads = &app.config.uploads;
    if uploads.purge == PurgeMode::Off {
        return Ok(());
    }
    let before = app.clock.now().minus_seconds(uploads.ttl_seconds + PURGE_MARGIN);
    let job = Purge { before, mode: uploads.purge };
    let id = uuid::Uuid::new_v4().to_string();
    let context = app.context(Principal::Job(job.name()), id, background);
    Ok(jobs::run(&job, Key::PurgeCursor, PURGE_STEPS, &app, &context).await?)
}
