//! The outbox: events in the bucket, from the answer to a client until each endpoint's object has them.

use bytes::Bytes;

use super::Event;
use crate::{
    layout::Key,
    platform::{Body, Timestamp},
    storage::{Page, Path, PutOptions, StorageError, Store},
};

/// The size limit of an entry, in bytes. The events of a message take less than half of it.
const MAX_ENTRY: usize = 256 * 1024;

/// The outbox of the registry.
#[derive(Clone)]
pub struct Outbox {
    /// The bucket.
    pub store: Store,
}

/// The name of events in the outbox: by their time, which the names are sorted by.
pub(super) fn name(events: &[Event]) -> Option<String> {
    events.first().map(|first| format!("{:013}-{}", first.timestamp.0, first.id))
}

impl Outbox {
    /// Keeps events, as JSON in `content`. Returns their name, the same whenever the same events are kept.
    pub async fn keep(&self, events: &[Event], content: String) -> Result<String, StorageError> {
        let name = name(events).unwrap_or_default();
        let path = Key::OutboxEntry(&name).path();
        self.store.put(&path, Body::Bytes(content.into()), PutOptions::default()).await?;
        Ok(name)
    }

    /// The events of this name, as JSON; `None` if they are delivered.
    pub async fn read(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        let read = self.store.read(&Key::OutboxEntry(name).path(), MAX_ENTRY).await?;
        Ok(read.map(|(content, _)| content))
    }

    /// Removes events that need not be kept any more.
    pub async fn remove(&self, names: &[String]) -> Result<(), StorageError> {
        let paths: Vec<Path> = names.iter().map(|name| Key::OutboxEntry(name).path()).collect();
        self.store.delete(&paths).await
    }

    /// A page of names of events from before a time, oldest first.
    pub async fn names(
        &self,
        before: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Names, StorageError> {
        let folder = Key::Outbox.path().folder();
        let page = Page { after, limit, folders: false };
        let listing = self.store.list(&folder, page).await?;
        let is_young = |name: &str| {
            let time = name.split('-').next().and_then(|time| time.parse::<u64>().ok());
            time.is_some_and(|time| time >= before.0)
        };
        let listed: Vec<&str> =
            listing.objects.iter().filter_map(|(path, _)| path.strip_prefix(&folder)).collect();
        let names: Vec<String> =
            listed.iter().take_while(|name| !is_young(name)).map(|&name| name.to_owned()).collect();
        // The rest is younger.
        let next = listing.next.filter(|_| names.len() == listed.len());
        Ok(Names { names, next })
    }
}

/// A page of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The names. There may be fewer than asked for, or none, although there are more.
    pub names: Vec<String>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}
