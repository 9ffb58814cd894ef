//! The driver for S3 and whatever speaks its language.
//!
//! Every request is signed in its query (AWS Signature Version 4). Listings do not tell an object's media type
//! and facts; S3's conditional writes and checksums do what R2's binding does. It has no checksum of sha512:
//! such content is written beside its place, read back, and copied there.

mod ask;

use std::{rc::Rc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use rusty_s3::actions::{
    AbortMultipartUpload, CompleteMultipartUpload, CreateMultipartUpload, DeleteObjects,
    DeleteObjectsResponse, GetObject, HeadObject, ListObjectsV2, ObjectIdentifier, PutObject, UploadPart,
};

use self::ask::{Answer, Headers, MAX_ANSWER, element, escape, unescape};
use super::{
    ByteRange, Capabilities, Condition, Facts, Key, Listing, MultipartId, Object, ObjectMeta, Page, Part,
    Path, PutOptions, Redirect, StorageDriver, StorageDriverExt, StorageError, StorageErrorKind, copy,
    redirect::{
        Mode,
        presigned::{Presigned, S3Bucket},
    },
};
use crate::{
    body::{Block, Body, ByteStream},
    clock::{Clock, Timestamp},
    http_client::HttpClient,
    oci::{Algorithm, Digest, Hasher},
    uploads::UploadId,
};

/// How much one put takes, and one copy: S3's 5 GiB, less the 5 MiB that R2 wants it to be less.
const MAX_PUT: u64 = 5 * 1024 * 1024 * 1024 - 5 * 1024 * 1024;
/// How much is hashed at once, in bytes.
const STRIDE: usize = 1024 * 1024;
/// What S3 says of an object that was stored without a type.
const NO_TYPE: &str = "binary/octet-stream";
/// The headers that carry facts.
const FACT: &str = "x-amz-meta-";

/// The bucket.
pub struct S3<C> {
    client: C,
    bucket: S3Bucket,
    presigned: Presigned,
    clock: Rc<dyn Clock>,
    /// How much is copied at once, in bytes: [`MAX_PUT`], which only tests make smaller.
    pub(crate) max_copy: u64,
}

impl<C: HttpClient> S3<C> {
    /// A bucket, reached through `client`; `redirect_ttl` is how long presigned URLs work.
    pub fn new(client: C, bucket: S3Bucket, redirect_ttl: Duration, clock: Rc<dyn Clock>) -> Self {
        let presigned = Presigned { bucket: bucket.clone(), ttl: redirect_ttl, clock: clock.clone() };
        Self { client, bucket, presigned, clock, max_copy: MAX_PUT }
    }

    /// A write whose content this driver has to check itself: beside its place first.
    async fn put_checked(
        &self,
        path: &Path,
        digest: &Digest,
        body: Body<C::Stream>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        if options.condition != Condition::Always {
            let what = "conditional puts of streams with such a digest";
            return Err(self.error(path.as_str(), StorageErrorKind::Unsupported(what)));
        }
        let beside = Key::Staged(&UploadId::random(), 0).path();
        let copied = async {
            self.put_object(&beside, body, options, None).await?;
            if self.digest(&beside, digest.algorithm()).await?.as_ref() != Some(digest) {
                return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
            }
            // Boxed: a copy may come back here.
            Box::pin(self.copy(&beside, path)).await?;
            self.head(path).await
        };
        let copied = copied.await;
        self.delete(std::slice::from_ref(&beside)).await?;
        copied?.ok_or_else(|| self.backend(path.as_str(), "put", "what was copied is not there".into(), true))
    }

    /// A write that S3 checks against `sha256`, if that is given.
    async fn put_object(
        &self,
        path: &Path,
        body: Body<C::Stream>,
        options: PutOptions<'_>,
        sha256: Option<&Digest>,
    ) -> Result<ObjectMeta, StorageError> {
        let Some(size) = body.content_length() else {
            let message = "the stream must have a known length".to_owned();
            return Err(self.backend(path.as_str(), "put", message, false));
        };
        let mut headers = Vec::new();
        if let Some(media_type) = options.media_type {
            headers.push(("content-type".to_owned(), media_type.to_owned()));
        }
        if let Some(digest) = sha256 {
            headers.push(("x-amz-checksum-sha256".to_owned(), STANDARD.encode(digest.to_bytes())));
        }
        match &options.condition {
            Condition::Always => {}
            Condition::IfAbsent => headers.push(("if-none-match".to_owned(), "*".to_owned())),
            Condition::IfMatch(etag) => {
                headers.push(("if-match".to_owned(), etag.clone()));
            }
        }
        headers.extend(options.facts.iter().map(|(name, value)| (format!("{FACT}{name}"), value.clone())));
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = PutObject::new(bucket, Some(credentials), path.as_str());
        let answer = self.ask_any(path.as_str(), "put", action, headers, body).await?;
        let is_condition = matches!(options.condition, Condition::IfMatch(_));
        match answer.status {
            status if status.is_success() => {}
            // What S3 answers to `If-Match` where there is nothing.
            StatusCode::NOT_FOUND if is_condition => {
                return Err(self.error(path.as_str(), StorageErrorKind::Precondition));
            }
            _ => return Err(self.refused(path.as_str(), "put", &answer)),
        }
        Ok(ObjectMeta {
            size,
            etag: text(&answer.headers, &header::ETAG).unwrap_or_default().to_owned(),
            modified: self.clock.now(),
            media_type: options.media_type.map(str::to_owned),
            facts: options.facts,
        })
    }

    fn meta(&self, headers: &HeaderMap, size: u64) -> ObjectMeta {
        let facts = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(FACT)?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        });
        let modified = text(headers, &header::LAST_MODIFIED)
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .map(|date| milliseconds(date.timestamp()));
        ObjectMeta {
            size,
            etag: text(headers, &header::ETAG).unwrap_or_default().to_owned(),
            modified: modified.unwrap_or_else(|| self.clock.now()),
            media_type: text(headers, &header::CONTENT_TYPE).filter(|t| *t != NO_TYPE).map(str::to_owned),
            facts: facts.collect(),
        }
    }

    async fn copy_parts(&self, from: &Path, to: &Path, size: u64) -> Result<(), StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let id = self.create_multipart(to).await?;
        let copied = async {
            let (mut parts, mut offset) = (Vec::new(), 0);
            for number in 1_u16.. {
                let action = UploadPart::new(bucket, Some(credentials), to.as_str(), number, &id.0);
                let end = (offset + self.max_copy).min(size);
                let mut headers = self.copy_source(from);
                headers.push(("x-amz-copy-source-range".to_owned(), format!("bytes={offset}-{}", end - 1)));
                let answer = self.ask(to.as_str(), "copy", action, headers, Body::Empty).await?;
                parts.push(Part { number, etag: unescape(element(&answer.text, "ETag")) });
                offset = end;
                if end == size {
                    break;
                }
            }
            self.complete_multipart(to, &id, &parts).await.map(drop)
        };
        let copied = copied.await;
        if copied.is_err() {
            self.abort_multipart(to, &id).await?;
        }
        copied
    }

    fn copy_source(&self, from: &Path) -> Headers {
        vec![("x-amz-copy-source".to_owned(), format!("/{}/{from}", self.bucket.bucket.name()))]
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: &header::HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

fn milliseconds(time: jiff::Timestamp) -> Timestamp {
    Timestamp(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

impl<C: HttpClient> StorageDriver for S3<C> {
    type Stream = C::Stream;

    fn name(&self) -> &'static str {
        "s3"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: true,
            multipart: true,
            max_put: MAX_PUT,
            lists_facts: false,
            // Some servers keep objects as files.
            nests: false,
        }
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = HeadObject::new(bucket, Some(credentials), path.as_str());
        let response = self.send(path.as_str(), "head", action, Vec::new(), Body::Empty).await?;
        let (status, headers) = (response.status(), response.headers());
        match number(headers, &header::CONTENT_LENGTH) {
            _ if status == StatusCode::NOT_FOUND => Ok(None),
            Some(size) if status.is_success() => Ok(Some(self.meta(headers, size))),
            _ => {
                let answer = Answer { status, headers: HeaderMap::new(), text: String::new() };
                Err(self.refused(path.as_str(), "head", &answer))
            }
        }
    }

    async fn get(
        &self,
        path: &Path,
        range: Option<ByteRange>,
    ) -> Result<Option<Object<C::Stream>>, StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = GetObject::new(bucket, Some(credentials), path.as_str());
        let mut headers = Vec::new();
        if let Some(ByteRange { offset, length }) = range {
            let last = length.map(|length| offset.saturating_add(length.saturating_sub(1)).to_string());
            headers.push(("range".to_owned(), format!("bytes={offset}-{}", last.unwrap_or_default())));
        }
        let response = self.send(path.as_str(), "get", action, headers, Body::Empty).await?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            let text = body.read(MAX_ANSWER).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            return match (parts.status, range) {
                (StatusCode::NOT_FOUND, _) if element(&text, "Code") != "NoSuchBucket" => Ok(None),
                (StatusCode::RANGE_NOT_SATISFIABLE, Some(ByteRange { offset, .. })) => {
                    Err(self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset }))
                }
                (status, _) => {
                    Err(self.refused(path.as_str(), "get", &Answer { status, headers: parts.headers, text }))
                }
            };
        }
        let total = text(&parts.headers, &header::CONTENT_RANGE)
            .and_then(|range| range.rsplit_once('/')?.1.parse().ok())
            .or_else(|| number(&parts.headers, &header::CONTENT_LENGTH));
        match total {
            Some(size) if body.content_length().is_some() => {
                Ok(Some(Object { meta: self.meta(&parts.headers, size), body }))
            }
            _ => {
                let message = "the answer does not say its length".to_owned();
                Err(self.backend(path.as_str(), "get", message, false))
            }
        }
    }

    async fn put(
        &self,
        path: &Path,
        body: Body<C::Stream>,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        let Some(digest) = options.digest else { return self.put_object(path, body, options, None).await };
        // What is in memory anyway need not be sent to be refused.
        if let Body::Bytes(bytes) = &body
            && digest.algorithm().digest(bytes) != *digest
        {
            return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
        }
        match (digest.algorithm(), &body) {
            (Algorithm::Sha256, _) => self.put_object(path, body, options, Some(digest)).await,
            (Algorithm::Sha512, Body::Bytes(_)) => self.put_object(path, body, options, None).await,
            (Algorithm::Sha512, _) => self.put_checked(path, digest, body, options).await,
        }
    }

    async fn delete(&self, paths: &[Path]) -> Result<(), StorageError> {
        let Some(first) = paths.first() else { return Ok(()) };
        let S3Bucket { bucket, credentials } = &self.bucket;
        let objects: Vec<_> = paths.iter().map(|path| ObjectIdentifier::new(path.to_string())).collect();
        let mut action = DeleteObjects::new(bucket, Some(credentials), objects.iter());
        action.set_quiet(true);
        let (body, md5) = action.clone().body_with_md5();
        let headers = vec![("content-md5".to_owned(), md5)];
        let body = Body::Bytes(body.into());
        let answer = self.ask(first.as_str(), "delete", action, headers, body).await?;
        let failed = DeleteObjectsResponse::parse(&answer.text)
            .map_err(|error| self.backend(first.as_str(), "delete", error.to_string(), false))?
            .errors;
        match failed.first() {
            None => Ok(()),
            Some(error) => Err(self.backend(first.as_str(), "delete", format!("{error:?}"), true)),
        }
    }

    async fn list(&self, prefix: &str, page: Page<'_>) -> Result<Listing, StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let mut action = ListObjectsV2::new(bucket, Some(credentials));
        action.with_prefix(prefix);
        action.with_max_keys(page.limit);
        if page.folders {
            action.with_delimiter("/");
        }
        if let Some(after) = page.after {
            // Behind a folder: behind everything in it. No path has a character as great as DEL.
            let behind = if after.ends_with('/') { "\u{7f}" } else { "" };
            action.with_start_after(format!("{after}{behind}"));
        }
        let answer = self.ask(prefix, "list", action, Vec::new(), Body::Empty).await?;
        let found = ListObjectsV2::parse_response(&answer.text)
            .map_err(|error| self.backend(prefix, "list", error.to_string(), false))?;
        let objects: Vec<_> = found
            .contents
            .into_iter()
            .map(|object| {
                let modified = object.last_modified.and_then(|time| time.parse().ok()).map(milliseconds);
                let meta = ObjectMeta {
                    size: object.size.unwrap_or_default(),
                    etag: object.etag.unwrap_or_default(),
                    modified: modified.unwrap_or_default(),
                    media_type: None,
                    facts: Facts::new(),
                };
                (object.key, meta)
            })
            .collect();
        let folders: Vec<_> = found.common_prefixes.into_iter().map(|folder| folder.prefix).collect();
        let last = objects.last().map(|(path, _)| path).into_iter().chain(folders.last()).max().cloned();
        Ok(Listing { next: last.filter(|_| found.next_continuation_token.is_some()), objects, folders })
    }

    async fn create_multipart(&self, path: &Path) -> Result<MultipartId, StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = CreateMultipartUpload::new(bucket, Some(credentials), path.as_str());
        let operation = "create_multipart";
        let answer = self.ask(path.as_str(), operation, action, Vec::new(), Body::Empty).await?;
        let created = CreateMultipartUpload::parse_response(&answer.text)
            .map_err(|error| self.backend(path.as_str(), operation, error.to_string(), false))?;
        Ok(MultipartId(created.upload_id().to_owned()))
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: u16,
        body: Body<C::Stream>,
    ) -> Result<Part, StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = UploadPart::new(bucket, Some(credentials), path.as_str(), number, &id.0);
        let answer = self.ask(path.as_str(), "put_part", action, Vec::new(), body).await?;
        match text(&answer.headers, &header::ETAG) {
            Some(etag) => Ok(Part { number, etag: etag.to_owned() }),
            None => Err(self.backend(path.as_str(), "put_part", "the answer has no ETag".into(), false)),
        }
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: &[Part],
    ) -> Result<ObjectMeta, StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let operation = "complete_multipart";
        // The crate would number the parts anew.
        let none = std::iter::empty();
        let action = CompleteMultipartUpload::new(bucket, Some(credentials), path.as_str(), &id.0, none);
        let parts: String = parts
            .iter()
            .map(|Part { number, etag }| {
                let etag = escape(etag);
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            })
            .collect();
        let body = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
        );
        let body = Body::Bytes(body.into());
        let answer = self.ask(path.as_str(), operation, action, Vec::new(), body).await?;
        // S3 begins its answer before it is done, and says in it when that failed.
        if answer.text.contains("<Error>") {
            let retryable = element(&answer.text, "Code") == "InternalError";
            return Err(self.backend(
                path.as_str(),
                operation,
                element(&answer.text, "Message").into(),
                retryable,
            ));
        }
        let meta = self.head(path).await?;
        meta.ok_or_else(|| self.backend(path.as_str(), operation, "it is not there".into(), true))
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = AbortMultipartUpload::new(bucket, Some(credentials), path.as_str(), &id.0);
        let operation = "abort_multipart";
        let answer = self.ask_any(path.as_str(), operation, action, Vec::new(), Body::Empty).await?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(self.refused(path.as_str(), operation, &answer))
    }

    async fn digest(&self, path: &Path, algorithm: Algorithm) -> Result<Option<Digest>, StorageError> {
        let Some(object) = self.get(path, None).await? else { return Ok(None) };
        let mut hasher = Hasher::new(algorithm);
        match object.body {
            Body::Stream(mut stream) => {
                let mut block = <C::Stream as ByteStream>::Block::new(STRIDE).await;
                loop {
                    let read = stream.read_into(&mut block, 0, STRIDE, Some(&mut hasher)).await;
                    if read.map_err(|error| self.error(path.as_str(), error))? < STRIDE {
                        break;
                    }
                }
            }
            Body::Bytes(bytes) => hasher.update(&bytes),
            Body::Empty | Body::Block { .. } => {}
        }
        Ok(Some(hasher.finish()))
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        let Some(meta) = self.head(from).await? else { return Ok(false) };
        if meta.size > self.max_copy {
            self.copy_parts(from, to, meta.size).await?;
            return Ok(true);
        }
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = PutObject::new(bucket, Some(credentials), to.as_str());
        let answer = self.ask_any(to.as_str(), "copy", action, self.copy_source(from), Body::Empty).await?;
        // S3 begins its answer before it is done, and says in it when that failed. Not every server can copy.
        if answer.status.is_success() && !answer.text.contains("<Error>") {
            return Ok(true);
        }
        copy::through(self, from, to).await
    }

    async fn redirect_url(
        &self,
        path: &Path,
        redirect: &Redirect<'_>,
    ) -> Result<Option<String>, StorageError> {
        Ok((redirect.mode == Mode::Presigned).then(|| self.presigned.get(path)))
    }
}
