//! The bridge from changes and pulls to events. Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Action, Actor, Event, Reference, RequestRecord, Source, Target};
use crate::{
    oci::{Digest, RepositoryName, Tag, media_type},
    platform::Timestamp,
};

/// Who has caused a change, and by which request. A writer keeps it with the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Names the change. The ids of its events are made of it: they stay the same when they are made again.
    pub change: Uuid,
    /// The request.
    pub request: RequestRecord,
    /// The client or job.
    pub actor: Actor,
    /// The registry's URL, as the client called it: scheme and host. Empty for a job.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base: String,
}

/// Content that an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Its digest.
    pub digest: &'a Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: &'a str,
}

impl<'a> Content<'a> {
    /// A blob, whose type nobody knows.
    pub fn blob(digest: &'a Digest, size: u64) -> Self {
        Self { digest, size, media_type: media_type::OCTET_STREAM }
    }
}

/// Makes the events of one change or pull.
pub struct Bridge<'a> {
    /// The repository.
    pub repository: &'a RepositoryName,
    /// Where the change comes from.
    pub origin: &'a Origin,
    /// The isolate.
    pub instance: Uuid,
    /// When it happened.
    pub time: Timestamp,
    /// Its place in the order of the repository's changes.
    pub sequence: Option<u64>,
}

impl Bridge<'_> {
    /// A manifest was pushed, as `tag` if there is one, or pulled.
    pub fn manifest(
        &self,
        action: Action,
        manifest: Content<'_>,
        tag: Option<&Tag>,
        references: Vec<Reference>,
    ) -> Event {
        let target = Target { tag: tag.cloned(), references, ..self.content("manifests", manifest) };
        self.event(action, target)
    }

    /// A blob was pushed or pulled.
    pub fn blob(&self, action: Action, blob: Content<'_>) -> Event {
        self.event(action, self.content("blobs", blob))
    }

    /// A blob of another repository was mounted.
    pub fn mounted(&self, blob: Content<'_>, from: &RepositoryName) -> Event {
        let target = Target { from_repository: Some(from.clone()), ..self.content("blobs", blob) };
        self.event(Action::Mount, target)
    }

    /// A manifest, or a repository's link to a blob, was deleted.
    pub fn deleted(&self, digest: &Digest) -> Event {
        self.event(Action::Delete, Target { digest: Some(digest.clone()), ..self.target() })
    }

    /// A tag was deleted.
    pub fn tag_deleted(&self, tag: &Tag) -> Event {
        self.event(Action::Delete, Target { tag: Some(tag.clone()), ..self.target() })
    }

    fn target(&self) -> Target {
        Target {
            media_type: None,
            size: None,
            digest: None,
            length: None,
            repository: self.repository.clone(),
            from_repository: None,
            url: None,
            tag: None,
            references: Vec::new(),
        }
    }

    fn content(&self, noun: &str, content: Content<'_>) -> Target {
        let Content { digest, size, media_type } = content;
        let base = Some(&self.origin.base).filter(|base| !base.is_empty());
        Target {
            media_type: Some(media_type.to_owned()),
            size: Some(size),
            digest: Some(digest.clone()),
            length: Some(size),
            url: base.map(|base| format!("{base}/v2/{}/{noun}/{digest}", self.repository)),
            ..self.target()
        }
    }

    fn event(&self, action: Action, target: Target) -> Event {
        let Origin { change, request, actor, .. } = self.origin;
        Event {
            id: id(*change, action, &target),
            timestamp: self.time,
            action,
            target,
            request: request.clone(),
            actor: actor.clone(),
            source: Source { addr: request.host.clone(), instance_id: Some(self.instance) },
            sequence: self.sequence,
        }
    }
}

/// The id of a change's event: the same whenever it is made again, and another for each of its targets. A deleted tag has
/// the lower half of all ids: a lane delivers the events of one change in the order of their ids, and tags go before
/// their manifest.
fn id(change: Uuid, action: Action, target: &Target) -> Uuid {
    let mut hash = Sha256::new_with_prefix(change);
    let digest = target.digest.as_ref().map(Digest::to_string);
    let tag = target.tag.as_ref().map(Tag::as_str);
    for part in [Some(action.as_str()), Some(target.repository.as_str()), digest.as_deref(), tag] {
        hash.update(part.unwrap_or_default());
        hash.update([0]);
    }
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.finalize()).for_each(|(byte, hashed)| *byte = hashed);
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | if target.digest.is_some() { 0x80 } else { 0 };
    }
    Uuid::new_v8(bytes)
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oci::Algorithm;

    fn origin(change: u128) -> Origin {
        Origin {
            change: Uuid::from_u128(change),
            request: RequestRecord {
                id: "r".into(),
                addr: "192.0.2.7".into(),
                host: "r.example".into(),
                method: "PUT".into(),
                useragent: "docker/20".into(),
            },
            actor: Actor { name: "ann".into() },
            base: "https://r.example".into(),
        }
    }

    fn bridge<'a>(repository: &'a RepositoryName, origin: &'a Origin, instance: u128) -> Bridge<'a> {
        let (instance, time) = (Uuid::from_u128(instance), Timestamp(5));
        Bridge { repository, origin, instance, time, sequence: Some(9) }
    }

    #[test]
    fn the_ids_of_a_change_stay_when_its_events_are_made_again() {
        let (name, tag) = ("a/b".parse().unwrap(), "v1".parse().unwrap());
        let digest = Algorithm::Sha256.digest(b"m");
        let content = Content { digest: &digest, size: 1, media_type: "application/x" };
        let events = |change, instance| {
            let origin = origin(change);
            let bridge = bridge(&name, &origin, instance);
            [
                bridge.manifest(Action::Push, content, None, Vec::new()),
                bridge.manifest(Action::Push, content, Some(&tag), Vec::new()),
                bridge.manifest(Action::Pull, content, None, Vec::new()),
                bridge.mounted(content, &name),
                bridge.deleted(&digest),
                bridge.tag_deleted(&tag),
            ]
            .map(|event| event.id)
        };
        // In another isolate too.
        assert_eq!(events(1, 1), events(1, 2));
        let ids: BTreeSet<Uuid> = [events(1, 1), events(2, 1)].into_iter().flatten().collect();
        assert_eq!(ids.len(), 12);
    }

    #[test]
    fn deleted_tags_come_before_their_manifest() {
        let (name, digest) = ("a".parse().unwrap(), Algorithm::Sha256.digest(b"m"));
        for change in 0..100 {
            let origin = origin(change);
            let bridge = bridge(&name, &origin, 1);
            let tag = format!("v{change}").parse().unwrap();
            assert!(bridge.tag_deleted(&tag).id < bridge.deleted(&digest).id, "{change}");
        }
    }

    #[test]
    fn a_change_by_a_job_has_no_url() {
        let name = "a".parse().unwrap();
        let digest = Algorithm::Sha256.digest(b"m");
        let job = Origin { base: String::new(), ..origin(1) };
        let event = bridge(&name, &job, 1).blob(Action::Push, Content::blob(&digest, 3));
        assert_eq!((event.target.url, event.target.size, event.target.length), (None, Some(3), Some(3)));
    }
}
