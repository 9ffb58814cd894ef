//! Paths.

use http::Method;
use pierhead::{api::route::Route, oci::UploadId};
use proptest::{prelude::*, sample::select};

use crate::{
    cases,
    mutate::text,
    names::{digests, names, tags},
};

pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", "get"];

fn paths() -> Vec<String> {
    let (digest, id) = (&digests()[0], UploadId::unique([1; 32]));
    let [algorithm, hex] = digest.split(':').collect::<Vec<_>>()[..] else { unreachable!() };
    let fixed =
        ["/v2", "/v2/", "/v2/_catalog", "/v2/_pierhead/jobs/fsck/run", "/metrics", "/healthz", "/readyz"];
    let mut paths = fixed.map(str::to_owned).to_vec();
    paths.push(format!("/v2/_pierhead/blobs/{algorithm}/{hex}"));
    paths.extend(["takedown", "repositories/a/b"].map(|path| format!("/v2/_pierhead/{path}")));
    for path in ["", "/ci/dead", "/ci/dead/1700000000000-0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887"] {
        paths.push(format!("/v2/_pierhead/events{path}"));
    }
    for name in names().iter().take(4) {
        paths.extend([
            format!("/v2/{name}/blobs/{digest}"),
            format!("/v2/{name}/manifests/{digest}"),
            format!("/v2/{name}/manifests/v1"),
            format!("/v2/{name}/blobs/uploads"),
            format!("/v2/{name}/blobs/uploads/"),
            format!("/v2/{name}/blobs/uploads/{id}"),
            format!("/v2/{name}/tags/list"),
            format!("/v2/{name}/referrers/{digest}"),
        ]);
    }
    paths
}

fn letters(endpoint: &str, id: Option<&str>) -> String {
    let id = id.map(|id| format!("/{id}")).unwrap_or_default();
    format!("/v2/_pierhead/events/{endpoint}/dead{id}")
}

