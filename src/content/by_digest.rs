//! Content by its digest alone, whichever repository has it: facts that never change, and so may be cached.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use super::{Content, Located};
use crate::{
    body::ByteStream,
    oci::Digest,
    storage::{Driver, StorageError},
};

type Answer<'a, T> = LocalBoxFuture<'a, Result<Option<T>, StorageError>>;

/// Answers what a digest stands for. Whether a repository has it, and who may read it, is not asked here.
pub trait ByDigest {
    /// Where a blob's bytes are.
    fn located<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Located>;

    /// [`ByDigest::located`], as far as that is known without waiting.
    fn known(&self, digest: &Digest) -> Option<Located>;

    /// A manifest's content.
    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Bytes>;

    /// Takes note of where a blob's bytes are, as its link tells.
    fn learn(&self, digest: &Digest, located: &Located);

    /// Forgets what was known of a digest.
    fn forget(&self, digest: &Digest);
}

/// What the store says.
pub struct Stored<S: ByteStream>(pub Driver<S>);

impl<S: ByteStream> ByDigest for Stored<S> {
    fn located<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Located> {
        Box::pin(async { Content::new(&self.0).locate(digest).await })
    }

    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Bytes> {
        Box::pin(async { Content::new(&self.0).manifest(digest).await })
    }

    fn known(&self, _: &Digest) -> Option<Located> {
        None
    }

    fn learn(&self, _: &Digest, _: &Located) {}

    fn forget(&self, _: &Digest) {}
}
