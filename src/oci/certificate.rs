//! Public keys in DER: in an X.509 certificate (RFC 5280), of which nothing is verified here, and alone.
//!
//! A reader of its own: the key is at a fixed place, and the crates that read whole certificates are a tenth of the worker.

use super::schema1::{Curve, Key};

const VERSION: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// rsaEncryption, 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// id-ecPublicKey, 1.2.840.10045.2.1.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// secp256r1, 1.2.840.10045.3.1.7.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// secp384r1, 1.3.132.0.34.
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// secp521r1, 1.3.132.0.35.
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

/// The rest of an encoding in DER (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, if it has this tag.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            // No certificate has 16 MiB.
            long @ 0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == tag).then_some(content)
    }

    /// The next value, which must be a sequence.
    fn sequence(&mut self) -> Option<Der<'a>> {
        self.next(SEQUENCE).map(Der)
    }
}

/// The public key of a certificate in DER; `None` for other kinds of keys, and for what is no certificate.
pub(super) fn public_key(certificate: &[u8]) -> Option<Key> {
    let mut signed = Der(certificate).sequence()?.sequence()?;
    if signed.0.first() == Some(&VERSION) {
        signed.next(VERSION)?;
    }
    let _serial = signed.next(INTEGER)?;
    // The algorithm of its signature, its issuer, its validity, and its subject.
    for _ in 0..4 {
        signed.sequence()?;
    }
    let mut info = signed.sequence()?;
    let mut algorithm = info.sequence()?;
    let (unused, key) = info.next(BIT_STRING)?.split_first()?;
    let key = match algorithm.next(OBJECT)? {
        RSA => {
            let mut numbers = Der(key).sequence()?;
            Key::rsa(numbers.next(INTEGER)?, numbers.next(INTEGER)?)
        }
        EC => {
            let curve = match algorithm.next(OBJECT)? {
                P256 => Curve::P256,
                P384 => Curve::P384,
                _ => return None,
            };
            // An uncompressed point.
            let point = key.strip_prefix(&[4])?;
            let (x, y) = point.split_at_checked(curve.length())?;
            Key::Ec { curve, x: x.to_vec(), y: y.to_vec() }
        }
        _ => return None,
    };
    (*unused == 0 && key.is_sized()).then_some(key)
}

/// A value in DER.
fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    // No key has 64 KiB.
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let length: &[u8] = match content.len() {
        0..0x80 => &[low],
        0x80..0x100 => &[0x81, low],
        _ => &[0x82, high, low],
    };
    [&[tag], length, &content].concat()
}

