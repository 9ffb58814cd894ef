//! What retention may have dropped, and what it must have dropped in the end.
//!
//! The bucket is looked at after each of its changes. What is gone then, and no client has deleted, the job has dropped:
//! by the times in the bucket, a rule must have let it.

use std::collections::BTreeMap;

use pierhead::{platform::Timestamp, repository::writer::order::REMEMBER, storage::Path};

use crate::{
    clients::Operation,
    inspect,
    model::{Model, Register, Value, Violation, Wrong, violation},
    promises::Moment,
    retention::{REPOSITORY, Retention, Rule, UNTAGGED},
    store::Bucket,
    universe::{MANIFESTS, SUBJECT, TAGS, UNIVERSE},
};

/// A push of what is linked since less than this counts from then, in seconds.
const RENEWED: u64 = 60;

/// How much shorter than [`REMEMBER`] an index is refused after one of its manifests was dropped, at least, in seconds.
const SLACK: u64 = 50;

/// What is there.
#[derive(Default)]
struct Found {
    /// What each tag points to, and since when.
    tags: BTreeMap<usize, (Value, Timestamp)>,
    /// Since when each manifest is linked.
    manifests: BTreeMap<usize, Timestamp>,
}

impl Found {
    fn by(bucket: &Bucket) -> Self {
        let modified = |path: &Path| bucket.meta(path).map(|meta| meta.modified);
        let tags = (0..TAGS).filter_map(|tag| {
            let value = inspect::value(bucket, Register::Tag(REPOSITORY, tag));
            Some((tag, (value, modified(&UNIVERSE.tag(REPOSITORY, tag).link)?)))
        });
        let manifests =
            (0..MANIFESTS).filter_map(|of| Some((of, modified(&UNIVERSE.manifest(REPOSITORY, of).link)?)));
        Self { tags: tags.collect(), manifests: manifests.collect() }
    }

    fn has_tag_to(&self, manifest: usize) -> bool {
        self.tags.values().any(|(value, _)| *value == Some(manifest as u8))
    }

    /// The index that names a manifest, if there is one.
    fn index_of(&self, manifest: usize) -> Option<usize> {
        let names = |index: &&usize| UNIVERSE.manifests[**index].children.contains(&manifest);
        self.manifests.keys().find(names).copied()
    }
}

/// An acknowledged manifest that is there.
struct Acknowledged {
    /// The manifests of an index that were there.
    children: Vec<usize>,
}

/// What the job may have dropped.
#[derive(Default)]
pub struct Retained {
    rule: Option<&'static Rule>,
    found: Found,
    /// When each tag was pushed last, whether or not it is there.
    last: BTreeMap<usize, Timestamp>,
    /// When a push of each manifest without a tag was sent that was acknowledged.
    pushed: BTreeMap<usize, u64>,
    acknowledged: BTreeMap<usize, Acknowledged>,
    /// When each manifest was dropped that is not there, in seconds.
    dropped: BTreeMap<usize, u64>,
    /// The last step at which each manifest was not there.
    absent: BTreeMap<usize, u64>,
}

impl Retained {
    /// Nothing yet.
    pub fn new(retention: Option<Retention>) -> Self {
        Self { rule: retention.map(|retention| retention.rule), ..Self::default() }
    }

    /// An operation that was sent at `started` is acknowledged.
    pub fn acknowledge(&mut self, operation: &Operation, started: Moment, now: u64) -> Result<(), Violation> {
        let manifest = operation.manifest;
        if self.rule.is_none() || operation.repository != REPOSITORY || !operation.pushes_manifest() {
            return Ok(());
        }
        if operation.moved_tags().is_empty() {
            self.pushed.insert(manifest, started.seconds);
        }
        if !self.found.manifests.contains_key(&manifest) {
            return Ok(());
        }
        let (children, gone): (Vec<usize>, Vec<usize>) = (UNIVERSE.manifests[manifest].children.iter())
            .partition(|child| self.found.manifests.contains_key(child));
        for child in gone {
            let is_lately = |at: &&u64| now < **at + REMEMBER - SLACK;
            if let Some(at) = self.dropped.get(&child).filter(is_lately) {
                let detail = format!("an index of {child} was acknowledged, which was dropped at {at} s");
                return violation(Wrong::Dropped, detail);
            }
        }
        self.acknowledged.insert(manifest, Acknowledged { children });
        Ok(())
    }

