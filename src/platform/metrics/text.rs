//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;

use super::{BUCKETS, Family, Kind, Labels, Table, Value};

/// The media type of the text.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Table {
    /// The media type of [`to_text`](Self::to_text).
    pub const MEDIA_TYPE: &'static str = MEDIA_TYPE;

    /// The series in the text format, with base units: seconds and bytes.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for family in Family::ALL {
            // Writing to a string never fails.
            let _ = write_family(&mut text, self, *family);
        }
        text
    }
}

fn write_family(text: &mut String, table: &Table, family: Family) -> std::fmt::Result {
    let series = table.of(family);
    if series.is_empty() {
        return Ok(());
    }
    let (name, kind) = (family.name(), family.kind());
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.help())?;
    for (labels, value) in series {
        match &*value {
            Value::Counter(n) | Value::Gauge(n) => {
                writeln!(text, "{name}{} {n}", braces(family, labels, None))?;
            }
            Value::Histogram { buckets, sum } => {
                let mut count = 0;
                let bounds = BUCKETS.iter().map(|bound| seconds(*bound)).chain(["+Inf".to_owned()]);
                for (bound, n) in bounds.zip(buckets) {
                    count += n;
                    writeln!(text, "{name}_bucket{} {count}", braces(family, labels, Some(&bound)))?;
                }
                let braces = braces(family, labels, None);
                writeln!(text, "{name}_sum{braces} {}\n{name}_count{braces} {count}", seconds(*sum))?;
            }
        }
    }
    Ok(())
}

/// Milliseconds as seconds, without loss.
fn seconds(milliseconds: u64) -> String {
    let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The labels in braces, `le` last; nothing if there are none.
fn braces(family: Family, labels: &Labels, le: Option<&str>) -> String {
    let labels = family.labels().iter().copied().zip(labels.iter().map(|label| &**label));
    let labels = labels.chain(le.map(|le| ("le", le)));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::{super::*, *};

    #[test]
    fn the_text_has_help_type_and_cumulative_buckets() {
        let metrics = Metrics::default();
        metrics.count_storage("r2", "get", StorageOutcome::Ok, 7);
        metrics.count_storage("r2", "get", StorageOutcome::Ok, 60_000);
        metrics.count_upload(UploadEvent::Opened);
        metrics.count_upload(UploadEvent::Opened);
        metrics.count_upload(UploadEvent::Expired);
        metrics.count_event("a\\b\"c\nd", EventOutcome::Delivered, 3);
        let text = metrics.drain().to_text();
        let expected = r#"# HELP pierhead_storage_calls_total Calls to storage. An attempt that is repeated counts each time.
# TYPE pierhead_storage_calls_total counter
pierhead_storage_calls_total{driver="r2",operation="get",outcome="ok"} 2
# HELP pierhead_storage_duration_seconds Time of a call to storage.
# TYPE pierhead_storage_duration_seconds histogram
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.005"} 0
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.01"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.025"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.05"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.1"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.25"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="0.5"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="1"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="2.5"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="5"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="10"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="30"} 1
pierhead_storage_duration_seconds_bucket{driver="r2",operation="get",le="+Inf"} 2
pierhead_storage_duration_seconds_sum{driver="r2",operation="get"} 60.007
pierhead_storage_duration_seconds_count{driver="r2",operation="get"} 2
# HELP pierhead_uploads_total Events of upload sessions.
# TYPE pierhead_uploads_total counter
pierhead_uploads_total{event="expired"} 1
pierhead_uploads_total{event="opened"} 2
# HELP pierhead_uploads_open Upload sessions that are open.
# TYPE pierhead_uploads_open gauge
pierhead_uploads_open 1
# HELP pierhead_events_total Events for an endpoint.
# TYPE pierhead_events_total counter
pierhead_events_total{endpoint="a\\b\"c\nd",outcome="delivered"} 3
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn seconds_are_exact() {
        for (milliseconds, text) in [(0, "0"), (5, "0.005"), (100, "0.1"), (1_000, "1"), (10_020, "10.02")] {
            assert_eq!(seconds(milliseconds), text);
        }
    }
}