/// A key as a SubjectPublicKeyInfo in DER (RFC 5280, section 4.1).
pub(super) fn public_key_info(key: &Key) -> Vec<u8> {
    let (algorithm, key) = match key {
        Key::Rsa { n, e } => {
            // A number whose first bit is set would be negative.
            let integer = |number: &[u8]| match number.first() {
                Some(0..0x80) => encode(INTEGER, &[number]),
                _ => encode(INTEGER, &[&[0], number]),
            };
            let null: &[u8] = &[5, 0];
            (
                encode(SEQUENCE, &[&encode(OBJECT, &[RSA]), null]),
                encode(SEQUENCE, &[&integer(n), &integer(e)]),
            )
        }
        Key::Ec { curve, x, y } => {
            let curve = match curve {
                Curve::P256 => P256,
                Curve::P384 => P384,
                Curve::P521 => P521,
            };
            let algorithm = encode(SEQUENCE, &[&encode(OBJECT, &[EC]), &encode(OBJECT, &[curve])]);
            (algorithm, [&[4], &**x, y].concat())
        }
    };
    encode(SEQUENCE, &[&algorithm, &encode(BIT_STRING, &[&[0], &key])])
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    /// Made by `openssl req -x509`, on P-384.
    const ON_P384: &str = concat!(
        "MIIBsTCCATigAwIBAgIUWKIXBH70Ru1mMkUxZzYbhv39tU4wCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEdGVzdDAgFw0yNjEx",
        "MjIxNDI2NTZaGA8yMTA5MDExMTE0MjY1NlowDzENMAsGA1UEAwwEdGVzdDB2MBAGByqGSM49AgEGBSuBBAAiA2IABD9gMcvx",
        "hD9448nOuozme4wROZTwhITJ7aOJROzHfMpII8egABHNHZ9pPdktnhJCGAtfneG7FtNwdaaux9MGvc0X5zQb8uPDmzLbgNLy",
        "eKpPLQJFr/DYA2n0eXxcOZkiUaNTMFEwHQYDVR0OBBYEFKnucVdtmsnO63dDqxRcNYmiKL4uMB8GA1UdIwQYMBaAFKnucVdt",
        "msnO63dDqxRcNYmiKL4uMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDZwAwZAIwVHeRPDyu1qu+d7Dw8/GwehYlXOSE",
        "hQdZPw1NbssOYpHLHE2Ex5Ee2CeNRRD7F8/zAjB4ipHKkv87UZQ9LgD2ci6foZJLjhYRr5pi4utg1InVfBPsr+o40wnpvMuf",
        "Hdx2FcU=",
    );

    /// The same, of RSA.
    const OF_RSA: &str = concat!(
        "MIIC+zCCAeOgAwIBAgIUVAXesErGecypjboftLzYomwxmZMwDQYJKoZIhvcNAQELBQAwDDEKMAgGA1UEAwwBdDAgFw0yNjEx",
        "MjIxNDI2NTdaGA8yMTA5MDExMTE0MjY1N1owDDEKMAgGA1UEAwwBdDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEB",
        "ANi93CMc7GmdVLcMDbqdldmsSLzH9+WRqEmiBwNG95p/+UhXXRZttaVBmuV/mkAN0FT8Y7D+697h9qEoaSc6RX1HZB00yVAS",
        "EvPa4QQVI6QwybaOXaA+Fjs+28VRy67nh28ewXE59oDUzhsUXYHiSMIy0WekSAtnjqsWL4Q16AX0CYPV46EX/oRNvOTGOoO2",
        "/de2XnFGub/0kc5YsqrdAruZyTMImoBR5bw+yLdalYnIAGhmqMMgjv+iJ2iYPP0mVm5PgqREuKltP0KRU/YPAgx0rNMktveN",
        "aYK16l5ASuBFvkL/++Bx6w/u54b2+9fsBCyUsh6UYLzHi5/Fmjsq1K0CAwEAAaNTMFEwHQYDVR0OBBYEFLz2HCxwnFUy/Ky8",
        "OxCQoEAE72E7MB8GA1UdIwQYMBaAFLz2HCxwnFUy/Ky8OxCQoEAE72E7MA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQEL",
        "BQADggEBAH5kxUc+i3s/a9yOeA1SRUoXXt33hBu3wOEOUZTP0eaWOB4AagaaMWiwyyDh2MkmFnXEi81YiRt3y73bNXGIj3Hm",
        "I9T2VZV/MgMw6d1jJeBV3eHaqlYXPkYnRm5Bn3m105iaSvTLCkmEdHISNGFAa7dLAIZDiomMLCUdLNsx01J1Dl2+ekLaEHKq",
        "5SRZKRpRQJOX8kzMeQfHtD+kNwQc8O/kyK5Dt4pZCO5K7Z80rSuYcMol4DNlKyYdWtkCsM29ZlEeXfFknDdvH9Yc9JFRFT7q",
        "7/BFQvIQlwZgzxfiA6/+e1/DdnByD/AiG7zv5odLK+xT7teSF34bGxiOrLvl/d0=",
    );

    fn der(certificate: &str) -> Vec<u8> {
        STANDARD.decode(certificate).unwrap()
    }

    #[test]
    fn the_key_of_a_certificate_is_found() {
        let Some(Key::Ec { curve: Curve::P384, x, y }) = public_key(&der(ON_P384)) else { panic!("no key") };
        let Some(Key::Rsa { n, e }) = public_key(&der(OF_RSA)) else { panic!("no key") };
        assert_eq!((n.len(), &n[..3], &*e), (256, &[0xd8, 0xbd, 0xdc][..], &[1, 0, 1][..]));
        for (certificate, key) in
            [(ON_P384, Key::Ec { curve: Curve::P384, x, y }), (OF_RSA, Key::Rsa { n, e })]
        {
            let (certificate, info) = (der(certificate), public_key_info(&key));
            assert!(certificate.windows(info.len()).any(|window| window == info));
        }
    }

    #[test]
    fn part_of_a_certificate_has_no_key() {
        for whole in [der(ON_P384), der(OF_RSA)] {
            for length in 0..whole.len() {
                assert_eq!(public_key(&whole[..length]), None, "{length}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            of_rsa: bool,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = der(if of_rsa { OF_RSA } else { ON_P384 });
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            public_key(&bytes);
        }
    }
}
