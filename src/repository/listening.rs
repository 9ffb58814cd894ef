//! The decorator that notes the events of what needs no order: blobs that are pushed and mounted, and pulls. The
//! middleware sends them if the request succeeds. The repository's writer tells of all other changes.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use http::Method;
use uuid::Uuid;

use super::{Answer, LinkReason, Repository, Revision};
use crate::{
    blobs::{Freshness, Located},
    context::Context,
    events::{self, Action, Bridge, Content, Event, Origin},
    oci::{Digest, Manifest, Reference, RepositoryName, Tag},
    platform::Clock,
};

/// The listening decorator.
pub struct Listening {
    /// The decorated repository.
    pub inner: Rc<dyn Repository>,
    /// The repository's name.
    pub name: RepositoryName,
    /// The context of the request.
    pub context: Context,
    /// Source of the current time.
    pub clock: Rc<dyn Clock>,
    /// The isolate.
    pub instance: Uuid,
    /// Whether any endpoint wants an event.
    pub wants: Rc<dyn Fn(&Event) -> bool>,
    /// Whether events name what a manifest refers to.
    pub references: bool,
    /// The manifest that the request has looked up, and by which tag.
    pub found: RefCell<Option<(Revision, Option<Tag>)>>,
}

impl Listening {
    /// A `GET` reads content only to send it.
    fn is_pull(&self) -> bool {
        self.context.notes.request.method == Method::GET.as_str()
    }

    fn note(&self, event: impl FnOnce(&Bridge<'_>) -> Event) {
        self.note_with(event, Vec::new);
    }

    /// Notes an event that somebody wants. What it refers to is read only then.
    fn note_with(
        &self,
        event: impl FnOnce(&Bridge<'_>) -> Event,
        references: impl FnOnce() -> Vec<events::Reference>,
    ) {
        let origin: Origin = self.context.origin();
        let (time, instance) = (self.clock.now(), self.instance);
        let bridge = Bridge { repository: &self.name, origin: &origin, instance, time, sequence: None };
        let mut event = event(&bridge);
        if (self.wants)(&event) {
            event.target.references = references();
            self.context.notes.events.borrow_mut().push(event);
        }
    }

    fn note_manifest(&self, digest: &Digest, content: &Bytes) {
        let (revision, tag) = match self.found.take() {
            Some((revision, tag)) if revision.digest == *digest => (Some(revision), tag),
            _ => (None, None),
        };
        let media_type = revision.and_then(|revision| revision.description).map(|(_, media_type)| media_type);
        let media_type = media_type.unwrap_or_else(|| Manifest::detect_media_type(content));
        let manifest = Content { digest, size: content.len() as u64, media_type: &media_type };
        self.note_with(
            |bridge| bridge.manifest(Action::Pull, manifest, tag.as_ref(), Vec::new()),
            || if self.references { super::references_of(content) } else { Vec::new() },
        );
    }
}

impl Repository for Listening {
    fn inner(&self) -> &dyn Repository {
        &*self.inner
    }

    fn revision<'a>(&'a self, reference: &'a Reference) -> Answer<'a, Option<Revision>> {
        Box::pin(async move {
            let revision = self.inner.revision(reference).await?;
            if let Some(revision) = revision.as_ref().filter(|_| self.is_pull()) {
                let tag = match reference {
                    Reference::Tag(tag) => Some(tag.clone()),
                    Reference::Digest(_) => None,
                };
                self.found.replace(Some((revision.clone(), tag)));
            }
            Ok(revision)
        })
    }

    fn manifest<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move {
            let content = self.inner.manifest(digest).await?;
            if let Some(content) = content.as_ref().filter(|_| self.is_pull()) {
                self.note_manifest(digest, content);
            }
            Ok(content)
        })
    }

    fn locate<'a>(&'a self, digest: &'a Digest, freshness: Freshness) -> Answer<'a, Option<Located>> {
        Box::pin(async move {
            let located = self.inner.locate(digest, freshness).await?;
            if let Some(Located { size, .. }) = located.as_ref().filter(|_| self.is_pull()) {
                self.note(|bridge| bridge.blob(Action::Pull, Content::blob(digest, *size)));
            }
            Ok(located)
        })
    }

    fn link_blob<'a>(
        &'a self,
        digest: &'a Digest,
        located: &'a Located,
        reason: LinkReason<'a>,
    ) -> Answer<'a, bool> {
        Box::pin(async move {
            let is_new = self.inner.link_blob(digest, located, reason).await?;
            let blob = Content::blob(digest, located.size);
            match reason {
                LinkReason::Push => self.note(|bridge| bridge.blob(Action::Push, blob)),
                LinkReason::Mount(from) => self.note(|bridge| bridge.mounted(blob, from)),
                LinkReason::Correction => {}
            }
            Ok(is_new)
        })
    }
}
