//! The descriptors in a stored manifest, as events name them.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Digest, InvalidJson, Manifest,
    manifest::{Described, Fields, descriptor},
    raw::Raw,
};

/// What a text takes besides its bytes.
const OVERHEAD: usize = 2 * size_of::<String>();

/// Limit of the references of a manifest in an event, in bytes of media types and digests.
const MAX_REFERENCES: usize = 1 << 20;

/// The media type of the layers of schema 1, which does not name it.
const SCHEMA1_LAYER: &str = "application/vnd.docker.container.image.rootfs.diff+x-gtar";

/// A descriptor in a manifest, as events have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referenced {
    /// The media type of the content.
    pub media_type: String,
    /// The length of the content, in bytes.
    pub size: u64,
    /// The digest of the content.
    pub digest: Digest,
    /// Other places of the content.
    pub urls: Vec<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Referenced {
    /// Reads what `left` bytes allow of the URLs and annotations.
    fn of(field: Raw<'_>, described: Described, left: &mut usize) -> Self {
        let Described { digest, media_type, size, .. } = described;
        let mut read = Self { media_type, size, digest, urls: Vec::new(), annotations: BTreeMap::new() };
        let mut take = |field: Raw<'_>| {
            let text = if *left == 0 { None } else { field.text(*left)?.map(Cow::into_owned) };
            *left = left.saturating_sub(text.as_ref().map_or(0, |text| text.len() + OVERHEAD));
            Ok::<_, InvalidJson>(text)
        };
        if let Ok([urls, annotations]) = field.fields(["urls", "annotations"]) {
            // `descriptor` has checked them.
            let _read = urls.map(|urls| {
                urls.array(|url| {
                    read.urls.extend(take(url)?);
                    Ok::<_, InvalidJson>(())
                })
            });
            let _read = annotations.map(|annotations| {
                annotations.object(|name, value| {
                    if let (Some(name), Some(value)) = (take(name)?, take(value)?) {
                        read.annotations.insert(name, value);
                    }
                    Ok::<_, InvalidJson>(())
                })
            });
        }
        read
    }
}

impl Manifest {
    /// The descriptors that stored content names: config and layers, blobs, or manifests. Those of schema 1 are made up as
    /// `distribution` does it, with the size 0: it is not there. One that cannot be read is left out, and so are URLs and
    /// annotations beyond 256 KiB, and descriptors beyond 1 MiB of media types and digests.
    pub fn references_of(content: &[u8]) -> Vec<Referenced> {
        let Ok(fields) = Raw::stored(content, "the manifest").and_then(Fields::of) else { return Vec::new() };
        let (mut references, mut left) = (Vec::new(), Self::MAX_ANNOTATION_BYTES);
        let mut length = 0;
        let mut add = |field: Raw<'_>| {
            if length < MAX_REFERENCES
                && let Ok(described) = descriptor(field)
            {
                length += described.media_type.len() + Digest::MAX_LEN;
                references.push(Referenced::of(field, described, &mut left));
            }
            Ok::<_, InvalidJson>(())
        };
        // What is not a list has nothing to name.
        let _read = fields.config.map(&mut add);
        for list in [fields.layers, fields.blobs, fields.manifests].into_iter().flatten() {
            let _read = list.array(&mut add);
        }
        if fields.schema1().is_some()
            && let Some(layers) = fields.fs_layers
        {
            let _read = layers.array(|layer| {
                let [digest] = layer.fields(["blobSum"]).unwrap_or_default();
                let digest = digest.and_then(|digest| super::manifest::digest(digest).ok());
                if let Some(digest) = digest.filter(|_| length < MAX_REFERENCES) {
                    length += SCHEMA1_LAYER.len() + Digest::MAX_LEN;
                    let (media_type, urls, annotations) =
                        (SCHEMA1_LAYER.to_owned(), Vec::new(), BTreeMap::new());
                    references.push(Referenced { media_type, size: 0, digest, urls, annotations });
                }
                Ok::<_, InvalidJson>(())
            });
        }
        references
    }
}

