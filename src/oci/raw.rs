//! JSON read in steps: a value stays in its text until the reader has checked its length.
//!
//! `serde_json` reads, and each value is a [`RawValue`], which borrows from the content. Decoding at once would cost more
//! than the limits allow: `serde_json` copies a text with escapes, and errors about a wrong type quote what they found.

use std::borrow::Cow;

use serde::{
    Deserializer as _,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Reads a value. As text, so that the worker has the code of each type once, not for texts and for bytes.
pub fn from_json<T: DeserializeOwned>(content: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_str(str::from_utf8(content).map_err(Error::custom)?)
}

/// Text that is not JSON, or not of the form that its reader expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Not UTF-8.
    #[error("the byte at offset {0} is not UTF-8")]
    Utf8(usize),
    /// Not JSON: the reason of `serde_json`, with line and column. It quotes nothing of the text.
    #[error("{0}")]
    Syntax(String),
    /// Something else is in this field.
    #[error("{field}: expected {expected}")]
    Expected {
        /// The name of the field.
        field: &'static str,
        /// The name of what should be there.
        expected: &'static str,
    },
    /// A field is in an object twice.
    #[error("the field {0} is there twice")]
    Twice(&'static str),
    /// Arrays and objects are nested too deeply.
    #[error("arrays and objects are nested more than {} levels deep", Raw::MAX_DEPTH)]
    Depth,
}

/// A value of a JSON text (RFC 8259). Reading its fields or elements checks all of it, except for half surrogate pairs in
/// texts.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The field that it is in.
    field: &'static str,
    json: &'a str,
    is_lenient: bool,
}

impl<'a> Raw<'a> {
    /// The deepest nesting of arrays and objects.
    pub const MAX_DEPTH: usize = 128;
    /// The deepest nesting in stored content: as deep as Go reads JSON, in which other registries are written.
    const MAX_STORED_DEPTH: usize = 10_000;
    /// The most characters that a byte of a text takes, escaped.
    const MAX_ESCAPE: usize = r"\u0000".len();

    /// The object or array that `content` is; errors call it `name`.
    pub fn read(content: &'a [u8], name: &'static str) -> Result<Self, InvalidJson> {
        Self::within(Self::MAX_DEPTH, content, name)
    }

    /// The object or array that stored content is, which was perhaps accepted by other limits. Of fields with the same
    /// name, the last one counts.
    pub fn stored(content: &'a [u8], name: &'static str) -> Result<Self, InvalidJson> {
        Ok(Self { is_lenient: true, ..Self::within(Self::MAX_STORED_DEPTH, content, name)? })
    }

    fn within(depth: usize, content: &'a [u8], field: &'static str) -> Result<Self, InvalidJson> {
        let json = str::from_utf8(content).map_err(|error| InvalidJson::Utf8(error.valid_up_to()))?;
        if is_nested_deeper(depth, content) {
            return Err(InvalidJson::Depth);
        }
        Ok(Self { field, json, is_lenient: false })
    }

    fn expected<T>(self, expected: &'static str) -> Result<T, InvalidJson> {
        Err(InvalidJson::Expected { field: self.field, expected })
    }

    fn starts_with(self, first: char) -> bool {
        self.json.trim_start_matches([' ', '\t', '\n', '\r']).starts_with(first)
    }

    /// The value unless it is `null`.
    pub fn present(self) -> Option<Self> {
        (self.json != "null").then_some(self)
    }

