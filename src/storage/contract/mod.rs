//! The driver suite, which every driver must pass. It runs natively on the memory driver, and on R2, KV and
//! S3 through the platform's own bindings.
//!
//! The cases are those of `distribution`'s driver suite, and others that this registry relies on: conditional
//! and verified writes, ordered listings, multipart uploads.

mod files;
mod listings;
mod multipart;
mod objects;

use std::{future::Future, pin::Pin};

use bytes::Bytes;

use super::{Capabilities, Path, PutOptions, StorageError, Store};
use crate::{oci::Algorithm, platform::Body};

/// The message of a failed case.
pub type Failure = String;
/// A case of the suite, run on an empty store.
pub type Case = fn(Store) -> Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(message()) }
}

/// Every case that applies to a driver with these capabilities, by name.
pub fn cases(capabilities: Capabilities) -> Vec<(&'static str, Case)> {
    let mut cases: Vec<(&'static str, Case)> = vec![
        ("root exists", |s| Box::pin(listings::root_exists(s))),
        ("valid paths", |s| Box::pin(objects::valid_paths(s))),
        ("invalid paths", |s| Box::pin(objects::invalid_paths(s))),
        ("round trips", |s| Box::pin(objects::round_trips(s))),
        ("truncate", |s| Box::pin(objects::truncate(s))),
        ("missing paths", |s| Box::pin(objects::missing_paths(s))),
        ("reader with offset", |s| Box::pin(objects::reader_with_offset(s))),
        ("streamed write and append", |s| Box::pin(files::append_small(s))),
        ("zero bytes then append", |s| Box::pin(files::zero_bytes_then_append(s))),
        ("cancelled write", |s| Box::pin(files::cancelled_write(s))),
        ("list", |s| Box::pin(listings::list(s))),
        ("list by folders, page by page", |s| Box::pin(listings::list_pages(s))),
        ("move", |s| Box::pin(files::move_object(s))),
        ("move over", |s| Box::pin(files::move_over(s))),
        ("move missing", |s| Box::pin(files::move_missing(s))),
        ("delete", |s| Box::pin(files::delete(s))),
        ("delete recursively", |s| Box::pin(files::delete_recursively(s))),
        ("delete only below", |s| Box::pin(files::delete_only_below(s))),
        ("stat of file and folder", |s| Box::pin(files::stat(s))),
        ("repeated put", |s| Box::pin(objects::repeated_put(s))),
        ("concurrent streams", |s| Box::pin(objects::concurrent_streams(s))),
        ("metadata and media type", |s| Box::pin(objects::metadata(s))),
        ("verified put", |s| Box::pin(objects::verified_put(s))),
        ("verified stream, sha256", |s| Box::pin(objects::verified_stream(s, Algorithm::Sha256))),
        ("verified stream, sha512", |s| Box::pin(objects::verified_stream(s, Algorithm::Sha512))),
        ("digest of what is stored", |s| Box::pin(objects::digest(s))),
    ];
    if capabilities.allows_nested_objects {
        cases.push(("an object beside a folder of its name", |s| Box::pin(listings::nested(s))));
    }
    if capabilities.conditional_put {
        cases.push(("conditional put", |s| Box::pin(objects::conditional_put(s))));
    }
    if capabilities.multipart {
        cases.push(("append to large", |s| Box::pin(files::append_large(s))));
        cases.push(("multipart", |s| Box::pin(multipart::multipart(s))));
        cases.push(("multipart, aborted", |s| Box::pin(multipart::multipart_aborted(s))));
        cases.push(("multipart, part numbers left out", |s| Box::pin(multipart::multipart_gaps(s))));
    }
    cases
}

fn path(text: &str) -> Result<Path, Failure> {
    text.parse().map_err(|error| format!("{error}"))
}

fn failed(error: StorageError) -> Failure {
    error.to_string()
}

/// Deterministic bytes without a short period.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(step).take(length.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes.into()
}

async fn put(s: &Store, at: &str, content: impl Into<Bytes>) -> Result<(), Failure> {
    s.put(&path(at)?, Body::Bytes(content.into()), PutOptions::default()).await.map_err(failed).map(drop)
}

async fn get(s: &Store, at: &str) -> Result<Option<Bytes>, Failure> {
    Ok(s.read(&path(at)?, usize::MAX).await.map_err(failed)?.map(|(bytes, _)| bytes))
}

async fn expect(s: &Store, at: &str, content: impl Into<Bytes>) -> Result<(), Failure> {
    let (found, content) = (get(s, at).await?, content.into());
    check(found.as_ref() == Some(&content), || {
        format!("{at}: expected {} bytes, found {:?}", content.len(), found.map(|found| found.len()))
    })?;
    Ok(())
}

async fn paths_below(s: &Store, prefix: &str) -> Result<Vec<String>, Failure> {
    Ok(s.list_all(prefix).await.map_err(failed)?.into_iter().map(|(path, _)| path).collect())
}
