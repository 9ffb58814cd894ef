//! A repository's layers: which of them no manifest names.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use super::{
    Part, Run, Scan,
    marks::{LIMIT, Marks, position},
    usage::{Named, Sums},
};
use crate::{
    layout::{Key, Link},
    oci::{Digest, RepositoryName, mentions, mentions_tarsum},
    platform::{Body, Timestamp},
    repository::{RepositoryError, stored::LinkMark},
    storage::{ObjectMeta, Page, PutOptions, StorageError},
};

/// Limit of manifests that are read at the same time: each may have 8 MiB.
const READS: usize = 3;

/// Limit of layers that a writer removes in one turn.
const BATCH: usize = 100;

/// What the removal of a layer's link costs: a look-up, a mark, a second look-up, the marker of the content.
const REMOVAL: usize = 4;

/// Sorts after every key of a repository itself: its folders begin with an underscore.
const END: &str = "_~";

impl Run<'_> {
    /// Finds the next repository.
    pub(super) async fn next_repository(
        &mut self,
        after: Option<String>,
    ) -> Result<Option<Part>, RepositoryError> {
        let prefix = Key::Repositories.path().folder();
        let page = Page { after: after.as_deref(), limit: 1, folders: false };
        self.calls += 1;
        let listing = self.blobs.store().list(&prefix, page).await?;
        let Some((path, _)) = listing.objects.first() else {
            return Ok(Some(match listing.next {
                Some(after) => Part::Repositories { after: Some(after) },
                None => self.seen_repositories().await?,
            }));
        };
        let name = path.strip_prefix(&prefix).and_then(|rest| rest.split_once("/_"));
        let Some(name) = name.and_then(|(name, _)| name.parse::<RepositoryName>().ok()) else {
            return Ok(Some(Part::Repositories { after: Some(path.clone()) }));
        };
        self.report.repositories += 1;
        let sums = Sums::new(self.app.clock.now());
        Ok(Some(self.scan(name, 0, Some(sums))))
    }

    /// Reads manifests, and notes what they mention.
    pub(super) async fn read_manifests(&mut self, scan: Scan) -> Result<Part, RepositoryError> {
        let Scan { name, scanned, from, mut after, marks, mut sums } = scan;
        let mut marks = match &after {
            None => Marks::default(),
            Some(_) => match self.load(marks).await? {
                Some(marks) => marks,
                None => return Ok(self.scan(name, from, None)),
            },
        };
        let prefix = Key::Revisions(&name).path().folder();
        loop {
            // A page costs a call for each of its manifests.
            // Its manifests may need a reverse link each.
            let limit = (self.job.calls.saturating_sub(self.calls) / 2).clamp(1, Page::MAX);
            let page = Page { after: after.as_deref(), limit, folders: false };
            self.calls += 1;
            let mut listing = self.blobs.store().list(&prefix, page).await?;
            if from == 0 {
                self.remove_unused_signatures(&name, &mut listing.objects).await?;
            }
            self.index(&listing.objects).await?;
            let digests = listing.objects.iter().filter_map(|(path, _)| match Link::parse(path)? {
                Link::Revision(_, digest) => Some(digest),
                Link::Layer(..) | Link::Signature { .. } => None,
            });
            let digests: Vec<Digest> = digests.collect();
            self.calls += digests.len();
            self.report.manifests += digests.len() as u64;
            let blobs = &self.blobs;
            let mut contents = stream::iter(&digests)
                .map(async |digest| (digest, blobs.stored_manifest(digest).await))
                .buffer_unordered(READS);
            let (mut unread, mut by_tarsum, mut named) = (Vec::new(), Vec::new(), Named::new());
            while let Some((digest, content)) = contents.next().await {
                match content {
                    Ok(Some(content)) => {
                        if mentions_tarsum(&content) {
                            by_tarsum.push(digest.clone());
                        }
                        mentions(&content, |digest| marks.add(&digest, from));
                        if from == 0 {
                            Self::count_manifest(&mut sums, &mut named, digest, content.len() as u64);
                        }
                    }
                    Err(error) if error.is_retryable() => return Err(error.into()),
                    Ok(None) | Err(_) => unread.push(digest.clone()),
                }
            }
            drop(contents);
            self.tell_writer(&name, &mut sums, named, false).await;
            for digest in by_tarsum {
                marks.add_all();
                let why = "it names layers by tarsum: all layers of its repository stay";
                self.example("manifest", &digest, name.as_str(), why);
            }
            for digest in unread {
                // Nobody knows what it needs.
                marks.add_all();
                let message =
                    format!("the manifest {digest} cannot be read: all layers of its repository stay");
                self.failed(&format!("{name}: {message}"));
            }
            after = listing.next;
            if after.is_none() || self.calls >= self.job.calls {
                break;
            }
        }
        let is_whole = after.is_none();
        // The next part may be of another step.
        let marks = self.save(&mut marks).await?;
        Ok(match is_whole {
            true => Part::Layers(Scan { name, scanned, from, after: None, marks, sums }),
            false => Part::Manifests(Scan { name, scanned, from, after, marks, sums }),
        })
    }

    /// Compares the links of layers with what the manifests mention.
    pub(super) async fn compare_layers(&mut self, scan: Scan) -> Result<Part, RepositoryError> {
        let Scan { name, scanned, from, mut after, marks: saved, mut sums } = scan;
        let Some(marks) = self.load(saved).await? else { return Ok(self.scan(name, from, None)) };
        let prefix = Key::Layers(&name).path().folder();
        loop {
            self.calls += 1;
            let page = Page { after: after.as_deref(), ..Page::first() };
            let listing = self.blobs.store().list(&prefix, page).await?;
            let (mut condemned, mut reached, mut named) = (Vec::new(), None, Named::new());
            for (path, meta) in &listing.objects {
                let is_enough = self.calls + REMOVAL * condemned.len() >= self.job.calls;
                if reached.is_some() && (is_enough || condemned.len() >= BATCH) {
                    break;
                }
                reached = Some(path.clone());
                if from == 0 {
                    self.index(std::slice::from_ref(&(path.clone(), meta.clone()))).await?;
                }
                let Some(Link::Layer(_, digest)) = Link::parse(path) else { continue };
                let position = position(&digest);
                if position < from || position > marks.last() {
                    continue;
                }
                self.report.links += 1;
                if marks.has(&digest) {
                    self.count_layer(&name, &digest, meta, &mut sums, &mut named).await;
                }
                match self.compare_layer(&name, &digest, meta, marks.has(&digest)).await {
                    Ok(true) => condemned.push(digest),
                    Ok(false) => {}
                    Err(error) => self.failed(&format!("{name}, {digest}: {error}")),
                }
            }
            self.tell_writer(&name, &mut sums, named, false).await;
            self.remove_links(&name, &condemned, scanned).await;
            let is_whole = reached.as_ref() == listing.objects.last().map(|(path, _)| path);
            after = if is_whole { listing.next } else { reached };
            if after.is_none() {
                break;
            }
            if self.calls >= self.job.calls {
                return Ok(Part::Layers(Scan { name, scanned, from, after, marks: saved, sums }));
            }
        }
        Ok(match marks.last().checked_add(1) {
            Some(from) => self.scan(name, from, sums),
            None => {
                self.counted(&name, sums).await?;
                after_repository(&name)
            }
        })
    }

    /// Condemns or revives the link of a layer; `true` if it is to be removed.
    async fn compare_layer(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
        listed: &ObjectMeta,
        is_named: bool,
    ) -> Result<bool, StorageError> {
        let (now, old) = (self.app.clock.now(), self.old());
        let mut link = Some(listed.clone());
        // A mark that is not listed was written since the last run but one.
        let may_be_marked = !is_named || listed.modified >= self.indexed.minus_seconds(2 * self.job.grace);
        if !self.blobs.store().capabilities().lists_metadata && may_be_marked {
            self.calls += 1;
            link = self.blobs.store().head(&Key::Layer(name, digest).path()).await?;
        }
        let Some(link) = link else { return Ok(false) };
        let stored = self.app.stored(name, self.context);
        match LinkMark::of(&link) {
            Some(mark) if is_named => {
                if mark.is_swept(now) {
                    return Ok(false);
                }
                self.report.links_revived += 1;
                if !self.job.is_dry_run {
                    self.calls += 1;
                    stored.revive_blob(digest, &link).await?;
                }
                Ok(false)
            }
            Some(LinkMark::Condemned(since)) => Ok(since <= old),
            Some(mark @ LinkMark::Sweeping(_)) => Ok(!mark.is_swept(now)),
            None if !is_named && link.modified <= self.old_enough() => {
                self.example("link", digest, name.as_str(), "no manifest of the repository names the layer");
                self.calls += 1;
                let is_condemned = self.job.is_dry_run || stored.condemn_blob(digest, &link, now).await?;
                self.report.links_condemned += u64::from(is_condemned);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Has the repository's writer remove condemned links.
    async fn remove_links(&mut self, name: &RepositoryName, digests: &[Digest], scanned: Timestamp) {
        if digests.is_empty() {
            return;
        }
        for digest in digests {
            self.example("link", digest, name.as_str(), "it was condemned a grace time ago");
        }
        self.report.links_removed += digests.len() as u64;
        if self.job.is_dry_run {
            return;
        }
        // The writer's: it lists the manifests, and deletes all with one call.
        self.calls += 2 + REMOVAL * digests.len();
        let repository = self.app.repository(name, self.context);
        if let Err(error) = repository.collect_blobs(digests, scanned).await {
            self.report.links_removed -= digests.len() as u64;
            self.failed(&format!("{name}: {error}"));
        }
    }

    /// Has the repository's writer remove links to signatures that lead nowhere, and takes them from the listing. The garbage
    /// collection of `distribution` from 2.5 on left such links. Only links that are new here are looked at, and others in
    /// their turn: this registry hardly ever makes more of them.
    async fn remove_unused_signatures(
        &mut self,
        name: &RepositoryName,
        links: &mut Vec<(String, ObjectMeta)>,
    ) -> Result<(), StorageError> {
        let old = self.old_enough();
        let mut unused = BTreeMap::<Digest, Vec<Digest>>::new();
        // A manifest comes before its signatures, unless it is on another page.
        let mut last: Option<(Digest, bool)> = None;
        for (path, meta) in &*links {
            let (manifest, signature) = match Link::parse(path) {
                Some(Link::Revision(_, manifest)) => {
                    last = Some((manifest, true));
                    continue;
                }
                Some(Link::Signature { manifest, signature, .. }) => (manifest, signature),
                _ => continue,
            };
            if meta.modified > old || (meta.modified < self.signatures_indexed && !self.is_turn(&signature)) {
                continue;
            }
            let known = last.take().filter(|(known, _)| *known == manifest);
            let (manifest, has_manifest) = match known {
                Some(known) => known,
                None => {
                    self.calls += 1;
                    let revision = self.blobs.store().head(&Key::Revision(name, &manifest).path()).await?;
                    (manifest, revision.is_some())
                }
            };
            self.calls += usize::from(has_manifest);
            let content = Key::Data(&signature).path();
            if !(has_manifest && self.blobs.store().head(&content).await?.is_some()) {
                self.example("signature", &signature, &manifest.to_string(), "it or its manifest is gone");
                unused.entry(manifest.clone()).or_default().push(signature);
            }
            last = Some((manifest, has_manifest));
        }
        let is_unused = |path: &str| match Link::parse(path) {
            Some(Link::Signature { manifest, signature, .. }) => {
                unused.get(&manifest).is_some_and(|unused| unused.contains(&signature))
            }
            _ => false,
        };
        links.retain(|(path, _)| !is_unused(path));
        let repository = self.app.repository(name, self.context);
        for (manifest, signatures) in unused {
            for signatures in signatures.chunks(BATCH) {
                if !self.job.is_dry_run {
                    self.calls += 3 + 2 * signatures.len();
                    if let Err(error) = repository.collect_signatures(&manifest, signatures.to_vec()).await {
                        self.failed(&format!("{name}: {error}"));
                        continue;
                    }
                }
                self.report.signatures_removed += signatures.len() as u64;
            }
        }
        Ok(())
    }

    /// Writes the reverse links of links that another registry may have written since the last run. A dry run does it too:
    /// what it tells would be wrong without.
    async fn index(&mut self, links: &[(String, ObjectMeta)]) -> Result<(), StorageError> {
        let old = self.indexed.min(self.signatures_indexed);
        for (path, meta) in links.iter().filter(|(_, meta)| meta.modified >= old) {
            let is_new = match Link::parse(path) {
                Some(Link::Layer(name, digest) | Link::Revision(name, digest))
                    if meta.modified >= self.indexed =>
                {
                    self.calls += 1;
                    self.blobs.put_reverse_link(&name, &digest).await?
                }
                Some(Link::Signature { name, manifest, signature })
                    if meta.modified >= self.signatures_indexed =>
                {
                    self.calls += 2;
                    self.blobs.index_signature(&name, &signature, &manifest).await?
                }
                _ => continue,
            };
            self.report.links_indexed += u64::from(is_new);
        }
        Ok(())
    }

    /// The part that looks through a repository, for its layers from this position on.
    fn scan(&self, name: RepositoryName, from: u64, sums: Option<Sums>) -> Part {
        let scanned = self.app.clock.now();
        Part::Manifests(Scan { name, scanned, from, after: None, marks: Uuid::nil(), sums })
    }

    /// Stores marks. Returns their name: other runs store theirs at the same place, and a write may land late.
    async fn save(&mut self, marks: &mut Marks) -> Result<Uuid, StorageError> {
        self.calls += 1;
        let name = Uuid::new_v4();
        let content = Body::Bytes(marks.encode(name).into());
        let path = Key::Collection(MARKS).path();
        self.blobs.store().put(&path, content, PutOptions::default()).await.map(|_| name)
    }

    /// Reads marks; `None` if they are not there any more.
    async fn load(&mut self, name: Uuid) -> Result<Option<Marks>, StorageError> {
        self.calls += 1;
        let read = self.blobs.store().read(&Key::Collection(MARKS).path(), LIMIT * 8 + 1024).await?;
        Ok(read.and_then(|(bytes, _)| Marks::decode(&bytes, name)))
    }
}

/// The object of the marks.
const MARKS: &str = "marks";

fn after_repository(name: &RepositoryName) -> Part {
    Part::Repositories { after: Some(format!("{}/{END}", Key::RepositoryFolder(name))) }
}
