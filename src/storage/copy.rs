//! Copying for drivers whose store cannot.

use super::{Object, Path, PutOptions, StorageDriver, StorageError, Writer};

/// Reads and writes again: in one put, or in parts.
pub(super) async fn through<S: StorageDriver>(
    driver: &S,
    from: &Path,
    to: &Path,
) -> Result<bool, StorageError> {
    let Some(meta) = driver.head(from).await? else { return Ok(false) };
    if meta.size <= driver.capabilities().max_put {
        let Some(Object { meta, body }) = driver.get(from, None).await? else { return Ok(false) };
        let media_type = meta.media_type.as_deref();
        let options = PutOptions { media_type, facts: meta.facts.clone(), ..PutOptions::default() };
        driver.put(to, body, options).await?;
    } else {
        let mut writer = Writer::create(driver, to);
        writer.copy_from(from, meta.size).await?;
        writer.commit().await?;
    }
    Ok(true)
}
