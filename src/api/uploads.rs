//! Upload endpoints: every method of the specification to push a blob. [`crate::uploads`] stores the bytes.

use futures_util::future::select;
use http::{HeaderMap, StatusCode, Uri, header};

use super::{Error, Registry, Request, Response, Route, empty, headers, parameter};
use crate::{
    auth::{Access, Action},
    blobs::Freshness,
    oci::{Algorithm, Digest, RepositoryName, UploadId},
    platform::{Body, ReadError},
    repository::catalog::repositories_of,
    secret::{Keys, Purpose},
    uploads::{CallError, Chunk, DRAIN_TIME, Refused, UploadAt, UploadError, UploadState},
};

/// Limit of repositories to try as the source of a mount without `from`.
const MAX_SOURCES: usize = 20;

/// Limit of bytes to drain from a refused chunk or manifest. Without draining, a client that is still sending may miss
/// the response when the connection closes.
const DRAIN: u64 = 64 * 1024 * 1024;

/// The repository that a request wants to mount a blob from.
pub(super) fn source_of_mount(route: &Route, uri: &Uri) -> Option<RepositoryName> {
    let is_mount = matches!(route, Route::StartUpload { .. }) && parameter(uri, "mount").is_some();
    parameter(uri, "from").filter(|_| is_mount)?.parse().ok()
}

