//! The referrers endpoint: manifests that refer to a subject.

use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Uri, header};

use super::{
    Error, Registry, Response, headers, json,
    page::{PageRequest, link_next},
    parameter,
};
use crate::{
    oci::{Descriptor, Digest, Manifest, RepositoryName, media_type},
    repository::Referrer,
};

/// Page size limit. An entry with long annotations costs a read.
const MAX_REFERRERS: usize = 500;

/// Size limit of the descriptors of a page, in bytes: the specification's limit for an index, less the rest of it. One
/// descriptor is always in the page: those of earlier versions may be longer.
const MAX_PAGE: u64 = Manifest::MAX_BYTES as u64 - 1024;

/// The query parameter that filters the list.
const FILTER: &str = "artifactType";

/// Limit of concurrent reads: the platform's limit on connections.
const READS: usize = 6;

impl Registry<'_> {
    /// end-12a, end-12b: `GET /v2/<name>/referrers/<digest>?artifactType=<type>`, in pages of at most 4 MiB, the
    /// specification's limit for an index. A subject without referrers, or an unknown one, has an empty list.
    ///
    /// A page is cut before the entries that need a read are read, so it takes at most about twice its limit of memory.
    pub(super) async fn list_referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        uri: &Uri,
    ) -> Result<Response, Error> {
        let asked = PageRequest::from_uri(uri)?;
        let filter = parameter(uri, FILTER).filter(|filter| !filter.is_empty());
        if filter.as_ref().is_some_and(|filter| filter.len() > media_type::MAX_LEN) {
            return Err(Error::InvalidParameter { name: FILTER, expected: "at most 255 characters" });
        }
        let after = asked.last.as_deref().map(str::parse::<Digest>).transpose()?;
        let limit = asked.n.unwrap_or(MAX_REFERRERS).clamp(1, MAX_REFERRERS);
        let repository = self.repository(name);
        let mut page = repository.referrers(subject, after.as_ref(), limit).await?;

        let (fitting, size) = fitting(&page.entries);
        if fitting < page.entries.len() {
            page.entries.truncate(fitting);
            page.next = page.entries.last().map(|last| last.digest.to_string());
        }
        let unread: u64 =
            page.entries.iter().filter(|entry| entry.descriptor.is_none()).map(|entry| entry.size).sum();
        let _held = match unread {
            0 => None,
            // The descriptors, and the index that they are copied to.
            unread => Some(self.app.reserve((unread + size) as usize).await?),
        };
        let (repository, of) = (&repository, subject);
        let mut descriptors = stream::iter(page.entries)
            .map(async |Referrer { digest, descriptor, .. }| match descriptor {
                Some(descriptor) => Ok(Some(descriptor)),
                // It may have been deleted since.
                None => repository.referrer(of, &digest).await,
            })
            .buffered(READS);

        let mut index = String::with_capacity(size as usize + 1024);
        index += &format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#, media_type::OCI_INDEX);
        let start = index.len();
        while let Some(descriptor) = descriptors.try_next().await? {
            let descriptor = descriptor.as_deref().and_then(|json| Some((json, str::from_utf8(json).ok()?)));
            let Some((json, text)) = descriptor else { continue };
            let Ok(artifact_type) = Descriptor::artifact_type_of(json) else { continue };
            let is_wanted = |filter: &String| {
                artifact_type.as_ref().is_some_and(|artifact_type| artifact_type.eq_ignore_ascii_case(filter))
            };
            if filter.as_ref().is_none_or(is_wanted) {
                if index.len() > start {
                    index.push(',');
                }
                index += text;
            }
        }
        index += "]}";
        let mut response = json(index);
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
        if filter.is_some() {
            fields.insert(headers::OCI_FILTERS_APPLIED, HeaderValue::from_static(FILTER));
        }
        if let Some(next) = page.next {
            link_next(fields, uri, asked.n, &next);
        }
        Ok(response)
    }
}

/// How many of the entries fit into a page, and their size in bytes.
fn fitting(entries: &[Referrer]) -> (usize, u64) {
    let (mut count, mut size) = (0, 0);
    for entry in entries {
        let next = size + entry.size + 1;
        if next > MAX_PAGE && count > 0 {
            break;
        }
        (count, size) = (count + 1, next);
    }
    (count, size)
}
