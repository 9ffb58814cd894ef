//! The driver for an R2 bucket.

use std::future::Future;

use js_sys::Uint8Array;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::ReadableStream;
use worker::{Bucket, Conditional, Data, HttpMetadata, Include, Range, UploadedPart};

use super::{
    buffers,
    clock::sleep,
    stream::{self, JsStream, message},
};
use crate::{
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, Timestamp},
    storage::{
        Answer, Capabilities, Condition, Errors, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageError, StorageErrorKind,
    },
};

/// Size limit of a put, in bytes: R2's 5 GiB less 5 MiB.
const MAX_PUT: u64 = 5 * 1024 * 1024 * 1024 - 5 * 1024 * 1024;

/// Delays between attempts, in milliseconds. R2 accepts one write per second to a key and answers 429 to
/// more.
const BACKOFF: [u32; 4] = [50, 200, 600, 1200];

/// The driver of one bucket.
pub struct R2 {
    bucket: Bucket,
}

impl R2 {
    /// Wraps the binding.
    pub fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    fn failure(&self, path: &str, operation: &'static str, error: worker::Error) -> StorageError {
        let message = match error {
            worker::Error::Internal(error) => message(&error),
            error => error.to_string(),
        };
        // R2's errors arrive as text that ends with a code.
        let is = |codes: &[&str]| codes.iter().any(|code| message.contains(code));
        let kind = if is(&["(10037)"]) {
            StorageErrorKind::DigestMismatch
        } else {
            let retryable =
                is(&["(10001)", "(10043)", "(10054)", "(10058)", "429", "onnection lost", "nternal error"]);
            StorageErrorKind::Backend { operation, message, retryable }
        };
        self.error(path, kind)
    }

    /// Retries an operation while its error is transient, with the delays of [`BACKOFF`].
    async fn retrying<T, F>(
        &self,
        path: &str,
        operation: &'static str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = worker::Result<T>>,
    {
        let mut backoff = BACKOFF.into_iter();
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => self.failure(path, operation, error),
            };
            let is_retryable = matches!(error.kind, StorageErrorKind::Backend { retryable: true, .. });
            match backoff.next().filter(|_| is_retryable) {
                Some(wait) => sleep(wait).await,
                None => return Err(error),
            }
        }
    }

    async fn write<T, F>(
        &self,
        path: &str,
        operation: &'static str,
        body: Body,
        mut attempt: impl FnMut(Data) -> F,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = worker::Result<T>>,
    {
        let foreign = || {
            let message = "the body belongs to another platform".to_owned();
            self.error(path, StorageErrorKind::Backend { operation, message, retryable: false })
        };
        let value: JsValue = match &body {
            Body::Empty => Uint8Array::new_with_length(0).into(),
            Body::Bytes(bytes) => Uint8Array::from(bytes.as_ref()).into(),
            Body::Buffer { buffer, range } => {
                buffers::view(&**buffer, range.clone()).ok_or_else(foreign)?.into()
            }
            // A stream can be sent only once.
            Body::Stream(stream) => {
                let sent = attempt(stream::raw(stream).ok_or_else(foreign)?.into()).await;
                return sent.map_err(|error| self.failure(path, operation, error));
            }
        };
        // `Data` has no variant for a view, but passes a stream's handle through unchanged, and R2 accepts
        // either.
        let data = || Data::ReadableStream(value.clone().unchecked_into::<ReadableStream>());
        let written = self.retrying(path, operation, || attempt(data())).await?;
        if let Body::Buffer { buffer, .. } = body {
            buffers::recycle(&*buffer);
        }
        Ok(written)
    }
}

fn meta(object: &worker::Object) -> ObjectMeta {
    ObjectMeta {
        size: object.size(),
        etag: object.etag(),
        modified: Timestamp(object.uploaded().as_millis()),
        media_type: object.http_metadata().content_type,
        metadata: object.custom_metadata().unwrap_or_default().into_iter().collect(),
    }
}

