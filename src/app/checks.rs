//! Checks of the store and of KV.

use std::{cell::Cell, rc::Rc};

use futures_util::future::join;

use crate::{
    layout::{CacheEntry, Key},
    oci::Algorithm,
    platform::{
        Body, Clock, Timestamp,
        health::{Check, Probe, Trouble},
    },
    storage::{PutOptions, StorageError, StorageErrorKind, Store},
};

/// The shortest time between two writes of an isolate, in milliseconds: a write costs as much as twelve reads.
const WRITE_INTERVAL: u64 = 60_000;

/// Reads an object every time, and writes it at most once a minute.
pub(super) fn bucket(store: Store, clock: Rc<dyn Clock>) -> Probe {
    let written = Rc::new(Cell::new(None::<Timestamp>));
    let check: Check = Rc::new(move || {
        let (store, now, last) = (store.clone(), clock.now(), written.clone());
        let is_due = last.get().is_none_or(|last| now.milliseconds_since(last) >= WRITE_INTERVAL);
        Box::pin(async move {
            let path = Key::Health.path();
            let write = async {
                if !is_due {
                    return Ok(());
                }
                let result = settled(store.put(&path, Body::Empty, PutOptions::default()).await);
                if result.is_ok() {
                    last.set(Some(now));
                }
                result
            };
            let read = async { settled(store.head(&path).await) };
            let (written, read) = join(write, read).await;
            read.and(written)
        })
    });
    Probe::Check(check)
}

/// Reads an entry that is never there.
pub(super) fn kv(store: Option<Store>) -> Probe {
    let Some(store) = store else { return Probe::Unbound };
    let digest = Algorithm::Sha256.digest(b"pierhead: the key of a check of health");
    let check: Check = Rc::new(move || {
        let (store, path) = (store.clone(), Key::Cached(CacheEntry::Located, &digest).path());
        Box::pin(async move { settled(store.get(&path, None).await) })
    });
    Probe::Check(check)
}

/// A store that takes no more calls at the moment works: this key takes a write a second, from all isolates.
fn settled<T>(result: Result<T, StorageError>) -> Result<(), Trouble> {
    let reason = match result.as_ref().map_err(|error| &error.kind) {
        Ok(_) | Err(StorageErrorKind::Throttled { .. }) => return Ok(()),
        Err(StorageErrorKind::Backend { retryable: true, .. }) => "it failed, and may work again",
        Err(_) => "it failed",
    };
    Err(Trouble { reason, message: result.err().map(|error| error.to_string()).unwrap_or_default() })
}
