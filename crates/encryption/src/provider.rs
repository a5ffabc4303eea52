//! Providers in the order of the configuration: the first writes, each reads what has its prefix.

use std::sync::Arc;

use bytes::Bytes;
use component_base::Random;

use crate::cipher::Cipher;
use crate::kms::Kms;

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// One way to keep values.
#[derive(Debug)]
pub(crate) enum Provider {
    /// As they are.
    Identity,
    /// By one of some keys.
    Keys(Keys),
    /// By keys that a plugin keeps.
    Kms(Arc<Kms>),
}

/// Keys of one cipher; the first encrypts.
#[derive(Debug)]
pub(crate) struct Keys {
    /// `k8s:enc:aesgcm:v1:`
    pub(crate) prefix: &'static str,
    /// `AES-GCM`
    pub(crate) cipher: &'static str,
    /// `key1:` and its key.
    pub(crate) keys: Vec<(String, Cipher)>,
}

/// What a value is once it is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) value: Bytes,
    /// It would be written otherwise now.
    pub(crate) is_stale: bool,
}

/// Why a value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// `Internal`: where a plugin has refused, how.
    pub(crate) code: Option<&'static str>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, code: None }
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl Provider {
    /// What the values begin with that it writes; as metrics name it.
    pub(crate) fn prefix(&self) -> &str {
        match self {
            Self::Identity => "",
            Self::Keys(keys) => keys.prefix,
            Self::Kms(kms) => kms.prefix(),
        }
    }

    async fn open(&self, value: &Bytes, context: &[u8]) -> Result<Opened, Failure> {
        let rest = &value[self.prefix().len()..];
        match self {
            Self::Identity if value.starts_with(ENCRYPTED) => {
                Err("identity transformer tried to read encrypted data".into())
            }
            Self::Identity => Ok(Opened { value: value.clone(), is_stale: false }),
            Self::Keys(keys) => Ok(keys.open(rest, context)?),
            Self::Kms(kms) => kms.open(rest, context).await,
        }
    }

    fn seal(&self, value: &Bytes, context: &[u8], random: &dyn Random) -> Result<Bytes, String> {
        let sealed = match self {
            Self::Identity => return Ok(value.clone()),
            Self::Keys(keys) => keys.seal(value, context, random)?,
            Self::Kms(kms) => kms.seal(value, context, random)?,
        };
        Ok([self.prefix().as_bytes(), &sealed].concat().into())
    }
}

impl Keys {
    fn open(&self, value: &[u8], context: &[u8]) -> Result<Opened, String> {
        let mut errors = Vec::new();
        for (index, (name, cipher)) in self.keys.iter().enumerate() {
            let Some(rest) = value.strip_prefix(name.as_bytes()) else { continue };
            match cipher.open(rest, context) {
                Ok(value) => return Ok(Opened { value: value.into(), is_stale: index > 0 }),
                Err(error) => errors.push(error),
            }
        }
        let none =
            || format!("no matching key was found for the provided {} transformer", self.cipher);
        Err(aggregate(errors).unwrap_or_else(none))
    }

    fn seal(&self, value: &[u8], context: &[u8], random: &dyn Random) -> Result<Vec<u8>, String> {
        let (name, cipher) = self.keys.first().ok_or("there is no key")?;
        Ok([name.as_bytes(), &cipher.seal(value, context, random)?].concat())
    }
}

/// Several errors as upstream tells them.
fn aggregate(mut errors: Vec<String>) -> Option<String> {
    let mut seen = Vec::new();
    errors.retain(|it| {
        let is_new = !seen.contains(it);
        seen.push(it.clone());
        is_new
    });
    match errors.len() {
        0 => None,
        1 => errors.pop(),
        _ => Some(format!("[{}]", errors.join(", "))),
    }
}

/// What is tried for a value, and what came of it.
pub(crate) type Tried<'p> = (&'p str, Result<Opened, Failure>);

/// Reads a value. The prefix of the provider that had the last word comes along.
pub(crate) async fn open<'p>(
    providers: &'p [Arc<Provider>],
    value: &Bytes,
    context: &[u8],
) -> Tried<'p> {
    let (mut errors, mut last) = (Vec::new(), "unknown");
    for (index, provider) in providers.iter().enumerate() {
        let prefix = provider.prefix();
        if !value.starts_with(prefix.as_bytes()) {
            continue;
        }
        match provider.open(value, context).await {
            Ok(mut opened) => {
                opened.is_stale |= index > 0;
                return (label(prefix), Ok(opened));
            }
            // What the identity does not read is for those after it.
            Err(_) if prefix.is_empty() => {}
            Err(error) => {
                errors.push(error);
                last = prefix;
            }
        }
    }
    if let [one] = errors.as_slice() {
        return (last, Err(one.clone()));
    }
    let why = aggregate(errors.into_iter().map(|it| it.why).collect());
    (last, Err(why.unwrap_or_else(|| "no matching prefix found".into()).into()))
}

/// Reads a value of a resource that the configuration does not name.
pub(crate) fn open_plain(value: &Bytes) -> Result<Opened, String> {
    if value.starts_with(ENCRYPTED) {
        return Err("identity transformer tried to read encrypted data".into());
    }
    Ok(Opened { value: value.clone(), is_stale: false })
}

/// Writes a value.
pub(crate) fn seal<'p>(
    providers: &'p [Arc<Provider>],
    value: &Bytes,
    context: &[u8],
    random: &dyn Random,
) -> (&'p str, Result<Bytes, String>) {
    let Some(first) = providers.first() else { return ("identity", Ok(value.clone())) };
    (label(first.prefix()), first.seal(value, context, random))
}

fn label(prefix: &str) -> &str {
    if prefix.is_empty() { "identity" } else { prefix }
}
