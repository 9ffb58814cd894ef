//! Redirects: the choice of target; and signed URLs: validity, tampering, expiry, key rotation.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::StatusCode;
use percent_encoding::percent_decode_str;
use pierhead::{layout::Key, oci::Digest};
use sha2::Sha256;

use crate::{
    fixtures::{bytes, sha256},
    reads::{LAYER, cold, get_layer, layer, manifest, pushed},
    support::{Answer, Persistent, TestRegistry},
    table::assert_well_formed,
};

const KEY: &str = "a-key-of-more-than-thirty-two-characters";
const OTHER_KEY: &str = "another-key-of-more-than-thirty-two-characters";
const NOW: u64 = 1_700_000_123;
const TTL: u64 = 20 * 60;

/// A registry that redirects to signed URLs, at [`NOW`].
fn signing(keys: &str, persistent: &Persistent) -> TestRegistry {
    let vars = [
        ("BLOB_REDIRECT", "signed"),
        ("BLOB_REDIRECT_KEYS", keys),
        ("BLOB_REDIRECT_TTL", "20m"),
        ("LOG_LEVEL", "debug"),
    ];
    let registry = TestRegistry::with(&vars, persistent.clone());
    registry.clock.0.set(NOW * 1000);
    registry
}

fn redirected(registry: &TestRegistry, digest: &Digest) -> String {
    let line = format!("GET /v2/team/app/blobs/{digest}");
    // The redirect ignores the range; the target serves it.
    let answer = registry.send(&line, &[("range", "bytes=0-1")], None);
    assert_well_formed(&line, &answer);
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (307, b"".as_slice()));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    answer.header("location").to_owned()
}

fn get(registry: &TestRegistry, target: &str) -> u16 {
    registry.get(&format!("GET {target}")).status.as_u16()
}

/// Cloudflare's token check, from its documentation, for `/path?verify=<seconds>-<mac>`.
fn is_timed_hmac_valid_v0(key: &str, uri: &str, ttl: u64, now: u64) -> bool {
    let (message, token) = uri.split_once("?verify=").unwrap();
    let (seconds, mac) = token.split_once('-').unwrap();
    let mut expected = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    expected.update(format!("{message}{seconds}").as_bytes());
    let expected = STANDARD.encode(expected.finalize().into_bytes());
    percent_decode_str(mac).decode_utf8().unwrap() == expected && now < seconds.parse::<u64>().unwrap() + ttl
}

#[test]
fn a_signed_url_passes_the_check_of_a_cdn_until_it_expires() {
    let persistent = Persistent::default();
    let registry = signing(KEY, &persistent);
    let digest = registry.push_blob("team/app", bytes(300));
    let target = redirected(&registry, &digest);
    assert!(is_timed_hmac_valid_v0(KEY, &target, TTL, NOW), "{target}");
    assert!(!is_timed_hmac_valid_v0(OTHER_KEY, &target, TTL, NOW), "{target}");
    assert!(!is_timed_hmac_valid_v0(KEY, &target, TTL, NOW + TTL), "{target}");
    // The URL is the same for a quarter of its lifetime.
    registry.clock.0.set((NOW + 60) * 1000);
    assert_eq!(redirected(&registry, &digest), target);
    registry.clock.0.set((NOW + TTL / 4) * 1000);
    assert_ne!(redirected(&registry, &digest), target);
}

#[test]
fn a_tampered_url_is_refused() {
    let persistent = Persistent::default();
    for keys in [KEY, ""] {
        let registry = signing(keys, &persistent);
        let digest = registry.push_blob("team/app", bytes(300));
        let other = registry.push_blob("team/app", bytes(100));
        let target = redirected(&registry, &digest);
        let (path, verify) = target.split_once("?verify=").unwrap();
        let (seconds, mac) = verify.split_once('-').unwrap();
        let seconds: u64 = seconds.parse().unwrap();
        let first = if mac.starts_with('A') { "B" } else { "A" };
        for (forged, status) in [
            (path.to_owned(), 403),
            (format!("{path}?verify="), 403),
            (format!("{path}?verify={seconds}"), 403),
            (format!("{path}?verify={seconds}-"), 403),
            (format!("{path}?verify={}-{mac}", seconds + 60), 403),
            (format!("{path}?verify={}-{mac}", seconds - 60), 403),
            (format!("{path}?verify={seconds}-{first}{}", &mac[1..]), 403),
            (format!("{path}?verify={seconds}-{}", STANDARD.encode([0; 32])), 403),
            (format!("{}?verify={verify}", path.replace(digest.hex(), other.hex())), 403),
            (format!("{path}/?verify={verify}"), 404),
            (format!("{target}&x=1"), 403),
        ] {
            let answer = registry.get(&format!("GET {forged}"));
            assert_well_formed("GET", &answer);
            assert_eq!(answer.status.as_u16(), status, "{forged}");
            assert_eq!(answer.codes(), [if status == 403 { "DENIED" } else { "UNSUPPORTED" }], "{forged}");
        }
        assert_eq!(get(&registry, &target), 200);
        assert!(!registry.lines.0.borrow().iter().any(|line| line.to_string().contains(KEY)));
        assert!(!registry.lines.0.borrow().is_empty());
    }
}

