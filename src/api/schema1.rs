//! Manifests of Docker's schema 1: put together for a pull, and taken apart for a push. See docs/schema1.md.

use bytes::Bytes;
use http::{HeaderMap, header};

use super::{Error, Registry};
use crate::{
    config::Schema1,
    oci::{
        Algorithm, Digest, InvalidManifest, Manifest, Reference, RepositoryName, Tag,
        media_type::{self, DOCKER_SIGNED_MANIFEST, DOCKER_UNSIGNED_MANIFEST, Shape},
        schema1::{
            self, Curve, InvalidSignature, Key, MAX_SIGNATURE, MAX_SIGNATURES, MAX_SIGNED, Payload,
            Signature, Signed,
        },
    },
    platform::verifier::PublicKey,
    repository::{NewManifest, Repository},
};

/// The memory that signatures take while they are read and written into a manifest, in bytes: as they are stored, with
/// what is decoded of them, and in the manifest.
pub(super) const MEMORY_OF_SIGNATURES: usize = 3 * MAX_SIGNATURES * MAX_SIGNATURE;

/// The memory that a manifest of `length` bytes takes while it is pushed, in bytes: its text, its payload, what a signature
/// signs, what both are put together to; and its signatures.
pub(super) fn memory_of_push(length: usize) -> usize {
    let signed = length.min(MAX_SIGNED);
    length + 4 * signed + Manifest::memory(length) + MEMORY_OF_SIGNATURES.min(4 * signed)
}

/// Whether a media type is of schema 1.
pub(super) fn is_type(media_type: &str) -> bool {
    media_type::shape(&media_type.to_ascii_lowercase()) == Shape::Schema1
}

/// Whether a client asks for the payload rather than for the signed manifest (RFC 9110, section 12.5.1).
pub(super) fn prefers_payload(headers: &HeaderMap) -> bool {
    let (mut signed, mut unsigned) = (None::<(u8, u16)>, None::<(u8, u16)>);
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';');
        let of = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let weight = parts.find_map(|part| weight(part.trim())).unwrap_or(1000);
        let add = |best: &mut Option<(u8, u16)>, media_type: &str| {
            let precision = match of.as_str() {
                exact if exact == media_type => 2,
                "application/*" => 1,
                "*/*" => 0,
                _ => return,
            };
            *best = (*best).max(Some((precision, weight)));
        };
        add(&mut signed, DOCKER_SIGNED_MANIFEST);
        add(&mut unsigned, DOCKER_UNSIGNED_MANIFEST);
    }
    let weight = |best: Option<(u8, u16)>| best.map_or(0, |(_, weight)| weight);
    weight(unsigned) > weight(signed)
}

/// The weight in a parameter `q`, in thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    let value: f32 = value.trim().parse().ok().filter(|_| name.trim().eq_ignore_ascii_case("q"))?;
    Some((value.clamp(0.0, 1.0) * 1000.0) as u16)
}

