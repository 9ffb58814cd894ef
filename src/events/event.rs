//! Events in the form of `distribution`'s envelope: `application/vnd.docker.distribution.events.v2+json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    oci::{Digest, RepositoryName, Tag},
    platform::Timestamp,
};

/// The media type of an [`Envelope`].
pub const MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v2+json";

/// The limit of what an event says of the references of its manifest, as JSON, in bytes. Beyond it, an event names none.
/// With all else that an event says, a message of the queue holds it.
pub const MAX_REFERENCES: usize = 80_000;

/// What a webhook receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// At least one event.
    pub events: Vec<Event>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Content was pushed, or a tag now points to it.
    Push,
    /// Content was sent to a client.
    Pull,
    /// A blob of another repository was linked.
    Mount,
    /// A manifest, a blob's link or a tag was removed.
    Delete,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Push, Self::Pull, Self::Mount, Self::Delete];

    /// Its name in events and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Mount => "mount",
            Self::Delete => "delete",
        }
    }
}

/// One change or pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The same for every delivery of the event.
    pub id: Uuid,
    /// When it happened.
    #[serde(with = "rfc3339")]
    pub timestamp: Timestamp,
    /// What was done.
    pub action: Action,
    /// To what.
    pub target: Target,
    /// The request that did it.
    pub request: RequestRecord,
    /// Who did it.
    pub actor: Actor,
    /// The registry.
    pub source: Source,
    /// The place of the change in the order of the repository's changes; grows, with gaps. Not a field of
    /// `distribution`. `None` for what the repository's writer does not order: blobs that are pushed or mounted, and
    /// pulls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

impl Event {
    /// Its place among other events, in microseconds since 1970.
    pub fn order(&self) -> u64 {
        self.sequence.unwrap_or(self.timestamp.0.saturating_mul(1000))
    }
}

/// What an event is about: content, or a tag that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The media type of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The length of the content, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The digest of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The same as `size`, as `distribution` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// The repository.
    pub repository: RepositoryName,
    /// The repository that a mounted blob was found in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_repository: Option<RepositoryName>,
    /// Where the content can be pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// What the manifest refers to, if the configuration asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
}

/// A descriptor in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// The media type of the content.
    pub media_type: String,
    /// The length of the content, in bytes.
    pub size: u64,
    /// The digest of the content.
    pub digest: Digest,
    /// Other places of the content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The request behind an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Its id in the log.
    pub id: String,
    /// The address of the client.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// The registry's host name, as the client called it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The method; empty for a job.
    pub method: String,
    /// The `User-Agent`.
    pub useragent: String,
}

/// Who has caused an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The name of the user, or `job:` and the name of a job; empty for an anonymous client.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The registry that sends an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its host name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// The isolate that has made the event.
    #[serde(rename = "instanceID", default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<Uuid>,
}

/// Times as RFC 3339 has them.
mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::platform::Timestamp;

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        let milliseconds = i64::try_from(time.0).unwrap_or(i64::MAX);
        serializer.collect_str(&jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Timestamp(u64::try_from(time.as_millisecond()).map_err(D::Error::custom)?))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_fields_that_distribution_has_in_its_order() {
        let event = Event {
            id: Uuid::nil(),
            timestamp: Timestamp(1_700_000_000_123),
            action: Action::Delete,
            target: Target {
                media_type: None,
                size: None,
                digest: None,
                length: None,
                repository: "a/b".parse().unwrap(),
                from_repository: None,
                url: None,
                tag: Some("v1".parse().unwrap()),
                references: Vec::new(),
            },
            request: RequestRecord { id: "x".into(), method: "DELETE".into(), ..RequestRecord::default() },
            actor: Actor::default(),
            source: Source { addr: "r.example".into(), instance_id: Some(Uuid::nil()) },
            sequence: Some(7),
        };
        let text = serde_json::to_string(&event).unwrap();
        let nil = Uuid::nil();
        let expected = format!(
            r#"{{"id":"{nil}","timestamp":"2023-11-14T22:13:20.123Z","action":"delete","target":{{"repository":"a/b","tag":"v1"}},"request":{{"id":"x","method":"DELETE","useragent":""}},"actor":{{}},"source":{{"addr":"r.example","instanceID":"{nil}"}},"sequence":7}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
