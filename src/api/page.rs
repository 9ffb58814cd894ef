//! Paging: `n` and `last` in, `Link` out.

use http::{HeaderMap, header};

use super::{headers, parameter};
use crate::error::Error;

/// What a client asks for of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// At most so many entries.
    pub n: Option<usize>,
    /// Those behind this one.
    pub last: Option<String>,
}

impl Asked {
    /// Reads `n` and `last`.
    pub fn from_request<B>(request: &http::Request<B>) -> Result<Self, Error> {
        let n = match parameter(request, "n") {
            None => None,
            Some(text) if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) => {
                // More than fits is as much as there is.
                Some(text.parse().unwrap_or(usize::MAX))
            }
            Some(_) => {
                return Err(Error::InvalidParameter {
                    name: "n",
                    expected: "a number of entries, 0 or more",
                });
            }
        };
        Ok(Self { n, last: parameter(request, "last").filter(|last| !last.is_empty()) })
    }
}

/// Sets `Link` to the page behind `last`, keeping the request's other parameters.
pub fn link_next<B>(headers: &mut HeaderMap, request: &http::Request<B>, n: Option<usize>, last: &str) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        if key != "n" && key != "last" {
            query.append_pair(&key, &value);
        }
    }
    if let Some(n) = n {
        query.append_pair("n", &n.to_string());
    }
    query.append_pair("last", last);
    headers::set(
        headers,
        header::LINK,
        format!("<{}?{}>; rel=\"next\"", request.uri().path(), query.finish()),
    );
}
