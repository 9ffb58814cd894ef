//! Table-driven tests: each row has preconditions, a request and the expected answer.
//!
//! Strings in a row may contain placeholders:
//!
//! | placeholder | value |
//! |---|---|
//! | `{sha256:<content>}`, `{sha512:<content>}` | the digest of the content |
//! | `{digest:<content>}` | the digest of the content, by the algorithm of the run |
//! | `{manifest:<tag>}`, `{content:<tag>}`, `{size:<tag>}` | digest, content, length of a manifest in `given` |
//! | `{started}` | the first `Location` of the last upload started by `given` |
//! | `{location}` | the latest `Location` of an upload |

use std::collections::HashMap;

use http::StatusCode;
use pierhead::{
    oci::{Algorithm, Digest},
    platform::memory::MemoryStream,
};

use crate::{
    errors::CODES,
    fixtures::{EMPTY_INDEX, IMAGE, INDEX, image},
    support::{Answer, Proof, TestRegistry},
};

/// One row.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub description: &'a str,
    pub given: &'a [Given<'a>],
    /// Method and target.
    pub request: &'a str,
    pub request_headers: &'a [(&'a str, &'a str)],
    pub request_body: Sent<'a>,
    pub status: u16,
    /// Expected headers. A repeated header is joined with `, `; an empty value means the header is absent.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Body<'a>,
}

/// Defaults for the fields that a row leaves out.
pub const CALL: Call<'static> = Call {
    description: "",
    given: &[],
    request: "",
    request_headers: &[],
    request_body: Sent::Nothing,
    status: 200,
    headers: &[],
    body: Body::Any,
};

