//! Signed tokens: JSON Web Signatures in their compact form, ES256 and RS256, nothing else.
//!
//! Knows nothing of what the claims mean.

use apimachinery::{Value, json, value};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The longest token that is looked at, in bytes: tokens come from anybody.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// `SubjectPublicKeyInfo` of a P-256 key up to its point.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point of P-256: one byte of form, two coordinates.
const P256_POINT_BYTES: usize = 65;
/// The algorithm identifier of RSA keys: its object identifier, and null.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// A key or token that is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64 with JSON objects in the first two.
    #[error("the token is malformed")]
    Malformed,
    /// No key of ours made it.
    #[error("the token's signature does not verify")]
    Signature,
    /// Text that is not a key in PEM.
    #[error("the key is not an ECDSA P-256 or RSA key in PEM (PKCS#8, or PKCS#1 for RSA)")]
    Key,
    /// The signature could not be made.
    #[error("could not sign the token")]
    Signing,
}

/// A key that signs.
pub struct SigningKey {
    pair: Pair,
    public: VerifyingKey,
}

enum Pair {
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// A key that checks signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    id: String,
    numbers: Numbers,
}

/// What a public key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Numbers {
    P256 { point: Vec<u8> },
    Rsa { pkcs1: Vec<u8>, modulus: Vec<u8>, exponent: Vec<u8> },
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The private part is secret.
        f.debug_struct("SigningKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The key of this PEM text.
    ///
    /// # Errors
    /// Where the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        let (label, der) = decode_pem(pem)?;
        if let Ok(pair) =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new())
        {
            let public = VerifyingKey::p256(pair.public_key().as_ref())?;
            return Ok(Self { pair: Pair::Ecdsa(Box::new(pair)), public });
        }
        let pair = match label {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
            _ => RsaKeyPair::from_pkcs8(&der),
        };
        let pair = pair.map_err(|_| JwtError::Key)?;
        let public = VerifyingKey::rsa(pair.public_key().as_ref())?;
        Ok(Self { pair: Pair::Rsa(Box::new(pair)), public })
    }

    /// What checks its signatures.
    #[must_use]
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// The token of these claims.
    ///
    /// # Errors
    /// When the signature cannot be made.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = value!({"alg": (self.public.algorithm()), "kid": (self.public.id.as_str())});
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(json::to_vec(&header));
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(json::to_vec(claims), &mut token);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ecdsa(pair) => {
                let signature =
                    pair.sign(&random, token.as_bytes()).map_err(|_| JwtError::Signing)?;
                signature.as_ref().to_vec()
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature)
                    .map_err(|_| JwtError::Signing)?;
                signature
            }
        };
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl VerifyingKey {
    /// The key of this PEM text: a public key, or the public half of a private one.
    ///
    /// # Errors
    /// Where the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        let (label, der) = decode_pem(pem)?;
        if label != "PUBLIC KEY" {
            return SigningKey::from_pem(pem).map(|key| key.public);
        }
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| JwtError::Key)?;
        match info.parsed().map_err(|_| JwtError::Key)? {
            PublicKey::EC(point) => Self::p256(point.data()),
            PublicKey::RSA(_) => Self::rsa(&info.subject_public_key.data),
            _ => Err(JwtError::Key),
        }
    }

    fn p256(point: &[u8]) -> Result<Self, JwtError> {
        if point.len() != P256_POINT_BYTES {
            return Err(JwtError::Key);
        }
        let info = [P256_HEAD.as_slice(), point].concat();
        Ok(Self { id: key_id(&info), numbers: Numbers::P256 { point: point.to_vec() } })
    }

    fn rsa(pkcs1: &[u8]) -> Result<Self, JwtError> {
        let bits = der(0x03, &[&[0], pkcs1].concat());
        let info = der(0x30, &[RSA_ALGORITHM.as_slice(), &bits].concat());
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&info).map_err(|_| JwtError::Key)?;
        let Ok(PublicKey::RSA(numbers)) = parsed.parsed() else { return Err(JwtError::Key) };
        let strip = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
        };
        let (modulus, exponent) = (strip(numbers.modulus), strip(numbers.exponent));
        Ok(Self {
            id: key_id(&info),
            numbers: Numbers::Rsa { pkcs1: pkcs1.to_vec(), modulus, exponent },
        })
    }

    /// The key's id, by which tokens name it: a hash of it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `ES256` or `RS256`
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.numbers {
            Numbers::P256 { .. } => "ES256",
            Numbers::Rsa { .. } => "RS256",
        }
    }

    /// The key as a member of a JSON Web Key Set.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (id, algorithm) = (self.id.as_str(), self.algorithm());
        match &self.numbers {
            Numbers::P256 { point } => {
                let (x, y) = point[1..].split_at((P256_POINT_BYTES - 1) / 2);
                value!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": algorithm,
                    "x": (text(x)), "y": (text(y))})
            }
            Numbers::Rsa { modulus, exponent, .. } => {
                value!({"use": "sig", "kty": "RSA", "kid": id, "alg": algorithm,
                    "n": (text(modulus)), "e": (text(exponent))})
            }
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.numbers {
            Numbers::P256 { point } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Numbers::Rsa { pkcs1, .. } => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pkcs1)
                    .verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

