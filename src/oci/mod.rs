//! The terms of the specification as plain values: no async, no I/O, no HTTP.

mod certificate;
mod descriptor;
mod digest;
mod exceptions;
mod glob;
mod manifest;
pub mod media_type;
mod mentions;
mod name;
mod namespace;
mod raw;
mod reference;
mod references;
pub mod schema1;
mod upload_id;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, HashState, Hasher, InvalidDigest, InvalidHashState};
pub use exceptions::{ByRepository, Exceptions};
pub use glob::{Glob, InvalidGlob, Specificity};
pub use manifest::{InvalidManifest, Manifest};
pub use mentions::{mentions, mentions_tarsum};
pub use name::{InvalidName, RepositoryName};
pub use namespace::{InvalidNamespace, Namespace, Namespaces};
pub use raw::{InvalidJson, Raw, from_json};
pub use reference::{InvalidReference, InvalidTag, Reference, Tag};
pub use references::Referenced;
pub use upload_id::{InvalidUploadId, UploadId};
