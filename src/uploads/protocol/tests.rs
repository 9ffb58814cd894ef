//! Messages and their golden documents.

use super::*;

#[test]
fn messages_match_their_golden_documents() {
    let repository: RepositoryName = "team/app".parse().unwrap();
    let (algorithm, expires) = (Algorithm::Sha256, Timestamp(1_700_000_000_000));
    let hash = Hasher::new(algorithm).state();
    let part = Part { number: 2, etag: "etag".into() };
    let checkpoint = Checkpoint {
        epoch: 3,
        offset: 16_777_216,
        hash: hash.clone(),
        multipart: Some((MultipartId("multipart".into()), 1)),
        blob: None,
        parts: vec![part.clone()],
        staged: vec![Staged { epoch: 2, length: 100, content: None }],
        last: None,
        is_cut: false,
    };
    let writer = Some(Uuid::from_u128(7));
    let digest = algorithm.digest(b"");
    let part_size = 8 << 20;
    let newer = Checkpoint { blob: writer, last: Some(part.clone()), ..checkpoint.clone() };
    let upload = Upload {
        repository: repository.clone(),
        algorithm,
        offset: 16_777_216,
        hash,
        multipart: checkpoint.multipart.clone(),
        blob: None,
        part_size,
        next_part: 3,
        staged: checkpoint.staged.clone(),
        last: None,
        epoch: 3,
        is_claimed: true,
        is_cut: false,
        writer: None,
        finished: None,
        expires,
    };
    for (name, command) in [
        (
            "begin",
            Command::Begin {
                repository: repository.clone(),
                algorithm,
                offset: Some(0),
                expires,
                part_size,
                writer: None,
            },
        ),
        (
            "begin-anywhere",
            Command::Begin {
                repository: repository.clone(),
                algorithm,
                offset: None,
                expires,
                part_size,
                writer: None,
            },
        ),
        (
            "begin-parts-of-5-mib",
            Command::Begin {
                repository: repository.clone(),
                algorithm,
                offset: Some(0),
                expires,
                part_size: 5 << 20,
                writer,
            },
        ),
        (
            "first",
            Command::First {
                repository: repository.clone(),
                expires,
                digest: digest.clone(),
                length: 0,
                hash: upload.hash.clone(),
                writer: Uuid::from_u128(7),
            },
        ),
        (
            "commit",
            Command::Commit { repository: repository.clone(), digest: digest.clone(), checkpoint: None },
        ),
        (
            "commit-last-chunk",
            Command::Commit {
                repository: repository.clone(),
                digest: digest.clone(),
                checkpoint: Some(newer),
            },
        ),
        ("checkpoint", Command::Checkpoint(checkpoint.clone())),
        ("release", Command::Release(checkpoint)),
        ("status", Command::Status { repository: repository.clone() }),
        ("finish", Command::Finish { epoch: 3 }),
        (
            "close",
            Command::Close {
                repository: repository.clone(),
                expires,
                finished: None,
                offset: None,
                writer: None,
            },
        ),
        (
            "close-finished",
            Command::Close { repository, expires, finished: Some(digest), offset: Some(100), writer },
        ),
    ] {
        golden(name, &command);
    }
    for (name, reply) in [
        ("reply", Ok(Reply { upload: upload.clone(), parts: Vec::new() })),
        ("reply-parts", Ok(Reply { upload, parts: vec![part] })),
        ("refused-unknown", Err(Refused::Unknown)),
        ("refused-closed", Err(Refused::Closed)),
        ("refused-out-of-order", Err(Refused::OutOfOrder { offset: 100 })),
        ("refused-wrong-digest", Err(Refused::WrongDigest)),
        ("refused-storage", Err(Refused::Storage { message: "busy".into(), retryable: true })),
    ] {
        golden(name, &reply);
    }
}
