//! Base64.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

/// Reads with and without padding, as upstream does.
const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn decode(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| EvalError::new(format!("illegal base64 data: {error}")))
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("base64.decode", "base64_decode_string", "(string) -> bytes", |args| match args {
        [Val::String(text)] => decode(text).map(|it| Val::Bytes(it.into())),
        _ => no_overload(),
    }),
    f("base64.encode", "base64_encode_bytes", "(bytes) -> string", |args| match args {
        [Val::Bytes(bytes)] => Ok(Val::string(&encode(bytes))),
        _ => no_overload(),
    }),
];
