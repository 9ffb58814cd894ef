//! `Range`, `Content-Range` and `If-None-Match`.

use http::{HeaderMap, HeaderValue, header};
use pierhead::api::{
    headers::{if_none_match, parse_content_range},
    ranges::{RequestedRange, parse_range},
};
use pierhead::config::MAX_RANGES;
use proptest::prelude::*;

use crate::{cases, mutate::mutated};

const RANGES: &[&str] = &[
    "bytes=0-0",
    "bytes=0-",
    "bytes=5-9",
    "bytes=-5",
    "bytes=0-18446744073709551615",
    "bytes=18446744073709551615-",
    "bytes=-99999999999999999999",
    "bytes=0-1,5-6",
    "bytes=-3,0-1, 4-4,,10-12,7-",
    "bytes=18446744073709551614-,0-0,18446744073709551612-18446744073709551612",
    "lines=0-1",
];

/// A number of any length, compared as text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number(usize, String);

fn number(text: &str) -> Option<Number> {
    let digits = text.trim_start_matches('0');
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    is_number.then(|| Number(digits.len(), digits.to_owned()))
}

fn of(number: u64) -> Number {
    self::number(&number.to_string()).unwrap()
}

/// First byte and length, for a range of the exact form `bytes=<first>-[<last>]` or `bytes=-<suffix>` (RFC 9110,
/// section 14.1.2). The inner `None` is one that cannot be satisfied.
fn expected(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    if size == 0 {
        return None; // Nothing: to be ignored.
    }
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let value = |number: &Number| number.1.parse::<u64>().unwrap_or(0);
    if first.is_empty() {
        let suffix = number(last)?;
        let length = if suffix < of(size) { value(&suffix) } else { size };
        return Some((length > 0).then(|| (size - length, length)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { None } else { Some(number(last)?) };
    if last.as_ref().is_some_and(|last| *last < first) {
        return None; // Invalid: to be ignored.
    }
    if first >= of(size) {
        return Some(None);
    }
    let end = last.filter(|last| *last < of(size)).map_or(size, |last| value(&last) + 1);
    Some(Some((value(&first), end - value(&first))))
}

const CONTENT_RANGES: &[&str] =
    &["0-0", "10-19", "bytes 10-19/100", "bytes=10-19", "bytes 10-19/*", "0-18446744073709551615"];

const ETAGS: &[&str] =
    &["\"sha256:abc\"", "W/\"sha256:abc\"", "*", "\"x\", \"sha256:abc\"", "\"x\",W/\"y\"", "sha256:abc"];

/// Whether a list of entity tags of the exact form in RFC 9110 names `etag`; `None` if it is of another form.
fn names(list: &str, etag: &str) -> Option<bool> {
    if list.trim() == "*" {
        return Some(true);
    }
    let mut is_named = false;
    for tag in list.split(',') {
        let tag = tag.trim_matches([' ', '\t']);
        let opaque = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
        if opaque.contains('"') {
            return None;
        }
        is_named |= opaque == etag;
    }
    Some(is_named)
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn a_range_is_that_of_the_rfc_and_inside_the_content(
        bytes in mutated(RANGES),
        size in prop_oneof![0u64..20, any::<u64>(), Just(u64::MAX)],
    ) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let headers = HeaderMap::from_iter([(header::RANGE, value.clone())]);
        let parsed = parse_range(&headers, size, MAX_RANGES);
        let ranges = match &parsed {
            RequestedRange::Partial(range) => std::slice::from_ref(range),
            RequestedRange::Several(ranges) => ranges,
            RequestedRange::Full | RequestedRange::NotSatisfiable => &[],
        };
        let mut end = None;
        for range in ranges {
            let length = range.length.unwrap();
            prop_assert!(length > 0 && range.offset.checked_add(length).unwrap() <= size);
            // In order, with a byte between two.
            prop_assert!(end.is_none_or(|end| range.offset > end), "{ranges:?}");
            end = Some(range.offset + length);
        }
        if let Ok(text) = value.to_str() && text.contains(',') {
            // Each range of a list is one that it asks for, or several of these.
            let list = text.trim().split_once('=').unwrap_or_default().1;
            let asked: Vec<(u64, u64)> = list
                .split(',')
                .filter_map(|text| expected(&format!("bytes={}", text.replace([' ', '\t'], "")), size)?)
                .collect();
            for range in ranges {
                let end = range.offset + range.length.unwrap();
                prop_assert!(asked.iter().any(|(first, _)| *first == range.offset), "{asked:?}: {ranges:?}");
                prop_assert!(asked.iter().any(|(first, length)| first + length == end), "{asked:?}: {ranges:?}");
            }
            return Ok(());
        }
        match (value.to_str().ok().and_then(|text| expected(text, size)), parsed) {
            (Some(Some((first, length))), RequestedRange::Partial(range)) => {
                prop_assert_eq!((first, Some(length)), (range.offset, range.length));
            }
            (Some(None), parsed) => prop_assert_eq!(parsed, RequestedRange::NotSatisfiable),
            (Some(range), parsed) => prop_assert!(false, "{range:?}, not {parsed:?}"),
            // Spaces and the case of the unit may be tolerated. Nothing else may.
            (None, RequestedRange::Partial(_)) => {
                let plain = value.to_str().unwrap().replace([' ', '\t'], "").to_lowercase();
                prop_assert!(matches!(expected(&plain, size), Some(Some(_))), "{plain}");
            }
            _ => {}
        }
    }

    #[test]
    fn the_range_of_a_chunk_is_what_it_says(bytes in mutated(CONTENT_RANGES)) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let Some((first, length)) = parse_content_range(&value) else { return Ok(()) };
        let last = first.checked_add(length - 1).unwrap();
        let text = value.to_str().unwrap().trim().trim_start_matches("bytes").trim_start_matches([' ', '=']);
        let range = text.split('/').next().unwrap();
        let numbers: Vec<Number> = range.split('-').map(|text| number(text).unwrap()).collect();
        prop_assert_eq!(numbers, [of(first), of(last)]);
    }

    #[test]
    fn a_range_of_a_chunk_is_parsed_in_every_form(first: u64, length in 1u64.., size: u64) {
        let last = first.saturating_add(length - 1);
        let length = last - first;
        for text in [
            format!("{first}-{last}"),
            format!("bytes {first}-{last}/{size}"),
            format!("bytes {first}-{last}/*"),
        ] {
            let parsed = parse_content_range(&HeaderValue::from_str(&text).unwrap());
            prop_assert_eq!(parsed, length.checked_add(1).map(|length| (first, length)));
        }
    }

    #[test]
    fn if_none_match_is_that_of_the_rfc(bytes in mutated(ETAGS)) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let etag = "sha256:abc";
        let matches = if_none_match(&HeaderMap::from_iter([(header::IF_NONE_MATCH, value.clone())]), etag);
        let text = value.to_str().unwrap_or_default();
        match names(text, etag) {
            Some(is_named) => prop_assert_eq!(matches, is_named),
            None => prop_assert!(!matches || text.contains(etag) || text.contains('*')),
        }
    }
}
