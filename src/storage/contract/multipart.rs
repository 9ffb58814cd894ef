//! Multipart uploads.

use super::{Failure, check, failed, noise, path};
use crate::{
    oci::Algorithm,
    platform::Body,
    storage::{Store, files::PART_SIZE},
};

pub(super) async fn multipart(s: Store) -> Result<(), Failure> {
    let at = path("m/file")?;
    let content = noise(2 * PART_SIZE + 12_345, 7);
    let id = s.create_multipart(&at).await.map_err(failed)?;
    // Parts out of order, and one number twice.
    let mut parts = Vec::new();
    for number in [2_u16, 1, 3, 1] {
        let from = (usize::from(number) - 1) * PART_SIZE;
        let part = content.slice(from..content.len().min(from + PART_SIZE));
        parts.push(s.put_part(&at, &id, number, Body::Bytes(part)).await.map_err(failed)?);
    }
    check(s.head(&at).await.map_err(failed)?.is_none(), || "visible before it is complete".to_owned())?;
    parts.remove(1);
    parts.sort_by_key(|part| part.number);
    let meta = s.complete_multipart(&at, &id, &parts).await.map_err(failed)?;
    check(meta.size == content.len() as u64, || format!("size {}", meta.size))?;
    let digest = s.digest(&at, Algorithm::Sha256).await.map_err(failed)?;
    check(digest == Some(Algorithm::Sha256.digest(&content)), || "wrong bytes".to_owned())?;
    let again = s.complete_multipart(&at, &id, &parts).await;
    check(again.is_err(), || "completed twice".to_owned())?;
    Ok(())
}

pub(super) async fn multipart_aborted(s: Store) -> Result<(), Failure> {
    let at = path("m/file")?;
    let id = s.create_multipart(&at).await.map_err(failed)?;
    let part = s.put_part(&at, &id, 1, Body::Bytes(noise(1000, 8))).await.map_err(failed)?;
    for _ in 0..2 {
        s.abort_multipart(&at, &id).await.map_err(failed)?;
    }
    check(s.complete_multipart(&at, &id, &[part]).await.is_err(), || {
        "completed after it was aborted".to_owned()
    })?;
    check(s.head(&at).await.map_err(failed)?.is_none(), || "an object is visible".to_owned())?;
    Ok(())
}

pub(super) async fn multipart_gaps(s: Store) -> Result<(), Failure> {
    let at = path("m/file")?;
    let content = noise(PART_SIZE + 9, 9);
    let id = s.create_multipart(&at).await.map_err(failed)?;
    let mut parts = Vec::new();
    for (number, range) in [(2, 0..PART_SIZE), (4, 3..5), (7, PART_SIZE..PART_SIZE + 9)] {
        let body = Body::Bytes(content.slice(range));
        parts.push(s.put_part(&at, &id, number, body).await.map_err(failed)?);
    }
    parts.remove(1);
    s.complete_multipart(&at, &id, &parts).await.map_err(failed)?;
    let digest = s.digest(&at, Algorithm::Sha256).await.map_err(failed)?;
    check(digest == Some(Algorithm::Sha256.digest(&content)), || "wrong bytes".to_owned())?;
    Ok(())
}
