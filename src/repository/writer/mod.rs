//! The writer of a repository: everything that changes its manifests, tags and referrers, or removes a link, goes
//! through the repository's one writer, a Durable Object.
//!
//! The writer brings changes into an order ([`order`]), checks each in its turn, writes an intent to its own storage
//! ([`journal`]) before the first write to the bucket, and removes it after the last. After a restart it finishes what
//! it finds there. The bucket stays the only truth: pulls, look-ups and uploads never call a writer, and no content
//! passes through one.
//!
//! The order does not fence the bucket: a write whose answer was lost may land later. So the keys of a change that has
//! lost an answer, or that a restart has interrupted, take no other value for [`order::SETTLE`] seconds; then the
//! change is made once more, which finds nothing to do unless something landed.
//!
//! The events of a change are part of its intent. They are sent after the writes that a client can see, before the
//! answer and before the intent goes; a change that is finished after a restart sends the same ids again.
//!
//! What the repository's manifests refer to is counted in the same storage ([`ledger`]), if there is a quota for it.
//!
//! `make` makes a change when it is its turn. [`Writer::carry_out`] sees every change in its turn: there, what may not
//! be done is refused, such as moving an immutable tag (`immutable`) or exceeding a quota (`quota`). A change that has begun is finished, whatever
//! the rules are by then.

mod immutable;
pub mod journal;
pub mod ledger;
mod make;
pub mod memory;
pub mod order;
pub mod protocol;
mod quota;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures_channel::oneshot;
use futures_util::future::{LocalBoxFuture, select};

use self::{
    journal::Journal,
    order::{Attempt, Order, Wait},
    protocol::{Call, Command, Entry, Intent, Quota, Refused, Reply, Seen, Stage},
};
use super::stored::Stored;
use crate::{
    events::{Events, Origin},
    oci::{Digest, Glob, RepositoryName},
    platform::{Background, Clock, Timestamp},
    storage::{StorageError, StorageErrorKind},
};

/// How long a command waits for its turn, in milliseconds: longer than keys rest after a lost answer.
const PATIENCE: u64 = 35_000;

/// Shortest wait for a change that others are to finish, in milliseconds.
const POLL: u64 = 100;

/// Work after the answer.
type Later = LocalBoxFuture<'static, ()>;

/// The writer of a repository.
pub struct Writer {
    repository: RepositoryName,
    journal: Rc<dyn Journal>,
    clock: Rc<dyn Clock>,
    /// `None` until the journal has been read.
    order: RefCell<Option<Order>>,
    waiting: RefCell<Vec<oneshot::Sender<()>>>,
}

/// What a call or an alarm makes changes with, counted and logged as its own.
pub struct Means {
    /// The repository as the bucket has it.
    pub stored: Stored,
    /// Tells of changes; `None` if events are off.
    pub events: Option<Events>,
}

/// The part of a command that its intent does not keep.
#[derive(Default)]
struct Hints {
    blobs: Vec<Digest>,
    stage: Option<Stage>,
    referrer: Option<String>,
    lacks_content: bool,
    immutable: Vec<Glob>,
    seen: Option<Seen>,
    unused_since: Option<Timestamp>,
    held: Option<Timestamp>,
    scanned: Option<Timestamp>,
    quota: Option<Quota>,
    missing: Vec<Digest>,
    children: Vec<Digest>,
}

impl Hints {
    fn of(command: Command) -> Self {
        match command {
            Command::Push { blobs, stage, referrer, immutable, held, quota, missing, children, .. } => {
                let stage = Some(stage);
                Self { blobs, stage, referrer, immutable, held, quota, missing, children, ..Self::default() }
            }
            Command::DeleteManifest { lacks_content, immutable, unused_since, .. } => {
                Self { lacks_content, immutable, unused_since, ..Self::default() }
            }
            Command::DeleteTag { immutable, seen, .. } => Self { immutable, seen, ..Self::default() },
            Command::Index { referrer, .. } => Self { referrer, ..Self::default() },
            Command::CollectBlobs { scanned, .. } => Self { scanned: Some(scanned), ..Self::default() },
            Command::DeleteBlob { .. }
            | Command::CollectSignatures { .. }
            | Command::Count { .. }
            | Command::Close { .. }
            | Command::Clear
            | Command::Reopen { .. } => Self::default(),
        }
    }
}

