//! The driver suite: what every driver must do, run on the memory driver natively and on R2, KV and S3 through
//! the platform's own bindings.
//!
//! The cases are those of `distribution`'s driver suite, and those that a registry relies on: conditional and
//! verified writes, listings in order, multipart uploads.

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use futures_util::future;

use super::{
    Capabilities, Condition, Metadata, Object, Page, Path, PutOptions, StorageError, StorageErrorKind, Store,
    files::{PART_SIZE, Stat},
};
use crate::{
    oci::Algorithm,
    platform::{Body, ByteRange},
};

/// Why a case failed.
pub type Failure = String;
/// A case of the suite, run on an empty store.
pub type Case = fn(Store) -> Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(message()) }
}

/// Every case that applies to a driver with these capabilities, by name.
pub fn cases(capabilities: Capabilities) -> Vec<(&'static str, Case)> {
    let mut cases: Vec<(&'static str, Case)> = vec![
        ("root exists", |s| Box::pin(root_exists(s))),
        ("valid paths", |s| Box::pin(valid_paths(s))),
        ("invalid paths", |s| Box::pin(invalid_paths(s))),
        ("round trips", |s| Box::pin(round_trips(s))),
        ("truncate", |s| Box::pin(truncate(s))),
        ("missing paths", |s| Box::pin(missing_paths(s))),
        ("reader with offset", |s| Box::pin(reader_with_offset(s))),
        ("streamed write and append", |s| Box::pin(append_small(s))),
        ("zero bytes then append", |s| Box::pin(zero_bytes_then_append(s))),
        ("cancelled write", |s| Box::pin(cancelled_write(s))),
        ("list", |s| Box::pin(list(s))),
        ("list by folders, page by page", |s| Box::pin(list_pages(s))),
        ("move", |s| Box::pin(move_object(s))),
        ("move over", |s| Box::pin(move_over(s))),
        ("move missing", |s| Box::pin(move_missing(s))),
        ("delete", |s| Box::pin(delete(s))),
        ("delete recursively", |s| Box::pin(delete_recursively(s))),
        ("delete only below", |s| Box::pin(delete_only_below(s))),
        ("stat of file and folder", |s| Box::pin(stat(s))),
        ("repeated put", |s| Box::pin(repeated_put(s))),
        ("concurrent streams", |s| Box::pin(concurrent_streams(s))),
        ("metadata and media type", |s| Box::pin(metadata(s))),
        ("verified put", |s| Box::pin(verified_put(s))),
        ("verified stream, sha256", |s| Box::pin(verified_stream(s, Algorithm::Sha256))),
        ("verified stream, sha512", |s| Box::pin(verified_stream(s, Algorithm::Sha512))),
        ("digest of what is stored", |s| Box::pin(digest(s))),
    ];
    if capabilities.nests {
        cases.push(("an object beside a folder of its name", |s| Box::pin(nested(s))));
    }
    if capabilities.conditional_put {
        cases.push(("conditional put", |s| Box::pin(conditional_put(s))));
    }
    if capabilities.multipart {
        cases.push(("append to large", |s| Box::pin(append_large(s))));
        cases.push(("multipart", |s| Box::pin(multipart(s))));
        cases.push(("multipart, aborted", |s| Box::pin(multipart_aborted(s))));
        cases.push(("multipart, part numbers left out", |s| Box::pin(multipart_gaps(s))));
    }
    cases
}

fn path(text: &str) -> Result<Path, Failure> {
    text.parse().map_err(|error| format!("{error}"))
}

fn failed(error: StorageError) -> Failure {
    error.to_string()
}

/// Bytes without a short period, the same for the same arguments.
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

async fn root_exists(s: Store) -> Result<(), Failure> {
    let listing = s.list("", Page::first()).await.map_err(failed)?;
    check(listing.objects.is_empty() && listing.next.is_none(), || {
        format!("an empty store lists {listing:?}")
    })?;
    Ok(())
}

async fn valid_paths(s: Store) -> Result<(), Failure> {
    for at in ["a", "aa", "a.a", "0-9", "abc.z", "b/b-c/d_e", "_uploads/x", "b/-b", "b/.b", "A/B"] {
        put(&s, at, at).await?;
        expect(&s, at, at).await?;
    }
    Ok(())
}