/// A precondition. The first field is the repository.
#[derive(Clone, Copy)]
pub enum Given<'a> {
    /// A blob with this content.
    Blob(&'a str, &'a str),
    /// Under this tag, an image with one layer of this content.
    Image(&'a str, &'a str, &'a str),
    /// Under this tag, an empty index.
    Index(&'a str, &'a str),
    /// Under this tag, a manifest of this media type and content.
    Manifest(&'a str, &'a str, &'a str, &'a str),
    /// A started upload; sets `{started}` and `{location}`.
    Upload(&'a str),
    /// A chunk, sent to `{location}`.
    Chunk(&'a str),
}

/// The body of a request.
#[derive(Clone, Copy)]
pub enum Sent<'a> {
    Nothing,
    Text(&'a str),
    /// A stream of unknown length, as with chunked transfer coding.
    Chunked(&'a str),
    /// A stream that fails after this content.
    Broken(&'a str),
}

/// The expected body.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    Any,
    Empty,
    Text(&'a str),
    /// Compared as JSON.
    Json(&'a str),
    /// A single error with this code.
    Error(&'a str),
}

/// Runs each row against its own registry, with each proof of who the client is.
pub fn each(calls: &[Call]) {
    for (proof, call) in Proof::ALL.into_iter().flat_map(|proof| calls.iter().map(move |call| (proof, call)))
    {
        Client::new(&TestRegistry::behind(proof), Algorithm::Sha256).call(call);
    }
}

/// Runs each row against its own registry, once per algorithm and proof.
pub fn each_algorithm(calls: &[Call]) {
    for (algorithm, proof) in runs() {
        for call in calls {
            Client::new(&TestRegistry::behind(proof), algorithm).call(call);
        }
    }
}

/// Runs the rows in order against one registry, once per algorithm and proof.
pub fn in_order(calls: &[Call]) {
    in_order_behind(&Proof::ALL, calls);
}

/// The same, with some proofs only.
pub fn in_order_behind(proofs: &[Proof], calls: &[Call]) {
    for (algorithm, proof) in runs().filter(|(_, proof)| proofs.contains(proof)) {
        let registry = TestRegistry::behind(proof);
        let mut client = Client::new(&registry, algorithm);
        calls.iter().for_each(|call| client.call(call));
    }
}

fn runs() -> impl Iterator<Item = (Algorithm, Proof)> {
    Algorithm::ALL.into_iter().flat_map(|algorithm| Proof::ALL.map(|proof| (algorithm, proof)))
}

/// Runs rows against a registry and keeps the values of their placeholders.
pub struct Client<'a> {
    registry: &'a TestRegistry,
    algorithm: Algorithm,
    manifests: HashMap<String, String>,
    started: String,
    location: String,
}

impl<'a> Client<'a> {
    pub fn new(registry: &'a TestRegistry, algorithm: Algorithm) -> Self {
        let (started, location) = (String::new(), String::new());
        Self { registry, algorithm, manifests: HashMap::new(), started, location }
    }

    pub fn call(&mut self, call: &Call) {
        call.given.iter().for_each(|given| self.give(*given));
        let line = self.expand(call.request);
        let context = format!("{} ({}, {:?}): {line}", call.description, self.algorithm, self.registry.proof);
        let headers: Vec<_> =
            call.request_headers.iter().map(|(name, value)| (*name, self.expand(value))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = match call.request_body {
            Sent::Nothing => None,
            Sent::Text(text) => Some(MemoryStream::new(self.expand(text))),
            Sent::Chunked(text) => Some(MemoryStream::chunked(self.expand(text))),
            Sent::Broken(text) => Some(MemoryStream::broken(self.expand(text))),
        };
        let answer = self.registry.send(&line, &headers, body);
        assert_eq!(
            answer.status.as_u16(),
            call.status,
            "{context}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        assert_well_formed(&line, &answer);
        if answer.header("location").contains("/blobs/uploads/") {
            self.location = answer.header("location").to_owned();
        }
        for (name, value) in call.headers {
            assert_eq!(all(&answer, name), self.expand(value), "{context}: {name}");
        }
        match call.body {
            Body::Any => {}
            Body::Empty => assert_eq!(String::from_utf8_lossy(&answer.body), "", "{context}"),
            Body::Text(text) => {
                assert_eq!(String::from_utf8_lossy(&answer.body), self.expand(text), "{context}");
            }
            Body::Json(text) => {
                let expected: serde_json::Value = serde_json::from_str(&self.expand(text)).unwrap();
                assert_eq!(answer.json(), expected, "{context}");
            }
            Body::Error(code) => assert_eq!(answer.codes(), [code], "{context}"),
        }
    }

    fn give(&mut self, given: Given) {
        match given {
            Given::Blob(name, content) => drop(self.registry.push_blob_by(self.algorithm, name, content)),
            Given::Image(name, tag, layer) => {
                self.registry.push_image(name, tag, layer);
                self.manifests.insert(tag.to_owned(), image(&[layer]));
            }
            Given::Index(name, tag) => self.give(Given::Manifest(name, tag, INDEX, EMPTY_INDEX)),
            Given::Manifest(name, tag, media_type, content) => {
                let content = self.expand(content);
                self.registry.push_manifest(name, tag, media_type, &content);
                self.manifests.insert(tag.to_owned(), content);
            }
            Given::Upload(name) => {
                let answer = self.registry.get(&format!("POST /v2/{name}/blobs/uploads/"));
                assert_eq!(answer.status, 202, "{answer:?}");
                self.started = answer.header("location").to_owned();
                self.location = self.started.clone();
            }
            Given::Chunk(content) => {
                let line = format!("PATCH {}", self.location);
                let answer = self.registry.send(&line, &[], Some(MemoryStream::new(content.to_owned())));
                assert_eq!(answer.status, 202, "{answer:?}");
                self.location = answer.header("location").to_owned();
            }
        }
    }

    fn expand(&self, text: &str) -> String {
        let (mut expanded, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            expanded += before;
            let placeholder = after.split_once('}').and_then(|(name, end)| Some((self.value(name)?, end)));
            match placeholder {
                Some((value, end)) => (expanded, rest) = (expanded + &value, end),
                None => (expanded, rest) = (expanded + "{", after),
            }
        }
        expanded + rest
    }

    fn value(&self, name: &str) -> Option<String> {
        let manifest =
            |tag| self.manifests.get(tag).unwrap_or_else(|| panic!("no manifest is given as {tag}"));
        Some(match name.split_once(':').unwrap_or((name, "")) {
            ("sha256", content) => Algorithm::Sha256.digest(content.as_bytes()).to_string(),
            ("sha512", content) => Algorithm::Sha512.digest(content.as_bytes()).to_string(),
            ("digest", content) => self.algorithm.digest(content.as_bytes()).to_string(),
            ("manifest", tag) => Algorithm::Sha256.digest(manifest(tag).as_bytes()).to_string(),
            ("content", tag) => manifest(tag).clone(),
            ("size", tag) => manifest(tag).len().to_string(),
            ("started", "") => self.started.clone(),
            ("location", "") => self.location.clone(),
            _ => return None,
        })
    }
}

fn all(answer: &Answer, name: &str) -> String {
    let values: Vec<_> = answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
    values.join(", ")
}

/// Asserts the invariants of every answer: common headers, length, and a valid error body.
pub fn assert_well_formed(line: &str, answer: &Answer) {
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0", "{line}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{line}");
    assert_eq!(answer.header("content-security-policy"), "default-src 'none'; sandbox", "{line}");
    assert_eq!(answer.header("content-encoding"), "", "{line}");
    let has_no_body = matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if line.starts_with("HEAD ") || has_no_body {
        assert!(answer.body.is_empty(), "{line}");
        assert_eq!(answer.header("content-length").is_empty(), has_no_body, "{line}");
        return;
    }
    assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{line}");
    if answer.status.is_client_error() || answer.status.is_server_error() {
        assert_eq!(answer.header("content-type"), "application/json", "{line}");
        for error in answer.errors() {
            assert!(CODES.contains(&error["code"].as_str().unwrap()), "{line}: {error}");
            assert!(error["message"].as_str().unwrap().len() > 10, "{line}: {error}");
        }
    }
}

/// Asserts that GET and HEAD serve the blob whole, with every header that clients and caches rely on.
pub fn assert_served(registry: &TestRegistry, name: &str, digest: &Digest, content: &[u8]) {
    for method in ["HEAD", "GET"] {
        let line = format!("{method} /v2/{name}/blobs/{digest}");
        let answer = registry.get(&line);
        assert_eq!(answer.status, 200, "{line}");
        assert_well_formed(&line, &answer);
        for (name, value) in [
            ("content-length", &*content.len().to_string()),
            ("content-type", "application/octet-stream"),
            ("content-disposition", "attachment"),
            ("docker-content-digest", &*digest.to_string()),
            ("etag", &*format!("\"{digest}\"")),
            ("accept-ranges", "bytes"),
            ("cache-control", "private, max-age=31536000, immutable, no-transform"),
        ] {
            assert_eq!(answer.header(name), value, "{line}");
        }
        assert!(method == "HEAD" || answer.body == content, "{line}: wrong bytes");
    }
}

/// Asserts the answer to the last request of a push.
pub fn assert_created(answer: &Answer, name: &str, digest: &Digest) {
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(answer.header("location"), format!("/v2/{name}/blobs/{digest}"));
}

/// Request headers of an image push.
pub const OF_IMAGE: &[(&str, &str)] = &[("content-type", IMAGE)];
/// Request headers of an index push.
pub const OF_INDEX: &[(&str, &str)] = &[("content-type", INDEX)];
