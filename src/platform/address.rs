//! Which addresses of other servers are used.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Names that lead to the caller's own network: RFC 6761 (`localhost`), RFC 6762 (`local`), RFC 8375 (`home.arpa`), and
/// `internal`, which ICANN keeps for private use.
const PRIVATE_NAMES: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// What a URL should be instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It has a user or a password.
    #[error("a URL without a user and a password")]
    Credentials,
    /// It has a fragment.
    #[error("a URL without a fragment")]
    Fragment,
    /// Its scheme is neither https nor http, or it has no host.
    #[error("an https URL with a host")]
    Scheme,
    /// Its scheme is http.
    #[error("an https URL")]
    Http,
    /// Its host belongs to the caller's own network.
    #[error("a URL with a public host")]
    Private,
}

impl InvalidAddress {
    /// The text of the error where `setting` is what allows private addresses.
    pub fn unless(self, setting: &str) -> String {
        match self {
            Self::Http | Self::Private => format!("{self}, unless {setting} is on"),
            _ => self.to_string(),
        }
    }
}

/// Checks the URL of another server. `may_be_private` allows http and any host. A name is checked as text only: what it
/// resolves to is not known to a worker.
pub fn check(url: &Url, may_be_private: bool) -> Result<(), InvalidAddress> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidAddress::Credentials);
    }
    if url.fragment().is_some() {
        return Err(InvalidAddress::Fragment);
    }
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => {}
        ("http", Some(_)) if may_be_private => {}
        ("http", _) => return Err(InvalidAddress::Http),
        _ => return Err(InvalidAddress::Scheme),
    }
    let is_public = match url.host() {
        Some(Host::Domain(name)) => is_public_name(name),
        Some(Host::Ipv4(address)) => is_public_v4(address),
        Some(Host::Ipv6(address)) => is_public_v6(address),
        None => false,
    };
    match is_public || may_be_private {
        true => Ok(()),
        false => Err(InvalidAddress::Private),
    }
}

fn is_public_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_in =
        |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name.contains('.') && !PRIVATE_NAMES.iter().any(|zone| is_in(zone))
}

/// IANA, "IPv4 Special-Purpose Address Registry", and multicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127 | 224.., ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    )
}

/// Global unicast addresses (2000::/3) without those of IANA's "IPv6 Special-Purpose Address Registry". Addresses that
/// contain one of IPv4 (mapped, NAT64, 6to4, Teredo) are refused whatever they contain.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_accepted() {
        for url in [
            "https://hooks.example.com/pierhead?x=1",
            "https://hooks.example.com:8443/",
            "https://example.com./",
            "https://localhost.example.com/",
            "https://mylocal.example/",
            "https://1.1.1.1/",
            "https://100.63.255.255/",
            "https://100.128.0.1/",
            "https://172.15.0.1/",
            "https://172.32.0.1/",
            "https://192.0.1.1/",
            "https://198.20.0.1/",
            "https://223.255.255.255/",
            "https://[2606:4700::1111]/",
            "https://[2001:200::1]/",
        ] {
            assert_eq!(check(&url.parse().unwrap(), false), Ok(()), "{url}");
            assert_eq!(check(&url.parse().unwrap(), true), Ok(()), "{url}");
        }
    }

    #[test]
    fn private_addresses_are_refused_in_every_notation_unless_allowed() {
        for url in [
            "http://hooks.example.com/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "https://printer.local/",
            "https://metadata.google.internal/",
            "https://nas.home.arpa/",
            "https://receiver/",
            "https://receiver./",
            "https://0.0.0.0/",
            "https://0/",
            "https://10.1.2.3/",
            "https://100.64.0.1/",
            "https://100.127.255.255/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://%31%32%37.0.0.1/",
            "https://１２７.0.0.1/",
            "https://127。0。0。1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://172.16.0.1/",
            "https://172.31.255.255/",
            "https://192.0.0.1/",
            "https://192.0.2.1/",
            "https://192.88.99.1/",
            "https://192.168.0.1/",
            "https://198.18.0.1/",
            "https://198.19.255.255/",
            "https://198.51.100.1/",
            "https://203.0.113.1/",
            "https://224.0.0.1/",
            "https://240.0.0.1/",
            "https://255.255.255.255/",
            "https://[::]/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[64:ff9b:1::1]/",
            "https://[100::1]/",
            "https://[2001::1]/",
            "https://[2001:2::1]/",
            "https://[2001:db8::1]/",
            "https://[2002:7f00:1::]/",
            "https://[3fff::1]/",
            "https://[5f00::1]/",
            "https://[fc00::1]/",
            "https://[fd12:3456::1]/",
            "https://[fe80::1]/",
            "https://[fec0::1]/",
            "https://[ff02::1]/",
        ] {
            assert!(check(&url.parse().unwrap(), false).is_err(), "{url}");
            assert_eq!(check(&url.parse().unwrap(), true), Ok(()), "{url}");
        }
    }

    #[test]
    fn some_urls_are_always_refused() {
        for url in [
            "https://user@hooks.example.com/",
            "https://user:secret@hooks.example.com/",
            "https://:secret@hooks.example.com/",
            "https://hooks.example.com/#part",
            "ftp://hooks.example.com/",
            "file:///etc/passwd",
            "data:text/plain,x",
        ] {
            for may_be_private in [false, true] {
                assert!(check(&url.parse().unwrap(), may_be_private).is_err(), "{url}");
            }
        }
    }
}