async fn invalid_paths(_: Store) -> Result<(), Failure> {
    let long = "a".repeat(Path::MAX_LEN + 1);
    for at in ["", "/", "/a", "a/", "a//b", "abc//bcd", "a b", "a?b", "a/../b", "..", ".", "ä", "a:b", &long]
    {
        check(at.parse::<Path>().is_err(), || format!("{at:?} is taken for a path"))?;
    }
    Ok(())
}

async fn round_trips(s: Store) -> Result<(), Failure> {
    let invalid_utf8 = Bytes::from_static(&[0xff, 0xfe, 0x00, 0x80, 0xc3, 0x28]);
    for (at, content) in [
        ("trip/empty", Bytes::new()),
        ("trip/zero", Bytes::from_static(b"\0")),
        ("trip/text", Bytes::from_static("gr\u{fc}\u{df}e\n".as_bytes())),
        ("trip/invalid-utf8", invalid_utf8),
        ("trip/odd", noise(65_537, 1)),
        ("trip/large", noise(3 * 1024 * 1024 + 1, 2)),
    ] {
        put(&s, at, content.clone()).await?;
        expect(&s, at, content.clone()).await?;
        let meta = s.head(&path(at)?).await.map_err(failed)?;
        check(meta.is_some_and(|meta| meta.size == content.len() as u64), || format!("{at}: wrong size"))?;
    }
    Ok(())
}

async fn truncate(s: Store) -> Result<(), Failure> {
    put(&s, "a/file", noise(1024 * 1024, 1)).await?;
    put(&s, "a/file", "short").await?;
    expect(&s, "a/file", "short").await
}

async fn missing_paths(s: Store) -> Result<(), Failure> {
    let missing = path("not/there")?;
    check(s.head(&missing).await.map_err(failed)?.is_none(), || "head finds what is not there".to_owned())?;
    check(s.get(&missing, None).await.map_err(failed)?.is_none(), || {
        "get finds what is not there".to_owned()
    })?;
    let range = Some(ByteRange { offset: 0, length: None });
    check(s.get(&missing, range).await.map_err(failed)?.is_none(), || {
        "get of a range finds what is not there".to_owned()
    })?;
    check(s.stat(&missing).await.map_err(failed)?.is_none(), || "stat finds what is not there".to_owned())?;
    check(s.digest(&missing, Algorithm::Sha256).await.map_err(failed)?.is_none(), || {
        "digest finds what is not there".to_owned()
    })?;
    check(paths_below(&s, "not/there/").await?.is_empty(), || "list finds what is not there".to_owned())?;
    Ok(())
}

async fn reader_with_offset(s: Store) -> Result<(), Failure> {
    let content = noise(100_000, 3);
    let at = path("a/file")?;
    put(&s, "a/file", content.clone()).await?;
    for (offset, length) in [
        (0, None),
        (0, Some(1)),
        (1, None),
        (99_999, None),
        (500, Some(1000)),
        (99_000, Some(5000)),
        (0, Some(u64::from(u32::MAX))),
    ] {
        let range = ByteRange { offset, length };
        let object = s.get(&at, Some(range)).await.map_err(failed)?;
        let Some(Object { meta, body }) = object else { return Err(format!("{range:?}: not found")) };
        let end = length.map_or(100_000, |length| (offset + length).min(100_000)) as usize;
        check(meta.size == 100_000, || format!("{range:?}: size {} is not the object's", meta.size))?;
        check(body.content_length() == Some(end as u64 - offset), || {
            format!("{range:?}: length {:?}", body.content_length())
        })?;
        let bytes = body.read(usize::MAX).await.map_err(|error| error.to_string())?;
        check(bytes == content.slice(offset as usize..end), || format!("{range:?}: wrong bytes"))?;
    }
    for offset in [100_000, 100_001, 1 << 40] {
        let error = s.get(&at, Some(ByteRange { offset, length: None })).await.err().map(|error| error.kind);
        check(error == Some(StorageErrorKind::InvalidOffset { offset }), || {
            format!("offset {offset} of 100000: {error:?}")
        })?;
    }
    Ok(())
}

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
        check(writer.size() == expected.len() as u64, || format!("a writer says {} bytes", writer.size()))?;
        writer.commit().await.map_err(failed)?;
        let digest = s.digest(&path("a/file")?, Algorithm::Sha256).await.map_err(failed)?;
        check(digest == Some(Algorithm::Sha256.digest(&expected)), || format!("round {round}: wrong bytes"))?;
    }
    Ok(())
}

async fn append_small(s: Store) -> Result<(), Failure> {
    append_in(s, &[32, 1, 65_536, 0, 7]).await
}

