//! The driver suite on the platform's bindings, and tests of streams and buffers. `tests/bindings.mjs` puts
//! the bindings into the global scope.

use std::rc::Rc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::{Either, select};
use js_sys::Reflect;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use wasm_bindgen_test::{console_log, wasm_bindgen_test};

use super::{
    buffers::{self, JsBuffers},
    clock::{SystemClock, sleep},
    fetch::Fetch,
    kv::Kv,
    metrics::Dataset,
    parts,
    r2::R2,
    stream::JsStream,
    verifier::WebCrypto,
};
use crate::{
    oci::Algorithm,
    platform::{
        Body, Buffer, Buffers, ByteRange, ByteStream, Clock, DocumentClient, Part, PartContent, Parts,
        ReadError, Verifier,
        budget::limits::BUFFERS,
        metrics::{Point, Points},
        verifier::PublicKey,
    },
    storage::{
        PutOptions, Store, contract,
        s3::{S3, S3Bucket},
    },
    uploads::PART_SIZE,
};

/// Runs the suite. `known` lists expected failures: the case, and a part of the message.
async fn run(make: impl Fn() -> Store, known: &[(&str, &str)]) {
    let mut failures = Vec::new();
    let cases = contract::cases(make().capabilities());
    assert!(cases.len() >= 25, "the suite has too few cases");
    for (name, case) in cases {
        let driver = make();
        for (path, _) in driver.list_all("").await.unwrap() {
            driver.delete(&[path.parse().unwrap()]).await.unwrap();
        }
        match case(driver).await {
            Ok(()) => console_log!("ok: {name}"),
            Err(error) if known.iter().any(|(case, text)| *case == name && error.contains(text)) => {
                console_log!("known: {name}: {error}");
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[wasm_bindgen_test]
async fn r2_passes_the_driver_suite() {
    let bucket = Reflect::get(&js_sys::global(), &"pierheadBucket".into()).unwrap();
    run(|| Store::new(R2::new(bucket.clone().unchecked_into())), &[]).await;
}

#[wasm_bindgen_test]
async fn kv_passes_the_driver_suite() {
    let kv = || Store::new(Kv::new(worker::KvStore::from_this(&js_sys::global(), "pierheadKv").unwrap()));
    run(kv, &[]).await;
}

#[wasm_bindgen_test]
async fn s3_passes_the_driver_suite() {
    let settings = Reflect::get(&js_sys::global(), &"pierheadS3".into()).unwrap();
    let setting = |name: &str| Reflect::get(&settings, &name.into()).unwrap().as_string().unwrap_or_default();
    let s3 = |secret: String| {
        let (endpoint, name, region) = (setting("S3_ENDPOINT"), setting("S3_BUCKET"), setting("S3_REGION"));
        let bucket = S3Bucket::new(&endpoint, &name, &region, setting("S3_ACCESS_KEY_ID"), secret).unwrap();
        S3::new(Rc::new(Fetch), bucket, Rc::new(SystemClock), "scratch".parse().unwrap())
    };
    // Deviations of s3s-fs from S3: it keeps refused content, forgets aborted uploads, requires part numbers
    // without gaps, and reports a folder on its disk as an object. The registry never looks up a folder.
    let known = [
        ("verified stream, sha256", "a refused write left [\"v/right\", \"v/source\", \"v/wrong\"]"),
        ("stat of file and folder", "a: Some(File(ObjectMeta { size: 4096"),
        ("multipart, aborted", "abort_multipart: 403 Forbidden AccessDenied"),
        ("multipart, part numbers left out", "invalid part order"),
    ];
    let known = if setting("S3_IS_FILES").is_empty() { &[][..] } else { &known };
    run(|| Store::new(s3(setting("S3_SECRET_ACCESS_KEY"))), known).await;

    // The server copies an object above the copy limit in parts.
    let mut small = s3(setting("S3_SECRET_ACCESS_KEY"));
    small.max_copy = 6 * 1024 * 1024;
    let small = Store::new(small);
    let (from, to) = ("large/from".parse().unwrap(), "large/to".parse().unwrap());
    for size in [6 * 1024 * 1024 + 1, 18 * 1024 * 1024, 20_000_000] {
        let content = noise(size);
        let expected = Algorithm::Sha256.digest(&content);
        small.put(&from, Body::Bytes(content.into()), PutOptions::default()).await.unwrap();
        assert!(small.copy(&from, &to).await.unwrap());
        assert_eq!(small.digest(&to, Algorithm::Sha256).await.unwrap(), Some(expected), "{size}");
    }
    assert!(small.rename(&from, &to).await.unwrap());
    assert!(small.head(&from).await.unwrap().is_none());

    // The server checks signatures.
    let (path, wrong) = ("a".parse().unwrap(), || Store::new(s3("another".repeat(9))));
    for error in [
        wrong().head(&path).await.err(),
        wrong().get(&path, None).await.err(),
        wrong().put(&path, Body::Bytes("x".into()), PutOptions::default()).await.err(),
    ] {
        let error = error.expect("refused").to_string();
        assert!(error.contains("403") && !error.contains("another"), "{error}");
    }
}

/// A byte stream that arrives in pieces of these sizes and, if `breaks`, fails at its end.
fn stream(bytes: &[u8], sizes: &[usize], breaks: bool) -> JsStream {
    let make = js_sys::Function::new_with_args(
        "bytes, sizes, breaks",
        "let at = 0, n = 0;
         return new ReadableStream({ type: 'bytes', pull(controller) {
           if (at === bytes.length) {
             if (breaks) controller.error(new Error('cut')); else { controller.close(); controller.byobRequest?.respond(0); }
             return;
           }
           const end = Math.min(bytes.length, at + sizes[n++ % sizes.length]);
           controller.enqueue(bytes.slice(at, end));
           at = end;
         } });",
    );
    let sizes: js_sys::Array = sizes.iter().map(|size| JsValue::from(*size as u32)).collect();
    let made = make.call3(&JsValue::NULL, &js_sys::Uint8Array::from(bytes), &sizes, &breaks.into()).unwrap();
    JsStream::new(made.unchecked_into(), None)
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 % 251) as u8).collect()
}

#[wasm_bindgen_test]
async fn a_stream_fills_buffers_regardless_of_its_piece_sizes() {
    let bytes = noise(3_000_000);
    for sizes in [&[1_000_000_usize, 1, 70_000][..], &[65_536], &[2_999_999]] {
        let mut stream = stream(&bytes, sizes, false);
        let mut hasher = crate::oci::Hasher::new(Algorithm::Sha256);
        let mut back = Vec::new();
        loop {
            let mut buffer = JsBuffers.lend(1_300_000).await.unwrap();
            let end = stream.read_into(&mut *buffer, 100..1_300_000, Some(&mut hasher)).await.unwrap();
            back.extend(buffers::view(&*buffer, 100..end).unwrap().to_vec());
            if end < 1_300_000 {
                break;
            }
        }
        assert!(back == bytes, "wrong bytes for pieces of {sizes:?}");
        assert_eq!(hasher.finish(), Algorithm::Sha256.digest(&bytes));
    }
}

#[wasm_bindgen_test]
async fn a_broken_stream_is_an_error() {
    let mut broken = stream(&noise(100), &[10], true);
    let mut buffer = JsBuffers.lend(1000).await.unwrap();
    let error = broken.read_into(&mut *buffer, 0..1000, None).await;
    assert!(matches!(error, Err(ReadError::Broken(_))), "{error:?}");
    assert!(Box::new(stream(&noise(100), &[10], true)).read(1000).await.is_err());
}

#[wasm_bindgen_test]
async fn a_stream_can_be_cancelled_after_it_was_read() {
    let make = js_sys::Function::new_no_args(
        "globalThis.isCancelled = false;
         return new ReadableStream({
           type: 'bytes',
           pull(controller) { controller.enqueue(new Uint8Array(10)); },
           cancel() { globalThis.isCancelled = true; },
         });",
    );
    let is_cancelled = || Reflect::get(&js_sys::global(), &"isCancelled".into()).unwrap() == JsValue::TRUE;
    for reads in [0, 1] {
        let raw = make.call0(&JsValue::NULL).unwrap().unchecked_into();
        let mut endless = Box::new(JsStream::new(raw, None));
        for _ in 0..reads {
            endless.discard(10, None).await.unwrap();
        }
        endless.cancel();
        sleep(10).await;
        assert!(is_cancelled(), "{reads}");
    }
}

#[wasm_bindgen_test]
async fn reading_into_memory_has_a_limit() {
    for (length, limit, fits) in
        [(100_000, 100_000, true), (100_000, 99_999, false), (0, 0, true), (65_536, 65_536, true)]
    {
        let body = Body::Stream(Box::new(stream(&noise(length), &[7_000], false)));
        match body.read(limit).await {
            Ok(bytes) => assert!(fits && bytes == noise(length)),
            Err(error) => assert!(!fits && error == ReadError::TooLarge { limit }, "{error:?}"),
        }
    }
}

#[wasm_bindgen_test]
async fn discarded_bytes_are_hashed() {
    for length in [0, 1, 1024 * 1024, 3_000_000] {
        let bytes = noise(length);
        let mut hasher = crate::oci::Hasher::new(Algorithm::Sha256);
        stream(&bytes, &[70_000], false).discard(u64::MAX, Some(&mut hasher)).await.unwrap();
        assert_eq!(hasher.finish(), Algorithm::Sha256.digest(&bytes), "{length}");
    }
    assert!(stream(&noise(100), &[10], true).discard(u64::MAX, None).await.is_err());
}

#[wasm_bindgen_test]
async fn a_buffer_grows_with_what_arrives() {
    let lent = || buffers::used().0;
    let before = lent();
    let mut buffer = JsBuffers.lend(PART_SIZE).await.unwrap();
    assert_eq!(lent() - before, 64 * 1024);
    let bytes = noise(300_000);
    let mut short = stream(&bytes, &[70_000], false);
    let end = short.read_into(&mut *buffer, 0..PART_SIZE, None).await.unwrap();
    assert!(buffer.copy(0..end).unwrap() == bytes);
    assert_eq!(lent() - before, 1024 * 1024);
    drop(buffer);
    assert_eq!(lent(), before);
}

/// A part of `length` bytes, opened when its turn comes.
fn part(length: usize, open: impl Future<Output = Result<Body, ReadError>> + 'static) -> Part {
    let content = PartContent::Later(Box::new(|| Box::pin(open)));
    Part { head: "head ".into(), length: length as u64, content }
}

async fn sent(parts: Vec<Part>) -> Result<Vec<u8>, ReadError> {
    let readable = parts::send(Parts { parts, tail: " tail".into() }).unwrap();
    JsStream::body(readable, None).read(10_000_000).await.map(|bytes| bytes.to_vec())
}

#[wasm_bindgen_test]
async fn parts_of_an_object_become_one_stream() {
    let bucket = Reflect::get(&js_sys::global(), &"pierheadBucket".into()).unwrap();
    let store = Store::new(R2::new(bucket.unchecked_into()));
    let (path, bytes) = ("ranges".parse::<crate::storage::Path>().unwrap(), noise(1_000_000));
    store.put(&path, Body::Bytes(bytes.clone().into()), PutOptions::default()).await.unwrap();
    for (count, length) in [(1, 1_000_000), (2, 300_000), (64, 10_000), (64, 1)] {
        let (mut parts, mut expected) = (Vec::new(), Vec::new());
        for n in 0..count {
            let offset = n * 15_000;
            let range = ByteRange { offset: offset as u64, length: Some(length as u64) };
            let (store, path) = (store.clone(), path.clone());
            parts.push(part(length, async move {
                Ok(store.get(&path, Some(range)).await.unwrap().unwrap().body)
            }));
            expected.extend_from_slice(b"head ");
            expected.extend_from_slice(&bytes[offset..offset + length]);
        }
        expected.extend_from_slice(b" tail");
        assert!(sent(parts).await.unwrap() == expected, "{count} of {length}");
    }
    let open = PartContent::Open(Body::Bytes("content".into()));
    let whole = sent(vec![Part { head: "head ".into(), length: 7, content: open }]).await.unwrap();
    assert_eq!(whole, b"head content tail");
}

/// A stream that tells whether it was cancelled.
fn cancellable() -> (JsStream, impl Fn() -> bool) {
    let make = js_sys::Function::new_no_args(
        "const stream = new ReadableStream({
           pull(controller) { controller.enqueue(new Uint8Array(10)); },
           cancel() { stream.isCancelled = true; },
         });
         return stream;",
    );
    let raw = make.call0(&JsValue::NULL).unwrap();
    let stream = JsStream::new(raw.clone().unchecked_into(), None);
    (stream, move || Reflect::get(&raw, &"isCancelled".into()).unwrap() == JsValue::TRUE)
}

