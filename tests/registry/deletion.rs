//! Deleting tags, manifests and blobs.

use crate::{
    support::TestRegistry,
    table::{Body, CALL, Call, Given, OF_IMAGE, Sent, in_order},
};

const fn deleted(request: &str) -> Call<'_> {
    Call { description: "deleted", request, status: 202, body: Body::Empty, ..CALL }
}

const fn there(request: &str) -> Call<'_> {
    Call { description: "still there", request, ..CALL }
}

const fn no_manifest(request: &str) -> Call<'_> {
    Call { description: "gone", request, status: 404, body: Body::Error("MANIFEST_UNKNOWN"), ..CALL }
}

const fn no_blob(request: &str) -> Call<'_> {
    Call { description: "gone", request, status: 404, body: Body::Error("BLOB_UNKNOWN"), ..CALL }
}

/// An image under three tags.
const TAGGED: &[Given] =
    &[Given::Image("x", "a", "layer"), Given::Image("x", "b", "layer"), Given::Image("x", "c", "layer")];

#[test]
fn deleting_a_tag_keeps_its_manifest() {
    in_order(&[
        Call { given: TAGGED, ..deleted("DELETE /v2/x/manifests/a") },
        no_manifest("GET /v2/x/manifests/a"),
        no_manifest("DELETE /v2/x/manifests/a"),
        there("GET /v2/x/manifests/b"),
        there("GET /v2/x/manifests/{manifest:a}"),
        there("GET /v2/x/blobs/{sha256:layer}"),
        Call { body: Body::Json(r#"{"name":"x","tags":["b","c"]}"#), ..there("GET /v2/x/tags/list") },
    ]);
}

#[test]
fn deleting_a_manifest_deletes_its_tags() {
    in_order(&[
        Call {
            given: &[
                TAGGED[0],
                TAGGED[1],
                TAGGED[2],
                // Moves the tag away from the first image.
                Given::Image("x", "c", "another layer"),
                Given::Image("elsewhere", "a", "layer"),
            ],
            ..deleted("DELETE /v2/x/manifests/{manifest:a}")
        },
        no_manifest("GET /v2/x/manifests/{manifest:a}"),
        no_manifest("GET /v2/x/manifests/a"),
        no_manifest("GET /v2/x/manifests/b"),
        no_manifest("DELETE /v2/x/manifests/{manifest:a}"),
        Call { headers: &[("docker-content-digest", "{manifest:c}")], ..there("GET /v2/x/manifests/c") },
        Call { body: Body::Json(r#"{"name":"x","tags":["c"]}"#), ..there("GET /v2/x/tags/list") },
        // Its blobs and other repositories are not affected.
        there("GET /v2/x/blobs/{sha256:layer}"),
        there("GET /v2/elsewhere/manifests/a"),
        there("GET /v2/elsewhere/manifests/{manifest:a}"),
        // A new push restores it, without the deleted tags.
        Call {
            description: "pushed again",
            request: "PUT /v2/x/manifests/a",
            request_headers: OF_IMAGE,
            request_body: Sent::Text("{content:a}"),
            status: 201,
            ..CALL
        },
        there("GET /v2/x/manifests/a"),
        there("GET /v2/x/manifests/{manifest:a}"),
        no_manifest("GET /v2/x/manifests/b"),
    ]);
}

#[test]
fn deleting_a_blob_affects_one_repository() {
    in_order(&[
        Call {
            given: &[Given::Blob("x", "layer"), Given::Blob("y", "layer")],
            ..deleted("DELETE /v2/x/blobs/{digest:layer}")
        },
        no_blob("GET /v2/x/blobs/{digest:layer}"),
        Call { body: Body::Empty, ..no_blob("HEAD /v2/x/blobs/{digest:layer}") },
        no_blob("DELETE /v2/x/blobs/{digest:layer}"),
        Call { body: Body::Text("layer"), ..there("GET /v2/y/blobs/{digest:layer}") },
        Call { given: &[Given::Blob("x", "layer")], ..there("GET /v2/x/blobs/{digest:layer}") },
    ]);
}

#[test]
fn deleting_from_an_unknown_repository_is_refused() {
    in_order(&[
        no_manifest("DELETE /v2/none/manifests/latest"),
        no_manifest("DELETE /v2/none/manifests/{digest:x}"),
        no_blob("DELETE /v2/none/blobs/{digest:x}"),
    ]);
}

#[test]
fn deleting_everything_leaves_no_links() {
    let registry = TestRegistry::new();
    let manifest = registry.push_image("a", "v1", "layer");
    let paths = |is_wanted: fn(&String) -> bool| {
        registry.storage.memory.paths().into_iter().filter(is_wanted).collect::<Vec<_>>()
    };
    let links = || paths(|path| path.ends_with("/link"));
    let reverse_links = || paths(|path| path.starts_with("pierhead/links/"));
    let reverse = reverse_links();
    assert_eq!((links().len(), reverse.len()), (5, 3));
    for blob in ["layer", "config"] {
        let line = format!("DELETE /v2/a/blobs/{}", crate::fixtures::sha256(blob));
        assert_eq!(registry.get(&line).status, 202);
    }
    assert_eq!(registry.get(&format!("DELETE /v2/a/manifests/{manifest}")).status, 202);
    assert_eq!(links(), Vec::<String>::new());
    // A push of the same content may have written these.
    assert_eq!(reverse_links(), reverse);
}
