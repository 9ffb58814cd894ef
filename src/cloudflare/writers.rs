//! The client of the repositories' writers, each a Durable Object: see [`super::repository_writer`].

use futures_util::future::LocalBoxFuture;
use worker::ObjectNamespace;

use super::objects;
use crate::{
    oci::RepositoryName,
    repository::writer::protocol::{Call, CallError, Refused, Reply, Writers},
    storage::LONG_PATIENCE,
};

/// The name of an object that is never called: its id tells this deployment's namespace from others.
const DEPLOYMENT: &str = "_deployment";

/// A call with its repository: an object is not told its name.
#[derive(serde::Serialize)]
struct Addressed<'a> {
    repository: &'a RepositoryName,
    #[serde(flatten)]
    call: Call,
}

/// Reads an [`Addressed`] call. In two steps: `flatten` would need other code for each type of a call than the journal
/// does.
pub(super) fn read(text: &str) -> Result<(RepositoryName, Call), serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Address {
        repository: RepositoryName,
    }
    let Address { repository } = serde_json::from_str(text)?;
    Ok((repository, serde_json::from_str(text)?))
}

/// The client of writers.
pub struct DurableWriters {
    namespace: ObjectNamespace,
}

impl DurableWriters {
    /// Wraps the binding.
    pub fn new(namespace: ObjectNamespace) -> Self {
        Self { namespace }
    }
}

impl Writers for DurableWriters {
    fn deployment(&self) -> Result<String, CallError> {
        let id = self.namespace.id_from_name(DEPLOYMENT);
        id.map(|id| id.to_string()).map_err(|error| CallError::Unreachable(error.to_string()))
    }

    fn call<'a>(
        &'a self,
        repository: &'a RepositoryName,
        call: Call,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move {
            let call = Addressed { repository, call };
            let stub = || self.namespace.get_by_name(repository.as_str());
            let replied = objects::call::<Result<Reply, Refused>>(stub, &call, LONG_PATIENCE).await;
            let replied = replied.map_err(CallError::Unreachable)?;
            CallError::from_reply(replied.reply, replied.is_repeated)
        })
    }
}
