//! Mounting blobs from other repositories.

use crate::{
    support::Proof,
    table::{Body, CALL, Call, Given, Sent, in_order, in_order_behind},
};

/// The answer to a push or mount of the blob `layer` into `b`.
const MOUNTED: Call = Call {
    description: "mounted",
    status: 201,
    headers: &[("location", "/v2/b/blobs/{digest:layer}"), ("docker-content-digest", "{digest:layer}")],
    body: Body::Empty,
    ..CALL
};

#[test]
fn a_blob_is_mounted_with_and_without_a_source() {
    let layer = &[Given::Blob("a", "layer")];
    let is_there = Call {
        description: "the blob in the target",
        request: "GET /v2/b/blobs/{digest:layer}",
        headers: &[
            ("etag", "\"{digest:layer}\""),
            ("docker-content-digest", "{digest:layer}"),
            ("accept-ranges", "bytes"),
            ("cache-control", "private, max-age=31536000, immutable, no-transform"),
        ],
        body: Body::Text("layer"),
        ..CALL
    };
    let head = "HEAD /v2/b/blobs/{digest:layer}";
    for (request, proofs) in [
        ("POST /v2/b/blobs/uploads/?mount={digest:layer}&from=a", &Proof::ALL[..]),
        ("POST /v2/b/blobs/uploads/?from=a&mount={digest:layer}", &Proof::ALL),
        // A token is for the repositories that it names.
        ("POST /v2/b/blobs/uploads/?mount={digest:layer}", &[Proof::Nothing, Proof::Basic]),
    ] {
        in_order_behind(
            proofs,
            &[
                Call { description: "before", request: head, given: layer, status: 404, ..CALL },
                Call { request, ..MOUNTED },
                is_there,
                Call { request: head, body: Body::Empty, ..is_there },
                Call {
                    description: "deleted from the source",
                    request: "DELETE /v2/a/blobs/{digest:layer}",
                    status: 202,
                    ..CALL
                },
                is_there,
            ],
        );
    }
}

#[test]
fn a_failed_mount_starts_an_upload() {
    let upload = Call {
        description: "an upload instead of a mount",
        given: &[Given::Blob("a", "layer")],
        status: 202,
        headers: &[("range", "0-0"), ("docker-content-digest", "")],
        body: Body::Empty,
        ..CALL
    };
    for request in [
        "POST /v2/b/blobs/uploads/?mount={digest:layer}&from=none",
        "POST /v2/b/blobs/uploads/?mount={digest:layer}&from=Not/A/Name",
        "POST /v2/b/blobs/uploads/?mount={digest:unknown}&from=a",
        "POST /v2/b/blobs/uploads/?mount={digest:unknown}",
        "POST /v2/b/blobs/uploads/?mount=sha256:bad&from=a",
    ] {
        in_order(&[
            Call { request, ..upload },
            Call {
                description: "the upload accepts the blob",
                request: "PUT {location}&digest={digest:layer}",
                request_body: Sent::Text("layer"),
                ..MOUNTED
            },
        ]);
    }
    in_order(&[
        Call {
            description: "deleted from the source",
            given: &[Given::Blob("a", "layer")],
            request: "DELETE /v2/a/blobs/{digest:layer}",
            status: 202,
            ..CALL
        },
        Call { given: &[], request: "POST /v2/b/blobs/uploads/?mount={digest:layer}&from=a", ..upload },
        Call { given: &[], request: "POST /v2/b/blobs/uploads/?mount={digest:layer}", ..upload },
    ]);
}
