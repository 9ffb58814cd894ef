//! Descriptors: typed references from one piece of content to another.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use super::{Digest, InvalidJson, media_type, raw::Raw};

/// A content descriptor (image-spec, "OCI Content Descriptors"): the fields that a list of referrers has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content, in bytes.
    pub size: u64,
    /// The artifact type of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Arbitrary properties.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The artifact type in the JSON of a descriptor, if it has one. It may have any annotations: nothing is built of
    /// them.
    pub fn artifact_type_of(json: &[u8]) -> Result<Option<String>, InvalidJson> {
        let [artifact_type] = Raw::stored(json, "the descriptor")?.fields(["artifactType"])?;
        let text = artifact_type.map(|field| field.text(media_type::MAX_LEN)).transpose()?;
        Ok(text.flatten().map(Cow::into_owned))
    }
}
