//! Markers: how content is deleted while it is pushed.
//!
//! Storage can delete an object only without a condition, and a call whose answer was lost may land later. So bytes are
//! deleted by a protocol, whose only state is in the bucket:
//!
//! - **Whoever links content** writes the reverse link, or refreshes an old one, and reads the marker. Only then it
//!   writes the link. The reverse link says that the content is wanted, for [`HOLD`] also without a link. So do
//!   bytes that were just written.
//! - **The collection** writes the marker first (`condemned`), and after a grace time (`sweeping`) it looks at the
//!   reverse links and the bytes. If one is young, or its link is there, the content stays.
//!
//! One of the two sees the other, since storage is strongly consistent, and since a marker is condemned for
//! [`MIN_CONDEMNED`] at least: who has not seen it has written the reverse link long before the collection looks, even
//! if both calls were made at the same time. If they took longer together, the marker is read again. A marker changes
//! by conditional writes only, so that exactly one wins:
//!
//! ```text
//!            collection            collection             collection, all answers are there
//! (absent) ------------> condemned ------------> sweeping -------------------------> swept
//!                            | a push                | a push, when the lease is over    | later
//!                            v                       v                                   v
//!                         rescued <------------------+-------------------------------> (absent)
//! ```
//!
//! Content that an administrator has taken down has the marker `taken-down`, from whatever state, until that is lifted.
//! The collection leaves it alone, and whoever wants to link it is refused: see [`StorageErrorKind::Blocked`].
//!
//! The link of a [signature](Key::Signature) is below that of its manifest. So the reverse link of a signature names the
//! manifest, in its metadata.
//!
//! While a marker is `sweeping`, calls that delete the bytes, the descriptor and the reverse links may be under way:
//! nothing of it is trusted, and nothing is written there. A push waits until it is over and looks again. The lease
//! bounds that, if a sweeper dies: its last call has landed [`SETTLE`] after it.

use uuid::Uuid;

use super::Blobs;
use crate::{
    layout::Key,
    oci::{Digest, RepositoryName},
    platform::{Body, Timestamp},
    storage::{
        Answer, Condition, Metadata, ObjectMeta, PutOptions, SETTLE, StorageError, StorageErrorKind, Store,
        both,
    },
};

/// How long a reverse link without a link, and bytes, keep content, in milliseconds: longer than any request takes from its
/// look at them until its link has landed. Markers that are over stay as long.
pub const HOLD: u64 = 15 * 60 * 1000;

/// The age at which a push writes a reverse link again, in milliseconds. What is left of [`HOLD`] is for the request, and
/// for clocks that differ.
const REFRESH: u64 = 5 * 60 * 1000;

/// How long one sweep may take, in milliseconds.
pub const LEASE: u64 = 60_000;

/// A sweep makes no call in the last part of its lease, in milliseconds: with its repetitions, one may take as long.
const LAST_CALL: u64 = 15_000;

/// How long a marker is condemned at least, in milliseconds. The deletion of an older one may land until then.
pub const MIN_CONDEMNED: u64 = 60_000;

/// In how long a reverse link is written and the marker is read, if at the same time, in milliseconds. A sweep begins
/// [`MIN_CONDEMNED`] after its marker is written, and sees the link. What is left is for clocks that differ.
const TOGETHER: u64 = 20_000;

/// How long a push waits for the end of a sweep, in milliseconds. One that was not interrupted takes a few calls.
pub const PATIENCE: u64 = 10_000 + LEASE + SETTLE * 1000;

/// Time between two looks at a marker, in milliseconds.
const PAUSE: u64 = 500;

/// The age at which a refusal opens a takedown again, in milliseconds.
pub const REOPEN: u64 = 60_000;

/// Limit of attempts to condemn content whose marker others change.
const TRIES: usize = 4;

const STATE: &str = "state";
const UNTIL: &str = "until";
const SWEPT: &str = "swept";
const NONCE: &str = "nonce";

/// The metadata name, in a reverse link, of the manifest that the content is a signature of.
const SIGNS: &str = "signs";

/// The manifest that content is a signature of, as its reverse link says.
pub fn signs(reverse_link: &ObjectMeta) -> Option<Digest> {
    reverse_link.metadata.get(SIGNS)?.parse().ok()
}

/// The state of content that may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is deleted after the grace time, unless somebody wants it.
    Condemned,
    /// It is being deleted.
    Sweeping,
    /// Somebody wanted it.
    Rescued,
    /// It is deleted, and no call that deletes it is under way.
    Swept,
    /// It must not be stored: an administrator has taken it down.
    TakenDown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Condemned => "condemned",
            Self::Sweeping => "sweeping",
            Self::Rescued => "rescued",
            Self::Swept => "swept",
            Self::TakenDown => "taken-down",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Condemned, Self::Sweeping, Self::Rescued, Self::Swept, Self::TakenDown]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A marker as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The state.
    pub state: State,
    /// The end of the lease of a sweep.
    pub until: Timestamp,
    /// When it was written.
    pub written: Timestamp,
    /// When the last sweep began, whatever became of it. Later markers keep it.
    swept: Option<Timestamp>,
    etag: String,
    nonce: String,
}

