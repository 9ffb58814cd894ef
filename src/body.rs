//! Bodies: what crosses the registry without being looked at.

use bytes::Bytes;

use crate::oci::Hasher;

/// Why a stream could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There was more than the caller allows.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What the caller allows, in bytes.
        limit: usize,
    },
    /// The other side went away or broke the protocol.
    #[error("the body ended early: {0}")]
    Broken(String),
}

/// A platform's stream of bytes. Core can move it, ask its length, and read it in large pieces into a
/// [`Block`]; it never looks inside by accident.
pub trait ByteStream: Sized + 'static {
    /// The platform's buffer, in which bytes travel from a stream to storage without passing through here.
    type Block: Block;

    /// The length of the whole stream in bytes, when the platform knows it.
    fn content_length(&self) -> Option<u64>;

    /// Reads into `block[from..to]` until that is full or the stream ends, and returns where it stopped:
    /// less than `to` means that the stream has ended. The bytes are shown to `hasher` on the way. After an
    /// error the block's content is lost.
    async fn read_into(
        &mut self,
        block: &mut Self::Block,
        from: usize,
        to: usize,
        hasher: Option<&mut Hasher>,
    ) -> Result<usize, ReadError>;

    /// Reads all of it into memory, failing once `limit` bytes are exceeded. For manifests and links only.
    async fn read(self, limit: usize) -> Result<Bytes, ReadError>;

    /// Reads up to `limit` bytes and forgets them. A client that is still sending may not see the answer when
    /// the connection closes on it.
    async fn drain(&mut self, limit: usize);

    /// Tells the other side that nobody will read this.
    fn cancel(self);
}

/// A buffer of fixed capacity, owned by the platform.
pub trait Block: Sized + 'static {
    /// Makes a buffer of `capacity` bytes, waiting while the platform's budget for buffers is spent.
    async fn new(capacity: usize) -> Self;
}

/// The content of a request, a response or an object on its way to storage.
pub enum Body<S: ByteStream> {
    /// Nothing.
    Empty,
    /// Bytes in memory: manifests, links, error bodies.
    Bytes(Bytes),
    /// Bytes that pass through.
    Stream(S),
    /// The bytes `from..to` of a block.
    Block {
        /// The buffer.
        block: S::Block,
        /// The first byte's place in it.
        from: usize,
        /// The place behind the last byte.
        to: usize,
    },
}

impl<S: ByteStream> Body<S> {
    /// The length in bytes, when it is known.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Stream(stream) => stream.content_length(),
            Self::Block { from, to, .. } => Some((to - from) as u64),
        }
    }

    /// Lets go of content that nobody will read.
    pub fn cancel(self) {
        if let Self::Stream(stream) = self {
            stream.cancel();
        }
    }

    /// Reads all of it into memory, failing once `limit` bytes are exceeded.
    pub async fn read(self, limit: usize) -> Result<Bytes, ReadError> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Bytes(bytes) if bytes.len() > limit => Err(ReadError::TooLarge { limit }),
            Self::Bytes(bytes) => Ok(bytes),
            Self::Stream(stream) => stream.read(limit).await,
            Self::Block { .. } => {
                Err(ReadError::Broken("a block goes to storage, it is not read back".into()))
            }
        }
    }
}