fn busy(error: StorageError) -> Refused {
    match error.kind {
        StorageErrorKind::Blocked => Refused::TakenDown,
        _ => Refused::Busy(error.to_string()),
    }
}

impl Writer {
    /// The writer of `repository`, with its storage.
    pub fn new(repository: RepositoryName, journal: Rc<dyn Journal>, clock: Rc<dyn Clock>) -> Rc<Self> {
        let (order, waiting) = (RefCell::default(), RefCell::default());
        Rc::new(Self { repository, journal, clock, order, waiting })
    }

    /// Carries out a command in its turn. The answer may come before the last write: what follows is for
    /// `background`, and until its end the change claims what it names.
    pub async fn carry_out(
        self: &Rc<Self>,
        means: &Means,
        background: &dyn Background,
        call: Call,
    ) -> Result<Reply, Refused> {
        self.load().await?;
        let Call { command, origin, removal } = call;
        if let Command::Count { named, scanned, is_whole } = &command {
            return self.take_count(named, *scanned, *is_whole);
        }
        let Some(intent) = command.intent() else { return Ok(Reply::Done) };
        let hints = Hints::of(command);
        let origin = origin.filter(|_| means.events.is_some());
        let needs = [hints.blobs.as_slice(), &hints.children].concat();
        let change = self.begin(means, &intent, &needs, origin.as_ref()).await?;
        let closed_by = self.with_order(|order, _| order.closed_by())?;
        let checked = match removal {
            Some(removal) if closed_by != Some(removal) => Ok(Reply::Absent),
            _ => self.check(&means.stored, change.number, &intent, &hints).await,
        };
        match checked {
            Ok(Reply::Done) => {}
            refused => {
                change.withdraw();
                return refused;
            }
        }
        if let Err(refused) = self.save(change.number).await {
            // It may be stored all the same.
            if self.journal.write(vec![(change.number, None)], None).await.is_ok() {
                change.withdraw();
            }
            return Err(refused);
        }
        if let Some(later) = self.make(means, change, Some(hints)).await? {
            background.spawn(later);
        }
        Ok(Reply::Done)
    }

    /// Goes on with changes that are due, and forgets what need not be remembered. The host calls it by its alarm.
    /// Returns the failure of a change, which the next alarm makes again.
    pub async fn settle(self: &Rc<Self>, means: &Means) -> Result<Result<(), Refused>, Refused> {
        self.load().await?;
        let mut settled = Ok(());
        while let Some(made) = self.resume(means).await {
            if made == Err(Refused::GoesOn) {
                // It has made the calls of an alarm.
                break;
            }
            settled = settled.and(made);
        }
        let (old, next) = self.with_order(|order, now| (order.old(now), order.next(now)))?;
        let rows = old.iter().map(|number| (*number, None)).collect();
        self.journal.write(rows, next).await.map_err(Refused::Busy)?;
        self.with_order(|order, _| order.forget(&old))?;
        Ok(settled)
    }

    async fn load(&self) -> Result<(), Refused> {
        if self.order.borrow().is_some() {
            return Ok(());
        }
        let records = self.journal.load().await.map_err(Refused::Busy)?;
        let now = self.clock.now();
        // Another command may have been faster.
        self.order.borrow_mut().get_or_insert_with(|| Order::load(records, now));
        Ok(())
    }

    fn with_order<T>(&self, with: impl FnOnce(&mut Order, Timestamp) -> T) -> Result<T, Refused> {
        let now = self.clock.now();
        let done = self.order.borrow_mut().as_mut().map(|order| with(order, now));
        done.ok_or_else(|| Refused::Busy("the writer has not read its journal".to_owned()))
    }

    /// Waits for the turn of a change.
    async fn begin(
        self: &Rc<Self>,
        means: &Means,
        intent: &Intent,
        needs: &[Digest],
        origin: Option<&Origin>,
    ) -> Result<Change, Refused> {
        let place = Place { writer: self.clone(), ticket: self.with_order(|order, _| order.ticket())? };
        let until = Timestamp(self.clock.now().0 + PATIENCE);
        let begin =
            |order: &mut Order, now| order.begin(place.ticket, &self.repository, intent, needs, origin, now);
        Ok(Change::running(self, self.wait(until, Some(means), begin).await?))
    }

