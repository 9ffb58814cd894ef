//! Markers: deletes what was condemned a grace time ago, and the markers themselves when they are over.

use futures_util::future::join_all;

use super::{Run, content::LOOKS};
use crate::{
    blobs::marker::{HOLD, MIN_CONDEMNED, Marker, State},
    jobs::collect::Part,
    layout::{Key, trailing_digest, trailing_name},
    oci::{Digest, RepositoryName},
    platform::Timestamp,
    storage::{KEY_PAUSE, ObjectMeta, Page, Path, StorageError, both},
    uploads::note_blob,
};

/// Limit of sweeps at the same time. Each writes its marker several times, which storage allows once a second.
const SWEEPS: usize = 6;

/// A sweep that finds many reverse links may make so many times the calls of a step.
const MANY: usize = 4;

/// What some of the reverse links of content tell.
#[derive(Default)]
struct Look {
    /// A repository links it.
    is_linked: bool,
    /// A push may be about to link it.
    is_reserved: bool,
    /// The repositories that do not link it.
    stale: Vec<RepositoryName>,
    /// What is no reverse link.
    junk: Vec<Path>,
    /// Whether there are more.
    has_more: bool,
}

/// What there is of the bytes of a digest.
struct Bytes {
    /// Their length, wherever they are.
    size: u64,
    /// When those at the canonical key were written.
    written: Option<Timestamp>,
    /// Whether something says, or said, that they are elsewhere.
    is_described: bool,
    /// Where others are.
    elsewhere: Option<Path>,
}

impl Look {
    /// What is of no use.
    fn useless(&self, digest: &Digest) -> Vec<Path> {
        let links = self.stale.iter().map(|name| Key::ReverseLink(digest, name).path());
        links.chain(self.junk.iter().cloned()).collect()
    }
}

