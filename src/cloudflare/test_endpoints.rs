//! Endpoints for tests: a panic, at once or after a wait, an exception of the platform, and the memory in use.

use js_sys::{ArrayBuffer, Uint8Array};
use serde_json::json;

use super::{buffers, clock::sleep};

/// The response of a test endpoint; `None` for any other request.
#[expect(clippy::panic, reason = "the tests check the recovery")]
pub async fn answer(request: &worker::Request) -> Option<worker::Result<worker::Response>> {
    match (request.inner().method().as_str(), request.path().as_str()) {
        ("GET", "/v2/_test/panic") => panic!("asked to"),
        ("POST", "/v2/_test/panic") => {
            sleep(1).await;
            panic!("asked to after a wait")
        }
        ("PUT", "/v2/_test/panic") => {
            sleep(1).await;
            // Out of range.
            Uint8Array::new_with_byte_offset_and_length(&ArrayBuffer::new(1), 2, 1);
            None
        }
        (_, "/v2/_test/memory") => {
            let wasm = core::arch::wasm32::memory_size(0) * 64 * 1024;
            let (lent, idle, contents) = buffers::used();
            Some(worker::Response::from_json(
                &json!({"wasm": wasm, "lent": lent, "idle": idle, "contents": contents}),
            ))
        }
        _ => None,
    }
}
