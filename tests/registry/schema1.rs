//! Manifests of Docker's schema 1: in a bucket as `distribution` 2.4 wrote it, and pushed.

use futures_executor::block_on;
use pierhead::{
    jobs::{Collect, Fsck, Job},
    layout::Key,
    oci::{Algorithm as Hash, Digest, RepositoryName},
    platform::{Body, memory::MemoryStream, verifier::Algorithm},
    storage::{Path, PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    collect::{DAY, collection},
    fixtures::{IMAGE, image, sha256},
    issuer::{Signer, encode},
    signed::{LAYOUTS, Signature, cut, payload, signed},
    support::{Answer, Fault, Persistent, TestRegistry},
};

const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Rs256, Algorithm::Es384];

fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

fn full() -> TestRegistry {
    TestRegistry::with(&[("SCHEMA1", "full")], Persistent::default())
}

fn signer(algorithm: Algorithm) -> Signer {
    Signer::new("", algorithm)
}

impl TestRegistry {
    fn write(&self, key: Key<'_>, content: impl Into<String>) {
        let body = Body::Bytes(content.into().into());
        block_on(self.storage.memory.put(&key.path(), body, PutOptions::default())).unwrap();
    }

    /// Writes an image as `distribution` 2.4 did it.
    fn write_old(&self, repository: &str, tag: &str, payload: &str, signatures: &[Signature]) -> Digest {
        let (name, tag, manifest) = (name(repository), tag.parse().unwrap(), sha256(payload));
        for signature in signatures {
            let (blob, signature) = (signature.blob(), sha256(signature.blob()));
            self.write(Key::Data(&signature), blob);
            let key = Key::Signature { name: &name, manifest: &manifest, signature: &signature };
            self.write(key, signature.to_string());
        }
        self.write(Key::Data(&manifest), payload);
        for key in [
            Key::Revision(&name, &manifest),
            Key::TagCurrent(&name, &tag),
            Key::TagIndex(&name, &tag, &manifest),
        ] {
            self.write(key, manifest.to_string());
        }
        manifest
    }

    /// Writes the layers of an image as `distribution` did it.
    fn write_layers(&self, repository: &str, layers: &[&str]) {
        for layer in layers {
            self.write(Key::Data(&sha256(layer)), *layer);
            self.write(Key::Layer(&name(repository), &sha256(layer)), sha256(layer).to_string());
        }
    }

    fn pull(&self, method: &str, target: &str, accept: Option<&str>) -> Answer {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        self.send(&format!("{method} /v2/{target}"), &headers, None)
    }

    fn put(&self, target: &str, media_type: Option<&str>, text: &str) -> Answer {
        let headers: Vec<_> = media_type.map(|of| ("content-type", of)).into_iter().collect();
        let body = Some(MemoryStream::new(text.to_owned()));
        self.send(&format!("PUT /v2/{target}"), &headers, body)
    }

    /// The paths about a repository's manifests.
    fn revisions(&self, repository: &str) -> Vec<String> {
        let prefix = Key::Revisions(&name(repository)).path().folder();
        self.storage.memory.paths().into_iter().filter(|path| path.starts_with(&prefix)).collect()
    }
}

/// Asserts that a pull gives this text.
fn assert_served(
    registry: &TestRegistry,
    target: &str,
    accept: Option<&str>,
    served: (&str, &str),
    digest: &Digest,
) {
    let (media_type, text) = served;
    let get = registry.pull("GET", target, accept);
    assert_eq!(get.status, 200, "{get:?}");
    assert_eq!(String::from_utf8(get.body.clone()).unwrap(), text);
    let head = registry.pull("HEAD", target, accept);
    assert!(head.body.is_empty());
    for answer in [get, head] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), media_type);
        assert_eq!(answer.header("content-length"), text.len().to_string());
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert_eq!(answer.header("vary"), "accept");
        // Signatures are added.
        assert_eq!(answer.header("cache-control"), "private, no-cache, no-transform");
    }
}

#[test]
fn an_old_bucket_is_served_as_its_registry_did() {
    for layout in LAYOUTS {
        let registry = TestRegistry::new();
        let payload = payload("team/old", "v1", &["a", "b", "a"], layout);
        let signatures: Vec<Signature> =
            ALGORITHMS.iter().map(|algorithm| Signature::new(&signer(*algorithm), &payload)).collect();
        for count in 1..=signatures.len() {
            let signatures = &signatures[..count];
            let digest = registry.write_old("team/old", "v1", &payload, signatures);
            let text = signed(&payload, signatures, layout.0);
            serde_json::from_str::<Value>(&text).unwrap();
            for reference in ["v1", &digest.to_string()] {
                let target = format!("team/old/manifests/{reference}");
                let any = Some("application/vnd.oci.image.manifest.v1+json, */*;q=0.1");
                for accept in [None, Some(SIGNED), any, Some(&format!("{UNSIGNED}, {SIGNED}"))] {
                    assert_served(&registry, &target, accept, (SIGNED, &text), &digest);
                }
                assert_served(&registry, &target, Some(UNSIGNED), (UNSIGNED, &payload), &digest);
            }
        }
    }
}

#[test]
fn a_certificate_and_a_key_sign_together() {
    let registry = TestRegistry::new();
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let certified = Signature::certified(&signer(Algorithm::Es384), &payload);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload), certified];
    let digest = registry.write_old("a", "v1", &payload, &signatures);
    let text = signed(&payload, &signatures, LAYOUTS[0].0);
    assert_served(&registry, "a/manifests/v1", None, (SIGNED, &text), &digest);
}

