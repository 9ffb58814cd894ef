//! Object storage: paths and bytes, and nothing of registries.
//!
//! A [driver](StorageDriver) writes the contract; the [`Store`] handle adds what every caller wants: tracing,
//! counting, small conveniences, and in [`files`] what `distribution`'s drivers offer beyond keys and bytes.
//! The suite in `contract` decides whether a driver keeps the contract.

#[cfg(test)]
pub mod contract;
mod driver;
mod error;
pub mod files;
pub mod memory;
mod path;
pub mod s3;
mod store;

pub(crate) use driver::Errors;
pub use driver::{
    Answer, Capabilities, Condition, Copied, Listing, Metadata, MultipartId, Object, ObjectMeta, Page, Part,
    PutOptions, StorageDriver,
};
pub use error::{StorageError, StorageErrorKind};
pub use path::{InvalidPath, Path};
pub use store::Store;
