//! The endpoint table: from method and path to a [`Route`], and the access that it requires.
//!
//! Order and ids are those of the specification's endpoint table. Each variant of [`Route`], in snake case,
//! is a method of `Registry` in the file of its noun; the changes of a job are one.

use http::Method;

use super::Error;
use crate::{
    auth::{Access, Action, identity::keys::is_id},
    events::delivery::endpoint::is_name,
    oci::{Digest, Reference, RepositoryName, UploadId},
};

/// An endpoint, with its path's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the path's parameters")]
pub enum Route {
    /// Check that this is a registry.
    Base,
    /// Pull a blob.
    GetBlob { name: RepositoryName, digest: Digest },
    /// Pull a manifest.
    GetManifest { name: RepositoryName, reference: Reference },
    /// Start an upload, push a whole blob, or mount one.
    StartUpload { name: RepositoryName },
    /// Send a chunk.
    PatchUpload { name: RepositoryName, id: UploadId },
    /// Finish an upload, with its digest and optionally its last chunk.
    FinishUpload { name: RepositoryName, id: UploadId },
    /// Push a manifest.
    PutManifest { name: RepositoryName, reference: Reference },
    /// List the tags of a repository.
    ListTags { name: RepositoryName },
    /// Delete a manifest or a tag.
    DeleteManifest { name: RepositoryName, reference: Reference },
    /// Delete a blob from a repository.
    DeleteBlob { name: RepositoryName, digest: Digest },
    /// List the referrers of a manifest.
    ListReferrers { name: RepositoryName, digest: Digest },
    /// Get the progress of an upload.
    UploadStatus { name: RepositoryName, id: UploadId },
    /// Cancel an upload.
    CancelUpload { name: RepositoryName, id: UploadId },
    /// List the repositories.
    Catalog,
    /// Describe the endpoints of administration.
    OpenApi,
    /// List the jobs.
    ListJobs,
    /// Read the state of a job.
    ReadJob { job: String },
    /// Make a step of a job.
    RunJob { job: String },
    /// Pause a job.
    PauseJob { job: String },
    /// Resume a paused job.
    ResumeJob { job: String },
    /// End the run of a job.
    CancelJob { job: String },
    /// List what repositories use.
    Usage,
    /// Remove a repository.
    RemoveRepository { name: RepositoryName },
    /// Take content down.
    TakeDown,
    /// Let content be pushed again that was taken down.
    LiftTakedown,
    /// Get the state of the delivery of events.
    EventEndpoints,
    /// List the dead letters of an event endpoint.
    DeadLetters { endpoint: String },
    /// Read a dead letter.
    ReadDeadLetter { endpoint: String, id: String },
    /// Deliver dead letters after all: one, or all.
    ReplayDeadLetters { endpoint: String, id: Option<String> },
    /// Drop dead letters: one, or all.
    DropDeadLetters { endpoint: String, id: Option<String> },
    /// Pull a blob with a signed URL, without credentials.
    GetSignedBlob { digest: Digest },
    /// List the API keys.
    ListKeys,
    /// Make an API key.
    MakeKey,
    /// Read what an API key may do.
    ReadKey { id: String },
    /// Revoke an API key.
    RevokeKey { id: String },
    /// Get a token, with Basic credentials or none.
    GetToken,
    /// Get a token, with credentials in a form.
    PostToken,
    /// Read the metrics.
    Metrics,
    /// Check that the worker is alive.
    Healthz,
    /// Check that the bindings work.
    Readyz,
}

fn name(segments: &[&str]) -> Result<RepositoryName, Error> {
    Ok(segments.join("/").parse()?)
}

/// The reference of a pull. What can be no reference names nothing that could be there (distribution-spec, "Pulling
/// manifests").
fn pulled(reference: &str) -> Result<Reference, Error> {
    reference.parse().map_err(|why| Error::ImpossibleReference { reference: reference.to_owned(), why })
}

fn upload(id: &str) -> Result<UploadId, Error> {
    id.parse().map_err(|_| Error::UploadUnknown)
}

fn key(id: &str) -> Result<String, Error> {
    if is_id(id) { Ok(id.to_owned()) } else { Err(Error::Absent("API key")) }
}

