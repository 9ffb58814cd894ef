//! Logins that fail, that others vouch for, that are limited, and that end.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use futures_util::future::{LocalBoxFuture, ready};
use pierhead::platform::{Limiter, memory::MemoryStream, verifier::Algorithm};
use serde_json::{Value, json};

use crate::{
    access::{basic, user},
    fixtures::EMPTY_INDEX,
    issuer::{Answer as Served, Signer},
    support::{Answer, Persistent, TestRegistry},
    tokens::{ADMIN, HOST, bearer, claims, get_token, json_of, make_key, post, send},
};

const ISSUER: &str = "https://ci.example.com";
const KEYS: &str = "https://ci.example.com/jwks";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The start of these tests, in seconds since 1970.
const START: u64 = 1_800_000_000;

/// Users and CI jobs may pull.
const POLICY: &str = r#"
[[issuer]]
name = "ci"
url = "https://ci.example.com"
audience = "registry.example"
algorithms = ["ES256"]
jwks = "https://ci.example.com/jwks"

[[rule]]
users = true
repositories = ["**"]
actions = ["pull"]

[[rule]]
issuer = "ci"
claims = { repository = "org/app" }
repositories = ["**"]
actions = ["pull"]
"#;

/// The token of a CI job, which ends after 5 minutes.
fn job(signer: &Signer) -> String {
    signer.token(&json!({
        "iss": ISSUER, "sub": "job", "aud": "registry.example", "iat": START, "exp": START + 300,
        "repository": "org/app", "ref": "main",
    }))
}

fn set(registry: &TestRegistry, milliseconds: u64) {
    registry.clock.0.set(START * 1000 + milliseconds);
}

fn refresh_token(answer: &Answer) -> Option<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    json_of(answer)["refresh_token"].as_str().map(str::to_owned)
}

fn message(answer: &Answer) -> String {
    answer.errors()[0]["message"].as_str().unwrap().to_owned()
}

/// Allows so many calls for each key.
#[derive(Default)]
struct Few {
    limit: usize,
    counts: RefCell<BTreeMap<String, usize>>,
}

impl Few {
    fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { limit, ..Self::default() })
    }
}

impl Limiter for Few {
    fn allow<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, bool> {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        Box::pin(ready(*count <= self.limit))
    }
}

/// Sends a request from an address.
fn from(registry: &TestRegistry, address: &str, line: &str, authorization: &str) -> Answer {
    let headers = [HOST, ("cf-connecting-ip", address), ("authorization", authorization)];
    registry.send(line, if authorization.is_empty() { &headers[..2] } else { &headers }, None)
}

#[test]
fn the_refresh_token_of_a_ci_job_gives_no_other() {
    let registry = TestRegistry::with(&[("ANONYMOUS", "none"), ("POLICY", POLICY)], Persistent::default());
    set(&registry, 0);
    let signer = Signer::new("k1", Algorithm::Es256);
    registry.documents.serve_keys(KEYS, &[&signer]);
    let job = job(&signer);
    let exchanged = post(&registry, &[("grant_type", EXCHANGE), ("subject_token", &job)]);
    let refresh = refresh_token(&exchanged).unwrap();
    // While its issuer vouches for a job, it may have one by Docker's form, too.
    let credentials = format!("ci:{job}");
    assert!(refresh_token(&get_token(&registry, "offline_token=true", &credentials)).is_some());
    let scope = ("scope", "repository:a:pull");
    for minutes in [0, 59] {
        set(&registry, minutes * 60_000);
        let offline = ("access_type", "offline");
        let (by_refresh, by_password) = (("grant_type", "refresh_token"), ("grant_type", "password"));
        for answer in [
            get_token(&registry, "offline_token=true&scope=repository:a:pull", &format!("ci:{refresh}")),
            post(&registry, &[by_refresh, ("refresh_token", &refresh), offline, scope]),
            post(&registry, &[by_password, ("username", "ci"), ("password", &refresh), offline, scope]),
        ] {
            assert_eq!(refresh_token(&answer), None);
            let access = format!("Bearer {}", json_of(&answer)["access_token"].as_str().unwrap());
            assert_eq!(claims(&access)["sub"], "ci:job");
            assert_eq!(send(&registry, "GET /v2/a/tags/list", &access).status, 404);
        }
        // Nobody vouches for the job by a token of the registry.
        let answer = post(&registry, &[("grant_type", EXCHANGE), ("subject_token", &refresh), offline]);
        assert_eq!(answer.status, 401);
    }
}

