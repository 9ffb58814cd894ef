//! Events: the endpoints they are delivered to, and their dead letters.

use futures_util::future::join_all;
use http::{StatusCode, Uri};
use serde_json::{Value, json};

use super::{
    Error, Registry, Response, empty, json,
    page::{PageRequest, link_next},
};
use crate::{
    events::{
        Command, Endpoint, Reply,
        delivery::{DeadLetter, Status, keeper},
    },
    platform::Timestamp,
};

impl Registry<'_> {
    /// `GET /v2/_pierhead/events`: how the delivery to each endpoint is. Costs one call for each. One that cannot be asked
    /// has an `error`, and hides no other.
    pub(super) async fn event_endpoints(&self) -> Result<Response, Error> {
        let endpoints = self.app.config.events.endpoints.iter();
        let asked = endpoints.map(async |endpoint| match self.lane_status(&endpoint.name).await {
            Ok(status) => state(endpoint, status),
            Err(error) => {
                let message = error.log_line().map_or_else(|| error.to_string(), str::to_owned);
                json!({"name": endpoint.name, "disabled": endpoint.disabled, "error": message})
            }
        });
        let endpoints = join_all(asked).await;
        Ok(json(json!({"endpoints": endpoints}).to_string()))
    }

    /// `GET /v2/_pierhead/events/<endpoint>/dead?n=<n>&last=<last>`: its dead letters, the oldest first.
    pub(super) async fn dead_letters(&self, endpoint: &str, uri: &Uri) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let limit = asked.n.unwrap_or(keeper::PAGE).min(keeper::PAGE);
        self.check_endpoint(endpoint).await?;
        let command = Command::Dead { after: asked.last, limit };
        let Reply::Letters { letters, has_more } = self.lane(endpoint, command).await? else {
            return Err(unexpected());
        };
        let list: Vec<Value> = letters.iter().map(letter).collect();
        let mut response = json(json!({"dead": list}).to_string());
        if let (true, Some(last)) = (has_more, letters.last()) {
            link_next(response.headers_mut(), uri, asked.n, &last.id);
        }
        Ok(response)
    }

    /// `GET /v2/_pierhead/events/<endpoint>/dead/<id>`.
    pub(super) async fn read_dead_letter(&self, endpoint: &str, id: &str) -> Result<Response, Error> {
        self.check_endpoint(endpoint).await?;
        let Reply::Letters { letters, .. } =
            self.lane(endpoint, Command::ReadDead { id: id.to_owned() }).await?
        else {
            return Err(unexpected());
        };
        let found = letters.first().ok_or(Error::Absent("dead letter"))?;
        Ok(json(letter(found).to_string()))
    }

    /// `POST /v2/_pierhead/events/<endpoint>/dead`, and with `/<id>`: delivers dead letters after all.
    pub(super) async fn replay_dead_letters(
        &self,
        endpoint: &str,
        id: Option<&str>,
    ) -> Result<Response, Error> {
        self.move_dead_letters(endpoint, id, Command::Replay { id: id.map(str::to_owned) }, "replayed").await
    }

    /// `DELETE /v2/_pierhead/events/<endpoint>/dead`, and with `/<id>`: forgets dead letters.
    pub(super) async fn drop_dead_letters(
        &self,
        endpoint: &str,
        id: Option<&str>,
    ) -> Result<Response, Error> {
        self.move_dead_letters(endpoint, id, Command::Drop { id: id.map(str::to_owned) }, "dropped").await
    }

    async fn move_dead_letters(
        &self,
        endpoint: &str,
        id: Option<&str>,
        command: Command,
        done: &str,
    ) -> Result<Response, Error> {
        self.check_endpoint(endpoint).await?;
        let Reply::Moved { moved, left, is_full } = self.lane(endpoint, command).await? else {
            return Err(unexpected());
        };
        match id {
            _ if moved == 0 && is_full => Err(Error::LaneFull),
            None => Ok(json(json!({done: moved, "left": left}).to_string())),
            Some(_) if moved == 0 => Err(Error::Absent("dead letter")),
            Some(_) => Ok(empty(StatusCode::NO_CONTENT)),
        }
    }

    /// Refuses the name of an endpoint that neither the configuration has nor had events.
    async fn check_endpoint(&self, endpoint: &str) -> Result<(), Error> {
        let is_known = self.app.config.events.endpoint(endpoint).is_some();
        match is_known || !self.lane_status(endpoint).await?.is_unused() {
            true => Ok(()),
            false => Err(Error::Absent("event endpoint")),
        }
    }

    async fn lane_status(&self, endpoint: &str) -> Result<Status, Error> {
        match self.lane(endpoint, Command::Status).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(unexpected()),
        }
    }

    async fn lane(&self, endpoint: &str, command: Command) -> Result<Reply, Error> {
        self.app.lanes.call(endpoint, command).await.map_err(Error::Busy)
    }
}

fn state(endpoint: &Endpoint, status: Status) -> Value {
    let Status {
        pending,
        pending_bytes,
        delivered,
        failed,
        dead,
        dropped,
        down_since,
        last_error,
        next_attempt,
    } = status;
    json!({
        "name": endpoint.name,
        "disabled": endpoint.disabled,
        "pending": pending,
        "pending_bytes": pending_bytes,
        "delivered": delivered,
        "failed": failed,
        "dead": dead,
        "dropped": dropped,
        "down_since": down_since.map(Timestamp::to_rfc3339),
        "last_error": last_error,
        "next_attempt": next_attempt.map(Timestamp::to_rfc3339),
    })
}

fn unexpected() -> Error {
    Error::Internal("the lane of an endpoint gave another reply".to_owned())
}

fn letter(DeadLetter { id, died, taken, attempts, reason, event }: &DeadLetter) -> Value {
    json!({
        "id": id,
        "died": died.to_rfc3339(),
        "taken": taken.to_rfc3339(),
        "attempts": attempts,
        "reason": reason,
        "event": event,
    })
}
