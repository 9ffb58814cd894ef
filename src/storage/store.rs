//! The handle to a driver: counts and traces its calls, and repeats those that failed for a moment.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use serde_json::json;

use super::{
    Answer, Capabilities, Condition, Copied, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
    PutOptions, StorageDriver, StorageError, StorageErrorKind, driver::Errors, retry::Attempts,
};
use crate::{
    oci::{Algorithm, Digest},
    platform::{
        Body, ByteRange, Clock, Level, Metrics, ReadError, RequestLog, Timestamp, log::UnderWay,
        metrics::StorageOutcome,
    },
};

/// A store. Cheap to clone. Its operations are those of [`StorageDriver`], with the same guarantees.
#[derive(Clone)]
pub struct Store {
    driver: Rc<dyn StorageDriver>,
    trace: Option<Trace>,
    meter: Option<Meter>,
    retry: Option<Retry>,
    /// Set when the answer to a write is lost.
    unsettled: Option<Rc<Cell<bool>>>,
}

/// How long to repeat operations, by which clock.
#[derive(Clone)]
struct Retry {
    clock: Rc<dyn Clock>,
    /// The end of all operations; `None` gives each of them [`PATIENCE`](super::PATIENCE).
    until: Option<Timestamp>,
}

#[derive(Clone)]
struct Trace {
    log: Rc<RequestLog>,
    clock: Rc<dyn Clock>,
}

#[derive(Clone)]
struct Meter {
    metrics: Rc<Metrics>,
    clock: Rc<dyn Clock>,
}

fn outcome_of<T>(result: Result<T, &StorageError>) -> StorageOutcome {
    match result.map_err(|error| &error.kind) {
        Ok(_) => StorageOutcome::Ok,
        Err(StorageErrorKind::Precondition) => StorageOutcome::Condition,
        Err(StorageErrorKind::Throttled { .. }) => StorageOutcome::Refused,
        Err(StorageErrorKind::DigestMismatch | StorageErrorKind::Body(_)) => StorageOutcome::Content,
        Err(_) => StorageOutcome::Error,
    }
}

fn done<T>(_: &T) -> &'static str {
    "done"
}

fn found<T>(value: &Option<T>) -> &'static str {
    if value.is_some() { "found" } else { "absent" }
}

impl Store {
    /// A handle to this driver. It makes one attempt of each operation.
    pub fn new(driver: impl StorageDriver + 'static) -> Self {
        Self { driver: Rc::new(driver), trace: None, meter: None, retry: None, unsettled: None }
    }

    /// The same store, which repeats operations that failed for a moment, for up to [`PATIENCE`](super::PATIENCE) each. A stream
    /// can be sent only once, so a write of one is not repeated.
    #[must_use]
    pub fn retrying(&self, clock: Rc<dyn Clock>) -> Self {
        Self { retry: Some(Retry { clock, until: None }), ..self.clone() }
    }

    /// The same store, which repeats operations until `patience` milliseconds from now, all of them together.
    #[must_use]
    pub fn with_patience(&self, patience: u64) -> Self {
        let until = |clock: &Rc<dyn Clock>| Timestamp(clock.now().0 + patience);
        self.until(self.retry.as_ref().map(|retry| until(&retry.clock)))
    }

    /// The same store, which makes one attempt of each operation: for a deletion that must not land after its answer.
    #[must_use]
    pub fn once(&self) -> Self {
        Self { retry: None, ..self.clone() }
    }

    fn until(&self, until: Option<Timestamp>) -> Self {
        let retry = self.retry.clone().map(|retry| Retry { until, ..retry });
        Self { retry, ..self.clone() }
    }

    /// The same store, with its calls counted in `log`, and logged at debug level.
    #[must_use]
    pub fn traced(&self, log: Rc<RequestLog>, clock: Rc<dyn Clock>) -> Self {
        Self { trace: Some(Trace { log, clock }), ..self.clone() }
    }

    /// The same store, with its calls counted in `metrics`.
    #[must_use]
    pub fn metered(&self, metrics: Rc<Metrics>, clock: Rc<dyn Clock>) -> Self {
        Self { meter: Some(Meter { metrics, clock }), ..self.clone() }
    }

    /// The same store, which sets `unsettled` when the answer to a write or delete is lost: also one that was repeated
    /// with success, since the first may land later.
    #[must_use]
    pub fn noting(&self, unsettled: Rc<Cell<bool>>) -> Self {
        Self { unsettled: Some(unsettled), ..self.clone() }
    }

