//! JSON as Go writes it: `libtrust` was written in Go, and its texts are made again byte for byte.

use std::{borrow::Cow, collections::BTreeMap};

use super::{InvalidSignature, MAX_SIGNATURE, TOO_LONG};
use crate::oci::raw::Raw;

/// Limit of the values in a key, those within others included.
pub(super) const MAX_KEY_VALUES: usize = 256;

/// The deepest nesting of arrays and objects in a key.
pub(super) const MAX_KEY_DEPTH: usize = 8;

/// The fields of two objects in one, those of the second before others of the same name, as Go's `encoding/json` writes what
/// it has read without a type: compact, sorted by the names of fields, the last of those with the same name.
pub(super) fn merged(one: Raw<'_>, other: Raw<'_>) -> Result<String, InvalidSignature> {
    let mut written = Written { json: String::new(), values_left: MAX_KEY_VALUES };
    let mut fields = written.fields(one)?;
    fields.extend(written.fields(other)?);
    written.object(fields, 1)?;
    Ok(written.json)
}

struct Written {
    json: String,
    values_left: usize,
}

impl Written {
    fn count(&mut self) -> Result<(), InvalidSignature> {
        const MANY: InvalidSignature = InvalidSignature::Form("its key has more than 256 values");
        self.values_left = self.values_left.checked_sub(1).ok_or(MANY)?;
        Ok(())
    }

    fn put(&mut self, piece: &str) -> Result<(), InvalidSignature> {
        if self.json.len() + piece.len() > MAX_SIGNATURE {
            return Err(TOO_LONG);
        }
        self.json.push_str(piece);
        Ok(())
    }

    fn fields<'a>(&mut self, object: Raw<'a>) -> Result<BTreeMap<Cow<'a, str>, Raw<'a>>, InvalidSignature> {
        let mut fields = BTreeMap::new();
        object.object(|name, value| {
            self.count()?;
            fields.insert(name.text(MAX_SIGNATURE)?.ok_or(TOO_LONG)?, value);
            Ok::<_, InvalidSignature>(())
        })?;
        Ok(fields)
    }

    fn object(
        &mut self,
        fields: BTreeMap<Cow<'_, str>, Raw<'_>>,
        depth: usize,
    ) -> Result<(), InvalidSignature> {
        self.put("{")?;
        for (n, (name, value)) in fields.into_iter().enumerate() {
            self.put(if n > 0 { "," } else { "" })?;
            self.text(&name)?;
            self.put(":")?;
            self.value(value, depth)?;
        }
        self.put("}")
    }

    /// Writes a value within `depth` arrays and objects.
    fn value(&mut self, value: Raw<'_>, depth: usize) -> Result<(), InvalidSignature> {
        match value.json().as_bytes().first() {
            Some(b'{' | b'[') if depth == MAX_KEY_DEPTH => {
                Err(InvalidSignature::Form("its key is nested more than 8 levels deep"))
            }
            Some(b'{') => {
                let fields = self.fields(value)?;
                self.object(fields, depth + 1)
            }
            Some(b'[') => {
                self.put("[")?;
                let mut is_first = true;
                value.array(|element| {
                    self.count()?;
                    self.put(if std::mem::take(&mut is_first) { "" } else { "," })?;
                    self.value(element, depth + 1)
                })?;
                self.put("]")
            }
            Some(b'"') => self.text(&value.text(MAX_SIGNATURE)?.ok_or(TOO_LONG)?),
            Some(b't' | b'f' | b'n') => self.put(value.json()),
            _ => self.number(value.json()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), InvalidSignature> {
        self.put("\"")?;
        for piece in text.split_inclusive(is_escaped) {
            let last = piece.chars().next_back().filter(|last| is_escaped(*last));
            self.put(piece.get(..piece.len() - last.map_or(0, char::len_utf8)).unwrap_or_default())?;
            match last {
                None => {}
                Some('"') => self.put("\\\"")?,
                Some('\\') => self.put("\\\\")?,
                Some('\n') => self.put("\\n")?,
                Some('\r') => self.put("\\r")?,
                Some('\t') => self.put("\\t")?,
                Some(other) => self.put(&format!("\\u{:04x}", u32::from(other)))?,
            }
        }
        self.put("\"")
    }

    /// Writes a number as Go did it until 1.7, which reads it as one with 64 bits: `1e+06`.
    fn number(&mut self, json: &str) -> Result<(), InvalidSignature> {
        const FORM: InvalidSignature = InvalidSignature::Form("its key has a number that is too large");
        let number: f64 = json.parse().ok().filter(|number: &f64| number.is_finite()).ok_or(FORM)?;
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').ok_or(FORM)?;
        match exponent.parse().map_err(|_| FORM)? {
            -4..6 => self.put(&number.to_string()),
            exponent @ i32::MIN..=i32::MAX => self.put(&format!("{digits}e{exponent:+03}")),
        }
    }
}

/// Whether Go escapes a character of a text: those that HTML or JavaScript would read as their own as well.
fn is_escaped(character: char) -> bool {
    character < ' ' || matches!(character, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

/// Writes compact JSON, indented as Go does it, for a value that is `depth` levels deep.
pub(super) fn write_indented(json: &str, indent: &str, mut depth: usize, write: &mut dyn FnMut(&str)) {
    let line = |depth: usize, write: &mut dyn FnMut(&str)| {
        write("\n");
        (0..depth).for_each(|_| write(indent));
    };
    let (mut rest, mut is_text) = (json, false);
    while let Some(at) =
        rest.find(|next| if is_text { matches!(next, '"' | '\\') } else { "\"{}[],:".contains(next) })
    {
        // An escape has a second character, which is not the end of the text; an empty object or array has no lines.
        let is_pair = rest.get(at..).is_some_and(|found| {
            found.starts_with('\\') || found.starts_with("{}") || found.starts_with("[]")
        });
        let found = rest.as_bytes().get(at).copied();
        let (before, after) = rest.split_at_checked(at + 1 + usize::from(is_pair)).unwrap_or((rest, ""));
        rest = after;
        match found {
            Some(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                write(before.get(..at).unwrap_or_default());
                line(depth, write);
                write(before.get(at..).unwrap_or_default());
                continue;
            }
            Some(b'"') => is_text = !is_text,
            _ => {}
        }
        write(before);
        match found {
            Some(b'{' | b'[') if !is_pair => {
                depth += 1;
                line(depth, write);
            }
            Some(b',') => line(depth, write),
            Some(b':') => write(" "),
            _ => {}
        }
    }
    write(rest);
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_go_does_it() {
        let json = r#"{"a":[],"b":{},"c":["\\\"[,:",{"\u0022":"}"}],"d":[[1,null]],"é":-1.5e3}"#;
        let mut text = String::new();
        write_indented(json, " ", 1, &mut |piece| text.push_str(piece));
        let expected = r#"{
  "a": [],
  "b": {},
  "c": [
   "\\\"[,:",
   {
    "\u0022": "}"
   }
  ],
  "d": [
   [
    1,
    null
   ]
  ],
  "é": -1.5e3
 }"#;
        assert_eq!(text, expected);
    }
}
