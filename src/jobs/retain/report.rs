//! What a step of the retain job reports.

use serde_json::{Value, json};

use crate::{
    oci::{Digest, RepositoryName, Tag},
    repository::RepositoryError,
    retention::Verdict,
};

/// Limit of the decisions that a report lists. The numbers count all.
const MAX_DECISIONS: usize = 100;

/// Limit of the failures that a report lists.
const MAX_FAILURES: usize = 10;

#[derive(Default)]
pub(super) struct Report {
    is_dry: bool,
    /// Those that the step has begun with.
    pub repositories: usize,
    tags_kept: usize,
    tags_dropped: usize,
    tags_immutable: usize,
    /// Pushed while the step decided: they stay.
    pub tags_changed: usize,
    manifests_kept: usize,
    manifests_dropped: usize,
    /// Needed again while the step decided, perhaps: they stay.
    pub manifests_changed: usize,
    /// Notes of pulls that are of no use any more.
    pub notes: usize,
    failures: usize,
    messages: Vec<String>,
    too_large: Vec<String>,
    dropped: Vec<Value>,
    kept: Vec<Value>,
}

fn list(decisions: &mut Vec<Value>, decision: impl FnOnce() -> Value) {
    if decisions.len() < MAX_DECISIONS {
        decisions.push(decision());
    }
}

impl Report {
    pub fn new(is_dry: bool) -> Self {
        Self { is_dry, ..Self::default() }
    }

    pub fn tag(&mut self, name: &RepositoryName, tag: &Tag, verdict: &Verdict) {
        let (count, decisions) = match verdict.is_kept {
            true => (&mut self.tags_kept, &mut self.kept),
            false => (&mut self.tags_dropped, &mut self.dropped),
        };
        *count += 1;
        list(decisions, || json!({"repository": name, "tag": tag, "verdict": verdict.to_string()}));
    }

    /// A tag that no rule keeps, but the policy: by the entry in this line, if it is known.
    pub fn immutable(&mut self, name: &RepositoryName, tag: &Tag, line: Option<usize>) {
        self.tags_immutable += 1;
        let line = line.map(|line| format!(" by line {line}")).unwrap_or_default();
        let verdict = format!("kept: the policy makes it immutable{line}");
        list(&mut self.kept, || json!({"repository": name, "tag": tag, "verdict": verdict}));
    }

    /// An untagged manifest: what keeps it, or the line of the rule that drops it.
    pub fn manifest(&mut self, name: &RepositoryName, digest: &Digest, verdict: Result<&str, usize>) {
        let (count, decisions) = match verdict {
            Ok(_) => (&mut self.manifests_kept, &mut self.kept),
            Err(_) => (&mut self.manifests_dropped, &mut self.dropped),
        };
        *count += 1;
        let verdict = match verdict {
            Ok(reason) => format!("kept: {reason}"),
            Err(line) => format!("dropped by the rule in line {line}: untagged, and nothing needs it"),
        };
        list(decisions, || json!({"repository": name, "digest": digest, "verdict": verdict}));
    }

    pub fn failed(&mut self, error: &RepositoryError) {
        self.failures += 1;
        if self.messages.len() < MAX_FAILURES {
            self.messages.push(error.to_string());
        }
    }

    /// A repository with more keys than a step can list.
    pub fn too_large(&mut self, name: &RepositoryName) {
        if !self.too_large.iter().any(|known| known == name.as_str()) {
            self.too_large.push(name.to_string());
        }
    }

    pub fn json(self) -> Value {
        let mut decisions = self.dropped;
        decisions.extend(self.kept);
        decisions.truncate(MAX_DECISIONS);
        let mut report = json!({
            "dry_run": self.is_dry,
            "repositories": self.repositories,
            "tags": {
                "kept": self.tags_kept, "dropped": self.tags_dropped,
                "immutable": self.tags_immutable, "changed": self.tags_changed,
            },
            "manifests": {
                "kept": self.manifests_kept, "dropped": self.manifests_dropped, "changed": self.manifests_changed,
            },
            "pull_notes": self.notes,
            "decisions": decisions,
        });
        if let Some(report) = report.as_object_mut() {
            if self.failures > 0 {
                report.insert("failures".to_owned(), self.failures.into());
                report.insert("failed".to_owned(), self.messages.into());
            }
            if !self.too_large.is_empty() {
                report.insert("too_large".to_owned(), self.too_large.into());
            }
        }
        report
    }
}