    /// The fields of an object that have these names, each of which may be there once. `null` counts as absent.
    pub fn fields<const N: usize>(self, names: [&'static str; N]) -> Result<[Option<Self>; N], InvalidJson> {
        Ok(self.fields_or_null(names)?.map(|field| field.and_then(Self::present)))
    }

    /// The same, where `null` counts as a value.
    pub fn fields_or_null<const N: usize>(
        self,
        names: [&'static str; N],
    ) -> Result<[Option<Self>; N], InvalidJson> {
        let mut fields = [None; N];
        self.object(|name, value| {
            let name = name.name();
            let known = names.iter().zip(&mut fields).find(|(known, _)| **known == name);
            let Some((field, slot)) = known else { return Ok(()) };
            match slot.replace(Self { field, ..value }) {
                Some(_) if !self.is_lenient => Err(InvalidJson::Twice(field)),
                _ => Ok(()),
            }
        })?;
        Ok(fields)
    }

    /// Passes the name and the value of each field of an object to `field`.
    pub fn object<E: From<InvalidJson>>(
        self,
        field: impl FnMut(Self, Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.starts_with('{') {
            self.expected("an object")?;
        }
        self.each(field)
    }

    /// Passes each element of an array to `element`.
    pub fn array<E: From<InvalidJson>>(
        self,
        mut element: impl FnMut(Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.starts_with('[') {
            self.expected("an array")?;
        }
        self.each(|_, value| element(value))
    }

    fn each<E: From<InvalidJson>>(self, mut take: impl FnMut(Self, Self) -> Result<(), E>) -> Result<(), E> {
        let mut failed = None;
        let read = self.walk(&mut |name, value| {
            failed = take(name, value).err();
            failed.is_none()
        });
        failed.map_or_else(|| read.map_err(E::from), Err)
    }

    /// Passes each element or field to `take` until that returns `false`. Not generic, so that there is one of it in the
    /// worker.
    fn walk(self, take: &mut dyn FnMut(Self, Self) -> bool) -> Result<(), InvalidJson> {
        let mut reader = serde_json::Deserializer::from_str(self.json);
        let read = reader.deserialize_any(Each { whole: self, take }).and_then(|()| reader.end());
        read.map_err(|error| InvalidJson::Syntax(error.to_string()))
    }

    /// The name of the field that it is in: of an element, that of the array.
    pub fn field(self) -> &'static str {
        self.field
    }

    /// Its JSON, as written.
    pub fn json(self) -> &'a str {
        self.json
    }

    /// The text that it is, still escaped.
    pub fn escaped(self) -> Result<&'a str, InvalidJson> {
        let text = self.json.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        text.map_or_else(|| self.expected("a text"), Ok)
    }

    /// The text that it is; `None` if that has more than `limit` bytes.
    pub fn text(self, limit: usize) -> Result<Option<Cow<'a, str>>, InvalidJson> {
        let text = match self.escaped()? {
            text if !text.contains('\\') => Cow::Borrowed(text),
            text if text.len() > limit.saturating_mul(Self::MAX_ESCAPE) => return Ok(None),
            _ => match serde_json::from_str(self.json) {
                Ok(text) => Cow::Owned(text),
                Err(_) => return self.expected("a text of Unicode characters"),
            },
        };
        Ok(Some(text).filter(|text| text.len() <= limit))
    }

    /// The text as the name of a field, to be compared with short ones.
    fn name(self) -> Cow<'a, str> {
        const MAX_NAME: usize = 32;
        self.text(MAX_NAME).ok().flatten().unwrap_or_default()
    }

    /// The whole number that it is, 0 or more.
    pub fn number(self) -> Result<u64, InvalidJson> {
        self.json.parse().or_else(|_| self.expected("a whole number"))
    }
}

/// Passes each element or field of `whole` to `take` until that returns `false`.
struct Each<'a, 'f> {
    whole: Raw<'a>,
    take: &'f mut dyn FnMut(Raw<'a>, Raw<'a>) -> bool,
}

impl<'a> Each<'a, '_> {
    fn take<D: Error>(&mut self, name: &'a RawValue, value: &'a RawValue) -> Result<(), D> {
        let raw = |value: &'a RawValue| Raw { json: value.get(), ..self.whole };
        match (self.take)(raw(name), raw(value)) {
            true => Ok(()),
            false => Err(D::custom("the reader has an error of its own")),
        }
    }
}

impl<'a> Visitor<'a> for Each<'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array or object")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element()? {
            self.take(RawValue::NULL, value)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut fields: A) -> Result<(), A::Error> {
        while let Some((name, value)) = fields.next_entry()? {
            self.take(name, value)?;
        }
        Ok(())
    }
}

