//! What the clients use: a few repositories, tags, blobs and manifests, so that operations meet often.

use std::sync::LazyLock;

use pierhead::{
    layout::Key,
    oci::{Algorithm, Digest, RepositoryName, Tag},
    storage::Path,
};
use serde_json::json;

pub const REPOSITORIES: usize = 2;
pub const TAGS: usize = 3;
pub const BLOBS: usize = 3;
pub const MANIFESTS: usize = 4;

/// The manifest that others refer to.
pub const SUBJECT: usize = 0;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A media type that the content does not carry, and from which it cannot be told.
const ODD: &str = "application/vnd.example.odd+json";

/// A manifest that clients push.
pub struct ManifestOf {
    pub digest: Digest,
    pub media_type: &'static str,
    pub content: String,
    /// The blobs that it needs.
    pub blobs: Vec<usize>,
    /// Whether its subject is [`SUBJECT`].
    pub has_subject: bool,
}

/// All of it.
pub struct Universe {
    pub repositories: Vec<RepositoryName>,
    pub tags: Vec<Tag>,
    pub blobs: Vec<(Digest, &'static str)>,
    pub manifests: Vec<ManifestOf>,
}

/// There is one, the same for every seed.
pub static UNIVERSE: LazyLock<Universe> = LazyLock::new(|| {
    let blobs: Vec<(Digest, &str)> = ["config", "first", "second"]
        .map(|content| (Algorithm::Sha256.digest(content.as_bytes()), content))
        .into();
    let descriptor = |media_type: &str, (digest, content): &(Digest, &str)| json!({"mediaType": media_type, "digest": digest, "size": content.len()});
    let image = |layer: usize| {
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, &blobs[0]),
               "layers": [descriptor(LAYER, &blobs[layer])]})
    };
    let manifest = |media_type, content: serde_json::Value, blobs: &[usize]| ManifestOf {
        digest: Algorithm::Sha256.digest(content.to_string().as_bytes()),
        media_type,
        has_subject: content.get("subject").is_some(),
        content: content.to_string(),
        blobs: blobs.to_vec(),
    };
    let first = manifest(IMAGE, image(1), &[0, 1]);
    let second = manifest(IMAGE, image(2), &[0, 2]);
    let subject = json!({"mediaType": IMAGE, "digest": first.digest, "size": first.content.len()});
    let mut signed = image(2);
    signed["subject"] = subject.clone();
    signed["artifactType"] = json!("application/vnd.example.signature");
    let signature = manifest(IMAGE, signed, &[0, 2]);
    let odd = manifest(ODD, json!({"subject": subject, "artifactType": "application/vnd.example.odd"}), &[]);
    Universe {
        repositories: ["one", "two/three"].map(|name| name.parse().unwrap()).into(),
        tags: ["a", "b", "c"].map(|tag| tag.parse().unwrap()).into(),
        blobs,
        manifests: vec![first, second, signature, odd],
    }
});

impl Universe {
    pub fn manifest_of(&self, digest: &str) -> Option<u8> {
        self.manifests.iter().position(|manifest| manifest.digest.to_string() == digest).map(|n| n as u8)
    }

    pub fn tag_link(&self, repository: usize, tag: usize) -> Path {
        Key::TagCurrent(&self.repositories[repository], &self.tags[tag]).path()
    }

    pub fn tag_folder(&self, repository: usize, tag: usize) -> String {
        Key::Tag(&self.repositories[repository], &self.tags[tag]).path().folder()
    }

    pub fn revision(&self, repository: usize, manifest: usize) -> Path {
        Key::Revision(&self.repositories[repository], &self.manifests[manifest].digest).path()
    }

    pub fn layer(&self, repository: usize, blob: usize) -> Path {
        Key::Layer(&self.repositories[repository], &self.blobs[blob].0).path()
    }

    pub fn catalog_entry(&self, repository: usize) -> Path {
        Key::Repository(&self.repositories[repository]).path()
    }

    pub fn reverse_link(&self, repository: usize, digest: &Digest) -> Path {
        Key::ReverseLink(digest, &self.repositories[repository]).path()
    }

    pub fn referrer(&self, repository: usize, manifest: usize) -> Path {
        let (name, subject) = (&self.repositories[repository], &self.manifests[SUBJECT].digest);
        Key::Referrer { name, subject, referrer: &self.manifests[manifest].digest }.path()
    }
}
