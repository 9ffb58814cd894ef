//! The referrers endpoint: manifests that refer to a subject.

use http::{HeaderValue, Uri, header};
use serde_json::json;

use super::{
    Error, Registry, Response, headers, json,
    page::{PageRequest, link_next},
    parameter,
};
use crate::oci::{Digest, Manifest, RepositoryName, media_type};

/// Page size limit. An entry with long annotations costs a read.
const MAX_REFERRERS: usize = 500;

impl Registry<'_> {
    /// end-12a, end-12b: `GET /v2/<name>/referrers/<digest>?artifactType=<type>`, in pages of at most 4 MiB, the
    /// specification's limit for an index. A subject without referrers, or an unknown one, has an empty list.
    pub(super) async fn list_referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        uri: &Uri,
    ) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let filter = parameter(uri, "artifactType").filter(|filter| !filter.is_empty());
        let after = asked.last.as_deref().map(str::parse::<Digest>).transpose()?;
        let limit = asked.n.unwrap_or(MAX_REFERRERS).clamp(1, MAX_REFERRERS);
        let page = self.repository(name).referrers(subject, after.as_ref(), limit).await?;
        let mut next = page.next;

        let (mut manifests, mut size, mut last) = (Vec::new(), 0, None);
        for descriptor in page.entries {
            let entry = serde_json::to_value(&descriptor).unwrap_or_default();
            size += entry.to_string().len() + 1;
            if size > Manifest::MAX_BYTES - 1024 && last.is_some() {
                next = last;
                break;
            }
            last = Some(descriptor.digest.to_string());
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
            link_next(fields, uri, asked.n, &next);
        }
        Ok(response)
    }
}
