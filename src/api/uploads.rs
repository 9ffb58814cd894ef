//! Uploads: the specification's ways of pushing a blob.
//!
//! A blob that comes in one request with its length and digest goes straight to its place, verified by the
//! store: no session, nothing in memory. Everything else goes through a [session](crate::uploads).

use http::{StatusCode, header};

use super::{LogLine, Platform, Registry, Request, Response, empty, headers, parameter};
use crate::{
    auth::{Access, Action},
    body::{Body, ByteStream},
    content::Located,
    error::Error,
    oci::{Algorithm, Digest, RepositoryName},
    storage::{Driver, StorageDriver},
    uploads::{
        CallError, Command, Upload, UploadError, UploadId, UploadSessions,
        chunk::{ChunkError, ChunkWriter, Tail},
        commit::{CommitError, discard, put_verified, sweep},
        location::UploadState,
    },
};

/// How many repositories are tried as the source of a mount that names none.
const MAX_SOURCES: usize = 20;

/// How much of a refused chunk is still taken from its client, in bytes, so that it reads the answer.
const DRAIN: usize = 64 * 1024 * 1024;

impl<P: Platform> Registry<P> {
    /// end-4a: `POST /v2/<name>/blobs/uploads/`; end-4b: with `?digest=` and the blob as the body;
    /// end-11: with `?mount=<digest>&from=<name>`.
    pub(super) async fn start_upload(
        &self,
        name: &RepositoryName,
        request: Request<P>,
    ) -> Result<Response<P>, Error> {
        if let Some(digest) = parameter(&request, "mount").and_then(|mount| mount.parse().ok())
            && let Some(located) = self.find_mount(name, &digest, &request).await?
        {
            self.content().link_blob(name, &digest, &located).await?;
            return Ok(created(name, &digest));
        }
        let digest: Option<Digest> =
            parameter(&request, "digest").map(|digest| digest.parse()).transpose()?;
        let algorithm = match (parameter(&request, "digest-algorithm"), &digest) {
            (Some(algorithm), _) => algorithm.parse()?,
            (None, Some(digest)) => digest.algorithm(),
            (None, None) => Algorithm::Sha256,
        };
        let id = UploadId::random();
        let expires = self.shared.parts.clock.now().plus_seconds(self.shared.parts.config.upload_ttl_seconds);
        let state = UploadState { expires, algorithm, has_session: false };
        if let Some(digest) = digest {
            return self.finish(name, &id, state, &digest, request).await;
        }
        let mut response = self.accepted(name, &id, state, 0).await?;
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    /// end-5: `PATCH /v2/<name>/blobs/uploads/<id>`: a chunk of any length.
    pub(super) async fn patch_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: Request<P>,
    ) -> Result<Response<P>, Error> {
        let state = self.state(name, id, &request).await?;
        let (mut writer, tail) = self.write_chunk(name, id, state, request).await?;
        if let Err(error) = writer.release(tail).await {
            return Err(self.with_location(name, id, state, error).await?);
        }
        let state = UploadState { has_session: true, ..state };
        let mut response = self.accepted(name, id, state, writer.upload.offset).await?;
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    /// end-6: `PUT /v2/<name>/blobs/uploads/<id>?digest=<digest>`, with or without the last chunk.
    pub(super) async fn finish_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: Request<P>,
    ) -> Result<Response<P>, Error> {
        let digest = parameter(&request, "digest").ok_or(Error::DigestMissing)?.parse()?;
        let state = self.state(name, id, &request).await?;
        self.finish(name, id, state, &digest, request).await
    }

