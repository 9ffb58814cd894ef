//! Metrics, in the text format of Prometheus.

use http::{HeaderValue, header};

use super::{Error, Registry, Response, json};
use crate::platform::metrics::Table;

impl Registry<'_> {
    /// `GET /metrics`: the sums of the deployment. Without a collector there is no such endpoint.
    pub(super) async fn metrics(&self) -> Result<Response, Error> {
        let sender = self.app.sender.as_ref().ok_or(Error::NoSuchEndpoint)?;
        let samples = sender.collector().read().await.map_err(Error::Busy)?;
        let mut table = Table::default();
        table.merge(samples);
        let mut response = json(table.to_text());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Table::MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}
