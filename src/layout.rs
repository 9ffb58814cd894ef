//! The layout of the bucket: every key that the registry reads or writes.
//!
//! The first tree is `distribution`'s, key for key, so that a bucket copied from it works unchanged:
//!
//! ```text
//! docker/registry/v2/
//!   blobs/<alg>/<first two hex>/<hex>/data                    the bytes of blobs and manifests
//!   repositories/<name>/
//!     _layers/<alg>/<hex>/link                                the repository has this blob
//!     _manifests/revisions/<alg>/<hex>/link                   the repository has this manifest
//!     _manifests/revisions/<alg>/<hex>/signatures/<alg>/<sig hex>/link
//!                                                             a signature of this manifest, of schema 1
//!     _manifests/tags/<tag>/current/link                      the manifest a tag points to
//!     _manifests/tags/<tag>/index/<alg>/<hex>/link            a manifest the tag has pointed to
//! ```
//!
//! A link's content is a digest as text. The links that this registry writes also carry
//! [`Metadata`](crate::storage::Metadata) (size, media type, path of the bytes), so that one look-up answers a
//! HEAD; links without metadata work too.
//!
//! The second tree holds what `distribution` lacks. All but `blobs`, `descriptors`, `uploads`, `secret`, `keys` and `takedowns` can be
//! rebuilt from the first tree. Nothing below `uploads` outlives its upload, so that a lifecycle rule may delete it:
//!
//! ```text
//! pierhead/
//!   repositories/<name>-                                      empty; the catalog pages over these
//!   descriptors/<alg>/<hex>                                   size and path of bytes that are, or were, not at `data`
//!   links/<alg>/<hex>/<name>-                                 a repository that has the blob
//!   referrers/<name>/_/<alg>/<subject hex>/<alg>/<hex>        descriptor of a referrer of the subject
//!   gc/<alg>/<hex>                                            whether content is about to be deleted: see [`crate::blobs::marker`]
//!   blobs/<uuid>                                              the bytes of a blob that is not at `data`
//!   uploads/blobs/<uuid>                                      the digest of those bytes, until their descriptor is there
//!   uploads/<id>/staged/<epoch>                               bytes that do not fill a part yet
//!   uploads/scratch/<uuid>                                    temporary objects of the S3 driver
//!   outbox/<milliseconds>-<uuid>                              events that are not delivered yet
//!   jobs/<job>                                                the state of a job: its run under way, its last runs
//!   health                                                    what a check of health has written
//!   collection/<name>                                         what the collection of garbage has seen
//!   deployment                                                the name of the deployment that changes repositories
//!   secret                                                    the secret from which all keys are derived, if none is configured
//!   keys/<id>                                                 an API key: its account, its scopes, and a hash of its secret
//!   key-uses/<id>                                             when an API key was used last
//!   pulls/<name>/_/<alg>/<hex>                                empty; its time is that of a manifest's last pull, to the day
//!   copy                                                      the copy under way of a blob that is too large for one call
//!   usage/<name>-                                             what the collection has counted in a repository
//!   retain-scan                                               what the retain job has found in a repository, between two steps
//!   removals/repositories/<name>-                             a repository that is being removed: by whom, and how far
//!   removals/content/<alg>/<hex>                              content of which a takedown is not finished
//!   takedowns/<alg>/<hex>                                     content that was taken down: by whom, why, and how far
//! ```
//!
//! Earlier versions kept a blob of several parts, for good, at `uploads/<uuid>/<epoch>`, with its digest at
//! `uploads/<uuid>/<epoch>.blob`.
//!
//! The descriptor cache in KV holds copies of data in the bucket:
//!
//! ```text
//! located/<alg>/<hex>                                         size and path of a blob's bytes
//! manifest/<alg>/<hex>                                        a manifest's content
//! ```

use std::fmt;

use uuid::Uuid;

use crate::{
    oci::{Algorithm, Digest, RepositoryName, Tag, UploadId},
    storage::Path,
};

