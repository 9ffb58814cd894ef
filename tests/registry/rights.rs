//! Every identity, repository and request, behind Basic and behind Bearer, under generated policies: the answers are those
//! of a model that knows nothing of the policy's code.

use pierhead::platform::{memory::MemoryStream, verifier::Algorithm};
use proptest::{collection::btree_map, prelude::*, sample::subsequence, test_runner::Config};
use serde_json::{Value, json};

use crate::{
    access::{basic, user},
    fixtures::{self, INDEX, descriptor, sha256},
    issuer::Signer,
    support::{Answer, Persistent, TestRegistry},
};

const HOST: (&str, &str) = ("host", "registry.example");
const ADMIN: &str = "correct horse battery";

/// Whom rules name, from the most to the least specific. The first four are equal, and meet nobody in common.
const WHO: [&str; 7] = ["user", "key", "ci", "ci2", "users", "anonymous", "everyone"];

/// Patterns, from the most to the least specific.
const PATTERNS: [&str; 5] = ["team/app", "team/*", "team/**", "*", "**"];

const REPOSITORIES: [&str; 4] = ["team/app", "team/web", "team/a/b", "base"];

const ACTIONS: [&str; 3] = ["pull", "push", "delete"];

const IDENTITIES: [&str; 6] = ["anonymous", "ann", "bob", "admin", "key", "ci"];

/// The actions of rules, by who and pattern.
type Rules = std::collections::BTreeMap<(usize, usize), Vec<&'static str>>;

fn rules() -> impl Strategy<Value = Rules> {
    btree_map((0..WHO.len(), 0..PATTERNS.len()), subsequence(ACTIONS.to_vec(), 0..=3), 1..12)
}

fn document(rules: &Rules) -> String {
    let mut text =
        "[[issuer]]\nname = \"ci\"\nurl = \"https://ci.example.com\"\naudience = \"registry.example\"\n\
                    algorithms = [\"ES256\"]\njwks = \"https://ci.example.com/jwks\"\n"
            .to_owned();
    for ((who, pattern), actions) in rules {
        let who = match WHO[*who] {
            "user" => "user = \"ann\"".to_owned(),
            "key" => "key = \"robot\"".to_owned(),
            "ci" => "issuer = \"ci\"\nclaims = { repository = \"org/app\" }".to_owned(),
            // The job here has another branch.
            "ci2" => "issuer = \"ci\"\nclaims = { repository = \"org/app\", ref = \"main\" }".to_owned(),
            who => format!("{who} = true"),
        };
        let pattern = PATTERNS[*pattern];
        text.push_str(&format!("[[rule]]\n{who}\nrepositories = [\"{pattern}\"]\nactions = {actions:?}\n"));
    }
    text
}

/// Whether a pattern matches, for the patterns here.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern {
        "**" => true,
        "*" => !name.contains('/'),
        "team/**" => name.starts_with("team/"),
        "team/*" => name.starts_with("team/") && name.matches('/').count() == 1,
        exact => exact == name,
    }
}

/// What the model says.
fn may(rules: &Rules, identity: &str, action: &str, name: &str) -> bool {
    let is_for = |who: &str| match who {
        "user" => identity == "ann",
        "users" => ["ann", "bob"].contains(&identity),
        "key" | "ci" => identity == who,
        "anonymous" => identity == "anonymous",
        "everyone" => true,
        _ => false,
    };
    let is_named = rules.keys().any(|(who, _)| WHO[*who] == "key");
    // The scope of the key: pull and push below `team/`.
    if identity == "key" {
        let is_in_scope = name.starts_with("team/") && action != "delete";
        if !is_in_scope || !is_named {
            return is_in_scope;
        }
    }
    // Sorted by who, then by pattern: the first that matches is the most specific.
    let deciding =
        rules.iter().find(|((who, pattern), _)| is_for(WHO[*who]) && matches(PATTERNS[*pattern], name));
    identity == "admin" || deciding.is_some_and(|(_, actions)| actions.contains(&action))
}

