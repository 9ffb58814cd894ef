//! The events of `distribution`'s registry, recorded by `tests/support/record-events.mjs`, against those of this one:
//! the same requests, and then the same events, field by field, but for the [`DIFFERENCES`].

use std::{fmt, fs, rc::Rc};

use futures_executor::block_on;
use pierhead::{
    api::Scheme,
    events::{MEDIA_TYPE, Message, memory::MemoryQueue},
    platform::{Body, memory::MemoryStream},
};
use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use uuid::Uuid;

use crate::support::{Persistent, TestRegistry};

/// The host that clients call, which the recordings have a placeholder for.
const HOST: &str = "registry.example:5000";

/// The client's address, in the same way.
const CLIENT: &str = "192.0.2.7";

/// The user in the recordings, and the password.
const USER: (&str, &str) = ("ada", "lovelace");

/// JSON whose objects keep the order of their fields.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Json {
    Scalar(serde_json::Value),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E: Error>(self) -> Result<Json, E> {
                Ok(Json::Scalar(serde_json::Value::Null))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut object = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    object.push(entry);
                }
                Ok(Json::Object(object))
            }
        }
        deserializer.deserialize_any(Ordered)
    }
}

/// The scalars of an event in their order, each with its path, like `target.size` and `21`. An empty object is `{}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(event: &Json) -> Self {
        let mut fields = Self(Vec::new());
        fields.add("", event);
        fields
    }

    fn add(&mut self, at: &str, value: &Json) {
        match value {
            Json::Object(entries) if entries.is_empty() => self.0.push((at.to_owned(), "{}".to_owned())),
            Json::Object(entries) => {
                let dot = if at.is_empty() { "" } else { "." };
                entries.iter().for_each(|(name, value)| self.add(&format!("{at}{dot}{name}"), value));
            }
            Json::List(items) => {
                items.iter().enumerate().for_each(|(n, item)| self.add(&format!("{at}[{n}]"), item));
            }
            Json::Scalar(value) => self.0.push((at.to_owned(), value.to_string())),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(at, _)| at == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.0.iter_mut().find(|(at, _)| at == name).unwrap().1 = value.to_owned();
    }

    fn insert_after(&mut self, after: &str, name: &str, value: &str) {
        let place = self.0.iter().position(|(at, _)| at == after).unwrap();
        self.0.insert(place + 1, (name.to_owned(), value.to_owned()));
    }

    /// Replaces `value`, in quotes or as a part of a URL.
    fn replace(&mut self, name: &str, value: &str, placeholder: &str) {
        if let Some((_, found)) = self.0.iter_mut().find(|(at, _)| at == name) {
            *found = found.replacen(value, placeholder, 1);
        }
    }

    /// Checks the form of what differs in every run, and puts the placeholders of the recordings in its place.
    fn normalised(mut self) -> Self {
        let text = |name: &str| -> String { serde_json::from_str(self.get(name).unwrap()).unwrap() };
        let (id, time, instance) = (text("id"), text("timestamp"), text("source.instanceID"));
        id.parse::<Uuid>().unwrap();
        instance.parse::<Uuid>().unwrap();
        time.parse::<jiff::Timestamp>().unwrap();
        for (name, value, placeholder) in [
            ("id", id.as_str(), "<id>"),
            ("timestamp", &time, "<timestamp>"),
            ("target.url", HOST, "<host>"),
            ("request.id", "test", "<id>"),
            ("request.addr", CLIENT, "<addr>"),
            ("request.host", HOST, "<host>"),
            ("source.addr", HOST, "<addr>"),
            ("source.instanceID", &instance, "<instance>"),
        ] {
            self.replace(name, value, placeholder);
        }
        if let Some(sequence) = self.get("sequence") {
            sequence.parse::<u64>().unwrap();
            self.set("sequence", "<sequence>");
        }
        self
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    #[serde(rename = "includereferences")]
    references: bool,
    htpasswd: bool,
}

#[derive(Deserialize)]
struct Recorded {
    method: String,
    target: String,
    headers: std::collections::BTreeMap<String, String>,
    body: Option<String>,
    /// `None` in the last request of a case.
    status: Option<u16>,
}

/// A recording.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    settings: Settings,
    setup: Vec<Recorded>,
    request: Recorded,
    status: u16,
    content_type: Option<String>,
    events_in_envelope: Vec<usize>,
    events: Vec<Json>,
}

