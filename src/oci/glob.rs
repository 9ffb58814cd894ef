//! Patterns of names, tags and claims.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A pattern. `*` stands for any characters but `/`, `**` for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has 1 to {} bytes", Glob::MAX_LEN)]
pub struct InvalidGlob;

impl TryFrom<String> for Glob {
    type Error = InvalidGlob;

    fn try_from(text: String) -> Result<Self, InvalidGlob> {
        Self::new(&text).ok_or(InvalidGlob)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

/// How much a pattern says of what it matches: greater is more specific. Patterns that match the same text may be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    /// The characters that are not stars.
    literals: usize,
    /// Fewer `**` say more.
    any: std::cmp::Reverse<usize>,
    /// Fewer `*` say more.
    stars: std::cmp::Reverse<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    Star,
    Any,
}

impl Token {
    fn may_be(self, c: char) -> bool {
        match self {
            Self::Literal(literal) => literal == c,
            Self::Star => c != '/',
            Self::Any => true,
        }
    }
}

impl Glob {
    /// The longest pattern, in bytes.
    pub const MAX_LEN: usize = 255;

    /// A pattern; `None` if it is empty or longer than [`Self::MAX_LEN`].
    pub fn new(text: &str) -> Option<Self> {
        (1..=Self::MAX_LEN).contains(&text.len()).then(|| Self(text.to_owned()))
    }

    /// A pattern of repository names; `None` if it could match none.
    pub fn of_repositories(text: &str) -> Option<Self> {
        let is_inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/*".contains(c);
        let has_empty_part = text.starts_with('/') || text.ends_with('/') || text.contains("//");
        Self::new(text).filter(|_| text.chars().all(is_inside) && !has_empty_part)
    }

    /// A pattern of tags; `None` if it could match none.
    pub fn of_tags(text: &str) -> Option<Self> {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || "._-*".contains(c);
        Self::new(text).filter(|_| text.chars().all(is_inside))
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every text begins with that the pattern matches.
    pub fn prefix(&self) -> &str {
        self.split().0
    }

    /// What is before the first star, and the rest.
    fn split(&self) -> (&str, &str) {
        self.0.split_at(self.0.find('*').unwrap_or(self.0.len()))
    }

    fn tokens(pattern: &str) -> impl Iterator<Item = Token> {
        let mut rest = pattern;
        std::iter::from_fn(move || {
            let c = rest.chars().next()?;
            let (token, length) = match c {
                '*' if rest.starts_with("**") => (Token::Any, 2),
                '*' => (Token::Star, 1),
                c => (Token::Literal(c), c.len_utf8()),
            };
            rest = rest.get(length..).unwrap_or_default();
            Some(token)
        })
    }

    /// Whether the pattern matches a text. Takes a time of the product of both lengths, whatever the pattern. Allocates
    /// nothing if the pattern has no star, or only `**` at its end, or if the text begins otherwise.
    pub fn matches(&self, text: &str) -> bool {
        let (start, rest) = self.split();
        match (text.strip_prefix(start), rest) {
            (None, _) => false,
            (Some(text), "") => text.is_empty(),
            (Some(_), "**") => true,
            (Some(text), rest) => Self::matches_stars(rest, text),
        }
    }

    fn matches_stars(pattern: &str, text: &str) -> bool {
        let length = text.chars().count();
        // Whether the tokens so far match the first n characters of the text.
        let mut matched = vec![false; length + 1];
        if let Some(empty) = matched.first_mut() {
            *empty = true;
        }
        for token in Self::tokens(pattern) {
            let (mut before, mut after) = (false, false);
            let ends = std::iter::once(None).chain(text.chars().map(Some));
            for (end, last) in matched.iter_mut().zip(ends) {
                let here = *end;
                let may_be = last.is_some_and(|c| token.may_be(c));
                *end = match token {
                    Token::Literal(_) => before && may_be,
                    Token::Star | Token::Any => here || after && may_be,
                };
                (before, after) = (here, *end);
            }
        }
        matched.last() == Some(&true)
    }

    /// Whether a text exists that both patterns match. Takes a time of the product of both lengths.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ((our_start, _), (their_start, _)) = (self.split(), other.split());
        // Most patterns differ before their first star.
        if our_start.bytes().zip(their_start.bytes()).any(|(our, their)| our != their) {
            return false;
        }
        let ours: Vec<Token> = Self::tokens(&self.0).collect();
        let theirs: Vec<Token> = Self::tokens(&other.0).collect();
        let width = theirs.len() + 1;
        // Whether the first n tokens of ours and the first m of theirs can match the same text.
        let mut reached = vec![false; (ours.len() + 1) * width];
        let set = |n: usize, m: usize, reached: &mut Vec<bool>| {
            if let Some(place) = reached.get_mut(n * width + m) {
                *place = true;
            }
        };
        set(0, 0, &mut reached);
        for n in 0..=ours.len() {
            for m in 0..=theirs.len() {
                if reached.get(n * width + m) != Some(&true) {
                    continue;
                }
                let (our, their) = (ours.get(n).copied(), theirs.get(m).copied());
                let is_wild =
                    |token: Option<Token>| token.is_some_and(|token| !matches!(token, Token::Literal(_)));
                // A star may stand for nothing.
                if is_wild(our) {
                    set(n + 1, m, &mut reached);
                }
                if is_wild(their) {
                    set(n, m + 1, &mut reached);
                }
                match (our, their) {
                    (Some(Token::Literal(a)), Some(Token::Literal(b))) if a == b => {
                        set(n + 1, m + 1, &mut reached)
                    }
                    (Some(Token::Literal(c)), Some(star)) if star.may_be(c) && is_wild(Some(star)) => {
                        set(n + 1, m, &mut reached);
                    }
                    (Some(star), Some(Token::Literal(c))) if star.may_be(c) && is_wild(Some(star)) => {
                        set(n, m + 1, &mut reached);
                    }
                    _ => {}
                }
            }
        }
        reached.last() == Some(&true)
    }

    /// How specific the pattern is.
    pub fn specificity(&self) -> Specificity {
        let count = |is: fn(&Token) -> bool| Self::tokens(&self.0).filter(is).count();
        let literals = count(|token| matches!(token, Token::Literal(_)));
        let (any, stars) = (count(|token| *token == Token::Any), count(|token| *token == Token::Star));
        Specificity { literals, any: std::cmp::Reverse(any), stars: std::cmp::Reverse(stars) }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::new(text).unwrap()
    }

    #[test]
    fn globs_match_texts() {
        for (pattern, matching, others) in [
            ("team", &["team"][..], &["teams", "team/a", "tea"][..]),
            ("team/*", &["team/a", "team/abc"], &["team", "team/a/b", "teams/a"]),
            ("team/**", &["team/a", "team/a/b/c"], &["team", "teams/a"]),
            ("**/app", &["x/app", "x/y/app"], &["app", "x/app2"]),
            ("*-prod", &["web-prod"], &["a/web-prod", "web-prod2"]),
            ("a*b*c", &["abc", "axbyc", "abbcc"], &["ab", "a/bc"]),
            ("**", &["a", "a/b"], &[]),
        ] {
            for text in matching {
                assert!(glob(pattern).matches(text), "{pattern} {text}");
            }
            for text in others {
                assert!(!glob(pattern).matches(text), "{pattern} {text}");
            }
        }
        assert_eq!(Glob::new(""), None);
        assert_eq!(Glob::new(&"a".repeat(256)), None);
    }

