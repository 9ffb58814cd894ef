//! The rows of a lane: `pending/<order>/<event id>` (an [`Entry`] and the event, each a line), `dead/<time>/<order>/<event
//! id>` (why and since when, and the event) and `state`.

use serde::{Deserialize, Serialize};

use super::{
    lane::{Entry, Key, Lane},
    protocol::DeadLetter,
};
use crate::platform::Timestamp;

pub(super) const PENDING: &str = "pending/";
pub(super) const DEAD: &str = "dead/";
pub(super) const STATE: &str = "state";

/// What is stored of a dead letter, besides the event.
#[derive(Serialize, Deserialize)]
pub(super) struct DeadEntry {
    pub taken: Timestamp,
    pub attempts: u32,
    pub reason: String,
}

pub(super) fn pending_key(key: &Key) -> String {
    format!("{PENDING}{:020}/{}", key.order, key.id)
}

pub(super) fn parse_pending_key(text: &str) -> Option<Key> {
    let (order, id) = text.strip_prefix(PENDING)?.split_once('/')?;
    Some(Key { order: order.parse().ok()?, id: id.parse().ok()? })
}

pub(super) fn pending_row(key: &Key, entry: &Entry, text: &str) -> (String, Option<String>) {
    let entry = serde_json::to_string(entry).unwrap_or_default();
    (pending_key(key), Some(format!("{entry}\n{text}")))
}

/// The row of a letter that dies now, counted.
pub(super) fn dead_row(
    lane: &mut Lane,
    key: &Key,
    entry: &DeadEntry,
    text: &str,
    now: Timestamp,
) -> Result<(String, Option<String>), String> {
    let row = format!("{}\n{text}", to_json(entry)?);
    lane.count_dead(1, 0, row.len() as u64, 0);
    // An event that was made again has its id, and another order.
    Ok((format!("{DEAD}{:020}/{:020}/{}", now.0, key.order, key.id), Some(row)))
}

pub(super) fn state_row(lane: &Lane) -> Result<(String, Option<String>), String> {
    Ok((STATE.to_owned(), Some(to_json(lane.state())?)))
}

/// The id of a dead letter, `<time>-<order>-<event id>`, from its key and back.
pub(super) fn dead_id(key: &str) -> Option<String> {
    let (time, rest) = key.strip_prefix(DEAD)?.split_once('/')?;
    let (order, id) = rest.split_once('/')?;
    let (time, order): (u64, u64) = (time.parse().ok()?, order.parse().ok()?);
    Some(format!("{time}-{order}-{id}"))
}

pub(super) fn dead_key(id: &str) -> Option<String> {
    let (time, rest) = id.split_once('-')?;
    let (order, id) = rest.split_once('-')?;
    let (time, order, id): (u64, u64, uuid::Uuid) =
        (time.parse().ok()?, order.parse().ok()?, id.parse().ok()?);
    Some(format!("{DEAD}{time:020}/{order:020}/{id}"))
}

pub(super) fn letter(key: &str, text: &str) -> Result<DeadLetter, String> {
    let broken = || format!("the row {key} is not valid");
    let (entry, event) = split(text).ok_or_else(broken)?;
    let DeadEntry { taken, attempts, reason } = parse(entry)?;
    let id = dead_id(key).ok_or_else(broken)?;
    let died = id.split_once('-').and_then(|(time, _)| time.parse().ok()).unwrap_or_default();
    Ok(DeadLetter { id, died: Timestamp(died), taken, attempts, reason, event: parse(event)? })
}

/// The two lines of a row: neither has a line break inside.
pub(super) fn split(row: &str) -> Option<(&str, &str)> {
    row.split_once('\n')
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
