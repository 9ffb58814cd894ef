//! Guards of the collection that a test takes away: the bucket as it looks to whoever does not have them.

use pierhead::{
    layout::{Key, trailing_digest},
    storage::{Listing, ObjectMeta, Path},
};

use crate::{executor::Group, setup::Guard, store::Bucket, world::ISOLATES};

/// How often a deletion is repeated without [`Guard::Once`].
const REPEATS: usize = 3;

/// The names and values of marks, as the registry writes them.
const UNTIL: &str = "until";
const STATE: &str = "state";
const LINK_MARK: &str = "collection";

/// Who makes a call, and for which operation.
type Caller = (Group, u64);

/// The guard that is missing, if any.
#[derive(Clone, Copy)]
pub struct Missing(pub Option<Guard>);

fn is_runner(caller: &Caller) -> bool {
    matches!(caller.0, Group::Isolate(n) if n >= ISOLATES)
}

fn is_marker(path: &str) -> bool {
    path.starts_with(&Key::Markers.path().folder())
}

/// The marker of the content whose reverse link, or folder of them, this is.
fn marker_of(path: &str) -> Option<Path> {
    let folder = path.strip_prefix("pierhead/links/")?;
    let (algorithm, rest) = folder.split_once('/')?;
    let hex = rest.split('/').next()?;
    trailing_digest(&format!("{algorithm}/{hex}")).map(|digest| Key::Marker(&digest).path())
}

fn is_sweeping(meta: &ObjectMeta) -> bool {
    meta.metadata.get(STATE).is_some_and(|state| state == "sweeping")
}

/// Whether a request finds that what it looks at is being deleted.
pub fn meets_sweep(caller: &Caller, path: &Path, found: Option<&ObjectMeta>) -> bool {
    is_marker(path.as_str()) && !is_runner(caller) && found.is_some_and(is_sweeping)
}

impl Missing {
    /// How often a deletion is repeated that may have been made.
    pub fn repeats(&self) -> usize {
        if self.0 == Some(Guard::Once) { REPEATS } else { 0 }
    }

    /// Whether the bucket loses what is written.
    pub fn loses(&self, caller: &Caller, path: &Path) -> bool {
        self.0 == Some(Guard::ReverseLink) && !is_runner(caller) && marker_of(path.as_str()).is_some()
    }

    /// What a look-up finds.
    pub fn head(&self, caller: &Caller, path: &Path, mut found: Option<ObjectMeta>) -> Option<ObjectMeta> {
        match self.0 {
            Some(Guard::Marker) if is_marker(path.as_str()) && !is_runner(caller) => None,
            Some(Guard::Lease) => {
                found.iter_mut().for_each(end_lease);
                found
            }
            _ => found,
        }
    }

    /// What a listing has.
    pub fn list(&self, caller: &Caller, prefix: &str, listing: Listing, bucket: &Bucket) -> Listing {
        match self.0 {
            Some(Guard::Look)
                if is_runner(caller)
                    && marker_of(prefix)
                        .and_then(|marker| bucket.meta(&marker))
                        .is_some_and(|meta| is_sweeping(&meta)) =>
            {
                Listing::default()
            }
            Some(Guard::Mentioned)
                if matches!(caller.0, Group::Writer(_)) && prefix.ends_with("/_manifests/revisions/") =>
            {
                Listing::default()
            }
            _ => listing,
        }
    }
}

/// Makes the lease of a sweep look as if it were over.
fn end_lease(meta: &mut ObjectMeta) {
    if is_sweeping(meta) {
        meta.metadata.insert(UNTIL.to_owned(), "0".to_owned());
    }
    if let Some(mark) = meta.metadata.get_mut(LINK_MARK)
        && mark.starts_with("sweeping ")
    {
        *mark = "sweeping 0".to_owned();
    }
}
