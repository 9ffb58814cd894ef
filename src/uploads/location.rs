//! Signed upload locations: `…/blobs/uploads/<id>?_state=<state>`. They carry enough state for a session to
//! start at the first chunk, not at the `POST`, and for a blob sent in one piece to need none.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::{
    oci::{Algorithm, RepositoryName, UploadId},
    platform::Timestamp,
    secret::{self, Secret},
};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadState {
    /// Expiry of the upload.
    pub expires: Timestamp,
    /// The algorithm of the running hash.
    pub algorithm: Algorithm,
    /// Whether there is a session: the first chunk creates it.
    pub has_session: bool,
}

impl UploadAt {
    /// The location's `_state`: the fields, a dot, and a signature of repository, id and fields.
    pub fn sign(&self, secret: &Secret) -> String {
        let UploadState { expires, algorithm, has_session } = self.state;
        let fields = format!("{}.{algorithm}.{}", expires.0, u8::from(has_session));
        let mac = mac(secret, &self.repository, &self.id, &fields);
        format!("{fields}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    /// Verifies the `_state` of a location. `None` if it was not signed for this upload of this repository,
    /// or if it has expired at `now`.
    pub fn verify(
        repository: &RepositoryName,
        id: &UploadId,
        value: &str,
        secret: &Secret,
        now: Timestamp,
    ) -> Option<Self> {
        let (fields, signature) = value.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        mac(secret, repository, id, fields).verify_slice(&signature).ok()?;
        let mut parts = fields.split('.');
        let state = UploadState {
            expires: Timestamp(parts.next()?.parse().ok()?),
            algorithm: parts.next()?.parse().ok()?,
            has_session: parts.next()? == "1",
        };
        (now < state.expires).then(|| Self { repository: repository.clone(), id: *id, state })
    }

    /// The same upload, with or without a session.
    #[must_use]
    pub fn with_session(&self, has_session: bool) -> Self {
        Self { state: UploadState { has_session, ..self.state }, ..self.clone() }
    }
}

fn mac(secret: &Secret, name: &RepositoryName, id: &UploadId, fields: &str) -> Hmac<Sha256> {
    secret::mac(&secret.0, &format!("upload\n{name}\n{id}\n{fields}"))
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_signed_state_is_accepted() {
        let (secret, id) = (Secret([7; 32]), UploadId::random());
        let repository: RepositoryName = "a/b".parse().unwrap();
        let state = UploadState { expires: Timestamp(1000), algorithm: Algorithm::Sha512, has_session: true };
        let at = UploadAt { repository: repository.clone(), id, state };
        let value = at.sign(&secret);
        let now = Timestamp(999);
        let verify = |value: &str| UploadAt::verify(&repository, &id, value, &secret, now);
        assert_eq!(verify(&value), Some(at));
        assert_eq!(UploadAt::verify(&repository, &id, &value, &secret, Timestamp(1000)), None);
        assert_eq!(UploadAt::verify(&repository, &id, &value, &Secret([8; 32]), now), None);
        assert_eq!(UploadAt::verify(&"a/c".parse().unwrap(), &id, &value, &secret, now), None);
        assert_eq!(UploadAt::verify(&repository, &UploadId::random(), &value, &secret, now), None);
        for forged in ["", ".", "1000.sha512.1", &value.replace("1000", "2000"), &value.replace(".1.", ".0.")]
        {
            assert_eq!(verify(forged), None, "{forged}");
        }
    }
}
