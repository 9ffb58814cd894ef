//! Blob endpoints: pull and delete.

use std::rc::Rc;

use futures_util::future::join;
use http::{HeaderValue, Method, StatusCode, header};

use super::{
    Error, Registry, Request, Response, empty, headers,
    multipart::{Multipart, Source},
    ranges::RequestedRange,
};
use crate::{
    blobs::{Blobs, Freshness, Located, Opened},
    oci::{Digest, RepositoryName, media_type},
    platform::{ByteRange, RequestLog},
    redirect::Mode,
};

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn text(request: &Request, name: header::HeaderName) -> Option<&str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

impl Registry<'_> {
    /// end-2: `GET /v2/<name>/blobs/<digest>`, and HEAD. One look-up, which for a GET a cache may answer, then for
    /// a GET a redirect or one read, from the edge cache if possible. If the blob's location is in the isolate's
    /// memory, look-up and read run concurrently.
    pub(super) async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        request: &Request,
    ) -> Result<Response, Error> {
        let unknown = || Error::BlobUnknown(digest.clone());
        let repository = self.repository_for_pull(name, request);
        let mut response = self.blob_response(self.app.blobs(&self.context), digest, request);
        if request.method() == Method::HEAD {
            let located = repository.locate(digest, Freshness::Strict).await?.ok_or_else(unknown)?;
            return response.serve(&located, headers::IMMUTABLE).await;
        }
        let is_unchanged = headers::if_none_match(request.headers(), &digest.to_string());
        let redirects = &self.app.redirects;
        let mode = match is_unchanged {
            true => Mode::Off,
            false => redirects.rules.mode(name, text(request, header::USER_AGENT)),
        };
        let opening = async {
            let guess =
                response.blobs.cached_location(digest).filter(|_| mode == Mode::Off && !is_unchanged)?;
            let opened = response.open(&guess).await.ok()?;
            Some((guess, opened))
        };
        let (located, opened) = join(repository.locate(digest, Freshness::Cached), opening).await;
        let opened = match (&located, opened) {
            (Ok(Some(located)), Some((guess, opened))) if guess == *located => Some(opened),
            (_, wrong) => {
                // The guess was wrong: discard it.
                wrong.into_iter().for_each(|(_, opened)| opened.body.cancel());
                None
            }
        };
        let mut located = located?.ok_or_else(unknown)?;
        // Stores and CDNs answer several ranges with the whole blob.
        let mode = match response.requested(located.size) {
            RequestedRange::Several(_) => Mode::Off,
            _ => mode,
        };
        if mode == Mode::Presigned && located.at.is_some() {
            // A place in a link is a hint, and who is sent there cannot look again.
            located = response.blobs.find(digest).await?.ok_or_else(unknown)?;
        }
        if let Some(url) = redirects.url(mode, digest, &located.path(digest)).await? {
            return Ok(redirect(digest, url));
        }
        response.opened = opened;
        response.serve(&located, headers::IMMUTABLE).await
    }

    /// `GET /v2/_pierhead/blobs/<alg>/<hex>?verify=…`: serves a blob to anyone with the URL, until it
    /// expires. See [`crate::redirect::signed`].
    pub(super) async fn get_signed_blob(
        &self,
        digest: &Digest,
        request: &Request,
    ) -> Result<Response, Error> {
        let signed = self.app.redirects.signed.as_ref().ok_or(Error::NoSuchEndpoint)?;
        let query = request.uri().query().unwrap_or_default();
        let expires = signed.verify(request.uri().path(), query).await?.ok_or(Error::NotSigned)?;
        let blobs = self.app.blobs(&self.context);
        let located = blobs.locate(digest, Freshness::Cached).await?;
        let located = located.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
        let seconds_left = expires.milliseconds_since(self.app.clock.now()) / 1000;
        let cache = format!("public, max-age={seconds_left}, immutable, no-transform");
        let cache = HeaderValue::from_str(&cache).map_err(|error| Error::Internal(error.to_string()))?;
        self.blob_response(blobs, digest, request).serve(&located, cache).await
    }

    fn blob_response<'a>(&self, blobs: Blobs, digest: &'a Digest, request: &'a Request) -> BlobResponse<'a> {
        let (log, max_ranges) = (self.context.log.clone(), self.app.config.reads.max_ranges);
        BlobResponse { blobs, digest, request, log, max_ranges, opened: None }
    }

    /// end-10: `DELETE /v2/<name>/blobs/<digest>`. Removes the repository's link. The collection deletes the bytes
    /// when no repository links them.
    pub(super) async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Response, Error> {
        if self.repository(name).unlink_blob(digest).await? {
            Ok(empty(StatusCode::ACCEPTED))
        } else {
            Err(Error::BlobUnknown(digest.clone()))
        }
    }
}