#[test]
fn heads_and_matching_validators_are_not_redirected() {
    let persistent = Persistent::default();
    let registry = signing(KEY, &persistent);
    let digest = registry.push_blob("team/app", bytes(300));
    let line = format!("/v2/team/app/blobs/{digest}");
    let head = registry.get(&format!("HEAD {line}"));
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "300"));
    let etag = format!("\"{digest}\"");
    let unchanged = registry.send(&format!("GET {line}"), &[("if-none-match", &etag)], None);
    assert_eq!((unchanged.status.as_u16(), unchanged.header("location")), (304, ""));
}

#[test]
fn a_url_expires_on_schedule_with_and_without_a_configured_key() {
    for keys in ["", KEY] {
        let persistent = Persistent::default();
        let registry = signing(keys, &persistent);
        let content = bytes(300);
        let digest = registry.push_blob("team/app", &content);
        let target = redirected(&registry, &digest);
        assert_eq!(registry.get(&format!("GET {target}")).body, content);
        // It outlives the blob, but no new URL is issued.
        assert_eq!(registry.get(&format!("DELETE /v2/team/app/blobs/{digest}")).status, 202);
        for method in ["GET", "HEAD"] {
            assert_eq!(registry.get(&format!("{method} /v2/team/app/blobs/{digest}")).status, 404);
        }
        assert_eq!(get(&registry, &target), 200);
        let made: u64 = target.split_once("?verify=").unwrap().1.split_once('-').unwrap().0.parse().unwrap();
        registry.clock.0.set((made + TTL) * 1000 - 1);
        assert_eq!(get(&registry, &target), 200);
        registry.clock.0.set((made + TTL) * 1000);
        assert_eq!(get(&registry, &target), 403);
    }
}

#[test]
fn a_restart_and_a_second_key_keep_issued_urls_valid() {
    let persistent = Persistent::default();
    let first = signing(KEY, &persistent);
    let digest = first.push_blob("team/app", bytes(300));
    let old = redirected(&first, &digest);
    let both = signing(&format!("{OTHER_KEY} {KEY}"), &persistent);
    let new = redirected(&both, &digest);
    assert_ne!(old, new);
    assert_eq!([&old, &new].map(|target| get(&both, target)), [200, 200]);
    let last = signing(OTHER_KEY, &persistent);
    assert_eq!([&old, &new].map(|target| get(&last, target)), [403, 200]);

    // The default key comes from the bucket and survives a restart.
    let persistent = Persistent::default();
    let digest = signing("", &persistent).push_blob("team/app", bytes(300));
    let target = redirected(&signing("", &persistent), &digest);
    assert_eq!(get(&signing("", &persistent), &target), 200);
    assert_eq!(get(&signing("", &Persistent::default()), &target), 403);
    assert_eq!(sha256(signing("", &persistent).get(&format!("GET {target}")).body), digest);
}

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!((answer.header("cache-control"), answer.header("content-length")), ("no-store", "0"));
    answer.header("location").to_owned()
}

