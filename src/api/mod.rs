//! HTTP in, HTTP out. [`route`] is the endpoint table; each noun of the specification has a file.

mod blobs;
mod catalog;
pub mod headers;
mod manifests;
mod page;
mod rebuild;
mod referrers;
pub mod route;
mod shared;
mod tags;
mod uploads;

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use route::Route;

use crate::{
    auth::{Access, Authorizer},
    background::Background,
    body::{Body, ByteStream},
    content::{Content, by_digest::ByDigest},
    edge::EdgeCache,
    error::Error,
    log::RequestLog,
    secret::Secret,
    storage::Driver,
    uploads::UploadSessions,
};

pub use shared::{Parts, Shared};

/// The types a deployment is made of. No methods: a platform is a choice of parts.
pub trait Platform: 'static {
    /// Its streams.
    type Stream: ByteStream;
    /// Where uploads are remembered.
    type Uploads: UploadSessions;
    /// Who may do what.
    type Auth: Authorizer;
    /// What keeps bodies near the client.
    type Edge: EdgeCache<Stream = Self::Stream> + 'static;
}

/// A request.
pub type Request<P> = http::Request<Body<<P as Platform>::Stream>>;
/// An answer. Its extensions hold a [`LogLine`] when the operator should hear of it.
pub type Response<P> = http::Response<Body<<P as Platform>::Stream>>;

/// What went wrong, in the response's extensions, for the platform to log once.
#[derive(Debug, Clone)]
pub struct LogLine(pub String);

/// The registry, as one request sees it.
pub struct Registry<P: Platform> {
    /// What it shares with other requests.
    pub(crate) shared: Rc<Shared<P>>,
    /// Storage, decorated.
    pub(crate) storage: Driver<P::Stream>,
    /// What digests stand for, decorated.
    pub(crate) by_digest: Rc<dyn ByDigest>,
    /// What may outlive the answer.
    pub(crate) background: Rc<dyn Background>,
    /// What this request does.
    pub(crate) log: Rc<RequestLog>,
}

impl<P: Platform> Registry<P> {
    /// Answers a request. Never fails: this is the only place where errors become answers.
    pub async fn handle(&self, request: Request<P>) -> Response<P> {
        let is_head = request.method() == Method::HEAD;
        let mut response = self.dispatch(request).await.unwrap_or_else(|error| {
            let mut response = error.response();
            if let Some(line) = error.log_line() {
                response.extensions_mut().insert(LogLine(line.to_owned()));
            }
            response
        });
        if is_head {
            *response.body_mut() = Body::Empty;
        }
        let headers = response.headers_mut();
        headers.insert(headers::DOCKER_API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    async fn dispatch(&self, request: Request<P>) -> Result<Response<P>, Error> {
        let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        let route = Route::parse(request.method(), &path)?;
        if let Some(access) = route.access() {
            self.authorize(request.headers(), &[access]).await?;
        }
        match route {
            Route::Base => Ok(self.base()),
            Route::GetBlob { name, digest } => self.get_blob(&name, &digest, &request).await,
            Route::GetManifest { name, reference } => self.get_manifest(&name, &reference, &request).await,
            Route::StartUpload { name } => self.start_upload(&name, request).await,
            Route::PatchUpload { name, id } => self.patch_upload(&name, &id, request).await,
            Route::FinishUpload { name, id } => self.finish_upload(&name, &id, request).await,
            Route::PutManifest { name, reference } => self.put_manifest(&name, &reference, request).await,
            Route::ListTags { name } => self.list_tags(&name, &request).await,
            Route::DeleteManifest { name, reference } => self.delete_manifest(&name, &reference).await,
            Route::DeleteBlob { name, digest } => self.delete_blob(&name, &digest).await,
            Route::ListReferrers { name, digest } => self.list_referrers(&name, &digest, &request).await,
            Route::UploadStatus { name, id } => self.upload_status(&name, &id, &request).await,
            Route::CancelUpload { name, id } => self.cancel_upload(&name, &id, &request).await,
            Route::Catalog => self.catalog(&request).await,
            Route::Rebuild => self.rebuild(&request).await,
            Route::GetSignedBlob { digest } => self.get_signed_blob(&digest, &request).await,
        }
    }

    async fn authorize(&self, headers: &HeaderMap, access: &[Access<'_>]) -> Result<(), Error> {
        self.shared.parts.auth.authorize(headers.get(header::AUTHORIZATION), access).await?;
        Ok(())
    }

    /// end-1: `GET /v2/`
    fn base(&self) -> Response<P> {
        json("{}".to_owned())
    }

    fn content(&self) -> Content<'_, Driver<P::Stream>> {
        Content::new(&self.storage)
    }

    async fn secret(&self) -> Result<&Secret, Error> {
        Ok(self.shared.secret.get().await?)
    }
}

fn json<S: ByteStream>(text: String) -> http::Response<Body<S>> {
    let length = text.len();
    let mut response = http::Response::new(Body::Bytes(text.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

fn empty<S: ByteStream>(status: StatusCode) -> http::Response<Body<S>> {
    let mut response = http::Response::new(Body::Empty);
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// The values of a query parameter, decoded, in order.
fn query<B>(request: &http::Request<B>, name: &str) -> Vec<String> {
    let query = request.uri().query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// The first value of a query parameter.
fn parameter<B>(request: &http::Request<B>, name: &str) -> Option<String> {
    query(request, name).into_iter().next()
}
