//! Takes content down: one digest, from all repositories at once, so that it cannot be pushed again.
//!
//! First the [marker](crate::blobs::marker) of the content says so: from then on, whoever wants to link it is refused. Then
//! go its bytes, so that nothing can be read from the store; then the links of every repository, with the tags that point to
//! it, through the writers. Reverse links tell where most of them are; those that another registry has written may lack
//! one, so all repositories are looked at after that.
//!
//! A push that has read the marker before may still store and link the content, for as long as a reverse link keeps content
//! ([`HOLD`]): when that time is over, a last look at the reverse links and the bytes ends the takedown. A push that is
//! refused later may have stored the bytes: it opens the takedown again, for another such look.

use futures_util::future::try_join;
use serde::{Deserialize, Serialize};

use super::{record::Record, remove::Limits};
use crate::{
    app::App,
    blobs::{
        Blobs,
        marker::{HOLD, LEASE, REOPEN, State, signs},
    },
    context::Context,
    layout::{Key, trailing_name},
    oci::{Digest, Manifest, RepositoryName},
    platform::{Body, Timestamp},
    redirect::Mode,
    repository::{RepositoryError, catalog::next_in_tree},
    storage::{Condition, Page, Path, PutOptions, SETTLE, StorageError, StorageErrorKind, Store, both},
};

/// How long after its last deletion a takedown cannot be lifted, and how long after the begin of a lift the content cannot be
/// taken down again, in milliseconds: a call may be under way.
const REST: u64 = LEASE + SETTLE * 1000;

/// How long a step deletes bytes after it has read the record, and a lift goes on after it has begun, in milliseconds.
const LAST_CALL: u64 = LEASE / 2;

/// Limit of attempts to write a marker that others change.
const TRIES: usize = 8;

/// A part of a takedown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The repositories that reverse links name are looked at.
    Linked,
    /// All repositories are looked at.
    All,
    /// Pushes may be under way that have begun before; then the reverse links are looked at again.
    Again,
    /// It is finished.
    Done,
    /// It is being lifted.
    Lifted,
}

impl Part {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::All => "all",
            Self::Again => "again",
            Self::Done => "done",
            Self::Lifted => "lifted",
        }
    }
}

/// What is known of a takedown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takedown {
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// How far it is.
    pub part: Part,
    /// Since when no push can begin to link the content; `None` before.
    pub blocked: Option<Timestamp>,
    /// When something was removed last, or looked for.
    pub changed: Timestamp,
    /// How many links were removed.
    pub links: u64,
    /// The manifest that the content refers to, if it is a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Digest>,
    /// Where the part goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

/// A place where content may still be served from, although it was taken down.
#[derive(Debug)]
pub struct Remainder {
    /// Where.
    pub place: &'static str,
    /// The latest time; `None` if the registry does not know.
    pub until: Option<Timestamp>,
}

impl Takedown {
    /// When the takedown goes on; `None` if it does so now, or is finished.
    pub fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        let over = Timestamp(self.blocked?.0 + HOLD);
        (self.part == Part::Again && now < over).then_some(over)
    }

    /// From where the content may still be served, and for how long.
    pub fn remainders(&self, app: &App) -> Vec<Remainder> {
        let now = app.clock.now();
        let (cache, redirect) = (&app.config.cache, &app.config.redirect);
        let is_over = matches!(self.part, Part::Done | Part::Again);
        // While there are links, a pull may be answered now.
        let last = if is_over { self.changed } else { now };
        let mut all = Vec::new();
        let mut add = |place, until: Option<Timestamp>| {
            if until.is_none_or(|until| until > now) {
                all.push(Remainder { place, until });
            }
        };
        let begun = self.blocked.unwrap_or(now);
        if self.part != Part::Done {
            add("a push that had begun before", Some(Timestamp(begun.0 + HOLD)));
        }
        let bound = cache.tag_seconds.max(cache.digest_seconds);
        if bound > 0 {
            add("answers that isolates and the edge cache remember", Some(last.plus_seconds(bound)));
        }
        if redirect.rules.uses(Mode::Signed) {
            let place = "signed URLs, from caches: the edge cache, Workers KV, and a CDN before the registry";
            add(place, Some(last.plus_seconds(redirect.ttl_seconds)));
        }
        if redirect.rules.uses(Mode::Presigned) {
            let place = "presigned URLs, while a refused push has stored the bytes again";
            add(place, Some(last.plus_seconds(redirect.ttl_seconds)));
        }
        add("downloads that had begun before", None);
        add("copies that clients and proxies keep", None);
        all
    }
}

/// The outcome of a request to take content down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The takedown is known.
    Known,
    /// There is none, and no reason to begin it.
    Unknown,
    /// An earlier one is being lifted until then.
    Lifting(Timestamp),
}