#[wasm_bindgen_test]
async fn a_part_that_fails_fails_the_stream_and_cancels_those_behind_it() {
    let ready = |body: JsStream| std::future::ready(Ok(Body::Stream(Box::new(body))));
    let good = || part(1000, ready(stream(&noise(1000), &[70], false)));
    for (name, bad) in [
        ("not opened", part(1000, std::future::ready(Err(ReadError::Silent)))),
        ("broken", part(1000, ready(stream(&noise(900), &[70], true)))),
        ("of a wrong length", part(1000, std::future::ready(Ok(Body::Bytes("x".into()))))),
    ] {
        let (behind, is_cancelled) = cancellable();
        let error = sent(vec![good(), bad, part(1000, ready(behind)), good()]).await;
        assert!(matches!(error, Err(ReadError::Broken(_))), "{name}: {error:?}");
        sleep(10).await;
        assert!(is_cancelled(), "{name}");
    }
    // The length of these is not known: the sum is wrong.
    for length in [999, 1001] {
        let error = sent(vec![good(), part(1000, ready(stream(&noise(length), &[70], false)))]).await;
        assert!(matches!(error, Err(ReadError::Broken(_))), "{length}: {error:?}");
    }
}

#[wasm_bindgen_test]
async fn cancelling_the_stream_cancels_its_parts() {
    let ready = |body: JsStream| std::future::ready(Ok(Body::Stream(Box::new(body))));
    let (first, first_is_cancelled) = cancellable();
    let (second, second_is_cancelled) = cancellable();
    let parts = vec![part(1_000_000, ready(first)), part(1_000_000, ready(second))];
    let readable = parts::send(Parts { parts, tail: "".into() }).unwrap();
    let reader: web_sys::ReadableStreamDefaultReader = readable.get_reader().unchecked_into();
    for _ in 0..3 {
        JsFuture::from(reader.read()).await.unwrap();
    }
    assert!(!first_is_cancelled());
    JsFuture::from(reader.cancel()).await.unwrap();
    sleep(10).await;
    assert!(first_is_cancelled() && second_is_cancelled());
}