async fn append_large(s: Store) -> Result<(), Failure> {
    append_in(s, &[PART_SIZE + 1, 3, PART_SIZE, 2 * PART_SIZE - 4]).await
}

async fn zero_bytes_then_append(s: Store) -> Result<(), Failure> {
    append_in(s, &[0, 0, 10]).await
}

async fn cancelled_write(s: Store) -> Result<(), Failure> {
    put(&s, "a/file", "before").await?;
    let mut writer = s.writer(&path("a/file")?, false).await.map_err(failed)?;
    writer.write(noise(1000, 1)).await.map_err(failed)?;
    writer.cancel().await.map_err(failed)?;
    expect(&s, "a/file", "before").await
}

async fn list(s: Store) -> Result<(), Failure> {
    for at in ["l/b", "l/a/2", "l/a/1", "l/a-b/x", "l/c/d/e", "lx", "k"] {
        put(&s, at, at).await?;
    }
    let flat = paths_below(&s, "l/").await?;
    check(flat == ["l/a-b/x", "l/a/1", "l/a/2", "l/b", "l/c/d/e"], || format!("flat: {flat:?}"))?;
    let listing = s.list("l/", Page { folders: true, ..Page::first() }).await.map_err(failed)?;
    let objects: Vec<&str> = listing.objects.iter().map(|(path, _)| path.as_str()).collect();
    check(objects == ["l/b"], || format!("objects: {objects:?}"))?;
    check(listing.folders == ["l/a-b/", "l/a/", "l/c/"], || format!("folders: {:?}", listing.folders))?;
    Ok(())
}

async fn list_pages(s: Store) -> Result<(), Failure> {
    let mut expected = Vec::new();
    for tag in ["v1", "v1-a", "v1.0", "v2", "w"] {
        for leaf in ["current", "index/x", "index/y"] {
            put(&s, &format!("t/{tag}/{leaf}"), "x").await?;
        }
        expected.push(format!("t/{tag}/"));
    }
    put(&s, "t/loose", "x").await?;
    expected.push("t/loose".to_owned());
    expected.sort();
    for limit in [1, 2, 3, 1000] {
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        for _ in 0..20 {
            let page = Page { after: after.as_deref(), limit, folders: true };
            let listing = s.list("t/", page).await.map_err(failed)?;
            let mut entries = listing.folders;
            entries.extend(listing.objects.into_iter().map(|(path, _)| path));
            entries.sort();
            check(entries.len() <= limit, || format!("limit {limit}: a page of {}", entries.len()))?;
            seen.extend(entries);
            after = listing.next;
            if after.is_none() {
                break;
            }
        }
        check(seen == expected, || format!("limit {limit}: {seen:?}"))?;
    }
    Ok(())
}

async fn move_object(s: Store) -> Result<(), Failure> {
    let content = noise(70_000, 1);
    put(&s, "from/file", content.clone()).await?;
    check(s.rename(&path("from/file")?, &path("to/file")?).await.map_err(failed)?, || {
        "nothing was moved".to_owned()
    })?;
    expect(&s, "to/file", content).await?;
    check(get(&s, "from/file").await?.is_none(), || "the source is still there".to_owned())?;
    Ok(())
}

async fn move_over(s: Store) -> Result<(), Failure> {
    put(&s, "from/file", "new").await?;
    put(&s, "to/file", "old and longer").await?;
    check(s.rename(&path("from/file")?, &path("to/file")?).await.map_err(failed)?, || {
        "nothing was moved".to_owned()
    })?;
    expect(&s, "to/file", "new").await?;
    check(get(&s, "from/file").await?.is_none(), || "the source is still there".to_owned())?;
    Ok(())
}

async fn move_missing(s: Store) -> Result<(), Failure> {
    put(&s, "to/file", "old").await?;
    check(!s.rename(&path("from/file")?, &path("to/file")?).await.map_err(failed)?, || {
        "something was moved".to_owned()
    })?;
    expect(&s, "to/file", "old").await
}

