//! Manifests and descriptors. What is accepted is read a second time, as a tree.

use std::collections::BTreeMap;

use pierhead::oci::{Digest, InvalidJson, InvalidManifest, Manifest, media_type};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::{
    cases,
    fixtures::{EMPTY_INDEX, IMAGE, INDEX, descriptor, image},
    mutate::{mutated, text},
};

pub const TYPES: [&str; 9] = [
    IMAGE,
    INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_MANIFEST_LIST,
    "application/json",
    "application/octet-stream",
    "application/vnd.example+json; charset=utf-8",
    media_type::OCI_ARTIFACT,
    media_type::ORAS_ARTIFACT,
];

fn artifact() -> Value {
    let mut foreign = descriptor("application/x", "foreign");
    foreign["urls"] = json!(["https://example.com/layer"]);
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "artifactType": "application/vnd.example.sbom+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": descriptor("", "{}")["digest"], "size": 2, "data": "e30="},
        "layers": [descriptor("application/x", "layer"), foreign],
        "subject": descriptor(IMAGE, "subject"),
        "annotations": {"org.opencontainers.image.created": "2025-01-01T00:00:00Z", "": "ü\u{1}😀"},
    })
}

fn list() -> Value {
    let mut child = descriptor(IMAGE, "child");
    child["platform"] = json!({"architecture": "arm", "os": "linux", "variant": "v7"});
    child["annotations"] = json!({"k": "v"});
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child, descriptor(INDEX, "index")], "subject": descriptor(IMAGE, "subject")})
}

/// An image without a config.
fn configless() -> Value {
    let layers = [descriptor("application/x", "layer")];
    json!({"mediaType": IMAGE, "artifactType": "application/x", "layers": layers, "subject": descriptor(IMAGE, "subject")})
}

fn of_blobs() -> Value {
    let mut foreign = descriptor("application/x", "foreign");
    foreign["urls"] = json!(["https://example.com/blob"]);
    let blobs = [descriptor("application/x", "blob"), foreign];
    json!({"mediaType": media_type::OCI_ARTIFACT, "artifactType": "application/x", "blobs": blobs, "subject": descriptor(IMAGE, "subject")})
}

pub fn manifests() -> Vec<String> {
    let escaped = artifact().to_string().replace("layers", "l\\u0061yers");
    let other = json!({"mediaType": "application/vnd.example+json", "subject": descriptor(IMAGE, "x"), "deep": [[[[]]]]});
    let schema_1 = json!({"schemaVersion": 1, "name": "a", "tag": "v1", "fsLayers": [], "signatures": []});
    let texts = [EMPTY_INDEX.to_owned(), image(&["layer", "another"]), escaped];
    let values =
        [artifact(), list(), configless(), of_blobs(), other, schema_1].map(|value| value.to_string());
    texts.into_iter().chain(values).collect()
}

/// The digests of a list of descriptors, or of one.
fn digests(value: &Value) -> Vec<Digest> {
    let items = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    items.iter().map(|item| item["digest"].as_str().unwrap().parse().unwrap()).collect()
}

fn content_type() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        select(TYPES.to_vec()).prop_map(|of| Some(of.to_owned())),
        text(&TYPES).prop_map(Some)
    ]
}

/// The content as a tree; `None` if it is JSON of which no tree can be built: a number is too large for Rust, or a text has
/// half a surrogate pair.
fn tree(content: &[u8]) -> Option<serde_json::Result<Value>> {
    let tree = serde_json::from_slice(content);
    let is_json = || serde_json::from_slice::<IgnoredAny>(content).is_ok();
    (tree.is_ok() || !is_json()).then_some(tree)
}

