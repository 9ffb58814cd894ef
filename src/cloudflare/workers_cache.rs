//! The edge cache on Workers Caching: Cloudflare's cache before the worker's inner entry points, which this worker
//! calls through `ctx.exports`. It works on `workers.dev`, too.

use std::cell::Cell;

use ::http::{Response, header};
use futures_util::future::{LocalBoxFuture, ready};
use js_sys::{Array, Function, Object, Promise, Reflect};
use serde_json::json;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

use super::{bindings::Console, edge_cache::is_answer, fetch, stream::message};
use crate::{
    blobs::{BLOBS, MANIFESTS},
    oci::Digest,
    platform::{Body, ByteRange, EdgeCache, Sink},
};

/// The classes of `entry.mjs`.
const FACTS_CLASS: &str = "Facts";
const MANIFESTS_CLASS: &str = "Manifests";
const BLOBS_CLASS: &str = "Blobs";

thread_local! {
    static IS_REPORTED: Cell<bool> = const { Cell::new(false) };
}

/// The inner entry points, as one request or job reaches them.
pub struct WorkersCache {
    exports: JsValue,
}

impl WorkersCache {
    /// Finds the entry points in a context (`ctx`). Without them, or without their cache, logs so once.
    pub fn find(context: &JsValue) -> Option<Self> {
        let get = |of: &JsValue, name: &str| {
            Reflect::get(of, &name.into()).ok().filter(|value| !value.is_null() && !value.is_undefined())
        };
        let exports = get(context, "exports");
        if let Some(exports) = exports.filter(|exports| get(exports, FACTS_CLASS).is_some())
            && get(context, "cache").is_some()
        {
            return Some(Self { exports });
        }
        if !IS_REPORTED.replace(true) {
            let message = "Workers Caching is not available: facts are read from the store, blobs cached by the Cache API";
            Console.line(json!({"level": "info", "message": message}));
        }
        None
    }

    async fn fetch(&self, path: &str, range: Option<(u64, u64)>) -> Result<Response<Body>, JsValue> {
        let class = match path {
            path if path.starts_with(BLOBS) => BLOBS_CLASS,
            path if path.starts_with(MANIFESTS) => MANIFESTS_CLASS,
            _ => FACTS_CLASS,
        };
        let init = Object::new();
        if let Some((first, last)) = range {
            let headers = Object::new();
            Reflect::set(&headers, &"range".into(), &format!("bytes={first}-{last}").into())?;
            Reflect::set(&init, &"headers".into(), &headers)?;
        }
        // The host is not part of the cache's key.
        let url = format!("https://inner{path}");
        let answer = self.call(class, "fetch", &Array::of2(&url.into(), &init)).await?;
        fetch::read_response(&answer, false).map_err(|error| error.into())
    }

    async fn purge_class(&self, class: &str, tags: &[String]) -> Result<(), String> {
        let tags: Array = tags.iter().map(JsValue::from).collect();
        let purged = self.call(class, "purge", &Array::of1(&tags)).await;
        let purged = purged.map_err(|error| message(&error))?;
        match Reflect::get(&purged, &"success".into()).ok().and_then(|success| success.as_bool()) {
            Some(false) => Err("the platform refused the purge".to_owned()),
            _ => Ok(()),
        }
    }

    async fn call(&self, class: &str, method: &str, arguments: &Array) -> Result<JsValue, JsValue> {
        let entry_point = Reflect::get(&self.exports, &class.into())?;
        let method: Function = Reflect::get(&entry_point, &method.into())?.dyn_into()?;
        JsFuture::from(Promise::resolve(&method.apply(&entry_point, arguments)?)).await
    }
}

impl EdgeCache for WorkersCache {
    fn get<'a>(
        &'a self,
        _: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(async move {
            let range = range.map(|range| range.bounds(size));
            let (parts, body) = self.fetch(&format!("{BLOBS}{digest}"), range).await.ok()?.into_parts();
            let header = |name: header::HeaderName| match parts.headers.get(&name) {
                Some(value) => value.to_str().ok().map(str::to_owned),
                // A call within the worker may arrive without its length.
                None if name == header::CONTENT_LENGTH => {
                    Some(range.map_or(size, |(first, last)| last - first + 1).to_string())
                }
                None => None,
            };
            if !is_answer(parts.status.as_u16(), header, size, range) {
                body.cancel();
                return None;
            }
            Some(body)
        })
    }

    fn put<'a>(
        &'a self,
        _: &'a str,
        _: &'a Digest,
        _: u64,
        _: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(ready(Err("this cache fills itself".to_owned())))
    }

    fn has_entry_points(&self) -> bool {
        true
    }

    fn ask<'a>(&'a self, path: &'a str) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(async move {
            let (parts, body) = self.fetch(path, None).await.ok()?.into_parts();
            if parts.status.as_u16() != 200 {
                body.cancel();
                return None;
            }
            Some(body)
        })
    }

    fn purge<'a>(&'a self, tags: &'a [String]) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(self.purge_class(FACTS_CLASS, tags))
    }

    fn purge_content<'a>(&'a self, tags: &'a [String]) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let manifests = self.purge_class(MANIFESTS_CLASS, tags).await;
            self.purge_class(BLOBS_CLASS, tags).await.and(manifests)
        })
    }
}
