//! The check of a quota: how much the manifests of the repository refer to.
//!
//! It is made in the turn of a push, before anything is written to the bucket, and counts what it allows: of two pushes
//! at the same time that exceed the quota together, one is refused.

use super::{
    Hints, Writer, busy,
    order::Order,
    protocol::{Entry, Quota, Refused, Reply, Stage},
};
use crate::{
    oci::Digest,
    platform::Timestamp,
    repository::stored::{CLOCKS, Stored},
};

impl Writer {
    /// Refuses a push that exceeds its quota, or else counts what it needs. Sizes are those of storage, whatever the
    /// manifest claims: a look-up for each blob that is not counted yet. What is in the repository already is
    /// counted in any case.
    pub(super) async fn check_quota(
        &self,
        stored: &Stored,
        number: u64,
        entry: &Entry,
        hints: &Hints,
        quota: &Quota,
    ) -> Result<(), Refused> {
        let (at, ledger) = (Order::begun(number), self.journal.ledger());
        let mut digests = [hints.blobs.as_slice(), &quota.mentions].concat();
        digests.sort_unstable();
        digests.dedup();
        let unknown = ledger.keep(&digests, at).map_err(Refused::Busy)?;
        let mut sizes = stored.sizes_of(&unknown).await.map_err(busy)?;
        sizes.retain(|(digest, _)| *digest != entry.digest);
        sizes.push((entry.digest.clone(), entry.size));
        let is_removed = self.with_order(|order, _| order.has_removed(&entry.digest))?;
        let is_new = is_removed || hints.stage.is_none_or(|stage| stage == Stage::New);
        match ledger.count(&sizes, at, is_new.then_some(quota.bytes)).map_err(Refused::Busy)? {
            Some(bytes) => {
                Err(Refused::OverQuota { repository: self.repository.clone(), bytes, quota: quota.bytes })
            }
            None => Ok(()),
        }
    }

    /// Takes over what a collection has found: see [`Command::Count`](super::protocol::Command::Count).
    pub(super) fn take_count(
        &self,
        named: &[(Digest, u64)],
        scanned: Timestamp,
        is_whole: bool,
    ) -> Result<Reply, Refused> {
        let ledger = self.journal.ledger();
        ledger.count(named, scanned, None).map_err(Refused::Busy)?;
        if is_whole {
            // A push that is not finished has links that the collection could not see.
            let open = self.with_order(|order, _| order.oldest_push())?;
            let before = scanned.minus_seconds(CLOCKS);
            ledger.forget(open.map_or(before, |open| before.min(open))).map_err(Refused::Busy)?;
        }
        Ok(Reply::Done)
    }
}
