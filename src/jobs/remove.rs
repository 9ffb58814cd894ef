//! Removes what administrators have asked for: whole repositories, and content that is [taken down](super::takedown).
//!
//! A removal of a repository first closes it: its writer refuses pushes of manifests, and goes on to do so after a restart.
//! Then go, each through the writer as if a client had deleted it: tags, manifests, and the links of layers; then what is
//! left, and the catalog entry. At last the writer lets pushes in again, to what is a new repository.
//!
//! The [record](Removal) says how far that is, and every part looks for what is left of it: a step may end anywhere, and
//! may be made twice. Two runners at the same time do the same. What the record says before the repository is reopened
//! keeps a runner that is late from closing it again, and the writer refuses the calls of a removal that is over.

use futures_util::{StreamExt, future::LocalBoxFuture, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Job, Step, record::Record, takedown};
use crate::{
    app::App,
    context::Context,
    layout::{Key, Link, Removed},
    oci::{Digest, RepositoryName, Tag},
    platform::Timestamp,
    repository::{Repository, RepositoryError, writer::protocol::Command},
    storage::{Page, StorageError},
};

/// The storage calls and calls of objects after which a step ends, about.
const CALLS: u32 = 300;

/// How long a step takes, in milliseconds, about.
const PATIENCE: u64 = 10_000;

/// Limit of what is deleted before the step looks whether it has done enough.
const BATCH: usize = 50;

/// Calls of a repository's writer at the same time.
const CONCURRENCY: usize = 6;

/// When a step ends.
pub(super) struct Limits<'a> {
    context: &'a Context,
    calls: u32,
    until: Timestamp,
}

impl<'a> Limits<'a> {
    /// Those of a step that begins now.
    pub(super) fn new(app: &App, context: &'a Context) -> Self {
        let calls = calls(context).saturating_add(CALLS);
        Self { context, calls, until: Timestamp(app.clock.now().0 + PATIENCE) }
    }

    /// Whether the step has done enough.
    pub(super) fn are_reached(&self, app: &App) -> bool {
        calls(self.context) >= self.calls || app.clock.now() >= self.until
    }
}

fn calls(context: &Context) -> u32 {
    context.log.storage_calls().0 + context.log.object_calls()
}

/// A part of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Tags are deleted.
    Tags,
    /// Manifests are deleted.
    Manifests,
    /// Links to layers are removed.
    Layers,
    /// What is left is deleted.
    Leftovers,
    /// Pushes are let in again.
    Reopening,
}

impl Part {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tags => "tags",
            Self::Manifests => "manifests",
            Self::Layers => "layers",
            Self::Leftovers => "leftovers",
            Self::Reopening => "reopening",
        }
    }
}

/// What is known of the removal of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Names it to the writer.
    removal: Uuid,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What is being removed.
    pub part: Part,
    /// Where the listing of that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// How many tags were deleted.
    pub tags: u64,
    /// How many manifests were deleted.
    pub manifests: u64,
    /// How many links to layers were removed.
    pub layers: u64,
}

/// Begins the removal of a repository, unless it is under way; `false` if there is no such repository.
pub async fn begin(app: &App, context: &Context, name: &RepositoryName) -> Result<bool, RepositoryError> {
    let (store, path) = (app.store(context), Key::Removal(name).path());
    if store.head(&path).await?.is_some() {
        return Ok(true);
    }
    if app.repository(name, context).tags(None, 0).await?.is_none() {
        return Ok(false);
    }
    let removal = Removal {
        removal: Uuid::new_v4(),
        by: context.principal.name(),
        at: app.clock.now(),
        part: Part::Tags,
        after: None,
        tags: 0,
        manifests: 0,
        layers: 0,
    };
    Record::create(&store, path, removal).await?;
    Ok(true)
}

/// Makes a step of the removal of a repository. Returns how far it is, and whether it is finished; `None` if there is no such
/// removal.
pub async fn step(
    app: &App,
    context: &Context,
    name: &RepositoryName,
) -> Result<Option<(Removal, bool)>, RepositoryError> {
    let store = app.store(context);
    let Some(record) = Record::<Removal>::read(&store, Key::Removal(name).path()).await? else {
        return Ok(None);
    };
    let limits = Limits::new(app, context);
    let run = Run { app, context, name, removal: record.value.removal, limits };
    Box::pin(run.go_on(record)).await.map(Some)
}

