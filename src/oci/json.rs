//! Reads JSON without building it: the reader's caller keeps what it needs, so the memory that a text takes depends on
//! the caller's limits, not on the text.

use std::borrow::Cow;

/// Text that is not JSON, or not of the form that its reader expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Something else is at this position.
    #[error("expected {expected} at byte {at}")]
    Expected {
        /// The name of what should be there.
        expected: &'static str,
        /// The position, in bytes.
        at: usize,
    },
    /// Arrays and objects are nested too deeply.
    #[error("arrays and objects are nested more than {} levels deep", Reader::MAX_DEPTH)]
    Depth,
}

/// A reader of one JSON text (RFC 8259).
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Whether values are skipped at any depth, and only as carefully as it takes to find their end.
    is_lenient: bool,
}

impl<'a> Reader<'a> {
    /// The deepest nesting of arrays and objects.
    pub const MAX_DEPTH: usize = 128;

    /// A reader of `content`, which must be UTF-8.
    pub fn new(content: &'a [u8]) -> Result<Self, InvalidJson> {
        let text = str::from_utf8(content)
            .map_err(|error| InvalidJson::Expected { expected: "UTF-8", at: error.valid_up_to() })?;
        Ok(Self { text, at: 0, depth: 0, is_lenient: false })
    }

    /// A reader of content that was valid when it was stored, perhaps by other limits.
    pub fn lenient(content: &'a [u8]) -> Result<Self, InvalidJson> {
        Ok(Self { is_lenient: true, ..Self::new(content)? })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn blank(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, InvalidJson> {
        Err(InvalidJson::Expected { expected, at: self.at })
    }

    /// Ends the text: only blanks may follow.
    pub fn end(mut self) -> Result<(), InvalidJson> {
        self.blank();
        if self.peek().is_some() { self.expected("the end") } else { Ok(()) }
    }

    /// Reads an object; `field` reads the value of each of its fields.
    pub fn object<E: From<InvalidJson>>(
        &mut self,
        mut field: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.list((b'{', b'}', "an object", "',' or '}'"), |reader| {
            let name = reader.text()?;
            reader.blank();
            if !reader.eat(b':') {
                reader.expected("':'")?;
            }
            field(reader, name)
        })
    }

    /// Reads an array; `element` reads each of its elements.
    pub fn array<E: From<InvalidJson>>(
        &mut self,
        element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.list((b'[', b']', "an array", "',' or ']'"), element)
    }

    fn list<E: From<InvalidJson>>(
        &mut self,
        (open, close, whole, separator): (u8, u8, &'static str, &'static str),
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.blank();
        if !self.eat(open) {
            self.expected(whole)?;
        }
        if self.depth == Self::MAX_DEPTH {
            return Err(InvalidJson::Depth.into());
        }
        self.depth += 1;
        self.blank();
        if !self.eat(close) {
            loop {
                element(self)?;
                self.blank();
                if self.eat(close) {
                    break;
                }
                if !self.eat(b',') {
                    self.expected(separator)?;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a text.
    pub fn text(&mut self) -> Result<Text<'a>, InvalidJson> {
        self.blank();
        if !self.eat(b'"') {
            return self.expected("a text");
        }
        let start = self.at;
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            self.at += rest.iter().position(|c| matches!(c, b'"' | b'\\' | ..0x20)).unwrap_or(rest.len());
            match self.next() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return self.expected("the end of a text"),
            }
        }
        Ok(Text(self.text.get(start..self.at - 1).unwrap_or_default()))
    }

    fn escape(&mut self) -> Result<(), InvalidJson> {
        match self.next() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') if (0..4).all(|_| self.next().is_some_and(|c| c.is_ascii_hexdigit())) => Ok(()),
            _ => self.expected("an escape"),
        }
    }

    /// Reads a whole number, 0 or more.
    pub fn number(&mut self) -> Result<u64, InvalidJson> {
        self.blank();
        let start = self.at;
        self.skip_number()?;
        let digits = self.text.get(start..self.at).unwrap_or_default();
        digits.parse().or(Err(InvalidJson::Expected { expected: "a whole number", at: start }))
    }

    fn digits(&mut self) -> Result<(), InvalidJson> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.expected("a digit") } else { Ok(()) }
    }

    fn skip_number(&mut self) -> Result<(), InvalidJson> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn literal(&mut self, literal: &'static str) -> bool {
        let is_there = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        self.at += if is_there { literal.len() } else { 0 };
        is_there
    }

    /// Skips `null`; `false` if something else is there.
    pub fn null(&mut self) -> bool {
        self.blank();
        self.literal("null")
    }

    /// Skips a value of any kind.
    pub fn skip(&mut self) -> Result<(), InvalidJson> {
        self.blank();
        match self.peek() {
            Some(b'{' | b'[') if self.is_lenient => self.skip_nested(),
            Some(b'{') => self.object(|reader, _| reader.skip()),
            Some(b'[') => self.array(Self::skip),
            Some(b'"') => self.text().map(drop),
            Some(b'-' | b'0'..=b'9') => self.skip_number(),
            _ if ["true", "false", "null"].into_iter().any(|literal| self.literal(literal)) => Ok(()),
            _ => self.expected("a value"),
        }
    }

