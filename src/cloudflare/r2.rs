//! The driver for an R2 bucket's binding.

use std::future::Future;

use js_sys::Uint8Array;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::ReadableStream;
use worker::{Bucket, Conditional, Data, HttpMetadata, Include, Range, UploadedPart};

use super::{
    clock::sleep,
    stream::{JsStream, message},
};
use crate::{
    body::Body,
    clock::Timestamp,
    oci::{Algorithm, Digest},
    storage::{
        ByteRange, Capabilities, Condition, Listing, MultipartId, Object, ObjectMeta, Page, Part, Path,
        PutOptions, StorageDriver, StorageDriverExt, StorageError, StorageErrorKind,
    },
};

/// R2's own limit for one put (5 GiB), less what it wants to be less.
const MAX_PUT: u64 = 5 * 1024 * 1024 * 1024 - 5 * 1024 * 1024;

/// How long to wait before the same request is made again, in milliseconds. R2 takes one write a second to a
/// key and answers 429 to more.
const BACKOFF: [u32; 4] = [50, 200, 600, 1200];

/// The bucket.
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
        // R2's errors reach a worker as text that ends with their number.
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

    /// Does it again, a few times, while R2 says that it may work later.
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
        body: Body<JsStream>,
        mut attempt: impl FnMut(Data) -> F,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = worker::Result<T>>,
    {
        let value: JsValue = match &body {
            Body::Empty => Uint8Array::new_with_length(0).into(),
            Body::Bytes(bytes) => Uint8Array::from(bytes.as_ref()).into(),
            Body::Block { block, from, to } => block.view(*from, *to).into(),
            // A stream can be sent once only.
            Body::Stream(stream) => {
                let sent = attempt(stream.raw().clone().into()).await;
                return sent.map_err(|error| self.failure(path, operation, error));
            }
        };
        // `Data` has no variant for a view, and passes a stream's handle on as it is: so does R2 take either.
        let data = || Data::ReadableStream(value.clone().unchecked_into::<ReadableStream>());
        let written = self.retrying(path, operation, || attempt(data())).await?;
        if let Body::Block { block, .. } = body {
            block.recycle();
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
        facts: object.custom_metadata().unwrap_or_default().into_iter().collect(),
    }
}

impl StorageDriver for R2 {
    type Stream = JsStream;

    fn name(&self) -> &'static str {
        "r2"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: true,
            multipart: true,
            max_put: MAX_PUT,
            lists_facts: true,
            nests: true,
        }
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        let object = self.retrying(path.as_str(), "head", || self.bucket.head(path.as_str())).await?;
        Ok(object.as_ref().map(meta))
    }

    async fn get(
        &self,
        path: &Path,
        range: Option<ByteRange>,
    ) -> Result<Option<Object<JsStream>>, StorageError> {
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
        let object =
            self.retrying(path.as_str(), "get", get).await.map_err(|error| match (&error.kind, range) {
                (StorageErrorKind::Backend { message, .. }, Some(range)) if message.contains("(10039)") => {
                    self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset: range.offset })
                }
                _ => error,
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
            Some(Ok(worker::ResponseBody::Stream(raw))) => Body::Stream(JsStream::new(raw, Some(length))),
            Some(Err(error)) => return Err(self.failure(path.as_str(), "get", error)),
            _ => Body::Empty,
        };
        Ok(Some(Object { meta, body }))
    }

    async fn put(
        &self,
        path: &Path,
        body: Body<JsStream>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
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
            if !options.facts.is_empty() {
                put = put.custom_metadata(
                    options.facts.clone().into_iter().collect::<std::collections::HashMap<_, _>>(),
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
    }

    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        let Some(first) = paths.first() else { return Ok(()) };
        let keys = || paths.iter().map(|path| path.as_str()).collect::<Vec<_>>();
        self.retrying(first.as_str(), "delete", || self.bucket.delete_multiple(keys())).await
    }

    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        let list = || {
            let include = vec![Include::HttpMetadata, Include::CustomMetadata];
            let mut list = self.bucket.list().prefix(prefix).limit(page.limit as u32).include(include);
            if page.folders {
                list = list.delimiter("/");
            }
            if let Some(after) = page.after {
                // Behind a folder: behind everything in it. No path has a character as great as DEL.
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
    }

    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        let create = || self.bucket.create_multipart_upload(path.as_str()).execute();
        let upload = self.retrying(path.as_str(), "create_multipart", create).await?;
        Ok(MultipartId(upload.upload_id().await))
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<JsStream>,
    ) -> Result<Part, StorageError> {
        let upload = self.resume(path, id, "put_part")?;
        let part =
            self.write(path.as_str(), "put_part", body, |data| upload.upload_part(number, data)).await?;
        Ok(Part { number: part.part_number(), etag: part.etag() })
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        let complete = || async {
            let upload = self.bucket.resume_multipart_upload(path.as_str(), &id.0)?;
            upload.complete(parts.iter().map(|part| UploadedPart::new(part.number, part.etag.clone()))).await
        };
        let object = self.retrying(path.as_str(), "complete_multipart", complete).await?;
        Ok(meta(&object))
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        let upload = self.resume(path, id, "abort_multipart")?;
        match self.retrying(path.as_str(), "abort_multipart", || upload.abort()).await {
            // It is gone already.
            Err(StorageError { kind: StorageErrorKind::Backend { message, .. }, .. })
                if message.contains("(10024)") =>
            {
                Ok(())
            }
            result => result,
        }
    }

    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        let Some(object) = self.get(path, None).await? else { return Ok(None) };
        let native = worker::crypto::DigestStream::new(match algorithm {
            Algorithm::Sha256 => worker::crypto::DigestStreamAlgorithm::Sha256,
            Algorithm::Sha512 => worker::crypto::DigestStreamAlgorithm::Sha512,
        });
        let hash = async {
            if let Body::Stream(stream) = object.body {
                let piping = stream.into_raw().pipe_to(native.raw().unchecked_ref());
                wasm_bindgen_futures::JsFuture::from(piping).await?;
            }
            native.digest().await
        };
        let hash = hash.await.map_err(|error| self.failure(path.as_str(), "digest", error))?;
        Ok(Digest::from_hash(algorithm, &hash.to_vec()))
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
