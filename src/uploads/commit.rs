//! Commits an upload that has a session: makes a blob of its bytes, in time independent of their number.

use futures_util::future;
use uuid::Uuid;

use super::{
    CallError, Checkpoint, Command, KEY_PAUSE, Refused, Reply, Upload, UploadAt, UploadError, Uploads,
    append::{Tail, Writer},
    closing,
    ledger::{Ledger, discard},
};
use crate::{
    blobs::{Freshness, Located, marker::Held},
    layout::Key,
    oci::{Digest, RepositoryName, UploadId},
    platform::{Body, Timestamp},
    repository::LinkReason,
    storage::{Metadata, ObjectMeta, Part, Path, PutOptions, StorageError, StorageErrorKind, Store, both},
};

/// The metadata name of the digest in [`Key::BlobNote`] and [`Key::UploadBlob`].
const DIGEST: &str = "digest";

impl Uploads {
    /// Commits an upload with the end of its last chunk, if the request has one. The session checks the digest and
    /// joins the parts, while the blob is looked up: two rounds, with the links.
    pub(super) async fn commit(
        &self,
        at: &UploadAt,
        digest: &Digest,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), UploadError> {
        let command =
            Command::Commit { repository: at.repository.clone(), digest: digest.clone(), checkpoint };
        let begun = self.clock.now();
        let found = self.find_held(&at.repository, digest);
        let (reply, located) = future::join(self.sessions.call(&at.id, command), found).await;
        let upload = match reply {
            Ok(Reply { upload, .. }) => upload,
            Err(CallError::Refused(Refused::WrongDigest)) => {
                self.cancel(at).await?;
                return Err(UploadError::DigestMismatch(digest.clone()));
            }
            // Nothing was ever appended.
            Err(CallError::Refused(Refused::Unknown)) if !at.state.has_session => {
                self.cancel(at).await?;
                return Err(UploadError::DigestMismatch(digest.clone()));
            }
            Err(error) => return Err(error.into()),
        };
        if upload.lacks_last_part() {
            return self.commit_with_last_part(at, digest).await;
        }
        let located = located?;
        if upload.finished.is_some() {
            // The client repeats its request.
            let located = located.ok_or(Refused::Unknown)?;
            self.repository.link_blob(digest, &located, LinkReason::Push).await?;
            return Ok(());
        }
        match upload.object(&at.id) {
            Some(path) => {
                if digest.algorithm() != upload.algorithm {
                    self.verify(at, &upload, &path, digest).await?;
                }
                let located = match self.blobs.is_held_since(begun) {
                    true => located,
                    // To join and hash the parts may have taken long.
                    false => self.find_held(&at.repository, digest).await?,
                };
                self.describe_at(digest, path, upload.blob, upload.offset, located).await?;
            }
            None => {
                let is_verified = digest.algorithm() == upload.algorithm;
                if !(is_verified && located.as_ref().is_some_and(|located| located.size == upload.offset)) {
                    self.put_staged(at, &upload, digest, is_verified, begun).await?;
                }
                self.link_existing(digest, upload.offset, located).await?;
            }
        }
        self.close_later(at, upload, digest);
        Ok(())
    }