impl Registry<'_> {
    /// What is served of a stored manifest of schema 1, and its media type: with its signatures, as `distribution` up to 2.4
    /// did it, or the payload, if the client asks for that or if no signature is there. Costs a listing, and a read for each
    /// signature.
    pub(super) async fn serve_schema1(
        &self,
        repository: &dyn Repository,
        digest: &Digest,
        content: Bytes,
        prefers_payload: bool,
    ) -> Result<(Bytes, &'static str), Error> {
        if schema1::has_signatures(&content) {
            return Ok((content, DOCKER_SIGNED_MANIFEST));
        }
        let signatures = match prefers_payload {
            true => Vec::new(),
            false => repository.signatures(digest).await?,
        };
        // Each is freed once it is read.
        let signatures = signatures.into_iter().filter_map(|content| Signature::stored(&content).ok());
        Ok(match schema1::assemble(&content, signatures.collect()) {
            Some(text) => (text.into(), DOCKER_SIGNED_MANIFEST),
            None => (content, DOCKER_UNSIGNED_MANIFEST),
        })
    }

    /// Validates the body of a push. Nothing of the text is stored but the payload and the signatures.
    pub(super) async fn new_schema1(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        text: &Bytes,
    ) -> Result<NewManifest, Error> {
        if self.app.config.schema1 != Schema1::Full {
            return Err(Error::Schema1NotTaken);
        }
        let Signed { payload, signatures } = Signed::parse(text)?;
        let digest = match reference {
            Reference::Tag(_) => Algorithm::Sha256.digest(&payload),
            // Each signature belongs to one manifest: see `blobs::marker::signs`.
            Reference::Digest(digest) if digest.algorithm() != Algorithm::Sha256 => {
                return Err(InvalidManifest::Shape(
                    "a manifest of schema 1 is stored by the sha256 of its payload: push it by a tag or that digest",
                )
                .into());
            }
            Reference::Digest(digest) if digest.algorithm().digest(&payload) == *digest => digest.clone(),
            Reference::Digest(digest) => return Err(Error::DigestMismatch(digest.clone())),
        };
        let manifest = Manifest::parse(Some(DOCKER_SIGNED_MANIFEST), &payload)?;
        let named = Payload::parse(&payload)?;
        let elsewhere =
            |field, named, pushed| Err(InvalidManifest::Elsewhere { field, named, pushed }.into());
        if named.name != name.as_str() {
            return elsewhere("name", named.name, name.to_string());
        }
        if let Some(tag) = tags.iter().find(|tag| tag.as_str() != named.tag) {
            return elsewhere("tag", named.tag, tag.to_string());
        }
        for signature in &signatures {
            self.verify(signature, &payload).await?;
        }
        let signatures = signatures.iter().map(|signature| {
            let content = Bytes::from(signature.to_json());
            (Algorithm::Sha256.digest(&content), content)
        });
        let mut signatures: Vec<_> = signatures.collect();
        signatures.sort();
        signatures.dedup();
        Ok(NewManifest { digest, manifest, content: payload.into(), signatures })
    }

    async fn verify(&self, signature: &Signature, payload: &[u8]) -> Result<(), InvalidManifest> {
        let key = public_key(signature.key()?)?;
        if signature.algorithm() != key.algorithm().as_str() {
            return Err(InvalidSignature::Form(
                "alg must be RS256, or ES256 or ES384 as the curve of the key",
            )
            .into());
        }
        let bytes = signature.bytes()?;
        let input = signature.signing_input(payload);
        // The platform expects signatures of the right length.
        let is_valid = bytes.len() == key.signature_length()
            // A key that the platform refuses signs nothing.
            && self.app.verifier.verify(&key, &input, &bytes).await.unwrap_or(false);
        if is_valid { Ok(()) } else { Err(InvalidSignature::Wrong.into()) }
    }
}

/// The key as the platform takes it.
fn public_key(key: Key) -> Result<PublicKey, InvalidSignature> {
    const FORM: InvalidSignature = InvalidSignature::Form(
        "its key must be on P-256 or P-384, or an RSA key of 2048 to 8192 bits with the exponent 3 or 65537",
    );
    match key {
        Key::Rsa { n, e } => PublicKey::rsa(n, e).ok_or(FORM),
        Key::Ec { curve, x, y } => {
            let p256 = |n: &[u8]| n.try_into().map_err(|_| FORM);
            let p384 = |n: &[u8]| n.try_into().map_err(|_| FORM);
            Ok(match curve {
                Curve::P256 => PublicKey::P256 { x: p256(&x)?, y: p256(&y)? },
                Curve::P384 => PublicKey::P384 { x: p384(&x)?, y: p384(&y)? },
                Curve::P521 => return Err(FORM),
            })
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_served_to_those_who_prefer_it() {
        let (signed, unsigned) = (DOCKER_SIGNED_MANIFEST, DOCKER_UNSIGNED_MANIFEST);
        for (accept, expected) in [
            (vec![], false),
            (vec!["*/*".to_owned()], false),
            (vec![signed.to_owned()], false),
            (vec![unsigned.to_owned()], true),
            (vec![unsigned.to_uppercase()], true),
            (vec![format!("{unsigned},{signed}")], false),
            (vec![signed.to_owned(), unsigned.to_owned()], false),
            (vec![format!("{unsigned}, */*;q=0.1")], true),
            (vec![format!("{unsigned}, */*")], false),
            (vec![format!("{signed};q=0.4, {unsigned}; q=0.5")], true),
            (vec![format!("{signed};q=0, application/*")], true),
            (vec![format!("application/*;q=0.2, {unsigned};q=0")], false),
            (vec![format!("{unsigned};q=0")], false),
            (vec!["application/vnd.oci.image.manifest.v1+json".to_owned()], false),
        ] {
            let headers = accept.iter().map(|value| (header::ACCEPT, value.parse().unwrap())).collect();
            assert_eq!(prefers_payload(&headers), expected, "{accept:?}");
        }
    }
}
