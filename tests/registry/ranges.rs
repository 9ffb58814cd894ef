//! Several ranges of a blob in one request, and ranges of manifests.

use std::{cell::Cell, future::poll_fn, ops::Range, rc::Rc, task::Poll};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::{FutureExt, future::LocalBoxFuture};
use http::Request;
use pierhead::{
    api::Response,
    layout::Key,
    oci::{Digest, Hasher},
    platform::{Body, Buffer, ByteRange, ByteStream, EdgeCache, ReadError, memory::MemoryStream},
    storage::{PutOptions, StorageDriver},
};

use crate::{
    center::Place,
    fixtures::{EMPTY_INDEX, INDEX, bytes, sha256},
    reads::{LAYER, cold, layer},
    redirects::S3,
    support::{Answer, Fault, MemoryEdge, Persistent, TestRegistry},
};

const SIZE: usize = 5000;

/// A registry with a blob of [`SIZE`] bytes in repository `a`.
fn with_blob(vars: &[(&str, &str)]) -> (TestRegistry, Persistent, Digest) {
    let persistent = Persistent::default();
    let digest = cold(&[], &persistent).push_blob("a", bytes(SIZE));
    (cold(vars, &persistent), persistent, digest)
}

fn get(registry: &TestRegistry, digest: &Digest, ranges: &str) -> Answer {
    registry.send(&format!("GET /v2/a/blobs/{digest}"), &[("range", &format!("bytes={ranges}"))], None)
}

/// `count` ranges of ten bytes, with a byte between two.
fn list(count: usize) -> String {
    let ranges: Vec<String> = (0..count).map(|n| format!("{}-{}", 11 * n, 11 * n + 9)).collect();
    ranges.join(",")
}

/// The parts of an answer: their offsets and bytes. Nothing may be in it that does not belong there.
fn parts(answer: &Answer, size: usize) -> Vec<(usize, Vec<u8>)> {
    assert_eq!(answer.status, 206, "{answer:?}");
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert_eq!(answer.header("content-range"), "");
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    assert!(boundary.len() == 32 && boundary.bytes().all(|c| c.is_ascii_hexdigit()), "{boundary}");
    let (mut rest, mut parts) = (&answer.body[..], Vec::new());
    let mut line = "";
    loop {
        let end = format!("{line}--{boundary}--\r\n");
        if rest == end.as_bytes() {
            return parts;
        }
        let head =
            format!("{line}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ");
        rest = rest.strip_prefix(head.as_bytes()).unwrap();
        let at = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let range = std::str::from_utf8(&rest[..at]).unwrap();
        let (first, last) = range.strip_suffix(&format!("/{size}")).unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let (content, after) = rest[at + 4..].split_at(last - first + 1);
        parts.push((first, content.to_vec()));
        (rest, line) = (after, "\r\n");
    }
}

/// Asserts that the answer has exactly these ranges, given as offsets and ends, in this order.
fn assert_parts(answer: &Answer, content: &[u8], expected: &[(usize, usize)]) {
    let expected: Vec<_> = expected.iter().map(|&(at, end)| (at, content[at..end].to_vec())).collect();
    assert_eq!(parts(answer, content.len()), expected);
}

#[test]
fn several_ranges_are_one_answer_in_ascending_order() {
    let (registry, _, digest) = with_blob(&[]);
    let content = bytes(SIZE);
    let answer = get(&registry, &digest, "4000-4999,10-19,100-,-5000,9000-");
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/octet-stream"));
    let answer = get(&registry, &digest, "4000-4099,10-19,9000-,15-29,30-39,-2");
    assert_parts(&answer, &content, &[(10, 40), (4000, 4100), (4998, 5000)]);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    assert_eq!(answer.header("accept-ranges"), "bytes");
    assert_eq!(answer.header("cache-control"), "private, max-age=31536000, immutable, no-transform");
    assert_eq!(answer.header("content-disposition"), "attachment");
    // The boundary cannot be known in advance.
    let again = get(&registry, &digest, "0-1,5-6");
    assert_ne!(again.header("content-type"), answer.header("content-type"));

    let all: Vec<_> = (0..64).map(|n| (11 * n, 11 * n + 10)).collect();
    assert_parts(&get(&registry, &digest, &list(64)), &content, &all);
}

