//! The purge job: removes leftovers of uploads that no session's alarm removes.
//!
//! A session's alarm removes what the session has recorded. Two kinds of object can remain: one staged by a
//! request that then died, and the bytes of a blob whose descriptor was never written, which a note names. The job
//! lists only what uploads left behind, so its cost does not grow with the registry. The binding cannot list
//! multipart uploads: the bucket's lifecycle rule aborts those without a session after 7 days.

use futures_util::future::LocalBoxFuture;
use serde_json::json;

use super::{Job, Step};
use crate::{
    app::App,
    blobs::{
        Blobs, Descriptor, Freshness, Located,
        marker::{Marker, State},
    },
    config::JobMode,
    context::Context,
    layout::Key,
    oci::Digest,
    platform::Timestamp,
    repository::{LinkReason, RepositoryError, catalog::repositories_of},
    storage::{ObjectMeta, Page, Path, StorageError, StorageErrorKind},
    uploads::noted_digest,
};

/// Limit of objects per step. A blob of several parts costs a look-up.
const STEP: usize = 500;

/// Removes objects of uploads that belong to no blob.
pub struct Purge {
    /// Only objects last written before this.
    pub before: Timestamp,
    /// Whether to remove them or only report them.
    pub mode: JobMode,
}

impl Job for Purge {
    fn name(&self) -> &'static str {
        "purge"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            let blobs = app.blobs(context);
            let page = Page { after: cursor.as_deref(), limit: STEP, folders: false };
            let listing = blobs.store().list(&Key::Uploads.path().folder(), page).await?;
            let (mut paths, mut failed) = (Vec::new(), Vec::new());
            for (path, meta) in &listing.objects {
                let Ok(path) = path.parse::<Path>() else { continue };
                if meta.modified >= self.before {
                    continue;
                }
                // One bad object must not keep the job from the others.
                match self.leftovers(app, context, &path, meta).await {
                    Ok(leftovers) => paths.extend(leftovers),
                    Err(error) => failed.push(error.to_string()),
                }
            }
            let is_dry_run = self.mode != JobMode::On;
            if !is_dry_run {
                blobs.store().delete(&paths).await?;
            }
            let purged: Vec<&str> = paths.iter().map(Path::as_str).collect();
            let (seen, finished) = (listing.objects.len(), listing.next.is_none());
            let mut report =
                json!({"dry_run": is_dry_run, "seen": seen, "purged": purged, "finished": finished});
            if let Some(report) = report.as_object_mut().filter(|_| !failed.is_empty()) {
                report.insert("failed".to_owned(), failed.into());
            }
            Ok(Step { report, next: listing.next })
        })
    }
}

impl Purge {
    /// The objects to delete, of one found below [`Key::Uploads`].
    async fn leftovers(
        &self,
        app: &App,
        context: &Context,
        path: &Path,
        meta: &ObjectMeta,
    ) -> Result<Vec<Path>, RepositoryError> {
        let blobs = app.blobs(context);
        let Some(blob) = Key::noted_blob(path.as_str()) else {
            let is_leftover = is_leftover(&blobs, path, meta).await?;
            return Ok(is_leftover.then(|| path.clone()).into_iter().collect());
        };
        let bytes = Key::Blob(blob).path();
        let note = if blobs.store().capabilities().lists_metadata {
            Some(meta.clone())
        } else {
            blobs.store().head(path).await?
        };
        let is_unused = match note.as_ref().and_then(noted_digest) {
            Some(digest) => self.is_unused(app, context, &bytes, &digest).await?,
            None => true,
        };
        Ok(if is_unused { vec![bytes, path.clone()] } else { vec![path.clone()] })
    }

    /// Whether noted bytes are no blob. Bytes that were never described, and have the noted digest, become the blob: a
    /// repository may have linked them.
    async fn is_unused(
        &self,
        app: &App,
        context: &Context,
        bytes: &Path,
        digest: &Digest,
    ) -> Result<bool, RepositoryError> {
        let blobs = app.blobs(context);
        let (store, is_on) = (blobs.store(), self.mode == JobMode::On);
        if let Some(located) = blobs.locate(digest, Freshness::Strict).await? {
            let described = blobs.described(digest).await?;
            // What was copied elsewhere, the settle job removes when nobody reads it any more.
            let is_waiting = described.as_ref().and_then(Descriptor::elsewhere) == Some(bytes);
            let is_unused = located.at.as_ref() != Some(bytes) && !is_waiting;
            if is_unused && is_on {
                self.link_again(app, context, digest, &located).await?;
            }
            return Ok(is_unused);
        }
        let Some(ObjectMeta { size, .. }) = store.head(bytes).await? else { return Ok(true) };
        let has_digest = store.digest(bytes, digest.algorithm()).await?.as_ref() == Some(digest);
        if has_digest && is_on {
            let marker = blobs.marker(digest).await?;
            if let Some(Marker { state: State::TakenDown, .. }) = marker {
                return Ok(true);
            }
            if let Some(Marker { state: State::Sweeping, .. }) = marker {
                // What is written there may be deleted.
                let message = "the content is being deleted".to_owned();
                let kind = StorageErrorKind::Backend { operation: "purge", message, retryable: true };
                return Err(store.error(bytes, kind).into());
            }
            blobs.put_descriptor(digest, &Located { size, at: Some(bytes.clone()) }).await?;
        }
        Ok(!has_digest)
    }

    /// Corrects links that name other bytes of a blob: those are about to go.
    async fn link_again(
        &self,
        app: &App,
        context: &Context,
        digest: &Digest,
        located: &Located,
    ) -> Result<(), RepositoryError> {
        for name in repositories_of(&app.store(context), digest, Page::MAX).await? {
            let repository = app.repository(&name, context);
            let found = repository.locate(digest, Freshness::Strict).await?;
            if found.is_some_and(|found| found != *located) {
                repository.link_blob(digest, located, LinkReason::Correction).await?;
            }
        }
        Ok(())
    }
}

/// Whether an object below [`Key::Uploads`] belongs to no blob. Nothing else refers to it, because its
/// session expired long ago.
async fn is_leftover(blobs: &Blobs, path: &Path, meta: &ObjectMeta) -> Result<bool, StorageError> {
    let store = blobs.store();
    let (object, note) = match path.as_str().strip_suffix(Key::UPLOAD_BLOB) {
        Some(object) if store.capabilities().lists_metadata => (object.parse().ok(), Some(meta.clone())),
        Some(object) => (object.parse().ok(), store.head(path).await?),
        None => (Some(path.clone()), store.head(&Key::UploadBlob(path).path()).await?),
    };
    let digest = note.as_ref().and_then(noted_digest);
    let Some((object, digest)) = object.zip(digest) else { return Ok(true) };
    // What was copied elsewhere, the settle job removes when nobody reads it any more.
    let described = blobs.described(&digest).await?;
    Ok(described.as_ref().and_then(Descriptor::elsewhere) != Some(&object))
}
