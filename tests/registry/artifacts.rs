//! Artifacts of every shape, as their clients write them: stored unchanged, listed with type and annotations, and kept.

use pierhead::{oci::media_type, platform::memory::MemoryStream};
use serde_json::{Value, json};

use crate::{
    collect::DAY,
    fixtures::{CONFIG, IMAGE, INDEX, descriptor, image, sha256},
    support::{Answer, TestRegistry},
    table::assert_well_formed,
};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIGNATURE: &str = "application/vnd.cncf.notary.signature";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A manifest, as a client writes it.
struct Artifact {
    client: &'static str,
    media_type: &'static str,
    manifest: Value,
    /// Its blobs, which are in the repository.
    blobs: &'static [&'static str],
    /// The artifact type in the list of referrers.
    artifact_type: Option<&'static str>,
}

/// A descriptor with more fields.
fn with(mut descriptor: Value, fields: Value) -> Value {
    descriptor.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    descriptor
}

fn subject() -> Value {
    descriptor(IMAGE, &image(&["layer"]))
}

/// The empty descriptor of image-spec, whose content is `{}`.
fn empty() -> Value {
    descriptor(EMPTY, "{}")
}

fn artifacts() -> Vec<Artifact> {
    let created = json!({"org.opencontainers.image.created": "2026-01-31T12:34:56Z"});
    let bundle_annotations = json!({
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
        "org.opencontainers.image.created": "2026-01-31T12:34:56Z",
    });
    let simple_signing = with(
        descriptor("application/vnd.dev.cosign.simplesigning.v1+json", "payload"),
        json!({"annotations": {
            "dev.cosignproject.cosign/signature": "MEUCIQDx",
            "dev.sigstore.cosign/bundle": "{\"SignedEntryTimestamp\":\"MEQC\"}",
            "dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----\n",
        }}),
    );
    let thumbprint = json!({
        "io.cncf.notary.x509chain.thumbprint#S256": "[\"a9c8\"]",
        "org.opencontainers.image.created": "2026-01-31T12:34:56Z",
    });
    let unknown = json!({"architecture": "unknown", "os": "unknown"});
    let attested = with(
        descriptor(IMAGE, "attestation"),
        json!({"platform": unknown, "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": sha256("image"),
        }}),
    );
    let statement = with(
        descriptor(IN_TOTO, "statement"),
        json!({"annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}}),
    );
    let titled = |content: &str| {
        let annotations = json!({"org.opencontainers.image.title": format!("{content}.json")});
        with(descriptor("application/spdx+json", content), json!({"annotations": annotations}))
    };
    vec![
        Artifact {
            client: "cosign 3, sign and attest: a bundle",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "artifactType": BUNDLE,
                "config": with(empty(), json!({"artifactType": BUNDLE})),
                "layers": [descriptor(BUNDLE, "bundle")],
                "subject": subject(), "annotations": bundle_annotations,
            }),
            blobs: &["{}", "bundle"],
            artifact_type: Some(BUNDLE),
        },
        Artifact {
            client: "cosign 3: a bundle of a message signature",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "artifactType": BUNDLE, "config": empty(),
                "layers": [descriptor(BUNDLE, "bundle")], "subject": subject(),
                "annotations": {"dev.sigstore.bundle.content": "message-signature"},
            }),
            blobs: &["{}", "bundle"],
            artifact_type: Some(BUNDLE),
        },
        Artifact {
            client: "cosign 2: the tag sha256-….sig",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, "config"),
                "layers": [simple_signing],
            }),
            blobs: &["config", "payload"],
            artifact_type: None,
        },
        Artifact {
            client: "cosign 2 with OCI 1.1: a config type in place of an artifact type",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE,
                "config": descriptor("application/vnd.dev.cosign.artifact.sig.v1+json", "{}"),
                "layers": [simple_signing], "subject": subject(),
            }),
            blobs: &["{}", "payload"],
            artifact_type: Some("application/vnd.dev.cosign.artifact.sig.v1+json"),
        },
        Artifact {
            client: "notation 1",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(SIGNATURE, "{}"),
                "layers": [descriptor("application/jose+json", "jws")],
                "subject": subject(), "annotations": thumbprint,
            }),
            blobs: &["{}", "jws"],
            artifact_type: Some(SIGNATURE),
        },
        Artifact {
            client: "notation 1 release candidate: an artifact manifest",
            media_type: media_type::OCI_ARTIFACT,
            manifest: json!({
                "mediaType": media_type::OCI_ARTIFACT, "artifactType": SIGNATURE,
                "blobs": [descriptor("application/cose", "cose")],
                "subject": subject(), "annotations": thumbprint,
            }),
            blobs: &["cose"],
            artifact_type: Some(SIGNATURE),
        },
        Artifact {
            client: "oras 0.15: an artifact manifest of ORAS",
            media_type: media_type::ORAS_ARTIFACT,
            manifest: json!({
                "mediaType": media_type::ORAS_ARTIFACT, "artifactType": "application/vnd.example.readme",
                "blobs": [titled("readme")], "subject": subject(), "annotations": created,
            }),
            blobs: &["readme"],
            artifact_type: Some("application/vnd.example.readme"),
        },
        Artifact {
            client: "oras 1.2, attach",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.example.sbom",
                "config": with(empty(), json!({"data": "e30="})), "layers": [titled("sbom"), titled("notes")],
                "subject": subject(), "annotations": with(created.clone(), json!({"x": "ü 😀", "": "\n"})),
            }),
            blobs: &["{}", "sbom", "notes"],
            artifact_type: Some("application/vnd.example.sbom"),
        },
        Artifact {
            client: "oras 1.2, push without files",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.unknown.artifact.v1",
                "config": with(empty(), json!({"data": "e30="})),
                "layers": [with(empty(), json!({"data": "e30="}))], "annotations": created,
            }),
            blobs: &["{}"],
            artifact_type: None,
        },
        Artifact {
            client: "helm 3: a chart with its provenance",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2,
                "config": descriptor("application/vnd.cncf.helm.config.v1+json", "chart.yaml"),
                "layers": [
                    descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "chart"),
                    descriptor("application/vnd.cncf.helm.chart.provenance.v1.prov", "provenance"),
                ],
                "annotations": {"org.opencontainers.image.title": "app", "org.opencontainers.image.version": "1.2.3"},
            }),
            blobs: &["chart.yaml", "chart", "provenance"],
            artifact_type: None,
        },
        Artifact {
            client: "buildx: an image with its attestation",
            media_type: INDEX,
            manifest: json!({
                "schemaVersion": 2, "mediaType": INDEX,
                "manifests": [
                    with(descriptor(IMAGE, "image"), json!({"platform": {"architecture": "amd64", "os": "linux"}})),
                    attested,
                ],
            }),
            blobs: &[],
            artifact_type: None,
        },
        Artifact {
            client: "buildx: the attestation",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, "config"), "layers": [statement],
            }),
            blobs: &["config", "statement"],
            artifact_type: None,
        },
        Artifact {
            client: "buildx: the attestation as an artifact",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE,
                "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
                "config": with(empty(), json!({"data": "e30="})), "layers": [statement], "subject": subject(),
            }),
            blobs: &["{}", "statement"],
            artifact_type: Some("application/vnd.docker.attestation.manifest.v1+json"),
        },
        Artifact {
            client: "buildkit: a cache as an index of layers",
            media_type: INDEX,
            manifest: json!({
                "schemaVersion": 2, "mediaType": INDEX,
                "manifests": [
                    descriptor(LAYER, "layer"),
                    descriptor("application/vnd.buildkit.cacheconfig.v0", "cache config"),
                ],
            }),
            blobs: &["layer", "cache config"],
            artifact_type: None,
        },
        Artifact {
            client: "buildkit: a cache as an image",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE,
                "config": descriptor("application/vnd.buildkit.cacheconfig.v0", "cache config"),
                "layers": [descriptor(LAYER, "layer")],
            }),
            blobs: &["layer", "cache config"],
            artifact_type: None,
        },
        Artifact {
            client: "wasm tools: a component",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE,
                "config": descriptor("application/vnd.wasm.config.v0+json", "wasm config"),
                "layers": [descriptor("application/wasm", "\u{0}asm")], "annotations": created,
            }),
            blobs: &["wasm config", "\u{0}asm"],
            artifact_type: None,
        },
        Artifact {
            client: "an image without a config",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.example+type",
                "layers": [descriptor("application/vnd.example+type", "content")],
                "subject": subject(), "annotations": created,
            }),
            blobs: &["content"],
            artifact_type: Some("application/vnd.example+type"),
        },
        Artifact {
            client: "an image without a config and a type",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "config": null, "layers": [descriptor(LAYER, "content")],
                "subject": subject(),
            }),
            blobs: &["content"],
            artifact_type: None,
        },
        Artifact {
            client: "an image of nothing, as Go writes it",
            media_type: IMAGE,
            manifest: json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": null, "subject": subject()}),
            blobs: &[],
            artifact_type: None,
        },
        Artifact {
            client: "an artifact type that is empty counts as none",
            media_type: IMAGE,
            manifest: json!({
                "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "", "config": descriptor(EMPTY, "{}"),
                "layers": null, "subject": subject(),
            }),
            blobs: &["{}"],
            artifact_type: Some(EMPTY),
        },
        Artifact {
            client: "an index with a subject: its own type only",
            media_type: INDEX,
            manifest: json!({
                "schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/vnd.example.set",
                "manifests": [descriptor(IMAGE, "image")], "subject": subject(), "annotations": created,
            }),
            blobs: &[],
            artifact_type: Some("application/vnd.example.set"),
        },
        Artifact {
            client: "crane: an index of nothing, with a subject",
            media_type: INDEX,
            manifest: json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": null, "subject": subject()}),
            blobs: &[],
            artifact_type: None,
        },
    ]
}

