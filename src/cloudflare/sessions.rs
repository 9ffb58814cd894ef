//! The client of upload sessions, each a Durable Object: see [`super::upload_session`].

use futures_util::future::LocalBoxFuture;
use worker::{ObjectNamespace, Stub};

use super::objects;
use crate::{
    oci::UploadId,
    storage::PATIENCE,
    uploads::{CallError, Command, Refused, Reply, UploadSessions},
};

/// A command with the id of its session.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Call {
    pub id: String,
    pub command: Command,
}

/// The client of upload sessions.
pub struct DurableSessions {
    namespace: ObjectNamespace,
}

impl DurableSessions {
    /// Wraps the binding.
    pub fn new(namespace: ObjectNamespace) -> Self {
        Self { namespace }
    }

    /// A new stub for each attempt: a failed one may stay broken.
    fn stub(&self, id: &UploadId) -> worker::Result<Stub> {
        if id.is_name() {
            return self.namespace.get_by_name(&id.to_string());
        }
        self.namespace.id_from_string(&id.to_string())?.get_stub()
    }
}

impl UploadSessions for DurableSessions {
    /// An id that is not made of a name: the first call by a name takes a trip around the world, to make sure that
    /// no other place has created the object.
    fn new_id(&self) -> Result<UploadId, CallError> {
        let unreachable = |error: String| CallError::Unreachable(error);
        let id = self.namespace.unique_id().map_err(|error| unreachable(error.to_string()))?;
        id.to_string().parse().map_err(|_| unreachable("the platform's id has an unknown form".to_owned()))
    }

    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: Command,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        Box::pin(async move {
            let call = Call { id: id.to_string(), command };
            let replied = objects::call::<Result<Reply, Refused>>(|| self.stub(id), &call, PATIENCE).await;
            Ok(replied.map_err(CallError::Unreachable)?.reply?)
        })
    }
}
