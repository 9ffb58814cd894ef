//! Signatures, checked by the runtime's `WebCrypto`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::LocalBoxFuture;
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

use super::stream::message;
use crate::platform::verifier::{PublicKey, Verifier};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], js_name = importKey, catch)]
    fn import_key(
        format: &str,
        key: &Object,
        algorithm: &Object,
        extractable: bool,
        uses: &Array,
    ) -> Result<Promise, JsValue>;
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], catch)]
    fn verify(
        algorithm: &Object,
        key: &JsValue,
        signature: &Uint8Array,
        message: &Uint8Array,
    ) -> Result<Promise, JsValue>;
}

/// `crypto.subtle`.
pub struct WebCrypto;

impl Verifier for WebCrypto {
    fn verify<'a>(
        &'a self,
        key: &'a PublicKey,
        signed: &'a [u8],
        signature: &'a [u8],
    ) -> LocalBoxFuture<'a, Result<bool, String>> {
        Box::pin(async move { is_signed(key, signed, signature).await.map_err(|error| message(&error)) })
    }
}

async fn is_signed(key: &PublicKey, signed: &[u8], signature: &[u8]) -> Result<bool, JsValue> {
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    // One object serves for importKey and verify: each reads the members that it knows.
    let (jwk, algorithm) = match key {
        PublicKey::Rsa { n, e } => (
            object(&[("kty", "RSA"), ("n", &number(n)), ("e", &number(e))])?,
            object(&[("name", "RSASSA-PKCS1-v1_5"), ("hash", "SHA-256")])?,
        ),
        PublicKey::P256 { x, y } => (
            object(&[("kty", "EC"), ("crv", "P-256"), ("x", &number(x)), ("y", &number(y))])?,
            object(&[("name", "ECDSA"), ("namedCurve", "P-256"), ("hash", "SHA-256")])?,
        ),
        PublicKey::P384 { x, y } => (
            object(&[("kty", "EC"), ("crv", "P-384"), ("x", &number(x)), ("y", &number(y))])?,
            object(&[("name", "ECDSA"), ("namedCurve", "P-384"), ("hash", "SHA-384")])?,
        ),
        PublicKey::Ed25519(x) => (
            object(&[("kty", "OKP"), ("crv", "Ed25519"), ("x", &number(x))])?,
            object(&[("name", "Ed25519")])?,
        ),
    };
    let key = import_key("jwk", &jwk, &algorithm, false, &Array::of1(&"verify".into()))?;
    let key = JsFuture::from(key).await?;
    let answer = verify(&algorithm, &key, &Uint8Array::from(signature), &Uint8Array::from(signed))?;
    Ok(JsFuture::from(answer).await?.is_truthy())
}

fn object(fields: &[(&str, &str)]) -> Result<Object, JsValue> {
    let object = Object::new();
    for (name, value) in fields {
        Reflect::set(&object, &(*name).into(), &(*value).into())?;
    }
    Ok(object)
}
