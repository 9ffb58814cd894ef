//! Variables as text, and parsers shared by several groups of settings.

use std::str::FromStr;

use super::ConfigError;

pub use crate::platform::seconds;

/// The variables, and the errors found so far.
pub(super) struct Vars<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<String>,
    /// The names read so far, in order.
    pub names: Vec<&'static str>,
}

impl<'a> Vars<'a> {
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, errors: Vec::new(), names: Vec::new() }
    }

    pub fn finish(self) -> Result<(), ConfigError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ConfigError(self.errors)) }
    }

    pub fn error(&mut self, error: String) {
        self.errors.push(error);
    }

    /// Whether a variable with this prefix is invalid.
    pub fn has_error_in(&self, prefix: &str) -> bool {
        self.errors.iter().any(|error| error.starts_with(prefix))
    }

    /// A variable, trimmed; `None` if it is not set or empty.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.names.push(name);
        (self.lookup)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// A variable that may be empty; `None` only if it is not set.
    pub fn binding(&mut self, name: &'static str) -> Option<String> {
        self.names.push(name);
        (self.lookup)(name)
    }

    /// A variable that another one refers to.
    pub fn other(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// A variable, parsed by `parse`. The error of `parse` describes the expected value.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(text) = self.text(name) else { return default };
        parse(&text).unwrap_or_else(|expected| {
            self.errors.push(format!("{name} must be {expected}"));
            default
        })
    }

    /// A variable that must be set, parsed by its type. `expected` says how to set it.
    pub fn required<T: FromStr<Err = String>>(
        &mut self,
        name: &'static str,
        default: T,
        expected: &str,
    ) -> T {
        match self.text(name) {
            Some(text) => text.parse().unwrap_or_else(|wrong| {
                self.errors.push(format!("{name} must be {wrong}"));
                default
            }),
            None => {
                self.errors.push(format!("{name} must be {expected}"));
                default
            }
        }
    }

    /// A variable, parsed by its type.
    pub fn parse<T: FromStr<Err = String>>(&mut self, name: &'static str, default: T) -> T {
        self.read(name, default, str::parse)
    }
}

/// A number up to a million.
pub(super) fn number(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number <= 1_000_000);
    number.ok_or_else(|| "a number from 0 to 1000000".to_owned())
}

/// `on` or `off`.
pub(super) fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("one of on, off".to_owned()),
    }
}
