//! API keys of robot accounts: `phk_<id>_<secret>`. The bucket holds a hash of the secret.
//!
//! The secret has 256 random bits, so that a plain hash protects it.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::basic::Credentials;
use crate::{
    auth::{Key, KeyScope},
    layout,
    oci::{Algorithm, from_json},
    platform::{Background, Body, Clock, Timestamp},
    storage::{Condition, Page, PutOptions, StorageError, StorageErrorKind, Store},
};

const PREFIX: &str = "phk_";

/// The length of an id, in characters.
const ID_LENGTH: usize = 16;

/// The largest stored key, in bytes.
const MAX_RECORD: usize = 16 * 1024;

/// The most scopes of a key.
pub const MAX_SCOPES: usize = 32;

/// How long an isolate takes a key for valid without asking the bucket, in milliseconds. So long can a key that was
/// revoked still act as a password; as a token, for the token's lifetime.
pub const TRUST: u64 = 60_000;

/// How precisely the last use of a key is known, in milliseconds.
const USE_STEP: u64 = 60 * 60 * 1000;

/// Limit of keys that an isolate remembers; at the limit, all are forgotten.
const MAX_KNOWN: usize = 256;

/// A key, as the bucket holds it. The secret is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The robot account.
    pub name: String,
    /// The SHA-256 of the secret, in hexadecimal digits.
    hash: String,
    /// What the key may do.
    pub scopes: Vec<KeyScope>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends; `None` for never.
    pub expires: Option<Timestamp>,
    /// The principal that made it.
    pub made_by: String,
}

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The robot account.
    pub name: String,
    /// What the key may do.
    pub scopes: Vec<KeyScope>,
    /// When it ends; `None` for never.
    pub expires: Option<Timestamp>,
    /// The principal that makes it.
    pub made_by: String,
}

/// What an isolate knows of a key that it has seen.
#[derive(Clone, Copy)]
struct Known {
    /// When the bucket was asked last.
    asked: Timestamp,
    /// When the use was noted last.
    used: Option<Timestamp>,
}

/// The API keys in the bucket.
pub struct ApiKeys {
    store: Store,
    clock: Rc<dyn Clock>,
    known: RefCell<HashMap<String, (Known, Record)>>,
}

/// The id and the hash of the secret of a key; `None` for a text of another form.
fn parse(text: &str) -> Option<(&str, String)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_secret = URL_SAFE_NO_PAD.decode(secret).is_ok_and(|secret| secret.len() == 32);
    (is_id(id) && is_secret).then(|| (id, hash(secret)))
}

fn hash(secret: &str) -> String {
    Algorithm::Sha256.digest(secret.as_bytes()).hex().to_owned()
}

/// Whether a text has the form of a key's id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Whether a text can be the name of a robot account: up to 63 lower case letters, digits, and `.`, `-`, `_` inside.
pub fn is_name(text: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (first, last) = (text.bytes().next(), text.bytes().last());
    (1..=63).contains(&text.len())
        && text.bytes().all(|c| is_plain(c) || b".-_".contains(&c))
        && [first, last].iter().all(|end| end.is_some_and(is_plain))
}

impl ApiKeys {
    /// The keys in this store.
    pub fn new(store: Store, clock: Rc<dyn Clock>) -> Self {
        Self { store, clock, known: RefCell::default() }
    }

    /// The robot account of these credentials; `None` if they are no valid key. Costs one look-up, unless the isolate has
    /// seen the key within [`TRUST`].
    pub async fn authenticate(
        &self,
        Credentials { user, password }: &Credentials,
        background: &dyn Background,
    ) -> Result<Option<Key>, StorageError> {
        let Some((id, hash)) = parse(password) else { return Ok(None) };
        let known = self.known.borrow().get(id).cloned();
        let now = self.clock.now();
        let record = match known.filter(|(known, _)| now.milliseconds_since(known.asked) < TRUST) {
            Some((_, record)) => Some(record),
            None => self.find(id).await?,
        };
        let record = record.filter(|record| {
            // Hashes of random secrets: how many characters agree tells nothing.
            record.hash == hash && record.name == *user && record.expires.is_none_or(|expires| now < expires)
        });
        let Some(record) = record else { return Ok(None) };
        self.note_use(id, background);
        Ok(Some(record.identity(id)))
    }

    /// The robot account of a key by its id, if the key is still valid. Costs one look-up.
    pub async fn identity(&self, id: &str, background: &dyn Background) -> Result<Option<Key>, StorageError> {
        let record = self.find(id).await?;
        let now = self.clock.now();
        let record = record.filter(|record| record.expires.is_none_or(|expires| now < expires));
        if record.is_some() {
            self.note_use(id, background);
        }
        Ok(record.map(|record| record.identity(id)))
    }