impl Marker {
    /// Decodes the object of a marker. What cannot be read counts as condemned: it can be rescued, and it keeps nobody
    /// from anything.
    pub fn from_object(meta: &ObjectMeta) -> Self {
        let text = |name: &str| meta.metadata.get(name).map(String::as_str);
        let time = |name: &str| text(name).and_then(|text| text.parse().ok()).map(Timestamp);
        Self {
            state: text(STATE).and_then(State::parse).unwrap_or(State::Condemned),
            until: time(UNTIL).unwrap_or_default(),
            written: meta.modified,
            swept: time(SWEPT),
            etag: meta.etag.clone(),
            nonce: text(NONCE).unwrap_or_default().to_owned(),
        }
    }

    /// Whether a sweep is over, although it has not said so: its last call has landed.
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        self.state == State::Sweeping && now > self.until.plus_seconds(SETTLE)
    }

    /// Whether a sweep may have removed something, or a reverse link that was just written, since a request that is under
    /// way has begun.
    fn was_swept(&self, now: Timestamp) -> bool {
        self.swept.is_some_and(|swept| now.milliseconds_since(swept) < HOLD)
    }

    /// Whether the content is as safe as without a marker.
    pub fn is_over(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Rescued | State::Swept) && !self.was_swept(now)
    }

    /// Whether a sweep may still make a call.
    pub fn may_delete(&self, now: Timestamp) -> bool {
        self.state == State::Sweeping && now.0 + LAST_CALL < self.until.0
    }
}

/// The answer to whoever wants to link content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// What was there is there.
    Kept,
    /// It was being deleted: look again at what is there.
    Removed,
}

async fn read(store: &Store, digest: &Digest) -> Result<Option<Marker>, StorageError> {
    let meta = store.head(&Key::Marker(digest).path()).await?;
    Ok(meta.as_ref().map(Marker::from_object))
}

async fn mark(
    store: &Store,
    digest: &Digest,
    seen: Option<&Marker>,
    state: State,
    now: Timestamp,
) -> Result<Option<Marker>, StorageError> {
    // Etags are made of the content: no two writes may have the same.
    let nonce = Uuid::new_v4().to_string();
    let until = Timestamp(now.0 + LEASE);
    let swept = match state {
        State::Sweeping => Some(now),
        _ => seen.and_then(|seen| seen.swept),
    };
    let mut metadata = Metadata::from([
        (STATE.to_owned(), state.as_str().to_owned()),
        (UNTIL.to_owned(), until.0.to_string()),
        (NONCE.to_owned(), nonce.clone()),
    ]);
    metadata.extend(swept.map(|swept| (SWEPT.to_owned(), swept.0.to_string())));
    let condition = seen.map_or(Condition::IfAbsent, |seen| Condition::IfMatch(seen.etag.clone()));
    let options = PutOptions { metadata, condition, ..PutOptions::default() };
    let content = Body::Bytes(nonce.clone().into());
    match store.put(&Key::Marker(digest).path(), content, options).await {
        Ok(meta) => {
            let (written, etag) = (meta.modified, meta.etag);
            Ok(Some(Marker { state, until, written, swept, etag, nonce }))
        }
        // An attempt whose answer was lost may have been this one.
        Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {
            Ok(read(store, digest).await?.filter(|marker| marker.nonce == nonce))
        }
        Err(error) => Err(error),
    }
}

/// Condemns content that may not be wanted any more. Costs one write, or a look-up more if it has a marker.
pub async fn condemn(store: &Store, digest: &Digest) -> Result<(), StorageError> {
    let mut seen = None;
    for _ in 0..TRIES {
        if mark(store, digest, seen.as_ref(), State::Condemned, Timestamp::default()).await?.is_some() {
            return Ok(());
        }
        seen = read(store, digest).await?;
        // Otherwise a push has wanted it, an earlier sweep is over, or the marker was just removed.
        let is_lost = |seen: &Marker| !matches!(seen.state, State::Rescued | State::Swept);
        if seen.as_ref().is_some_and(is_lost) {
            return Ok(());
        }
    }
    // Others are at it.
    Ok(())
}

impl Blobs {
    /// The marker of content. Costs one look-up.
    pub async fn marker(&self, digest: &Digest) -> Result<Option<Marker>, StorageError> {
        read(&self.store, digest).await
    }

