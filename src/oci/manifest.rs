//! Manifests: parsed for their references, never rewritten.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    Descriptor, Digest,
    media_type::{self, Shape},
};

/// The properties of a manifest that a registry uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The media type to store and serve it with.
    pub media_type: String,
    /// The blobs that must be in the repository: config and layers, less those with `urls`.
    pub blobs: Vec<Digest>,
    /// The manifests that an index lists. They may be absent from the repository.
    pub children: Vec<Digest>,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// The artifact type for the referrers list: the manifest's own, or an image's config type.
    pub artifact_type: Option<String>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The reason to refuse a manifest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// Not JSON, or a field of a known type has the wrong form.
    #[error("the manifest is not valid JSON of its media type: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither the request nor the content gives a media type.
    #[error("the manifest has no media type: send it as Content-Type or in its field mediaType")]
    NoMediaType,
    /// The request and the content give different media types.
    #[error("Content-Type is {header:?} but the manifest says mediaType {field:?}: send the same")]
    MediaTypeMismatch {
        /// The request's.
        header: String,
        /// The content's.
        field: String,
    },
    /// A field that the media type requires is missing, or one that it forbids is present.
    #[error("{0}")]
    Shape(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The fields of a manifest of unknown type. Values of an unexpected form are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LooseFields {
    #[serde(default)]
    media_type: serde_json::Value,
    #[serde(default)]
    artifact_type: serde_json::Value,
    #[serde(default)]
    subject: serde_json::Value,
    #[serde(default)]
    annotations: serde_json::Value,
}

impl Manifest {
    /// Size limit of a manifest, in bytes: the lowest limit that the specification allows.
    pub const MAX_BYTES: usize = 4 * 1024 * 1024;

    /// Parses `content`, which was sent as `content_type`.
    ///
    /// Strict where a client could be misled: a wrong media type, or an image that is also an index. Unknown
    /// fields and types are accepted, and `schemaVersion` is ignored.
    pub fn parse(content_type: Option<&str>, content: &[u8]) -> Result<Self, InvalidManifest> {
        let loose: LooseFields = serde_json::from_slice(content)?;
        let media_type = media_type_of(content_type, loose.media_type.as_str())?;
        let shape = media_type::shape(&media_type);
        if shape == Shape::Other {
            let subject = serde_json::from_value::<Descriptor>(loose.subject).ok();
            return Ok(Self {
                media_type,
                blobs: Vec::new(),
                children: Vec::new(),
                subject: subject.map(|subject| subject.digest),
                artifact_type: loose.artifact_type.as_str().map(str::to_owned),
                annotations: serde_json::from_value(loose.annotations).unwrap_or_default(),
            });
        }
        let fields: Fields = serde_json::from_slice(content)?;
        debug_assert_eq!(fields.media_type.as_deref(), loose.media_type.as_str());
        let mut manifest = Self {
            media_type,
            blobs: Vec::new(),
            children: Vec::new(),
            subject: fields.subject.map(|subject| subject.digest),
            artifact_type: fields.artifact_type.filter(|artifact_type| !artifact_type.is_empty()),
            annotations: fields.annotations.unwrap_or_default(),
        };
        match (shape, fields.config, fields.layers, fields.manifests) {
            (Shape::Image, Some(config), layers, None) => {
                manifest.artifact_type.get_or_insert_with(|| config.media_type.clone());
                let blobs = std::iter::once(config).chain(layers.unwrap_or_default());
                manifest.blobs = blobs.filter(|blob| blob.urls.is_empty()).map(|blob| blob.digest).collect();
                manifest.blobs.sort_unstable();
                manifest.blobs.dedup();
                Ok(manifest)
            }
            (Shape::Image, None, ..) => Err(InvalidManifest::Shape("an image manifest must have a config")),
            (Shape::Image, ..) => Err(InvalidManifest::Shape(
                "an image manifest must not have manifests: they belong in an index",
            )),
            (_, None, None, Some(children)) => {
                manifest.children = children.into_iter().map(|child| child.digest).collect();
                Ok(manifest)
            }
            (.., None) => Err(InvalidManifest::Shape("an index must have manifests")),
            _ => Err(InvalidManifest::Shape(
                "an index must not have a config or layers: they belong in an image",
            )),
        }
    }

    /// The subject in the content of a manifest, whatever its media type.
    pub fn subject_of(content: &[u8]) -> Option<Digest> {
        #[derive(Deserialize)]
        struct Subject {
            #[serde(default)]
            subject: Option<Descriptor>,
        }
        serde_json::from_slice::<Subject>(content).ok()?.subject.map(|subject| subject.digest)
    }

    /// Detects the media type of content stored without one, as by `distribution`.
    pub fn detect_media_type(content: &[u8]) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Hints {
            #[serde(default)]
            media_type: Option<String>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            signatures: Option<serde::de::IgnoredAny>,
        }
        match serde_json::from_slice::<Hints>(content) {
            Ok(Hints { media_type: Some(media_type), .. }) if !media_type.is_empty() => media_type,
            Ok(Hints { manifests: Some(_), .. }) => media_type::OCI_INDEX.to_owned(),
            Ok(Hints { signatures: Some(_), .. }) => {
                "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned()
            }
            _ => media_type::OCI_MANIFEST.to_owned(),
        }
    }
}

