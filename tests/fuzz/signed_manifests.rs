//! Manifests of Docker's schema 1: what is taken apart is put together again, wherever the signatures cut it.

use pierhead::{
    oci::{
        Manifest,
        schema1::{MAX_SIGNATURE, Signature as Read, Signed, assemble},
    },
    platform::verifier::Algorithm,
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use crate::{
    cases,
    issuer::{Signer, encode},
    mutate::mutated,
    signed::{LAYOUTS, Signature, cut, payload, signed},
};

/// A signature whose key is real, with fields that are not known, and whose cut is any.
fn signature(protected: &Value) -> Signature {
    thread_local! {
        static SIGNER: Signer = Signer::new("", Algorithm::Rs256);
    }
    SIGNER.with(|signer| Signature::with(signer, "{}", protected))
}

fn texts() -> Vec<String> {
    let texts = LAYOUTS.map(|layout| {
        let payload = payload("a", "v1", &["a", "b"], layout);
        let tail = encode(&payload[cut(&payload)..]);
        let signature = signature(&json!({"formatLength": cut(&payload), "formatTail": tail}));
        signed(&payload, &[signature], layout.0)
    });
    texts.into()
}

/// Asserts that what was taken apart can be put together, to what gives the same again.
fn check(Signed { payload, signatures }: Signed) {
    let text = assemble(&payload, signatures.clone()).unwrap();
    let again = Signed::parse(&text).unwrap();
    assert_eq!(again.payload, payload);
    assert!(again.signatures.iter().all(|signature| signatures.contains(signature)));
    assert!(signatures.iter().all(|signature| again.signatures.contains(signature)));
    assert_eq!(assemble(&payload, again.signatures).unwrap(), text);
    for signature in &signatures {
        let blob = signature.to_json();
        assert!(blob.len() <= MAX_SIGNATURE);
        assert_eq!(Read::stored(blob.as_bytes()).as_ref(), Ok(signature));
    }
    let _read = Manifest::parse(None, &payload);
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn any_text_is_taken_apart_or_refused(text in mutated(&texts())) {
        if let Ok(signed) = Signed::parse(&text) {
            check(signed);
        }
        let _read = Read::stored(&text);
    }

    /// Whatever the signatures say of their cut, the payload is what they say, or they are refused.
    #[test]
    fn a_cut_is_anywhere(
        layout in select(LAYOUTS.to_vec()),
        (length, offset) in (any::<prop::sample::Index>(), -3i64..4),
        is_near: bool,
        tail in prop_oneof![Just(None), "[ \\n}\"a,]{0,4}".prop_map(Some)],
    ) {
        let payload = payload("a", "v1", &["a"], layout);
        let near = (cut(&payload) as i64 + offset).clamp(0, payload.len() as i64) as usize;
        let length = if is_near { near } else { length.index(payload.len() + 9) };
        let rest = payload.as_bytes().get(length..).unwrap_or_default();
        let is_ours = tail.is_none();
        let tail = tail.map_or_else(|| rest.to_vec(), String::into_bytes);
        let signature = signature(&json!({"formatLength": length, "formatTail": encode(&tail)}));
        let text = signed(&payload, &[signature], layout.0);
        match Signed::parse(text.as_bytes()) {
            Ok(signed) => {
                let head = &text.as_bytes()[..length];
                prop_assert_eq!(&signed.payload, &[head, &tail].concat());
                check(signed);
            }
            // The head is that of the payload up to there.
            Err(error) => prop_assert!(!is_ours || length > cut(&payload), "{}", error),
        }
    }

    /// What was stored of a payload and its signatures is put together as the second implementation does it.
    #[test]
    fn a_text_is_that_of_the_second_implementation(layout in select(LAYOUTS.to_vec()), count in 1usize..5) {
        let payload = payload("a", "v1", &["a"], layout);
        let tail = encode(&payload[cut(&payload)..]);
        let protected = |n: usize| json!({"formatLength": cut(&payload), "formatTail": tail, "time": n});
        let all: Vec<Signature> = (0..count).map(|n| signature(&protected(n))).collect();
        let read = all.iter().map(|one| Read::stored(one.blob().as_bytes()).unwrap()).collect();
        let text = assemble(payload.as_bytes(), read).unwrap();
        prop_assert_eq!(String::from_utf8(text).unwrap(), signed(&payload, &all, layout.0));
    }
}