#[test]
fn signatures_that_are_gone_are_left_out() {
    let registry = TestRegistry::new();
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let other = payload.replace("amd64", "arm64");
    let (one, two) = (
        Signature::new(&signer(Algorithm::Es256), &payload),
        Signature::new(&signer(Algorithm::Es256), &payload),
    );
    let digest = registry.write_old("a", "v1", &payload, &[one.clone(), two.clone()]);
    // What is no signature of it, another registry may have linked all the same.
    let manifest = sha256(&payload);
    let bad = [
        "not json".to_owned(),
        Signature::new(&signer(Algorithm::Es256), &other).blob().replace(&one.protected, ""),
        Signature::with(&signer(Algorithm::Es256), &payload, &json!({"formatLength": 3, "formatTail": ""}))
            .blob(),
        "x".repeat(40_000),
    ];
    for blob in bad {
        registry.write(Key::Data(&sha256(&blob)), blob.clone());
        let signature = sha256(&blob);
        let key = Key::Signature { name: &name("a"), manifest: &manifest, signature: &signature };
        registry.write(key, signature.to_string());
    }
    let serve = |signatures: &[Signature]| {
        let text = signed(&payload, signatures, LAYOUTS[0].0);
        let served =
            if signatures.is_empty() { (UNSIGNED, payload.as_str()) } else { (SIGNED, text.as_str()) };
        let registry = TestRegistry::with(
            &[],
            Persistent { storage: registry.storage.clone(), ..Persistent::default() },
        );
        assert_served(&registry, "a/manifests/v1", None, served, &digest);
        assert_served(&registry, &format!("a/manifests/{digest}"), None, served, &digest);
    };
    serve(&[one.clone(), two.clone()]);
    let delete = |signature: &Signature| {
        let path = Key::Data(&sha256(signature.blob())).path();
        block_on(registry.storage.memory.delete(&[path])).unwrap();
    };
    delete(&one);
    serve(std::slice::from_ref(&two));
    delete(&two);
    serve(&[]);
}

#[test]
fn a_conditional_pull_considers_what_is_asked_for() {
    let registry = full();
    let text_of = |repository: &str| {
        let payload = payload(repository, "v1", &["a"], LAYOUTS[0]);
        let signature = Signature::new(&signer(Algorithm::Es256), &payload);
        (
            sha256(&payload),
            signed(&payload, std::slice::from_ref(&signature), LAYOUTS[0].0),
            payload,
            signature,
        )
    };
    let (old, _, payload, signature) = text_of("old");
    registry.write_old("old", "v1", &payload, &[signature]);
    registry.push_blob("new", "a");
    let (new, text, ..) = text_of("new");
    assert_eq!(registry.put("new/manifests/v1", Some(SIGNED), &text).status, 201);
    for (repository, digest) in [("old", old), ("new", new)] {
        for reference in ["v1", &digest.to_string()] {
            let etag = format!("\"{digest}\"");
            let get = |accept: &str| {
                let headers = [("accept", accept), ("if-none-match", etag.as_str())];
                registry.send(&format!("GET /v2/{repository}/manifests/{reference}"), &headers, None)
            };
            // The client may have the payload, or the text with fewer signatures, of the same digest.
            for accept in [SIGNED, UNSIGNED] {
                let answer = get(accept);
                assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, accept));
                assert_eq!(answer.header("etag"), etag);
                assert!(!answer.header("cache-control").contains("immutable"), "{answer:?}");
            }
        }
    }
    // Other manifests do not change with what is accepted, and pay nothing.
    let digest = registry.push_image("b", "v1", "layer");
    for accept in [SIGNED, UNSIGNED, IMAGE] {
        let (calls, answer) = registry.calls("HEAD /v2/b/manifests/v1", &[("accept", accept)]);
        assert_eq!(
            (calls.as_slice(), answer.status.as_u16(), answer.header("vary")),
            (&["get"][..], 200, "")
        );
        let etag = format!("\"{digest}\"");
        let headers = [("accept", accept), ("if-none-match", etag.as_str())];
        assert_eq!(registry.send("GET /v2/b/manifests/v1", &headers, None).status, 304);
    }
}

#[test]
fn an_image_of_another_registry_is_known_whatever_is_accepted() {
    let registry = TestRegistry::new();
    let content = image(&["layer"]).replace(&format!("\"mediaType\":\"{IMAGE}\","), "");
    let digest = registry.write_old("a", "v1", &content, &[]);
    let etag = format!("\"{digest}\"");
    for accept in [UNSIGNED, IMAGE] {
        let headers = [("accept", accept), ("if-none-match", etag.as_str())];
        assert_eq!(registry.send("GET /v2/a/manifests/v1", &headers, None).status, 304);
        let answer = registry.pull("GET", "a/manifests/v1", Some(accept));
        assert_eq!((answer.header("content-type"), answer.header("vary")), (IMAGE, ""));
    }
}

