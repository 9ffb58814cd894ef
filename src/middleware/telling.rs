//! Sends the events that a request has noted, if it succeeds: those of changes before the answer, those of pulls later.
//!
//! An isolate's first request also sends again what the outbox has: the last isolate may have ended with its queue.

use std::{cell::Cell, rc::Rc};

use futures_util::future::LocalBoxFuture;
use http::StatusCode;
use serde_json::json;

use crate::{
    api::{self, Handler, Request, Response},
    app::App,
    auth::Principal,
    context::Context,
    events::{Action, Event},
    jobs::{self, Resend},
    platform::Level,
};

/// Time from the first request until events are sent again, in milliseconds: by then, all from before are old enough.
const RESEND: u32 = 15_000;

/// Limit of the pages of the outbox that an isolate sends again, each of up to 100 messages. A second page is read only
/// if the first is full. One page would not do: without schedules, as in the local simulator, nothing else sends the rest.
const STEPS: usize = 20;

pub(super) struct Telling {
    pub inner: Rc<dyn Handler>,
    pub app: Rc<App>,
    /// Whether the isolate has had a request.
    pub has_begun: Cell<bool>,
}

impl Telling {
    fn resend(&self, context: &Context) {
        let app = self.app.clone();
        let job = app.context(Principal::Job("resend"), context.log.id.clone(), context.background.clone());
        let resend = async move {
            let (resend, mut cursor) = (Resend::now(&*app.clock), None);
            // The cron trigger sends what is beyond.
            for _ in 0..STEPS {
                match jobs::step(&resend, cursor, &app, &job).await {
                    Ok(None) => return,
                    Ok(next) => cursor = next,
                    Err(error) => {
                        let (id, message) = (&job.log.id, error.to_string());
                        let line =
                            || json!({"level": "error", "id": id, "job": "resend", "message": message});
                        return job.log.write(Level::Error, line);
                    }
                }
            }
        };
        context.background.spawn_after(RESEND, Box::pin(resend));
    }
}

impl Handler for Telling {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            if !self.has_begun.replace(true) {
                self.resend(&context);
            }
            let response = self.inner.handle(request, context.clone()).await;
            let noted = context.notes.events.take();
            let status = response.status();
            if noted.is_empty() || !(status.is_success() || status == StatusCode::TEMPORARY_REDIRECT) {
                return response;
            }
            let is_pull = |event: &Event| event.action == Action::Pull;
            let (pulls, changes): (Vec<Event>, Vec<Event>) = noted.into_iter().partition(is_pull);
            if let Some(gatherer) = self.app.pulls().filter(|_| !pulls.is_empty()) {
                gatherer.add(pulls, &*context.background);
            }
            if changes.is_empty() {
                return response;
            }
            let Some(events) = self.app.events(&context) else { return response };
            match events.tell(changes).await {
                Ok(()) => response,
                Err(error) => {
                    let mut refused = api::refuse(&api::Error::Busy(error.to_string()));
                    // What the API has found out about the request.
                    let mut about = response.extensions().clone();
                    about.extend(std::mem::take(refused.extensions_mut()));
                    *refused.extensions_mut() = about;
                    refused
                }
            }
        })
    }
}
