//! Content that no repository links: found by comparing ordered listings.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, future::try_join4, stream};

use super::{Part, Run, marks::position};
use crate::{
    blobs::marker::HOLD,
    layout::{Key, trailing_name},
    oci::{Algorithm, Digest, RepositoryName},
    platform::Timestamp,
    storage::{ObjectMeta, Page, StorageError},
};

/// Limit of repositories to look at at the same time: each takes two of the platform's six connections.
const CONCURRENCY: usize = 3;

/// What the listings have of a digest.
#[derive(Default)]
struct Found {
    /// The last write of its bytes, or of what says where they are; `None` if there are none.
    written: Option<Timestamp>,
    /// The bytes at its canonical key.
    size: u64,
    /// Whether there is a reverse link.
    is_linked: bool,
    /// Whether there is a marker: it is looked at later.
    is_marked: bool,
}

impl Run<'_> {
    /// Compares a page of each listing, after a digest of which `after` is the hexadecimal part. Four calls, and one for
    /// each digest that is condemned.
    pub(super) async fn compare_content(
        &mut self,
        algorithm: Algorithm,
        after_digest: String,
    ) -> Result<Part, StorageError> {
        let after = &after_digest;
        let folders = [
            Key::DataFolder(algorithm),
            Key::Descriptors(algorithm),
            Key::MarkersBy(algorithm),
            Key::AllReverseLinks(algorithm),
        ];
        let [data, described, marked, linked] = folders.map(|key| key.path().folder());
        // The bytes are in a folder of the first two digits, and each reverse link is below its digest.
        let after_data = format!("{data}{}/{after}/~", after.get(..2).unwrap_or_default());
        let (after_described, after_marked, after_linked) =
            (format!("{described}{after}"), format!("{marked}{after}"), format!("{linked}{after}/~"));
        let start = |after: String| if after_digest.is_empty() { None } else { Some(after) };
        let (bytes, descriptors, markers, links) = try_join4(
            self.entries(algorithm, &data, start(after_data), false),
            self.entries(algorithm, &described, start(after_described), false),
            self.entries(algorithm, &marked, start(after_marked), false),
            self.entries(algorithm, &linked, start(after_linked), true),
        )
        .await?;
        self.calls += 4;
        // What comes after the end of any listing is compared with its next page.
        let end = [&bytes, &descriptors, &markers, &links].into_iter().filter_map(Entries::end).min();
        let mut found = BTreeMap::<String, Found>::new();
        for (hex, meta) in bytes.list {
            let found = found.entry(hex).or_default();
            found.size = meta.as_ref().map_or(0, |meta| meta.size);
            found.written = found.written.max(meta.map(|meta| meta.modified));
        }
        for (hex, meta) in descriptors.list {
            let found = found.entry(hex).or_default();
            found.written = found.written.max(meta.map(|meta| meta.modified));
        }
        for (hex, _) in markers.list {
            found.entry(hex).or_default().is_marked = true;
        }
        for (hex, _) in links.list {
            found.entry(hex).or_default().is_linked = true;
        }
        let mut reached = None;
        for (hex, found) in found {
            if end.as_ref().is_some_and(|end| hex > *end) {
                break;
            }
            if self.calls >= self.job.calls && reached.is_some() {
                return Ok(Part::Content { algorithm, after: reached.unwrap_or(after_digest) });
            }
            if let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() {
                self.report.content += 1;
                if let Err(error) = self.compare_digest(&digest, &found).await {
                    self.failed(&format!("{digest}: {error}"));
                }
            }
            reached = Some(hex);
        }
        Ok(match (end, algorithm) {
            (Some(after), _) => Part::Content { algorithm, after },
            (None, Algorithm::Sha256) => Part::Content { algorithm: Algorithm::Sha512, after: String::new() },
            (None, Algorithm::Sha512) => Part::Markers { after: None },
        })
    }

    /// The next page with anything about a digest. Pages may be short, and may have nothing but what others wrote.
    async fn entries(
        &self,
        algorithm: Algorithm,
        prefix: &str,
        mut after: Option<String>,
        folders: bool,
    ) -> Result<Entries, StorageError> {
        loop {
            let page = Page { after: after.as_deref(), limit: Page::MAX, folders };
            let listing = self.blobs.store().list(prefix, page).await?;
            let objects = listing.objects.into_iter().filter_map(|(path, meta)| {
                let is_bytes = !path.starts_with("docker/") || path.ends_with("/data");
                Some((digits(&path, algorithm).filter(|_| is_bytes)?, Some(meta)))
            });
            let named = listing.folders.iter().filter_map(|path| Some((digits(path, algorithm)?, None)));
            let list: Vec<_> = if folders { named.collect() } else { objects.collect() };
            let has_more = listing.next.is_some();
            if !(list.is_empty() && has_more) {
                return Ok(Entries { list, has_more });
            }
            after = listing.next;
        }
    }

    /// Condemns content that is old enough and that nobody links, and reverse links of no content.
    async fn compare_digest(&mut self, digest: &Digest, found: &Found) -> Result<(), StorageError> {
        if found.is_marked {
            return Ok(());
        }
        let why = match (found.written, found.is_linked) {
            (Some(written), false) if written <= self.old_enough() => "no repository links it",
            (Some(_), false) => return Ok(()),
            (None, true) => "there is no content, only reverse links",
            _ if self.is_turn(digest) && !self.is_wanted(digest).await? => {
                "the repositories that had it do not link it"
            }
            _ => return Ok(()),
        };
        self.report.content_condemned += 1;
        self.report.bytes_condemned += found.size;
        self.example("content", digest, "", why);
        if self.job.is_dry_run {
            return Ok(());
        }
        self.calls += 1;
        self.blobs.condemn(digest).await
    }

    /// Whether it is this digest's turn to be looked at more closely.
    pub(super) fn is_turn(&self, digest: &Digest) -> bool {
        let of = self.job.thoroughness.max(1);
        position(digest) % of == self.runs % of
    }

    /// Whether an upload may still want content, or the first repositories that may have it all link it.
    async fn is_wanted(&mut self, digest: &Digest) -> Result<bool, StorageError> {
        let now = self.app.clock.now();
        let young = Timestamp(now.minus_seconds(self.job.upload_ttl).0.saturating_sub(HOLD));
        let prefix = Key::ReverseLinks(digest).path().folder();
        self.calls += 1;
        let listing = self.blobs.store().list(&prefix, Page { limit: LOOKS, ..Page::first() }).await?;
        if listing.objects.iter().any(|(_, meta)| meta.modified >= young) {
            return Ok(true);
        }
        let links = listing.objects.into_iter().filter_map(|(path, meta)| {
            let name = trailing_name(&path, &prefix)?.parse().ok()?;
            Some((name, meta))
        });
        let links = links.collect();
        // The sweep looks at all.
        Ok(self.linked(digest, links).await?.iter().all(|(_, is_linked)| *is_linked))
    }

    /// Which of these repositories, given with their reverse links, link content.
    pub(super) async fn linked(
        &mut self,
        digest: &Digest,
        links: Vec<(RepositoryName, ObjectMeta)>,
    ) -> Result<Vec<(RepositoryName, bool)>, StorageError> {
        self.calls += 2 * links.len();
        let blobs = &self.blobs;
        stream::iter(links)
            .map(async |(name, link)| {
                let is_linked = blobs.is_linked(&name, digest, &link).await?;
                Ok((name, is_linked))
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }
}

/// Limit of reverse links of one digest to look at in a step.
pub(super) const LOOKS: usize = 50;

/// A page of what a folder has of digests.
struct Entries {
    /// The hexadecimal parts of digests, in order, with the objects.
    list: Vec<(String, Option<ObjectMeta>)>,
    has_more: bool,
}

impl Entries {
    /// The last digest that the page is sure to have; `None` if it is the last page.
    fn end(&self) -> Option<String> {
        self.list.last().filter(|_| self.has_more).map(|(hex, _)| hex.clone())
    }
}

/// The hexadecimal part of the digest in a path, which another program may have written.
fn digits(path: &str, algorithm: Algorithm) -> Option<String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_digest = |part: &&str| part.len() == algorithm.hex_len() && part.bytes().all(is_digit);
    path.split('/').find(is_digest).map(str::to_owned)
}
