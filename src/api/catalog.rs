//! The catalog of repositories: a Docker extension, not part of the specification.

use http::Uri;
use serde_json::json;

use super::{
    Error, Registry, Response, json,
    page::{PageRequest, link_next},
};
use crate::{
    auth::{Access, Action},
    oci::RepositoryName,
    repository::{ListPage, catalog::repositories},
};

/// Page size limit; `Link` points to the next page.
const MAX_REPOSITORIES: usize = 1000;

/// Limit of listings of 1,000 repositories in search of those that a client may pull from.
const MAX_LISTINGS: usize = 100;

impl Registry<'_> {
    /// `GET /v2/_catalog?n=<n>&last=<last>`: the repositories that the client may pull from. Costs one listing, or for a
    /// client that may not pull from all of them, as many as it takes to fill the page.
    pub(super) async fn catalog(&self, uri: &Uri) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let limit = asked.n.unwrap_or(MAX_REPOSITORIES).min(MAX_REPOSITORIES);
        let store = self.app.store(&self.context);
        let page = match self.is_decided_outside(Access::Catalog)
            || self.app.policy.sees_all(&self.context.principal)
        {
            true => repositories(&store, asked.last.as_deref(), limit).await?,
            false => self.visible_repositories(asked.last.clone(), limit).await?,
        };
        let mut response = json(json!({"repositories": page.entries}).to_string());
        if let Some(last) = &page.next {
            link_next(response.headers_mut(), uri, asked.n, last);
        }
        Ok(response)
    }

    /// A page of the repositories that the client may pull from. It says nothing of others: there is a next page only if
    /// it has an entry.
    async fn visible_repositories(
        &self,
        mut after: Option<String>,
        limit: usize,
    ) -> Result<ListPage<String>, Error> {
        let store = self.app.store(&self.context);
        let is_visible = |name: &String| {
            let name: Option<RepositoryName> = name.parse().ok();
            let may_pull = |name| {
                self.app.policy.allows(&self.context.principal, Access::Repository(name, Action::Pull))
            };
            name.as_ref().is_some_and(may_pull)
        };
        let mut entries: Vec<String> = Vec::new();
        for _ in 0..MAX_LISTINGS {
            let page = repositories(&store, after.as_deref(), MAX_REPOSITORIES).await?;
            entries.extend(page.entries.into_iter().filter(is_visible));
            if entries.len() > limit {
                entries.truncate(limit);
                return Ok(ListPage { next: entries.last().cloned(), entries });
            }
            after = page.next;
            if after.is_none() {
                return Ok(ListPage { next: None, entries });
            }
        }
        match entries.last().cloned() {
            Some(last) => Ok(ListPage { next: Some(last), entries }),
            None => Err(Error::Busy(
                "the catalog has too many repositories that the client may not see".to_owned(),
            )),
        }
    }
}
