//! What clients really send. `golden/clients/` has the requests of each client, recorded by
//! `tests/support/record-clients.mjs` or transcribed from its source; `docs/clients.md` explains the form. Each file is
//! replayed here, and the answers are checked for what the client needs to go on.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_executor::block_on;
use http::{HeaderName, StatusCode};
use pierhead::{
    api::Scheme,
    platform::{Body, memory::MemoryStream},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    fixtures::sha256,
    support::{Answer, PASSWORD, Proof, TestRegistry},
};

/// The host that clients call, as the recordings have it.
const HOST: &str = "registry.example:5000";

/// A client's requests, in a file of `golden/clients/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recording {
    client: String,
    version: String,
    source: Source,
    /// Whose needs the requests have, in `tests/support/client-needs.mjs`.
    library: String,
    /// The headers that all requests have.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Long values of headers, by name.
    #[serde(default)]
    values: BTreeMap<String, String>,
    contents: BTreeMap<String, Content>,
    operations: Vec<Operation>,
}

/// Where the requests come from.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Source {
    /// By this script.
    Recorded(String),
    Transcribed(Vec<Sources>),
}

/// The files that were read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sources {
    repository: String,
    version: String,
    files: Vec<String>,
}

/// What is pushed or pulled.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Manifest {
        r#type: Option<String>,
        json: Value,
    },
    Text {
        text: String,
    },
    /// Any bytes of this number.
    Bytes {
        size: usize,
    },
}

/// What a user does with the client.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    name: String,
    requests: Vec<Sent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
    /// The name of a content; empty for a body of length 0.
    body: Option<String>,
    /// Which bytes of it: the first, and the one after the last.
    bytes: Option<(usize, usize)>,
    /// The parameters of a request for a token.
    form: Option<String>,
    /// Whether the body has no `Content-Length`.
    #[serde(default)]
    chunked: bool,
    /// The statuses with which the client goes on like this.
    status: Vec<u16>,
    /// The headers of the answer that it reads.
    reads: Vec<String>,
}

impl Recording {
    fn requests(&self) -> impl Iterator<Item = (&Self, &Sent)> {
        self.operations.iter().flat_map(|operation| &operation.requests).map(move |sent| (self, sent))
    }

    /// The manifest that a request sends.
    fn json_of(&self, sent: &Sent) -> Option<&Value> {
        match self.contents.get(sent.body.as_ref()?)? {
            Content::Manifest { json, .. } => Some(json),
            _ => None,
        }
    }
}

impl Sent {
    fn reads(&self) -> impl Iterator<Item = &str> {
        self.reads.iter().map(String::as_str)
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.headers.get(name).is_some_and(|found| found == value)
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    fn is_token(&self) -> bool {
        self.path() == "/token"
    }

    /// The repository, and what follows the name of this part of the API.
    fn below(&self, part: &str) -> Option<(&str, &str)> {
        self.path().strip_prefix("/v2/")?.split_once(part)
    }
}

fn recordings() -> Vec<(String, Recording)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/registry/golden/clients");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(file).unwrap();
        let recording = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, recording)
    };
    files.iter().map(read).collect()
}

fn digest_of(bytes: &[u8]) -> String {
    sha256(bytes).to_string()
}

/// Changes an answer before the client sees it.
type Tamper<'a> = &'a dyn Fn(&Sent, &mut Answer);

/// A client that sends what was recorded.
struct Replay<'a> {
    recording: &'a Recording,
    registry: TestRegistry,
    logs_in: bool,
    tamper: Tamper<'a>,
    contents: RefCell<HashMap<&'a str, Vec<u8>>>,
    /// Where the last upload continues, and how many bytes it has.
    upload: RefCell<(String, usize)>,
    /// The tokens by their names, and how many answers had one.
    tokens: RefCell<(HashMap<String, String>, usize)>,
    /// What was pushed and is still there: the content's name by repository and reference.
    pushed: RefCell<BTreeMap<(String, String), &'a str>>,
    /// Blobs that were deleted, by repository and digest.
    deleted: RefCell<BTreeSet<(String, String)>>,
}

impl<'a> Replay<'a> {
    fn new(recording: &'a Recording, logs_in: bool, tamper: Tamper<'a>) -> Self {
        let proof = if logs_in { Proof::Basic } else { Proof::Nothing };
        Self {
            recording,
            registry: TestRegistry::behind(proof).proving(Proof::Nothing),
            logs_in,
            tamper,
            contents: RefCell::default(),
            upload: RefCell::default(),
            tokens: RefCell::default(),
            pushed: RefCell::default(),
            deleted: RefCell::default(),
        }
    }

