//! What repositories use, as the last collection has counted it.

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Uri;
use serde_json::{Value, json};

use super::{
    Error, Registry, Response, json,
    page::{PageRequest, link_next},
};
use crate::{
    layout::{Key, trailing_name},
    oci::RepositoryName,
    platform::Timestamp,
    storage::{Metadata, Page},
};

/// Page size limit.
const MAX_REPOSITORIES: usize = 1000;

/// Page size limit if storage lists no metadata: each repository of a page costs a look-up.
const MAX_LOOKED_UP: usize = 100;

/// Limit of look-ups at the same time.
const LOOK_UPS: usize = 6;

impl Registry<'_> {
    /// `GET /v2/_pierhead/usage?n=<n>&last=<last>`: the repositories that a collection has counted. Costs one listing.
    pub(super) async fn usage(&self, uri: &Uri) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let store = self.app.store(&self.context);
        let lists_metadata = store.capabilities().lists_metadata;
        let most = if lists_metadata { MAX_REPOSITORIES } else { MAX_LOOKED_UP };
        let limit = asked.n.unwrap_or(most).min(most);
        let prefix = Key::Usages.path().folder();
        let mut after = asked.last.as_ref().map(|last| format!("{prefix}{last}{}", Key::END_OF_NAME));
        let mut found: Vec<(RepositoryName, Metadata)> = Vec::new();
        let mut has_more = false;
        while found.len() < limit {
            let page = Page { after: after.as_deref(), limit: limit - found.len(), folders: false };
            let listing = store.list(&prefix, page).await?;
            let objects = listing.objects.into_iter();
            found.extend(objects.filter_map(|(path, meta)| {
                Some((trailing_name(&path, &prefix)?.parse().ok()?, meta.metadata))
            }));
            has_more = listing.next.is_some();
            // A page may be shorter than its limit.
            if !has_more {
                break;
            }
            after = listing.next;
        }
        let last = found.last().map(|(name, _)| name.to_string()).filter(|_| has_more);
        if !lists_metadata {
            found = stream::iter(found)
                .map(async |(name, _)| {
                    let meta = store.head(&Key::Usage(&name).path()).await?;
                    Ok::<_, Error>((name, meta.map(|meta| meta.metadata).unwrap_or_default()))
                })
                .buffered(LOOK_UPS)
                .try_collect()
                .await?;
        }
        let shown: Vec<Value> = found.iter().filter_map(|(name, counted)| self.used(name, counted)).collect();
        let mut response = json(json!({"repositories": shown}).to_string());
        if let Some(last) = last {
            link_next(response.headers_mut(), uri, asked.n, &last);
        }
        Ok(response)
    }

    fn used(&self, name: &RepositoryName, counted: &Metadata) -> Option<Value> {
        let number = |name: &str| counted.get(name)?.parse::<u64>().ok();
        let quota = self.app.policy.quota(name);
        Some(json!({
            "name": name,
            "manifests": number("manifests")?,
            "layers": number("layers")?,
            "bytes": number("bytes")?,
            "unsized_layers": number("unsized-layers")?,
            "quota": quota.and_then(|quota| quota.bytes),
            "counted": Timestamp(number("counted")?).to_rfc3339(),
        }))
    }
}
