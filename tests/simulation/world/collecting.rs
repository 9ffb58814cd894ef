//! The collection: its steps, leaps of time, and what must be true while it runs and in the end.

use futures_util::future::LocalBoxFuture;
use pierhead::{
    app::App,
    auth::Principal,
    context::Context,
    jobs::{Collect, Job, Retain, Settle, Step},
};

use std::{collections::BTreeMap, rc::Rc};

use super::{HARNESS, ISOLATES, World};
use crate::{
    clients::{Kind, Operation},
    collection::{Collection, RUNNERS, UPLOAD_TTL},
    coverage,
    executor::Group,
    garbage::{disagreements, garbage},
    images::{Image, Next},
    inspect,
    model::{Outcome, Register, Violation, Wrong, violation},
    objects::Work,
    promises::Moment,
    retention,
    universe::{MANIFESTS, REPOSITORIES, UNIVERSE},
};

/// The leap of time between two runs in the end, in seconds: longer than an upload and every wait of the collection.
const LEAP: u64 = UPLOAD_TTL + 3600;

/// The runs after which nothing is left to collect: the first condemns links, the second removes them and condemns the
/// content, the third deletes it, and the fourth removes the markers.
const RUNS: usize = 6;

/// The age of an upload at which its first chunk may be collected, in seconds.
const HELD: u64 = 300;

/// Steps at which the settle job runs in the place of the collection, of a thousand.
const SETTLES: u32 = 350;

/// Steps of the retain job in the place of those of the collection, of a thousand.
const RETAINS: u32 = 600;

/// The runs of the retain job after which nothing is left to drop: tags, indexes, and what they name.
const RETAIN_RUNS: usize = 4;

/// Limit of the calls of a step of the harness.
const CALLS: usize = 1000;

/// A step of a job, and where it goes on.
fn step_of(
    job: impl Job + 'static,
    app: Rc<App>,
    context: Context,
    cursor: Option<String>,
) -> LocalBoxFuture<'static, (Outcome, String)> {
    Box::pin(async move {
        let (status, body, next) = match job.step(&app, &context, cursor).await {
            Ok(Step { report, next }) => (200, report.to_string(), next.unwrap_or_default()),
            Err(error) => (503, error.to_string(), String::new()),
        };
        (Outcome::Answer { status, digest: String::new(), body: body.into_bytes() }, next)
    })
}

impl World {
    /// The isolates of collections are after those of clients.
    pub(super) fn runner_of(&self, client: usize) -> usize {
        if client == HARNESS { 0 } else { client - self.setup.clients }
    }

    /// Adds images to the clients, and steps to the collections.
    pub(super) fn plan_collection(&mut self) {
        let Some(Collection { runners, steps, images, .. }) = self.setup.collection.clone() else { return };
        for _ in 0..images {
            let client = self.random.below(self.setup.clients);
            self.images[client].push(Image::choose(self.setup.focus, &mut self.random));
        }
        for runner in 0..runners {
            let mut planned = vec![Operation::new(Kind::Collect, 0); steps];
            if self.setup.retention.is_some() {
                let retain = Operation::new(Kind::Retain, 0);
                planned
                    .iter_mut()
                    .filter(|_| self.random.chance(RETAINS))
                    .for_each(|step| *step = retain.clone());
            }
            self.queues[self.setup.clients + runner].extend(planned);
        }
    }

