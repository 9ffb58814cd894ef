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
//!     _manifests/tags/<tag>/current/link                      the manifest a tag points to
//!     _manifests/tags/<tag>/index/<alg>/<hex>/link            a manifest the tag has pointed to
//! ```
//!
//! A link's content is a digest as text. The links that this registry writes also carry
//! [`Metadata`](crate::storage::Metadata) (size, media type, path of the bytes), so that one look-up answers a
//! HEAD; links without metadata work too.
//!
//! The second tree holds what `distribution` lacks. All but `blobs`, `descriptors`, `uploads`, `secret` and `keys` can be
//! rebuilt from the first tree. Nothing below `uploads` outlives its upload, so that a lifecycle rule may delete it:
//!
//! ```text
//! pierhead/
//!   repositories/<name>-                                      empty; the catalog pages over these
//!   descriptors/<alg>/<hex>                                   size and path of bytes that are not at `data`
//!   links/<alg>/<hex>/<name>-                                 a repository that has the blob
//!   referrers/<name>/_/<alg>/<subject hex>/<alg>/<hex>        descriptor of a referrer of the subject
//!   blobs/<uuid>                                              the bytes of a blob that is not at `data`
//!   uploads/blobs/<uuid>                                      the digest of those bytes, until their descriptor is there
//!   uploads/<id>/staged/<epoch>                               bytes that do not fill a part yet
//!   uploads/scratch/<uuid>                                    temporary objects of the S3 driver
//!   purge                                                     the cursor of the purge job
//!   outbox/<milliseconds>-<uuid>                              events that are not delivered yet
//!   resend                                                    the cursor of the resend job
//!   health                                                    what a check of health has written
//!   deployment                                                the name of the deployment that changes repositories
//!   secret                                                    the secret from which all keys are derived, if none is configured
//!   keys/<id>                                                 an API key: its account, its scopes, and a hash of its secret
//!   key-uses/<id>                                             when an API key was used last
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
    /// The folder of a repository's tags.
    Tags(&'a RepositoryName),
    /// The folder of a tag.
    Tag(&'a RepositoryName, &'a Tag),
    /// The manifest a tag points to.
    TagCurrent(&'a RepositoryName, &'a Tag),
    /// A manifest that a tag has pointed to.
    TagIndex(&'a RepositoryName, &'a Tag, &'a Digest),
    /// The folder of a repository in `distribution`'s tree.
    RepositoryFolder(&'a RepositoryName),
    /// The folder of all repositories in `distribution`'s tree.
    Repositories,
    /// The catalog's entry of a repository.
    Repository(&'a RepositoryName),
    /// The folder of [`Key::Repository`].
    Catalog,
    /// Size and path of bytes that are not at [`Key::Data`].
    Descriptor(&'a Digest),
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
    /// The cursor of the purge job.
    PurgeCursor,
    /// The folder of events that are not delivered yet.
    Outbox,
    /// Events of one change, by their name in the outbox.
    OutboxEntry(&'a str),
    /// The cursor of the job that sends events of the outbox again.
    ResendCursor,
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
            Self::Tags(name) => write!(f, "{V2}/repositories/{name}/_manifests/tags"),
            Self::Tag(name, tag) => write!(f, "{V2}/repositories/{name}/_manifests/tags/{tag}"),
            Self::TagCurrent(name, tag) => {
                write!(f, "{V2}/repositories/{name}/_manifests/tags/{tag}/current/link")
            }
            Self::TagIndex(name, tag, digest) => {
                write!(f, "{V2}/repositories/{name}/_manifests/tags/{tag}/index/{}/link", Slashed(digest))
            }
            Self::RepositoryFolder(name) => write!(f, "{V2}/repositories/{name}"),
            Self::Repositories => write!(f, "{V2}/repositories"),
            Self::Repository(name) => write!(f, "{OURS}/repositories/{name}{END}"),
            Self::Catalog => write!(f, "{OURS}/repositories"),
            Self::Descriptor(digest) => write!(f, "{OURS}/descriptors/{}", Slashed(digest)),
            Self::ReverseLinks(digest) => write!(f, "{OURS}/links/{}", Slashed(digest)),
            Self::ReverseLink(digest, name) => write!(f, "{OURS}/links/{}/{name}{END}", Slashed(digest)),
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
            Self::PurgeCursor => write!(f, "{OURS}/purge"),
            Self::Outbox => write!(f, "{OURS}/outbox"),
            Self::OutboxEntry(name) => write!(f, "{OURS}/outbox/{name}"),
            Self::ResendCursor => write!(f, "{OURS}/resend"),
            Self::Deployment => write!(f, "{OURS}/deployment"),
            Self::Secret => write!(f, "{OURS}/secret"),
            Self::ApiKey(id) => write!(f, "{OURS}/keys/{id}"),
            Self::ApiKeys => write!(f, "{OURS}/keys"),
            Self::ApiKeyUse(id) => write!(f, "{OURS}/key-uses/{id}"),
            Self::Cached(entry, digest) => write!(f, "{}/{}", entry.as_str(), Slashed(digest)),
        }
    }
}

impl Key<'_> {
    /// The suffix of a name at the end of a key. Without it, the key of `a` would be the folder of `a/b`, and
    /// stores that keep objects as files cannot have both. No component of a name ends in a dash, and no
    /// character of a name sorts before it: keys are in the order of the names.
    pub const END_OF_NAME: &'static str = "-";

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
}

impl Link {
    /// Parses a path below [`Key::Repositories`]; `None` for anything but the two kinds of link.
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
        paths.extend([
            Key::PurgeCursor.path(),
            Key::Deployment.path(),
            Key::Secret.path(),
            Key::ResendCursor.path(),
        ]);
        paths.push(Key::OutboxEntry("0000000000001-x").path());
        paths.push(Key::Health.path());
        paths.extend([Key::Blob(Uuid::nil()).path(), Key::BlobNote(Uuid::nil()).path()]);
        for name in &names {
            paths.extend([
                Key::Layer(name, &digest).path(),
                Key::Revision(name, &digest).path(),
                Key::TagCurrent(name, &tag).path(),
                Key::TagIndex(name, &tag, &digest).path(),
                Key::Repository(name).path(),
                Key::ReverseLink(&digest, name).path(),
                Key::Referrer { name, subject: &digest, referrer: &digest }.path(),
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
        let tag: Tag = "t".parse().unwrap();
        assert_eq!(Link::parse(Key::TagIndex(&name, &tag, &digest).path().as_str()), None);
        let referrer = Key::Referrer { name: &name, subject: &digest, referrer: &digest }.path();
        assert_eq!(trailing_digest(referrer.as_str()), Some(digest));
    }
}
