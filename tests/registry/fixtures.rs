//! One-line pushes for tests, and parsers of answers.

use pierhead::{
    oci::{Algorithm, Digest},
    platform::memory::MemoryStream,
};
use serde_json::{Value, json};

use crate::support::{Answer, TestRegistry};

pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The smallest manifest: it refers to no blobs.
pub const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Deterministic content whose parts all differ.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

pub fn sha256(content: impl AsRef<[u8]>) -> Digest {
    Algorithm::Sha256.digest(content.as_ref())
}

pub fn descriptor(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": sha256(content), "size": content.len()})
}

/// An image manifest with the config `config` and these layers.
pub fn image(layers: &[&str]) -> String {
    let layers: Vec<Value> =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let config = descriptor(CONFIG, "config");
    json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers}).to_string()
}

impl TestRegistry {
    pub fn push_blob(&self, name: &str, content: impl AsRef<[u8]>) -> Digest {
        self.push_blob_by(Algorithm::Sha256, name, content)
    }

    pub fn push_blob_by(&self, algorithm: Algorithm, name: &str, content: impl AsRef<[u8]>) -> Digest {
        let content = content.as_ref().to_vec();
        let digest = algorithm.digest(&content);
        let line = format!("POST /v2/{name}/blobs/uploads/?digest={digest}");
        let answer = self.send(&line, &[], Some(MemoryStream::new(content)));
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Returns the SHA-256 digest of the manifest.
    pub fn push_manifest(&self, name: &str, reference: &str, media_type: &str, content: &str) -> Digest {
        let line = format!("PUT /v2/{name}/manifests/{reference}");
        let body = Some(MemoryStream::new(content.to_owned()));
        let answer = self.send(&line, &[("content-type", media_type)], body);
        assert_eq!(answer.status, 201, "{answer:?}");
        sha256(content)
    }

    /// Pushes an image with one layer and its blobs; returns the digest of the manifest.
    pub fn push_image(&self, name: &str, reference: &str, layer: &str) -> Digest {
        self.push_blob(name, "config");
        self.push_blob(name, layer);
        self.push_manifest(name, reference, IMAGE, &image(&[layer]))
    }

    /// Every page of a list, following the `Link` headers from `target`.
    pub fn pages(&self, target: &str) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut next = Some(target.to_owned());
        while let Some(target) = next {
            let answer = self.get(&format!("GET {target}"));
            assert_eq!(answer.status, 200, "{target}: {answer:?}");
            let link = answer.header("link");
            next =
                link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).map(Into::into);
            assert_eq!(next.is_none(), link.is_empty(), "{link}");
            answers.push(answer);
            assert!(answers.len() < 100, "endless pages: {target}");
        }
        answers
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The entries of an error body.
    pub fn errors(&self) -> Vec<Value> {
        self.json()["errors"].as_array().unwrap_or_else(|| panic!("not an error: {self:?}")).clone()
    }

    /// The codes of an error body.
    pub fn codes(&self) -> Vec<String> {
        self.errors().iter().map(|error| error["code"].as_str().unwrap().to_owned()).collect()
    }
}