#[wasm_bindgen_test]
async fn uploads_wait_while_the_memory_budget_is_exhausted() {
    let mut held = Vec::new();
    for _ in 1..BUFFERS / PART_SIZE {
        held.push(full().await);
    }
    // Three more have begun: there is room for none of them, and the first in line has the reserve.
    let lend = async || JsBuffers.lend(PART_SIZE).await.unwrap();
    let (first, second, third) = (lend().await, lend().await, lend().await);
    let first = fill(first).await;
    let mut waiting = Box::pin(fill(second));
    match select(&mut waiting, Box::pin(sleep(100))).await {
        Either::Left(_) => panic!("lent more than the budget"),
        Either::Right(_) => {}
    }
    drop(first);
    waiting.await.recycle();
    drop((held, third));
    let (lent, idle, _) = buffers::used();
    assert_eq!(lent, 0);
    assert!(idle <= BUFFERS, "{idle}");
}

/// A buffer of a part, which has arrived.
async fn full() -> Box<dyn Buffer> {
    fill(JsBuffers.lend(PART_SIZE).await.unwrap()).await
}

async fn fill(mut buffer: Box<dyn Buffer>) -> Box<dyn Buffer> {
    stream(&noise(PART_SIZE), &[PART_SIZE], false).read_into(&mut *buffer, 0..PART_SIZE, None).await.unwrap();
    buffer
}