fn redirect(digest: &Digest, url: String) -> Response {
    let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
    let fields = response.headers_mut();
    headers::set(fields, headers::DOCKER_CONTENT_DIGEST, digest);
    headers::set(fields, header::LOCATION, url);
    // The URL expires.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Builds the response with a blob's bytes.
struct BlobResponse<'a> {
    blobs: Blobs,
    digest: &'a Digest,
    request: &'a Request,
    log: Rc<RequestLog>,
    /// The most ranges in an answer.
    max_ranges: usize,
    /// The requested bytes, or the first range of them, if already open.
    opened: Option<Opened>,
}

impl BlobResponse<'_> {
    /// What the request asks for, of a blob of `size` bytes.
    fn requested(&self, size: u64) -> RequestedRange {
        RequestedRange::of(self.request, &etag(self.digest), size, self.max_ranges)
    }

    /// Opens the requested bytes in the edge cache or the store, or the first range of them.
    async fn open(&self, located: &Located) -> Result<Opened, Error> {
        let requested = self.requested(located.size);
        if requested == RequestedRange::NotSatisfiable {
            return Err(Error::RangeNotSatisfiable { size: located.size });
        }
        let range = requested.first();
        let host = text(self.request, header::HOST);
        let opened = self.blobs.open(self.digest, located, range, host).await?;
        opened.ok_or_else(|| Error::BlobUnknown(self.digest.clone()))
    }

    /// Serves the blob or ranges of it.
    async fn serve(mut self, located: &Located, cache_control: HeaderValue) -> Result<Response, Error> {
        let mut response = empty(StatusCode::OK);
        let fields = response.headers_mut();
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, self.digest);
        headers::set(fields, header::ETAG, etag(self.digest));
        fields.insert(header::CACHE_CONTROL, cache_control);
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if headers::if_none_match(self.request.headers(), &self.digest.to_string()) {
            fields.remove(header::CONTENT_LENGTH);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        // A type that no proxy compresses, and that browsers save.
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCTET_STREAM));
        fields.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        let requested = self.requested(located.size);
        if requested == RequestedRange::NotSatisfiable {
            return Err(Error::RangeNotSatisfiable { size: located.size });
        }
        fields.insert(header::CONTENT_LENGTH, located.size.into());
        if self.request.method() == Method::HEAD {
            return Ok(response);
        }
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => self.open(located).await?,
        };
        match requested {
            RequestedRange::Full | RequestedRange::NotSatisfiable => self.send_whole(&mut response, opened),
            RequestedRange::Partial(range) => {
                headers::set_range(&mut response, range, located.size);
                *response.body_mut() = opened.body;
            }
            RequestedRange::Several(ranges) => self.send_several(&mut response, &ranges, opened),
        }
        Ok(response)
    }

    /// A whole blob from the store is also copied to the edge cache.
    fn send_whole(&self, response: &mut Response, opened: Opened) {
        if let Some(host) = text(self.request, header::HOST) {
            self.blobs.fill_edge(host, self.digest, &opened);
        }
        *response.body_mut() = opened.body;
    }

    fn send_several(self, response: &mut Response, ranges: &[ByteRange], first: Opened) {
        let multipart = Multipart::new(first.located.size);
        let host = text(self.request, header::HOST).map(str::to_owned);
        let (digest, located) = (self.digest.clone(), first.located.clone());
        let source = Source { blobs: self.blobs, digest, located, host, log: self.log };
        let body = source.body(&multipart, ranges, first);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let fields = response.headers_mut();
        headers::set(fields, header::CONTENT_TYPE, multipart.media_type());
        headers::set(fields, header::CONTENT_LENGTH, body.content_length().unwrap_or_default());
        *response.body_mut() = body;
    }
}
