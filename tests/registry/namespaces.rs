//! The query parameter `ns` of pulls.

use pierhead::platform::memory::MemoryStream;

use crate::{
    fixtures::{IMAGE, image, sha256},
    redirects::S3,
    support::{Answer, PASSWORD, Persistent, Proof, TestRegistry},
    table::{OF_IMAGE, assert_well_formed},
};

fn with(vars: &[(&str, &str)]) -> TestRegistry {
    let storage = TestRegistry::new().storage;
    let registry = TestRegistry::with(vars, Persistent { storage, ..Persistent::default() });
    registry.push_image("library/alpine", "3", "layer");
    registry
}

/// The pulls of a repository: what there is, and what there is not.
fn pulls() -> Vec<(String, u16)> {
    let (manifest, layer, absent) = (sha256(image(&["layer"])), sha256("layer"), sha256("absent"));
    let name = "/v2/library/alpine";
    vec![
        (format!("{name}/manifests/3"), 200),
        (format!("{name}/manifests/{manifest}"), 200),
        (format!("{name}/manifests/4"), 404),
        (format!("{name}/blobs/{layer}"), 200),
        (format!("{name}/blobs/{absent}"), 404),
        (format!("{name}/tags/list"), 200),
        (format!("{name}/referrers/{manifest}"), 200),
        ("/v2/library/none/tags/list".to_owned(), 404),
    ]
}

fn ask(registry: &TestRegistry, method: &str, target: &str, ns: &str) -> Answer {
    let separator = if target.contains('?') { '&' } else { '?' };
    let line = format!("{method} {target}{separator}ns={ns}");
    let answer = registry.send(&line, &[("host", "registry.example.com")], None);
    assert_well_formed(&line, &answer);
    answer
}

#[test]
fn a_namespace_of_the_list_is_served_and_named() {
    let registry = with(&[("NAMESPACES", "docker.io, ghcr.io\nlocalhost:5000")]);
    for (target, status) in pulls() {
        for method in ["GET", "HEAD"] {
            let plain = registry.get(&format!("{method} {target}"));
            assert_eq!(plain.header("oci-namespace"), "", "{target}");
            for (ns, named) in
                [("docker.io", "docker.io"), ("GHCR.io", "GHCR.io"), ("localhost%3A5000", "localhost:5000")]
            {
                let answer = ask(&registry, method, &target, ns);
                assert_eq!(answer.status.as_u16(), status, "{method} {target}, {ns}");
                assert_eq!(answer.header("oci-namespace"), named, "{method} {target}");
                assert_eq!(answer.body, plain.body, "{method} {target}");
            }
        }
    }
    // An answer without content names it, too.
    let etag = format!("\"{}\"", sha256("layer"));
    let line = format!("GET /v2/library/alpine/blobs/{}?ns=docker.io", sha256("layer"));
    let answer = registry.send(&line, &[("if-none-match", &etag)], None);
    assert_eq!((answer.status.as_u16(), answer.header("oci-namespace")), (304, "docker.io"));
}

#[test]
fn an_unknown_namespace_is_not_found_and_costs_nothing() {
    for vars in [&[][..], &[("NAMESPACES", "none")], &[("NAMESPACES", "quay.io")]] {
        let registry = with(vars);
        for (target, _) in pulls() {
            for ns in [
                "docker.io",
                "quay.io.example.com",
                "https%3A%2F%2Fquay.io%2F",
                "169.254.169.254",
                "*",
                "%00",
            ] {
                registry.storage.calls.borrow_mut().clear();
                let answer = ask(&registry, "GET", &target, ns);
                assert_eq!((answer.status.as_u16(), answer.codes()), (404, vec!["NAME_UNKNOWN".to_owned()]));
                assert_eq!(answer.header("oci-namespace"), "", "{ns}");
                let message = answer.errors()[0]["message"].as_str().unwrap().to_owned();
                assert!(message.contains("NAMESPACES"), "{message}");
                assert_eq!(ask(&registry, "HEAD", &target, ns).status, 404);
                assert_eq!(*registry.storage.calls.borrow(), Vec::<&str>::new(), "{target}, {ns}");
            }
        }
        let long = ask(&registry, "GET", "/v2/a/tags/list", &"x".repeat(10_000));
        assert!(long.status == 404 && long.body.len() < 2000, "{long:?}");
        // Nothing was asked of another server.
        assert_eq!(*registry.documents.requests.borrow(), Vec::<String>::new());
    }
}