#[wasm_bindgen_test]
async fn the_memory_of_a_request_that_the_runtime_dropped_is_taken_back() {
    let lent = || buffers::used().0;
    let before = lent();
    // A dropped request runs no destructor, and its timers end.
    let mut dead = full().await;
    assert_eq!(lent() - before, PART_SIZE);
    buffers::take_back(119_000);
    assert_eq!(lent() - before, PART_SIZE, "too early");
    buffers::take_back(121_000);
    assert_eq!(lent(), before);
    let read = stream(&noise(10), &[10], false).read_into(&mut *dead, 0..10, None).await;
    assert_eq!(read, Err(ReadError::TakenBack));
    // The memory is gone too: nobody who is not dead after all can use it.
    assert!(buffers::view(&*dead, 0..1).is_none());
    assert_eq!(dead.copy(0..1), Err(ReadError::TakenBack));
    // Nothing of it passes for content that is wrong.
    let mut hasher = crate::oci::Hasher::new(Algorithm::Sha256);
    assert_eq!(dead.hash(0..1, &mut hasher), Err(ReadError::TakenBack));
    let bucket = Reflect::get(&js_sys::global(), &"pierheadBucket".into()).unwrap();
    let dead: Rc<dyn Buffer> = dead.into();
    let body = Body::Buffer { buffer: dead.clone(), range: 0..1 };
    let put = Store::new(R2::new(bucket.unchecked_into()))
        .put(&"dead".parse().unwrap(), body, PutOptions::default())
        .await
        .unwrap_err();
    assert_eq!(crate::api::Error::from(put).wire().0, http::StatusCode::SERVICE_UNAVAILABLE);
    dead.recycle();
    drop(dead);
    assert_eq!(lent(), before);
}