    #[test]
    fn many_stars_take_no_time() {
        let stars = glob(&"*a".repeat(127));
        assert!(!stars.matches(&"b".repeat(255)));
        assert!(stars.matches(&"a".repeat(255)));
        assert!(stars.overlaps(&stars));
    }

    #[test]
    fn patterns_that_share_a_text_overlap() {
        for (a, b, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a/*", "*/b", true),
            ("a/*", "b/*", false),
            ("a/*", "a/b/*", false),
            ("a/**", "a/b/*", true),
            ("**", "x/y", true),
            ("*", "x/y", false),
            ("v*", "*-rc", true),
            ("a*c", "a*d", false),
        ] {
            assert_eq!(glob(a).overlaps(&glob(b)), expected, "{a} {b}");
            assert_eq!(glob(b).overlaps(&glob(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn patterns_are_ordered_by_what_they_say() {
        let order = ["**", "*", "**/app", "team/**", "team/*", "team/*-x", "team/abc-x"];
        for (less, more) in order.iter().zip(order.iter().skip(1)) {
            assert!(glob(less).specificity() < glob(more).specificity(), "{less} {more}");
        }
        assert_eq!(glob("a/*").specificity(), glob("*/b").specificity());
    }

    proptest! {
        // Every pattern without the shortcuts, which look at what is before the first star.
        #[test]
        fn a_shortcut_decides_as_the_whole_pattern(pattern in "[ab/*]{1,6}", text in "[ab/]{0,6}") {
            prop_assert_eq!(glob(&pattern).matches(&text), Glob::matches_stars(&pattern, &text));
        }

        // All texts over a small alphabet tell whether two patterns overlap.
        #[test]
        fn an_overlap_is_a_text_that_both_match(a in "[ab/*]{1,5}", b in "[ab/*]{1,5}") {
            let (a, b) = (glob(&a), glob(&b));
            let mut texts = vec![String::new()];
            let mut is_shared = a.matches("") && b.matches("");
            for _ in 0..7 {
                texts = texts.iter().flat_map(|text| "ab/".chars().map(move |c| format!("{text}{c}"))).collect();
                is_shared |= texts.iter().any(|text| a.matches(text) && b.matches(text));
            }
            prop_assert_eq!(a.overlaps(&b), is_shared);
        }
    }
}
