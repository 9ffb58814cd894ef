//! Objects: writing and reading them, verified and conditional writes.

use bytes::Bytes;
use futures_util::future;

use super::{Failure, check, expect, failed, noise, path, paths_below, put};
use crate::{
    oci::Algorithm,
    platform::{Body, ByteRange},
    storage::{Condition, Metadata, Object, Path, PutOptions, StorageErrorKind, Store},
};

pub(super) async fn valid_paths(s: Store) -> Result<(), Failure> {
    for at in ["a", "aa", "a.a", "0-9", "abc.z", "b/b-c/d_e", "_uploads/x", "b/-b", "b/.b", "A/B"] {
        put(&s, at, at).await?;
        expect(&s, at, at).await?;
    }
    Ok(())
}

pub(super) async fn invalid_paths(_: Store) -> Result<(), Failure> {
    let long = "a".repeat(Path::MAX_LEN + 1);
    for at in ["", "/", "/a", "a/", "a//b", "abc//bcd", "a b", "a?b", "a/../b", "..", ".", "ä", "a:b", &long]
    {
        check(at.parse::<Path>().is_err(), || format!("{at:?} is accepted as a path"))?;
    }
    Ok(())
}

pub(super) async fn round_trips(s: Store) -> Result<(), Failure> {
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

pub(super) async fn truncate(s: Store) -> Result<(), Failure> {
    put(&s, "a/file", noise(1024 * 1024, 1)).await?;
    put(&s, "a/file", "short").await?;
    expect(&s, "a/file", "short").await
}

pub(super) async fn missing_paths(s: Store) -> Result<(), Failure> {
    let missing = path("not/there")?;
    check(s.head(&missing).await.map_err(failed)?.is_none(), || "head finds an absent object".to_owned())?;
    check(s.get(&missing, None).await.map_err(failed)?.is_none(), || {
        "get finds an absent object".to_owned()
    })?;
    let range = Some(ByteRange { offset: 0, length: None });
    check(s.get(&missing, range).await.map_err(failed)?.is_none(), || {
        "get of a range finds an absent object".to_owned()
    })?;
    check(s.stat(&missing).await.map_err(failed)?.is_none(), || "stat finds an absent object".to_owned())?;
    check(s.digest(&missing, Algorithm::Sha256).await.map_err(failed)?.is_none(), || {
        "digest finds an absent object".to_owned()
    })?;
    check(paths_below(&s, "not/there/").await?.is_empty(), || "list finds an absent object".to_owned())?;
    Ok(())
}

pub(super) async fn reader_with_offset(s: Store) -> Result<(), Failure> {
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

pub(super) async fn repeated_put(s: Store) -> Result<(), Failure> {
    for round in 0..20_u32 {
        put(&s, "a/file", noise(1000, u64::from(round))).await?;
        expect(&s, "a/file", noise(1000, u64::from(round))).await?;
    }
    Ok(())
}

pub(super) async fn concurrent_streams(s: Store) -> Result<(), Failure> {
    let writes = (0..8_u64).map(|n| {
        let s = &s;
        async move {
            let content = noise(200_000 + n as usize, n);
            put(s, &format!("c/{n}"), content.clone()).await?;
            let object = s.get(&path(&format!("c/{n}"))?, None).await.map_err(failed)?;
            let Some(object) = object else { return Err(format!("c/{n} is absent")) };
            // The stream of one object can be written to another.
            s.put(&path(&format!("d/{n}"))?, object.body, PutOptions::default()).await.map_err(failed)?;
            expect(s, &format!("d/{n}"), content).await
        }
    });
    future::try_join_all(writes).await.map(drop)
}

pub(super) async fn metadata(s: Store) -> Result<(), Failure> {
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
        let Some(meta) = meta else { return Err(format!("{operation}: absent")) };
        check(meta.metadata == metadata, || format!("{operation}: metadata {:?}", meta.metadata))?;
        check(meta.media_type.as_deref() == Some("text/x"), || {
            format!("{operation}: media type {:?}", meta.media_type)
        })?;
        check(meta.size == 1, || format!("{operation}: size {}", meta.size))?;
    }
    Ok(())
}

pub(super) async fn verified_put(s: Store) -> Result<(), Failure> {
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

pub(super) async fn verified_stream(s: Store, algorithm: Algorithm) -> Result<(), Failure> {
    let content = noise(300_000, 6);
    put(&s, "v/source", content.clone()).await?;
    let (right, wrong) = (algorithm.digest(&content), algorithm.digest(b"something else"));
    for (digest, at) in [(&right, "v/right"), (&wrong, "v/wrong")] {
        let source = s.get(&path("v/source")?, None).await.map_err(failed)?;
        let body = source.ok_or("the source is absent")?.body;
        let options = PutOptions { digest: Some(digest), ..PutOptions::default() };
        let error = s.put(&path(at)?, body, options).await.err().map(|error| error.kind);
        let expected = (*digest == wrong).then_some(StorageErrorKind::DigestMismatch);
        check(error == expected, || format!("{at}: {error:?}"))?;
    }
    expect(&s, "v/right", content).await?;
    let left = paths_below(&s, "").await?;
    check(left == ["v/right", "v/source"], || format!("a refused write left {left:?}"))
}

pub(super) async fn digest(s: Store) -> Result<(), Failure> {
    let content = noise(300_001, 6);
    put(&s, "a/file", content.clone()).await?;
    for algorithm in Algorithm::ALL {
        let digest = s.digest(&path("a/file")?, algorithm).await.map_err(failed)?;
        check(digest == Some(algorithm.digest(&content)), || format!("{algorithm}: {digest:?}"))?;
    }
    Ok(())
}

pub(super) async fn conditional_put(s: Store) -> Result<(), Failure> {
    let at = path("a/file")?;
    let put = async |content: &'static str, condition: Condition| {
        s.put(&at, Body::Bytes(content.into()), PutOptions { condition, ..PutOptions::default() })
            .await
            .map_err(|error| error.kind)
    };
    let refused = |result: Result<_, StorageErrorKind>| result.err() == Some(StorageErrorKind::Precondition);
    check(refused(put("0", Condition::IfMatch("none".into())).await), || {
        "IfMatch on an absent object is not refused".to_owned()
    })?;
    let first = put("1", Condition::IfAbsent).await.map_err(|kind| kind.to_string())?;
    check(refused(put("2", Condition::IfAbsent).await), || {
        "IfAbsent over an object is not refused".to_owned()
    })?;
    let second = put("3", Condition::IfMatch(first.etag.clone())).await.map_err(|kind| kind.to_string())?;
    check(second.etag != first.etag, || "the etag did not change".to_owned())?;
    check(refused(put("4", Condition::IfMatch(first.etag)).await), || {
        "IfMatch with an old etag is not refused".to_owned()
    })?;
    expect(&s, "a/file", "3").await
}
