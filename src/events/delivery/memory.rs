//! In-memory lanes for native tests, on the same code as in production.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use futures_util::future::{LocalBoxFuture, ready};

use super::{
    endpoint::Endpoint,
    keeper::{Alarm, Keeper, Rows, Storage},
    protocol::{Command, Lanes, Reply},
};
use crate::platform::{Clock, Sink, Timestamp, WebhookClient};

/// The storage of a lane, in memory. It outlives the keeper.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    /// The rows.
    pub rows: RefCell<BTreeMap<String, String>>,
    /// When the alarm runs.
    pub alarm: Cell<Option<Timestamp>>,
    /// Further writes that succeed; `None` if all do.
    pub writes_left: Cell<Option<usize>>,
    /// The number of writes.
    pub writes: Cell<usize>,
}

impl Storage for MemoryStorage {
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<(String, String)>, String>> {
        let rows = self.rows.borrow();
        let start = after.map_or_else(|| prefix.to_owned(), |after| format!("{after}\0"));
        let found = rows.range(start..).take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Box::pin(ready(Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())))
    }

    fn get<'a>(&'a self, keys: &'a [String]) -> LocalBoxFuture<'a, Result<Vec<Option<String>>, String>> {
        let rows = self.rows.borrow();
        Box::pin(ready(Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())))
    }

    fn write(&self, rows: Rows, alarm: Alarm) -> LocalBoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match self.writes_left.get() {
                Some(0) => return Err("asked to fail".to_owned()),
                left => self.writes_left.set(left.map(|left| left - 1)),
            }
            self.writes.set(self.writes.get() + 1);
            let mut all = self.rows.borrow_mut();
            for (key, value) in rows {
                match value {
                    Some(value) => all.insert(key, value),
                    None => all.remove(&key),
                };
            }
            match alarm {
                Alarm::Keep => {}
                Alarm::At(time) => self.alarm.set(Some(time)),
                Alarm::Off => self.alarm.set(None),
            }
            Ok(())
        })
    }
}

/// The lanes of all endpoints. Nothing is delivered but by [`MemoryLanes::run_alarms`].
pub struct MemoryLanes {
    client: Rc<dyn WebhookClient>,
    clock: Rc<dyn Clock>,
    sink: Rc<dyn Sink>,
    /// The endpoints of the configuration.
    pub endpoints: RefCell<Vec<Endpoint>>,
    storages: RefCell<HashMap<String, Rc<MemoryStorage>>>,
    keepers: RefCell<HashMap<String, Rc<Keeper>>>,
    /// The next calls fail, and have no effect.
    pub is_down: Cell<bool>,
}

impl MemoryLanes {
    /// Lanes without endpoints.
    pub fn new(client: Rc<dyn WebhookClient>, clock: Rc<dyn Clock>, sink: Rc<dyn Sink>) -> Self {
        let (endpoints, storages, keepers, is_down) = Default::default();
        Self { client, clock, sink, endpoints, storages, keepers, is_down }
    }

    /// Restarts every lane: what it had in memory is gone.
    pub fn restart(&self) {
        self.keepers.borrow_mut().clear();
    }

    /// The storage of a lane.
    pub fn storage(&self, name: &str) -> Rc<MemoryStorage> {
        self.storages.borrow_mut().entry(name.to_owned()).or_default().clone()
    }

    /// When the next alarm runs.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.storages.borrow().values().filter_map(|storage| storage.alarm.get()).min()
    }

    /// Runs the alarms that are due. Returns how many.
    pub async fn run_alarms(&self) -> Result<usize, String> {
        let mut due = self.due();
        due.sort_unstable();
        for name in &due {
            self.storage(name).alarm.set(None);
            let (keeper, endpoint) = (self.keeper(name), self.endpoint(name));
            let name = keeper.name().await?;
            keeper.deliver(&name, endpoint.as_ref()).await?;
        }
        Ok(due.len())
    }

    fn due(&self) -> Vec<String> {
        let now = self.clock.now();
        let is_due = |storage: &MemoryStorage| storage.alarm.get().is_some_and(|alarm| alarm <= now);
        let storages = self.storages.borrow();
        storages.iter().filter(|(_, storage)| is_due(storage)).map(|(name, _)| name.clone()).collect()
    }

    fn endpoint(&self, name: &str) -> Option<Endpoint> {
        self.endpoints.borrow().iter().find(|endpoint| endpoint.name == name).cloned()
    }

    fn keeper(&self, name: &str) -> Rc<Keeper> {
        let storage = self.storage(name);
        let new =
            || Rc::new(Keeper::new(storage, self.client.clone(), self.clock.clone(), self.sink.clone()));
        self.keepers.borrow_mut().entry(name.to_owned()).or_insert_with(new).clone()
    }
}

impl Lanes for MemoryLanes {
    fn call<'a>(&'a self, endpoint: &'a str, command: Command) -> LocalBoxFuture<'a, Result<Reply, String>> {
        Box::pin(async move {
            if self.is_down.get() {
                return Err("asked to fail".to_owned());
            }
            let (keeper, settings) = (self.keeper(endpoint), self.endpoint(endpoint));
            keeper.carry_out(endpoint, settings.as_ref(), command).await
        })
    }
}
