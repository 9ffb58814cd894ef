//! Listing the referrers of a manifest.

use futures_executor::block_on;
use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest},
    storage::{PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::{CONFIG, IMAGE, INDEX, descriptor, sha256},
    support::{Answer, TestRegistry},
    table::{Body, CALL, Call, assert_well_formed, each},
};

/// A descriptor of a manifest that is never pushed.
fn subject() -> Value {
    descriptor(IMAGE, "subject")
}

/// Pushes a manifest with the subject [`subject`] by its digest; returns its descriptor.
fn push_referrer(registry: &TestRegistry, media_type: &str, mut manifest: Value) -> Value {
    registry.push_blob("a", "config");
    manifest["schemaVersion"] = 2.into();
    manifest["mediaType"] = media_type.into();
    manifest["subject"] = subject();
    let content = manifest.to_string();
    let digest = sha256(&content);
    let line = format!("PUT /v2/a/manifests/{digest}");
    let body = pierhead::platform::memory::MemoryStream::new(content.clone());
    let answer = registry.send(&line, &[("content-type", media_type)], Some(body));
    assert_eq!(
        (answer.status.as_u16(), answer.header("oci-subject")),
        (201, &*sha256("subject").to_string())
    );
    json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

/// `descriptor` with these fields added.
fn with(mut descriptor: Value, fields: Value) -> Value {
    descriptor.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    descriptor
}

/// Pushes one referrer of each kind; returns the list expected.
fn push_referrers(registry: &TestRegistry) -> Vec<Value> {
    let config = descriptor(CONFIG, "config");
    // Too long for the metadata of an object, and not ASCII.
    let long = json!({"long": "ä".repeat(1000), "org.example": "x"});
    let short = json!({"org.example": "two  spaces"});
    let image = json!({"config": config, "layers": []});
    let signature =
        json!({"artifactType": "application/sig", "config": config, "layers": [], "annotations": long});
    let sbom = json!({"artifactType": "application/sbom", "manifests": [], "annotations": short});
    let mut referrers = vec![
        // The artifact type of an image defaults to the media type of its config.
        with(push_referrer(registry, IMAGE, image), json!({"artifactType": CONFIG})),
        with(
            push_referrer(registry, IMAGE, signature),
            json!({"artifactType": "application/sig", "annotations": long}),
        ),
        with(
            push_referrer(registry, INDEX, sbom),
            json!({"artifactType": "application/sbom", "annotations": short}),
        ),
        push_referrer(registry, INDEX, json!({"manifests": []})),
    ];
    referrers.sort_by_key(digest_of);
    referrers
}

fn digest_of(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

fn target(query: &str) -> String {
    format!("/v2/a/referrers/{}{query}", sha256("subject"))
}

/// The entries of a list, after checking that it is an index.
fn entries(answer: &Answer) -> Vec<Value> {
    assert_well_formed("GET", answer);
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, INDEX), "{answer:?}");
    let mut index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
    serde_json::from_value(index["manifests"].take()).unwrap()
}

fn list(registry: &TestRegistry, query: &str) -> (Vec<Value>, Answer) {
    let answer = registry.get(&format!("GET {}", target(query)));
    (entries(&answer), answer)
}

#[test]
fn a_subject_without_referrers_has_an_empty_list() {
    const EMPTY: &str =
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let empty = |request| Call {
        description: "no referrers",
        request,
        headers: &[("content-type", INDEX), ("link", ""), ("oci-filters-applied", "")],
        body: Body::Json(EMPTY),
        ..CALL
    };
    each(&[
        empty("GET /v2/none/referrers/{sha256:subject}"),
        empty("GET /v2/none/referrers/{sha512:subject}"),
        Call {
            headers: &[("oci-filters-applied", "artifactType")],
            ..empty("GET /v2/none/referrers/{sha256:subject}?artifactType=application%2Fsig")
        },
        Call { body: Body::Empty, ..empty("HEAD /v2/none/referrers/{sha256:subject}") },
    ]);
}