#[test]
fn a_pushed_manifest_is_stored_under_the_digest_of_its_payload() {
    for (n, algorithm) in ALGORITHMS.into_iter().enumerate() {
        let registry = full();
        let layout = LAYOUTS[n];
        registry.push_blob("team/app", "a");
        registry.push_blob("team/app", "b");
        let payload = payload("team/app", "v1", &["a", "b"], layout);
        let one = Signature::new(&signer(algorithm), &payload);
        let text = signed(&payload, std::slice::from_ref(&one), layout.0);
        let digest = sha256(&payload);
        // The type of docker 1.9, which sends none, as well.
        for media_type in [Some(SIGNED), Some("application/json; charset=utf-8"), Some(UNSIGNED), None] {
            let answer = registry.put("team/app/manifests/v1", media_type, &text);
            assert_eq!(answer.status, 201, "{answer:?}");
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("location"), format!("/v2/team/app/manifests/{digest}"));
        }
        assert_served(&registry, "team/app/manifests/v1", None, (SIGNED, &text), &digest);
        assert_served(&registry, &format!("team/app/manifests/{digest}"), None, (SIGNED, &text), &digest);
        assert_served(&registry, "team/app/manifests/v1", Some(UNSIGNED), (UNSIGNED, &payload), &digest);
        let name = name("team/app");
        let signature = sha256(one.blob());
        let link = Key::Signature { name: &name, manifest: &digest, signature: &signature };
        for path in [Key::Data(&digest), Key::Data(&signature), Key::Revision(&name, &digest), link] {
            assert!(registry.storage.memory.paths().contains(&path.to_string()), "{path}");
        }

        // Another signature is added, by another isolate, by digest, with the tag in the query.
        let other = TestRegistry::with(
            &[("SCHEMA1", "full")],
            Persistent { storage: registry.storage.clone(), ..Persistent::default() },
        );
        let two = Signature::certified(&signer(Algorithm::Es384), &payload);
        let text = signed(&payload, std::slice::from_ref(&two), layout.0);
        let answer = other.put(&format!("team/app/manifests/{digest}?tag=v1"), Some(SIGNED), &text);
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = signed(&payload, &[one, two], layout.0);
        assert_served(&registry, "team/app/manifests/v1", None, (SIGNED, &text), &digest);
        assert_eq!(registry.put("team/app/manifests/v1", Some(SIGNED), &text).status, 201);
        assert_served(&registry, "team/app/manifests/v1", None, (SIGNED, &text), &digest);
        assert_eq!(registry.revisions("team/app").len(), 3);
        // A signature belongs to one manifest.
        let sha512 = Hash::Sha512.digest(payload.as_bytes());
        let answer = registry.put(&format!("team/app/manifests/{sha512}"), Some(SIGNED), &text);
        assert_eq!((answer.status.as_u16(), answer.codes()), (400, vec!["MANIFEST_INVALID".to_owned()]));
        assert_eq!(registry.code(&format!("GET /v2/team/app/manifests/{sha512}")), 404);
    }
}

/// A signed manifest for `a/manifests/v1`.
fn text_of(payload: &str, signatures: &[Signature]) -> String {
    signed(payload, signatures, LAYOUTS[0].0)
}