    /// Writes a marker, if it still is as it was `seen`; `None` if it is not.
    pub async fn mark(
        &self,
        digest: &Digest,
        seen: Option<&Marker>,
        state: State,
    ) -> Result<Option<Marker>, StorageError> {
        mark(&self.store, digest, seen, state, self.clock.now()).await
    }

    /// See [`condemn`].
    pub async fn condemn(&self, digest: &Digest) -> Result<(), StorageError> {
        condemn(&self.store, digest).await
    }

    /// Keeps content from being deleted until it is linked to a repository, which must be done within a few minutes.
    /// Costs one round and two calls, and up to two more if the repository had it before. Waits while the content is being
    /// deleted.
    pub fn hold<'a>(&'a self, name: &'a RepositoryName, digest: &'a Digest) -> Answer<'a, Held> {
        self.hold_for(name, digest, None)
    }

    /// [`hold`](Self::hold) for a signature of a manifest, if that is given.
    pub fn hold_for<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
        signed: Option<&'a Digest>,
    ) -> Answer<'a, Held> {
        Box::pin(async move {
            let (begun, mut held, mut seen) = (self.clock.now(), Held::Kept, None);
            loop {
                let marker = self.reserve_and_look(name, digest, signed).await?;
                let now = self.clock.now();
                let Some(marker) = marker else { return Ok(held) };
                match marker.state {
                    State::Rescued | State::Swept if !marker.was_swept(now) => return Ok(held),
                    State::Rescued | State::Swept => {
                        held = Held::Removed;
                        // The reverse link may have been removed with the rest: only one written after that counts.
                        if seen.replace(marker.nonce.clone()) == Some(marker.nonce) {
                            return Ok(held);
                        }
                    }
                    State::Condemned => {
                        let rescued = self.mark(digest, Some(&marker), State::Rescued).await?;
                        if rescued.is_some_and(|rescued| !rescued.was_swept(now)) {
                            return Ok(held);
                        }
                    }
                    State::Sweeping if marker.is_abandoned(now) => {
                        held = Held::Removed;
                        self.mark(digest, Some(&marker), State::Rescued).await?;
                    }
                    State::TakenDown => return Err(self.refuse_taken_down(digest).await?),
                    State::Sweeping if now.milliseconds_since(begun) < PATIENCE => {
                        held = Held::Removed;
                        self.clock.sleep(PAUSE).await;
                    }
                    State::Sweeping => {
                        let message = "the content is being deleted".to_owned();
                        let kind = StorageErrorKind::Backend { operation: "hold", message, retryable: true };
                        return Err(self.store.error(&Key::Marker(digest).path(), kind));
                    }
                }
            }
        })
    }

    /// Who wants to link content that was taken down may have stored it: its takedown goes on.
    async fn refuse_taken_down(&self, digest: &Digest) -> Result<StorageError, StorageError> {
        let path = Key::OpenTakedown(digest).path();
        // Clients repeat what was refused, and the takedown ends only a while after the last write.
        let opened = self.store.head(&path).await?;
        if opened.is_some_and(|opened| self.clock.now().milliseconds_since(opened.modified) < REOPEN) {
            return Ok(self.store.error(&Key::Marker(digest).path(), StorageErrorKind::Blocked));
        }
        match self.store.once().put(&path, Body::Empty, PutOptions::default()).await {
            Err(error) if !error.is_retryable() => Err(error),
            // Others are refused at the same time.
            Ok(_) | Err(_) => Ok(self.store.error(&Key::Marker(digest).path(), StorageErrorKind::Blocked)),
        }
    }

    /// [`hold`](Self::hold) in one round, for content that the repository did not have: `false` if that is not enough.
    pub async fn try_hold(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
        self.try_hold_for(name, digest, None).await
    }

    /// [`try_hold`](Self::try_hold) for a signature of a manifest, if that is given.
    pub async fn try_hold_for(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        signed: Option<&Digest>,
    ) -> Result<bool, StorageError> {
        let begun = self.clock.now();
        let reserved = self.put_reverse_link_for(name, digest, signed);
        let (is_new, marker) = both(reserved, self.marker(digest)).await?;
        let now = self.clock.now();
        let is_over = marker.is_none_or(|marker| marker.is_over(now));
        Ok(is_new && is_over && now.milliseconds_since(begun) < TOGETHER)
    }

    /// Whether content is kept still that was held then.
    pub fn is_held_since(&self, held: Timestamp) -> bool {
        self.clock.now().milliseconds_since(held) < REFRESH
    }

    /// Whether content is kept that an earlier request has held; otherwise holds it. Costs one round.
    /// [`Held::Removed`] if the caller must look again.
    pub fn confirm<'a>(&'a self, name: &'a RepositoryName, digest: &'a Digest) -> Answer<'a, Held> {
        Box::pin(async move {
            let begun = self.clock.now();
            let (is_young, marker) = both(self.is_reserved(name, digest), self.marker(digest)).await?;
            let now = self.clock.now();
            let is_at_once = now.milliseconds_since(begun) < TOGETHER;
            if is_young && is_at_once && marker.is_none_or(|marker| marker.is_over(now)) {
                return Ok(Held::Kept);
            }
            self.hold(name, digest).await.map(|_| Held::Removed)
        })
    }

    async fn reserve_and_look(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        signed: Option<&Digest>,
    ) -> Result<Option<Marker>, StorageError> {
        let begun = self.clock.now();
        let reserved = self.put_reverse_link_for(name, digest, signed);
        let (is_new, marker) = both(reserved, self.marker(digest)).await?;
        if !is_new {
            let found = self.store.head(&Key::ReverseLink(digest, name).path()).await?;
            // A layer may have the bytes of a signature.
            let known = found.as_ref().and_then(signs);
            let is_named = signed.is_none_or(|signed| known.as_ref() == Some(signed));
            if !is_named || !found.is_some_and(|found| self.is_young(&found)) {
                self.refresh_reverse_link(name, digest, signed.or(known.as_ref())).await?;
            }
        }
        if self.clock.now().milliseconds_since(begun) < TOGETHER {
            return Ok(marker);
        }
        self.marker(digest).await
    }

    /// Writes a reverse link; `false` if there is one.
    pub async fn put_reverse_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        self.put_reverse_link_for(name, digest, None).await
    }

    async fn put_reverse_link_for(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        signed: Option<&Digest>,
    ) -> Result<bool, StorageError> {
        let options = PutOptions {
            metadata: reverse_metadata(signed),
            condition: Condition::IfAbsent,
            ..PutOptions::default()
        };
        match self.store.put(&Key::ReverseLink(digest, name).path(), Body::Empty, options).await {
            Ok(_) => Ok(true),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the reverse link of a signature, or adds what one of an earlier version lacks; `false` if there is nothing to
    /// do.
    pub async fn index_signature(
        &self,
        name: &RepositoryName,
        signature: &Digest,
        manifest: &Digest,
    ) -> Result<bool, StorageError> {
        if self.put_reverse_link_for(name, signature, Some(manifest)).await? {
            return Ok(true);
        }
        let path = Key::ReverseLink(signature, name).path();
        let Some(found) = self.store.head(&path).await? else { return Ok(false) };
        if signs(&found).is_some() {
            return Ok(false);
        }
        let (metadata, condition) = (reverse_metadata(Some(manifest)), Condition::IfMatch(found.etag));
        let options = PutOptions { metadata, condition, ..PutOptions::default() };
        match self.store.put(&path, Body::Empty, options).await {
            Ok(_) => Ok(true),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn is_reserved(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
        let link = self.store.head(&Key::ReverseLink(digest, name).path()).await?;
        Ok(link.is_some_and(|link| self.is_young(&link)))
    }

    fn is_young(&self, reverse_link: &ObjectMeta) -> bool {
        self.clock.now().milliseconds_since(reverse_link.modified) < REFRESH
    }

    async fn refresh_reverse_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        signed: Option<&Digest>,
    ) -> Result<(), StorageError> {
        let path = Key::ReverseLink(digest, name).path();
        let options = PutOptions { metadata: reverse_metadata(signed), ..PutOptions::default() };
        match self.store.put(&path, Body::Empty, options).await {
            Ok(_) => Ok(()),
            // Others push the same: one of them has written it.
            Err(error) if error.is_retryable() && self.is_reserved(name, digest).await? => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a repository links content: as a blob, as a manifest, or as a signature of one that is there. `reverse_link` is
    /// what a listing says of the reverse link. Costs two look-ups; two more for a signature, and one more where listings
    /// have no metadata.
    pub async fn is_linked(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        reverse_link: &ObjectMeta,
    ) -> Result<bool, StorageError> {
        let has = async |key: Key<'_>| Ok::<_, StorageError>(self.store.head(&key.path()).await?.is_some());
        let (layer, revision) = both(has(Key::Layer(name, digest)), has(Key::Revision(name, digest))).await?;
        if layer || revision {
            return Ok(true);
        }
        let signed = match self.store.capabilities().lists_metadata {
            true => signs(reverse_link),
            false => {
                let link = self.store.head(&Key::ReverseLink(digest, name).path()).await?;
                link.as_ref().and_then(signs)
            }
        };
        let Some(manifest) = &signed else { return Ok(false) };
        let link = has(Key::Signature { name, manifest, signature: digest });
        let (link, revision) = both(link, has(Key::Revision(name, manifest))).await?;
        Ok(link && revision)
    }
}

fn reverse_metadata(signed: Option<&Digest>) -> Metadata {
    signed.map(|signed| (SIGNS.to_owned(), signed.to_string())).into_iter().collect()
}
