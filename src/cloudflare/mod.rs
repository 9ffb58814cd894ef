//! The registry on Cloudflare: the only module that uses JavaScript.
//!
//! Entry points: [`entry`] for requests, [`scheduled`] for the cron trigger, and the Durable Objects of an
//! [`upload_session`], of a [`repository_writer`], of an [`event_endpoint`] and of the [`metrics_aggregate`]. [`bindings`] builds the platform from the worker's environment.

mod bindings;
mod buffers;
mod clock;
mod edge_cache;
mod entry;
mod event_endpoint;
mod fetch;
mod http;
mod kv;
mod ledger;
mod metrics;
mod metrics_aggregate;
mod objects;
mod parts;
mod queue;
mod r2;
mod rate_limit;
mod repository_writer;
mod scheduled;
mod sessions;
mod stream;
#[cfg(feature = "test-endpoints")]
mod test_endpoints;
#[cfg(test)]
mod tests;
mod upload_session;
mod verifier;
mod workers_cache;
mod writers;