fn send(registry: &TestRegistry, line: &str, authorization: &str, body: Option<Vec<u8>>) -> Answer {
    let headers = [HOST, ("authorization", authorization)];
    let headers = if authorization.is_empty() { &headers[..1] } else { &headers };
    registry.send(line, headers, body.map(MemoryStream::new))
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// Requests, and the action that each requires.
fn requests(name: &str) -> Vec<(String, &'static str)> {
    let digest = sha256("x");
    let upload = format!("/v2/{name}/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887");
    vec![
        (format!("GET /v2/{name}/manifests/v1"), "pull"),
        (format!("HEAD /v2/{name}/manifests/{digest}"), "pull"),
        (format!("GET /v2/{name}/blobs/{digest}"), "pull"),
        (format!("HEAD /v2/{name}/blobs/{digest}"), "pull"),
        (format!("GET /v2/{name}/tags/list"), "pull"),
        (format!("GET /v2/{name}/referrers/{digest}"), "pull"),
        (format!("PUT /v2/{name}/manifests/v1"), "push"),
        (format!("POST /v2/{name}/blobs/uploads/"), "push"),
        (format!("GET {upload}"), "push"),
        (format!("PATCH {upload}"), "push"),
        (format!("PUT {upload}?digest={digest}"), "push"),
        (format!("DELETE {upload}"), "push"),
        (format!("DELETE /v2/{name}/manifests/v1"), "delete"),
        (format!("DELETE /v2/{name}/blobs/{digest}"), "delete"),
    ]
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(40) })]

    #[test]
    fn everybody_may_do_what_the_model_says(rules in rules()) {
        let users = [user("ann", "a"), user("bob", "b")].join("\n");
        let document = document(&rules);
        let vars = [("ANONYMOUS", "none"), ("HTPASSWD", &users), ("ADMIN_PASSWORD", ADMIN), ("POLICY", &document)];
        let registry = TestRegistry::with(&vars, Persistent::default());
        registry.clock.0.set(1_800_000_000_000);
        let signer = Signer::new("k1", Algorithm::Es256);
        registry.documents.serve_keys("https://ci.example.com/jwks", &[&signer]);
        let job = signer.token(&json!({
            "iss": "https://ci.example.com", "sub": "job", "aud": "registry.example", "exp": 1_800_000_300,
            "iat": 1_800_000_000, "repository": "org/app", "ref": "feature",
        }));
        let admin = basic(&format!("admin:{ADMIN}"));
        let scopes = json!([{"repositories": "team/**", "actions": ["pull", "push"]}]);
        let request = json!({"name": "robot", "scopes": scopes}).to_string();
        let made = send(&registry, "POST /v2/_pierhead/keys", &admin, Some(request.into_bytes()));
        let key = json_of(&made)["key"].as_str().unwrap().to_owned();
        for identity in IDENTITIES {
            let credentials = match identity {
                "anonymous" => String::new(),
                "ann" => basic("ann:a"),
                "bob" => basic("bob:b"),
                "admin" => admin.clone(),
                "key" => basic(&format!("robot:{key}")),
                _ => basic(&format!("ci:{job}")),
            };
            let refusal = if identity == "anonymous" { 401 } else { 403 };
            for name in REPOSITORIES {
                // Its issuer vouches for anybody.
                if identity == "ci" && !rules.keys().any(|(who, _)| WHO[*who] == "ci") {
                    for (line, _) in requests(name) {
                        prop_assert_eq!(send(&registry, &line, &credentials, None).status, 401);
                    }
                    continue;
                }
                let scope = format!("GET /token?scope=repository:{name}:pull,push,delete");
                let answer = send(&registry, &scope, &credentials, None);
                prop_assert_eq!(answer.status, 200);
                let token = json_of(&answer)["token"].as_str().unwrap().to_owned();
                let bearer = format!("Bearer {token}");
                for (line, action) in requests(name) {
                    let expected = may(&rules, identity, action, name);
                    for authorization in [&credentials, &bearer] {
                        let status = send(&registry, &line, authorization, None).status.as_u16();
                        let is_refused = status == 401 || status == 403;
                        prop_assert_eq!(!is_refused, expected, "{} {} {}: {}", identity, &line, &document, status);
                        prop_assert!(!is_refused || status == refusal, "{} {}: {}", identity, &line, status);
                    }
                }
            }
            // Only the administrator administers.
            let listed = send(&registry, "GET /v2/_pierhead/keys", &credentials, None).status.as_u16();
            prop_assert_eq!(listed == 200, identity == "admin", "{}", identity);
        }
    }
}

/// Requests about a repository, for content with this digest. The mounts are from it, and into it.
fn about(name: &str, digest: &str) -> Vec<String> {
    let upload = format!("/v2/{name}/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887");
    let mut lines: Vec<String> = ["GET", "HEAD"]
        .iter()
        .flat_map(|method| {
            ["manifests/v1", &format!("manifests/{digest}"), &format!("blobs/{digest}"), "tags/list"]
                .map(|path| format!("{method} /v2/{name}/{path}"))
        })
        .collect();
    lines.extend([
        format!("GET /v2/{name}/referrers/{digest}"),
        format!("POST /v2/{name}/blobs/uploads/"),
        format!("POST /v2/{name}/blobs/uploads/?digest={digest}"),
        format!("POST /v2/{name}/blobs/uploads/?mount={digest}&from=team/app"),
        format!("POST /v2/team/app/blobs/uploads/?mount={digest}&from={name}"),
        format!("PATCH {upload}"),
        format!("PUT {upload}?digest={digest}"),
        format!("PUT /v2/{name}/manifests/v1"),
        format!("DELETE /v2/{name}/manifests/v1"),
        format!("DELETE /v2/{name}/blobs/{digest}"),
    ]);
    lines
}

