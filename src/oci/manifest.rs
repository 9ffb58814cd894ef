//! Manifests: read for their references, never rewritten.
//!
//! Nothing is built of a manifest but what [`Manifest`] holds, and each limit is checked while reading. So reading one
//! takes at most [`Manifest::memory`], whatever it contains.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Digest, InvalidDigest, InvalidJson,
    media_type::{self, Shape},
    raw::Raw,
    schema1::{InvalidSignature, Payload},
};

/// The properties of a manifest that a registry uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The media type to store and serve it with, in lower case.
    pub media_type: String,
    /// The blobs that must be in the repository: config and layers, or the blobs of an artifact, less those with `urls`.
    /// Sorted, each once.
    pub blobs: Vec<Digest>,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// The artifact type for the referrers list: the manifest's own, or else the type of an image's config.
    pub artifact_type: Option<String>,
    /// The annotations for the referrers list; none without a subject.
    pub annotations: BTreeMap<String, String>,
}

/// The reason to refuse a manifest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// Not JSON, or a field of a known type has the wrong form.
    #[error("the manifest is not valid JSON of its media type: {0}")]
    Json(#[from] InvalidJson),
    /// A descriptor's digest is malformed.
    #[error("the manifest refers to a malformed digest: {0}")]
    Digest(#[from] InvalidDigest),
    /// Neither the request nor the content gives a media type.
    #[error("the manifest has no media type: send it as Content-Type or in its field mediaType")]
    NoMediaType,
    /// A text is not a media type.
    #[error("{0:?} is not a media type: use <type>/<subtype> as in RFC 6838")]
    MediaType(String),
    /// Browsers could execute a manifest of this type.
    #[error(
        "a manifest must not be {0:?}: use an application/ type that is not XML, HTML, PDF or JavaScript"
    )]
    ActiveType(String),
    /// The request and the content give different media types.
    #[error("Content-Type is {header:?} but the manifest says mediaType {field:?}: send the same")]
    MediaTypeMismatch {
        /// The request's.
        header: String,
        /// The content's.
        field: String,
    },
    /// A descriptor lacks a field that all have.
    #[error("a descriptor in {0} lacks mediaType, digest or size: it must have all three")]
    Descriptor(&'static str),
    /// A field that the media type requires is missing, or one that it forbids is present.
    #[error("{0}")]
    Shape(&'static str),
    /// The signatures of a manifest of schema 1 are missing, malformed or wrong.
    #[error(transparent)]
    Signature(#[from] InvalidSignature),
    /// A manifest of schema 1 is for another repository or tag.
    #[error(
        "the manifest says that its {field} is {named:?}, but it is pushed to {pushed:?}: sign it again for this one"
    )]
    Elsewhere {
        /// `name` or `tag`.
        field: &'static str,
        /// What the manifest says.
        named: String,
        /// What the request says.
        pushed: String,
    },
    /// More than this registry accepts.
    #[error("{what}: the limit is {limit} and cannot be raised, send less")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is accepted.
        limit: usize,
    },
}

