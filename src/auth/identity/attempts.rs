//! Failed logins, counted by address, and by address and user. Never by user alone: nobody can lock the owner out from
//! elsewhere.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use crate::platform::{Clock, Limiter, Timestamp};

/// How long an address is refused, in seconds: the period of the limit.
pub const BREAK: u64 = 60;

/// Limit of refused addresses that an isolate remembers; at the limit, all are forgotten.
const MAX_REFUSED: usize = 1024;

/// The part of a user's name that counts, in characters.
const MAX_USER: usize = 64;

/// Counts failed logins.
pub struct Attempts {
    /// Counts them; `None` for no limit.
    limiter: Option<Rc<dyn Limiter>>,
    clock: Rc<dyn Clock>,
    /// The end of the break, by address, and by address and user. The limiter cannot be asked without counting.
    refused: RefCell<HashMap<String, Timestamp>>,
}

/// What an address is counted as. A network of IPv6 is one customer's: its first 64 bits.
pub fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::")
        }
        _ => address.to_owned(),
    }
}

impl Attempts {
    /// Counts with `limiter`, if there is one.
    pub fn new(limiter: Option<Rc<dyn Limiter>>, clock: Rc<dyn Clock>) -> Self {
        Self { limiter, clock, refused: RefCell::default() }
    }

    fn keys(address: &str, user: &str) -> [String; 2] {
        let network = network(address);
        let user: String = user.chars().take(MAX_USER).collect();
        [format!("login {network}"), format!("login {network} {user}")]
    }

    /// Whether a login is refused without a look at its password.
    pub fn are_too_many(&self, address: &str, user: &str) -> bool {
        let (refused, now) = (self.refused.borrow(), self.clock.now());
        Self::keys(address, user).iter().any(|key| refused.get(key).is_some_and(|end| now < *end))
    }

    /// Counts a failed login. One that `is_public`, for what everybody may have, does not count for the address alone: clients
    /// of a mirror send the passwords of other registries again and again.
    pub async fn count(&self, address: &str, user: &str, is_public: bool) {
        let Some(limiter) = &self.limiter else { return };
        for key in Self::keys(address, user).into_iter().skip(usize::from(is_public)) {
            if !limiter.allow(&key).await {
                let mut refused = self.refused.borrow_mut();
                if refused.len() >= MAX_REFUSED {
                    refused.clear();
                }
                refused.insert(key, self.clock.now().plus_seconds(BREAK));
            }
        }
    }
}
