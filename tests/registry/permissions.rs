//! What the policy, maintenance and limits let a request do.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures_util::future::LocalBoxFuture;
use pierhead::platform::{Limiter, memory::MemoryStream, verifier::Algorithm};
use serde_json::{Value, json};

use crate::{
    access::{basic, user},
    fixtures::{EMPTY_INDEX, INDEX, sha256},
    issuer::{Answer as Served, Signer},
    support::{Answer, Persistent, TestRegistry},
};

const HOST: (&str, &str) = ("host", "registry.example");
const ADMIN: &str = "correct horse battery";
const ISSUER: &str = "https://ci.example.com";
const KEYS: &str = "https://ci.example.com/jwks";

const POLICY: &str = r#"
[[issuer]]
name = "ci"
url = "https://ci.example.com"
audience = "registry.example"
algorithms = ["ES256"]
jwks = "https://ci.example.com/jwks"

[[rule]]
everyone = true
repositories = ["public/**"]
actions = ["pull"]

[[rule]]
user = "ann"
repositories = ["team/**", "public/**"]
actions = ["pull", "push", "delete"]

[[rule]]
user = "bob"
repositories = ["team/**"]
actions = ["pull"]

[[rule]]
issuer = "ci"
claims = { repository = "org/app", ref = "refs/heads/*" }
repositories = ["org/app/**"]
actions = ["pull", "push"]
"#;

fn with(vars: &[(&str, &str)], persistent: Persistent) -> TestRegistry {
    let users = [user("ann", "a"), user("bob", "b")].join("\n");
    let own = [("ANONYMOUS", "none"), ("HTPASSWD", &users), ("ADMIN_PASSWORD", ADMIN), ("POLICY", POLICY)];
    let vars: Vec<(&str, &str)> = vars.iter().chain(&own).copied().collect();
    TestRegistry::with(&vars, persistent)
}

/// The credentials of a user; of nobody for an empty name.
fn as_user(name: &str) -> String {
    match name {
        "" => String::new(),
        "ann" => basic("ann:a"),
        "bob" => basic("bob:b"),
        _ => basic(&format!("admin:{ADMIN}")),
    }
}

fn send(registry: &TestRegistry, line: &str, authorization: &str) -> Answer {
    send_body(registry, line, authorization, None)
}

fn send_body(registry: &TestRegistry, line: &str, authorization: &str, body: Option<Vec<u8>>) -> Answer {
    let headers = [HOST, ("authorization", authorization)];
    let headers = if authorization.is_empty() { &headers[..1] } else { &headers };
    registry.send(line, headers, body.map(MemoryStream::new))
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn push(registry: &TestRegistry, name: &str, tag: &str, who: &str) -> u16 {
    let manifest =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []});
    let line = format!("PUT /v2/{name}/manifests/{tag}");
    let answer = send_body(registry, &line, &as_user(who), Some(manifest.to_string().into_bytes()));
    answer.status.as_u16()
}

#[test]
fn the_catalog_lists_what_one_may_pull() {
    let registry = with(&[], Persistent::default());
    for name in ["a", "public/x", "public/y", "team/one", "team/two", "z"] {
        assert_eq!(push(&registry, name, "v1", "admin"), 201, "{name}");
    }
    let names = |line: &str, who: &str| {
        let answer = send(&registry, line, &as_user(who));
        assert_eq!(answer.status, 200, "{line} {who}");
        let names = json_of(&answer)["repositories"].as_array().unwrap().clone();
        let names: Vec<String> = names.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        (names.join(" "), answer.header("link").to_owned())
    };
    assert_eq!(names("GET /v2/_catalog", "admin").0, "a public/x public/y team/one team/two z");
    assert_eq!(names("GET /v2/_catalog", "ann").0, "public/x public/y team/one team/two");
    assert_eq!(names("GET /v2/_catalog", "").0, "public/x public/y");
    // A page ends where the next begins, and says nothing of what is hidden behind its end.
    let (first, link) = names("GET /v2/_catalog?n=3", "bob");
    assert_eq!((first.as_str(), link.contains("last=team%2Fone")), ("public/x public/y team/one", true));
    assert_eq!(names("GET /v2/_catalog?n=3&last=team/one", "bob"), ("team/two".to_owned(), String::new()));
    assert_eq!(names("GET /v2/_catalog?n=2", "").1, "");
}

