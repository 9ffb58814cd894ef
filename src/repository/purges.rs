//! Purges of the edge cache, coalesced: the platform allows an account only a few.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use serde_json::json;

use crate::{
    context::Context,
    platform::{Clock, Level, Timestamp},
};

/// Shortest time between two purges of an isolate, in milliseconds. Cloudflare allows an account 25 at once and
/// 5 per minute.
const INTERVAL: u64 = 5_000;

/// Time to the next purge after a refused one, in milliseconds.
const PAUSE: u64 = 15_000;

/// Time after which a purge counts as lost, in milliseconds: the platform ends work 30 s after the response.
const LOST: u64 = 30_000;

/// Limit of tags in one purge.
const TAGS: usize = 100;

/// The tags to purge. A lost purge does no harm: answers expire without it.
pub struct Purges {
    /// Lifetime of an answer, in seconds: a purge after that time is of no use.
    lifetime: u64,
    clock: Rc<dyn Clock>,
    /// With the time of the change.
    tags: RefCell<Vec<(String, Timestamp)>>,
    next: Cell<Timestamp>,
    /// When the scheduled purge is expected to run.
    scheduled: Cell<Option<Timestamp>>,
}

impl Purges {
    /// No purges yet.
    pub fn new(lifetime: u64, clock: Rc<dyn Clock>) -> Self {
        Self { lifetime, clock, tags: RefCell::default(), next: Cell::default(), scheduled: Cell::default() }
    }

    /// Purges `tag` in the background: at once, or with others after a few seconds.
    pub fn add(self: &Rc<Self>, tag: String, context: &Context) {
        let mut tags = self.tags.borrow_mut();
        tags.retain(|(other, _)| *other != tag);
        tags.push((tag, self.clock.now()));
        drop(tags);
        self.schedule(context);
    }

    fn schedule(self: &Rc<Self>, context: &Context) {
        let now = self.clock.now();
        if self.scheduled.get().is_some_and(|due| now.milliseconds_since(due) < LOST) {
            return;
        }
        let wait = self.next.get().milliseconds_since(now);
        self.scheduled.set(Some(now.max(self.next.get())));
        let (purges, of) = (self.clone(), context.clone());
        let work = Box::pin(async move { purges.run(&of).await });
        context.background.spawn_after(u32::try_from(wait).unwrap_or(u32::MAX), work);
    }

    async fn run(self: &Rc<Self>, context: &Context) {
        let now = self.clock.now();
        let mut tags = self.tags.take();
        tags.retain(|(_, changed)| changed.plus_seconds(self.lifetime) > now);
        let names: Vec<String> = tags.iter().take(TAGS).map(|(tag, _)| tag.clone()).collect();
        self.next.set(Timestamp(now.0 + INTERVAL));
        if !names.is_empty() {
            match context.edge_cache.purge(&names).await {
                Ok(()) => drop(tags.drain(..names.len())),
                Err(message) => {
                    let id = &context.log.id;
                    context.log.write(
                        Level::Info,
                        || json!({"level": "info", "id": id, "purge": names.len(), "message": message}),
                    );
                    self.next.set(Timestamp(now.0 + PAUSE));
                }
            }
        }
        // Those of changes in the meantime follow.
        self.tags.borrow_mut().splice(..0, tags);
        self.scheduled.set(None);
        if !self.tags.borrow().is_empty() {
            self.schedule(context);
        }
    }
}
