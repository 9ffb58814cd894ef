//! The catalog of repositories: a Docker extension, not part of the specification.

use http::Uri;
use serde_json::json;

use super::{
    Error, Registry, Response, json,
    page::{PageRequest, link_next},
};
use crate::repository::catalog::repositories;

/// Page size limit; `Link` points to the next page.
const MAX_REPOSITORIES: usize = 1000;

impl Registry<'_> {
    /// `GET /v2/_catalog?n=<n>&last=<last>`. Costs one listing.
    pub(super) async fn catalog(&self, uri: &Uri) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let limit = asked.n.unwrap_or(MAX_REPOSITORIES).min(MAX_REPOSITORIES);
        let page = repositories(&self.app.store(&self.context), asked.last.as_deref(), limit).await?;
        let mut response = json(json!({"repositories": page.entries}).to_string());
        if let Some(last) = &page.next {
            link_next(response.headers_mut(), uri, asked.n, last);
        }
        Ok(response)
    }
}
