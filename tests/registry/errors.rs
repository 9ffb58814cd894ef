//! Errors as clients see them: all of them in one golden file, and the requests that cause them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use futures_executor::block_on;
use pierhead::{
    api::{Error, ErrorCode},
    auth::OverQuota,
    oci::{
        Digest, Glob, InvalidDigest, InvalidJson, InvalidManifest, InvalidName, InvalidTag, Manifest,
        schema1::InvalidSignature,
    },
    platform::{ReadError, memory::MemoryStream},
    uploads::{UploadError, plan::WrongLength},
};
use serde_json::{Value, json};

use crate::{
    fixtures::sha256,
    support::TestRegistry,
    table::{Body, CALL, Call, Given, Sent, assert_well_formed, each},
};

/// The codes of the specification ("Error Codes"), and the two that `distribution` adds for server faults.
pub const CODES: [&str; 17] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "MANIFEST_UNVERIFIED",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
    "UNAVAILABLE",
    "UNKNOWN",
];

/// Source of the error table, parsed for its variants.
const SOURCE: &str = include_str!("../../src/api/error.rs");

/// At least one error of each variant, with its name in the golden file.
fn errors() -> Vec<(&'static str, Error)> {
    let digest = |content: &str| sha256(content);
    let not_json = InvalidJson::Syntax("expected value at line 1 column 1".to_owned());
    let challenge = "Basic realm=\"Pierhead\", charset=\"UTF-8\"".parse().unwrap();
    vec![
        ("blob_unknown", Error::BlobUnknown(digest("blob"))),
        ("manifest_unknown", Error::ManifestUnknown("latest".parse().unwrap())),
        ("manifest_unknown_digest", Error::ManifestUnknown(digest("manifest").to_string().parse().unwrap())),
        ("impossible_reference_tag", {
            let reference = ".latest".to_owned();
            Error::ImpossibleReference { why: InvalidTag(reference.clone()).into(), reference }
        }),
        ("impossible_reference_digest", {
            let reference = "sha256:bad".to_owned();
            Error::ImpossibleReference { why: reference.parse::<Digest>().unwrap_err().into(), reference }
        }),
        ("name_unknown", Error::NameUnknown("team/app".parse().unwrap())),
        ("namespace_unknown", Error::NamespaceUnknown("docker.io".to_owned())),
        ("manifest_blob_unknown", Error::ManifestBlobUnknown(vec![digest("one"), digest("two")])),
        ("invalid_name", InvalidName("Team/App".to_owned()).into()),
        ("invalid_digest_form", InvalidDigest::Form("latest".to_owned()).into()),
        ("invalid_digest_algorithm", InvalidDigest::Algorithm("md5".to_owned()).into()),
        ("invalid_digest_hex", "sha256:bad".parse::<Digest>().unwrap_err().into()),
        ("invalid_tag", InvalidTag("-latest".to_owned()).into()),
        ("invalid_manifest_json", InvalidManifest::Json(not_json).into()),
        ("invalid_manifest_nesting", InvalidManifest::Json(InvalidJson::Depth).into()),
        ("invalid_manifest_digest", InvalidManifest::Digest(InvalidDigest::Form("x".to_owned())).into()),
        ("invalid_manifest_media_type", InvalidManifest::MediaType("a b".to_owned()).into()),
        ("invalid_manifest_active_type", InvalidManifest::ActiveType("text/html".to_owned()).into()),
        (
            "invalid_manifest_limit",
            InvalidManifest::Limit { what: "too many annotations", limit: Manifest::MAX_ANNOTATIONS }.into(),
        ),
        ("invalid_manifest_no_media_type", InvalidManifest::NoMediaType.into()),
        (
            "invalid_manifest_media_type_mismatch",
            InvalidManifest::MediaTypeMismatch { header: "a/b".to_owned(), field: "c/d".to_owned() }.into(),
        ),
        (
            "invalid_manifest_shape",
            InvalidManifest::Shape("an index must have manifests: an empty list is accepted").into(),
        ),
        ("invalid_manifest_descriptor", InvalidManifest::Descriptor("layers").into()),
        ("manifest_unverified", InvalidManifest::Signature(InvalidSignature::Wrong).into()),
        ("manifest_unsigned", InvalidManifest::Signature(InvalidSignature::Missing).into()),
        ("invalid_manifest_elsewhere", {
            let (named, pushed) = ("team/app".to_owned(), "team/other".to_owned());
            InvalidManifest::Elsewhere { field: "name", named, pushed }.into()
        }),
        ("schema1_not_taken", Error::Schema1NotTaken),
        ("schema1_off", Error::Schema1Off("latest".parse().unwrap())),
        ("manifest_too_large", Error::ManifestTooLarge),
        ("digest_mismatch", Error::DigestMismatch(digest("blob"))),
        ("digest_missing", Error::DigestMissing),
        ("upload_unknown", Error::UploadUnknown),
        (
            "upload_out_of_order",
            Error::UploadOutOfOrder { location: "/v2/a/blobs/uploads/1?_state=x".to_owned(), offset: 1000 },
        ),
        ("chunk_length", WrongLength { declared: 100, received: 50 }.into()),
        ("blob_too_large", UploadError::TooLarge { part_size: 8 << 20 }.into()),
        ("body_broken", Error::BodyBroken(ReadError::Broken("the connection was cut".to_owned()))),
        ("body_stalled", Error::BodyStalled(ReadError::Silent)),
        ("range_not_satisfiable", Error::RangeNotSatisfiable { size: 2048 }),
        (
            "invalid_parameter",
            Error::InvalidParameter { name: "n", expected: "a number of entries, 0 or more" },
        ),
        ("body_too_large", Error::BodyTooLarge { limit: 65_536 }),
        ("invalid_body", Error::InvalidBody("missing field `name`".to_owned())),
        ("read_only", Error::ReadOnly),
        ("deletion_off", Error::DeletionOff),
        ("invalid_header", Error::InvalidHeader("content-type".to_owned())),
        ("invalid_target", Error::InvalidTarget),
        ("target_too_long", Error::TargetTooLong),
        (
            "unauthenticated",
            Error::Unauthenticated { challenge, message: "authentication required: log in".into() },
        ),
        ("denied", Error::Denied { who: "ann".to_owned(), what: "push to this repository" }),
        ("immutable", Error::Immutable { tag: "v1".parse().unwrap(), digest: digest("manifest") }),
        ("over_quota", {
            let repository = "team/app".parse().unwrap();
            let (bytes, quota) = (52_100_000_000, 50_000_000_000);
            Error::OverQuota(OverQuota::Bytes { repository, bytes, quota })
        }),
        ("over_quota_of_repositories", {
            let (repository, patterns) = ("team/app".parse().unwrap(), vec![Glob::new("team/**").unwrap()]);
            Error::OverQuota(OverQuota::Repositories { repository, patterns, quota: 20 })
        }),
        ("not_signed", Error::NotSigned),
        ("removing", Error::Removing),
        ("taken_down", Error::TakenDown),
        ("goes_on", Error::GoesOn),
        ("unsupported", Error::Unsupported { allow: "GET, HEAD" }),
        ("too_many_requests", Error::TooManyRequests { seconds: 60 }),
        ("absent", Error::Absent("dead letter")),
        (
            "conflict",
            Error::Conflict(
                "the job purge is paused: POST to /v2/_pierhead/jobs/purge/resume resumes it".to_owned(),
            ),
        ),
        ("lane_full", Error::LaneFull),
        ("no_such_endpoint", Error::NoSuchEndpoint),
        ("busy", Error::Busy("the operator's text".to_owned())),
        ("issuer_unavailable", {
            let issuer = "https://ci.example.com".to_owned();
            Error::IssuerUnavailable { issuer, reason: "the operator's text".to_owned() }
        }),
        ("misconfigured", Error::Misconfigured("ANONYMOUS must be one of none, pull, push".to_owned())),
        ("internal", Error::Internal("the operator's text".to_owned())),
    ]
}

