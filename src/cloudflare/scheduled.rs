//! The entry point of the cron trigger: runs jobs, by [`schedule`].

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use serde_json::json;
use worker::{Env, ScheduleContext, ScheduledEvent, event};

use super::{
    bindings::{Console, after},
    entry::isolate,
};
use crate::{
    auth::Principal,
    jobs::schedule,
    platform::{Background, Sink},
};

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
async fn scheduled(_: ScheduledEvent, env: Env, context: ScheduleContext) {
    let background = Rc::new(WaitUntil(context));
    let app = match isolate(&env) {
        Ok(isolate) => isolate.app,
        Err(error) => {
            return Console.line(json!({"level": "error", "message": error.log_line()}));
        }
    };
    schedule::tick(&app, |job| {
        app.context(Principal::Job(job), uuid::Uuid::new_v4().to_string(), background.clone())
    })
    .await;
}
