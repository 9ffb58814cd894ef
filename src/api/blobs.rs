//! Blobs: reading and removing them.

use http::{HeaderValue, Method, StatusCode, header};

use super::{
    Platform, Registry, Request, Response, empty,
    headers::{self, RequestedRange},
};
use crate::{
    error::Error,
    oci::{Digest, RepositoryName, media_type},
};

impl<P: Platform> Registry<P> {
    /// end-2: `GET /v2/<name>/blobs/<digest>`, and HEAD. One look-up, and one read for a GET.
    pub(super) async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let unknown = || Error::BlobUnknown(digest.clone());
        let content = self.content();
        let located = content.resolve(name, digest).await?.ok_or_else(unknown)?;
        let is_head = request.method() == Method::HEAD;

        let mut response = empty(StatusCode::OK);
        let fields = response.headers_mut();
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, digest);
        headers::set(fields, header::ETAG, format!("\"{digest}\""));
        fields.insert(header::CACHE_CONTROL, headers::IMMUTABLE);
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if headers::if_none_match(request.headers(), &digest.to_string()) {
            fields.remove(header::CONTENT_LENGTH);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        // Never a type that something on the way would compress.
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCTET_STREAM));
        // RFC 9110: a range is for GET only.
        let requested = request.headers().get(header::RANGE).filter(|_| !is_head);
        let range = match headers::parse_range(requested, located.size) {
            RequestedRange::Whole => None,
            RequestedRange::Part(range) => Some(range),
            RequestedRange::NotSatisfiable => return Err(Error::RangeNotSatisfiable { size: located.size }),
        };
        let length = range.and_then(|range| range.length).unwrap_or(located.size);
        fields.insert(header::CONTENT_LENGTH, length.into());
        if let Some(range) = range {
            let last = range.offset + length - 1;
            headers::set(
                fields,
                header::CONTENT_RANGE,
                format!("bytes {}-{last}/{}", range.offset, located.size),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if !is_head {
            *response.body_mut() = content.open(digest, &located, range).await?.ok_or_else(unknown)?.body;
        }
        Ok(response)
    }

    /// end-10: `DELETE /v2/<name>/blobs/<digest>`. The bytes stay for the other repositories that have them.
    pub(super) async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Response<P>, Error> {
        if self.content().unlink_blob(name, digest).await? {
            Ok(empty(StatusCode::ACCEPTED))
        } else {
            Err(Error::BlobUnknown(digest.clone()))
        }
    }
}