/// The response in the form of the golden file.
fn rendered(error: &Error) -> Value {
    let (parts, body) = error.response().into_parts();
    let body = block_on(body.read(usize::MAX)).unwrap();
    let mut headers = serde_json::Map::new();
    for (name, value) in &parts.headers {
        headers.insert(name.to_string(), value.to_str().unwrap().into());
    }
    // Redundant: it changes with every message.
    assert_eq!(headers.remove("content-length"), Some(body.len().to_string().into()));
    let body: Value = serde_json::from_slice(&body).unwrap();
    json!({"status": parts.status.as_u16(), "headers": headers, "body": body})
}

/// The variants of an enum of [`SOURCE`].
fn variants(name: &str) -> BTreeSet<&str> {
    let (_, rest) = SOURCE.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (lines, _) = rest.split_once("\n}\n").unwrap();
    let lines = lines.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    lines.map(identifier).collect()
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()
}

/// The name in the golden file of the texts that the source puts into messages.
const TEXTS: &str = "texts in the source";

/// The texts of `src/api`, `src/oci` and `src/uploads` that clients may read, by file: an example of each error does not show
/// all that it may say.
fn texts() -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> =
        ["api", "oci", "uploads"].iter().map(|folder| root.join(folder)).collect();
    let mut all = serde_json::Map::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let source = fs::read_to_string(&path).unwrap();
                let code = source.split("#[cfg(test)]").next().unwrap_or_default();
                let found = sentences(code);
                if !found.is_empty() {
                    let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                    all.insert(name, json!(found));
                }
            }
        }
    }
    all.sort_keys();
    Value::Object(all)
}