#[test]
fn a_signed_url_serves_its_blob_to_anyone() {
    let persistent = pushed();
    let vars = [("BLOB_REDIRECT", "signed"), ("BLOB_REDIRECT_TTL", "20m")];
    let registry = cold(&vars, &persistent);
    registry.clock.0.set(1_700_000_000_000);
    let target = location(&registry.get(&get_layer()));
    let get = |target: &str, headers: &[(&str, &str)]| registry.send(&format!("GET {target}"), headers, None);
    let whole = get(&target, &[]);
    assert_eq!((whole.status.as_u16(), whole.body.as_slice()), (200, LAYER));
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(whole.header("cache-control"), "public, max-age=1000, immutable, no-transform");
    let part = get(&target, &[("range", "bytes=4-8")]);
    assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, b"bytes".as_slice()));
    assert_eq!(part.header("content-range"), "bytes 4-8/20");
    assert_eq!(get(&target, &[("range", "bytes=99-")]).status, 416);
    let etag = format!("\"{}\"", layer());
    for (if_range, status) in
        [(etag.as_str(), 206), ("\"sha256:other\"", 200), ("Sat, 21 Nov 2026 00:00:00 GMT", 200)]
    {
        assert_eq!(
            get(&target, &[("range", "bytes=4-8"), ("if-range", if_range)]).status,
            status,
            "{if_range}"
        );
    }
    assert_eq!(get(&target, &[("if-none-match", &format!("\"{}\"", layer()))]).status, 304);

    for method in ["HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(registry.get(&format!("{method} {target}")).status, 405, "{method}");
    }
    let other = manifest();
    for forged in [
        target.replace(layer().hex(), other.hex()),
        target.replace("verify=1", "verify=2"),
        target.replace("verify=", "verify=0"),
        format!("{target}A"),
        target.split('?').next().unwrap().to_owned(),
        target.replace("verify", "Verify"),
    ] {
        let answer = get(&forged, &[]);
        assert_eq!(answer.status, 403, "{forged}");
        assert!(String::from_utf8(answer.body).unwrap().contains("\"DENIED\""));
    }
    assert_eq!(get(&target.replace("sha256", "md5"), &[]).status, 400);

    // After the blob is deleted, no new URL is issued, and existing ones expire on schedule.
    assert_eq!(registry.get(&get_layer().replace("GET", "DELETE")).status, 202);
    assert_eq!(registry.get(&get_layer()).status, 404);
    assert_eq!(get(&target, &[]).status, 200);
    registry.clock.0.set(1_700_000_000_000 + 20 * 60 * 1000);
    assert_eq!(get(&target, &[]).status, 403);

    // Without signed redirects there is no such endpoint.
    assert_eq!(cold(&[], &persistent).get(&format!("GET {target}")).status, 404);
}

pub const S3: [(&str, &str); 4] = [
    ("S3_ENDPOINT", "https://account.r2.cloudflarestorage.com"),
    ("S3_BUCKET", "images"),
    ("S3_ACCESS_KEY_ID", "AKID"),
    ("S3_SECRET_ACCESS_KEY", "hidden-secret"),
];

#[test]
fn redirects_depend_on_repository_and_user_agent() {
    let persistent = pushed();
    for name in ["team/x", "team/app", "other"] {
        let line = format!("POST /v2/{name}/blobs/uploads/?mount={}&from=a", layer());
        assert_eq!(cold(&[], &persistent).get(&line).status, 201);
    }
    let vars = [
        ("BLOB_REDIRECT", "presigned"),
        ("BLOB_REDIRECT_REPOSITORIES", "team/app=off team/*=signed"),
        ("BLOB_REDIRECT_SKIP_AGENTS", "containerd/1.2, Old Client"),
        ("BLOB_REDIRECT_ORIGIN", "https://blobs.example.com"),
        ("LOG_LEVEL", "debug"),
    ];
    let registry = cold(&[&vars[..], &S3[..]].concat(), &persistent);
    let path = Key::Data(&layer()).path();
    let presigned = format!("https://account.r2.cloudflarestorage.com/images/{path}?X-Amz-");
    let signed = format!("https://blobs.example.com/v2/_pierhead/blobs/sha256/{}?verify=", layer().hex());
    for (name, expected) in
        [("a", Some(&presigned)), ("other", Some(&presigned)), ("team/x", Some(&signed)), ("team/app", None)]
    {
        let line = get_layer().replace("/a/", &format!("/{name}/"));
        let answer = registry.send(&line, &[("user-agent", "docker/28.0")], None);
        match expected {
            Some(start) => assert!(location(&answer).starts_with(start), "{name}: {}", location(&answer)),
            None => assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, LAYER)),
        }
        for (agent, range) in [("containerd/1.2.9", ""), ("an OLD client", "bytes=0-2")] {
            let answer = registry.send(&line, &[("user-agent", agent), ("range", range)], None);
            assert!(answer.status.is_success(), "{agent}");
        }
        let head = registry.get(&line.replace("GET", "HEAD"));
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "20"));
    }
    let lines = registry.lines.0.borrow().iter().map(ToString::to_string).collect::<String>();
    assert!(!lines.contains("hidden-secret") && !lines.contains("verify=") && !lines.contains("X-Amz"));
}