#[test]
fn after_too_many_failures_a_client_gets_what_needs_no_login() {
    let few = Few::new(1);
    let users = user("ann", "secret");
    let vars = [("ANONYMOUS", "pull"), ("HTPASSWD", users.as_str())];
    let registry = TestRegistry::limited(&vars, Some(few.clone()), None);
    for status in [401, 429] {
        assert_eq!(get_token(&registry, "", "ann:wrong").status, status);
    }
    let counts = few.counts.borrow().clone();
    for password in ["secret", "wrong"] {
        let credentials = format!("ann:{password}");
        let form = |scope: &'static str| {
            [("grant_type", "password"), ("username", "ann"), ("password", password), ("scope", scope)]
        };
        for answer in [
            get_token(&registry, "scope=repository:a:pull&offline_token=true", &credentials),
            post(&registry, &form("repository:a:pull registry:catalog:*")),
        ] {
            // The right password, too, gives a token of nobody: it is not looked at.
            assert_eq!(refresh_token(&answer), None);
            let access = format!("Bearer {}", json_of(&answer)["access_token"].as_str().unwrap());
            assert_eq!(claims(&access)["sub"], "anonymous");
            assert_eq!(send(&registry, "GET /v2/a/tags/list", &access).status, 404);
        }
        for answer in [
            get_token(&registry, "", &credentials),
            get_token(&registry, "scope=repository:a:pull,push", &credentials),
            get_token(&registry, "scope=repository:a:pull&scope=repository:b:delete", &credentials),
            post(&registry, &form("repository:a:push")),
            send(&registry, "GET /v2/a/tags/list", &basic(&credentials)),
        ] {
            assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "60"));
            assert_eq!(answer.codes(), ["TOOMANYREQUESTS"]);
        }
    }
    assert_eq!(*few.counts.borrow(), counts, "refused logins are not counted");
    registry.clock.0.set(60_000);
    assert_eq!(claims(&bearer(&registry, "repository:a:pull", "ann:secret"))["sub"], "ann");
}

/// Addresses, each with whether it shares its limit with the one before.
const ADDRESSES: [(&str, bool); 8] = [
    ("198.51.100.1", false),
    ("198.51.100.1", true),
    ("198.51.100.2", false),
    ("2001:db8:1:2::1", false),
    ("2001:db8:1:2:ffff:ffff:ffff:ffff", true),
    ("2001:0DB8:0001:0002:0:0:0:1", true),
    ("2001:db8:1:3::1", false),
    ("2001:db8:2:2::1", false),
];

#[test]
fn limits_count_networks_of_ipv6_addresses_of_ipv4_and_names() {
    let users = [user("ann", "a"), user("bob", "b")].join("\n");
    let vars = [("ANONYMOUS", "pull"), ("HTPASSWD", users.as_str())];
    let logins = TestRegistry::limited(&vars, Some(Few::new(1)), None);
    let requests = TestRegistry::limited(&vars, None, Some(Few::new(1)));
    for (n, (address, is_shared)) in ADDRESSES.into_iter().enumerate() {
        // Of another user each time, so that only the address is common.
        let login = from(&logins, address, "GET /v2/", &basic(&format!("user{n}:x")));
        assert_eq!(login.status, if is_shared { 429 } else { 401 }, "{address}");
        let request = from(&requests, address, "GET /v2/a/tags/list", "");
        assert_eq!(request.status, if is_shared { 429 } else { 404 }, "{address}");
    }
    // Whoever has logged in counts by name: from elsewhere, and by a token. So does the request for the token.
    let requests = TestRegistry::limited(&vars, None, Some(Few::new(3)));
    let ann = [basic("ann:a"), bearer(&requests, "repository:a:pull", "ann:a")];
    let line = "GET /v2/a/tags/list";
    for (address, authorization, status) in [
        ("198.51.100.1", &ann[0], 404),
        ("2001:db8:1:2::1", &ann[1], 404),
        ("198.51.100.2", &ann[0], 429),
        ("198.51.100.2", &ann[1], 429),
        ("198.51.100.1", &basic("bob:b"), 404),
        ("198.51.100.1", &String::new(), 404),
    ] {
        let answer = from(&requests, address, line, authorization);
        assert_eq!(answer.status, status, "{address}");
        assert_eq!(answer.header("retry-after"), if status == 429 { "60" } else { "" });
    }
    // What is refused counts, too.
    let requests = TestRegistry::limited(&vars, None, Some(Few::new(4)));
    for (line, authorization, status) in [
        ("GET /token", String::new(), 200),
        ("GET /token", basic("ann:x"), 401),
        ("GET /v2/", basic("ann:x"), 401),
        ("POST /v2/a/blobs/uploads/", String::new(), 401),
        ("GET /token", String::new(), 429),
        ("GET /token", basic("ann:x"), 429),
        ("GET /v2/", basic("ann:x"), 429),
        ("POST /v2/a/blobs/uploads/", String::new(), 429),
    ] {
        assert_eq!(from(&requests, "198.51.100.1", line, &authorization).status, status, "{line}");
    }
}

