//! Notes where a request comes from, for its events, its challenges and the audit.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, HeaderName, header};

use crate::{
    api::{self, Handler, Request, Response},
    context::{Context, Notes},
    events::RequestRecord,
};

/// The client's address, which Cloudflare sets.
const CLIENT: HeaderName = HeaderName::from_static("cf-connecting-ip");

/// The longest text of a request that its events repeat, in characters: the deletion of a manifest has an event for each
/// tag.
const MAX_TEXT: usize = 512;

pub(super) struct Noting {
    pub inner: Rc<dyn Handler>,
}

impl Handler for Noting {
    fn handle(&self, request: Request, context: Context) -> LocalBoxFuture<'_, Response> {
        let context = Context { notes: Rc::new(notes(&request)), ..context };
        self.inner.handle(request, context)
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> String {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.chars().take(MAX_TEXT).collect()
}

fn notes(request: &Request) -> Notes {
    let headers = request.headers();
    // It becomes part of URLs and challenges.
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
    let host =
        Some(text(headers, header::HOST)).filter(|host| host.bytes().all(is_plain)).unwrap_or_default();
    let api::Scheme(scheme) = request.extensions().get().copied().unwrap_or_default();
    Notes {
        base: if host.is_empty() { String::new() } else { format!("{scheme}://{host}") },
        request: RequestRecord {
            // The log has it.
            id: String::new(),
            addr: text(headers, CLIENT),
            host,
            method: request.method().to_string(),
            useragent: text(headers, header::USER_AGENT),
        },
        ..Notes::default()
    }
}
