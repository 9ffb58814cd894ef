//! The query parameter `ns` of pulls (distribution-spec, "Registry Proxying"): the host in the name by which the client
//! knows the repository.
//!
//! containerd sends it to each host of its `hosts.toml` that is not the one in the name, and other clients do alike. The
//! registry never calls such a host: it serves what it has, for the namespaces of a closed list. For others, it has
//! nothing, whatever is in the repository of the same name: the client tries the next host.

use http::{HeaderMap, Uri, header};

use super::{Error, Registry, parameter, route::Route};
use crate::oci::Namespace;

/// The parameter.
const NS: &str = "ns";

/// A host without the port that clients use without being told.
fn without_usual_port(host: &str) -> &str {
    [":443", ":80"].iter().find_map(|port| host.strip_suffix(port)).unwrap_or(host)
}

impl Registry<'_> {
    /// The namespace that a pull is for, as the client wrote it; `None` if it names none, or this registry itself.
    pub(super) fn namespace(
        &self,
        route: &Route,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<Option<String>, Error> {
        if !route.is_pull() {
            return Ok(None);
        }
        let Some(named) = parameter(uri, NS).filter(|named| !named.is_empty()) else { return Ok(None) };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if host.is_some_and(|host| without_usual_port(host).eq_ignore_ascii_case(without_usual_port(&named)))
        {
            return Ok(None);
        }
        let namespace = named.parse::<Namespace>().ok();
        match namespace.is_some_and(|namespace| self.app.config.repositories.namespaces.contain(&namespace)) {
            true => Ok(Some(named)),
            false => Err(Error::NamespaceUnknown(named.chars().take(Namespace::MAX_LEN).collect())),
        }
    }
}
