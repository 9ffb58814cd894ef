//! Mutations of valid inputs.

use proptest::{collection::vec, prelude::*, sample::Index};

/// Texts with a meaning to some parser.
const TOKENS: &[&str] = &[
    "/",
    "//",
    "..",
    ".",
    "-",
    "--",
    "_",
    "__",
    "___",
    ":",
    "%",
    "%2f",
    "%2F",
    "%00",
    "%0d%0a",
    "%ff",
    "%c3%a9",
    "%25",
    "+",
    "=",
    "==",
    "&",
    "?",
    "#",
    " ",
    "\t",
    "\r\n",
    "\0",
    "\"",
    "'",
    "\\",
    "\\u0000",
    ",",
    ";",
    "*",
    "W/",
    "{",
    "}",
    "[",
    "]",
    "null",
    "true",
    "0",
    "00",
    "é",
    "ü",
    "\u{202e}",
    "\u{feff}",
    "😀",
    "A",
    "bytes=",
    "bytes ",
    "sha256:",
    "sha512:",
    "sha1:",
    "latest",
    "/v2/",
    "/blobs/",
    "/manifests/",
    "/uploads/",
    "/tags/list",
    "_state=",
    "digest=",
    "mount=",
    "from=",
    "\u{7f}",
    "\u{80}",
    "Basic ",
    "$2y$",
    "\"\":0,",
    "\"urls\":null,",
];

/// Numbers at the edges of their types.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "00",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999",
    "1e400",
    "1.5",
    "+1",
];

/// A change of an input.
#[derive(Debug, Clone)]
pub enum Mutation {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Token(Index, &'static str),
    Remove(Index, usize),
    Cut(Index),
    /// Repeats some bytes, up to a few thousand in all.
    Repeat(Index, usize, usize),
    /// The start of this input, then the end of another.
    Splice(Index, Index, Index),
    /// Replaces a number.
    Number(Index, &'static str),
    /// Percent-encodes a byte.
    Encode(Index),
    /// Changes the case of a letter.
    Case(Index),
}

pub fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), b' '..b'~').prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), prop::sample::select(TOKENS)).prop_map(|(at, token)| Mutation::Token(at, token)),
        (at(), 1usize..20).prop_map(|(at, length)| Mutation::Remove(at, length)),
        at().prop_map(Mutation::Cut),
        (at(), 1usize..20, 1usize..300).prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        (at(), 1usize..4, 1usize..4).prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        (at(), at(), at()).prop_map(|(other, at, from)| Mutation::Splice(other, at, from)),
        (at(), prop::sample::select(NUMBERS)).prop_map(|(at, number)| Mutation::Number(at, number)),
        at().prop_map(Mutation::Encode),
        at().prop_map(Mutation::Case),
    ]
}

impl Mutation {
    pub fn apply(&self, bytes: &mut Vec<u8>, corpus: &[String]) {
        // An index into nothing panics; the end is a place too.
        let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
        match self {
            Self::Set(at, byte) => {
                let at = place(at, bytes);
                if let Some(to) = bytes.get_mut(at) {
                    *to = *byte;
                }
            }
            Self::Insert(at, inserted) => {
                let at = place(at, bytes);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Self::Token(at, token) => {
                let at = place(at, bytes);
                bytes.splice(at..at, token.bytes());
            }
            Self::Remove(at, length) => {
                let at = place(at, bytes);
                let end = bytes.len().min(at + length);
                bytes.drain(at..end);
            }
            Self::Cut(at) => bytes.truncate(place(at, bytes)),
            Self::Repeat(at, length, times) => {
                let at = place(at, bytes);
                let end = bytes.len().min(at + length);
                let repeated = bytes[at..end].repeat(*times);
                bytes.splice(at..at, repeated);
            }
            Self::Splice(other, at, from) => {
                let other = other.get(corpus).as_bytes();
                bytes.truncate(place(at, bytes));
                bytes.extend_from_slice(&other[place(from, other)..]);
            }
            Self::Number(at, number) => {
                let is_start = |at: &usize| {
                    bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[*at - 1].is_ascii_digit())
                };
                let starts: Vec<usize> = (0..bytes.len()).filter(is_start).collect();
                if !starts.is_empty() {
                    let start = *at.get(&starts);
                    let digits = bytes[start..].iter().take_while(|c| c.is_ascii_digit()).count();
                    bytes.splice(start..start + digits, number.bytes());
                }
            }
            Self::Encode(at) => {
                let at = place(at, bytes);
                if let Some(byte) = bytes.get(at).copied() {
                    bytes.splice(at..=at, format!("%{byte:02x}").into_bytes());
                }
            }
            Self::Case(at) => {
                let at = place(at, bytes);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= if byte.is_ascii_alphabetic() { 0x20 } else { 0 };
                }
            }
        }
    }
}

/// One of the corpus, changed up to five times.
pub fn mutated<T: ToString>(corpus: &[T]) -> impl Strategy<Value = Vec<u8>> + use<T> {
    let corpus: Vec<String> = corpus.iter().map(ToString::to_string).collect();
    (any::<Index>(), vec(mutation(), 0..6)).prop_map(move |(chosen, mutations)| {
        let mut bytes = chosen.get(&corpus).clone().into_bytes();
        for mutation in &mutations {
            mutation.apply(&mut bytes, &corpus);
        }
        bytes
    })
}

/// The same as text.
pub fn text<T: ToString>(corpus: &[T]) -> impl Strategy<Value = String> + use<T> {
    mutated(corpus).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
