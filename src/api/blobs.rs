//! Blobs: reading and removing them.

use futures_util::future::join;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    Platform, Registry, Request, Response, empty,
    headers::{self, RequestedRange},
};
use crate::{
    body::Body,
    content::Located,
    error::Error,
    oci::{Digest, RepositoryName, media_type},
    storage::{ByteRange, Path, Redirect, StorageDriver, redirect::Mode},
};

/// A blob's bytes, of which place, and under which path of the store when they come from there.
struct Opened<P: Platform> {
    body: Body<P::Stream>,
    located: Located,
    path: Option<Path>,
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn host<B>(request: &http::Request<B>) -> Option<&str> {
    request.headers().get(header::HOST).and_then(|host| host.to_str().ok())
}

impl<P: Platform> Registry<P> {
    /// end-2: `GET /v2/<name>/blobs/<digest>`, and HEAD. One look-up; then a GET is redirected, or reads
    /// once, from the edge cache if it can. An isolate that knows the blob does both at the same time.
    pub(super) async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let unknown = || Error::BlobUnknown(digest.clone());
        let content = self.content();
        if request.method() == Method::HEAD {
            let located = content.resolve(name, digest).await?.ok_or_else(unknown)?;
            return self.serve_blob(digest, &located, request, headers::IMMUTABLE, None).await;
        }
        let is_unchanged = headers::if_none_match(request.headers(), &digest.to_string());
        let mode = if is_unchanged { Mode::Off } else { self.redirect_mode(name, request.headers()) };
        let has_foreign_links = &self.shared.has_foreign_links;
        let resolving = content.resolve_to_read(name, digest, &*self.by_digest, has_foreign_links);
        let opening = async {
            let known = self.by_digest.known(digest).filter(|_| mode == Mode::Off && !is_unchanged)?;
            self.open_blob(digest, &known, request).await.ok()
        };
        let (located, mut opened) = join(resolving, opening).await;
        if !matches!((&located, &opened), (Ok(Some(located)), Some(opened)) if opened.located == *located) {
            // It was opened in vain.
            opened.take().into_iter().for_each(|opened| opened.body.cancel());
        }
        let located = located?.ok_or_else(unknown)?;
        let redirect = Redirect { mode, digest };
        if mode != Mode::Off
            && let Some(url) = self.storage.redirect_url(&located.path(digest), &redirect).await?
        {
            let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
            let fields = response.headers_mut();
            headers::set(fields, headers::DOCKER_CONTENT_DIGEST, digest);
            headers::set(fields, header::LOCATION, url);
            // The URL ends some day.
            fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return Ok(response);
        }
        self.serve_blob(digest, &located, request, headers::IMMUTABLE, opened).await
    }

    /// `GET /v2/_pierhead/blobs/<alg>/<hex>?verify=…`: a blob for whoever has the URL, until its time is over;
    /// see [`crate::storage::redirect::signed`].
    pub(super) async fn get_signed_blob(
        &self,
        digest: &Digest,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let signed = self.shared.signed.as_ref().ok_or(Error::NoSuchEndpoint)?;
        let query = request.uri().query().unwrap_or_default();
        let ends = signed.verify(request.uri().path(), query).await?.ok_or(Error::NotSigned)?;
        let located = self.by_digest.located(digest).await?;
        let located = located.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
        let seconds_left = ends.0.saturating_sub(self.shared.parts.clock.now().0) / 1000;
        let cache = format!("public, max-age={seconds_left}, immutable, no-transform");
        let cache = HeaderValue::from_str(&cache).map_err(|error| Error::Internal(error.to_string()))?;
        self.serve_blob(digest, &located, request, cache, None).await
    }

    /// How a client gets the blobs of a repository.
    fn redirect_mode(&self, name: &RepositoryName, headers: &HeaderMap) -> Mode {
        let config = &self.shared.parts.config;
        let mode = config.blob_redirect_repositories.mode(name).unwrap_or(config.blob_redirect);
        if mode == Mode::Off || config.blob_redirect_skip_agents.is_empty() {
            return mode;
        }
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let agent = agent.unwrap_or_default().to_lowercase();
        let is_skipped = config.blob_redirect_skip_agents.iter().any(|skipped| agent.contains(skipped));
        if is_skipped { Mode::Off } else { mode }
    }

    /// Which part of a blob a request is about: `None` for all of it.
    fn range(
        &self,
        digest: &Digest,
        located: &Located,
        request: &Request<P>,
    ) -> Result<Option<ByteRange>, Error> {
        // RFC 9110: a range is for GET only, and only of what `If-Range` names, if there is one.
        let etag = etag(digest);
        let is_of_this = request.headers().get(header::IF_RANGE).is_none_or(|value| value == etag.as_str());
        let is_wanted = request.method() == Method::GET && is_of_this;
        let requested = request.headers().get(header::RANGE).filter(|_| is_wanted);
        match headers::parse_range(requested, located.size) {
            RequestedRange::Whole => Ok(None),
            RequestedRange::Part(range) => Ok(Some(range)),
            RequestedRange::NotSatisfiable => Err(Error::RangeNotSatisfiable { size: located.size }),
        }
    }

    /// Answers with a blob, whole or a range, and keeps it in the edge cache if it was not there and is whole.
    async fn serve_blob(
        &self,
        digest: &Digest,
        located: &Located,
        request: &Request<P>,
        cache_control: HeaderValue,
        opened: Option<Opened<P>>,
    ) -> Result<Response<P>, Error> {
        let mut response = empty(StatusCode::OK);
        let fields = response.headers_mut();
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, digest);
        headers::set(fields, header::ETAG, etag(digest));
        fields.insert(header::CACHE_CONTROL, cache_control);
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if headers::if_none_match(request.headers(), &digest.to_string()) {
            fields.remove(header::CONTENT_LENGTH);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        // Never a type that something on the way would compress.
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCTET_STREAM));
        let range = self.range(digest, located, request)?;
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
        if request.method() != Method::HEAD {
            let Opened { body, path, .. } = match opened {
                Some(opened) => opened,
                None => self.open_blob(digest, located, request).await?,
            };
            *response.body_mut() = body;
            if let Some((host, path)) = host(request).zip(path).filter(|_| range.is_none()) {
                let blob = (host.to_owned(), digest.clone(), path, located.size);
                let log = self.log.clone();
                self.shared.edge.fill(self.storage.clone(), blob, &self.background, log);
            }
        }
        Ok(response)
    }

    /// The bytes that a request asks for: from the edge cache, or from the store.
    async fn open_blob(
        &self,
        digest: &Digest,
        located: &Located,
        request: &Request<P>,
    ) -> Result<Opened<P>, Error> {
        let range = self.range(digest, located, request)?;
        let located = located.clone();
        if let Some(host) = host(request)
            && let Some(body) = self.shared.edge.get(host, digest, located.size, range).await
        {
            return Ok(Opened { body, located, path: None });
        }
        let opened = self.content().open(digest, &located, range).await?;
        let (object, path) = opened.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
        Ok(Opened { body: object.body, located, path: Some(path) })
    }

    /// end-10: `DELETE /v2/<name>/blobs/<digest>`. The bytes stay for the other repositories that have them.
    pub(super) async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Response<P>, Error> {
        if self.content().unlink_blob(name, digest).await? {
            self.by_digest.forget(digest);
            Ok(empty(StatusCode::ACCEPTED))
        } else {
            Err(Error::BlobUnknown(digest.clone()))
        }
    }
}