    /// A key by its id. Costs one look-up.
    pub async fn find(&self, id: &str) -> Result<Option<Record>, StorageError> {
        if !is_id(id) {
            return Ok(None);
        }
        let path = layout::Key::ApiKey(id).path();
        let Some((bytes, _)) = self.store.read(&path, MAX_RECORD).await? else {
            self.known.borrow_mut().remove(id);
            return Ok(None);
        };
        let record: Record = from_json(&bytes).map_err(|error| {
            let message = format!("not an API key: {error}");
            self.store
                .error(&path, StorageErrorKind::Backend { operation: "read", message, retryable: false })
        })?;
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        let used = known.get(id).and_then(|(known, _)| known.used);
        known.insert(id.to_owned(), (Known { asked: self.clock.now(), used }, record.clone()));
        Ok(Some(record))
    }

    /// Makes a key. Returns its id, its record and the key, which nobody can read again.
    pub async fn make(&self, new: NewKey) -> Result<(String, Record, String), StorageError> {
        let path = |id: &str| layout::Key::ApiKey(id).path();
        let random = |bytes: &mut [u8]| {
            getrandom::fill(bytes).map_err(|error| {
                let message = error.to_string();
                self.store.error(
                    &path(""),
                    StorageErrorKind::Backend { operation: "put", message, retryable: true },
                )
            })
        };
        let (mut id, mut secret) = ([0; ID_LENGTH / 2], [0; 32]);
        random(&mut id)?;
        random(&mut secret)?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let NewKey { name, scopes, expires, made_by } = new;
        let record =
            Record { name, hash: hash(&secret), scopes, created: self.clock.now(), expires, made_by };
        let content = serde_json::to_vec(&record).unwrap_or_default();
        let options = PutOptions { condition: Condition::IfAbsent, ..PutOptions::default() };
        self.store.put(&path(&id), Body::Bytes(content.into()), options).await?;
        let key = format!("{PREFIX}{id}_{secret}");
        Ok((id, record, key))
    }

    /// Revokes a key: tells whether there was one.
    pub async fn revoke(&self, id: &str) -> Result<bool, StorageError> {
        let is_there = self.find(id).await?.is_some();
        self.known.borrow_mut().remove(id);
        if is_there {
            self.store.delete(&[layout::Key::ApiKey(id).path(), layout::Key::ApiKeyUse(id).path()]).await?;
        }
        Ok(is_there)
    }

    /// A page of the ids of keys, in byte order, and whether there are more.
    pub async fn ids(&self, after: Option<&str>, limit: usize) -> Result<(Vec<String>, bool), StorageError> {
        let prefix = layout::Key::ApiKeys.path().folder();
        let mut after = after.map(|after| format!("{prefix}{after}"));
        let mut ids = Vec::new();
        loop {
            let page = Page { after: after.as_deref(), limit: limit - ids.len(), folders: false };
            let listing = self.store.list(&prefix, page).await?;
            let listed = listing.objects.iter().filter_map(|(path, _)| path.strip_prefix(&prefix));
            ids.extend(listed.filter(|id| is_id(id)).map(str::to_owned));
            // A page may be shorter than its limit.
            if listing.next.is_none() || ids.len() >= limit {
                return Ok((ids, listing.next.is_some()));
            }
            after = listing.next;
        }
    }

    /// When a key was used last, to the hour; `None` if never.
    pub async fn last_use(&self, id: &str) -> Result<Option<Timestamp>, StorageError> {
        let read = self.store.read(&layout::Key::ApiKeyUse(id).path(), 32).await?;
        let text = read.and_then(|(bytes, _)| String::from_utf8(bytes.to_vec()).ok());
        Ok(text.and_then(|text| text.parse().ok()).map(Timestamp))
    }

    /// Notes that a key is used, in the background.
    fn note_use(&self, id: &str, background: &dyn Background) {
        let now = self.clock.now();
        let mut known = self.known.borrow_mut();
        let Some((known, _)) = known.get_mut(id) else { return };
        if known.used.is_some_and(|used| now.milliseconds_since(used) < USE_STEP) {
            return;
        }
        known.used = Some(now);
        let (store, path) = (self.store.clone(), layout::Key::ApiKeyUse(id).path());
        background.spawn(Box::pin(async move {
            let content = Body::Bytes(now.0.to_string().into());
            // Best effort: the next use in an hour is noted again.
            let _ = store.put(&path, content, PutOptions::default()).await;
        }));
    }
}

impl Record {
    fn identity(&self, id: &str) -> Key {
        Key { id: id.to_owned(), name: self.name.clone(), scopes: self.scopes.clone() }
    }
}
