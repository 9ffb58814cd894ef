//! The collection of garbage: layers that no manifest of their repository names, and content that no repository links.
//!
//! A run has three parts, each of which makes work for the next ones:
//!
//! 1. **Repositories** (`repository`): reads every manifest of a repository, then condemns the links of the layers that
//!    none names, and has the repository's writer remove those that were condemned a grace time ago.
//! 2. **Content** (`content`): compares ordered listings of content and of reverse links, by digest, and condemns
//!    what nobody links.
//! 3. **Markers** (`markers`): deletes what was condemned a grace time ago, by the protocol of
//!    [`marker`](crate::blobs::marker).
//!
//! What a request unlinks gets its marker at once. Nothing here stops requests, and no state but the bucket's is needed
//! to be safe: a run may end anywhere, start anew, or run twice at the same time.
//!
//! Memory: 8 bytes for each digest that the manifests of one repository mention, see `marks`; with one page of a listing.

mod content;
mod markers;
mod marks;
mod repository;
mod usage;

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use self::usage::Sums;
use super::{Job, Step};
use crate::{
    app::App,
    blobs::{Blobs, marker::HOLD},
    context::Context,
    layout::Key,
    oci::{Algorithm, RepositoryName},
    platform::{Body, Timestamp},
    repository::RepositoryError,
    storage::{Metadata, PutOptions, StorageError},
};

/// Limit of the examples in a report.
const EXAMPLES: usize = 20;

/// Limit of the failures in a report.
const FAILURES: usize = 10;

/// The metadata name of the start of the last run that saw all repositories.
const SEEN: &str = "seen";

/// The same of the last run that has looked at signatures too: those of earlier versions have not.
const SEEN_SIGNATURES: &str = "signatures";

/// The metadata name of the number of such runs.
const RUNS: &str = "runs";

/// How far clocks may differ, in seconds, when links are indexed.
const CLOCKS: u64 = 3_600;

/// The settings of a collection.
#[derive(Debug, Clone, Copy)]
pub struct Collect {
    /// Time between condemning and deleting, in seconds, and the least age of what is condemned.
    pub grace: u64,
    /// Whether to report only.
    pub is_dry_run: bool,
    /// How long an upload may last, in seconds: so long, what it has stored is not looked for.
    pub upload_ttl: u64,
    /// Reverse links are hints. Each run looks at the links behind those of one digest in so many.
    pub thoroughness: u64,
    /// The storage calls after which a step ends, about.
    pub calls: usize,
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cursor {
    /// When the run has begun.
    started: Timestamp,
    /// A run that an earlier version has begun did not index links to signatures: its cursor cannot be read without this
    /// field, and the run begins anew.
    indexes_signatures: bool,
    at: Part,
}

/// A part of a run, and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// The next repository is the first one after this key.
    Repositories { after: Option<String> },
    /// The manifests of a repository are read, for its layers from this position on.
    Manifests(Scan),
    /// The layers of a repository are compared with the marks.
    Layers(Scan),
    /// Content is compared with reverse links, from this digest on.
    Content { algorithm: Algorithm, after: String },
    /// Markers are looked at.
    Markers { after: Option<String> },
}

/// How far a repository is looked through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Scan {
    name: RepositoryName,
    /// When the manifests were listed first.
    scanned: Timestamp,
    /// The first position of the layers that are looked for.
    from: u64,
    after: Option<String>,
    /// The name of the marks.
    marks: Uuid,
    /// What was counted; `None` if something was missed.
    #[serde(default)]
    sums: Option<Sums>,
}

/// What a step has done.
#[derive(Debug, Default, Serialize)]
struct Report {
    repositories: u64,
    manifests: u64,
    links: u64,
    links_indexed: u64,
    links_condemned: u64,
    links_revived: u64,
    links_removed: u64,
    signatures_removed: u64,
    content: u64,
    content_condemned: u64,
    content_kept: u64,
    content_deleted: u64,
    bytes_deleted: u64,
    /// What is condemned and waits, in bytes, as far as it is known.
    bytes_condemned: u64,
    /// What was done, or what would be done, and why.
    examples: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<String>,
}

/// One step.
struct Run<'a> {
    job: &'a Collect,
    app: &'a App,
    context: &'a Context,
    blobs: Blobs,
    started: Timestamp,
    /// The links that are younger than this may lack their reverse links.
    indexed: Timestamp,
    /// The same of links to signatures.
    signatures_indexed: Timestamp,
    /// How many runs have seen all repositories.
    runs: u64,
    calls: usize,
    report: Report,
}

