//! The retain job: deletes the tags and untagged manifests that no rule of retention keeps.
//!
//! A step goes on where the last one ended: repository by repository, first the tags, then the untagged manifests, then
//! notes of pulls that are of no use any more. Times are those of the objects in the bucket, from listings. What is
//! deleted goes through the repository and its writer, which looks once more whether it was pushed since.

mod cursor;
mod report;
mod untagged;

use futures_util::future::LocalBoxFuture;

use self::{cursor::Cursor, report::Report, untagged::Scan};
use super::{Job, Step};
use crate::{
    app::App,
    context::Context,
    layout::Key,
    oci::{Digest, RepositoryName, Tag},
    platform::Timestamp,
    repository::{RepositoryError, Seen, catalog::repositories},
    retention::{Ranking, Retention, Rules, TagTimes},
    storage::{ObjectMeta, Page, Path, StorageError, StorageErrorKind, Store},
};

/// After so many calls a step ends. It may finish what it has begun to list.
const CALLS: usize = 400;

/// Names of the catalog per call.
const NAMES: usize = 1000;

/// Limit of listings of a repository's tags or manifests in a step, of 1,000 keys each. A repository with more keeps what
/// cannot be decided without all of them.
const LISTINGS: usize = 300;

/// Size limit of a tag's link, in bytes.
const MAX_LINK: usize = 256;

/// The end of the path of a tag's link, below the folder of tags.
const CURRENT: &str = "/current/link";

/// Deletes what no rule of retention keeps.
pub struct Retain {
    /// Whether to only report. So does every run if the rules or `READ_ONLY` say so.
    pub dry_run: bool,
}

impl Job for Retain {
    fn name(&self) -> &'static str {
        "retain"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            let rules = &app.config.retention.rules;
            let is_dry = self.dry_run || rules.dry_run || app.config.auth.read_only;
            let mut run = Run {
                app,
                context,
                store: app.store(context),
                rules,
                now: app.clock.now(),
                is_dry,
                left: CALLS,
                report: Report::new(is_dry),
                ranking: None,
                scan: None,
            };
            // One of an earlier version, or of nobody, is as good as none: every step looks at what is there.
            let mut at = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or_default();
            let next = loop {
                match run.advance(at).await? {
                    Some(next) if run.left == 0 => break Some(next),
                    Some(next) => at = next,
                    None => break None,
                }
            };
            if let Some(next) = &next {
                run.save_scan(next).await?;
            }
            Ok(Step { report: run.report.json(), next: next.map(|next| next.to_string()) })
        })
    }
}

/// A step that is under way.
struct Run<'a> {
    app: &'a App,
    context: &'a Context,
    store: Store,
    rules: &'a Retention,
    now: Timestamp,
    is_dry: bool,
    /// The calls that are left.
    left: usize,
    report: Report,
    /// The last tags of a repository; `None` for one with too many.
    ranking: Option<(RepositoryName, Option<Ranking>)>,
    scan: Option<Scan>,
}