    /// An operation that was sent at `started` is refused: an index whose manifests were all there is not.
    pub fn refuse(&self, operation: &Operation, started: Moment) -> Result<(), Violation> {
        let children = &UNIVERSE.manifests[operation.manifest].children;
        if self.rule.is_none() || operation.repository != REPOSITORY || children.is_empty() {
            return Ok(());
        }
        let was_there = |child: &usize| {
            self.found.manifests.contains_key(child)
                && self.absent.get(child).is_none_or(|step| *step < started.step)
        };
        match operation.pushes_manifest() && children.iter().all(was_there) {
            true => {
                violation(Wrong::ImageRefused, format!("{:?}, and {children:?} are there", operation.line()))
            }
            false => Ok(()),
        }
    }

    /// Whether a manifest has been there since it was acknowledged.
    pub fn is_acknowledged(&self, manifest: usize) -> bool {
        self.acknowledged.contains_key(&manifest)
    }

    /// The bucket has changed.
    pub fn look(&mut self, bucket: &Bucket, model: &mut Model, at: Moment) -> Result<(), Violation> {
        let Some(rule) = self.rule else { return Ok(()) };
        let now = Timestamp(at.seconds * 1000);
        let before = std::mem::replace(&mut self.found, Found::by(bucket));
        let gone = |manifest: &usize| {
            !self.found.manifests.contains_key(manifest) || !before.manifests.contains_key(manifest)
        };
        self.absent.extend((0..MANIFESTS).filter(gone).map(|manifest| (manifest, at.step)));
        for (tag, (_, pushed)) in &self.found.tags {
            self.last.insert(*tag, *pushed);
        }
        for (tag, (value, pushed)) in &before.tags {
            let register = Register::Tag(REPOSITORY, *tag);
            if self.found.tags.contains_key(tag) || !model.is_kept(register) {
                continue;
            }
            let others = self.last.iter().filter(|(other, _)| *other != tag);
            let others: Vec<Timestamp> = others.map(|(_, pushed)| *pushed).collect();
            if rule.keeps(*tag, *pushed, &others, now) {
                let detail = format!("{register:?}, {value:?} since {pushed:?}, at {now:?}, by {rule:?}");
                return violation(Wrong::Dropped, detail);
            }
            model.vanish(register);
        }
        for (manifest, linked) in &before.manifests {
            let register = Register::Manifest(REPOSITORY, *manifest);
            if self.found.manifests.contains_key(manifest) {
                continue;
            }
            self.acknowledged.remove(manifest);
            if !model.is_kept(register) {
                continue;
            }
            let pushed = self.pushed.get(manifest).map(|at| Timestamp(at.saturating_sub(RENEWED) * 1000));
            let why = match before.index_of(*manifest) {
                _ if now < linked.plus_seconds(UNTAGGED) => "it is young",
                _ if pushed.is_some_and(|pushed| now < pushed.plus_seconds(UNTAGGED)) => {
                    "it was pushed again"
                }
                _ if before.has_tag_to(*manifest) => "it has a tag",
                Some(_) => "an index names it",
                None => {
                    self.dropped.insert(*manifest, at.seconds);
                    model.vanish(register);
                    continue;
                }
            };
            let detail = format!("{register:?}, linked at {linked:?}, dropped at {now:?}: {why}");
            return violation(Wrong::Dropped, detail);
        }
        self.dropped.retain(|manifest, _| !self.found.manifests.contains_key(manifest));
        for (index, Acknowledged { children }) in &self.acknowledged {
            let is_gone = |child: &&usize| {
                !self.found.manifests.contains_key(child)
                    && model.is_kept(Register::Manifest(REPOSITORY, **child))
            };
            if let Some(child) = children.iter().find(is_gone) {
                return violation(Wrong::Dropped, format!("manifest {child}, which the index {index} names"));
            }
        }
        Ok(())
    }

    /// What is there although no rule keeps it, long after the last push, when the job has run often enough.
    pub fn left(&self, bucket: &Bucket) -> Vec<String> {
        let Some(rule) = self.rule else { return Vec::new() };
        let found = Found::by(bucket);
        let mut left = Vec::new();
        for (tag, (_, pushed)) in &found.tags {
            let others = found.tags.iter().filter(|(other, _)| *other != tag);
            // Of those pushed in the same second, the last by name stays.
            let later = others.filter(|(other, (_, at))| (at, *other) > (pushed, tag)).count();
            if !rule.keeps.contains(tag) && later >= rule.last {
                left.push(format!("tag {tag}"));
            }
        }
        for manifest in found.manifests.keys() {
            let has_subject =
                UNIVERSE.manifests[*manifest].has_subject && found.manifests.contains_key(&SUBJECT);
            if !found.has_tag_to(*manifest) && found.index_of(*manifest).is_none() && !has_subject {
                left.push(format!("manifest {manifest}"));
            }
        }
        left
    }
}
