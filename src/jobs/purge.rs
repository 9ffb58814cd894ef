//! The purge job: removes leftovers of uploads that no session's alarm removes.
//!
//! A session's alarm removes what the session has recorded. Two kinds of object can remain: one staged by a
//! request that then died, and one completed without a descriptor. The binding cannot list multipart uploads:
//! the bucket's lifecycle rule aborts those without a session after 7 days.

use futures_util::future::LocalBoxFuture;
use serde_json::json;

use super::{Job, Step};
use crate::{
    app::App,
    blobs::{Blobs, Located},
    config::PurgeMode,
    context::Context,
    layout::Key,
    platform::Timestamp,
    repository::RepositoryError,
    storage::{ObjectMeta, Page, Path, StorageError},
    uploads::noted_digest,
};

/// Limit of objects per step. A blob of several parts costs a look-up.
const STEP: usize = 500;

/// Removes objects of uploads that belong to no blob.
pub struct Purge {
    /// Only objects last written before this.
    pub before: Timestamp,
    /// Whether to remove them or only report them.
    pub mode: PurgeMode,
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
            let mut paths = Vec::new();
            for (path, meta) in &listing.objects {
                let Ok(path) = path.parse::<Path>() else { continue };
                if meta.modified < self.before && is_leftover(&blobs, &path, meta).await? {
                    paths.push(path);
                }
            }
            let is_dry_run = self.mode != PurgeMode::On;
            if !is_dry_run {
                blobs.store().delete(&paths).await?;
            }
            let purged: Vec<&str> = paths.iter().map(Path::as_str).collect();
            let (seen, finished) = (listing.objects.len(), listing.next.is_none());
            let report = json!({"dry_run": is_dry_run, "seen": seen, "purged": purged, "finished": finished});
            Ok(Step { report, next: listing.next })
        })
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
    let located = blobs.descriptor(&digest).await?;
    Ok(located.and_then(|Located { at, .. }| at) != Some(object))
}
