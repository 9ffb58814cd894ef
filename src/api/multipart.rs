//! Several ranges of a blob in one answer: `multipart/byteranges` (RFC 9110, section 14.6).

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use crate::{
    blobs::{Blobs, Located, Opened},
    oci::{Digest, media_type},
    platform::{Body, ByteRange, Level, Part, PartContent, Parts, ReadError, RequestLog},
};

/// The text between the ranges of an answer.
pub struct Multipart {
    boundary: Uuid,
    /// The length of the whole content, in bytes.
    size: u64,
}

impl Multipart {
    /// The text of an answer with ranges of content of `size` bytes. The boundary is random: who pushes content cannot know
    /// it in advance, so it is in none.
    pub fn new(size: u64) -> Self {
        Self { boundary: Uuid::new_v4(), size }
    }

    /// The media type of the answer.
    pub fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary.simple())
    }

    /// The text before a range.
    fn head(&self, range: ByteRange, is_first: bool) -> Bytes {
        let (first, last) = range.bounds(self.size);
        let line = if is_first { "" } else { "\r\n" };
        let (boundary, size) = (self.boundary.simple(), self.size);
        let (name, media_type) = ("Content-Range", media_type::OCTET_STREAM);
        format!(
            "{line}--{boundary}\r\nContent-Type: {media_type}\r\n{name}: bytes {first}-{last}/{size}\r\n\r\n"
        )
        .into()
    }

    /// The text after the last range.
    fn tail(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary.simple()).into()
    }
}

/// Opens ranges of a blob while an answer is sent.
pub struct Source {
    /// The blobs of the request.
    pub blobs: Blobs,
    /// The blob.
    pub digest: Digest,
    /// The location of its bytes.
    pub located: Located,
    /// The registry's host, for the edge cache.
    pub host: Option<String>,
    /// For failures: the request has been logged before they happen.
    pub log: Rc<RequestLog>,
}

impl Source {
    /// The body with `ranges`, of which the first is open. The others come from the edge cache if the first did, and else
    /// from the store, so that each is one call.
    pub fn body(self, text: &Multipart, ranges: &[ByteRange], first: Opened) -> Body {
        let is_near = Rc::new(Cell::new(first.path.is_none()));
        let (source, mut first) = (Rc::new(Self { located: first.located, ..self }), Some(first.body));
        let part = |range: &ByteRange| {
            let range = *range;
            let head = text.head(range, first.is_some());
            let content = match first.take() {
                Some(body) => PartContent::Open(body),
                None => {
                    let (source, is_near) = (source.clone(), is_near.clone());
                    PartContent::Later(Box::new(move || {
                        Box::pin(async move { source.open(range, &is_near).await })
                    }))
                }
            };
            Part { head, length: range.length.unwrap_or_default(), content }
        };
        Body::Parts(Parts { parts: ranges.iter().map(part).collect(), tail: text.tail() })
    }

    async fn open(&self, range: ByteRange, is_near: &Cell<bool>) -> Result<Body, ReadError> {
        let host = self.host.as_deref().filter(|_| is_near.get());
        let message = match self.blobs.open(&self.digest, &self.located, Some(range), host).await {
            Ok(Some(opened)) => {
                is_near.set(opened.path.is_none());
                return Ok(opened.body);
            }
            Ok(None) => "the blob is gone".to_owned(),
            Err(error) => error.to_string(),
        };
        // The client has the status already: the answer can only be cut.
        self.log.write(Level::Error, || {
            let digest = self.digest.to_string();
            json!({"level": "error", "id": self.log.id, "ranges_cut": digest, "message": message})
        });
        Err(ReadError::Broken(message))
    }
}
