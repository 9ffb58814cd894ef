//! The sizes of a repository's blobs.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{CONCURRENCY, Stored};
use crate::{
    blobs::{Freshness, Located},
    layout::{Key, Link},
    oci::Digest,
    storage::{Page, StorageError},
};

/// Limit of look-ups. Of more digests, the repository's links are listed.
const MAX_LOOK_UPS: usize = 32;

impl Stored {
    /// Those of `digests`, which are sorted, that the repository has as blobs, with their sizes in bytes. Up to
    /// [`MAX_LOOK_UPS`] cost a look-up each. More cost listings, at most one for each 1,000 blobs of the repository, and
    /// a look-up for each blob whose size the listing does not have.
    pub(in crate::repository) async fn sizes_of(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<(Digest, u64)>, StorageError> {
        let (mut sizes, mut unsized_blobs) = (Vec::new(), digests.to_vec());
        if digests.len() > MAX_LOOK_UPS {
            (sizes, unsized_blobs) = self.list_sizes(digests).await?;
        }
        let located: Vec<_> = stream::iter(unsized_blobs)
            .map(async |digest| {
                let located = self.locate_blob(&digest, Freshness::Cached).await?;
                Ok::<_, StorageError>(located.map(|located| (digest, located.size)))
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        sizes.extend(located.into_iter().flatten());
        Ok(sizes)
    }

    /// The same by listings, and the blobs whose sizes are not listed.
    async fn list_sizes(
        &self,
        digests: &[Digest],
    ) -> Result<(Vec<(Digest, u64)>, Vec<Digest>), StorageError> {
        let prefix = Key::Layers(&self.name).path().folder();
        let (mut sizes, mut unsized_blobs) = (Vec::new(), Vec::new());
        let (mut wanted, mut after) = (digests.iter().peekable(), String::new());
        while let Some(next) = wanted.peek() {
            // Sorts before the link of that digest, and after those of all lower ones.
            after = after.max(format!("{prefix}{}/{}", next.algorithm(), next.hex()));
            let page = Page { after: Some(&after), ..Page::first() };
            let listing = self.store().list(&prefix, page).await?;
            for (path, meta) in &listing.objects {
                let Some(Link::Layer(_, found)) = Link::parse(path) else { continue };
                while wanted.next_if(|digest| **digest < found).is_some() {}
                if wanted.next_if(|digest| **digest == found).is_some() {
                    match Located::from_metadata(&meta.metadata) {
                        Some(located) => sizes.push((found, located.size)),
                        None => unsized_blobs.push(found),
                    }
                }
            }
            let Some(next) = listing.next else { break };
            // A page may end behind its last object.
            while wanted.next_if(|digest| Key::Layer(&self.name, digest).path().as_str() <= &*next).is_some()
            {
            }
            after = next;
        }
        Ok((sizes, unsized_blobs))
    }
}
