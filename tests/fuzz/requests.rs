//! Whole requests of any kind to a registry with a few images. Whatever is sent, no answer is a server's error, every
//! refusal has the specification's body, and afterwards everything that is listed can be pulled.

use std::{collections::BTreeSet, rc::Rc};

use pierhead::{platform::memory::MemoryStream, storage::memory::Memory};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    cases,
    credentials::{authorizations, htpasswd},
    fixtures::{EMPTY_INDEX, IMAGE, INDEX, descriptor, image, sha256},
    manifests::{TYPES, manifests},
    mutate::{mutated, text},
    routes::METHODS,
    support::{Answer, PART, PASSWORD, Persistent, Proof, TestRegistry},
};

const CODES: [&str; 15] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNSUPPORTED",
];

/// Replaced by the location of an upload.
const UPLOAD: &str = "/v2/a/blobs/uploads/UPLOAD?_state=STATE";

/// A request. The target may hold [`UPLOAD`].
#[derive(Debug, Clone)]
struct Sent {
    method: String,
    target: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Sort,
}

#[derive(Debug, Clone)]
enum Sort {
    Nothing,
    Known(Vec<u8>),
    Chunked(Vec<u8>),
    Broken(Vec<u8>),
}

/// An image that refers to the one of the fixture.
fn with_subject() -> String {
    let mut referrer: serde_json::Value = serde_json::from_str(&image(&["layer"])).unwrap();
    referrer["subject"] = descriptor(IMAGE, &image(&["layer"]));
    referrer.to_string()
}

/// The same of another type, which only the request's header names.
fn artifact() -> String {
    serde_json::json!({"subject": descriptor(IMAGE, &image(&["layer"]))}).to_string()
}

fn lines() -> Vec<(&'static str, String)> {
    let (blob, manifest, other) = (sha256("layer"), sha256(image(&["layer"])), sha256("other"));
    let mut lines = vec![
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2/_catalog?n=1&last=a".into()),
        ("POST", "/v2/_pierhead/jobs/fsck/run?dry-run=false".into()),
        ("GET", "/v2/a/tags/list?n=1&last=v1".into()),
        ("POST", "/v2/a/blobs/uploads/".into()),
        ("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512".into()),
        ("POST", format!("/v2/a/blobs/uploads/?digest={other}")),
        ("POST", format!("/v2/team/app/blobs/uploads/?mount={blob}&from=a")),
        ("GET", format!("/v2/_pierhead/blobs/{}/{}?verify=1-x", blob.algorithm(), blob.hex())),
        ("PUT", format!("/v2/a/manifests/{manifest}?tag=v2&tag=v3")),
    ];
    for name in ["a", "team/app"] {
        lines.extend([
            ("GET", format!("/v2/{name}/blobs/{blob}")),
            ("DELETE", format!("/v2/{name}/blobs/{blob}")),
            ("GET", format!("/v2/{name}/manifests/v1")),
            ("GET", format!("/v2/{name}/manifests/{manifest}")),
            ("PUT", format!("/v2/{name}/manifests/v1")),
            ("DELETE", format!("/v2/{name}/manifests/v1")),
            ("DELETE", format!("/v2/{name}/manifests/{manifest}")),
            ("GET", format!("/v2/{name}/referrers/{manifest}?artifactType=application/x&last={other}")),
        ]);
    }
    lines.extend(["GET", "PATCH", "PATCH", "DELETE"].map(|method| (method, UPLOAD.to_owned())));
    lines.push(("PUT", format!("{UPLOAD}&digest={other}")));
    lines
}

fn header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let digest = sha256("layer");
    let etag = format!("\"{digest}\"");
    let of = |name: &'static str, corpus: Vec<String>| mutated(&corpus).prop_map(move |value| (name, value));
    prop_oneof![
        4 => of("content-type", TYPES.map(str::to_owned).to_vec()),
        1 => of("range", vec!["bytes=0-1".into(), "bytes=-3".into(), "bytes=0-99999999999999999999".into()]),
        2 => of("content-range", vec!["0-4".into(), "bytes 5-9/10".into()]),
        1 => of("if-none-match", vec![etag.clone(), "*".into()]),
        1 => of("if-range", vec![etag]),
        1 => of("accept", vec![TYPES.join(", "), "*/*;q=0.5".into()]),
        1 => of("cache-control", vec!["no-cache".into()]),
        1 => of("host", vec!["registry.example:5000".into()]),
        1 => of("user-agent", vec!["docker/28.0".into()]),
        1 => of("content-length", vec!["5".into()]),
    ]
}

fn body() -> impl Strategy<Value = Sort> {
    let mut corpus = manifests();
    corpus.extend([
        with_subject(),
        artifact(),
        image(&["layer"]),
        "layer".into(),
        "other".into(),
        String::new(),
        "x".repeat(300),
    ]);
    prop_oneof![
        2 => Just(Sort::Nothing),
        2 => Just(Sort::Known(b"other".to_vec())),
        3 => mutated(&corpus).prop_map(Sort::Known),
        2 => mutated(&corpus).prop_map(Sort::Chunked),
        1 => mutated(&corpus).prop_map(Sort::Broken),
    ]
}