impl Manifest {
    /// The manifests that a stored index names, all of them: nothing is left out for its length. Empty for content that is
    /// no index. A descriptor without a digest is left out.
    pub fn children_of(content: &[u8]) -> Vec<Digest> {
        let Ok(fields) = Raw::stored(content, "the manifest").and_then(Fields::of) else { return Vec::new() };
        let mut children = Vec::new();
        // What is not a list has no children.
        let _read = fields.manifests.map(|list| {
            list.array(|child| {
                // Only the digest: a descriptor that is malformed otherwise names its manifest all the same.
                let [digest] = child.fields(["digest"]).unwrap_or_default();
                children.extend(digest.and_then(|digest| super::manifest::digest(digest).ok()));
                Ok::<_, InvalidJson>(())
            })
        });
        children
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use serde_json::{Value, json};

    fn referenced(content: &Value) -> Vec<Referenced> {
        Manifest::references_of(content.to_string().as_bytes())
    }

    fn descriptor(n: usize, annotation: &str) -> Value {
        let digest = Algorithm::Sha256.digest(&n.to_be_bytes());
        let annotations = json!({"a": annotation});
        json!({"mediaType": format!("application/x{n}"), "size": n, "digest": digest, "annotations": annotations})
    }

    #[test]
    fn config_and_layers_or_manifests_are_named_in_their_order() {
        let with_url = json!({
            "mediaType": "application/y", "size": 3, "digest": Algorithm::Sha256.digest(b"y"),
            "urls": ["https://example.com/y"], "platform": {"os": "linux"}, "data": "eA==",
        });
        let image = json!({"config": descriptor(1, "x"), "layers": [descriptor(2, "y"), with_url, descriptor(2, "y")]});
        let found = referenced(&image);
        let types: Vec<&str> = found.iter().map(|found| &*found.media_type).collect();
        assert_eq!(types, ["application/x1", "application/x2", "application/y", "application/x2"]);
        assert_eq!((found[1].size, &*found[1].annotations["a"]), (2, "y"));
        assert_eq!(found[2].urls, ["https://example.com/y"]);
        assert_eq!(referenced(&json!({"manifests": [descriptor(1, ""), {"digest": 7}]})).len(), 1);
        assert_eq!(
            referenced(&json!({"layers": null, "blobs": [descriptor(1, ""), descriptor(2, "")]})).len(),
            2
        );
        for other in [json!({}), json!([]), json!({"layers": "none", "config": 7})] {
            assert_eq!(referenced(&other), [], "{other}");
        }
        assert_eq!(Manifest::references_of(b"not json"), []);
    }

    #[test]
    fn the_children_of_an_index_are_all_named() {
        let long = "x".repeat(100 * 1024);
        let mut children: Vec<Value> = (0..40).map(|n| descriptor(n, &long)).collect();
        children[1] = json!({"digest": Algorithm::Sha256.digest(b"bare"), "size": "none"});
        children[2] = json!({"digest": 7});
        children[3] = json!([]);
        let found = Manifest::children_of(json!({"manifests": children}).to_string().as_bytes());
        assert_eq!((found.len(), &found[1]), (38, &Algorithm::Sha256.digest(b"bare")));
        for other in [json!({}), json!([]), json!({"manifests": "none", "layers": [descriptor(1, "")]})] {
            assert_eq!(Manifest::children_of(other.to_string().as_bytes()), [], "{other}");
        }
        assert_eq!(Manifest::children_of(b"not json"), []);
    }

    #[test]
    fn layers_of_schema_1_are_named() {
        let (a, b) = (Algorithm::Sha256.digest(b"a"), Algorithm::Sha256.digest(b"b"));
        let layers = json!([{"blobSum": b}, {"blobSum": "x"}, {}, {"blobSum": a}]);
        let found = referenced(&json!({"schemaVersion": 1, "fsLayers": layers, "layers": "none"}));
        let found: Vec<_> =
            found.iter().map(|found| (&*found.media_type, found.size, &found.digest)).collect();
        assert_eq!(found, [(SCHEMA1_LAYER, 0, &b), (SCHEMA1_LAYER, 0, &a)]);
        assert_eq!(referenced(&json!({"schemaVersion": 2, "fsLayers": layers})), []);
    }

    #[test]
    fn what_is_named_is_bounded() {
        let long = "x".repeat(100 * 1024);
        let layers: Vec<Value> = (0..4).map(|n| descriptor(n, &long)).collect();
        let found = referenced(&json!({"layers": layers}));
        let lengths: Vec<usize> =
            found.iter().map(|found| found.annotations.values().map(String::len).sum()).collect();
        assert_eq!(lengths, [long.len(), long.len(), 0, 0]);

        let mut empty = descriptor(1, "");
        empty["urls"] = Value::from(vec![""; 100_000]);
        assert!(referenced(&json!({"layers": [empty]}))[0].urls.len() < 20_000);

        let layers: Vec<Value> = (0..10_000).map(|n| descriptor(n, "")).collect();
        let found = referenced(&json!({"layers": layers}));
        let size = serde_json::to_string(&layers[..found.len()]).unwrap().len();
        assert!((4096..10_000).contains(&found.len()) && size < 2 << 20, "{} of {size} bytes", found.len());
    }
}
