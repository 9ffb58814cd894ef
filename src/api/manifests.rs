//! Manifest endpoints: pull, push and delete.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    Error, Registry, Request, Response, empty, headers, parameters, ranges::RequestedRange, schema1,
};
use crate::{
    config::Schema1,
    oci::{Algorithm, Manifest, Reference, RepositoryName, Tag, media_type},
    platform::{Body, ByteRange, ReadError},
    repository::{NewManifest, Revision},
};

/// Limit of `?tag=` in a request: each costs a few calls. The specification requires 10.
const MAX_TAGS: usize = 64;

/// The memory that a manifest of `length` bytes takes while it is pushed, in bytes: the content, a copy of it, and what is
/// read of it.
fn memory_of_push(length: usize) -> usize {
    2 * length + Manifest::memory(length)
}

/// The memory that a manifest takes while it is pulled, in bytes: the content, and a copy of it; of schema 1, with its
/// signatures. What another registry has pushed may have no description: then it is the largest, or a smaller one with
/// signatures.
fn memory_of_pull(description: Option<&(u64, String)>, is_schema1: Option<bool>) -> usize {
    let length =
        description.map_or(Manifest::MAX_BYTES, |(size, _)| usize::try_from(*size).unwrap_or(usize::MAX));
    let signatures = if is_schema1 == Some(true) { schema1::MEMORY_OF_SIGNATURES } else { 0 };
    length.saturating_mul(2).saturating_add(signatures)
}

/// Tells caches that the answer depends on what the client accepts, and may change: signatures are added.
fn vary(fields: &mut HeaderMap) {
    fields.insert(header::VARY, header::ACCEPT.into());
    fields.insert(header::CACHE_CONTROL, headers::REVALIDATE);
}

