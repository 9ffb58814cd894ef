//! Settling: copies the bytes of blobs that have a key of their own, which are those of several parts, to their canonical
//! key, where `distribution` looks for them.
//!
//! For each descriptor that names another place K:
//!
//! 1. look at the marker: content that is condemned, or that was just swept, is left alone;
//! 2. copy K to [`Key::Data`], verified by the store, in one call; what is too large for that, part by part: see [`copy`];
//!    bytes that are there already are hashed, since K is deleted on the strength of them;
//! 3. look at the marker again: if it has changed, leave everything as it is;
//! 4. write the descriptor, on the condition that it is still the same: the bytes are at the canonical key, and were at K;
//! 5. in a later run, when no presigned URL and no cached answer leads to K any more, delete K.
//!
//! The canonical key is written without a reverse link of the job's own. That is safe: the bytes are verified, so a write
//! that lands late adds right bytes, and a sweep removes them, or the next collection finds that nobody links them. What
//! counts is that nobody is told of bytes that a deletion under way may take. Between two equal looks at the marker, less
//! than [`HOLD`] apart, no sweep has begun; and one that begins later reads the descriptor, before or after it is written,
//! and deletes both places. K is deleted without a condition, since nobody ever writes there again.
//!
//! Links are never written: the place in a link is a hint.

mod copy;
mod failures;

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use failures::Failure;

use super::{Job, Step};
use crate::{
    app::App,
    blobs::{
        Blobs, Descriptor,
        marker::{HOLD, Marker},
    },
    context::Context,
    layout::{Key, trailing_digest},
    oci::{Algorithm, Digest},
    platform::Timestamp,
    repository::RepositoryError,
    storage::{Condition, Object, ObjectMeta, Page, Path, PutOptions, StorageError, StorageErrorKind, both},
};

/// Limit of the texts in a list of a report.
const LISTED: usize = 20;

/// The settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct Settle {
    /// How long bytes stay at their first place after they were copied, in seconds.
    pub wait: u64,
    /// Whether to report only.
    pub is_dry_run: bool,
    /// The bytes after which a step begins no further copy.
    pub bytes: u64,
    /// The bytes of a blob that a step copies part by part. Each of them is hashed.
    pub hashed: u64,
    /// The length from which blobs are copied part by part, in bytes; at most what the store accepts.
    pub max_put: u64,
    /// The storage calls after which a step ends, about.
    pub calls: u32,
}

/// How far a run has come.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cursor {
    /// The position in [`Algorithm::ALL`].
    folder: usize,
    /// The last key that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Whether no copy is under way, part by part. The first step of a run looks for one: another run may have been
    /// cancelled.
    #[serde(default)]
    has_no_copy: bool,
}

/// What a step has done, or would do.
#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    finished: bool,
    /// Descriptors looked at.
    descriptors: u64,
    /// Blobs whose bytes are at the canonical key now, and their length.
    settled: u64,
    bytes_settled: u64,
    /// Bytes of larger blobs, copied part by part and hashed.
    bytes_hashed: u64,
    /// Objects removed whose bytes were copied before, and their length.
    removed: u64,
    bytes_removed: u64,
    /// Blobs that are too young, or whose first object may still be read.
    waiting: u64,
    /// Blobs that somebody else is about to delete or to keep.
    busy: u64,
    /// What is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<String>,
}

/// What became of the copy of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// The bytes are at the canonical key.
    Done,
    /// They cannot be copied now, or never; the report says why.
    Left,
    /// Later steps copy it.
    Begun,
}

/// One step.
struct Run<'a> {
    job: &'a Settle,
    app: &'a App,
    context: &'a Context,
    blobs: Blobs,
    /// The calls that the context has counted when the step ends.
    last_call: u32,
    /// The bytes that were copied in whole.
    copied: u64,
    /// What has failed before, once it is read.
    failures: Option<Vec<Failure>>,
    report: Report,
}

impl Job for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            if !self.is_dry_run {
                app.check_deployment(context).await?;
            }
            let cursor = cursor.and_then(|cursor| serde_json::from_str(&cursor).ok()).unwrap_or_default();
            let mut run = Run {
                job: self,
                app,
                context,
                blobs: app.blobs(context),
                last_call: context.log.storage_calls().0.saturating_add(self.calls),
                copied: 0,
                failures: None,
                report: Report { dry_run: self.is_dry_run, ..Report::default() },
            };
            let next = Box::pin(run.go_on(cursor)).await?;
            let next = next.and_then(|next| serde_json::to_string(&next).ok());
            run.report.finished = next.is_none();
            Ok(Step { report: serde_json::to_value(run.report).unwrap_or_default(), next })
        })
    }
}

