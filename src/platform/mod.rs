//! Ports: the interfaces that a platform implements, independent of any one platform.

pub mod background;
pub mod body;
pub mod budget;
pub mod clock;
pub mod edge_cache;
pub mod health;
pub mod http_client;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod webhook_client;

pub use background::Background;
pub use body::{Body, Buffer, Buffers, ByteRange, ByteStream, Content, ReadError, Reserved, Stream};
pub use clock::{Clock, Timestamp};
pub use edge_cache::EdgeCache;
pub use health::Health;
pub use http_client::HttpClient;
pub use log::{Level, RequestLog, Sink};
pub use metrics::{Metrics, Operation};
pub use webhook_client::WebhookClient;