/// A push as clients do it, of a manifest or a blob.
fn push() -> impl Strategy<Value = Sent> {
    let manifests = vec![
        (IMAGE, image(&["layer"])),
        (IMAGE, with_subject()),
        (TYPES[6], artifact()),
        (INDEX, EMPTY_INDEX.to_owned()),
    ];
    let manifest = (select(vec!["a", "team/app"]), select(vec!["v1", "v2", ""]), select(manifests)).prop_map(
        |(name, tag, (of, content))| {
            let reference = if tag.is_empty() { sha256(&content).to_string() } else { tag.to_owned() };
            Sent {
                method: "PUT".into(),
                target: format!("/v2/{name}/manifests/{reference}"),
                headers: vec![("content-type", of.as_bytes().to_vec())],
                body: Sort::Known(content.into_bytes()),
            }
        },
    );
    let blob = select(vec!["layer", "config", "other"]).prop_map(|content| Sent {
        method: "POST".into(),
        target: format!("/v2/a/blobs/uploads/?digest={}", sha256(content)),
        headers: Vec::new(),
        body: Sort::Known(content.into()),
    });
    prop_oneof![manifest, blob]
}

fn sent() -> impl Strategy<Value = Sent> {
    let targets: Vec<String> = lines().into_iter().map(|(_, target)| target).collect();
    let line = prop_oneof![
        // Valid ones, so that a sequence gets somewhere.
        5 => select(lines()).prop_map(|(method, target)| (method.to_owned(), target)),
        2 => (select(lines()), text(&targets)).prop_map(|((method, _), target)| (method.to_owned(), target)),
        1 => (select(METHODS.to_vec()), text(&targets)).prop_map(|(method, target)| (method.to_owned(), target)),
        1 => (text(&METHODS), select(targets)),
    ];
    let any = (line, vec(header(), 0..4), body()).prop_map(|((method, target), headers, body)| Sent {
        method,
        target,
        headers,
        body,
    });
    prop_oneof![1 => push(), 3 => any]
}

/// The target as a client can send it: other characters percent-encoded. `None` if it is not a path.
pub fn sendable(target: &str) -> Option<String> {
    let keep = |c: &u8| c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(c);
    let encode = |c: u8| if keep(&c) { char::from(c).to_string() } else { format!("%{c:02X}") };
    let target: String = target.bytes().map(encode).collect();
    (target.starts_with('/') && target.parse::<http::Uri>().is_ok()).then_some(target)
}

fn registry(vars: &[(&str, &str)]) -> (TestRegistry, Persistent) {
    // Parts are as small as in the other tests.
    let mut persistent = Persistent::default();
    persistent.storage.memory = Rc::new(Memory::with_min_part(PART / 8 * 5));
    let pushed = TestRegistry::with(&[], persistent.clone());
    pushed.push_image("a", "v1", "layer");
    pushed.push_image("team/app", "v1", "layer");
    pushed.push_manifest("a", "referrer", IMAGE, &with_subject());
    (TestRegistry::with(vars, persistent.clone()), persistent)
}

/// Sends a request; `None` if it is none.
fn send(registry: &TestRegistry, sent: &Sent, location: &str) -> Option<(String, Answer)> {
    let target = sendable(&sent.target.replace(UPLOAD, location))?;
    sent.method.parse::<http::Method>().ok()?;
    if sent.method.contains(' ') {
        return None;
    }
    let headers: Vec<(&str, &str)> = sent
        .headers
        .iter()
        .filter(|(_, value)| http::HeaderValue::from_bytes(value).is_ok())
        .filter_map(|(name, value)| Some((*name, std::str::from_utf8(value).ok()?)))
        .collect();
    let body = match sent.body.clone() {
        Sort::Nothing => None,
        Sort::Known(bytes) => Some(MemoryStream::new(bytes)),
        Sort::Chunked(bytes) => Some(MemoryStream::chunked(bytes)),
        Sort::Broken(bytes) => Some(MemoryStream::broken(bytes)),
    };
    let line = format!("{} {target}", sent.method);
    let answer = registry.send(&line, &headers, body);
    Some((line, answer))
}

/// Asserts what holds for every answer.
fn check(line: &str, answer: &Answer) {
    assert!(answer.status.as_u16() < 500, "{line}: {answer:?}");
    for (name, value) in &answer.headers {
        let is_visible = value.as_bytes().iter().all(|c| (b' '..=b'~').contains(c));
        assert!(is_visible, "{line}: {name}: {value:?}");
    }
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0", "{line}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{line}");
    let has_no_body = line.starts_with("HEAD ") || [204, 304].contains(&answer.status.as_u16());
    if has_no_body {
        assert!(answer.body.is_empty(), "{line}");
        return;
    }
    assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{line}");
    if answer.status.is_client_error() {
        assert_eq!(answer.header("content-type"), "application/json", "{line}");
        let errors = answer.errors();
        assert!(!errors.is_empty(), "{line}");
        for error in errors {
            assert!(CODES.contains(&error["code"].as_str().unwrap()), "{line}: {error}");
            assert!(error["message"].as_str().unwrap().len() > 10, "{line}: {error}");
        }
        assert!(answer.status != 405 || !answer.header("allow").is_empty(), "{line}");
    }
}