/// The string literals of three words or more.
fn sentences(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in code.replace("\\\n", "\u{1}").lines() {
        let line = line.replace("'\"'", "").replace("\\\"", "\u{2}");
        if line.trim_start().starts_with("//") {
            continue;
        }
        for literal in line.split('"').skip(1).step_by(2) {
            let words: Vec<&str> = literal.split(['\u{1}', ' ']).filter(|word| !word.is_empty()).collect();
            if words.len() >= 3 {
                found.insert(words.join(" ").replace('\u{2}', "\""));
            }
        }
    }
    found
}

/// The golden file: for each error its status, its headers and its body.
const GOLDEN: &str = "tests/registry/golden/errors.json";

#[test]
fn every_error_matches_the_golden_file() {
    let mut all = serde_json::Map::new();
    for (name, error) in errors() {
        assert!(all.insert(name.to_owned(), rendered(&error)).is_none(), "duplicate name: {name}");
    }
    all.insert(TEXTS.to_owned(), texts());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{:#}\n", Value::Object(all.clone()))).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let read: serde_json::Map<String, Value> = serde_json::from_str(&golden).unwrap();
    for (name, error) in &all {
        assert_eq!(
            Some(error),
            read.get(name),
            "{name}: to accept, run UPDATE_GOLDEN=1 cargo test --test registry"
        );
    }
    let extra: Vec<&String> = read.keys().filter(|name| !all.contains_key(*name)).collect();
    assert!(extra.is_empty(), "the golden file has no error for {extra:?}");
    assert_eq!(
        golden,
        format!("{:#}\n", Value::Object(all)),
        "the golden file is not as it would be written"
    );
}

/// A message says what was wrong, and after that what to do.
#[test]
fn every_message_says_what_to_do() {
    for (name, error) in errors() {
        let body = rendered(&error)["body"].clone();
        for entry in body["errors"].as_array().unwrap() {
            let message = entry["message"].as_str().unwrap();
            let rest = message.split_once(": ").or_else(|| message.split_once(", ")).map(|(_, rest)| rest);
            // Texts of their own: the places where they are made say what to do.
            let is_free = matches!(name, "conflict" | "invalid_body" | "invalid_parameter" | "misconfigured");
            assert!(is_free || rest.is_some_and(|rest| rest.len() > 5), "{name}: {message}");
            let digest = entry["detail"]["digest"].as_str();
            assert!(
                digest.is_none_or(|digest| message.contains(digest)),
                "{name} does not name the digest: {message}"
            );
        }
    }
}

#[test]
fn every_variant_is_in_the_golden_file() {
    let errors: Vec<String> = errors().iter().map(|(_, error)| format!("{error:?}")).collect();
    assert_eq!(errors.iter().map(|error| identifier(error)).collect::<BTreeSet<_>>(), variants("Error"));
}

#[test]
fn every_code_is_in_the_specification() {
    let codes: Vec<ErrorCode> = errors().iter().map(|(_, error)| error.wire().1).collect();
    for code in &codes {
        assert!(CODES.contains(&code.as_str()), "{code:?}");
    }
    let used: Vec<String> = codes.iter().map(|code| format!("{code:?}")).collect();
    assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), variants("ErrorCode"));
}

#[test]
fn operator_messages_stay_out_of_responses() {
    for (name, error) in errors() {
        let body = rendered(&error)["body"].to_string();
        assert!(!body.contains("the operator's text"), "{name}: {body}");
        let is_theirs = matches!(name, "busy" | "issuer_unavailable" | "misconfigured" | "internal");
        assert_eq!(error.log_line().is_some(), is_theirs, "{name}");
    }
}

#[test]
fn the_base_endpoint_is_served_with_and_without_its_slash() {
    each(&[
        Call {
            description: "the base",
            request: "GET /v2/",
            headers: &[("content-type", "application/json")],
            body: Body::Text("{}"),
            ..CALL
        },
        Call {
            description: "the base without its slash",
            request: "GET /v2",
            body: Body::Text("{}"),
            ..CALL
        },
        Call {
            description: "the base, HEAD",
            request: "HEAD /v2/",
            headers: &[("content-length", "2")],
            body: Body::Empty,
            ..CALL
        },
    ]);
}

