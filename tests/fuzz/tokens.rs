//! Signed texts: the state in upload locations, and the URLs of blobs. Only what was signed is accepted. And access
//! tokens: they allow what was asked for and is granted, whatever the scopes look like.

use std::{cell::Cell, rc::Rc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use futures_executor::block_on;
use pierhead::{
    auth::{
        Access, Action,
        scope::{self, Grant},
    },
    oci::{Algorithm, RepositoryName, UploadId},
    platform::{Timestamp, memory::ManualClock},
    redirect::signed::{Keys, Signed},
    secret::{self, Purpose, SecretStore, Signing},
    storage::{Store, memory::Memory},
    uploads::{FirstChunk, UploadAt, UploadState},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use crate::{
    cases, credentials,
    mutate::{Mutation, mutated, mutation},
    support::{Persistent, TestRegistry},
};

fn secret() -> secret::Keys {
    let store =
        SecretStore::new(Store::new(Memory::default()), "0123456789abcdef0123456789abcdef".parse().unwrap());
    block_on(store.keys(Purpose::Uploads)).unwrap()
}

fn at(id: [u8; 32], expires: u64, has_session: bool, first: Option<u64>, algorithm: Algorithm) -> UploadAt {
    let first = first.map(|length| FirstChunk {
        digest: algorithm.digest(&length.to_be_bytes()),
        length,
        held: length.is_multiple_of(2).then_some(Timestamp(length)),
    });
    UploadAt {
        repository: "team/app".parse().unwrap(),
        id: UploadId::unique(id),
        state: UploadState { expires: Timestamp(expires), algorithm, has_session, first },
    }
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(Algorithm::ALL.to_vec())
}

fn mutate(text: &str, mutations: &[Mutation], others: &[String]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    mutations.iter().for_each(|mutation| mutation.apply(&mut bytes, others));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn signed(origin: &str) -> Signed {
    Signed {
        keys: "0123456789abcdef0123456789abcdef".parse::<Keys>().unwrap(),
        secret: Rc::new(SecretStore::new(Store::new(Memory::default()), Signing::Generated)),
        origin: origin.to_owned(),
        ttl_seconds: 1200,
        clock: Rc::new(ManualClock(Rc::new(Cell::new(1_700_000_123_000)))),
    }
}

/// Decodes `%xx`.
pub fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let digits = [rest.next(), rest.next()].map(|c| c.and_then(|c| char::from(c).to_digit(16)));
        match (byte, digits) {
            (b'%', [Some(high), Some(low)]) => {
                decoded.push((high * 16 + low) as u8);
                bytes = rest;
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

const REPOSITORIES: [&str; 5] = ["team/app", "team/web", "public/web", "a", "catalog"];

/// Anybody pulls what is public; ann pulls and pushes her team's, and pulls the catalog's.
const POLICY: &str = r#"
[[rule]]
everyone = true
repositories = ["public/**"]
actions = ["pull"]

[[rule]]
user = "ann"
repositories = ["team/*"]
actions = ["pull", "push"]

[[rule]]
user = "ann"
repositories = ["team/app", "catalog"]
actions = ["delete"]
"#;

/// What the policy grants, by a table.
fn is_granted(is_ann: bool, name: &str, action: Action) -> bool {
    let (pull, push, delete) = (action == Action::Pull, action == Action::Push, action == Action::Delete);
    match name {
        "public/web" => pull,
        "team/web" => is_ann && (pull || push),
        // The longer pattern decides.
        "team/app" | "catalog" => is_ann && delete,
        _ => false,
    }
}

/// Whether a list of scopes asks for an action on a repository; for the catalog, `None`.
fn is_asked(scopes: &str, access: Option<(&str, Action)>) -> bool {
    scopes.split_ascii_whitespace().take(64).any(|word| {
        let parts: Vec<&str> = word.split(':').collect();
        let [kind, name, actions] = parts[..] else { return false };
        let is_kind = |expected: &str| kind == expected || kind.starts_with(&format!("{expected}("));
        match access {
            None => is_kind("registry") && name == "catalog" && actions.split(',').any(|word| word == "*"),
            Some((repository, action)) => {
                let mut words = actions.split(',');
                is_kind("repository")
                    && name == repository
                    && words.any(|word| word == "*" || word == action.as_str())
            }
        }
    })
}

/// Scopes that name something, and texts like them.
fn scopes() -> impl Strategy<Value = String> {
    let kinds = ["repository", "repository(plugin)", "registry", "Repository", "repositor", ""];
    let actions =
        ["pull", "pull,push", "push,pull", "*", "delete", "pull,,delete", "", "Pull", "pull push", "admin"];
    let names =
        [&REPOSITORIES[..], &["team", "team/", "localhost:5000/team/app", "*", "team/*", "_pierhead"]];
    let word = (select(kinds.to_vec()), select(names.concat()), select(actions.to_vec()))
        .prop_map(|(kind, name, actions)| format!("{kind}:{name}:{actions}"));
    let valid = (select(REPOSITORIES.to_vec()), select(actions.to_vec()))
        .prop_map(|(name, actions)| format!("repository:{name}:{actions}"));
    let corpus = ["repository:team/app:pull,push", "registry:catalog:* repository:public/web:*"];
    let any = mutated(&corpus).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let padding = "x ".repeat(63);
    prop_oneof![
        8 => vec(prop_oneof![2 => valid, 2 => word, 1 => any], 0..5).prop_map(|words| words.join(" ")),
        // The last scope that counts, and the first that does not.
        1 => Just(format!("{padding}repository:team/web:* repository:public/web:*")),
    ]
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_token_allows_what_was_asked_for_and_is_granted((scopes, is_ann) in (scopes(), any::<bool>())) {
        thread_local! {
            static REGISTRY: TestRegistry = TestRegistry::with(
                &[("ANONYMOUS", "none"), ("HTPASSWD", &credentials::htpasswd()), ("POLICY", POLICY)],
                Persistent::default(),
            );
        }
        let [(_, password), _] = credentials::users();
        let basic = format!("Basic {}", STANDARD.encode(format!("ann:{password}")));
        let send = |line: &str, authorization: &str| {
            let headers = [("host", "registry.example"), ("authorization", authorization)];
            let headers = if authorization.is_empty() { &headers[..1] } else { &headers };
            REGISTRY.with(|registry| registry.send(line, headers, None))
        };
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("scope", &scopes).finish();
        let answer = send(&format!("GET /token?{query}"), if is_ann { &basic } else { "" });
        prop_assert_eq!(answer.status, 200, "{:?}", answer);
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        let grants: Vec<Grant> = serde_json::from_value(claims["access"].clone()).unwrap();
        let bearer = format!("Bearer {token}");
        let is_let_in = |line: &str| ![401, 403].contains(&send(line, &bearer).status.as_u16());
        for name in REPOSITORIES {
            for (action, line) in [
                (Action::Pull, format!("GET /v2/{name}/tags/list")),
                (Action::Push, format!("POST /v2/{name}/blobs/uploads/")),
                (Action::Delete, format!("DELETE /v2/{name}/manifests/v1")),
            ] {
                let expected = is_asked(&scopes, Some((name, action))) && is_granted(is_ann, name, action);
                let access = Access::Repository(&name.parse().unwrap(), action);
                prop_assert_eq!(scope::cover(&grants, access), expected, "{} {:?}", &line, &grants);
                prop_assert_eq!(is_let_in(&line), expected, "{} {:?}", &line, &grants);
            }
        }
        // Both may list what they may pull.
        let lists = is_asked(&scopes, None);
        prop_assert_eq!(scope::cover(&grants, Access::Catalog), lists, "{:?}", &grants);
        prop_assert_eq!(is_let_in("GET /v2/_catalog"), lists);
        for line in ["GET /v2/_pierhead/keys", "POST /v2/_pierhead/jobs/fsck/run", "GET /metrics"] {
            prop_assert!(!is_let_in(line), "{}", line);
        }
        for access in [Access::Administer, Access::Metrics] {
            prop_assert!(!scope::cover(&grants, access));
        }
    }
}

proptest! {
    #![proptest_config(cases(1200))]

    #[test]
    fn only_the_signed_state_of_an_upload_is_accepted(
        (id, expires, has_session) in (any::<[u8; 32]>(), any::<u64>(), any::<bool>()),
        (first, algorithm) in (any::<Option<u64>>(), algorithm()),
        (mutations, now) in (vec(mutation(), 0..4), any::<Index>()),
    ) {
        let at = at(id, expires, has_session, first, algorithm);
        let state = at.sign(&secret());
        // Of another upload, which is valid there.
        let other = UploadAt { id: UploadId::unique([0; 32]), ..at.clone() }.sign(&secret());
        let given = mutate(&state, &mutations, &[state.clone(), other]);
        let now = Timestamp(if now.index(2) == 0 { expires.saturating_sub(1) } else { expires });
        let verified = UploadAt::verify(&at.repository, &at.id, &given, &secret(), now);
        let is_valid = given == state && now < at.state.expires;
        prop_assert_eq!(verified, is_valid.then(|| at.clone()));
        let elsewhere: RepositoryName = "team/other".parse().unwrap();
        prop_assert_eq!(UploadAt::verify(&elsewhere, &at.id, &given, &secret(), now), None);
    }

    #[test]
    fn only_a_signed_url_is_accepted(
        (content, algorithm) in (any::<u64>(), algorithm()),
        (of_path, of_query) in (vec(mutation(), 0..2), vec(mutation(), 0..4)),
    ) {
        let signed = signed("");
        let [url, other] = [content, content ^ 1].map(|content| {
            block_on(signed.url(&algorithm.digest(&content.to_be_bytes()))).unwrap()
        });
        let (path, query) = url.split_once('?').unwrap();
        let others = other.split('?').map(str::to_owned).collect::<Vec<_>>();
        let given = (mutate(path, &of_path, &others), mutate(query, &of_query, &others));
        let verified = block_on(signed.verify(&given.0, &given.1)).unwrap();
        let is_signed = given.0 == path && decoded(&given.1) == decoded(query);
        prop_assert!(is_signed || verified.is_none());
        prop_assert!(given != (path.to_owned(), query.to_owned()) || verified.is_some());
    }
}
