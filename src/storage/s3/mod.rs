//! The driver for S3 and compatible stores.
//!
//! Every request is signed in its query (AWS Signature Version 4). Listings carry no media types or metadata.
//! S3 checks conditions and SHA-256 checksums itself. It has no SHA-512 checksum: such content is written to
//! a temporary object, read back, and copied to its path.

mod bucket;
mod request;
mod write;

use std::rc::Rc;

use http::{HeaderMap, StatusCode, header};
use rusty_s3::actions::{
    AbortMultipartUpload, CompleteMultipartUpload, CreateMultipartUpload, DeleteObjects,
    DeleteObjectsResponse, GetObject, HeadObject, ListObjectsV2, ObjectIdentifier, PutObject, UploadPart,
};

use self::request::{MAX_RESPONSE, Reply, element, escape};
use super::{
    Answer, Capabilities, Copied, Errors, Listing, Metadata, MultipartId, Object, ObjectMeta, Page, Part,
    Path, PutOptions, StorageDriver, StorageErrorKind,
};
use crate::{
    oci::{Algorithm, Digest, Hasher},
    platform::{Body, ByteRange, Clock, HttpClient, Timestamp},
};

pub use bucket::S3Bucket;
pub(crate) use bucket::signing_time;

/// Size limit of a put and of a copy, in bytes: S3's 5 GiB less 5 MiB, which is R2's limit.
const MAX_PUT: u64 = 5 * 1024 * 1024 * 1024 - 5 * 1024 * 1024;
/// The type that S3 reports for an object stored without one.
const NO_TYPE: &str = "binary/octet-stream";
/// The prefix of the headers that carry metadata.
const METADATA: &str = "x-amz-meta-";

/// The driver of one bucket.
pub struct S3 {
    client: Rc<dyn HttpClient>,
    bucket: S3Bucket,
    clock: Rc<dyn Clock>,
    scratch: Path,
    /// Size limit of a copy, in bytes; lowered by a test.
    pub(crate) max_copy: u64,
}

impl S3 {
    /// The driver of `bucket`. It writes temporary objects below `scratch`; a crash may leave one there.
    pub fn new(client: Rc<dyn HttpClient>, bucket: S3Bucket, clock: Rc<dyn Clock>, scratch: Path) -> Self {
        Self { client, bucket, clock, scratch, max_copy: MAX_PUT }
    }

    fn meta(&self, headers: &HeaderMap, size: u64) -> ObjectMeta {
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(METADATA)?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        });
        let modified = text_of(headers, &header::LAST_MODIFIED)
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .map(|date| milliseconds(date.timestamp()));
        ObjectMeta {
            size,
            etag: text_of(headers, &header::ETAG).unwrap_or_default().to_owned(),
            modified: modified.unwrap_or_else(|| self.clock.now()),
            media_type: text_of(headers, &header::CONTENT_TYPE).filter(|t| *t != NO_TYPE).map(str::to_owned),
            metadata: metadata.collect(),
        }
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: &header::HeaderName) -> Option<u64> {
    text_of(headers, name)?.parse().ok()
}

