//! Tokens of other issuers, by attack: what is refused, why, and what the registry fetches for it.

use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, task::Poll};

use futures_executor::block_on;
use futures_util::future::{LocalBoxFuture, join_all};
use pierhead::{
    auth::{
        External,
        identity::external::{
            Algorithm, FAILURE_PAUSE, FRESH, Issuer, Issuers, MAX_JWKS, Means, Refused, STALE, TIMEOUT,
            TokenServer, TokenServerSettings, UNKNOWN_PAUSE,
        },
        jwt::{self, Invalid},
    },
    platform::{Clock, Timestamp},
};
use serde_json::{Value, json};

use crate::issuer::{Answer, Ring, Server, Signer, encode};

const URL: &str = "https://ci.example.com";
const DISCOVERY: &str = "https://ci.example.com/.well-known/openid-configuration";
const KEYS: &str = "https://keys.example.com/jwks";
/// The start of all tests, in seconds since 1970.
const START: u64 = 1_800_000_000;

/// A clock whose sleeps take a turn of the executor, as real ones do.
struct Turns(Cell<u64>);

impl Turns {
    fn advance(&self, milliseconds: u64) {
        self.0.set(self.0.get() + milliseconds);
    }
}

/// Sleeps of the same turn pass together.
struct Shared(Rc<Turns>);