    fn attempts(&self) -> Option<Attempts> {
        let Retry { clock, until } = self.retry.as_ref()?;
        Some(match until {
            Some(until) => Attempts::until(clock.clone(), *until),
            None => Attempts::new(clock.clone()),
        })
    }

    /// Makes attempts until one succeeds, fails for good, or patience ends. `attempt` returns `None` if it
    /// cannot be repeated.
    async fn repeat<'a, T>(
        &self,
        operation: &'static str,
        path: &str,
        outcome: impl Fn(&T) -> &'static str,
        mut attempt: impl FnMut() -> Option<Answer<'a, T>>,
    ) -> Result<T, StorageError> {
        let mut attempts = self.attempts();
        let mut answer = attempt();
        let mut result = None;
        while let Some(next) = answer {
            match self.call(operation, path, &outcome, next).await {
                Err(error) if error.is_retryable() => result = Some(error),
                done => return done,
            }
            let again = match &mut attempts {
                Some(attempts) => attempts.next().await,
                None => false,
            };
            answer = if again { attempt() } else { None };
        }
        let nothing = || self.driver.error(path, StorageErrorKind::Unsupported("no attempt"));
        Err(result.unwrap_or_else(nothing))
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        outcome: impl FnOnce(&T) -> &'static str,
        answer: Answer<'_, T>,
    ) -> Result<T, StorageError> {
        let begun = self.begin();
        let result = answer.await;
        self.end(begun, operation, path, result.as_ref().map(outcome));
        result
    }

    /// Begins to count a call.
    #[inline(never)]
    fn begin(&self) -> (Option<Timestamp>, Option<UnderWay>) {
        let trace = self.trace.as_ref();
        let clock = trace.map(|trace| &trace.clock).or(self.meter.as_ref().map(|meter| &meter.clock));
        (clock.map(|clock| clock.now()), trace.map(|trace| trace.log.begin_call()))
    }

    /// Counts and logs a call. Not generic, so that there is one of it in the worker.
    #[inline(never)]
    fn end(
        &self,
        (started, under_way): (Option<Timestamp>, Option<UnderWay>),
        operation: &'static str,
        path: &str,
        result: Result<&'static str, &StorageError>,
    ) {
        drop(under_way);
        if let (Some(unsettled), "put" | "delete", Err(error)) = (&self.unsettled, operation, result)
            && error.is_unsettled()
        {
            unsettled.set(true);
        }
        let since = |clock: &Rc<dyn Clock>| clock.now().milliseconds_since(started.unwrap_or_default());
        if let Some(Meter { metrics, clock }) = &self.meter {
            metrics.count_storage(self.driver.name(), operation, outcome_of(result), since(clock));
        }
        let Some(Trace { log, clock }) = &self.trace else { return };
        let milliseconds = since(clock);
        log.count_storage_call(milliseconds);
        log.write(Level::Debug, || {
            json!({
                "level": "debug",
                "id": log.id,
                "driver": self.driver.name(),
                "operation": operation,
                "path": path,
                "milliseconds": milliseconds,
                "outcome": result.map_or_else(|error| error.kind.to_string(), str::to_owned),
            })
        });
    }

    /// See [`StorageDriver::capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    /// See [`StorageDriver::head`].
    pub async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        self.repeat("head", path.as_str(), found, || Some(self.driver.head(path))).await
    }

    /// See [`StorageDriver::get`].
    pub async fn get(&self, path: &Path, range: Option<ByteRange>) -> Result<Option<Object>, StorageError> {
        self.repeat("get", path.as_str(), found, || Some(self.driver.get(path, range))).await
    }

    /// See [`StorageDriver::put`]. With [`Condition::IfAbsent`], an attempt that failed is first answered by a
    /// look-up: an object that is there, whoever wrote it, is [`StorageErrorKind::Precondition`]. Looking does
    /// not count as a write to the key, and repeating does.
    pub async fn put(
        &self,
        path: &Path,
        body: Body,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        let (spare, mut attempts) = (body.again(), self.attempts());
        let mut next = Some(body);
        let mut failure = None;
        while let Some(body) = next.take() {
            let put = self.driver.put(path, body, options.clone());
            match self.call("put", path.as_str(), done, put).await {
                Err(error) if error.is_retryable() => failure = Some(error),
                result => {
                    if let Some(body) = spare {
                        body.recycle();
                    }
                    return result;
                }
            }
            let Some(attempts) = &mut attempts else { break };
            let look = self.until(Some(attempts.until));
            if options.condition == Condition::IfAbsent && look.head(path).await?.is_some() {
                return Err(self.error(path, StorageErrorKind::Precondition));
            }
            next = spare.as_ref().and_then(Body::again);
            if next.is_some() && !attempts.next().await {
                break;
            }
        }
        Err(failure.unwrap_or_else(|| self.error(path, StorageErrorKind::Unsupported("no attempt"))))
    }

    /// See [`StorageDriver::delete`].
    pub async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        let names: Vec<&str> = paths.iter().map(Path::as_str).collect();
        self.repeat("delete", &names.join(" "), done, || Some(self.driver.delete(paths))).await
    }

    /// See [`StorageDriver::list`].
    pub async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        self.repeat("list", prefix, done, || Some(self.driver.list(prefix, page))).await
    }

    /// See [`StorageDriver::create_multipart`].
    pub async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        let attempt = || Some(self.driver.create_multipart(path));
        self.repeat("create_multipart", path.as_str(), done, attempt).await
    }

    /// See [`StorageDriver::put_part`].
    pub async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body,
    ) -> Result<Part, StorageError> {
        let (spare, mut body) = (body.again(), Some(body));
        let attempt = || {
            let body = body.take().or_else(|| spare.as_ref()?.again())?;
            Some(self.driver.put_part(path, id, number, body))
        };
        let part = self.repeat("put_part", path.as_str(), done, attempt).await?;
        if let Some(body) = spare {
            body.recycle();
        }
        Ok(part)
    }

    /// See [`StorageDriver::complete_multipart`].
    pub async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        let attempt = || Some(self.driver.complete_multipart(path, id, parts));
        self.repeat("complete_multipart", path.as_str(), done, attempt).await
    }

    /// See [`StorageDriver::abort_multipart`].
    pub async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        let attempt = || Some(self.driver.abort_multipart(path, id));
        self.repeat("abort_multipart", path.as_str(), done, attempt).await
    }

    /// See [`StorageDriver::digest`].
    pub async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        self.repeat("digest", path.as_str(), found, || Some(self.driver.digest(path, algorithm))).await
    }

    pub(super) async fn copy_inside(&self, from: &Path, to: &Path) -> Result<Copied, StorageError> {
        self.repeat("copy", from.as_str(), done, || Some(self.driver.copy(from, to))).await
    }

    /// An error of this store's driver.
    pub fn error(&self, path: &Path, kind: impl Into<StorageErrorKind>) -> StorageError {
        self.driver.error(path.as_str(), kind)
    }

    /// Reads a small object into memory. More than `limit` bytes is an error.
    pub async fn read(&self, path: &Path, limit: usize) -> Result<Option<(Bytes, ObjectMeta)>, StorageError> {
        let Some(Object { meta, body }) = self.get(path, None).await? else { return Ok(None) };
        let bytes = body.read(limit).await.map_err(|error| self.unreadable(path, error))?;
        Ok(Some((bytes, meta)))
    }

    /// The error of an object whose content could not be read: the store's, not a client's.
    pub fn unreadable(&self, path: &Path, error: ReadError) -> StorageError {
        let retryable = !matches!(error, ReadError::TooLarge { .. });
        self.error(
            path,
            StorageErrorKind::Backend { operation: "get", message: error.to_string(), retryable },
        )
    }

    /// Every object whose path starts with `prefix`, flat, in order.
    pub async fn list_all(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>, StorageError> {
        let mut objects = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let listing = self.list(prefix, Page { after: after.as_deref(), ..Page::first() }).await?;
            objects.extend(listing.objects);
            match listing.next {
                Some(next) => after = Some(next),
                None => return Ok(objects),
            }
        }
    }

    /// Whether the path of any object starts with `prefix`.
    pub async fn exists_below(&self, prefix: &str) -> Result<bool, StorageError> {
        let mut after: Option<String> = None;
        loop {
            let page = Page { after: after.as_deref(), limit: 1, folders: false };
            let listing = self.list(prefix, page).await?;
            if !listing.objects.is_empty() {
                return Ok(true);
            }
            let Some(next) = listing.next else { return Ok(false) };
            after = Some(next);
        }
    }
}