impl Artifact {
    fn put(&self, registry: &TestRegistry) -> Answer {
        let body = Some(MemoryStream::new(self.manifest.to_string()));
        registry.send("PUT /v2/a/manifests/artifact", &[("content-type", self.media_type)], body)
    }

    /// The blobs that a push needs: an index needs none.
    fn needed(&self) -> &[&str] {
        if self.media_type == INDEX { &[] } else { self.blobs }
    }
}

#[test]
fn every_shape_is_stored_unchanged_and_listed_as_a_referrer() {
    for artifact in artifacts() {
        let (client, manifest) = (artifact.client, &artifact.manifest);
        let registry = TestRegistry::new();
        artifact.blobs.iter().for_each(|blob| drop(registry.push_blob("a", blob)));
        let answer = artifact.put(&registry);
        assert_well_formed(client, &answer);
        let content = manifest.to_string();
        let digest = sha256(&content);
        let of_subject = manifest["subject"]["digest"].as_str().unwrap_or_default();
        assert_eq!(
            (answer.status.as_u16(), answer.header("oci-subject")),
            (201, of_subject),
            "{client}: {answer:?}"
        );
        for reference in ["artifact", &digest.to_string()] {
            let got = registry.get(&format!("GET /v2/a/manifests/{reference}"));
            assert_eq!(got.header("content-type"), artifact.media_type, "{client}");
            assert!(got.body == content.as_bytes(), "{client}");
        }
        let listed = registry.get(&format!("GET /v2/a/referrers/{}", subject()["digest"].as_str().unwrap()));
        let mut expected = json!({"mediaType": artifact.media_type, "digest": digest, "size": content.len()});
        if let Some(artifact_type) = artifact.artifact_type {
            expected["artifactType"] = artifact_type.into();
        }
        if let Some(annotations) = manifest.get("annotations") {
            expected["annotations"] = annotations.clone();
        }
        let expected = if of_subject.is_empty() { json!([]) } else { json!([expected]) };
        assert_eq!(listed.json()["manifests"], expected, "{client}");
        if let Some(artifact_type) = artifact.artifact_type {
            let subject = &subject()["digest"];
            let query = form_urlencoded::byte_serialize(artifact_type.as_bytes()).collect::<String>();
            let line = format!("GET /v2/a/referrers/{}?artifactType={query}", subject.as_str().unwrap());
            let filtered = registry.get(&line);
            assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
            assert_eq!(filtered.json()["manifests"], expected, "{client}");
        }
    }
}

