//! Every change of manifests, tags and links, with each of its storage calls failing in turn. What was acknowledged
//! before holds, the same request repeated succeeds, and what is listed can be pulled and removed.

use std::collections::BTreeMap;

use pierhead::platform::memory::MemoryStream;
use serde_json::{Value, json};

use crate::{
    fixtures::{IMAGE, descriptor, image, sha256},
    support::{Answer, Fault, TestRegistry},
    table::assert_well_formed,
};

const KINDS: [Fault; 3] = [Fault::Error, Fault::Busy, Fault::Timeout];

/// An image with other annotations, and perhaps a subject.
fn variant(of: &str, subject: Option<&str>) -> String {
    let mut variant: Value = serde_json::from_str(&image(&["layer"])).unwrap();
    variant["annotations"] = json!({"of": of});
    if let Some(subject) = subject {
        variant["subject"] = descriptor(IMAGE, subject);
    }
    variant.to_string()
}

/// The image under `v1` and `old`.
fn base() -> String {
    image(&["layer"])
}

/// Its referrer, under `referrer`.
fn referrer() -> String {
    variant("referrer", Some(&base()))
}

fn another() -> String {
    variant("another", None)
}

fn attached() -> String {
    variant("attached", Some(&base()))
}

/// Content by reference; `None` for nothing.
type Expected = Vec<(String, Option<String>)>;

/// A request in the repository `a`.
struct Operation {
    name: &'static str,
    line: String,
    body: Option<String>,
    /// The status of a first success, and of a repeated request.
    statuses: [u16; 2],
    /// What must hold whatever happens.
    kept: Expected,
    /// What must hold after a success.
    after: Expected,
}

fn operations() -> Vec<Operation> {
    let has = |content: String, references: &[&str]| -> Expected {
        references.iter().map(|reference| ((*reference).to_owned(), Some(content.clone()))).collect()
    };
    let lacks = |references: &[&str]| -> Expected {
        references.iter().map(|reference| ((*reference).to_owned(), None)).collect()
    };
    let [of_base, of_another, of_attached, of_referrer] =
        [base(), another(), attached(), referrer()].map(|content| sha256(content).to_string());
    let put = |name, reference: &str, body: String, kept: Expected, after: Expected| Operation {
        name,
        line: format!("PUT /v2/a/manifests/{reference}"),
        body: Some(body),
        statuses: [201, 201],
        kept,
        after,
    };
    let delete = |name, path: &str, kept: Expected, after: Expected| Operation {
        name,
        line: format!("DELETE /v2/a/{path}"),
        body: None,
        statuses: [202, 404],
        kept,
        after,
    };
    let all = || [has(base(), &["v1", "old", &of_base]), has(referrer(), &["referrer"])].concat();
    let tags = format!("{of_another}?tag=x&tag=y");
    vec![
        put("push by tag", "v2", another(), all(), has(another(), &["v2", &of_another])),
        put("push by digest", &of_another, another(), all(), has(another(), &[&of_another])),
        put("push by digest with tags", &tags, another(), all(), has(another(), &["x", "y", &of_another])),
        put("push of a referrer by tag", "sbom", attached(), all(), has(attached(), &["sbom", &of_attached])),
        put(
            "push of a referrer by digest",
            &of_attached,
            attached(),
            all(),
            has(attached(), &[&of_attached]),
        ),
        put("another tag", "v2", base(), all(), has(base(), &["v2"])),
        put(
            "move of a tag",
            "v1",
            another(),
            has(base(), &["old", &of_base]),
            has(another(), &["v1", &of_another]),
        ),
        delete("deletion of a tag", "manifests/v1", has(base(), &["old", &of_base]), lacks(&["v1"])),
        delete(
            "deletion of a manifest",
            &format!("manifests/{of_base}"),
            has(referrer(), &["referrer", &of_referrer]),
            lacks(&["v1", "old", &of_base]),
        ),
        delete(
            "deletion of a referrer",
            &format!("manifests/{of_referrer}"),
            has(base(), &["v1", "old"]),
            lacks(&["referrer", &of_referrer]),
        ),
        delete("deletion of a blob", &format!("blobs/{}", sha256("loose")), all(), Vec::new()),
        Operation {
            name: "mount",
            line: format!("POST /v2/a/blobs/uploads/?mount={}&from=b", sha256("of b")),
            body: None,
            statuses: [201, 201],
            kept: all(),
            after: Vec::new(),
        },
        Operation {
            name: "fsck",
            line: "POST /v2/_pierhead/jobs/fsck/run".into(),
            body: None,
            statuses: [200, 200],
            kept: all(),
            after: Vec::new(),
        },
    ]
}

fn world() -> TestRegistry {
    let registry = TestRegistry::new();
    for tag in ["v1", "old"] {
        registry.push_image("a", tag, "layer");
    }
    registry.push_manifest("a", "referrer", IMAGE, &referrer());
    registry.push_blob("a", "loose");
    registry.push_blob("b", "of b");
    registry.run_background();
    registry
}

fn send(registry: &TestRegistry, operation: &Operation) -> Answer {
    let body = operation.body.clone().map(MemoryStream::new);
    let answer = registry.send(&operation.line, &[("content-type", IMAGE)], body);
    registry.run_background();
    assert_well_formed(&operation.line, &answer);
    answer
}

