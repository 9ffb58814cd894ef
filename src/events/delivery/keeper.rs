//! The keeper of a lane: stores what [`Lane`] decides, and delivers.
//!
//! Its rows are described in `rows`, dead letters in [`dead`](super::dead). Every change of the lane is made in memory first, and written in the
//! order of changes, as one transaction: commands are answered while a delivery is under way.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures_util::{future::LocalBoxFuture, lock::Mutex};
use serde_json::{Value, json};

use super::{
    endpoint::Endpoint,
    lane::{BATCH, Entry, Fate, Key, Lane, Next, State, Taken},
    protocol::{Command, Reply, Status},
    rows::{
        DEAD, DeadEntry, PENDING, STATE, dead_key, dead_row, letter, parse, parse_pending_key, pending_key,
        pending_row, split, state_row, to_json,
    },
    webhook::{self, Attempt},
};
use crate::{
    events::Event,
    platform::{Clock, Sink, Timestamp, WebhookClient},
};

/// The most dead letters in an answer, and rows in one listing.
pub const PAGE: usize = 100;

/// Time after which a delivery takes a break, in milliseconds. A request under way is finished.
const SHIFT: u64 = 20_000;

/// Requests after which a delivery takes a break: an invocation may make 50 on Cloudflare's free plan, and the last
/// attempt may take 4.
const MAX_REQUESTS: usize = 46;

/// The age from which events are given up if there is no such endpoint, in milliseconds. Not at once: during a
/// deployment, the lane may run with older settings than those that have sent the events.
const GONE: u64 = 60 * 60 * 1000;

/// Time until a lane looks again whether its endpoint is there and enabled, in milliseconds.
const LOOK: u64 = 10 * 60 * 1000;

/// Rows to write: a key and its value, or `None` to delete.
pub type Rows = Vec<(String, Option<String>)>;

/// What happens to the alarm of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// It stays.
    Keep,
    /// It runs at this time, and not at the one before.
    At(Timestamp),
    /// There is none.
    Off,
}

/// The storage of a lane. Writes take effect in the order in which they are first polled.
pub trait Storage {
    /// Up to `limit` rows whose keys begin with `prefix` and come after `after`, in byte order.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<(String, String)>, String>>;

    /// The values of up to 128 keys, in their order.
    fn get<'a>(&'a self, keys: &'a [String]) -> LocalBoxFuture<'a, Result<Vec<Option<String>>, String>>;

    /// Writes rows and sets the alarm in one transaction.
    fn write(&self, rows: Rows, alarm: Alarm) -> LocalBoxFuture<'_, Result<(), String>>;
}

/// The keeper of one lane.
pub struct Keeper {
    pub(super) storage: Rc<dyn Storage>,
    client: Rc<dyn WebhookClient>,
    pub(super) clock: Rc<dyn Clock>,
    sink: Rc<dyn Sink>,
    /// `None` before it is loaded, and after a failed write: storage may lack what memory has.
    lane: RefCell<Option<Lane>>,
    /// Counts how often `lane` was put away.
    losses: Cell<u64>,
    /// Held while dead letters are removed.
    pub(super) removals: Mutex<()>,
    /// Held by a delivery.
    deliveries: Mutex<()>,
}

impl Keeper {
    /// A keeper over a lane's storage.
    pub fn new(
        storage: Rc<dyn Storage>,
        client: Rc<dyn WebhookClient>,
        clock: Rc<dyn Clock>,
        sink: Rc<dyn Sink>,
    ) -> Self {
        let (lane, losses, removals, deliveries) = Default::default();
        Self { storage, client, clock, sink, lane, losses, removals, deliveries }
    }

    /// The name of the endpoint, as it was stored with the first events; empty before.
    pub async fn name(&self) -> Result<String, String> {
        self.load().await?;
        self.with(|lane| Ok(lane.state().name.clone()))
    }