impl<'a> Run<'a> {
    fn rules_of(&self, name: &RepositoryName) -> Rules<'a> {
        self.rules.rules_of(name)
    }

    fn spend(&mut self, calls: usize) {
        self.left = self.left.saturating_sub(calls);
    }

    /// Does one thing, and returns where to go on; `None` at the end.
    async fn advance(&mut self, at: Cursor) -> Result<Option<Cursor>, RepositoryError> {
        Ok(Some(match at {
            Cursor::After(last) => return self.next_repository(last).await,
            Cursor::Tags { name, after } => self.tags(name, &after).await?,
            Cursor::Scan { name, id, after } => self.scan(name, &id, after).await?,
            Cursor::Untagged { name, id, after } => self.untagged(name, &id, after).await?,
            Cursor::Pulls { name, after } => self.pulls(name, &after).await?,
        }))
    }

    /// Looks for the next repository that a rule is for.
    async fn next_repository(&mut self, last: String) -> Result<Option<Cursor>, RepositoryError> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        let after = Some(last.as_str()).filter(|last| !last.is_empty());
        let page = repositories(&self.store, after, NAMES).await?;
        self.spend(1);
        let mut names = page.entries.iter().filter_map(|name| name.parse::<RepositoryName>().ok());
        let Some(name) = names.find(|name| !self.rules_of(name).is_empty()) else {
            return Ok(page.next.map(Cursor::After));
        };
        self.report.repositories += 1;
        Ok(Some(match self.rules_of(&name).are_about_tags() {
            true => Cursor::Tags { name, after: String::new() },
            false => self.after_tags(name),
        }))
    }

    fn after_tags(&self, name: RepositoryName) -> Cursor {
        match self.rules_of(&name).untagged() {
            Some(_) => Cursor::scan(name),
            None => self.after_untagged(name),
        }
    }

    fn after_untagged(&self, name: RepositoryName) -> Cursor {
        match self.rules_of(&name).pulls() {
            Some(_) => Cursor::Pulls { name, after: String::new() },
            None => Cursor::After(name.to_string()),
        }
    }

    /// Decides about a page of tags.
    async fn tags(&mut self, name: RepositoryName, after: &str) -> Result<Cursor, RepositoryError> {
        let rules = self.rules_of(&name);
        let Some(ranking) = self.rank(&name, &rules).await? else {
            self.report.too_large(&name);
            return Ok(self.after_tags(name));
        };
        let folder = Key::Tags(&name).path().folder();
        let start = format!("{folder}{after}");
        let after = (!after.is_empty()).then_some(start.as_str());
        let listing = self.store.list(&folder, Page { after, ..Page::first() }).await?;
        self.spend(1);
        for (path, meta) in &listing.objects {
            let Some(tag) = current_tag(path, &folder) else { continue };
            // One bad object must not keep the job from the others.
            if let Err(error) = self.tag(&name, &rules, &ranking, tag, meta).await {
                self.report.failed(&error);
            }
            if self.left == 0 {
                return Ok(Cursor::Tags { name, after: below(path, &folder) });
            }
        }
        Ok(match listing.next {
            Some(next) => Cursor::Tags { after: below(&next, &folder), name },
            None => self.after_tags(name),
        })
    }

    /// The last tags of a repository, if a rule asks for them; `None` if it has too many.
    async fn rank(
        &mut self,
        name: &RepositoryName,
        rules: &Rules<'_>,
    ) -> Result<Option<Ranking>, RepositoryError> {
        match &self.ranking {
            _ if !rules.need_ranking() => return Ok(Some(Ranking::default())),
            Some((known, ranking)) if known == name => return Ok(ranking.clone()),
            _ => {}
        }
        let folder = Key::Tags(name).path().folder();
        let (mut ranking, mut after) = (Some(Ranking::default()), None::<String>);
        for listed in 1.. {
            let listing = self.store.list(&folder, Page { after: after.as_deref(), ..Page::first() }).await?;
            self.spend(1);
            for (path, meta) in &listing.objects {
                if let Some((ranking, tag)) = ranking.as_mut().zip(current_tag(path, &folder)) {
                    rules.rank(ranking, &tag, meta.modified);
                }
            }
            after = listing.next;
            if after.is_none() {
                break;
            }
            if listed == LISTINGS {
                ranking = None;
                break;
            }
        }
        self.ranking = Some((name.clone(), ranking.clone()));
        Ok(ranking)
    }

    async fn tag(
        &mut self,
        name: &RepositoryName,
        rules: &Rules<'_>,
        ranking: &Ranking,
        tag: Tag,
        listed: &ObjectMeta,
    ) -> Result<(), RepositoryError> {
        let mut times = TagTimes { tag, pushed: listed.modified, pulled: None };
        let mut verdict = rules.decide(ranking, &times, self.now);
        let tag = times.tag.clone();
        if verdict.is_kept {
            self.report.tag(name, &tag, &verdict);
            return Ok(());
        }
        if let Some(line) = self.app.policy.immutable_by(name, &tag) {
            self.report.immutable(name, &tag, Some(line));
            return Ok(());
        }
        let (asks_for_pulls, mut seen) = (rules.pulls().is_some(), None);
        if asks_for_pulls || !self.is_dry {
            self.spend(1);
            let Some(found) = self.target(&Key::TagCurrent(name, &tag).path()).await? else { return Ok(()) };
            // A listing may tell a time more exactly than a look-up.
            times.pushed = times.pushed.max(found.pushed);
            if asks_for_pulls {
                times.pulled = self.pulled(name, &found.digest).await?;
            }
            verdict = rules.decide(ranking, &times, self.now);
            seen = Some(found);
        }
        if verdict.is_kept {
            self.report.tag(name, &tag, &verdict);
            return Ok(());
        }
        if let Some(seen) = seen.filter(|_| !self.is_dry) {
            self.spend(1);
            match self.app.repository(name, self.context).delete_tag_seen(&tag, &seen).await {
                Ok(true) => {}
                Ok(false) => {
                    self.report.tags_changed += 1;
                    return Ok(());
                }
                Err(RepositoryError::Immutable { .. }) => {
                    self.report.immutable(name, &tag, None);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.report.tag(name, &tag, &verdict);
        Ok(())
    }

    /// What a tag points to, and since when; `None` if there is no such tag.
    async fn target(&self, path: &Path) -> Result<Option<Seen>, StorageError> {
        let Some((content, meta)) = self.store.read(path, MAX_LINK).await? else { return Ok(None) };
        match std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok()) {
            Some(digest) => Ok(Some(Seen { digest, pushed: meta.modified })),
            None => {
                let message = "the link does not hold a digest".to_owned();
                let kind = StorageErrorKind::Backend { operation: "read", message, retryable: false };
                Err(self.store.error(path, kind))
            }
        }
    }

    /// When a manifest was pulled last, as far as it is noted.
    async fn pulled(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Timestamp>, StorageError> {
        self.spend(1);
        let note = self.store.head(&Key::Pull(name, digest).path()).await?;
        Ok(note.map(|note| note.modified))
    }

    /// Removes a page of notes of pulls that are too old for any rule. Those of deleted manifests are among them: a note
    /// lives on only as long as its manifest is pulled.
    async fn pulls(&mut self, name: RepositoryName, after: &str) -> Result<Cursor, RepositoryError> {
        let folder = Key::Pulls(&name).path().folder();
        let start = format!("{folder}{after}");
        let after = (!after.is_empty()).then_some(start.as_str());
        let listing = self.store.list(&folder, Page { after, ..Page::first() }).await?;
        self.spend(1);
        let Some(within) = self.rules_of(&name).pulls() else { return Ok(Cursor::After(name.to_string())) };
        let is_old = |meta: &ObjectMeta| meta.modified.plus_seconds(within) <= self.now;
        let old = listing.objects.iter().filter(|(_, meta)| is_old(meta));
        let old: Vec<Path> = old.map(|(path, _)| Path::trusted(path.clone())).collect();
        if !old.is_empty() && !self.is_dry {
            self.store.delete(&old).await?;
            self.spend(1);
        }
        self.report.notes += old.len();
        Ok(match listing.next {
            Some(next) => Cursor::Pulls { after: below(&next, &folder), name },
            None => Cursor::After(name.to_string()),
        })
    }
}

/// The tag whose link has this path below the folder of tags.
fn current_tag(path: &str, folder: &str) -> Option<Tag> {
    path.strip_prefix(folder)?.strip_suffix(CURRENT)?.parse().ok()
}

/// A path below a folder, without the folder.
fn below(path: &str, folder: &str) -> String {
    path.strip_prefix(folder).unwrap_or_default().to_owned()
}