    /// A step of a collection, as a task.
    pub(super) fn collect(
        &mut self,
        id: u64,
        runner: usize,
        is_harness: bool,
    ) -> LocalBoxFuture<'static, (Outcome, String)> {
        let Some(Collection { grace, calls, .. }) = self.setup.collection.clone() else {
            return Box::pin(async { (Outcome::Lost, String::new()) });
        };
        let calls = if is_harness { CALLS } else { 2 + self.random.below(calls) };
        // Somebody starts anew, or where another one has begun.
        let from = if !is_harness && self.random.chance(100) { self.random.below(RUNNERS) } else { runner };
        let cursor = self.cursors[from].clone();
        let n = ISOLATES + runner;
        let app = self.isolates[n].app.clone();
        let work = Work { calls: self.calls.clone(), group: Group::Isolate(n), operation: id };
        let context = app.context(Principal::Job("collect"), id.to_string(), Rc::new(work));
        if !is_harness && self.random.chance(SETTLES) {
            return self.settle(app, context, self.cursors[runner].clone());
        }
        let job = Collect { grace, is_dry_run: false, upload_ttl: UPLOAD_TTL, thoroughness: 1, calls };
        step_of(job, app, context, cursor)
    }

    /// A run of the settle job in the place of a step, whose first steps are made. The collection goes on at its cursor.
    fn settle(
        &mut self,
        app: Rc<App>,
        context: Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'static, (Outcome, String)> {
        // In one call, or in parts.
        let max_put = *self.random.pick(&[u64::MAX, 1]);
        let wait = *self.random.pick(&[0, 60, 1000]);
        let (bytes, calls) = (self.random.below(20) as u64, 2 + self.random.below(30) as u32);
        let job = Settle { wait, is_dry_run: false, bytes, hashed: bytes, max_put, calls };
        Box::pin(async move {
            let (mut at, mut sums) = (None, BTreeMap::<String, u64>::new());
            for _ in 0..6 {
                match job.step(&app, &context, at).await {
                    Ok(Step { report, next }) => {
                        let numbers = report.as_object().into_iter().flatten();
                        for (name, number) in
                            numbers.filter_map(|(name, value)| Some((name, value.as_u64()?)))
                        {
                            *sums.entry(name.clone()).or_default() += number;
                        }
                        at = next;
                    }
                    Err(error) => {
                        let body = error.to_string().into_bytes();
                        let outcome = Outcome::Answer { status: 503, digest: String::new(), body };
                        return (outcome, cursor.unwrap_or_default());
                    }
                }
                if at.is_none() {
                    break;
                }
            }
            let body = serde_json::to_vec(&sums).unwrap_or_default();
            (Outcome::Answer { status: 200, digest: String::new(), body }, cursor.unwrap_or_default())
        })
    }

    /// A step of a collection has ended.
    pub(super) fn collected(
        &mut self,
        runner: usize,
        outcome: &Outcome,
        next: &str,
    ) -> Result<(), Violation> {
        let Outcome::Answer { status: 200, body, .. } = outcome else {
            if self.random.chance(300) {
                self.cursors[runner] = None;
            }
            return Ok(());
        };
        self.cursors[runner] = (!next.is_empty()).then(|| next.to_owned());
        let report: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        for (field, what) in coverage::COLLECTED {
            if report[field].as_u64().is_some_and(|count| count > 0) {
                self.coverage.count(what);
            }
        }
        match report.get("failed") {
            Some(failed) if self.is_fair() => violation(Wrong::Unavailable, failed.to_string()),
            _ => Ok(()),
        }
    }

    /// A step of the retain job, as a task.
    pub(super) fn retain(&self, id: u64, runner: usize) -> LocalBoxFuture<'static, (Outcome, String)> {
        let (n, cursor) = (ISOLATES + runner, self.retain_cursors[runner].clone());
        let app = self.isolates[n].app.clone();
        let work = Work { calls: self.calls.clone(), group: Group::Isolate(n), operation: id };
        let context = app.context(Principal::Job("retain"), id.to_string(), Rc::new(work));
        step_of(Retain { dry_run: false }, app, context, cursor)
    }

    /// A step of the retain job has ended.
    pub(super) fn retained_step(
        &mut self,
        runner: usize,
        outcome: &Outcome,
        next: &str,
    ) -> Result<(), Violation> {
        let Outcome::Answer { status: 200, body, .. } = outcome else { return Ok(()) };
        self.retain_cursors[runner] = (!next.is_empty()).then(|| next.to_owned());
        let report: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        for (of, field, what) in coverage::RETAINED {
            if report[of][field].as_u64().is_some_and(|count| count > 0) {
                self.coverage.count(what);
            }
        }
        match report.get("failed") {
            Some(failed) if self.is_fair() => violation(Wrong::Unavailable, failed.to_string()),
            _ => Ok(()),
        }
    }

    /// Runs the retain job until nothing is left to drop, while nothing goes wrong.
    pub(super) fn retain_all(&mut self) -> Result<(), Violation> {
        if self.setup.retention.is_none() {
            return Ok(());
        }
        for _ in 0..RETAIN_RUNS {
            self.clock.advance_to(self.clock.seconds() + LEAP);
            self.rest()?;
            self.retain_cursors[0] = None;
            loop {
                match self.ask(Operation::new(Kind::Retain, 0))?.status() {
                    Some(200) if self.retain_cursors[0].is_none() => break,
                    Some(200) => {}
                    status => return violation(Wrong::Unavailable, format!("the retain job: {status:?}")),
                }
            }
            self.rest()?;
        }
        match self.retained.left(&self.bucket) {
            left if left.is_empty() => Ok(()),
            left => violation(Wrong::NotDropped, format!("{left:?}")),
        }
    }

    /// Whether neither calls fail nor anything crashes.
    pub(super) fn is_fair(&self) -> bool {
        self.setup.weather.fault == 0 && self.setup.weather.crash == 0
    }

    /// While nothing goes wrong, nobody hears that something did.
    pub(super) fn look_at_fairness(
        &self,
        operation: &Operation,
        outcome: &Outcome,
        started: Moment,
    ) -> Result<(), Violation> {
        let (Outcome::Answer { status, body, .. }, true) = (outcome, self.is_fair()) else { return Ok(()) };
        let is_young = self.clock.seconds() < started.seconds + HELD;
        let is_wrong = match operation.kind {
            Kind::PushInChunks if is_young => *status >= 404,
            _ => *status >= 500,
        };
        if self.setup.collection.is_some() && is_wrong {
            let detail = format!("{:?}: {status} {}", operation.line(), String::from_utf8_lossy(body));
            return violation(Wrong::Unavailable, detail);
        }
        Ok(())
    }

    /// The push of an image goes on.
    pub(super) fn carry_image_on(
        &mut self,
        client: usize,
        operation: &Operation,
        outcome: &Outcome,
        started: Moment,
    ) -> Result<(), Violation> {
        let now = self.clock.seconds();
        let Some(mut image) = (!self.images[client].is_empty()).then(|| self.images[client].remove(0)) else {
            return Ok(());
        };
        if let (Kind::PushByTag, Outcome::Answer { status: 400, body, .. }) = (operation.kind, outcome) {
            let text = String::from_utf8_lossy(body);
            let missing = |blob: &usize| text.contains(UNIVERSE.blobs[*blob].0.hex());
            let promised = image.known.iter().filter(|(blob, _)| missing(blob)).find(|(blob, since)| {
                self.promises.holds(Register::Blob(image.repository, **blob), **since, now)
            });
            if let Some((blob, since)) = promised {
                let detail = format!("{image:?} lacks {blob}, which was there at {since:?}, and it is {now}");
                return violation(Wrong::ImageRefused, detail);
            }
        }
        match image.answered(operation.kind, outcome, started) {
            Next::Over => {}
            next => {
                if next == Next::Again {
                    self.coverage.count(coverage::PUSHED_AGAIN);
                }
                self.images[client].insert(0, image);
            }
        }
        Ok(())
    }

    /// At any time, whoever pulls what is acknowledged gets it.
    pub(super) fn look_at_promises(&mut self) -> Result<(), Violation> {
        if self.setup.collection.is_none() || self.bucket.changes.get() == self.seen {
            return Ok(());
        }
        self.seen = self.bucket.changes.get();
        let now = self.moment();
        self.retained.look(&self.bucket, &mut self.model, now)?;
        for repository in 0..REPOSITORIES {
            for manifest in 0..MANIFESTS {
                let register = Register::Manifest(repository, manifest);
                let may_be_dropped = self.setup.retention.is_some()
                    && repository == retention::REPOSITORY
                    && !self.retained.is_acknowledged(manifest);
                if self.model.is_kept(register)
                    && !may_be_dropped
                    && let Err(what) = inspect::image(&self.bucket, repository, manifest, |blob| {
                        !self.promises.may_be_deleted(Register::Blob(repository, blob))
                    })
                {
                    return violation(Wrong::ImageBroken, what);
                }
            }
        }
        for (repository, blob) in self.promises.kept(self.clock.seconds()) {
            if let Err(what) = inspect::blob(&self.bucket, repository, blob) {
                return violation(Wrong::BlobCollected, what);
            }
        }
        Ok(())
    }

    /// Runs collections until nothing is left to collect, while nothing goes wrong.
    pub(super) fn collect_all(&mut self) -> Result<(), Violation> {
        if self.setup.collection.is_none() {
            return Ok(());
        }
        for run in 1..=RUNS {
            self.clock.advance_to(self.clock.seconds() + LEAP);
            self.rest()?;
            self.cursors[0] = None;
            loop {
                match self.ask(Operation::new(Kind::Collect, 0))?.status() {
                    Some(200) if self.cursors[0].is_none() => break,
                    Some(200) => {}
                    status => return violation(Wrong::Unavailable, format!("a collection: {status:?}")),
                }
            }
            self.rest()?;
            if garbage(&self.bucket).is_empty() {
                self.coverage.count(coverage::CLEAN_AFTER[run - 1]);
                break;
            }
        }
        let garbage = garbage(&self.bucket);
        if !garbage.is_empty() {
            return violation(Wrong::Garbage, format!("after {RUNS} runs: {garbage:?}"));
        }
        let disagreements = disagreements(&self.bucket);
        if !disagreements.is_empty() {
            return violation(Wrong::ReverseLinkMissing, format!("{disagreements:?}"));
        }
        Ok(())
    }
}