#[test]
fn a_hidden_repository_answers_like_one_that_does_not_exist() {
    let registry = with(&[], Persistent::default());
    assert_eq!(push(&registry, "secret/app", "v1", "admin"), 201);
    let digest = sha256("x");
    for who in ["", "bob"] {
        for path in ["manifests/v1", &format!("blobs/{digest}"), "tags/list", &format!("referrers/{digest}")]
        {
            let mut answers = Vec::new();
            for name in ["secret/app", "secret/nil"] {
                let authorization = as_user(who);
                let headers = [HOST, ("authorization", authorization.as_str())];
                let headers = if who.is_empty() { &headers[..1] } else { &headers };
                let (calls, answer) = registry.calls(&format!("GET /v2/{name}/{path}"), headers);
                assert_eq!(calls, Vec::<&str>::new(), "{who} {name} {path}");
                let headers = format!("{:?}", answer.headers).replace(name, "NAME");
                answers.push((answer.status, headers, answer.body));
            }
            assert!(answers[0].0.is_client_error());
            assert_eq!(answers[0], answers[1], "{who} {path}");
        }
    }
}

#[test]
fn a_mount_needs_pull_on_its_source() {
    let registry = with(&[], Persistent::default());
    let blob = b"a layer".to_vec();
    let digest = sha256(&blob);
    for name in ["secret/base", "public/base"] {
        let line = format!("POST /v2/{name}/blobs/uploads/?digest={digest}");
        assert_eq!(send_body(&registry, &line, &as_user("admin"), Some(blob.clone())).status, 201);
    }
    let mount = |to: &str, from: &str, authorization: &str| {
        let line = format!("POST /v2/{to}/blobs/uploads/?mount={digest}{from}");
        send(&registry, &line, authorization).status.as_u16()
    };
    let ann = as_user("ann");
    // A session tells nothing.
    assert_eq!(mount("team/a", "&from=secret/base", &ann), 202);
    assert_eq!(mount("team/a", "&from=secret/nil", &ann), 202);
    assert_eq!(mount("team/a", "&from=public/base", &ann), 201);
    assert_eq!(mount("team/b", "", &ann), 201);
    // A token must name the source too.
    let token = |scopes: &str| {
        let answer = send(&registry, &format!("GET /token?{scopes}"), &ann);
        format!("Bearer {}", json_of(&answer)["token"].as_str().unwrap())
    };
    let target = "scope=repository:team/c:pull,push";
    assert_eq!(mount("team/c", "&from=public/base", &token(target)), 202);
    let both = token(&format!("{target}&scope=repository:public/base:pull"));
    assert_eq!(mount("team/c", "&from=public/base", &both), 201);
}

