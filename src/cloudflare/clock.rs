//! The runtime's clock. It advances only while a request waits, not while it computes.

use futures_util::future::LocalBoxFuture;
use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
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

/// Sleeps. The timer belongs to the calling request, as the runtime requires.
pub async fn sleep(milliseconds: u32) {
    let set_timeout =
        Reflect::get(&js_sys::global(), &"setTimeout".into()).map(JsCast::unchecked_into::<Function>);
    let promise = Promise::new(&mut |resolve, _| {
        if let Ok(set_timeout) = &set_timeout {
            // Infallible with a function and a number.
            let _ = set_timeout.call2(&JsValue::UNDEFINED, &resolve, &milliseconds.into());
        }
    });
    // A timer's promise is never rejected.
    let _ = JsFuture::from(promise).await;
}