    /// Tries something until it need not wait. With `settles`, changes that are due and in its way are made: not by a
    /// change that is being made itself.
    async fn wait<T>(
        self: &Rc<Self>,
        until: Timestamp,
        settles: Option<&Means>,
        mut attempt: impl FnMut(&mut Order, Timestamp) -> Result<T, Wait>,
    ) -> Result<T, Refused> {
        let busy = || Refused::Busy("another change of the repository is not finished yet".to_owned());
        loop {
            let wait = match self.with_order(&mut attempt)? {
                Ok(done) => return Ok(done),
                Err(wait) => wait,
            };
            let now = self.clock.now();
            match (wait, settles) {
                _ if now >= until => return Err(busy()),
                (Wait::Until(due), _) if due > until => return Err(busy()),
                (Wait::Until(due), Some(means)) if due <= now => {
                    // A failure leaves it open, for the next one who waits.
                    if self.resume(means).await == Some(Err(Refused::GoesOn)) {
                        // It has made the calls of a request.
                        return Err(Refused::GoesOn);
                    }
                }
                (Wait::Until(due), _) => {
                    self.clock.sleep(due.milliseconds_since(now).max(POLL)).await;
                }
                (Wait::ForOthers, _) => {
                    let (wake, woken) = oneshot::channel();
                    self.waiting.borrow_mut().push(wake);
                    select(woken, self.clock.sleep(until.milliseconds_since(now))).await;
                }
            }
        }
    }

    fn wake(&self) {
        for waiting in self.waiting.take() {
            // It may have given up.
            let _gone = waiting.send(());
        }
    }

    /// Makes the next change that is due; `None` if there is none.
    fn resume<'a>(self: &'a Rc<Self>, means: &'a Means) -> LocalBoxFuture<'a, Option<Result<(), Refused>>> {
        Box::pin(async move {
            let number = self.with_order(|order, now| order.resume(now)).ok()??;
            let change = Change::running(self, number);
            if !self.with_order(|order, _| order.is_stored(number)).ok()?
                && let Err(refused) = self.save(number).await
            {
                return Some(Err(refused));
            }
            let made = self.make(means, change, None).await;
            Some(match made {
                Ok(Some(later)) => {
                    later.await;
                    Ok(())
                }
                made => made.map(drop),
            })
        })
    }

