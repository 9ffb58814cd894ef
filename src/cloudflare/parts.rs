//! Bodies of several parts, as one stream: the runtime pipes the parts' streams into it, so that no byte of their content
//! enters WebAssembly.

use js_sys::{Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsError, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::ReadableStream;

use super::stream::{broken, raw};
use crate::platform::{Body, Parts};

#[wasm_bindgen]
extern "C" {
    /// Passes bytes on without a copy in JavaScript. It fails if they are more or fewer than announced.
    type FixedLengthStream;
    #[wasm_bindgen(constructor, catch)]
    fn new(length: f64) -> Result<FixedLengthStream, JsValue>;
    #[wasm_bindgen(method, getter)]
    fn readable(this: &FixedLengthStream) -> ReadableStream;
    #[wasm_bindgen(method, getter)]
    fn writable(this: &FixedLengthStream) -> Target;

    #[wasm_bindgen(js_name = WritableStream)]
    type Target;
    #[wasm_bindgen(method, catch)]
    fn abort(this: &Target, reason: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn close(this: &Target) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getWriter)]
    fn get_writer(this: &Target) -> Result<Writer, JsValue>;

    #[wasm_bindgen(js_name = WritableStreamDefaultWriter)]
    type Writer;
    #[wasm_bindgen(method, catch)]
    fn write(this: &Writer, bytes: Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = releaseLock)]
    fn release_lock(this: &Writer) -> Result<(), JsValue>;

    #[wasm_bindgen(js_name = ReadableStream)]
    type Source;
    #[wasm_bindgen(method, catch, js_name = pipeTo)]
    fn pipe_to(this: &Source, target: &Target, options: &JsValue) -> Result<Promise, JsValue>;
}

/// The stream of a body, which opens a part when its turn comes. If a part fails, so does the stream: the runtime cuts the
/// connection, and the client sees that it has not got everything. If the client goes, the open parts are cancelled.
pub fn send(parts: Parts) -> Result<ReadableStream, JsValue> {
    let through = FixedLengthStream::new(parts.content_length() as f64)?;
    let (readable, target) = (through.readable(), through.writable());
    spawn_local(async move {
        let sent = match parts.send(async |body| write(body, &target).await.map_err(broken)).await {
            Ok(()) => close(&target).await.map_err(broken),
            failed => failed,
        };
        if let Err(error) = sent {
            // It may have failed already.
            if let Ok(aborted) = target.abort(&JsError::new(&error.to_string()).into()) {
                let _ = JsFuture::from(aborted).await;
            }
        }
    });
    Ok(readable)
}

async fn close(target: &Target) -> Result<(), JsValue> {
    JsFuture::from(target.close()?).await.map(drop)
}

async fn write(body: Body, target: &Target) -> Result<(), JsValue> {
    match body {
        Body::Empty => Ok(()),
        Body::Bytes(bytes) => write_bytes(&bytes, target).await,
        Body::Stream(stream) => {
            let source = raw(&stream).ok_or_else(|| JsError::new("the body belongs to another platform"))?;
            let options = Object::new();
            Reflect::set(&options, &"preventClose".into(), &true.into())?;
            let piped = source.unchecked_into::<Source>().pipe_to(target, &options)?;
            JsFuture::from(piped).await.map(drop)
        }
        Body::Buffer { .. } | Body::Parts(_) => Err(JsError::new("a part is bytes or a stream").into()),
    }
}

async fn write_bytes(bytes: &[u8], target: &Target) -> Result<(), JsValue> {
    let writer = target.get_writer()?;
    let written = match writer.write(Uint8Array::from(bytes)) {
        Ok(written) => JsFuture::from(written).await.map(drop),
        Err(error) => Err(error),
    };
    writer.release_lock()?;
    written
}