    /// Carries out a command. `endpoint` is `None` if the configuration does not have it.
    pub async fn carry_out(
        &self,
        name: &str,
        endpoint: Option<&Endpoint>,
        command: Command,
    ) -> Result<Reply, String> {
        self.load().await?;
        match command {
            Command::Take { events } => self.take(name, endpoint, events).await,
            Command::Status => self.with(|lane| Ok(Reply::Status(status(lane, endpoint, self.clock.now())))),
            Command::Dead { after, limit } => {
                let limit = limit.min(PAGE);
                let after = after.as_deref().and_then(dead_key);
                let mut rows = self.storage.list(DEAD, after.as_deref(), limit + 1).await?;
                let has_more = rows.len() > limit;
                rows.truncate(limit);
                let letters = rows.iter().map(|(key, text)| letter(key, text)).collect::<Result<_, _>>()?;
                Ok(Reply::Letters { letters, has_more })
            }
            Command::ReadDead { id } => {
                let rows = self.dead(Some(&id), 1).await?;
                let letters = rows.iter().map(|(key, text)| letter(key, text)).collect::<Result<_, _>>()?;
                Ok(Reply::Letters { letters, has_more: false })
            }
            Command::Replay { id } => self.remove_dead(id.as_deref(), Some(endpoint)).await,
            Command::Drop { id } => self.remove_dead(id.as_deref(), None).await,
        }
    }

