//! What is left of a repository that is being removed, when its manifests and tags are gone.

use super::Stored;
use crate::{
    layout::Key,
    storage::{Page, Path, StorageError},
};

impl Stored {
    /// Where something may be left: keys in `distribution`'s tree that are no manifest and no tag, entries of referrers, and
    /// notes of pulls. The links of layers are not among them: pushes of blobs go on while a repository is removed.
    fn leftovers(&self) -> [Key<'_>; 4] {
        let name = &self.name;
        [Key::Manifests(name), Key::ForeignUploads(name), Key::ReferrersOf(name), Key::Pulls(name)]
    }

    /// Whether [`clear`](Self::clear) finds something. Costs up to four listings.
    pub(in crate::repository) async fn has_leftovers(&self) -> Result<bool, StorageError> {
        for key in self.leftovers() {
            if self.store().exists_below(&key.path().folder()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes up to 1,000 keys of each kind of leftover. Costs a listing and a deletion for each kind.
    pub(in crate::repository) async fn clear(&self) -> Result<(), StorageError> {
        for key in self.leftovers() {
            let listing = self.store().list(&key.path().folder(), Page::first()).await?;
            let paths: Vec<Path> = listing.objects.into_iter().map(|(path, _)| Path::trusted(path)).collect();
            if !paths.is_empty() {
                self.store().delete(&paths).await?;
            }
        }
        Ok(())
    }

    /// Deletes the catalog entry and what was counted, unless the repository has manifests.
    pub(in crate::repository) async fn remove_catalog_entry(&self) -> Result<(), StorageError> {
        if self.store().exists_below(&Key::Manifests(&self.name).path().folder()).await? {
            return Ok(());
        }
        self.delete(&[Key::Repository(&self.name), Key::Usage(&self.name)]).await
    }
}