#[test]
fn each_blob_of_every_shape_must_be_there() {
    for artifact in artifacts() {
        for missing in artifact.needed() {
            let registry = TestRegistry::new();
            let others = artifact.blobs.iter().filter(|blob| *blob != missing);
            others.for_each(|blob| drop(registry.push_blob("a", blob)));
            let answer = artifact.put(&registry);
            let client = artifact.client;
            assert_eq!((answer.status.as_u16(), answer.errors().len()), (400, 1), "{client}: {answer:?}");
            assert_eq!(answer.codes(), ["MANIFEST_BLOB_UNKNOWN"], "{client}");
            assert_eq!(answer.errors()[0]["detail"]["digest"], sha256(missing).to_string(), "{client}");
        }
    }
}

#[test]
fn a_collection_keeps_what_every_shape_names_and_nothing_else() {
    let registry = TestRegistry::new();
    registry.pass(30 * DAY);
    let artifacts = artifacts();
    for blob in artifacts.iter().flat_map(|artifact| artifact.blobs).chain(&["named by none"]) {
        registry.push_blob("a", blob);
    }
    for artifact in &artifacts {
        assert_eq!(artifact.put(&registry).status, 201, "{}", artifact.client);
    }
    registry.collect_for_days(6);
    for artifact in &artifacts {
        for blob in artifact.blobs {
            let line = format!("HEAD /v2/a/blobs/{}", sha256(blob));
            assert_eq!(registry.code(&line), 200, "{}: {blob}", artifact.client);
        }
        let line = format!("GET /v2/a/manifests/{}", sha256(artifact.manifest.to_string()));
        assert_eq!(registry.code(&line), 200, "{}", artifact.client);
    }
    assert_eq!(registry.code(&format!("GET /v2/a/blobs/{}", sha256("named by none"))), 404);
}

