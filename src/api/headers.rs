//! Header names, and parsers and writers of structured headers.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{Error, Response};
use crate::platform::ByteRange;

/// The digest of the content.
pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Sent with every response, so that clients recognize a registry.
pub const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// An upload's id.
pub const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// The shortest chunk that costs no more than it must, except for the last one, in bytes.
pub const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// The longest chunk that the front door lets through, in bytes.
pub const OCI_CHUNK_MAX_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-max-length");
/// The namespace that a pull was for.
pub const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// The subject of the pushed manifest.
pub const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The tags that a push by digest set.
pub const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// The filters applied to a list of referrers.
pub const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `Cache-Control` for content by digest, which never changes. `no-transform`: compression would break
/// lengths and ranges. `private`: every request needs authorization, so shared caches must not store it.
pub const IMMUTABLE: HeaderValue =
    HeaderValue::from_static("private, max-age=31536000, immutable, no-transform");
/// `Cache-Control` for a tag, which may move at any time.
pub const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache, no-transform");

/// Sets the headers of every response: clients recognize a registry, and browsers execute nothing of it, whatever was
/// pushed. The page that is served from the same origin is not a response of the registry.
pub fn set_common(headers: &mut HeaderMap) {
    headers.insert(DOCKER_API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
}

/// The headers that the registry reads. It compares `User-Agent` with settings only, and clients send anything there.
const READ: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
];

/// Refuses a header with a value that the registry would otherwise take for absent.
pub fn check(headers: &HeaderMap) -> Result<(), Error> {
    let is_unreadable =
        |name: &&HeaderName| headers.get_all(*name).iter().any(|value| value.to_str().is_err());
    match READ.iter().find(is_unreadable) {
        Some(name) => Err(Error::InvalidHeader(name.to_string())),
        None => Ok(()),
    }
}

/// Sets a header. Skips a value that is not valid in HTTP.
pub fn set(headers: &mut HeaderMap, name: HeaderName, value: impl ToString) {
    if let Ok(value) = value.to_string().parse() {
        headers.insert(name, value);
    }
}

/// Makes a response one with a range of content of `size` bytes.
pub fn set_range(response: &mut Response, range: ByteRange, size: u64) {
    let (first, last) = range.bounds(size);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let fields = response.headers_mut();
    set(fields, header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
    fields.insert(header::CONTENT_LENGTH, (last - first + 1).into());
}

/// `Location` and `Range` of an upload of `offset` bytes. The range of an empty one is `0-0`, as the
/// specification requires.
pub fn upload_headers(headers: &mut HeaderMap, location: &str, offset: u64) {
    set(headers, header::LOCATION, location);
    set(headers, header::RANGE, format!("0-{}", offset.saturating_sub(1)));
}

/// Parses a chunk's `Content-Range` into first byte and length. Accepts the specification's `<first>-<last>`
/// and HTTP's `bytes <first>-<last>/<size or *>`.
pub fn parse_content_range(value: &HeaderValue) -> Option<(u64, u64)> {
    let text = value.to_str().ok()?.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last): (u64, u64) = (number(first)?, number(last)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

fn number(text: &str) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

/// Whether `If-None-Match` matches `etag`, given without quotes (RFC 9110, section 13.1.2).
pub fn if_none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|candidate| {
            let candidate = candidate.trim();
            let candidate = candidate.strip_prefix("W/").unwrap_or(candidate);
            candidate == "*" || candidate.trim_matches('"') == etag
        })
    })
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_parsed_in_both_forms() {
        for (text, expected) in [
            ("0-0", Some((0, 1))),
            ("10-19", Some((10, 10))),
            ("bytes 10-19/100", Some((10, 10))),
            ("bytes=10-19", Some((10, 10))),
            ("bytes 10-19/*", Some((10, 10))),
            ("19-10", None),
            ("-10", None),
            ("10-", None),
            ("a-b", None),
            ("", None),
            ("+1-2", None),
            ("0-18446744073709551615", None),
            ("0-99999999999999999999", None),
        ] {
            assert_eq!(parse_content_range(&HeaderValue::from_str(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn if_none_match_finds_an_etag_in_every_form() {
        let headers =
            |value| HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
        for value in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*", "a"] {
            assert!(if_none_match(&headers(value), "a"), "{value}");
        }
        assert!(!if_none_match(&headers("\"b\""), "a"));
        assert!(!if_none_match(&HeaderMap::new(), "a"));
    }
}