/// podman assigns parts to ranges by their order, without a look at `Content-Range`: containers/image, `GetBlobAt`. This is
/// what it sends for the two indexes of a layer in the format zstd:chunked, and for the files that it lacks.
#[test]
fn every_range_of_a_partial_pull_has_its_part() {
    let (registry, _, digest) = with_blob(&[]);
    let content = bytes(SIZE);
    // Between the table of contents and the tar-split, there is only the header of a zstd frame.
    let answer = get(&registry, &digest, "4000-4499,4508-4899");
    assert_parts(&answer, &content, &[(4000, 4500), (4508, 4900)]);
    // It merges gaps of up to 1,024 bytes by itself.
    let answer = get(&registry, &digest, "0-511,1537-2047,3073-3999");
    assert_parts(&answer, &content, &[(0, 512), (1537, 2048), (3073, 4000)]);
    // For a single one, it reads the body as it is, and of a whole blob it reads what it needs.
    assert_eq!(get(&registry, &digest, "4900-4999").body, content[4900..]);
    let answer = get(&registry, &digest, &list(65));
    assert_eq!((answer.status.as_u16(), answer.body), (200, content));
}

#[test]
fn one_range_that_is_left_is_an_answer_without_parts() {
    let (registry, _, digest) = with_blob(&[]);
    let content = bytes(SIZE);
    for (ranges, at, end) in [
        ("0-9,10-19", 0, 20),
        ("10-19,5-12", 5, 20),
        ("7-9,5000-", 7, 10),
        ("0-0,0-0", 0, 1),
        ("0-,7-9", 0, SIZE),
    ] {
        let answer = get(&registry, &digest, ranges);
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (206, &content[at..end]), "{ranges}");
        assert_eq!(answer.header("content-range"), format!("bytes {at}-{}/{SIZE}", end - 1));
        assert_eq!(answer.header("content-length"), (end - at).to_string());
        assert_eq!(answer.header("content-type"), "application/octet-stream");
    }
}

#[test]
fn what_the_rfc_allows_to_ignore_is_answered_with_the_whole_blob() {
    let (registry, _, digest) = with_blob(&[]);
    for ranges in ["0-9,20-29,x", "0-,0-,0-", "0-9,5-15,9-20,100-", &list(65), ","] {
        let answer = get(&registry, &digest, ranges);
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, SIZE), "{ranges}");
        assert_eq!(answer.header("content-length"), SIZE.to_string());
        assert_eq!(answer.header("content-range"), "");
    }
    for ranges in ["5000-,6000-7000,-0", "0-9,8-5"] {
        let answer = get(&registry, &digest, ranges);
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-range")),
            (416, "bytes */5000"),
            "{ranges}"
        );
        // Nothing is read for it, also where the place of the blob is known.
        let (calls, _) =
            registry.calls(&format!("GET /v2/a/blobs/{digest}"), &[("range", &format!("bytes={ranges}"))]);
        assert!(!calls.contains(&"get"), "{calls:?}");
    }
    // No range of nothing can be satisfied, and containerd asks for this one when it pulls in parallel.
    let empty = registry.push_blob("a", "");
    let answer = get(&registry, &empty, "0-");
    assert_eq!((answer.status.as_u16(), answer.header("content-length")), (200, "0"));
}

#[test]
fn conditions_and_head_apply_to_several_ranges_as_to_one() {
    let (registry, _, digest) = with_blob(&[]);
    let etag = format!("\"{digest}\"");
    let line = format!("GET /v2/a/blobs/{digest}");
    let send = |line: &str, name: &str, value: &str| {
        registry.calls(line, &[("range", "bytes=0-9,20-29"), (name, value)])
    };
    assert_parts(&send(&line, "if-range", &etag).1, &bytes(SIZE), &[(0, 10), (20, 30)]);
    for other in ["\"sha256:other\"", &format!("W/{etag}"), "Sat, 21 Nov 2026 00:00:00 GMT"] {
        let answer = send(&line, "if-range", other).1;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, SIZE), "{other}");
    }
    let (calls, answer) = send(&line, "if-none-match", &etag);
    assert_eq!((answer.status.as_u16(), answer.body.len(), calls.len()), (304, 0, 1));
    let (calls, answer) = send(&line.replace("GET", "HEAD"), "x", "");
    assert_eq!((answer.status.as_u16(), answer.header("content-length"), calls.len()), (200, "5000", 1));
    assert_eq!((answer.header("content-type"), answer.body.len()), ("application/octet-stream", 0));
}