    /// Delivers what is due, and sets the alarm for the rest. The alarm runs this. Returns `false`, and does nothing, while
    /// another delivery is under way.
    pub async fn deliver(&self, name: &str, endpoint: Option<&Endpoint>) -> Result<bool, String> {
        let Some(_held) = self.deliveries.try_lock() else { return Ok(false) };
        self.load().await?;
        let begun = self.clock.now();
        let mut requests = 0;
        loop {
            self.give_up(name, endpoint).await?;
            let now = self.clock.now();
            let is_over = now.milliseconds_since(begun) >= SHIFT || requests >= MAX_REQUESTS;
            let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.disabled && !is_over) else { break };
            let Next::Send(keys) = self.with(|lane| Ok(lane.next(now, endpoint.form)))? else { break };
            requests += self.attempt(name, endpoint, &keys).await?;
        }
        let alarm = self.with(|lane| Ok(alarm(lane, endpoint, self.clock.now())))?;
        self.write(Vec::new(), alarm.map_or(Alarm::Off, Alarm::At)).await?;
        self.make_room(name).await?;
        Ok(true)
    }

    async fn take(
        &self,
        name: &str,
        endpoint: Option<&Endpoint>,
        events: Vec<Event>,
    ) -> Result<Reply, String> {
        let now = self.clock.now();
        let mut texts = Vec::new();
        for event in events {
            let text = to_json(&event)?;
            texts.push((Key { order: event.order(), id: event.id }, event.target.repository, text));
        }
        let (rows, alarm, dead) = self.with(|lane| {
            lane.set_name(name);
            let mut rows = Vec::new();
            let mut dead = 0;
            for (key, repository, text) in texts {
                match lane.take(key, repository.clone(), text.len(), now) {
                    Taken::Known => {}
                    Taken::New => rows.extend(lane.entry(&key).map(|entry| pending_row(&key, entry, &text))),
                    Taken::Full => {
                        let entry =
                            DeadEntry { taken: now, attempts: 0, reason: "the lane is full".to_owned() };
                        rows.push(dead_row(lane, &key, &entry, &text, now)?);
                        dead += 1;
                    }
                }
            }
            rows.push(state_row(lane)?);
            Ok((rows, alarm(lane, endpoint, now), dead))
        })?;
        self.write(rows, alarm.map_or(Alarm::Off, Alarm::At)).await?;
        if dead > 0 {
            self.log("error", name, json!({"dead": dead, "message": "events are dead: the lane is full"}));
            self.make_room(name).await?;
        }
        Ok(Reply::Taken)
    }

    /// One attempt; returns its requests.
    async fn attempt(&self, name: &str, endpoint: &Endpoint, keys: &[Key]) -> Result<usize, String> {
        let texts = self.texts(keys).await?;
        let attempts =
            self.with(|lane| Ok(keys.first().and_then(|key| lane.entry(key)).map(|e| e.attempts)))?;
        let events: Vec<&str> = texts.iter().map(String::as_str).collect();
        let number = attempts.unwrap_or_default().saturating_add(1);
        let Attempt { outcome, requests } =
            webhook::send(&*self.client, &*self.clock, endpoint, &events, number).await;
        let now = self.clock.now();
        let random = random()?;
        let (rows, changed) = self.with(|lane| {
            let before = lane.state().clone();
            let fates = lane.finish(keys, &outcome, now, &endpoint.retries, random);
            let mut rows = Vec::new();
            for (key, fate) in fates {
                let text = keys.iter().zip(&texts).find(|(other, _)| **other == key).map(|(_, text)| text);
                let text = text.map_or("", String::as_str);
                match fate {
                    Fate::Delivered => rows.push((pending_key(&key), None)),
                    Fate::Waits(entry) => rows.push(pending_row(&key, &entry, text)),
                    Fate::Dead(Entry { taken, attempts, .. }) => {
                        let reason = lane.state().last_error.clone().unwrap_or_default();
                        rows.push((pending_key(&key), None));
                        rows.push(dead_row(lane, &key, &DeadEntry { taken, attempts, reason }, text, now)?);
                    }
                }
            }
            rows.push(state_row(lane)?);
            Ok((rows, (before, lane.state().clone())))
        })?;
        self.write(rows, Alarm::Keep).await?;
        let (before, after) = changed;
        match (before.down_since, after.down_since) {
            (None, Some(_)) => {
                self.log(
                    "error",
                    name,
                    json!({"message": "the endpoint is down", "error": after.last_error}),
                );
            }
            (Some(since), None) => {
                let seconds = now.milliseconds_since(since) / 1000;
                self.log("info", name, json!({"message": "the endpoint is back", "down_seconds": seconds}));
            }
            _ => {}
        }
        if after.dead > before.dead {
            let message = "an event is dead: the endpoint has refused it";
            self.log("error", name, json!({"dead": 1, "message": message, "error": after.last_error}));
        }
        Ok(requests)
    }

    /// Gives up events that are too old.
    async fn give_up(&self, name: &str, endpoint: Option<&Endpoint>) -> Result<(), String> {
        let now = self.clock.now();
        let Some(taken) = now.0.checked_sub(last_age(endpoint)).map(Timestamp) else { return Ok(()) };
        loop {
            let keys = self.with(|lane| Ok(lane.overdue(taken, BATCH)))?;
            if keys.is_empty() {
                return Ok(());
            }
            let texts = self.texts(&keys).await?;
            let (rows, count) = self.with(|lane| {
                let mut rows = Vec::new();
                let reason = match (endpoint, &lane.state().last_error) {
                    (None, _) => "the endpoint is not configured any more".to_owned(),
                    (Some(_), Some(error)) => format!("not delivered in time; the last failure: {error}"),
                    (Some(_), None) => "not delivered in time".to_owned(),
                };
                let gone = lane.give_up(&keys);
                let count = gone.len();
                for (key, Entry { taken, attempts, .. }) in gone {
                    let text =
                        keys.iter().zip(&texts).find(|(other, _)| **other == key).map(|(_, text)| text);
                    let text = text.map_or("", String::as_str);
                    let entry = DeadEntry { taken, attempts, reason: reason.clone() };
                    rows.push((pending_key(&key), None));
                    rows.push(dead_row(lane, &key, &entry, text, now)?);
                }
                rows.push(state_row(lane)?);
                Ok((rows, count))
            })?;
            self.write(rows, Alarm::Keep).await?;
            self.log(
                "error",
                name,
                json!({"dead": count, "message": "events are dead: not delivered in time"}),
            );
        }
    }

    /// The events of keys that wait.
    async fn texts(&self, keys: &[Key]) -> Result<Vec<String>, String> {
        let names: Vec<String> = keys.iter().map(pending_key).collect();
        let rows = self.storage.get(&names).await?;
        let texts: Option<Vec<String>> =
            rows.into_iter().map(|row| Some(split(&row?)?.1.to_owned())).collect();
        texts.filter(|texts| texts.len() == keys.len()).ok_or_else(|| {
            self.put_away();
            "storage lacks an event that waits".to_owned()
        })
    }

    /// Reads what the lane has to remember, a page at a time: never all events at once.
    async fn load(&self) -> Result<(), String> {
        while self.lane.borrow().is_none() {
            let losses = self.losses.get();
            let state = self.storage.get(&[STATE.to_owned()]).await?.into_iter().next().flatten();
            let state: State = state.map_or(Ok(State::default()), |text| parse(&text))?;
            let mut lane = Lane::new(state);
            let mut after: Option<String> = None;
            loop {
                let rows = self.storage.list(PENDING, after.as_deref(), PAGE).await?;
                for (key, text) in &rows {
                    let entry = split(text).and_then(|(entry, _)| serde_json::from_str(entry).ok());
                    let (Some(key), Some(entry)) = (parse_pending_key(key), entry) else {
                        return Err(format!("the row {key} is not valid"));
                    };
                    lane.restore(key, entry);
                }
                if rows.len() < PAGE {
                    break;
                }
                after = rows.into_iter().next_back().map(|(key, _)| key);
            }
            // Somebody else may have loaded it meanwhile, and changed it.
            if self.lane.borrow().is_none() && self.losses.get() == losses {
                *self.lane.borrow_mut() = Some(lane);
            }
        }
        Ok(())
    }

    pub(super) fn with<T>(&self, use_lane: impl FnOnce(&mut Lane) -> Result<T, String>) -> Result<T, String> {
        let mut lane = self.lane.borrow_mut();
        use_lane(lane.as_mut().ok_or("the lane was put away: try again")?)
    }

    pub(super) async fn write(&self, rows: Rows, alarm: Alarm) -> Result<(), String> {
        let written = self.storage.write(rows, alarm).await;
        if written.is_err() {
            self.put_away();
        }
        written
    }

    fn put_away(&self) {
        *self.lane.borrow_mut() = None;
        self.losses.set(self.losses.get() + 1);
    }

    pub(super) fn log(&self, level: &str, name: &str, mut line: Value) {
        if let Value::Object(fields) = &mut line {
            fields.insert("level".to_owned(), level.into());
            fields.insert("endpoint".to_owned(), name.into());
        }
        self.sink.line(line);
    }
}

