//! Ports: the interfaces that a platform implements, independent of any one platform.

pub mod address;
pub mod background;
pub mod body;
pub mod budget;
pub mod clock;
pub mod document_client;
pub mod edge_cache;
pub mod health;
pub mod http_client;
mod limiter;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod size;
pub mod verifier;
pub mod webhook_client;

pub use background::Background;
pub use body::{
    Body, Buffer, Buffers, ByteRange, ByteStream, Content, Part, PartContent, Parts, ReadError, Reserved,
    Stream,
};
pub use clock::{Clock, Timestamp, seconds};
pub use document_client::DocumentClient;
pub use edge_cache::EdgeCache;
pub use health::Health;
pub use http_client::HttpClient;
pub use limiter::Limiter;
pub use log::{Level, RequestLog, Sink};
pub use metrics::{Metrics, Operation};
pub use verifier::Verifier;
pub use webhook_client::WebhookClient;