/// What the last request of a case causes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    status: u16,
    /// The media type of the envelopes, if there are any.
    media_type: Option<String>,
    /// The number of events in each envelope.
    envelopes: Vec<usize>,
    events: Vec<Fields>,
}

impl Outcome {
    fn of(case: &Case) -> Self {
        Self {
            status: case.status,
            media_type: case.content_type.clone(),
            envelopes: case.events_in_envelope.clone(),
            events: case.events.iter().map(Fields::of).collect(),
        }
    }

    /// As text, to show what differs.
    fn lines(&self) -> Vec<String> {
        let Self { status, media_type, envelopes, events } = self;
        let first = format!("{status}, events in envelopes: {envelopes:?}, {media_type:?}");
        let of = |(n, event): (usize, &Fields)| {
            let line = |(at, value): &(String, String)| format!("event {n}: {at} = {value}");
            event.0.iter().map(line).collect::<Vec<_>>()
        };
        std::iter::once(first).chain(events.iter().enumerate().flat_map(of)).collect()
    }

    fn without_events(&mut self) {
        (self.media_type, self.envelopes, self.events) = (None, Vec::new(), Vec::new());
    }
}

/// Something that this registry does in another way than `distribution`, on purpose.
struct Difference {
    /// In which cases; `None` for all in which it changes anything.
    cases: Option<&'static [&'static str]>,
    /// Why.
    reason: &'static str,
    /// Makes what is expected here of what was recorded.
    change: fn(&Case, &mut Outcome),
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        cases: None,
        reason: "the envelope has `sequence` and references with annotations: it calls itself version 2",
        change: |_, outcome| {
            let media_type = outcome.media_type.as_mut();
            media_type.into_iter().for_each(|media_type| *media_type = media_type.replace(".v1+", ".v2+"));
        },
    },
    Difference {
        cases: None,
        reason: "queues promise no order: what the repository's writer has ordered has its place",
        change: |_, Outcome { events, .. }| {
            let is_ordered = |event: &&mut Fields| match event.get("action").unwrap() {
                "\"delete\"" => true,
                "\"push\"" => event.get("target.url").unwrap().contains("/manifests/"),
                _ => false,
            };
            for event in events.iter_mut().filter(is_ordered) {
                event.insert_after("source.instanceID", "sequence", "<sequence>");
            }
        },
    },
    Difference {
        cases: Some(&[
            "manifest-delete-two-tags",
            "manifest-delete-two-tags-references",
            "manifest-delete-user",
        ]),
        reason: "the events of a change are sent together, and tags are deleted before their manifest",
        change: |_, Outcome { envelopes, events, .. }| {
            *envelopes = vec![envelopes.iter().sum()];
            events.rotate_left(1);
        },
    },
    Difference {
        cases: Some(&["blob-push-empty", "blob-get-empty"]),
        reason: "an empty blob has a size: 0 is not the same as unknown",
        change: |_, Outcome { events, .. }| {
            events[0].insert_after("target.mediaType", "target.size", "0");
            events[0].insert_after("target.digest", "target.length", "0");
        },
    },
    Difference {
        cases: Some(&[
            "blob-head",
            "blob-head-not-modified",
            "blob-head-range",
            "manifest-head-digest",
            "manifest-head-tag",
            "manifest-head-tag-references",
        ]),
        reason: "no content is sent for `HEAD`: clients look for what they need not push or pull",
        change: |_, outcome| outcome.without_events(),
    },
    Difference {
        cases: Some(&["blob-get-not-modified", "blob-get-range-beyond"]),
        reason: "no content is sent with 304 and 416",
        change: |_, outcome| outcome.without_events(),
    },
    Difference {
        cases: Some(&["blob-head-range"]),
        reason: "`HEAD` has no ranges",
        change: |_, outcome| outcome.status = 200,
    },
    Difference {
        cases: Some(&["blob-push-sha512"]),
        reason: "a blob keeps the digest that it was pushed by",
        change: |case, Outcome { events, .. }| {
            let digest = case.request.target.split_once("digest=").unwrap().1;
            events[0].set("target.digest", &quoted(digest));
            events[0].set("target.url", &case.url_of_blob(digest));
        },
    },
    Difference {
        cases: Some(&["blob-push-one-request"]),
        reason: "a blob can be pushed by one request",
        change: |case, outcome| {
            let body = case.request.body.as_ref().unwrap();
            let digest = case.request.target.split_once("digest=").unwrap().1;
            *outcome = case.has(201, &case.blob("push", digest, body.len(), None));
        },
    },
    Difference {
        cases: Some(&["blob-mount-no-source"]),
        reason: "a mount without `from` finds the blob in any repository that the client may read",
        change: |case, outcome| {
            let digest = case.request.target.split_once("mount=").unwrap().1;
            let source = format!("{}-source", case.repository());
            let size = case.setup.last().unwrap().body.as_ref().unwrap().len();
            *outcome = case.has(201, &case.blob("mount", digest, size, Some(&source)));
        },
    },
    Difference {
        cases: Some(&["tag-delete"]),
        reason: "a tag can be deleted",
        change: |case, outcome| {
            let tag = case.request.target.rsplit_once('/').unwrap().1;
            let target = [("repository", quoted(&case.repository())), ("tag", quoted(tag))];
            *outcome = case.has(202, &case.event("delete", &target));
            outcome.events[0].insert_after("source.instanceID", "sequence", "<sequence>");
        },
    },
    Difference {
        cases: Some(&["tag-delete-unknown"]),
        reason: "a tag can be deleted if it is there",
        change: |_, outcome| outcome.status = 404,
    },
    Difference {
        cases: Some(&["blob-push-proxied"]),
        reason: "any client can send `X-Forwarded-*`; Cloudflare says who the client is and what it has called",
        change: |case, Outcome { events, .. }| {
            let digest = case.request.target.split_once("digest=").unwrap().1;
            events[0].set("target.url", &case.url_of_blob(digest));
            events[0].set("request.addr", &quoted("<addr>"));
        },
    },
    Difference {
        cases: Some(&["manifest-get-list-as-image"]),
        reason: "a manifest list is never replaced by one of its images, and so only one manifest is pulled",
        change: |_, Outcome { envelopes, events, .. }| {
            envelopes.pop();
            events.pop();
        },
    },
    Difference {
        cases: Some(&["manifest-get-not-accepted"]),
        reason: "a manifest is sent as it is, whatever `Accept` says",
        change: |_, outcome| outcome.status = 200,
    },
];

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

