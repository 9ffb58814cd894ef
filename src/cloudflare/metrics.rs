//! The client of the metrics' collector, a Durable Object ([`super::metrics_aggregate`]), and data points in Workers
//! Analytics Engine.

use futures_util::future::LocalBoxFuture;
use worker::{AnalyticsEngineDataPointBuilder, AnalyticsEngineDataset, Method, ObjectNamespace, Stub};

use super::objects;
use crate::platform::metrics::{Batch, Collector, Point, Points, Samples};

/// The name of the deployment's one collector.
const NAME: &str = "metrics";

/// The client of the collector.
pub struct DurableCollector {
    namespace: ObjectNamespace,
}

impl DurableCollector {
    /// Wraps the binding.
    pub fn new(namespace: ObjectNamespace) -> Self {
        Self { namespace }
    }

    fn stub(&self) -> worker::Result<Stub> {
        self.namespace.get_by_name(NAME)
    }
}

impl Collector for DurableCollector {
    /// One attempt: a batch that is not answered goes with the next one.
    fn add<'a>(&'a self, batch: &'a Batch) -> LocalBoxFuture<'a, Result<(), String>> {
        Box::pin(async move { objects::call::<()>(|| self.stub(), batch, 0).await.map(drop) })
    }

    fn read(&self) -> LocalBoxFuture<'_, Result<Samples, String>> {
        Box::pin(async move {
            let text = objects::ask(self.stub(), Method::Get).await?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        })
    }
}

/// A dataset of Analytics Engine.
pub struct Dataset(pub AnalyticsEngineDataset);

impl Points for Dataset {
    /// The order of the columns is documented in `docs/operation.md`: only append.
    fn write(&self, point: &Point) {
        let status = point.status.to_string();
        let repository = point.repository.as_deref().unwrap_or_default();
        let blobs = [point.route, point.method, &status, point.code.unwrap_or_default(), repository];
        // Exact up to 2^53.
        let doubles = [
            point.milliseconds as f64,
            point.received as f64,
            point.sent as f64,
            f64::from(point.storage_calls),
            point.storage_milliseconds as f64,
            f64::from(point.rounds),
            f64::from(point.cache_hits),
            f64::from(point.cache_misses),
        ];
        let built =
            AnalyticsEngineDataPointBuilder::new().indexes([point.route]).blobs(blobs).doubles(doubles);
        if let Err(error) = built.write_to(&self.0) {
            worker::console_error!("{}", serde_json::json!({"level": "error", "message": error.to_string()}));
        }
    }
}