impl StorageDriver for R2 {
    fn name(&self) -> &'static str {
        "r2"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: true,
            multipart: true,
            max_put: MAX_PUT,
            lists_metadata: true,
            allows_nested_objects: true,
        }
    }

    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>> {
        Box::pin(async move {
            let object = self.retrying(path.as_str(), "head", || self.bucket.head(path.as_str())).await?;
            Ok(object.as_ref().map(meta))
        })
    }

    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
            let get = || {
                let get = self.bucket.get(path.as_str());
                match range {
                    None => get,
                    Some(ByteRange { offset, length: None }) => get.range(Range::OffsetToEnd { offset }),
                    Some(ByteRange { offset, length: Some(length) }) => {
                        get.range(Range::OffsetWithLength { offset, length })
                    }
                }
                .execute()
            };
            let object = self.retrying(path.as_str(), "get", get).await.map_err(|error| {
                match (&error.kind, range) {
                    (StorageErrorKind::Backend { message, .. }, Some(range))
                        if message.contains("(10039)") =>
                    {
                        self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset: range.offset })
                    }
                    _ => error,
                }
            })?;
            let Some(object) = object else { return Ok(None) };
            let meta = meta(&object);
            let offset = range.map_or(0, |range| range.offset);
            if range.is_some() && offset >= meta.size {
                return Err(self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset }));
            }
            let left = meta.size - offset;
            let length = range.and_then(|range| range.length).map_or(left, |length| length.min(left));
            let body = match object.body().map(|body| body.response_body()) {
                Some(Ok(worker::ResponseBody::Stream(raw))) => JsStream::body(raw, Some(length)),
                Some(Err(error)) => return Err(self.failure(path.as_str(), "get", error)),
                _ => Body::Empty,
            };
            Ok(Some(Object { meta, body }))
        })
    }

    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            let only_if = match &options.condition {
                Condition::Always => None,
                Condition::IfAbsent => {
                    Some(Conditional { etag_does_not_match: Some("*".to_owned()), ..Conditional::default() })
                }
                Condition::IfMatch(etag) => {
                    Some(Conditional { etag_matches: Some(etag.clone()), ..Conditional::default() })
                }
            };
            let put = |data: Data| {
                let mut put = self.bucket.put(path.as_str(), data);
                if let Some(media_type) = options.media_type {
                    let content_type = Some(media_type.to_owned());
                    put = put.http_metadata(HttpMetadata { content_type, ..HttpMetadata::default() });
                }
                if !options.metadata.is_empty() {
                    put = put.custom_metadata(
                        options.metadata.clone().into_iter().collect::<std::collections::HashMap<_, _>>(),
                    );
                }
                put = match options.digest {
                    Some(digest) if digest.algorithm() == Algorithm::Sha256 => put.sha256(digest.to_bytes()),
                    Some(digest) => put.sha512(digest.to_bytes()),
                    None => put,
                };
                match &only_if {
                    Some(only_if) => put.only_if(only_if.clone()).execute(),
                    None => put.execute(),
                }
            };
            match self.write(path.as_str(), "put", body, put).await? {
                Some(object) => Ok(meta(&object)),
                None => Err(self.error(path.as_str(), StorageErrorKind::Precondition)),
            }
        })
    }

    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some(first) = paths.first() else { return Ok(()) };
            let keys = || paths.iter().map(|path| path.as_str()).collect::<Vec<_>>();
            self.retrying(first.as_str(), "delete", || self.bucket.delete_multiple(keys())).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        Box::pin(async move {
            let list = || {
                let include = vec![Include::HttpMetadata, Include::CustomMetadata];
                let mut list = self.bucket.list().prefix(prefix).limit(page.limit as u32).include(include);
                if page.folders {
                    list = list.delimiter("/");
                }
                if let Some(after) = page.after {
                    // After a folder means after everything below it. No character of a path sorts after DEL.
                    list = list.start_after(if after.ends_with('/') {
                        format!("{after}\u{7f}")
                    } else {
                        after.to_owned()
                    });
                }
                list.execute()
            };
            let found = self.retrying(prefix, "list", list).await?;
            let objects: Vec<_> = found.objects().iter().map(|object| (object.key(), meta(object))).collect();
            let folders = found.delimited_prefixes();
            let last = objects.last().map(|(path, _)| path).into_iter().chain(folders.last()).max().cloned();
            Ok(Listing { next: last.filter(|_| found.truncated()), objects, folders })
        })
    }

    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        Box::pin(async move {
            let create = || self.bucket.create_multipart_upload(path.as_str()).execute();
            let upload = self.retrying(path.as_str(), "create_multipart", create).await?;
            Ok(MultipartId(upload.upload_id().await))
        })
    }

    fn put_part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: u16,
        body: Body,
    ) -> Answer<'a, Part> {
        Box::pin(async move {
            let upload = self.resume(path, id, "put_part")?;
            let part =
                self.write(path.as_str(), "put_part", body, |data| upload.upload_part(number, data)).await?;
            Ok(Part { number: part.part_number(), etag: part.etag() })
        })
    }

    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            let complete = || async {
                let upload = self.bucket.resume_multipart_upload(path.as_str(), &id.0)?;
                upload
                    .complete(parts.iter().map(|part| UploadedPart::new(part.number, part.etag.clone())))
                    .await
            };
            let object = self.retrying(path.as_str(), "complete_multipart", complete).await?;
            Ok(meta(&object))
        })
    }

    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()> {
        Box::pin(async move {
            let upload = self.resume(path, id, "abort_multipart")?;
            match self.retrying(path.as_str(), "abort_multipart", || upload.abort()).await {
                // Absent: already aborted.
                Err(StorageError { kind: StorageErrorKind::Backend { message, .. }, .. })
                    if message.contains("(10024)") =>
                {
                    Ok(())
                }
                result => result,
            }
        })
    }

    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>> {
        Box::pin(async move {
            let Some(object) = self.get(path, None).await? else { return Ok(None) };
            let native = worker::crypto::DigestStream::new(match algorithm {
                Algorithm::Sha256 => worker::crypto::DigestStreamAlgorithm::Sha256,
                Algorithm::Sha512 => worker::crypto::DigestStreamAlgorithm::Sha512,
            });
            let hash = async {
                if let Body::Stream(stream) = object.body
                    && let Some(raw) = stream::raw(&stream)
                {
                    let piping = raw.pipe_to(native.raw().unchecked_ref());
                    wasm_bindgen_futures::JsFuture::from(piping).await?;
                }
                native.digest().await
            };
            let hash = hash.await.map_err(|error| self.failure(path.as_str(), "digest", error))?;
            Ok(Digest::from_hash(algorithm, &hash.to_vec()))
        })
    }
}

impl R2 {
    fn resume(
        &self,
        path: &Path,
        id: &MultipartId,
        operation: &'static str,
    ) -> Result<worker::MultipartUpload, StorageError> {
        let upload = self.bucket.resume_multipart_upload(path.as_str(), &id.0);
        upload.map_err(|error| self.failure(path.as_str(), operation, error))
    }
}