    async fn finish(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        state: UploadState,
        digest: &Digest,
        request: Request<P>,
    ) -> Result<Response<P>, Error> {
        if !state.has_session && is_whole_blob(&request, digest, self.storage.capabilities().max_put) {
            let size = request.body().content_length().unwrap_or_default();
            return match put_verified(&self.storage, request.into_body(), digest).await {
                Ok(()) => {
                    self.content().link_blob(name, digest, &Located { size, at: None }).await?;
                    Ok(created(name, digest))
                }
                Err(CommitError::DigestMismatch(_)) => {
                    // Perhaps it was only the last chunk, sent to the location that the POST gave.
                    let offset = self.offset(name, id).await?;
                    match offset.filter(|offset| *offset > 0) {
                        Some(offset) => {
                            let error = CallError::from(UploadError::OutOfOrder { offset }).into();
                            Err(self.with_location(name, id, state, error).await?)
                        }
                        None => Err(Error::DigestMismatch(digest.clone())),
                    }
                }
                Err(error) => Err(error.into()),
            };
        }
        let (mut writer, tail) = self.write_chunk(name, id, state, request).await?;
        match writer.commit(tail, digest).await {
            Ok(located) => {
                self.content().link_blob(name, digest, &located).await?;
                let mut response = created(name, digest);
                // The blob is there: what fails now is done when the session's time is over.
                let tidied = async {
                    self.close(name, id, state).await?;
                    discard(&self.storage, id, &writer.upload, located.at.as_ref()).await.map_err(Error::from)
                };
                if let Err(error) = tidied.await {
                    let line =
                        format!("upload {id} is not tidied up: {}", error.log_line().unwrap_or_default());
                    response.extensions_mut().insert(LogLine(line));
                }
                Ok(response)
            }
            Err(CommitError::DigestMismatch(digest)) => {
                let upload = self.close(name, id, state).await?;
                sweep(&self.storage, id, &upload).await?;
                Err(Error::DigestMismatch(digest))
            }
            Err(CommitError::Chunk(error)) => Err(self.with_location(name, id, state, error).await?),
        }
    }

    /// end-13: `GET /v2/<name>/blobs/uploads/<id>`: how much is stored.
    pub(super) async fn upload_status(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let state = self.state(name, id, request).await?;
        let offset = self.offset(name, id).await?;
        // A location without a session is that of a POST: nothing has been sent to it yet.
        if offset.is_none() && state.has_session {
            return Err(Error::UploadUnknown);
        }
        let state = UploadState { has_session: state.has_session || offset.is_some(), ..state };
        self.accepted(name, id, state, offset.unwrap_or(0)).await
    }