    /// Sends all requests. The error says what the client would have failed at.
    fn run(&self) -> Result<(), String> {
        for Operation { name, requests } in &self.recording.operations {
            for (n, sent) in requests.iter().enumerate() {
                // Who need not log in gets no challenge, and asks for no token.
                if !self.logs_in && (sent.is_token() || sent.status == [401]) {
                    continue;
                }
                let Sent { method, target, .. } = sent;
                self.request(sent)
                    .map_err(|error| format!("{name}, request {}: {method} {target}: {error}", n + 1))?;
            }
            if requests.iter().any(|sent| ["PUT", "POST", "DELETE"].contains(&sent.method.as_str())) {
                self.check_pushed().map_err(|error| format!("after {name}: {error}"))?;
            }
        }
        Ok(())
    }

    /// The bytes of a content.
    fn content(&self, name: &str) -> Vec<u8> {
        if let Some(bytes) = self.contents.borrow().get(name) {
            return bytes.clone();
        }
        let (name, content) =
            self.recording.contents.get_key_value(name).unwrap_or_else(|| panic!("no such content: {name}"));
        let bytes = match content {
            Content::Manifest { json, .. } => serde_json::to_vec(&self.filled_json(json)).unwrap(),
            Content::Text { text } => text.clone().into_bytes(),
            Content::Bytes { size } => {
                let line = format!("{} {name}\n", self.recording.client);
                line.bytes().cycle().take(*size).collect()
            }
        };
        self.contents.borrow_mut().insert(name, bytes.clone());
        bytes
    }