fn key_id(info: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, info))
}

/// A DER element.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match (content.len(), u8::try_from(length.len())) {
        (0..0x80, _) => out.push(length.last().copied().unwrap_or_default()),
        (_, Ok(count)) => {
            out.push(0x80 | count);
            out.extend_from_slice(&length);
        }
        (_, Err(_)) => unreachable!("because a length has eight bytes at most"),
    }
    out.extend_from_slice(content);
    out
}

/// The label and the bytes of the first PEM block.
fn decode_pem(pem: &str) -> Result<(&str, Vec<u8>), JwtError> {
    let begin = pem.find("-----BEGIN ").ok_or(JwtError::Key)?;
    let rest = &pem[begin + "-----BEGIN ".len()..];
    let (label, rest) = rest.split_once("-----").ok_or(JwtError::Key)?;
    let (body, _) = rest.split_once("-----END ").ok_or(JwtError::Key)?;
    let body: String = body.split_whitespace().collect();
    Ok((label, BASE64_STANDARD.decode(body).map_err(|_| JwtError::Key)?))
}

/// A token taken apart, and not verified.
#[derive(Debug)]
pub struct Unverified<'t> {
    algorithm: String,
    key_id: String,
    message: &'t [u8],
    signature: Vec<u8>,
    claims: Value,
}

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// Where it is no token of this form.
    pub fn parse(token: &'t str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let object = |part: &str| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)?;
            match json::parse(&bytes) {
                Ok(value @ Value::Object(_)) => Ok(value),
                _ => Err(JwtError::Malformed),
            }
        };
        let header = object(header)?;
        if header.get("crit").is_some() {
            // What it demands is not known here.
            return Err(JwtError::Malformed);
        }
        Ok(Self {
            algorithm: header.str_at(&["alg"]).into(),
            key_id: header.str_at(&["kid"]).into(),
            message: message.as_bytes(),
            signature: BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?,
            claims: object(claims)?,
        })
    }

    /// Who the token says made it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.claims.str_at(&["iss"])
    }

    /// The claims, where one of the keys made the token. A token that names a key is checked by that key alone, where
    /// it is known.
    ///
    /// # Errors
    /// Where none did.
    pub fn verify(self, keys: &[VerifyingKey]) -> Result<Value, JwtError> {
        let named = keys.iter().any(|key| !self.key_id.is_empty() && key.id == self.key_id);
        let good = keys.iter().any(|key| {
            (!named || key.id == self.key_id)
                && key.algorithm() == self.algorithm
                && key.verifies(self.message, &self.signature)
        });
        if good { Ok(self.claims) } else { Err(JwtError::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        let pair = rcgen::KeyPair::generate().unwrap();
        SigningKey::from_pem(&pair.serialize_pem()).unwrap()
    }

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        let key = key();
        let token = key.sign(&value!({"iss": "me", "n": 1})).unwrap();
        let other = self::key().public().clone();
        let keys = [other.clone(), key.public().clone()];
        let parsed = Unverified::parse(&token).unwrap();
        assert_eq!(parsed.issuer(), "me");
        assert_eq!(parsed.verify(&keys).unwrap().i64_at(&["n"]), Some(1));
        let wrong_key = Unverified::parse(&token).unwrap().verify(&[other]);
        assert_eq!(wrong_key.unwrap_err(), JwtError::Signature);
    }

    #[test]
    fn a_public_key_is_read_from_pem_under_the_same_id() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let private = SigningKey::from_pem(&pair.serialize_pem()).unwrap();
        let public = VerifyingKey::from_pem(&pair.public_key_pem()).unwrap();
        assert_eq!(&public, private.public());
        assert_eq!(public.to_jwk().str_at(&["crv"]), "P-256");
        assert_eq!(VerifyingKey::from_pem("nonsense"), Err(JwtError::Key));
    }

    #[test]
    fn forged_tokens_do_not_verify() {
        let key = key();
        let keys = [key.public().clone()];
        let token = key.sign(&value!({"iss": "me", "sub": "a"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let text = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(json::to_vec(value));
        let claims = text(&value!({"iss": "me", "sub": "b"}));
        let none = text(&value!({"alg": "none"}));
        let hmac = text(&value!({"alg": "HS256", "kid": (key.public().id())}));
        let critical = text(&value!({"alg": "ES256", "crit": ["x"]}));
        let cases = [
            ("other claims", format!("{}.{claims}.{}", parts[0], parts[2]), JwtError::Signature),
            ("no algorithm", format!("{none}.{}.", parts[1]), JwtError::Signature),
            (
                "a public key as a shared secret",
                format!("{hmac}.{}.{}", parts[1], parts[2]),
                JwtError::Signature,
            ),
            (
                "unknown demands",
                format!("{critical}.{}.{}", parts[1], parts[2]),
                JwtError::Malformed,
            ),
            ("no signature", format!("{}.{}", parts[0], parts[1]), JwtError::Malformed),
            ("too long", "a".repeat(MAX_TOKEN_BYTES + 1), JwtError::Malformed),
        ];
        for (name, forged, expected) in cases {
            let result = Unverified::parse(&forged).and_then(|it| it.verify(&keys));
            assert_eq!(result.unwrap_err(), expected, "{name}");
        }
    }
}
