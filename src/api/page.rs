//! Pagination: reads `n` and `last`, writes `Link`.

use http::{HeaderMap, header};

use super::{Error, headers, parameter};
use crate::oci::RepositoryName;

/// The longest entry to start after, in characters: the longest name.
const MAX_LAST: usize = RepositoryName::MAX_LEN;

/// The requested page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Page size.
    pub n: Option<usize>,
    /// Start after this entry.
    pub last: Option<String>,
}

impl PageRequest {
    /// Reads `n` and `last`.
    pub fn from_uri(uri: &http::Uri) -> Result<Self, Error> {
        let n = match parameter(uri, "n") {
            None => None,
            Some(text) if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) => {
                // A number too large for `usize` means no limit.
                Some(text.parse().unwrap_or(usize::MAX))
            }
            Some(_) => {
                return Err(Error::InvalidParameter {
                    name: "n",
                    expected: "a number of entries, 0 or more",
                });
            }
        };
        let last = parameter(uri, "last").filter(|last| !last.is_empty());
        // It becomes part of a key of the bucket.
        if last
            .as_ref()
            .is_some_and(|last| last.len() > MAX_LAST || !last.bytes().all(|c| c.is_ascii_graphic()))
        {
            let expected = "an entry of the list, of at most 255 characters";
            return Err(Error::InvalidParameter { name: "last", expected });
        }
        Ok(Self { n, last })
    }
}

/// Sets `Link` to the page after `last`, with the request's other parameters.
pub fn link_next(headers: &mut HeaderMap, uri: &http::Uri, n: Option<usize>, last: &str) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if key != "n" && key != "last" {
            query.append_pair(&key, &value);
        }
    }
    if let Some(n) = n {
        query.append_pair("n", &n.to_string());
    }
    query.append_pair("last", last);
    headers::set(headers, header::LINK, format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish()));
}
