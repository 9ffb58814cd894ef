//! Reads fields of a TOML document that an operator has written, and notes every error with its line.

use std::ops::{Range, RangeInclusive};

use toml::de::{DeString, DeTable, DeValue};

use crate::oci::Glob;

/// A value and its line.
pub type Lined<T> = (usize, T);

/// The name of a field, and its text.
pub type Named<'a> = (DeString<'a>, Lined<DeString<'a>>);

/// The lines of a document, and the errors in it.
pub struct Reader {
    /// Where lines end, in bytes.
    ends: Vec<usize>,
    /// By line.
    errors: Vec<Lined<String>>,
}

/// A table. Fields leave it as they are read.
pub struct Table<'a> {
    pub line: usize,
    fields: Vec<(DeString<'a>, Lined<DeValue<'a>>)>,
}

impl<'a> Table<'a> {
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    fn take(&mut self, name: &str) -> Option<Lined<DeValue<'a>>> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.swap_remove(at).1)
    }
}

impl Reader {
    /// Parses a document. Its errors, without a value, are those of TOML.
    pub fn parse(text: &str) -> Result<(Self, Table<'_>), Vec<String>> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        let mut reader = Self { ends, errors: Vec::new() };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = reader.line(error.span().unwrap_or(text.len()..text.len()));
            reader.error(line, format!("invalid TOML: {}", error.message()));
        }
        match reader.errors.is_empty() {
            true => {
                let document = reader.fields(1, document.into_inner());
                Ok((reader, document))
            }
            false => Err(reader.finish()),
        }
    }

    /// All errors, in the order of their lines.
    pub fn finish(self) -> Vec<String> {
        self.errors.into_iter().map(|(line, error)| format!("line {line}: {error}")).collect()
    }

    /// The number of errors so far.
    pub fn errors(&self) -> usize {
        self.errors.len()
    }

    pub fn error(&mut self, line: usize, error: impl Into<String>) {
        // A sort would be more code in the worker.
        let at = self.errors.partition_point(|(other, _)| *other <= line);
        self.errors.insert(at, (line, error.into()));
    }

    fn line(&self, span: Range<usize>) -> usize {
        self.ends.partition_point(|end| *end < span.start) + 1
    }

    fn fields<'a>(&self, line: usize, table: DeTable<'a>) -> Table<'a> {
        let lined = |value: toml::Spanned<DeValue<'a>>| (self.line(value.span()), value.into_inner());
        let fields = table.into_iter().map(|(name, value)| (name.into_inner(), lined(value))).collect();
        Table { line, fields }
    }

    /// The tables of the list `[[name]]`; none if there is no such list.
    pub fn tables<'a>(&mut self, document: &mut Table<'a>, name: &str) -> Vec<Table<'a>> {
        let Some((line, value)) = document.take(name) else { return Vec::new() };
        let (values, mut is_list) = match value {
            DeValue::Array(values) => (values, true),
            _ => (Default::default(), false),
        };
        let mut tables = Vec::with_capacity(values.len());
        for value in values {
            let line = self.line(value.span());
            match value.into_inner() {
                DeValue::Table(table) => tables.push(self.fields(line, table)),
                _ => is_list = false,
            }
        }
        if !is_list {
            self.error(line, format!("{name} must be a list of tables: [[{name}]]"));
        }
        tables
    }

    /// Whether a field is there, which must then be `true`.
    pub fn is_true(&mut self, table: &mut Table<'_>, name: &str) -> bool {
        match table.take(name) {
            None => false,
            Some((_, DeValue::Boolean(true))) => true,
            Some((line, _)) => {
                self.error(line, format!("{name} must be true"));
                false
            }
        }
    }

    /// A field that is `true` or `false`; `false` if it is missing, or wrong, which is an error.
    pub fn flag(&mut self, table: &mut Table<'_>, name: &str) -> bool {
        match table.take(name) {
            None => false,
            Some((_, DeValue::Boolean(flag))) => flag,
            Some((line, _)) => {
                self.error(line, format!("{name} must be true or false"));
                false
            }
        }
    }

    /// A field with a decimal number; `None` if it is missing, or wrong, which is an error.
    pub fn number(&mut self, table: &mut Table<'_>, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let (line, value) = table.take(name)?;
        let number = match value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.error(line, format!("{name} must be a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A field that is `true`, which is `None`, or text; `None` if it is missing, or wrong, which is an error.
    pub fn true_or_text<'a>(
        &mut self,
        table: &mut Table<'a>,
        name: &str,
        expected: &str,
    ) -> Option<Lined<Option<DeString<'a>>>> {
        match table.take(name)? {
            (line, DeValue::Boolean(true)) => Some((line, None)),
            (line, DeValue::String(text)) => Some((line, Some(text))),
            (line, _) => {
                self.error(line, format!("{name} must be {expected}"));
                None
            }
        }
    }

    /// A field with text; `None` if it is missing, or wrong, which is an error.
    pub fn text<'a>(&mut self, table: &mut Table<'a>, name: &str) -> Option<Lined<DeString<'a>>> {
        match table.take(name)? {
            (line, DeValue::String(text)) => Some((line, text)),
            (line, _) => {
                self.error(line, format!("{name} must be text"));
                None
            }
        }
    }

    /// A field with a list of texts; `None` if it is missing, or wrong, which is an error.
    pub fn texts<'a>(
        &mut self,
        table: &mut Table<'a>,
        name: &str,
        expected: &str,
    ) -> Option<Lined<Vec<Lined<DeString<'a>>>>> {
        let (line, value) = table.take(name)?;
        let mut texts = Vec::new();
        let DeValue::Array(values) = value else {
            self.error(line, format!("{name} must be {expected}"));
            return None;
        };
        for value in values {
            let line = self.line(value.span());
            match value.into_inner() {
                DeValue::String(text) => texts.push((line, text)),
                _ => self.error(line, format!("{name} must be {expected}")),
            }
        }
        Some((line, texts))
    }

    /// A field with at least one pattern. `parse` is `None` for a text that is none.
    pub fn patterns(
        &mut self,
        table: &mut Table<'_>,
        name: &str,
        expected: &str,
        parse: fn(&str) -> Option<Glob>,
    ) -> Option<Vec<Glob>> {
        let errors = self.errors();
        let (line, texts) = self.texts(table, name, expected)?;
        let mut patterns = Vec::new();
        for (line, text) in texts {
            match parse(&text) {
                Some(glob) => patterns.push(glob),
                None => self.error(line, format!("{name} must be {expected}, not {text:?}")),
            }
        }
        if patterns.is_empty() && self.errors() == errors {
            self.error(line, format!("{name} must be {expected}, at least one"));
        }
        Some(patterns)
    }

    /// The patterns of the repositories that a table is for: it must have them.
    pub fn repositories(&mut self, table: &mut Table<'_>) -> Option<Vec<Glob>> {
        if !table.has("repositories") {
            self.error(table.line, "repositories must be set: [\"**\"] is all");
        }
        let expected = "a list of patterns of repository names";
        self.patterns(table, "repositories", expected, Glob::of_repositories)
    }

    /// A field with a table of texts; `None` if it is missing, or wrong, which is an error.
    pub fn named_texts<'a>(
        &mut self,
        table: &mut Table<'a>,
        name: &str,
        expected: &str,
    ) -> Option<Lined<Vec<Named<'a>>>> {
        let (line, value) = table.take(name)?;
        let DeValue::Table(fields) = value else {
            self.error(line, format!("{name} must be {expected}"));
            return None;
        };
        let mut texts = Vec::new();
        for (field, (line, value)) in self.fields(line, fields).fields {
            match value {
                DeValue::String(text) => texts.push((field, (line, text))),
                _ => self.error(line, format!("{name} must be {expected}: {field} must be text")),
            }
        }
        Some((line, texts))
    }

    /// Notes every field that is left, after those that are known were taken.
    pub fn finish_table(&mut self, table: Table<'_>, known: &str) {
        for (name, (line, _)) in table.fields {
            self.error(line, format!("unknown field {name:?}: expected {known}"));
        }
    }
}
