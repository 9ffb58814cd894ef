//! What happens next: each step of a simulation.

use super::World;
use crate::{
    calls::Call,
    clients::Kind,
    coverage::Fault,
    executor::Group,
    model::{Outcome, Violation, Wrong, violation},
    setup::{Guard, OUTAGE},
    trace::{point, text},
};

/// Steps at which a long time is to pass as soon as nobody waits for anything, of a thousand.
const LEAPS: u32 = 6;

/// The same beside retention, which has something to do after each.
const RETENTION_LEAPS: u32 = 30;

impl World {
    /// One step: something happens, then every task that it woke runs until it waits again.
    pub(super) fn step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        if !self.calm && self.random.chance(self.setup.weather.crash) {
            self.crash();
        } else {
            self.happen();
        }
        if !self.executor.run() {
            return violation(Wrong::Stuck, "tasks wake each other for ever");
        }
        self.look_at_immutable_tags()?;
        for event in self.queue.sent() {
            self.telling.send(&event, &self.bucket, &self.model, &mut self.coverage)?;
        }
        for (id, outcome, next) in self.answers.take() {
            self.end(id, outcome, &next)?;
        }
        self.look_at_promises()
    }

    fn happen(&mut self) {
        // Landed, and nobody waits: it is over.
        self.calls.pending.borrow_mut().retain(|call| call.is_awaited() || !call.has_landed());
        let mut weights: Vec<u32> = (self.calls.pending.borrow().iter())
            .map(|call| match call.is_awaited() {
                true => self.speeds.get(&call.note.served).copied().unwrap_or(64),
                false if call.is_provoked => 32,
                false => 1,
            })
            .collect();
        let calls = weights.len();
        let busy = |client: &usize| self.in_flight.values().any(|other| other.client == *client);
        let idle: Vec<usize> = (0..self.queues.len())
            .filter(|client| !busy(client) && (!self.queues[*client].is_empty() || self.has_image(*client)))
            .collect();
        if !self.calm && self.setup.collection.is_some() {
            let leaps = if self.setup.retention.is_some() { RETENTION_LEAPS } else { LEAPS };
            self.is_leaping |= self.random.chance(leaps);
        }
        let begins = if self.is_leaping { 0 } else { 32 };
        weights.extend(idle.iter().map(|_| begins));
        let ready = self.ready.len();
        weights.extend(self.ready.iter().map(|_| begins));
        let due = if self.without == Some(Guard::Alarm) { Vec::new() } else { self.objects.due() };
        weights.extend(due.iter().map(|_| 16));
        // Time passes, mostly when there is nothing else to do.
        let leaps = self.may_leap();
        weights.push(match weights.iter().all(|weight| *weight == 1) {
            _ if leaps => 16,
            // Storage is fast while nothing goes wrong: nobody gives up waiting for others.
            _ if self.setup.collection.is_some() && self.is_fair() && self.is_answering() => 0,
            true => 8,
            false => 1,
        });
        match self.random.weighted(&weights) {
            Some(n) if n < calls => self.carry_on(n, false),
            Some(n) if n < calls + idle.len() => {
                let client = idle[n - calls];
                self.go_on(client);
            }
            Some(n) if n < calls + idle.len() + ready => {
                let (id, location) = self.ready.remove(n - calls - idle.len());
                self.send(id, &location);
            }
            Some(n) if n < calls + idle.len() + ready + due.len() => {
                let name = &due[n - calls - idle.len() - ready];
                self.note(|| format!("the alarm of {name} rings"));
                self.objects.ring(name);
            }
            _ if leaps => self.leap(),
            _ => self.pass_time(),
        }
    }

    fn has_image(&self, client: usize) -> bool {
        self.images.get(client).is_some_and(|images| !images.is_empty())
    }

    /// A client begins its next operation.
    fn go_on(&mut self, client: usize) {
        let is_of_image =
            self.has_image(client) && (self.queues[client].is_empty() || self.random.chance(700));
        let operation = match is_of_image {
            true => self.images[client][0].operation(),
            false => self.queues[client].remove(0),
        };
        self.begin_of(operation, client, is_of_image);
    }

    /// Whether a long time may pass: nobody waits for anything.
    fn may_leap(&self) -> bool {
        let is_quiet = || self.calls.pending.borrow().is_empty() && self.clock.next_timer().is_none();
        !self.calm && self.setup.collection.is_some() && is_quiet()
    }

    fn is_answering(&self) -> bool {
        self.calls.pending.borrow().iter().any(Call::is_awaited)
    }

    /// A long time passes.
    fn leap(&mut self) {
        let Some(leaps) = self.setup.collection.as_ref().map(|collection| collection.leaps) else { return };
        let seconds = *self.random.pick(leaps);
        self.is_leaping = false;
        self.clock.advance_to(self.clock.seconds() + seconds);
        self.note(|| format!("{seconds} seconds pass"));
    }

    /// Moves the clock to the next timer, or by a few seconds, but not beyond the end of a call.
    fn pass_time(&mut self) {
        let now = self.clock.seconds();
        let timer =
            self.clock.next_timer().into_iter().chain(self.next_alarm().filter(|alarm| *alarm > now)).min();
        let target = timer.unwrap_or(now + 1 + self.random.below(3) as u64).max(now);
        let due = (self.calls.pending.borrow().iter().enumerate())
            .map(|(n, call)| (call.deadline, n))
            .min()
            .filter(|(deadline, _)| *deadline <= target);
        match due {
            Some((deadline, n)) => {
                self.clock.advance_to(deadline);
                self.carry_on(n, true);
            }
            None => self.clock.advance_to(target),
        }
        self.note(|| "time passes".to_owned());
    }

    /// Something happens to a call. At its deadline, it ends.
    fn carry_on(&mut self, n: usize, at_deadline: bool) {
        let mut call = self.calls.pending.borrow_mut().swap_remove(n);
        if !call.is_awaited() {
            let lands = self.random.chance(if at_deadline { 500 } else { 900 });
            if lands {
                self.land(&mut call);
            }
            self.note(|| {
                format!("{} late: {}", if lands { "lands" } else { "never lands" }, text(&call.note))
            });
            return;
        }
        if call.has_landed() {
            self.note(|| format!("answers {}", text(&call.note)));
            call.answer();
            return;
        }
        if let Some(fault) = self.fault(&call) {
            self.note(|| format!("{fault:?} at {}", text(&call.note)));
            match fault {
                Fault::Lost => self.land(&mut call),
                Fault::Late if !at_deadline => {
                    if point(&call.note) == "put blob" {
                        self.late_links.insert(call.note.served);
                    }
                    call.fail();
                    self.calls.pending.borrow_mut().push(call);
                    return;
                }
                Fault::Throttled => return call.refuse(),
                _ => {}
            }
            call.fail();
            return;
        }
        self.land(&mut call);
        if !self.calm && !at_deadline && self.random.chance(250) {
            self.note(|| format!("lands {}", text(&call.note)));
            self.calls.pending.borrow_mut().push(call);
        } else {
            self.note(|| format!("does {}", text(&call.note)));
            call.answer();
        }
    }

    /// A call takes effect. Late ones of other requests on the same key like to follow: there they do most harm.
    fn land(&mut self, call: &mut Call) {
        call.land();
        for other in self.calls.pending.borrow_mut().iter_mut().filter(|_| call.note.writes) {
            other.is_provoked |= other.note.path == call.note.path && other.note.served != call.note.served;
        }
    }

    /// Whether and how a call goes wrong.
    fn fault(&mut self, call: &Call) -> Option<Fault> {
        if self.calm || self.setup.forgets && point(&call.note) == "put outbox" {
            return None;
        }
        let now = self.clock.seconds();
        let is_out = call.note.writes && self.outages.get(&call.note.path).is_some_and(|until| *until > now);
        if !is_out && !self.random.chance(self.setup.weather.fault) {
            return None;
        }
        let fault = match call.note.writes {
            _ if is_out => Fault::Error,
            // Nothing reaches an object later, or its storage.
            true if call.note.is_fenced || call.note.operation == "call" => {
                *self.random.pick(&[Fault::Error, Fault::Lost])
            }
            true if self.random.chance(700) => match self.random.chance(self.setup.weather.late) {
                true => Fault::Late,
                false => Fault::Lost,
            },
            _ => *self.random.pick(&[Fault::Error, Fault::Throttled]),
        };
        if !is_out && call.note.writes && self.random.chance(self.setup.weather.outage) {
            self.outages.insert(call.note.path.clone(), now + OUTAGE);
        }
        self.coverage.fault(fault, &self.kinds_in_flight());
        self.coverage.point(fault, point(&call.note));
        Some(fault)
    }

    fn kinds_in_flight(&self) -> Vec<Kind> {
        self.in_flight.values().map(|other| other.operation.kind).collect()
    }

    /// An isolate or an object ends where it stands. Its calls may still land.
    fn crash(&mut self) {
        let groups = self.executor.groups();
        if groups.is_empty() {
            return self.happen();
        }
        let group = self.random.pick(&groups).clone();
        self.note(|| format!("{group:?} crashes"));
        let fault = match group {
            Group::Isolate(_) => Fault::Crash,
            Group::Writer(_) => Fault::WriterCrash,
        };
        let kinds = self.kinds_in_flight();
        self.coverage.fault(fault, &kinds);
        for call in self.calls.pending.borrow().iter().filter(|call| call.note.caller == group) {
            self.coverage.point(fault, point(&call.note));
        }
        self.executor.crash(&group);
        let random = &mut self.random;
        self.calls.pending.borrow_mut().retain_mut(|call| {
            let ends = call.note.is_fenced && call.note.caller == group;
            if ends && random.chance(500) {
                call.land();
            }
            !ends
        });
        match group {
            Group::Writer(name) => self.objects.crash(&name),
            Group::Isolate(n) => {
                self.isolates[n] = self.isolate();
                let lost = self.in_flight.iter().filter(|(_, other)| other.isolate == n);
                self.answers.borrow_mut().extend(lost.map(|(id, _)| (*id, Outcome::Lost, String::new())));
            }
        }
    }
}
