//! Manifests of Docker's schema 1: in a bucket as `distribution` 2.4 wrote it, and pushed.

use futures_executor::block_on;
use pierhead::{
    layout::Key,
    oci::{Algorithm as Hash, Digest, RepositoryName},
    platform::{Body, memory::MemoryStream, verifier::Algorithm},
    storage::{Path, PutOptions, StorageDriver},
};
use serde_json::{Value, json};

use crate::{
    fixtures::{IMAGE, image, sha256},
    issuer::{Signer, encode},
    signed::{LAYOUTS, Signature, cut, payload, signed},
    support::{Answer, Fault, Persistent, TestRegistry},
};

pub const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
pub const UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Rs256, Algorithm::Es384];

pub fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

pub fn full() -> TestRegistry {
    TestRegistry::with(&[("SCHEMA1", "full")], Persistent::default())
}

pub fn signer(algorithm: Algorithm) -> Signer {
    Signer::new("", algorithm)
}

impl TestRegistry {
    pub fn write(&self, key: Key<'_>, content: impl Into<String>) {
        let body = Body::Bytes(content.into().into());
        block_on(self.storage.memory.put(&key.path(), body, PutOptions::default())).unwrap();
    }

    /// Writes an image as `distribution` 2.4 did it.
    pub fn write_old(&self, repository: &str, tag: &str, payload: &str, signatures: &[Signature]) -> Digest {
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
    pub fn write_layers(&self, repository: &str, layers: &[&str]) {
        for layer in layers {
            self.write(Key::Data(&sha256(layer)), *layer);
            self.write(Key::Layer(&name(repository), &sha256(layer)), sha256(layer).to_string());
        }
    }

    pub fn pull(&self, method: &str, target: &str, accept: Option<&str>) -> Answer {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        self.send(&format!("{method} /v2/{target}"), &headers, None)
    }

    pub fn put(&self, target: &str, media_type: Option<&str>, text: &str) -> Answer {
        let headers: Vec<_> = media_type.map(|of| ("content-type", of)).into_iter().collect();
        let body = Some(MemoryStream::new(text.to_owned()));
        self.send(&format!("PUT /v2/{target}"), &headers, body)
    }

    /// The paths about a repository's manifests.
    pub fn revisions(&self, repository: &str) -> Vec<String> {
        let prefix = Key::Revisions(&name(repository)).path().folder();
        self.storage.memory.paths().into_iter().filter(|path| path.starts_with(&prefix)).collect()
    }
}

/// Asserts that a pull gives this text.
pub fn assert_served(
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
pub fn text_of(payload: &str, signatures: &[Signature]) -> String {
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
