//! The scrub: reads the bytes of all blobs and manifests, and compares their hashes with their digests.
//!
//! It only reports. A step hashes a bounded number of bytes: of a larger blob, the cursor keeps the state of the hash.
//! Nothing is held in memory but a page of a listing.
//!
//! What looks damaged is read a second time before it is reported: a read may break off, and a collection may delete
//! what was listed.

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Job, Step,
    findings::{Findings, lacks_object},
};
use crate::{
    app::App,
    blobs::{Blobs, Located},
    context::Context,
    layout::{Key, data_digest, trailing_digest},
    oci::{Algorithm, Digest, HashState, Hasher},
    platform::{Body, ByteRange, metrics::Finding},
    repository::RepositoryError,
    storage::{Object, ObjectMeta, Page, Path, StorageError, StorageErrorKind},
};

/// Page size of the listings: what a step does not come to is listed again.
const PAGE: usize = 200;

/// The settings of a scrub.
#[derive(Debug, Clone, Copy)]
pub struct Scrub {
    /// The bytes to hash in a step.
    pub bytes: u64,
    /// The storage calls after which a step ends, about.
    pub calls: u32,
}

/// The folders to read, one after another: bytes at their canonical keys, and what names bytes elsewhere.
const FOLDERS: [(Algorithm, Place); 4] = [
    (Algorithm::Sha256, Place::Data),
    (Algorithm::Sha512, Place::Data),
    (Algorithm::Sha256, Place::Described),
    (Algorithm::Sha512, Place::Described),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Data,
    Described,
}

/// How far a run has come.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cursor {
    /// The position in [`FOLDERS`].
    folder: usize,
    /// The last key that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// The next key, if some of its bytes are hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partial: Option<Partial>,
}

/// A blob of which some bytes are hashed.
#[derive(Debug, Serialize, Deserialize)]
struct Partial {
    /// The listed key.
    key: String,
    /// The object that was read so far; empty at its start.
    etag: String,
    /// The bytes hashed.
    offset: u64,
    hash: HashState,
    /// Whether this is the second look.
    again: bool,
}

impl Partial {
    fn start(key: &str, algorithm: Algorithm, again: bool) -> Self {
        let hash = Hasher::new(algorithm).state();
        Self { key: key.to_owned(), etag: String::new(), offset: 0, hash, again }
    }
}

/// What a read has found.
enum Read {
    /// There is more to read.
    Partly,
    /// All bytes, with this digest and length.
    Whole(Digest, u64),
    /// There is no object.
    Gone,
    /// It cannot be read: why.
    Failed(String),
}

/// What a step has done.
#[derive(Serialize)]
struct Done {
    blobs: u64,
    bytes: u64,
    finished: bool,
}

/// One step.
struct Run<'a> {
    context: &'a Context,
    blobs: Blobs,
    findings: Findings<'a>,
    /// The bytes that may still be hashed.
    left: u64,
    /// The calls that the context has counted when the step ends.
    last_call: u32,
    checked: u64,
    /// Whether the step has looked at a key.
    has_begun: bool,
}