impl Run<'_> {
    /// Looks at a page of markers; `None` at the end.
    pub(super) async fn look_at_markers(
        &mut self,
        after: Option<String>,
    ) -> Result<Option<Part>, StorageError> {
        let prefix = Key::Markers.path().folder();
        self.calls += 1;
        let listing =
            self.blobs.store().list(&prefix, Page { after: after.as_deref(), ..Page::first() }).await?;
        let mut reached = None;
        for markers in listing.objects.chunks(SWEEPS) {
            if self.calls >= self.job.calls && reached.is_some() {
                return Ok(Some(Part::Markers { after: reached }));
            }
            let shares = markers.iter().map(async |(path, meta)| {
                let mut share = self.share();
                if let Some(digest) = trailing_digest(path)
                    && let Err(error) = share.look_at_marker(&digest, meta).await
                {
                    share.failed(&format!("{digest}: {error}"));
                }
                share
            });
            for share in join_all(shares).await {
                self.calls += share.calls;
                self.report.add(share.report);
            }
            reached = markers.last().map(|(path, _)| path.clone());
        }
        Ok(listing.next.map(|after| Part::Markers { after: Some(after) }))
    }

    async fn look_at_marker(&mut self, digest: &Digest, listed: &ObjectMeta) -> Result<(), StorageError> {
        let marker = match self.blobs.store().capabilities().lists_metadata {
            true => Some(Marker::from_object(listed)),
            false => {
                self.calls += 1;
                self.blobs.marker(digest).await?
            }
        };
        let Some(marker) = marker else { return Ok(()) };
        let now = self.app.clock.now();
        let age = now.milliseconds_since(marker.written);
        match marker.state {
            State::Condemned if age >= MIN_CONDEMNED && marker.written <= self.old() => {
                Box::pin(self.sweep(digest, &marker)).await
            }
            State::Sweeping if marker.is_abandoned(now) => Box::pin(self.sweep(digest, &marker)).await,
            State::Rescued if age >= HOLD => match self.look(digest).await? {
                Look { is_linked: true, .. } => self.remove_marker(digest, &marker).await,
                Look { is_reserved: true, .. } => Ok(()),
                // The push that has rescued it has linked nothing.
                Look { .. } => self.condemn_again(digest, &marker).await,
            },
            State::Swept if age >= HOLD => self.remove_marker(digest, &marker).await,
            _ => Ok(()),
        }
    }

    async fn condemn_again(&mut self, digest: &Digest, seen: &Marker) -> Result<(), StorageError> {
        if self.job.is_dry_run {
            return Ok(());
        }
        self.calls += 1;
        self.blobs.mark(digest, Some(seen), State::Condemned).await.map(drop)
    }

    /// Removes a marker that is over, if it still is as it was seen. Whoever condemns the content again waits for longer
    /// than this deletion can take.
    async fn remove_marker(&mut self, digest: &Digest, seen: &Marker) -> Result<(), StorageError> {
        if self.job.is_dry_run {
            return Ok(());
        }
        self.calls += 2;
        if self.blobs.marker(digest).await?.as_ref() == Some(seen) {
            self.blobs.store().once().delete(&[Key::Marker(digest).path()]).await?;
        }
        Ok(())
    }

    /// Looks at some reverse links of content, and at the links that they name.
    async fn look(&mut self, digest: &Digest) -> Result<Look, StorageError> {
        let prefix = Key::ReverseLinks(digest).path().folder();
        self.calls += 1;
        let listing = self.blobs.store().list(&prefix, Page { limit: LOOKS, ..Page::first() }).await?;
        let young = self.young();
        let mut look = Look { has_more: listing.next.is_some(), ..Look::default() };
        let mut links = Vec::new();
        for (path, meta) in listing.objects {
            let Some(name) = trailing_name(&path, &prefix).and_then(|name| name.parse().ok()) else {
                look.junk.extend(path.parse::<Path>());
                continue;
            };
            if meta.modified >= young {
                look.is_reserved = true;
            } else {
                links.push((name, meta));
            }
        }
        for (name, is_linked) in self.linked(digest, links).await? {
            if is_linked {
                look.is_linked = true;
            } else {
                look.stale.push(name);
            }
        }
        Ok(look)
    }

    /// Reverse links and bytes that are older keep nothing by themselves.
    fn young(&self) -> Timestamp {
        Timestamp(self.app.clock.now().0.saturating_sub(HOLD))
    }

    /// Deletes content that nobody wants, and reverse links that name no link. At most one sweep of a digest is under way
    /// at any time.
    async fn sweep(&mut self, digest: &Digest, seen: &Marker) -> Result<(), StorageError> {
        // Nobody has to wait for this look.
        let first = self.look(digest).await?;
        if self.job.is_dry_run {
            let is_wanted = first.is_linked || first.is_reserved || first.has_more;
            return if is_wanted { Ok(()) } else { self.would_sweep(digest).await };
        }
        if first.is_reserved && !first.is_linked {
            return Ok(());
        }
        self.calls += 1;
        if first.is_linked && first.stale.is_empty() {
            self.report.content_kept += 1;
            return self.blobs.mark(digest, Some(seen), State::Rescued).await.map(drop);
        }
        let Some(sweeping) = self.blobs.mark(digest, Some(seen), State::Sweeping).await? else {
            return Ok(());
        };
        if first.is_linked {
            let stale = self.still_stale(digest, first.stale).await?;
            self.delete(&sweeping, &stale).await?;
            return self.end(digest, &sweeping, State::Rescued).await;
        }
        // The look that counts: a push that has begun since finds the marker.
        let mut rest = loop {
            let look = self.look(digest).await?;
            if look.is_linked {
                return self.end(digest, &sweeping, State::Rescued).await;
            }
            if look.is_reserved {
                return self.end(digest, &sweeping, State::Condemned).await;
            }
            let links = look.useless(digest);
            if !look.has_more {
                break links;
            }
            let is_deleted = self.delete(&sweeping, &links).await?;
            if !is_deleted || self.calls >= MANY * self.job.calls {
                // The next run goes on.
                return self.end(digest, &sweeping, State::Condemned).await;
            }
        };
        let Bytes { size, written, is_described, elsewhere } = self.bytes_of(digest).await?;
        if written.is_some_and(|written| written >= self.young()) {
            // They were stored again, and whoever has done it is about to link them.
            return self.end(digest, &sweeping, State::Condemned).await;
        }
        let mut paths = vec![Key::Data(digest).path()];
        if let Some(at) = &elsewhere {
            // If this sweep is interrupted, the purge job finds the bytes by their note.
            let blob = Key::uuid_of_blob(at.as_str());
            self.calls += 1;
            note_blob(self.blobs.store(), at, blob, digest).await?;
            rest.push(blob.map_or_else(|| Key::UploadBlob(at).path(), |blob| Key::BlobNote(blob).path()));
        }
        // What says where the bytes are goes first: nobody must find it without them.
        if is_described && !self.delete(&sweeping, &[Key::Descriptor(digest).path()]).await? {
            return self.end(digest, &sweeping, State::Condemned).await;
        }
        paths.extend(elsewhere);
        if !self.delete(&sweeping, &paths).await? {
            return Ok(());
        }
        if paths.len() > 1 {
            // The note was just written.
            self.blobs.sleep(KEY_PAUSE).await;
        }
        if !self.delete(&sweeping, &rest).await? {
            return Ok(());
        }
        self.blobs.evict(digest);
        self.report.content_deleted += 1;
        self.report.bytes_deleted += size;
        self.example("bytes", digest, "", "it was condemned a grace time ago, and no repository links it");
        self.end(digest, &sweeping, State::Swept).await
    }

    /// The reverse links of those repositories that still do not link the content, while it is being swept.
    async fn still_stale(
        &mut self,
        digest: &Digest,
        names: Vec<RepositoryName>,
    ) -> Result<Vec<Path>, StorageError> {
        let (young, mut old) = (self.young(), Vec::new());
        for name in names.into_iter().take(LOOKS) {
            self.calls += 1;
            let link = self.blobs.store().head(&Key::ReverseLink(digest, &name).path()).await?;
            old.extend(link.filter(|link| link.modified < young).map(|link| (name, link)));
        }
        let looked = self.linked(digest, old).await?;
        let stale = looked.into_iter().filter(|(_, is_linked)| !is_linked);
        Ok(stale.map(|(name, _)| Key::ReverseLink(digest, &name).path()).collect())
    }

    /// What there is of the bytes of a digest.
    async fn bytes_of(&mut self, digest: &Digest) -> Result<Bytes, StorageError> {
        self.calls += 2;
        let data = Key::Data(digest).path();
        let (found, described) = both(self.blobs.store().head(&data), self.blobs.described(digest)).await?;
        let (size, written) = found.map(|found| (found.size, found.modified)).unzip();
        let is_described = described.is_some();
        let elsewhere =
            described.and_then(|described| Some((described.located.size, described.elsewhere()?.clone())));
        let (more, elsewhere) = elsewhere.unzip();
        let size = size.unwrap_or_default() + more.unwrap_or_default();
        Ok(Bytes { size, written, is_described, elsewhere })
    }

    /// Deletes objects while the lease lasts, with one call: an attempt without an answer must not land after a push has
    /// written there again. `false` if the lease does not last.
    async fn delete(&mut self, sweeping: &Marker, paths: &[Path]) -> Result<bool, StorageError> {
        if !sweeping.may_delete(self.app.clock.now()) {
            return Ok(false);
        }
        if paths.is_empty() {
            return Ok(true);
        }
        self.calls += 1;
        self.blobs.store().once().delete(paths).await.map(|()| true)
    }

    async fn end(&mut self, digest: &Digest, sweeping: &Marker, state: State) -> Result<(), StorageError> {
        self.report.content_kept += u64::from(state != State::Swept);
        self.calls += 1;
        self.blobs.mark(digest, Some(sweeping), state).await.map(drop)
    }

    async fn would_sweep(&mut self, digest: &Digest) -> Result<(), StorageError> {
        let Bytes { size, .. } = self.bytes_of(digest).await?;
        self.report.content_deleted += 1;
        self.report.bytes_deleted += size;
        self.example("bytes", digest, "", "it was condemned a grace time ago, and no repository links it");
        Ok(())
    }
}