impl Job for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }

    fn step<'a>(
        &'a self,
        app: &'a App,
        context: &'a Context,
        cursor: Option<String>,
    ) -> LocalBoxFuture<'a, Result<Step, RepositoryError>> {
        Box::pin(async move {
            app.check_deployment(context).await?;
            let cursor = cursor.and_then(|cursor| serde_json::from_str::<Cursor>(&cursor).ok());
            let cursor = cursor.unwrap_or_else(|| Cursor {
                started: app.clock.now(),
                indexes_signatures: true,
                at: Part::Repositories { after: None },
            });
            let blobs = app.blobs(context);
            let started = cursor.started;
            let Seen { indexed, signatures_indexed, runs } = seen(&blobs).await?;
            let mut run = Run {
                indexed,
                signatures_indexed,
                runs,
                job: self,
                app,
                context,
                blobs,
                started,
                calls: 1,
                report: Report::default(),
            };
            let mut at = run.go_on(cursor.at).await?;
            while run.calls < self.calls
                && let Some(part) = at.take()
            {
                at = run.go_on(part).await?;
            }
            let next = at
                .and_then(|at| serde_json::to_string(&Cursor { started, indexes_signatures: true, at }).ok());
            let mut report = serde_json::to_value(run.report).unwrap_or_default();
            if let Some(fields) = report.as_object_mut() {
                fields.insert("dry_run".to_owned(), self.is_dry_run.into());
                fields.insert("finished".to_owned(), next.is_none().into());
            }
            Ok(Step { report, next })
        })
    }
}

/// What earlier runs have seen.
struct Seen {
    /// When the last run has begun that saw all repositories: links that were there have their reverse links.
    indexed: Timestamp,
    /// The same of links to signatures.
    signatures_indexed: Timestamp,
    /// The number of such runs.
    runs: u64,
}

async fn seen(blobs: &Blobs) -> Result<Seen, StorageError> {
    let seen = blobs.store().head(&Key::Collection(SEEN).path()).await?;
    let number = |name: &str| seen.as_ref()?.metadata.get(name)?.parse::<u64>().ok();
    let time = |name: &str| Timestamp(number(name).unwrap_or_default()).minus_seconds(CLOCKS);
    Ok(Seen {
        indexed: time(SEEN),
        signatures_indexed: time(SEEN_SIGNATURES),
        runs: number(RUNS).unwrap_or_default(),
    })
}

impl Report {
    /// Adds what was done at the same time.
    fn add(&mut self, other: Self) {
        self.content_condemned += other.content_condemned;
        self.content_kept += other.content_kept;
        self.content_deleted += other.content_deleted;
        self.bytes_deleted += other.bytes_deleted;
        self.bytes_condemned += other.bytes_condemned;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        self.failed.extend(other.failed);
        self.failed.truncate(FAILURES);
    }
}

impl Run<'_> {
    /// The same step, for work that is done at the same time as other work.
    fn share(&self) -> Self {
        let (blobs, report) = (self.blobs.clone(), Report::default());
        Self { blobs, report, calls: 0, ..*self }
    }

    /// Does a part of the work; `None` at the end of the run. Boxed: the future of a step would carry all parts.
    async fn go_on(&mut self, part: Part) -> Result<Option<Part>, RepositoryError> {
        match part {
            Part::Repositories { after } => Box::pin(self.next_repository(after)).await,
            Part::Manifests(scan) => Box::pin(self.read_manifests(scan)).await.map(Some),
            Part::Layers(scan) => Box::pin(self.compare_layers(scan)).await.map(Some),
            Part::Content { algorithm, after } => {
                Ok(Some(Box::pin(self.compare_content(algorithm, after)).await?))
            }
            Part::Markers { after } => Ok(Box::pin(self.look_at_markers(after)).await?),
        }
    }

    /// All repositories are seen: every link that was there when the run began has its reverse link.
    async fn seen_repositories(&mut self) -> Result<Part, StorageError> {
        if !self.job.is_dry_run {
            let metadata = Metadata::from([
                (SEEN.to_owned(), self.started.0.to_string()),
                (SEEN_SIGNATURES.to_owned(), self.started.0.to_string()),
                (RUNS.to_owned(), (self.runs + 1).to_string()),
            ]);
            let options = PutOptions { metadata, ..PutOptions::default() };
            self.calls += 1;
            self.blobs.store().put(&Key::Collection(SEEN).path(), Body::Empty, options).await?;
        }
        Ok(Part::Content { algorithm: Algorithm::Sha256, after: String::new() })
    }

    /// The latest time at which something must have been condemned to be deleted.
    fn old(&self) -> Timestamp {
        self.app.clock.now().minus_seconds(self.job.grace)
    }

    /// The latest time at which something must have been written to be condemned: a push takes its time.
    fn old_enough(&self) -> Timestamp {
        self.old().min(Timestamp(self.app.clock.now().0.saturating_sub(HOLD)))
    }

    fn example(&mut self, what: &str, digest: &impl ToString, of: &str, why: &str) {
        if self.report.examples.len() < EXAMPLES {
            let digest = digest.to_string();
            self.report.examples.push(json!({"what": what, "digest": digest, "of": of, "why": why}));
        }
    }

    /// Notes a failure that keeps the run from nothing else.
    fn failed(&mut self, error: &impl ToString) {
        if self.report.failed.len() < FAILURES {
            self.report.failed.push(error.to_string());
        }
    }
}