/// The specification's suite pushes an image with 3.9 MB of annotations.
#[test]
fn annotations_of_a_manifest_that_refers_to_nothing_may_fill_it() {
    let registry = TestRegistry::new();
    registry.push_blob("a", "config");
    let annotations: serde_json::Map<_, _> =
        (0..390).map(|n| (format!("large-annotation-{n}"), "A".repeat(10_000).into())).collect();
    let config = descriptor(CONFIG, "config");
    let mut manifest =
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "annotations": annotations});
    registry.push_manifest("a", "large", IMAGE, &manifest.to_string());
    assert!(registry.get("GET /v2/a/manifests/large").body == manifest.to_string().as_bytes());
    // A list of referrers would have them.
    manifest["subject"] = subject();
    let headers = [("content-type", IMAGE)];
    let body = Some(MemoryStream::new(manifest.to_string()));
    let answer = registry.send("PUT /v2/a/manifests/large", &headers, body);
    assert_eq!((answer.status.as_u16(), answer.codes()), (400, vec!["MANIFEST_INVALID".to_owned()]));
}

/// The most annotations of a referrer that are accepted are all in the list.
#[test]
fn annotations_of_a_referrer_are_listed_whole() {
    let registry = TestRegistry::new();
    for (count, length) in [(1, 1), (30, 50), (4000, 50), (1, 250_000)] {
        let annotations: serde_json::Map<_, _> =
            (0..count).map(|n| (format!("{n}"), "\"ü\\".repeat(length / 6).into())).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [],
            "subject": descriptor(IMAGE, &format!("{count}")), "annotations": annotations});
        registry.push_manifest("a", "v1", INDEX, &manifest.to_string());
        let listed = registry.get(&format!("GET /v2/a/referrers/{}", sha256(format!("{count}")))).json();
        let listed = listed["manifests"].as_array().unwrap();
        assert!(
            listed.iter().any(|listed| listed["annotations"] == manifest["annotations"]),
            "{count}, {length}"
        );
    }
}
