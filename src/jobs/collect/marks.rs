//! The digests that the manifests of a repository mention.
//!
//! Each takes 8 bytes: the first ones of the digest. Two that agree in them keep a layer that could go, at worst. If a
//! repository mentions more than [`LIMIT`] digests, they are compared in several passes: each one keeps the lowest, up to
//! where they fill the memory.

use uuid::Uuid;

use crate::oci::Digest;

/// Limit of digests in memory: 8 MiB, and as much while they are stored.
pub const LIMIT: usize = 1 << 20;

/// The digests that were mentioned so far, in one range of positions.
#[derive(Debug, PartialEq, Eq)]
pub struct Marks {
    /// Sorted up to `sorted`.
    marks: Vec<u64>,
    /// The last position of the range.
    last: u64,
    limit: usize,
    /// Every digest counts as mentioned: not all manifests can be read.
    has_all: bool,
}

/// The position of a digest in the order of all.
pub fn position(digest: &Digest) -> u64 {
    u64::from_str_radix(digest.hex().get(..16).unwrap_or_default(), 16).unwrap_or_default()
}

impl Default for Marks {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Marks {
    /// No marks, and room for so many.
    pub fn with_limit(limit: usize) -> Self {
        Self { marks: Vec::new(), last: u64::MAX, limit, has_all: false }
    }

    /// Notes that every digest may be mentioned.
    pub fn add_all(&mut self) {
        self.has_all = true;
    }

    /// Notes that a digest is mentioned.
    pub fn add(&mut self, digest: &Digest, from: u64) {
        let position = position(digest);
        if self.has_all || position < from || position > self.last {
            return;
        }
        self.marks.push(position);
        if self.marks.len() >= 2 * self.limit {
            self.settle();
        }
    }

    /// Sorts, and leaves the lowest if there are too many.
    pub fn settle(&mut self) {
        if self.has_all {
            self.marks.clear();
            self.last = u64::MAX;
        }
        self.marks.sort_unstable();
        self.marks.dedup();
        if self.marks.len() > self.limit {
            self.marks.truncate(self.limit);
            self.last = self.marks.last().copied().unwrap_or(u64::MAX);
        }
    }

    /// The last position that can be asked for.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether a digest was mentioned, of a position in the range. Marks must be settled.
    pub fn has(&self, digest: &Digest) -> bool {
        self.has_all || self.marks.binary_search(&position(digest)).is_ok()
    }

    /// The marks as bytes, under a name that is used only once.
    pub fn encode(&mut self, name: Uuid) -> Vec<u8> {
        self.settle();
        let mut bytes = name.as_bytes().to_vec();
        for number in [u64::from(self.has_all), self.last] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for mark in &self.marks {
            bytes.extend_from_slice(&mark.to_be_bytes());
        }
        bytes
    }

    /// Reads marks; `None` if the bytes have another name.
    pub fn decode(bytes: &[u8], name: Uuid) -> Option<Self> {
        let (numbers, []) = bytes.strip_prefix(name.as_bytes().as_slice())?.as_chunks::<8>() else {
            return None;
        };
        let mut numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let (has_all, last) = (numbers.next()? != 0, numbers.next()?);
        Some(Self { marks: numbers.collect(), last, limit: LIMIT, has_all })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn passes_tell_of_every_digest_whether_it_is_mentioned(
            mentioned in prop::collection::vec(0u16..80, 0..120),
            limit in 1usize..20,
        ) {
            let digest = |n: u16| Algorithm::Sha256.digest(&n.to_be_bytes());
            let mut told = BTreeSet::new();
            let (mut from, mut passes) = (0, 0);
            loop {
                let mut marks = Marks::with_limit(limit);
                for n in &mentioned {
                    marks.add(&digest(*n), from);
                }
                let bytes = marks.encode(Uuid::from_u128(7));
                prop_assert!(Marks::decode(&bytes, Uuid::from_u128(8)).is_none());
                prop_assert!(bytes.len() <= limit * 8 + 32);
                let marks = Marks::decode(&bytes, Uuid::from_u128(7)).unwrap();
                for n in 0..100 {
                    let at = position(&digest(n));
                    if at >= from && at <= marks.last() {
                        prop_assert_eq!(marks.has(&digest(n)), mentioned.contains(&n));
                        prop_assert!(told.insert(n));
                    }
                }
                passes += 1;
                prop_assert!(passes <= 1 + mentioned.len() / limit);
                let Some(next) = marks.last().checked_add(1) else { break };
                from = next;
            }
            prop_assert_eq!(told.len(), 100);
        }
    }

    #[test]
    fn all_digests_are_mentioned_where_not_all_manifests_can_be_read() {
        let mut marks = Marks::with_limit(1);
        (0..9u8).for_each(|n| marks.add(&Algorithm::Sha256.digest(&[n]), 0));
        marks.add_all();
        let marks = Marks::decode(&marks.encode(Uuid::nil()), Uuid::nil()).unwrap();
        assert_eq!(marks.last(), u64::MAX);
        assert!((0..99u8).all(|n| marks.has(&Algorithm::Sha256.digest(&[n]))));
    }
}
