//! A made-up issuer of tokens: its keys, its signatures, and a server that answers as a test wants.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use pierhead::platform::{
    Clock, DocumentClient, Verifier,
    verifier::{Algorithm, PublicKey},
};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
        ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use serde_json::{Value, json};

/// An RSA key of 2048 bits for these tests only: ring makes none.
const RSA: &[u8] = include_bytes!("issuer.pk8");

/// Base64url without padding.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key that signs tokens.
pub struct Signer {
    pub id: String,
    pair: Pair,
}

impl Signer {
    /// A new key; for RS256, always the same.
    pub fn new(id: &str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let pair = match algorithm {
            Algorithm::Rs256 => Pair::Rsa(RsaKeyPair::from_pkcs8(RSA).unwrap()),
            Algorithm::Es256 => {
                let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
                Pair::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
            }
            Algorithm::Es384 => {
                let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
                let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
                Pair::P384(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
            }
            Algorithm::EdDsa => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
            }
        };
        Self { id: id.to_owned(), pair }
    }

    pub fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Rsa(_) => Algorithm::Rs256,
            Pair::P256(_) => Algorithm::Es256,
            Pair::P384(_) => Algorithm::Es384,
            Pair::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// The public key, as a set has it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let key = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encode(key.n), "e": encode(key.e)})
            }
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Pair::P384(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-384", "x": encode(&point[1..49]), "y": encode(&point[49..])})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["alg"] = json!(self.algorithm().as_str());
        jwk["use"] = json!("sig");
        jwk
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm().as_str(), "kid": self.id, "typ": "JWT"})
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token with a header of its own. It is signed with this key, whatever the header says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => {
                pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// Signatures by ring. Ends the test if one has a length that the platform may refuse.
pub struct Ring;

impl Verifier for Ring {
    fn verify<'a>(
        &'a self,
        key: &'a PublicKey,
        message: &'a [u8],
        signature: &'a [u8],
    ) -> LocalBoxFuture<'a, Result<bool, String>> {
        assert_eq!(signature.len(), key.signature_length());
        let verified = match key {
            PublicKey::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            PublicKey::P256 { x, y } => {
                let point = [&[4][..], x, y].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            PublicKey::P384 { x, y } => {
                let point = [&[4][..], x, y].concat();
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            PublicKey::Ed25519(x) => UnparsedPublicKey::new(&ED25519, x).verify(message, signature),
        };
        Box::pin(async move { Ok(verified.is_ok()) })
    }
}

/// How a server answers a request.
#[derive(Debug, Clone)]
pub enum Answer {
    Document(String),
    Status(u16),
    Hang,
}

/// The server of an issuer, by URL: its own client, which keeps the contract of [`DocumentClient`].
pub struct Server {
    clock: Rc<dyn Clock>,
    pub answers: RefCell<BTreeMap<String, Answer>>,
    /// The URLs of all requests.
    pub requests: RefCell<Vec<String>>,
    /// How long a document takes, in milliseconds.
    pub delay: Cell<u64>,
}

impl Server {
    pub fn new(clock: Rc<dyn Clock>) -> Self {
        let (answers, requests, delay) = Default::default();
        Self { clock, answers, requests, delay }
    }

    pub fn answer(&self, url: &str, answer: Answer) {
        self.answers.borrow_mut().insert(url.to_owned(), answer);
    }

    /// Serves a JSON document.
    pub fn serve(&self, url: &str, document: &Value) {
        self.answer(url, Answer::Document(document.to_string()));
    }

    /// Serves a set of keys.
    pub fn serve_keys(&self, url: &str, keys: &[&Signer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.serve(url, &json!({ "keys": keys }));
    }
}

impl DocumentClient for Server {
    fn get<'a>(
        &'a self,
        url: &'a str,
        limit: usize,
        timeout: u64,
    ) -> LocalBoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            self.requests.borrow_mut().push(url.to_owned());
            let answer = self.answers.borrow().get(url).cloned();
            let wait = if matches!(answer, Some(Answer::Hang)) { u64::MAX } else { self.delay.get() };
            if wait > 0 {
                self.clock.sleep(wait.min(timeout)).await;
            }
            match answer {
                _ if wait > timeout => Err("no answer in time".to_owned()),
                None => Err("status 404".to_owned()),
                Some(Answer::Document(text)) if text.len() > limit => {
                    Err(format!("the body is larger than {limit} bytes"))
                }
                Some(Answer::Document(text)) => Ok(text.into()),
                Some(Answer::Status(status)) => Err(format!("status {status}")),
                Some(Answer::Hang) => unreachable!(),
            }
        })
    }
}
