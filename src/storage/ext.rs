//! What `distribution`'s drivers offer beyond keys and bytes, built on the contract once for all drivers.

use bytes::Bytes;

use super::{Object, ObjectMeta, Page, Path, StorageDriver, StorageError, StorageErrorKind, Writer};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stat {
    /// An object.
    File(ObjectMeta),
    /// No object, but objects below it.
    Folder,
}

/// Folders, moving, appending and deleting trees, for every [`StorageDriver`].
pub trait StorageDriverExt: StorageDriver + Sized {
    /// An error of this driver.
    fn error(&self, path: impl Into<String>, kind: impl Into<StorageErrorKind>) -> StorageError {
        StorageError { driver: self.name(), path: path.into(), kind: kind.into() }
    }

    /// What is at a path: one look-up for an object, one listing more for a folder.
    async fn stat(&self, path: &Path) -> Result<Option<Stat>, StorageError> {
        if let Some(meta) = self.head(path).await? {
            return Ok(Some(Stat::File(meta)));
        }
        Ok(self.exists_below(&path.folder()).await?.then_some(Stat::Folder))
    }

    /// Whether any object's path starts with `prefix`.
    async fn exists_below(&self, prefix: &str) -> Result<bool, StorageError> {
        let mut after: Option<String> = None;
        loop {
            let page = Page { after: after.as_deref(), limit: 1, folders: false };
            let listing = self.list(prefix, page).await?;
            if !listing.objects.is_empty() {
                return Ok(true);
            }
            let Some(next) = listing.next else { return Ok(false) };
            after = Some(next);
        }
    }

    /// Reads a small object whole. More than `limit` bytes is an error.
    async fn read(&self, path: &Path, limit: usize) -> Result<Option<(Bytes, ObjectMeta)>, StorageError> {
        let Some(Object { meta, body }) = self.get(path, None).await? else { return Ok(None) };
        let bytes = body.read(limit).await.map_err(|error| self.error(path.as_str(), error))?;
        Ok(Some((bytes, meta)))
    }

    /// Every object whose path starts with `prefix`, flat, in order.
    async fn list_all(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>, StorageError> {
        let mut objects = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let listing = self.list(prefix, Page { after: after.as_deref(), ..Page::first() }).await?;
            objects.extend(listing.objects);
            match listing.next {
                Some(next) => after = Some(next),
                None => return Ok(objects),
            }
        }
    }

    /// Deletes an object and everything below its path, and nothing beside it. Repeating it is harmless.
    async fn delete_tree(&self, path: &Path) -> Result<(), StorageError> {
        // Of all paths that begin like this one, it comes first. (Where objects are files, asking for it by
        // name may find the folder.)
        let first = self.list(path.as_str(), Page { limit: 1, ..Page::first() }).await?;
        if first.objects.first().is_some_and(|(found, _)| found == path.as_str()) {
            self.delete(std::slice::from_ref(path)).await?;
        }
        loop {
            // From the start each time: what was listed is gone.
            let listing = self.list(&path.folder(), Page::first()).await?;
            let paths: Vec<Path> = listing.objects.into_iter().map(|(path, _)| Path::trusted(path)).collect();
            self.delete(&paths).await?;
            if listing.next.is_none() {
                return Ok(());
            }
        }
    }

    /// Moves an object, over whatever is at `to`; `false` when there is nothing at `from`. Not atomic: an
    /// interrupted move leaves the object in both places, and repeating it ends it.
    async fn rename(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        if !self.copy(from, to).await? {
            return Ok(false);
        }
        self.delete(std::slice::from_ref(from)).await?;
        Ok(true)
    }

    /// Opens an object for appending, or for writing anew. Nothing is visible before
    /// [`Writer::commit`]. Appending writes what is there again: no store behind this trait can do less.
    async fn writer(&self, path: &Path, append: bool) -> Result<Writer<'_, Self>, StorageError> {
        let mut writer = Writer::create(self, path);
        if append && let Some(meta) = self.head(path).await? {
            writer.copy_from(path, meta.size).await?;
        }
        Ok(writer)
    }
}

impl<S: StorageDriver> StorageDriverExt for S {}