#[test]
fn clients_of_a_mirror_stop_nobody_else_from_logging_in() {
    let vars = [("ANONYMOUS", "pull"), ("HTPASSWD", &*user("ann", "a"))];
    let registry = TestRegistry::limited(&vars, Some(Few::new(2)), None);
    let pull = "GET /token?scope=repository:a:pull";
    for _ in 0..5 {
        assert_eq!(from(&registry, "198.51.100.1", pull, &basic("of:another")).status, 200);
    }
    assert_eq!(from(&registry, "198.51.100.1", "GET /token", &basic("ann:a")).status, 200);
    // Guesses count wherever they are sent.
    let form = |password: &str| format!("grant_type={EXCHANGE}&subject_token={password}");
    for status in [401, 401, 429] {
        let body = Some(MemoryStream::new(form("x.y.z").into_bytes()));
        let headers = [HOST, ("cf-connecting-ip", "198.51.100.2")];
        assert_eq!(registry.send("POST /token", &headers, body).status, status);
    }
}

#[test]
fn an_issuer_that_cannot_be_reached_is_no_fault_of_the_client() {
    for failure in [Served::Status(500), Served::Hang, Served::Document("<html>".to_owned())] {
        let few = Few::new(0);
        let vars = [("ANONYMOUS", "none"), ("POLICY", POLICY)];
        let registry = TestRegistry::limited(&vars, Some(few.clone()), None);
        set(&registry, 0);
        let signer = Signer::new("k1", Algorithm::Es256);
        registry.documents.answer(KEYS, failure);
        let job = job(&signer);
        let credentials = format!("ci:{job}");
        for answer in [
            send(&registry, "GET /v2/", &basic(&credentials)),
            send(&registry, "GET /v2/a/tags/list", &basic(&credentials)),
            get_token(&registry, "scope=repository:a:pull", &credentials),
            post(&registry, &[("grant_type", EXCHANGE), ("subject_token", &job)]),
        ] {
            assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "10"));
            assert_eq!(answer.codes(), ["UNAVAILABLE"]);
            let text = message(&answer);
            assert!(text.contains(ISSUER) && text.ends_with("try again in 10 seconds"), "{text}");
            let shown = format!("{answer:?}{text}");
            assert!(job.split('.').all(|part| !shown.contains(part)), "{shown}");
        }
        assert!(few.counts.borrow().is_empty());
        let logged = format!("{:?}", registry.lines.0.borrow());
        assert!(logged.contains(ISSUER), "{logged}");
        assert!(job.split('.').all(|part| !logged.contains(part)), "{logged}");
        // A forged token is a fault.
        registry.documents.serve_keys(KEYS, &[&Signer::new("k1", Algorithm::Es256)]);
        set(&registry, 60_000);
        assert_eq!(send(&registry, "GET /v2/", &basic(&credentials)).status, 429);
    }
}

/// A registry with an outside token server, and the server's key.
fn with_token_server(vars: &[(&str, &str)]) -> (TestRegistry, Signer) {
    let own = [
        ("TOKEN_REALM", "https://auth.example.com/token"),
        ("TOKEN_SERVICE", "the registry"),
        ("TOKEN_ISSUER", "auth"),
        ("TOKEN_JWKS", KEYS),
        ("ADMIN_PASSWORD", ADMIN),
    ];
    let vars: Vec<(&str, &str)> = vars.iter().chain(&own).copied().collect();
    let registry = TestRegistry::with(&vars, Persistent::default());
    set(&registry, 0);
    let signer = Signer::new("k1", Algorithm::Es256);
    registry.documents.serve_keys(KEYS, &[&signer]);
    let admin = basic(&format!("admin:{ADMIN}"));
    for name in ["a", "b"] {
        let headers = [HOST, ("authorization", admin.as_str())];
        let body = pierhead::platform::memory::MemoryStream::new(EMPTY_INDEX);
        assert_eq!(registry.send(&format!("PUT /v2/{name}/manifests/v1"), &headers, Some(body)).status, 201);
    }
    (registry, signer)
}

