//! How a change is made, once it is its turn: its writes, in the order that readers and a crash require, and its events.

use std::rc::Rc;

use super::{
    Change, Hints, Later, Means, Writer, busy,
    order::{Order, SETTLE},
    protocol::{Cursor, Entry, Intent, Refused, Stage},
};
use crate::{
    events::{self, Action, Bridge, Content, Event, Events},
    oci::{Digest, Tag},
    platform::Timestamp,
    repository::{references_of, stored::Stored},
    storage::{StorageError, both},
};

/// How long the deletion of a manifest waits for its tags, in milliseconds. Otherwise it goes on later.
const PATIENCE_FOR_TAGS: u64 = 10_000;

/// Limit of the tags that one step of the deletion of a manifest deletes.
const TAGS: usize = 100;

/// The storage calls after which the deletion of a manifest goes on in an alarm. A step takes up to 400 more, and one request
/// or alarm shall stay below 1,000.
const CALLS: usize = 550;

impl Writer {
    /// Makes a change: for a command with its hints, or else to finish it. Returns what is left to do after the answer.
    pub(super) async fn make(
        self: &Rc<Self>,
        Means { stored, events }: &Means,
        mut change: Change,
        hints: Option<Hints>,
    ) -> Result<Option<Later>, Refused> {
        let events = events.as_ref();
        let stored = stored.patient().noting(change.is_unsettled.clone());
        let record = self.with_order(|order, _| order.record(change.number))?;
        let is_resumed = hints.is_none();
        let hints = hints.unwrap_or_default();
        let made = match record.map(|record| record.intent) {
            Some(Intent::Push { entry, tags }) => {
                let made = Box::pin(self.push(&stored, events, change.number, &entry, &tags, hints)).await;
                if made.is_ok() && !tags.is_empty() {
                    self.with_order(|order, _| order.told(change.number))?;
                    // Only the deletion of the manifest needs this, and waits for its turn.
                    return Ok(Some(Box::pin(async move {
                        change.is_made = stored.index_tags(&entry.digest, &tags).await.is_ok();
                        change.end().await;
                    })));
                }
                made
            }
            Some(Intent::Index { entry, tags }) => self.index(&stored, &entry, &tags, hints).await,
            Some(Intent::DeleteManifest { .. }) => {
                Box::pin(self.delete_manifest(&stored, events, change.number)).await
            }
            Some(Intent::DeleteTag { tag }) => match stored.remove_tags(std::slice::from_ref(&tag)).await {
                Ok(()) => self.tell(events, change.number, |bridge| vec![bridge.tag_deleted(&tag)]).await,
                Err(error) => Err(busy(error)),
            },
            Some(Intent::DeleteBlob { digest }) => {
                let made = self.delete_blob(&stored, change.number, &digest, is_resumed).await;
                let made = match made {
                    Ok(()) => self.tell(events, change.number, |bridge| vec![bridge.deleted(&digest)]).await,
                    failed => failed,
                };
                if made.is_ok() && change.is_unsettled.get() {
                    // Uploads do not wait for their turn. What they write must not be lost after the answer.
                    self.clock.sleep(SETTLE * 1000).await;
                    change.is_unsettled.set(false);
                }
                made
            }
            Some(Intent::CollectBlobs { digests }) => match hints.scanned {
                Some(scanned) => Box::pin(stored.sweep_blobs(&digests, scanned)).await.map_err(busy),
                // What was not removed, the next collection removes.
                None => Box::pin(stored.condemn_unlinked(&digests)).await.map_err(busy),
            },
            Some(Intent::CollectSignatures { manifest, signatures }) => {
                Box::pin(stored.unlink_unused(&manifest, &signatures)).await.map_err(busy)
            }
            Some(Intent::Clear) => Box::pin(stored.clear()).await.map_err(busy),
            Some(Intent::Reopen { .. }) => Box::pin(self.reopen(&stored)).await,
            Some(Intent::Close { .. }) => Ok(()),
            None => Ok(()),
        };
        // Nothing is left of a push whose content was deleted.
        change.is_made = matches!(made, Ok(()) | Err(Refused::ContentGone | Refused::TakenDown));
        change.goes_on = made == Err(Refused::GoesOn);
        if change.is_made {
            self.with_order(|order, _| order.told(change.number))?;
        }
        change.end().await;
        made.map(|()| None)
    }

