//! Keys: those that sign tokens, and those that check signatures, from PEM and from JSON Web Keys.

use apimachinery::{Value, json, value};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RsaKeyPair, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::JwtError;

/// `SubjectPublicKeyInfo` of a P-256 key up to its point.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same of a P-384 key.
const P384_HEAD: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
/// The algorithm identifier of RSA keys: its object identifier, and null.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// How a signature is made. ES512 is missing: ring has no P-521.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are the names that RFC 7518 gives them")]
pub enum Algorithm {
    Es256,
    Es384,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

impl Algorithm {
    /// All of them, by name.
    pub const ALL: [Self; 8] = [
        Self::Es256,
        Self::Es384,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
    ];

    /// `RS256`
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }

    /// The algorithm of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    fn of_rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 | Self::Es384 => return None,
        })
    }
}

/// A curve that keys lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    const ALL: [Self; 2] = [Self::P256, Self::P384];

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    /// How long one coordinate of a point is.
    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn head(self) -> &'static [u8] {
        match self {
            Self::P256 => &P256_HEAD,
            Self::P384 => &P384_HEAD,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
        }
    }

    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }

    fn verification(self) -> &'static signature::EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }
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
    /// An uncompressed point: one byte of form, two coordinates.
    Point {
        curve: Curve,
        point: Vec<u8>,
    },
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
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
        let (label, der) = decode_pem(pem).ok_or(JwtError::Key)?;
        Self::from_der(label, &der)
    }

    fn from_der(label: &str, der: &[u8]) -> Result<Self, JwtError> {
        let random = SystemRandom::new();
        for curve in Curve::ALL {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.signing(), der, &random) {
                let public = VerifyingKey::of_point(curve, pair.public_key().as_ref())?;
                return Ok(Self { pair: Pair::Ecdsa(Box::new(pair)), public });
            }
        }
        let pair = match label {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der),
            _ => RsaKeyPair::from_pkcs8(der),
        };
        let pair = pair.map_err(|_| JwtError::Key)?;
        let public = VerifyingKey::of_pkcs1(pair.public_key().as_ref())?;
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
        let algorithm = self.public.algorithm();
        let header = value!({"alg": (algorithm.name()), "kid": (self.public.id.as_str())});
        self.sign_with(&header, claims, algorithm)
    }

    fn sign_with(
        &self,
        header: &Value,
        claims: &Value,
        algorithm: Algorithm,
    ) -> Result<String, JwtError> {
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(json::to_vec(header));
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
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::Rs256 | Algorithm::Es256 | Algorithm::Es384 => {
                        &signature::RSA_PKCS1_SHA256
                    }
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, token.as_bytes(), &mut signature)
                    .map_err(|_| JwtError::Signing)?;
                signature
            }
        };
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// A token with a header of one's own, for what issuers elsewhere make.
    ///
    /// # Errors
    /// When the signature cannot be made.
    #[cfg(any(test, feature = "testing"))]
    pub fn sign_as(
        &self,
        algorithm: Algorithm,
        key_id: &str,
        claims: &Value,
    ) -> Result<String, JwtError> {
        let header = value!({"alg": (algorithm.name()), "kid": key_id});
        self.sign_with(&header, claims, algorithm)
    }
}