#[test]
fn deletion_is_off_but_where_a_rule_grants_it() {
    for (policy, status) in [("", 405), (POLICY, 202)] {
        let registry = with(&[("DELETION", "off"), ("POLICY", policy)], Persistent::default());
        assert_eq!(push(&registry, "team/a", "v1", "ann"), 201);
        let answer = send(&registry, "DELETE /v2/team/a/manifests/v1", &as_user("ann"));
        assert_eq!(answer.status, status);
        if status == 405 {
            assert_eq!(json_of(&answer)["errors"][0]["code"], "UNSUPPORTED");
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
        // Without a login nobody hears of it.
        assert_eq!(send(&registry, "DELETE /v2/team/a/manifests/v1", "").status, 401);
    }
}

#[test]
fn a_read_only_registry_serves_pulls_and_refuses_changes() {
    let persistent = Persistent::default();
    assert_eq!(push(&with(&[], persistent.clone()), "team/a", "v1", "ann"), 201);
    let registry = with(&[("READ_ONLY", "on")], persistent.clone());
    let before = persistent.storage.memory.paths();
    let upload = "/v2/team/a/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887";
    for line in [
        "PUT /v2/team/a/manifests/v2".to_owned(),
        "DELETE /v2/team/a/manifests/v1".to_owned(),
        format!("DELETE /v2/team/a/blobs/{}", sha256("x")),
        "POST /v2/team/a/blobs/uploads/".to_owned(),
        format!("PATCH {upload}"),
        format!("PUT {upload}?digest={}", sha256("x")),
    ] {
        let answer = send(&registry, &line, &as_user("ann"));
        assert_eq!(answer.status, 405, "{line}");
        assert_eq!(json_of(&answer)["errors"][0]["code"], "UNSUPPORTED");
    }
    assert_eq!(persistent.storage.memory.paths(), before);
    assert_eq!(send(&registry, "GET /v2/team/a/manifests/v1", &as_user("bob")).status, 200);
    assert_eq!(send(&registry, "PUT /v2/team/a/manifests/v2", "").status, 401);
}

/// A registry that trusts a CI system, and the system's key.
fn with_ci() -> (TestRegistry, Signer) {
    let registry = with(&[], Persistent::default());
    registry.clock.0.set(1_800_000_000_000);
    let signer = Signer::new("k1", Algorithm::Es256);
    registry.documents.serve_keys(KEYS, &[&signer]);
    (registry, signer)
}

fn ci_token(signer: &Signer, changes: &Value) -> String {
    let mut claims = json!({
        "iss": ISSUER, "sub": "repo:org/app:ref:refs/heads/main", "aud": "registry.example",
        "iat": 1_800_000_000, "nbf": 1_800_000_000, "exp": 1_800_000_300,
        "repository": "org/app", "ref": "refs/heads/main",
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signer.token(&claims)
}

fn exchange(registry: &TestRegistry, token: &str, scope: &str) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")
        .append_pair("subject_token", token)
        .append_pair("service", "registry.example")
        .append_pair("scope", scope)
        .finish();
    send_body(registry, "POST /token", "", Some(form.into_bytes()))
}

#[test]
fn a_ci_job_pushes_where_a_rule_says_and_nowhere_else() {
    let (registry, signer) = with_ci();
    let scope = "repository:org/app/web:pull,push repository:org/other:pull,push repository:team/a:pull";
    let answer = exchange(&registry, &ci_token(&signer, &json!({})), scope);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let answer = json_of(&answer);
    assert_eq!(answer["token_type"], "Bearer");
    let access = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    for (name, status) in [("org/app/web", 202), ("org/other", 403), ("team/a", 403)] {
        let line = format!("POST /v2/{name}/blobs/uploads/");
        assert_eq!(send(&registry, &line, &access).status, status, "{name}");
    }
    // The refresh token is a password for an hour, for clients that know passwords only.
    let password = basic(&format!("ci:{}", answer["refresh_token"].as_str().unwrap()));
    assert_eq!(send(&registry, "GET /token?scope=repository:org/app/web:push", &password).status, 200);
    // Only there: what a build leaks does nothing by itself.
    assert_eq!(send(&registry, "POST /v2/org/app/web/blobs/uploads/", &password).status, 401);
    // So is the token of the CI system itself, while it lasts.
    let direct = basic(&format!("ci:{}", ci_token(&signer, &json!({}))));
    assert_eq!(send(&registry, "POST /v2/org/app/web/blobs/uploads/", &direct).status, 202);
    registry.clock.0.set(registry.clock.0.get() + 3_600_000);
    assert_eq!(send(&registry, "GET /token", &password).status, 401);
    assert_eq!(send(&registry, "GET /v2/", &direct).status, 401);
}

#[test]
fn a_job_that_no_rule_names_does_not_log_in() {
    let (registry, signer) = with_ci();
    for changes in [
        json!({"repository": "org/app2"}),
        json!({"repository": "evil/org/app"}),
        json!({"ref": "refs/tags/v1"}),
        json!({"ref": "refs/heads/a/b"}),
        json!({"ref": null}),
        json!({"repository": ["org/app"]}),
    ] {
        let answer = exchange(&registry, &ci_token(&signer, &changes), "repository:org/app/web:push");
        assert_eq!(answer.status, 401, "{changes}");
        let message = json_of(&answer)["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("no rule of the policy"), "{changes}: {message}");
    }
}

#[test]
fn a_forged_token_of_a_ci_system_is_refused_with_the_reason() {
    let (registry, signer) = with_ci();
    let stranger = Signer::new("k1", Algorithm::Es256);
    for (token, reason) in [
        (ci_token(&stranger, &json!({})), "signature"),
        (ci_token(&signer, &json!({"aud": "other"})), "audience"),
        (ci_token(&signer, &json!({"iss": "https://evil.example.com"})), "issuer"),
        (ci_token(&signer, &json!({"exp": 1_799_999_000})), "expired"),
        (ci_token(&signer, &json!({"nbf": 1_800_001_000})), "not valid yet"),
        ("x".to_owned(), "three parts"),
    ] {
        let answer = exchange(&registry, &token, "repository:org/app/web:push");
        assert_eq!(answer.status, 401, "{reason}");
        let message = json_of(&answer)["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(reason), "{reason}: {message}");
        assert!(!message.contains(&token) || token.len() < 9);
    }
    registry.documents.answer(KEYS, Served::Status(500));
    let (fresh, signer) = with_ci();
    fresh.documents.answer(KEYS, Served::Status(500));
    assert_eq!(exchange(&fresh, &ci_token(&signer, &json!({})), "").status, 503);
}

#[test]
fn an_outside_token_server_decides_alone() {
    let vars = [
        ("ANONYMOUS", "none"),
        ("TOKEN_REALM", "https://auth.example.com/token"),
        ("TOKEN_SERVICE", "the registry"),
        ("TOKEN_ISSUER", "auth"),
        ("TOKEN_JWKS", "https://auth.example.com/jwks"),
        ("ADMIN_PASSWORD", ADMIN),
    ];
    let registry = TestRegistry::with(&vars, Persistent::default());
    registry.clock.0.set(1_800_000_000_000);
    let signer = Signer::new("k1", Algorithm::Es256);
    registry.documents.serve_keys("https://auth.example.com/jwks", &[&signer]);
    let challenge = send(&registry, "GET /v2/a/tags/list", "");
    assert_eq!(challenge.status, 401);
    assert_eq!(
        challenge.header("www-authenticate"),
        "Bearer realm=\"https://auth.example.com/token\",service=\"the registry\",scope=\"repository:a:pull\""
    );
    let access = json!([{"type": "repository", "name": "a", "actions": ["pull", "push"]}]);
    let claims = json!({
        "iss": "auth", "sub": "ann", "aud": "the registry", "exp": 1_800_000_300, "nbf": 1_800_000_000,
        "iat": 1_800_000_000, "jti": "x", "access": access,
    });
    let token = format!("Bearer {}", signer.token(&claims));
    for (line, status) in [
        ("GET /v2/", 200),
        ("GET /v2/a/tags/list", 404),
        ("POST /v2/a/blobs/uploads/", 202),
        ("DELETE /v2/a/manifests/x", 401),
        ("GET /v2/b/tags/list", 401),
        ("GET /v2/_catalog", 401),
        ("GET /metrics", 403),
        ("GET /v2/_pierhead/keys", 403),
    ] {
        assert_eq!(send(&registry, line, &token).status, status, "{line}");
    }
    assert_eq!(send(&registry, "GET /token?scope=repository:a:pull", "").status, 404);
    // The administrator still has a password.
    assert_eq!(send(&registry, "GET /v2/_pierhead/keys", &as_user("admin")).status, 200);
}

/// Allows so many calls for each key.
#[derive(Default)]
struct Few {
    limit: Cell<usize>,
    keys: RefCell<Vec<String>>,
}

impl Limiter for Few {
    fn allow<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, bool> {
        self.keys.borrow_mut().push(key.to_owned());
        let count = self.keys.borrow().iter().filter(|other| *other == key).count();
        let is_allowed = count <= self.limit.get();
        Box::pin(async move { is_allowed })
    }
}

#[test]
fn failed_logins_are_slowed_where_they_come_from_and_nowhere_else() {
    let few = Rc::new(Few { limit: 3.into(), ..Few::default() });
    let users = user("ann", "a");
    let vars = [("ANONYMOUS", "none"), ("HTPASSWD", users.as_str())];
    let registry = TestRegistry::limited(&vars, Some(few.clone()), None);
    let login = |address: &str, credentials: &str| {
        let authorization = basic(credentials);
        let headers = [HOST, ("cf-connecting-ip", address), ("authorization", &authorization)];
        registry.send("GET /v2/", &headers, None)
    };
    // Right passwords are not counted.
    for _ in 0..10 {
        assert_eq!(login("198.51.100.1", "ann:a").status, 200);
    }
    for status in [401, 401, 401, 429, 429] {
        assert_eq!(login("198.51.100.1", "ann:x").status, status);
    }
    let refused = login("198.51.100.1", "ann:a");
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "60"));
    assert_eq!(json_of(&refused)["errors"][0]["code"], "TOOMANYREQUESTS");
    // The owner is elsewhere; and time passes.
    assert_eq!(login("198.51.100.2", "ann:a").status, 200);
    registry.clock.0.set(registry.clock.0.get() + 60_000);
    assert_eq!(login("198.51.100.1", "ann:a").status, 200);
    assert!(few.keys.borrow().iter().all(|key| key.contains("198.51.100.1")));
    // One network of IPv6 is one client.
    few.keys.borrow_mut().clear();
    for (n, status) in [(1, 401), (2, 401), (3, 401), (4, 429)] {
        assert_eq!(login(&format!("2001:db8:1:2::{n}"), &format!("user{n}:x")).status, status, "{n}");
    }
}

#[test]
fn requests_are_limited_by_identity() {
    let few = Rc::new(Few { limit: 2.into(), ..Few::default() });
    let users = [user("ann", "a"), user("bob", "b")].join("\n");
    let registry = TestRegistry::limited(&[("ANONYMOUS", "pull"), ("HTPASSWD", &users)], None, Some(few));
    for status in [404, 404, 429] {
        assert_eq!(send(&registry, "GET /v2/a/tags/list", &as_user("ann")).status, status);
    }
    assert_eq!(send(&registry, "GET /v2/a/tags/list", &as_user("bob")).status, 404);
    assert_eq!(send(&registry, "GET /v2/a/tags/list", "").status, 404);
}

#[test]
fn pages_of_listed_origins_read_answers() {
    let registry =
        with(&[("CORS_ORIGINS", "https://ui.example.com http://localhost:3000")], Persistent::default());
    let headers = |origin: &'static str| [HOST, ("origin", origin)];
    let answer = registry.send("GET /v2/", &headers("https://ui.example.com"), None);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("access-control-allow-origin"), "https://ui.example.com");
    for name in ["Docker-Content-Digest", "Link", "WWW-Authenticate", "OCI-Subject"] {
        assert!(answer.header("access-control-expose-headers").contains(name), "{name}");
    }
    assert_eq!(answer.header("vary"), "Origin");
    let other = registry.send("GET /v2/", &headers("https://evil.example.com"), None);
    assert_eq!(other.header("access-control-allow-origin"), "");
    let preflight = [HOST, ("origin", "http://localhost:3000"), ("access-control-request-method", "PUT")];
    let answer = registry.send("OPTIONS /v2/a/manifests/v1", &preflight, None);
    assert_eq!(answer.status, 204);
    assert!(answer.header("access-control-allow-methods").contains("PUT"));
    assert!(answer.header("access-control-allow-headers").contains("Authorization"));
    // Without the setting, nothing is said.
    let registry = with(&[], Persistent::default());
    let answer = registry.send("GET /v2/", &headers("https://ui.example.com"), None);
    assert_eq!((answer.header("vary"), answer.header("access-control-allow-origin")), ("", ""));
}

/// The lines of the audit.
fn audit(registry: &TestRegistry) -> Vec<Value> {
    let lines = registry.lines.0.take();
    lines.into_iter().filter(|line| line.get("audit").is_some()).collect()
}

#[test]
fn changes_refusals_and_logins_are_audited_and_pulls_are_not() {
    let registry = with(&[("LOG_LEVEL", "error")], Persistent::default());
    let from =
        [HOST, ("cf-connecting-ip", "198.51.100.7"), ("user-agent", "docker/28"), ("x-request-id", "r-1")];
    let send = |line: &str, authorization: &str| {
        let headers: Vec<(&str, &str)> =
            from.iter().copied().chain([("authorization", authorization)]).collect();
        registry.send(line, if authorization.is_empty() { &from } else { &headers }, None);
        audit(&registry)
    };
    assert_eq!(push(&registry, "team/a", "v1", "ann"), 201);
    let pushed = audit(&registry);
    assert_eq!(pushed.len(), 1);
    assert_eq!((&pushed[0]["audit"], &pushed[0]["outcome"]), (&json!("push"), &json!("done")));
    assert_eq!(pushed[0]["principal"], "ann");
    assert_eq!(pushed[0]["repository"], "team/a");
    let refused = send("DELETE /v2/team/a/manifests/v1", &as_user("bob"));
    let expected = json!({
        "level": "info", "audit": "delete", "outcome": "refused", "id": "r-1", "principal": "bob",
        "repository": "team/a", "route": "delete_manifest", "method": "DELETE",
        "path": "/v2/team/a/manifests/v1", "status": 403, "code": "DENIED",
        "address": "198.51.100.7", "agent": "docker/28",
    });
    assert_eq!(refused, [expected]);
    for (line, who, action, outcome) in [
        ("DELETE /v2/team/a/manifests/v1", as_user("ann"), "delete", "done"),
        ("DELETE /v2/team/a/manifests/v1", as_user("ann"), "delete", "failed"),
        ("GET /token?scope=repository:team/a:push", as_user("ann"), "login", "done"),
        ("GET /token", basic("ann:wrong"), "login", "refused"),
        ("GET /v2/", basic("ann:wrong"), "login", "refused"),
        // Answered with a token for anonymous clients.
        ("GET /token?scope=repository:public/a:pull", basic("ann:wrong"), "login", "refused"),
        ("GET /v2/secret/tags/list", as_user("bob"), "pull", "refused"),
        ("GET /v2/_pierhead/keys", as_user("bob"), "administer", "refused"),
        ("POST /v2/_pierhead/jobs/fsck/run", as_user("admin"), "administer", "done"),
    ] {
        let lines = send(line, &who);
        assert_eq!(lines.len(), 1, "{line}");
        assert_eq!((&lines[0]["audit"], &lines[0]["outcome"]), (&json!(action), &json!(outcome)), "{line}");
    }
    // Whose login has failed, if there is such a user; which tags a push has moved; which key was made.
    let failed = |who: &str| send("GET /token", &basic(&format!("{who}:wrong")))[0].get("user").cloned();
    assert_eq!((failed("ann"), failed("secret typed here")), (Some(json!("ann")), None));
    let ann = as_user("ann");
    let headers = [HOST, ("content-type", INDEX), ("authorization", &*ann)];
    let line = format!("PUT /v2/team/a/manifests/{}?tag=v2&tag=v3&_state=x", sha256(EMPTY_INDEX));
    assert_eq!(registry.send(&line, &headers, Some(MemoryStream::new(EMPTY_INDEX))).status, 201);
    let lines = audit(&registry);
    assert_eq!(lines[0]["tags"], json!(["v2", "v3"]));
    assert!(!lines[0].to_string().contains("_state"));
    let mount = "POST /v2/team/a/blobs/uploads/?mount=sha256:x&from=team/b";
    assert_eq!(send(mount, &as_user("ann"))[0]["from"], json!(["team/b"]));
    let request = json!({"name": "robot", "scopes": [{"repositories": "**", "actions": ["pull"]}]});
    let body = Some(request.to_string().into_bytes());
    let made = json_of(&send_body(&registry, "POST /v2/_pierhead/keys", &as_user("admin"), body));
    assert_eq!(audit(&registry)[0]["made"], made["id"]);
    for (line, who) in [
        ("GET /v2/", ""),
        ("GET /v2/team/a/tags/list", ""),
        ("GET /v2/public/a/tags/list", ""),
        ("GET /v2/team/a/tags/list", &as_user("bob")),
        ("GET /token", ""),
        ("GET /healthz", ""),
    ] {
        assert_eq!(send(line, who), Vec::<Value>::new(), "{line}");
    }
}