impl Clock for Shared {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.0.get())
    }

    fn sleep(&self, milliseconds: u64) -> LocalBoxFuture<'static, ()> {
        let (clock, until) = (self.0.clone(), self.0.0.get() + milliseconds);
        Box::pin(poll_fn(move |context| {
            if clock.0.get() >= until {
                return Poll::Ready(());
            }
            clock.advance(1);
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

/// A CI system, and a registry that trusts it.
struct World {
    clock: Rc<Turns>,
    server: Rc<Server>,
    means: Means,
    issuers: Issuers,
    /// A key for each algorithm.
    keys: [Signer; 3],
}

impl World {
    fn new() -> Self {
        Self::with(&Algorithm::ALL, Some(KEYS), &[])
    }

    fn with(algorithms: &[Algorithm], jwks: Option<&str>, claims: &[&str]) -> Self {
        let clock = Rc::new(Turns(Cell::new(START * 1000)));
        let shared: Rc<dyn Clock> = Rc::new(Shared(clock.clone()));
        let server = Rc::new(Server::new(shared.clone()));
        let means = Means { client: server.clone(), verifier: Rc::new(Ring), clock: shared };
        let issuer = Issuer::new("ci", URL, "registry", algorithms, jwks, false).unwrap();
        let claims = claims.iter().map(|&claim| claim.to_owned()).collect();
        let issuers = Issuers::new(vec![(issuer, claims)], false, &means);
        let keys = Algorithm::ALL.map(|algorithm| Signer::new(algorithm.as_str(), algorithm));
        server.serve_keys(KEYS, &keys.each_ref());
        server.serve(DISCOVERY, &json!({"issuer": URL, "jwks_uri": KEYS}));
        Self { clock, server, means, issuers, keys }
    }

    fn identify(&self, token: &str) -> Result<External, Refused> {
        block_on(self.issuers.identify(token))
    }

    /// Why a token is refused. The text must tell nothing of it.
    fn refusal(&self, token: &str) -> Refused {
        let error = self.identify(token).unwrap_err();
        let text = error.to_string();
        for part in token.split('.').filter(|part| part.len() > 10) {
            assert!(!text.contains(part), "{text}");
        }
        assert!(!text.contains("evil") && text.len() < 200, "{text}");
        error
    }

    fn signer(&self, algorithm: Algorithm) -> &Signer {
        self.keys.iter().find(|key| key.algorithm() == algorithm).unwrap()
    }

    /// A token that is good now.
    fn token(&self, algorithm: Algorithm) -> String {
        self.signer(algorithm).token(&self.claims())
    }

    fn claims(&self) -> Value {
        let now = self.clock.0.get() / 1000;
        json!({"iss": URL, "sub": "repo:org/app", "aud": "registry", "iat": now, "nbf": now, "exp": now + 300})
    }

    /// Good claims but for these; `null` removes one.
    fn claims_but(&self, changes: Value) -> Value {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    fn requests(&self) -> Vec<String> {
        self.server.requests.take()
    }
}

fn unavailable(reason: &str) -> Refused {
    Refused::Unavailable { issuer: URL.to_owned(), reason: reason.to_owned() }
}

#[test]
fn a_token_of_every_algorithm_identifies_its_subject() {
    for jwks in [Some(KEYS), None] {
        let world = World::with(&Algorithm::ALL, jwks, &[]);
        for algorithm in Algorithm::ALL {
            let external = world.identify(&world.token(algorithm)).unwrap();
            assert_eq!((external.issuer.as_str(), external.subject.as_str()), ("ci", "repo:org/app"));
            assert!(external.claims.is_empty());
        }
        let expected = if jwks.is_some() { vec![KEYS] } else { vec![DISCOVERY, KEYS] };
        assert_eq!(world.requests(), expected, "keys are fetched once");
    }
}

#[test]
fn only_claims_that_rules_name_are_kept() {
    let names = ["repository", "run", "protected", "list", "map", "long", "edge", "none", "absent", "sub"];
    let world = World::with(&[Algorithm::EdDsa], Some(KEYS), &names);
    let claims = world.claims_but(json!({
        "repository": "org/app", "run": 1.50, "protected": true, "list": ["a"], "map": {"a": "b"},
        "long": "x".repeat(1025), "edge": "x".repeat(1024), "other": "x",
    }));
    let mut text = claims.to_string();
    text.insert_str(1, r#""none":null,"#);
    let signed = format!("{}.{}", encode(world.keys[2].header().to_string()), encode(text));
    let token = format!("{signed}.{}", encode(world.keys[2].sign(signed.as_bytes())));
    let kept = world.identify(&token).unwrap().claims;
    let expected = [
        ("edge", "x".repeat(1024)),
        ("protected", "true".to_owned()),
        ("repository", "org/app".to_owned()),
        ("run", "1.5".to_owned()),
        ("sub", "repo:org/app".to_owned()),
    ];
    assert_eq!(kept, expected.map(|(name, value)| (name.to_owned(), value)).into());
}

#[test]
fn unsigned_tokens_and_shared_secrets_are_refused() {
    let world = World::new();
    let claims = world.claims();
    let key = world.signer(Algorithm::Rs256);
    for alg in
        ["none", "None", "nOnE", "NONE", "", " none", "HS256", "HS512", "rs256", "RS384", "PS256", "ES256K"]
    {
        let header = json!({"alg": alg, "kid": key.id});
        let token = key.token_with(&header, &claims);
        assert_eq!(world.refusal(&token), Refused::Algorithm, "{alg}");
        let (signed, _) = token.rsplit_once('.').unwrap();
        assert_eq!(world.refusal(&format!("{signed}.")), Refused::Algorithm, "{alg}");
    }
    // The public key is no secret: whoever takes it for one signs anything.
    let header = json!({"alg": "HS256", "kid": key.id});
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    for secret in [key.jwk().to_string(), key.jwk()["n"].as_str().unwrap().to_owned()] {
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let token = format!("{signed}.{}", encode(ring::hmac::sign(&secret, signed.as_bytes())));
        assert_eq!(world.refusal(&token), Refused::Algorithm);
    }
    assert_eq!(
        world.refusal(&key.token_with(&json!({"kid": key.id}), &claims)),
        Invalid::Missing("alg").into()
    );
    assert_eq!(world.requests(), Vec::<String>::new());
}

#[test]
fn an_algorithm_must_be_the_keys_and_the_issuers() {
    let world = World::new();
    for (signer, other) in
        Algorithm::ALL.into_iter().zip([Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256])
    {
        let signer = world.signer(signer);
        let swapped = json!({"alg": other.as_str(), "kid": signer.id});
        assert_eq!(world.refusal(&signer.token_with(&swapped, &world.claims())), Refused::UnknownKey);
        let borrowed = json!({"alg": other.as_str(), "kid": world.signer(other).id});
        assert_eq!(world.refusal(&signer.token_with(&borrowed, &world.claims())), Refused::Signature);
    }
    let world = World::with(&[Algorithm::Rs256], Some(KEYS), &[]);
    assert_eq!(world.refusal(&world.token(Algorithm::Es256)), Refused::Algorithm);
    assert_eq!(world.refusal(&world.token(Algorithm::EdDsa)), Refused::Algorithm);
    assert!(world.identify(&world.token(Algorithm::Rs256)).is_ok());
}

#[test]
fn a_key_that_a_token_brings_is_never_used() {
    let world = World::new();
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let evil = Signer::new(algorithm.as_str(), algorithm);
        let mut header = evil.header();
        header["jwk"] = evil.jwk();
        header["jku"] = json!("https://evil.example.com/jwks");
        header["x5u"] = json!("https://evil.example.com/certificate");
        header["x5c"] = json!([encode("certificate")]);
        world.server.serve_keys("https://evil.example.com/jwks", &[&evil]);
        assert_eq!(world.refusal(&evil.token_with(&header, &world.claims())), Refused::Signature);
    }
    assert_eq!(world.requests(), [KEYS]);
}

#[test]
fn no_character_of_a_token_can_be_changed() {
    let world = World::new();
    for algorithm in Algorithm::ALL {
        let token = world.token(algorithm);
        assert!(world.identify(&token).is_ok());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(world.identify(str::from_utf8(&changed).unwrap()).is_err(), "{algorithm} {at}");
            assert!(world.identify(&token[..at]).is_err(), "{algorithm} {at}");
        }
    }
}

#[test]
fn signatures_of_another_form_are_refused() {
    let world = World::new();
    for algorithm in Algorithm::ALL {
        let signer = world.signer(algorithm);
        let token = world.token(algorithm);
        let (signed, _) = token.rsplit_once('.').unwrap();
        let good = signer.sign(signed.as_bytes());
        let length = good.len();
        let forged = [
            Vec::new(),
            vec![0; length],
            vec![255; length],
            good[..length - 1].to_vec(),
            [&good[..], &[0]].concat(),
            [&[0], &good[..]].concat(),
            good.iter().rev().copied().collect(),
            // r and s of ECDSA in DER, as other protocols have them.
            [&[0x30, 0x44, 2, 32], &good[..32], &[2, 32], &good[32..64]].concat(),
        ];
        for signature in forged {
            let token = format!("{signed}.{}", encode(&signature));
            assert_eq!(world.refusal(&token), Refused::Signature, "{algorithm} {signature:?}");
        }
    }
}

#[test]
fn claims_of_somebody_else_are_refused_before_keys_are_fetched() {
    let world = World::new();
    let signer = world.signer(Algorithm::EdDsa);
    let sub = "a text of up to 1024 bytes without control characters";
    let sub = Refused::Invalid(Invalid::Field { field: "sub", expected: sub });
    for (changes, expected) in [
        (json!({"iss": "https://evil.example.com"}), Refused::Issuer),
        (json!({"iss": format!("{URL}/")}), Refused::Issuer),
        (json!({"iss": "https://CI.example.com"}), Refused::Issuer),
        (json!({"iss": ""}), Refused::Issuer),
        (json!({"iss": null}), Invalid::Missing("iss").into()),
        (json!({"aud": "evil"}), Refused::Audience),
        (json!({"aud": ["evil", "registry2"]}), Refused::Audience),
        (json!({"aud": []}), Refused::Audience),
        (json!({"aud": null}), Invalid::Missing("aud").into()),
        (json!({"sub": null}), Invalid::Missing("sub").into()),
        (json!({"sub": ""}), Invalid::Missing("sub").into()),
        (json!({"sub": "a\nb"}), sub.clone()),
        (json!({"sub": "x".repeat(1025)}), sub.clone()),
        (json!({"sub": 1}), sub),
    ] {
        let token = signer.token(&world.claims_but(changes.clone()));
        assert_eq!(world.refusal(&token), expected, "{changes}");
    }
    for iss in [json!(1), json!([URL]), json!("x".repeat(1025))] {
        let error = world.refusal(&signer.token(&world.claims_but(json!({ "iss": iss }))));
        assert!(matches!(error, Refused::Invalid(Invalid::Field { field: "iss", .. })), "{error}");
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", ""] {
        let header = json!({"alg": "EdDSA", "kid": signer.id, "typ": typ});
        assert_eq!(world.refusal(&signer.token_with(&header, &world.claims())), Refused::Kind);
    }
    assert_eq!(world.requests(), Vec::<String>::new());
    assert!(world.identify(&signer.token(&world.claims_but(json!({"aud": ["x", "registry"]})))).is_ok());
}

#[test]
fn a_token_has_its_time() {
    let world = World::new();
    let signer = world.signer(Algorithm::EdDsa);
    for (changes, expected) in [
        (json!({"exp": START - 60}), Some(Invalid::Expired)),
        (json!({"exp": START - 59}), None),
        (json!({"exp": null}), Some(Invalid::Missing("exp"))),
        (json!({"nbf": START + 61}), Some(Invalid::NotYet)),
        (json!({"nbf": START + 60}), None),
        (json!({"iat": START + 61}), Some(Invalid::FromTheFuture)),
        (json!({"iat": START + 60, "nbf": null}), None),
    ] {
        let token = signer.token(&world.claims_but(changes.clone()));
        assert_eq!(world.identify(&token).err(), expected.map(Refused::Invalid), "{changes}");
    }
    let token = signer.token(&world.claims());
    world.clock.advance((300 + jwt::LEEWAY) * 1000);
    assert_eq!(world.refusal(&token), Invalid::Expired.into());
}

#[test]
fn malformed_and_oversized_tokens_are_refused() {
    let world = World::new();
    let signer = world.signer(Algorithm::EdDsa);
    let long = |length| signer.token(&world.claims_but(json!({"x": "x".repeat(length)})));
    assert_eq!(world.refusal(&long(jwt::MAX_LEN)), Invalid::Length.into());
    assert_eq!(world.refusal(&long(10_000_000)), Invalid::Length.into());
    assert!(world.identify(&long(10_000)).is_ok());
    let token = signer.token(&world.claims());
    for (token, expected) in [
        (String::new(), Invalid::Form),
        ("secret".to_owned(), Invalid::Form),
        (format!("{token}."), Invalid::Form),
        (format!("{token}.{token}"), Invalid::Form),
        (format!(" {token}"), Invalid::Form),
        (format!("{token}\n"), Invalid::Form),
        (format!("{token}=="), Invalid::Form),
    ] {
        assert_eq!(world.refusal(&token), expected.into(), "{token}");
    }
    let raw = |header: &str, claims: &str| {
        let signed = format!("{}.{}", encode(header), encode(claims));
        format!("{signed}.{}", encode(signer.sign(signed.as_bytes())))
    };
    let (header, claims) = (signer.header().to_string(), world.claims().to_string());
    assert!(world.identify(&raw(&header, &claims)).is_ok());
    let twice = |json: &str, field: &str| json.replacen('{', &format!("{{{field},"), 1);
    for (token, expected) in [
        (raw(&twice(&header, r#""alg":"none""#), &claims), Invalid::Twice),
        (raw(&header, &twice(&claims, r#""sub":"evil""#)), Invalid::Twice),
        (raw(&header, &twice(&claims, r#""\u0073ub":"evil""#)), Invalid::Twice),
        (raw(&twice(&header, r#""crit":["exp"]"#), &claims), Invalid::Critical),
        (raw(&twice(&header, r#""crit":["b64"],"b64":false"#), &claims), Invalid::Critical),
    ] {
        assert_eq!(world.refusal(&token), expected.into(), "{token}");
    }
    assert!(matches!(world.refusal(&raw("{", &claims)), Refused::Invalid(Invalid::Json(_))));
    assert!(matches!(world.refusal(&raw(&header, "\u{0}")), Refused::Invalid(Invalid::Json(_))));
}

#[test]
fn a_key_id_is_only_compared() {
    let world = World::new();
    let signer = world.signer(Algorithm::EdDsa);
    let header = |kid: &str| json!({"alg": "EdDSA", "kid": kid});
    for kid in [
        "../../../etc/passwd",
        "/dev/null",
        "https://evil.example.com/jwks",
        "'--evil",
        "EdDSA%00",
        "eddsa",
        "EdDSA2",
        "RS256",
        "*",
        "${jndi:evil}",
    ] {
        assert_eq!(
            world.refusal(&signer.token_with(&header(kid), &world.claims())),
            Refused::UnknownKey,
            "{kid}"
        );
    }
    let expected = "1 to 256 visible ASCII characters";
    for kid in ["", "Ed DSA", "EdDSA\n", "EdDSA\0", "EdDSA\r\nevil: 1", "\u{202e}", &"x".repeat(10_240)] {
        let refusal = world.refusal(&signer.token_with(&header(kid), &world.claims()));
        assert_eq!(refusal, Invalid::Field { field: "kid", expected }.into(), "{kid}");
    }
    assert_eq!(world.requests(), [KEYS], "many ids cause one fetch");
}

#[test]
fn a_token_without_a_key_id_needs_an_issuer_with_one_key() {
    let world = World::new();
    let signer = world.signer(Algorithm::EdDsa);
    let token = signer.token_with(&json!({"alg": "EdDSA"}), &world.claims());
    assert!(world.identify(&token).is_ok(), "the keys of other algorithms do not count");
    let world = World::new();
    let (one, two) = (Signer::new("1", Algorithm::EdDsa), Signer::new("2", Algorithm::EdDsa));
    world.server.serve_keys(KEYS, &[&one, &two]);
    let token = one.token_with(&json!({"alg": "EdDSA"}), &world.claims());
    assert_eq!(world.refusal(&token), Refused::UnknownKey);
    assert!(world.identify(&one.token(&world.claims())).is_ok());
}

#[test]
fn a_set_of_keys_that_lies_is_not_believed() {
    let rsa = Signer::new("RS256", Algorithm::Rs256);
    let with = |field: &str, value: Value| {
        let mut jwk = rsa.jwk();
        jwk[field] = value;
        jwk
    };
    for (key, expected) in [
        (with("kty", json!("oct")), Refused::UnknownKey),
        (with("kty", json!("EC")), Refused::UnknownKey),
        (with("use", json!("enc")), Refused::UnknownKey),
        (with("alg", json!("HS256")), Refused::UnknownKey),
        (with("key_ops", json!(["encrypt"])), Refused::UnknownKey),
        (with("n", json!(encode([255; 128]))), Refused::UnknownKey),
        (with("e", json!("AQ")), Refused::UnknownKey),
        (with("d", json!("AQAB")), Refused::UnknownKey),
        (with("n", json!(encode([255; 256]))), Refused::Signature),
    ] {
        let world = World::new();
        world.server.serve(KEYS, &json!({"keys": [key]}));
        assert_eq!(world.refusal(&world.token(Algorithm::Rs256)), expected, "{key}");
    }
    for (document, expected) in [
        (json!({"keys": vec![json!({}); 10_000]}).to_string(), "more than 100 keys"),
        ("x".repeat(MAX_JWKS + 1), "the body is larger than 262144 bytes"),
        ("x".repeat(5_000_000), "the body is larger than 262144 bytes"),
        (json!({"keys": 1}).to_string(), "keys: expected an array"),
        (json!([]).to_string(), "document: expected an object"),
    ] {
        let world = World::new();
        world.server.answer(KEYS, Answer::Document(document));
        let refusal = world.refusal(&world.token(Algorithm::Rs256));
        assert_eq!(refusal, unavailable(&format!("its keys: {expected}")));
    }
    let world = World::new();
    world.server.answer(KEYS, Answer::Document("<html>evil</html>".to_owned()));
    assert!(matches!(world.refusal(&world.token(Algorithm::Rs256)), Refused::Unavailable { .. }));
}

#[test]
fn a_server_that_fails_is_asked_seldom() {
    for (answer, expected, takes) in [
        (Answer::Hang, "its keys: no answer in time", TIMEOUT),
        (Answer::Status(500), "its keys: status 500", 0),
        (Answer::Status(302), "its keys: status 302", 0),
    ] {
        let world = World::new();
        world.server.answer(KEYS, answer);
        let start = world.clock.0.get();
        assert_eq!(world.refusal(&world.token(Algorithm::Rs256)), unavailable(expected));
        assert_eq!(world.clock.0.get() - start, takes);
        world.clock.advance(FAILURE_PAUSE - 1);
        assert_eq!(world.refusal(&world.token(Algorithm::Rs256)), unavailable(expected));
        assert_eq!(world.requests(), [KEYS]);
        world.server.serve_keys(KEYS, &world.keys.each_ref());
        world.clock.advance(1);
        assert!(world.identify(&world.token(Algorithm::Rs256)).is_ok());
        assert_eq!(world.requests(), [KEYS]);
    }
}

#[test]
fn discovery_names_its_issuer_and_a_public_address() {
    let failed = |reason: &str| unavailable(&format!("its discovery document: {reason}"));
    for (document, expected) in [
        (json!({"issuer": format!("{URL}/"), "jwks_uri": KEYS}), "issuer is another"),
        (json!({"issuer": "https://evil.example.com", "jwks_uri": KEYS}), "issuer is another"),
        (json!({"jwks_uri": KEYS}), "issuer is another"),
        (json!({"issuer": [URL], "jwks_uri": KEYS}), "issuer is another"),
        (json!({"issuer": URL}), "jwks_uri is no URL"),
        (json!({"issuer": URL, "jwks_uri": "/jwks"}), "jwks_uri is no URL"),
        (json!({"issuer": URL, "jwks_uri": format!("{KEYS}?{}", "x".repeat(1024))}), "jwks_uri is no URL"),
        (json!({"issuer": URL, "jwks_uri": "http://keys.example.com/jwks"}), "jwks_uri must be an https URL"),
        (json!({"issuer": URL, "jwks_uri": "file:///jwks"}), "jwks_uri must be an https URL with a host"),
        (
            json!({"issuer": URL, "jwks_uri": "https://127.0.0.1/"}),
            "jwks_uri must be a URL with a public host",
        ),
        (
            json!({"issuer": URL, "jwks_uri": "https://169.254.169.254/"}),
            "jwks_uri must be a URL with a public host",
        ),
        (
            json!({"issuer": URL, "jwks_uri": "https://evil:evil@keys.example.com/"}),
            "jwks_uri must be a URL without a user and a password",
        ),
        (json!([]), "document: expected an object"),
    ] {
        let world = World::with(&Algorithm::ALL, None, &[]);
        world.server.serve(DISCOVERY, &document);
        assert_eq!(world.refusal(&world.token(Algorithm::Rs256)), failed(expected), "{document}");
        assert_eq!(world.requests(), [DISCOVERY], "{document}");
    }
    let world = World::with(&Algorithm::ALL, None, &[]);
    world.server.answer(DISCOVERY, Answer::Document(" ".repeat(65_537)));
    let refusal = world.refusal(&world.token(Algorithm::Rs256));
    assert_eq!(refusal, failed("the body is larger than 65536 bytes"));
    // Both documents share the time.
    let world = World::with(&Algorithm::ALL, None, &[]);
    world.server.delay.set(3000);
    let start = world.clock.0.get();
    let refusal = world.refusal(&world.token(Algorithm::Rs256));
    assert_eq!(refusal, unavailable("its keys: no answer in time"));
    assert_eq!(world.clock.0.get() - start, TIMEOUT);
}

#[test]
fn keys_rotate() {
    let world = World::new();
    let (old, new) = (Signer::new("old", Algorithm::Es256), Signer::new("new", Algorithm::Es256));
    let good = |signer: &Signer| signer.token(&world.claims());
    world.server.serve_keys(KEYS, &[&old]);
    assert!(world.identify(&good(&old)).is_ok());
    assert_eq!(world.requests(), [KEYS]);
    // An unknown key is looked for once a minute.
    world.server.serve_keys(KEYS, &[&new]);
    world.clock.advance(UNKNOWN_PAUSE - 1);
    assert_eq!(world.refusal(&good(&new)), Refused::UnknownKey);
    assert_eq!(world.requests(), Vec::<String>::new());
    world.clock.advance(1);
    assert!(world.identify(&good(&new)).is_ok());
    assert_eq!(world.requests(), [KEYS]);
    assert_eq!(world.refusal(&good(&old)), Refused::UnknownKey);
    assert_eq!(world.requests(), Vec::<String>::new());
    // A key that was withdrawn works until keys are fetched again.
    world.server.serve_keys(KEYS, &[&old]);
    world.clock.advance(FRESH - 1);
    assert!(world.identify(&good(&new)).is_ok());
    assert_eq!(world.requests(), Vec::<String>::new());
    world.clock.advance(1);
    assert_eq!(world.refusal(&good(&new)), Refused::UnknownKey);
    assert_eq!(world.requests(), [KEYS]);
    assert!(world.identify(&good(&old)).is_ok());
    // So does one that its issuer withdraws with all others.
    world.server.serve_keys(KEYS, &[]);
    world.clock.advance(FRESH);
    assert_eq!(world.refusal(&good(&old)), Refused::UnknownKey);
}

#[test]
fn an_id_of_a_key_may_come_back_with_another_key() {
    let world = World::new();
    let (old, new) = (Signer::new("1", Algorithm::Es256), Signer::new("1", Algorithm::Es256));
    world.server.serve_keys(KEYS, &[&old]);
    assert!(world.identify(&old.token(&world.claims())).is_ok());
    world.server.serve_keys(KEYS, &[&new]);
    assert_eq!(world.refusal(&new.token(&world.claims())), Refused::Signature);
    world.clock.advance(FRESH);
    assert!(world.identify(&new.token(&world.claims())).is_ok());
    assert_eq!(world.refusal(&old.token(&world.claims())), Refused::Signature);
}

#[test]
fn old_keys_bridge_a_day_without_their_server() {
    let world = World::new();
    let token = || world.token(Algorithm::EdDsa);
    assert!(world.identify(&token()).is_ok());
    let fetched = world.clock.0.get();
    world.server.answer(KEYS, Answer::Status(503));
    world.clock.advance(FRESH);
    world.requests();
    assert!(world.identify(&token()).is_ok());
    assert!(world.identify(&token()).is_ok());
    assert_eq!(world.requests(), [KEYS], "a failed fetch is not repeated at once");
    world.clock.advance(FAILURE_PAUSE);
    assert!(world.identify(&token()).is_ok());
    assert_eq!(world.requests(), [KEYS]);
    // An unknown key may be a new one: nobody can tell.
    let unknown = Signer::new("unknown", Algorithm::EdDsa).token(&world.claims());
    assert_eq!(world.refusal(&unknown), unavailable("its keys: status 503"));
    world.clock.0.set(fetched + STALE - 1);
    assert!(world.identify(&token()).is_ok());
    world.clock.advance(1);
    assert_eq!(world.refusal(&token()), unavailable("its keys: status 503"));
}

#[test]
fn requests_share_a_fetch() {
    for fails in [false, true] {
        let world = World::with(&Algorithm::ALL, None, &[]);
        world.server.delay.set(500);
        if fails {
            world.server.answer(KEYS, Answer::Status(500));
        }
        let token = world.token(Algorithm::EdDsa);
        let results = block_on(join_all((0..20).map(|_| world.issuers.identify(&token))));
        for result in results {
            assert_eq!(result.err(), fails.then(|| unavailable("its keys: status 500")));
        }
        assert_eq!(world.requests(), [DISCOVERY, KEYS]);
    }
}

#[test]
fn a_fetch_of_a_request_that_is_gone_is_done_by_another() {
    let world = World::new();
    world.server.answer(KEYS, Answer::Hang);
    let token = world.token(Algorithm::EdDsa);
    {
        let mut gone = pin!(world.issuers.identify(&token));
        block_on(poll_fn(|context| {
            assert!(gone.as_mut().poll(context).is_pending());
            Poll::Ready(())
        }));
    }
    assert_eq!(world.requests(), [KEYS]);
    world.server.serve_keys(KEYS, &world.keys.each_ref());
    let start = world.clock.0.get();
    assert!(world.identify(&token).is_ok());
    assert_eq!(world.requests(), [KEYS]);
    let waited = world.clock.0.get() - start;
    assert!((TIMEOUT..TIMEOUT + 1100).contains(&waited), "{waited}");
}

#[test]
fn issuers_have_keys_and_rules_of_their_own() {
    let world = World::new();
    let other = "https://other.example.com";
    let other_keys = "https://other.example.com/keys";
    let two =
        [(URL, "ci", KEYS, "run"), (other, "other", other_keys, "ref")].map(|(url, name, keys, claim)| {
            let issuer = Issuer::new(name, url, "registry", &Algorithm::ALL, Some(keys), false).unwrap();
            (issuer, vec![claim.to_owned()])
        });
    let issuers = Issuers::new(two.into(), false, &world.means);
    let theirs = Signer::new("EdDSA", Algorithm::EdDsa);
    world.server.serve_keys(other_keys, &[&theirs]);
    let claims = |iss: &str| world.claims_but(json!({"iss": iss, "run": "1", "ref": "main"}));
    let ours = world.signer(Algorithm::EdDsa);
    let identify = |token: String| block_on(issuers.identify(&token));
    let one = identify(ours.token(&claims(URL))).unwrap();
    assert_eq!((one.issuer.as_str(), one.claims), ("ci", [("run".to_owned(), "1".to_owned())].into()));
    let two = identify(theirs.token(&claims(other))).unwrap();
    assert_eq!((two.issuer.as_str(), two.claims), ("other", [("ref".to_owned(), "main".to_owned())].into()));
    assert_eq!(identify(theirs.token(&claims(URL))), Err(Refused::Signature));
    assert_eq!(identify(ours.token(&claims(other))), Err(Refused::Signature));
}

#[test]
fn a_token_server_decides_alone() {
    let world = World::new();
    let settings =
        TokenServerSettings::new("https://auth.example.com/token", "registry", "acme-auth", KEYS, false);
    let server = TokenServer::new(&settings.unwrap(), false, &world.means);
    let identify = |claims: Value| {
        let token = world.signer(Algorithm::Es256).token(&world.claims_but(claims));
        block_on(server.identify(&token))
    };
    let access = json!([
        {"type": "repository", "class": "image", "name": "team/app", "actions": ["pull", "push"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
        {"type": "repository", "name": "other", "actions": []},
        {"type": "repository", "name": "other", "actions": null},
    ]);
    let (who, grants) = identify(json!({"iss": "acme-auth", "sub": "ann", "access": access})).unwrap();
    assert_eq!((who.issuer.as_str(), who.subject.as_str()), ("token-server", "ann"));
    let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
    assert_eq!(grants, ["repository:team/app:pull,push", "registry:catalog:*", "repository:other:"]);
    // Anonymous clients have tokens too.
    for claims in [json!({"sub": ""}), json!({"sub": null}), json!({"access": null}), json!({"access": []})] {
        let mut claims = claims;
        claims["iss"] = json!("acme-auth");
        assert_eq!(identify(claims).unwrap().1, []);
    }
    for access in
        [json!("*"), json!({}), json!([1]), json!([{"type": "repository", "name": "a", "actions": "pull"}])]
    {
        let error = identify(json!({"iss": "acme-auth", "access": access.clone()})).unwrap_err();
        assert!(matches!(error, Refused::Invalid(Invalid::Field { field: "access", .. })), "{access}");
    }
    for (claims, expected) in [
        (json!({}), Refused::Issuer),
        (json!({"iss": "acme-auth", "aud": "other"}), Refused::Audience),
        (json!({"iss": "acme-auth", "exp": START - 60}), Invalid::Expired.into()),
        (json!({"iss": "acme-auth", "nbf": START + 61}), Invalid::NotYet.into()),
    ] {
        assert_eq!(identify(claims), Err(expected));
    }
    let evil = Signer::new("ES256", Algorithm::Es256);
    let mut header = evil.header();
    header["jwk"] = evil.jwk();
    let token = evil.token_with(&header, &world.claims_but(json!({"iss": "acme-auth"})));
    assert_eq!(block_on(server.identify(&token)), Err(Refused::Signature));
}

#[test]
fn settings_of_a_token_server_are_checked() {
    let realm = "https://auth.example.com/token";
    let errors = |realm: &str, service: &str, issuer: &str, jwks: &str| {
        let errors = TokenServerSettings::new(realm, service, issuer, jwks, false).unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let text = "1 to 1024 visible ASCII characters without quotes and backslashes";
    assert_eq!(errors(realm, "a\"b", "acme", KEYS), [format!("TOKEN_SERVICE must be {text}")]);
    assert_eq!(errors(realm, "a", "", KEYS), [format!("TOKEN_ISSUER must be {text}")]);
    let url = "must be an https URL, unless EXTERNAL_PRIVATE_ISSUERS is on";
    assert_eq!(errors("http://auth.example.com", "a", "b", KEYS), [format!("TOKEN_REALM {url}")]);
    assert_eq!(errors(realm, "a", "b", "http://auth.example.com"), [format!("TOKEN_JWKS {url}")]);
    assert_eq!(errors("", "", "", "").len(), 4);
    let local = "http://localhost:9000/";
    assert!(TokenServerSettings::new(local, "registry.example.com", "Acme auth", local, true).is_ok());
}