    async fn push(
        &self,
        stored: &Stored,
        events: Option<&Events>,
        number: u64,
        entry: &Entry,
        tags: &[Tag],
        hints: Hints,
    ) -> Result<(), Refused> {
        let is_resumed = hints.stage.is_none();
        // What was there when the command was sent may have been removed since.
        let is_removed = self.with_order(|order, _| order.has_removed(&entry.digest))?;
        let stage = hints.stage.filter(|_| !is_removed).unwrap_or(Stage::New);
        let referrer = referrer(stored, entry, hints.referrer).await.map_err(busy)?;
        // Boxed: its future is large.
        let linked = Box::pin(stored.link_manifest(entry, referrer, stage, tags, hints.held));
        let (is_linked, references) = both(linked, references(stored, events, entry)).await.map_err(busy)?;
        if !is_linked {
            // A change that is finished later gives up: the client was told.
            return if is_resumed { Ok(()) } else { Err(Refused::ContentGone) };
        }
        if is_resumed {
            self.journal.ledger().finished_late(self.clock.now()).map_err(Refused::Busy)?;
        }
        let Entry { digest, size, media_type, .. } = entry;
        let manifest = Content { digest, size: *size, media_type };
        self.tell(events, number, |bridge| {
            let push = |tag| bridge.manifest(Action::Push, manifest, tag, references.clone());
            if tags.is_empty() { vec![push(None)] } else { tags.iter().map(|tag| push(Some(tag))).collect() }
        })
        .await
    }

