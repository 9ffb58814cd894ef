//! Removal of whole repositories, and of content everywhere, for administrators.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Error, Registry, Request, Response, TakenDown, empty, json, parameter, read_small};
use crate::{
    jobs::{
        remove,
        takedown::{self, Begun, Lifted, Part, Takedown},
    },
    oci::{Digest, RepositoryName, from_json},
    platform::Timestamp,
};

/// The largest request for a takedown, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// The longest reason of a takedown, in bytes.
const MAX_REASON: usize = 2_000;

/// A request for a takedown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    reason: String,
}

impl Registry<'_> {
    /// `DELETE /v2/_pierhead/repositories/<name>`: makes a step of the removal of a repository, and begins it unless it is
    /// under way. 200 at the end, 202 before: the job `remove` goes on with it, and so does the same request.
    pub(super) async fn remove_repository(&self, name: &RepositoryName) -> Result<Response, Error> {
        if self.app.config.auth.read_only {
            return Err(Error::ReadOnly);
        }
        if !remove::begin(self.app, &self.context, name).await? {
            return Err(Error::NameUnknown(name.clone()));
        }
        // Another runner may just have ended it.
        let Some((removal, is_done)) = remove::step(self.app, &self.context, name).await? else {
            return Err(Error::NameUnknown(name.clone()));
        };
        let answer = json!({
            "repository": name,
            "done": is_done,
            "removing": (!is_done).then(|| removal.part.as_str()),
            "by": removal.by,
            "at": removal.at.to_rfc3339(),
            "removed": {"tags": removal.tags, "manifests": removal.manifests, "layers": removal.layers},
        });
        Ok(stepped(is_done, &answer))
    }

    /// `POST /v2/_pierhead/takedown?digest=<digest>`: makes a step of a takedown, and begins it unless it is known, for the
    /// reason in the body. 200 at the end, 202 before: the job `remove` goes on with it, and so does the same request. Also
    /// while the registry is read-only.
    pub(super) async fn take_down(&self, request: Request) -> Result<Response, Error> {
        let digest = digest(&request)?;
        let body = read_small(request.into_body(), MAX_BODY).await?;
        let reason = if body.is_empty() { None } else { Some(reason(&body)?) };
        let (app, context) = (self.app, &self.context);
        match takedown::begin(app, context, &digest, reason).await? {
            Begun::Known => {}
            Begun::Unknown => {
                return Err(Error::InvalidBody(r#"an object such as {"reason": "…"}"#.to_owned()));
            }
            Begun::Lifting(until) => {
                return Err(Error::Conflict(format!(
                    "an earlier takedown is being lifted: ask again after {}",
                    until.to_rfc3339()
                )));
            }
        }
        let state = match takedown::state(app, context, &digest).await? {
            Some(done) if done.part == Part::Done => Some(done),
            _ => takedown::step(app, context, &digest).await?,
        };
        let takedown = state.ok_or(Error::Absent("takedown"))?;
        let answer = self.shown_takedown(&digest, &takedown);
        let mut response = stepped(takedown.part == Part::Done, &answer);
        response.extensions_mut().insert(TakenDown { digest, reason: Some(takedown.reason) });
        Ok(response)
    }

    /// `DELETE /v2/_pierhead/takedown?digest=<digest>`: lets content be pushed again.
    pub(super) async fn lift_takedown(&self, request: &Request) -> Result<Response, Error> {
        let digest = digest(request)?;
        match takedown::lift(self.app, &self.context, &digest).await? {
            Lifted::Done => {
                let mut response = empty(StatusCode::NO_CONTENT);
                response.extensions_mut().insert(TakenDown { digest, reason: None });
                Ok(response)
            }
            Lifted::Absent => Err(Error::Absent("takedown")),
            Lifted::Open => {
                Err(Error::Conflict("the takedown is not finished: it can be lifted when it is".to_owned()))
            }
            Lifted::Resting(until) => Err(Error::Conflict(format!(
                "a call that deletes the content may be under way: lift the takedown after {}",
                until.to_rfc3339()
            ))),
        }
    }

    fn shown_takedown(&self, digest: &Digest, takedown: &Takedown) -> Value {
        let time = |time: Option<Timestamp>| time.map(Timestamp::to_rfc3339);
        let remainders = takedown.remainders(self.app);
        let remainder = |remainder: &takedown::Remainder| json!({"place": remainder.place, "until": time(remainder.until)});
        json!({
            "digest": digest,
            "done": takedown.part == Part::Done,
            "part": takedown.part.as_str(),
            "by": takedown.by,
            "at": takedown.at.to_rfc3339(),
            "reason": takedown.reason,
            "blocked": time(takedown.blocked),
            "goes_on": time(takedown.waits_until(self.app.clock.now())),
            "links_removed": takedown.links,
            "still_served": remainders.iter().map(remainder).collect::<Vec<_>>(),
        })
    }
}

fn stepped(is_done: bool, answer: &Value) -> Response {
    let mut response = json(answer.to_string());
    if !is_done {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

fn digest(request: &Request) -> Result<Digest, Error> {
    let digest = parameter(request.uri(), "digest");
    let missing = || Error::InvalidParameter { name: "digest", expected: "the digest of a manifest or blob" };
    Ok(digest.ok_or_else(missing)?.parse()?)
}

fn reason(body: &[u8]) -> Result<String, Error> {
    let Asked { reason } = from_json(body).map_err(|error| Error::InvalidBody(error.to_string()))?;
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > MAX_REASON {
        return Err(Error::InvalidBody(format!("reason must be a text of 1 to {MAX_REASON} bytes")));
    }
    Ok(reason.to_owned())
}
