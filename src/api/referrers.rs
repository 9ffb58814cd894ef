//! Referrers: what refers to a manifest.

use http::{HeaderValue, header};
use serde_json::json;

use super::{
    Platform, Registry, Request, Response, headers, json,
    page::{Asked, link_next},
    parameter,
};
use crate::{
    error::Error,
    oci::{Digest, Manifest, RepositoryName, media_type},
    storage::{Key, Page, StorageDriver, key::trailing_digest},
};

/// The most entries in one answer. Each may cost a read when its annotations are long.
const MAX_REFERRERS: usize = 500;

impl<P: Platform> Registry<P> {
    /// end-12a, end-12b: `GET /v2/<name>/referrers/<digest>?artifactType=<type>`, in pages of at most 4 MiB
    /// (the specification's limit for an index). What nobody refers to, or nobody knows, has an empty list.
    pub(super) async fn list_referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        request: &Request<P>,
    ) -> Result<Response<P>, Error> {
        let asked = Asked::from_request(request)?;
        let filter = parameter(request, "artifactType").filter(|filter| !filter.is_empty());
        let prefix = Key::Referrers(name, subject).path().folder();
        let last = asked.last.as_deref().map(str::parse::<Digest>).transpose()?;
        let after = last.map(|last| Key::Referrer { name, subject, referrer: &last }.path());
        let limit = asked.n.unwrap_or(MAX_REFERRERS).clamp(1, MAX_REFERRERS);
        let page = Page { after: after.as_ref().map(|path| path.as_str()), limit, folders: false };
        let listing = self.storage.list(&prefix, page).await?;
        let mut next = listing.next.as_deref().and_then(trailing_digest);

        let (mut manifests, mut size) = (Vec::new(), 0);
        let mut behind = None;
        for descriptor in self.content().descriptors(listing.objects).await? {
            let entry = serde_json::to_value(&descriptor).unwrap_or_default();
            size += entry.to_string().len() + 1;
            if size > Manifest::MAX_BYTES - 1024 && behind.is_some() {
                next = behind;
                break;
            }
            behind = Some(descriptor.digest.clone());
            if filter.is_none() || descriptor.artifact_type == filter {
                manifests.push(entry);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests});
        let mut response = json(index.to_string());
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
        if filter.is_some() {
            fields.insert(headers::OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        }
        if let Some(next) = next {
            link_next(fields, request, asked.n, &next.to_string());
        }
        Ok(response)
    }
}
