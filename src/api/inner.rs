//! The inner entry points, which the platform caches: facts about repositories, manifests and blobs by digest.
//!
//! They check no permission. Clients cannot reach them, only the registry itself can, through
//! [`EdgeCache`](crate::platform::EdgeCache). It uses content by digest only together with an answer that a
//! repository has that digest.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{HeaderName, StatusCode, header};

use super::{Error, Handler, Request, Response, empty, headers, respond};
use crate::{
    app::App,
    blobs::{BLOBS, Freshness, MANIFESTS},
    context::Context,
    oci::{Digest, media_type},
    platform::Body,
    repository::facts::{Question, tag_of},
};

/// The lifetime of content by digest, which never changes, in seconds.
const FOREVER: u64 = 31_536_000;

/// Names the repository of a fact, or the digest of content, for purges.
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// The handler of the inner entry points.
pub struct Inner {
    /// State shared with requests.
    pub app: Rc<App>,
}

/// An answer: its content, its length, its lifetime in seconds (0 for no answer) and its tag.
type Found = (Body, u64, u64, Option<String>);

impl Handler for Inner {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let found = match self.find(request.uri().path(), &context).await {
                Ok(found) => found.filter(|(_, _, seconds, _)| *seconds > 0),
                Err(error) => return respond(&error),
            };
            let Some((body, size, seconds, tag)) = found else { return empty(StatusCode::NOT_FOUND) };
            let mut response = empty(StatusCode::OK);
            let fields = response.headers_mut();
            // `must-revalidate` turns off stale answers, which are the platform's default after an error.
            let control = format!("public, max-age={seconds}, must-revalidate, no-transform");
            headers::set(fields, header::CACHE_CONTROL, control);
            headers::set(fields, header::CONTENT_TYPE, media_type::OCTET_STREAM);
            if let Some(tag) = tag {
                headers::set(fields, CACHE_TAG, tag);
            }
            fields.insert(header::CONTENT_LENGTH, size.into());
            *response.body_mut() = body;
            response
        })
    }
}

impl Inner {
    async fn find(&self, path: &str, context: &Context) -> Result<Option<Found>, Error> {
        if let Some((question, name)) = Question::parse(path) {
            let repository = self.app.repository(&name, context);
            let fact = question.read(&*repository, self.app.clock.now()).await?;
            return Ok(fact.map(|fact| {
                let expires = fact.expires(self.app.facts().bound(&question));
                let seconds = expires.milliseconds_since(self.app.clock.now()) / 1000;
                let text = fact.to_text();
                (Body::Bytes(text.clone().into()), text.len() as u64, seconds, Some(tag_of(&name)))
            }));
        }
        let blobs = self.app.blobs(context);
        let digest = |prefix| path.strip_prefix(prefix)?.parse::<Digest>().ok();
        if let Some(digest) = digest(MANIFESTS) {
            let content = blobs.manifest(&digest, Freshness::Cached).await?;
            return Ok(content.map(|content| {
                let size = content.len() as u64;
                (Body::Bytes(content), size, FOREVER, Some(digest.hex().to_owned()))
            }));
        }
        let Some(digest) = digest(BLOBS) else { return Ok(None) };
        let Some(located) = blobs.locate(&digest, Freshness::Cached).await? else { return Ok(None) };
        let opened = blobs.open(&digest, &located, None, None).await?;
        let tag = digest.hex().to_owned();
        Ok(opened.map(|opened| (opened.body, opened.located.size, FOREVER, Some(tag))))
    }
}