/// The age from which events are given up, in milliseconds.
fn last_age(endpoint: Option<&Endpoint>) -> u64 {
    endpoint.map_or(GONE, |endpoint| endpoint.retries.give_up)
}

/// When the lane has something to do; `None` if it waits for nothing.
pub(super) fn alarm(lane: &Lane, endpoint: Option<&Endpoint>, now: Timestamp) -> Option<Timestamp> {
    if lane.pending().0 == 0 {
        return None;
    }
    let gives_up = lane.gives_up(last_age(endpoint));
    let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.disabled) else {
        return gives_up.map(|gives_up| gives_up.min(Timestamp(now.0 + LOOK)));
    };
    let next = match lane.next(now, endpoint.form) {
        Next::Send(_) => now,
        Next::Wait(until) => until,
        Next::Idle => return None,
    };
    Some(gives_up.map_or(next, |gives_up| gives_up.min(next)))
}

fn status(lane: &Lane, endpoint: Option<&Endpoint>, now: Timestamp) -> Status {
    let (pending, pending_bytes) = lane.pending();
    let State { delivered, failed, dead, dropped, down_since, last_error, .. } = lane.state().clone();
    let next_attempt =
        endpoint.filter(|endpoint| !endpoint.disabled).and_then(|endpoint| alarm(lane, Some(endpoint), now));
    let (pending, pending_bytes) = (pending as u64, pending_bytes as u64);
    Status { pending, pending_bytes, delivered, failed, dead, dropped, down_since, last_error, next_attempt }
}

fn random() -> Result<u64, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(u64::from_le_bytes(bytes))
}
