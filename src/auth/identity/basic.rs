//! HTTP Basic authentication (RFC 7617): users of htpasswd lines, and the user `admin`.

use std::{cell::RefCell, collections::HashSet, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bcrypt::HashParts;

use crate::secret::{different, mac};

/// The name of the user whose password is `ADMIN_PASSWORD`.
pub const ADMIN: &str = "admin";

/// The longest password that bcrypt sees as a whole, in bytes.
const MAX_BCRYPT: usize = 72;

/// The highest cost: 2 to the power of it are the rounds of bcrypt. This one takes a second.
const MAX_COST: u32 = 14;

/// Limit of remembered credentials; at the limit, all are forgotten.
const MAX_VERIFIED: usize = 256;

/// A user name and a password, as a client sends them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub user: String,
    /// The password, an API key or a token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Reads what follows `Basic ` in `Authorization`.
    pub fn decode(encoded: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Users and the bcrypt hashes of their passwords, as `htpasswd -nbB user password` prints them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Htpasswd(Vec<User>);

/// A user with a password.
#[derive(Clone, PartialEq, Eq)]
struct User {
    name: String,
    hash: String,
    cost: u32,
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Htpasswd({} users)", self.0.len())
    }
}

impl FromStr for Htpasswd {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut users: Vec<User> = Vec::new();
        for (line, number) in s.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) =
                line.split_once(':').filter(|(name, hash)| !name.is_empty() && hash.len() == 60).ok_or_else(|| {
                    format!(
                        "lines of user:bcrypt-hash, as `htpasswd -nbB user password` prints them (line {number} is not)"
                    )
                })?;
            let cost = hash.parse::<HashParts>().ok().map(|parts| parts.get_cost());
            let cost = cost.filter(|cost| (4..=MAX_COST).contains(cost)).ok_or_else(|| {
                format!(
                    "lines with bcrypt hashes of a cost from 4 to {MAX_COST} (that of line {number} is not)"
                )
            })?;
            if users.iter().any(|user| user.name == name) {
                return Err(format!("lines of different users (that of line {number} has a line already)"));
            }
            users.push(User { name: name.to_owned(), hash: hash.to_owned(), cost });
        }
        Ok(Self(users))
    }
}

impl Htpasswd {
    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a user of this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<&User> {
        self.0.iter().find(|user| user.name == name)
    }

    fn highest_cost(&self) -> u32 {
        self.0.iter().map(|user| user.cost).max().unwrap_or_default()
    }
}

/// The password of the user `admin`: at least 12 characters that are not easily guessed.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminPassword(String);

impl fmt::Debug for AdminPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminPassword")
    }
}

impl AdminPassword {
    /// The fewest characters.
    const MIN_LENGTH: usize = 12;

    /// The fewest different characters.
    const MIN_DIFFERENT: usize = 6;

    /// Words that alone, or with digits and signs around them, are the first that an attacker tries.
    const COMMON: [&str; 12] = [
        "password",
        "passwort",
        "pierhead",
        "administrator",
        "admin",
        "registry",
        "qwertyuiop",
        "qwerty",
        "letmein",
        "changeme",
        "welcome",
        "docker",
    ];
}

impl FromStr for AdminPassword {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s.chars().count() < Self::MIN_LENGTH {
            return Err(format!("a password of at least {} characters", Self::MIN_LENGTH));
        }
        if different(s) < Self::MIN_DIFFERENT {
            return Err(format!("a password of at least {} different characters", Self::MIN_DIFFERENT));
        }
        let mut letters = s.to_lowercase();
        for word in Self::COMMON {
            letters = letters.replace(word, "");
        }
        letters.retain(char::is_alphabetic);
        let is_sequence =
            |s: &str| "01234567890123456789".contains(s) || "abcdefghijklmnopqrstuvwxyz".contains(s);
        let count = |s: &str| s.chars().filter(|c| c.is_alphabetic()).count();
        let is_common = count(&letters) < 4 && count(&letters) < count(s);
        if is_common || is_sequence(&s.to_lowercase()) {
            return Err("a password that is not a common word with digits, or a sequence".to_owned());
        }
        Ok(Self(s.to_owned()))
    }
}

/// Whether bcrypt sees all of a password.
fn is_seen_whole(password: &str) -> bool {
    password.len() <= MAX_BCRYPT && !password.contains('\0')
}

/// Checks passwords.
pub struct Passwords {
    users: Htpasswd,
    admin: Option<AdminPassword>,
    /// Salted hashes of credentials that bcrypt has accepted. bcrypt is slow by design, and a push makes many
    /// requests. Lives as long as the isolate.
    verified: RefCell<HashSet<[u8; 32]>>,
    salt: [u8; 16],
}

impl Passwords {
    /// Checks the passwords of these users. `salt` must be random.
    pub fn new(users: Htpasswd, admin: Option<AdminPassword>, salt: [u8; 16]) -> Self {
        Self { users, admin, verified: RefCell::default(), salt }
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.admin.is_none()
    }

    /// What a refresh token is tied to: whoever changes a password or removes a user ends it. `None` without the user.
    pub fn tie(&self, user: &str) -> Option<&str> {
        match &self.admin {
            Some(AdminPassword(password)) if user == ADMIN => Some(password),
            _ => self.users.get(user).map(|user| user.hash.as_str()),
        }
    }