impl Job for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            let cursor = cursor.and_then(|cursor| serde_json::from_str(&cursor).ok()).unwrap_or_default();
            let mut run = Run {
                context,
                blobs: app.blobs(context),
                findings: Findings::new(self.name(), app, context),
                left: self.bytes.max(1),
                last_call: context.log.storage_calls().0.saturating_add(self.calls),
                checked: 0,
                has_begun: false,
            };
            let next = run.go_on(cursor).await?;
            let next = next.and_then(|next| serde_json::to_string(&next).ok());
            let bytes = self.bytes.max(1) - run.left;
            let done = Done { blobs: run.checked, bytes, finished: next.is_none() };
            Ok(Step { report: run.findings.into_report(&done), next })
        })
    }
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.left == 0 || self.context.log.storage_calls().0 >= self.last_call
    }

    /// Works until the step is over; `None` at the end of the run.
    async fn go_on(&mut self, mut cursor: Cursor) -> Result<Option<Cursor>, StorageError> {
        while let Some((algorithm, place)) = FOLDERS.get(cursor.folder).copied() {
            let folder = match place {
                Place::Data => Key::DataFolder(algorithm),
                Place::Described => Key::Descriptors(algorithm),
            };
            let page = Page { after: cursor.after.as_deref(), limit: PAGE, folders: false };
            let listing = self.blobs.store().list(&folder.path().folder(), page).await?;
            for (key, meta) in listing.objects {
                // A step makes some progress, even if the listing took all its calls.
                if self.is_over() && self.has_begun {
                    return Ok(Some(cursor));
                }
                self.has_begun = true;
                let digest = match place {
                    Place::Data => data_digest(&key),
                    Place::Described => trailing_digest(&key),
                };
                let partial = cursor.partial.take().filter(|partial| partial.key == key);
                if let Some(digest) = digest {
                    let mut partial =
                        partial.unwrap_or_else(|| Partial::start(&key, digest.algorithm(), false));
                    match self.check(place, &digest, &meta, &mut partial).await {
                        Ok(true) => self.checked += 1,
                        Ok(false) => return Ok(Some(Cursor { partial: Some(partial), ..cursor })),
                        Err(error) => self.findings.failed(&key, &error),
                    }
                }
                cursor.after = Some(key);
            }
            cursor.after = listing.next;
            if cursor.after.is_none() {
                cursor = Cursor { folder: cursor.folder + 1, ..Cursor::default() };
            }
        }
        Ok(None)
    }

    /// Checks what a key names; `false` if the step is over before that is done.
    async fn check(
        &mut self,
        place: Place,
        digest: &Digest,
        listed: &ObjectMeta,
        partial: &mut Partial,
    ) -> Result<bool, StorageError> {
        let located = match place {
            Place::Data => Located { size: listed.size, at: None },
            Place::Described => {
                let located = match self.blobs.store().capabilities().lists_metadata {
                    true => Located::from_metadata(&listed.metadata),
                    false => self.blobs.descriptor(digest).await?,
                };
                match located.filter(|located| located.at.is_some()) {
                    Some(located) => located,
                    // The bytes are at their canonical key, or it was deleted, or another version has written it.
                    None => return Ok(true),
                }
            }
        };
        let path = located.path(digest);
        loop {
            // Only a listing knows that an object is empty.
            let size = if place == Place::Data { located.size } else { located.size.max(1) };
            let read = self.read(&path, size, digest.algorithm(), partial).await?;
            let (finding, why) = match read {
                Read::Partly if self.is_over() => return Ok(false),
                Read::Partly => continue,
                Read::Gone if place == Place::Described => {
                    if lacks_object(&self.blobs, digest, &located).await? {
                        self.findings.damage(Finding::DescriptorWithoutObject, &format!("{digest}, {path}"));
                    }
                    return Ok(true);
                }
                // It was deleted since it was listed.
                Read::Gone => return Ok(true),
                Read::Whole(found, size) if found == *digest && size == located.size => return Ok(true),
                Read::Whole(_, size) if size != located.size && place == Place::Described => {
                    (Finding::WrongLength, format!("{size} bytes in place of {}", located.size))
                }
                Read::Whole(found, _) if found == *digest => return Ok(true),
                Read::Whole(found, _) => (Finding::WrongDigest, format!("the bytes have {found}")),
                Read::Failed(why) => (Finding::Unreadable, why),
            };
            if partial.again {
                self.findings.damage(finding, &format!("{digest}, {path}: {why}"));
                return Ok(true);
            }
            *partial = Partial::start(&partial.key, digest.algorithm(), true);
            if self.is_over() {
                return Ok(false);
            }
        }
    }

    /// Hashes the next bytes of an object, which has about this `size`.
    async fn read(
        &mut self,
        path: &Path,
        size: u64,
        algorithm: Algorithm,
        partial: &mut Partial,
    ) -> Result<Read, StorageError> {
        // There is no range of an object without bytes.
        let range = (size > 0).then_some(ByteRange { offset: partial.offset, length: Some(self.left) });
        let Object { meta, body } = match self.blobs.store().get(path, range).await {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(Read::Gone),
            // It is shorter than it was said to be.
            Err(StorageError { kind: StorageErrorKind::InvalidOffset { .. }, .. }) => {
                return Ok(Read::Failed(format!("it has no byte {}", partial.offset)));
            }
            Err(error) => return Ok(Read::Failed(error.to_string())),
        };
        let is_other = !partial.etag.is_empty() && partial.etag != meta.etag;
        let hasher = Hasher::resume(algorithm, &partial.hash);
        let (false, Ok(mut hasher)) = (is_other || meta.size < partial.offset, hasher) else {
            body.cancel();
            *partial = Partial::start(&partial.key, algorithm, partial.again);
            return Ok(Read::Partly);
        };
        let wanted = (meta.size - partial.offset).min(range.map_or(0, |_| self.left));
        let read = match body {
            Body::Empty => Ok(()),
            Body::Bytes(bytes) => {
                hasher.update(&bytes);
                Ok(())
            }
            Body::Stream(mut stream) => stream.discard(wanted, Some(&mut hasher)).await,
            Body::Buffer { .. } | Body::Parts(_) => {
                return Ok(Read::Failed("the store lends its content".to_owned()));
            }
        };
        self.left -= wanted;
        if let Err(error) = read {
            return Ok(Read::Failed(error.to_string()));
        }
        partial.offset += wanted;
        if partial.offset >= meta.size {
            return Ok(Read::Whole(hasher.finish(), meta.size));
        }
        (partial.etag, partial.hash) = (meta.etag, hasher.state());
        Ok(Read::Partly)
    }
}
