//! Signatures of manifests of Docker's schema 1: their blobs and links, as `distribution` up to 2.4 wrote them.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{CONCURRENCY, Stored};
use crate::{
    blobs::marker::Held,
    layout::{Key, Link},
    oci::{
        Digest,
        schema1::{MAX_SIGNATURE, MAX_SIGNATURES},
    },
    platform::Body,
    repository::{NewManifest, writer::protocol::Entry},
    storage::{Metadata, Page, Path, StorageError, all, both},
};

/// Limit of the signatures that are served with a manifest: docker before 1.10 signs anew at each push.
const MAX_SERVED: usize = 64;

/// Limit of the signatures whose content is condemned with their manifest. The collection finds the others, which take longer.
const MAX_CONDEMNED: usize = 2 * MAX_SIGNATURES;

impl Stored {
    /// The signatures of a manifest, as they are stored, in the order of their digests: up to [`MAX_SERVED`], and as many bytes
    /// as the longest signatures of a push have. Those whose content is gone are left out. Costs a listing, and for each link
    /// a read unless a cache has the content.
    pub(in crate::repository) async fn signatures(
        &self,
        manifest: &Digest,
    ) -> Result<Vec<Bytes>, StorageError> {
        // Of those that are gone, some may be among the first.
        let (links, _) = self.signature_links(manifest, 4 * MAX_SERVED).await?;
        let mut contents = stream::iter(links)
            .map(async |(signature, _)| self.blobs.signature(&signature).await)
            .buffered(CONCURRENCY);
        let (mut signatures, mut left) = (Vec::new(), MAX_SIGNATURES * MAX_SIGNATURE);
        while signatures.len() < MAX_SERVED
            && let Some(content) = contents.try_next().await?
        {
            let Some(content) = content else { continue };
            if content.len() > left {
                break;
            }
            left -= content.len();
            signatures.push(content);
        }
        Ok(signatures)
    }

    /// The first links to signatures of a manifest, and whether there may be more.
    async fn signature_links(
        &self,
        manifest: &Digest,
        limit: usize,
    ) -> Result<(Vec<(Digest, Path)>, bool), StorageError> {
        let prefix = Key::Signatures(&self.name, manifest).path().folder();
        let (mut links, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = Page { after: after.as_deref(), limit: limit - links.len(), ..Page::first() };
            let listing = self.store().list(&prefix, page).await?;
            links.extend(listing.objects.into_iter().filter_map(|(path, _)| match Link::parse(&path)? {
                Link::Signature { signature, .. } => Some((signature, Path::trusted(path))),
                Link::Layer(..) | Link::Revision(..) => None,
            }));
            after = listing.next;
            if after.is_none() || links.len() >= limit {
                return Ok((links, after.is_some()));
            }
        }
    }

    /// Stores the signatures of a manifest, unlinked, and holds them.
    pub(super) async fn store_signatures(&self, new: &NewManifest) -> Result<(), StorageError> {
        let stored = new.signatures.iter().map(async |(signature, content)| {
            let put = || self.blobs.put(signature, Body::Bytes(content.clone()));
            let signed = Some(&new.digest);
            let held = self.blobs.try_hold_for(&self.name, signature, signed);
            let (_, is_held) = both(put(), held).await?;
            if !is_held && self.blobs.hold_for(&self.name, signature, signed).await? == Held::Removed {
                // What was there may be gone.
                put().await?;
            }
            Ok::<_, StorageError>(())
        });
        all(stored).await.map(drop)
    }

    /// Links the stored signatures of a manifest, beside those that it has; `false` if the content of one is gone. They need
    /// not be looked at again if they `are_held`.
    pub(super) async fn link_signatures(&self, entry: &Entry, are_held: bool) -> Result<bool, StorageError> {
        let manifest = &entry.digest;
        if !are_held {
            let kept = entry.signatures.iter().map(async |signature| {
                self.blobs.hold_for(&self.name, signature, Some(manifest)).await?;
                self.has(Key::Data(signature)).await
            });
            if !all(kept).await?.into_iter().all(|is_there| is_there) {
                return Ok(false);
            }
        }
        let linked = entry.signatures.iter().map(async |signature| {
            let key = Key::Signature { name: &self.name, manifest, signature };
            self.put_new(key, signature.to_string(), Metadata::new()).await
        });
        all(linked).await.map(|_| true)
    }

    /// Removes the link of a manifest of schema 1 with those of its signatures, and condemns their content.
    pub(super) async fn unlink_signed(&self, manifest: &Digest) -> Result<(), StorageError> {
        loop {
            let (links, has_more) = self.signature_links(manifest, Page::MAX - 1).await?;
            let condemned = links.iter().take(MAX_CONDEMNED);
            let condemned = condemned.map(async |(signature, _)| self.blobs.condemn(signature).await);
            all(condemned).await?;
            let mut paths: Vec<Path> = links.into_iter().map(|(_, path)| path).collect();
            if !has_more {
                paths.push(Key::Revision(&self.name, manifest).path());
                return self.store().delete(&paths).await;
            }
            self.store().delete(&paths).await?;
        }
    }

    /// Removes those of the links to signatures of a manifest that lead nowhere: their content is gone, or the manifest.
    pub(in crate::repository) async fn unlink_unused(
        &self,
        manifest: &Digest,
        signatures: &[Digest],
    ) -> Result<(), StorageError> {
        let has_manifest = self.has_manifest(manifest).await?;
        let unused = signatures.iter().map(async |signature| {
            let has_content = self.has(Key::Data(signature)).await?;
            if has_content && !has_manifest {
                // Not deleted: another link may need it.
                self.blobs.condemn(signature).await?;
            }
            Ok::<_, StorageError>((!(has_content && has_manifest)).then_some(signature))
        });
        let unused: Vec<&Digest> = all(unused).await?.into_iter().flatten().collect();
        let path = |signature: &&Digest| Key::Signature { name: &self.name, manifest, signature }.path();
        self.store().delete(&unused.iter().map(path).collect::<Vec<_>>()).await
    }
}
