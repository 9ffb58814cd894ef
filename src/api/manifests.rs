//! Manifests: reading, pushing and removing them.

use http::{HeaderValue, Method, StatusCode, header};

use super::{Platform, Registry, Request, Response, empty, headers, query};
use crate::{
    body::{Body, ReadError},
    content::Revision,
    error::Error,
    oci::{Algorithm, Manifest, Reference, RepositoryName, Tag},
};

impl<P: Platform> Registry<P> {
    /// end-3: `GET /v2/<name>/manifests/<reference>`, and HEAD. One look-up in the repository; the content of
    /// a GET from the nearest cache.
    pub(super) async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let unknown = || Error::ManifestUnknown(reference.clone());
        let content = self.content();
        let revision = match reference {
            Reference::Tag(tag) => self.tag(name, tag).await?,
            Reference::Digest(digest) => content.revision(name, digest).await?,
        };
        let Revision { digest, mut known } = revision.ok_or_else(unknown)?;

        let mut response = empty(StatusCode::OK);
        let fields = response.headers_mut();
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, &digest);
        headers::set(fields, header::ETAG, format!("\"{digest}\""));
        let cache =
            if matches!(reference, Reference::Tag(_)) { headers::REVALIDATE } else { headers::IMMUTABLE };
        fields.insert(header::CACHE_CONTROL, cache);
        if headers::if_none_match(request.headers(), &digest.to_string()) {
            fields.remove(header::CONTENT_LENGTH);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let mut body = Body::Empty;
        if request.method() != Method::HEAD || known.is_none() {
            let bytes = self.by_digest.manifest(&digest).await?.ok_or_else(unknown)?;
            known.get_or_insert_with(|| (bytes.len() as u64, Manifest::detect_media_type(&bytes)));
            body = Body::Bytes(bytes);
        }
        let (size, media_type) = known.ok_or_else(unknown)?;
        headers::set(fields, header::CONTENT_TYPE, media_type);
        fields.insert(header::CONTENT_LENGTH, size.into());
        *response.body_mut() = body;
        Ok(response)
    }

    /// What a tag points at: what the store says, unless the configuration allows an older answer.
    async fn tag(&self, name: &RepositoryName, tag: &Tag) -> Result<Option<Revision>, Error> {
        let (tags, now) = (&self.shared.tags, self.shared.parts.clock.now());
        if let Some(revision) = tags.get(name, tag, now) {
            return Ok(Some(revision));
        }
        let revision = self.content().tag(name, tag).await?;
        if let Some(revision) = &revision {
            tags.put(name, tag, revision, now);
            if revision.known.is_none() {
                self.shared.has_foreign_links.set(true);
            }
        }
        Ok(revision)
    }

    /// end-7a, end-7b: `PUT /v2/<name>/manifests/<reference>`, with `?tag=<tag>` any number of times when
    /// the reference is a digest.
    pub(super) async fn put_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        request: Request<P>,
    ) -> Result<Response<P>, Error> {
        let parameters: Vec<Tag> =
            query(&request, "tag").iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
        let (parts, body) = request.into_parts();
        if body.content_length().is_some_and(|length| length > Manifest::MAX_BYTES as u64) {
            return Err(Error::ManifestTooLarge);
        }
        let bytes = body.read(Manifest::MAX_BYTES).await.map_err(|error| match error {
            ReadError::TooLarge { .. } => Error::ManifestTooLarge,
            error => Error::BodyBroken(error),
        })?;
        let (digest, tags) = match reference {
            Reference::Tag(tag) => {
                let mut tags = parameters.clone();
                tags.push(tag.clone());
                (Algorithm::Sha256.digest(&bytes), tags)
            }
            Reference::Digest(digest) => (digest.clone(), parameters.clone()),
        };
        if digest.algorithm().digest(&bytes) != digest {
            return Err(Error::DigestMismatch(digest));
        }
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(content_type, &bytes)?;
        if HeaderValue::from_str(&manifest.media_type).is_err() {
            return Err(crate::oci::InvalidManifest::Shape("a media type must be visible ASCII").into());
        }
        let content = self.content();
        let missing = content.missing(name, &manifest.blobs).await?;
        if !missing.is_empty() {
            return Err(Error::ManifestBlobUnknown(missing));
        }
        let put = content.put_manifest(name, &digest, &manifest, bytes, &tags).await;
        // Some tags may be set when others fail.
        self.shared.tags.forget(name);
        put?;

        let mut response = empty(StatusCode::CREATED);
        let fields = response.headers_mut();
        headers::set(fields, header::LOCATION, format!("/v2/{name}/manifests/{digest}"));
        headers::set(fields, headers::DOCKER_CONTENT_DIGEST, &digest);
        if let Some(subject) = &manifest.subject {
            headers::set(fields, headers::OCI_SUBJECT, subject);
        }
        for tag in &parameters {
            if let Ok(tag) = tag.as_str().parse() {
                fields.append(headers::OCI_TAG, tag);
            }
        }
        Ok(response)
    }

    /// end-9: `DELETE /v2/<name>/manifests/<reference>`. By tag the tag goes; by digest the manifest and
    /// every tag on it.
    pub(super) async fn delete_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Response<P>, Error> {
        let was_there = match reference {
            Reference::Tag(tag) => self.content().delete_tag(name, tag).await,
            Reference::Digest(digest) => self.content().delete_manifest(name, digest).await,
        };
        self.shared.tags.forget(name);
        let was_there = was_there?;
        if let Reference::Digest(digest) = reference {
            self.by_digest.forget(digest);
        }
        if was_there {
            Ok(empty(StatusCode::ACCEPTED))
        } else {
            Err(Error::ManifestUnknown(reference.clone()))
        }
    }
}
