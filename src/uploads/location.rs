//! Upload locations: `…/blobs/uploads/<uuid>?_state=…`, signed so that a session can begin at its first
//! chunk instead of at its POST, and a blob sent in one piece needs none.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::UploadId;
use crate::{
    clock::Timestamp,
    oci::{Algorithm, RepositoryName},
    secret::{self, Secret},
};

/// What a location says of its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadState {
    /// When it ends.
    pub expires: Timestamp,
    /// What a running hash would compute.
    pub algorithm: Algorithm,
    /// Whether a chunk has been sent, so that there is a session to ask.
    pub has_session: bool,
}

impl UploadState {
    /// The value of `_state`: the fields, a dot, and the signature of name, upload and fields.
    pub fn sign(&self, secret: &Secret, name: &RepositoryName, id: &UploadId) -> String {
        let fields = format!("{}.{}.{}", self.expires.0, self.algorithm, u8::from(self.has_session));
        let signature = URL_SAFE_NO_PAD.encode(mac(secret, name, id, &fields).finalize().into_bytes());
        format!("{fields}.{signature}")
    }

    /// Reads a `_state` back; `None` when it was not made by [`UploadState::sign`] for this upload in this
    /// repository, or is over at `now`.
    pub fn verify(
        value: &str,
        secret: &Secret,
        name: &RepositoryName,
        id: &UploadId,
        now: Timestamp,
    ) -> Option<Self> {
        let (fields, signature) = value.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        mac(secret, name, id, fields).verify_slice(&signature).ok()?;
        let mut parts = fields.split('.');
        let state = Self {
            expires: Timestamp(parts.next()?.parse().ok()?),
            algorithm: parts.next()?.parse().ok()?,
            has_session: parts.next()? == "1",
        };
        (now < state.expires).then_some(state)
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
    fn only_what_was_signed_is_accepted() {
        let (secret, id) = (Secret([7; 32]), UploadId::random());
        let name: RepositoryName = "a/b".parse().unwrap();
        let state = UploadState { expires: Timestamp(1000), algorithm: Algorithm::Sha512, has_session: true };
        let value = state.sign(&secret, &name, &id);
        let verify = |value: &str| UploadState::verify(value, &secret, &name, &id, Timestamp(999));
        assert_eq!(verify(&value), Some(state));
        assert_eq!(UploadState::verify(&value, &secret, &name, &id, Timestamp(1000)), None);
        assert_eq!(UploadState::verify(&value, &Secret([8; 32]), &name, &id, Timestamp(0)), None);
        assert_eq!(UploadState::verify(&value, &secret, &"a/c".parse().unwrap(), &id, Timestamp(0)), None);
        assert_eq!(UploadState::verify(&value, &secret, &name, &UploadId::random(), Timestamp(0)), None);
        for forged in ["", ".", "1000.sha512.1", &value.replace("1000", "2000"), &value.replace(".1.", ".0.")]
        {
            assert_eq!(verify(forged), None, "{forged}");
        }
    }
}
