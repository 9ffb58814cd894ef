//! Administration: endpoints that run jobs.

use http::Uri;
use serde_json::json;

use super::{Error, Registry, Response, json, parameter};
use crate::jobs::{self, Rebuild};

impl Registry<'_> {
    /// `POST /v2/_pierhead/rebuild?after=<after>`: one step of [`Rebuild`]. Responds `{"next": <after>}`,
    /// with `null` after the last step. Idempotent.
    pub(super) async fn rebuild(&self, uri: &Uri) -> Result<Response, Error> {
        let after = parameter(uri, "after").filter(|after| !after.is_empty());
        let next = jobs::step(&Rebuild, after, self.app, &self.context).await?;
        Ok(json(json!({"next": next}).to_string()))
    }
}
