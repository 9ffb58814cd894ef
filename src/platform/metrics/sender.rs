//! Sends what an isolate has counted.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use uuid::Uuid;

use super::{Batch, Collector, Metrics};
use crate::platform::{Background, Clock, Timestamp};

/// The shortest time between two batches of an isolate, in milliseconds.
const INTERVAL: u64 = 5_000;

/// How long to gather before the first batch, in milliseconds.
const FIRST: u64 = 1_000;

/// Time after which a batch that is planned counts as forgotten, in milliseconds: the platform drops what runs longer
/// after an answer.
const LOST: u64 = 30_000;

/// Sends batches to the collector. Each request or job causes at most one.
pub struct Sender {
    metrics: Rc<Metrics>,
    collector: Rc<dyn Collector>,
    clock: Rc<dyn Clock>,
    /// Until when a batch that is planned is taken to be sent.
    busy_until: Cell<Timestamp>,
    /// When the last batch was sent.
    last: Cell<Option<Timestamp>>,
    /// The name of this isolate, and the number of its last batch. The platform gives no randomness before the first
    /// request.
    id: Cell<Option<Uuid>>,
    number: Cell<u64>,
    /// A batch whose answer was lost. It is repeated as it was: it may have been added.
    unanswered: RefCell<Option<Batch>>,
}

impl Sender {
    /// A sender that has sent nothing.
    pub fn new(metrics: Rc<Metrics>, collector: Rc<dyn Collector>, clock: Rc<dyn Clock>) -> Self {
        Self {
            metrics,
            collector,
            clock,
            busy_until: Cell::default(),
            last: Cell::default(),
            id: Cell::default(),
            number: Cell::default(),
            unanswered: RefCell::default(),
        }
    }

    /// The sums of the deployment: see [`Collector::read`].
    pub fn collector(&self) -> &dyn Collector {
        &*self.collector
    }

    /// Sends what was counted, in the background, as soon as the interval allows. Does nothing if that is planned already.
    pub fn send_later(self: &Rc<Self>, background: &dyn Background) {
        let now = self.clock.now();
        let has_nothing = self.metrics.is_empty() && self.unanswered.borrow().is_none();
        if now < self.busy_until.get() || has_nothing {
            return;
        }
        let since = |last: Timestamp| INTERVAL.saturating_sub(now.milliseconds_since(last));
        let wait = self.last.get().map_or(FIRST, since).max(1);
        self.busy_until.set(Timestamp(now.0 + wait + LOST));
        let sender = self.clone();
        // Always after a timer: the answer goes out first.
        background.spawn_after(wait as u32, Box::pin(async move { sender.send().await }));
    }

    async fn send(&self) {
        let batch = self.unanswered.borrow_mut().take().or_else(|| self.next());
        self.last.set(Some(self.clock.now()));
        // What is counted from now on is for the next batch.
        self.busy_until.set(Timestamp::default());
        let Some(batch) = batch else { return };
        // Kept while it is sent: the platform may end this work at any time.
        self.unanswered.replace(Some(batch.clone()));
        let is_added = self.collector.add(&batch).await.is_ok();
        let is_last = self.unanswered.borrow().as_ref().is_some_and(|last| last.number == batch.number);
        if is_added && is_last {
            self.unanswered.replace(None);
        }
    }

