//! Health: whether the bindings do what they are for.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
};

use futures_util::future::{Either, LocalBoxFuture, join_all, select};
use serde::Serialize;

use super::{Clock, Timestamp};

/// The time limit of each check, in milliseconds.
const LIMIT: u64 = 2_000;

/// How long a report is given out again, in milliseconds: nobody needs a login to ask.
const LIFETIME: u64 = 5_000;

/// How long to wait between two looks at a report that another request makes, in milliseconds.
const LOOK: u64 = 50;

/// A failed check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What anyone may read.
    pub reason: &'static str,
    /// What the operator reads in the log.
    pub message: String,
}

/// Exercises a binding once. It must not fail because of a limit on calls.
pub type Check = Rc<dyn Fn() -> LocalBoxFuture<'static, Result<(), Trouble>>>;

/// A binding.
#[derive(Clone)]
pub enum Probe {
    /// It is optional, and not there.
    Unbound,
    /// It is there, and nothing harmless can be asked of it.
    Bound,
    /// It is there.
    Check(Check),
}

/// The state of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It answers.
    Ok,
    /// It has failed, but not often enough in turn to count.
    Doubtful,
    /// It has failed often enough in turn.
    Failing,
    /// It is not there.
    Unbound,
    /// It is there. Whether it works is not known.
    Bound,
}

/// The result for a binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// Its state.
    pub state: State,
    /// The time of the check, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// How often it has failed in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The whole message, for the log.
    #[serde(skip)]
    pub message: Option<String>,
}

/// A report about all bindings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The results, in order.
    pub checks: Vec<Checked>,
}

impl Report {
    /// Whether no binding fails.
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Failing)
    }
}

