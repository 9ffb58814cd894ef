//! The storage of a writer: its open intents.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use futures_util::future::{LocalBoxFuture, ready};

use super::{
    ledger::{Ledger, MemoryLedger},
    protocol::Record,
};
use crate::platform::Timestamp;

/// The changes of a journal's records, by number; `None` removes one.
pub type Rows = Vec<(u64, Option<Record>)>;

/// The storage of a writer. It outlives the writer.
pub trait Journal {
    /// Every record, with its number.
    fn load(&self) -> LocalBoxFuture<'_, Result<Vec<(u64, Record)>, String>>;

    /// Writes and removes records, and sets the alarm, in one transaction. An alarm that is due earlier stays; one
    /// that finds nothing to do does no harm.
    fn write(&self, rows: Rows, alarm: Option<Timestamp>) -> LocalBoxFuture<'_, Result<(), String>>;

    /// What is counted for a quota.
    fn ledger(&self) -> &dyn Ledger;
}

/// A journal in memory.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    records: RefCell<BTreeMap<u64, Record>>,
    /// When the alarm runs.
    pub alarm: Cell<Option<Timestamp>>,
    /// What is counted for a quota.
    pub ledger: MemoryLedger,
}

impl MemoryJournal {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.borrow().len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.borrow().is_empty()
    }
}

impl Journal for MemoryJournal {
    fn load(&self) -> LocalBoxFuture<'_, Result<Vec<(u64, Record)>, String>> {
        let records =
            self.records.borrow().iter().map(|(number, record)| (*number, record.clone())).collect();
        Box::pin(ready(Ok(records)))
    }

    fn write(&self, rows: Rows, alarm: Option<Timestamp>) -> LocalBoxFuture<'_, Result<(), String>> {
        let mut records = self.records.borrow_mut();
        for (number, record) in rows {
            match record {
                Some(record) => records.insert(number, record),
                None => records.remove(&number),
            };
        }
        if let Some(alarm) = alarm {
            self.alarm.set(Some(self.alarm.get().map_or(alarm, |earlier| earlier.min(alarm))));
        }
        Box::pin(ready(Ok(())))
    }

    fn ledger(&self) -> &dyn Ledger {
        &self.ledger
    }
}