/// What a client, and whoever measures its time, can tell of an answer.
type Seen = (u16, String, Vec<u8>, Vec<&'static str>);

#[test]
fn a_repository_that_one_may_not_see_is_like_one_that_does_not_exist() {
    const POLICY: &str =
        "[[rule]]\nuser = \"ann\"\nrepositories = [\"team/**\"]\nactions = [\"pull\", \"push\"]\n";
    let persistent = Persistent::default();
    let users = user("ann", "a");
    let vars = [
        ("ANONYMOUS", "none"),
        ("HTPASSWD", users.as_str()),
        ("ADMIN_PASSWORD", ADMIN),
        ("POLICY", POLICY),
        ("SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    let registry = || TestRegistry::with(&vars, persistent.clone());
    let admin = basic(&format!("admin:{ADMIN}"));
    // Its manifest is a blob, too, and its own referrer's subject.
    let manifest = fixtures::EMPTY_INDEX;
    let digest = sha256(manifest).to_string();
    let referrer = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": descriptor(INDEX, manifest),
    });
    for (line, content) in [
        (format!("POST /v2/secret/app/blobs/uploads/?digest={digest}"), manifest.to_owned()),
        ("PUT /v2/secret/app/manifests/v1".to_owned(), manifest.to_owned()),
        ("PUT /v2/secret/app/manifests/referrer".to_owned(), referrer.to_string()),
    ] {
        assert_eq!(send(&registry(), &line, &admin, Some(content.into_bytes())).status, 201, "{line}");
    }
    let seen = |line: &str, name: &str, authorization: &str| -> Seen {
        // A new isolate each time: it remembers nothing.
        let registry = registry();
        let headers = [HOST, ("authorization", authorization)];
        let (calls, answer) =
            registry.calls(line, if authorization.is_empty() { &headers[..1] } else { &headers });
        let mut headers = answer.headers.clone();
        // Each upload has its own.
        for name in ["location", "docker-upload-uuid"] {
            if let Some(value) = headers.get_mut(name) {
                *value = http::HeaderValue::from_static("");
            }
        }
        let body = String::from_utf8(answer.body).unwrap().replace(name, "NAME");
        (answer.status.as_u16(), format!("{headers:?}").replace(name, "NAME"), body.into(), calls)
    };
    let token = |credentials: &str, query: &str| {
        let answer = send(&registry(), &format!("GET /token?{query}"), credentials, None);
        format!("Bearer {}", json_of(&answer)["token"].as_str().unwrap())
    };
    let ann = basic("ann:a");
    let [hidden, absent] = ["secret/app", "secret/nil"];
    for (who, of) in [
        ("anonymous", Box::new(|_: &str| String::new()) as Box<dyn Fn(&str) -> String>),
        ("anonymous with a token", Box::new(|name| token("", &format!("scope=repository:{name}:pull,push")))),
        ("ann", Box::new(|_| ann.clone())),
        (
            "ann with a token",
            Box::new(|name| {
                let scope = "scope=repository:team/app:pull,push";
                token(&ann, &format!("{scope}&scope=repository:{name}:pull,push,delete"))
            }),
        ),
        ("ann with a token for something else", Box::new(|_| token(&ann, "scope=repository:team/web:pull"))),
    ] {
        let all = |name: &str| about(name, &digest).iter().map(|line| seen(line, name, &of(name))).collect();
        let (hidden, absent): (Vec<Seen>, Vec<Seen>) = (all(hidden), all(absent));
        for ((line, hidden), absent) in about("NAME", &digest).iter().zip(hidden).zip(absent) {
            assert_eq!(hidden, absent, "{who}: {line}");
            let is_mount = line.starts_with("POST /v2/team/app/");
            assert!(is_mount || hidden.3.is_empty(), "{who}: {line}: {:?}", hidden.3);
            assert!(
                [401, 403].contains(&hidden.0) || is_mount && hidden.0 == 202,
                "{who}: {line}: {}",
                hidden.0
            );
        }
    }
    // A mount from anywhere does not find what is hidden: it costs the same as one of a blob that nobody has.
    let mount = |digest: &str| {
        let line = format!("POST /v2/team/app/blobs/uploads/?mount={digest}");
        seen(&line, "", &ann)
    };
    assert_eq!(mount(&digest), mount(&sha256("nobody has it").to_string()));
    // The administrator sees the difference.
    for line in about(hidden, &digest).into_iter().filter(|line| line.starts_with("GET")) {
        let there = seen(&line, hidden, &admin);
        assert_ne!(there, seen(&line.replace(hidden, absent), absent, &admin), "{line}");
    }
}