async fn delete(s: Store) -> Result<(), Failure> {
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

async fn delete_recursively(s: Store) -> Result<(), Failure> {
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

async fn nested(s: Store) -> Result<(), Failure> {
    for at in ["d/a/1", "d/a", "d/a/b/2", "d/b"] {
        put(&s, at, at).await?;
    }
    let flat = paths_below(&s, "d").await?;
    check(flat == ["d/a", "d/a/1", "d/a/b/2", "d/b"], || format!("flat: {flat:?}"))?;
    let listing = s.list("d/", Page { folders: true, ..Page::first() }).await.map_err(failed)?;
    let objects: Vec<&str> = listing.objects.iter().map(|(path, _)| path.as_str()).collect();
    check(objects == ["d/a", "d/b"] && listing.folders == ["d/a/"], || format!("folders: {listing:?}"))?;
    s.delete(&[path("d/a")?]).await.map_err(failed)?;
    expect(&s, "d/a/1", "d/a/1").await?;
    put(&s, "d/a", "again").await?;
    s.delete_tree(&path("d/a")?).await.map_err(failed)?;
    let left = paths_below(&s, "d").await?;
    check(left == ["d/b"], || format!("after d/a: {left:?}"))
}

async fn delete_only_below(s: Store) -> Result<(), Failure> {
    for at in ["d/a/x", "d/ab", "d/a-b/x", "d/a.b", "da"] {
        put(&s, at, "x").await?;
    }
    s.delete_tree(&path("d/a")?).await.map_err(failed)?;
    let left = paths_below(&s, "").await?;
    check(left == ["d/a-b/x", "d/a.b", "d/ab", "da"], || format!("left: {left:?}"))?;
    Ok(())
}

async fn stat(s: Store) -> Result<(), Failure> {
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
        "part of a name is found".to_owned()
    })?;
    Ok(())
}

async fn repeated_put(s: Store) -> Result<(), Failure> {
    for round in 0..20_u32 {
        put(&s, "a/file", noise(1000, u64::from(round))).await?;
        expect(&s, "a/file", noise(1000, u64::from(round))).await?;
    }
    Ok(())
}

async fn concurrent_streams(s: Store) -> Result<(), Failure> {
    let writes = (0..8_u64).map(|n| {
        let s = &s;
        async move {
            let content = noise(200_000 + n as usize, n);
            put(s, &format!("c/{n}"), content.clone()).await?;
            let object = s.get(&path(&format!("c/{n}"))?, None).await.map_err(failed)?;
            let Some(object) = object else { return Err(format!("c/{n} is not there")) };
            // Through a stream once more: what one object gives, another takes.
            s.put(&path(&format!("d/{n}"))?, object.body, PutOptions::default()).await.map_err(failed)?;
            expect(s, &format!("d/{n}"), content).await
        }
    });
    future::try_join_all(writes).await.map(drop)
}

async fn metadata(s: Store) -> Result<(), Failure> {
    let metadata = Metadata::from([("size".to_owned(), "7".to_owned()), ("at".to_owned(), "x/y".to_owned())]);
    let options =
        PutOptions { media_type: Some("text/x"), metadata: metadata.clone(), ..PutOptions::default() };
    let put = s.put(&path("a/file")?, Body::Bytes("x".into()), options).await.map_err(failed)?;
    let head = s.head(&path("a/file")?).await.map_err(failed)?;
    let got = s.get(&path("a/file")?, None).await.map_err(failed)?.map(|object| object.meta);
    let mut metas = vec![("put", Some(put)), ("head", head), ("get", got)];
    if s.capabilities().lists_metadata {
        metas.push(("list", s.list_all("a/").await.map_err(failed)?.pop().map(|(_, meta)| meta)));
    }
    check(s.copy(&path("a/file")?, &path("b/file")?).await.map_err(failed)?, || "not copied".to_owned())?;
    metas.push(("copy", s.head(&path("b/file")?).await.map_err(failed)?));
    for (operation, meta) in metas {
        let Some(meta) = meta else { return Err(format!("{operation}: not there")) };
        check(meta.metadata == metadata, || format!("{operation}: metadata {:?}", meta.metadata))?;
        check(meta.media_type.as_deref() == Some("text/x"), || {
            format!("{operation}: media type {:?}", meta.media_type)
        })?;
        check(meta.size == 1, || format!("{operation}: size {}", meta.size))?;
    }
    Ok(())
}