/// The answer to a client that has the manifest.
fn not_modified(mut response: Response) -> Response {
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

impl Registry<'_> {
    /// end-3: `GET /v2/<name>/manifests/<reference>`, and HEAD. One look-up in the repository, then for a GET the
    /// content from the nearest cache.
    pub(super) async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        request: &Request,
    ) -> Result<Response, Error> {
        let unknown = || Error::ManifestUnknown(reference.clone());
        // A push looks with HEAD whether it must send a manifest.
        let repository = match reference {
            Reference::Digest(_) if request.method() == Method::HEAD => self.repository(name),
            _ => self.repository_for_pull(name, request),
        };
        let Revision { digest, mut description } =
            repository.revision(reference).await?.ok_or_else(unknown)?;

        // `None` if only the content tells: another registry has written the link.
        let mut is_schema1 = description.as_ref().map(|(_, media_type)| schema1::is_type(media_type));
        let serves_schema1 = self.app.config.schema1 != Schema1::Off;
        let prefers_payload = is_schema1 != Some(false) && schema1::prefers_payload(request.headers());

        let mut response = empty(StatusCode::OK);
        let fields = response.headers_mut();
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, &digest);
        headers::set(fields, header::ETAG, format!("\"{digest}\""));
        let cache =
            if matches!(reference, Reference::Tag(_)) { headers::REVALIDATE } else { headers::IMMUTABLE };
        fields.insert(header::CACHE_CONTROL, cache);
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let note_pull = || {
            if request.method() == Method::GET {
                self.app.pull_notes.note(name, &digest, &*self.context.background);
            }
        };
        let is_known = headers::if_none_match(request.headers(), &digest.to_string());
        // The digest of schema 1 does not tell which text the client has: with which signatures, or the payload.
        if is_known && is_schema1 == Some(false) {
            note_pull();
            return Ok(not_modified(response));
        }
        let mut body = Body::Empty;
        if request.method() != Method::HEAD || is_schema1 != Some(false) {
            let _held = match self.app.blobs(&self.context).has_manifest_in_memory(&digest) {
                true if is_schema1 != Some(true) => None,
                _ => Some(self.app.reserve(memory_of_pull(description.as_ref(), is_schema1)).await?),
            };
            let mut content = repository.manifest(&digest).await?.ok_or_else(unknown)?;
            let (size, media_type) = description
                .get_or_insert_with(|| (content.len() as u64, Manifest::detect_media_type(&content)));
            is_schema1 = Some(schema1::is_type(media_type));
            if is_schema1 == Some(true) {
                if !serves_schema1 {
                    return Err(Error::Schema1Off(reference.clone()));
                }
                // Boxed: few manifests need it.
                let served = Box::pin(self.serve_schema1(&*repository, &digest, content, prefers_payload));
                let served_as;
                (content, served_as) = served.await?;
                (*size, *media_type) = (content.len() as u64, served_as.to_owned());
            }
            body = Body::Bytes(content);
        }
        let (size, media_type) = description.ok_or_else(unknown)?;
        if is_schema1 == Some(true) {
            vary(response.headers_mut());
        } else if is_known {
            note_pull();
            return Ok(not_modified(response));
        }
        let fields = response.headers_mut();
        headers::set(fields, header::CONTENT_TYPE, media_type::served(&media_type));
        fields.insert(header::CONTENT_LENGTH, size.into());
        // The digest of schema 1 does not tell which text the client has a part of.
        let etag = if is_schema1 == Some(true) { String::new() } else { format!("\"{digest}\"") };
        // Several ranges of so little are not worth an answer of several parts.
        match RequestedRange::of(request, &etag, size, 1) {
            RequestedRange::NotSatisfiable => return Err(Error::RangeNotSatisfiable { size }),
            RequestedRange::Partial(range) => {
                body = part(body, range, size);
                headers::set_range(&mut response, range, size);
            }
            RequestedRange::Full | RequestedRange::Several(_) => {}
        }
        note_pull();
        if request.method() != Method::HEAD {
            *response.body_mut() = body;
        }
        Ok(response)
    }

    /// end-7a, end-7b: `PUT /v2/<name>/manifests/<reference>`, with any number of `?tag=<tag>` if the reference is
    /// a digest.
    pub(super) async fn put_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        request: Request,
    ) -> Result<Response, Error> {
        let (parts, mut body) = request.into_parts();
        let extra = parameters(&parts.uri, "tag");
        if extra.len() > MAX_TAGS {
            return Err(Error::InvalidParameter { name: "tag", expected: "at most 64 of them in a request" });
        }
        let extra: Vec<Tag> = extra.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if body.content_length().is_some_and(|length| length > Manifest::MAX_BYTES as u64) {
            self.drain(&mut body).await;
            return Err(Error::ManifestTooLarge);
        }
        let takes_schema1 = self.app.config.schema1 == Schema1::Full;
        let memory = if takes_schema1 { schema1::memory_of_push } else { memory_of_push };
        let read = self.app.read(body, Manifest::MAX_BYTES, memory).await;
        let content = read.map_err(|error| match error {
            ReadError::TooLarge { .. } => Error::ManifestTooLarge,
            error => error.into(),
        })?;
        let mut tags = extra.clone();
        if let Reference::Tag(tag) = reference {
            tags.push(tag.clone());
        }
        let new = match Manifest::is_schema1(content_type, &content.bytes) {
            // Boxed: few manifests need it.
            true => Box::pin(self.new_schema1(name, reference, &tags, &content.bytes)).await?,
            false => new_manifest(reference, content_type, content.bytes.clone())?,
        };
        self.repository(name).put_manifest(&new, &tags).await?;

        let mut response = empty(StatusCode::CREATED);
        let fields = response.headers_mut();
        headers::set(fields, header::LOCATION, format!("/v2/{name}/manifests/{}", new.digest));
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, &new.digest);
        if let Some(subject) = &new.manifest.subject {
            headers::set(fields, headers::OCI_SUBJECT, subject);
        }
        for tag in &extra {
            if let Ok(tag) = tag.as_str().parse() {
                fields.append(headers::OCI_TAG, tag);
            }
        }
        Ok(response)
    }

    /// end-9: `DELETE /v2/<name>/manifests/<reference>`. Deleting a tag keeps its manifest; deleting a digest
    /// also deletes every tag that points to it.
    pub(super) async fn delete_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Response, Error> {
        let repository = self.repository(name);
        let was_there = match reference {
            Reference::Tag(tag) => repository.delete_tag(tag).await?,
            Reference::Digest(digest) => repository.delete_manifest(digest).await?,
        };
        if was_there {
            Ok(empty(StatusCode::ACCEPTED))
        } else {
            Err(Error::ManifestUnknown(reference.clone()))
        }
    }
}

/// A range of content of `size` bytes in memory.
fn part(content: Body, range: ByteRange, size: u64) -> Body {
    let Body::Bytes(bytes) = content else { return content };
    let (first, last) = range.bounds(size);
    // Both are inside the content, if its description is right.
    let end = bytes.len().min(last as usize + 1);
    Body::Bytes(bytes.slice(end.min(first as usize)..end))
}

/// Validates the body of a push.
fn new_manifest(
    reference: &Reference,
    content_type: Option<&str>,
    content: Bytes,
) -> Result<NewManifest, Error> {
    let digest = match reference {
        Reference::Tag(_) => Algorithm::Sha256.digest(&content),
        Reference::Digest(digest) if digest.algorithm().digest(&content) == *digest => digest.clone(),
        Reference::Digest(digest) => return Err(Error::DigestMismatch(digest.clone())),
    };
    let manifest = Manifest::parse(content_type, &content)?;
    Ok(NewManifest { digest, manifest, content, signatures: Vec::new() })
}
