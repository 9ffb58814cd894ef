//! Dead letters: events that a lane has given up.

use serde_json::json;

use super::{
    endpoint::Endpoint,
    keeper::{Alarm, Keeper, PAGE, Rows, alarm},
    lane::{Key, Lane, Taken},
    protocol::Reply,
    rows::{DEAD, dead_key, parse, pending_row, split, state_row},
};
use crate::{events::Event, platform::Timestamp};

/// The most dead letters that one command moves.
pub const MOVES: usize = 1000;

/// The most dead letters. The oldest are dropped to make room.
pub const MAX_DEAD: u64 = 100_000;

/// The most bytes of dead letters.
pub const MAX_DEAD_BYTES: u64 = 256 * 1024 * 1024;

impl Keeper {
    /// Dead letters: one, or the oldest.
    pub(super) async fn dead(&self, id: Option<&str>, limit: usize) -> Result<Vec<(String, String)>, String> {
        let Some(id) = id else { return self.storage.list(DEAD, None, limit).await };
        let Some(key) = dead_key(id) else { return Ok(Vec::new()) };
        let texts = self.storage.get(std::slice::from_ref(&key)).await?;
        Ok(texts.into_iter().flatten().map(|text| (key.clone(), text)).collect())
    }

    /// Removes dead letters; with an endpoint, they wait again.
    pub(super) async fn remove_dead(
        &self,
        id: Option<&str>,
        replay: Option<Option<&Endpoint>>,
    ) -> Result<Reply, String> {
        let _held = self.removals.lock().await;
        let mut moved = 0;
        loop {
            let rows = self.dead(id, PAGE.min(MOVES - moved)).await?;
            let now = self.clock.now();
            let found = rows.len();
            let (rows, alarm, count, left, is_full) = self.with(|lane| {
                let mut changes = Vec::new();
                let (mut count, mut is_full) = (0, false);
                for (key, text) in &rows {
                    if replay.is_some() && !take_again(lane, text, now, &mut changes)? {
                        is_full = true;
                        break;
                    }
                    changes.push((key.clone(), None));
                    lane.count_dead(0, 1, 0, text.len() as u64);
                    count += 1;
                }
                changes.push(state_row(lane)?);
                let alarm = replay.and_then(|endpoint| alarm(lane, endpoint, now));
                Ok((changes, alarm, count, lane.state().dead, is_full))
            })?;
            if count > 0 {
                self.write(rows, alarm.map_or(Alarm::Keep, Alarm::At)).await?;
            }
            moved += count;
            if id.is_some() || count == 0 || count < found || moved >= MOVES {
                return Ok(Reply::Moved { moved: moved as u64, left, is_full });
            }
        }
    }

    /// Drops the oldest dead letters while there are too many.
    pub(super) async fn make_room(&self, name: &str) -> Result<(), String> {
        let is_over =
            |lane: &mut Lane| Ok(lane.state().dead > MAX_DEAD || lane.state().dead_bytes > MAX_DEAD_BYTES);
        if !self.with(is_over)? {
            return Ok(());
        }
        let _held = self.removals.lock().await;
        while self.with(is_over)? {
            let rows = self.dead(None, PAGE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let (changes, dropped) = self.with(|lane| {
                let mut changes = Vec::new();
                for (key, text) in &rows {
                    if !is_over(lane)? {
                        break;
                    }
                    lane.count_dead(0, 1, 0, text.len() as u64);
                    changes.push((key.clone(), None));
                }
                let dropped = changes.len();
                lane.count_dropped(dropped as u64);
                changes.push(state_row(lane)?);
                Ok((changes, dropped))
            })?;
            self.write(changes, Alarm::Keep).await?;
            let message = "the oldest dead letters are dropped: there are too many";
            self.log("error", name, json!({"dropped": dropped, "message": message}));
        }
        Ok(())
    }
}

/// Takes the event of a dead letter; false if there is no room.
fn take_again(lane: &mut Lane, row: &str, now: Timestamp, rows: &mut Rows) -> Result<bool, String> {
    let (_, text) = split(row).ok_or("a dead letter is not valid")?;
    let event: Event = parse(text)?;
    let key = Key { order: event.order(), id: event.id };
    match lane.take(key, event.target.repository, text.len(), now) {
        Taken::Full => return Ok(false),
        Taken::Known => {}
        Taken::New => rows.extend(lane.entry(&key).map(|entry| pending_row(&key, entry, text))),
    }
    Ok(true)
}
