//! The tag list endpoint.

use http::Uri;
use serde_json::json;

use super::{
    Error, Registry, Response, json,
    page::{PageRequest, link_next},
};
use crate::oci::RepositoryName;

/// Page size limit; `Link` points to the next page.
const MAX_TAGS: usize = 10_000;

impl Registry<'_> {
    /// end-8a, end-8b: `GET /v2/<name>/tags/list?n=<n>&last=<last>`
    pub(super) async fn list_tags(&self, name: &RepositoryName, uri: &Uri) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let limit = asked.n.unwrap_or(MAX_TAGS).min(MAX_TAGS);
        let tags = self.repository(name).tags(asked.last.as_deref(), limit).await?;
        let tags = tags.ok_or_else(|| Error::NameUnknown(name.clone()))?;
        let mut response = json(json!({"name": name, "tags": tags.entries}).to_string());
        if let Some(last) = &tags.next {
            link_next(response.headers_mut(), uri, asked.n, last);
        }
        Ok(response)
    }
}
