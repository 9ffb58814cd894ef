//! The media types with a meaning to this registry.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Arbitrary bytes: the type of every blob response.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The structure of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A config and layers.
    Image,
    /// A list of manifests.
    Index,
    /// An unknown type: any JSON.
    Other,
}

/// The structure of manifests of this media type.
pub fn shape(media_type: &str) -> Shape {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Shape::Image,
        OCI_INDEX | DOCKER_MANIFEST_LIST => Shape::Index,
        _ => Shape::Other,
    }
}