/// Asserts that what is listed can be pulled and removed, and is gone then.
fn check_lists(registry: &TestRegistry) {
    let sent = |line: &str, status: u16| {
        let answer = registry.get(line);
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        check(line, &answer);
        answer
    };
    let strings = |answer: &Answer, key: &str| -> Vec<String> {
        answer.json()[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let referrers = |name: &str, subject: &str| -> Vec<String> {
        let list = sent(&format!("GET /v2/{name}/referrers/{subject}"), 200).json();
        list["manifests"].as_array().unwrap().iter().map(|of| of["digest"].as_str().unwrap().into()).collect()
    };
    for name in strings(&sent("GET /v2/_catalog", 200), "repositories") {
        let mut subjects = BTreeSet::from([sha256(image(&["layer"])).to_string()]);
        for tag in strings(&sent(&format!("GET /v2/{name}/tags/list"), 200), "tags") {
            let answer = sent(&format!("GET /v2/{name}/manifests/{tag}"), 200);
            subjects.insert(answer.header("docker-content-digest").to_owned());
            sent(&format!("DELETE /v2/{name}/manifests/{tag}"), 202);
        }
        assert!(strings(&sent(&format!("GET /v2/{name}/tags/list"), 200), "tags").is_empty());
        for subject in subjects {
            for referrer in referrers(&name, &subject) {
                sent(&format!("GET /v2/{name}/manifests/{referrer}"), 200);
                sent(&format!("DELETE /v2/{name}/manifests/{referrer}"), 202);
            }
            assert!(referrers(&name, &subject).is_empty(), "{name}: {subject}");
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn no_request_is_an_error_of_the_server(
        requests in vec(sent(), 1..16),
        proof in select(Proof::ALL.to_vec()),
    ) {
        let anonymous = if proof == Proof::Nothing { "push" } else { "none" };
        let vars = [
            ("ANONYMOUS", anonymous),
            ("ADMIN_PASSWORD", PASSWORD),
            ("BLOB_REDIRECT", "signed"),
            ("BLOB_REDIRECT_SKIP_AGENTS", "docker"),
        ];
        let (registry, persistent) = registry(&vars);
        let registry = registry.proving(proof);
        let mut location = registry.start_upload("");
        for sent in &requests {
            let Some((line, answer)) = send(&registry, sent, &location) else { continue };
            check(&line, &answer);
            if answer.header("location").contains("/blobs/uploads/") {
                location = answer.header("location").to_owned();
            }
        }
        registry.run_background();
        let plain = TestRegistry::with(&[], persistent);
        plain.check_content();
        check_lists(&plain);
    }

    /// Without the right password, nothing is answered and nothing changes.
    #[test]
    fn no_request_gets_past_the_login(requests in vec((sent(), mutated(&authorizations())), 1..12)) {
        let htpasswd = htpasswd();
        let secret = "0123456789abcdef0123456789abcdef";
        let (registry, _) = registry(&[("ANONYMOUS", "none"), ("HTPASSWD", &htpasswd), ("SIGNING_SECRET", secret)]);
        let before = registry.storage.memory.paths();
        let valid = authorizations();
        for (mut sent, authorization) in requests {
            // As the RFC has it: any case of the scheme, and any number of spaces after it.
            let plain = |value: &[u8]| {
                let visible = value.iter().filter(|c| !c.is_ascii_whitespace());
                visible.map(u8::to_ascii_lowercase).collect::<Vec<_>>()
            };
            if valid[..2].iter().any(|valid| plain(&authorization) == plain(valid.as_bytes())) {
                continue;
            }
            sent.headers.push(("authorization", authorization));
            let Some((line, answer)) = send(&registry, &sent, UPLOAD) else { continue };
            check(&line, &answer);
            prop_assert!(answer.status.is_client_error(), "{line}: {answer:?}");
            prop_assert!([400, 401, 404, 405].contains(&answer.status.as_u16()), "{line}: {answer:?}");
        }
        prop_assert_eq!(registry.storage.memory.paths(), before);
    }

    /// A path means the same however its characters are encoded.
    #[test]
    fn paths_may_be_percent_encoded((method, target) in select(lines()), encoded in vec(any::<bool>(), 150)) {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let encode = |(at, c): (usize, char)| match encoded[at % encoded.len()] {
            true if at > 0 => format!("%{:02x}", u32::from(c)),
            _ => c.to_string(),
        };
        let path: String = path.chars().enumerate().map(encode).collect();
        let [plain, encoded] = [format!("{method} {target}"), format!("{method} {path}?{query}")].map(|line| {
            let answer = registry(&[]).0.get(&line);
            check(&line, &answer);
            answer
        });
        prop_assert_eq!(plain.status, encoded.status);
        prop_assert_eq!(plain.header("docker-content-digest"), encoded.header("docker-content-digest"));
    }
}
