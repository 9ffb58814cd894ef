//! Purging: removes what uploads have left behind that no session's alarm knows of.
//!
//! A session's alarm removes what the session has stored. What can be left after that is little: an object
//! staged in the moment a request died, or one completed whose descriptor was never written. A multipart
//! upload without a session cannot be listed through the binding; the bucket's own lifecycle rule aborts it
//! after 7 days.
//!
//! The work is done in bounded steps, each from where the one before it stopped.

use crate::{
    body::Body,
    clock::Timestamp,
    content::{Content, Located},
    oci::Digest,
    storage::{Facts, Key, ObjectMeta, Page, Path, PutOptions, StorageDriver, StorageError},
};

/// How many objects one step looks at. Each blob of several parts costs a look-up.
const STEP: usize = 500;

/// The fact in [`Key::UploadBlob`] that says which blob an upload became.
const DIGEST: &str = "digest";
/// The fact in [`Key::PurgeCursor`].
const AFTER: &str = "after";

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purging {
    /// What is left over is removed.
    #[default]
    On,
    /// It is only reported.
    DryRun,
    /// Nothing is looked at.
    Off,
}

impl std::str::FromStr for Purging {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "on" => Ok(Self::On),
            "dry-run" => Ok(Self::DryRun),
            "off" => Ok(Self::Off),
            _ => Err("one of on, dry-run, off".to_owned()),
        }
    }
}

/// What a step has found.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// How many objects it looked at.
    pub seen: usize,
    /// What is left over: removed, unless this is a dry run.
    pub purged: Vec<String>,
    /// Whether it came to the end; the next step starts from the beginning.
    pub finished: bool,
}

/// Notes, before the descriptor is written, which blob an upload's object becomes.
pub async fn note_blob<S: StorageDriver>(
    storage: &S,
    path: &Path,
    digest: &Digest,
) -> Result<(), StorageError> {
    let facts = Facts::from([(DIGEST.to_owned(), digest.to_string())]);
    let options = PutOptions { facts, ..PutOptions::default() };
    storage.put(&Key::UploadBlob(path).path(), Body::Empty, options).await.map(drop)
}

/// One step: everything last written before `before` that belongs to no blob.
pub async fn purge<S: StorageDriver>(
    storage: &S,
    before: Timestamp,
    mode: Purging,
) -> Result<Report, StorageError> {
    let mut report = Report::default();
    if mode == Purging::Off {
        return Ok(report);
    }
    let cursor = Key::PurgeCursor.path();
    let after = storage.head(&cursor).await?.and_then(|meta| meta.facts.get(AFTER).cloned());
    let page = Page { after: after.as_deref(), limit: STEP, folders: false };
    let listing = storage.list(&Key::Uploads.path().folder(), page).await?;
    report.seen = listing.objects.len();
    report.finished = listing.next.is_none();
    let mut paths = Vec::new();
    for (path, meta) in &listing.objects {
        let Ok(path) = path.parse::<Path>() else { continue };
        if meta.modified < before && is_left_over(storage, &path, meta).await? {
            report.purged.push(path.to_string());
            paths.push(path);
        }
    }
    if mode == Purging::On {
        storage.delete(&paths).await?;
    }
    let facts = listing.next.map(|next| Facts::from([(AFTER.to_owned(), next)])).unwrap_or_default();
    storage.put(&cursor, Body::Empty, PutOptions { facts, ..PutOptions::default() }).await?;
    Ok(report)
}

/// Whether an object below [`Key::Uploads`] belongs to no blob. Nothing else refers to it: its session's time
/// was over long ago.
async fn is_left_over<S: StorageDriver>(
    storage: &S,
    path: &Path,
    meta: &ObjectMeta,
) -> Result<bool, StorageError> {
    let (object, note) = match path.as_str().strip_suffix(Key::UPLOAD_BLOB) {
        Some(object) if storage.capabilities().lists_facts => (object.parse().ok(), Some(meta.clone())),
        Some(object) => (object.parse().ok(), storage.head(path).await?),
        None => (Some(path.clone()), storage.head(&Key::UploadBlob(path).path()).await?),
    };
    let digest = note.and_then(|note| note.facts.get(DIGEST)?.parse::<Digest>().ok());
    let Some((object, digest)) = object.zip(digest) else { return Ok(true) };
    let located = Content::new(storage).located_by_descriptor(&digest).await?;
    Ok(located.and_then(|Located { at, .. }| at) != Some(object))
}