/// A step of a removal.
struct Run<'a> {
    app: &'a App,
    context: &'a Context,
    name: &'a RepositoryName,
    removal: Uuid,
    limits: Limits<'a>,
}

impl Run<'_> {
    async fn go_on(&self, mut record: Record<Removal>) -> Result<(Removal, bool), RepositoryError> {
        let store = self.app.store(self.context);
        if record.value.part != Part::Reopening {
            let close = Command::Close { removal: self.removal };
            let is_closed = self.command(None, close).await?;
            // A runner that is late must not close what another one has reopened.
            if is_closed && !record.is_current(&store).await? {
                self.command(None, Command::Reopen { removal: self.removal }).await?;
                return Ok((record.value, false));
            }
        }
        while record.value.part != Part::Reopening {
            let part = self.remove(&mut record.value).await;
            // What it has done is counted, whatever became of the rest.
            let next = match &part {
                Ok(next) => *next,
                Err(_) => None,
            };
            if let Some(next) = next {
                (record.value.part, record.value.after) = (next, None);
            }
            let is_over = self.limits.are_reached(self.app) || next.is_none();
            if (is_over || next == Some(Part::Reopening)) && !record.write(&store).await? {
                // Another runner goes on.
                return part.map(|_| (record.value, false));
            }
            part?;
            if is_over {
                return Ok((record.value, false));
            }
        }
        self.command(None, Command::Reopen { removal: self.removal }).await?;
        let removal = record.value.clone();
        // If another record is there, another runner has ended this removal, and the next one has begun.
        record.remove(&store, &*self.app.clock).await?;
        Ok((removal, true))
    }

    async fn command(&self, removal: Option<Uuid>, command: Command) -> Result<bool, RepositoryError> {
        self.app.command_removal(self.name, removal, command, self.context).await
    }

    /// Removes some of a part. Returns the next part, if nothing is left of this one.
    async fn remove(&self, removal: &mut Removal) -> Result<Option<Part>, RepositoryError> {
        let repository = self.app.repository_to_remove(self.name, Some(self.removal), self.context);
        let removed = match removal.part {
            Part::Tags => Box::pin(self.remove_tags(&*repository, removal)).await,
            Part::Manifests => Box::pin(self.remove_manifests(&*repository, removal)).await,
            Part::Layers => Box::pin(self.remove_layers(&*repository, removal)).await,
            Part::Leftovers => self.remove_leftovers().await,
            Part::Reopening => return Ok(None),
        };
        let is_whole = match removed {
            Ok(is_whole) => is_whole,
            // The writer has made the calls of a request, and goes on.
            Err(RepositoryError::GoesOn) => false,
            Err(error) => return Err(error),
        };
        Ok(is_whole.then_some(match removal.part {
            Part::Tags => Part::Manifests,
            Part::Manifests => Part::Layers,
            Part::Layers => Part::Leftovers,
            Part::Leftovers | Part::Reopening => Part::Reopening,
        }))
    }

    async fn remove_tags(
        &self,
        repository: &dyn Repository,
        removal: &mut Removal,
    ) -> Result<bool, RepositoryError> {
        let mut after = None;
        while !self.limits.are_reached(self.app) {
            let page = repository.tags(after.as_deref(), BATCH).await?;
            let Some(page) = page else { return Ok(true) };
            let tags: Vec<Tag> = page.entries.iter().filter_map(|tag| tag.parse().ok()).collect();
            let deleted = tags.iter().map(async |tag| repository.delete_tag(tag).await);
            removal.tags += count(deleted).await?;
            after = page.next;
            if after.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn remove_manifests(
        &self,
        repository: &dyn Repository,
        removal: &mut Removal,
    ) -> Result<bool, RepositoryError> {
        let (prefix, mut after) = (Key::Revisions(self.name).path().folder(), None::<String>);
        while !self.limits.are_reached(self.app) {
            let (links, next) = self.links(&prefix, after.as_deref()).await?;
            let digests: Vec<Digest> = links.into_iter().map(|(digest, _)| digest).collect();
            let deleted = digests.iter().map(async |digest| repository.delete_manifest(digest).await);
            removal.manifests += count(deleted).await?;
            after = next;
            if after.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those that were written since the removal has begun are of pushes to the repository that comes after.
    async fn remove_layers(
        &self,
        repository: &dyn Repository,
        removal: &mut Removal,
    ) -> Result<bool, RepositoryError> {
        let prefix = Key::Layers(self.name).path().folder();
        while !self.limits.are_reached(self.app) {
            let (links, next) = self.links(&prefix, removal.after.as_deref()).await?;
            let old = links.into_iter().filter(|(_, written)| *written <= removal.at);
            let digests: Vec<Digest> = old.map(|(digest, _)| digest).collect();
            let unlinked = digests.iter().map(async |digest| repository.unlink_blob(digest).await);
            removal.layers += count(unlinked).await?;
            if next.is_none() {
                return Ok(true);
            }
            removal.after = next;
        }
        Ok(false)
    }

    async fn remove_leftovers(&self) -> Result<bool, RepositoryError> {
        while !self.limits.are_reached(self.app) {
            if !self.command(Some(self.removal), Command::Clear).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A page of the links of a folder, with the times at which they were written.
    async fn links(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<(Vec<(Digest, Timestamp)>, Option<String>), StorageError> {
        let page = Page { after, limit: BATCH, folders: false };
        let listing = self.app.store(self.context).list(prefix, page).await?;
        let links = listing.objects.iter().filter_map(|(path, meta)| match Link::parse(path)? {
            Link::Layer(_, digest) | Link::Revision(_, digest) => Some((digest, meta.modified)),
            // They go with their manifest.
            Link::Signature { .. } => None,
        });
        Ok((links.collect(), listing.next))
    }
}

/// Counts the deletions that found something. Each is carried out, whatever becomes of the others.
async fn count<F>(deletions: impl Iterator<Item = F>) -> Result<u64, RepositoryError>
where
    F: Future<Output = Result<bool, RepositoryError>>,
{
    let done: Vec<_> = stream::iter(deletions).buffer_unordered(CONCURRENCY).collect().await;
    let done: Vec<bool> = done.into_iter().collect::<Result<_, _>>()?;
    Ok(done.into_iter().filter(|is_done| *is_done).count() as u64)
}

/// Begins a cursor while a removal before it has more to do now. No key of the bucket begins with it.
const UNFINISHED: char = '+';

/// The job that goes on with removals. They take turns, a step each, so that a long one does not keep others from theirs. A run
/// ends when none of them has more to do now.
pub struct Remove;

impl Job for Remove {
    fn name(&self) -> &'static str {
        "remove"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            let prefix = Key::Removals.path().folder();
            let unfinished = cursor.as_deref().and_then(|cursor| cursor.strip_prefix(UNFINISHED));
            let page = Page { after: unfinished.or(cursor.as_deref()), limit: 1, folders: false };
            let listing = app.store(context).list(&prefix, page).await?;
            let next = |after: Option<&str>, is_over: bool| match after {
                Some(after) if is_over => Some(after.to_owned()),
                Some(after) => Some(format!("{UNFINISHED}{after}")),
                None if is_over => None,
                // It sorts before all of them; with its slash, it would be a folder to skip.
                None => Some(Key::Removals.to_string()),
            };
            let Some((path, _)) = listing.objects.first() else {
                let next = next(listing.next.as_deref(), unfinished.is_none());
                return Ok(Step { report: json!({}), next });
            };
            let (report, is_over) = match Removed::parse(path) {
                Some(Removed::Repository(name)) => repository_step(app, context, &name).await,
                Some(Removed::Content(digest)) => takedown_step(app, context, &digest).await,
                None => (json!({"failed": [format!("{path} is no removal")]}), true),
            };
            let after = listing.next.as_ref().map(|_| path.as_str());
            let next = next(after, is_over && unfinished.is_none());
            Ok(Step { report, next })
        })
    }
}

/// The report of a step, and whether another one has nothing to do now.
async fn repository_step(app: &App, context: &Context, name: &RepositoryName) -> (Value, bool) {
    match step(app, context, name).await {
        Ok(None) => (json!({}), true),
        Ok(Some((_, is_done))) => (json!({"repositories_removed": u64::from(is_done)}), is_done),
        Err(error) => (json!({"failed": [format!("{name}: {error}")]}), true),
    }
}

async fn takedown_step(app: &App, context: &Context, digest: &Digest) -> (Value, bool) {
    match takedown::step(app, context, digest).await {
        Ok(None) => (json!({}), true),
        Ok(Some(takedown)) => {
            let is_done = takedown.part == takedown::Part::Done;
            let is_over = is_done || takedown.waits_until(app.clock.now()).is_some();
            (json!({"content_taken_down": u64::from(is_done)}), is_over)
        }
        Err(error) => (json!({"failed": [format!("{digest}: {error}")]}), true),
    }
}