    fn filled_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                match text.strip_prefix("{size:").and_then(|rest| rest.strip_suffix('}')) {
                    Some(name) => self.content(name).len().into(),
                    None => self.filled(text).into(),
                }
            }
            Value::Array(items) => items.iter().map(|item| self.filled_json(item)).collect(),
            Value::Object(fields) => {
                let filled = fields.iter().map(|(key, value)| (key.clone(), self.filled_json(value)));
                filled.collect::<Map<_, _>>().into()
            }
            _ => value.clone(),
        }
    }

    /// The text with values in place of its placeholders.
    fn filled(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, after) = after.split_once('}').unwrap_or_else(|| panic!("{text}"));
            filled.push_str(before);
            filled.push_str(&self.value_of(placeholder));
            rest = after;
        }
        filled + rest
    }

    fn value_of(&self, placeholder: &str) -> String {
        if let Some(value) = self.recording.values.get(placeholder) {
            return self.filled(value);
        }
        let location = || self.upload.borrow().0.clone();
        match placeholder.split_once(':') {
            Some(("digest", name)) => digest_of(&self.content(name)),
            Some(("digest%", name)) => digest_of(&self.content(name)).replace(':', "%3A"),
            Some(("hex", name)) => digest_of(&self.content(name)).split_off("sha256:".len()),
            Some(("data", name)) => STANDARD.encode(self.content(name)),
            None if placeholder == "location" => location(),
            None if placeholder == "location-path" => location().split('?').next().unwrap().to_owned(),
            None if placeholder == "state" => {
                location().split_once("_state=").map_or(String::new(), |(_, state)| state.to_owned())
            }
            None if placeholder == "credentials" => STANDARD.encode(format!("admin:{PASSWORD}")),
            None if placeholder == "password" => PASSWORD.replace(' ', "+"),
            None => self.tokens.borrow().0.get(placeholder).cloned().unwrap_or_default(),
            _ => panic!("no such placeholder: {placeholder}"),
        }
    }

    fn request(&self, sent: &'a Sent) -> Result<(), String> {
        let whole = sent.body.as_deref().filter(|name| !name.is_empty()).map(|name| self.content(name));
        let body = match (&sent.form, whole) {
            (Some(form), _) => Some(self.filled(form).into_bytes()),
            (None, Some(bytes)) => {
                let (first, end) = sent.bytes.unwrap_or((0, bytes.len()));
                Some(bytes.get(first..end).unwrap_or_else(|| panic!("{first}-{end}")).to_vec())
            }
            (None, None) => sent.body.is_some().then(Vec::new),
        };
        let target = self.target(sent);
        let mut request = http::Request::builder()
            .method(sent.method.as_str())
            .uri(&target)
            .header("host", HOST)
            .extension(Scheme("http"));
        for (name, value) in self.recording.headers.iter().chain(&sent.headers) {
            if name == "authorization" && !self.logs_in {
                continue;
            }
            let length = body.as_ref().map_or(0, Vec::len);
            let first = sent.bytes.map_or(0, |(first, _)| first);
            let range = format!("{first}-{}", (first + length).saturating_sub(1));
            request = request.header(name, self.filled(&value.replace("{range}", &range)));
        }
        if let Some(body) = body.as_ref().filter(|_| !sent.chunked) {
            request = request.header("content-length", body.len());
        }
        let received = body.as_ref().map_or(0, Vec::len);
        let body = body.filter(|body| !body.is_empty());
        let stream =
            |bytes| if sent.chunked { MemoryStream::chunked(bytes) } else { MemoryStream::new(bytes) };
        let body = body.map_or(Body::Empty, |bytes: Vec<u8>| Body::Stream(stream(bytes).into()));
        let (parts, body) = block_on(self.registry.handle(request.body(body).unwrap())).into_parts();
        let body = block_on(body.read(usize::MAX)).map_err(|error| error.to_string())?.to_vec();
        for (_, work) in self.registry.later.1.take() {
            block_on(work);
        }
        self.registry.run_background();

        let mut answer = Answer { status: parts.status, headers: parts.headers, body };
        (self.tamper)(sent, &mut answer);
        if !sent.status.contains(&answer.status.as_u16()) {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(format!("{} instead of {:?}: {text}", answer.status, sent.status));
        }
        self.note(sent, &answer, received)?;
        for name in &sent.reads {
            self.check_header(sent, &answer, name)?;
        }
        self.check_body(sent, &answer)
    }

    fn target(&self, sent: &Sent) -> String {
        let target = self.filled(&sent.target);
        // A location without a query, from a registry that needs none.
        let Some((path, query)) = target.split_once('&').filter(|_| !target.contains('?')) else {
            return target;
        };
        format!("{path}?{query}")
    }

    /// Remembers what the answer says.
    fn note(&self, sent: &'a Sent, answer: &Answer, received: usize) -> Result<(), String> {
        if sent.is_token() && answer.status == 200 {
            let token: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            let (names, count) = &mut *self.tokens.borrow_mut();
            *count += 1;
            for (name, kind) in [("token", "token"), ("access_token", "token"), ("refresh_token", "refresh")]
            {
                if let Some(value) = token.get(name).and_then(Value::as_str) {
                    names.insert(format!("{kind}-{count}"), value.to_owned());
                }
            }
        }
        if answer.status.is_success() && sent.path().contains("/blobs/uploads/")
            || sent.target.contains("{location")
        {
            let mut upload = self.upload.borrow_mut();
            if sent.method == "POST" {
                upload.1 = 0;
            }
            upload.1 += received;
            if let Some(at) = answer.header("location").find("/v2/") {
                answer.header("location")[at..].clone_into(&mut upload.0);
            }
        }
        if let Some((repository, reference)) =
            sent.below("/manifests/").filter(|_| answer.status.is_success())
        {
            let mut pushed = self.pushed.borrow_mut();
            let reference = self.filled(reference);
            let at = |reference: &str| (repository.to_owned(), reference.to_owned());
            match (sent.method.as_str(), sent.body.as_deref()) {
                ("PUT", Some(name)) => {
                    pushed.insert(at(&digest_of(&self.content(name))), name);
                    pushed.insert(at(&reference), name);
                }
                ("DELETE", _) => {
                    let gone = pushed.remove(&at(&reference));
                    if reference.contains(':') {
                        pushed.retain(|(other, _), name| other != repository || Some(*name) != gone);
                    }
                }
                _ => {}
            }
        }
        if let Some((repository, digest)) = sent.below("/blobs/").filter(|_| sent.method == "DELETE") {
            self.deleted.borrow_mut().insert((repository.to_owned(), self.filled(digest)));
        }
        Ok(())
    }

    /// The name of the content that a request is about.
    fn subject(&self, sent: &'a Sent) -> Option<&'a str> {
        let named = sent.target.split_once("{digest:").or_else(|| sent.target.split_once("{digest%:"));
        let named = named.and_then(|(_, rest)| rest.split_once('}')).map(|(name, _)| name);
        let body = sent.body.as_deref().filter(|name| !name.is_empty());
        named.or(body).or_else(|| {
            let (repository, reference) = sent.below("/manifests/")?;
            let at = (repository.to_owned(), self.filled(reference));
            self.pushed.borrow().get(&at).copied()
        })
    }

    fn check_header(&self, sent: &'a Sent, answer: &Answer, name: &str) -> Result<(), String> {
        let found = answer.header(name);
        let subject = || self.subject(sent).ok_or_else(|| "about nothing that is known".to_owned());
        let length = answer.body.len().to_string();
        let path = sent.path();
        let expected = match name {
            "location" => {
                let path = found.find("/v2/").map_or("", |at| &found[at..]);
                return if path.contains("/blobs/") { Ok(()) } else { Err(format!("location: {found:?}")) };
            }
            "www-authenticate" => {
                let start = format!("Bearer realm=\"http://{HOST}/token\",service=\"{HOST}\"");
                return if found.starts_with(&start) { Ok(()) } else { Err(format!("{name}: {found:?}")) };
            }
            "link" => {
                let is_next = found.starts_with("</v2/") && found.ends_with("; rel=\"next\"");
                return if is_next { Ok(()) } else { Err(format!("{name}: {found:?}")) };
            }
            "docker-content-digest" => digest_of(&self.content(subject()?)),
            "content-length" if sent.method == "HEAD" => self.content(subject()?).len().to_string(),
            "content-length" => length,
            "content-type" if path.contains("/manifests/") => {
                let name = subject()?;
                let Content::Manifest { r#type, .. } = &self.recording.contents[name] else {
                    return Err(format!("{name} is no manifest"));
                };
                r#type.clone().ok_or("a manifest without a type")?
            }
            "content-type" if path.contains("/referrers/") => {
                "application/vnd.oci.image.index.v1+json".to_owned()
            }
            "content-type" => "application/json".to_owned(),
            "range" => format!("0-{}", self.upload.borrow().1.saturating_sub(1)),
            "oci-subject" => {
                let manifest: Value = serde_json::from_slice(&self.content(subject()?)).unwrap();
                manifest["subject"]["digest"].as_str().ok_or("no subject")?.to_owned()
            }
            "content-range" => {
                let whole = self.content(subject()?).len();
                let range = sent.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
                let first = range.and_then(|range| range.split('-').next()).ok_or("no range")?.to_owned();
                let last = first.parse::<usize>().unwrap() + answer.body.len() - 1;
                format!("bytes {first}-{last}/{whole}")
            }
            "oci-filters-applied" => "artifactType".to_owned(),
            "docker-distribution-api-version" => "registry/2.0".to_owned(),
            _ => panic!("nobody knows what {name} must be"),
        };
        if found == expected { Ok(()) } else { Err(format!("{name}: {found:?} instead of {expected:?}")) }
    }

    /// Content is as it was pushed.
    fn check_body(&self, sent: &'a Sent, answer: &Answer) -> Result<(), String> {
        let is_content = sent.below("/manifests/").is_some() || sent.below("/blobs/sha256:").is_some();
        let is_content = is_content || sent.path().contains("/blobs/{digest:");
        if sent.method != "GET" || !answer.status.is_success() || !is_content {
            return Ok(());
        }
        let name = self.subject(sent).ok_or("a content that nobody pushed")?;
        let whole = self.content(name);
        let range = sent.headers.get("range").filter(|_| answer.status == 206);
        let first = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
        let first: usize = first.unwrap_or(0);
        let is_whole = first == 0 && answer.body == whole;
        let is_part =
            answer.status == 206 && whole[first..].starts_with(&answer.body) && !answer.body.is_empty();
        if is_whole || is_part { Ok(()) } else { Err(format!("other bytes than those of {name}")) }
    }

    /// Everything that was pushed can be pulled.
    fn check_pushed(&self) -> Result<(), String> {
        let authorization = format!("Basic {}", STANDARD.encode(format!("admin:{PASSWORD}")));
        let get = |target: &str, name: &str| -> Result<(), String> {
            let headers = [("authorization", authorization.as_str()), ("host", HOST)];
            let headers = if self.logs_in { &headers[..] } else { &headers[1..] };
            let answer = self.registry.send(&format!("GET {target}"), headers, None);
            let is_same = answer.status == 200 && answer.body == self.content(name);
            if is_same { Ok(()) } else { Err(format!("{target} is not {name}: {}", answer.status)) }
        };
        for ((repository, reference), name) in &*self.pushed.borrow() {
            get(&format!("/v2/{repository}/manifests/{reference}"), name)?;
            let Content::Manifest { json, .. } = &self.recording.contents[*name] else { continue };
            let blobs = json.get("config").into_iter().chain(json["layers"].as_array().into_iter().flatten());
            for digest in blobs.filter_map(|blob| blob["digest"].as_str()) {
                let blob = digest.strip_prefix("{digest:").and_then(|rest| rest.strip_suffix('}'));
                let blob = blob.ok_or_else(|| format!("{name} has a blob that nobody pushed"))?;
                let digest = self.filled(digest);
                if !self.deleted.borrow().contains(&(repository.clone(), digest.clone())) {
                    get(&format!("/v2/{repository}/blobs/{digest}"), blob)?;
                }
            }
        }
        Ok(())
    }
}

