//! Clients: the operations they choose from, and the requests these become.

use http::Method;
use pierhead::platform::{Body, memory::MemoryStream};

use crate::{
    random::Random,
    universe::{BLOBS, IMAGES, REPOSITORIES, SUBJECT, TAGS, UNIVERSE},
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
    PushInChunks,
    CancelUpload,
    MountAnywhere,
    Head,
    /// A step of a collection.
    Collect,
    /// A step of the retain job.
    Retain,
}

impl Kind {
    /// The kinds that must meet each other, under each fault.
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

/// The bytes in the first of several chunks.
const FIRST: usize = 3;

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
    /// Which of the ways in which a client may do it.
    pub way: usize,
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
    pub const ALL: Self = Self { repositories: REPOSITORIES, tags: TAGS, manifests: IMAGES, blobs: BLOBS };

    pub fn choose(random: &mut Random) -> Self {
        let mut up_to = |limit: usize, least: usize| least + random.below(limit - least + 1);
        Self {
            repositories: up_to(REPOSITORIES, 1),
            tags: up_to(TAGS, 1),
            manifests: up_to(IMAGES, 1),
            blobs: up_to(BLOBS, 1),
        }
    }
}

impl Operation {
    /// An operation on the first of everything.
    pub fn new(kind: Kind, repository: usize) -> Self {
        Self { kind, repository, manifest: 0, blob: 0, tags: vec![0], read: Read::Tag, way: 0 }
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
            way: 0,
        }
    }

    /// The repository that a mount takes the blob from.
    pub fn source(&self) -> usize {
        1 - self.repository
    }

    /// Whether it is a step of a job.
    pub fn is_job(&self) -> bool {
        matches!(self.kind, Kind::Collect | Kind::Retain)
    }

    /// Whether it links a blob.
    pub fn pushes_blob(&self) -> bool {
        matches!(self.kind, Kind::PushBlob | Kind::PushInChunks | Kind::Mount | Kind::MountAnywhere)
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
            Kind::PushInChunks | Kind::CancelUpload => (Method::POST, format!("/v2/{name}/blobs/uploads/")),
            Kind::MountAnywhere => (Method::POST, format!("/v2/{name}/blobs/uploads/?mount={blob}")),
            Kind::Head => (Method::HEAD, format!("/v2/{name}/blobs/{blob}")),
            Kind::Collect => (Method::POST, "/v2/_pierhead/jobs/collect/run".to_owned()),
            Kind::Retain => (Method::POST, "/v2/_pierhead/jobs/retain/run".to_owned()),
            Kind::DeleteTag => (Method::DELETE, format!("{manifests}/{}", tag(0))),
            Kind::DeleteManifest => (Method::DELETE, format!("{manifests}/{digest}")),
            Kind::DeleteBlob => (Method::DELETE, format!("/v2/{name}/blobs/{blob}")),
            Kind::Rebuild => (Method::POST, "/v2/_pierhead/jobs/fsck/run".to_owned()),
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

    /// How many requests it takes, one after another. Only the last one changes what others see.
    pub fn requests(&self) -> usize {
        match self.kind {
            Kind::PushInChunks if self.way % 3 == 2 => 4,
            Kind::PushInChunks | Kind::CancelUpload => 3,
            _ => 1,
        }
    }

    /// A request after the first one, to the location that the one before was given.
    fn next_request(&self, n: usize, location: &str) -> http::Request<Body> {
        let (digest, content) = &UNIVERSE.blobs[self.blob];
        let first = if self.way.is_multiple_of(3) { content.len() } else { FIRST };
        let (first, rest) = content.split_at(first);
        let stream = |bytes: &'static str| Body::Stream(MemoryStream::chunked(bytes).into());
        let is_last = n + 1 == self.requests();
        let (method, target, body) = match (is_last, self.kind) {
            (true, Kind::CancelUpload) => (Method::DELETE, location.to_owned(), Body::Empty),
            (true, _) => {
                let target = format!("{location}&digest={digest}");
                let body = if self.way % 3 == 1 {
                    Body::Stream(MemoryStream::new(rest).into())
                } else {
                    Body::Empty
                };
                (Method::PUT, target, body)
            }
            (false, _) => (Method::PATCH, location.to_owned(), stream(if n == 1 { first } else { rest })),
        };
        http::Request::builder().method(method).uri(target).body(body).unwrap()
    }

    /// The request `n` of its requests, to the location that the one before was given.
    pub fn request(&self, n: usize, location: &str) -> http::Request<Body> {
        if n > 0 {
            return self.next_request(n, location);
        }
        let (method, target) = self.line();
        let request = http::Request::builder().method(method).uri(target);
        if self.pushes_manifest() {
            let manifest = &UNIVERSE.manifests[self.manifest];
            let body = Body::Bytes(manifest.content.clone().into());
            return request.header("content-type", manifest.media_type).body(body).unwrap();
        }
        let body = match self.kind {
            Kind::PushBlob if self.way.is_multiple_of(2) => Body::Bytes(UNIVERSE.blobs[self.blob].1.into()),
            Kind::PushBlob => Body::Stream(MemoryStream::new(UNIVERSE.blobs[self.blob].1).into()),
            _ => Body::Empty,
        };
        request.body(body).unwrap()
    }
}