#[test]
fn what_is_not_signed_well_is_refused() {
    let registry = full();
    registry.push_blob("a", "a");
    let before = registry.storage.memory.paths();
    let (key, rsa) = (signer(Algorithm::Es256), signer(Algorithm::Rs256));
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let good = Signature::new(&key, &payload);
    let text = text_of(&payload, std::slice::from_ref(&good));
    let change = |change: &dyn Fn(&mut Signature)| {
        let mut signature = good.clone();
        change(&mut signature);
        text_of(&payload, &[signature])
    };
    let with = |protected: Value| {
        // It is written by hand: such a cut gives no payload.
        change(&|signature| *signature = Signature::with(&key, &payload, &protected))
    };
    let (length, tail) = (cut(&payload), encode("\n}"));
    let unverified = "MANIFEST_UNVERIFIED";
    let refused = |what: &str, code: &str, text: &str| {
        for reference in ["v1", &sha256(&payload).to_string()] {
            let answer = registry.put(&format!("a/manifests/{reference}"), Some(SIGNED), text);
            assert_eq!(answer.status, 400, "{what}: {answer:?}");
            let is_of_another = answer.codes() == ["DIGEST_INVALID"] && reference != "v1";
            assert!(answer.codes() == [code] || is_of_another, "{what}: {answer:?}");
        }
    };
    let forged = |from: &str, to: &str| text.replacen(from, to, 1);
    refused("an architecture that was changed", unverified, &forged("amd64", "arm64"));
    refused("a layer that was changed", unverified, &forged(sha256("a").hex(), sha256("b").hex()));
    refused(
        "the key of another",
        unverified,
        &change(&|one| one.jwk = crate::signed::jwk(&signer(Algorithm::Es256))),
    );
    refused("a key of another kind", unverified, &change(&|one| one.jwk = crate::signed::jwk(&rsa)));
    refused("another algorithm", unverified, &change(&|one| one.algorithm = "RS256".to_owned()));
    refused("none", unverified, &change(&|one| one.algorithm = "none".to_owned()));
    refused("no key", unverified, &change(&|one| one.jwk.clear()));
    refused("a wrong fingerprint", unverified, &forged("\"kid\": \"", "\"kid\": \"A"));
    refused("half a signature", unverified, &change(&|one| one.signature.truncate(43)));
    refused("no signature", unverified, &change(&|one| one.signature.clear()));
    refused("no base64", unverified, &change(&|one| one.signature = "a+/=".to_owned()));
    refused("no certificate", unverified, &change(&|one| one.chain = vec!["AAAA".to_owned()]));
    let other = Signature::certified(&signer(Algorithm::Es256), &payload);
    refused("the certificate of another", unverified, &change(&|one| one.chain = other.chain.clone()));
    refused("no protected header", unverified, &change(&|one| one.protected.clear()));
    refused("a header without a length", unverified, &with(json!({"formatTail": tail})));
    refused("a header without a tail", unverified, &with(json!({"formatLength": length})));
    refused("a length of text", unverified, &with(json!({"formatLength": "1", "formatTail": tail})));
    refused("a negative length", unverified, &with(json!({"formatLength": -1, "formatTail": tail})));
    for wrong in [0, 1, length - 1, length + 1, text.len(), text.len() + 1, usize::MAX] {
        refused("a wrong length", unverified, &with(json!({"formatLength": wrong, "formatTail": tail})));
    }
    refused("another tail", unverified, &with(json!({"formatLength": length, "formatTail": encode("}")})));
    // The manifest as it is shown is not the payload.
    let hidden = with(json!({"formatLength": 0, "formatTail": encode(&payload)}));
    assert_eq!(registry.put("a/manifests/v1", Some(SIGNED), &hidden.replace("amd64", "arm64")).status, 201);
    assert_eq!(registry.pull("GET", "a/manifests/v1", Some(UNSIGNED)).body, payload.as_bytes());
    registry.get(&format!("DELETE /v2/a/manifests/{}", sha256(&payload)));
    let conflict = [good.clone(), Signature::at(&key, &payload, length + 1)];
    refused("signatures that do not agree", unverified, &text_of(&payload, &conflict));
    let and_wrong =
        Signature { signature: encode([7; 64]), ..Signature::new(&signer(Algorithm::Es256), &payload) };
    refused("one good and one wrong", unverified, &text_of(&payload, &[good.clone(), and_wrong]));
    let many: Vec<Signature> = (0..17).map(|_| Signature::new(&key, &payload)).collect();
    refused("too many", unverified, &text_of(&payload, &many));
    refused("unsigned", unverified, &payload);
    refused("no signatures", unverified, &text_of(&payload, &[]));
    refused("text that was cut", "MANIFEST_INVALID", &text[..text.len() - 9]);
    let answer = registry.put("a/manifests/v1", Some(UNSIGNED), &payload);
    assert!(
        answer.codes() == [unverified] && String::from_utf8_lossy(&answer.body).contains("--format v2s2")
    );

    // Well signed, but not for here.
    let sign = |payload: &str| text_of(payload, &[Signature::new(&key, payload)]);
    let refused = |target: &str, code: &str, payload: &str| {
        let answer = registry.put(target, Some(SIGNED), &sign(payload));
        assert_eq!((answer.status.as_u16(), answer.codes()), (400, vec![code.to_owned()]), "{answer:?}");
        answer
    };
    let invalid = "MANIFEST_INVALID";
    let digest = sha256(&payload);
    refused("a/manifests/v2", invalid, &payload);
    refused("b/manifests/v1", invalid, &payload);
    refused(&format!("b/manifests/{digest}"), invalid, &payload);
    refused(&format!("a/manifests/{digest}?tag=v2"), invalid, &payload);
    refused(&format!("a/manifests/{}", sha256(&text)), "DIGEST_INVALID", &payload);
    for (from, to) in [
        ("\"history\": [{", "\"history\": [{\"v1Compatibility\":\"\"},{"),
        ("\"schemaVersion\": 1", "\"schemaVersion\": 2"),
        ("\"schemaVersion\": 1", "\"schemaVersion\": null"),
        ("\"name\"", "\"Name\""),
        ("\"tag\"", "\"Tag\""),
        ("\"blobSum\"", "\"blob\""),
        ("\"v1Compatibility\"", "\"v1\""),
        ("sha256:", "md5:"),
    ] {
        refused("a/manifests/v1", invalid, &payload.replacen(from, to, 1));
    }
    refused("a/manifests/v1", invalid, &payload.replacen("\"tag\"", "\"signatures\": 1, \"tag\"", 1));
    let empty = crate::signed::payload("a", "v1", &[], LAYOUTS[0]);
    refused("a/manifests/v1", invalid, &empty);
    let missing = crate::signed::payload("a", "v1", &["a", "gone"], LAYOUTS[0]);
    let answer = refused("a/manifests/v1", "MANIFEST_BLOB_UNKNOWN", &missing);
    assert_eq!(answer.errors()[0]["detail"]["digest"], sha256("gone").to_string());
    let large = payload.replacen("amd64", &"x".repeat(1 << 20), 1);
    refused("a/manifests/v1", invalid, &large);
    let linked = |path: &&String| path.contains("/_manifests/");
    assert_eq!(
        registry.storage.memory.paths().iter().filter(linked).count(),
        before.iter().filter(linked).count()
    );
}