#[test]
fn each_range_is_one_storage_call() {
    let (registry, persistent, digest) = with_blob(&[]);
    let ranges = |count| [("range".to_owned(), format!("bytes={}", list(count)))];
    let calls = |registry: &TestRegistry, count, host: &str| {
        let ranges = ranges(count);
        let headers = [(&*ranges[0].0, &*ranges[0].1), ("host", host)];
        let (calls, answer) = registry.calls(&format!("GET /v2/a/blobs/{digest}"), &headers);
        assert_eq!(parts(&answer, SIZE).len(), count);
        calls
    };
    for count in [2, 3, 64] {
        let calls = calls(&registry, count, "r.example");
        assert_eq!(calls.iter().filter(|call| **call == "get").count(), count);
        assert_eq!(calls.iter().filter(|call| **call == "head").count(), 1);
    }
    assert!(registry.later.0.borrow().is_empty(), "ranges do not fill the edge cache");

    // From the edge cache, none is.
    let edge = Persistent { edge: MemoryEdge(Some(Rc::default())), ..persistent };
    let registry = cold(&[], &edge);
    let line = format!("GET /v2/a/blobs/{digest}");
    registry.send(&line, &[("host", "r.example")], None);
    registry.run_background();
    assert_eq!(calls(&registry, 64, "r.example"), ["head"]);
    // The cache forgets the blob in the middle: it is not asked again.
    let near = Rc::new(Forgetful { kept: edge.edge.clone(), left: Cell::new(5), asked: Cell::new(0) });
    registry.near.replace(Some(near.clone()));
    let gets = calls(&registry, 20, "r.example").into_iter().filter(|call| *call == "get").count();
    assert_eq!(gets, 15);
    assert!(near.asked.get() < 5 + 4, "{}", near.asked.get());
    near.left.set(0);
    near.asked.set(0);
    assert_eq!(calls(&registry, 20, "r.example").len(), 21);
    assert_eq!(near.asked.get(), 1);
}

/// A cache that answers a few times.
struct Forgetful {
    kept: MemoryEdge,
    left: Cell<usize>,
    asked: Cell<usize>,
}

impl EdgeCache for Forgetful {
    fn get<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>> {
        self.asked.set(self.asked.get() + 1);
        if self.left.get() == 0 {
            return Box::pin(async { None });
        }
        self.left.set(self.left.get() - 1);
        self.kept.get(host, digest, size, range)
    }

    fn put<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        body: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>> {
        self.kept.put(host, digest, size, body)
    }
}

#[test]
fn workers_caching_answers_each_range() {
    let place = Place::new(&[("DIGEST_CACHE_SECONDS", "60")]);
    let get = |registry: &TestRegistry| {
        place.center.asked.borrow_mut().clear();
        let headers = [("host", "registry.example"), ("range", "bytes=0-2,4-8,-5")];
        let (calls, answer) = registry.calls(&format!("GET /v2/a/blobs/{}", layer()), &headers);
        assert_parts(&answer, LAYER, &[(0, 3), (4, 9), (15, 20)]);
        let asked = place.center.asked.borrow();
        (calls.len(), asked.iter().filter(|path| path.starts_with("/blobs/")).count())
    };
    // Behind the cache, the first range reads the whole blob.
    for (registry, calls) in [(&place.first, 2), (&place.first, 0), (&place.second, 0)] {
        assert_eq!(get(registry), (calls, 3));
    }
}

/// The answer, before its body is read.
fn begin(registry: &TestRegistry, digest: &Digest, count: usize) -> Response {
    let request =
        Request::get(format!("/v2/a/blobs/{digest}")).header("range", format!("bytes={}", list(count)));
    block_on(registry.handle(request.body(Body::Empty).unwrap()))
}

/// The content of a body in memory, inside a future.
fn read(body: Body) -> Bytes {
    body.read(usize::MAX).now_or_never().unwrap().unwrap()
}

