//! The layout of the bucket, all of it.
//!
//! The first tree is `distribution`'s, key for key, so that a bucket written by it is served as it is:
//!
//! ```text
//! docker/registry/v2/
//!   blobs/<alg>/<first two hex>/<hex>/data                    the bytes of blobs and manifests
//!   repositories/<name>/
//!     _layers/<alg>/<hex>/link                                this repository has this blob
//!     _manifests/revisions/<alg>/<hex>/link                   this repository has this manifest
//!     _manifests/tags/<tag>/current/link                      what a tag points at now
//!     _manifests/tags/<tag>/index/<alg>/<hex>/link            what it has ever pointed at
//! ```
//!
//! A link's content is a digest as text. The links this registry writes also carry [`super::Facts`] (size,
//! media type, place of the bytes), so that one look-up answers a HEAD; links without them work too.
//!
//! What `distribution` does not know lives beside it. All but `descriptors`, `uploads` and `secret` can be rebuilt
//! from the first tree:
//!
//! ```text
//! pierhead/
//!   repositories/<name>-                                      empty; the catalog pages over these
//!   descriptors/<alg>/<hex>                                   where the bytes are, when not at `data`
//!   links/<alg>/<hex>/<name>-                                 which repositories have a blob
//!   referrers/<name>/_/<alg>/<subject hex>/<alg>/<hex>        what refers to a subject: a descriptor
//!   uploads/<uuid>/<epoch>                                    a multipart blob, also after its upload
//!   uploads/<uuid>/<epoch>.blob                               which blob that is
//!   uploads/<uuid>/staged/<epoch>                             bytes that do not fill a part yet
//!   purge                                                     how far purging has come
//!   secret                                                    what signs upload locations and blob URLs
//! ```
//!
//! The far cache (KV) is a store of its own, of what can be had from the bucket again:
//!
//! ```text
//! located/<alg>/<hex>                                         where a blob's bytes are
//! manifest/<alg>/<hex>                                        a manifest's content
//! ```

use std::fmt;

use super::Path;
use crate::{
    oci::{Algorithm, Digest, RepositoryName, Tag},
    uploads::UploadId,
};

/// An object's place in the bucket.
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
    /// What a tag points at.
    TagCurrent(&'a RepositoryName, &'a Tag),
    /// That a tag has pointed at a manifest.
    TagIndex(&'a RepositoryName, &'a Tag, &'a Digest),
    /// The folder of a repository in `distribution`'s tree.
    RepositoryFolder(&'a RepositoryName),
    /// The folder of all repositories in `distribution`'s tree.
    Repositories,
    /// That a repository exists.
    Repository(&'a RepositoryName),
    /// The folder of [`Key::Repository`].
    Catalog,
    /// Where a blob's bytes are.
    Descriptor(&'a Digest),
    /// The folder of [`Key::ReverseLink`] for a blob.
    ReverseLinks(&'a Digest),
    /// That a repository links a blob.
    ReverseLink(&'a Digest, &'a RepositoryName),
    /// The folder of a subject's referrers.
    Referrers(&'a RepositoryName, &'a Digest),
    /// A referrer of a subject.
    Referrer {
        /// The repository.
        name: &'a RepositoryName,
        /// What is referred to.
        subject: &'a Digest,
        /// What refers to it.
        referrer: &'a Digest,
    },
    /// A multipart upload's object.
    Upload(&'a UploadId, u32),
    /// A chunk's remainder.
    Staged(&'a UploadId, u32),
    /// The folder of an upload's remainders.
    StagedAll(&'a UploadId),
    /// Which blob an upload's object has become; beside it.
    UploadBlob(&'a Path),
    /// The folder of everything that uploads store.
    Uploads,
    /// How far purging has come.
    PurgeCursor,
    /// What signs upload locations and blob URLs.
    Secret,
    /// A fact in the far cache: not in the bucket.
    Cached(Fact, &'a Digest),
}

/// What a fact in the cache is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Where a blob's bytes are, and how many, as JSON.
    Located,
    /// A manifest's content.
    Manifest,
}

impl Fact {
    /// The fact's name in the far cache's keys.
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
            Self::Upload(id, epoch) => write!(f, "{OURS}/uploads/{id}/{epoch}"),
            Self::Staged(id, epoch) => write!(f, "{OURS}/uploads/{id}/staged/{epoch}"),
            Self::StagedAll(id) => write!(f, "{OURS}/uploads/{id}/staged"),
            Self::UploadBlob(object) => write!(f, "{object}{}", Key::UPLOAD_BLOB),
            Self::Uploads => write!(f, "{OURS}/uploads"),
            Self::PurgeCursor => write!(f, "{OURS}/purge"),
            Self::Secret => write!(f, "{OURS}/secret"),
            Self::Cached(fact, digest) => write!(f, "{}/{}", fact.as_str(), Slashed(digest)),
        }
    }
}

impl Key<'_> {
    /// What stands behind a name that ends a key. Without it, the key of `a` would be the folder of `a/b`, and
    /// stores that keep objects as files cannot have both. No part of a name ends with a dash, and no character
    /// of one comes before it: keys are in the order of their names.
    pub const END_OF_NAME: &'static str = "-";

    /// What [`Key::UploadBlob`] adds to the object's own path.
    pub const UPLOAD_BLOB: &'static str = ".blob";

    /// The key as a path.
    pub fn path(&self) -> Path {
        Path::trusted(self.to_string())
    }
}

/// What a key of `distribution`'s tree says, read back from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// [`Key::Layer`].
    Layer(RepositoryName, Digest),
    /// [`Key::Revision`].
    Revision(RepositoryName, Digest),
}

impl Link {
    /// Reads a path below [`Key::Repositories`]; `None` for anything but the two kinds of link.
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

/// The repository that a [`Key::Repository`] or [`Key::ReverseLink`] below `folder` names.
pub fn trailing_name<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    path.strip_prefix(folder)?.strip_suffix(Key::END_OF_NAME)
}

/// The digest that the last two segments of a path name, as in [`Key::Referrer`].
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
    fn the_layout() {
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
            (Key::Upload(&id, 3), format!("pierhead/uploads/{uuid}/3")),
            (Key::Staged(&id, 3), format!("pierhead/uploads/{uuid}/staged/3")),
            (Key::UploadBlob(&Key::Upload(&id, 3).path()), format!("pierhead/uploads/{uuid}/3.blob")),
            (Key::Secret, "pierhead/secret".into()),
        ] {
            assert_eq!(key.path().as_str(), expected);
        }
    }

    #[test]
    fn every_key_fits_for_the_longest_names() {
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
        paths.extend([Key::PurgeCursor.path(), Key::Secret.path()]);
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
    fn links_are_read_back() {
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
