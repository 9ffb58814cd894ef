//! The driver for an R2 bucket.

use std::future::Future;

use js_sys::Uint8Array;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::ReadableStream;
use worker::{Bucket, Conditional, Data, HttpMetadata, Include, Range, UploadedPart};

use super::{
    buffers::JsBuffer,
    stream::{self, JsStream, message},
};
use crate::{
    oci::{Algorithm, Digest},
    platform::{Body, ByteRange, ReadError, Timestamp},
    storage::{
        Answer, Capabilities, Condition, Errors, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageError, StorageErrorKind,
    },
};

/// Size limit of a put, in bytes: R2's 5 GiB less 5 MiB.
const MAX_PUT: u64 = 5 * 1024 * 1024 * 1024 - 5 * 1024 * 1024;

/// Parts of the messages of errors after which the same request may succeed: R2's codes for an unspecified and
/// an internal error, an unavailable service, and a client that was cut off.
const RETRYABLE: [&str; 6] = ["(0)", "(10001)", "(10043)", "(10054)", "onnection lost", "nternal error"];

/// The same of errors of a call that R2 did not carry out: too many writes to one key.
const THROTTLED: [&str; 2] = ["(10058)", "429"];

/// A part of what the runtime says if a client hangs up whose stream is being sent.
const CLIENT_GONE: &str = "client disconnected";

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
        } else if is(&["(10024)", "(10025)"]) {
            // No such upload, or a part that was replaced since: either way it cannot be completed.
            StorageErrorKind::NoSuchUpload
        } else if is(&THROTTLED) {
            StorageErrorKind::Throttled { operation, message }
        } else {
            StorageErrorKind::Backend { operation, retryable: is(&RETRYABLE), message }
        };
        self.error(path, kind)
    }

    /// Sends a write of `body`.
    async fn write<T, F>(
        &self,
        path: &str,
        operation: &'static str,
        body: Body,
        send: impl FnOnce(Data) -> F,
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
                let view = JsBuffer::of(&**buffer).ok_or_else(foreign)?.view(range.clone());
                view.map_err(|error| self.error(path, StorageErrorKind::Body(error)))?.into()
            }
            Body::Stream(stream) => stream::raw(stream).ok_or_else(foreign)?.into(),
            Body::Parts(_) => return Err(foreign()),
        };
        let is_sent = matches!(body, Body::Stream(_));
        // `Data` has no variant for a view, but passes a stream's handle through unchanged, and R2 accepts
        // either.
        let data = Data::ReadableStream(value.unchecked_into::<ReadableStream>());
        send(data).await.map_err(|error| match self.failure(path, operation, error) {
            StorageError { kind: StorageErrorKind::Backend { message, .. }, .. }
                if is_sent && message.contains(CLIENT_GONE) =>
            {
                self.error(path, StorageErrorKind::Body(ReadError::Broken(message)))
            }
            failure => failure,
        })
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
            let object = self.bucket.head(path.as_str()).await;
            let object = object.map_err(|error| self.failure(path.as_str(), "head", error))?;
            Ok(object.as_ref().map(meta))
        })
    }

    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
            let get = self.bucket.get(path.as_str());
            let get = match range {
                None => get,
                Some(ByteRange { offset, length: None }) => get.range(Range::OffsetToEnd { offset }),
                Some(ByteRange { offset, length: Some(length) }) => {
                    get.range(Range::OffsetWithLength { offset, length })
                }
            };
            let object = get.execute().await.map_err(|error| {
                let error = self.failure(path.as_str(), "get", error);
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
            let keys = paths.iter().map(|path| path.as_str()).collect::<Vec<_>>();
            let deleted = self.bucket.delete_multiple(keys).await;
            deleted.map_err(|error| self.failure(first.as_str(), "delete", error))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        Box::pin(async move {
            let mut cursor: Option<String> = None;
            loop {
                let include = vec![Include::HttpMetadata, Include::CustomMetadata];
                let mut list = self.bucket.list().prefix(prefix).limit(page.limit as u32).include(include);
                if page.folders {
                    list = list.delimiter("/");
                }
                if let Some(cursor) = cursor {
                    list = list.cursor(cursor);
                } else if let Some(after) = page.after {
                    // After a folder means after everything below it. No character of a path sorts after DEL.
                    list = list.start_after(if after.ends_with('/') {
                        format!("{after}\u{7f}")
                    } else {
                        after.to_owned()
                    });
                }
                let found = list.execute().await.map_err(|error| self.failure(prefix, "list", error))?;
                let objects: Vec<_> =
                    found.objects().iter().map(|object| (object.key(), meta(object))).collect();
                let folders = found.delimited_prefixes();
                let last =
                    objects.last().map(|(path, _)| path).into_iter().chain(folders.last()).max().cloned();
                cursor = found.cursor().filter(|_| found.truncated());
                // A page may be empty although more follow: only the cursor leads on from there.
                if last.is_some() || cursor.is_none() {
                    return Ok(Listing { next: last.filter(|_| found.truncated()), objects, folders });
                }
            }
        })
    }

    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        Box::pin(async move {
            let created = self.bucket.create_multipart_upload(path.as_str()).execute().await;
            let upload = created.map_err(|error| self.failure(path.as_str(), "create_multipart", error))?;
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
            let upload = self.resume(path, id, "complete_multipart")?;
            let parts = parts.iter().map(|part| UploadedPart::new(part.number, part.etag.clone()));
            let completed = upload.complete(parts).await;
            let object =
                completed.map_err(|error| self.failure(path.as_str(), "complete_multipart", error))?;
            Ok(meta(&object))
        })
    }

    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()> {
        Box::pin(async move {
            let upload = self.resume(path, id, "abort_multipart")?;
            match upload.abort().await.map_err(|error| self.failure(path.as_str(), "abort_multipart", error))
            {
                Err(StorageError { kind: StorageErrorKind::NoSuchUpload, .. }) => Ok(()),
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
