//! API keys of robot accounts: made, listed and revoked by whoever may administer the registry.

use std::time::Duration;

use futures_util::future::try_join_all;
use http::{HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Error, MadeKey, Registry, Request, Response,
    authorize::LOG_IN,
    empty, json,
    page::{PageRequest, link_next},
};
use crate::{
    auth::{
        Access, Action, KeyScope, Principal,
        identity::keys::{MAX_SCOPES, NewKey, Record, is_name},
    },
    config::seconds,
    oci::{Glob, from_json},
};

/// The largest request for a key, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// Page size limit: each key of a page costs two look-ups.
const MAX_KEYS: usize = 100;

/// The lifetime of a key for which the request names none.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A request for a key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    scopes: Vec<AskedScope>,
    expires: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedScope {
    repositories: String,
    actions: Vec<Action>,
}

fn shown(id: &str, record: &Record) -> Value {
    json!({
        "id": id,
        "name": record.name,
        "scopes": record.scopes,
        "created": record.created.to_rfc3339(),
        "expires": record.expires.map(|time| time.to_rfc3339()),
        "made_by": record.made_by,
    })
}

fn scopes(asked: Vec<AskedScope>) -> Option<Vec<KeyScope>> {
    let scope = |AskedScope { repositories, actions }: AskedScope| {
        let actions: Vec<Action> =
            Action::ALL.into_iter().filter(|action| actions.contains(action)).collect();
        let repositories = Glob::of_repositories(&repositories)?;
        (!actions.is_empty()).then_some(KeyScope { repositories, actions })
    };
    let scopes: Option<Vec<KeyScope>> = asked.into_iter().map(scope).collect();
    scopes.filter(|scopes| (1..=MAX_SCOPES).contains(&scopes.len()))
}

impl Registry<'_> {
    /// Keys are for those who log in, even where anybody may do everything else: whoever may push without a login today
    /// must not keep a key for the day when nobody may, nor end the keys of others.
    fn logged_in(&self) -> Result<(), Error> {
        match *self.context.principal {
            Principal::Anonymous if self.app.identity.is_open => Err(self.denied(Access::Administer)),
            Principal::Anonymous => Err(self.challenge(Access::Administer, None, LOG_IN)),
            _ => Ok(()),
        }
    }

    /// `POST /v2/_pierhead/keys`: makes a key. The answer is the only one that holds it.
    pub(super) async fn make_key(&self, request: Request) -> Result<Response, Error> {
        self.logged_in()?;
        let body = super::read_small(request.into_body(), MAX_BODY).await?;
        let asked: Asked = from_json(&body).map_err(|error| Error::InvalidBody(error.to_string()))?;
        let wrong = |field: &str, expected: &str| Error::InvalidBody(format!("{field} must be {expected}"));
        if !is_name(&asked.name) {
            return Err(wrong("name", "up to 63 lower case letters, digits, and . - _ inside"));
        }
        let expected = "a list of 1 to 32 objects with repositories, a pattern such as team/**, and actions of pull, push, delete";
        let scopes = scopes(asked.scopes).ok_or_else(|| wrong("scopes", expected))?;
        let lifetime = match asked.expires.as_deref() {
            None => Some(DEFAULT_LIFETIME.as_secs()),
            Some("never") => None,
            Some(text) => {
                let valid = seconds(text).filter(|seconds| (60..=10 * 366 * 24 * 60 * 60).contains(seconds));
                Some(valid.ok_or_else(|| {
                    wrong("expires", "a time from now such as 12h or 90d, up to 10 years, or never")
                })?)
            }
        };
        let expires = lifetime.map(|seconds| self.app.clock.now().plus_seconds(seconds));
        let made_by = self.context.principal.name();
        let keys = &self.app.identity.keys;
        let (id, record, key) = keys.make(NewKey { name: asked.name, scopes, expires, made_by }).await?;
        let mut answer = shown(&id, &record);
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("key".to_owned(), key.into());
        }
        let mut response = json(answer.to_string());
        *response.status_mut() = StatusCode::CREATED;
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(MadeKey(id));
        Ok(response)
    }

    /// `GET /v2/_pierhead/keys?n=<n>&last=<last>`: the keys, without their secrets.
    pub(super) async fn list_keys(&self, uri: &Uri) -> Result<Response, Error> {
        self.logged_in()?;
        let asked = PageRequest::from_uri(uri)?;
        let limit = asked.n.unwrap_or(MAX_KEYS).min(MAX_KEYS);
        let (ids, has_more) = self.app.identity.keys.ids(asked.last.as_deref(), limit).await?;
        let shown: Vec<Option<Value>> = try_join_all(ids.iter().map(|id| self.key_with_use(id))).await?;
        let shown: Vec<Value> = shown.into_iter().flatten().collect();
        let mut response = json(json!({"keys": shown}).to_string());
        if let Some(last) = ids.last().filter(|_| has_more) {
            link_next(response.headers_mut(), uri, asked.n, last);
        }
        Ok(response)
    }

    /// `GET /v2/_pierhead/keys/<id>`.
    pub(super) async fn read_key(&self, id: &str) -> Result<Response, Error> {
        self.logged_in()?;
        let shown = self.key_with_use(id).await?.ok_or(Error::Absent("API key"))?;
        Ok(json(shown.to_string()))
    }

    /// `DELETE /v2/_pierhead/keys/<id>`: revokes a key.
    pub(super) async fn revoke_key(&self, id: &str) -> Result<Response, Error> {
        self.logged_in()?;
        match self.app.identity.keys.revoke(id).await? {
            true => Ok(empty(StatusCode::NO_CONTENT)),
            false => Err(Error::Absent("API key")),
        }
    }

    async fn key_with_use(&self, id: &str) -> Result<Option<Value>, Error> {
        let keys = &self.app.identity.keys;
        let Some(record) = keys.find(id).await? else { return Ok(None) };
        let used = keys.last_use(id).await?;
        let mut shown = shown(id, &record);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("last_used".to_owned(), used.map(|time| time.to_rfc3339()).into());
        }
        Ok(Some(shown))
    }
}