    /// Sends the events of a change, unless they are sent.
    async fn tell(
        &self,
        events: Option<&Events>,
        number: u64,
        events_of: impl FnOnce(&Bridge<'_>) -> Vec<Event>,
    ) -> Result<(), Refused> {
        let record = self.with_order(|order, _| order.record(number))?;
        let Some((events, origin)) = events.zip(record.and_then(|record| record.origin)) else {
            return Ok(());
        };
        let bridge = Bridge {
            repository: &self.repository,
            origin: &origin,
            instance: events.instance,
            time: Order::begun(number),
            sequence: Some(number),
        };
        // Boxed: the futures of changes would carry it.
        Box::pin(events.tell(events_of(&bridge))).await.map_err(|error| Refused::Busy(error.to_string()))
    }

    async fn index(&self, stored: &Stored, entry: &Entry, tags: &[Tag], hints: Hints) -> Result<(), Refused> {
        let referrer = referrer(stored, entry, hints.referrer).await.map_err(busy)?;
        let targets = stored.targets(tags.iter().collect()).await.map_err(busy)?;
        let tags = targets.into_iter().filter(|(_, target)| *target == entry.digest);
        let tags: Vec<Tag> = tags.map(|(tag, _)| tag).collect();
        stored.index_tags(&entry.digest, &tags).await.map_err(busy)?;
        stored.index_manifest(entry, referrer).await.map_err(busy)
    }

    /// Lets pushes in again. Those that wait begin when this change has ended.
    async fn reopen(&self, stored: &Stored) -> Result<(), Refused> {
        stored.remove_catalog_entry().await.map_err(busy)?;
        // No push has come since the repository was closed.
        self.journal.ledger().forget(self.clock.now()).map_err(Refused::Busy)?;
        let closings = self.with_order(|order, _| order.closings())?;
        let rows = closings.iter().map(|number| (*number, None)).collect();
        self.journal.write(rows, None).await.map_err(Refused::Busy)?;
        self.with_order(|order, _| order.forget(&closings))
    }

    /// Removes the link to a blob, but not one that was uploaded since an interrupted deletion has begun.
    async fn delete_blob(
        &self,
        stored: &Stored,
        number: u64,
        digest: &Digest,
        is_resumed: bool,
    ) -> Result<(), Refused> {
        if is_resumed {
            let linked = stored.blob_linked(digest).await.map_err(busy)?;
            if linked.is_none_or(|linked| linked >= Order::begun(number)) {
                return stored.condemn_unlinked(std::slice::from_ref(digest)).await.map_err(busy);
            }
        }
        stored.unlink_blob(digest).await.map_err(busy)
    }

    /// Deletes a manifest: its tags, in steps, each of which the intent names before it begins; then its entry in the
    /// referrers; its link last. After some steps, it goes on later.
    async fn delete_manifest(
        self: &Rc<Self>,
        stored: &Stored,
        events: Option<&Events>,
        number: u64,
    ) -> Result<(), Refused> {
        let until = Timestamp(self.clock.now().0 + PATIENCE_FOR_TAGS);
        let (mut is_confirmed, mut calls) = (false, 0);
        loop {
            let record = self.with_order(|order, _| order.record(number))?;
            let Some(Intent::DeleteManifest { digest, subject, may_be_signed, is_unused, cursor, tags }) =
                record.map(|record| record.intent)
            else {
                return Ok(());
            };
            match is_confirmed {
                true => stored.remove_tags(&tags).await,
                false => stored.remove_tags_of(&digest, &tags).await,
            }
            .map_err(busy)?;
            calls += if is_confirmed { tags.len() } else { 2 * tags.len() };
            if cursor == Cursor::End {
                stored.unlink_manifest(&digest, subject.as_ref(), may_be_signed).await.map_err(busy)?;
            }
            let of_tags =
                |bridge: &Bridge<'_>| tags.iter().map(|tag| bridge.tag_deleted(tag)).collect::<Vec<_>>();
            let after = match cursor {
                Cursor::Start => None,
                Cursor::After(path) => {
                    self.tell(events, number, of_tags).await?;
                    Some(path)
                }
                Cursor::End => {
                    let all = |bridge: &Bridge<'_>| {
                        let mut events = of_tags(bridge);
                        events.push(bridge.deleted(&digest));
                        events
                    };
                    return self.tell(events, number, all).await;
                }
            };
            let (mut tags, looks, next) =
                stored.tags_of(&digest, after.as_deref(), TAGS).await.map_err(busy)?;
            // A listing, and what it takes to delete these.
            calls += 4 + looks + tags.len();
            let (names_tags, cursor) = (!tags.is_empty(), next.map_or(Cursor::End, Cursor::After));
            if names_tags {
                self.wait(until, None, |order, _| order.claim_tags(number, &tags)).await?;
                // A push may have moved one before it was claimed: that one is not deleted, and has no event.
                tags = stored.only_of(&digest, &tags).await.map_err(busy)?;
            }
            is_confirmed = true;
            let step = Intent::DeleteManifest { digest, subject, may_be_signed, is_unused, cursor, tags };
            self.with_order(|order, _| order.advance(number, step))?;
            let goes_on = calls >= CALLS;
            if names_tags || goes_on {
                self.save(number).await?;
            }
            if goes_on {
                return Err(Refused::GoesOn);
            }
        }
    }
}

/// What a manifest refers to, if events name it.
async fn references(
    stored: &Stored,
    events: Option<&Events>,
    entry: &Entry,
) -> Result<Vec<events::Reference>, StorageError> {
    if !events.is_some_and(|events| events.references) {
        return Ok(Vec::new());
    }
    let content = stored.content(&entry.digest).await?;
    Ok(content.map(|content| references_of(&content)).unwrap_or_default())
}

/// The content of a manifest's entry in the referrers of its subject; `None` if it has no subject, or no content.
async fn referrer(
    stored: &Stored,
    entry: &Entry,
    known: Option<String>,
) -> Result<Option<String>, StorageError> {
    match (&entry.subject, known) {
        (None, _) => Ok(None),
        (_, Some(known)) => Ok(Some(known)),
        _ => stored.referrer_of(entry).await,
    }
}