    /// Locates a blob, which is kept from being deleted until it is linked. Costs one round.
    async fn find_held(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Located>, StorageError> {
        let located = self.blobs.locate(digest, Freshness::Strict);
        let (located, held) = both(located, self.blobs.hold(name, digest)).await?;
        match held {
            Held::Kept => Ok(located),
            Held::Removed => self.blobs.find(digest).await,
        }
    }

    /// Stores the staged bytes as the last part, then commits.
    async fn commit_with_last_part(&self, at: &UploadAt, digest: &Digest) -> Result<(), UploadError> {
        let ledger = self.claim_at(at, None).await?;
        let end = ledger.upload.staged_length() as usize;
        let mut writer = Writer::new(ledger, self.buffers.clone())?;
        let checkpoint = writer.finish(Tail { buffer: None, range: end..end }).await?;
        Box::pin(self.commit(at, digest, Some(checkpoint))).await
    }

    async fn link_existing(
        &self,
        digest: &Digest,
        size: u64,
        located: Option<Located>,
    ) -> Result<(), UploadError> {
        match located {
            Some(located) => {
                self.repository.link_blob(digest, &located, LinkReason::Push).await?;
                Ok(())
            }
            None => self.link(digest, size).await,
        }
    }

    /// Hashes the joined parts: their digest has another algorithm than the session's hash.
    async fn verify(
        &self,
        at: &UploadAt,
        upload: &Upload,
        path: &Path,
        digest: &Digest,
    ) -> Result<(), UploadError> {
        let store = self.blobs.store();
        if store.digest(path, digest.algorithm()).await?.as_ref() == Some(digest) {
            return Ok(());
        }
        self.cancel(at).await?;
        let mut paths = vec![path.clone()];
        paths.extend(upload.blob.map(|blob| Key::BlobNote(blob).path()));
        store.delete(&paths).await?;
        Err(UploadError::DigestMismatch(digest.clone()))
    }

    /// Stores the bytes of an upload without parts as content, which was `held` then.
    async fn put_staged(
        &self,
        at: &UploadAt,
        upload: &Upload,
        digest: &Digest,
        is_verified: bool,
        held: Timestamp,
    ) -> Result<(), UploadError> {
        let ledger =
            Ledger::of(self.blobs.store().clone(), self.sessions.clone(), at.clone(), upload.clone());
        let end = upload.staged_length() as usize;
        let mut writer = Writer::new(ledger, self.buffers.clone())?;
        let body = writer.body(Tail { buffer: None, range: end..end }).await?;
        let stored = self.put_small(at, body, digest, is_verified, Some(held)).await;
        if let Err(UploadError::DigestMismatch(_)) = &stored {
            self.cancel(at).await?;
        }
        stored
    }

    /// Ends a session whose blob is linked, and deletes what it staged, after the answer. Its alarm repeats that
    /// if it fails.
    pub(super) fn close_later(&self, at: &UploadAt, upload: Upload, digest: &Digest) {
        let upload = Upload { finished: Some(digest.clone()), ..upload };
        let (sessions, store, id) = (self.sessions.clone(), self.blobs.store().clone(), at.id);
        let close = closing(at, Some(digest), None);
        let pause = self.clock.sleep(KEY_PAUSE);
        self.later(async move {
            let closed = sessions.call(&id, close);
            let discarded = async {
                pause.await;
                Ok(discard(&store, &id, &upload, true).await?)
            };
            both(async { Ok::<_, UploadError>(closed.await?) }, discarded).await.map(drop)
        });
    }
}

/// A failure to join the parts of an upload, or to note the digest of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinError {
    /// The answer to the command.
    pub refused: Refused,
    /// Whether the parts are joined nevertheless. The commit must not be taken back then: no chunk can follow.
    pub is_joined: bool,
}

/// Joins the parts of an upload, and notes the digest of the object. Runs in the session. Repeatable.
pub async fn join(
    store: &Store,
    id: &UploadId,
    upload: &Upload,
    digest: &Digest,
    mut parts: Vec<Part>,
) -> Result<(), JoinError> {
    let unjoined = |refused| JoinError { refused, is_joined: false };
    let joined = |refused| JoinError { refused, is_joined: true };
    let refused = |error: StorageError| Refused::Storage {
        retryable: error.is_retryable(),
        message: error.to_string(),
    };
    let Some(((multipart, _), path)) = upload.multipart.as_ref().zip(upload.object(id)) else {
        return Ok(());
    };
    parts.extend(upload.last.clone());
    let completed = async {
        let error = match store.complete_multipart(&path, multipart, &parts).await {
            Ok(meta) if meta.size == upload.offset => return Ok(()),
            Ok(meta) => {
                let message = format!("the joined parts have {} bytes, not {}", meta.size, upload.offset);
                return Err(joined(Refused::Storage { message, retryable: false }));
            }
            Err(error) => error,
        };
        // An earlier attempt may have completed it.
        match store.head(&path).await.map_err(|error| unjoined(refused(error)))? {
            Some(meta) if meta.size == upload.offset => Ok(()),
            // It has expired.
            _ if error.kind == StorageErrorKind::NoSuchUpload => Err(unjoined(Refused::Unknown)),
            _ => Err(unjoined(refused(error))),
        }
    };
    let note = || note_blob(store, &path, upload.blob, digest);
    let (completed, noted) = future::join(completed, note()).await;
    completed?;
    // Joined parts cannot be joined again by a repeated command: try harder.
    match noted {
        Ok(()) => Ok(()),
        Err(_) => note().await.map_err(|error| joined(refused(error))),
    }
}

/// Writes the note with the digest of a [`Key::Blob`], which the purge job reads if its descriptor never comes.
pub async fn note_blob(
    store: &Store,
    path: &Path,
    blob: Option<Uuid>,
    digest: &Digest,
) -> Result<(), StorageError> {
    let key = blob.map_or_else(|| Key::UploadBlob(path).path(), |blob| Key::BlobNote(blob).path());
    let metadata = Metadata::from([(DIGEST.to_owned(), digest.to_string())]);
    let options = PutOptions { metadata, ..PutOptions::default() };
    store.put(&key, Body::Empty, options).await.map(drop)
}

/// The digest in a note.
pub fn noted_digest(note: &ObjectMeta) -> Option<Digest> {
    note.metadata.get(DIGEST)?.parse().ok()
}
