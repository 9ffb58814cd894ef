//! Untagged manifests: which of them nothing needs.
//!
//! The children of an index stay while the index is in the repository, whether or not it has a tag, and a referrer while
//! its subject is. So what belongs together goes from the top, a layer in each run. No key tells the parents of a manifest:
//! a scan reads all indexes of the repository once, and holds 8 bytes for each child. Two digests with the same 8 bytes
//! keep one another, which does no harm.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{CURRENT, Cursor, LISTINGS, Run, below};
use crate::{
    blobs::Freshness,
    layout::Key,
    oci::{
        Digest, Manifest, Reference, RepositoryName, Tag,
        media_type::{self, Shape},
    },
    platform::{Body, Timestamp},
    repository::{RepositoryError, Revision},
    storage::{Metadata, ObjectMeta, Page, PutOptions, StorageError},
};

/// Limit of the manifests that a step decides about.
const CANDIDATES: usize = 1000;

/// Limit of the children of a repository's indexes: 4 MB in the bucket, and about four times that in memory.
const MAX_CHILDREN: usize = 500_000;

/// How far the clocks of the worker and of the bucket may differ, in seconds. S3 cuts times to the second.
const SKEW: u64 = 2;

/// The metadata names of a stored scan: its id, and when it has begun.
const ID: &str = "id";
const SINCE: &str = "since";

/// The children of a repository's indexes.
pub(super) struct Scan {
    id: String,
    /// All indexes that were pushed before are read, once the scan has ended.
    since: Timestamp,
    children: BTreeSet<u64>,
    is_stored: bool,
}