/// A key of the bucket, or of the descriptor cache.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    /// The bytes of a blob or manifest.
    Data(&'a Digest),
    /// A repository's link to a blob.
    Layer(&'a RepositoryName, &'a Digest),
    /// A repository's link to a manifest.
    Revision(&'a RepositoryName, &'a Digest),
    /// A link to a signature of a manifest of schema 1.
    Signature {
        /// The repository.
        name: &'a RepositoryName,
        /// The manifest: the digest of its payload.
        manifest: &'a Digest,
        /// The signature.
        signature: &'a Digest,
    },
    /// The folder of a manifest's [`Key::Signature`] links.
    Signatures(&'a RepositoryName, &'a Digest),
    /// The folder of a repository's links to manifests.
    Revisions(&'a RepositoryName),
    /// The folder of a repository's links to blobs.
    Layers(&'a RepositoryName),
    /// The folder of a repository's tags.
    Tags(&'a RepositoryName),
    /// The folder of a tag.
    Tag(&'a RepositoryName, &'a Tag),
    /// The manifest a tag points to.
    TagCurrent(&'a RepositoryName, &'a Tag),
    /// A manifest that a tag has pointed to.
    TagIndex(&'a RepositoryName, &'a Tag, &'a Digest),
    /// The folder of the bytes of all blobs and manifests at [`Key::Data`], by one algorithm.
    DataFolder(Algorithm),
    /// The folder of a repository in `distribution`'s tree.
    RepositoryFolder(&'a RepositoryName),
    /// The folder of all [`Key::Referrer`] entries.
    AllReferrers,
    /// The folder of all repositories in `distribution`'s tree.
    Repositories,
    /// The catalog's entry of a repository.
    Repository(&'a RepositoryName),
    /// The folder of [`Key::Repository`].
    Catalog,
    /// Size and path of bytes that are not at [`Key::Data`].
    Descriptor(&'a Digest),
    /// The folder of [`Key::Descriptor`], by one algorithm.
    Descriptors(Algorithm),
    /// The folder of [`Key::ReverseLinks`], by one algorithm.
    AllReverseLinks(Algorithm),
    /// The state of content that may be deleted.
    Marker(&'a Digest),
    /// The folder of all [`Key::Marker`].
    Markers,
    /// The folder of [`Key::Marker`], by one algorithm.
    MarkersBy(Algorithm),
    /// What the collection of garbage has seen.
    Collection(&'a str),
    /// The folder of [`Key::ReverseLink`] for a blob.
    ReverseLinks(&'a Digest),
    /// The reverse of a link: a repository that has the blob.
    ReverseLink(&'a Digest, &'a RepositoryName),
    /// The folder of a subject's referrers.
    Referrers(&'a RepositoryName, &'a Digest),
    /// A referrer of a subject.
    Referrer {
        /// The repository.
        name: &'a RepositoryName,
        /// The subject.
        subject: &'a Digest,
        /// The manifest that refers to it.
        referrer: &'a Digest,
    },
    /// The bytes of a blob that is not at [`Key::Data`].
    Blob(Uuid),
    /// The digest of a [`Key::Blob`], from before its descriptor is written until after.
    BlobNote(Uuid),
    /// A multipart upload's object, in a session of an earlier version.
    Upload(&'a UploadId, u32),
    /// Bytes of a chunk that do not fill a part.
    Staged(&'a UploadId, u32),
    /// The folder of an upload's [`Key::Staged`] objects.
    StagedAll(&'a UploadId),
    /// The note beside a [`Key::Upload`], which holds its digest.
    UploadBlob(&'a Path),
    /// The folder of temporary objects of a driver, which the purge job removes.
    Scratch,
    /// The folder of all objects of uploads.
    Uploads,
    /// The folder of events that are not delivered yet.
    Outbox,
    /// Events of one change, by their name in the outbox.
    OutboxEntry(&'a str),
    /// The state of a job, by its name.
    Job(&'a str),
    /// What a check of health writes and reads.
    Health,
    /// The name of the deployment that changes repositories.
    Deployment,
    /// The secret from which all keys are derived, unless it is configured.
    Secret,
    /// An API key, by its id.
    ApiKey(&'a str),
    /// The folder of all API keys.
    ApiKeys,
    /// When an API key was used last.
    ApiKeyUse(&'a str),
    /// The note of a manifest's last pull.
    Pull(&'a RepositoryName, &'a Digest),
    /// The folder of a repository's [`Key::Pull`] notes.
    Pulls(&'a RepositoryName),
    /// What the collection has counted in a repository: empty, with metadata.
    Usage(&'a RepositoryName),
    /// The folder of [`Key::Usage`].
    Usages,
    /// What the retain job has found in a repository.
    RetainScan,
    /// The copy under way of a blob that is too large for one call.
    Copy,
    /// The folder of a repository's manifests and tags.
    Manifests(&'a RepositoryName),
    /// The folder of a repository's uploads in another registry.
    ForeignUploads(&'a RepositoryName),
    /// The folder of all [`Key::Referrer`] entries of a repository.
    ReferrersOf(&'a RepositoryName),
    /// A repository that is being removed.
    Removal(&'a RepositoryName),
    /// Content of which a takedown is not finished.
    OpenTakedown(&'a Digest),
    /// The folder of [`Key::Removal`] and [`Key::OpenTakedown`].
    Removals,
    /// Content that was taken down.
    Takedown(&'a Digest),
    /// An entry of the descriptor cache in KV: not in the bucket.
    Cached(CacheEntry, &'a Digest),
}

/// The kinds of entries in the descriptor cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheEntry {
    /// Size and path of a blob's bytes, as JSON.
    Located,
    /// A manifest's content.
    Manifest,
}

impl CacheEntry {
    /// The name in keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Located => "located",
            Self::Manifest => "manifest",
        }
    }
}

struct Slashed<'a>(&'a Digest);

impl fmt::Display for Slashed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.algorithm(), self.0.hex())
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const V2: &str = "docker/registry/v2";
        const OURS: &str = "pierhead";
        const END: &str = Key::END_OF_NAME;
        match self {
            Self::Data(digest) => {
                let (hex, alg) = (digest.hex(), digest.algorithm());
                write!(f, "{V2}/blobs/{alg}/{}/{hex}/data", hex.get(..2).unwrap_or_default())
            }
            Self::Layer(name, digest) => {
                write!(f, "{V2}/repositories/{name}/_layers/{}/link", Slashed(digest))
            }
            Self::Revision(name, digest) => {
                write!(f, "{V2}/repositories/{name}/_manifests/revisions/{}/link", Slashed(digest))
            }
            Self::Signature { name, manifest, signature } => {
                write!(f, "{}/{}/link", Key::Signatures(name, manifest), Slashed(signature))
            }
            Self::Signatures(name, manifest) => {
                write!(f, "{V2}/repositories/{name}/_manifests/revisions/{}/signatures", Slashed(manifest))
            }
            Self::Revisions(name) => write!(f, "{V2}/repositories/{name}/_manifests/revisions"),
            Self::Layers(name) => write!(f, "{V2}/repositories/{name}/_layers"),
            Self::Tags(name) => write!(f, "{V2}/repositories/{name}/_manifests/tags"),
            Self::Tag(name, tag) => write!(f, "{V2}/repositories/{name}/_manifests/tags/{tag}"),
            Self::TagCurrent(name, tag) => {
                write!(f, "{V2}/repositories/{name}/_manifests/tags/{tag}/current/link")
            }
            Self::TagIndex(name, tag, digest) => {
                write!(f, "{V2}/repositories/{name}/_manifests/tags/{tag}/index/{}/link", Slashed(digest))
            }
            Self::DataFolder(algorithm) => write!(f, "{V2}/blobs/{algorithm}"),
            Self::RepositoryFolder(name) => write!(f, "{V2}/repositories/{name}"),
            Self::Repositories => write!(f, "{V2}/repositories"),
            Self::Repository(name) => write!(f, "{OURS}/repositories/{name}{END}"),
            Self::Catalog => write!(f, "{OURS}/repositories"),
            Self::Descriptor(digest) => write!(f, "{OURS}/descriptors/{}", Slashed(digest)),
            Self::Descriptors(algorithm) => write!(f, "{OURS}/descriptors/{algorithm}"),
            Self::AllReverseLinks(algorithm) => write!(f, "{OURS}/links/{algorithm}"),
            Self::Marker(digest) => write!(f, "{OURS}/gc/{}", Slashed(digest)),
            Self::Markers => write!(f, "{OURS}/gc"),
            Self::MarkersBy(algorithm) => write!(f, "{OURS}/gc/{algorithm}"),
            Self::Collection(name) => write!(f, "{OURS}/collection/{name}"),
            Self::ReverseLinks(digest) => write!(f, "{OURS}/links/{}", Slashed(digest)),
            Self::ReverseLink(digest, name) => write!(f, "{OURS}/links/{}/{name}{END}", Slashed(digest)),
            Self::AllReferrers => write!(f, "{OURS}/referrers"),
            Self::Referrers(name, subject) => write!(f, "{OURS}/referrers/{name}/_/{}", Slashed(subject)),
            Self::Referrer { name, subject, referrer } => {
                write!(f, "{OURS}/referrers/{name}/_/{}/{}", Slashed(subject), Slashed(referrer))
            }
            Self::Blob(uuid) => write!(f, "{OURS}/blobs/{uuid}"),
            Self::BlobNote(uuid) => write!(f, "{OURS}/uploads/blobs/{uuid}"),
            Self::Upload(id, epoch) => write!(f, "{OURS}/uploads/{id}/{epoch}"),
            Self::Staged(id, epoch) => write!(f, "{OURS}/uploads/{id}/staged/{epoch}"),
            Self::StagedAll(id) => write!(f, "{OURS}/uploads/{id}/staged"),
            Self::UploadBlob(object) => write!(f, "{object}{}", Key::UPLOAD_BLOB),
            Self::Scratch => write!(f, "{OURS}/uploads/scratch"),
            Self::Uploads => write!(f, "{OURS}/uploads"),
            Self::Health => write!(f, "{OURS}/health"),
            Self::Outbox => write!(f, "{OURS}/outbox"),
            Self::OutboxEntry(name) => write!(f, "{OURS}/outbox/{name}"),
            Self::Job(name) => write!(f, "{OURS}/jobs/{name}"),
            Self::Deployment => write!(f, "{OURS}/deployment"),
            Self::Secret => write!(f, "{OURS}/secret"),
            Self::ApiKey(id) => write!(f, "{OURS}/keys/{id}"),
            Self::ApiKeys => write!(f, "{OURS}/keys"),
            Self::ApiKeyUse(id) => write!(f, "{OURS}/key-uses/{id}"),
            Self::Pull(name, digest) => write!(f, "{OURS}/pulls/{name}/_/{}", Slashed(digest)),
            Self::Pulls(name) => write!(f, "{OURS}/pulls/{name}/_"),
            Self::Usage(name) => write!(f, "{OURS}/usage/{name}{END}"),
            Self::Usages => write!(f, "{OURS}/usage"),
            Self::RetainScan => write!(f, "{OURS}/retain-scan"),
            Self::Copy => write!(f, "{OURS}/copy"),
            Self::Manifests(name) => write!(f, "{V2}/repositories/{name}/_manifests"),
            Self::ForeignUploads(name) => write!(f, "{V2}/repositories/{name}/_uploads"),
            Self::ReferrersOf(name) => write!(f, "{OURS}/referrers/{name}/_"),
            Self::Removal(name) => write!(f, "{OURS}/removals/repositories/{name}{END}"),
            Self::OpenTakedown(digest) => write!(f, "{OURS}/removals/content/{}", Slashed(digest)),
            Self::Removals => write!(f, "{OURS}/removals"),
            Self::Takedown(digest) => write!(f, "{OURS}/takedowns/{}", Slashed(digest)),
            Self::Cached(entry, digest) => write!(f, "{}/{}", entry.as_str(), Slashed(digest)),
        }
    }
}

impl Key<'_> {
    /// The suffix of a name at the end of a key. Without it, the key of `a` would be the folder of `a/b`, and
    /// stores that keep objects as files cannot have both. No component of a name ends in a dash, and no
    /// character of a name sorts before it: keys are in the order of the names.
    pub const END_OF_NAME: &'static str = "-";

    /// The uuid at the end of a [`Key::Blob`].
    pub fn uuid_of_blob(path: &str) -> Option<Uuid> {
        path.strip_prefix("pierhead/blobs/")?.parse().ok()
    }

    /// The uuid at the end of a [`Key::BlobNote`].
    pub fn noted_blob(path: &str) -> Option<Uuid> {
        path.strip_prefix("pierhead/uploads/blobs/")?.parse().ok()
    }

    /// The suffix of [`Key::UploadBlob`].
    pub const UPLOAD_BLOB: &'static str = ".blob";

    /// The key as a path.
    pub fn path(&self) -> Path {
        Path::trusted(self.to_string())
    }
}

/// A link of `distribution`'s tree, parsed from its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// [`Key::Layer`].
    Layer(RepositoryName, Digest),
    /// [`Key::Revision`].
    Revision(RepositoryName, Digest),
    /// [`Key::Signature`].
    Signature {
        /// The repository.
        name: RepositoryName,
        /// The manifest.
        manifest: Digest,
        /// The signature.
        signature: Digest,
    },
}

impl Link {
    /// Parses a path below [`Key::Repositories`]; `None` for anything but these kinds of link.
    pub fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix(&Key::Repositories.path().folder())?.split('/').collect();
        let digest = |algorithm: &str, hex: &str| format!("{algorithm}:{hex}").parse::<Digest>().ok();
        match segments.as_slice() {
            [name @ .., "_layers", algorithm, hex, "link"] => {
                Some(Self::Layer(name.join("/").parse().ok()?, digest(algorithm, hex)?))
            }
            [name @ .., "_manifests", "revisions", algorithm, hex, "link"] => {
                Some(Self::Revision(name.join("/").parse().ok()?, digest(algorithm, hex)?))
            }
            [name @ .., "_manifests", "revisions", algorithm, hex, "signatures", by, signature, "link"] => {
                Some(Self::Signature {
                    name: name.join("/").parse().ok()?,
                    manifest: digest(algorithm, hex)?,
                    signature: digest(by, signature)?,
                })
            }
            _ => None,
        }
    }
}

/// A tag, parsed from its [`Key::TagCurrent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagLink {
    /// The repository.
    pub name: RepositoryName,
    /// The tag.
    pub tag: Tag,
}

impl TagLink {
    /// Parses a path below [`Key::Repositories`]; `None` for any other key.
    pub fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix(&Key::Repositories.path().folder())?.strip_suffix("/current/link")?;
        let (name, tag) = path.rsplit_once("/_manifests/tags/")?;
        Some(Self { name: name.parse().ok()?, tag: tag.parse().ok()? })
    }
}

/// An entry of a referrer, parsed from its [`Key::Referrer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferrerKey {
    /// The repository.
    pub name: RepositoryName,
    /// The manifest that is referred to.
    pub subject: Digest,
    /// The manifest that refers to it.
    pub referrer: Digest,
}

impl ReferrerKey {
    /// Parses a path below [`Key::AllReferrers`].
    pub fn parse(path: &str) -> Option<Self> {
        let (name, digests) = path.strip_prefix(&Key::AllReferrers.path().folder())?.split_once("/_/")?;
        let (subject, _) = digests.rsplit_once('/')?.0.rsplit_once('/')?;
        let (subject, referrer) = (slashed(subject)?, trailing_digest(digests)?);
        Some(Self { name: name.parse().ok()?, subject, referrer })
    }
}

fn slashed(text: &str) -> Option<Digest> {
    let (algorithm, hex) = text.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The digest of a [`Key::Data`].
pub fn data_digest(path: &str) -> Option<Digest> {
    let (rest, hex) = path.strip_suffix("/data")?.rsplit_once('/')?;
    let (rest, start) = rest.rsplit_once('/')?;
    let digest = format!("{}:{hex}", rest.rsplit('/').next()?).parse().ok()?;
    hex.starts_with(start).then_some(digest)
}

/// The digest and the repository of a [`Key::ReverseLink`].
pub fn reverse_link(path: &str) -> Option<(Digest, RepositoryName)> {
    Algorithm::ALL.into_iter().find_map(|algorithm| {
        let (hex, name) =
            path.strip_prefix(&Key::AllReverseLinks(algorithm).path().folder())?.split_once('/')?;
        let digest = format!("{algorithm}:{hex}").parse().ok()?;
        Some((digest, name.strip_suffix(Key::END_OF_NAME)?.parse().ok()?))
    })
}

/// What an entry below [`Key::Removals`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// [`Key::Removal`].
    Repository(RepositoryName),
    /// [`Key::OpenTakedown`].
    Content(Digest),
}

impl Removed {
    /// Parses a path below [`Key::Removals`].
    pub fn parse(path: &str) -> Option<Self> {
        match path.strip_prefix(&Key::Removals.path().folder())?.split_once('/')? {
            ("repositories", name) => {
                Some(Self::Repository(name.strip_suffix(Key::END_OF_NAME)?.parse().ok()?))
            }
            ("content", digest) => Some(Self::Content(slashed(digest)?)),
            _ => None,
        }
    }
}

/// The repository name in a [`Key::Repository`] or [`Key::ReverseLink`] below `folder`.
pub fn trailing_name<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    path.strip_prefix(folder)?.strip_suffix(Key::END_OF_NAME)
}

/// The digest in the last two segments of a path, as in [`Key::Referrer`].
pub fn trailing_digest(path: &str) -> Option<Digest> {
    let (rest, hex) = path.rsplit_once('/')?;
    let algorithm: Algorithm = rest.rsplit('/').next()?.parse().ok()?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_path() {
        let name: RepositoryName = "a/b".parse().unwrap();
        let tag: Tag = "v1.0".parse().unwrap();
        let (x, y) = (Algorithm::Sha256.digest(b"x"), Algorithm::Sha512.digest(b"y"));
        let (xh, yh) = (x.hex(), y.hex());
        let uuid = "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887";
        let id: UploadId = uuid.parse().unwrap();
        let repository = "docker/registry/v2/repositories/a/b";
        for (key, expected) in [
            (Key::Data(&x), format!("docker/registry/v2/blobs/sha256/{}/{xh}/data", &xh[..2])),
            (Key::Layer(&name, &y), format!("{repository}/_layers/sha512/{yh}/link")),
            (Key::Revision(&name, &x), format!("{repository}/_manifests/revisions/sha256/{xh}/link")),
            (
                Key::Signature { name: &name, manifest: &x, signature: &y },
                format!("{repository}/_manifests/revisions/sha256/{xh}/signatures/sha512/{yh}/link"),
            ),
            (Key::TagCurrent(&name, &tag), format!("{repository}/_manifests/tags/v1.0/current/link")),
            (
                Key::TagIndex(&name, &tag, &x),
                format!("{repository}/_manifests/tags/v1.0/index/sha256/{xh}/link"),
            ),
            (Key::Repository(&name), "pierhead/repositories/a/b-".into()),
            (Key::Descriptor(&x), format!("pierhead/descriptors/sha256/{xh}")),
            (Key::ReverseLink(&x, &name), format!("pierhead/links/sha256/{xh}/a/b-")),
            (
                Key::Referrer { name: &name, subject: &x, referrer: &y },
                format!("pierhead/referrers/a/b/_/sha256/{xh}/sha512/{yh}"),
            ),
            (Key::Blob(uuid.parse().unwrap()), format!("pierhead/blobs/{uuid}")),
            (Key::BlobNote(uuid.parse().unwrap()), format!("pierhead/uploads/blobs/{uuid}")),
            (Key::Upload(&id, 3), format!("pierhead/uploads/{uuid}/3")),
            (Key::Staged(&id, 3), format!("pierhead/uploads/{uuid}/staged/3")),
            (Key::UploadBlob(&Key::Upload(&id, 3).path()), format!("pierhead/uploads/{uuid}/3.blob")),
            (Key::Scratch, "pierhead/uploads/scratch".into()),
            (Key::OutboxEntry("0000000000001-x"), "pierhead/outbox/0000000000001-x".into()),
            (Key::Job("purge"), "pierhead/jobs/purge".into()),
            (Key::Pull(&name, &x), format!("pierhead/pulls/a/b/_/sha256/{xh}")),
            (Key::RetainScan, "pierhead/retain-scan".into()),
            (Key::Copy, "pierhead/copy".into()),
            (Key::Manifests(&name), format!("{repository}/_manifests")),
            (Key::ForeignUploads(&name), format!("{repository}/_uploads")),
            (Key::ReferrersOf(&name), "pierhead/referrers/a/b/_".into()),
            (Key::Removal(&name), "pierhead/removals/repositories/a/b-".into()),
            (Key::OpenTakedown(&x), format!("pierhead/removals/content/sha256/{xh}")),
            (Key::Takedown(&x), format!("pierhead/takedowns/sha256/{xh}")),
            (Key::Health, "pierhead/health".into()),
            (Key::Secret, "pierhead/secret".into()),
            (Key::ApiKey("0123456789abcdef"), "pierhead/keys/0123456789abcdef".into()),
            (Key::ApiKeys, "pierhead/keys".into()),
            (Key::ApiKeyUse("0123456789abcdef"), "pierhead/key-uses/0123456789abcdef".into()),
        ] {
            assert_eq!(key.path().as_str(), expected);
        }
    }

    #[test]
    fn keys_of_the_longest_names_are_valid_paths() {
        let name: RepositoryName = format!("a{}", "/a".repeat(127)).parse().unwrap();
        let tag: Tag = "t".repeat(128).parse().unwrap();
        let digest = Algorithm::Sha512.digest(b"");
        for key in [
            Key::Referrer { name: &name, subject: &digest, referrer: &digest },
            Key::TagIndex(&name, &tag, &digest),
            Key::Signature { name: &name, manifest: &digest, signature: &digest },
        ] {
            assert!(key.path().as_str().parse::<Path>().is_ok());
        }
    }

    #[test]
    fn no_key_is_the_folder_of_another() {
        let names: [RepositoryName; 3] = ["a", "a/b", "a/b/c"].map(|name| name.parse().unwrap());
        let (tag, digest) = ("link".parse::<Tag>().unwrap(), Algorithm::Sha256.digest(b""));
        let id: UploadId = "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887".parse().unwrap();
        let object = Key::Upload(&id, 1).path();
        let mut paths = vec![Key::Data(&digest).path(), Key::Descriptor(&digest).path()];
        paths.extend([Key::UploadBlob(&object).path(), Key::Staged(&id, 1).path(), object]);
        paths.extend([Key::Job("purge").path(), Key::Deployment.path(), Key::Secret.path()]);
        paths.push(Key::OutboxEntry("0000000000001-x").path());
        paths.push(Key::Health.path());
        paths.push(Key::RetainScan.path());
        paths.push(Key::Copy.path());
        paths.extend([Key::Blob(Uuid::nil()).path(), Key::BlobNote(Uuid::nil()).path()]);
        for name in &names {
            paths.extend([
                Key::Layer(name, &digest).path(),
                Key::Revision(name, &digest).path(),
                Key::Signature { name, manifest: &digest, signature: &digest }.path(),
                Key::TagCurrent(name, &tag).path(),
                Key::TagIndex(name, &tag, &digest).path(),
                Key::Repository(name).path(),
                Key::ReverseLink(&digest, name).path(),
                Key::Referrer { name, subject: &digest, referrer: &digest }.path(),
                Key::Pull(name, &digest).path(),
                Key::Usage(name).path(),
                Key::Removal(name).path(),
                Key::OpenTakedown(&digest).path(),
            ]);
        }
        for path in &paths {
            let within = paths.iter().find(|other| other.as_str().starts_with(&path.folder()));
            assert_eq!(within, None, "{path}");
        }
        let names: Vec<RepositoryName> = ["a", "a--b", "a-b", "a.b", "a/b", "a/b-c", "a0", "a_b", "aa"]
            .map(|name| name.parse().unwrap())
            .into();
        assert!(names.is_sorted() && names.is_sorted_by_key(|name| Key::Repository(name).path()));
        let folder = Key::Catalog.path().folder();
        for name in &names {
            assert_eq!(trailing_name(Key::Repository(name).path().as_str(), &folder), Some(name.as_str()));
        }
    }

    #[test]
    fn links_are_parsed_from_their_paths() {
        let name: RepositoryName = "a/_layers-not/b".replace("_layers-not", "x").parse().unwrap();
        let digest = Algorithm::Sha512.digest(b"");
        assert_eq!(
            Link::parse(Key::Layer(&name, &digest).path().as_str()),
            Some(Link::Layer(name.clone(), digest.clone()))
        );
        assert_eq!(
            Link::parse(Key::Revision(&name, &digest).path().as_str()),
            Some(Link::Revision(name.clone(), digest.clone()))
        );
        let signature = Algorithm::Sha256.digest(b"signature");
        assert_eq!(
            Link::parse(
                Key::Signature { name: &name, manifest: &digest, signature: &signature }.path().as_str()
            ),
            Some(Link::Signature { name: name.clone(), manifest: digest.clone(), signature })
        );
        let tag: Tag = "t".parse().unwrap();
        let index = Key::TagIndex(&name, &tag, &digest).path();
        assert_eq!((Link::parse(index.as_str()), TagLink::parse(index.as_str())), (None, None));
        let current = Key::TagCurrent(&name, &tag).path();
        let expected = Some(TagLink { name: name.clone(), tag });
        assert_eq!((Link::parse(current.as_str()), TagLink::parse(current.as_str())), (None, expected));
        let referrer = Key::Referrer { name: &name, subject: &digest, referrer: &digest }.path();
        assert_eq!(trailing_digest(referrer.as_str()), Some(digest.clone()));
        for removed in [Removed::Repository(name.clone()), Removed::Content(digest.clone())] {
            let path = match &removed {
                Removed::Repository(name) => Key::Removal(name).path(),
                Removed::Content(digest) => Key::OpenTakedown(digest).path(),
            };
            assert_eq!(Removed::parse(path.as_str()), Some(removed));
        }
        let subject = Algorithm::Sha256.digest(b"subject");
        let key = Key::Referrer { name: &name, subject: &subject, referrer: &digest }.path();
        let expected = ReferrerKey { name: name.clone(), subject: subject.clone(), referrer: digest.clone() };
        assert_eq!(ReferrerKey::parse(key.as_str()), Some(expected));
        for digest in [subject, digest] {
            let (data, link) = (Key::Data(&digest).path(), Key::ReverseLink(&digest, &name).path());
            assert_eq!(data_digest(data.as_str()), Some(digest.clone()));
            assert_eq!((data_digest(link.as_str()), reverse_link(data.as_str())), (None, None));
            assert_eq!(reverse_link(link.as_str()), Some((digest, name.clone())));
        }
    }
}