#[test]
fn a_client_that_names_this_registry_or_nothing_is_served_as_without() {
    let registry = with(&[]);
    for (target, status) in pulls() {
        for ns in ["registry.example.com", "Registry.Example.COM", "registry.example.com:443", ""] {
            let answer = ask(&registry, "GET", &target, ns);
            assert_eq!(
                (answer.status.as_u16(), answer.header("oci-namespace")),
                (status, ""),
                "{target}, {ns}"
            );
        }
    }
}

#[test]
fn only_pulls_have_a_namespace() {
    let registry = with(&[]);
    let digest = sha256("new");
    let push = format!("POST /v2/library/alpine/blobs/uploads/?digest={digest}&ns=docker.io");
    assert_eq!(registry.send(&push, &[], Some(MemoryStream::new("new"))).status, 201);
    let body = Some(MemoryStream::new(image(&["layer"])));
    let put = registry.send("PUT /v2/library/alpine/manifests/4?ns=docker.io", OF_IMAGE, body);
    assert_eq!((put.status.as_u16(), put.header("oci-namespace")), (201, ""));
    for line in [
        "GET /v2/?ns=docker.io",
        "GET /v2/_catalog?ns=docker.io",
        "DELETE /v2/library/alpine/manifests/4?ns=docker.io",
    ] {
        let answer = registry.get(line);
        assert!(
            answer.status.is_success() && answer.header("oci-namespace").is_empty(),
            "{line}: {answer:?}"
        );
    }
}

#[test]
fn a_redirect_and_the_next_page_carry_no_more_than_they_should() {
    for mode in ["presigned", "signed"] {
        let vars = [&S3[..], &[("NAMESPACES", "docker.io"), ("BLOB_REDIRECT", mode)]].concat();
        let registry = with(&vars);
        let target = format!("/v2/library/alpine/blobs/{}", sha256("layer"));
        let answer = ask(&registry, "GET", &target, "docker.io");
        assert_eq!((answer.status.as_u16(), answer.header("oci-namespace")), (307, "docker.io"), "{mode}");
        let location = answer.header("location");
        assert!(
            !location.is_empty() && !location.contains("ns=") && !location.contains("docker.io"),
            "{location}"
        );
        let refused = ask(&registry, "GET", &target, "quay.io");
        assert_eq!((refused.status.as_u16(), refused.header("location")), (404, ""), "{mode}");
    }
    // The next page is of the same namespace.
    let registry = with(&[("NAMESPACES", "docker.io")]);
    registry.push_manifest("library/alpine", "4", IMAGE, &image(&["layer"]));
    let page = ask(&registry, "GET", "/v2/library/alpine/tags/list?n=1", "docker.io");
    assert_eq!(page.header("link"), "</v2/library/alpine/tags/list?ns=docker.io&n=1&last=3>; rel=\"next\"");
}

/// Who may not pull hears nothing of namespaces.
#[test]
fn access_is_checked_first() {
    let vars = [("ANONYMOUS", "none"), ("ADMIN_PASSWORD", PASSWORD), ("NAMESPACES", "docker.io")];
    let registry = TestRegistry::with(&vars, Persistent::default());
    for ns in ["docker.io", "quay.io"] {
        let answer = registry.get(&format!("GET /v2/a/tags/list?ns={ns}"));
        assert_eq!((answer.status.as_u16(), answer.header("oci-namespace")), (401, ""), "{ns}");
    }
    let registry = registry.proving(Proof::Basic);
    for (ns, named) in [("docker.io", "docker.io"), ("quay.io", "")] {
        let answer = registry.get(&format!("GET /v2/a/tags/list?ns={ns}"));
        assert_eq!((answer.status.as_u16(), answer.header("oci-namespace")), (404, named), "{ns}");
    }
}
