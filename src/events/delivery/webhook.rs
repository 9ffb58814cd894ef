//! A request to an endpoint: its body, its signature, and what the answer means.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use sha2::Sha256;

use super::{
    endpoint::{Endpoint, Form},
    lane::Outcome,
};
use crate::{
    events::MEDIA_TYPE,
    platform::{Clock, WebhookClient, address},
};

/// The header with the signature: `t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>", in hex>`.
pub const SIGNATURE: HeaderName = HeaderName::from_static("pierhead-signature");

/// The header with the id of the event, in a request with one event.
pub const EVENT_ID: HeaderName = HeaderName::from_static("pierhead-event-id");

/// The header with the number of the attempt, in a request with one event.
pub const ATTEMPT: HeaderName = HeaderName::from_static("pierhead-attempt");

/// The media type of a `CloudEvents` event in structured mode.
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// Redirects of one attempt.
const MAX_REDIRECTS: usize = 3;

/// An attempt that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What came of it.
    pub outcome: Outcome,
    /// Its requests.
    pub requests: usize,
}

/// Sends events, each a JSON text, in one attempt. `attempt` counts those of a single event.
pub async fn send(
    client: &dyn WebhookClient,
    clock: &dyn Clock,
    endpoint: &Endpoint,
    events: &[&str],
    attempt: u32,
) -> Attempt {
    let begun = clock.now();
    let mut url = endpoint.target.url.clone();
    let mut requests = 0;
    let outcome = loop {
        let left = endpoint.timeout.saturating_sub(clock.now().milliseconds_since(begun));
        if left == 0 {
            break Outcome::Failed("no answer in time".to_owned());
        }
        let request = match request(endpoint, url.as_str(), events, attempt, clock.now().0 / 1000) {
            Ok(request) => request,
            Err(error) => break Outcome::Failed(error),
        };
        requests += 1;
        let answer = match client.post(request, left).await {
            Ok(answer) => answer,
            Err(error) => break Outcome::Failed(error),
        };
        let status = answer.status();
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            if requests > MAX_REDIRECTS {
                break Outcome::Failed(format!("more than {MAX_REDIRECTS} redirects"));
            }
            // Headers and signature are for this origin only.
            let next = header(header::LOCATION).and_then(|location| url.join(location).ok());
            let Some(next) = next.filter(|next| next.origin() == url.origin()) else {
                break Outcome::Failed(format!("status {} to another origin", status.as_u16()));
            };
            // The setting was checked when it was read; the origin is the same.
            if let Err(expected) = address::check(&next, true) {
                break Outcome::Failed(format!("status {}: needs {expected}", status.as_u16()));
            }
            url = next;
            continue;
        }
        break outcome(status, header(header::RETRY_AFTER), clock.now().0);
    };
    Attempt { outcome, requests }
}

fn outcome(status: StatusCode, retry_after: Option<&str>, now: u64) -> Outcome {
    let error = format!("status {}", status.as_u16());
    let after = retry_after.and_then(|text| milliseconds_until(text, now));
    match (status.as_u16(), after) {
        (200..=299, _) => Outcome::Delivered,
        (400 | 413 | 415 | 422, _) => Outcome::Refused(error),
        (429, after) => Outcome::Throttled { after: after.unwrap_or_default(), error },
        (503, Some(after)) => Outcome::Throttled { after, error },
        _ => Outcome::Failed(error),
    }
}

/// `Retry-After`: seconds, or a date.
fn milliseconds_until(text: &str, now: u64) -> Option<u64> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(seconds.saturating_mul(1000));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(u64::try_from(date.as_millisecond()).ok()?.saturating_sub(now))
}

fn request(
    endpoint: &Endpoint,
    url: &str,
    events: &[&str],
    attempt: u32,
    seconds: u64,
) -> Result<http::Request<String>, String> {
    let (media_type, body) = match (endpoint.form, events) {
        (Form::CloudEvents, [event]) => (CLOUD_EVENT, cloud_event(event)?),
        _ => (MEDIA_TYPE, format!("{{\"events\":[{}]}}", events.join(","))),
    };
    let uri: Uri = url.parse().map_err(|_| "the URL is not valid".to_owned())?;
    let mut request = http::Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let agent = HeaderValue::from_static(concat!("pierhead/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    request.headers_mut().extend(endpoint.target.headers.clone());
    let signature = endpoint.target.signing_secret.as_ref().map(|key| sign(key, seconds, request.body()));
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Some(value) = signature.and_then(|signature| signature.parse().ok()) {
        headers.insert(SIGNATURE, value);
    }
    if let [event] = events {
        let Head { id, .. } = serde_json::from_str(event).map_err(|error| error.to_string())?;
        if let Ok(value) = id.parse() {
            headers.insert(EVENT_ID, value);
        }
        headers.insert(ATTEMPT, attempt.into());
    }
    Ok(request)
}

/// The value of [`SIGNATURE`].
pub fn sign(key: &str, seconds: u64, body: &str) -> String {
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes()) else { return String::new() };
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body.as_bytes());
    let mut text = format!("t={seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// What headers and the context of an event are made of.
#[derive(Deserialize)]
struct Head {
    id: String,
    timestamp: String,
    action: String,
    target: HeadTarget,
    source: HeadSource,
    sequence: Option<u64>,
}

#[derive(Deserialize)]
struct HeadTarget {
    repository: String,
}

#[derive(Deserialize)]
struct HeadSource {
    #[serde(default)]
    addr: String,
}

/// `CloudEvents` 1.0, JSON format.
fn cloud_event(event: &str) -> Result<String, String> {
    let broken = |error: serde_json::Error| error.to_string();
    let head: Head = serde_json::from_str(event).map_err(broken)?;
    let data: &RawValue = serde_json::from_str(event).map_err(broken)?;
    let source = match head.source.addr.as_str() {
        "" => "/v2/".to_owned(),
        host => format!("//{host}/v2/"),
    };
    let context = json!({
        "specversion": "1.0",
        "id": head.id,
        "source": source,
        "type": format!("pierhead.{}", head.action),
        "subject": head.target.repository,
        "time": head.timestamp,
        "datacontenttype": "application/json",
    });
    let mut text = context.to_string();
    text.pop();
    if let Some(sequence) = head.sequence {
        // An extension of CloudEvents: a text whose byte order is the order of events.
        text.push_str(&format!(",\"sequence\":\"{sequence:020}\""));
    }
    text.push_str(&format!(",\"data\":{}}}", data.get()));
    Ok(text)
}