/// A token of the outside server, for a scope of each: type, name and action.
fn outside(signer: &Signer, scopes: &[(&str, &str, &str)]) -> String {
    let entry =
        |(kind, name, action): &(&str, &str, &str)| json!({"type": kind, "name": name, "actions": [action]});
    let access: Vec<Value> = scopes.iter().map(entry).collect();
    let token = signer.token(&json!({
        "iss": "auth", "sub": "ann", "aud": "the registry", "exp": START + 300, "iat": START, "access": access,
    }));
    format!("Bearer {token}")
}

#[test]
fn an_outside_server_deletes_only_where_deletion_is_on() {
    for (deletion, status) in [("off", 405), ("on", 202)] {
        let (registry, signer) = with_token_server(&[("ANONYMOUS", "none"), ("DELETION", deletion)]);
        let all = ["pull", "push", "delete"].map(|action| ("repository", "a", action));
        let token = outside(&signer, &all);
        assert_eq!(send(&registry, "GET /v2/a/manifests/v1", &token).status, 200);
        assert_eq!(send(&registry, "POST /v2/a/blobs/uploads/", &token).status, 202);
        // Without the scope, nobody hears of it.
        let less = outside(&signer, &all[..2]);
        assert_eq!(send(&registry, "DELETE /v2/a/manifests/v1", &less).status, 401);
        let deleted = send(&registry, "DELETE /v2/a/manifests/v1", &token);
        assert_eq!(deleted.status, status);
        if status == 405 {
            assert_eq!((deleted.codes(), deleted.header("allow")), (vec!["UNSUPPORTED".into()], "GET, HEAD"));
            assert_eq!(send(&registry, "GET /v2/a/manifests/v1", &token).status, 200);
        }
    }
}

#[test]
fn an_outside_server_alone_decides_about_the_catalog() {
    for anonymous in ["none", "pull"] {
        let (registry, signer) = with_token_server(&[("ANONYMOUS", anonymous)]);
        let granted = outside(&signer, &[("registry", "catalog", "*")]);
        let catalog = send(&registry, "GET /v2/_catalog", &granted);
        assert_eq!(json_of(&catalog), json!({"repositories": ["a", "b"]}), "{anonymous}");
        for scopes in [
            &[][..],
            &[("repository", "a", "pull"), ("repository", "b", "pull")],
            &[("repository", "catalog", "*")],
            &[("registry", "catalog", "pull")],
            &[("registry", "other", "*")],
        ] {
            let answer = send(&registry, "GET /v2/_catalog", &outside(&signer, scopes));
            assert_eq!(answer.status, 401, "{anonymous} {scopes:?}");
            let challenge = answer.header("www-authenticate");
            assert!(challenge.ends_with(",scope=\"registry:catalog:*\",error=\"insufficient_scope\""));
        }
        // It says nothing of what is in the repositories.
        assert_eq!(send(&registry, "GET /v2/a/manifests/v1", &granted).status, 401, "{anonymous}");
    }
}

/// What somebody holds who has logged in.
struct Held {
    password: String,
    refresh: String,
    access: String,
}

impl Held {
    fn new(registry: &TestRegistry, credentials: &str) -> Self {
        let answer = get_token(registry, "offline_token=true&scope=repository:a:pull", credentials);
        let refresh = refresh_token(&answer).unwrap();
        let access = format!("Bearer {}", json_of(&answer)["access_token"].as_str().unwrap());
        Self { password: basic(credentials), refresh, access }
    }

    /// Whether the holder may pull, by each of what is held.
    fn pulls(&self, registry: &TestRegistry, by: &str) -> bool {
        let authorization = match by {
            "password" => self.password.clone(),
            "access" => self.access.clone(),
            _ => {
                let scope = ("scope", "repository:a:pull");
                let form = [("grant_type", "refresh_token"), ("refresh_token", &*self.refresh), scope];
                let answer = post(registry, &form);
                if answer.status == 401 {
                    return false;
                }
                format!("Bearer {}", json_of(&answer)["access_token"].as_str().unwrap())
            }
        };
        let status = send(registry, "GET /v2/a/tags/list", &authorization).status.as_u16();
        assert!([401, 403, 404].contains(&status), "{status}");
        status == 404
    }
}

