//! The edge cache on the Cache API, which has no effect on `workers.dev`.

use ::http::header;
use futures_util::future::LocalBoxFuture;
use worker::{Cache, Headers, Method, Request, RequestInit, Response, ResponseBody};

use super::stream::{JsStream, raw};
use crate::{
    oci::Digest,
    platform::{Body, ByteRange, EdgeCache},
};

/// The name of the worker's own cache, whose entries cannot be fetched from outside.
const NAME: &str = "pierhead-blobs";

/// The Cache API.
pub struct CacheApi;

fn key(host: &str, digest: &Digest) -> String {
    format!("https://{host}/{}/{}", digest.algorithm(), digest.hex())
}

async fn look_up(host: &str, digest: &Digest, range: Option<(u64, u64)>) -> worker::Result<Option<Response>> {
    let headers = Headers::new();
    if let Some((first, last)) = range {
        headers.set("range", &format!("bytes={first}-{last}"))?;
    }
    let init = RequestInit { method: Method::Get, headers, ..RequestInit::default() };
    let request = Request::new_with_init(&key(host, digest), &init)?;
    Cache::open(NAME.to_owned()).await.get(&request, false).await
}

/// Whether a response is a blob of `size` bytes, or exactly the range of it, with both positions.
pub fn is_answer(
    status: u16,
    header: impl Fn(header::HeaderName) -> Option<String>,
    size: u64,
    range: Option<(u64, u64)>,
) -> bool {
    let (expected, length) = range.map_or((200, size), |(first, last)| (206, last - first + 1));
    status == expected
        && header(header::CONTENT_LENGTH).is_some_and(|text| text == length.to_string())
        && range.is_none_or(|(first, last)| {
            header(header::CONTENT_RANGE).is_some_and(|text| text == format!("bytes {first}-{last}/{size}"))
        })
}

impl EdgeCache for CacheApi {
    fn get<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> LocalBoxFuture<'a, Option<Body>> {
        Box::pin(async move {
            let range = range.map(|range| range.bounds(size));
            let response = look_up(host, digest, range).await.ok()??;
            let header = |name: header::HeaderName| response.headers().get(name.as_str()).ok().flatten();
            let is_answer = is_answer(response.status_code(), header, size, range);
            let ResponseBody::Stream(stream) = response.into_parts().1 else { return None };
            let body = JsStream::body(stream, Some(range.map_or(size, |(first, last)| last - first + 1)));
            if !is_answer {
                body.cancel();
                return None;
            }
            Some(body)
        })
    }

    fn put<'a>(
        &'a self,
        host: &'a str,
        digest: &'a Digest,
        size: u64,
        body: Body,
    ) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let body = match body {
                Body::Bytes(bytes) => ResponseBody::Body(bytes.into()),
                Body::Stream(stream) => {
                    ResponseBody::Stream(raw(&stream).ok_or("the body belongs to another platform")?)
                }
                Body::Empty | Body::Buffer { .. } | Body::Parts(_) => return Ok(()),
            };
            let put = async {
                let headers = Headers::new();
                headers.set("cache-control", "public, max-age=31536000, immutable, no-transform")?;
                headers.set("content-type", "application/octet-stream")?;
                headers.set("content-length", &size.to_string())?;
                headers.set("etag", &format!("\"{digest}\""))?;
                let response = Response::from_body(body)?.with_headers(headers);
                Cache::open(NAME.to_owned()).await.put(key(host, digest), response).await
            };
            put.await.map_err(|error: worker::Error| error.to_string())
        })
    }
}