#[test]
fn referrers_of_an_absent_subject_are_listed() {
    let registry = TestRegistry::new();
    let referrers = push_referrers(&registry);
    let (listed, answer) = list(&registry, "");
    assert_eq!(listed, referrers);
    assert_eq!((answer.header("oci-filters-applied"), answer.header("link")), ("", ""));
    // Neither another subject nor another repository has them.
    let other = registry.get(&format!("GET /v2/a/referrers/{}", sha256("other")));
    assert_eq!(entries(&other), [Value::Null; 0]);
    let elsewhere = registry.get(&format!("GET {}", target("").replace("/a/", "/b/")));
    assert_eq!(entries(&elsewhere), [Value::Null; 0]);
}

#[test]
fn a_subject_may_have_a_sha512_digest() {
    let registry = TestRegistry::new();
    let digest = Algorithm::Sha512.digest(b"subject");
    let subject = json!({"mediaType": IMAGE, "digest": digest, "size": 7});
    let content = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject});
    let referrer = registry.push_manifest("a", "v1", INDEX, &content.to_string());
    let listed = entries(&registry.get(&format!("GET /v2/a/referrers/{digest}")));
    assert_eq!(listed.iter().map(digest_of).collect::<Vec<_>>(), [referrer.to_string()]);
}

#[test]
fn the_list_is_filtered_by_artifact_type() {
    let registry = TestRegistry::new();
    let referrers = push_referrers(&registry);
    for artifact_type in ["application/sig", "application/sbom", CONFIG, "application/none"] {
        let query = format!("?artifactType={}", artifact_type.replace('/', "%2F").replace('+', "%2B"));
        let (listed, answer) = list(&registry, &query);
        let expected: Vec<_> =
            referrers.iter().filter(|referrer| referrer["artifactType"] == artifact_type).cloned().collect();
        assert_eq!(expected.len(), usize::from(artifact_type != "application/none"));
        assert_eq!(listed, expected, "{artifact_type}");
        assert_eq!(answer.header("oci-filters-applied"), "artifactType", "{artifact_type}");
    }
    // An empty filter is ignored.
    let (listed, answer) = list(&registry, "?artifactType=");
    assert_eq!((listed, answer.header("oci-filters-applied")), (referrers, ""));
}

#[test]
fn following_links_lists_every_referrer_once() {
    let registry = TestRegistry::new();
    let referrers = push_referrers(&registry);
    for n in [1, 2, 3, 4] {
        let pages = registry.pages(&target(&format!("?n={n}")));
        assert_eq!(pages.len(), referrers.len().div_ceil(n), "n={n}");
        let seen: Vec<Value> = pages.iter().flat_map(entries).collect();
        assert_eq!(seen, referrers, "n={n}");
    }
    // Links keep the filter; a filtered page may be empty.
    let pages = registry.pages(&target("?artifactType=application%2Fsig&n=1"));
    assert!(pages.iter().all(|page| page.header("oci-filters-applied") == "artifactType"));
    let seen: Vec<Value> = pages.iter().flat_map(entries).collect();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["artifactType"], "application/sig");
}

#[test]
fn short_pages_of_the_storage_do_not_shorten_the_list() {
    let registry = TestRegistry::new();
    let referrers = push_referrers(&registry);
    for most in [1, 3] {
        registry.storage.short_pages.set(Some(most));
        let (listed, answer) = list(&registry, "");
        assert_eq!((listed, answer.header("link")), (referrers.clone(), ""));
        assert_eq!(registry.pages(&target("?n=2")).len(), 2);
    }
}