/// The table of docs/access.md: how long each still acts, from a thousandth of a second before that to the end.
#[test]
fn access_ends_when_the_documentation_says() {
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const SECRETS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];
    let persistent = Persistent::default();
    let signer = Signer::new("k1", Algorithm::Es256);
    let (users, bob) = ([user("ann", "a"), user("bob", "b")].join("\n"), user("bob", "b"));
    let changed = [user("ann", "new"), user("bob", "b")].join("\n");
    let elsewhere = POLICY.replacen("[\"**\"]", "[\"other/**\"]", 1);
    let deploy = |name: &str, value: &str| {
        let own = [
            (name, value),
            ("ANONYMOUS", "none"),
            ("HTPASSWD", &users),
            ("ADMIN_PASSWORD", ADMIN),
            ("POLICY", POLICY),
            ("SIGNING_SECRET", SECRETS[0]),
        ];
        let registry = TestRegistry::with(&own, persistent.clone());
        registry.documents.serve_keys(KEYS, &[&signer]);
        set(&registry, 0);
        registry
    };
    let before = deploy("", "");
    let ann = || Held::new(&before, "ann:a");
    let key = |expires: &str| {
        let scopes = json!([{"repositories": "**", "actions": ["pull"]}]);
        make_key(&before, &json!({"name": "robot", "scopes": scopes, "expires": expires}))
    };
    // The other isolate has just seen the key.
    let (id, revoked) = key("1d");
    let revoked = format!("robot:{revoked}");
    let (held_key, sees) = (Held::new(&before, &revoked), deploy("", ""));
    assert!(held_key.pulls(&sees, "password"));
    let admin = basic(&format!("admin:{ADMIN}"));
    assert_eq!(send(&before, &format!("DELETE /v2/_pierhead/keys/{id}"), &admin).status, 204);
    // Logs in a second before the key ends.
    let short = format!("robot:{}", key("1m").1);
    let last = deploy("", "");
    set(&last, MINUTE - 1000);
    let held_short = Held::new(&last, &short);
    let ci = Held::new(&before, &format!("ci:{}", job(&signer)));
    let branch = POLICY.to_owned()
        + "[[rule]]\nissuer = \"ci\"\nclaims = { repository = \"org/app\", ref = \"main\" }\nrepositories = [\"**\"]\nactions = []\n";
    let narrowed = Held::new(&before, &format!("ci:{}", job(&signer)));
    let both = SECRETS.join(" ");
    for (what, registry, held, start, [password, refresh, access]) in [
        ("time", deploy("", ""), ann(), 0, [None, Some(720 * HOUR), Some(5 * MINUTE)]),
        ("rule changed", deploy("POLICY", &elsewhere), ann(), 0, [Some(0); 3]),
        ("user removed", deploy("HTPASSWD", &bob), ann(), 0, [Some(0); 3]),
        ("password changed", deploy("HTPASSWD", &changed), ann(), 0, [Some(0), Some(0), Some(5 * MINUTE)]),
        ("key revoked", sees, held_key, 0, [Some(MINUTE), Some(0), Some(5 * MINUTE)]),
        ("key expired", last, held_short, MINUTE, [Some(0), Some(0), Some(5 * MINUTE - 1000)]),
        // The clocks may be a minute apart.
        ("job ended", deploy("", ""), ci, 0, [Some(6 * MINUTE), Some(HOUR), Some(5 * MINUTE)]),
        // A token has the claims that rules looked at when it was made.
        ("claims", deploy("POLICY", &branch), narrowed, 0, [Some(0), Some(0), Some(5 * MINUTE)]),
        (
            "secret added",
            deploy("SIGNING_SECRET", &both),
            ann(),
            0,
            [None, Some(720 * HOUR), Some(5 * MINUTE)],
        ),
        ("secret replaced", deploy("SIGNING_SECRET", SECRETS[1]), ann(), 0, [None, Some(0), Some(0)]),
    ] {
        for (by, limit) in [("password", password), ("refresh", refresh), ("access", access)] {
            let acts = |after: u64| {
                set(&registry, start + after);
                held.pulls(&registry, by)
            };
            let Some(limit) = limit else {
                assert!(acts(0) && acts(2 * 720 * HOUR), "{what}: {by}");
                continue;
            };
            assert!(limit == 0 || acts(limit - 1), "{what}: {by} before {limit}");
            assert!(!acts(limit), "{what}: {by} at {limit}");
        }
    }
    // What was held did pull.
    for by in ["password", "refresh", "access"] {
        set(&before, 0);
        assert!(ann().pulls(&before, by), "{by}");
    }
}
