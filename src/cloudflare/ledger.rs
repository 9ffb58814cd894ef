//! What a repository's writer counts for a quota, in the SQLite database of its object. Its calls are synchronous: nothing
//! else happens between two of them, and together they are one transaction.

use std::rc::Rc;

use worker::{SqlStorageValue, State};

use crate::{oci::Digest, platform::Timestamp, repository::writer::ledger::Ledger};

/// The tables: what is counted, and one row of sums.
const TABLES: &str = "\
    CREATE TABLE IF NOT EXISTS counted (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, needed INTEGER NOT NULL) \
    WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS sums (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, late INTEGER NOT NULL); \
    INSERT OR IGNORE INTO sums VALUES (0, 0, 0)";

/// The ledger of an object.
pub struct DurableLedger(pub Rc<State>);

impl DurableLedger {
    /// Executes a statement. Returns the first value of its first row, if there is one.
    fn execute(
        &self,
        statement: &str,
        bindings: Vec<SqlStorageValue>,
    ) -> Result<Option<SqlStorageValue>, String> {
        let cursor = self.0.storage().sql().exec(statement, bindings).map_err(|error| error.to_string())?;
        let row = cursor.raw().next().transpose().map_err(|error| error.to_string())?;
        Ok(row.and_then(|row| row.into_iter().next()))
    }

    /// Executes a statement whose answer is a number.
    fn number(&self, statement: &str, bindings: Vec<SqlStorageValue>) -> Result<u64, String> {
        Ok(match self.execute(statement, bindings)? {
            Some(SqlStorageValue::Integer(number)) => u64::try_from(number).unwrap_or_default(),
            _ => 0,
        })
    }

    fn has_tables(&self) -> Result<bool, String> {
        Ok(self.number("SELECT count(*) FROM sqlite_master WHERE name = 'sums'", Vec::new())? > 0)
    }
}

/// Numbers up to 2^53 are exact.
fn number(number: u64) -> SqlStorageValue {
    SqlStorageValue::Integer(number.cast_signed())
}

fn json(value: &impl serde::Serialize) -> Result<SqlStorageValue, String> {
    serde_json::to_string(value).map(SqlStorageValue::String).map_err(|error| error.to_string())
}

impl Ledger for DurableLedger {
    fn keep(&self, digests: &[Digest], at: Timestamp) -> Result<Vec<Digest>, String> {
        self.execute(TABLES, Vec::new())?;
        let digests = json(&digests)?;
        self.execute(
            "UPDATE counted SET needed = ? WHERE digest IN (SELECT value FROM json_each(?)) AND needed < ?",
            vec![number(at.0), digests.clone(), number(at.0)],
        )?;
        let others = self.execute(
            "SELECT json_group_array(value) FROM json_each(?) AS named \
             WHERE NOT EXISTS (SELECT 1 FROM counted WHERE digest = named.value)",
            vec![digests],
        )?;
        let Some(SqlStorageValue::String(others)) = others else { return Ok(Vec::new()) };
        serde_json::from_str(&others).map_err(|error| error.to_string())
    }

    fn count(
        &self,
        sizes: &[(Digest, u64)],
        at: Timestamp,
        limit: Option<u64>,
    ) -> Result<Option<u64>, String> {
        self.execute(TABLES, Vec::new())?;
        const NEW: &str = "FROM json_each(?) AS named \
             WHERE NOT EXISTS (SELECT 1 FROM counted WHERE digest = json_extract(named.value, '$[0]'))";
        let sizes = json(&sizes)?;
        let new = self.number(&format!("SELECT count(*) {NEW}"), vec![sizes.clone()])?;
        let added = self.number(
            &format!("SELECT coalesce(sum(json_extract(named.value, '$[1]')), 0) {NEW}"),
            vec![sizes.clone()],
        )?;
        let bytes = self.number("SELECT bytes FROM sums", Vec::new())? + added;
        if new > 0 && limit.is_some_and(|limit| bytes > limit) {
            return Ok(Some(bytes));
        }
        self.execute("UPDATE sums SET bytes = ?", vec![number(bytes)])?;
        self.execute(
            "INSERT INTO counted \
             SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), ? FROM json_each(?) WHERE true \
             ON CONFLICT (digest) DO UPDATE SET needed = excluded.needed WHERE excluded.needed > needed",
            vec![number(at.0), sizes],
        )?;
        Ok(None)
    }

    fn finished_late(&self, at: Timestamp) -> Result<(), String> {
        if self.has_tables()? {
            self.execute("UPDATE sums SET late = max(late, ?)", vec![number(at.0)])?;
        }
        Ok(())
    }

    fn forget(&self, before: Timestamp) -> Result<(), String> {
        self.execute(TABLES, Vec::new())?;
        if self.number("SELECT late FROM sums", Vec::new())? < before.0 {
            self.execute("DELETE FROM counted WHERE needed < ?", vec![number(before.0)])?;
            self.execute("UPDATE sums SET bytes = (SELECT coalesce(sum(size), 0) FROM counted)", Vec::new())?;
        }
        Ok(())
    }
}
