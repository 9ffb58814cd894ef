//! Namespaces: the hosts in the names by which clients know repositories.

use std::{fmt, str::FromStr};

/// The host of a repository's full name, as a client has it: `docker.io` of `docker.io/library/alpine`. With a port, if the
/// name has one. In lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(String);

/// A text that can be no host of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host, such as docker.io or registry.example.com:5000")]
pub struct InvalidNamespace(pub String);

impl Namespace {
    /// The longest namespace, in characters: a name of the DNS has at most 253.
    pub const MAX_LEN: usize = 255;

    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    fn from_str(s: &str) -> Result<Self, InvalidNamespace> {
        let is_label = |label: &str| {
            let is_inside = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
            !label.is_empty()
                && label.bytes().all(is_inside)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
        let (host, port) = match s.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (s, None),
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => is_address(address),
            None => host.split('.').all(is_label),
        };
        match is_host && port.is_none_or(is_port) && s.len() <= Self::MAX_LEN {
            true => Ok(Self(s.to_ascii_lowercase())),
            false => Err(InvalidNamespace(s.to_owned())),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A closed list of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces(Vec<Namespace>);

impl Namespaces {
    /// Whether a namespace is in the list.
    pub fn contain(&self, namespace: &Namespace) -> bool {
        self.0.contains(namespace)
    }
}

impl FromStr for Namespaces {
    type Err = String;

    /// Hosts, separated by spaces, commas or lines; `none` for no host.
    fn from_str(s: &str) -> Result<Self, String> {
        let names = s.split([' ', ',', '\n']).filter(|name| !matches!(*name, "" | "none"));
        let namespaces: Result<_, InvalidNamespace> = names.map(str::parse).collect();
        let expected =
            |_| "`none`, or a list of hosts such as docker.io registry.example.com:5000".to_owned();
        Ok(Self(namespaces.map_err(expected)?))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_host_perhaps_with_a_port() {
        for (text, expected) in [
            ("docker.io", "docker.io"),
            ("Registry-1.Docker.IO", "registry-1.docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("[::1]", "[::1]"),
            ("a", "a"),
        ] {
            assert_eq!(text.parse::<Namespace>().unwrap().as_str(), expected);
        }
        let long = format!("{}.io", "a.".repeat(130));
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a-.io",
            "a_b.io",
            "https://docker.io",
            "docker.io/library",
            "a b",
            "a:",
            ":5000",
            "a:065",
            "a:65536",
            "a:b",
            "[::1",
            "::1",
            "[zz]",
            "[]",
            "é.io",
            "*",
            "docker.io.",
            &long,
        ] {
            assert!(text.parse::<Namespace>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_list_is_closed() {
        let namespaces: Namespaces = "docker.io, GHCR.io\nlocalhost:5000".parse().unwrap();
        for (name, is_there) in [("docker.io", true), ("ghcr.IO", true), ("localhost", false), ("io", false)]
        {
            assert_eq!(namespaces.contain(&name.parse().unwrap()), is_there, "{name}");
        }
        for none in ["", "none", " , "] {
            assert_eq!(none.parse(), Ok(Namespaces::default()));
        }
        for wrong in ["*", "https://docker.io", "docker.io/library", "docker.io ghcr_io"] {
            assert!(wrong.parse::<Namespaces>().is_err(), "{wrong}");
        }
    }
}
