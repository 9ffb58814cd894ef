//! Object storage: paths and bytes, independent of registries.
//!
//! A [driver](StorageDriver) implements the contract. The [`Store`] handle adds tracing, counters, small
//! conveniences and, in [`files`], the file operations of `distribution`'s drivers. The suite in `contract`
//! checks that a driver meets the contract.

#[cfg(test)]
pub mod contract;
mod driver;
mod error;
pub mod files;
pub mod memory;
mod path;
mod retry;
pub mod s3;
mod settled;
mod store;

pub(crate) use driver::Errors;
pub use driver::{
    Answer, Capabilities, Condition, Copied, Listing, Metadata, MultipartId, Object, ObjectMeta, Page, Part,
    PutOptions, StorageDriver,
};
pub use error::{StorageError, StorageErrorKind};
pub use path::{InvalidPath, Path};
pub use retry::{Attempts, KEY_PAUSE, LONG_PATIENCE, PATIENCE, SETTLE};
pub use settled::{all, both};
pub use store::Store;