    /// Skips to the end of an array or object, which only counts its brackets.
    fn skip_nested(&mut self) -> Result<(), InvalidJson> {
        let mut depth = 0usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.text()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth = depth.saturating_sub(1),
                Some(_) => {}
                None => return self.expected("the end of a value"),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// A text of JSON, valid and still escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// The longest name of a field that [`name`](Self::name) decodes, in bytes.
    const MAX_NAME: usize = 32;

    /// The text as the name of a field, to be compared with short ones.
    pub fn name(self) -> Cow<'a, str> {
        match self.0.contains('\\') {
            false => Cow::Borrowed(self.0),
            true => Cow::Owned(self.decode(Self::MAX_NAME).unwrap_or_default()),
        }
    }

    /// The text without escapes; `None` if it has more than `limit` bytes, or half a surrogate pair.
    pub fn decode(self, limit: usize) -> Option<String> {
        let mut decoded = String::new();
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            let c = if c == '\\' { unescape(&mut chars)? } else { c };
            if decoded.len() + c.len_utf8() > limit {
                return None;
            }
            decoded.push(c);
        }
        Some(decoded)
    }
}

fn unescape(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let unit = |chars: &mut std::str::Chars<'_>| {
        (0..4).try_fold(0, |unit, _| Some(unit << 4 | chars.next()?.to_digit(16)?))
    };
    Some(match chars.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => match unit(chars)? {
            high @ 0xd800..0xdc00 => {
                let is_pair = chars.next() == Some('\\') && chars.next() == Some('u');
                let low = unit(chars).filter(|low| is_pair && (0xdc00..0xe000).contains(low))?;
                char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?
            }
            unit => char::from_u32(unit)?,
        },
        c => c,
    })
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(content: &[u8]) -> Result<(), InvalidJson> {
        let mut reader = Reader::new(content)?;
        reader.skip()?;
        reader.end()
    }

    /// Text that is nearly JSON, and JSON.
    fn texts() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"\"",
            "\"a\"",
            "\"\\",
            "\"",
            "\\u12aF",
            "\\ud83d\\ude00",
            "\\n",
            "\\x",
            "0",
            "-1",
            "01",
            "1.5",
            "1.",
            "-",
            "1e9",
            "1e",
            "E+2",
            "null",
            "true",
            "false",
            "nul",
            " ",
            "\n",
            "ä",
            "\u{1}",
        ]);
        prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
    }

    fn is_json(text: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_text_is_json_if_serde_says_so(text in texts()) {
            for text in [text.clone(), format!("[{text}]"), format!("{{\"a\":{text}}}"), format!("\"{text}\"")] {
                prop_assert_eq!(read(text.as_bytes()).is_ok(), is_json(&text), "{}", text);
            }
        }

        #[test]
        fn texts_are_decoded_as_serde_does(text in texts()) {
            let json = format!("\"{text}\"");
            let Ok(Ok(read)) = Reader::new(json.as_bytes()).map(|mut reader| reader.text()) else { return Ok(()) };
            if read.0.len() + 2 == json.len() {
                prop_assert_eq!(read.decode(usize::MAX), serde_json::from_str::<String>(&json).ok());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(content: Vec<u8>) {
            let _ = read(&content);
        }

        #[test]
        fn lenient_reading_finds_the_end_of_every_value(text in texts()) {
            let json = format!("[{text}]");
            if is_json(&json) {
                let mut reader = Reader::lenient(json.as_bytes()).unwrap();
                reader.skip().unwrap();
                reader.end().unwrap();
            }
        }
    }

    #[test]
    fn nesting_is_limited_unless_reading_is_lenient() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let (edge, beyond) = (nested(Reader::MAX_DEPTH), nested(Reader::MAX_DEPTH + 1));
        assert_eq!(read(edge.as_bytes()), Ok(()));
        assert_eq!(read(beyond.as_bytes()), Err(InvalidJson::Depth));
        let mut reader = Reader::lenient(beyond.as_bytes()).unwrap();
        assert_eq!(reader.skip().and_then(|()| reader.end()), Ok(()));
    }

    #[test]
    fn numbers_are_whole() {
        for (text, expected) in [("0", Some(0)), (" 18446744073709551615", Some(u64::MAX))] {
            assert_eq!(Reader::new(text.as_bytes()).unwrap().number().ok(), expected, "{text}");
        }
        for text in ["-1", "1.0", "1e2", "18446744073709551616", "\"1\"", "null", ""] {
            assert!(Reader::new(text.as_bytes()).unwrap().number().is_err(), "{text}");
        }
    }

    #[test]
    fn texts_are_decoded_up_to_a_limit() {
        let text = Text("a\\u0062\\ud83d\\ude00");
        assert_eq!(text.decode(6).as_deref(), Some("ab\u{1f600}"));
        assert_eq!(text.decode(5), None);
        assert_eq!(Text("\\ud83d").decode(9), None);
        assert_eq!(Text("medi\\u0061Type").name(), "mediaType");
    }
}
