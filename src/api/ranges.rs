//! `Range` (RFC 9110, section 14.2): which bytes of content a request asks for.

use http::{HeaderMap, Method, header};

use super::Request;
use crate::platform::ByteRange;

/// The most ranges that may share a byte. More are the sign of a broken client or of an attack, says the RFC.
const MAX_OVERLAPPING: usize = 2;

/// A parsed `Range`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedRange {
    /// The whole content: there is no range, or it is one that RFC 9110 allows to ignore.
    Full,
    /// One range.
    Partial(ByteRange),
    /// Several ranges in ascending order, with bytes between them that were not asked for.
    Several(Vec<ByteRange>),
    /// No range inside the content.
    NotSatisfiable,
}

impl RequestedRange {
    /// What a request asks for of content of `size` bytes with this entity tag, given with its quotes. A range applies to
    /// `GET` only, and only if `If-Range` matches. More than `most` ranges are ignored.
    pub fn of(request: &Request, etag: &str, size: u64, most: usize) -> Self {
        let headers = request.headers();
        let is_same = headers.get(header::IF_RANGE).is_none_or(|value| value == etag);
        if request.method() != Method::GET || !is_same {
            return Self::Full;
        }
        parse_range(headers, size, most)
    }

    /// The range to read first; `None` for the whole content.
    pub fn first(&self) -> Option<ByteRange> {
        match self {
            Self::Full | Self::NotSatisfiable => None,
            Self::Partial(range) => Some(*range),
            Self::Several(ranges) => ranges.first().copied(),
        }
    }
}

/// Parses a `Range` for content of `size` bytes. A position may be larger than any content. Ranges that overlap or touch are
/// merged, those outside the content are left out.
///
/// The whole content is the answer to more than `most` ranges, and to more than two that share a byte. It is also the answer
/// to any range of nothing, which no range can satisfy: containerd asks for `bytes=0-` when it pulls in parallel, whatever the
/// size.
pub fn parse_range(headers: &HeaderMap, size: u64, most: usize) -> RequestedRange {
    let mut values = headers.get_all(header::RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return RequestedRange::Full };
    let spec = value.to_str().ok().and_then(|value| value.trim().split_once('='));
    let Some((_, list)) = spec.filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes")) else {
        return RequestedRange::Full;
    };
    // A list may have empty elements (section 5.6.1). They count, so that reading a list has a limit.
    if size == 0 || list.split(',').nth(most).is_some() {
        return RequestedRange::Full;
    }
    let mut spans = Vec::new();
    let mut is_refused = false;
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match Span::parse(text, size) {
            Some(Ok(span)) => spans.push(span),
            Some(Err(Unsatisfied::Outside)) => {}
            Some(Err(Unsatisfied::Backwards)) => is_refused = true,
            None => return RequestedRange::Full,
        }
    }
    match merged(spans) {
        _ if is_refused => RequestedRange::NotSatisfiable,
        None => RequestedRange::Full,
        Some(spans) => match spans.as_slice() {
            [] if list.split(',').all(|text| text.trim().is_empty()) => RequestedRange::Full,
            [] => RequestedRange::NotSatisfiable,
            [span] => RequestedRange::Partial(span.range()),
            spans => RequestedRange::Several(spans.iter().map(|span| span.range()).collect()),
        },
    }
}

/// Merges spans that overlap or touch, in ascending order; `None` if too many share a byte.
///
/// Spans with a gap between them stay apart, however small it is. RFC 9110 allows to merge them, but podman assigns the parts
/// of an answer to its ranges by their order. It asks for the two indexes of a layer in one request, and only the eight bytes
/// of a frame's header are between these.
fn merged(mut spans: Vec<Span>) -> Option<Vec<Span>> {
    let sharing = |at: u64| spans.iter().filter(|span| (span.first..span.end).contains(&at)).count();
    if spans.iter().any(|span| sharing(span.first) > MAX_OVERLAPPING) {
        return None;
    }
    spans.sort_unstable_by_key(|span| span.first);
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.first <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    Some(merged)
}

/// The bytes from `first` to before `end`, at least one.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    end: u64,
}

/// Why a range is not inside the content.
enum Unsatisfied {
    Outside,
    /// It ends before it begins. RFC 9110 allows to refuse a `Range` with such a range.
    Backwards,
}

impl Span {
    /// Parses a range for content of `size` bytes, at least one; `None` if it is malformed.
    fn parse(text: &str, size: u64) -> Option<Result<Self, Unsatisfied>> {
        let (first, last) = text.split_once('-')?;
        Some(match (position(first)?, position(last)?) {
            (Some(first), Some(last)) if last < first => Err(Unsatisfied::Backwards),
            (Some(first), _) if first >= size => Err(Unsatisfied::Outside),
            (Some(first), Some(last)) => Ok(Self { first, end: last.min(size - 1) + 1 }),
            (Some(first), None) => Ok(Self { first, end: size }),
            (None, Some(0)) => Err(Unsatisfied::Outside),
            (None, Some(suffix)) => Ok(Self { first: size.saturating_sub(suffix), end: size }),
            (None, None) => return None,
        })
    }

