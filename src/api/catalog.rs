//! The catalog of repositories: Docker's, not the specification's.

use serde_json::json;

use super::{
    Platform, Registry, Request, Response, json,
    page::{Asked, link_next},
};
use crate::{
    error::Error,
    storage::{Key, Page, StorageDriver, key::trailing_name},
};

impl<P: Platform> Registry<P> {
    /// `GET /v2/_catalog?n=<n>&last=<last>`: one listing.
    pub(super) async fn catalog(&self, request: &Request<P>) -> Result<Response<P>, Error> {
        let asked = Asked::from_request(request)?;
        let limit = asked.n.unwrap_or(Page::MAX).min(Page::MAX);
        let prefix = Key::Catalog.path().folder();
        let mut after = asked.last.as_ref().map(|last| format!("{prefix}{last}{}", Key::END_OF_NAME));
        let mut names: Vec<String> = Vec::new();
        let mut has_more;
        if limit == 0 {
            return Ok(json(json!({"repositories": names}).to_string()));
        }
        loop {
            let page = Page { after: after.as_deref(), limit: limit - names.len(), folders: false };
            let listing = self.storage.list(&prefix, page).await?;
            names.extend(
                listing.objects.iter().filter_map(|(path, _)| Some(trailing_name(path, &prefix)?.to_owned())),
            );
            has_more = listing.next.is_some();
            // A page may be shorter than asked for.
            if names.len() >= limit || !has_more {
                break;
            }
            after = listing.next;
        }
        let mut response = json(json!({"repositories": names}).to_string());
        if let Some(last) = names.last().filter(|_| has_more) {
            link_next(response.headers_mut(), request, asked.n, last);
        }
        Ok(response)
    }
}
