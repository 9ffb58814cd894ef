//! The one deployment that changes repositories: the writers of two deployments cannot order each other's changes.

use std::cell::Cell;

use super::{RepositoryError, writer::protocol::Writers};
use crate::{
    layout::Key,
    platform::Body,
    storage::{Condition, PutOptions, StorageError, StorageErrorKind, Store},
};

/// Size limit of the name of a deployment, in bytes.
const MAX_NAME: usize = 256;

/// Another deployment has written to the bucket before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another deployment of the registry writes to this bucket. If it is gone for good, delete the object {:?} of the \
     bucket; otherwise give this deployment a bucket of its own",
    Key::Deployment.to_string()
)]
pub struct OtherDeployment;

/// What an isolate knows of the deployment that writes to the bucket.
#[derive(Debug, Default)]
pub struct Deployment {
    is_ours: Cell<bool>,
}

impl Deployment {
    /// Fails unless the bucket is this deployment's, or nobody's: then it becomes this one's. Costs one look-up, once in
    /// an isolate.
    pub async fn check(&self, store: &Store, writers: &dyn Writers) -> Result<(), RepositoryError> {
        if self.is_ours.get() {
            return Ok(());
        }
        let ours = writers.deployment()?;
        let name = match read(store).await? {
            Some(name) => name,
            None => claim(store, &ours).await?,
        };
        if name != ours {
            return Err(OtherDeployment.into());
        }
        self.is_ours.set(true);
        Ok(())
    }
}

async fn read(store: &Store) -> Result<Option<String>, StorageError> {
    let object = store.read(&Key::Deployment.path(), MAX_NAME).await?;
    Ok(object.map(|(name, _)| String::from_utf8_lossy(&name).into_owned()))
}

/// Writes the name unless another deployment is faster. Returns the name that is there.
async fn claim(store: &Store, name: &str) -> Result<String, StorageError> {
    let options = PutOptions { condition: Condition::IfAbsent, ..PutOptions::default() };
    let path = Key::Deployment.path();
    match store.put(&path, Body::Bytes(name.to_owned().into()), options).await {
        Ok(_) => Ok(name.to_owned()),
        Err(StorageError { kind: StorageErrorKind::Precondition, .. }) => {
            Ok(read(store).await?.unwrap_or_else(|| name.to_owned()))
        }
        Err(error) => Err(error),
    }
}
