//! The simulated bucket: [`Memory`], whose calls wait for the scheduler, with etags as R2 makes them.
//!
//! An etag is a function of the content: the same content written again has the same etag, so a condition does not
//! see that a key changed twice.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher as _},
    rc::Rc,
};

use bytes::Bytes;
use futures_util::FutureExt;
use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest, Hasher},
    platform::{Body, ByteRange, Clock},
    storage::{
        Answer, Capabilities, Condition, Copied, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageError, StorageErrorKind, memory::Memory,
    },
};

use crate::{
    calls::Calls,
    executor::Group,
    missing::{Missing, meets_sweep},
    setup::Guard,
};

/// The result of an operation.
type Done<T> = Result<T, StorageError>;

/// A bucket in memory with etags by content. Its operations end at once.
pub struct Bucket {
    memory: Memory,
    etags: RefCell<HashMap<String, String>>,
    /// The number of changes.
    pub changes: Cell<u64>,
    parts: RefCell<BTreeMap<(String, u16, Digest), Part>>,
    /// How often a request has found a sweep under way.
    pub met: Cell<u64>,
    /// The paths that a descriptor has named.
    pub described: RefCell<BTreeSet<String>>,
}

impl Default for Bucket {
    fn default() -> Self {
        // Parts may be as small as blobs are here.
        Self {
            memory: Memory::with_min_part(1),
            etags: RefCell::default(),
            changes: Cell::default(),
            parts: RefCell::default(),
            described: RefCell::default(),
            met: Cell::default(),
        }
    }
}

fn at_once<T>(answer: Answer<'_, T>) -> Done<T> {
    answer.now_or_never().expect("memory answers at once")
}

fn error(path: &str, kind: StorageErrorKind) -> StorageError {
    StorageError { driver: "simulated", path: path.to_owned(), kind }
}

impl Bucket {
    fn with_etag(&self, path: &str, mut meta: ObjectMeta) -> ObjectMeta {
        meta.etag = self.etags.borrow().get(path).cloned().unwrap_or_default();
        meta
    }

    /// Notes the etag of what was just written.
    fn written(&self, path: &Path, meta: ObjectMeta) -> Done<ObjectMeta> {
        self.changes.set(self.changes.get() + 1);
        let content = self.content(path).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        self.etags.borrow_mut().insert(path.to_string(), format!("{:016x}", hasher.finish()));
        Ok(self.with_etag(path.as_str(), meta))
    }

    /// The content of an object.
    pub fn content(&self, path: &Path) -> Option<Bytes> {
        let object = at_once(self.memory.get(path, None)).unwrap()?;
        Some(object.body.read(usize::MAX).now_or_never().expect("memory answers at once").unwrap())
    }

    /// Whether there is an object.
    pub fn has(&self, path: &Path) -> bool {
        self.meta(path).is_some()
    }

    /// What is known of an object.
    pub fn meta(&self, path: &Path) -> Option<ObjectMeta> {
        let meta = at_once(self.memory.head(path)).unwrap()?;
        Some(self.with_etag(path.as_str(), meta))
    }

    /// Removes an object.
    pub fn remove(&self, path: &Path) {
        self.delete(std::slice::from_ref(path)).unwrap();
    }

    /// The path of every object below `prefix`.
    pub fn below(&self, prefix: &str) -> Vec<String> {
        let listing = at_once(self.memory.list(prefix, Page::first())).unwrap();
        listing.objects.into_iter().map(|(path, _)| path).collect()
    }

    fn put(&self, path: &Path, body: Body, options: PutOptions<'_>) -> Done<ObjectMeta> {
        if let Condition::IfMatch(etag) = &options.condition
            && self.etags.borrow().get(path.as_str()) != Some(etag)
        {
            return Err(error(path.as_str(), StorageErrorKind::Precondition));
        }
        let condition = match &options.condition {
            Condition::IfMatch(_) => Condition::Always,
            condition => condition.clone(),
        };
        let meta = at_once(self.memory.put(path, body, PutOptions { condition, ..options }))?;
        if path.as_str().starts_with(DESCRIPTORS) {
            self.described.borrow_mut().extend(meta.metadata.get("at").cloned());
        }
        self.written(path, meta)
    }

    /// The etag of a part is a function of its content too: the same one written again changes nothing.
    fn put_part(&self, path: &Path, id: &MultipartId, number: u16, body: Body) -> Done<Part> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        match &body {
            Body::Bytes(bytes) => hasher.update(bytes),
            Body::Buffer { buffer, range } => buffer.hash(range.clone(), &mut hasher).unwrap(),
            _ => {}
        }
        let key = (id.0.clone(), number, hasher.finish());
        if let Some(part) = self.parts.borrow().get(&key) {
            return Ok(part.clone());
        }
        let part = at_once(self.memory.put_part(path, id, number, body))?;
        self.parts.borrow_mut().insert(key, part.clone());
        Ok(part)
    }

    fn delete(&self, paths: &[Path]) -> Done<()> {
        self.changes.set(self.changes.get() + 1);
        for path in paths {
            self.etags.borrow_mut().remove(path.as_str());
        }
        at_once(self.memory.delete(paths))
    }

    fn list(&self, prefix: &str, page: Page<'_>) -> Done<Listing> {
        let mut listing = at_once(self.memory.list(prefix, page))?;
        for (path, meta) in &mut listing.objects {
            *meta = self.with_etag(path, meta.clone());
        }
        Ok(listing)
    }
}

