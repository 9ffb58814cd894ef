//! Upload sessions, which outlive the isolates that call them. A call may fail before it is carried out, or lose its
//! answer.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use pierhead::{
    oci::UploadId,
    uploads::{CallError, Command, Reply, UploadSessions, memory::MemorySessions},
};

use crate::{calls::Calls, clock::VirtualClock, executor::Group};

/// The name of the group in which all sessions run: a crash ends what any of them does, and none of what it knows.
const GROUP: &str = "uploads";

/// The client of sessions in an isolate.
#[derive(Clone)]
pub struct Sessions {
    pub inner: Rc<MemorySessions<VirtualClock>>,
    pub calls: Rc<Calls>,
}

impl UploadSessions for Sessions {
    fn new_id(&self) -> Result<UploadId, CallError> {
        self.inner.new_id()
    }

    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: Command,
    ) -> LocalBoxFuture<'a, Result<Reply, CallError>> {
        let (inner, id) = (self.inner.clone(), *id);
        Box::pin(async move {
            let start = move || -> LocalBoxFuture<'static, Result<Reply, CallError>> {
                Box::pin(async move { inner.call(&id, command).await })
            };
            let failed = || CallError::Unreachable("failed by the simulation".to_owned());
            self.calls.clone().call_object(Group::Writer(GROUP.to_owned()), start, failed).await
        })
    }
}
