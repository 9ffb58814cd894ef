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
pub const MANIFESTS: usize = 5;

/// The manifests that need nothing but blobs: the first ones.
pub const IMAGES: usize = 4;

/// The manifest that others refer to.
pub const SUBJECT: usize = 0;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
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
    /// The manifests that it names.
    pub children: Vec<usize>,
    /// Whether its subject is [`SUBJECT`].
    pub has_subject: bool,
}

/// All of it.
pub struct Universe {
    pub repositories: Vec<RepositoryName>,
    pub tags: Vec<Tag>,
    pub blobs: Vec<(Digest, &'static str)>,
    pub manifests: Vec<ManifestOf>,
    tag_keys: Vec<Vec<TagKeys>>,
    manifest_keys: Vec<Vec<ContentKeys>>,
    blob_keys: Vec<Vec<ContentKeys>>,
}

/// The keys of a tag.
pub struct TagKeys {
    pub link: Path,
    pub folder: String,
}

/// The keys of a manifest or blob of a repository.
pub struct ContentKeys {
    pub link: Path,
    pub reverse_link: Path,
    pub content: Path,
    /// Its entry among the referrers of [`SUBJECT`].
    pub referrer: Path,
    pub catalog: Path,
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
        children: Vec::new(),
    };
    let first = manifest(IMAGE, image(1), &[0, 1]);
    let second = manifest(IMAGE, image(2), &[0, 2]);
    let subject = json!({"mediaType": IMAGE, "digest": first.digest, "size": first.content.len()});
    let mut signed = image(2);
    signed["subject"] = subject.clone();
    signed["artifactType"] = json!("application/vnd.example.signature");
    let signature = manifest(IMAGE, signed, &[0, 2]);
    let odd = manifest(ODD, json!({"subject": subject, "artifactType": "application/vnd.example.odd"}), &[]);
    let child = json!({"mediaType": IMAGE, "digest": second.digest, "size": second.content.len()});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]});
    let index = ManifestOf { children: vec![1], ..manifest(INDEX, index, &[]) };
    let repositories: Vec<RepositoryName> = ["one", "two/three"].map(|name| name.parse().unwrap()).into();
    let tags: Vec<Tag> = ["a", "b", "c"].map(|tag| tag.parse().unwrap()).into();
    let manifests = vec![first, second, signature, odd, index];
    let tag_keys = |name| {
        let keys = |tag| TagKeys {
            link: Key::TagCurrent(name, tag).path(),
            folder: Key::Tag(name, tag).path().folder(),
        };
        tags.iter().map(keys).collect()
    };
    let content_keys = |name, digest, link: Key<'_>| ContentKeys {
        link: link.path(),
        reverse_link: Key::ReverseLink(digest, name).path(),
        content: Key::Data(digest).path(),
        referrer: Key::Referrer { name, subject: &manifests[SUBJECT].digest, referrer: digest }.path(),
        catalog: Key::Repository(name).path(),
    };
    let manifest_keys = |name| {
        let digests = manifests.iter().map(|manifest| &manifest.digest);
        digests.map(|digest| content_keys(name, digest, Key::Revision(name, digest))).collect()
    };
    let blob_keys =
        |name| blobs.iter().map(|(digest, _)| content_keys(name, digest, Key::Layer(name, digest))).collect();
    Universe {
        tag_keys: repositories.iter().map(tag_keys).collect(),
        manifest_keys: repositories.iter().map(manifest_keys).collect(),
        blob_keys: repositories.iter().map(blob_keys).collect(),
        repositories,
        tags,
        blobs,
        manifests,
    }
});

impl Universe {
    pub fn manifest_of(&self, digest: &str) -> Option<u8> {
        self.manifests.iter().position(|manifest| manifest.digest.to_string() == digest).map(|n| n as u8)
    }

    /// The keys of a tag.
    pub fn tag(&self, repository: usize, tag: usize) -> &TagKeys {
        &self.tag_keys[repository][tag]
    }

    /// The keys of a manifest.
    pub fn manifest(&self, repository: usize, manifest: usize) -> &ContentKeys {
        &self.manifest_keys[repository][manifest]
    }

    /// The keys of a blob.
    pub fn blob(&self, repository: usize, blob: usize) -> &ContentKeys {
        &self.blob_keys[repository][blob]
    }
}
