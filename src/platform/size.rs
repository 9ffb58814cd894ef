//! Sizes as people write them.

use std::fmt;

/// The units, in bytes: the decimal ones first.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A number with a unit (`50 GB`, `512MiB`), in bytes; `None` for anything else.
pub fn bytes(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size for people, in decimal units with at most one decimal, which is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let decimal = UNITS.iter().take(5).rev();
        let (unit, factor) = decimal.copied().find(|(_, factor)| bytes >= *factor).unwrap_or(("B", 1));
        let (whole, tenth) = (bytes / factor, bytes % factor / (factor / 10).max(1));
        match factor > 1 && tenth > 0 {
            true => write!(f, "{whole}.{tenth} {unit}"),
            false => write!(f, "{whole} {unit}"),
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, expected) in [
            ("50 GB", Some(50_000_000_000)),
            ("512MiB", Some(512 << 20)),
            ("0 B", Some(0)),
            ("9000 TB", Some(9_000_000_000_000_000)),
            ("18446744073709551616 B", None),
            ("99999999 TiB", None),
            ("1.5 GB", None),
            ("50", None),
            ("GB", None),
            ("50 gb", None),
            ("-1 GB", None),
            ("50 GB ", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_decimal_units() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1 kB"),
            (1_099, "1 kB"),
            (1_100, "1.1 kB"),
            (52_199_999_999, "52.1 GB"),
            (50_000_000_000, "50 GB"),
            (9_000_000_000_000_000, "9000 TB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }
}