const UPLOAD: &str = "/v2/none/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887";

#[test]
fn errors_have_the_codes_and_statuses_of_the_specification() {
    for (request, status, code) in [
        ("GET /v2/Bad/tags/list", 400, "NAME_INVALID"),
        ("GET /v2/a..b/manifests/latest", 400, "NAME_INVALID"),
        ("GET /v2/manifests/latest", 400, "NAME_INVALID"),
        ("GET /v2/none/tags/list", 404, "NAME_UNKNOWN"),
        ("GET /v2/none/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/none/manifests/{sha256:x}", 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/none/manifests/{sha512:x}", 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/none/manifests/sha256:bad", 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/none/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/none/manifests/", 404, "MANIFEST_UNKNOWN"),
        ("PUT /v2/none/manifests/sha256:bad", 400, "DIGEST_INVALID"),
        ("DELETE /v2/none/manifests/sha256:bad", 400, "DIGEST_INVALID"),
        ("GET /v2/none/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", 404, "MANIFEST_UNKNOWN"),
        ("PUT /v2/none/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("GET /v2/none/manifests/-x", 404, "MANIFEST_UNKNOWN"),
        ("DELETE /v2/none/manifests/-x", 400, "MANIFEST_INVALID"),
        ("PUT /v2/none/manifests/-x", 400, "MANIFEST_INVALID"),
        ("PUT /v2/none/manifests/latest", 400, "MANIFEST_INVALID"),
        ("PUT /v2/none/manifests/latest?tag=-x", 400, "MANIFEST_INVALID"),
        ("GET /v2/none/blobs/{sha256:x}", 404, "BLOB_UNKNOWN"),
        ("GET /v2/none/blobs/sha256:bad", 400, "DIGEST_INVALID"),
        ("GET /v2/none/blobs/latest", 400, "DIGEST_INVALID"),
        ("DELETE /v2/none/blobs/{sha256:x}", 404, "BLOB_UNKNOWN"),
        ("DELETE /v2/none/manifests/{sha256:x}", 404, "MANIFEST_UNKNOWN"),
        ("DELETE /v2/none/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/none/referrers/bad", 400, "DIGEST_INVALID"),
        ("GET /v2/none/referrers/{sha256:x}?last=bad", 400, "DIGEST_INVALID"),
        (&format!("GET {UPLOAD}"), 404, "BLOB_UPLOAD_UNKNOWN"),
        (&format!("PATCH {UPLOAD}?_state=x.y"), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET /v2/none/blobs/uploads/1", 404, "BLOB_UPLOAD_UNKNOWN"),
        (&format!("PUT {UPLOAD}"), 400, "DIGEST_INVALID"),
        ("POST /v2/none/blobs/uploads/?digest=sha256:bad", 400, "DIGEST_INVALID"),
        ("POST /v2/none/blobs/uploads/?digest-algorithm=md5", 400, "DIGEST_INVALID"),
        ("GET /v2/none/tags/list?n=-1", 400, "UNSUPPORTED"),
        ("GET /v2/none/tags/list?n=", 400, "UNSUPPORTED"),
        ("GET /v2/_catalog?n=many", 400, "UNSUPPORTED"),
        ("GET /v2/none/referrers/{sha256:x}?n=1.5", 400, "UNSUPPORTED"),
        ("POST /v2/", 405, "UNSUPPORTED"),
        ("PATCH /v2/none/manifests/latest", 405, "UNSUPPORTED"),
        ("GET /v2/none", 404, "UNSUPPORTED"),
        ("GET /v1/", 404, "UNSUPPORTED"),
        ("GET /", 404, "UNSUPPORTED"),
        ("GET /v2/_pierhead/blobs/sha256/{sha256:x}", 400, "DIGEST_INVALID"),
    ] {
        each(&[Call { description: "an error", request, status, body: Body::Error(code), ..CALL }]);
    }
}

#[test]
fn error_details_name_the_subject() {
    for (request, status, detail) in [
        ("GET /v2/none/tags/list", 404, json!({"name": "none"})),
        ("GET /v2/none/manifests/latest", 404, json!({"reference": "latest"})),
        ("GET /v2/none/manifests/.x", 404, json!({"reference": ".x"})),
        ("GET /v2/none/manifests/sha256:x", 404, json!({"reference": "sha256:x"})),
        ("GET /v2/none/blobs/{}", 404, json!({"digest": sha256("x")})),
        ("DELETE /v2/none/blobs/{}", 404, json!({"digest": sha256("x")})),
        ("DELETE /v2/none/manifests/{}", 404, json!({"reference": sha256("x")})),
        ("POST /v2/none/blobs/uploads/?digest={}", 400, json!({"digest": sha256("x")})),
    ] {
        let line = request.replace("{}", &sha256("x").to_string());
        let answer = TestRegistry::new().send(&line, &[], Some(MemoryStream::new("y")));
        assert_eq!(answer.status.as_u16(), status, "{line}");
        assert_eq!(answer.errors()[0]["detail"], detail, "{line}");
    }
}

#[test]
fn unsupported_methods_are_refused_with_allow() {
    let digest = sha256("x");
    let blob = format!("/v2/a/blobs/{digest}");
    let by_digest = format!("/v2/a/manifests/{digest}");
    let referrers = format!("/v2/a/referrers/{digest}");
    let signed = format!("/v2/_pierhead/blobs/sha256/{}", digest.hex());
    for (path, allow, refused) in [
        ("/v2/", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"][..]),
        ("/v2/_catalog", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/usage", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/events", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/events/ci/dead", "GET, HEAD, POST, DELETE", &["PUT", "PATCH", "OPTIONS"]),
        ("/v2/_pierhead/events/ci/dead/1", "GET, HEAD, POST, DELETE", &["PUT", "PATCH", "OPTIONS"]),
        ("/v2/_pierhead/openapi.json", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/jobs", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/jobs/purge", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/jobs/purge/pause", "POST", &["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/_pierhead/jobs/fsck/run", "POST", &["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        (&signed, "GET", &["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/a/blobs/uploads/", "POST", &["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ("/v2/a/blobs/uploads", "POST", &["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        (UPLOAD, "GET, HEAD, PATCH, PUT, DELETE", &["POST", "OPTIONS"]),
        (&blob, "GET, HEAD, DELETE", &["POST", "PUT", "PATCH", "OPTIONS"]),
        ("/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE", &["POST", "PATCH", "OPTIONS"]),
        (&by_digest, "GET, HEAD, PUT, DELETE", &["POST", "PATCH", "OPTIONS"]),
        ("/v2/a/tags/list", "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        (&referrers, "GET, HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    ] {
        let registry = TestRegistry::new();
        for method in refused {
            let line = format!("{method} {path}");
            let answer = registry.get(&line);
            assert_well_formed(&line, &answer);
            assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allow), "{line}");
            assert!(*method == "HEAD" || answer.codes() == ["UNSUPPORTED"], "{line}");
        }
        for method in allow.split(", ") {
            let answer = registry.get(&format!("{method} {path}"));
            assert_ne!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), "", "{method} {path}");
        }
    }
}

#[test]
fn a_truncated_body_is_a_client_error() {
    each(&[
        Call {
            description: "a truncated manifest",
            request: "PUT /v2/a/manifests/v1",
            request_body: Sent::Broken("{"),
            status: 400,
            body: Body::Error("BLOB_UPLOAD_INVALID"),
            ..CALL
        },
        Call {
            description: "a truncated chunk",
            given: &[Given::Upload("a")],
            request: "PATCH {location}",
            request_body: Sent::Broken("half"),
            status: 400,
            body: Body::Error("BLOB_UPLOAD_INVALID"),
            ..CALL
        },
    ]);
}

#[test]
fn head_has_the_status_and_headers_of_get_without_a_body() {
    let registry = TestRegistry::new();
    let manifest = registry.push_image("a", "v1", "layer");
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/v2/_catalog?n=-1",
        "/v2/a/tags/list",
        "/v2/none/tags/list",
        "/v2/a/manifests/v1",
        &format!("/v2/a/manifests/{manifest}"),
        "/v2/a/manifests/none",
        "/v2/a/manifests/.none",
        &format!("/v2/a/blobs/{}", sha256("layer")),
        &format!("/v2/a/blobs/{}", sha256("none")),
        "/v2/a/blobs/none",
        &format!("/v2/a/referrers/{manifest}"),
        "/v2/none",
    ] {
        let [get, head] = ["GET", "HEAD"].map(|method| registry.get(&format!("{method} {path}")));
        assert_well_formed(&format!("HEAD {path}"), &head);
        assert!(!get.body.is_empty(), "{path}");
        assert_eq!((get.status, &get.headers), (head.status, &head.headers), "{path}");
    }
}