/// Whether an object may have the bytes of a blob of several parts, and nothing else: what is copied is deleted then.
fn is_of_blob(path: &Path) -> bool {
    Key::uuid_of_blob(path.as_str()).is_some() || path.as_str().starts_with(&Key::Uploads.path().folder())
}

/// Whether content is as safe as without a marker.
fn is_quiet(marker: Option<&Marker>, now: Timestamp) -> bool {
    marker.is_none_or(|marker| marker.is_over(now))
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.copied >= self.job.bytes || self.context.log.storage_calls().0 >= self.last_call
    }

    /// Works until the step is over; `None` at the end of the run.
    async fn go_on(&mut self, mut cursor: Cursor) -> Result<Option<Cursor>, StorageError> {
        if !cursor.has_no_copy && !self.job.is_dry_run {
            if !Box::pin(self.go_on_copying()).await? {
                return Ok(Some(cursor));
            }
            cursor.has_no_copy = true;
        }
        let mut has_begun = false;
        while let Some(algorithm) = Algorithm::ALL.get(cursor.folder).copied() {
            let folder = Key::Descriptors(algorithm).path().folder();
            let page = Page { after: cursor.after.as_deref(), ..Page::first() };
            let listing = self.blobs.store().list(&folder, page).await?;
            for (key, meta) in listing.objects {
                // A step makes some progress, even if the listing took all its calls.
                if self.is_over() && has_begun {
                    return Ok(Some(cursor));
                }
                has_begun = true;
                let looked = self.look_at(&key, &meta).await;
                cursor.after = Some(key);
                match looked {
                    Ok(Copied::Begun) => return Ok(Some(Cursor { has_no_copy: false, ..cursor })),
                    Ok(Copied::Done | Copied::Left) => {}
                    // One bad object must not keep the job from the others.
                    Err(error) => self.failed(error.to_string()),
                }
            }
            cursor.after = listing.next;
            if cursor.after.is_none() {
                cursor = Cursor { folder: cursor.folder + 1, has_no_copy: true, after: None };
            }
        }
        Ok(None)
    }

    fn failed(&mut self, text: String) {
        if self.report.failed.len() < LISTED {
            self.report.failed.push(text);
        }
    }

    /// Does the next thing for the blob of a listed descriptor.
    async fn look_at(&mut self, key: &str, listed: &ObjectMeta) -> Result<Copied, StorageError> {
        let Some(digest) = trailing_digest(key) else { return Ok(Copied::Left) };
        self.report.descriptors += 1;
        if Descriptor::is_placeless(listed) {
            return Ok(Copied::Done);
        }
        let descriptor = match self.blobs.store().capabilities().lists_metadata {
            true => Descriptor::from_object(listed),
            false => self.blobs.described(&digest).await?,
        };
        let Some(descriptor) = descriptor else { return Ok(Copied::Left) };
        if !descriptor.elsewhere().is_some_and(is_of_blob) {
            return Ok(Copied::Left);
        }
        let now = self.app.clock.now();
        if let Some(at) = &descriptor.located.at {
            if now.milliseconds_since(descriptor.written) < HOLD {
                // Its push may be under way.
                self.report.waiting += 1;
                return Ok(Copied::Left);
            }
            return Box::pin(self.settle(&digest, &descriptor, at)).await;
        }
        if let Some(was) = &descriptor.was {
            let settled = descriptor.settled.unwrap_or(descriptor.written);
            if now < settled.plus_seconds(self.job.wait) {
                self.report.waiting += 1;
                return Ok(Copied::Left);
            }
            Box::pin(self.remove(&digest, &descriptor, was)).await?;
        }
        Ok(Copied::Done)
    }

    /// Copies the bytes of a blob, and moves its descriptor.
    async fn settle(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        at: &Path,
    ) -> Result<Copied, StorageError> {
        let begun = self.app.clock.now();
        let marker = self.blobs.marker(digest).await?;
        if !is_quiet(marker.as_ref(), begun) {
            self.report.busy += 1;
            return Ok(Copied::Left);
        }
        if self.job.is_dry_run {
            self.report.settled += 1;
            self.report.bytes_settled += descriptor.located.size;
            return Ok(Copied::Done);
        }
        let store = self.blobs.store();
        let data = Key::Data(digest).path();
        let copied = match store.head(&data).await? {
            // An earlier run may have been interrupted, or another program has copied it.
            Some(found) => return Box::pin(self.begin_check(digest, descriptor, at, found)).await,
            None if descriptor.located.size > self.job.max_put.min(store.capabilities().max_put) => {
                return Box::pin(self.begin_copy(digest, descriptor, at)).await;
            }
            None => self.copy(digest, at, descriptor.located.size).await?,
        };
        if copied == Copied::Begun {
            // Somebody else has put it there meanwhile, or the answer was lost.
            let Some(found) = self.blobs.store().head(&data).await? else { return Ok(Copied::Left) };
            return Box::pin(self.begin_check(digest, descriptor, at, found)).await;
        }
        if copied != Copied::Done {
            return Ok(copied);
        }
        self.move_descriptor(digest, descriptor, at, (begun, marker)).await?;
        Ok(Copied::Done)
    }

    fn has_length(&mut self, digest: &Digest, found: &ObjectMeta, expected: u64) -> Copied {
        if found.size == expected {
            return Copied::Done;
        }
        self.failed(format!("{digest}: {} bytes in place of {expected}", found.size));
        Copied::Left
    }

    /// Copies a blob with one call. The store verifies its digest, so that nothing of it is read here. `Begun` says that
    /// there are bytes which the store has not verified in this call.
    async fn copy(&mut self, digest: &Digest, at: &Path, size: u64) -> Result<Copied, StorageError> {
        let Some(Object { meta, body }) = self.blobs.store().get(at, None).await? else {
            self.failed(format!("{digest}: there is no {at}"));
            return Ok(Copied::Left);
        };
        let is_right = self.has_length(digest, &meta, size) == Copied::Done;
        if !is_right || self.has_failed(digest, at, &meta.etag).await? {
            body.cancel();
            return Ok(Copied::Left);
        }
        // Not every store can verify a sha512 and a condition at once. The same bytes may be written twice.
        let condition = match digest.algorithm() {
            Algorithm::Sha256 => Condition::IfAbsent,
            Algorithm::Sha512 => Condition::Always,
        };
        let options = PutOptions { digest: Some(digest), condition, ..PutOptions::default() };
        self.copied += size;
        match self.blobs.store().put(&Key::Data(digest).path(), body, options).await {
            Ok(_) => Ok(Copied::Done),
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(Copied::Begun),
            Err(StorageError { kind: StorageErrorKind::DigestMismatch, .. }) => {
                let (now, why) =
                    (self.app.clock.now(), format!("{digest}: the bytes at {at} have another digest"));
                self.has_damage(Failure::new(digest, at, &meta.etag, now, why)).await?;
                Ok(Copied::Left)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that the bytes are at the canonical key, unless the content was condemned since it was `seen`.
    async fn move_descriptor(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        at: &Path,
        (begun, seen): (Timestamp, Option<Marker>),
    ) -> Result<(), StorageError> {
        let marker = self.blobs.marker(digest).await?;
        let is_recent = self.app.clock.now().milliseconds_since(begun) < HOLD;
        if !is_recent || marker != seen || !self.blobs.settle_descriptor(digest, descriptor, Some(at)).await?
        {
            // The copy stays. If it is of no use, the collection finds it.
            self.report.busy += 1;
            return Ok(());
        }
        self.blobs.evict(digest);
        self.report.settled += 1;
        self.report.bytes_settled += descriptor.located.size;
        Ok(())
    }

    /// Deletes the object from which a blob was copied.
    async fn remove(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        was: &Path,
    ) -> Result<(), StorageError> {
        let data = Key::Data(digest).path();
        let (data, marker) = both(self.blobs.store().head(&data), self.blobs.marker(digest)).await?;
        if !is_quiet(marker.as_ref(), self.app.clock.now()) {
            self.report.busy += 1;
            return Ok(());
        }
        let Some(data) = data else {
            self.failed(format!("{digest}: the copy of {was} is gone"));
            return Ok(());
        };
        if self.has_length(digest, &data, descriptor.located.size) != Copied::Done {
            return Ok(());
        }
        if !self.job.is_dry_run {
            let blob = Key::uuid_of_blob(was.as_str());
            let note = blob.map_or_else(|| Key::UploadBlob(was).path(), |blob| Key::BlobNote(blob).path());
            self.blobs.store().once().delete(&[was.clone(), note]).await?;
            self.blobs.settle_descriptor(digest, descriptor, None).await?;
            self.blobs.evict(digest);
        }
        self.report.removed += 1;
        self.report.bytes_removed += data.size;
        Ok(())
    }
}