    fn next(&self) -> Option<Batch> {
        let samples = self.metrics.drain().samples();
        if samples.is_empty() {
            return None;
        }
        let from = self.id.get().unwrap_or_else(Uuid::new_v4);
        let number = self.number.get() + 1;
        self.id.set(Some(from));
        self.number.set(number);
        Some(Batch { from, number, samples })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use futures_executor::block_on;
    use futures_util::future::LocalBoxFuture;

    use super::{super::*, *};
    use crate::platform::memory::ManualClock;

    /// Work that the test runs when it likes.
    #[derive(Default)]
    struct Later(RefCell<Vec<(u32, LocalBoxFuture<'static, ()>)>>);

    impl Background for Later {
        fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
            self.spawn_after(0, work);
        }
        fn spawn_after(&self, milliseconds: u32, work: LocalBoxFuture<'static, ()>) {
            self.0.borrow_mut().push((milliseconds, work));
        }
    }

    /// A collector that may lose its answer, before or after it has added a batch.
    #[derive(Default)]
    struct Remote {
        sums: RefCell<Sums>,
        calls: Cell<u32>,
        loses: Cell<Option<bool>>,
    }

    impl Collector for Remote {
        fn add<'a>(&'a self, batch: &'a Batch) -> LocalBoxFuture<'a, Result<(), String>> {
            Box::pin(async move {
                self.calls.set(self.calls.get() + 1);
                let loses = self.loses.take();
                if loses != Some(false) {
                    self.sums.borrow_mut().add(batch.clone());
                }
                if loses.is_some() { Err("lost".to_owned()) } else { Ok(()) }
            })
        }
        fn read(&self) -> LocalBoxFuture<'_, Result<Samples, String>> {
            Box::pin(async { Ok(self.sums.borrow().table.samples()) })
        }
    }

    struct Isolate {
        metrics: Rc<Metrics>,
        remote: Rc<Remote>,
        sender: Rc<Sender>,
        clock: ManualClock,
        later: Later,
    }

    impl Isolate {
        fn new() -> Self {
            let (metrics, remote, clock): (Rc<Metrics>, Rc<Remote>, ManualClock) = Default::default();
            let sender = Sender::new(metrics.clone(), remote.clone(), Rc::new(clock.clone()));
            Self { metrics, remote, sender: Rc::new(sender), clock, later: Later::default() }
        }

        /// A request; returns the delays of the batches that it plans.
        fn request(&self) -> Vec<u32> {
            self.metrics.count_job("purge", JobOutcome::Done);
            let planned = self.later.0.borrow().len();
            self.sender.send_later(&self.later);
            self.later.0.borrow().iter().skip(planned).map(|(wait, _)| *wait).collect()
        }

        fn run(&self) {
            for (wait, work) in self.later.0.take() {
                self.clock.0.set(self.clock.0.get() + u64::from(wait));
                block_on(work);
            }
        }

        fn sum(&self) -> Option<Value> {
            self.remote.sums.borrow().table.get(Family::Jobs, &["purge", "done"]).cloned()
        }
    }

    #[test]
    fn everything_counted_is_sent_with_one_batch_every_five_seconds() {
        let isolate = Isolate::new();
        assert_eq!(isolate.request(), [1_000]);
        assert!(isolate.request().is_empty() && isolate.request().is_empty());
        isolate.run();
        assert_eq!((isolate.remote.calls.get(), isolate.sum()), (1, Some(Value::Counter(3))));
        assert_eq!(isolate.request(), [5_000]);
        assert!(isolate.request().is_empty());
        isolate.run();
        isolate.clock.0.set(isolate.clock.0.get() + 4_000);
        assert_eq!(isolate.request(), [1_000]);
        isolate.run();
        isolate.clock.0.set(isolate.clock.0.get() + 60_000);
        assert_eq!(isolate.request(), [1]);
        isolate.run();
        assert_eq!((isolate.remote.calls.get(), isolate.sum()), (4, Some(Value::Counter(7))));
        isolate.sender.send_later(&isolate.later);
        assert!(isolate.later.0.borrow().is_empty(), "there is nothing to send");
    }

    #[test]
    fn a_batch_whose_answer_is_lost_is_counted_once() {
        for is_added in [false, true] {
            let isolate = Isolate::new();
            isolate.remote.loses.set(Some(is_added));
            isolate.request();
            isolate.run();
            isolate.request();
            isolate.run();
            isolate.request();
            isolate.run();
            assert_eq!((isolate.remote.calls.get(), isolate.sum()), (3, Some(Value::Counter(3))));
        }
    }

    #[test]
    fn work_that_the_platform_drops_is_planned_again() {
        let isolate = Isolate::new();
        isolate.request();
        isolate.later.0.take();
        assert!(isolate.request().is_empty());
        isolate.clock.0.set(FIRST + LOST);
        assert_eq!(isolate.request(), [1_000]);
        isolate.run();
        assert_eq!(isolate.sum(), Some(Value::Counter(3)));
    }
}
