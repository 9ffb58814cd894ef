//! The copy of a blob that is too large for one call: part by part, over many steps.
//!
//! Nothing hashes an object of several parts before it is there, so each part is read into memory and hashed on its way.
//! The state of the copy is an object of its own, [`Key::Copy`], written on the condition that nobody else has done it: a
//! run that is cancelled leaves it to the next one. The store's upload is noted there before its first part is stored, so
//! that it can be aborted. The object becomes visible at its end only, if the hash is right.
//!
//! Bytes that are at the canonical key already, because an answer was lost or another program has put them there, are
//! hashed the same way, without a copy.

use serde::{Deserialize, Serialize};

use super::{Copied, Run, failures::Failure, is_quiet};
use crate::{
    blobs::Descriptor,
    layout::Key,
    oci::{Digest, HashState, Hasher, from_json},
    platform::{Body, ByteRange, ReadError},
    storage::{
        Condition, MultipartId, Object, ObjectMeta, Part, Path, PutOptions, StorageError, StorageErrorKind,
    },
};

/// Limit of the parts of an upload.
const MAX_PARTS: u64 = 10_000;

/// The largest state of a copy, in bytes: an etag for each part, and what has failed.
const MAX_STATE: usize = 2 * 1024 * 1024;

/// Steps in a row that may fail before a copy is given up: the others wait for it.
const MAX_FAILED: u8 = 5;

/// A copy under way, or a look at bytes that are at the canonical key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Copy {
    digest: Digest,
    /// The object that the descriptor names.
    from: String,
    /// The etag of the object that is read.
    etag: String,
    /// Its length, and that of a part, in bytes.
    size: u64,
    part_size: u64,
    /// The store's upload; `None` if the bytes at the canonical key are hashed only.
    id: Option<MultipartId>,
    /// The etags of the parts that are stored.
    parts: Vec<String>,
    /// The bytes that are hashed.
    offset: u64,
    hash: HashState,
    /// The steps in a row that have failed.
    failed: u8,
}

impl Copy {
    /// The object that is read.
    fn source(&self, from: &Path) -> Path {
        if self.id.is_some() { from.clone() } else { Key::Data(&self.digest).path() }
    }
}

/// What [`Key::Copy`] holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    copy: Option<Copy>,
    failures: Vec<Failure>,
}

/// The state as it was read, to be written back.
struct Kept {
    state: State,
    etag: Option<String>,
}

/// How a part of the work has ended.
enum Ended {
    /// There is more to copy.
    Partly,
    /// All parts are stored, and have this digest.
    Whole(Digest),
    /// It cannot be copied: why.
    Wrong(String),
}

