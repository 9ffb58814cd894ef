//! The resend job: sends to the queue what is still in the outbox. The queue had refused it, or has lost it.

use futures_util::future::LocalBoxFuture;
use serde_json::json;

use super::{Job, Step};
use crate::{
    app::App,
    context::Context,
    events::{Message, Names},
    platform::{Clock, Timestamp},
    repository::RepositoryError,
};

/// Limit of messages per step: the queue's limit of a batch.
const STEP: usize = 100;

/// Limit of listings per step. One is enough, unless the store's pages are short.
const LISTINGS: usize = 20;

/// The age of events that should have been delivered, in seconds.
const ON_THEIR_WAY: u64 = 10;

/// Sends events again.
pub struct Resend {
    /// Only events from before this: others are on their way.
    pub before: Timestamp,
}

impl Resend {
    /// Sends what should have been delivered by now.
    pub fn now(clock: &dyn Clock) -> Self {
        Self { before: clock.now().minus_seconds(ON_THEIR_WAY) }
    }
}

impl Job for Resend {
    fn name(&self) -> &'static str {
        "resend"
    }

    /// One batch, and as many listings as fill it. A message only names its events: the consumer drops it if they are delivered by then.
    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            let Some(queue) = app.queue() else { return Ok(Step { report: json!({"sent": 0}), next: None }) };
            let outbox = app.outbox(context);
            let Names { mut names, mut next } = outbox.names(self.before, cursor.as_deref(), STEP).await?;
            for _ in 1..LISTINGS {
                let left = STEP - names.len().min(STEP);
                let Some(after) = next.as_deref().filter(|_| left > 0) else { break };
                let page = outbox.names(self.before, Some(after), left).await?;
                names.extend(page.names);
                next = page.next;
            }
            let message =
                |name| serde_json::to_string(&Message { events: Vec::new(), kept: Some(name) }).ok();
            let messages: Vec<String> = names.into_iter().filter_map(message).collect();
            let sent = messages.len();
            if sent > 0 {
                queue.send(messages).await.map_err(RepositoryError::Events)?;
            }
            Ok(Step { report: json!({"sent": sent}), next })
        })
    }
}
