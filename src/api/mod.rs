//! The HTTP API. [`route`] is the endpoint table; each noun of the specification has a file.

mod authorize;
mod blobs;
mod catalog;
pub mod error;
mod events;
pub mod headers;
mod health;
pub mod inner;
mod jobs;
mod keys;
mod manifests;
mod metrics;
mod multipart;
mod namespace;
mod page;
pub mod ranges;
mod referrers;
mod removal;
pub mod route;
mod schema1;
mod tags;
mod token;
mod uploads;
mod usage;

use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;

use self::route::Route;
use crate::{
    app::App,
    auth::Principal,
    context::Context,
    jobs::run::Change,
    oci::{Digest, RepositoryName},
    platform::{Body, ReadError},
    repository::Repository,
};

pub use error::{Error, ErrorCode};

/// The longest path and query, in characters: Cloudflare's limit for a URL.
pub const MAX_TARGET: usize = 16 * 1024;

/// A request.
pub type Request = http::Request<Body>;
/// A response. Its extensions hold what middleware should know of the request ([`Matched`]), the [`ErrorCode`] of an
/// error, a [`LogLine`] if the operator should see a failure, [`WrongCredentials`], [`MadeKey`], and [`TakenDown`].
pub type Response = http::Response<Body>;

/// The error message for the log, in the extensions of a response.
#[derive(Debug, Clone)]
pub struct LogLine(pub String);

/// Wrong credentials were sent, and a request for what everybody may have was answered nevertheless: in the extensions of
/// its response.
#[derive(Debug, Clone, Copy)]
pub struct WrongCredentials;

/// The id of the API key that a request has made, in the extensions of its response.
#[derive(Debug, Clone)]
pub struct MadeKey(pub String);

/// What a request has taken down, or lifted, and why: in the extensions of its response.
#[derive(Debug, Clone)]
pub struct TakenDown {
    /// The content.
    pub digest: Digest,
    /// Why it was taken down; `None` if that was lifted.
    pub reason: Option<String>,
}

/// The scheme of the URL that the client called, in the extensions of a request.
#[derive(Debug, Clone, Copy)]
pub struct Scheme(pub &'static str);

impl Default for Scheme {
    fn default() -> Self {
        Self("https")
    }
}

/// What the API has found out about a request, in the extensions of its response.
#[derive(Debug, Clone, Default)]
pub struct Matched {
    /// The endpoint, if there is one.
    pub route: Option<Route>,
    /// The identity that the request acts for, if it is known.
    pub principal: Option<Principal>,
    /// The namespace that a pull is for, if it is one of the list.
    pub namespace: Option<String>,
}

impl Matched {
    /// The name of the route; `none` if there is none.
    pub fn route_name(&self) -> &'static str {
        self.route.as_ref().map_or("none", Route::name)
    }

    /// The repository in the path.
    pub fn repository(&self) -> Option<&RepositoryName> {
        self.route.as_ref()?.repository()
    }
}

/// Handles requests: the API itself, or middleware around it.
pub trait Handler {
    /// Returns the response. A failure is an error response.
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response>;
}

/// The registry's API.
pub struct Api {
    /// State shared by requests.
    pub app: Rc<App>,
}

impl Handler for Api {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let is_head = request.method() == Method::HEAD;
            let mut matched = Matched::default();
            let answer = self.dispatch(request, context, &mut matched).await;
            let mut response = answer.unwrap_or_else(|error| respond(&error));
            if let Some(namespace) = &matched.namespace {
                headers::set(response.headers_mut(), headers::OCI_NAMESPACE, namespace);
            }
            response.extensions_mut().insert(matched);
            if is_head {
                *response.body_mut() = Body::Empty;
            }
            headers::set_common(response.headers_mut());
            response
        })
    }
}