/// Begins to take content down, unless that is known.
pub async fn begin(
    app: &App,
    context: &Context,
    digest: &Digest,
    reason: Option<String>,
) -> Result<Begun, RepositoryError> {
    let (store, path) = (app.store(context), Key::Takedown(digest).path());
    let found = Record::<Takedown>::read(&store, path.clone()).await?;
    let lifted = match found {
        Some(Record { value: Takedown { part: Part::Done, .. }, .. }) => return Ok(Begun::Known),
        Some(record) if record.value.part == Part::Lifted => {
            // The lift may yet delete the record, whatever it says by then.
            let until = Timestamp(record.value.changed.0 + REST);
            if app.clock.now() < until {
                return Ok(Begun::Lifting(until));
            }
            // It was interrupted.
            Some(record)
        }
        Some(_) => {
            open(&store, digest).await?;
            return Ok(Begun::Known);
        }
        None => None,
    };
    let Some(reason) = reason else { return Ok(Begun::Unknown) };
    // Without its content, nobody could tell.
    let content = match app.blobs(context).stored_manifest(digest).await {
        Err(error) if error.is_retryable() => return Err(error.into()),
        content => content.ok().flatten(),
    };
    let now = app.clock.now();
    let takedown = Takedown {
        by: context.principal.name(),
        reason,
        at: now,
        part: Part::Linked,
        blocked: None,
        changed: now,
        links: 0,
        subject: content.and_then(|content| Manifest::subject_of(&content)),
        after: None,
    };
    if let Some(mut record) = lifted {
        record.value = takedown;
        if !record.write(&store).await? {
            let message = "others change the takedown".to_owned();
            let kind = StorageErrorKind::Backend { operation: "put", message, retryable: true };
            return Err(store.error(&path, kind).into());
        }
    } else {
        Record::create(&store, path, takedown).await?;
    }
    open(&store, digest).await?;
    Ok(Begun::Known)
}

/// Has the job go on with a takedown.
async fn open(store: &Store, digest: &Digest) -> Result<(), StorageError> {
    let options = PutOptions { condition: Condition::IfAbsent, ..PutOptions::default() };
    match store.put(&Key::OpenTakedown(digest).path(), Body::Empty, options).await {
        Ok(_) | Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What is known of a takedown; `None` if there is none.
pub async fn state(
    app: &App,
    context: &Context,
    digest: &Digest,
) -> Result<Option<Takedown>, RepositoryError> {
    let record = Record::<Takedown>::read(&app.store(context), Key::Takedown(digest).path()).await?;
    Ok(record.map(|record| record.value))
}

/// Makes a step of an open takedown. Returns how far it is; `None` if there is none.
pub async fn step(
    app: &App,
    context: &Context,
    digest: &Digest,
) -> Result<Option<Takedown>, RepositoryError> {
    let (store, blobs) = (app.store(context), app.blobs(context));
    let begun = app.clock.now();
    let Some(record) = Record::<Takedown>::read(&store, Key::Takedown(digest).path()).await? else {
        // A runner that is late may have blocked what was lifted.
        mark(&blobs, digest, Some(State::TakenDown), State::Swept).await?;
        store.once().delete(&[Key::OpenTakedown(digest).path()]).await?;
        return Ok(None);
    };
    let opened = store.head(&Key::OpenTakedown(digest).path()).await?.map(|meta| meta.modified);
    // Whoever was refused may still be storing the bytes, and was refused up to so long after that write.
    let is_young = opened.is_none_or(|opened| begun.milliseconds_since(opened) < REOPEN + REST);
    let limits = Limits::new(app, context);
    let run = Run { app, context, digest, store, blobs, begun, opened: opened.filter(|_| !is_young), limits };
    Box::pin(run.go_on(record)).await.map(Some)
}

/// The outcome of a request to lift a takedown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifted {
    /// The content can be pushed again.
    Done,
    /// There is no takedown.
    Absent,
    /// It is not finished.
    Open,
    /// Calls that delete the content may be under way until then.
    Resting(Timestamp),
}

/// Lets content be pushed again.
pub async fn lift(app: &App, context: &Context, digest: &Digest) -> Result<Lifted, RepositoryError> {
    let (store, blobs, now) = (app.store(context), app.blobs(context), app.clock.now());
    let Some(mut record) = Record::<Takedown>::read(&store, Key::Takedown(digest).path()).await? else {
        return Ok(Lifted::Absent);
    };
    let rests = Timestamp(record.value.changed.0 + REST);
    match record.value.part {
        Part::Done if now < rests => return Ok(Lifted::Resting(rests)),
        Part::Done | Part::Lifted => {}
        Part::Linked | Part::All | Part::Again => return Ok(Lifted::Open),
    }
    (record.value.part, record.value.changed) = (Part::Lifted, now);
    // From here on, no step deletes anything, and no takedown begins until the last call of this has landed.
    if !record.write(&store).await? {
        return Ok(Lifted::Open);
    }
    mark(&blobs, digest, Some(State::TakenDown), State::Swept).await?;
    if app.clock.now().milliseconds_since(now) > LAST_CALL {
        let message = "the lift takes too long".to_owned();
        let kind = StorageErrorKind::Backend { operation: "delete", message, retryable: true };
        return Err(store.error(&Key::Takedown(digest).path(), kind).into());
    }
    // Another record is that of another lift, or of a takedown.
    let is_gone = record.remove(&store, &*app.clock).await?;
    Ok(if is_gone { Lifted::Done } else { Lifted::Open })
}

/// Writes a marker over the one that is there: if that is `over`, or over any. Returns when it was written; `None` if another
/// one stays.
async fn mark(
    blobs: &Blobs,
    digest: &Digest,
    over: Option<State>,
    state: State,
) -> Result<Option<Timestamp>, StorageError> {
    for _ in 0..TRIES {
        let seen = blobs.marker(digest).await?;
        let found = seen.as_ref().map(|seen| seen.state);
        if found == Some(state) || (over.is_some() && found != over) {
            return Ok(seen.filter(|seen| seen.state == state).map(|seen| seen.written));
        }
        if let Some(marker) = blobs.mark(digest, seen.as_ref(), state).await? {
            return Ok(Some(marker.written));
        }
    }
    let message = "others change the marker".to_owned();
    let kind = StorageErrorKind::Backend { operation: "put", message, retryable: true };
    Err(blobs.store().error(&Key::Marker(digest).path(), kind))
}

/// A step of a takedown.
struct Run<'a> {
    app: &'a App,
    context: &'a Context,
    digest: &'a Digest,
    store: Store,
    blobs: Blobs,
    begun: Timestamp,
    /// When somebody was refused last, if that is long enough ago.
    opened: Option<Timestamp>,
    limits: Limits<'a>,
}