#[wasm_bindgen_test]
async fn what_was_taken_back_never_grows_into_the_memory_of_others() {
    let mut held = Vec::new();
    for _ in 1..BUFFERS / PART_SIZE {
        held.push(full().await);
    }
    let lend = async || JsBuffers.lend(PART_SIZE).await.unwrap();
    let (first, mut waiting, third) = (lend().await, lend().await, lend().await);
    // It takes the reserve, so that there is no room for another part: the next one waits with the 64 KiB it has read.
    let first = fill(first).await;
    let bytes = noise(PART_SIZE);
    let mut short = stream(&bytes, &[PART_SIZE], false);
    let reading = Box::pin(short.read_into(&mut *waiting, 0..PART_SIZE, None));
    let Either::Right((_, reading)) = select(reading, Box::pin(sleep(100))).await else {
        panic!("lent more than the budget")
    };
    buffers::take_back(121_000);
    assert_eq!(reading.await, Err(ReadError::TakenBack));
    drop((held, first, third));
}

#[wasm_bindgen_test]
async fn a_request_that_slept_with_the_machine_keeps_its_bytes() {
    let bytes = noise(200_000);
    let mut all = stream(&bytes, &[65_536], false);
    let mut buffer = JsBuffers.lend(bytes.len()).await.unwrap();
    all.read_into(&mut *buffer, 0..65_536, None).await.unwrap();
    // No timer runs meanwhile.
    let jump = js_sys::Function::new_no_args(
        "const now = Date.now; Date.now = () => now() + 121_000; return () => { Date.now = now; };",
    );
    let undo: js_sys::Function = jump.call0(&JsValue::NULL).unwrap().unchecked_into();
    let read = all.read_into(&mut *buffer, 65_536..bytes.len(), None).await;
    undo.call0(&JsValue::NULL).unwrap();
    assert_eq!(read, Ok(bytes.len()));
    assert!(buffer.copy(0..bytes.len()).unwrap() == bytes);
}