    /// end-14: `DELETE /v2/<name>/blobs/uploads/<id>`: forgets the upload and what is stored of it.
    pub(super) async fn cancel_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let state = self.state(name, id, request).await?;
        let upload = self.close(name, id, state).await?;
        sweep(&self.storage, id, &upload).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Where the blob of a mount is, when the client may read it somewhere: in the repository it names, or in
    /// any that has it.
    async fn find_mount(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        request: &Request<P>,
    ) -> Result<Option<Located>, Error> {
        let sources = match parameter(request, "from") {
            Some(from) => from.parse().into_iter().collect(),
            None => self.content().repositories_of(digest, MAX_SOURCES).await?,
        };
        for from in sources {
            let access = [Access::Repository(&from, Action::Pull), Access::Repository(name, Action::Push)];
            if self.authorize(request.headers(), &access).await.is_ok()
                && let Some(located) = self.content().resolve(&from, digest).await?
            {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    /// What the location says, if we gave it.
    async fn state(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        request: &Request<P>,
    ) -> Result<UploadState, Error> {
        let value = parameter(request, "_state").ok_or(Error::UploadUnknown)?;
        let secret = self.secret().await?;
        UploadState::verify(&value, secret, name, id, self.shared.parts.clock.now())
            .ok_or(Error::UploadUnknown)
    }

    async fn location(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        state: UploadState,
    ) -> Result<String, Error> {
        let signed = state.sign(self.secret().await?, name, id);
        Ok(format!("/v2/{name}/blobs/uploads/{id}?_state={signed}"))
    }

    async fn accepted(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        state: UploadState,
        offset: u64,
    ) -> Result<Response<P>, Error> {
        let mut response = empty(StatusCode::NO_CONTENT);
        let fields = response.headers_mut();
        headers::upload_headers(fields, &self.location(name, id, state).await?, offset);
        headers::set(fields, headers::DOCKER_UPLOAD_UUID, id);
        Ok(response)
    }

    /// What a request says of its chunk.
    async fn chunk(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        state: UploadState,
        request: &Request<P>,
    ) -> Result<Chunk, ChunkError> {
        let range = match request.headers().get(header::CONTENT_RANGE) {
            None => None,
            Some(value) => match headers::parse_content_range(value) {
                Some(range) => Some(range),
                // Not a range: the client hears where to go on, as for one out of order.
                None => {
                    let status = Command::Status { repository: name.clone() };
                    let offset = match self.shared.parts.uploads.call(id, status).await {
                        Ok(reply) => reply.upload.offset,
                        Err(CallError::Refused(UploadError::Unknown)) if !state.has_session => 0,
                        Err(error) => return Err(error.into()),
                    };
                    return Err(UploadError::OutOfOrder { offset }.into());
                }
            },
        };
        let declared = range.map(|(_, length)| length);
        if let (Some(declared), Some(received)) = (declared, request.body().content_length())
            && declared != received
        {
            return Err(ChunkError::Length { declared, received });
        }
        let begin = Command::Begin {
            repository: name.clone(),
            algorithm: state.algorithm,
            offset: range.map(|(first, _)| first),
            expires: state.expires,
        };
        Ok(Chunk { begin, declared })
    }

    /// Claims the session and writes the request's chunk, but for what does not fill a part.
    async fn write_chunk<'a>(
        &'a self,
        name: &RepositoryName,
        id: &'a UploadId,
        state: UploadState,
        mut request: Request<P>,
    ) -> Result<(Writer<'a, P>, Tail<Block<P>>), Error> {
        let result = async {
            let chunk = self.chunk(name, id, state, &request).await?;
            let (storage, part_size) = (&self.storage, self.shared.parts.config.part_size);
            let mut writer =
                ChunkWriter::begin(storage, &self.shared.parts.uploads, id, part_size, chunk.begin).await?;
            let tail = match request.body_mut() {
                Body::Stream(stream) => writer.write(stream, chunk.declared).await?,
                _ => writer.nothing(),
            };
            Ok((writer, tail))
        };
        match result.await {
            Ok(written) => Ok(written),
            Err(error) => {
                if let Body::Stream(stream) = request.body_mut() {
                    stream.drain(DRAIN).await;
                }
                Err(self.with_location(name, id, state, error).await?)
            }
        }
    }

    /// How much of an upload is stored; `None` when it has no session.
    async fn offset(&self, name: &RepositoryName, id: &UploadId) -> Result<Option<u64>, Error> {
        match self.shared.parts.uploads.call(id, Command::Status { repository: name.clone() }).await {
            Ok(reply) => Ok(Some(reply.upload.offset)),
            Err(CallError::Refused(UploadError::Unknown)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn close(&self, name: &RepositoryName, id: &UploadId, state: UploadState) -> Result<Upload, Error> {
        let command = Command::Close { repository: name.clone(), expires: state.expires };
        Ok(self.shared.parts.uploads.call(id, command).await?.upload)
    }

    /// The error for the client, with the location that a chunk out of order is answered with.
    async fn with_location(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        state: UploadState,
        error: ChunkError,
    ) -> Result<Error, Error> {
        Ok(match error {
            ChunkError::Session(CallError::Refused(UploadError::OutOfOrder { offset })) => {
                let state = UploadState { has_session: state.has_session || offset > 0, ..state };
                Error::UploadOutOfOrder { location: self.location(name, id, state).await?, offset }
            }
            error => error.into(),
        })
    }
}

type Writer<'a, P> = ChunkWriter<'a, Driver<<P as Platform>::Stream>, <P as Platform>::Uploads>;
type Block<P> = <<P as Platform>::Stream as ByteStream>::Block;

struct Chunk {
    begin: Command,
    declared: Option<u64>,
}

/// Whether a request carries a whole blob in a form that the store can take and verify by itself.
fn is_whole_blob<S: ByteStream>(request: &http::Request<Body<S>>, digest: &Digest, max: u64) -> bool {
    let Some(length) = request.body().content_length() else { return false };
    let starts_at_zero = match request.headers().get(header::CONTENT_RANGE).map(headers::parse_content_range)
    {
        None => true,
        Some(range) => range == Some((0, length)),
    };
    let is_empty_blob = || *digest == digest.algorithm().digest(b"");
    starts_at_zero && length <= max && (length > 0 || is_empty_blob())
}

fn created<S: ByteStream>(name: &RepositoryName, digest: &Digest) -> http::Response<Body<S>> {
    let mut response = empty(StatusCode::CREATED);
    let fields = response.headers_mut();
    headers::set(fields, header::LOCATION, headers::blob_location(name, digest));
    headers::set(fields, headers::DOCKER_CONTENT_DIGEST, digest);
    response
}
