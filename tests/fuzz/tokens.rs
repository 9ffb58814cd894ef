//! Signed texts: the state in upload locations, and the URLs of blobs. Only what was signed is accepted.

use std::{cell::Cell, rc::Rc};

use futures_executor::block_on;
use pierhead::{
    oci::{Algorithm, RepositoryName, UploadId},
    platform::{Timestamp, memory::ManualClock},
    redirect::signed::{Keys, Signed},
    secret::{Secret, SecretStore},
    storage::{Store, memory::Memory},
    uploads::{FirstChunk, UploadAt, UploadState},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    cases,
    mutate::{Mutation, mutation},
};

const SECRET: Secret = Secret([7; 32]);

fn at(id: [u8; 32], expires: u64, has_session: bool, first: Option<u64>, algorithm: Algorithm) -> UploadAt {
    let first = first.map(|length| FirstChunk { digest: algorithm.digest(&length.to_be_bytes()), length });
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
        secret: Rc::new(SecretStore::new(Store::new(Memory::default()), None)),
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

proptest! {
    #![proptest_config(cases(1200))]

    #[test]
    fn only_the_signed_state_of_an_upload_is_accepted(
        (id, expires, has_session) in (any::<[u8; 32]>(), any::<u64>(), any::<bool>()),
        (first, algorithm) in (any::<Option<u64>>(), algorithm()),
        (mutations, now) in (vec(mutation(), 0..4), any::<Index>()),
    ) {
        let at = at(id, expires, has_session, first, algorithm);
        let state = at.sign(&SECRET);
        // Of another upload, which is valid there.
        let other = UploadAt { id: UploadId::unique([0; 32]), ..at.clone() }.sign(&SECRET);
        let given = mutate(&state, &mutations, &[state.clone(), other]);
        let now = Timestamp(if now.index(2) == 0 { expires.saturating_sub(1) } else { expires });
        let verified = UploadAt::verify(&at.repository, &at.id, &given, &SECRET, now);
        let is_valid = given == state && now < at.state.expires;
        prop_assert_eq!(verified, is_valid.then(|| at.clone()));
        let elsewhere: RepositoryName = "team/other".parse().unwrap();
        prop_assert_eq!(UploadAt::verify(&elsewhere, &at.id, &given, &SECRET, now), None);
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
