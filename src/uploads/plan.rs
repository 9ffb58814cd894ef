//! The division of a chunk into parts: pure arithmetic on lengths.

use std::ops::Range;

/// The size of the parts of an upload whose first chunk has this length, in bytes.
///
/// Bytes that do not fill a part are staged and read back, so parts that divide the chunks cost the least. A size
/// lies between five eighths and twice the usual one: R2 requires 5 MiB, and memory holds three parts of an upload.
/// `is_chunked` says that more chunks of this length are likely to come.
pub fn part_size(usual: usize, length: Option<u64>, is_chunked: bool) -> usize {
    let (usual, least, most) = (usual as u64, usual as u64 / 8 * 5, usual as u64 * 2);
    let Some(length) = length.filter(|length| *length >= if is_chunked { least } else { usual }) else {
        return usual as usize;
    };
    // The largest size up to the usual one, or else the smallest above it.
    let not_above = length.div_ceil(usual)..=length / least;
    let above = (length.div_ceil(most)..length.div_ceil(usual)).rev();
    let divides = |parts: &u64| length % parts == 0;
    // A chunk is cut into so few parts that this is a short search.
    let parts = not_above.take(MAX_DIVISORS).find(divides).or_else(|| above.take(MAX_DIVISORS).find(divides));
    parts.map_or(usual, |parts| length / parts) as usize
}

/// Limit of part sizes to try for a chunk.
const MAX_DIVISORS: usize = 1_000;

/// The length of the chunk is not the announced one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the chunk has {received} bytes instead of the announced {declared}: send as many as are announced")]
pub struct WrongLength {
    /// The announced length, in bytes.
    pub declared: u64,
    /// The bytes received.
    pub received: u64,
}

/// The step after a buffer was filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Store it as a part, with staged bytes, if any, in front.
    Part,
    /// The chunk has ended; the bytes in this range do not fill a part.
    Tail(Range<usize>),
}

/// The plan for one chunk. The first part leaves room in front for bytes staged by earlier chunks.
#[derive(Debug, Clone)]
pub struct Plan {
    part_size: usize,
    declared: Option<u64>,
    length: Option<u64>,
    start: usize,
    received: u64,
}

impl Plan {
    /// A plan for parts of `part_size` bytes, after `staged` bytes. `length` is the stream's own length,
    /// `declared` the one that the client announced in addition; all in bytes.
    pub fn new(part_size: usize, staged: u64, length: Option<u64>, declared: Option<u64>) -> Self {
        Self { part_size, declared, length: length.or(declared), start: staged as usize, received: 0 }
    }

    /// The bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The range of a new buffer to read into; its end is the required capacity.
    pub fn next(&self) -> Range<usize> {
        // One byte more than announced, to detect a longer stream. In 64 bits: a chunk may be longer than
        // this platform's memory.
        let left =
            self.length.map_or(u64::MAX, |length| length.saturating_sub(self.received).saturating_add(1));
        self.start..left.saturating_add(self.start as u64).min(self.part_size as u64) as usize
    }