/// Asserts that a second reading finds the same.
fn check(manifest: &Manifest, sent_as: Option<&str>, content: &[u8]) {
    let Some(tree) = tree(content) else { return };
    let tree = tree.unwrap();
    assert!(tree.is_object());
    let named = tree["mediaType"].as_str().filter(|named| !named.is_empty());
    let sent = sent_as.map(|sent| sent.split(';').next().unwrap().trim().to_lowercase());
    let sent = sent.filter(|sent| !["", "application/json", "application/octet-stream"].contains(&&**sent));
    let sent = sent.as_deref();
    let is_type = |of: &str| of.eq_ignore_ascii_case(&manifest.media_type);
    assert!(named.or(sent).is_some_and(is_type), "{}", manifest.media_type);
    assert!(sent.is_none_or(is_type), "{sent:?}");

    let is_image = [IMAGE, media_type::DOCKER_MANIFEST].iter().any(|of| is_type(of));
    let is_index = [INDEX, media_type::DOCKER_MANIFEST_LIST].iter().any(|of| is_type(of));
    let is_artifact = [media_type::OCI_ARTIFACT, media_type::ORAS_ARTIFACT].iter().any(|of| is_type(of));
    if !is_image && !is_index && !is_artifact {
        assert!(manifest.blobs.is_empty());
        if let Some(subject) = &manifest.subject {
            assert_eq!(&digests(&tree["subject"])[0], subject);
        }
        return;
    }
    let given = |key: &str| Some(&tree[key]).filter(|value| !value.is_null());
    assert_eq!(manifest.subject, given("subject").map(|subject| digests(subject).remove(0)));
    let config_type = given("config").filter(|_| is_image).and_then(|config| config["mediaType"].as_str());
    let artifact_type = tree["artifactType"].as_str().filter(|of| !of.is_empty()).or(config_type);
    assert_eq!(manifest.artifact_type.as_deref(), artifact_type);
    // Only those of a referrer are listed.
    let given_annotations = given("annotations").filter(|_| manifest.subject.is_some());
    let annotations: BTreeMap<String, String> =
        given_annotations.map(|given| serde_json::from_value(given.clone()).unwrap()).unwrap_or_default();
    assert_eq!(manifest.annotations, annotations);
    if is_index {
        assert!(given("config").is_none() && given("layers").is_none());
        given("manifests").map(digests);
        assert!(manifest.blobs.is_empty());
        return;
    }
    assert!(is_artifact || given("manifests").is_none());
    let list = if is_artifact { "blobs" } else { "layers" };
    let layers = given(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let config = given("config").filter(|_| is_image).cloned();
    let is_here = |blob: &Value| blob["urls"].as_array().is_none_or(Vec::is_empty);
    let blobs: Vec<Value> = layers.into_iter().chain(config).filter(is_here).collect();
    let mut blobs = digests(&Value::Array(blobs));
    blobs.sort();
    blobs.dedup();
    assert_eq!(manifest.blobs, blobs);
}

fn blob() -> impl Strategy<Value = Value> {
    ("[a-z]{0,3}", option::of(vec("https://[a-z]{1,5}", 0..2))).prop_map(|(content, urls)| {
        let mut blob = descriptor("application/x", &content);
        if let Some(urls) = urls {
            blob["urls"] = json!(urls);
        }
        blob
    })
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_manifest_is_what_a_second_reading_finds(
        sent_as in content_type(),
        content in mutated(&manifests()),
    ) {
        Manifest::detect_media_type(&content);
        if let Ok(manifest) = Manifest::parse(sent_as.as_deref(), &content) {
            check(&manifest, sent_as.as_deref(), &content);
        }
    }

    /// Of an unknown type, every object is accepted, and nothing else.
    #[test]
    fn what_is_accepted_is_json(content in mutated(&manifests())) {
        let Some(tree) = tree(&content) else { return Ok(()) };
        let other = json!({"mediaType": "application/vnd.example+json"});
        let is_of_type = |tree: &Value| tree["mediaType"].is_null() || tree["mediaType"] == other["mediaType"];
        match (Manifest::parse(Some(TYPES[6]), &content), tree) {
            (Ok(_), tree) => prop_assert!(tree.is_ok_and(|tree| tree.is_object())),
            (Err(InvalidManifest::Json(InvalidJson::Twice(_))), _) => {}
            (Err(InvalidManifest::Json(error)), Ok(tree)) => {
                prop_assert!(!tree.is_object() || !is_of_type(&tree), "{error}");
            }
            _ => {}
        }
    }

    /// Every valid image is accepted, whatever else it holds.
    #[test]
    fn images_are_accepted(
        (config, layers, subject) in (blob(), vec(blob(), 0..6), option::of(blob())),
        annotations in prop::collection::btree_map(".{0,5}", ".{0,9}", 0..4),
        (key, other) in ("x[a-z]{0,5}", select(vec![json!(null), json!(1.5), json!([{"a": []}]), json!("")])),
    ) {
        let mut image = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers, "annotations": annotations});
        if let Some(subject) = subject {
            image["subject"] = subject;
        }
        image[key] = other;
        let content = image.to_string().into_bytes();
        let manifest = Manifest::parse(Some(IMAGE), &content);
        prop_assert!(manifest.is_ok(), "{manifest:?}");
        check(&manifest.unwrap(), Some(IMAGE), &content);
    }
}
