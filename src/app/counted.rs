//! Clients of objects whose calls are counted in the log of a request or job.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use crate::{
    oci::{RepositoryName, UploadId},
    platform::RequestLog,
    repository::writer::protocol::{self as writers, Writers},
    uploads::{self, UploadSessions},
};

/// A client with its log.
pub(super) struct Counted<T: ?Sized> {
    pub inner: Rc<T>,
    pub log: Rc<RequestLog>,
}

impl<T: ?Sized> Counted<T> {
    async fn counted<R>(&self, call: impl Future<Output = R>) -> R {
        self.log.count_object_call();
        let _under_way = self.log.begin_call();
        call.await
    }
}

impl UploadSessions for Counted<dyn UploadSessions> {
    fn new_id(&self) -> Result<UploadId, uploads::CallError> {
        self.inner.new_id()
    }

    fn call<'a>(
        &'a self,
        id: &'a UploadId,
        command: uploads::Command,
    ) -> LocalBoxFuture<'a, Result<uploads::Reply, uploads::CallError>> {
        Box::pin(self.counted(self.inner.call(id, command)))
    }
}

impl Writers for Counted<dyn Writers> {
    fn deployment(&self) -> Result<String, writers::CallError> {
        self.inner.deployment()
    }

    fn call<'a>(
        &'a self,
        repository: &'a RepositoryName,
        call: writers::Call,
    ) -> LocalBoxFuture<'a, Result<writers::Reply, writers::CallError>> {
        Box::pin(self.counted(self.inner.call(repository, call)))
    }
}