/// The media type of a manifest, from `header` of its request or `field` of its content.
fn media_type_of(header: Option<&str>, field: Option<&str>) -> Result<String, InvalidManifest> {
    let header = header
        .map(|value| value.split(';').next().unwrap_or_default().trim())
        .filter(|value| !matches!(*value, "" | "application/json" | media_type::OCTET_STREAM));
    match (header, field.filter(|field| !field.is_empty())) {
        (Some(header), Some(field)) if header != field => {
            Err(InvalidManifest::MediaTypeMismatch { header: header.into(), field: field.into() })
        }
        (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type.to_owned()),
        (None, None) => Err(InvalidManifest::NoMediaType),
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use serde_json::json;

    fn descriptor(content: &str) -> serde_json::Value {
        json!({"mediaType": "application/x", "digest": Algorithm::Sha256.digest(content.as_bytes()), "size": content.len()})
    }

    fn parse(content_type: Option<&str>, manifest: serde_json::Value) -> Result<Manifest, InvalidManifest> {
        Manifest::parse(content_type, manifest.to_string().as_bytes())
    }

    #[test]
    fn an_image_points_to_its_config_and_layers() {
        let mut foreign = descriptor("foreign");
        foreign["urls"] = json!(["https://elsewhere.example/layer"]);
        let manifest = parse(
            Some(media_type::OCI_MANIFEST),
            json!({"config": descriptor("c"), "layers": [descriptor("l"), foreign, descriptor("l")],
                   "subject": descriptor("s"), "annotations": {"k": "v"}, "x": [1]}),
        )
        .unwrap();
        let mut blobs = [Algorithm::Sha256.digest(b"c"), Algorithm::Sha256.digest(b"l")];
        blobs.sort();
        assert_eq!(manifest.blobs, blobs);
        assert_eq!(manifest.subject, Some(Algorithm::Sha256.digest(b"s")));
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(manifest.annotations["k"], "v");
    }

    #[test]
    fn an_index_points_to_its_children_and_has_no_default_artifact_type() {
        let manifest = parse(Some(media_type::OCI_INDEX), json!({"manifests": [descriptor("m")]})).unwrap();
        assert_eq!(manifest.children, [Algorithm::Sha256.digest(b"m")]);
        assert_eq!(manifest.artifact_type, None);
    }

    #[test]
    fn the_media_type_comes_from_the_header_or_the_content() {
        let image = |media_type| json!({"mediaType": media_type, "config": descriptor("c"), "layers": []});
        for (header, field, expected) in [
            (Some(media_type::OCI_MANIFEST), json!(null), media_type::OCI_MANIFEST),
            (Some("application/json"), json!(media_type::DOCKER_MANIFEST), media_type::DOCKER_MANIFEST),
            (None, json!(media_type::OCI_MANIFEST), media_type::OCI_MANIFEST),
            (
                Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
                json!(""),
                media_type::OCI_MANIFEST,
            ),
            (Some("application/vnd.example+json"), json!(null), "application/vnd.example+json"),
        ] {
            assert_eq!(parse(header, image(field)).unwrap().media_type, expected);
        }
        assert!(matches!(parse(None, image(json!(null))), Err(InvalidManifest::NoMediaType)));
        assert!(matches!(
            parse(Some(media_type::OCI_INDEX), image(json!(media_type::OCI_MANIFEST))),
            Err(InvalidManifest::MediaTypeMismatch { .. })
        ));
    }

    #[test]
    fn an_image_is_never_an_index() {
        for (media_type, manifest) in [
            (media_type::OCI_MANIFEST, json!({"config": descriptor("c"), "layers": [], "manifests": []})),
            (media_type::OCI_MANIFEST, json!({"manifests": []})),
            (media_type::OCI_INDEX, json!({"manifests": [], "layers": []})),
            (media_type::OCI_INDEX, json!({"config": descriptor("c")})),
        ] {
            assert!(matches!(parse(Some(media_type), manifest), Err(InvalidManifest::Shape(_))));
        }
    }

    #[test]
    fn malformed_content_is_refused() {
        for content in ["", "not json", "[]", "{\"config\": 1}", "{\"config\": {\"digest\": \"sha256:x\"}}"] {
            assert!(
                Manifest::parse(Some(media_type::OCI_MANIFEST), content.as_bytes()).is_err(),
                "{content}"
            );
        }
    }

    #[test]
    fn a_media_type_is_text() {
        let image = json!({"mediaType": 7, "config": descriptor("c"), "layers": []});
        assert!(matches!(parse(Some(media_type::OCI_MANIFEST), image), Err(InvalidManifest::Json(_))));
    }

    #[test]
    fn manifests_of_unknown_types_may_have_any_fields() {
        let manifest = parse(Some("application/x+json"), json!({"layers": "none", "subject": 7})).unwrap();
        assert_eq!((manifest.blobs.len(), manifest.subject), (0, None));
    }
}
