//! Settings of retention.

use super::Vars;
use crate::retention::Retention;

/// What repositories keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionConfig {
    /// `RETENTION`: the rules. Without any, nothing is dropped.
    pub rules: Retention,
}

impl RetentionConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        // A variable that is not set does no harm here, unlike that of the policy.
        let Some(text) = vars.text("RETENTION") else { return Self::default() };
        let rules = Retention::parse(&text).unwrap_or_else(|errors| {
            errors.iter().for_each(|error| vars.error(format!("RETENTION, {error}")));
            Retention::default()
        });
        Self { rules }
    }
}
