//! The simulated bucket: [`Memory`], whose calls wait for the scheduler, with etags as R2 makes them.
//!
//! An etag is a function of the content: the same content written again has the same etag, so a condition does not
//! see that a key changed twice.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

use bytes::Bytes;
use futures_util::FutureExt;
use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, Clock},
    storage::{
        Answer, Capabilities, Condition, Copied, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageError, StorageErrorKind, memory::Memory,
    },
};

use crate::{calls::Calls, setup::Guard};

/// The result of an operation.
type Done<T> = Result<T, StorageError>;

/// A bucket in memory with etags by content. Its operations end at once.
#[derive(Default)]
pub struct Bucket {
    memory: Memory,
    etags: RefCell<HashMap<String, String>>,
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
        at_once(self.memory.head(path)).unwrap().is_some()
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
        self.written(path, meta)
    }

    fn delete(&self, paths: &[Path]) -> Done<()> {
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
}

/// The path of a call. Entries of the outbox have one for all: they have random names, and fail together.
fn path_of_call(path: &str) -> String {
    let outbox = Key::Outbox.path();
    if path.starts_with(outbox.as_str()) { outbox.to_string() } else { path.to_owned() }
}

impl Simulated {
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
        let key = path.clone();
        self.call("head", path.as_str(), false, move |bucket| {
            let meta = at_once(bucket.memory.head(&key))?;
            Ok(meta.map(|meta| bucket.with_etag(key.as_str(), meta)))
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
        let is_lost = self.without == Some(Guard::Outbox) && path_of_call(path.as_str()) != path.as_str();
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
        let first = paths.first().map_or("", Path::as_str);
        self.call("delete", first, true, move |bucket| bucket.delete(&keys))
    }

    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        let (folder, after) = (prefix.to_owned(), page.after.map(str::to_owned));
        let Page { limit, folders, .. } = page;
        self.call("list", prefix, false, move |bucket| {
            bucket.list(&folder, Page { after: after.as_deref(), limit, folders })
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
        self.call("put_part", path.as_str(), true, move |bucket| {
            at_once(bucket.memory.put_part(&key, &id, number, body))
        })
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