async fn verified_put(s: Store) -> Result<(), Failure> {
    let content = noise(100_000, 5);
    for algorithm in Algorithm::ALL {
        let at = path(&format!("v/{algorithm}"))?;
        let right = algorithm.digest(&content);
        let wrong = algorithm.digest(b"something else");
        let options = PutOptions { digest: Some(&wrong), ..PutOptions::default() };
        let error = s.put(&at, Body::Bytes(content.clone()), options).await.err().map(|error| error.kind);
        check(error == Some(StorageErrorKind::DigestMismatch), || {
            format!("{algorithm}: a wrong digest gives {error:?}")
        })?;
        check(s.head(&at).await.map_err(failed)?.is_none(), || {
            format!("{algorithm}: a refused write left something")
        })?;
        let options = PutOptions { digest: Some(&right), ..PutOptions::default() };
        s.put(&at, Body::Bytes(content.clone()), options).await.map_err(failed)?;
    }
    let empty = Algorithm::Sha256.digest(b"");
    let options = PutOptions { digest: Some(&empty), ..PutOptions::default() };
    s.put(&path("v/empty")?, Body::Empty, options).await.map_err(failed)?;
    expect(&s, "v/empty", "").await
}

async fn verified_stream(s: Store, algorithm: Algorithm) -> Result<(), Failure> {
    let content = noise(300_000, 6);
    put(&s, "v/source", content.clone()).await?;
    let (right, wrong) = (algorithm.digest(&content), algorithm.digest(b"something else"));
    for (digest, at) in [(&right, "v/right"), (&wrong, "v/wrong")] {
        let source = s.get(&path("v/source")?, None).await.map_err(failed)?;
        let body = source.ok_or("the source is not there")?.body;
        let options = PutOptions { digest: Some(digest), ..PutOptions::default() };
        let error = s.put(&path(at)?, body, options).await.err().map(|error| error.kind);
        let expected = (*digest == wrong).then_some(StorageErrorKind::DigestMismatch);
        check(error == expected, || format!("{at}: {error:?}"))?;
    }
    expect(&s, "v/right", content).await?;
    let left = paths_below(&s, "").await?;
    check(left == ["v/right", "v/source"], || format!("a refused write left {left:?}"))
}

async fn digest(s: Store) -> Result<(), Failure> {
    let content = noise(300_001, 6);
    put(&s, "a/file", content.clone()).await?;
    for algorithm in Algorithm::ALL {
        let digest = s.digest(&path("a/file")?, algorithm).await.map_err(failed)?;
        check(digest == Some(algorithm.digest(&content)), || format!("{algorithm}: {digest:?}"))?;
    }
    Ok(())
}

async fn conditional_put(s: Store) -> Result<(), Failure> {
    let at = path("a/file")?;
    let put = async |content: &'static str, condition: Condition| {
        s.put(&at, Body::Bytes(content.into()), PutOptions { condition, ..PutOptions::default() })
            .await
            .map_err(|error| error.kind)
    };
    let refused = |result: Result<_, StorageErrorKind>| result.err() == Some(StorageErrorKind::Precondition);
    check(refused(put("0", Condition::IfMatch("none".into())).await), || {
        "IfMatch on nothing is not refused".to_owned()
    })?;
    let first = put("1", Condition::IfAbsent).await.map_err(|kind| kind.to_string())?;
    check(refused(put("2", Condition::IfAbsent).await), || {
        "IfAbsent over an object is not refused".to_owned()
    })?;
    let second = put("3", Condition::IfMatch(first.etag.clone())).await.map_err(|kind| kind.to_string())?;
    check(second.etag != first.etag, || "the etag stayed the same".to_owned())?;
    check(refused(put("4", Condition::IfMatch(first.etag)).await), || {
        "IfMatch with an old etag is not refused".to_owned()
    })?;
    expect(&s, "a/file", "3").await
}

async fn multipart(s: Store) -> Result<(), Failure> {
    let at = path("m/file")?;
    let content = noise(2 * PART_SIZE + 12_345, 7);
    let id = s.create_multipart(&at).await.map_err(failed)?;
    // Out of order, and one number twice.
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

async fn multipart_aborted(s: Store) -> Result<(), Failure> {
    let at = path("m/file")?;
    let id = s.create_multipart(&at).await.map_err(failed)?;
    let part = s.put_part(&at, &id, 1, Body::Bytes(noise(1000, 8))).await.map_err(failed)?;
    for _ in 0..2 {
        s.abort_multipart(&at, &id).await.map_err(failed)?;
    }
    check(s.complete_multipart(&at, &id, &[part]).await.is_err(), || {
        "completed after it was aborted".to_owned()
    })?;
    check(s.head(&at).await.map_err(failed)?.is_none(), || "something is there".to_owned())?;
    Ok(())
}

async fn multipart_gaps(s: Store) -> Result<(), Failure> {
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
