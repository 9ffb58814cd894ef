//! The requests of the harness, one after another, while nothing goes wrong: they fill the repositories in the
//! beginning, and read and remove whatever is listed in the end.

use super::{HARNESS, World};
use crate::{
    clients::{Focus, Kind, Operation, Read},
    inspect,
    model::{Outcome, Register, Violation, Wrong, violation},
    universe::{BLOBS, MANIFESTS, TAGS, UNIVERSE},
};

impl World {
    /// Fills the repositories, some of them by halves.
    pub(super) fn prepare(&mut self) -> Result<(), Violation> {
        let Focus { repositories, tags, manifests, .. } = self.setup.focus;
        let mut plan = Vec::new();
        for repository in 0..repositories {
            for blob in (0..BLOBS).filter(|_| self.random.chance(850)) {
                plan.push(Operation { blob, ..Operation::new(Kind::PushBlob, repository) });
            }
            for manifest in 0..manifests {
                if !self.random.chance(600) {
                    continue;
                }
                let tags = (0..tags).filter(|_| self.random.chance(400)).collect();
                plan.push(Operation { manifest, tags, ..Operation::new(Kind::PushWithTags, repository) });
            }
        }
        for operation in plan {
            self.ask(operation)?;
        }
        self.rest()
    }

    /// Sends a request while nothing goes wrong, and waits for its answer.
    pub(super) fn ask(&mut self, operation: Operation) -> Result<Outcome, Violation> {
        self.calm = true;
        self.asked = None;
        self.begin(operation, HARNESS);
        self.step_while(|world| world.asked.is_none())?;
        Ok(self.asked.take().unwrap_or(Outcome::Lost))
    }

    /// Reads and removes whatever is listed, through the API, while nothing goes wrong.
    pub(super) fn tear_down(&mut self) -> Result<(), Violation> {
        self.lift_immutability();
        let tags_first = self.random.chance(500);
        for repository in 0..self.setup.focus.repositories {
            let of = |kind| Operation::new(kind, repository);
            let read = |read| Operation { read, ..of(Kind::Read) };
            let is_there = |world: &Self, register| inspect::value(&world.bucket, register).is_some();
            let listed = self.listed(read(Read::Tags))?;
            for tag in (0..TAGS).filter(|tag| listed.contains(&format!("\"{}\"", UNIVERSE.tags[*tag]))) {
                self.expect(Operation { tags: vec![tag], ..read(Read::Tag) }, 200)?;
                if tags_first {
                    self.expect(Operation { tags: vec![tag], ..of(Kind::DeleteTag) }, 202)?;
                }
            }
            let listed = self.listed(read(Read::Referrers))?;
            for manifest in 0..MANIFESTS {
                let is_listed = listed.contains(UNIVERSE.manifests[manifest].digest.hex());
                if is_listed || is_there(self, Register::Manifest(repository, manifest)) {
                    self.expect(Operation { manifest, ..read(Read::Manifest) }, 200)?;
                    self.expect(Operation { manifest, ..of(Kind::DeleteManifest) }, 202)?;
                }
            }
            for blob in 0..BLOBS {
                if is_there(self, Register::Blob(repository, blob)) {
                    self.expect(Operation { blob, ..read(Read::Blob) }, 200)?;
                    self.expect(Operation { blob, ..of(Kind::DeleteBlob) }, 202)?;
                }
            }
            for list in [Read::Tags, Read::Referrers] {
                let listed = self.listed(read(list))?;
                if !listed.contains("[]") && !listed.contains("errors") {
                    return violation(Wrong::NotRemovable, listed);
                }
            }
        }
        let listed = self.listed(Operation { read: Read::Catalog, ..Operation::new(Kind::Read, 0) })?;
        for (repository, name) in UNIVERSE.repositories.iter().enumerate() {
            if listed.contains(name.as_str()) {
                self.expect(Operation { read: Read::Tags, ..Operation::new(Kind::Read, repository) }, 200)?;
            }
        }
        self.rest()
    }

    fn expect(&mut self, operation: Operation, status: u16) -> Result<(), Violation> {
        let line = operation.line();
        match self.ask(operation)?.status() {
            Some(found) if found == status => Ok(()),
            found => violation(Wrong::NotRemovable, format!("{line:?}: {found:?} in place of {status}")),
        }
    }

    /// The body of a list.
    fn listed(&mut self, operation: Operation) -> Result<String, Violation> {
        Ok(match self.ask(operation)? {
            Outcome::Answer { body, .. } => String::from_utf8_lossy(&body).into_owned(),
            Outcome::Lost => String::new(),
        })
    }
}
