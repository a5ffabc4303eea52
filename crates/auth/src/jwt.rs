//! Signed tokens: JSON Web Signatures in their compact form.
//!
//! Knows nothing of what the claims mean.

mod keys;

use apimachinery::{Value, json};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

pub use keys::{Algorithm, SigningKey, VerifyingKey};

/// The longest token that is looked at, in bytes: tokens come from anybody.
const MAX_TOKEN_BYTES: usize = 16 << 10;

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
    #[error(
        "the key is not an ECDSA P-256, ECDSA P-384 or RSA key in PEM (PKCS#8, or PKCS#1 for RSA)"
    )]
    Key,
    /// The signature could not be made.
    #[error("could not sign the token")]
    Signing,
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

    /// What the token says, which nobody has checked.
    #[must_use]
    pub fn claims(&self) -> &Value {
        &self.claims
    }

    /// How it says it is signed.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// Which key it says it is signed with; empty where it does not say.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Whether one of the keys that may be meant made the token.
    #[must_use]
    pub fn is_signed_by_any(&self, keys: &[VerifyingKey], allowed: &[Algorithm]) -> bool {
        let Some(algorithm) = Algorithm::of(&self.algorithm) else { return false };
        allowed.contains(&algorithm)
            && keys.iter().any(|key| {
                (self.key_id.is_empty() || key.id() == self.key_id)
                    && key.verifies(algorithm, self.message, &self.signature)
            })
    }

    /// The claims, where one of the keys made the token. A token that names a key is checked by that key alone, where
    /// it is known.
    ///
    /// # Errors
    /// Where none did.
    pub fn verify(self, keys: &[VerifyingKey]) -> Result<Value, JwtError> {
        let named = keys.iter().any(|key| !self.key_id.is_empty() && key.id() == self.key_id);
        let good = keys.iter().any(|key| {
            (!named || key.id() == self.key_id)
                && key.algorithm().name() == self.algorithm
                && key.verifies(key.algorithm(), self.message, &self.signature)
        });
        if good { Ok(self.claims) } else { Err(JwtError::Signature) }
    }
}

#[cfg(test)]
mod tests;