#[test]
fn a_manifest_with_the_key_of_a_certificate_is_pushed() {
    let registry = full();
    registry.push_blob("a", "a");
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    for algorithm in ALGORITHMS {
        let text = text_of(&payload, &[Signature::certified(&signer(algorithm), &payload)]);
        let answer = registry.put("a/manifests/v1", Some(SIGNED), &text);
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

#[test]
fn a_setting_decides_what_is_served_and_taken() {
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let one = Signature::new(&signer(Algorithm::Es256), &payload);
    let text = text_of(&payload, std::slice::from_ref(&one));
    for (vars, reads, writes) in [
        (vec![], 200, 400),
        (vec![("SCHEMA1", "read")], 200, 400),
        (vec![("SCHEMA1", "full")], 200, 201),
        (vec![("SCHEMA1", "off")], 404, 400),
    ] {
        let registry = TestRegistry::with(&vars, Persistent::default());
        let digest = registry.write_old("a", "v1", &payload, std::slice::from_ref(&one));
        registry.write_layers("a", &["a"]);
        for (media_type, text) in [(Some(SIGNED), &text), (None, &text), (Some("application/json"), &text)] {
            for reference in ["v1", &digest.to_string()] {
                let answer = registry.put(&format!("a/manifests/{reference}"), media_type, text);
                assert_eq!(answer.status, writes, "{answer:?}");
                let body = String::from_utf8(answer.body.clone()).unwrap();
                assert!(writes == 201 || answer.codes() == ["MANIFEST_INVALID"], "{body}");
                assert!(writes == 201 || body.contains("skopeo copy --format v2s2"), "{body}");
            }
        }
        // The links have metadata now, if it was pushed.
        for method in ["HEAD", "GET"] {
            for reference in ["v1", &digest.to_string()] {
                for accept in [SIGNED, UNSIGNED] {
                    let etag = format!("\"{digest}\"");
                    let headers = [("accept", accept), ("if-none-match", etag.as_str())];
                    let line = format!("{method} /v2/a/manifests/{reference}");
                    let known = registry.send(&line, &headers, None);
                    let answer = registry.send(&line, &headers[..1], None);
                    assert_eq!(answer.status, reads, "{answer:?}");
                    assert_eq!(known.status, reads, "{known:?}");
                    if reads == 404 && method == "GET" {
                        assert_eq!(answer.codes(), ["MANIFEST_UNKNOWN"]);
                        assert!(String::from_utf8_lossy(&answer.body).contains("SCHEMA1"));
                    }
                }
            }
        }
        // It can be deleted in any case.
        assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{digest}")), 202);
        assert_eq!(registry.revisions("a"), [""; 0]);
    }
}

#[test]
fn what_an_earlier_version_stored_whole_is_served_whole() {
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let text = text_of(&payload, &[Signature::new(&signer(Algorithm::Es256), &payload)]);
    let registry = TestRegistry::new();
    let digest = registry.write_old("a", "v1", &text, &[]);
    for accept in [None, Some(UNSIGNED)] {
        assert_served(&registry, "a/manifests/v1", accept, (SIGNED, &text), &digest);
    }
}

#[test]
fn a_push_that_was_interrupted_anywhere_is_repeated() {
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let one = Signature::new(&signer(Algorithm::Es256), &payload);
    let text = text_of(&payload, std::slice::from_ref(&one));
    let digest = sha256(&payload);
    for fault in [Fault::Error, Fault::Timeout] {
        for n in 0.. {
            let registry = full();
            registry.push_blob("a", "a");
            registry.storage.fail_at(Some((n, fault)));
            let first = registry.put("a/manifests/v1", Some(SIGNED), &text);
            let calls = registry.storage.calls.borrow().len();
            registry.storage.fail_at(None);
            if first.status != 201 {
                // What can be pulled has its signature.
                let early = registry.pull("GET", "a/manifests/v1", None);
                assert!(early.status == 404 || early.body == text.as_bytes(), "{n}, {fault:?}: {early:?}");
            }
            registry.recover();
            assert_eq!(registry.put("a/manifests/v1", Some(SIGNED), &text).status, 201, "{n}, {fault:?}");
            assert_served(&registry, "a/manifests/v1", None, (SIGNED, &text), &digest);
            if n >= calls {
                assert!(n > 8, "{n}");
                break;
            }
        }
    }
}

#[test]
fn a_collection_keeps_the_signatures_of_what_is_there() {
    for hides_metadata in [false, true] {
        let registry = full();
        registry.storage.hides_metadata.set(hides_metadata);
        // An old image, one of whose signatures is gone; a new one; and a new one of the same layers.
        registry.write_layers("old", &["a", "b"]);
        let old_payload = payload("old", "v1", &["a", "b"], LAYOUTS[0]);
        let signatures: Vec<Signature> =
            (0..3).map(|_| Signature::new(&signer(Algorithm::Es256), &old_payload)).collect();
        let old = registry.write_old("old", "v1", &old_payload, &signatures);
        let gone = sha256(signatures[2].blob());
        block_on(registry.storage.memory.delete(&[Key::Data(&gone).path()])).unwrap();
        registry.push_blob("new", "a");
        let new_payload = payload("new", "v1", &["a"], LAYOUTS[1]);
        let signature = Signature::new(&signer(Algorithm::Es384), &new_payload);
        let new_text = signed(&new_payload, std::slice::from_ref(&signature), "");
        assert_eq!(registry.put("new/manifests/v1", Some(SIGNED), &new_text).status, 201);
        registry.settle();
        let (old_text, new) = (signed(&old_payload, &signatures[..2], LAYOUTS[0].0), sha256(&new_payload));
        // Condemned by somebody who does not know better.
        for signature in [&signatures[0], &signature] {
            let context = registry.context(pierhead::auth::Principal::Job("test"));
            block_on(registry.app.blobs(&context).condemn(&sha256(signature.blob()))).unwrap();
        }
        let serve = |old_text: &str| {
            let registry = TestRegistry::with(
                &[("SCHEMA1", "full")],
                Persistent { storage: registry.storage.clone(), ..Persistent::default() },
            );
            assert_served(&registry, "old/manifests/v1", None, (SIGNED, old_text), &old);
            assert_served(&registry, "new/manifests/v1", None, (SIGNED, &new_text), &new);
        };
        // A layer that nobody needs goes, with the manifests looked at in the writer's turn.
        registry.push_blob("new", "unused");
        registry.collect_for_days(8);
        serve(&old_text);
        assert_eq!(registry.code(&format!("HEAD /v2/new/blobs/{}", sha256("unused"))), 404);
        assert_eq!(registry.code(&format!("HEAD /v2/old/blobs/{}", sha256("b"))), 200);
        registry.check_for_damage();

        // What is deleted goes with its signatures; the other stays.
        assert_eq!(registry.code(&format!("DELETE /v2/old/manifests/{old}")), 202);
        assert_eq!(registry.revisions("old"), [""; 0]);
        registry.collect_for_days(8);
        assert_served(&registry, "new/manifests/v1", None, (SIGNED, &new_text), &new);
        assert_eq!(registry.code(&format!("DELETE /v2/new/manifests/{new}")), 202);
        registry.collect_for_days(8);
        assert_eq!(registry.content(), [""; 0]);
    }
}

impl TestRegistry {
    /// A run of the check of both trees, which finds nothing wrong. Returns its reports.
    fn check_for_damage(&self) -> Vec<Value> {
        use pierhead::jobs::Job;
        let (mut cursor, mut reports) = (None, Vec::new());
        loop {
            let job = Fsck { is_dry_run: false, calls: 500 };
            let context = self.context(pierhead::auth::Principal::Job(job.name()));
            let step = block_on(job.step(&self.app, &context, cursor)).unwrap();
            assert_eq!(step.report["damage"], json!({}), "{}", step.report);
            assert_eq!(step.report["failed"], Value::Null, "{}", step.report);
            reports.push(step.report);
            cursor = step.next;
            if cursor.is_none() {
                return reports;
            }
        }
    }
}

#[test]
fn the_check_of_both_trees_indexes_signatures() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures: Vec<Signature> =
        (0..2).map(|_| Signature::new(&signer(Algorithm::Es256), &payload)).collect();
    registry.write_old("old", "v1", &payload, &signatures);
    let (there, gone) = (sha256(signatures[0].blob()), sha256(signatures[1].blob()));
    block_on(registry.storage.memory.delete(&[Key::Data(&gone).path()])).unwrap();
    registry.pass(DAY);
    let sum =
        |reports: &[Value], of: &str| reports.iter().filter_map(|report| report[of].as_u64()).sum::<u64>();
    for _ in 0..2 {
        let reports = registry.check_for_damage();
        assert_eq!(sum(&reports, "unused_signatures"), 1, "{reports:?}");
        assert_eq!(sum(&reports, "unused_reverse_links"), 0, "{reports:?}");
        let path = Key::ReverseLink(&there, &name("old")).path();
        let link = block_on(registry.storage.memory.head(&path)).unwrap().unwrap();
        assert_eq!(pierhead::blobs::marker::signs(&link), Some(sha256(&payload)));
        registry.pass(DAY);
    }
}

/// The signatures of `old/manifests/v1` are in the bucket: another isolate serves them.
fn assert_is_kept(registry: &TestRegistry, payload: &str, signatures: &[Signature], digest: &Digest) {
    let persistent = Persistent { storage: registry.storage.clone(), ..Persistent::default() };
    let other = TestRegistry::with(&[], persistent);
    let text = text_of(payload, signatures);
    assert_served(&other, "old/manifests/v1", None, (SIGNED, &text), digest);
}

#[test]
fn a_bucket_that_was_indexed_before_signatures_counted_is_indexed_again() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    let digest = registry.write_old("old", "v1", &payload, &signatures);
    registry.pass(DAY);
    registry.collect(&collection());
    // As the run of an earlier version has left it.
    let signature = sha256(signatures[0].blob());
    let path = Key::ReverseLink(&signature, &name("old")).path();
    block_on(registry.storage.memory.delete(&[path])).unwrap();
    let seen = Key::Collection("seen").path();
    let mut metadata = block_on(registry.storage.memory.head(&seen)).unwrap().unwrap().metadata;
    assert!(metadata.remove("signatures").is_some());
    let options = PutOptions { metadata, ..PutOptions::default() };
    block_on(registry.storage.memory.put(&seen, Body::Empty, options)).unwrap();
    registry.collect_for_days(5);
    assert_is_kept(&registry, &payload, &signatures, &digest);
}

