//! Rebuilding what `distribution` does not write: for a bucket copied from one of its registries.

use serde_json::json;

use super::{Platform, Registry, Request, Response, json, parameter};
use crate::{
    error::Error,
    oci::Manifest,
    storage::{Key, Page, StorageDriver, StorageDriverExt, key::Link},
};

/// How many keys one call looks at: each may cost a few storage calls, and a request has a limited number.
const STEP: usize = 100;

impl<P: Platform> Registry<P> {
    /// `POST /v2/_pierhead/rebuild?after=<after>`: adds the catalog's entries, the reverse links and the
    /// referrers' entries of a bounded number of repository keys, and answers `{"next": <after>}`, or `null`
    /// when it has come to the end. Repeating it is harmless.
    pub(super) async fn rebuild(&self, request: &Request<P>) -> Result<Response<P>, Error> {
        let after = parameter(request, "after").filter(|after| !after.is_empty());
        let prefix = Key::Repositories.path().folder();
        let page = Page { after: after.as_deref(), limit: STEP, folders: false };
        let listing = self.storage.list(&prefix, page).await?;
        let content = self.content();
        for link in listing.objects.iter().filter_map(|(path, _)| Link::parse(path)) {
            match link {
                Link::Layer(name, digest) => {
                    if let Some(located) = content.locate(&digest).await? {
                        content.link_blob(&name, &digest, &located).await?;
                    }
                }
                Link::Revision(name, digest) => {
                    content.add_repository(&name).await?;
                    let Some(bytes) = content.manifest(&digest).await? else { continue };
                    let media_type = Manifest::detect_media_type(&bytes);
                    if let Ok(manifest) = Manifest::parse(Some(&media_type), &bytes) {
                        content.add_referrer(&name, &digest, &manifest, bytes.len() as u64).await?;
                    }
                    let reverse = Key::ReverseLink(&digest, &name).path();
                    self.storage.writer(&reverse, false).await?.commit().await?;
                }
            }
        }
        Ok(json(json!({"next": listing.next}).to_string()))
    }
}