/// The fields of a manifest that are read.
pub(super) struct Fields<'a> {
    media_type: Option<Raw<'a>>,
    artifact_type: Option<Raw<'a>>,
    pub config: Option<Raw<'a>>,
    pub layers: Option<Raw<'a>>,
    /// Whether there is a list of layers: see `lists_manifests`.
    lists_layers: bool,
    /// Of artifact manifests.
    pub blobs: Option<Raw<'a>>,
    pub manifests: Option<Raw<'a>>,
    /// Whether there is a list of manifests. A `null` is an empty one: Go's encoder writes empty lists so.
    lists_manifests: bool,
    subject: Option<Raw<'a>>,
    annotations: Option<Raw<'a>>,
    schema_version: Option<Raw<'a>>,
    /// Of Docker's schema 1.
    pub fs_layers: Option<Raw<'a>>,
    signatures: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    pub fn of(manifest: Raw<'a>) -> Result<Self, InvalidJson> {
        let [media_type, artifact_type, config, layers, blobs, manifests, subject, annotations, rest @ ..] =
            manifest.fields_or_null([
                "mediaType",
                "artifactType",
                "config",
                "layers",
                "blobs",
                "manifests",
                "subject",
                "annotations",
                "schemaVersion",
                "fsLayers",
                "signatures",
            ])?;
        let [schema_version, fs_layers, signatures] = rest;
        let present = |field: Option<Raw<'a>>| field.and_then(Raw::present);
        Ok(Self {
            media_type: present(media_type),
            artifact_type: present(artifact_type),
            config: present(config),
            layers: present(layers),
            lists_layers: layers.is_some(),
            blobs: present(blobs),
            manifests: present(manifests),
            lists_manifests: manifests.is_some(),
            subject: present(subject),
            annotations: present(annotations),
            schema_version: present(schema_version),
            fs_layers: present(fs_layers),
            signatures: present(signatures),
        })
    }

    /// The media type of Docker's schema 1, which has no field for it.
    pub fn schema1(&self) -> Option<&'static str> {
        self.fs_layers.filter(|_| self.schema_version.is_some_and(|version| version.number() == Ok(1)))?;
        Some(match self.signatures {
            Some(_) => media_type::DOCKER_SIGNED_MANIFEST,
            None => media_type::DOCKER_UNSIGNED_MANIFEST,
        })
    }
}

/// What is read of a descriptor.
pub(super) struct Described {
    pub digest: Digest,
    pub media_type: String,
    pub size: u64,
    has_urls: bool,
}

impl Manifest {
    /// Size limit of a manifest, in bytes: the lowest limit that the specification allows.
    pub const MAX_BYTES: usize = 4 * 1024 * 1024;
    /// Limit of an image's config and layers together, and of an artifact's blobs.
    pub const MAX_BLOBS: usize = 4096;
    /// Limit of the manifests of an index.
    pub const MAX_CHILDREN: usize = 4096;
    /// Limit of a manifest's own annotations, if it has a subject: the referrers list has them.
    pub const MAX_ANNOTATIONS: usize = 4096;
    /// Size limit of the same, names and values together, as they are written, in bytes.
    pub const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
    /// Limit of the nesting of arrays and objects.
    pub const MAX_DEPTH: usize = Raw::MAX_DEPTH;
    /// The most memory that reading any manifest takes, in bytes, in addition to its content: 4,096 digests of SHA-512 and
    /// 256 KiB of annotations, with what a map of them adds.
    pub const MAX_MEMORY: usize = 1536 * 1024;

    /// The most memory that reading a manifest of `length` bytes takes, in bytes, in addition to its content, whatever
    /// that is: short annotations take the most.
    pub fn memory(length: usize) -> usize {
        length.saturating_mul(16).min(Self::MAX_MEMORY)
    }

    /// Reads `content`, which was sent as `content_type`.
    ///
    /// Strict where a client could be misled: a wrong media type, or an image that is also an index. Unknown
    /// fields and types are accepted, and `schemaVersion` is ignored, except that without a media type, 1 tells what it is.
    /// `null` counts as absent. Signatures are not looked at: see [`Signed`](super::schema1::Signed). Takes a few passes, and
    /// no more memory than [`memory`](Self::memory).
    pub fn parse(content_type: Option<&str>, content: &[u8]) -> Result<Self, InvalidManifest> {
        let raw = Raw::read(content, "the manifest")?;
        let fields = Fields::of(raw)?;
        let field = fields.media_type.map(|field| text(field, media_type::MAX_LEN, LONG_MEDIA_TYPE));
        let media_type = match (media_type_of(content_type, field.transpose()?.as_deref()), fields.schema1())
        {
            (Err(InvalidManifest::NoMediaType), Some(schema1)) => schema1.to_owned(),
            (media_type, _) => media_type?,
        };
        match media_type::shape(&media_type) {
            Shape::Other => Self::parse_other(media_type, &fields),
            Shape::Schema1 => Ok(Self { blobs: Payload::read(raw)?.layers, ..Self::empty(media_type) }),
            shape => Self::parse_known(media_type, shape, &fields),
        }
    }

