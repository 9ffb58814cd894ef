//! Signed upload locations: `…/blobs/uploads/<id>?_state=<state>`. They carry enough state for a session to
//! start at the first chunk, not at the `POST`, and for a blob sent in one piece to need none.

use crate::{
    oci::{Algorithm, Digest, RepositoryName, UploadId},
    platform::Timestamp,
    secret::Keys,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// An upload, identified by its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadAt {
    /// The repository.
    pub repository: RepositoryName,
    /// The session's id.
    pub id: UploadId,
    /// The state of the upload in its location.
    pub state: UploadState,
}

/// The state of an upload in its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadState {
    /// Expiry of the upload.
    pub expires: Timestamp,
    /// The algorithm of the running hash.
    pub algorithm: Algorithm,
    /// Whether there is a session: the first chunk creates it.
    pub has_session: bool,
    /// The first chunk, while it is all there is and smaller than a part: a `PUT` can link it at once.
    pub first: Option<FirstChunk>,
}

/// A first chunk, stored under its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstChunk {
    /// Its digest, of the session's algorithm.
    pub digest: Digest,
    /// Its length, in bytes.
    pub length: u64,
    /// When it was [held](crate::blobs::Blobs::hold); `None` in a location of an earlier version.
    pub held: Option<Timestamp>,
}

impl UploadAt {
    /// The location's `_state`: the fields, a dot, and a signature of repository, id and fields.
    pub fn sign(&self, keys: &Keys) -> String {
        let UploadState { expires, algorithm, has_session, first } = &self.state;
        let mut fields = format!("{}.{algorithm}.{}", expires.0, u8::from(*has_session));
        if let Some(FirstChunk { digest, length, held }) = first {
            let held = held.map(|held| format!(".{}", held.0)).unwrap_or_default();
            fields = format!("{fields}.{length}.{}{held}", digest.hex());
        }
        let signature = keys.sign(&message(&self.repository, &self.id, &fields));
        format!("{fields}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Verifies the `_state` of a location. `None` if it was not signed for this upload of this repository,
    /// or if it has expired at `now`.
    pub fn verify(
        repository: &RepositoryName,
        id: &UploadId,
        value: &str,
        keys: &Keys,
        now: Timestamp,
    ) -> Option<Self> {
        let (fields, signature) = value.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !keys.verify(&message(repository, id, fields), &signature) {
            return None;
        }
        let mut parts = fields.split('.');
        let expires = Timestamp(parts.next()?.parse().ok()?);
        let algorithm: Algorithm = parts.next()?.parse().ok()?;
        let has_session = parts.next()? == "1";
        let first = match (parts.next(), parts.next()) {
            (Some(length), Some(hex)) => Some(FirstChunk {
                length: length.parse().ok()?,
                digest: format!("{algorithm}:{hex}").parse().ok()?,
                held: parts.next().and_then(|held| held.parse().ok()).map(Timestamp),
            }),
            _ => None,
        };
        let state = UploadState { expires, algorithm, has_session, first };
        (now < expires).then(|| Self { repository: repository.clone(), id: *id, state })
    }

    /// The same upload, with a session that may hold anything.
    #[must_use]
    pub fn with_session(&self) -> Self {
        Self { state: UploadState { has_session: true, first: None, ..self.state.clone() }, ..self.clone() }
    }

    /// The same upload, with a session that holds a first chunk.
    #[must_use]
    pub fn with_first_chunk(&self, first: FirstChunk) -> Self {
        let state = UploadState { has_session: true, first: Some(first), ..self.state.clone() };
        Self { state, ..self.clone() }
    }
}

fn message(name: &RepositoryName, id: &UploadId, fields: &str) -> String {
    format!("{name}\n{id}\n{fields}")
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::{
        secret::{Purpose, SecretStore},
        storage::{Store, memory::Memory},
    };

    fn keys(secret: &str) -> Keys {
        let store = SecretStore::new(Store::new(Memory::default()), secret.parse().unwrap());
        block_on(store.keys(Purpose::Uploads)).unwrap()
    }

    #[test]
    fn only_a_signed_state_is_accepted() {
        let (secret, id) = (keys("0123456789abcdef0123456789abcdef"), UploadId::unique([1; 32]));
        let repository: RepositoryName = "a/b".parse().unwrap();
        let algorithm = Algorithm::Sha512;
        let state = UploadState { expires: Timestamp(1000), algorithm, has_session: true, first: None };
        let at = UploadAt { repository: repository.clone(), id, state };
        let value = at.sign(&secret);
        let now = Timestamp(999);
        let verify = |value: &str| UploadAt::verify(&repository, &id, value, &secret, now);
        assert_eq!(verify(&value), Some(at.clone()));
        let first = FirstChunk { digest: algorithm.digest(b"x"), length: 1, held: None };
        let earlier = at.with_first_chunk(first.clone());
        assert_eq!(verify(&earlier.sign(&secret)), Some(earlier));
        let with_first = at.with_first_chunk(FirstChunk { held: Some(Timestamp(9)), ..first });
        let longer = with_first.sign(&secret);
        assert_eq!(verify(&longer), Some(with_first));
        for forged in [longer.replace(".1.1.", ".1.2."), longer.replace(".1.1.", ".0.1.")] {
            assert_eq!(verify(&forged), None, "{forged}");
        }
        assert_eq!(UploadAt::verify(&repository, &id, &value, &secret, Timestamp(1000)), None);
        assert_eq!(
            UploadAt::verify(&repository, &id, &value, &keys("fedcba9876543210fedcba9876543210"), now),
            None
        );
        assert_eq!(UploadAt::verify(&"a/c".parse().unwrap(), &id, &value, &secret, now), None);
        assert_eq!(UploadAt::verify(&repository, &UploadId::unique([2; 32]), &value, &secret, now), None);
        for forged in ["", ".", "1000.sha512.1", &value.replace("1000", "2000"), &value.replace(".1.", ".0.")]
        {
            assert_eq!(verify(forged), None, "{forged}");
        }
    }
}