#[test]
fn a_page_is_at_most_4_mib() {
    let registry = TestRegistry::new();
    let mut pushed: Vec<String> = (0..33)
        .map(|n| {
            let annotations = json!({"n": n.to_string(), "long": "x".repeat(255 * 1024)});
            digest_of(&push_referrer(&registry, INDEX, json!({"manifests": [], "annotations": annotations})))
        })
        .collect();
    pushed.sort();
    // What is not in the page is not read.
    let (calls, first) = registry.calls(&format!("GET {}", target("")), &[]);
    assert_eq!((entries(&first).len(), calls), (16, [vec!["list"], vec!["get"; 16]].concat()));
    let pages = registry.pages(&target(""));
    assert_eq!(pages.len(), 3);
    assert!(pages.iter().all(|page| page.body.len() <= 4 * 1024 * 1024));
    let seen: Vec<String> = pages.iter().flat_map(entries).map(|entry| digest_of(&entry)).collect();
    assert_eq!(seen, pushed);
}

#[test]
fn entries_of_earlier_versions_are_listed_one_a_page() {
    let registry = TestRegistry::new();
    let mut referrers = push_referrers(&registry);
    // As long as the annotations of a manifest could be, many short ones, and one that is broken.
    let annotations: String = (0..380_000).map(|n| format!("\"{n:x}\":\"\",")).collect();
    for n in 0..2 {
        let digest = sha256(n.to_string());
        let text = format!(
            r#"{{"mediaType":"{INDEX}","digest":"{digest}","size":1,"annotations":{{{annotations}"":""}}}}"#
        );
        assert!(text.len() > 3_900_000);
        put_entry(&registry, &digest, text);
        referrers.push(json!({"digest": digest}));
    }
    put_entry(&registry, &sha256("broken"), "{".to_owned());
    referrers.sort_by_key(digest_of);
    let pages = registry.pages(&target(""));
    assert!(pages.iter().all(|page| page.body.len() <= 4 * 1024 * 1024 + 1024));
    let seen: Vec<String> = pages.iter().flat_map(entries).map(|entry| digest_of(&entry)).collect();
    assert_eq!(seen, referrers.iter().map(digest_of).collect::<Vec<_>>());
    let (calls, _) = registry.calls(&format!("GET {}", target("")), &[]);
    assert!(calls.iter().filter(|call| **call == "get").count() <= 4, "{calls:?}");
}

/// Writes an entry of the list, as this registry or an earlier version does.
fn put_entry(registry: &TestRegistry, referrer: &Digest, content: String) {
    let (name, subject) = ("a".parse().unwrap(), sha256("subject"));
    let path = Key::Referrer { name: &name, subject: &subject, referrer }.path();
    let body = pierhead::platform::Body::Bytes(content.into());
    block_on(registry.storage.memory.put(&path, body, PutOptions::default())).unwrap();
}

#[test]
fn the_filter_ignores_case() {
    let registry = TestRegistry::new();
    push_referrers(&registry);
    let (listed, _) = list(&registry, "?artifactType=Application%2FSIG");
    assert_eq!((listed.len(), &listed[0]["artifactType"]), (1, &json!("application/sig")));
}

#[test]
fn a_deleted_referrer_is_not_listed() {
    let registry = TestRegistry::new();
    let mut referrers = push_referrers(&registry);
    while let Some(gone) = referrers.pop() {
        let digest: Digest = digest_of(&gone).parse().unwrap();
        assert_eq!(registry.get(&format!("DELETE /v2/a/manifests/{digest}")).status, 202);
        assert_eq!(list(&registry, "").0, referrers);
    }
}

#[test]
fn a_referrer_of_an_unknown_type_is_listed() {
    let registry = TestRegistry::new();
    let media_type = "application/vnd.example.thing+json";
    let pushed = push_referrer(&registry, media_type, json!({"artifactType": "application/thing"}));
    let expected = [with(pushed, json!({"artifactType": "application/thing"}))];
    assert_eq!(list(&registry, "").0, expected);
    // A tag on it adds no second entry.
    let content = registry.get(&format!("GET /v2/a/manifests/{}", digest_of(&expected[0]))).body;
    registry.push_manifest("a", "v1", media_type, &String::from_utf8(content).unwrap());
    assert_eq!(list(&registry, "").0, expected);
}