fn leave_alone(_: &Sent, _: &mut Answer) {}

#[test]
fn clients_get_what_they_need() {
    let mut wrong = Vec::new();
    for (name, recording) in &recordings() {
        for logs_in in [true, false] {
            let how = if logs_in { "with a login" } else { "without a login" };
            if let Err(error) = Replay::new(recording, logs_in, &leave_alone).run() {
                wrong.push(format!("{name}, {how}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every header that a client reads is one that it would miss: the replay fails without it, and with another value.
#[test]
fn a_header_that_is_missing_or_wrong_is_noticed() {
    let mut unnoticed = Vec::new();
    for (file, recording) in &recordings() {
        let requests = || recording.operations.iter().flat_map(|operation| &operation.requests);
        let read: BTreeSet<&str> =
            requests().filter(|sent| !sent.status.contains(&401)).flat_map(Sent::reads).collect();
        assert!(!read.is_empty(), "{file}");
        for name in read {
            let removed = |sent: &Sent, answer: &mut Answer| {
                if sent.reads().any(|read| read == name) {
                    answer.headers.remove(name);
                }
            };
            let changed = |sent: &Sent, answer: &mut Answer| {
                if sent.reads().any(|read| read == name) {
                    answer.headers.insert(name.parse::<HeaderName>().unwrap(), "/v2/other".parse().unwrap());
                }
            };
            for (how, tamper) in [("missing", &removed as Tamper<'_>), ("wrong", &changed)] {
                if Replay::new(recording, false, tamper).run().is_ok() {
                    unnoticed.push(format!("{file}: {name} is {how}"));
                }
            }
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

/// The replay fails where the registry's behaviour is not what was recorded.
#[test]
fn an_answer_that_is_wrong_is_noticed() {
    type Change = (&'static str, fn(&Sent, &mut Answer));
    let changes: [Change; 5] = [
        ("a manifest is refused", |sent, answer| {
            if sent.method == "PUT" && sent.target.contains("/manifests/") {
                answer.status = StatusCode::BAD_REQUEST;
            }
        }),
        ("an upload continues in another session", |_, answer| {
            if let Some(location) = answer.headers.get_mut("location") {
                let other = location.to_str().unwrap().replace("_state=", "_state=x");
                *location = other.parse().unwrap();
            }
        }),
        ("a challenge names another service", |_, answer| {
            if let Some(challenge) = answer.headers.get_mut("www-authenticate") {
                *challenge = "Bearer realm=\"https://other.example/token\"".parse().unwrap();
            }
        }),
        ("a token is not that of the registry", |sent, answer| {
            if sent.is_token() {
                answer.body = br#"{"token": "other"}"#.to_vec();
            }
        }),
        ("what is not there is said to be there", |_, answer| {
            if answer.status == StatusCode::NOT_FOUND {
                answer.status = StatusCode::OK;
            }
        }),
    ];
    for (file, recording) in &recordings() {
        for (what, change) in &changes {
            assert!(Replay::new(recording, true, change).run().is_err(), "{file}: {what}");
        }
    }
}

/// What the table is for: if a client is recorded again and does no longer do one of these, another should.
#[test]
fn the_table_covers_what_clients_do() {
    type Feature = (&'static str, &'static str, fn(&Recording, &Sent) -> bool);
    let features: &[Feature] = &[
        ("docker", "a chunk of unknown length, and then its digest", |_, sent| {
            sent.method == "PATCH" && sent.chunked
        }),
        ("docker-containerd", "a blob in one PUT", |_, sent| is_whole_put(sent)),
        ("containerd", "a blob in one PUT", |_, sent| is_whole_put(sent)),
        ("containerd", "`from` a source repository", |_, sent| sent.target.contains("from=")),
        ("containerd-pieces", "a range from the first byte on", |_, sent| sent.has("range", "bytes=0-")),
        ("containerd", "a mirror's namespace", |_, sent| sent.target.contains("ns=docker.io")),
        ("containerd", "a token by POST", |_, sent| sent.is_token() && sent.method == "POST"),
        ("docker", "a token by GET", |_, sent| sent.is_token() && sent.method == "GET"),
        ("docker", "a ping", |_, sent| sent.target == "/v2/"),
        ("podman", "a chunk, and then its digest", |_, sent| sent.method == "PATCH"),
        ("podman", "a mount", |_, sent| sent.target.contains("mount=") && sent.status == [201]),
        ("podman", "the repositories", |_, sent| sent.path() == "/v2/_catalog"),
        ("buildx", "the index of a cache", |recording, sent| {
            let json = recording.json_of(sent);
            json.is_some_and(|json| json.to_string().contains("application/vnd.buildkit.cacheconfig.v0"))
        }),
        ("crane", "a chunk of a stream", |_, sent| sent.method == "PATCH"),
        ("crane", "a manifest removed by its digest", |_, sent| {
            sent.method == "DELETE" && sent.target.contains("/manifests/{digest:")
        }),
        ("regctl", "chunks with their range", |_, sent| sent.headers.contains_key("content-range")),
        ("regctl", "a mount from anywhere", |_, sent| {
            sent.target.contains("mount=") && !sent.target.contains("from=")
        }),
        ("regctl", "tags in pages", |_, sent| sent.target.contains("tags/list?last=v1&n=1")),
        ("regctl", "a tag removed", |_, sent| {
            sent.method == "DELETE" && sent.target.ends_with("/manifests/v2")
        }),
        ("regctl", "where an upload is", |_, sent| sent.method == "GET" && sent.target == "{location}"),
        ("oras", "a manifest with a subject", |_, sent| sent.reads().any(|name| name == "oci-subject")),
        ("oras", "referrers", |_, sent| sent.target.contains("/referrers/")),
        ("oras", "referrers by a tag", |_, sent| sent.target.contains("/manifests/sha256-{hex:")),
        ("notation", "referrers", |_, sent| sent.target.contains("/referrers/")),
        ("notation", "referrers by a tag", |_, sent| sent.target.contains("/manifests/sha256-{hex:")),
        ("cosign", "a signature by its tag", |_, sent| sent.method == "PUT" && sent.target.ends_with(".sig")),
        ("cosign", "a bundle that refers to an image", |recording, sent| {
            let json = recording.json_of(sent);
            json.is_some_and(|json| {
                json.get("subject").is_some()
                    && json.to_string().contains("application/vnd.dev.sigstore.bundle")
            })
        }),
        ("helm", "a chart", |recording, sent| {
            let json = recording.json_of(sent);
            json.is_some_and(|json| json["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json")
        }),
    ];
    let recordings = recordings();
    let missing: Vec<String> = features
        .iter()
        .filter(|(client, _, does)| {
            let of_client = recordings.iter().filter(|(_, recording)| recording.client == *client);
            !of_client
                .flat_map(|(_, recording)| recording.requests())
                .any(|(recording, sent)| does(recording, sent))
        })
        .map(|(client, what, _)| format!("{client}: {what}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

fn is_whole_put(sent: &Sent) -> bool {
    let is_body = sent.body.as_ref().is_some_and(|body| !body.is_empty());
    sent.method == "PUT" && sent.target.starts_with("{location") && is_body && sent.bytes.is_none()
}

/// The documentation names each client with its version, and says where its requests come from.
#[test]
fn every_client_is_documented() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let documented = fs::read_to_string(format!("{folder}/docs/clients.md")).unwrap();
    let needs = fs::read_to_string(format!("{folder}/tests/support/client-needs.mjs")).unwrap();
    for (file, Recording { client, version, source, library, .. }) in &recordings() {
        let short = version.rsplit_once('.').unwrap().0;
        assert_eq!(*file, format!("{client}-{short}"));
        let from = match source {
            Source::Recorded(script) => {
                assert!(fs::exists(format!("{folder}/{script}")).unwrap(), "{file}: {script}");
                "recorded"
            }
            Source::Transcribed(sources) => {
                let is_named = |source: &Sources| {
                    !source.repository.is_empty() && !source.version.is_empty() && !source.files.is_empty()
                };
                assert!(!sources.is_empty() && sources.iter().all(is_named), "{file}");
                "transcribed"
            }
        };
        let row = format!("| `{client}` | {version} | {from} |");
        assert!(documented.contains(&row), "docs/clients.md has no row {row}");
        assert!(
            needs.contains(&format!("{library}: {{")) || needs.contains(&format!("\"{library}\": {{")),
            "{library}"
        );
    }
}