/// `/v2/_pierhead/events/<endpoint>/dead` and what is below it.
fn dead_letters(verb: &str, endpoint: &str, rest: &[&str]) -> Result<Route, Error> {
    let id = match rest {
        [] => None,
        [id] if !id.is_empty() => Some((*id).to_owned()),
        _ => return Err(Error::NoSuchEndpoint),
    };
    if !is_name(endpoint) {
        return Err(Error::Absent("event endpoint"));
    }
    let endpoint = endpoint.to_owned();
    match (verb, id) {
        ("GET", None) => Ok(Route::DeadLetters { endpoint }),
        ("GET", Some(id)) => Ok(Route::ReadDeadLetter { endpoint, id }),
        ("POST", id) => Ok(Route::ReplayDeadLetters { endpoint, id }),
        ("DELETE", id) => Ok(Route::DropDeadLetters { endpoint, id }),
        _ => Err(Error::Unsupported { allow: "GET, HEAD, POST, DELETE" }),
    }
}

impl Route {
    /// Parses a method and a percent-decoded path. HEAD counts as GET.
    #[rustfmt::skip] // It is a table.
    pub fn parse(method: &Method, path: &str) -> Result<Self, Error> {
        if path == "/v2" {
            return Self::parse(method, "/v2/");
        }
        let verb = if method == Method::HEAD { "GET" } else { method.as_str() };
        match (verb, path) {
            ("GET", "/token") => return Ok(Self::GetToken),
            ("POST", "/token") => return Ok(Self::PostToken),
            (_, "/token") => return Err(Error::Unsupported { allow: "GET, HEAD, POST" }),
            ("GET", "/metrics") => return Ok(Self::Metrics),
            ("GET", "/healthz") => return Ok(Self::Healthz),
            ("GET", "/readyz") => return Ok(Self::Readyz),
            (_, "/metrics" | "/healthz" | "/readyz") => return Err(Error::Unsupported { allow: "GET, HEAD" }),
            _ => {}
        }
        let path = path.strip_prefix("/v2/").ok_or(Error::NoSuchEndpoint)?;
        let segments: Vec<&str> = path.split('/').collect();
        Ok(match (verb, segments.as_slice()) {
            ("GET", [""]) => Self::Base, // end-1
            ("GET", ["_catalog"]) => Self::Catalog, // Docker's
            ("GET", ["_pierhead", "openapi.json"]) => Self::OpenApi, // ours
            ("GET", ["_pierhead", "jobs"]) => Self::ListJobs, // ours
            ("GET", ["_pierhead", "jobs", job]) => Self::ReadJob { job: (*job).to_owned() }, // ours
            (_, ["_pierhead", "openapi.json" | "jobs"] | ["_pierhead", "jobs", _]) => return Err(Error::Unsupported { allow: "GET, HEAD" }),
            ("POST", ["_pierhead", "jobs", job, "run"]) => Self::RunJob { job: (*job).to_owned() }, // ours
            ("POST", ["_pierhead", "jobs", job, "pause"]) => Self::PauseJob { job: (*job).to_owned() }, // ours
            ("POST", ["_pierhead", "jobs", job, "resume"]) => Self::ResumeJob { job: (*job).to_owned() }, // ours
            ("POST", ["_pierhead", "jobs", job, "cancel"]) => Self::CancelJob { job: (*job).to_owned() }, // ours
            (_, ["_pierhead", "jobs", _, "run" | "pause" | "resume" | "cancel"]) => return Err(Error::Unsupported { allow: "POST" }),
            ("GET", ["_pierhead", "usage"]) => Self::Usage, // ours
            (_, ["_pierhead", "usage"]) => return Err(Error::Unsupported { allow: "GET, HEAD" }),
            ("DELETE", ["_pierhead", "repositories", n @ ..]) => Self::RemoveRepository { name: name(n)? }, // ours
            (_, ["_pierhead", "repositories", ..]) => return Err(Error::Unsupported { allow: "DELETE" }),
            ("POST", ["_pierhead", "takedown"]) => Self::TakeDown, // ours
            ("DELETE", ["_pierhead", "takedown"]) => Self::LiftTakedown, // ours
            (_, ["_pierhead", "takedown"]) => return Err(Error::Unsupported { allow: "POST, DELETE" }),
            ("GET", ["_pierhead", "events"]) => Self::EventEndpoints, // ours
            (_, ["_pierhead", "events"]) => return Err(Error::Unsupported { allow: "GET, HEAD" }),
            (_, ["_pierhead", "events", e, "dead", rest @ ..]) => return dead_letters(verb, e, rest), // ours
            ("GET", ["_pierhead", "keys"]) => Self::ListKeys, // ours
            ("POST", ["_pierhead", "keys"]) => Self::MakeKey, // ours
            (_, ["_pierhead", "keys"]) => return Err(Error::Unsupported { allow: "GET, HEAD, POST" }),
            ("GET", ["_pierhead", "keys", id]) => Self::ReadKey { id: key(id)? }, // ours
            ("DELETE", ["_pierhead", "keys", id]) => Self::RevokeKey { id: key(id)? }, // ours
            (_, ["_pierhead", "keys", _]) => return Err(Error::Unsupported { allow: "GET, HEAD, DELETE" }),
            // Ours. No HEAD: the signature is for GET only.
            (_, ["_pierhead", "blobs", alg, hex]) if method == Method::GET => Self::GetSignedBlob { digest: format!("{alg}:{hex}").parse()? },
            (_, ["_pierhead", "blobs", _, _]) => return Err(Error::Unsupported { allow: "GET" }),
            ("POST", [n @ .., "blobs", "uploads", ""] | [n @ .., "blobs", "uploads"]) => Self::StartUpload { name: name(n)? }, // end-4a, end-4b, end-11
            (_, [.., "blobs", "uploads"] | [.., "blobs", "uploads", ""]) => return Err(Error::Unsupported { allow: "POST" }),
            ("PATCH", [n @ .., "blobs", "uploads", id]) => Self::PatchUpload { name: name(n)?, id: upload(id)? }, // end-5
            ("PUT", [n @ .., "blobs", "uploads", id]) => Self::FinishUpload { name: name(n)?, id: upload(id)? }, // end-6
            ("GET", [n @ .., "blobs", "uploads", id]) => Self::UploadStatus { name: name(n)?, id: upload(id)? }, // end-13
            ("DELETE", [n @ .., "blobs", "uploads", id]) => Self::CancelUpload { name: name(n)?, id: upload(id)? }, // end-14
            ("GET", [n @ .., "blobs", digest]) => Self::GetBlob { name: name(n)?, digest: digest.parse()? }, // end-2
            ("DELETE", [n @ .., "blobs", digest]) => Self::DeleteBlob { name: name(n)?, digest: digest.parse()? }, // end-10
            ("GET", [n @ .., "manifests", r]) => Self::GetManifest { name: name(n)?, reference: pulled(r)? }, // end-3
            ("PUT", [n @ .., "manifests", r]) => Self::PutManifest { name: name(n)?, reference: r.parse()? }, // end-7a, end-7b
            ("DELETE", [n @ .., "manifests", r]) => Self::DeleteManifest { name: name(n)?, reference: r.parse()? }, // end-9
            ("GET", [n @ .., "tags", "list"]) => Self::ListTags { name: name(n)? }, // end-8a, end-8b
            ("GET", [n @ .., "referrers", digest]) => Self::ListReferrers { name: name(n)?, digest: digest.parse()? }, // end-12a, end-12b
            (_, ["" | "_catalog"]) => return Err(Error::Unsupported { allow: "GET, HEAD" }),
            (_, [.., "blobs", "uploads", _]) => return Err(Error::Unsupported { allow: "GET, HEAD, PATCH, PUT, DELETE" }),
            (_, [.., "blobs", _]) => return Err(Error::Unsupported { allow: "GET, HEAD, DELETE" }),
            (_, [.., "manifests", _]) => return Err(Error::Unsupported { allow: "GET, HEAD, PUT, DELETE" }),
            (_, [.., "tags", "list"] | [.., "referrers", _]) => return Err(Error::Unsupported { allow: "GET, HEAD" }),
            _ => return Err(Error::NoSuchEndpoint),
        })
    }

