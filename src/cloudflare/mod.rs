//! The registry on Cloudflare: the only module that uses JavaScript.
//!
//! Entry points: [`entry`] for requests, [`scheduled`] for the cron trigger, and the Durable Object of an
//! [`upload_session`]. [`bindings`] builds the platform from the worker's environment.

mod bindings;
mod buffers;
mod clock;
mod edge_cache;
mod entry;
mod fetch;
mod http;
mod kv;
mod r2;
mod scheduled;
mod sessions;
mod stream;
#[cfg(feature = "test-endpoints")]
mod test_endpoints;
#[cfg(test)]
mod tests;
mod upload_session;
mod workers_cache;
