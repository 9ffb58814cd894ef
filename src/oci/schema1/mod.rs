//! Docker's image manifest version 2, schema 1: a payload, and the signatures that are written into it.
//!
//! A signed manifest is its payload with one more field at the end, `signatures`. The protected header of each signature
//! says how much of the text is the payload's (`formatLength`), and how the payload goes on there (`formatTail`). The digest is that of
//! the payload. `libtrust` (github.com/docker/libtrust, `jsonsign.go`), with which docker and `distribution` signed, defines
//! the rest: what a signature looks like as a blob, and how payload and signatures become a text again, byte for byte.

mod go_json;
mod key;
mod signature;
mod signed;

use base64::{
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{Digest, InvalidJson, InvalidManifest, Manifest, manifest, raw::Raw};
pub use key::{Curve, Key};
pub use signature::Signature;
pub use signed::{Signed, assemble, has_signatures};

/// Limit of the signatures of a manifest.
pub const MAX_SIGNATURES: usize = 16;

/// Size limit of a signature, in bytes, as it is sent, stored and written into a manifest: a chain of ten large certificates
/// fits.
pub const MAX_SIGNATURE: usize = 32 * 1024;

/// Size limit of a signed manifest that is pushed, in bytes. Those of docker, of up to 127 layers, have less than 400 KiB.
pub const MAX_SIGNED: usize = 1024 * 1024;

/// The longest name and tag, in bytes.
const MAX_NAME: usize = 255;

/// Base64url as JWS has it, or with the padding that other encoders leave.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why the signatures of a manifest are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignature {
    /// There are none.
    #[error(
        "the manifest has no signatures: sign it, or convert the image, for instance with `skopeo copy --format v2s2`"
    )]
    Missing,
    /// There are too many.
    #[error("the manifest has more than {MAX_SIGNATURES} signatures: sign it again with fewer")]
    TooMany,
    /// One is not JSON, or not of its form.
    #[error("a signature of the manifest is malformed: {0}")]
    Json(#[from] InvalidJson),
    /// A part of one is not what it should be.
    #[error("a signature of the manifest is malformed: {0}")]
    Form(&'static str),
    /// They sign different payloads.
    #[error(
        "the signatures of the manifest must agree on formatLength and formatTail: sign them over the same text"
    )]
    Conflict,
    /// There is less text than they say.
    #[error(
        "formatLength of the signatures does not fit the manifest: its text was changed after it was signed"
    )]
    Length,
    /// One is not by its key, or not of this payload.
    #[error(
        "a signature of the manifest is not valid: the manifest was changed after it was signed, or signed with another key"
    )]
    Wrong,
}

/// A signature above [`MAX_SIGNATURE`].
const TOO_LONG: InvalidSignature =
    InvalidSignature::Form("it is longer than 32 KiB: sign the manifest with fewer certificates");

/// The text of a field of a signature.
fn text(field: Raw<'_>) -> Result<String, InvalidSignature> {
    field.text(MAX_SIGNATURE)?.map(|text| text.into_owned()).ok_or(TOO_LONG)
}

/// What a registry reads of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The name of the repository that it is for.
    pub name: String,
    /// The tag that it is for.
    pub tag: String,
    /// The layers. Sorted, each once.
    pub layers: Vec<Digest>,
}

impl Payload {
    /// Reads a payload.
    pub fn parse(content: &[u8]) -> Result<Self, InvalidManifest> {
        Self::read(Raw::read(content, "the manifest")?)
    }

    pub(in crate::oci) fn read(raw: Raw<'_>) -> Result<Self, InvalidManifest> {
        let [version, name, tag, layers, history] =
            raw.fields(["schemaVersion", "name", "tag", "fsLayers", "history"])?;
        if version.map(Raw::number).transpose()? != Some(1) {
            return Err(InvalidManifest::Shape("a manifest of schema 1 must have schemaVersion 1"));
        }
        let (Some(name), Some(tag), Some(layers), Some(history)) = (name, tag, layers, history) else {
            return Err(InvalidManifest::Shape(
                "a manifest of schema 1 must have name, tag, fsLayers and history",
            ));
        };
        let name = manifest::text(name, MAX_NAME, "a name is too long, in characters")?;
        let tag = manifest::text(tag, MAX_NAME, "a tag is too long, in characters")?;
        let mut found = Vec::new();
        layers.array(|layer| {
            manifest::within(found.len() + 1, Manifest::MAX_BLOBS, "too many layers")?;
            let [digest] = layer.fields(["blobSum"])?;
            let missing = InvalidManifest::Shape("each of fsLayers must have a blobSum");
            found.push(manifest::digest(digest.ok_or(missing)?)?);
            Ok::<_, InvalidManifest>(())
        })?;
        let mut count = 0;
        history.array(|entry| {
            count += 1;
            let [compatibility] = entry.fields(["v1Compatibility"])?;
            let missing = InvalidManifest::Shape("each of history must have v1Compatibility");
            compatibility.ok_or(missing)?.escaped()?;
            Ok::<_, InvalidManifest>(())
        })?;
        if found.is_empty() || found.len() != count {
            return Err(InvalidManifest::Shape(
                "fsLayers and history of a manifest of schema 1 must have the same length, and not be empty",
            ));
        }
        found.sort_unstable();
        found.dedup();
        Ok(Self { name, tag, layers: found })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn layers_and_history_belong_together() {
        let digest = Algorithm::Sha256.digest(b"");
        let layer = format!(r#"{{"blobSum":"{digest}"}}"#);
        let read = |layers: usize, history: usize| {
            let (layers, history) =
                (vec![&*layer; layers].join(","), vec![r#"{"v1Compatibility":""}"#; history].join(","));
            Payload::parse(
                format!(r#"{{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[{layers}],"history":[{history}]}}"#)
                    .as_bytes(),
            )
        };
        assert_eq!(read(2, 2).unwrap().layers, std::slice::from_ref(&digest));
        for (layers, history) in [(0, 0), (1, 0), (0, 1), (2, 1), (1, 2)] {
            assert!(matches!(read(layers, history), Err(InvalidManifest::Shape(_))));
        }
        assert!(read(Manifest::MAX_BLOBS, Manifest::MAX_BLOBS).is_ok());
        let beyond = Manifest::MAX_BLOBS + 1;
        assert!(matches!(read(beyond, beyond), Err(InvalidManifest::Limit { .. })));
    }
}
