//! Decorators of a repository: every slot accepts a no-op decorator.

use std::rc::Rc;

use futures_executor::block_on;
use pierhead::{
    auth::Principal,
    blobs::{Cache, Edge, Freshness, Located},
    oci::{Algorithm, Manifest, Reference, media_type},
    repository::{
        Answer, LinkReason, NewManifest, Repository, RepositoryError, cached::Cached, facts::Facts,
        missing::MissingBlobs, ordered::Ordered,
    },
};

use crate::support::TestRegistry;

/// A no-op decorator, in the slot of a mirror, of the client of a repository's writer, of events, or of
/// immutable tags and quotas.
struct NoOp(Rc<dyn Repository>);

impl Repository for NoOp {
    fn inner(&self) -> &dyn Repository {
        &*self.0
    }
}

/// A decorator that overrides one method.
struct ReadOnly(Rc<dyn Repository>);

impl Repository for ReadOnly {
    fn inner(&self) -> &dyn Repository {
        &*self.0
    }

    fn put_manifest<'a>(&'a self, new: &'a NewManifest, _: &'a [pierhead::oci::Tag]) -> Answer<'a, ()> {
        Box::pin(async { Err(RepositoryError::BlobsMissing(vec![new.digest.clone()])) })
    }
}

fn manifest(content: &'static str) -> NewManifest {
    NewManifest {
        digest: Algorithm::Sha256.digest(content.as_bytes()),
        manifest: Manifest::parse(Some(media_type::OCI_INDEX), content.as_bytes()).unwrap(),
        content: content.into(),
        signatures: Vec::new(),
    }
}

/// Calls every method and checks its effect.
async fn check_every_method(repository: &dyn Repository) -> Result<(), RepositoryError> {
    let new = manifest(r#"{"manifests":[]}"#);
    let (digest, tag) = (&new.digest, "v1".parse().unwrap());
    let reference = Reference::Tag("v1".parse().unwrap());
    repository.put_manifest(&new, std::slice::from_ref(&tag)).await?;
    assert_eq!(repository.revision(&reference).await?.unwrap().digest, *digest);
    assert_eq!(repository.manifest(digest).await?.unwrap(), new.content);
    assert!(repository.signatures(digest).await?.is_empty());
    repository.index_manifest(digest, Some((&new.manifest, 1))).await?;
    assert_eq!(repository.tags(None, 10).await?.unwrap().entries, ["v1"]);
    assert!(repository.referrers(digest, None, 10).await?.entries.is_empty());

    let located = Located { size: 1, at: None };
    repository.link_blob(digest, &located, LinkReason::Push).await?;
    assert_eq!(repository.locate(digest, Freshness::Strict).await?, Some(located));
    assert!(repository.unlink_blob(digest).await? && !repository.unlink_blob(digest).await?);
    assert!(repository.delete_tag(&tag).await? && !repository.delete_tag(&tag).await?);
    assert!(repository.delete_manifest(digest).await? && !repository.delete_manifest(digest).await?);
    assert_eq!(repository.revision(&reference).await?, None);
    Ok(())
}

#[test]
fn every_slot_accepts_a_no_op_decorator() {
    let registry = TestRegistry::new();
    let context = registry.context(Principal::Anonymous);
    let name: pierhead::oci::RepositoryName = "a".parse().unwrap();
    let blobs = registry.app.blobs(&context);
    let ordered: Rc<dyn Repository> = Rc::new(Ordered {
        quota: None,
        missing_blobs: MissingBlobs::Refuse,
        name: name.clone(),
        stored: registry.app.stored(&name, &context),
        blobs: blobs.clone(),
        writers: registry.writers.clone(),
        deployment: Rc::default(),
        immutable: Vec::new(),
        removal: None,
        told: None,
    });

    // Cached, then mirrored, then the client of the repository's writer.
    let mirrored: Rc<dyn Repository> = Rc::new(NoOp(ordered.clone()));
    let edge = Edge::new(0, registry.app.clock.clone());
    let memory = Cache::new(1 << 20, None, edge);
    let worker = Cached {
        inner: mirrored,
        name: name.clone(),
        facts: Rc::new(Facts::new(60, 60, memory, registry.app.clock.clone())),
        freshness: Freshness::Cached,
        blobs: blobs.clone(),
        context: context.clone(),
    };
    for repository in [&worker as &dyn Repository, &*ordered, &*registry.app.repository(&name, &context)] {
        block_on(check_every_method(repository)).unwrap();
    }
}

#[test]
fn a_decorator_changes_only_the_methods_it_overrides() {
    let registry = TestRegistry::new();
    let repository = registry.app.repository(&"a".parse().unwrap(), &registry.context(Principal::Anonymous));
    let read_only = ReadOnly(repository.clone());
    let new = manifest(r#"{"manifests":[]}"#);
    assert!(block_on(read_only.put_manifest(&new, &[])).is_err());
    let reference = Reference::Digest(new.digest.clone());
    assert_eq!(block_on(read_only.revision(&reference)).unwrap(), None);
    block_on(repository.put_manifest(&new, &[])).unwrap();
    assert!(block_on(read_only.revision(&reference)).unwrap().is_some());
}

#[test]
fn a_context_carries_its_principal() {
    let registry = TestRegistry::new();
    let context = registry.context(Principal::Anonymous);
    let job = context.acting_for(Principal::Job("purge"));
    assert_eq!((&*context.principal, &*job.principal), (&Principal::Anonymous, &Principal::Job("purge")));
    assert_eq!(job.log.id, "test");
}