    fn empty(media_type: String) -> Self {
        Self {
            media_type,
            blobs: Vec::new(),
            subject: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    fn parse_known(media_type: String, shape: Shape, fields: &Fields<'_>) -> Result<Self, InvalidManifest> {
        let wrong = match (shape, fields) {
            (Shape::Image, Fields { config: None, .. }) if media_type == media_type::DOCKER_MANIFEST => {
                Some("a Docker image manifest must have a config: those of the OCI may have none")
            }
            (Shape::Image, Fields { config: None, lists_layers: false, artifact_type: None, .. }) => {
                Some("an image manifest must have a config, layers or an artifactType")
            }
            (Shape::Image, Fields { manifests: Some(_), .. }) => {
                Some("an image manifest must not have manifests: they belong in an index")
            }
            (Shape::Index, Fields { lists_manifests: false, .. }) => {
                Some("an index must have manifests: an empty list is accepted")
            }
            (Shape::Index, Fields { config: Some(_), .. } | Fields { layers: Some(_), .. }) => {
                Some("an index must not have a config or layers: they belong in an image")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(InvalidManifest::Shape(wrong));
        }
        let mut manifest = Self::empty(media_type);
        manifest.subject = fields.subject.map(descriptor).transpose()?.map(|subject| subject.digest);
        // First, while little else is kept: reading a long one takes more than keeping it.
        if let Some(field) = fields.annotations {
            manifest.annotations = annotations(field, manifest.subject.is_some())?;
        }
        let (blobs, too_many) = match shape {
            Shape::Artifact => (fields.blobs, "too many blobs in an artifact"),
            _ => (fields.layers, "too many layers, counting the config"),
        };
        let mut count = 0;
        let mut add = |blob: &Described| {
            count += 1;
            within(count, Self::MAX_BLOBS, too_many)?;
            if !blob.has_urls {
                manifest.blobs.push(blob.digest.clone());
            }
            Ok::<_, InvalidManifest>(())
        };
        let config = fields.config.filter(|_| shape == Shape::Image).map(descriptor).transpose()?;
        config.iter().try_for_each(&mut add)?;
        if let Some(blobs) = blobs {
            blobs.array(|blob| add(&descriptor(blob)?))?;
        }
        manifest.blobs.sort_unstable();
        manifest.blobs.dedup();
        if let Some(manifests) = fields.manifests.filter(|_| shape == Shape::Index) {
            let mut count = 0;
            manifests.array(|child| {
                count += 1;
                within(count, Self::MAX_CHILDREN, "too many manifests in an index")?;
                descriptor(child).map(drop)
            })?;
        }
        if let Some(field) = fields.artifact_type {
            manifest.artifact_type = artifact_type(field)?;
        }
        if let (None, Some(config)) = (&manifest.artifact_type, config) {
            manifest.artifact_type = checked_artifact_type(config.media_type)?;
        }
        Ok(manifest)
    }

    /// Reads a manifest of unknown type. Fields of an unexpected form are ignored.
    fn parse_other(media_type: String, fields: &Fields<'_>) -> Result<Self, InvalidManifest> {
        fn unless_other<T>(read: Result<T, InvalidManifest>) -> Result<Option<T>, InvalidManifest> {
            match read {
                Err(error @ (InvalidManifest::Limit { .. } | InvalidManifest::MediaType(_))) => Err(error),
                read => Ok(read.ok()),
            }
        }
        let mut manifest = Self::empty(media_type);
        if let Some(subject) = fields.subject {
            manifest.subject = unless_other(descriptor(subject))?.map(|subject| subject.digest);
        }
        if let Some(field) = fields.artifact_type {
            manifest.artifact_type = unless_other(artifact_type(field))?.flatten();
        }
        if let Some(field) = fields.annotations {
            let annotations = unless_other(annotations(field, manifest.subject.is_some()))?;
            manifest.annotations = annotations.unwrap_or_default();
        }
        Ok(manifest)
    }

    /// The subject that stored content names, whatever its media type and by whatever limits it was accepted.
    pub fn subject_of(content: &[u8]) -> Option<Digest> {
        let fields = Fields::of(Raw::stored(content, "the manifest").ok()?).ok()?;
        let [digest] = fields.subject?.fields(["digest"]).ok()?;
        self::digest(digest?).ok()
    }

    /// Detects the media type of content stored without one, as by `distribution`.
    pub fn detect_media_type(content: &[u8]) -> String {
        let Ok(fields) = Raw::stored(content, "the manifest").and_then(Fields::of) else {
            return media_type::OCI_MANIFEST.to_owned();
        };
        let field = fields.media_type.and_then(|field| field.text(media_type::MAX_LEN).ok().flatten());
        let detected = match (&field, fields.schema1(), &fields) {
            (Some(field), ..) if media_type::is_media_type(field) => field,
            (_, Some(schema1), _) => schema1,
            (.., Fields { manifests: Some(_), .. }) => media_type::OCI_INDEX,
            (.., Fields { signatures: Some(_), .. }) => media_type::DOCKER_SIGNED_MANIFEST,
            (.., Fields { config: None, layers: None, lists_manifests: true, .. }) => media_type::OCI_INDEX,
            _ => media_type::OCI_MANIFEST,
        };
        detected.to_owned()
    }

    /// Whether content that is sent as `content_type`, or stored without one, is a manifest of Docker's schema 1. Looks at the
    /// content only if its type does not say it.
    pub fn is_schema1(content_type: Option<&str>, content: &[u8]) -> bool {
        let media_type = specific(content_type).unwrap_or_else(|| Self::detect_media_type(content));
        media_type::shape(&media_type) == Shape::Schema1
    }
}

const LONG_MEDIA_TYPE: &str = "a media type is too long, in characters";

pub(super) fn within(count: usize, limit: usize, what: &'static str) -> Result<(), InvalidManifest> {
    if count > limit { Err(InvalidManifest::Limit { what, limit }) } else { Ok(()) }
}

/// A text of at most `limit` bytes.
pub(super) fn text(field: Raw<'_>, limit: usize, what: &'static str) -> Result<String, InvalidManifest> {
    field.text(limit)?.map(Cow::into_owned).ok_or(InvalidManifest::Limit { what, limit })
}

pub(super) fn digest(field: Raw<'_>) -> Result<Digest, InvalidManifest> {
    Ok(text(field, Digest::MAX_LEN, "a digest is too long, in characters")?.parse()?)
}

/// Reads a descriptor (image-spec, "OCI Content Descriptors"), and drops what is not needed.
pub(super) fn descriptor(field: Raw<'_>) -> Result<Described, InvalidManifest> {
    let [digest, media_type, size, urls, annotations] =
        field.fields(["digest", "mediaType", "size", "urls", "annotations"])?;
    let (Some(digest), Some(media_type), Some(size)) = (digest, media_type, size) else {
        return Err(InvalidManifest::Descriptor(field.field()));
    };
    let size = size.number()?;
    let mut has_urls = false;
    if let Some(urls) = urls {
        urls.array(|url| {
            has_urls = true;
            url.escaped().map(drop)
        })?;
    }
    if let Some(annotations) = annotations {
        annotations.object(|_, value| value.escaped().map(drop))?;
    }
    let media_type = text(media_type, media_type::MAX_LEN, LONG_MEDIA_TYPE)?;
    Ok(Described { digest: self::digest(digest)?, media_type, size, has_urls })
}

/// The artifact type in a field; an empty one counts as absent.
fn artifact_type(field: Raw<'_>) -> Result<Option<String>, InvalidManifest> {
    checked_artifact_type(text(field, media_type::MAX_LEN, "an artifact type is too long, in characters")?)
}

fn checked_artifact_type(text: String) -> Result<Option<String>, InvalidManifest> {
    match text.as_str() {
        "" => Ok(None),
        valid if media_type::is_media_type(valid) => Ok(Some(text)),
        _ => Err(InvalidManifest::MediaType(text)),
    }
}

/// Reads annotations, and keeps them if `is_kept`. Only what is kept is limited.
fn annotations(field: Raw<'_>, is_kept: bool) -> Result<BTreeMap<String, String>, InvalidManifest> {
    const LIMIT: usize = Manifest::MAX_ANNOTATION_BYTES;
    let mut annotations = BTreeMap::new();
    let (mut count, mut length) = (0, 0);
    field.object(|name, value| {
        count += 1;
        length += name.escaped()?.len() + value.escaped()?.len();
        if is_kept {
            within(count, Manifest::MAX_ANNOTATIONS, "too many annotations")?;
            within(length, LIMIT, "the annotations are too long, in bytes")?;
            let text = |field| text(field, LIMIT, "the annotations are too long, in bytes");
            annotations.insert(text(name)?, text(value)?);
        }
        Ok::<_, InvalidManifest>(())
    })?;
    Ok(annotations)
}

/// The media type in a header in lower case, unless it says nothing of a manifest.
fn specific(header: Option<&str>) -> Option<String> {
    header
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .filter(|value| !matches!(&**value, "" | "application/json" | media_type::OCTET_STREAM))
}

/// The media type of a manifest in lower case, from `header` of its request or `field` of its content.
fn media_type_of(header: Option<&str>, field: Option<&str>) -> Result<String, InvalidManifest> {
    let header = specific(header);
    let field = field.filter(|field| !field.is_empty()).map(str::to_ascii_lowercase);
    for given in [&header, &field].into_iter().flatten() {
        within(given.len(), media_type::MAX_LEN, LONG_MEDIA_TYPE)?;
        if !media_type::is_media_type(given) {
            return Err(InvalidManifest::MediaType(given.clone()));
        }
        if !media_type::is_inert(given) {
            return Err(InvalidManifest::ActiveType(given.clone()));
        }
    }
    match (header, field) {
        (Some(header), Some(field)) if header != field => {
            Err(InvalidManifest::MediaTypeMismatch { header, field })
        }
        (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type),
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
    fn an_index_needs_no_blobs_and_has_no_default_artifact_type() {
        let manifest = parse(Some(media_type::OCI_INDEX), json!({"manifests": [descriptor("m")]})).unwrap();
        assert_eq!((manifest.blobs.len(), manifest.artifact_type), (0, None));
    }

    #[test]
    fn annotations_are_kept_for_a_subject_only() {
        for (subject, kept) in [(json!(null), 0), (descriptor("s"), 1)] {
            for media_type in [media_type::OCI_INDEX, "application/vnd.example+json"] {
                let content = json!({"annotations": {"k": "v"}, "manifests": [], "subject": subject});
                assert_eq!(parse(Some(media_type), content).unwrap().annotations.len(), kept);
            }
        }
    }

    #[test]
    fn annotations_of_referrers_count_with_their_escapes() {
        let most = Manifest::MAX_ANNOTATION_BYTES / r"\u0061".len();
        let subject = format!(r#""subject":{},"#, descriptor("s"));
        for (subject, length, is_accepted) in [
            (&*subject, most - 1, true),
            (&*subject, most + 1, false),
            ("", most + 1, true),
            ("", 10 * most, true),
        ] {
            let annotation = r"\u0061".repeat(length);
            let content = format!(r#"{{"manifests":[],{subject}"annotations":{{"":"{annotation}"}}}}"#);
            let parsed = Manifest::parse(Some(media_type::OCI_INDEX), content.as_bytes());
            assert_eq!(parsed.is_ok(), is_accepted, "{length}");
        }
        let many: serde_json::Map<_, _> =
            (0..=Manifest::MAX_ANNOTATIONS).map(|n| (n.to_string(), "".into())).collect();
        let mut index = json!({"manifests": [], "annotations": many});
        assert!(parse(Some(media_type::OCI_INDEX), index.clone()).unwrap().annotations.is_empty());
        index["subject"] = descriptor("s");
        assert!(matches!(parse(Some(media_type::OCI_INDEX), index), Err(InvalidManifest::Limit { .. })));
        // They must be texts all the same.
        assert!(
            parse(Some(media_type::OCI_INDEX), json!({"manifests": [], "annotations": {"a": 1}})).is_err()
        );
    }

    #[test]
    fn an_image_of_the_oci_may_have_no_config() {
        let (layer, of_oci) = (descriptor("l"), Some(media_type::OCI_MANIFEST));
        for (content, blobs, artifact_type) in [
            (json!({"layers": [layer]}), 1, None),
            (json!({"config": null, "layers": [layer]}), 1, None),
            (json!({"layers": []}), 0, None),
            (json!({"schemaVersion": 2, "layers": null}), 0, None),
            (json!({"artifactType": "application/y"}), 0, Some("application/y")),
            (
                json!({"artifactType": "application/y", "layers": [layer], "subject": descriptor("s")}),
                1,
                Some("application/y"),
            ),
        ] {
            let manifest = parse(of_oci, content.clone()).unwrap();
            assert_eq!(
                (manifest.blobs.len(), manifest.artifact_type.as_deref()),
                (blobs, artifact_type),
                "{content}"
            );
            assert!(parse(Some(media_type::DOCKER_MANIFEST), content).is_err());
        }
        for nothing in [json!({}), json!({"schemaVersion": 2, "subject": descriptor("s"), "config": null})] {
            assert!(matches!(parse(of_oci, nothing), Err(InvalidManifest::Shape(_))));
        }
    }

    #[test]
    fn an_artifact_points_to_its_blobs_and_has_its_own_type_only() {
        for media_type in [media_type::OCI_ARTIFACT, media_type::ORAS_ARTIFACT] {
            let content = json!({"mediaType": media_type, "artifactType": "application/y", "blobs": [descriptor("b")],
                "config": 1, "manifests": "none", "layers": {}, "subject": descriptor("s"), "annotations": {"k": "v"}});
            let manifest = parse(Some(media_type), content).unwrap();
            assert_eq!(manifest.blobs, [Algorithm::Sha256.digest(b"b")]);
            assert_eq!(
                (manifest.artifact_type.as_deref(), &*manifest.annotations["k"]),
                (Some("application/y"), "v")
            );
            for none in [json!({"blobs": null}), json!({}), json!({"config": descriptor("c")})] {
                let manifest = parse(Some(media_type), none).unwrap();
                assert_eq!((manifest.blobs.len(), manifest.artifact_type), (0, None));
            }
            assert!(parse(Some(media_type), json!({"blobs": [{"digest": "sha256:x"}]})).is_err());
        }
    }

    #[test]
    fn null_counts_as_absent() {
        let mut blob = descriptor("b");
        for field in ["urls", "annotations", "artifactType", "data", "platform"] {
            blob[field] = json!(null);
        }
        let image = json!({
            "mediaType": null, "artifactType": null, "subject": null, "annotations": null, "manifests": null,
            "config": blob, "layers": [blob], "signatures": null,
        });
        let manifest = parse(Some(media_type::OCI_MANIFEST), image).unwrap();
        assert_eq!(manifest.blobs, [Algorithm::Sha256.digest(b"b")]);
        assert_eq!((manifest.subject, manifest.artifact_type.as_deref()), (None, Some("application/x")));
        let index = json!({"manifests": [blob], "config": null, "layers": null});
        assert!(parse(Some(media_type::OCI_INDEX), index).is_ok());
        let image = json!({"config": descriptor("c"), "layers": null});
        assert_eq!(parse(Some(media_type::DOCKER_MANIFEST), image).unwrap().blobs.len(), 1);
        let other = json!({"subject": null, "annotations": null, "artifactType": null});
        assert!(parse(Some("application/vnd.example+json"), other).is_ok());
    }

    #[test]
    fn an_index_has_a_list_of_manifests_which_may_be_empty() {
        for media_type in [media_type::OCI_INDEX, media_type::DOCKER_MANIFEST_LIST] {
            for empty in [json!([]), json!(null)] {
                let index = json!({"schemaVersion": 2, "manifests": empty});
                assert_eq!(parse(Some(media_type), index).unwrap().blobs, []);
            }
            let error = parse(Some(media_type), json!({"schemaVersion": 2})).unwrap_err().to_string();
            assert_eq!(error, "an index must have manifests: an empty list is accepted");
        }
        assert_eq!(Manifest::children_of(br#"{"manifests":null}"#), []);
        assert_eq!(Manifest::references_of(br#"{"manifests":null}"#), []);
    }

    #[test]
    fn the_case_of_media_types_does_not_matter() {
        let image = json!({"mediaType": media_type::OCI_MANIFEST.to_uppercase(), "config": descriptor("c")});
        for header in [media_type::OCI_MANIFEST, "Application/VND.oci.image.manifest.v1+JSON ; charset=utf-8"]
        {
            let manifest = parse(Some(header), image.clone()).unwrap();
            assert_eq!((manifest.media_type.as_str(), manifest.blobs.len()), (media_type::OCI_MANIFEST, 1));
        }
        assert!(matches!(parse(Some("APPLICATION/JSON"), json!({})), Err(InvalidManifest::NoMediaType)));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let (c, d) = (descriptor("c"), descriptor("d"));
        for content in [
            format!(r#"{{"config":{c},"config":{d}}}"#),
            format!(r#"{{"config":{c},"subject":{c},"subj\u0065ct":{d}}}"#),
            format!(
                r#"{{"config":{{"digest":"{}",{}}}"#,
                Algorithm::Sha256.digest(b"x"),
                &c.to_string()[1..]
            ),
            format!(r#"{{"config":{c}}} {{}}"#),
            format!(r#"{{"config":{{"urls":["x"],"urls":[],{}}}"#, &c.to_string()[1..]),
        ] {
            let parsed = Manifest::parse(Some(media_type::OCI_MANIFEST), content.as_bytes());
            assert!(parsed.is_err(), "{content}");
        }
    }

    #[test]
    fn the_subject_of_content_is_found_whatever_its_type() {
        let subject = Algorithm::Sha256.digest(b"s");
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        for content in [
            format!(r#"{{"subject":{},"x":{deep}}}"#, descriptor("s")),
            format!(r#"{{"mediaType":"text/html","layers":7,"\u0073ubject":{{"digest":"{subject}"}}}}"#),
        ] {
            assert_eq!(Manifest::subject_of(content.as_bytes()), Some(subject.clone()), "{content}");
        }
        for content in [
            "",
            "[]",
            "{}",
            r#"{"subject":null}"#,
            r#"{"subject":{}}"#,
            r#"{"subject":[0,0]}"#,
            r#"{"subject":{"digest":"sha256:x"}}"#,
            r#"{"config":{"subject":{"digest":"x"}}}"#,
        ] {
            assert_eq!(Manifest::subject_of(content.as_bytes()), None, "{content}");
        }
    }

    #[test]
    fn stored_content_without_a_type_is_detected() {
        for (content, expected) in [
            (
                r#"{"mediaType":"application/vnd.example+json","manifests":[]}"#,
                "application/vnd.example+json",
            ),
            (r#"{"mediaType":"","manifests":[]}"#, media_type::OCI_INDEX),
            (r#"{"mediaType":7,"manifests":[]}"#, media_type::OCI_INDEX),
            (r#"{"signatures":[]}"#, media_type::DOCKER_SIGNED_MANIFEST),
            (r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#, media_type::DOCKER_SIGNED_MANIFEST),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, media_type::DOCKER_UNSIGNED_MANIFEST),
            (r#"{"schemaVersion":2,"fsLayers":[]}"#, media_type::OCI_MANIFEST),
            (r#"{"schemaVersion":1}"#, media_type::OCI_MANIFEST),
            (r#"{"manifests":null}"#, media_type::OCI_INDEX),
            (r#"{"manifests":null,"layers":[]}"#, media_type::OCI_MANIFEST),
            ("not json", media_type::OCI_MANIFEST),
        ] {
            assert_eq!(Manifest::detect_media_type(content.as_bytes()), expected, "{content}");
        }
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