    /// Whether name and password are those of a user. A refusal takes the same time for every name: that of the highest
    /// cost among the users.
    pub fn verify(&self, Credentials { user, password }: &Credentials) -> bool {
        let fingerprint = self.fingerprint(&format!("{user}:{password}"));
        if self.verified.borrow().contains(&fingerprint) {
            return true;
        }
        let is_valid = match &self.admin {
            Some(AdminPassword(expected)) if user == ADMIN => {
                let is_valid = self.fingerprint(password) == self.fingerprint(expected);
                if !is_valid {
                    self.burn(0, password);
                }
                is_valid
            }
            _ => self.verify_hash(user, password),
        };
        if is_valid {
            let mut verified = self.verified.borrow_mut();
            if verified.len() >= MAX_VERIFIED {
                verified.clear();
            }
            verified.insert(fingerprint);
        }
        is_valid
    }

    fn verify_hash(&self, user: &str, password: &str) -> bool {
        if !is_seen_whole(password) {
            return false;
        }
        match self.users.get(user) {
            Some(User { hash, cost, .. }) => {
                let is_valid = bcrypt::verify(password, hash).unwrap_or_default();
                if !is_valid {
                    self.burn(1 << cost, password);
                }
                is_valid
            }
            None => {
                self.burn(0, password);
                false
            }
        }
    }

    /// Takes the time that is left to the highest cost after `spent` rounds.
    fn burn(&self, spent: u64, password: &str) {
        // What bcrypt does not see is refused at once, whoever it is for.
        if self.users.is_empty() || !is_seen_whole(password) {
            return;
        }
        let highest = self.users.highest_cost();
        let mut left = (1_u64 << highest).saturating_sub(spent);
        let mut password: Vec<u8> = password.bytes().take(MAX_BCRYPT - 1).collect();
        password.push(0);
        // A power of two at a time: what is left is a sum of powers from the lowest cost of bcrypt on.
        for cost in (4..=highest).rev() {
            if left >= 1 << cost {
                left -= 1 << cost;
                std::hint::black_box(bcrypt::bcrypt(cost, self.salt, &password));
            }
        }
    }

    /// Tells two texts apart in a time that says nothing of them.
    fn fingerprint(&self, text: &str) -> [u8; 32] {
        use hmac::Mac;
        mac(&self.salt, text).finalize().into_bytes().into()
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    fn hash(password: &str, cost: u32) -> String {
        bcrypt::hash_with_salt(password, cost, [1; 16]).unwrap().format_for_version(bcrypt::Version::TwoY)
    }

    fn is_valid(passwords: &Passwords, user: &str, password: &str) -> bool {
        passwords.verify(&Credentials { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn users_authenticate_with_their_password() {
        let long = "x".repeat(72);
        let lines =
            format!("# users\n\nann:{}\nlow:{}\nlong:{}\n", hash("p:w", 5), hash("low", 4), hash(&long, 4));
        let admin = "correct horse battery".parse().ok();
        let passwords = Passwords::new(lines.parse().unwrap(), admin, [2; 16]);
        for _ in 0..2 {
            assert!(is_valid(&passwords, "ann", "p:w"));
            assert!(is_valid(&passwords, "low", "low"));
            assert!(is_valid(&passwords, "long", &long));
            assert!(is_valid(&passwords, "admin", "correct horse battery"));
        }
        for (user, password) in [
            ("ann", "x"),
            ("ann", ""),
            ("ann", "p:w\0"),
            ("bob", "p:w"),
            ("", ""),
            ("admin", "correct horse batterx"),
            ("admin", ""),
            // bcrypt would not see the last character.
            ("long", &format!("{long}y")),
        ] {
            assert!(!is_valid(&passwords, user, password), "{user} {password}");
        }
    }

    #[test]
    fn lines_without_bcrypt_are_refused_with_their_number() {
        let high = hash("x", 4).replace("$04$", "$31$");
        for text in [
            "ann",
            "ann:plain",
            "\nann:{SHA}x",
            ":$2y$05$x",
            &format!("ann:{high}"),
            &format!("ann:{0}\nann:{0}", hash("x", 4)),
            &format!("ann:{}", hash("x", 4).replace("$2y$", "$9y$")),
        ] {
            assert!(text.parse::<Htpasswd>().unwrap_err().contains("line"), "{text}");
        }
    }

    #[test]
    fn weak_passwords_of_the_admin_are_refused_with_the_reason() {
        for (weak, reason) in [
            ("short", "12 characters"),
            ("aaaaaaaaaaaaaaaa", "different"),
            ("abababababababab", "different"),
            ("Password12345!", "common"),
            ("admin-admin-2026", "common"),
            ("123456789012", "sequence"),
            ("abcdefghijklmnop", "sequence"),
        ] {
            let error = weak.parse::<AdminPassword>().unwrap_err();
            assert!(error.contains(reason), "{weak}: {error}");
        }
        for strong in [
            "correct horse battery",
            "x9!Kd02_mmQ3",
            "48273 10466 99120",
            "0f8e2c1d7b6a9354",
            "7#kQ!29$x%41&8*",
        ] {
            assert!(strong.parse::<AdminPassword>().is_ok(), "{strong}");
        }
        assert_eq!(format!("{:?}", "correct horse battery".parse::<AdminPassword>()), "Ok(AdminPassword)");
    }
}