#[test]
fn a_run_that_an_earlier_version_has_begun_begins_anew() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    let digest = registry.write_old("old", "v1", &payload, &signatures);
    registry.pass(30 * DAY);
    // It has seen the repositories, and condemned the signatures, or would do so now.
    let context = registry.context(pierhead::auth::Principal::Job("test"));
    let job = collection();
    for at in [r#"{"content":{"algorithm":"sha256","after":""}}"#, r#"{"markers":{"after":null}}"#] {
        let started = registry.app.clock.now().0;
        let mut cursor = Some(format!(r#"{{"started":{started},"at":{at}}}"#));
        loop {
            cursor = block_on(job.step(&registry.app, &context, cursor)).unwrap().next;
            registry.run_background();
            if cursor.is_none() {
                break;
            }
        }
        registry.pass(2 * DAY);
    }
    registry.collect_for_days(5);
    assert_is_kept(&registry, &payload, &signatures, &digest);
}

#[test]
fn a_signature_that_is_taken_down_is_served_no_more() {
    let registry = full();
    registry.push_blob("a", "a");
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    let signature = Signature::new(&signer(Algorithm::Es256), &payload);
    let text = signed(&payload, std::slice::from_ref(&signature), LAYOUTS[0].0);
    assert_eq!(registry.put("a/manifests/v1", Some(SIGNED), &text).status, 201);
    assert_eq!(registry.pull("GET", "a/manifests/v1", None).header("content-type"), SIGNED);
    let line = format!("POST /v2/_pierhead/takedown?digest={}", sha256(signature.blob()));
    let reason = Some(MemoryStream::new(r#"{"reason": "a private certificate"}"#));
    let answer = registry.send(&line, &[("content-type", "application/json")], reason);
    assert!(answer.status.is_success(), "{answer:?}");
    registry.run_background();
    // This isolate still has its content in memory.
    let answer = registry.pull("GET", "a/manifests/v1", None);
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, UNSIGNED));
}

#[test]
fn more_signatures_than_a_push_may_have_are_served() {
    let registry = TestRegistry::new();
    let payload = payload("a", "v1", &["a"], LAYOUTS[0]);
    registry.write_layers("a", &["a"]);
    // As docker wrote them, which signed anew at each push.
    let signatures: Vec<Signature> =
        (0..70).map(|_| Signature::new(&signer(Algorithm::Es256), &payload)).collect();
    registry.write_old("a", "v1", &payload, &signatures);
    // However short the pages of the storage are, and with some that are gone.
    let gone: Vec<Path> = signatures[..3].iter().map(|one| Key::Data(&sha256(one.blob())).path()).collect();
    block_on(registry.storage.memory.delete(&gone)).unwrap();
    for short_pages in [None, Some(1), Some(7), Some(64)] {
        registry.storage.short_pages.set(short_pages);
        let answer = registry.pull("GET", "a/manifests/v1", None);
        let count = String::from_utf8_lossy(&answer.body).matches("\"protected\"").count();
        assert_eq!((answer.header("content-type"), count), (SIGNED, 64), "{short_pages:?}");
    }
    registry.storage.short_pages.set(Some(7));
    assert_eq!(registry.code(&format!("DELETE /v2/a/manifests/{}", sha256(&payload))), 202);
    assert_eq!(registry.revisions("a"), [""; 0]);
}

#[test]
fn links_to_signatures_that_lead_nowhere_go() {
    for short_pages in [None, Some(5)] {
        let registry = full();
        registry.storage.short_pages.set(short_pages);
        let old_payload = payload("old", "v1", &["a"], LAYOUTS[0]);
        registry.write_layers("old", &["a"]);
        let old = registry.write_old("old", "v1", &old_payload, &[]);
        let link = |manifest: &Digest, signature: &Digest| {
            let key = Key::Signature { name: &name("old"), manifest, signature };
            registry.write(key, signature.to_string());
        };
        // As many as a garbage collection of `distribution` may have left: more than a pull looks at.
        (0..300).for_each(|n| link(&old, &sha256(format!("gone {n}"))));
        // Of a manifest that was deleted: one with its content, and one without.
        let deleted = sha256("deleted");
        registry.write(Key::Data(&sha256("there")), "there");
        link(&deleted, &sha256("there"));
        link(&deleted, &sha256("gone"));
        // A signature that is pushed now, and comes last.
        let late = (0..).find_map(|_| {
            let signature = Signature::new(&signer(Algorithm::Es256), &old_payload);
            sha256(signature.blob()).hex().starts_with('f').then_some(signature)
        });
        let signatures = [late.unwrap()];
        let text = signed(&old_payload, &signatures, LAYOUTS[0].0);
        assert_eq!(registry.put("old/manifests/v1", Some(SIGNED), &text).status, 201);

        registry.pass(DAY);
        registry.settle();
        let dry = registry.collect(&Collect { is_dry_run: true, ..collection() });
        assert_eq!(dry["signatures_removed"], 302, "{dry}");
        assert!(registry.revisions("old").len() > 300);
        let report = registry.collect(&collection());
        assert_eq!(report["signatures_removed"], 302, "{report}");
        assert_is_kept(&registry, &old_payload, &signatures, &old);
        assert_eq!(registry.revisions("old").len(), 2, "the manifest and its signature");
        registry.collect_for_days(8);
        assert!(!registry.content().iter().any(|path| path.contains(sha256("there").hex())));
        assert_is_kept(&registry, &old_payload, &signatures, &old);
        assert_eq!(registry.code(&format!("DELETE /v2/old/manifests/{old}")), 202);
        registry.collect_for_days(8);
        assert_eq!(registry.content(), [""; 0]);
    }
}

#[test]
fn only_links_to_signatures_that_are_new_here_or_have_their_turn_are_looked_at() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let manifest = registry.write_old("old", "v1", &payload, &[]);
    let link = |of: &str| {
        let signature = sha256(of);
        let key = Key::Signature { name: &name("old"), manifest: &manifest, signature: &signature };
        registry.write(key, signature.to_string());
    };
    let run = || registry.collect(&Collect { thoroughness: 8, ..collection() })["signatures_removed"].clone();
    registry.pass(DAY);
    (0..50).for_each(|n| link(&format!("gone {n}")));
    registry.pass(2 * 60 * 60);
    // They are younger than the grace time.
    assert_eq!(run(), 0);
    registry.pass(2 * DAY);
    // They were written before the last run, which has seen them: an eighth goes in each of the next.
    let removed: Vec<u64> = (0..8).map(|_| run().as_u64().unwrap()).collect();
    assert!(removed.iter().all(|removed| *removed < 25), "{removed:?}");
    assert_eq!((removed.iter().sum::<u64>(), registry.revisions("old").len()), (50, 1), "{removed:?}");
    // A bucket that no run has seen.
    (0..50).for_each(|n| link(&format!("gone {n}")));
    registry.pass(2 * DAY);
    block_on(registry.storage.memory.delete(&[Key::Collection("seen").path()])).unwrap();
    assert_eq!(run(), 50);
}