    /// Checks a change in its turn: what the client has looked up before may have been removed since.
    async fn check(
        &self,
        stored: &Stored,
        number: u64,
        intent: &Intent,
        hints: &Hints,
    ) -> Result<Reply, Refused> {
        let Hints { blobs, lacks_content, immutable, seen, unused_since, .. } = hints;
        let closed_by = self.with_order(|order, _| order.closed_by())?;
        let is_there = match intent {
            Intent::Push { .. } if closed_by.is_some() => return Err(Refused::Removing),
            Intent::Index { .. } if closed_by.is_some() => Ok(false),
            Intent::Push { .. } => {
                let removed = self.with_order(|order, _| {
                    let is_removed =
                        |blob: &&Digest| order.has_removed(blob) && !hints.missing.contains(blob);
                    blobs.iter().filter(is_removed).cloned().collect::<Vec<_>>()
                })?;
                let mut missing = stored.missing(&removed).await.map_err(busy)?;
                let dropped = self.with_order(|order, _| {
                    hints.children.iter().filter(|child| order.has_dropped(child)).cloned().collect()
                })?;
                missing.extend(stored.missing_manifests(dropped).await.map_err(busy)?);
                if !missing.is_empty() {
                    return Err(Refused::BlobsMissing(missing));
                }
                Ok(true)
            }
            Intent::Index { entry: Entry { digest, .. }, .. } | Intent::DeleteManifest { digest, .. } => {
                stored.has_manifest(digest).await
            }
            Intent::DeleteTag { tag } => stored.has_tag(tag).await,
            Intent::DeleteBlob { digest } => stored.has_blob(digest).await,
            Intent::CollectBlobs { .. } | Intent::CollectSignatures { .. } => Ok(true),
            Intent::Close { removal } => Ok(closed_by != Some(*removal)),
            Intent::Clear => stored.has_leftovers().await,
            Intent::Reopen { removal } => Ok(closed_by == Some(*removal)),
        };
        let has_begun = self.with_order(|order, _| order.has_begun(number, intent))?;
        if !is_there.map_err(busy)? && !has_begun {
            return Ok(Reply::Absent);
        }
        let is_as_seen = match (intent, seen, unused_since) {
            (Intent::DeleteTag { tag }, Some(seen), _) => stored.is_still(tag, seen).await,
            (Intent::DeleteManifest { digest, subject, .. }, _, Some(since)) => {
                Box::pin(stored.is_unused_since(digest, subject.as_ref(), *since)).await
            }
            _ => Ok(true),
        };
        if !is_as_seen.map_err(busy)? {
            return Ok(Reply::Absent);
        }
        immutable::check(stored, intent, immutable).await?;
        // Last: what it allows is counted.
        if let (Intent::Push { entry, .. }, Some(quota)) = (intent, &hints.quota) {
            Box::pin(self.check_quota(stored, number, entry, hints, quota)).await?;
        }
        if let (true, Intent::DeleteManifest { digest, is_unused, cursor, tags, .. }) =
            (lacks_content, intent)
        {
            // It was pushed since.
            let (subject, may_be_signed) = stored.subject_of(digest).await.map_err(busy)?;
            let (digest, cursor, tags) = (digest.clone(), cursor.clone(), tags.clone());
            let is_unused = *is_unused;
            let intent = Intent::DeleteManifest { digest, subject, may_be_signed, is_unused, cursor, tags };
            self.with_order(|order, _| order.advance(number, intent))?;
        }
        Ok(Reply::Done)
    }

    /// Stores the record of a change.
    async fn save(&self, number: u64) -> Result<(), Refused> {
        let (record, next) = self.with_order(|order, now| (order.record(number), order.next(now)))?;
        self.journal.write(vec![(number, record)], next).await.map_err(Refused::Busy)?;
        self.with_order(|order, _| order.stored(number))
    }
}

/// A place in the line, given up when dropped.
struct Place {
    writer: Rc<Writer>,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Those behind may have waited for this one.
        if self.writer.with_order(|order, _| order.leave(self.ticket)).unwrap_or_default() {
            self.writer.wake();
        }
    }
}

/// A change that is being carried out. If its future is dropped, it stays open.
struct Change {
    writer: Rc<Writer>,
    number: u64,
    is_made: bool,
    /// Whether the answer to a write was lost.
    is_unsettled: Rc<Cell<bool>>,
    /// Whether it has ended because it was long enough.
    goes_on: bool,
    is_over: bool,
}

impl Change {
    fn running(writer: &Rc<Writer>, number: u64) -> Self {
        let (writer, is_unsettled) = (writer.clone(), Rc::default());
        Self { writer, number, is_made: false, is_unsettled, goes_on: false, is_over: false }
    }

    /// Forgets a change that has written nothing.
    fn withdraw(mut self) {
        self.is_over = true;
        if self.writer.with_order(|order, _| order.withdraw(self.number)).is_ok() {
            self.writer.wake();
        }
    }

    /// Ends an attempt: the journal first. If that fails, the change is made once more, before any that contradicts it.
    async fn end(mut self) {
        let (is_made, goes_on) = (self.is_made, self.goes_on);
        let attempt = Attempt { is_made, is_unsettled: self.is_unsettled.get(), goes_on };
        let Ok(()) = self.writer.with_order(|order, now| order.end(self.number, attempt, now)) else {
            return;
        };
        if self.writer.save(self.number).await.is_ok() {
            self.is_over = true;
            if self.writer.with_order(|order, _| order.release(self.number)).is_ok() {
                self.writer.wake();
            }
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.is_over && self.writer.with_order(|order, now| order.interrupt(self.number, now)).is_ok() {
            self.writer.wake();
        }
    }
}
