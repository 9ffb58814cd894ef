//! Writing objects: verified puts, and copies inside the store.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use rusty_s3::actions::{PutObject, UploadPart};

use super::{
    METADATA, S3, S3Bucket,
    request::{Headers, element, unescape},
    text_of,
};
use crate::{
    oci::Digest,
    platform::Body,
    storage::{
        Condition, Copied, Errors, ObjectMeta, Part, Path, PutOptions, StorageDriver, StorageError,
        StorageErrorKind,
    },
};

impl S3 {
    /// Writes content with a digest that S3 cannot verify.
    pub(super) async fn put_checked(
        &self,
        path: &Path,
        digest: &Digest,
        body: Body,
        options: PutOptions<'_>,
    ) -> Result<ObjectMeta, StorageError> {
        if options.condition != Condition::Always {
            let what = "conditional puts of streams with such a digest";
            return Err(self.error(path.as_str(), StorageErrorKind::Unsupported(what)));
        }
        let temporary = Path::trusted(format!("{}/{}", self.scratch, uuid::Uuid::new_v4()));
        let copied = async {
            self.put_object(&temporary, body, options.clone(), None).await?;
            if self.digest(&temporary, digest.algorithm()).await?.as_ref() != Some(digest) {
                return Err(self.error(path.as_str(), StorageErrorKind::DigestMismatch));
            }
            let gone = || self.backend(path.as_str(), "put", "the temporary object is missing".into(), true);
            match self.copy(&temporary, path).await? {
                Copied::Done => {}
                Copied::Absent => return Err(gone()),
                Copied::Unsupported => {
                    let body = self.get(&temporary, None).await?.ok_or_else(gone)?.body;
                    self.put_object(path, body, options, None).await?;
                }
            }
            self.head(path).await
        };
        let copied = copied.await;
        self.delete(std::slice::from_ref(&temporary)).await?;
        copied?.ok_or_else(|| self.backend(path.as_str(), "put", "the copy is not there".into(), true))
    }

    /// Writes content, verified by S3 against `sha256`, if given.
    pub(super) async fn put_object(
        &self,
        path: &Path,
        body: Body,
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
        headers.extend(
            options.metadata.iter().map(|(name, value)| (format!("{METADATA}{name}"), value.clone())),
        );
        let S3Bucket { bucket, credentials } = &self.bucket;
        let action = PutObject::new(bucket, Some(credentials), path.as_str());
        let reply = self.exchange(path.as_str(), "put", action, headers, body).await?;
        let is_condition = matches!(options.condition, Condition::IfMatch(_));
        match reply.status {
            status if status.is_success() => {}
            // S3's answer to `If-Match` on an absent object.
            StatusCode::NOT_FOUND if is_condition => {
                return Err(self.error(path.as_str(), StorageErrorKind::Precondition));
            }
            _ => return Err(self.refused(path.as_str(), "put", &reply)),
        }
        Ok(ObjectMeta {
            size,
            etag: text_of(&reply.headers, &header::ETAG).unwrap_or_default().to_owned(),
            modified: self.clock.now(),
            media_type: options.media_type.map(str::to_owned),
            metadata: options.metadata,
        })
    }

    pub(super) async fn copy_parts(&self, from: &Path, to: &Path, size: u64) -> Result<(), StorageError> {
        let S3Bucket { bucket, credentials } = &self.bucket;
        let id = self.create_multipart(to).await?;
        let copied = async {
            let (mut parts, mut offset) = (Vec::new(), 0);
            for number in 1_u16.. {
                let action = UploadPart::new(bucket, Some(credentials), to.as_str(), number, &id.0);
                let end = (offset + self.max_copy).min(size);
                let mut headers = self.copy_source(from);
                headers.push(("x-amz-copy-source-range".to_owned(), format!("bytes={offset}-{}", end - 1)));
                let reply = self.request(to.as_str(), "copy", action, headers, Body::Empty).await?;
                parts.push(Part { number, etag: unescape(element(&reply.text, "ETag")) });
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

    pub(super) fn copy_source(&self, from: &Path) -> Headers {
        vec![("x-amz-copy-source".to_owned(), format!("/{}/{from}", self.bucket.bucket.name()))]
    }
}