#[wasm_bindgen_test]
async fn a_body_is_counted_when_it_is_complete() {
    let before = buffers::used();
    for (length, limit) in [(0, 10), (100_000, 100_000), (100_001, 100_000)] {
        let body = Body::Stream(Box::new(stream(&noise(length), &[7_000], false)));
        match body.read_counted(limit, |length| 3 * length, &JsBuffers).await {
            Ok(content) => {
                assert!(content.bytes == noise(length) && length <= limit);
                assert_eq!(buffers::used().2 - before.2, 3 * length);
            }
            Err(error) => assert!(length > limit && error == ReadError::TooLarge { limit }, "{error:?}"),
        }
        assert_eq!((buffers::used().0, buffers::used().2), (before.0, before.2));
    }
}

#[wasm_bindgen_test]
async fn a_data_point_has_the_documented_columns() {
    let make = js_sys::Function::new_no_args(
        "return { writeDataPoint(point) { this.point = JSON.stringify(point); } }",
    );
    let binding = make.call0(&JsValue::NULL).unwrap();
    let point = Point {
        route: "get_blob",
        method: "GET",
        status: 404,
        repository: Some("team/app".to_owned()),
        code: Some("BLOB_UNKNOWN"),
        milliseconds: 1,
        received: 2,
        sent: 3 << 40,
        storage_calls: 4,
        storage_milliseconds: 5,
        rounds: 6,
        cache_hits: 7,
        cache_misses: 8,
    };
    Dataset(binding.clone().unchecked_into()).write(&point);
    let written = Reflect::get(&binding, &"point".into()).unwrap().as_string().unwrap();
    let expected = serde_json::json!({
        "indexes": ["get_blob"],
        "doubles": [1.0, 2.0, (3_u64 << 40) as f64, 4.0, 5.0, 6.0, 7.0, 8.0],
        "blobs": ["get_blob", "GET", "404", "BLOB_UNKNOWN", "team/app"],
    });
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let written: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&written["indexes"], &written["blobs"]), (&expected["indexes"], &expected["blobs"]));
    let doubles = |point: &serde_json::Value| -> Vec<f64> {
        point["doubles"].as_array().unwrap().iter().map(number).collect()
    };
    assert_eq!(doubles(&written), doubles(&expected));
}