#[test]
fn a_failure_of_any_range_is_never_taken_for_the_end() {
    let (_, persistent, digest) = with_blob(&[]);
    // The link, and the bytes of ten ranges.
    for at in 0..11 {
        let registry = cold(&[], &persistent);
        registry.storage.fail_at(Some((at, Fault::Error)));
        let response = begin(&registry, &digest, 10);
        if at == 0 {
            assert_eq!(response.status(), 500);
            continue;
        }
        assert_eq!(response.status(), 206, "{at}");
        if at == 1 {
            // The first range was opened while the link was looked up: it is opened again.
            assert_eq!(registry.storage.calls.borrow()[..], ["head", "get", "get"]);
            block_on(response.into_body().read(usize::MAX)).unwrap();
            continue;
        }
        registry.lines.0.take();
        let read = block_on(response.into_body().read(usize::MAX));
        assert!(matches!(read, Err(ReadError::Broken(_))), "{at}: {read:?}");
        let lines = registry.lines.0.take();
        let cut: Vec<_> = lines.iter().filter(|line| line["ranges_cut"] == digest.to_string()).collect();
        assert_eq!((cut.len(), &cut[0]["level"]), (1, &"error".into()), "{at}");
    }
    // The client learns the status of the first range.
    let registry = cold(&[], &persistent);
    registry.storage.fail_at(None);
    registry.storage.fails_below.replace(Some("pierhead/blobs/"));
    assert_eq!(begin(&registry, &digest, 10).status(), 500);
    registry.storage.fails_below.take();
    // What passes is repeated.
    for at in 0..11 {
        let registry = cold(&[], &persistent);
        registry.storage.fail_at(Some((at, Fault::Busy)));
        let response = begin(&registry, &digest, 10);
        assert_eq!(response.status(), 206);
        let length = response.body().content_length().unwrap();
        assert_eq!(block_on(response.into_body().read(usize::MAX)).unwrap().len() as u64, length);
    }
}

#[test]
fn a_part_that_breaks_or_falls_silent_or_has_another_length_ends_the_answer() {
    let (registry, _, digest) = with_blob(&[]);
    type Wrong = fn(Vec<u8>) -> MemoryStream;
    let wrong: [(Wrong, _); 4] = [
        (MemoryStream::broken, "the connection was cut"),
        (MemoryStream::silent, "no byte arrived"),
        (|_| MemoryStream::new("short"), "5 bytes"),
        (|_| MemoryStream::new("much too long"), "13 bytes"),
    ];
    for (wrong, expected) in wrong {
        for broken in [2, 5, 9] {
            let reads = Rc::new(Cell::new(0));
            registry.storage.changes_reads.replace(Some(Box::new(move |body| {
                reads.set(reads.get() + 1);
                if reads.get() == broken {
                    let content = read(body);
                    return Body::Stream(wrong(content[..4].to_vec()).into());
                }
                body
            })));
            let response = begin(&registry, &digest, 10);
            assert_eq!(response.status(), 206);
            let error = block_on(response.into_body().read(usize::MAX)).unwrap_err().to_string();
            assert!(error.contains(expected), "{broken}: {error}");
        }
    }
}

/// How many streams there are: open, at most at a time, and cancelled.
#[derive(Default)]
struct Counts {
    open: Cell<usize>,
    most: Cell<usize>,
    cancelled: Cell<usize>,
}

/// A stream that counts.
struct Counted(Option<Box<MemoryStream>>, Rc<Counts>);