fn assert_state(registry: &TestRegistry, expected: &Expected, about: &str) {
    for (reference, content) in expected {
        let answer = registry.get(&format!("GET /v2/a/manifests/{reference}"));
        let status = if content.is_some() { 200 } else { 404 };
        assert_eq!(answer.status, status, "{about}: {reference}");
        if let Some(content) = content {
            assert_eq!(answer.body, content.as_bytes(), "{about}: {reference}");
        }
    }
}

fn tags(registry: &TestRegistry) -> Vec<String> {
    let list = registry.get("GET /v2/a/tags/list").json();
    list["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

fn referrers(registry: &TestRegistry) -> Vec<String> {
    let list = registry.get(&format!("GET /v2/a/referrers/{}", sha256(base()))).json();
    list["manifests"].as_array().unwrap().iter().map(|of| of["digest"].as_str().unwrap().into()).collect()
}

/// What is listed can be pulled.
fn assert_listed(registry: &TestRegistry, about: &str) {
    for reference in [tags(registry), referrers(registry)].concat() {
        let answer = registry.get(&format!("GET /v2/a/manifests/{reference}"));
        assert_eq!(answer.status, 200, "{about}: {reference} is listed");
    }
}

/// It can be removed, and is gone then.
fn assert_removed(registry: &TestRegistry, about: &str) {
    for list in [tags, referrers] {
        for reference in list(registry) {
            let answer = registry.get(&format!("DELETE /v2/a/manifests/{reference}"));
            assert_eq!(answer.status, 202, "{about}: {reference} is listed");
        }
        assert_eq!(list(registry), Vec::<String>::new(), "{about}");
    }
}

/// Runs an operation with the call `at` failing. Returns whether that left the change half-way; `None` if the operation
/// makes fewer calls.
fn run(operation: &Operation, at: usize, kind: Fault, recovers: bool) -> Option<bool> {
    let about = format!("{}, {kind:?} at call {at}", operation.name);
    let registry = world();
    registry.storage.fail_at(Some((at, kind)));
    let answer = send(&registry, operation);
    let calls = registry.storage.calls.borrow().len();
    registry.storage.fail_at(None);
    let [done, again] = operation.statuses;
    let status = answer.status.as_u16();
    assert!([done, 500, 503].contains(&status), "{about}: {answer:?}");
    assert_state(&registry, &operation.kept, &about);
    if status == done {
        assert_state(&registry, &operation.after, &about);
    }
    let is_interrupted = status != done && registry.writers.records() > 0;
    if recovers {
        registry.recover();
        assert_state(&registry, &operation.kept, &format!("{about}, recovered"));
        if status == done || is_interrupted {
            assert_state(&registry, &operation.after, &format!("{about}, recovered"));
        }
        assert_listed(&registry, &format!("{about}, recovered"));
    }
    let answer = send(&registry, operation);
    assert!([done, again].contains(&answer.status.as_u16()), "{about}, repeated: {answer:?}");
    for expected in [&operation.kept, &operation.after] {
        assert_state(&registry, expected, &format!("{about}, repeated"));
    }
    assert_listed(&registry, &format!("{about}, repeated"));
    if recovers {
        registry.recover();
        for expected in [&operation.kept, &operation.after] {
            assert_state(&registry, expected, &format!("{about}, repeated and recovered"));
        }
    }
    registry.check_content();
    assert_removed(&registry, &about);
    registry.recover();
    assert_eq!((tags(&registry), referrers(&registry)), (Vec::new(), Vec::new()), "{about}, removed");
    (calls > at).then_some(is_interrupted)
}

#[test]
fn every_change_survives_a_failure_of_any_call() {
    let (mut cases, mut interrupted) = (BTreeMap::new(), BTreeMap::new());
    for operation in operations() {
        for kind in KINDS {
            for recovers in [false, true] {
                let run: Vec<_> = (0..100).map_while(|at| run(&operation, at, kind, recovers)).collect();
                *cases.entry((operation.name, format!("{kind:?}"))).or_insert(0) += run.len();
                *interrupted.entry(operation.name).or_insert(0) += run.iter().filter(|is| **is).count();
            }
        }
    }
    println!("{cases:?}, interrupted: {interrupted:?}");
    assert!(cases.values().all(|reached| *reached >= 4), "{cases:#?}");
    // A mount changes nothing through the writer, nor does a check that finds nothing wrong.
    let is_interrupted = |(name, count): (&&str, &usize)| ["mount", "fsck"].contains(name) || *count > 0;
    assert!(interrupted.iter().all(is_interrupted), "{interrupted:#?}");
}

/// The link of a blob is written without the writer: what a deletion does later must not remove a newer one.
#[test]
fn a_blob_pushed_after_its_deletion_stays() {
    let line = format!("DELETE /v2/a/blobs/{}", sha256("loose"));
    for kind in KINDS {
        for at in 0..10 {
            let about = format!("{kind:?} at call {at}");
            let registry = world();
            registry.storage.fail_at(Some((at, kind)));
            let deleted = registry.get(&line).status.as_u16();
            registry.storage.fail_at(None);
            assert!([202, 500, 503].contains(&deleted), "{about}: {deleted}");
            let again = registry.get(&line).status.as_u16();
            assert!([202, 404].contains(&again), "{about}: {again}");
            let digest = registry.push_blob("a", "loose");
            registry.recover();
            assert_eq!(registry.get(&format!("GET /v2/a/blobs/{digest}")).status, 200, "{about}");
        }
    }
}