impl Case {
    /// The repository of the last request.
    fn repository(&self) -> String {
        let path =
            self.request.target.strip_prefix("/v2/").or_else(|| self.setup[0].target.strip_prefix("/v2/"));
        path.unwrap().split('/').take(2).collect::<Vec<_>>().join("/")
    }

    fn url_of_blob(&self, digest: &str) -> String {
        quoted(&format!("http://<host>/v2/{}/blobs/{digest}", self.repository()))
    }

    /// This status, and one event.
    fn has(&self, status: u16, event: &Fields) -> Outcome {
        let media_type = Some(MEDIA_TYPE.to_owned());
        Outcome { status, media_type, envelopes: vec![1], events: vec![event.clone()] }
    }

    /// An event of the last request, for cases in which `distribution` has none.
    fn event(&self, action: &str, target: &[(&str, String)]) -> Fields {
        let field = |name: &str, value: &str| (name.to_owned(), quoted(value));
        let head = [field("id", "<id>"), field("timestamp", "<timestamp>"), field("action", action)];
        let target = target.iter().map(|(name, value)| (format!("target.{name}"), value.clone()));
        let tail = [
            field("request.id", "<id>"),
            field("request.addr", "<addr>"),
            field("request.host", "<host>"),
            field("request.method", &self.request.method),
            field("request.useragent", &self.request.headers["user-agent"]),
            ("actor".to_owned(), "{}".to_owned()),
            field("source.addr", "<addr>"),
            field("source.instanceID", "<instance>"),
        ];
        Fields(head.into_iter().chain(target).chain(tail).collect())
    }

    fn blob(&self, action: &str, digest: &str, size: usize, from: Option<&str>) -> Fields {
        let mut target = vec![
            ("mediaType", quoted("application/octet-stream")),
            ("size", size.to_string()),
            ("digest", quoted(digest)),
            ("length", size.to_string()),
            ("repository", quoted(&self.repository())),
        ];
        target.extend(from.map(|from| ("fromRepository", quoted(from))));
        target.push(("url", self.url_of_blob(digest)));
        self.event(action, &target)
    }
}