fn milliseconds(time: jiff::Timestamp) -> Timestamp {
    Timestamp(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

impl StorageDriver for S3 {
    fn name(&self) -> &'static str {
        "s3"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: true,
            multipart: true,
            max_put: MAX_PUT,
            lists_metadata: false,
            // Some S3-compatible servers keep objects as files.
            allows_nested_objects: false,
        }
    }

    fn head<'a>(&'a self, path: &'a Path) -> Answer<'a, Option<ObjectMeta>> {
        Box::pin(async move {
            let S3Bucket { bucket, credentials } = &self.bucket;
            let action = HeadObject::new(bucket, Some(credentials), path.as_str());
            let response = self.send(path.as_str(), "head", action, Vec::new(), Body::Empty).await?;
            let (status, headers) = (response.status(), response.headers());
            match number(headers, &header::CONTENT_LENGTH) {
                _ if status == StatusCode::NOT_FOUND => Ok(None),
                Some(size) if status.is_success() => Ok(Some(self.meta(headers, size))),
                _ => {
                    let reply = Reply { status, headers: HeaderMap::new(), text: String::new() };
                    Err(self.refused(path.as_str(), "head", &reply))
                }
            }
        })
    }

    fn get<'a>(&'a self, path: &'a Path, range: Option<ByteRange>) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
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
                let text = body.read(MAX_RESPONSE).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                return match (parts.status, range) {
                    (StatusCode::NOT_FOUND, _) if element(&text, "Code") != "NoSuchBucket" => Ok(None),
                    (StatusCode::RANGE_NOT_SATISFIABLE, Some(ByteRange { offset, .. })) => {
                        Err(self.error(path.as_str(), StorageErrorKind::InvalidOffset { offset }))
                    }
                    (status, _) => Err(self.refused(
                        path.as_str(),
                        "get",
                        &Reply { status, headers: parts.headers, text },
                    )),
                };
            }
            let total = text_of(&parts.headers, &header::CONTENT_RANGE)
                .and_then(|range| range.rsplit_once('/')?.1.parse().ok())
                .or_else(|| number(&parts.headers, &header::CONTENT_LENGTH));
            match total {
                Some(size) if body.content_length().is_some() => {
                    Ok(Some(Object { meta: self.meta(&parts.headers, size), body }))
                }
                _ => {
                    let message = "the response has no length".to_owned();
                    Err(self.backend(path.as_str(), "get", message, false))
                }
            }
        })
    }

    fn put<'a>(&'a self, path: &'a Path, body: Body, options: PutOptions<'a>) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            let Some(digest) = options.digest else {
                return self.put_object(path, body, options, None).await;
            };
            // Content in memory is checked before it is sent.
            let mut hasher = Hasher::new(digest.algorithm());
            let is_checked = match &body {
                Body::Bytes(bytes) => {
                    hasher.update(bytes);
                    true
                }
                Body::Buffer { buffer, range } if digest.algorithm() == Algorithm::Sha512 => {
                    let hashed = buffer.hash(range.clone(), &mut hasher);
                    hashed.map_err(|error| self.error(path.as_str(), StorageErrorKind::Body(error)))?;
                    true
                }
                _ => false,
            };
            if is_checked && hasher.finish() != *digest {
                return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
            }
            match digest.algorithm() {
                Algorithm::Sha256 => self.put_object(path, body, options, Some(digest)).await,
                Algorithm::Sha512 if is_checked => self.put_object(path, body, options, None).await,
                Algorithm::Sha512 => self.put_checked(path, digest, body, options).await,
            }
        })
    }

    fn delete<'a>(&'a self, paths: &'a [Path]) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some(first) = paths.first() else { return Ok(()) };
            let S3Bucket { bucket, credentials } = &self.bucket;
            let objects: Vec<_> = paths.iter().map(|path| ObjectIdentifier::new(path.to_string())).collect();
            let mut action = DeleteObjects::new(bucket, Some(credentials), objects.iter());
            action.set_quiet(true);
            let (body, md5) = action.clone().body_with_md5();
            let headers = vec![("content-md5".to_owned(), md5)];
            let body = Body::Bytes(body.into());
            let reply = self.request(first.as_str(), "delete", action, headers, body).await?;
            let failed = DeleteObjectsResponse::parse(&reply.text)
                .map_err(|error| self.backend(first.as_str(), "delete", error.to_string(), false))?
                .errors;
            match failed.first() {
                None => Ok(()),
                Some(error) => Err(self.backend(first.as_str(), "delete", format!("{error:?}"), true)),
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, page: Page<'a>) -> Answer<'a, Listing> {
        Box::pin(async move {
            let S3Bucket { bucket, credentials } = &self.bucket;
            let mut action = ListObjectsV2::new(bucket, Some(credentials));
            action.with_prefix(prefix);
            action.with_max_keys(page.limit);
            if page.folders {
                action.with_delimiter("/");
            }
            if let Some(after) = page.after {
                // After a folder means after everything below it. No character of a path sorts after DEL.
                let end = if after.ends_with('/') { "\u{7f}" } else { "" };
                action.with_start_after(format!("{after}{end}"));
            }
            let reply = self.request(prefix, "list", action, Vec::new(), Body::Empty).await?;
            let found = ListObjectsV2::parse_response(&reply.text)
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
                        metadata: Metadata::new(),
                    };
                    (object.key, meta)
                })
                .collect();
            let folders: Vec<_> = found.common_prefixes.into_iter().map(|folder| folder.prefix).collect();
            let last = objects.last().map(|(path, _)| path).into_iter().chain(folders.last()).max().cloned();
            Ok(Listing { next: last.filter(|_| found.next_continuation_token.is_some()), objects, folders })
        })
    }

    fn create_multipart<'a>(&'a self, path: &'a Path) -> Answer<'a, MultipartId> {
        Box::pin(async move {
            let S3Bucket { bucket, credentials } = &self.bucket;
            let action = CreateMultipartUpload::new(bucket, Some(credentials), path.as_str());
            let operation = "create_multipart";
            let reply = self.request(path.as_str(), operation, action, Vec::new(), Body::Empty).await?;
            let created = CreateMultipartUpload::parse_response(&reply.text)
                .map_err(|error| self.backend(path.as_str(), operation, error.to_string(), false))?;
            Ok(MultipartId(created.upload_id().to_owned()))
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
            let S3Bucket { bucket, credentials } = &self.bucket;
            let action = UploadPart::new(bucket, Some(credentials), path.as_str(), number, &id.0);
            let reply = self.request(path.as_str(), "put_part", action, Vec::new(), body).await?;
            match text_of(&reply.headers, &header::ETAG) {
                Some(etag) => Ok(Part { number, etag: etag.to_owned() }),
                None => {
                    Err(self.backend(path.as_str(), "put_part", "the response has no ETag".into(), false))
                }
            }
        })
    }

    fn complete_multipart<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: &'a [Part],
    ) -> Answer<'a, ObjectMeta> {
        Box::pin(async move {
            let S3Bucket { bucket, credentials } = &self.bucket;
            let operation = "complete_multipart";
            // Without parts: the crate would renumber them.
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
            let reply = self.request(path.as_str(), operation, action, Vec::new(), body).await?;
            // S3 starts its response before it is done, so the body may hold an error.
            if reply.text.contains("<Error>") {
                let retryable = element(&reply.text, "Code") == "InternalError";
                return Err(self.backend(
                    path.as_str(),
                    operation,
                    element(&reply.text, "Message").into(),
                    retryable,
                ));
            }
            let meta = self.head(path).await?;
            meta.ok_or_else(|| {
                self.backend(path.as_str(), operation, "the completed object is missing".into(), true)
            })
        })
    }

    fn abort_multipart<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Answer<'a, ()> {
        Box::pin(async move {
            let S3Bucket { bucket, credentials } = &self.bucket;
            let action = AbortMultipartUpload::new(bucket, Some(credentials), path.as_str(), &id.0);
            let operation = "abort_multipart";
            let reply = self.exchange(path.as_str(), operation, action, Vec::new(), Body::Empty).await?;
            if reply.status.is_success() || reply.status == StatusCode::NOT_FOUND {
                return Ok(());
            }
            Err(self.refused(path.as_str(), operation, &reply))
        })
    }

    fn digest<'a>(&'a self, path: &'a Path, algorithm: Algorithm) -> Answer<'a, Option<Digest>> {
        Box::pin(async move {
            let Some(object) = self.get(path, None).await? else { return Ok(None) };
            let mut hasher = Hasher::new(algorithm);
            match object.body {
                Body::Stream(mut stream) => {
                    let read = stream.discard(u64::MAX, Some(&mut hasher)).await;
                    read.map_err(|error| self.backend(path.as_str(), "digest", error.to_string(), true))?;
                }
                Body::Bytes(bytes) => hasher.update(&bytes),
                Body::Empty | Body::Buffer { .. } | Body::Parts(_) => {}
            }
            Ok(Some(hasher.finish()))
        })
    }

    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> Answer<'a, Copied> {
        Box::pin(async move {
            let Some(meta) = self.head(from).await? else { return Ok(Copied::Absent) };
            if meta.size > self.max_copy {
                self.copy_parts(from, to, meta.size).await?;
                return Ok(Copied::Done);
            }
            let S3Bucket { bucket, credentials } = &self.bucket;
            let action = PutObject::new(bucket, Some(credentials), to.as_str());
            let reply =
                self.exchange(to.as_str(), "copy", action, self.copy_source(from), Body::Empty).await?;
            // S3 starts its response before the copy is done, so the body may hold an error.
            let is_done = reply.status.is_success() && !reply.text.contains("<Error>");
            Ok(if is_done { Copied::Done } else { Copied::Unsupported })
        })
    }
}
