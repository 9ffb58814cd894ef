//! HTTP in, HTTP out. [`route`] is the endpoint table; each noun of the specification has a file.

mod blobs;
mod catalog;
pub mod headers;
mod manifests;
mod page;
mod rebuild;
mod referrers;
pub mod route;
mod tags;
mod uploads;

use std::cell::OnceCell;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use route::Route;

use crate::{
    auth::{Access, Authorizer},
    body::Body,
    clock::Clock,
    config::Config,
    content::Content,
    error::Error,
    storage::{Condition, Key, PutOptions, StorageDriver, StorageDriverExt, StorageErrorKind},
    uploads::{UploadSessions, location::Secret},
};

/// The types a deployment is made of. No methods: a platform is a choice of parts.
pub trait Platform {
    /// Where everything is stored.
    type Storage: StorageDriver;
    /// Where uploads are remembered.
    type Uploads: UploadSessions;
    /// Who may do what.
    type Auth: Authorizer;
    /// What time it is.
    type Clock: Clock;
}

type Stream<P> = <<P as Platform>::Storage as StorageDriver>::Stream;
/// A request.
pub type Request<P> = http::Request<Body<Stream<P>>>;
/// An answer. Its extensions hold a [`LogLine`] when the operator should hear of it.
pub type Response<P> = http::Response<Body<Stream<P>>>;

/// What went wrong, in the response's extensions, for the platform to log once.
#[derive(Debug, Clone)]
pub struct LogLine(pub String);

/// The registry.
pub struct Registry<P: Platform> {
    /// Settings.
    pub config: Config,
    /// Storage.
    pub storage: P::Storage,
    /// Upload sessions.
    pub uploads: P::Uploads,
    /// Rights.
    pub auth: P::Auth,
    /// Time.
    pub clock: P::Clock,
    /// What signs upload locations, once it has been read.
    pub secret: OnceCell<Secret>,
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
        self.authorize(request.headers(), &[route.access()]).await?;
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
        }
    }

    async fn authorize(&self, headers: &HeaderMap, access: &[Access<'_>]) -> Result<(), Error> {
        self.auth.authorize(headers.get(header::AUTHORIZATION), access).await?;
        Ok(())
    }

    /// end-1: `GET /v2/`
    fn base(&self) -> Response<P> {
        json("{}".to_owned())
    }

    fn content(&self) -> Content<'_, P::Storage> {
        Content::new(&self.storage)
    }

    /// What signs upload locations: made and stored at the first upload of all, read once by each isolate.
    async fn secret(&self) -> Result<&Secret, Error> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let path = Key::Secret.path();
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| Error::Internal(error.to_string()))?;
        if self.storage.head(&path).await?.is_none() {
            let options = PutOptions { condition: Condition::IfAbsent, ..PutOptions::default() };
            let made = self.storage.put(&path, Body::Bytes(random.to_vec().into()), options).await;
            match made {
                // Another isolate was faster: its secret counts.
                Err(error) if error.kind != StorageErrorKind::Precondition => return Err(error.into()),
                _ => {}
            }
        }
        let stored = self.storage.read(&path, 32).await?;
        let secret = stored.and_then(|(bytes, _)| bytes.as_ref().try_into().ok());
        let secret =
            secret.ok_or_else(|| Error::Internal(format!("{path} does not hold 32 bytes: delete it")))?;
        Ok(self.secret.get_or_init(|| Secret(secret)))
    }
}

fn json<S: crate::body::ByteStream>(text: String) -> http::Response<Body<S>> {
    let length = text.len();
    let mut response = http::Response::new(Body::Bytes(text.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

fn empty<S: crate::body::ByteStream>(status: StatusCode) -> http::Response<Body<S>> {
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