/// What becomes of a candidate.
enum Fate {
    /// A tag points to it.
    Tagged,
    /// Something else keeps it.
    Kept(&'static str),
    /// Nothing does.
    Unneeded,
}

/// A manifest that may be untagged.
struct Candidate {
    digest: Digest,
    path: String,
    /// Since when it may have been untagged, as far as is known: its push, or when a tag went on to another manifest.
    since: Timestamp,
    is_tagged: bool,
    /// Tags that have pointed to it, and may do so again.
    tags: Vec<Tag>,
}

/// What the links of a tag tell.
#[derive(Default)]
struct Links {
    moved: Option<Timestamp>,
    /// The manifests that it has pointed to, and since when at first.
    targets: Vec<(Digest, Timestamp)>,
}

/// The digest of a link, from its path below the folder of links.
fn linked(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_suffix("/link")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The first 8 bytes of a digest.
fn prefix(digest: &Digest) -> u64 {
    digest.hex().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default()
}

/// The folder of a repository's manifests.
fn revisions(name: &RepositoryName) -> String {
    format!("{}/_manifests/revisions/", Key::RepositoryFolder(name))
}

impl Run<'_> {
    /// Reads indexes of a repository for their children.
    pub(super) async fn scan(
        &mut self,
        name: RepositoryName,
        id: &str,
        after: String,
    ) -> Result<Cursor, RepositoryError> {
        if after.is_empty() {
            self.scan = Some(Scan {
                id: id.to_owned(),
                since: self.now,
                children: BTreeSet::new(),
                is_stored: false,
            });
        }
        let Some(mut scan) = self.load_scan(id).await? else { return Ok(Cursor::scan(name)) };
        let folder = revisions(&name);
        let start = format!("{folder}{after}");
        let page = Page { after: (!after.is_empty()).then_some(start.as_str()), ..Page::first() };
        let listing = self.store.list(&folder, page).await?;
        self.spend(1);
        let mut next = listing.next.map(|next| below(&next, &folder));
        for (path, meta) in &listing.objects {
            let Some(digest) = linked(&below(path, &folder)) else { continue };
            if let Err(error) = self.add_children(&mut scan, &digest, meta).await {
                // What it needs is not known: no manifest of the repository can go.
                self.report.failed(&error.into());
                return self.end_scan(name, &scan).await;
            }
            if self.left == 0 {
                next = Some(below(path, &folder));
                break;
            }
        }
        if scan.children.len() > MAX_CHILDREN {
            self.report.too_large(&name);
            return self.end_scan(name, &scan).await;
        }
        let id = scan.id.clone();
        self.scan = Some(scan);
        Ok(match next {
            Some(after) => Cursor::Scan { name, id, after },
            None => Cursor::Untagged { name, id, after: String::new() },
        })
    }

    /// Adds what a manifest names, unless its type says that it names none. Costs a read.
    async fn add_children(
        &mut self,
        scan: &mut Scan,
        digest: &Digest,
        link: &ObjectMeta,
    ) -> Result<(), StorageError> {
        let revision = Revision::of_link(digest.clone(), link);
        let has_none =
            |kind: &str| matches!(media_type::shape(kind), Shape::Image | Shape::Artifact | Shape::Schema1);
        if revision.description.is_some_and(|(_, kind)| has_none(&kind)) {
            return Ok(());
        }
        self.spend(1);
        let content = self.app.blobs(self.context).manifest(digest, Freshness::Strict).await?;
        let children = content.map(|content| Manifest::children_of(&content)).unwrap_or_default();
        scan.children.extend(children.iter().map(prefix));
        Ok(())
    }

    /// The scan with this id, of this step or of the last one; `None` if another run has taken its place.
    async fn load_scan(&mut self, id: &str) -> Result<Option<Scan>, StorageError> {
        if let Some(scan) = self.scan.take().filter(|scan| scan.id == id) {
            return Ok(Some(scan));
        }
        self.spend(1);
        let read = self.store.read(&Key::RetainScan.path(), 16 * MAX_CHILDREN).await?;
        let Some((content, meta)) = read.filter(|(_, meta)| meta.metadata.get(ID).is_some_and(|of| of == id))
        else {
            return Ok(None);
        };
        let since = meta.metadata.get(SINCE).and_then(|since| since.parse().ok());
        let (numbers, _) = content.as_chunks::<8>();
        let children = numbers.iter().map(|number| u64::from_be_bytes(*number)).collect();
        Ok(since.map(|since| Scan { id: id.to_owned(), since: Timestamp(since), children, is_stored: true }))
    }

    /// Stores the scan that the next step goes on with, or removes it.
    pub(super) async fn save_scan(&mut self, next: &Cursor) -> Result<(), StorageError> {
        let Some(scan) = &self.scan else { return Ok(()) };
        match next {
            Cursor::Scan { id, .. } | Cursor::Untagged { id, .. } if *id == scan.id => {
                let content: Vec<u8> = scan.children.iter().flat_map(|child| child.to_be_bytes()).collect();
                let metadata = Metadata::from([
                    (ID.to_owned(), scan.id.clone()),
                    (SINCE.to_owned(), scan.since.0.to_string()),
                ]);
                let options = PutOptions { metadata, ..PutOptions::default() };
                self.store
                    .put(&Key::RetainScan.path(), Body::Bytes(Bytes::from(content)), options)
                    .await
                    .map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Decides about the untagged manifests of a repository, from `after` on.
    pub(super) async fn untagged(
        &mut self,
        name: RepositoryName,
        id: &str,
        after: String,
    ) -> Result<Cursor, RepositoryError> {
        let Some((line, span)) = self.rules_of(&name).untagged() else {
            return Ok(self.after_untagged(name));
        };
        let Some(mut scan) = self.load_scan(id).await? else { return Ok(Cursor::scan(name)) };
        let began = self.app.clock.now();
        let before = began.minus_seconds(span.seconds);
        let found = match self.candidates(&name, &mut scan, &after, before).await {
            Ok(Some(candidates)) => self.look_at_tags(&name, candidates).await?,
            Ok(None) => None,
            Err(error) => {
                self.report.failed(&error.into());
                return self.end_scan(name, &scan).await;
            }
        };
        // What was pushed before is read now.
        scan.since = began;
        let Some(candidates) = found else {
            self.report.too_large(&name);
            return self.end_scan(name, &scan).await;
        };
        let is_full = candidates.len() == CANDIDATES;
        let (mut last, mut targets) = (after, BTreeMap::new());
        for candidate in &candidates {
            let fate = self.fate(&name, candidate, &scan, &mut targets, before).await;
            let is_changed = match fate {
                Ok(Fate::Tagged) => false,
                Ok(Fate::Kept(reason)) => {
                    self.report.manifest(&name, &candidate.digest, Ok(reason));
                    false
                }
                Ok(Fate::Unneeded) => match self.drop_manifest(&name, &candidate.digest, began).await {
                    Ok(true) => {
                        self.report.manifest(&name, &candidate.digest, Err(line));
                        false
                    }
                    Ok(false) => {
                        self.report.manifests_changed += 1;
                        true
                    }
                    Err(error) => {
                        self.report.failed(&error);
                        false
                    }
                },
                Err(error) => {
                    self.report.failed(&error);
                    false
                }
            };
            last.clone_from(&candidate.path);
            // After a push, what is known of the tags is old.
            if is_changed || self.left == 0 {
                self.scan = Some(scan);
                return Ok(Cursor::Untagged { name, id: id.to_owned(), after: last });
            }
        }
        if is_full {
            self.scan = Some(scan);
            return Ok(Cursor::Untagged { name, id: id.to_owned(), after: last });
        }
        self.end_scan(name, &scan).await
    }

    async fn end_scan(&mut self, name: RepositoryName, scan: &Scan) -> Result<Cursor, RepositoryError> {
        if scan.is_stored {
            self.store.delete(&[Key::RetainScan.path()]).await?;
        }
        Ok(self.after_untagged(name))
    }

    /// The next manifests that were pushed before a time. Reads the indexes that were pushed since the scan. `None` if there
    /// are too many manifests.
    async fn candidates(
        &mut self,
        name: &RepositoryName,
        scan: &mut Scan,
        after: &str,
        before: Timestamp,
    ) -> Result<Option<Vec<Candidate>>, StorageError> {
        let folder = revisions(name);
        let (mut candidates, mut next) = (Vec::new(), None::<String>);
        for _ in 0..LISTINGS {
            let listing = self.store.list(&folder, Page { after: next.as_deref(), ..Page::first() }).await?;
            self.spend(1);
            for (path, meta) in &listing.objects {
                let path = below(path, &folder);
                let Some(digest) = linked(&path) else { continue };
                if meta.modified.plus_seconds(SKEW) >= scan.since {
                    self.add_children(scan, &digest, meta).await?;
                }
                if meta.modified <= before && path.as_str() > after && candidates.len() < CANDIDATES {
                    let since = meta.modified;
                    candidates.push(Candidate { digest, path, since, is_tagged: false, tags: Vec::new() });
                }
            }
            next = listing.next;
            if next.is_none() {
                return Ok(Some(candidates));
            }
        }
        Ok(None)
    }

    /// Lists all tags, for which of them may point to a candidate. `None` if there are too many.
    async fn look_at_tags(
        &mut self,
        name: &RepositoryName,
        mut candidates: Vec<Candidate>,
    ) -> Result<Option<Vec<Candidate>>, StorageError> {
        if candidates.is_empty() {
            return Ok(Some(candidates));
        }
        let places: BTreeMap<Digest, usize> =
            candidates.iter().enumerate().map(|(at, candidate)| (candidate.digest.clone(), at)).collect();
        let folder = Key::Tags(name).path().folder();
        let (mut of, mut next) = (None::<(Tag, Links)>, None::<String>);
        for _ in 0..LISTINGS {
            let listing = self.store.list(&folder, Page { after: next.as_deref(), ..Page::first() }).await?;
            self.spend(1);
            for (path, meta) in &listing.objects {
                let path = below(path, &folder);
                let Some((tag, link)) = path.split_once('/') else { continue };
                if of.as_ref().is_none_or(|(of, _)| of.as_str() != tag) {
                    let tag = tag.parse().ok().map(|tag| (tag, Links::default()));
                    if let Some((tag, links)) = std::mem::replace(&mut of, tag) {
                        links.note(&tag, &places, &mut candidates);
                    }
                }
                let Some((_, links)) = &mut of else { continue };
                if CURRENT.strip_prefix('/') == Some(link) {
                    links.moved = Some(meta.modified);
                } else if let Some(digest) = link.strip_prefix("index/").and_then(linked) {
                    links.targets.push((digest, meta.modified));
                }
            }
            next = listing.next;
            if next.is_none() {
                if let Some((tag, links)) = of {
                    links.note(&tag, &places, &mut candidates);
                }
                return Ok(Some(candidates));
            }
        }
        Ok(None)
    }

    /// Whether anything needs a candidate. `targets` are what tags point to, as far as it was looked up.
    async fn fate(
        &mut self,
        name: &RepositoryName,
        candidate: &Candidate,
        scan: &Scan,
        targets: &mut BTreeMap<Tag, Option<Digest>>,
        before: Timestamp,
    ) -> Result<Fate, RepositoryError> {
        let Candidate { digest, since, is_tagged, tags, .. } = candidate;
        if *is_tagged {
            return Ok(Fate::Tagged);
        }
        for tag in tags {
            if !targets.contains_key(tag) {
                self.spend(1);
                let target = self.target(&Key::TagCurrent(name, tag).path()).await?;
                targets.insert(tag.clone(), target.map(|seen| seen.digest));
            }
            if targets.get(tag).is_some_and(|target| target.as_ref() == Some(digest)) {
                return Ok(Fate::Tagged);
            }
        }
        if scan.children.contains(&prefix(digest)) {
            return Ok(Fate::Kept("an index names it"));
        }
        if *since > before {
            return Ok(Fate::Kept("a tag pointed to it until lately"));
        }
        self.spend(1);
        let content = self.app.blobs(self.context).manifest(digest, Freshness::Strict).await?;
        if let Some(subject) = content.and_then(|content| Manifest::subject_of(&content)) {
            self.spend(1);
            let repository = self.app.repository(name, self.context);
            if repository.revision(&Reference::Digest(subject)).await?.is_some() {
                return Ok(Fate::Kept("it refers to a manifest that is there"));
            }
        }
        if let Some(within) = self.rules_of(name).pulls()
            && let Some(pulled) = self.pulled(name, digest).await?
            && self.now < pulled.plus_seconds(within)
        {
            return Ok(Fate::Kept("it was pulled lately"));
        }
        Ok(Fate::Unneeded)
    }

    /// Deletes a manifest; `false` if a tag points to it, or was pushed since the step looked.
    async fn drop_manifest(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
        looked: Timestamp,
    ) -> Result<bool, RepositoryError> {
        if self.is_dry {
            return Ok(true);
        }
        self.spend(1);
        let since = looked.minus_seconds(SKEW);
        let is_deleted = self.app.repository(name, self.context).delete_unused(digest, since).await?;
        if is_deleted && self.rules_of(name).pulls().is_some() {
            self.spend(1);
            self.store.delete(&[Key::Pull(name, digest).path()]).await?;
        }
        Ok(is_deleted)
    }
}

impl Links {
    /// Notes at the candidates that the tag has pointed to when it went on to another manifest, or that it points there.
    fn note(self, tag: &Tag, places: &BTreeMap<Digest, usize>, candidates: &mut [Candidate]) {
        let Self { moved: Some(moved), targets } = self else { return };
        for (digest, since) in &targets {
            let Some(candidate) = places.get(digest).and_then(|at| candidates.get_mut(*at)) else { continue };
            if targets.len() == 1 {
                candidate.is_tagged = true;
                continue;
            }
            let later = targets.iter().map(|(_, other)| *other).filter(|other| other > since).min();
            candidate.since = candidate.since.max(later.unwrap_or(moved));
            candidate.tags.push(tag.clone());
        }
    }
}