impl Recorded {
    /// Sends the request. In its target, `<location>` is the last location that was answered.
    fn send(&self, registry: &TestRegistry, location: &mut String) -> u16 {
        let mut target = self.target.replace("<location>", location);
        if let Some((path, query)) =
            self.target.strip_prefix("<location>").and_then(|rest| rest.split_once('?'))
        {
            let joint = if location.contains('?') { '&' } else { '?' };
            target = format!("{location}{path}{joint}{query}");
        }
        let mut request = http::Request::builder().method(self.method.as_str()).uri(target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request = request.header("host", HOST).header("cf-connecting-ip", CLIENT).extension(Scheme("http"));
        if self.body.is_some() || self.method == "POST" {
            request = request.header("content-length", self.body.as_ref().map_or(0, String::len));
        }
        let body = self.body.clone().map_or(Body::Empty, |body| Body::Stream(MemoryStream::new(body).into()));
        let (parts, body) = block_on(registry.handle(request.body(body).unwrap())).into_parts();
        block_on(body.read(usize::MAX)).unwrap();
        if let Some(answered) = parts.headers.get("location") {
            let answered = answered.to_str().unwrap();
            let path = answered.find("/v2/").unwrap();
            answered[path..].clone_into(location);
        }
        for (_, work) in registry.later.1.take() {
            block_on(work);
        }
        registry.run_background();
        parts.status.as_u16()
    }
}

/// Sends the requests of a case to this registry.
fn replayed(case: &Case) -> Outcome {
    let queue = Rc::new(MemoryQueue::default());
    // The lowest cost.
    let hash = bcrypt::hash_with_salt(USER.1, 4, [1; 16]).unwrap();
    let users = format!("{}:{}", USER.0, hash.format_for_version(bcrypt::Version::TwoY));
    let mut vars = vec![("EVENT_ENDPOINTS", r#"[{"name": "ci", "url": "https://ci.example.com"}]"#)];
    if case.settings.references {
        vars.push(("EVENT_REFERENCES", "on"));
    }
    if case.settings.htpasswd {
        vars.extend([("HTPASSWD", users.as_str()), ("ANONYMOUS", "none")]);
    }
    let registry =
        TestRegistry::with(&vars, Persistent { queue: Some(queue.clone()), ..Persistent::default() });
    let mut location = String::new();
    for request in &case.setup {
        let status = request.send(&registry, &mut location);
        assert_eq!(Some(status), request.status, "{} {}", request.method, request.target);
    }
    queue.messages.borrow_mut().clear();
    let status = case.request.send(&registry, &mut location);
    let mut outcome = Outcome { status, media_type: None, envelopes: Vec::new(), events: Vec::new() };
    for message in queue.messages.take() {
        outcome.media_type = Some(MEDIA_TYPE.to_owned());
        outcome.envelopes.push(serde_json::from_str::<Message>(&message).unwrap().events.len());
        let Json::Object(message) = serde_json::from_str(&message).unwrap() else { panic!("{message}") };
        let Json::List(events) = &message[0].1 else { panic!("{message:?}") };
        outcome.events.extend(events.iter().map(|event| Fields::of(event).normalised()));
    }
    outcome
}

#[test]
fn events_are_those_of_distribution_but_for_the_differences() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/registry/golden/events");
    let mut wrong = Vec::new();
    let mut used = vec![0; DIFFERENCES.len()];
    let mut cases = 0;
    for file in fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let case: Case = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        cases += 1;
        let mut expected = Outcome::of(&case);
        for (n, difference) in DIFFERENCES.iter().enumerate() {
            if difference.cases.is_some_and(|cases| !cases.contains(&name)) {
                continue;
            }
            let before = expected.clone();
            (difference.change)(&case, &mut expected);
            if expected != before {
                used[n] += 1;
            } else if difference.cases.is_some() {
                wrong.push(format!("{name}: no difference by: {}", difference.reason));
            }
        }
        let found = replayed(&case);
        if found != expected {
            let (expected, found) = (expected.lines(), found.lines());
            let missing =
                expected.iter().filter(|line| !found.contains(line)).map(|line| format!("- {line}"));
            let added = found.iter().filter(|line| !expected.contains(line)).map(|line| format!("+ {line}"));
            let lines: Vec<String> = missing.chain(added).collect();
            let lines = if lines.is_empty() { found.join("\n") } else { lines.join("\n") };
            wrong.push(format!("{name}, or the order of its fields:\n{lines}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases > 0);
    for (n, Difference { cases, reason, .. }) in DIFFERENCES.iter().enumerate() {
        let is_used = used[n] > 0 && cases.is_none_or(|cases| cases.len() == used[n]);
        assert!(is_used, "in {} cases: {reason}", used[n]);
    }
}