impl VerifyingKey {
    /// The key of this PEM text: a public key, the public half of a private one, or that of a certificate.
    ///
    /// # Errors
    /// Where the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        Ok(Self::all_from_pem(pem)?.remove(0))
    }

    /// Every key of a file, in its order; there is one at least.
    ///
    /// # Errors
    /// Where there is none, or one that is not known.
    pub fn all_from_pem(pem: &str) -> Result<Vec<Self>, JwtError> {
        let (mut keys, mut rest) = (Vec::new(), pem);
        while let Some((label, der)) = decode_pem(rest) {
            // What says how a key is made is no key.
            if !label.ends_with("PARAMETERS") {
                keys.push(Self::of_block(label, &der)?);
            }
            let end = rest.find("-----END ").map_or(rest.len(), |at| at + "-----END ".len());
            rest = &rest[end..];
        }
        if keys.is_empty() { Err(JwtError::Key) } else { Ok(keys) }
    }

    fn of_block(label: &str, der: &[u8]) -> Result<Self, JwtError> {
        match label {
            "PUBLIC KEY" => Self::from_spki(der),
            "RSA PUBLIC KEY" => Self::of_pkcs1(der),
            "CERTIFICATE" => {
                let parsed = x509_parser::parse_x509_certificate(der);
                let (_, certificate) = parsed.map_err(|_| JwtError::Key)?;
                Self::from_spki(certificate.public_key().raw)
            }
            _ => SigningKey::from_der(label, der).map(|key| key.public),
        }
    }

    /// The key of a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// Where it is no such key.
    pub fn from_spki(der: &[u8]) -> Result<Self, JwtError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| JwtError::Key)?;
        match info.parsed().map_err(|_| JwtError::Key)? {
            PublicKey::EC(point) => {
                let fits = |it: &Curve| point.data().len() == 2 * it.coordinate_bytes() + 1;
                let curve = Curve::ALL.into_iter().find(fits).ok_or(JwtError::Key)?;
                Self::of_point(curve, point.data())
            }
            PublicKey::RSA(_) => Self::of_pkcs1(&info.subject_public_key.data),
            _ => Err(JwtError::Key),
        }
    }

    fn of_point(curve: Curve, point: &[u8]) -> Result<Self, JwtError> {
        if point.len() != 2 * curve.coordinate_bytes() + 1 {
            return Err(JwtError::Key);
        }
        let info = [curve.head(), point].concat();
        Ok(Self { id: key_id(&info), numbers: Numbers::Point { curve, point: point.to_vec() } })
    }

    fn of_pkcs1(pkcs1: &[u8]) -> Result<Self, JwtError> {
        let bits = der(0x03, &[&[0], pkcs1].concat());
        let info = der(0x30, &[RSA_ALGORITHM.as_slice(), &bits].concat());
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&info).map_err(|_| JwtError::Key)?;
        let Ok(PublicKey::RSA(numbers)) = parsed.parsed() else { return Err(JwtError::Key) };
        let (modulus, exponent) = (stripped(numbers.modulus), stripped(numbers.exponent));
        Ok(Self { id: key_id(&info), numbers: Numbers::Rsa { modulus, exponent } })
    }

    /// The key of a member of a JSON Web Key Set; `None` where it is of a sort that is not known, or not for signatures.
    #[must_use]
    pub fn from_jwk(jwk: &Value) -> Option<Self> {
        let number = |member: &str| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(jwk.str_at(&[member])).ok()?;
            (!bytes.is_empty()).then_some(bytes)
        };
        let usage = jwk.str_at(&["use"]);
        if !usage.is_empty() && usage != "sig" {
            return None;
        }
        let numbers = match jwk.str_at(&["kty"]) {
            "EC" => {
                let curve = Curve::ALL.into_iter().find(|it| it.name() == jwk.str_at(&["crv"]))?;
                let (x, y) = (number("x")?, number("y")?);
                let fits = |it: &[u8]| it.len() == curve.coordinate_bytes();
                if !fits(&x) || !fits(&y) {
                    return None;
                }
                Numbers::Point { curve, point: [&[4], x.as_slice(), y.as_slice()].concat() }
            }
            "RSA" => {
                Numbers::Rsa { modulus: stripped(&number("n")?), exponent: stripped(&number("e")?) }
            }
            _ => return None,
        };
        Some(Self { id: jwk.str_at(&["kid"]).into(), numbers })
    }

    /// The same key under another id.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        Self { id: id.into(), ..self }
    }

    /// The key's id, by which tokens name it: a hash of it, where its owner did not give another.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How tokens of service accounts are signed with it.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.numbers {
            Numbers::Point { curve, .. } => curve.algorithm(),
            Numbers::Rsa { .. } => Algorithm::Rs256,
        }
    }

    /// The key as a member of a JSON Web Key Set.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (id, algorithm) = (self.id.as_str(), self.algorithm().name());
        match &self.numbers {
            Numbers::Point { curve, point } => {
                let (x, y) = point[1..].split_at(curve.coordinate_bytes());
                value!({"use": "sig", "kty": "EC", "kid": id, "crv": (curve.name()), "alg": algorithm,
                    "x": (text(x)), "y": (text(y))})
            }
            Numbers::Rsa { modulus, exponent } => {
                value!({"use": "sig", "kty": "RSA", "kid": id, "alg": algorithm,
                    "n": (text(modulus)), "e": (text(exponent))})
            }
        }
    }

    pub(super) fn verifies(&self, by: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.numbers {
            Numbers::Point { curve, point } if curve.algorithm() == by => {
                let key = UnparsedPublicKey::new(curve.verification(), point);
                key.verify(message, signature).is_ok()
            }
            Numbers::Point { .. } => false,
            Numbers::Rsa { modulus, exponent } => by.of_rsa().is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, signature).is_ok()
            }),
        }
    }
}

/// A number without leading zeros.
fn stripped(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
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
fn decode_pem(pem: &str) -> Option<(&str, Vec<u8>)> {
    let begin = pem.find("-----BEGIN ")?;
    let rest = &pem[begin + "-----BEGIN ".len()..];
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.split_whitespace().collect();
    Some((label, BASE64_STANDARD.decode(body).ok()?))
}