/// Whether arrays and objects are nested more than `limit` levels deep. `serde_json` does not limit the nesting of what it
/// skips, for which it needs a byte for each level.
fn is_nested_deeper(limit: usize, json: &[u8]) -> bool {
    let (mut depth, mut is_text, mut is_escape) = (0usize, false, false);
    json.iter().any(|byte| {
        match byte {
            _ if is_escape => is_escape = false,
            b'\\' => is_escape = is_text,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > limit
    })
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn read(json: &str) -> Raw<'_> {
        Raw::read(json.as_bytes(), "x").unwrap()
    }

    #[test]
    fn nesting_is_limited_outside_of_texts() {
        let nested = |depth: usize| "[{\"a\":".repeat(depth / 2) + "[]" + &"}]".repeat(depth / 2);
        let siblings = format!("[{},\"{}\\\"[\\\\\",\"\\\\\"]", "[[]],".repeat(200) + "[]", "[".repeat(200));
        for (json, depth) in [(nested(126), 127), (nested(128), 129), (siblings, 3), ("[".repeat(9), 9)] {
            assert!(!is_nested_deeper(depth, json.as_bytes()), "{json}");
            assert!(is_nested_deeper(depth - 1, json.as_bytes()), "{json}");
        }
        let (edge, beyond) = (Raw::MAX_STORED_DEPTH, Raw::MAX_STORED_DEPTH + 1);
        for (depth, is_read, is_stored) in
            [(128, true, true), (129, false, true), (edge, false, true), (beyond, false, false)]
        {
            let json = "[".repeat(depth) + &"]".repeat(depth);
            let read = Raw::read(json.as_bytes(), "x");
            assert_eq!(read.err(), (!is_read).then_some(InvalidJson::Depth), "{depth}");
            assert_eq!(Raw::stored(json.as_bytes(), "x").is_ok(), is_stored, "{depth}");
        }
    }

    #[test]
    fn errors_quote_nothing() {
        let long = "x".repeat(10_000);
        for json in [
            format!("{{\"{long}"),
            format!("{{\"{long}\":0]"),
            format!("{{\"a\":\"{long}\"{long}"),
            format!("{{}}{long}"),
            format!("{{{long}"),
            format!("{{\"{long}\u{1}\":0}}"),
        ] {
            let error = read(&json).fields(["a"]).unwrap_err();
            assert!(matches!(error, InvalidJson::Syntax(_)) && error.to_string().len() < 100, "{error}");
        }
        let blank = read("\n { \"a\" : 1 } \t").fields(["a"]).unwrap();
        assert_eq!(blank[0].map(Raw::number), Some(Ok(1)));
        let text = read("\"a text\"");
        let expected = |expected| Err(InvalidJson::Expected { field: "x", expected });
        assert_eq!(text.array(|_| Ok::<_, InvalidJson>(())), expected("an array"));
        assert_eq!(text.object(|_, _| Ok::<_, InvalidJson>(())), expected("an object"));
        assert_eq!(text.number().map(drop), expected("a whole number"));
        assert_eq!(read("7").text(9).map(drop), expected("a text"));
        assert_eq!(read(r#""\ud83d""#).text(9).map(drop), expected("a text of Unicode characters"));
        assert_eq!(Raw::read(b"\"a\xff\"", "x").map(drop), Err(InvalidJson::Utf8(2)));
        assert!(from_json::<String>(b"\"a\"").is_ok() && from_json::<String>(b"\"a\xff\"").is_err());
    }

    #[test]
    fn numbers_are_whole() {
        for (json, expected) in [("0", Some(0)), ("18446744073709551615", Some(u64::MAX))] {
            assert_eq!(read(json).number().ok(), expected, "{json}");
        }
        for json in ["-1", "-0", "1.0", "1e2", "18446744073709551616", "\"1\"", "null"] {
            assert!(read(json).number().is_err(), "{json}");
        }
    }

    #[test]
    fn texts_are_decoded_up_to_a_limit() {
        let text = read(r#""a\u0062\ud83d\ude00""#);
        assert_eq!(text.text(6).unwrap().as_deref(), Some("ab\u{1f600}"));
        assert_eq!(text.text(5), Ok(None));
        // Every character escaped, at the limit and beyond.
        let escaped = |length| format!("\"{}\"", r"\u0061".repeat(length));
        assert_eq!(read(&escaped(9)).text(9).unwrap().as_deref(), Some("aaaaaaaaa"));
        assert_eq!(read(&escaped(10)).text(9), Ok(None));
    }

    #[test]
    fn a_field_is_found_however_it_is_written() {
        let json = r#"{"b":null,"\u0061":1,"c":[2],"A":3}"#;
        let [a, b, d] = read(json).fields(["a", "b", "d"]).unwrap();
        assert_eq!((a.map(Raw::number), b.is_none(), d.is_none()), (Some(Ok(1)), true, true));
        let json = r#"{"a":null,"\u0061":1}"#;
        assert_eq!(read(json).fields(["a"]).map(drop), Err(InvalidJson::Twice("a")));
        let [last] = Raw::stored(json.as_bytes(), "x").unwrap().fields(["a"]).unwrap();
        assert_eq!(last.map(Raw::number), Some(Ok(1)));
    }

    #[test]
    fn an_error_ends_the_reading() {
        let mut read_so_far = 0;
        let read = read("[1,2,\"\",4]").array(|element| {
            read_so_far += element.number()?;
            Ok::<_, InvalidJson>(())
        });
        assert_eq!((read.is_err(), read_so_far), (true, 3));
    }
}