    /// The name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::GetBlob { .. } => "get_blob",
            Self::GetManifest { .. } => "get_manifest",
            Self::StartUpload { .. } => "start_upload",
            Self::PatchUpload { .. } => "patch_upload",
            Self::FinishUpload { .. } => "finish_upload",
            Self::PutManifest { .. } => "put_manifest",
            Self::ListTags { .. } => "list_tags",
            Self::DeleteManifest { .. } => "delete_manifest",
            Self::DeleteBlob { .. } => "delete_blob",
            Self::ListReferrers { .. } => "list_referrers",
            Self::UploadStatus { .. } => "upload_status",
            Self::CancelUpload { .. } => "cancel_upload",
            Self::Catalog => "catalog",
            Self::OpenApi => "open_api",
            Self::ListJobs => "list_jobs",
            Self::ReadJob { .. } => "read_job",
            Self::RunJob { .. } => "run_job",
            Self::PauseJob { .. } => "pause_job",
            Self::ResumeJob { .. } => "resume_job",
            Self::CancelJob { .. } => "cancel_job",
            Self::Usage => "usage",
            Self::RemoveRepository { .. } => "remove_repository",
            Self::TakeDown => "take_down",
            Self::LiftTakedown => "lift_takedown",
            Self::EventEndpoints => "event_endpoints",
            Self::DeadLetters { .. } => "dead_letters",
            Self::ReadDeadLetter { .. } => "read_dead_letter",
            Self::ReplayDeadLetters { .. } => "replay_dead_letters",
            Self::DropDeadLetters { .. } => "drop_dead_letters",
            Self::GetSignedBlob { .. } => "get_signed_blob",
            Self::ListKeys => "list_keys",
            Self::MakeKey => "make_key",
            Self::ReadKey { .. } => "read_key",
            Self::RevokeKey { .. } => "revoke_key",
            Self::GetToken => "get_token",
            Self::PostToken => "post_token",
            Self::Metrics => "metrics",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
        }
    }

    /// The repository in the path.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match (self, self.access()) {
            (Self::RemoveRepository { name }, _) | (_, Some(Access::Repository(name, _))) => Some(name),
            _ => None,
        }
    }

    /// Whether this is a pull operation of the specification.
    pub fn is_pull(&self) -> bool {
        matches!(
            self,
            Self::GetBlob { .. }
                | Self::GetManifest { .. }
                | Self::ListTags { .. }
                | Self::ListReferrers { .. }
        )
    }

    /// The required access; `None` if the URL itself is signed, for tokens, and for health. A mount also requires pull access to its
    /// source, which `api::uploads` checks.
    pub fn access(&self) -> Option<Access<'_>> {
        Some(match self {
            Self::GetSignedBlob { .. } | Self::GetToken | Self::PostToken | Self::Healthz | Self::Readyz => {
                return None;
            }
            Self::Metrics => Access::Metrics,
            Self::Base => Access::Base,
            Self::Catalog => Access::Catalog,
            Self::OpenApi
            | Self::ListJobs
            | Self::ReadJob { .. }
            | Self::RunJob { .. }
            | Self::PauseJob { .. }
            | Self::ResumeJob { .. }
            | Self::CancelJob { .. }
            | Self::Usage
            | Self::RemoveRepository { .. }
            | Self::TakeDown
            | Self::LiftTakedown
            | Self::EventEndpoints
            | Self::DeadLetters { .. }
            | Self::ReadDeadLetter { .. }
            | Self::ReplayDeadLetters { .. }
            | Self::DropDeadLetters { .. }
            | Self::ListKeys
            | Self::MakeKey
            | Self::ReadKey { .. }
            | Self::RevokeKey { .. } => Access::Administer,
            Self::GetBlob { name, .. }
            | Self::GetManifest { name, .. }
            | Self::ListTags { name }
            | Self::ListReferrers { name, .. } => Access::Repository(name, Action::Pull),
            Self::StartUpload { name }
            | Self::PatchUpload { name, .. }
            | Self::FinishUpload { name, .. }
            | Self::UploadStatus { name, .. }
            | Self::CancelUpload { name, .. }
            | Self::PutManifest { name, .. } => Access::Repository(name, Action::Push),
            Self::DeleteManifest { name, .. } | Self::DeleteBlob { name, .. } => {
                Access::Repository(name, Action::Delete)
            }
        })
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Route, Error> {
        let (method, path) = line.split_once(' ').unwrap();
        Route::parse(&method.parse().unwrap(), path)
    }

    #[test]
    #[rustfmt::skip]
    fn routes_are_parsed_for_names_of_any_depth() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let id = "0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887";
        for n in ["a", "a/b", "tags/list", "blobs/uploads", "manifests/manifests", "a/blobs", "referrers/x/y"] {
            let name: RepositoryName = n.parse().unwrap();
            for (line, expected) in [
                (format!("GET /v2/{n}/blobs/{digest}"), Route::GetBlob { name: name.clone(), digest: digest.parse().unwrap() }),
                (format!("HEAD /v2/{n}/manifests/latest"), Route::GetManifest { name: name.clone(), reference: "latest".parse().unwrap() }),
                (format!("POST /v2/{n}/blobs/uploads/"), Route::StartUpload { name: name.clone() }),
                (format!("POST /v2/{n}/blobs/uploads"), Route::StartUpload { name: name.clone() }),
                (format!("PATCH /v2/{n}/blobs/uploads/{id}"), Route::PatchUpload { name: name.clone(), id: id.parse().unwrap() }),
                (format!("GET /v2/{n}/tags/list"), Route::ListTags { name: name.clone() }),
                (format!("GET /v2/{n}/referrers/{digest}"), Route::ListReferrers { name: name.clone(), digest: digest.parse().unwrap() }),
            ] {
                assert_eq!(parse(&line).unwrap(), expected, "{line}");
            }
        }
        assert_eq!(parse("GET /v2/").unwrap(), Route::Base);
        assert_eq!(parse("HEAD /v2").unwrap(), Route::Base);
        assert_eq!(parse("GET /v2/_catalog").unwrap(), Route::Catalog);
        assert_eq!(parse("GET /metrics").unwrap(), Route::Metrics);
        assert_eq!(parse("HEAD /healthz").unwrap(), Route::Healthz);
        assert_eq!(parse("GET /readyz").unwrap(), Route::Readyz);
    }

    #[test]
    fn malformed_paths_get_the_right_error_code() {
        for (line, code) in [
            ("GET /v2/A/manifests/latest", "NAME_INVALID"),
            ("GET /v2/manifests/latest", "NAME_INVALID"),
            ("GET /v2/A/manifests/.x", "NAME_INVALID"),
            ("GET /v2/a/manifests/.x", "MANIFEST_UNKNOWN"),
            ("HEAD /v2/a/manifests/sha256:x", "MANIFEST_UNKNOWN"),
            ("PUT /v2/a/manifests/.x", "MANIFEST_INVALID"),
            ("PUT /v2/a/manifests/sha256:x", "DIGEST_INVALID"),
            ("DELETE /v2/a/manifests/.x", "MANIFEST_INVALID"),
            ("DELETE /v2/a/manifests/sha256:x", "DIGEST_INVALID"),
            ("GET /v2/a/blobs/latest", "DIGEST_INVALID"),
            ("PATCH /v2/a/blobs/uploads/1", "BLOB_UPLOAD_UNKNOWN"),
            ("POST /v2/a/manifests/latest", "UNSUPPORTED"),
            ("PUT /v2/", "UNSUPPORTED"),
            ("POST /metrics", "UNSUPPORTED"),
            ("GET /metrics/", "UNSUPPORTED"),
            ("GET /v2/a/blobs/uploads/", "UNSUPPORTED"),
            ("GET /v2/a/blobs/uploads", "UNSUPPORTED"),
            ("PUT /v2/a/blobs/uploads/", "UNSUPPORTED"),
            ("GET /v2/_pierhead/blobs/sha256/x", "DIGEST_INVALID"),
            ("GET /v2/_pierhead/blobs/sha256:x", "NAME_INVALID"),
            ("GET /v2/a", "UNSUPPORTED"),
            ("GET /v1/", "UNSUPPORTED"),
        ] {
            assert_eq!(parse(line).unwrap_err().wire().1.as_str(), code, "{line}");
        }
    }
}
