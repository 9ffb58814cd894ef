//! The runtime's clock. It advances only while a request waits, not while it computes.

use futures_util::future::LocalBoxFuture;
use js_sys::{Function, Promise};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

use crate::platform::{Clock, Timestamp};

/// `Date.now()`.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(js_sys::Date::now() as u64)
    }

    fn sleep(&self, milliseconds: u64) -> LocalBoxFuture<'static, ()> {
        Box::pin(sleep(u32::try_from(milliseconds).unwrap_or(u32::MAX)))
    }
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(run: &Function, milliseconds: u32) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(id: &JsValue);
    #[wasm_bindgen(js_namespace = scheduler, js_name = wait)]
    fn scheduler_wait(milliseconds: u32) -> Promise;
}

/// A timer, cleared when nothing waits for it any more.
struct Timer(JsValue);

impl Drop for Timer {
    fn drop(&mut self) {
        clear_timeout(&self.0);
    }
}

/// Waits before work after an answer. No answer waits for it, and nobody gives it up.
pub async fn rest(milliseconds: u32) {
    // It is rejected only with the request, which ends this too.
    let _ = JsFuture::from(scheduler_wait(milliseconds)).await;
}

/// Sleeps. The timer belongs to the calling request, as the runtime requires.
pub async fn sleep(milliseconds: u32) {
    let mut timer = None;
    let promise = Promise::new(&mut |resolve, _| timer = Some(Timer(set_timeout(&resolve, milliseconds))));
    // A timer's promise is never rejected.
    let _ = JsFuture::from(promise).await;
    drop(timer);
}