/// The driver.
#[derive(Clone)]
pub struct Simulated {
    pub bucket: Rc<Bucket>,
    pub calls: Rc<Calls>,
    pub without: Option<Guard>,
    pub missing: Missing,
}

/// The path of a call. What has a random name has one path for all of its kind: they fail together.
fn path_of_call(path: &str) -> String {
    let kinds =
        [Key::Outbox.path().to_string(), NOTES.to_owned(), Key::Uploads.path().to_string(), BLOBS.to_owned()];
    kinds.into_iter().find(|kind| path.starts_with(kind)).unwrap_or_else(|| path.to_owned())
}

/// The folders of blobs of several parts, of their descriptors, and of their notes.
const BLOBS: &str = "pierhead/blobs/";
const DESCRIPTORS: &str = "pierhead/descriptors/";
const NOTES: &str = "pierhead/uploads/blobs/";

impl Simulated {
    fn caller(&self) -> (Group, u64) {
        self.calls.executor.current()
    }

    fn call<'a, T: 'static>(
        &'a self,
        operation: &'static str,
        path: &str,
        writes: bool,
        work: impl FnOnce(&Bucket) -> Done<T> + 'static,
    ) -> Answer<'a, T> {
        let (bucket, clock) = (self.bucket.clone(), self.calls.clock.clone());
        let work = move || {
            bucket.memory.now.set(clock.now());
            work(&bucket)
        };
        let message = "failed by the simulation".to_owned();
        let refusal = error(path, StorageErrorKind::Throttled { operation, message: message.clone() });
        let failure = match self.without == Some(Guard::Rest) {
            true => refusal.clone(),
            false => error(path, StorageErrorKind::Backend { operation, message, retryable: true }),
        };
        Box::pin(self.calls.make_refusable(operation, path_of_call(path), writes, work, failure, refusal))
    }
}

#[deny(clippy::missing_trait_methods)]
impl StorageDriver for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn capabilities(&self) -> Capabilities {
        self.bucket.memory.capabilities()
    }

    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>> {
        let (key, missing, caller) = (path.clone(), self.missing, self.caller());
        self.call("head", path.as_str(), false, move |bucket| {
            let found = bucket.meta(&key);
            bucket.met.set(bucket.met.get() + u64::from(meets_sweep(&caller, &key, found.as_ref())));
            Ok(missing.head(&caller, &key, found))
        })
    }

    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>> {
        let key = path.clone();
        self.call("get", path.as_str(), false, move |bucket| {
            let object = at_once(bucket.memory.get(&key, range))?;
            Ok(object
                .map(|Object { meta, body }| Object { meta: bucket.with_etag(key.as_str(), meta), body }))
        })
    }

    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta> {
        let key = path.clone();
        let PutOptions { digest, media_type, metadata, condition } = options;
        let (digest, media_type) = (digest.cloned(), media_type.map(str::to_owned));
        let is_entry = path.as_str().starts_with(Key::Outbox.path().as_str());
        let is_lost =
            self.without == Some(Guard::Outbox) && is_entry || self.missing.loses(&self.caller(), path);
        self.call("put", path.as_str(), true, move |bucket| {
            let (digest, media_type) = (digest.as_ref(), media_type.as_deref());
            let meta = bucket.put(&key, body, PutOptions { digest, media_type, metadata, condition });
            if is_lost {
                bucket.remove(&key);
            }
            meta
        })
    }

    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()> {
        let keys = paths.to_vec();
        let first = paths.first().map_or("", Path::as_str).to_owned();
        Box::pin(async move {
            let mut repeats = self.missing.repeats();
            loop {
                let keys = keys.clone();
                match self.call("delete", &first, true, move |bucket| bucket.delete(&keys)).await {
                    Err(error) if error.is_retryable() && repeats > 0 => repeats -= 1,
                    done => return done,
                }
                self.calls.clock.sleep(1000).await;
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        let (folder, after) = (prefix.to_owned(), page.after.map(str::to_owned));
        let Page { limit, folders, .. } = page;
        let (missing, caller) = (self.missing, self.caller());
        self.call("list", prefix, false, move |bucket| {
            let listing = bucket.list(&folder, Page { after: after.as_deref(), limit, folders })?;
            Ok(missing.list(&caller, &folder, listing, bucket))
        })
    }

    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        let key = path.clone();
        self.call("create_multipart", path.as_str(), true, move |bucket| {
            at_once(bucket.memory.create_multipart(&key))
        })
    }

    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body,
    ) -> Answer<'a, Part> {
        let (key, id) = (path.clone(), id.clone());
        self.call("put_part", path.as_str(), true, move |bucket| bucket.put_part(&key, &id, number, body))
    }

    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta> {
        let (key, id, parts) = (path.clone(), id.clone(), parts.to_vec());
        self.call("complete_multipart", path.as_str(), true, move |bucket| {
            let meta = at_once(bucket.memory.complete_multipart(&key, &id, &parts))?;
            bucket.written(&key, meta)
        })
    }

    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()> {
        let (key, id) = (path.clone(), id.clone());
        self.call("abort_multipart", path.as_str(), true, move |bucket| {
            at_once(bucket.memory.abort_multipart(&key, &id))
        })
    }

    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>> {
        let key = path.clone();
        self.call("digest", path.as_str(), false, move |bucket| {
            at_once(bucket.memory.digest(&key, algorithm))
        })
    }

    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> Answer<'a, Copied> {
        let (from, to) = (from.clone(), to.clone());
        let path = from.to_string();
        self.call("copy", &path, true, move |bucket| at_once(bucket.memory.copy(&from, &to)))
    }
}