    /// Records that the buffer was filled up to `end`. Less than the end of [`next`](Self::next) means that
    /// the stream has ended.
    pub fn filled(&mut self, end: usize) -> Result<Step, WrongLength> {
        let Range { start, end: capacity } = self.next();
        self.received += (end - start) as u64;
        let is_over = end < capacity;
        if let Some(declared) = self.declared
            && (self.received > declared || (is_over && self.received < declared))
        {
            return Err(WrongLength { declared, received: self.received });
        }
        if is_over {
            return Ok(Step::Tail(start..end));
        }
        if capacity < self.part_size {
            // The stream is longer than its own length, which the platform should prevent.
            return Err(WrongLength { declared: self.length.unwrap_or_default(), received: self.received });
        }
        self.start = 0;
        Ok(Step::Part)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a plan on a stream of `sent` bytes; returns the number of parts, and the tail.
    fn run(mut plan: Plan, sent: u64) -> Result<(u64, Range<usize>), WrongLength> {
        let (mut left, mut parts) = (sent, 0);
        loop {
            let range = plan.next();
            assert!(range.end <= plan.part_size && range.start <= range.end);
            let read = left.min(range.len() as u64);
            left -= read;
            match plan.filled(range.start + read as usize)? {
                Step::Part => parts += 1,
                Step::Tail(tail) => {
                    assert_eq!(left, 0);
                    return Ok((parts, tail));
                }
            }
        }
    }

    #[test]
    fn a_known_length_limits_the_buffer() {
        assert_eq!(Plan::new(64, 0, Some(10), None).next(), 0..11);
        assert_eq!(Plan::new(64, 5, Some(10), None).next(), 5..16);
        assert_eq!(Plan::new(64, 5, Some(1000), None).next(), 5..64);
        assert_eq!(Plan::new(64, 5, None, None).next(), 5..64);
        assert_eq!(Plan::new(64, 0, None, Some(10)).next(), 0..11);
    }

    #[test]
    fn wrong_lengths_are_detected() {
        for (sent, declared) in
            [(11, 10), (9, 10), (200, 10), (200, 100), (200, 201), (0, 1), (1, 0), (128, 64)]
        {
            for length in [None, Some(sent)] {
                let result = run(Plan::new(64, 3, length, Some(declared)), sent);
                assert!(
                    matches!(result, Err(WrongLength { declared: d, .. }) if d == declared),
                    "{sent} {declared}"
                );
            }
        }
        // A stream longer than its own length.
        assert_eq!(
            run(Plan::new(64, 0, Some(10), None), 11),
            Err(WrongLength { declared: 10, received: 11 })
        );
    }

    #[test]
    fn a_chunk_may_be_longer_than_memory() {
        let length = 5 << 40;
        assert_eq!(Plan::new(64, 0, Some(length), Some(length)).next(), 0..64);
        assert_eq!(Plan::new(64, 0, Some(u64::MAX), None).next(), 0..64);
    }

    #[test]
    fn parts_divide_the_first_chunk() {
        const MIB: u64 = 1 << 20;
        let of = |length, is_chunked| part_size(8 << 20, length, is_chunked) as u64;
        for (length, expected) in [
            (5 * MIB, 5 * MIB),
            (5 * MIB - 1, 8 * MIB),
            (7_000_001, 7_000_001),
            (8 * MIB, 8 * MIB),
            (16 * MIB, 8 * MIB),
            (10 * MIB, 5 * MIB),
            (11 * MIB, 5 * MIB + MIB / 2),
            (9 * MIB, 9 * MIB),
            (100 * MIB, 25 * MIB / 4),
            (1 << 40, 8 * MIB),
        ] {
            assert_eq!(of(Some(length), true), expected, "{length}");
        }
        // Without `Content-Range`, a chunk is usually the whole blob.
        assert_eq!((of(Some(5 * MIB), false), of(Some(30_000_000), false)), (8 * MIB, 7_500_000));
        assert_eq!((of(None, true), of(None, false)), (8 * MIB, 8 * MIB));
    }

    proptest! {
        #[test]
        fn a_part_has_a_size_that_storage_allows(length in 0u64..1 << 45, is_chunked: bool) {
            let size = part_size(8 << 20, Some(length), is_chunked);
            prop_assert!((5 << 20..=16 << 20).contains(&size));
            prop_assert!(length % size as u64 == 0 || size == 8 << 20);
        }

        #[test]
        fn every_byte_is_in_a_part_or_in_the_tail(
            part_size in 1usize..50, staged in 0u64..50, sent in 0u64..500, knows_length: bool, is_declared: bool,
        ) {
            let staged = staged % part_size as u64;
            let plan = Plan::new(part_size, staged, knows_length.then_some(sent), is_declared.then_some(sent));
            let (parts, tail) = run(plan, sent).unwrap();
            prop_assert_eq!(parts * part_size as u64 + tail.end as u64, staged + sent);
            prop_assert_eq!(tail.start, if parts == 0 { staged as usize } else { 0 });
            prop_assert!(tail.end < part_size);
        }
    }
}