    fn range(self) -> ByteRange {
        ByteRange { offset: self.first, length: Some(self.end - self.first) }
    }
}

/// A position in a range, which may be left out; `None` if it is malformed.
fn position(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "" => Some(None),
        text if text.bytes().all(|c| c.is_ascii_digit()) => Some(Some(text.parse().unwrap_or(u64::MAX))),
        _ => None,
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::config::MAX_RANGES;
    use http::HeaderValue;
    use proptest::{collection::vec, prelude::*};

    fn ranges(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::RANGE, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_single_range_is_parsed_and_what_is_malformed_is_ignored() {
        let part = |offset, length| RequestedRange::Partial(ByteRange { offset, length: Some(length) });
        for (text, size, expected) in [
            ("bytes=0-99", 100, part(0, 100)),
            ("bytes=500-", 2048, part(500, 1548)),
            ("bytes=-500", 2048, part(1548, 500)),
            ("bytes=-5000", 2048, part(0, 2048)),
            ("bytes=2000-5000", 2048, part(2000, 48)),
            ("bytes=0-0", 1, part(0, 1)),
            ("Bytes=0-0", 1, part(0, 1)),
            ("bytes=0-18446744073709551615", 2048, part(0, 2048)),
            ("bytes=0-99999999999999999999999999", 2048, part(0, 2048)),
            ("bytes=-99999999999999999999999999", 2048, part(0, 2048)),
            ("bytes=99999999999999999999999999-", 2048, RequestedRange::NotSatisfiable),
            ("bytes=500-0", 2048, RequestedRange::NotSatisfiable),
            ("bytes=2048-", 2048, RequestedRange::NotSatisfiable),
            ("bytes=5000-10000", 2048, RequestedRange::NotSatisfiable),
            ("bytes=-0", 2048, RequestedRange::NotSatisfiable),
            ("bytes=0-", 0, RequestedRange::Full),
            ("bytes=-1", 0, RequestedRange::Full),
            ("bytes=", 2048, RequestedRange::Full),
            ("bytes=-", 2048, RequestedRange::Full),
            ("bytes=a-b", 2048, RequestedRange::Full),
            ("bytes=5-a", 2048, RequestedRange::Full),
            ("bytes=a-5", 2048, RequestedRange::Full),
            ("bytes=-a", 2048, RequestedRange::Full),
            ("bytes=--5", 2048, RequestedRange::Full),
            ("bytes=5--", 2048, RequestedRange::Full),
            ("bytes=+1-2", 2048, RequestedRange::Full),
            ("bytes=1", 2048, RequestedRange::Full),
            ("bytes", 2048, RequestedRange::Full),
            ("bytes 1-2", 2048, RequestedRange::Full),
            ("lines=1-2", 2048, RequestedRange::Full),
        ] {
            assert_eq!(parse_range(&ranges(&[text]), size, MAX_RANGES), expected, "{text}");
        }
        assert_eq!(parse_range(&HeaderMap::new(), 1, MAX_RANGES), RequestedRange::Full);
        assert_eq!(parse_range(&ranges(&["bytes=0-1", "bytes=2-3"]), 10, MAX_RANGES), RequestedRange::Full);
    }

    proptest! {
        #[test]
        fn a_parsed_range_is_inside_the_content(text in "bytes=[0-9]{0,25}-[0-9]{0,25}", size: u64) {
            if let RequestedRange::Partial(range) = parse_range(&ranges(&[&text]), size, MAX_RANGES) {
                let length = range.length.unwrap();
                prop_assert!(length > 0 && range.offset.checked_add(length).unwrap() <= size);
            }
        }
    }

    /// The offsets and lengths of several ranges.
    fn several(expected: &[(u64, u64)]) -> RequestedRange {
        let range = |&(offset, length): &(u64, u64)| ByteRange { offset, length: Some(length) };
        RequestedRange::Several(expected.iter().map(range).collect())
    }

    #[test]
    fn several_ranges_are_merged_and_sorted() {
        let part = |offset, length| RequestedRange::Partial(ByteRange { offset, length: Some(length) });
        for (list, expected) in [
            ("0-1,5-6", several(&[(0, 2), (5, 2)])),
            ("5-6,0-1", several(&[(0, 2), (5, 2)])),
            // The smallest gap.
            ("0-1,3-4", several(&[(0, 2), (3, 2)])),
            ("0-1,-3,40-50", several(&[(0, 2), (40, 11), (97, 3)])),
            (" 0-1 ,\t5-6", several(&[(0, 2), (5, 2)])),
            ("0-1,,5-6,", several(&[(0, 2), (5, 2)])),
            (",0-1", part(0, 2)),
            // They touch, overlap, contain one another, or are the same.
            ("0-1,2-3", part(0, 4)),
            ("2-3,0-1", part(0, 4)),
            ("0-5,3-9", part(0, 10)),
            ("0-9,3-5", part(0, 10)),
            ("3-5,3-5", part(3, 3)),
            ("0-,50-60", part(0, 100)),
            ("0-5,3-9,20-29,25-35", several(&[(0, 10), (20, 16)])),
            // Each shares bytes with the next.
            ("0-9,5-19,10-29,20-39", part(0, 40)),
            // Some are outside.
            ("0-1,100-", part(0, 2)),
            ("100-200,-0,0-1,5-6", several(&[(0, 2), (5, 2)])),
            ("100-,200-300,-0", RequestedRange::NotSatisfiable),
            // Three share a byte.
            ("0-,0-,0-", RequestedRange::Full),
            ("0-9,5-15,9-20", RequestedRange::Full),
            ("0-50,10-12,40-42,11-11", RequestedRange::Full),
            // Not ranges, or ranges that end before they begin.
            ("0-1,a-b", RequestedRange::Full),
            ("0-1,5", RequestedRange::Full),
            ("0-1,-", RequestedRange::Full),
            ("0-1,bytes=5-6", RequestedRange::Full),
            (",", RequestedRange::Full),
            ("0-1,9-5", RequestedRange::NotSatisfiable),
            ("9-5,a-b", RequestedRange::Full),
        ] {
            let headers = ranges(&[&format!("bytes={list}")]);
            assert_eq!(parse_range(&headers, 100, MAX_RANGES), expected, "{list}");
            assert_eq!(parse_range(&headers, 0, MAX_RANGES), RequestedRange::Full, "{list}, of nothing");
        }
    }

    #[test]
    fn too_many_ranges_are_the_whole_content() {
        let list = |count: u64| {
            let list: Vec<String> = (0..count).map(|n| format!("{}-{}", 10 * n, 10 * n + 4)).collect();
            ranges(&[&format!("bytes={}", list.join(","))])
        };
        let RequestedRange::Several(most) = parse_range(&list(64), 2048, MAX_RANGES) else { panic!() };
        assert_eq!(most.len(), 64);
        assert_eq!(parse_range(&list(65), 2048, MAX_RANGES), RequestedRange::Full);
        assert_eq!(parse_range(&list(3), 2048, 2), RequestedRange::Full);
        assert_eq!(parse_range(&list(2), 2048, 2), several(&[(0, 5), (10, 5)]));
        assert_eq!(parse_range(&list(2), 2048, 1), RequestedRange::Full);
        assert!(matches!(parse_range(&list(1), 2048, 1), RequestedRange::Partial(_)));
        // Neither those outside nor empty elements are free.
        let empty = ranges(&[&format!("bytes=0-1{}", ",".repeat(64))]);
        assert_eq!(parse_range(&empty, 2048, MAX_RANGES), RequestedRange::Full);
    }

    /// A range of content of 200 bytes, as text, and which bytes it asks for.
    fn piece() -> impl Strategy<Value = (String, Vec<usize>)> {
        let end = |last: usize| 200.min(last + 1);
        prop_oneof![
            (0..230usize, 0..40usize).prop_map(move |(first, length)| {
                (format!("{first}-{}", first + length), (first..end(first + length)).collect())
            }),
            (150..230usize).prop_map(|first| (format!("{first}-"), (first..200).collect())),
            (0..60usize).prop_map(|suffix| (format!("-{suffix}"), (200 - suffix..200).collect())),
        ]
    }

    proptest! {
        #[test]
        fn the_ranges_are_those_of_a_set_of_bytes(pieces in vec(piece(), 1..12)) {
            let list: Vec<&str> = pieces.iter().map(|(text, _)| text.as_str()).collect();
            let parsed = parse_range(&ranges(&[&format!("bytes={}", list.join(","))]), 200, MAX_RANGES);
            // How often each byte is asked for.
            let mut asked = [0; 200];
            for at in pieces.iter().flat_map(|(_, bytes)| bytes) {
                asked[*at] += 1;
            }
            let given: &[ByteRange] = match &parsed {
                RequestedRange::Full => {
                    prop_assert!(asked.iter().any(|count| *count > 2), "{parsed:?}");
                    return Ok(());
                }
                RequestedRange::NotSatisfiable => &[],
                RequestedRange::Partial(range) => std::slice::from_ref(range),
                RequestedRange::Several(ranges) => {
                    prop_assert!(ranges.len() > 1);
                    ranges
                }
            };
            let mut served = [0; 200];
            let mut end = None;
            for range in given {
                let (first, last) = range.bounds(200);
                // In order, with a byte between two.
                prop_assert!(end.is_none_or(|end| first > end + 1), "{parsed:?}");
                end = Some(last);
                (first..=last).for_each(|at| served[at as usize] += 1);
            }
            for (at, (asked, served)) in asked.iter().zip(served).enumerate() {
                prop_assert!(*asked <= 2);
                prop_assert_eq!(served, i32::from(*asked > 0), "byte {}", at);
            }
        }
    }
}
