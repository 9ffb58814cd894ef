//! htpasswd lines and the `Authorization` header.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pierhead::auth::identity::basic::{Credentials, Htpasswd, Passwords};
use proptest::prelude::*;

use crate::{
    cases,
    mutate::{mutated, text},
};

/// Users with their passwords. One is the longest that bcrypt sees whole.
pub fn users() -> [(&'static str, String); 2] {
    [("ann", "p:w ü\u{7f}".to_owned()), ("bob", "b".repeat(72))]
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
        let users = text.parse::<Htpasswd>();
        prop_assert!(users.is_err() || lines.all(is_user));
    }
}

proptest! {
    // bcrypt is slow.
    #![proptest_config(cases(200))]

    #[test]
    fn only_the_right_password_is_accepted(bytes in mutated(&authorizations())) {
        thread_local! {
            static PASSWORDS: Passwords = Passwords::new(htpasswd().parse().unwrap(), None, [3; 16]);
        }
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let encoded = text.strip_prefix("Basic ").unwrap_or(&text);
        let credentials = Credentials::decode(encoded);
        let is_valid = credentials.as_ref().is_some_and(|given| PASSWORDS.with(|passwords| passwords.verify(given)));
        let decoded = STANDARD.decode(encoded.trim()).ok();
        let is_theirs = |(user, password): &(&str, String)| {
            decoded.as_deref() == Some(format!("{user}:{password}").as_bytes())
        };
        prop_assert_eq!(is_valid, users().iter().any(is_theirs));
    }
}
