//! Writes down who did what: a line for each change, each refused access and each login. docs/audit.md documents its
//! form.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::access_log::shortened;
use crate::{
    api::{
        ErrorCode, Handler, MadeKey, Matched, Request, Response, TakenDown, WrongCredentials, route::Route,
    },
    auth::{Access, Action, External, Key, Principal},
    context::Context,
    platform::Level,
};

pub(super) struct Audit {
    pub inner: Rc<dyn Handler>,
}

impl Handler for Audit {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        Box::pin(async move {
            let (method, path) = (request.method().clone(), shortened(request.uri().path()));
            let query = request.uri().query().unwrap_or_default().to_owned();
            let has_credentials = request.headers().contains_key(header::AUTHORIZATION);
            let response = self.inner.handle(request, context.clone()).await;
            let extensions = response.extensions();
            let matched = extensions.get::<Matched>().cloned().unwrap_or_default();
            let Some((action, mut outcome)) = entry(&matched, &method, response.status(), has_credentials)
            else {
                return response;
            };
            if extensions.get::<WrongCredentials>().is_some() {
                outcome = "refused";
            }
            // At every level: an operator cannot switch it off by mistake.
            context.log.write(Level::Error, || {
                let request = &context.notes.request;
                let taken_down = extensions.get::<TakenDown>();
                let mut line = json!({
                    "level": "info",
                    "audit": action,
                    "outcome": outcome,
                    "id": context.log.id,
                    "principal": matched.principal.as_ref().map(Principal::name),
                    "key": key(&matched),
                    "claims": claims(&matched),
                    "user": *context.notes.failed.borrow(),
                    "repository": matched.repository().map(ToString::to_string),
                    "tags": parameters(&query, "tag"),
                    "from": parameters(&query, "from"),
                    "made": extensions.get::<MadeKey>().map(|MadeKey(id)| id),
                    "digest": taken_down.map(|TakenDown { digest, .. }| digest.to_string()),
                    "reason": taken_down.and_then(|TakenDown { reason, .. }| reason.as_ref()),
                    "route": matched.route_name(),
                    "method": method.as_str(),
                    "path": path,
                    "status": response.status().as_u16(),
                    "code": extensions.get::<ErrorCode>().map(|code| code.as_str()),
                    "address": request.addr,
                    "agent": request.useragent,
                });
                if let Some(line) = line.as_object_mut() {
                    line.retain(|_, value| !value.is_null());
                }
                line
            });
            response
        })
    }
}

/// What a line says was tried, and how it ended; `None` if there is nothing to say.
fn entry(
    matched: &Matched,
    method: &Method,
    status: StatusCode,
    has_credentials: bool,
) -> Option<(&'static str, &'static str)> {
    let is_read = *method == Method::GET || *method == Method::HEAD;
    let route = matched.route.as_ref()?;
    let action = match (route, route.access()) {
        (Route::GetToken, None) if !has_credentials => return None,
        (Route::GetToken | Route::PostToken, None) => "login",
        (Route::GetSignedBlob { .. }, None) => "pull",
        (_, None) => return None,
        (_, Some(Access::Base)) => "login",
        (_, Some(Access::Catalog)) => "catalog",
        (_, Some(Access::Repository(_, Action::Pull))) => "pull",
        (_, Some(Access::Repository(_, Action::Push))) => "push",
        (_, Some(Access::Repository(_, Action::Delete))) => "delete",
        (_, Some(Access::Administer)) => "administer",
        (_, Some(Access::Metrics)) => "metrics",
    };
    let is_login = matches!(route, Route::GetToken | Route::PostToken);
    match status {
        // Every client asks without credentials first.
        StatusCode::UNAUTHORIZED if !has_credentials && !is_login => None,
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::TOO_MANY_REQUESTS => Some((action, "refused")),
        // A password with each request is a login, too; what it does has a line of its own.
        status if matches!(route, Route::Base) && has_credentials && status.is_success() => {
            Some((action, "done"))
        }
        _ if is_read && !is_login => None,
        status if status.is_success() => Some((action, "done")),
        _ => Some((action, "failed")),
    }
}

/// The values of a parameter, if there are any. Others are not repeated: locations of uploads and signed URLs are secrets.
fn parameters(query: &str, name: &str) -> Option<Vec<String>> {
    let all = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    let values: Vec<String> = all.map(|(_, value)| shortened(&value)).collect();
    (!values.is_empty()).then_some(values)
}

fn key(matched: &Matched) -> Option<&str> {
    match matched.principal.as_ref()? {
        Principal::Key(Key { id, .. }) => Some(id),
        _ => None,
    }
}

fn claims(matched: &Matched) -> Option<Value> {
    match matched.principal.as_ref()? {
        Principal::External(External { claims, .. }) => Some(json!(claims)),
        _ => None,
    }
}
