//! The token service, and what its tokens allow.

use std::{cell::Cell, ops::Range, rc::Rc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::{LocalBoxFuture, ready};
use pierhead::{
    oci::Hasher,
    platform::{Body, Buffer, ByteStream, ReadError, memory::MemoryStream},
};
use serde_json::{Value, json};

use crate::{
    access::{basic, user},
    fixtures::sha256,
    support::{Answer, Persistent, TestRegistry},
};

pub const HOST: (&str, &str) = ("host", "registry.example");
pub const ADMIN: &str = "correct horse battery";

/// A registry with the users ann and admin.
pub fn registry(anonymous: &str) -> TestRegistry {
    with_users(anonymous, &user("ann", "secret"), Persistent::default())
}

pub fn with_users(anonymous: &str, users: &str, persistent: Persistent) -> TestRegistry {
    TestRegistry::with(
        &[("ANONYMOUS", anonymous), ("HTPASSWD", users), ("ADMIN_PASSWORD", ADMIN)],
        persistent,
    )
}

pub fn send(registry: &TestRegistry, line: &str, authorization: &str) -> Answer {
    let headers = [HOST, ("authorization", authorization)];
    registry.send(line, if authorization.is_empty() { &headers[..1] } else { &headers }, None)
}

pub fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

pub fn get_token(registry: &TestRegistry, query: &str, credentials: &str) -> Answer {
    let authorization = if credentials.is_empty() { String::new() } else { basic(credentials) };
    send(registry, &format!("GET /token?{query}"), &authorization)
}

/// The token for a scope, as `Authorization`.
pub fn bearer(registry: &TestRegistry, scope: &str, credentials: &str) -> String {
    let answer = get_token(registry, &format!("service=registry.example&scope={scope}"), credentials);
    assert_eq!(answer.status, 200, "{scope}: {}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("cache-control"), "no-store");
    let token = json_of(&answer);
    assert_eq!(token["token"], token["access_token"]);
    assert_eq!(token["expires_in"], 300);
    assert!(token["issued_at"].as_str().unwrap().ends_with('Z'), "{token}");
    format!("Bearer {}", token["token"].as_str().unwrap())
}

pub fn claims(authorization: &str) -> Value {
    let claims = authorization.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

pub fn post(registry: &TestRegistry, form: &[(&str, &str)]) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let headers = [HOST, ("content-type", "application/x-www-form-urlencoded")];
    registry.send("POST /token", &headers, Some(MemoryStream::new(form.into_bytes())))
}

#[test]
fn a_token_has_the_claims_of_dockers_protocol() {
    let registry = registry("none");
    let token = bearer(&registry, "repository:team/app:push,pull", "ann:secret");
    let claims = claims(&token);
    assert_eq!(claims["iss"], "registry.example");
    assert_eq!(claims["aud"], "registry.example");
    assert_eq!(claims["sub"], "ann");
    let now = registry.clock.0.get() / 1000;
    assert_eq!((claims["iat"].as_u64(), claims["nbf"].as_u64()), (Some(now), Some(now)));
    assert_eq!(claims["exp"], now + 300);
    assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
    let access = json!([{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]);
    assert_eq!(claims["access"], access);
    // No two are the same.
    assert_ne!(token, bearer(&registry, "repository:team/app:push,pull", "ann:secret"));
}

#[test]
fn a_token_allows_what_its_scopes_name_and_nothing_else() {
    let registry = registry("none");
    let token = bearer(
        &registry,
        "repository:a:pull,push&scope=repository:b:pull%20registry:catalog:*",
        "ann:secret",
    );
    for (line, status) in [
        ("GET /v2/", 200),
        ("GET /v2/_catalog", 200),
        ("GET /v2/a/tags/list", 404),
        ("GET /v2/b/tags/list", 404),
        ("POST /v2/a/blobs/uploads/", 202),
        ("POST /v2/b/blobs/uploads/", 401),
        ("GET /v2/c/tags/list", 401),
        ("DELETE /v2/a/manifests/x", 401),
    ] {
        let answer = send(&registry, line, &token);
        assert_eq!(answer.status, status, "{line}");
        if status == 401 {
            let challenge = answer.header("www-authenticate");
            assert!(challenge.contains(",error=\"insufficient_scope\""), "{line}: {challenge}");
            assert!(challenge.contains("scope=\"repository:"), "{line}: {challenge}");
        }
    }
    // The challenge names what it takes.
    let answer = send(&registry, "POST /v2/b/blobs/uploads/", &token);
    assert!(answer.header("www-authenticate").contains("scope=\"repository:b:pull,push\""));
    // A mount also takes the right to pull from its source, if that is a name at all. A client whose token lacks only
    // that uploads the blob.
    let mount = |from: &str| format!("POST /v2/b/blobs/uploads/?mount={}&from={from}", sha256("layer"));
    let scope = |line: &str, token: &str| {
        let answer = send(&registry, line, token);
        assert_eq!(answer.status, 401, "{line}");
        let challenge = answer.header("www-authenticate").to_owned();
        challenge.split_once("scope=").unwrap().1.to_owned()
    };
    assert_eq!(scope(&mount("a"), ""), "\"repository:b:pull,push repository:a:pull\"");
    assert_eq!(scope(&mount("Not%20a%20name"), ""), "\"repository:b:pull,push\"");
    assert_eq!(scope("POST /v2/b/blobs/uploads/?from=a", ""), "\"repository:b:pull,push\"");
    assert_eq!(scope(&mount("a"), &token), "\"repository:b:pull,push\",error=\"insufficient_scope\"");
    let asked = "repository:b:pull,push&scope=repository:a:pull,push";
    let both = bearer(&registry, asked, "ann:secret");
    let layer = sha256("layer");
    let upload = format!("POST /v2/a/blobs/uploads/?digest={layer}");
    let headers = [HOST, ("authorization", both.as_str())];
    assert_eq!(registry.send(&upload, &headers, Some(MemoryStream::new("layer"))).status, 201);
    let target = bearer(&registry, "repository:b:pull,push", "ann:secret");
    assert_eq!(send(&registry, &mount("a"), &target).status, 202);
    assert_eq!(send(&registry, &mount("a"), &both).status, 201);

    let all = bearer(&registry, "repository:a:*", "ann:secret");
    assert_eq!(send(&registry, "DELETE /v2/a/manifests/x", &all).status, 404);
}

#[test]
fn checking_a_token_costs_no_storage() {
    let registry = registry("none");
    let token = bearer(&registry, "repository:a:pull,push", "ann:secret");
    for line in ["GET /v2/", "GET /v2/c/tags/list"] {
        let (calls, _) = registry.calls(line, &[HOST, ("authorization", &token)]);
        assert_eq!(calls, Vec::<&str>::new(), "{line}");
    }
}

#[test]
fn logins_tell_the_truth_in_every_mode() {
    for anonymous in ["none", "pull", "push"] {
        let registry = registry(anonymous);
        let challenge = send(&registry, "GET /v2/", "");
        assert_eq!(challenge.status, 401, "{anonymous}");
        assert_eq!(
            challenge.header("www-authenticate"),
            "Bearer realm=\"https://registry.example/token\",service=\"registry.example\""
        );
        for (credentials, status) in [
            ("ann:secret", 200),
            (&format!("admin:{ADMIN}"), 200),
            ("ann:wrong", 401),
            ("bob:secret", 401),
            ("admin:secret", 401),
            (":", 401),
        ] {
            let answer = get_token(&registry, "account=x&offline_token=true", credentials);
            assert_eq!(answer.status, status, "{anonymous} {credentials}");
            if status == 401 {
                assert_eq!(json_of(&answer)["errors"][0]["code"], "UNAUTHORIZED");
                let message = "the user name or the password is wrong";
                assert_eq!(json_of(&answer)["errors"][0]["message"], message);
                assert!(answer.header("www-authenticate").starts_with("Basic "));
            } else {
                let token = format!("Bearer {}", json_of(&answer)["token"].as_str().unwrap());
                assert_eq!(send(&registry, "GET /v2/", &token).status, 200);
            }
        }
    }
}

#[test]
fn an_anonymous_token_gets_what_everybody_may() {
    for (anonymous, expected) in [
        ("none", json!([])),
        ("pull", json!([{"type": "repository", "name": "a", "actions": ["pull"]}])),
        ("push", json!([{"type": "repository", "name": "a", "actions": ["pull", "push"]}])),
    ] {
        let registry = registry(anonymous);
        let token = bearer(&registry, "repository:a:pull,push", "");
        assert_eq!(claims(&token)["access"], expected, "{anonymous}");
        assert_eq!(send(&registry, "GET /v2/", &token).status, 200);
        let may_pull = anonymous != "none";
        let status = send(&registry, "GET /v2/a/tags/list", &token).status.as_u16();
        assert_eq!(status, if may_pull { 404 } else { 401 }, "{anonymous}");
    }
}

#[test]
fn wrong_credentials_pull_what_everybody_may_pull_and_nothing_else() {
    let open = registry("pull");
    for (scope, status) in [
        ("scope=repository:a:pull", 200),
        ("scope=repository:a:pull&scope=repository:b:pull", 200),
        ("scope=repository:a:pull,push", 401),
        ("scope=repository:a:pull&scope=repository:b:push", 401),
        ("scope=", 401),
        ("", 401),
    ] {
        assert_eq!(get_token(&open, scope, "of:another-registry").status, status, "{scope}");
    }
    let closed = registry("none");
    assert_eq!(get_token(&closed, "scope=repository:a:pull", "of:another-registry").status, 401);
}

#[test]
fn without_users_leftover_credentials_are_ignored_where_anybody_may_push() {
    let registry = TestRegistry::with(&[("ANONYMOUS", "push")], Persistent::default());
    for authorization in ["", &basic("a:b"), "Bearer x", "Digest x", "Basic !"] {
        assert_eq!(send(&registry, "GET /v2/", authorization).status, 200, "{authorization}");
        assert_eq!(send(&registry, "POST /v2/a/blobs/uploads/", authorization).status, 202);
        assert_eq!(send(&registry, "GET /token?scope=repository:a:push", authorization).status, 200);
    }
    for anonymous in ["none", "pull"] {
        let registry = TestRegistry::with(&[("ANONYMOUS", anonymous)], Persistent::default());
        assert_eq!(send(&registry, "GET /v2/", &basic("a:b")).status, 401);
        assert_eq!(get_token(&registry, "", "a:b").status, 401);
    }
}

#[test]
fn bad_tokens_are_challenged_as_invalid() {
    let registry = registry("pull");
    let token = bearer(&registry, "repository:a:pull", "ann:secret");
    let elsewhere = registry.send("GET /v2/", &[("host", "other.example"), ("authorization", &token)], None);
    assert_eq!(elsewhere.status, 401);
    for bad in ["Bearer", "Bearer ", "Bearer x", &token[..token.len() - 1], &format!("{token}x"), "Digest a"]
    {
        let answer = send(&registry, "GET /v2/a/tags/list", bad);
        assert_eq!(answer.status, 401, "{bad}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            challenge.contains("error=\"invalid_token\""),
            bad.starts_with("Bearer "),
            "{bad}: {challenge}"
        );
    }
    registry.clock.0.set(registry.clock.0.get() + 300_000);
    let answer = send(&registry, "GET /v2/", &token);
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
}

#[test]
fn a_service_or_a_grant_of_another_kind_is_refused() {
    let registry = registry("none");
    assert_eq!(get_token(&registry, "service=other.example", "ann:secret").status, 400);
    for form in [
        &[][..],
        &[("grant_type", "client_credentials")],
        &[("grant_type", "password"), ("username", "ann")],
        &[("grant_type", "refresh_token")],
    ] {
        assert_eq!(post(&registry, form).status, 400, "{form:?}");
    }
}

#[test]
fn refresh_tokens_stand_for_a_password_until_it_changes() {
    let persistent = Persistent::default();
    let before =
        with_users("none", &[user("ann", "secret"), user("bob", "x")].join("\n"), persistent.clone());
    let login = |registry: &TestRegistry, access_type: &str| {
        let form = [
            ("grant_type", "password"),
            ("service", "registry.example"),
            ("client_id", "docker"),
            ("access_type", access_type),
            ("scope", "repository:a:pull"),
            ("username", "ann"),
            ("password", "secret"),
        ];
        json_of(&post(registry, &form))
    };
    assert_eq!(login(&before, "online").get("refresh_token"), None);
    let token = login(&before, "offline")["refresh_token"].as_str().unwrap().to_owned();
    let refresh = |registry: &TestRegistry| {
        post(
            registry,
            &[("grant_type", "refresh_token"), ("refresh_token", &token), ("scope", "repository:a:push")],
        )
    };
    let answer = refresh(&before);
    assert_eq!(answer.status, 200);
    let access = format!("Bearer {}", json_of(&answer)["access_token"].as_str().unwrap());
    assert_eq!(send(&before, "POST /v2/a/blobs/uploads/", &access).status, 202);
    // At the token service it is a password too, which gives no other; with a request it is nothing.
    let again = get_token(&before, "offline_token=true", &format!("ann:{token}"));
    assert_eq!((again.status.as_u16(), json_of(&again).get("refresh_token")), (200, None));
    assert_eq!(json_of(&answer).get("refresh_token"), None);
    assert_eq!(send(&before, "GET /v2/", &basic(&format!("ann:{token}"))).status, 401);
    assert_eq!(send(&before, "GET /v2/", &format!("Bearer {token}")).status, 401);
    // By Docker's other form.
    let offline = get_token(&before, "offline_token=true", "ann:secret");
    assert!(json_of(&offline)["refresh_token"].is_string());
    let anonymous = get_token(&before, "offline_token=true", "");
    assert_eq!(json_of(&anonymous).get("refresh_token"), None);
    // A changed password and a removed user end it at the next deployment; so does time.
    let changed = with_users("none", &user("ann", "new secret"), persistent.clone());
    assert_eq!(refresh(&changed).status, 401);
    let removed = with_users("none", &user("bob", "x"), persistent.clone());
    assert_eq!(refresh(&removed).status, 401);
    assert_eq!(send(&removed, "POST /v2/a/blobs/uploads/", &access).status, 401);
    before.clock.0.set(before.clock.0.get() + 30 * 24 * 60 * 60 * 1000);
    assert_eq!(refresh(&before).status, 401);
}

/// Makes a key; returns its id and the key.
pub fn make_key(registry: &TestRegistry, request: &Value) -> (String, String) {
    let answer = send_json(registry, "POST /v2/_pierhead/keys", request);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("cache-control"), "no-store");
    let made = json_of(&answer);
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

fn send_json(registry: &TestRegistry, line: &str, body: &Value) -> Answer {
    let authorization = basic(&format!("admin:{ADMIN}"));
    let headers = [HOST, ("authorization", authorization.as_str())];
    registry.send(line, &headers, Some(MemoryStream::new(body.to_string().into_bytes())))
}

#[test]
fn a_key_may_do_what_its_scopes_name() {
    let registry = registry("none");
    let scopes = json!([
        {"repositories": "team/**", "actions": ["pull", "push"]},
        {"repositories": "base/*", "actions": ["pull"]},
    ]);
    let (id, key) = make_key(&registry, &json!({"name": "ci", "scopes": scopes, "expires": "12h"}));
    let credentials = format!("ci:{key}");
    for (line, status) in [
        ("GET /v2/", 200),
        ("POST /v2/team/a/blobs/uploads/", 202),
        ("GET /v2/base/x/tags/list", 404),
        ("POST /v2/base/x/blobs/uploads/", 403),
        ("GET /v2/base/x/y/tags/list", 403),
        ("DELETE /v2/team/a/manifests/x", 403),
        ("GET /v2/_pierhead/keys", 403),
        ("GET /metrics", 403),
    ] {
        assert_eq!(send(&registry, line, &basic(&credentials)).status, status, "{line}");
    }
    let token =
        bearer(&registry, "repository:team/a:pull,push,delete&scope=repository:base/x:push", &credentials);
    let access = json!([{"type": "repository", "name": "team/a", "actions": ["pull", "push"]}]);
    assert_eq!(claims(&token)["access"], access);
    assert_eq!(claims(&token)["sub"], "key:ci");
    assert_eq!(send(&registry, "POST /v2/team/a/blobs/uploads/", &token).status, 202);
    // The name of the account counts, and every character of the key.
    for wrong in
        [format!("other:{key}"), format!("ci:{key}x"), format!("ci:{}", key.replace(&id, "0123456789abcdef"))]
    {
        assert_eq!(get_token(&registry, "", &wrong).status, 401, "{wrong}");
    }
    registry.clock.0.set(registry.clock.0.get() + 12 * 60 * 60 * 1000);
    assert_eq!(get_token(&registry, "", &credentials).status, 401);
}

#[test]
fn the_bucket_holds_no_key() {
    let persistent = Persistent::default();
    let registry = with_users("none", "", persistent.clone());
    let (id, key) =
        make_key(&registry, &json!({"name": "ci", "scopes": [{"repositories": "**", "actions": ["pull"]}]}));
    let secret = key.rsplit_once(&format!("{id}_")).unwrap().1;
    let shown = send_json(&registry, &format!("GET /v2/_pierhead/keys/{id}"), &Value::Null);
    assert!(!String::from_utf8_lossy(&shown.body).contains(secret));
    for path in persistent.storage.memory.paths() {
        let content =
            futures_executor::block_on(persistent.storage.store().read(&path.parse().unwrap(), 1 << 20));
        let content = content.unwrap().unwrap().0;
        assert!(!String::from_utf8_lossy(&content).contains(secret), "{path}");
    }
}

#[test]
fn keys_are_listed_with_their_last_use_and_revoked() {
    let persistent = Persistent::default();
    let registry = with_users("none", "", persistent.clone());
    let scopes = json!([{"repositories": "**", "actions": ["pull"]}]);
    let (id, key) = make_key(&registry, &json!({"name": "ci", "scopes": scopes, "expires": "never"}));
    let (second, _) = make_key(&registry, &json!({"name": "ci", "scopes": scopes}));
    let list = |line: &str| json_of(&send_json(&registry, line, &Value::Null));
    let listed = list("GET /v2/_pierhead/keys");
    let ids: Vec<&str> =
        listed["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    let mut expected = [id.as_str(), second.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let shown = list(&format!("GET /v2/_pierhead/keys/{id}"));
    assert_eq!(shown["expires"], Value::Null);
    assert_eq!(shown["last_used"], Value::Null);
    assert_eq!(shown["made_by"], "admin");
    let credentials = format!("ci:{key}");
    let token = bearer(&registry, "repository:a:pull", &credentials);
    registry.run_background();
    assert!(list(&format!("GET /v2/_pierhead/keys/{id}"))["last_used"].is_string());

    // Another isolate knows the key already.
    let other = with_users("none", "", persistent);
    assert_eq!(send(&other, "GET /v2/", &basic(&credentials)).status, 200);
    let refresh = get_token(&other, "offline_token=true", &credentials);
    let refresh = json_of(&refresh)["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(send_json(&registry, &format!("DELETE /v2/_pierhead/keys/{id}"), &Value::Null).status, 204);
    assert_eq!(send_json(&registry, &format!("DELETE /v2/_pierhead/keys/{id}"), &Value::Null).status, 404);
    // Here it ends at once; elsewhere it acts for another minute as a password, and for five as a token.
    assert_eq!(send(&registry, "GET /v2/", &basic(&credentials)).status, 401);
    assert_eq!(post(&other, &[("grant_type", "refresh_token"), ("refresh_token", &refresh)]).status, 401);
    let after =
        |registry: &TestRegistry, seconds: u64| registry.clock.0.set(registry.clock.0.get() + seconds * 1000);
    assert_eq!(send(&registry, "GET /v2/a/tags/list", &token).status, 404);
    after(&registry, 300);
    assert_eq!(send(&registry, "GET /v2/a/tags/list", &token).status, 401);
    after(&other, 60);
    assert_eq!(send(&other, "GET /v2/", &basic(&credentials)).status, 401);
}

#[test]
fn malformed_requests_for_keys_are_refused_with_what_is_expected() {
    let registry = registry("none");
    let scope = json!({"repositories": "**", "actions": ["pull"]});
    for (request, expected) in [
        (json!({"name": "CI", "scopes": [scope]}), "name must be"),
        (json!({"name": "ci", "scopes": []}), "scopes must be"),
        (json!({"name": "ci", "scopes": [{"repositories": "A", "actions": ["pull"]}]}), "scopes must be"),
        (json!({"name": "ci", "scopes": [{"repositories": "a", "actions": []}]}), "scopes must be"),
        (json!({"name": "ci", "scopes": [{"repositories": "a", "actions": ["fly"]}]}), "unknown variant"),
        (json!({"name": "ci", "scopes": [scope], "expires": "soon"}), "expires must be"),
        (json!({"name": "ci", "scopes": [scope], "admin": true}), "unknown field"),
        (json!({"name": "ci"}), "missing field"),
    ] {
        let answer = send_json(&registry, "POST /v2/_pierhead/keys", &request);
        assert_eq!(answer.status, 400, "{request}");
        let message = json_of(&answer)["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(expected), "{request}: {message}");
    }
}

/// Requests that only whoever administers may send, and their status in an empty registry.
const ADMINISTRATION: [(&str, u16); 19] = [
    ("GET /v2/_pierhead/keys", 200),
    ("POST /v2/_pierhead/keys", 400),
    ("GET /v2/_pierhead/keys/0123456789abcdef", 404),
    ("DELETE /v2/_pierhead/keys/0123456789abcdef", 404),
    ("GET /v2/_pierhead/openapi.json", 200),
    ("GET /v2/_pierhead/jobs", 200),
    ("GET /v2/_pierhead/jobs/purge", 200),
    ("POST /v2/_pierhead/jobs/fsck/run", 200),
    ("POST /v2/_pierhead/jobs/fsck/pause", 200),
    ("POST /v2/_pierhead/jobs/fsck/resume", 200),
    ("POST /v2/_pierhead/jobs/fsck/cancel", 200),
    ("GET /v2/_pierhead/usage", 200),
    ("GET /v2/_pierhead/events", 200),
    ("GET /v2/_pierhead/events/ci/dead", 404),
    ("GET /v2/_pierhead/events/ci/dead/1", 404),
    ("POST /v2/_pierhead/events/ci/dead", 404),
    ("POST /v2/_pierhead/events/ci/dead/1", 404),
    ("DELETE /v2/_pierhead/events/ci/dead/1", 404),
    // They are off here.
    ("GET /metrics", 404),
];

#[test]
fn no_token_administers_not_even_the_administrators() {
    let registry = registry("push");
    let credentials = format!("admin:{ADMIN}");
    let pull = bearer(&registry, "repository:a:pull", &credentials);
    let all = bearer(&registry, "repository:a:*&scope=registry:catalog:*", &credentials);
    let login = json_of(&get_token(&registry, "offline_token=true", &credentials));
    let refresh = basic(&format!("admin:{}", login["refresh_token"].as_str().unwrap()));
    for (line, status) in ADMINISTRATION {
        for token in [&pull, &all, &refresh] {
            let answer = send(&registry, line, token);
            assert_eq!(answer.status, 401, "{line}");
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, "Basic realm=\"Pierhead\", charset=\"UTF-8\"", "{line}");
        }
        assert_eq!(send(&registry, line, &basic(&credentials)).status.as_u16(), status, "{line}");
    }
}

#[test]
fn nobody_touches_keys_without_a_login_even_where_anybody_may_push() {
    let persistent = Persistent::default();
    let scope = json!([{"repositories": "**", "actions": ["pull"]}]);
    let admin = with_users("none", "", persistent.clone());
    let (id, key) = make_key(&admin, &json!({"name": "ci", "scopes": scope}));
    let open = TestRegistry::with(&[("ANONYMOUS", "push")], persistent.clone());
    for (registry, status) in [(open, 403), (with_users("push", "", persistent.clone()), 401)] {
        for line in ["POST /v2/a/blobs/uploads/", "POST /v2/_pierhead/jobs/fsck/run"] {
            assert!(send(&registry, line, "").status.is_success(), "{line}");
        }
        let request = json!({"name": "mine", "scopes": scope}).to_string();
        for line in [
            "POST /v2/_pierhead/keys",
            "GET /v2/_pierhead/keys",
            &format!("GET /v2/_pierhead/keys/{id}"),
            &format!("DELETE /v2/_pierhead/keys/{id}"),
        ] {
            let body = MemoryStream::new(request.clone().into_bytes());
            let answer = registry.send(line, &[HOST], Some(body));
            assert_eq!(answer.status, status, "{line}");
            let is_challenged = answer.header("www-authenticate").starts_with("Basic ");
            assert_eq!(is_challenged, status == 401, "{line}");
            assert!(!String::from_utf8_lossy(&answer.body).contains(&id), "{line}");
        }
    }
    let paths = persistent.storage.memory.paths();
    let kept: Vec<&String> = paths.iter().filter(|path| path.contains("keys")).collect();
    assert_eq!(kept, [&format!("pierhead/keys/{id}")]);
    assert_eq!(send(&admin, "GET /v2/", &basic(&format!("ci:{key}"))).status, 200);
}

#[test]
fn a_key_is_used_where_its_refresh_token_is() {
    let persistent = Persistent::default();
    let registry = with_users("none", "", persistent.clone());
    let scopes = json!([{"repositories": "**", "actions": ["pull"]}]);
    let (id, key) = make_key(&registry, &json!({"name": "ci", "scopes": scopes}));
    let shown = |registry: &TestRegistry| {
        let authorization = basic(&format!("admin:{ADMIN}"));
        json_of(&send(registry, &format!("GET /v2/_pierhead/keys/{id}"), &authorization))["last_used"].clone()
    };
    let login = get_token(&registry, "offline_token=true", &format!("ci:{key}"));
    let refresh = json_of(&login)["refresh_token"].as_str().unwrap().to_owned();
    // This isolate ends before it has written down the login.
    assert_eq!(shown(&registry), Value::Null);
    let other = with_users("none", "", persistent);
    for (hours, expected) in [(1, "1970-01-01T01:00:00Z"), (5, "1970-01-01T05:00:00Z")] {
        other.clock.0.set(hours * 3_600_000);
        assert_eq!(post(&other, &[("grant_type", "refresh_token"), ("refresh_token", &refresh)]).status, 200);
        other.run_background();
        assert_eq!(shown(&other), expected);
    }
}

#[test]
fn passwords_are_as_long_as_bcrypt_sees() {
    let [longest, admin] = ["p".repeat(72), format!("{ADMIN} {}", "x".repeat(80))];
    let users = user("ann", &longest);
    let vars = [("ANONYMOUS", "pull"), ("HTPASSWD", users.as_str()), ("ADMIN_PASSWORD", &admin)];
    let registry = TestRegistry::with(&vars, Persistent::default());
    for (name, password) in [("ann", &longest), ("admin", &admin)] {
        // First the wrong one, then the right one, then the wrong one where the right one is remembered.
        for (ending, is_right) in [("p", false), ("", true), ("p", false), ("\0", false), ("ü", false)] {
            let password = format!("{password}{ending}");
            let credentials = format!("{name}:{password}");
            let form = [("grant_type", "password"), ("username", name), ("password", &password)];
            let authorization = basic(&credentials);
            for status in [
                get_token(&registry, "", &credentials).status,
                post(&registry, &form).status,
                send(&registry, "GET /v2/", &authorization).status,
                send(&registry, "GET /v2/_catalog", &authorization).status,
                send(&registry, "GET /v2/_pierhead/keys", &authorization).status,
            ] {
                assert_eq!(status, if is_right { 200 } else { 401 }, "{name} {ending}");
            }
        }
    }
}

#[test]
fn a_token_that_would_be_too_long_is_refused_with_the_reason() {
    let registry = registry("none");
    let scope = |count: usize, length: usize| {
        let scopes: Vec<String> = (0..count).map(|n| format!("repository:{n:0length$}:*")).collect();
        scopes.join(" ")
    };
    let get = |scope: String| {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("scope", &scope).finish();
        get_token(&registry, &query, "ann:secret")
    };
    let form = |scope: String| {
        let form =
            [("grant_type", "password"), ("username", "ann"), ("password", "secret"), ("scope", &scope)];
        post(&registry, &form)
    };
    for refused in [get(scope(64, 150)), form(scope(64, 150)), form(scope(64, 255))] {
        assert_eq!(refused.status, 400);
        assert_eq!(refused.codes(), ["UNSUPPORTED"]);
        let message = refused.errors()[0]["message"].as_str().unwrap().to_owned();
        assert_eq!(message, "query parameter scope: fewer scopes: the token would be too long");
    }
    // As many as fit are in the token, and it is one that the registry takes.
    let longest = form(scope(64, 110));
    assert_eq!(longest.status, 200);
    let token = format!("Bearer {}", json_of(&longest)["token"].as_str().unwrap());
    assert_eq!(claims(&token)["access"].as_array().unwrap().len(), 64);
    assert_eq!(send(&registry, &format!("GET /v2/{:0110}/tags/list", 63), &token).status, 404);
    // What is not granted takes no room.
    let anonymous = post(&registry, &[("grant_type", "refresh_token"), ("refresh_token", "x")]);
    assert_eq!(anonymous.status, 401);
    let nothing = send(&registry, &format!("GET /token?scope={}", scope(64, 150).replace(' ', "+")), "");
    assert_eq!(nothing.status, 200);
}

#[test]
fn a_challenge_says_what_is_wrong_with_a_token_and_nothing_of_none() {
    let registry = registry("none");
    let small = bearer(&registry, "repository:b:pull", "ann:secret");
    let token = bearer(&registry, "repository:a:*&scope=registry:catalog:*", "ann:secret");
    let forged = format!("{}A{}", &token[..token.len() - 9], &token[token.len() - 8..]);
    let service = "Bearer realm=\"https://registry.example/token\",service=\"registry.example\"";
    let challenge = |line: &str, authorization: &str, scope: &str, error: &str| {
        let answer = send(&registry, line, authorization);
        assert_eq!(answer.status, 401, "{line} {error}");
        assert_eq!(answer.header("www-authenticate"), format!("{service}{scope}{error}"), "{line}");
    };
    let lines = [
        ("GET /v2/", ""),
        ("GET /v2/_catalog", ",scope=\"registry:catalog:*\""),
        ("GET /v2/a/tags/list", ",scope=\"repository:a:pull\""),
        ("POST /v2/a/blobs/uploads/", ",scope=\"repository:a:pull,push\""),
        ("DELETE /v2/a/manifests/x", ",scope=\"repository:a:delete\""),
    ];
    let invalid = ",error=\"invalid_token\"";
    for (line, scope) in lines {
        challenge(line, "", scope, "");
        // A wrong password is no token.
        challenge(line, &basic("ann:wrong"), scope, "");
        challenge(line, &forged, scope, invalid);
        if line != "GET /v2/" {
            challenge(line, &small, scope, ",error=\"insufficient_scope\"");
        }
        assert_ne!(send(&registry, line, &token).status, 401, "{line}");
    }
    registry.clock.0.set(300_000);
    for (line, scope) in lines {
        challenge(line, &token, scope, invalid);
        challenge(line, &small, scope, invalid);
    }
}

/// A body that never ends, and counts the bytes that are read.
struct Endless(Rc<Cell<u64>>);

impl ByteStream for Endless {
    fn content_length(&self) -> Option<u64> {
        None
    }

    fn read_into<'a>(
        &'a mut self,
        _: &'a mut dyn Buffer,
        range: Range<usize>,
        _: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<usize, ReadError>> {
        self.0.set(self.0.get() + range.len() as u64);
        Box::pin(ready(Ok(range.end)))
    }

    fn read(self: Box<Self>, limit: usize) -> LocalBoxFuture<'static, Result<Bytes, ReadError>> {
        self.0.set(self.0.get() + limit as u64);
        Box::pin(ready(Err(ReadError::TooLarge { limit })))
    }

    fn discard<'a>(
        &'a mut self,
        limit: u64,
        _: Option<&'a mut Hasher>,
    ) -> LocalBoxFuture<'a, Result<(), ReadError>> {
        self.0.set(self.0.get() + limit);
        Box::pin(ready(Ok(())))
    }

    fn cancel(self: Box<Self>) {}
}

#[test]
fn bodies_are_read_up_to_their_limit_and_not_beyond() {
    let registry = registry("none");
    let admin = basic(&format!("admin:{ADMIN}"));
    for (uri, authorization, limit) in
        [("/token", "", 65_536), ("/v2/_pierhead/keys", &admin, 16_384), ("/v2/_pierhead/keys", "", 0)]
    {
        let sent = |body: Body| {
            let mut request = http::Request::builder().method("POST").uri(uri).header(HOST.0, HOST.1);
            if !authorization.is_empty() {
                request = request.header("authorization", authorization);
            }
            let (parts, body) = block_on(registry.handle(request.body(body).unwrap())).into_parts();
            (parts.status.as_u16(), block_on(body.read(usize::MAX)).unwrap())
        };
        let read = Rc::new(Cell::new(0));
        let (status, body) = sent(Body::Stream(Box::new(Endless(read.clone()))));
        assert_eq!(read.get(), limit, "{uri}");
        if limit == 0 {
            assert_eq!(status, 401);
            continue;
        }
        assert_eq!(status, 413, "{uri}");
        let error = &serde_json::from_slice::<Value>(&body).unwrap()["errors"][0];
        assert_eq!(error["code"], "SIZE_INVALID");
        let message = format!(
            "the body of the request is larger than {limit} bytes, which is a fixed limit: send less"
        );
        assert_eq!(error["message"], message);
        for (length, expected) in [(limit, 400), (limit + 1, 413)] {
            let content = vec![b'x'; length as usize];
            for stream in [MemoryStream::new(content.clone()), MemoryStream::chunked(content)] {
                assert_eq!(sent(Body::Stream(stream.into())).0, expected, "{uri} {length}");
            }
        }
    }
}