/// The checks of an isolate, and what it remembers of them.
pub struct Health {
    /// Names, bindings, and how often each has failed in turn.
    probes: Vec<(&'static str, Probe, Cell<u32>)>,
    threshold: u32,
    clock: Rc<dyn Clock>,
    last: RefCell<Option<(Timestamp, Report)>>,
    /// Until when the checks under way are taken to go on.
    busy_until: Cell<Timestamp>,
}

impl Health {
    /// Checks of these bindings. One fails when `threshold` checks in turn have failed.
    pub fn new(probes: Vec<(&'static str, Probe)>, threshold: u32, clock: Rc<dyn Clock>) -> Self {
        let (last, busy_until) = Default::default();
        let probes = probes.into_iter().map(|(name, probe)| (name, probe, Cell::default())).collect();
        Self { probes, threshold, clock, last, busy_until }
    }

    /// Checks all bindings at once, or returns the last report if it is recent. The flag says whether it is new.
    pub async fn report(&self) -> (Report, bool) {
        loop {
            let now = self.clock.now();
            if let Some((made, report)) = &*self.last.borrow()
                && now.milliseconds_since(*made) < LIFETIME
            {
                return (report.clone(), false);
            }
            if now >= self.busy_until.get() {
                break;
            }
            self.clock.sleep(LOOK).await;
        }
        self.busy_until.set(Timestamp(self.clock.now().0 + 2 * LIMIT));
        let checks = self.probes.iter().map(|(name, probe, failures)| self.check(name, probe, failures));
        let checks = join_all(checks).await;
        let report = Report { checks };
        self.last.replace(Some((self.clock.now(), report.clone())));
        self.busy_until.set(Timestamp::default());
        (report, true)
    }

    async fn check(&self, name: &'static str, probe: &Probe, failures: &Cell<u32>) -> Checked {
        let state =
            |state| Checked { name, state, milliseconds: None, failures: None, reason: None, message: None };
        let check = match probe {
            Probe::Unbound => return state(State::Unbound),
            Probe::Bound => return state(State::Bound),
            Probe::Check(check) => check,
        };
        let started = self.clock.now();
        let result = match select(check(), pin!(self.clock.sleep(LIMIT))).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                let message = format!("no answer within {LIMIT} ms");
                Err(Trouble { reason: "no answer in time", message })
            }
        };
        let milliseconds = Some(self.clock.now().milliseconds_since(started));
        match result {
            Ok(()) => {
                failures.set(0);
                Checked { milliseconds, ..state(State::Ok) }
            }
            Err(Trouble { reason, message }) => {
                failures.set(failures.get().saturating_add(1));
                let fails = failures.get() >= self.threshold;
                Checked {
                    milliseconds,
                    failures: Some(failures.get()),
                    reason: Some(reason),
                    message: Some(message),
                    ..state(if fails { State::Failing } else { State::Doubtful })
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use futures_executor::block_on;
    use futures_util::future::{join, pending, ready};

    use super::*;
    use crate::platform::memory::ManualClock;

    /// A clock whose sleeps take a turn of the executor, as real ones do.
    struct Slow(ManualClock);

    impl Clock for Slow {
        fn now(&self) -> Timestamp {
            self.0.now()
        }
        fn sleep(&self, milliseconds: u64) -> LocalBoxFuture<'static, ()> {
            let slept = self.0.sleep(milliseconds);
            let mut turns = 3;
            Box::pin(async move {
                std::future::poll_fn(|context| {
                    turns -= 1;
                    context.waker().wake_by_ref();
                    if turns > 0 { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
                })
                .await;
                slept.await;
            })
        }
    }

    struct Place {
        health: Health,
        clock: ManualClock,
        calls: Rc<Cell<u32>>,
        fails: Rc<Cell<bool>>,
    }

    fn place(threshold: u32) -> Place {
        let (clock, calls, fails): (ManualClock, Rc<Cell<u32>>, Rc<Cell<bool>>) = Default::default();
        let (count, is_failing) = (calls.clone(), fails.clone());
        let check: Check = Rc::new(move || {
            count.set(count.get() + 1);
            let trouble = Trouble { reason: "it failed", message: "key=secret".to_owned() };
            Box::pin(ready(if is_failing.get() { Err(trouble) } else { Ok(()) }))
        });
        let probes =
            vec![("bucket", Probe::Check(check)), ("cache", Probe::Unbound), ("queue", Probe::Bound)];
        let health = Health::new(probes, threshold, Rc::new(Slow(clock.clone())));
        Place { health, clock, calls, fails }
    }

    #[test]
    fn a_binding_fails_after_as_many_failures_in_turn_as_the_threshold() {
        let Place { health, clock, fails, .. } = place(3);
        let mut states = Vec::new();
        for is_failing in [false, true, true, false, true, true, true, true, false] {
            fails.set(is_failing);
            let (report, is_new) = block_on(health.report());
            assert!(is_new);
            states.push((report.checks[0].state, report.is_ready()));
            assert_eq!(report.checks[1].state, State::Unbound);
            assert_eq!(report.checks[2].state, State::Bound);
            assert!(!serde_json::to_string(&report.checks).unwrap().contains("secret"));
            clock.0.set(clock.0.get() + LIFETIME);
        }
        use State::{Doubtful, Failing, Ok};
        assert_eq!(
            states,
            [
                (Ok, true),
                (Doubtful, true),
                (Doubtful, true),
                (Ok, true),
                (Doubtful, true),
                (Doubtful, true),
                (Failing, false),
                (Failing, false),
                (Ok, true)
            ]
        );
    }

    #[test]
    fn a_report_is_made_at_most_every_five_seconds_and_by_one_request() {
        let Place { health, clock, calls, .. } = place(1);
        let (first, second) = block_on(join(health.report(), health.report()));
        assert!(first.1 && !second.1 && first.0 == second.0);
        clock.0.set(clock.0.get() + LIFETIME - 1 - LOOK);
        assert!(!block_on(health.report()).1);
        assert_eq!(calls.get(), 1);
        clock.0.set(clock.0.get() + 1 + LOOK);
        assert!(block_on(health.report()).1);
        assert_eq!(calls.get(), 2);
    }

    #[test]
    fn a_check_without_an_answer_fails_in_time() {
        let clock = ManualClock::default();
        let hangs: Check = Rc::new(|| Box::pin(pending()));
        let health = Health::new(vec![("bucket", Probe::Check(hangs))], 1, Rc::new(Slow(clock)));
        let (report, _) = block_on(health.report());
        assert_eq!(report.checks[0].reason, Some("no answer in time"));
        assert!(!report.is_ready());
    }
}
