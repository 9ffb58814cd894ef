//! The file operations of `distribution`'s drivers.

use bytes::Bytes;

use super::{Failure, check, expect, failed, get, noise, path, paths_below, put};
use crate::{
    oci::Algorithm,
    storage::{
        Store,
        files::{PART_SIZE, Stat},
    },
};

async fn append_in(s: Store, sizes: &[usize]) -> Result<(), Failure> {
    let mut expected = Vec::new();
    for (round, size) in sizes.iter().enumerate() {
        let mut writer = s.writer(&path("a/file")?, round > 0).await.map_err(failed)?;
        check(writer.size() == expected.len() as u64, || format!("a writer opened at {}", writer.size()))?;
        let content = noise(*size, round as u64 + 1);
        for piece in content.chunks(1_000_003) {
            writer.write(Bytes::copy_from_slice(piece)).await.map_err(failed)?;
        }
        expected.extend_from_slice(&content);
        check(writer.size() == expected.len() as u64, || format!("a writer has {} bytes", writer.size()))?;
        writer.commit().await.map_err(failed)?;
        let digest = s.digest(&path("a/file")?, Algorithm::Sha256).await.map_err(failed)?;
        check(digest == Some(Algorithm::Sha256.digest(&expected)), || format!("round {round}: wrong bytes"))?;
    }
    Ok(())
}

pub(super) async fn append_small(s: Store) -> Result<(), Failure> {
    append_in(s, &[32, 1, 65_536, 0, 7]).await
}

pub(super) async fn append_large(s: Store) -> Result<(), Failure> {
    append_in(s, &[PART_SIZE + 1, 3, PART_SIZE, 2 * PART_SIZE - 4]).await
}

pub(super) async fn zero_bytes_then_append(s: Store) -> Result<(), Failure> {
    append_in(s, &[0, 0, 10]).await
}

pub(super) async fn cancelled_write(s: Store) -> Result<(), Failure> {
    put(&s, "a/file", "before").await?;
    let mut writer = s.writer(&path("a/file")?, false).await.map_err(failed)?;
    writer.write(noise(1000, 1)).await.map_err(failed)?;
    writer.cancel().await.map_err(failed)?;
    expect(&s, "a/file", "before").await
}

pub(super) async fn move_object(s: Store) -> Result<(), Failure> {
    let content = noise(70_000, 1);
    put(&s, "from/file", content.clone()).await?;
    check(s.rename(&path("from/file")?, &path("to/file")?).await.map_err(failed)?, || {
        "nothing was moved".to_owned()
    })?;
    expect(&s, "to/file", content).await?;
    check(get(&s, "from/file").await?.is_none(), || "the source is still there".to_owned())?;
    Ok(())
}

pub(super) async fn move_over(s: Store) -> Result<(), Failure> {
    put(&s, "from/file", "new").await?;
    put(&s, "to/file", "old and longer").await?;
    check(s.rename(&path("from/file")?, &path("to/file")?).await.map_err(failed)?, || {
        "nothing was moved".to_owned()
    })?;
    expect(&s, "to/file", "new").await?;
    check(get(&s, "from/file").await?.is_none(), || "the source is still there".to_owned())?;
    Ok(())
}

pub(super) async fn move_missing(s: Store) -> Result<(), Failure> {
    put(&s, "to/file", "old").await?;
    check(!s.rename(&path("from/file")?, &path("to/file")?).await.map_err(failed)?, || {
        "something was moved".to_owned()
    })?;
    expect(&s, "to/file", "old").await
}

pub(super) async fn delete(s: Store) -> Result<(), Failure> {
    put(&s, "a/file", "x").await?;
    put(&s, "a/other", "x").await?;
    let paths = [path("a/file")?, path("a/missing")?];
    for _ in 0..2 {
        s.delete(&paths).await.map_err(failed)?;
    }
    check(get(&s, "a/file").await?.is_none(), || "still there".to_owned())?;
    expect(&s, "a/other", "x").await?;
    s.delete(&[]).await.map_err(failed)
}

pub(super) async fn delete_recursively(s: Store) -> Result<(), Failure> {
    for at in ["d/a", "d/b/c", "d/b/d/e"] {
        put(&s, at, "x").await?;
    }
    s.delete_tree(&path("d/b")?).await.map_err(failed)?;
    let left = paths_below(&s, "d").await?;
    check(left == ["d/a"], || format!("after d/b: {left:?}"))?;
    s.delete_tree(&path("d")?).await.map_err(failed)?;
    let left = paths_below(&s, "d").await?;
    check(left.is_empty(), || format!("after d: {left:?}"))?;
    s.delete_tree(&path("d")?).await.map_err(failed)
}

pub(super) async fn delete_only_below(s: Store) -> Result<(), Failure> {
    for at in ["d/a/x", "d/ab", "d/a-b/x", "d/a.b", "da"] {
        put(&s, at, "x").await?;
    }
    s.delete_tree(&path("d/a")?).await.map_err(failed)?;
    let left = paths_below(&s, "").await?;
    check(left == ["d/a-b/x", "d/a.b", "d/ab", "da"], || format!("left: {left:?}"))?;
    Ok(())
}

pub(super) async fn stat(s: Store) -> Result<(), Failure> {
    put(&s, "a/b/file", "12345").await?;
    match s.stat(&path("a/b/file")?).await.map_err(failed)? {
        Some(Stat::File(meta)) if meta.size == 5 => {}
        other => return Err(format!("the file: {other:?}")),
    }
    for folder in ["a", "a/b"] {
        let found = s.stat(&path(folder)?).await.map_err(failed)?;
        check(found == Some(Stat::Folder), || format!("{folder}: {found:?}"))?;
    }
    check(s.stat(&path("a/b/fil")?).await.map_err(failed)?.is_none(), || {
        "a prefix of a name is found".to_owned()
    })?;
    Ok(())
}