#[test]
fn links_to_signatures_that_were_pushed_meanwhile_stay() {
    let registry = full();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    let manifest = registry.write_old("old", "v1", &payload, &signatures);
    let signature = sha256(signatures[0].blob());
    let remove = || {
        let context = registry.context(pierhead::auth::Principal::Job("collect"));
        let repository = registry.app.repository(&name("old"), &context);
        block_on(repository.collect_signatures(&manifest, vec![signature.clone()])).unwrap();
    };
    // The writer looks once more: they were pushed meanwhile.
    remove();
    assert_is_kept(&registry, &payload, &signatures, &manifest);
    block_on(registry.storage.memory.delete(&[Key::Data(&signature).path()])).unwrap();
    remove();
    assert_eq!(registry.revisions("old").len(), 1);
    // A push writes content and link again.
    registry.pass(60);
    let text = signed(&payload, &signatures, LAYOUTS[0].0);
    assert_eq!(registry.put("old/manifests/v1", Some(SIGNED), &text).status, 201);
    assert_is_kept(&registry, &payload, &signatures, &manifest);
}

#[test]
fn layers_that_are_named_by_tarsum_stay() {
    let registry = TestRegistry::new();
    registry.write_layers("old", &["a", "b"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let tarsum = format!("tarsum.v1+{}", sha256("files"));
    registry.write_old("old", "v1", &payload.replace(&sha256("a").to_string(), &tarsum), &[]);
    for _ in 0..8 {
        registry.pass(DAY);
        let reports = registry.collect_steps(&collection());
        let told: Vec<&Value> =
            reports.iter().filter_map(|report| report["examples"].as_array()).flatten().collect();
        let is_told = |told: &&&Value| told["why"].as_str().is_some_and(|why| why.contains("by tarsum"));
        assert_eq!(told.iter().filter(is_told).count(), 1, "{told:?}");
    }
    for layer in ["a", "b"] {
        assert_eq!(registry.code(&format!("HEAD /v2/old/blobs/{}", sha256(layer))), 200);
    }
}

#[test]
fn a_removed_repository_leaves_no_signatures() {
    let registry = full();
    registry.write_layers("old", &["a"]);
    let payload = payload("old", "v1", &["a"], LAYOUTS[0]);
    let signatures = [Signature::new(&signer(Algorithm::Es256), &payload)];
    registry.write_old("old", "v1", &payload, &signatures);
    // A signature of a manifest that the old registry has deleted.
    let other = sha256("other");
    let signature = sha256(signatures[0].blob());
    registry.write(
        Key::Signature { name: &name("old"), manifest: &other, signature: &signature },
        signature.to_string(),
    );
    let context = registry.context(pierhead::auth::Principal::Job("test"));
    let old = name("old");
    assert!(block_on(pierhead::jobs::remove::begin(&registry.app, &context, &old)).unwrap());
    loop {
        let step = block_on(pierhead::jobs::remove::step(&registry.app, &context, &old)).unwrap();
        if step.is_none_or(|(_, is_done)| is_done) {
            break;
        }
        registry.pass(60);
    }
    assert_eq!(registry.revisions("old"), [""; 0]);
    registry.collect_for_days(8);
    assert_eq!(registry.content(), [""; 0]);
}

#[test]
fn what_docker_hub_has_signed_is_pushed_and_served() {
    // busybox:1.23, of docker 1.8.2: signed and indented by `libtrust`.
    let text = include_str!("busybox.prettyjws");
    let registry = full();
    let value: Value = serde_json::from_str(text).unwrap();
    for layer in value["fsLayers"].as_array().unwrap() {
        let digest: Digest = layer["blobSum"].as_str().unwrap().parse().unwrap();
        registry.write(Key::Data(&digest), "a layer");
        registry.write(Key::Layer(&name("library/busybox"), &digest), digest.to_string());
    }
    let payload = format!("{}\n}}", text.split_once(",\n   \"signatures\"").unwrap().0);
    let target = "library/busybox/manifests/1.23";
    let changed = text.replace("\\\"Size\\\":1095501", "\\\"Size\\\":1095502");
    assert_eq!(registry.put(target, Some(SIGNED), &changed).status, 400);
    let answer = registry.put(target, Some(SIGNED), text);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_served(&registry, target, None, (SIGNED, text), &sha256(&payload));
    assert_served(&registry, target, Some(UNSIGNED), (UNSIGNED, &payload), &sha256(&payload));
}