impl Registry<'_> {
    /// end-4a: `POST /v2/<name>/blobs/uploads/`; end-4b: with `?digest=` and the blob as the body;
    /// end-11: with `?mount=<digest>&from=<name>`.
    pub(super) async fn start_upload(
        &self,
        name: &RepositoryName,
        request: Request,
    ) -> Result<Response, Error> {
        let uri = request.uri();
        if let Some(digest) = parameter(uri, "mount").and_then(|mount| mount.parse().ok())
            && self.mount(name, &digest, parameter(uri, "from")).await?
        {
            return Ok(created(name, &digest));
        }
        let digest: Option<Digest> = parameter(uri, "digest").map(|digest| digest.parse()).transpose()?;
        let algorithm = match (parameter(uri, "digest-algorithm"), &digest) {
            (Some(algorithm), _) => algorithm.parse()?,
            (None, Some(digest)) => digest.algorithm(),
            (None, None) => Algorithm::Sha256,
        };
        let expires = self.app.clock.now().plus_seconds(self.app.config.uploads.ttl_seconds);
        let state = UploadState { expires, algorithm, has_session: false, first: None };
        let at = UploadAt { repository: name.clone(), id: self.app.new_upload_id()?, state };
        match digest {
            Some(digest) => self.finish(at, &digest, request, true).await,
            None => {
                let mut response = self.progress(&at, 0, StatusCode::ACCEPTED).await?;
                self.advise(response.headers_mut());
                Ok(response)
            }
        }
    }

    /// Tells clients that can choose how long their chunks should be. Any length is taken: one below a part is staged and
    /// read back, and one above the limit of the domain's plan does not get here.
    fn advise(&self, fields: &mut HeaderMap) {
        let (part, most) = (self.app.buffers().part_size() as u64, self.app.config.uploads.max_body);
        headers::set(fields, headers::OCI_CHUNK_MIN_LENGTH, part.min(most));
        headers::set(fields, headers::OCI_CHUNK_MAX_LENGTH, most);
    }

    /// end-5: `PATCH /v2/<name>/blobs/uploads/<id>`: a chunk of any length. A `digest` in the URL is ignored: clients that
    /// try a `PUT` first, and fall back to chunks, leave it there.
    pub(super) async fn patch_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: Request,
    ) -> Result<Response, Error> {
        let at = self.upload_at(name, id, request.uri()).await?;
        let (parts, mut body) = request.into_parts();
        let appended = async {
            let range = self.content_range(&at, &parts.headers).await?;
            let uploads = self.app.uploads(name, &self.context);
            uploads.append(&at, Chunk { body: &mut body, range }).await
        };
        match appended.await {
            Ok((at, offset)) => self.progress(&at, offset, StatusCode::ACCEPTED).await,
            Err(error) => Err(self.refused(&at, error, &mut body).await?),
        }
    }

    /// end-6: `PUT /v2/<name>/blobs/uploads/<id>?digest=<digest>`, with or without the last chunk.
    pub(super) async fn finish_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: Request,
    ) -> Result<Response, Error> {
        let digest = parameter(request.uri(), "digest").ok_or(Error::DigestMissing)?.parse()?;
        let at = self.upload_at(name, id, request.uri()).await?;
        self.finish(at, &digest, request, false).await
    }

    async fn finish(
        &self,
        at: UploadAt,
        digest: &Digest,
        request: Request,
        is_new: bool,
    ) -> Result<Response, Error> {
        let (parts, mut body) = request.into_parts();
        let finished = async {
            let range = self.content_range(&at, &parts.headers).await?;
            let uploads = self.app.uploads(&at.repository, &self.context);
            let chunk = Chunk { body: &mut body, range };
            if is_new {
                uploads.put(&at, chunk, digest).await
            } else {
                uploads.finish(&at, chunk, digest).await
            }
        };
        match finished.await {
            Ok(()) => Ok(created(&at.repository, digest)),
            Err(error) => Err(self.refused(&at, error, &mut body).await?),
        }
    }

    /// end-13: `GET /v2/<name>/blobs/uploads/<id>`: the bytes stored so far.
    pub(super) async fn upload_status(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        uri: &Uri,
    ) -> Result<Response, Error> {
        let at = self.upload_at(name, id, uri).await?;
        let offset = self.app.uploads(name, &self.context).offset(&at).await?;
        // Without a session, this is the location of the POST: no chunk was sent yet.
        if offset.is_none() && at.state.has_session {
            return Err(Error::UploadUnknown);
        }
        let at = if offset.is_some() && !at.state.has_session { at.with_session() } else { at };
        self.progress(&at, offset.unwrap_or(0), StatusCode::NO_CONTENT).await
    }

    /// end-14: `DELETE /v2/<name>/blobs/uploads/<id>`: cancels the upload.
    pub(super) async fn cancel_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        uri: &Uri,
    ) -> Result<Response, Error> {
        let at = self.upload_at(name, id, uri).await?;
        self.app.uploads(name, &self.context).cancel(&at).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Mounts a blob from a repository that the client may pull from: `from`, or any that has the blob; `false` if none
    /// has it.
    async fn mount(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: Option<String>,
    ) -> Result<bool, Error> {
        let mut sources: Vec<RepositoryName> = match from {
            Some(from) => from.parse().into_iter().collect(),
            None => repositories_of(&self.app.store(&self.context), digest, MAX_SOURCES).await?,
        };
        sources.retain(|from| self.may(Access::Repository(from, Action::Pull)));
        if sources.is_empty() {
            return Ok(false);
        }
        let find = async {
            for from in sources {
                if let Some(located) = self.repository(&from).locate(digest, Freshness::Strict).await? {
                    return Ok(Some((from, located)));
                }
            }
            Ok(None)
        };
        Ok(self.app.uploads(name, &self.context).mount(name, digest, find).await?)
    }

    async fn keys(&self) -> Result<Keys, Error> {
        Ok(self.app.secret.keys(Purpose::Uploads).await?)
    }

    /// The upload at a location, if its signature is valid.
    async fn upload_at(&self, name: &RepositoryName, id: &UploadId, uri: &Uri) -> Result<UploadAt, Error> {
        let state = parameter(uri, "_state").ok_or(Error::UploadUnknown)?;
        let at = UploadAt::verify(name, id, &state, &self.keys().await?, self.app.clock.now());
        at.ok_or(Error::UploadUnknown)
    }

    async fn location(&self, at: &UploadAt) -> Result<String, Error> {
        let state = at.sign(&self.keys().await?);
        Ok(format!("/v2/{}/blobs/uploads/{}?_state={state}", at.repository, at.id))
    }

    /// A response with the location and range to continue at.
    async fn progress(&self, at: &UploadAt, offset: u64, status: StatusCode) -> Result<Response, Error> {
        let mut response = empty(status);
        let fields = response.headers_mut();
        headers::upload_headers(fields, &self.location(at).await?, offset);
        headers::set(fields, headers::DOCKER_UPLOAD_UUID, at.id);
        Ok(response)
    }

    /// The first byte and the length in `Content-Range`. A malformed one is out of order.
    async fn content_range(
        &self,
        at: &UploadAt,
        fields: &HeaderMap,
    ) -> Result<Option<(u64, u64)>, UploadError> {
        let Some(value) = fields.get(header::CONTENT_RANGE) else { return Ok(None) };
        if let Some(range) = headers::parse_content_range(value) {
            return Ok(Some(range));
        }
        match self.app.uploads(&at.repository, &self.context).offset(at).await? {
            None if at.state.has_session => Err(Refused::Unknown.into()),
            offset => Err(Refused::OutOfOrder { offset: offset.unwrap_or(0) }.into()),
        }
    }

    /// Drains the body of a refused chunk, then returns the error for the client.
    async fn refused(&self, at: &UploadAt, error: UploadError, body: &mut Body) -> Result<Error, Error> {
        let is_gone =
            matches!(error, UploadError::Body(ReadError::Broken(_) | ReadError::Silent | ReadError::Slow));
        if !is_gone {
            self.drain(body).await;
        }
        match error {
            UploadError::Session(CallError::Refused(Refused::OutOfOrder { offset })) => {
                self.out_of_order(at, offset).await
            }
            error => Ok(error.into()),
        }
    }

    /// Reads and drops what a client still sends, within limits.
    pub(super) async fn drain(&self, body: &mut Body) {
        if let Body::Stream(stream) = body {
            // Best effort: the client may have disconnected.
            let _ = select(stream.discard(DRAIN, None), self.app.clock.sleep(DRAIN_TIME)).await;
        }
    }

    async fn out_of_order(&self, at: &UploadAt, offset: u64) -> Result<Error, Error> {
        let at = if offset > 0 { at.with_session() } else { at.clone() };
        Ok(Error::UploadOutOfOrder { location: self.location(&at).await?, offset })
    }
}

fn created(name: &RepositoryName, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let fields = response.headers_mut();
    headers::set(fields, header::LOCATION, format!("/v2/{name}/blobs/{digest}"));
    headers::set(fields, headers::DOCKER_CONTENT_DIGEST, digest);
    response
}
