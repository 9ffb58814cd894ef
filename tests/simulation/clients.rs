//! Clients: the operations they choose from, and the requests these become.

use http::Method;
use pierhead::platform::Body;

use crate::{
    random::Random,
    universe::{BLOBS, MANIFESTS, REPOSITORIES, SUBJECT, TAGS, UNIVERSE},
};

/// The kinds of operations, for weights and for the count of those that met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    PushBlob,
    Mount,
    PushByTag,
    PushByDigest,
    PushWithTags,
    Retag,
    DeleteTag,
    DeleteManifest,
    DeleteBlob,
    Rebuild,
    Read,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::PushBlob,
        Self::Mount,
        Self::PushByTag,
        Self::PushByDigest,
        Self::PushWithTags,
        Self::Retag,
        Self::DeleteTag,
        Self::DeleteManifest,
        Self::DeleteBlob,
        Self::Rebuild,
        Self::Read,
    ];
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Tag,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Catalog,
}

/// An operation of a client.
#[derive(Debug, Clone)]
pub struct Operation {
    pub kind: Kind,
    pub repository: usize,
    pub manifest: usize,
    pub blob: usize,
    pub tags: Vec<usize>,
    pub read: Read,
}

/// How much of the universe is in use: the less, the more operations meet.
#[derive(Debug, Clone, Copy)]
pub struct Focus {
    pub repositories: usize,
    pub tags: usize,
    pub manifests: usize,
    pub blobs: usize,
}

impl Focus {
    pub const ALL: Self = Self { repositories: REPOSITORIES, tags: TAGS, manifests: MANIFESTS, blobs: BLOBS };

    pub fn choose(random: &mut Random) -> Self {
        let mut up_to = |limit: usize, least: usize| least + random.below(limit - least + 1);
        Self {
            repositories: up_to(REPOSITORIES, 1),
            tags: up_to(TAGS, 1),
            manifests: up_to(MANIFESTS, 1),
            blobs: up_to(BLOBS, 1),
        }
    }
}

impl Operation {
    /// An operation on the first of everything.
    pub fn new(kind: Kind, repository: usize) -> Self {
        Self { kind, repository, manifest: 0, blob: 0, tags: vec![0], read: Read::Tag }
    }

    /// A random operation of this kind.
    pub fn choose(kind: Kind, focus: Focus, random: &mut Random) -> Self {
        let tags = match kind {
            Kind::PushWithTags => (0..focus.tags).filter(|_| random.chance(700)).collect(),
            _ => vec![random.below(focus.tags)],
        };
        let reads = [Read::Tag, Read::Manifest, Read::Blob, Read::Tags, Read::Referrers, Read::Catalog];
        Self {
            kind,
            repository: random.below(focus.repositories),
            manifest: random.below(focus.manifests),
            blob: random.below(focus.blobs),
            tags,
            read: *random.pick(&reads),
        }
    }

    /// The repository that a mount takes the blob from.
    pub fn source(&self) -> usize {
        1 - self.repository
    }

    /// Whether it pushes a manifest.
    pub fn pushes_manifest(&self) -> bool {
        matches!(self.kind, Kind::PushByTag | Kind::PushByDigest | Kind::PushWithTags | Kind::Retag)
    }

    /// The tags that it moves.
    pub fn moved_tags(&self) -> &[usize] {
        match self.kind {
            Kind::PushByTag | Kind::Retag | Kind::PushWithTags => &self.tags,
            _ => &[],
        }
    }

    /// Method and target.
    pub fn line(&self) -> (Method, String) {
        let name = &UNIVERSE.repositories[self.repository];
        let digest = &UNIVERSE.manifests[self.manifest].digest;
        let blob = &UNIVERSE.blobs[self.blob].0;
        let tag = |n: usize| &UNIVERSE.tags[self.tags[n]];
        let manifests = format!("/v2/{name}/manifests");
        match self.kind {
            Kind::PushBlob => (Method::POST, format!("/v2/{name}/blobs/uploads/?digest={blob}")),
            Kind::Mount => {
                let from = &UNIVERSE.repositories[self.source()];
                (Method::POST, format!("/v2/{name}/blobs/uploads/?mount={blob}&from={from}"))
            }
            Kind::PushByTag | Kind::Retag => (Method::PUT, format!("{manifests}/{}", tag(0))),
            Kind::PushByDigest => (Method::PUT, format!("{manifests}/{digest}")),
            Kind::PushWithTags => {
                let tags: Vec<_> = (0..self.tags.len()).map(|n| format!("tag={}", tag(n))).collect();
                (Method::PUT, format!("{manifests}/{digest}?{}", tags.join("&")))
            }
            Kind::DeleteTag => (Method::DELETE, format!("{manifests}/{}", tag(0))),
            Kind::DeleteManifest => (Method::DELETE, format!("{manifests}/{digest}")),
            Kind::DeleteBlob => (Method::DELETE, format!("/v2/{name}/blobs/{blob}")),
            Kind::Rebuild => (Method::POST, "/v2/_pierhead/rebuild".to_owned()),
            Kind::Read => match self.read {
                Read::Tag => (Method::GET, format!("{manifests}/{}", tag(0))),
                Read::Manifest => (Method::GET, format!("{manifests}/{digest}")),
                Read::Blob => (Method::GET, format!("/v2/{name}/blobs/{blob}")),
                Read::Tags => (Method::GET, format!("/v2/{name}/tags/list")),
                Read::Referrers => {
                    let subject = &UNIVERSE.manifests[SUBJECT].digest;
                    (Method::GET, format!("/v2/{name}/referrers/{subject}"))
                }
                Read::Catalog => (Method::GET, "/v2/_catalog".to_owned()),
            },
        }
    }

    /// The request.
    pub fn request(&self) -> http::Request<Body> {
        let (method, target) = self.line();
        let request = http::Request::builder().method(method).uri(target);
        if self.pushes_manifest() {
            let manifest = &UNIVERSE.manifests[self.manifest];
            let body = Body::Bytes(manifest.content.clone().into());
            return request.header("content-type", manifest.media_type).body(body).unwrap();
        }
        let body = match self.kind {
            Kind::PushBlob => Body::Bytes(UNIVERSE.blobs[self.blob].1.into()),
            _ => Body::Empty,
        };
        request.body(body).unwrap()
    }
}