/// The methods and the path of a route.
fn printed(route: &Route) -> (&'static [&'static str], String) {
    let upload = |name, id| format!("/v2/{name}/blobs/uploads/{id}");
    match route {
        Route::Base => (&["GET", "HEAD"], "/v2/".into()),
        Route::Catalog => (&["GET", "HEAD"], "/v2/_catalog".into()),
        Route::OpenApi => (&["GET", "HEAD"], "/v2/_pierhead/openapi.json".into()),
        Route::ListJobs => (&["GET", "HEAD"], "/v2/_pierhead/jobs".into()),
        Route::ReadJob { job } => (&["GET", "HEAD"], format!("/v2/_pierhead/jobs/{job}")),
        Route::RunJob { job } => (&["POST"], format!("/v2/_pierhead/jobs/{job}/run")),
        Route::PauseJob { job } => (&["POST"], format!("/v2/_pierhead/jobs/{job}/pause")),
        Route::ResumeJob { job } => (&["POST"], format!("/v2/_pierhead/jobs/{job}/resume")),
        Route::CancelJob { job } => (&["POST"], format!("/v2/_pierhead/jobs/{job}/cancel")),
        Route::Usage => (&["GET", "HEAD"], "/v2/_pierhead/usage".into()),
        Route::RemoveRepository { name } => (&["DELETE"], format!("/v2/_pierhead/repositories/{name}")),
        Route::TakeDown => (&["POST"], "/v2/_pierhead/takedown".into()),
        Route::LiftTakedown => (&["DELETE"], "/v2/_pierhead/takedown".into()),
        Route::EventEndpoints => (&["GET", "HEAD"], "/v2/_pierhead/events".into()),
        Route::DeadLetters { endpoint } => (&["GET", "HEAD"], letters(endpoint, None)),
        Route::ReadDeadLetter { endpoint, id } => (&["GET", "HEAD"], letters(endpoint, Some(id))),
        Route::ReplayDeadLetters { endpoint, id } => (&["POST"], letters(endpoint, id.as_deref())),
        Route::DropDeadLetters { endpoint, id } => (&["DELETE"], letters(endpoint, id.as_deref())),
        Route::GetSignedBlob { digest } => {
            (&["GET"], format!("/v2/_pierhead/blobs/{}/{}", digest.algorithm(), digest.hex()))
        }
        Route::GetBlob { name, digest } => (&["GET", "HEAD"], format!("/v2/{name}/blobs/{digest}")),
        Route::DeleteBlob { name, digest } => (&["DELETE"], format!("/v2/{name}/blobs/{digest}")),
        Route::GetManifest { name, reference } => {
            (&["GET", "HEAD"], format!("/v2/{name}/manifests/{reference}"))
        }
        Route::PutManifest { name, reference } => (&["PUT"], format!("/v2/{name}/manifests/{reference}")),
        Route::DeleteManifest { name, reference } => {
            (&["DELETE"], format!("/v2/{name}/manifests/{reference}"))
        }
        Route::ListTags { name } => (&["GET", "HEAD"], format!("/v2/{name}/tags/list")),
        Route::ListReferrers { name, digest } => (&["GET", "HEAD"], format!("/v2/{name}/referrers/{digest}")),
        Route::StartUpload { name } => (&["POST"], format!("/v2/{name}/blobs/uploads/")),
        Route::PatchUpload { name, id } => (&["PATCH"], upload(name, id)),
        Route::FinishUpload { name, id } => (&["PUT"], upload(name, id)),
        Route::UploadStatus { name, id } => (&["GET", "HEAD"], upload(name, id)),
        Route::CancelUpload { name, id } => (&["DELETE"], upload(name, id)),
        Route::ListKeys => (&["GET", "HEAD"], "/v2/_pierhead/keys".into()),
        Route::MakeKey => (&["POST"], "/v2/_pierhead/keys".into()),
        Route::ReadKey { id } => (&["GET", "HEAD"], format!("/v2/_pierhead/keys/{id}")),
        Route::RevokeKey { id } => (&["DELETE"], format!("/v2/_pierhead/keys/{id}")),
        Route::GetToken => (&["GET", "HEAD"], "/token".into()),
        Route::PostToken => (&["POST"], "/token".into()),
        Route::Metrics => (&["GET", "HEAD"], "/metrics".into()),
        Route::Healthz => (&["GET", "HEAD"], "/healthz".into()),
        Route::Readyz => (&["GET", "HEAD"], "/readyz".into()),
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    /// A route is found for its own path and methods only.
    #[test]
    fn routes_round_trip(method in select(METHODS.to_vec()), path in text(&paths())) {
        let Ok(route) = Route::parse(&method.parse::<Method>().unwrap(), &path) else { return Ok(()) };
        let (methods, printed) = printed(&route);
        prop_assert!(methods.contains(&method));
        prop_assert!(printed == path || printed.strip_suffix('/') == Some(path.as_str()));
    }

    /// Every route of every name is found, also of names that look like an endpoint.
    #[test]
    fn routes_are_found(
        name in "[a-z0-9]{1,3}(/([a-z0-9]{1,3}|blobs|uploads|manifests|tags|list|referrers|v2)){0,4}",
        (tag, digest) in (select(tags()), select(digests())),
    ) {
        let id = UploadId::unique([1; 32]);
        for (method, rest) in [
            ("GET", format!("blobs/{digest}")),
            ("DELETE", format!("blobs/{digest}")),
            ("PUT", format!("manifests/{tag}")),
            ("DELETE", format!("manifests/{digest}")),
            ("GET", "tags/list".to_owned()),
            ("GET", format!("referrers/{digest}")),
            ("POST", "blobs/uploads/".to_owned()),
            ("PATCH", format!("blobs/uploads/{id}")),
        ] {
            let path = format!("/v2/{name}/{rest}");
            let route = Route::parse(&method.parse().unwrap(), &path).unwrap();
            prop_assert_eq!(printed(&route).1, path);
        }
    }
}