impl Api {
    async fn dispatch(
        &self,
        request: Request,
        context: Context,
        matched: &mut Matched,
    ) -> Result<Response, Error> {
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
            return Err(Error::TargetTooLong);
        }
        headers::check(request.headers())?;
        let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        let route = &*matched.route.insert(Route::parse(request.method(), &path)?);
        let registry = match route.access() {
            Some(access) => {
                let source = uploads::source_of_mount(route, request.uri());
                let acting = &mut matched.principal;
                self.authorize(request.headers(), access, source.as_ref(), context, acting).await?
            }
            None => Registry { app: &self.app, context },
        };
        matched.namespace = registry.namespace(route, request.headers(), request.uri())?;
        match route {
            Route::Base => Ok(registry.base()),
            Route::GetBlob { name, digest } => registry.get_blob(name, digest, &request).await,
            Route::GetManifest { name, reference } => registry.get_manifest(name, reference, &request).await,
            Route::StartUpload { name } => registry.start_upload(name, request).await,
            Route::PatchUpload { name, id } => registry.patch_upload(name, id, request).await,
            Route::FinishUpload { name, id } => registry.finish_upload(name, id, request).await,
            Route::PutManifest { name, reference } => registry.put_manifest(name, reference, request).await,
            Route::ListTags { name } => registry.list_tags(name, request.uri()).await,
            Route::DeleteManifest { name, reference } => registry.delete_manifest(name, reference).await,
            Route::DeleteBlob { name, digest } => registry.delete_blob(name, digest).await,
            Route::ListReferrers { name, digest } => {
                registry.list_referrers(name, digest, request.uri()).await
            }
            Route::UploadStatus { name, id } => registry.upload_status(name, id, request.uri()).await,
            Route::CancelUpload { name, id } => registry.cancel_upload(name, id, request.uri()).await,
            Route::Catalog => registry.catalog(request.uri()).await,
            Route::OpenApi => Ok(registry.open_api()),
            Route::ListJobs => registry.list_jobs().await,
            Route::ReadJob { job } => registry.read_job(job).await,
            Route::RunJob { job } => registry.run_job(job, request.uri()).await,
            Route::PauseJob { job } => registry.change_job(job, Change::Pause).await,
            Route::ResumeJob { job } => registry.change_job(job, Change::Resume).await,
            Route::CancelJob { job } => registry.change_job(job, Change::Cancel).await,
            Route::Usage => registry.usage(request.uri()).await,
            Route::RemoveRepository { name } => registry.remove_repository(name).await,
            Route::TakeDown => registry.take_down(request).await,
            Route::LiftTakedown => registry.lift_takedown(&request).await,
            Route::EventEndpoints => registry.event_endpoints().await,
            Route::DeadLetters { endpoint } => registry.dead_letters(endpoint, request.uri()).await,
            Route::ReadDeadLetter { endpoint, id } => registry.read_dead_letter(endpoint, id).await,
            Route::ReplayDeadLetters { endpoint, id } => {
                registry.replay_dead_letters(endpoint, id.as_deref()).await
            }
            Route::DropDeadLetters { endpoint, id } => {
                registry.drop_dead_letters(endpoint, id.as_deref()).await
            }
            Route::GetSignedBlob { digest } => registry.get_signed_blob(digest, &request).await,
            Route::GetToken => registry.get_token(request, &mut matched.principal).await,
            Route::PostToken => registry.post_token(request, &mut matched.principal).await,
            Route::ListKeys => registry.list_keys(request.uri()).await,
            Route::MakeKey => registry.make_key(request).await,
            Route::ReadKey { id } => registry.read_key(id).await,
            Route::RevokeKey { id } => registry.revoke_key(id).await,
            Route::Metrics => registry.metrics().await,
            Route::Healthz => Ok(registry.healthz()),
            Route::Readyz => registry.readyz().await,
        }
    }
}

/// The state of one request. Its methods are the endpoints.
struct Registry<'a> {
    app: &'a App,
    context: Context,
}

impl Registry<'_> {
    /// end-1: `GET /v2/`
    fn base(&self) -> Response {
        json("{}".to_owned())
    }

    fn repository(&self, name: &RepositoryName) -> Rc<dyn Repository> {
        self.app.repository(name, &self.context)
    }

    /// The repository for a pull. A client that asks for a fresh answer gets one.
    fn repository_for_pull(&self, name: &RepositoryName, request: &Request) -> Rc<dyn Repository> {
        let control = request.headers().get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
        let is_strict =
            |control: &str| ["no-cache", "no-store", "max-age=0"].iter().any(|word| control.contains(word));
        match control.is_some_and(is_strict) {
            true => self.repository(name),
            false => self.app.repository_for_pull(name, &self.context),
        }
    }
}

/// The response to a request that does not reach the [`Api`].
pub fn refuse(error: &Error) -> Response {
    let mut response = respond(error);
    headers::set_common(response.headers_mut());
    response
}

/// Converts an error to a response; nothing else does.
fn respond(error: &Error) -> Response {
    let mut response = error.response();
    response.extensions_mut().insert(error.wire().1);
    if let Some(line) = error.log_line() {
        response.extensions_mut().insert(LogLine(line.to_owned()));
    }
    response
}

fn json(text: String) -> Response {
    let length = text.len();
    let mut response = Response::new(Body::Bytes(text.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// Reads the body of a request to the registry's own endpoints.
async fn read_small(body: Body, limit: usize) -> Result<Bytes, Error> {
    match body.read(limit).await {
        Err(ReadError::TooLarge { .. }) => Err(Error::BodyTooLarge { limit }),
        read => Ok(read?),
    }
}

/// The values of a query parameter, decoded, in order.
fn parameters(uri: &Uri, name: &str) -> Vec<String> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// The first value of a query parameter.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    parameters(uri, name).into_iter().next()
}