/// Keys, signed texts and signatures of RFC 7515 (A.2, A.3) and RFC 8037 (A.2, A.4).
fn vectors() -> [(PublicKey, String, Vec<u8>); 3] {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let array = |text: &str| decode(text).try_into().unwrap();
    let claims =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let rsa = PublicKey::Rsa {
        n: decode(concat!(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4Ql",
            "L-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUs",
            "LA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoud",
            "F8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        )),
        e: decode("AQAB"),
    };
    let rsa_signature = decode(concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG",
        "bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K",
        "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6",
        "LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ));
    let p256 = PublicKey::P256 {
        x: array("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
        y: array("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
    };
    let p256_signature =
        decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q");
    let ed25519 = PublicKey::Ed25519(array("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
    let ed25519_signature =
        decode("hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg");
    [
        (rsa, format!("eyJhbGciOiJSUzI1NiJ9.{claims}"), rsa_signature),
        (p256, format!("eyJhbGciOiJFUzI1NiJ9.{claims}"), p256_signature),
        (
            ed25519,
            format!("eyJhbGciOiJFZERTQSJ9.{}", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"),
            ed25519_signature,
        ),
    ]
}

#[wasm_bindgen_test]
async fn web_crypto_verifies_the_signatures_of_the_specifications() {
    let vectors = vectors();
    for (index, (key, message, signature)) in vectors.iter().enumerate() {
        let verify = async |message: &[u8], signature: &[u8]| WebCrypto.verify(key, message, signature).await;
        let message = message.as_bytes();
        assert_eq!(verify(message, signature).await, Ok(true), "{index}");
        let mut other = message.to_vec();
        other[0] ^= 1;
        assert_eq!(verify(&other, signature).await, Ok(false), "{index}");
        assert_eq!(verify(&message[1..], signature).await, Ok(false), "{index}");
        for at in 0..signature.len() {
            let mut other = signature.clone();
            other[at] ^= 1;
            assert_eq!(verify(message, &other).await, Ok(false), "{index} {at}");
        }
        let length = signature.len();
        let longer = [&signature[..], &[0]].concat();
        for wrong in [&[][..], &vec![0; length], &vec![255; length], &signature[1..], &longer] {
            assert_eq!(verify(message, wrong).await, Ok(false), "{index} {wrong:?}");
        }
        let (_, _, others) = &vectors[(index + 1) % 3];
        assert_eq!(verify(message, others).await, Ok(false), "{index}");
    }
    // Not a point of the curve.
    let key = PublicKey::P256 { x: [1; 32], y: [1; 32] };
    assert!(WebCrypto.verify(&key, b"a", &[1; 64]).await.is_err());
}

/// Starts a server that knows a path for each way to answer, and returns its URL. `/log` tells what it has seen.
async fn document_server() -> String {
    let make = js_sys::Function::new_no_args(
        r#"const log = [];
           const server = process.getBuiltinModule("node:http").createServer((request, response) => {
             const path = request.url;
             if (path !== "/log") log.push(`${path} ${request.headers.accept} ${request.headers["user-agent"]}`);
             response.on("close", () => { if (!response.writableFinished) log.push(`${path} cut`); });
             if (path === "/log") response.end(JSON.stringify(log));
             else if (path === "/document") response.end("x".repeat(1000));
             else if (path === "/redirect") response.writeHead(302, { location: "/document" }).end();
             else if (path === "/error") response.writeHead(500).end("x".repeat(1000));
             else if (path === "/endless") {
               const send = () => { while (!response.destroyed && response.write("x".repeat(10_000))); };
               response.on("drain", send);
               send();
             } else if (path === "/begun") response.write("x");
           });
           server.unref();
           return new Promise((resolve) => server.listen(0, "127.0.0.1", () => {
             resolve(`http://127.0.0.1:${server.address().port}`);
           }));"#,
    );
    let url: js_sys::Promise = make.call0(&JsValue::NULL).unwrap().unchecked_into();
    JsFuture::from(url).await.unwrap().as_string().unwrap()
}

#[wasm_bindgen_test]
async fn a_document_is_read_once_up_to_limits_of_size_and_time() {
    let server = document_server().await;
    let get = async |path: &str, limit, timeout| Fetch.get(&format!("{server}{path}"), limit, timeout).await;
    let failed = |reason: &str| Err(reason.to_owned());
    let document = get("/document", 1000, 5000).await;
    assert_eq!(document.map(|bytes| bytes.len()), Ok(1000));
    assert_eq!(get("/document", 999, 5000).await, failed("the body is larger than 999 bytes"));
    assert_eq!(get("/endless", 100_000, 5000).await, failed("the body is larger than 100000 bytes"));
    assert_eq!(get("/redirect", 1000, 5000).await, failed("status 302: redirects are not followed"));
    assert_eq!(get("/error", 1000, 5000).await, failed("status 500"));
    let start = SystemClock.now();
    assert_eq!(get("/hang", 1000, 200).await, failed("no answer in time"));
    assert_eq!(get("/begun", 1000, 200).await, failed("no answer in time"));
    assert!(SystemClock.now().milliseconds_since(start) < 2000);
    sleep(100).await;
    let log = get("/log", 10_000, 5000).await.unwrap();
    let mut log: Vec<String> = serde_json::from_slice(&log).unwrap();
    log.sort();
    let seen = |path: &str| format!("{path} application/json pierhead/{}", env!("CARGO_PKG_VERSION"));
    let expected = [
        seen("/begun"),
        "/begun cut".to_owned(),
        seen("/document"),
        seen("/document"),
        seen("/endless"),
        "/endless cut".to_owned(),
        seen("/error"),
        seen("/hang"),
        "/hang cut".to_owned(),
        seen("/redirect"),
    ];
    assert_eq!(log, expected);
}
