//! The rebuild job: writes the indexes that a bucket copied from `distribution` lacks: catalog, reverse links
//! and referrers.

use futures_util::future::LocalBoxFuture;
use serde_json::json;

use super::{Job, Step};
use crate::{
    app::App,
    blobs::Freshness,
    context::Context,
    layout::{Key, Link},
    oci::{Manifest, Reference},
    repository::RepositoryError,
    storage::Page,
};

/// Limit of keys per step: each may cost a few calls, and a request has a limited number.
const STEP: usize = 100;

/// Rebuilds the indexes.
pub struct Rebuild;

impl Job for Rebuild {
    fn name(&self) -> &'static str {
        "rebuild"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            let blobs = app.blobs(context);
            let page = Page { after: cursor.as_deref(), limit: STEP, folders: false };
            let listing = blobs.store().list(&Key::Repositories.path().folder(), page).await?;
            for link in listing.objects.iter().filter_map(|(path, _)| Link::parse(path)) {
                match link {
                    Link::Layer(name, digest) => {
                        if let Some(located) = blobs.locate(&digest, Freshness::Strict).await? {
                            app.repository(&name, context).index_blob(&digest, &located).await?;
                        }
                    }
                    Link::Revision(name, digest) => {
                        let repository = app.repository(&name, context);
                        let reference = Reference::Digest(digest.clone());
                        let revision = repository.revision(&reference).await?;
                        let pushed_as = revision.and_then(|revision| revision.description);
                        let content = blobs.manifest(&digest, Freshness::Strict).await?;
                        let manifest = content.as_ref().and_then(|content| {
                            let media_type = pushed_as.map(|(_, media_type)| media_type);
                            let media_type =
                                media_type.unwrap_or_else(|| Manifest::detect_media_type(content));
                            let manifest = Manifest::parse(Some(&media_type), content).ok()?;
                            Some((manifest, content.len() as u64))
                        });
                        let manifest = manifest.as_ref().map(|(manifest, size)| (manifest, *size));
                        repository.index_manifest(&digest, manifest).await?;
                    }
                }
            }
            Ok(Step { report: json!({"seen": listing.objects.len()}), next: listing.next })
        })
    }
}