impl Run<'_> {
    async fn go_on(&self, mut record: Record<Takedown>) -> Result<Takedown, RepositoryError> {
        match record.value.part {
            Part::Lifted => {
                // Whoever lifts it ends that.
                self.close().await?;
                return Ok(record.value);
            }
            Part::Done if self.opened.is_none() => return self.delete_refused(record).await,
            // A push was refused, and may have stored the bytes.
            Part::Done => {
                (record.value.part, record.value.after) = (Part::Again, None);
                if !record.write(&self.store).await? {
                    return Ok(record.value);
                }
            }
            Part::Linked | Part::All | Part::Again => {}
        }
        let marked = mark(&self.blobs, self.digest, None, State::TakenDown).await?;
        self.delete(&self.stored().await?).await?;
        let takedown = &mut record.value;
        self.forget(takedown.blocked.is_none()).await;
        match (takedown.blocked, marked) {
            // A collection has removed the marker after all: it had looked at the one before. Pushes may have begun since.
            (Some(blocked), Some(marked)) if blocked < marked => {
                takedown.blocked = Some(marked);
                if takedown.part == Part::Again {
                    takedown.after = None;
                }
            }
            (Some(_), _) => {}
            (None, _) => takedown.blocked = Some(self.app.clock.now()),
        }
        let looked = self.look(takedown).await;
        record.value.changed = self.app.clock.now();
        let is_written = record.write(&self.store).await?;
        looked?;
        if is_written && record.value.part == Part::Done {
            self.forget(true).await;
            self.close().await?;
        }
        Ok(record.value)
    }

    /// Deletes what refused pushes have stored so far. Others may be storing it still: the takedown stays open.
    async fn delete_refused(&self, mut record: Record<Takedown>) -> Result<Takedown, RepositoryError> {
        let paths = self.stored().await?;
        if !paths.is_empty() {
            record.value.changed = self.app.clock.now();
            // From here on, it cannot be lifted until the deletion has landed.
            if record.write(&self.store).await? {
                self.delete(&paths).await?;
                self.forget(false).await;
            }
        }
        Ok(record.value)
    }

    /// Goes on through the parts, until one waits or the step has done enough.
    async fn look(&self, takedown: &mut Takedown) -> Result<(), RepositoryError> {
        while takedown.part != Part::Done && takedown.waits_until(self.app.clock.now()).is_none() {
            let name = match takedown.part {
                Part::All => next_in_tree(&self.store, takedown.after.as_deref()).await?,
                _ => self.next_linked(takedown.after.as_deref()).await?,
            };
            let Some((name, after)) = name else {
                takedown.after = None;
                takedown.part = match takedown.part {
                    Part::Linked => Part::All,
                    Part::All => Part::Again,
                    Part::Again | Part::Done | Part::Lifted => Part::Done,
                };
                continue;
            };
            if let Some(name) = name {
                match self.unlink(&name, takedown.subject.as_ref()).await {
                    Ok(removed) => takedown.links += removed,
                    // The writer has made the calls of a request, and goes on.
                    Err(RepositoryError::GoesOn) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            takedown.after = Some(after);
            if self.limits.are_reached(self.app) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next reverse link: its repository, and where the listing goes on.
    async fn next_linked(
        &self,
        after: Option<&str>,
    ) -> Result<Option<(Option<RepositoryName>, String)>, StorageError> {
        let prefix = Key::ReverseLinks(self.digest).path().folder();
        let listing = self.store.list(&prefix, Page { after, limit: 1, folders: false }).await?;
        Ok(match listing.objects.first() {
            Some((path, _)) => {
                let name = trailing_name(path, &prefix).and_then(|name| name.parse().ok());
                Some((name, path.clone()))
            }
            None => listing.next.map(|next| (None, next)),
        })
    }

    /// Removes a repository's links to the content. Returns how many there were.
    async fn unlink(&self, name: &RepositoryName, subject: Option<&Digest>) -> Result<u64, RepositoryError> {
        let (layer, revision) =
            (Key::Layer(name, self.digest).path(), Key::Revision(name, self.digest).path());
        let (layer, revision) = try_join(self.store.head(&layer), self.store.head(&revision)).await?;
        let repository = self.app.repository_to_remove(name, None, self.context);
        let mut removed = 0;
        if revision.is_some() {
            removed += u64::from(repository.delete_manifest(self.digest).await?);
            if let Some(subject) = subject {
                // The writer cannot know the subject: the content is gone.
                let path = Key::Referrer { name, subject, referrer: self.digest }.path();
                self.store.delete(&[path]).await?;
            }
        }
        if layer.is_some() {
            removed += u64::from(repository.unlink_blob(self.digest).await?);
        }
        let reverse_link = self.store.head(&Key::ReverseLink(self.digest, name).path()).await?;
        if let Some(manifest) = reverse_link.as_ref().and_then(signs) {
            let link = Key::Signature { name, manifest: &manifest, signature: self.digest };
            self.store.delete(&[link.path()]).await?;
            removed += 1;
        }
        Ok(removed)
    }

    /// The bytes, wherever they are, and what says so.
    async fn stored(&self) -> Result<Vec<Path>, StorageError> {
        let data = Key::Data(self.digest).path();
        let (found, described) = both(self.store.head(&data), self.blobs.described(self.digest)).await?;
        let mut paths: Vec<Path> = found.map(|_| data).into_iter().collect();
        if let Some(described) = described {
            if let Some(at) = described.elsewhere() {
                let blob = Key::uuid_of_blob(at.as_str());
                paths
                    .push(blob.map_or_else(|| Key::UploadBlob(at).path(), |blob| Key::BlobNote(blob).path()));
                paths.push(at.clone());
            }
            paths.push(Key::Descriptor(self.digest).path());
        }
        Ok(paths)
    }

    /// Deletes what is [stored](Self::stored). Until the takedown is lifted, nobody writes there but pushes that will be
    /// refused.
    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        if paths.is_empty() {
            return Ok(());
        }
        if self.app.clock.now().milliseconds_since(self.begun) > LAST_CALL {
            let message = "the step takes too long".to_owned();
            let kind = StorageErrorKind::Backend { operation: "delete", message, retryable: true };
            return Err(self.store.error(&Key::Data(self.digest).path(), kind));
        }
        self.store.once().delete(paths).await
    }

    /// Removes the content from the caches that can be reached from here.
    async fn forget(&self, everywhere: bool) {
        self.blobs.evict(self.digest);
        if everywhere && self.context.edge_cache.has_entry_points() {
            // A refused purge leaves copies that nothing but a signed URL reaches.
            let tags = [self.digest.hex().to_owned()];
            let _refused = self.context.edge_cache.purge_content(&tags).await;
        }
    }

    /// Ends the work of the job, unless somebody was refused since the step has begun.
    async fn close(&self) -> Result<(), StorageError> {
        let path = Key::OpenTakedown(self.digest).path();
        let opened = self.store.head(&path).await?.map(|meta| meta.modified);
        if opened.is_some() && opened == self.opened {
            self.store.once().delete(&[path]).await
        } else {
            Ok(())
        }
    }
}
