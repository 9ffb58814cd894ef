//! htpasswd lines and the `Authorization` header.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use pierhead::auth::identity::basic::{Basic, Htpasswd};
use proptest::prelude::*;

use crate::{
    cases,
    mutate::{mutated, text},
};

/// Users with their passwords. One is the longest that bcrypt sees whole: it knows 72 bytes, the last of them zero.
pub fn users() -> [(&'static str, String); 2] {
    [("ann", "p:w ü\u{7f}".to_owned()), ("bob", "b".repeat(71))]
}

/// Their htpasswd lines, with the lowest cost of bcrypt.
pub fn htpasswd() -> String {
    let line = |(user, password): (&str, String)| {
        let hash = bcrypt::hash_with_salt(password, 4, [1; 16]).unwrap();
        format!("{user}:{}\n", hash.format_for_version(bcrypt::Version::TwoY))
    };
    users().map(line).concat()
}

pub fn authorizations() -> Vec<String> {
    let valid =
        users().map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    let others = ["Basic Og==", "Basic", "Bearer abc", "basic  YW5uOg==", "Basic YW5u"].map(str::to_owned);
    valid.into_iter().chain(others).collect()
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn every_line_of_htpasswd_has_a_user_and_a_hash(text in text(&[htpasswd(), format!("# users\n\n{}", htpasswd())])) {
        let is_user = |line: &str| {
            let Some((user, hash)) = line.split_once(':') else { return false };
            !user.is_empty() && hash.starts_with("$2") && hash.len() == 60
        };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        prop_assert_eq!(text.parse::<Htpasswd>().is_ok(), lines.all(is_user));
    }
}

proptest! {
    // bcrypt is slow.
    #![proptest_config(cases(200))]

    #[test]
    fn only_the_right_password_is_accepted(bytes in mutated(&authorizations())) {
        thread_local! {
            static BASIC: Basic = Basic::new(htpasswd().parse().unwrap(), [3; 16]);
        }
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let user = BASIC.with(|basic| basic.user(&value));
        let credentials = value.to_str().ok().and_then(|text| {
            let (scheme, encoded) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok()).flatten()
        });
        let is_theirs = |(user, password): &(&str, String)| {
            credentials.as_deref() == Some(format!("{user}:{password}").as_bytes())
        };
        let expected = users().into_iter().find(is_theirs).map(|(user, _)| user.to_owned());
        prop_assert_eq!(user, expected);
    }
}