impl Counted {
    fn over(stream: MemoryStream, counts: Rc<Counts>) -> Body {
        counts.open.set(counts.open.get() + 1);
        counts.most.set(counts.most.get().max(counts.open.get()));
        Body::Stream(Box::new(Self(Some(Box::new(stream)), counts)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.open.set(self.1.open.get() - 1);
    }
}

impl ByteStream for Counted {
    fn content_length(&self) -> Option<u64> {
        self.0.as_ref()?.content_length()
    }
    fn read_into<'a>(
        &'a mut self,
        _: &'a mut dyn Buffer,
        _: Range<usize>,
        _: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>> {
        unreachable!()
    }
    fn read(mut self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>> {
        let stream = self.0.take().unwrap();
        Box::pin(async move {
            let _open = self;
            // As a real one, it takes time.
            for _ in 0..10 {
                pending_once().await;
            }
            stream.read(limit).await
        })
    }
    fn discard<'a>(
        &'a mut self,
        _: u64,
        _: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>> {
        unreachable!()
    }
    fn cancel(self: Box<Self>) {
        self.1.cancelled.set(self.1.cancelled.get() + 1);
    }
}

async fn pending_once() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

#[test]
fn few_ranges_are_open_at_a_time_and_none_after_the_answer_has_ended() {
    let (registry, _, digest) = with_blob(&[]);
    let count = |breaks_at: Option<usize>| {
        let (counts, reads) = (Rc::new(Counts::default()), Cell::new(0));
        let counted = counts.clone();
        registry.storage.changes_reads.replace(Some(Box::new(move |body| {
            reads.set(reads.get() + 1);
            let content = read(body);
            let stream = match breaks_at == Some(reads.get()) {
                true => MemoryStream::broken(content),
                false => MemoryStream::new(content),
            };
            Counted::over(stream, counted.clone())
        })));
        counts
    };
    let counts = count(None);
    block_on(begin(&registry, &digest, 64).into_body().read(usize::MAX)).unwrap();
    assert_eq!((counts.open.get(), counts.cancelled.get()), (0, 0));
    // The one that is read, and those opened ahead. The runtime allows six connections.
    assert!((2..=4).contains(&counts.most.get()), "{}", counts.most.get());

    for at in [1, 30, 64] {
        let counts = count(Some(at));
        registry.storage.calls.borrow_mut().clear();
        assert!(block_on(begin(&registry, &digest, 64).into_body().read(usize::MAX)).is_err());
        // What was opened ahead is cancelled, and nothing more is opened.
        assert_eq!(counts.open.get(), 0, "{at}");
        let opened = registry.storage.calls.borrow().iter().filter(|call| **call == "get").count();
        assert!(opened <= at + 3, "{at}: {opened}");
        assert_eq!(counts.cancelled.get(), opened - at, "{at}");
    }

    // The client has gone before anything was sent.
    let counts = count(None);
    begin(&registry, &digest, 64).into_body().cancel();
    assert_eq!((counts.open.get(), counts.most.get(), counts.cancelled.get()), (0, 1, 1));
}

#[test]
fn a_wrong_guess_at_the_place_of_a_blob_is_discarded() {
    let (registry, _, digest) = with_blob(&[]);
    parts(&get(&registry, &digest, "0-9,20-29"), SIZE);
    let counts = Rc::new(Counts::default());
    let counted = counts.clone();
    registry
        .storage
        .changes_reads
        .replace(Some(Box::new(move |body| Counted::over(MemoryStream::new(read(body)), counted.clone()))));
    // The isolate knows the blob, but another has deleted it: it is looked for and opened at the same time.
    let link = Key::Layer(&"a".parse().unwrap(), &digest).path();
    block_on(registry.storage.memory.delete(&[link])).unwrap();
    assert_eq!(get(&registry, &digest, "0-9,20-29").status, 404);
    assert_eq!((counts.most.get(), counts.open.get(), counts.cancelled.get()), (1, 0, 1));
}

#[test]
fn a_blob_that_moves_or_goes_while_it_is_sent() {
    for stays in [true, false] {
        let persistent = TestRegistry::new().storage;
        let registry = TestRegistry::with(&[], Persistent { storage: persistent, ..Persistent::default() });
        // In parts: the bytes are not at their canonical place.
        let content = bytes(SIZE);
        let location = registry.start_upload("");
        let body = Some(MemoryStream::chunked(content.clone()));
        let answer = registry.send(&format!("PATCH {location}"), &[], body);
        let digest = sha256(&content);
        let line = format!("PUT {}&digest={digest}", answer.header("location"));
        assert_eq!(registry.get(&line).status, 201);
        registry.settle();
        let memory = registry.storage.memory.clone();
        let is_of_blob = |path: &String| path.starts_with("pierhead/blobs/");
        let from = memory.paths().into_iter().find(is_of_blob).expect("a multipart blob");
        let response = begin(&registry, &digest, 20);
        assert_eq!(response.status(), 206);
        block_on(async {
            if stays {
                let to = Key::Data(&digest).path();
                memory.put(&to, Body::Bytes(content.clone().into()), PutOptions::default()).await.unwrap();
            }
            memory.delete(&[from.parse().unwrap(), Key::Descriptor(&digest).path()]).await.unwrap();
        });
        let length = response.body().content_length().unwrap();
        let read = block_on(response.into_body().read(usize::MAX));
        match stays {
            true => assert_eq!(read.unwrap().len() as u64, length),
            false => assert!(read.unwrap_err().to_string().contains("the blob is gone")),
        }
    }
}

#[test]
fn a_request_for_several_ranges_is_never_redirected() {
    for mode in ["presigned", "signed"] {
        let vars = [&[("BLOB_REDIRECT", mode), ("BLOB_REDIRECT_ORIGIN", "https://cdn.example.com")], &S3[..]]
            .concat();
        let (registry, _, digest) = with_blob(&vars);
        registry.clock.0.set(1_700_000_000_000);
        for _ in 0..2 {
            let answer = get(&registry, &digest, "0-9,20-29");
            assert_parts(&answer, &bytes(SIZE), &[(0, 10), (20, 30)]);
        }
        // The store or the CDN answers one range, and the whole blob.
        for ranges in ["0-9", "0-9,10-19", "0-9,9999-", &list(65), "0-,0-,0-", "x"] {
            let answer = get(&registry, &digest, ranges);
            assert_eq!(answer.status, 307, "{mode} {ranges}");
        }
        // Who has a signed URL may ask it for several.
        if mode == "signed" {
            let answer = get(&registry, &digest, "0-9");
            let target = answer.header("location").strip_prefix("https://cdn.example.com").unwrap();
            let answer = registry.send(&format!("GET {target}"), &[("range", "bytes=0-9,20-29")], None);
            assert_parts(&answer, &bytes(SIZE), &[(0, 10), (20, 30)]);
        }
    }
}

#[test]
fn a_setting_limits_the_ranges_of_an_answer() {
    let (registry, _, digest) = with_blob(&[("MAX_RANGES", "3")]);
    assert_eq!(parts(&get(&registry, &digest, &list(3)), SIZE).len(), 3);
    assert_eq!(get(&registry, &digest, &list(4)).status, 200);
    let (registry, _, digest) = with_blob(&[("MAX_RANGES", "1")]);
    assert_eq!(get(&registry, &digest, &list(2)).status, 200);
    assert_eq!(get(&registry, &digest, "0-9").status, 206);
}

#[test]
fn the_log_has_the_bytes_that_are_sent() {
    let (registry, _, digest) = with_blob(&[]);
    let answer = get(&registry, &digest, &list(20));
    assert!(answer.body.len() > 20 * 10);
    let lines = registry.lines.0.take();
    let line = lines.iter().rfind(|line| line["route"] == "get_blob").unwrap();
    assert_eq!((&line["bytes"]["out"], &line["status"]), (&answer.body.len().into(), &206.into()));
}

#[test]
fn a_manifest_has_ranges_too() {
    let registry = TestRegistry::new();
    let digest = registry.push_manifest("a", "v1", INDEX, EMPTY_INDEX);
    let (content, size) = (EMPTY_INDEX.as_bytes(), EMPTY_INDEX.len());
    for reference in ["v1", &digest.to_string()] {
        let line = format!("GET /v2/a/manifests/{reference}");
        let get = |ranges: &str| registry.calls(&line, &[("range", &format!("bytes={ranges}"))]);
        let whole = registry.calls(&line, &[]);
        assert_eq!((whole.1.header("accept-ranges"), whole.1.status.as_u16()), ("bytes", 200));
        let all = format!("0-{}", size - 1);
        for (ranges, at, end) in
            [("0-", 0, size), (&*all, 0, size), ("5-9", 5, 10), ("-7", size - 7, size), ("70-9999", 70, size)]
        {
            let (calls, answer) = get(ranges);
            assert_eq!((answer.status.as_u16(), &answer.body[..]), (206, &content[at..end]), "{ranges}");
            assert_eq!(answer.header("content-range"), format!("bytes {at}-{}/{size}", end - 1));
            assert_eq!(answer.header("content-length"), (end - at).to_string());
            for name in ["content-type", "docker-content-digest", "etag", "cache-control", "accept-ranges"] {
                assert_eq!(answer.header(name), whole.1.header(name), "{name}");
            }
            assert_eq!(calls, whole.0, "a range costs as much as the whole");
        }
        for ranges in ["0-1,5-6", "x", "0-1,x"] {
            let answer = get(ranges).1;
            assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, content), "{ranges}");
        }
        let beyond = get(&format!("{size}-")).1;
        assert_eq!(
            (beyond.status.as_u16(), beyond.header("content-range")),
            (416, &*format!("bytes */{size}"))
        );
        let etag = format!("\"{digest}\"");
        for (if_range, status) in [(&*etag, 206), ("\"other\"", 200)] {
            let headers = [("range", "bytes=0-"), ("if-range", if_range)];
            assert_eq!(registry.send(&line, &headers, None).status, status);
        }
        let headers = [("range", "bytes=0-"), ("if-none-match", &*etag)];
        assert_eq!(registry.send(&line, &headers, None).status, 304);
        let head = registry.send(&line.replace("GET", "HEAD"), &[("range", "bytes=0-1")], None);
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, &*size.to_string()));
        assert_eq!(head.header("accept-ranges"), "bytes");
    }
}