impl Run<'_> {
    async fn kept_copy(&mut self) -> Result<Kept, StorageError> {
        let read = self.blobs.store().read(&Key::Copy.path(), MAX_STATE).await?;
        let (content, meta) = read.unzip();
        let state: State = content.and_then(|content| from_json(&content).ok()).unwrap_or_default();
        self.failures = Some(state.failures.clone());
        Ok(Kept { state, etag: meta.map(|meta| meta.etag) })
    }

    /// Whether this object has failed within the last days; the report says so.
    pub(super) async fn has_failed(
        &mut self,
        digest: &Digest,
        at: &Path,
        etag: &str,
    ) -> Result<bool, StorageError> {
        if self.failures.is_none() {
            self.kept_copy().await?;
        }
        let now = self.app.clock.now();
        let mut failures = self.failures.iter().flatten();
        let found = failures.find(|failure| failure.is_of(digest, at, etag) && !failure.is_over(now));
        let why = found.map(|failure| failure.why.clone());
        let has_failed = why.is_some();
        why.into_iter().for_each(|why| self.failed(why));
        Ok(has_failed)
    }

    /// Reports what is wrong with an object, and remembers it.
    pub(super) async fn has_damage(&mut self, failure: Failure) -> Result<(), StorageError> {
        self.failed(failure.why.clone());
        let mut kept = self.kept_copy().await?;
        failure.add_to(&mut kept.state.failures);
        // If somebody else has written it, the next run finds the same.
        self.keep_copy(&mut kept).await?;
        Ok(())
    }

    /// Writes the state; `false` if it is no longer the one that was read.
    async fn keep_copy(&mut self, kept: &mut Kept) -> Result<bool, StorageError> {
        self.failures = Some(kept.state.failures.clone());
        // Never deleted: a deletion that lands late would take the next copy.
        let content = serde_json::to_vec(&kept.state).unwrap_or_default();
        let condition = kept.etag.clone().map_or(Condition::IfAbsent, Condition::IfMatch);
        let options = PutOptions { condition, ..PutOptions::default() };
        match self.blobs.store().put(&Key::Copy.path(), Body::Bytes(content.into()), options).await {
            Ok(meta) => {
                kept.etag = Some(meta.etag);
                Ok(true)
            }
            Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins to copy a blob. Its first part is stored in the next step.
    pub(super) async fn begin_copy(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        at: &Path,
    ) -> Result<Copied, StorageError> {
        let mut kept = self.kept_copy().await?;
        if kept.state.copy.is_some() {
            // Another runner has begun one.
            return Ok(Copied::Begun);
        }
        let store = self.blobs.store();
        let Some(from) = store.head(at).await? else {
            self.failed(format!("{digest}: there is no {at}"));
            return Ok(Copied::Left);
        };
        let is_right = self.has_length(digest, &from, descriptor.located.size) == Copied::Done;
        if !is_right || self.has_failed(digest, at, &from.etag).await? {
            return Ok(Copied::Left);
        }
        let (path, usual) = (Key::Data(digest).path(), self.app.buffers().part_size() as u64);
        let id = self.blobs.store().create_multipart(&path).await?;
        kept.state.copy = Some(Copy {
            digest: digest.clone(),
            from: at.to_string(),
            etag: from.etag,
            size: from.size,
            part_size: usual * from.size.div_ceil(usual * MAX_PARTS).max(1),
            id: Some(id.clone()),
            parts: Vec::new(),
            offset: 0,
            hash: Hasher::new(digest.algorithm()).state(),
            failed: 0,
        });
        if !self.keep_copy(&mut kept).await? {
            self.blobs.store().abort_multipart(&path, &id).await?;
        }
        Ok(Copied::Begun)
    }

    /// Begins to hash the bytes at the canonical key, which nobody has verified. The next step hashes the first of them.
    pub(super) async fn begin_check(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        at: &Path,
        data: ObjectMeta,
    ) -> Result<Copied, StorageError> {
        let mut kept = self.kept_copy().await?;
        if kept.state.copy.is_some() {
            return Ok(Copied::Begun);
        }
        if self.must_check(digest, descriptor, &data).await? {
            kept.state.copy = Some(self.check(digest, at, data));
            self.keep_copy(&mut kept).await?;
            return Ok(Copied::Begun);
        }
        Ok(Copied::Left)
    }

    /// Whether bytes at the canonical key may be right: the report says if they are not.
    async fn must_check(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        data: &ObjectMeta,
    ) -> Result<bool, StorageError> {
        let is_right = self.has_length(digest, data, descriptor.located.size) == Copied::Done;
        Ok(is_right && !self.has_failed(digest, &Key::Data(digest).path(), &data.etag).await?)
    }

    fn check(&self, digest: &Digest, at: &Path, data: ObjectMeta) -> Copy {
        Copy {
            digest: digest.clone(),
            from: at.to_string(),
            etag: data.etag,
            size: data.size,
            part_size: self.job.hashed.max(self.app.buffers().part_size() as u64),
            id: None,
            parts: Vec::new(),
            offset: 0,
            hash: Hasher::new(digest.algorithm()).state(),
            failed: 0,
        }
    }

    /// Goes on with the copy under way, if there is one; `false` if more of it is left to do.
    pub(super) async fn go_on_copying(&mut self) -> Result<bool, StorageError> {
        let mut kept = self.kept_copy().await?;
        let Some(mut copy) = kept.state.copy.clone() else { return Ok(true) };
        let Ok(from) = copy.from.parse::<Path>() else { return self.end_copy(&mut kept, &copy).await };
        let error = match Box::pin(self.next_of_copy(&mut kept, &mut copy, &from)).await {
            // The store has lost the upload. It begins again.
            Err(StorageError { kind: StorageErrorKind::NoSuchUpload, .. }) => {
                self.failed(format!("{}: the store has no such upload", copy.digest));
                return self.end_copy(&mut kept, &copy).await;
            }
            Err(error) => error,
            result => return result,
        };
        copy.failed = copy.failed.saturating_add(1);
        if copy.failed < MAX_FAILED {
            kept.state.copy = Some(copy);
            self.keep_copy(&mut kept).await?;
            return Err(error);
        }
        // It must not keep the job from the others.
        let source = copy.source(&from);
        self.damaged(&mut kept, &copy, &source, &error.to_string());
        self.end_copy(&mut kept, &copy).await
    }

    /// Reports what is wrong with the object that is read. The end of the copy remembers it.
    fn damaged(&mut self, kept: &mut Kept, copy: &Copy, source: &Path, why: &str) {
        let (now, why) = (self.app.clock.now(), format!("{}: {why}", copy.digest));
        let failure = Failure::new(&copy.digest, source, &copy.etag, now, why);
        self.failed(failure.why.clone());
        failure.add_to(&mut kept.state.failures);
    }

    async fn next_of_copy(
        &mut self,
        kept: &mut Kept,
        copy: &mut Copy,
        from: &Path,
    ) -> Result<bool, StorageError> {
        let begun = self.app.clock.now();
        let marker = self.blobs.marker(&copy.digest).await?;
        let described = self.blobs.described(&copy.digest).await?;
        let descriptor = described.filter(|found| found.located.at.as_ref() == Some(from));
        let Some(descriptor) = descriptor.filter(|_| is_quiet(marker.as_ref(), begun)) else {
            self.report.busy += 1;
            return self.end_copy(kept, copy).await;
        };
        let (data, source) = (Key::Data(&copy.digest).path(), copy.source(from));
        if let Some(id) = &copy.id
            && let Some(found) = self.blobs.store().head(&data).await?
        {
            // An answer was lost, or another program has put it there.
            self.blobs.store().abort_multipart(&data, id).await?;
            if !self.must_check(&copy.digest, &descriptor, &found).await? {
                return self.end_copy(kept, copy).await;
            }
            kept.state.copy = Some(self.check(&copy.digest, from, found));
            self.keep_copy(kept).await?;
            return Ok(false);
        }
        let found = match Box::pin(self.copy_parts(copy, &source)).await? {
            Ended::Partly => {
                kept.state.copy = Some(copy.clone());
                self.keep_copy(kept).await?;
                return Ok(false);
            }
            Ended::Whole(found) => found,
            Ended::Wrong(why) => {
                self.damaged(kept, copy, &source, &why);
                return self.end_copy(kept, copy).await;
            }
        };
        if found != copy.digest {
            self.damaged(kept, copy, &source, &format!("the bytes at {source} have {found}"));
            return self.end_copy(kept, copy).await;
        }
        if self.blobs.marker(&copy.digest).await? != marker {
            self.report.busy += 1;
            return self.end_copy(kept, copy).await;
        }
        if let Some(id) = &copy.id {
            let parts = (1..).zip(&copy.parts).map(|(number, etag)| Part { number, etag: etag.clone() });
            let parts: Vec<Part> = parts.collect();
            if let Err(error) = self.blobs.store().complete_multipart(&data, id, &parts).await {
                // The next step finds the object, if the answer was lost.
                if self.blobs.store().head(&data).await?.is_some() {
                    kept.state.copy = Some(copy.clone());
                    self.keep_copy(kept).await?;
                    return Ok(false);
                }
                return Err(error);
            }
        }
        self.move_descriptor(&copy.digest, &descriptor, from, (begun, marker)).await?;
        self.end_copy(kept, copy).await
    }

    /// Copies or hashes the next parts of the object `from`.
    async fn copy_parts(&mut self, copy: &mut Copy, from: &Path) -> Result<Ended, StorageError> {
        let store = self.blobs.store().clone();
        let data = Key::Data(&copy.digest).path();
        let Ok(mut hasher) = Hasher::resume(copy.digest.algorithm(), &copy.hash) else {
            return Ok(Ended::Wrong("the state of its hash cannot be read".to_owned()));
        };
        let mut left = self.job.hashed.max(1);
        loop {
            let offset = copy.offset;
            if offset >= copy.size {
                return Ok(Ended::Whole(hasher.finish()));
            }
            let has_begun = left < self.job.hashed.max(1);
            if has_begun && (left == 0 || self.context.log.storage_calls().0 >= self.last_call) {
                return Ok(Ended::Partly);
            }
            let length = copy.part_size.min(copy.size - offset);
            let range = ByteRange { offset, length: Some(length) };
            let Some(Object { meta, body }) = store.get(from, Some(range)).await? else {
                return Ok(Ended::Wrong(format!("there is no {from}")));
            };
            if meta.etag != copy.etag {
                body.cancel();
                return Ok(Ended::Wrong(format!("{from} has changed")));
            }
            let unreadable = |error: ReadError| store.unreadable(from, error);
            let part = match body {
                Body::Stream(mut stream) if copy.id.is_none() => {
                    stream.discard(length, Some(&mut hasher)).await.map_err(unreadable)?;
                    Body::Empty
                }
                Body::Stream(mut stream) => {
                    let mut buffer = self.app.buffers().lend(length as usize).await.map_err(unreadable)?;
                    let read = stream.read_into(&mut *buffer, 0..length as usize, Some(&mut hasher)).await;
                    let end = read.map_err(unreadable)?;
                    if end as u64 != length {
                        return Err(unreadable(ReadError::Broken(format!("{end} of {length} bytes"))));
                    }
                    Body::Buffer { buffer: buffer.into(), range: 0..end }
                }
                Body::Bytes(bytes) => {
                    hasher.update(&bytes);
                    Body::Bytes(bytes)
                }
                Body::Empty | Body::Buffer { .. } | Body::Parts(_) => {
                    return Ok(Ended::Wrong("the store lends its content".to_owned()));
                }
            };
            if let Some(id) = &copy.id {
                let number = (copy.parts.len() + 1) as u16;
                let part = store.put_part(&data, id, number, part).await?;
                copy.parts.push(part.etag);
            }
            copy.offset += length;
            copy.failed = 0;
            copy.hash = hasher.state();
            self.report.bytes_hashed += length;
            left = left.saturating_sub(length);
        }
    }

    /// Aborts what is not completed, and forgets the copy. Always `true`.
    async fn end_copy(&mut self, kept: &mut Kept, copy: &Copy) -> Result<bool, StorageError> {
        if let Some(id) = &copy.id {
            self.blobs.store().abort_multipart(&Key::Data(&copy.digest).path(), id).await?;
        }
        kept.state.copy = None;
        self.keep_copy(kept).await?;
        Ok(true)
    }
}
